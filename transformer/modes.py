"""One function a mode: where settings, data, models, training and inference meet."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from transformer import families, plots
from transformer.config import Config, Facts
from transformer.data import pipeline, prepare
from transformer.errors import UserError
from transformer.files import new_file
from transformer.inference import predict, scores
from transformer.runtime import workdir as workdirs
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime
from transformer.runtime.workdir import Workdir
from transformer.training import loop, optimizer
from transformer.training import step as step_lib
from transformer.training.telemetry import Telemetry, read_metrics

Notice = Callable[[str], None]


def say(text: str) -> None:
    """A line to the user; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


# --- train -------------------------------------------------------------------------------------------------------------


def train(config: Config, path: Path) -> None:
    """Trains, or goes on where a run in that workdir stopped; then scores the test split and draws pictures."""
    workdir = workdirs.create(path, config, say)
    folders = _folders(workdir)
    family = families.FAMILIES[config.family]
    vocabularies = prepare.make_vocabularies(config.data, family.vocabularies, folders, say)
    facts = prepare.make_facts(vocabularies)
    workdir.write_facts(facts)
    splits = {
        name: split
        for name in prepare.NAMES
        if (split := prepare.read_split(config.data, name, folders, vocabularies, say)) is not None
    }
    _record(workdir, {name: split.fingerprint for name, split in splits.items()})
    sizes = ", ".join(f"{name} {len(split.examples):,}" for name, split in splits.items())
    say(f"examples: {sizes}; vocabulary: {', '.join(f'{v.size:,}' for v in dict.fromkeys(vocabularies.values()))}")

    runtime = Runtime(config.parallel)
    model, objective = family.model(config, facts), family.objective(config, facts)
    rows = runtime.count * config.train.accumulate
    plan = functools.partial(pipeline.plan, objective=objective, data=config.data, seed=config.train.seed)
    batches, notices = plan(splits["train"].tokens, batch_tokens=config.train.batch_tokens, multiple=rows, training=True)
    for notice in notices:
        say(notice)
    say(f"{len(batches):,} updates an epoch, padding {batches.padding:.1%}")

    update = optimizer.make_optimizer(config.train, config.model)
    loss = family.loss(model, config, facts)
    train_step = step_lib.make_train_step(loss, update, optimizer.make_schedule(config.train, config.model), config.train)

    def init() -> step_lib.State:
        return step_lib.init_state(families.init_params(model, objective, config.train.seed), update, config.train)

    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint)
    with contextlib.closing(checkpoints):
        first = checkpoints.latest() or 0
        if first > config.train.steps:
            raise UserError(
                f"{path} has {first:,} updates already, config.train.steps is {config.train.steps:,}; "
                "raise it, or use another --workdir"
            )
        state = init() if not first else step_lib.restore_state(checkpoints, first, jax.eval_shape(init))
        size = sum(x.size for x in jax.tree.leaves(state.params))
        say(f"{size:,} parameters; {runtime.mode} on {runtime.count} {jax.devices()[0].platform} device(s)")
        if first:
            say(f"goes on at step {first:,} of {config.train.steps:,}")
        validate = None
        if "validation" in splits:
            validate = _token_sums(runtime, loss, plan, splits["validation"].tokens, config)

        def evaluate(placed: Any) -> dict[str, float]:
            if validate is None:
                return {}
            params = placed.average if config.train.ema_decay is not None else placed.params
            found = scores.token_scores(validate(params))
            return {f"validation/{name}": value for name, value in found.items()}

        def save(step: int, placed: Any, metrics: Mapping[str, float]) -> None:
            step_lib.save_state(checkpoints, step, runtime.single(placed), metrics)

        telemetry = Telemetry(workdir.metrics_file, workdir.tensorboard, first, config.train.steps)
        with telemetry, loop.Stop() as stop:
            _, done = loop.train(
                config,
                runtime.place_state(state),
                first,
                pipeline.read(batches, first, config.train.steps, config.data.workers),
                telemetry,
                step=runtime.compile_train(train_step),
                place=runtime.place_batch,
                fetch=runtime.fetch,
                count=lambda batch: pipeline.count(batch, objective),
                evaluate=evaluate,
                save=save,
                stop=stop,
            )
    if done < config.train.steps:
        say(f"stopped after step {done:,} of {config.train.steps:,}, saved; the same command goes on from there")
        return
    plots.learning_curve(read_metrics(workdir.metrics_file), workdir.pictures / "learning_curve.png", title=path.name)
    _finish(workdir, config, splits)


