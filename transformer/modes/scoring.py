"""Scoring: the losses of a split, the model's outputs for its examples, and samples of them."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import cuts, families, settings
from transformer.components.measures import Measure
from transformer.config import Config
from transformer.cuts import Cut, some
from transformer.data import pipeline, prepare
from transformer.data.objectives import Corpus, Objective
from transformer.data.sources import SplitName
from transformer.errors import UserError, counted, no_failure, readable, say
from transformer.files import new_file
from transformer.inference import loading, perplexity, predict, scores, translate
from transformer.models import axes, penalties
from transformer.modes import digits, measuring
from transformer.modes.common import folders, kept_as
from transformer.probes import alignment, coordinates, head_pruning, head_statistics, init_metrics
from transformer.runtime import hosts
from transformer.runtime import workdir as workdirs
from transformer.runtime.devices import Runtime
from transformer.runtime.workdir import Workdir
from transformer.training import step as step_lib

Examples = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Judge:
    """How a kind of output is scored: its predictions, the field of the reference, the default scores, a word for examples."""

    predict: Callable[[Any, Examples], list[str]]
    reference: str
    scores: tuple[str, ...]
    what: str


@dataclasses.dataclass
class Scored:
    """Scores by name and their signatures; rows of source, reference and prediction; some of them as samples; what was cut."""

    table: dict[str, float]
    signatures: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    cuts: list[Cut] = dataclasses.field(default_factory=list)


def _translations(predictor: Any, examples: Examples) -> list[str]:
    # A prefix of a task stands before a source already.
    return [best[0].text for best in predictor.translate((example["source"] for example in examples), scored=False)]


def _of_true_length(predictor: Any, examples: Examples) -> list[str]:
    pairs = [(example["source"], example["target"]) for example in examples]
    return [best[0].text for best in predictor.translate_to_length(pairs)]


def _predictions(predictor: Any, examples: Examples) -> list[str]:
    return predictor.predict(examples)


JUDGES: dict[families.Output, Judge] = {
    "text": Judge(_translations, "target", ("bleu", "chrf"), "sentence"),
    "label": Judge(_predictions, "label", ("accuracy", "macro_f1"), "text"),
    "tags": Judge(_predictions, "tags", ("entity_f1",), "sentence"),
    "span": Judge(_predictions, "answers", ("squad_exact_match", "squad_f1"), "question"),
}


def check_evaluate(config: Config) -> None:
    """UserError: `config.evaluate` names an unknown score, or asks for heads of a model that has none."""
    head_pruning.check(config)
    head_statistics.check(config)
    for name in config.evaluate.scores:
        try:
            scores.find(name)
        except UserError as error:
            raise UserError(f"config.evaluate.scores: {error}") from error
    if config.evaluate.measure.names:
        others = reported(settings.replace(config, "evaluate.measure", Measure()))
        measuring.check(config, {name.partition("/")[2] for name in others})


def reported(config: Config) -> list[str]:
    """The names of what a finished run reports: validation during training ("validation/nll"), scores of the final split, and
    metrics of the initial model ("init/logit_variance")."""
    output, data = families.task_of(config).output, config.data
    ones: dict[str, float] = dict.fromkeys(("loss_sum", "nll_sum", "correct_sum", "weight_sum"), 1.0)
    ones |= {f"{name}_sum": 1.0 for name in penalties.names(config.model, families.FAMILIES[config.family].attention)}
    last = [*scores.token_scores(ones, words=1 if output == "text" else None)]
    if output == "continuation":
        last += [f"sliding_{name}" for name in perplexity.measures({"nll_sum": 1.0, "weight_sum": 1.0}, 1, 1)]
    if output in JUDGES:
        last += config.evaluate.scores or JUDGES[output].scores
    if output == "text":
        by_length = itertools.product(config.evaluate.scores or JUDGES[output].scores, scores.buckets(config.evaluate.lengths))
        last += [f"{name}@{bucket}" for name, bucket in by_length]
        if config.evaluate.true_lengths:
            last += [f"{name}@{scores.TRUE_LENGTH}" for name in config.evaluate.scores or JUDGES[output].scores]
        last += [f"place_accuracy@{bucket}" for bucket in scores.buckets(config.evaluate.places)]
        last += digits.names(config)
    if config.evaluate.head_statistics:
        last += head_statistics.names(config)
    last += config.evaluate.measure.names
    by_split = {"validation": scores.token_scores(ones)} | {"test" if data.test is not None else "validation": last}
    scored = [f"{split}/{name}" for split, names in by_split.items() if getattr(data, split) is not None for name in names]
    measured = [f"validation/{name}" for name in coordinates.names(config)] if config.train.coordinates else []
    return scored + measured + init_metrics.names(config)


def evaluate(path: Path, overrides: Mapping[str, str], split: SplitName) -> None:
    """Scores a split: prints a table and writes evaluation/<split>.json; with settings or data that differ from the workdir's,
    evaluation/<split>-<what differs>.json."""
    workdir = workdirs.open_existing(path)
    workdirs.check_writable("--workdir", path, workdir.evaluation_file(split).parent)
    predictor = predict.load(path, overrides, "evaluate", (f"data.{split}",))
    config, loaded = predictor.config, predictor.loaded
    check_evaluate(config)
    hosts.check_same({"--workdir": str(path), "--split": split, "checkpoints": list(loaded.steps), **overrides})
    task, where = families.task_of(config), folders(workdir)
    text = prepare.Text(config.data, task.fields, where.cache, say)

    def read(name: SplitName) -> prepare.Split | None:
        return hosts.in_turn(
            lambda: prepare.encode_split(text, name, where, loaded.vocabularies, loaded.data_info, task.encode)
        )

    found = read(split)
    if found is None:
        raise UserError(f"--split={split}: config.data.{split} is none; there is nothing to score")
    what, about = _named(workdir, split, config, found.fingerprint)
    name, changed = kept_as(what, workdir.config(), config)
    validation = read("validation") if config.evaluate.heads_removed else None
    score_split(workdir, predictor, split, found, validation, name, about | changed)
    if name != split and hosts.is_first():
        say(f"written to {workdir.evaluation_file(name)}; {split}.json is for the run's own data and settings")


def _named(workdir: Workdir, split: SplitName, config: Config, fingerprint: str) -> tuple[str, dict[str, Any]]:
    """The split's name, with the name of its data if they are not the run's own; and the settings that differ."""
    made, records, setting = workdir.config(), workdir.records(), f"data.{split}"
    known = records[-1]["data"].get(split) if records else None
    value = getattr(config.data, split)
    if value == getattr(made.data, split):
        value, setting = config.data.directory or "data", "data.directory"
    same = fingerprint == known if known else setting == "data.directory"
    return (split, {}) if same else (f"{split}-{value}", {setting: value})


def score_split(
    workdir: Workdir,
    predictor: Any,
    name: str,
    split: prepare.Split,
    validation: prepare.Split | None = None,
    kept: str | None = None,
    changed: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Prints the scores and samples of a split and writes them to the workdir. Returns a row for each output, by example: its
    "source", and the output as `scores.PREDICTION`.

    With `config.evaluate.heads_removed`, of the model without those heads, which are chosen on `validation`.

    `kept`: the name of the result files; by default that of the split. `changed`: settings that differ from the run's.
    """
    config, runtime = predictor.config, Runtime(predictor.config.parallel, axes=axes.of_model(predictor.config.model))
    task = families.task_of(config)
    loss = families.make_loss(predictor.model, config, predictor.data_info)
    removed = heads_to_remove(runtime, loss, predictor.loaded, validation) if config.evaluate.heads_removed else []
    if removed:
        params = head_pruning.prune(config, predictor.params, removed)
        predictor = predict.make(dataclasses.replace(predictor.loaded, params=params))
    loaded = predictor.loaded
    token_sum, cut = token_sums(runtime, loss, loaded.objective, name, split.tokens, config)
    sums = token_sum(runtime.place_state(loaded.params))
    words = scored_words(predictor, split) if task.output == "text" else None
    if judge := JUDGES.get(task.output):
        scored = _outputs(predictor, judge, task, name, split)
    elif task.output == "continuation":
        scored = _continuation(predictor, name, split)
    else:
        scored = Scored({})
    failed: UserError | None = None
    try:
        scored.table |= measuring.of_split(loaded, name, split.examples)
    except UserError as error:  # raised when the scores have been printed
        failed = error
    for notice in (found := [*cut, *(each.at(name) for each in scored.cuts)]):
        say(notice)
    if hosts.is_first():
        scored.cuts = [each for each in workdir.cuts() if each.where != name] + [*split.cuts, *found]
        scored.table = scores.token_scores(sums, words) | scored.table
        about = {"examples": len(split.examples), "checkpoints": list(loaded.steps), "heads_removed": removed}
        about |= {"changed": dict(changed)} if changed else {}
        kept = kept or name
        without = f", without {len(removed)} of {len(head_pruning.heads(config))} heads" if removed else ""
        try:
            if failed is None:
                _write(workdir, kept, scored, about | {"search": dataclasses.asdict(config.search)})
        finally:  # print the scores before writing them, which may fail
            _print(kept, scored, len(split.examples), loaded.steps, without)
    if failed is not None:
        raise failed
    return scored.rows


