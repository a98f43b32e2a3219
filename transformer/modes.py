"""One function a mode: where settings, data, models, training and inference meet."""

import contextlib
import dataclasses
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax

from transformer import families, plots
from transformer.config import Config, replace
from transformer.data import pipeline, prepare
from transformer.data.objectives import Corpus, Objective
from transformer.errors import UserError
from transformer.files import new_file
from transformer.inference import predict, scores
from transformer.models import accounting
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
    config = _with_place(config)
    _check_scores(config)
    family, runtime = families.FAMILIES[config.family], Runtime(config.parallel)
    with _workdir(path, config) as workdir:
        folders = _folders(workdir)
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

        model, objective = family.model(config, facts), family.objective(config, facts)
        rows = runtime.count * config.train.accumulate
        settings = config.train
        batches, notices = pipeline.plan(
            splits["train"].tokens, objective, config.data, settings.batch_tokens, rows, settings.seed, training=True
        )
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
        state = init() if not first else step_lib.restore_state(checkpoints, first, jax.eval_shape(init))
        size = sum(x.size for x in jax.tree.leaves(state.params))
        say(f"{size:,} parameters; {runtime.mode} on {runtime.count} {jax.devices()[0].platform} device(s)")
        if first == config.train.steps:
            say(f"all {first:,} updates are done (a larger config.train.steps goes on); scoring again")
        elif first:
            say(f"goes on after step {first:,} of {config.train.steps:,}")
        validate = None
        if "validation" in splits:
            validate = _token_sums(runtime, loss, objective, splits["validation"].tokens, config)

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


def _with_place(config: Config) -> Config:
    """The settings with the data's folder spelt out, so that the workdir finds it from any other folder."""
    folder = config.data.directory
    if folder is None and config.data.source == "text":
        folder = "."  # where the files are looked for; other sources have homes of their own
    return config if folder is None else replace(config, "data.directory", os.path.abspath(os.path.expanduser(folder)))


def _check_scores(config: Config) -> None:
    for name in config.evaluate.scores:
        try:
            scores.find(name)
        except UserError as error:
            raise UserError(f"config.evaluate.scores: {error}") from error


@contextlib.contextmanager
def _workdir(path: Path, config: Config) -> Iterator[Workdir]:
    """The workdir to prepare. If that fails, a new one is gone and an old one has its settings back: the corrected command
    meets no trace of the wrong one."""
    workdir = Workdir(path)
    found = set(path.iterdir()) if path.is_dir() else None
    settings = workdir.config_file.read_bytes() if workdir.config_file.is_file() else None
    done = 0 if settings is None else Checkpoints(workdir.checkpoints, config.checkpoint).latest() or 0
    if done > config.train.steps:
        raise UserError(
            f"--workdir={path} has {done:,} updates already, config.train.steps is {config.train.steps:,}; "
            "raise that, or choose another --workdir"
        )
    workdirs.create(path, config, say)
    try:
        yield workdir
    except BaseException:
        if settings is not None:  # a run that may be under way in another process: nothing of it is deleted
            workdir.config_file.write_bytes(settings)
        else:
            for new in set(path.iterdir()) - (found or set()):
                shutil.rmtree(new) if new.is_dir() else new.unlink()
            if found is None:
                path.rmdir()
        raise


def _token_sums(
    runtime: Runtime, loss: families.Loss, objective: Objective, tokens: Corpus, config: Config
) -> Callable[[Any], dict[str, float]]:
    """A function from placed parameters to the loss's sums over a split, every example counted once."""
    micro = config.train.batch_tokens // config.train.accumulate
    batches, _ = pipeline.plan(tokens, objective, config.data, micro, runtime.count, config.train.seed, training=False)
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
        _evaluate(workdir, predictor, name, splits[name])
    source = max((e["source"] for e in splits[name if name in splits else "train"].examples[:50]), key=_interest)
    _draw_attention(predictor, source, None, workdir.pictures, lambda text: None)
    where, what = shlex.quote(str(workdir.path)), shlex.quote(source)
    say(
        f"\nsamples: {workdir.samples_file}\n"
        f"pictures in {workdir.pictures}: {', '.join(sorted(file.name for file in workdir.pictures.glob('*.png')))}\nnext:\n"
        f"  echo {what} | python launch.py --mode=translate --workdir={where}\n"
        f"  python launch.py --mode=attend --workdir={where} --source={what}\n"
        f"  python launch.py --mode=evaluate --workdir={where} --split={'validation' if 'validation' in splits else 'train'}\n"
        "  python launch.py --help"
    )


def _interest(source: str) -> int:
    """Which sentence makes a readable attention map: about ten words."""
    return -abs(len(source.split()) - 10)


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