def _token_sums(
    runtime: Runtime, loss: families.Loss, plan: Callable[..., Any], tokens: Any, config: Config
) -> Callable[[Any], dict[str, float]]:
    """A function from placed parameters to the loss's sums over a split, every example counted once."""
    micro = config.train.batch_tokens // config.train.accumulate
    batches, _ = plan(tokens, batch_tokens=micro, multiple=runtime.count, training=False)
    step = runtime.compile_eval(step_lib.make_eval_step(loss))

    def sums(params: Any) -> dict[str, float]:
        total: dict[str, float] = {}
        parts = [step(params, runtime.place_batch(batch)) for batch in pipeline.read(batches, 0, len(batches), 0)]
        for part in map(runtime.fetch, parts):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    return sums


def _finish(workdir: Workdir, config: Config, splits: Mapping[str, prepare.Split]) -> None:
    """What a finished run shows: scores of the test split, samples, pictures, and what to try next."""
    predictor = predict.load(workdir.path)
    name = "test" if "test" in splits else "validation"
    if name in splits:
        _evaluate(workdir, predictor, name, splits[name], sys.stdout)
        example = max((splits[name].examples[i] for i in range(min(50, len(splits[name].examples)))), key=_interest)
        _draw_attention(predictor, example["source"], None, workdir.pictures, say)
    where = workdir.path
    say(
        f"\npictures: {workdir.pictures}; samples: {workdir.samples_file}\nnext:\n"
        f"  echo '...' | python launch.py --mode=translate --workdir={where}\n"
        f"  python launch.py --mode=attend --workdir={where} --source='...'\n"
        f"  python launch.py --mode=evaluate --workdir={where} --split=validation\n"
        f"  python launch.py --mode=describe --config=... ; python launch.py --help"
    )


def _interest(example: Mapping[str, str]) -> int:
    """Which example makes a readable attention map: about a dozen words."""
    return -abs(len(example["source"].split()) - 10)


def _folders(workdir: Workdir) -> prepare.Folders:
    return prepare.Folders(workdir.vocabulary, workdir.tokens, workdir.path / "data")


def _record(workdir: Workdir, fingerprints: Mapping[str, str]) -> None:
    before = workdirs.read_json(workdir.record_file) if workdir.record_file.exists() else []
    changed = [n for n, value in fingerprints.items() if before and before[-1]["data"].get(n, value) != value]
    if changed:
        raise UserError(
            f"{workdir.path}: the data ({', '.join(changed)}) is not what this run began with; "
            "put it back, or use another --workdir"
        )
    workdir.append_record(workdirs.run_record(fingerprints))


# --- evaluate ----------------------------------------------------------------------------------------------------------


def evaluate(path: Path, overrides: Mapping[str, str], split: prepare.Name) -> None:
    """Scores a split; a table to stdout, all of it to evaluation/<split>.json."""
    workdir = workdirs.open_existing(path)
    predictor = predict.load(path, overrides)
    data = predictor.config.data
    found = prepare.read_split(data, split, _folders(workdir), predictor.vocabularies, say)
    if found is None:
        raise UserError(f"--split={split}: config.data.{split} is none; there is nothing to score")
    _evaluate(workdir, predictor, split, found, sys.stdout)


def _evaluate(workdir: Workdir, predictor: predict.Predictor, name: str, split: prepare.Split, stream: TextIO) -> None:
    config, runtime = predictor.config, Runtime(predictor.config.parallel)
    family = families.FAMILIES[config.family]
    loss = family.loss(predictor.model, config, predictor.facts)
    plan = functools.partial(
        pipeline.plan, objective=family.objective(config, predictor.facts), data=config.data, seed=config.train.seed
    )
    sums = _token_sums(runtime, loss, plan, split.tokens, config)(runtime.place_state(predictor.params))
    references = [example["target"] for example in split.examples]
    table: dict[str, Any] = dict(scores.token_scores(sums, scores.count_words(references)))
    say(f"decoding {len(references):,} sentences of {name}")
    outputs = [best[0].text for best in predictor.translate(example["source"] for example in split.examples)]
    for notice in predictor.notices:
        say(notice)
    signatures = {}
    for score in config.evaluate.scores:
        result = scores.score(score, outputs, references, config.evaluate.bleu_tokenize)
        table[score] = result.value
        if result.signature:
            signatures[score] = result.signature
    samples = _samples(split, outputs, config.evaluate.samples)
    workdirs.write_json(
        workdir.evaluation_file(name),
        {
            "examples": len(references),
            "checkpoints": list(predictor.steps),
            "scores": table,
            "signatures": signatures,
            "search": dataclasses.asdict(config.search),
            "samples": samples,
        },
    )
    text = "\n".join(
        f"{'=' if s['right'] else '≠'} {s['source']}\n    said {s['output']}\n    want {s['target']}" for s in samples
    )
    with new_file(workdir.samples_file) as file:
        file.write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(references):,} examples, checkpoint {', '.join(map(str, predictor.steps))}", file=stream)
    for score, value in table.items():
        print(f"  {score:<20} {value:10.4f}  {signatures.get(score, '')}".rstrip(), file=stream)
    print(text, file=stream, flush=True)