def _outputs(predictor: Any, judge: Judge, task: families.Task, name: str, split: prepare.Split) -> Scored:
    """The model's outputs for the examples of the split, and their scores."""
    say(f"decoding {counted(len(split.examples), judge.what)} of {name}")
    outputs = hosts.spread(functools.partial(judge.predict, predictor), split.examples)
    examples, asked, field = split.examples, predictor.config.evaluate, task.fields[0]
    sources, references = ([example.get(side, "") for example in examples] for side in ("source", judge.reference))
    result = Scored({}, samples=_samples(split, field, judge.reference, outputs, asked.samples))
    result.cuts += some(*_of_all(predictor), *_beyond(predictor, split), empty(outputs, references))
    columns = {"source": [example[field] for example in examples], "reference": references, scores.PREDICTION: outputs}
    names = asked.scores or judge.scores
    options = scores.Options(asked.bleu_tokenize, predictor.config.data.lowercase)
    for score in names:
        found = scores.score(score, outputs, references, options)
        result.table[score] = found.value
        if found.signature:
            result.signatures[score] = found.signature
        result.table |= scores.by_length(score, sources, outputs, references, asked.lengths, options)
    if task.output == "text":
        if asked.true_lengths:
            given = columns[scores.OF_TRUE_LENGTH] = hosts.spread(functools.partial(_of_true_length, predictor), examples)
            values = {score: scores.score(score, given, references, options).value for score in names}
            result.table |= {f"{score}@{scores.TRUE_LENGTH}": value for score, value in values.items()}
        result.table |= scores.by_place(outputs, references, asked.places)
        result.table |= digits.of_split(predictor.config.data, functools.partial(judge.predict, predictor), examples, outputs)
        for setting, first, edges in (("lengths", names[0], asked.lengths), ("places", "place_accuracy", asked.places)):
            ranges = scores.buckets(edges)
            few = sum(f"{first}@{each}" not in result.table for each in ranges)
            what = f"ranges of config.evaluate.{setting} have fewer than {scores.FEWEST} pairs and no score"
            result.cuts += some(Cut(few, len(ranges), what))
    if asked.head_statistics:
        result.table |= head_statistics.of_split(predictor, name, examples)
        what = f"examples are not used for head statistics: the first {alignment.SENTENCES:,} are"
        result.cuts += some(Cut(max(len(examples) - alignment.SENTENCES, 0), len(examples), what))
    result.rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return result