def evaluate(path: Path, overrides: Mapping[str, str], split: prepare.SplitName) -> None:
    """Scores a split; a table to stdout, all of it to evaluation/<split>.json."""
    workdir = workdirs.open_existing(path)
    predictor = predict.load(path, overrides)
    _check_scores(predictor.config)
    data = predictor.config.data
    found = prepare.read_split(data, split, _folders(workdir), predictor.vocabularies, say)
    if found is None:
        raise UserError(f"--split={split}: config.data.{split} is none; there is nothing to score")
    _evaluate(workdir, predictor, split, found)


def _evaluate(workdir: Workdir, predictor: predict.Predictor, name: str, split: prepare.Split) -> None:
    config, runtime = predictor.config, Runtime(predictor.config.parallel)
    family = families.FAMILIES[config.family]
    loss = family.loss(predictor.model, config, predictor.facts)
    objective = family.objective(config, predictor.facts)
    sums = _token_sums(runtime, loss, objective, split.tokens, config)(runtime.place_state(predictor.params))
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
            "scores": {n: value if math.isfinite(value) else None for n, value in table.items()},  # JSON has no infinity
            "signatures": signatures,
            "search": dataclasses.asdict(config.search),
            "samples": samples,
        },
    )
    text = "".join(
        f"right: {s['source']}\n    said {s['output']}\n"
        if s["right"]
        else f"wrong: {s['source']}\n    said {s['output']}\n    want {s['target']}\n"
        for s in samples
    )
    with new_file(workdir.samples_file) as file:
        file.write_text(text, encoding="utf-8")
    what = ("checkpoint " if len(predictor.steps) == 1 else "mean of checkpoints ") + ", ".join(map(str, predictor.steps))
    print(f"{name}: {len(references):,} examples, {what}")
    for score, value in table.items():
        shown = f"{value:,.4f}" if abs(value) < 1e4 else f"{value:,.0f}"
        print(f"  {score:<20} {shown:>12}  {signatures.get(score, '')}".rstrip())
    print(text, end="", flush=True)


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
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_reader(source))
        write = stack.enter_context(_writer(target))
        predictor = predict.load(path, overrides)
        if file.isatty():
            say("reading lines from the terminal; Ctrl-D ends them")
        for outputs in predictor.translate(_lines(file, source or "stdin")):
            write("\t".join(output.text.translate(ONE_LINE) for output in outputs) + "\n")
        for notice in predictor.notices:
            say(notice)


ONE_LINE = str.maketrans("\n\r\t", "   ")  # what a vocabulary of bytes may say, and a reader of lines would stumble over


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8, without their ends; only a newline ends a line."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not UTF-8; convert it, for example with iconv") from error


@contextlib.contextmanager
def _reader(path: str | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  (closed below: here the caller's own errors are not for us)
    except OSError as error:
        raise UserError(f"--input={path}: {error.strerror}; name a file that can be read") from error
    with file:
        yield file


@contextlib.contextmanager
def _writer(path: str | None) -> Iterator[Callable[[str], Any]]:
    if path is None:
        yield sys.stdout.write
        return
    try:
        with new_file(Path(path)) as where, where.open("w", encoding="utf-8") as file:
            yield file.write
    except OSError as error:
        raise UserError(f"--output={path}: {error.strerror}; name a file that can be written") from error


def attend(path: Path, overrides: Mapping[str, str], source: str | None, target: str | None, output: str | None) -> None:
    """Attention maps of one sentence, as PNG files, whose names go to stdout. `target` none: what the model says."""
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
    say(f"attention maps of: {source} → {target}")
    weights, columns, rows = predictor.attention(source, target)
    for notice in predictor.notices:
        say(notice)
    for name, weights_LxHxTxS in weights.items():
        cross = "cross" in name
        across = columns if name.startswith("encoder") or cross else rows
        down = columns if name.startswith("encoder") else rows
        if cross:  # the tokens said, not those read: what is said looks at what it translates
            down = [*rows[1:], columns[-1]]
        file = folder / f"attention_{name.replace(' ', '_')}.png"
        plots.attention(weights_LxHxTxS, across, down, file, f"{name}: {source} → {target}")
        tell(str(file))
        if cross:
            file, title = folder / "cross_attention.png", "cross-attention while each token is said, last layer, mean of heads"
            plots.attention_map(weights_LxHxTxS[-1].mean(axis=0), across, down, file, title)
            tell(str(file))


def describe(config: Config) -> None:
    """Parameters, FLOPs and bytes; runs nothing."""
    print(accounting.describe(config, accounting.assumed_facts(config)))