def _samples(split: prepare.Split, outputs: list[str], count: int) -> list[dict[str, Any]]:
    """Right and wrong outputs, half of each where there are enough."""
    rows = [
        {"source": e["source"], "output": o, "target": e["target"], "right": o == e["target"]}
        for e, o in zip(split.examples, outputs, strict=True)
    ]
    wrong, right = [r for r in rows if not r["right"]], [r for r in rows if r["right"]]
    shown = wrong[: max(count // 2, count - len(right))]
    return right[: count - len(shown)] + shown


# --- translate, attend, describe ---------------------------------------------------------------------------------------


def translate(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None) -> None:
    """Lines of the file `source` (none: stdin) to lines of `target` (none: stdout), one for one, in order."""
    predictor = predict.load(path, overrides)
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_lines(source))
        write = stack.enter_context(_writer(target))
        for outputs in predictor.translate(lines):
            write("\t".join(output.text.replace("\n", " ").replace("\t", " ") for output in outputs) + "\n")
        for notice in predictor.notices:
            say(notice)


@contextlib.contextmanager
def _lines(path: str | None) -> Iterator[Iterable[str]]:
    """Lines of a UTF-8 file or stdin, without their ends; only a newline ends a line."""

    def decoded(file: Any, name: str) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{name}: line {number} is not UTF-8; convert it, for example with iconv") from error

    if path is None:
        yield decoded(sys.stdin.buffer, "stdin")
        return
    try:
        with Path(path).open("rb") as file:
            yield decoded(file, path)
    except OSError as error:
        raise UserError(f"--input={path}: {error.strerror}") from error


@contextlib.contextmanager
def _writer(path: str | None) -> Iterator[Callable[[str], Any]]:
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]
        yield sys.stdout.write
        return
    try:
        with new_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
            yield file.write
    except OSError as error:
        raise UserError(f"--output={path}: {error.strerror}; choose a file that can be written") from error


def attend(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None, output: str | None) -> None:
    """Attention maps of one sentence, as PNG files; the target is what the model says, if none is given."""
    if not source or not source.strip():
        raise UserError("--mode=attend needs --source='a sentence'")
    workdir = workdirs.open_existing(path)
    predictor = predict.load(path, overrides)
    _draw_attention(
        predictor, source, target, Path(output) if output else workdir.pictures, lambda text: print(text, flush=True)
    )


def _draw_attention(predictor: predict.Predictor, source: str, target: str | None, folder: Path, tell: Notice) -> None:
    if target is None:
        target = next(predictor.translate([source]))[0].text
    weights, columns, rows = predictor.attention(source, target)
    for name, weights_LxHxTxS in weights.items():
        across = columns if name.startswith("encoder") or "cross" in name else rows
        down = columns if name.startswith("encoder") else rows
        file = folder / f"attention_{name.replace(' ', '_')}.png"
        plots.attention(weights_LxHxTxS, across, down, file, f"{name}: {source} → {target}")
        tell(str(file))
        if "cross" in name:
            file = folder / "cross_attention.png"
            plots.attention_map(
                weights_LxHxTxS[-1].mean(axis=0), across, down, file, "cross-attention, last layer, mean of heads"
            )
            tell(str(file))


def describe(config: Config, facts: Facts | None = None) -> None:
    """Parameters, FLOPs and bytes; runs nothing."""
    from transformer.models import accounting

    print(accounting.describe(config, facts or accounting.assumed_facts(config)))