def empty(outputs: Sequence[str], references: Sequence[str]) -> Cut:
    """Empty outputs whose references are not empty; a model that has hardly been trained has many."""
    count = sum(not output.strip() and bool(wanted.strip()) for output, wanted in zip(outputs, references, strict=True))
    return Cut(count, len(outputs), "outputs are empty, though their references are not")


def _of_all(predictor: Any) -> list[Cut]:
    """The cuts of the last call, in all processes."""
    return cuts.merged(cuts.from_json(hosts.every(cuts.to_json(predictor.cuts))))


def _beyond(predictor: Any, split: prepare.Split) -> list[Cut]:
    """References that are longer than the limit on outputs, so that no output can equal them."""
    if "target" in split.tokens:
        limit_N = np.array(predictor.limits(split.tokens["source"].lengths.tolist()))
        over, setting = split.tokens["target"].lengths + 1 > limit_N, translate.LIMIT_SETTING
    elif "span" in split.tokens:
        over = np.array([len(row) > 0 and row[1] - row[0] >= predictor.longest_answer for row in split.tokens["span"]])
        setting = f"{predictor.longest_answer:,} tokens"
    else:
        return []
    return [Cut(int(over.sum()), len(over), f"references are longer than the limit on outputs ({setting})")]


def scored_words(predictor: Any, split: prepare.Split) -> int:
    """The number of words in the targets whose tokens are scored; a truncated target counts with its remaining words."""
    objective, tokens = predictor.loaded.objective, split.tokens
    cut_N = np.any(objective.lengths(tokens) > np.asarray(objective.limits), axis=1)
    texts = []
    for number, example in enumerate(split.examples):
        if cut_N[number]:
            features = objective.features(tokens, number, 0)
            texts.append(predictor.target_vocabulary.decode(features["targets"][features["weights"] > 0].tolist()))
        else:
            texts.append(example["target"])
    return scores.count_words(texts)


def _continuation(predictor: Any, name: str, split: prepare.Split) -> Scored:
    """The perplexity of the split's text, and samples that are drawn without a prompt."""
    say(f"scoring {name} with a sliding window")
    found = predictor.perplexity([example["text"] for example in split.examples])
    result = Scored({f"sliding_{measure}": value for measure, value in found.items()}, cuts=some(*predictor.cuts))
    if count := predictor.config.evaluate.samples:
        result.samples = [{"prediction": text} for text in predictor.generate("", count)]
        result.cuts += some(*predictor.cuts)
    return result


def _write(workdir: Workdir, name: str, scored: Scored, about: Mapping[str, Any]) -> None:
    values = {score: value if math.isfinite(value) else None for score, value in scored.table.items()}  # no infinity in JSON
    table = {**about, "scores": values, "signatures": scored.signatures, "samples": scored.samples}
    table["cuts"] = cuts.to_json(scored.cuts)
    workdirs.write_json(workdir.evaluation_file(name), table)
    if scored.rows:
        with no_failure(str(workdir.outputs_file(name)), "written"), new_file(workdir.outputs_file(name)) as file:
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored.rows), encoding="utf-8")
    samples = workdir.samples_file(name)
    with no_failure(str(samples), "written"), new_file(samples) as file:
        file.write_text("".join(map(_shown, scored.samples)), encoding="utf-8")


def _print(name: str, scored: Scored, count: int, steps: Sequence[int], without: str) -> None:
    what = ("checkpoint " if len(steps) == 1 else "mean of checkpoints ") + ", ".join(map(str, steps))
    print(f"{name}: {counted(count, 'example')}, {what}{without}")
    width = max([20, *map(len, scored.table)])
    for score, value in scored.table.items():
        shown = f"{value:,.4f}" if abs(value) < 1e4 else f"{value:,.0f}"
        print(f"  {score:<{width}} {readable(score, value, shown):>12}  {scored.signatures.get(score, '')}".rstrip())
    for cut in scored.cuts:
        print(f"  note: {cut}")
    print("".join(map(_shown, scored.samples)), end="", flush=True)


def _shown(sample: Mapping[str, Any]) -> str:
    if "correct" not in sample:
        return f"sample:\n{sample['prediction']}\n"
    names = ("source", "reference", "prediction")
    lines = [f"  {name:<12}{sample[name] or '(empty)'}\n" for name in names if name != "reference" or not sample["correct"]]
    return "".join([f"{'correct' if sample['correct'] else 'wrong'}\n", *lines])


def _samples(split: prepare.Split, field: str, reference: str, outputs: list[str], count: int) -> list[dict[str, Any]]:
    """Correct and wrong predictions, half of each where there are enough."""
    rows = [
        {"source": e[field], "reference": wanted, "prediction": o, "correct": o == wanted}
        for e, o in zip(split.examples, outputs, strict=True)
        for wanted in [e.get("answer", e[reference])]
    ]
    wrong, correct = [r for r in rows if not r["correct"]], [r for r in rows if r["correct"]]
    shown = wrong[: max(count // 2, count - len(correct))]
    return correct[: count - len(shown)] + shown


def heads_to_remove(
    runtime: Runtime, loss: families.Loss, loaded: loading.Loaded, validation: prepare.Split | None
) -> list[str]:
    """The heads that `config.evaluate.heads_removed` removes, in the order of removal."""
    config = loaded.config
    if config.evaluate.head_order == "random":
        order = head_pruning.random_order(head_pruning.heads(config), config.train.seed)
    else:
        assert validation is not None
        alone = settings.replace(config, "data.batching", "bucketed")  # a row is one example
        importance = head_pruning.make_importance(loss, config)
        sums, _ = token_sums(runtime, importance, loaded.objective, "validation", validation.tokens, alone)
        order = head_pruning.order_by_importance(sums(runtime.place_state(loaded.params)))
    return order[: head_pruning.num_removed(config)]


def scored_batches(runtime: Runtime, objective: Objective, tokens: Corpus, config: Config) -> tuple[Any, Any]:
    """The batches of a split, every example once, and what was cut; as `pipeline.plan` gives them."""
    micro = config.train.batch_tokens // config.train.accumulate
    seed, rows = config.train.seed, runtime.count
    return pipeline.plan(tokens, objective, config.data, micro, rows, seed, training=False, share=runtime.share)


def token_sums(
    runtime: Runtime, loss: step_lib.Loss, objective: Objective, name: str, tokens: Corpus, config: Config
) -> tuple[Callable[[Any], dict[str, float]], list[Cut]]:
    """A function from placed parameters to the loss's sums over a split, every example counted once; and what was cut."""
    batches, notices = scored_batches(runtime, objective, tokens, config)
    step = runtime.compile_eval(step_lib.make_eval_step(loss))

    def sums(params: Any) -> dict[str, float]:
        total: dict[str, float] = {}
        parts = [step(params, runtime.place_batch(batch)) for batch in pipeline.read(batches, 0, len(batches), 0)]
        for part in map(runtime.fetch, parts):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    return sums, [cut.at(name) for cut in cuts.only(notices)]
