"""The mode train: combines settings, data, model, training loop and checkpoints."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from transformer import families
from transformer import settings as settings_lib
from transformer.components import fused
from transformer.config import Config, DataInfo, Parallel
from transformer.cuts import Cut, only
from transformer.data import pipeline, prepare, sources
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError, counted, optional, say
from transformer.files import new_file, new_folder, remove
from transformer.inference import loading, predict, scores
from transformer.models import axes, program
from transformer.modes import measuring
from transformer.modes.common import folders
from transformer.modes.pictures import show
from transformer.modes.scoring import check_evaluate, score_split, scored_batches, token_sums
from transformer.probes import coordinates, init_metrics
from transformer.runtime import hosts
from transformer.runtime import workdir as workdirs
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime, peak_flops
from transformer.runtime.lock import only_run
from transformer.runtime.workdir import Workdir
from transformer.training import branch, costs, loop, optimizer, pretrained, state_files, tracing, trackers, trainer, vmap_seeds
from transformer.training import step as step_lib
from transformer.training.monitor import Monitor
from transformer.training.telemetry import Telemetry


def train(config: Config, path: Path, profile: str | None = None, pictures: bool = True, notices: Sequence[str] = ()) -> bool:
    """Trains, or resumes the run in that workdir; then scores the test split and, with `pictures`, draws pictures. Returns
    whether the run is finished: it was not stopped before.

    `profile`: FIRST:LAST, the updates that are traced. `notices`: messages for the user about the settings."""
    wanted = None if profile is None else tracing.updates(profile, config.train.steps)
    return loop.alone(_run(config, path, loop.Stop(config.train.max_minutes), wanted, pictures, notices=notices))


def train_vmapped(runs: Mapping[Path, Config], logs: Mapping[Path, TextIO]) -> bool:
    """As `train`, for runs that differ only in their seeds; one vmapped program makes their updates. `logs`: the file that a
    run writes its output to. Returns whether every run succeeded; a failure does not end the other runs."""
    stop = loop.Stop(next(iter(runs.values())).train.max_minutes)
    seeds = {config.train.seed: path for path, config in runs.items()}

    def redirected(path: Path) -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(logs[path]))
            stack.enter_context(contextlib.redirect_stderr(logs[path]))
            return stack.pop_all()

    return not vmap_seeds.train(
        {seed: _run(runs[path], path, stop, None, pictures=False, alone=False) for seed, path in seeds.items()},
        {seed: functools.partial(redirected, path) for seed, path in seeds.items()},
    )


def _run(
    config: Config,
    path: Path,
    stop: loop.Stop,
    wanted: range | None,
    pictures: bool,
    alone: bool = True,
    notices: Sequence[str] = (),
) -> loop.Run[bool]:
    families.check_mode(config, "train")
    config = dataclasses.replace(config, data=sources.resolve_paths(config.data))
    check_evaluate(config)
    texts = {f"config.{name}": settings_lib.text_of(value) for name, _, _, value in settings_lib.fields(config)}
    hosts.check_same({"--workdir": str(path)} | texts)
    with contextlib.ExitStack() as locked, _nan_checks(config.train.debug_nans):
        hosts.by_first(lambda: locked.enter_context(only_run(path)))
        followed = locked.enter_context(trackers.Trackers(config.train.trackers if hosts.is_first() else ()))
        return (yield from _train(config, path, stop, wanted, pictures, alone, notices, followed))


def _train(
    config: Config,
    path: Path,
    stop: loop.Stop,
    wanted: range | None,
    pictures: bool,
    alone: bool,
    notices: Sequence[str],
    followed: trackers.Trackers,
) -> loop.Run[bool]:
    """Whether the run is finished. `alone`: updates are compiled here for all devices; otherwise they are made together with
    those of other runs."""
    family, task = families.FAMILIES[config.family], families.task_of(config)
    runtime = Runtime(config.parallel if alone else Parallel(mode="jit"), axes=axes.of_model(config.model))
    with _workdir(path, config) as (workdir, checkpoints):
        vocabularies, data_info, splits = hosts.in_turn(lambda: _read(config, task, workdir))
        model = family.model(config, data_info)
        objective = families.make_objective(config, data_info, vocabularies, training=True)
        rows = runtime.count * config.train.accumulate
        settings = config.train
        batches, found = pipeline.plan(
            splits["train"].tokens, objective, config.data, settings.batch_tokens, rows, settings.seed, True, runtime.share
        )
        of_batches = [notice.at("train") if isinstance(notice, Cut) else notice for notice in found]
        for notice in [*notices, *of_batches, *optimizer.warm_up_warning(settings, config.model)]:
            say(notice)
        cut = [*splits["train"].cuts, *only(of_batches)]
        say(f"{counted(len(batches), 'update')} an epoch, padding {batches.padding:.1%}")
        params = _begin_with(config, checkpoints, lambda: families.init_params(model, objective, settings.seed))
        if config.evaluate.measure.names and not checkpoints.latest():
            initial = families.init_params(model, objective, settings.seed)
            if params is not None and config.train.init_from is not None:
                initial, _ = pretrained.load_pretrained(initial, params, config.train.init_from)
            examples = next((splits[name].examples for name in ("test", "validation") if name in splits), [])
            measuring.rehearse(loading.Loaded(config, data_info, model, objective, initial, vocabularies), examples)

    loss, train_step, begin = trainer.make(config, data_info, model)

    def init() -> step_lib.State:
        return begin(families.init_params(model, objective, config.train.seed))

    with contextlib.closing(checkpoints), tempfile.TemporaryDirectory() as nowhere:
        first = checkpoints.latest()
        if first == 0:  # what --mode=import leaves: no optimizer's state
            raise UserError(f"--workdir={path} holds imported weights: start another run with config.train.init_from={path}")
        first = first or 0
        hosts.check_same({"as its last checkpoint": first})
        shapes = jax.eval_shape(init)
        if first:
            state = runtime.place_state(state_files.restore(checkpoints, first, runtime.like(shapes)))
        elif config.train.init_from is not None:
            state = runtime.place_state(_load_pretrained(init(), params, config.train.init_from))
        else:
            state = runtime.create(init)
        size = sum(x.size for x in jax.tree.leaves(shapes.params))
        say(f"{size:,} parameters; {runtime}")
        kernels = _kernels(config, runtime, loss, shapes.params, batches[0])
        for where, chosen in kernels.items():
            say(f"{where}: {', '.join(chosen)}")
        if hosts.is_first():
            found = {name: split.fingerprint for name, split in splits.items()}
            workdir.append_record(workdirs.run_record(found) | ({"kernels": kernels} if kernels else {}))
        saved = checkpoints.metrics(first) if first else None
        monitor = Monitor(config, checkpoints.ranking().values(), saved)
        ended = first == config.train.steps or monitor.exhausted
        if first == config.train.steps:
            say(f"training is complete after step {first:,}; scoring again")
        elif ended:
            say(f"{monitor.reason(first)}; scoring again (a larger config.train.patience resumes training)")
        elif first:
            say(f"resumes after step {first:,} of {config.train.steps:,}")
        if settings.schedule == "wsd":
            say(
                f"config.train.schedule wsd: the learning rate is constant until step "
                f"{settings.steps - settings.decay_updates:,}, then it falls to 0 in {settings.decay_updates:,} updates"
            )
        validate, coordinates_of = None, None
        if "validation" in splits:
            deterministic = families.make_objective(config, data_info, vocabularies)
            validate, more = token_sums(runtime, loss, deterministic, "validation", splits["validation"].tokens, config)
            cut += [*splits["validation"].cuts, *more]
            if settings.coordinates:
                coordinates_of = _coordinates(runtime, model, deterministic, splits["validation"].tokens, config)
            for notice in more:
                say(notice)
        hosts.by_first(lambda: workdir.write_cuts(cut))

        measure = runtime.compile_eval(init_metrics.make_init_step(loss, model, config)) if settings.init_metrics else None

        class Callbacks(loop.Callbacks):
            def begin(self, state: Any, batch: Any) -> dict[str, float]:
                if measure is None:
                    return {}
                found = runtime.fetch(measure(state.params, batch))
                if "gradient_seconds" in settings.init_metrics:
                    found["init/gradient_seconds"] = init_metrics.seconds(runtime.compile_eval, loss, state.params, batch)
                return {name: found[name] for name in init_metrics.names(config)}  # in that order

            def count(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, int]:
                return pipeline.count(batch, objective)

            def evaluate(self, state: Any) -> dict[str, float]:
                if validate is None:
                    return {}
                params = state.average if config.train.keeps_average else state.params
                found = scores.token_scores(validate(params)) | ({} if coordinates_of is None else coordinates_of(params))
                return {f"validation/{name}": value for name, value in found.items()}

            def save(self, step: int, state: Any, metrics: Mapping[str, float], periodic: bool) -> None:
                state_files.save(checkpoints, step, runtime.single(state), {**metrics, **monitor.numbers}, periodic)

            def keep_batch(self, step: int, batch: Mapping[str, np.ndarray]) -> str:
                return _keep_batch(workdir, step, batch)

        lengths = [max(round(mean), 1) for mean in objective.lengths(batches.corpus).clip(max=objective.limits).mean(axis=0)]
        peak = peak_flops(runtime.devices)
        logs = workdir if hosts.is_first() else Workdir(Path(nowhere))
        given = _changed(config)
        followed.start(path, {name: settings_lib.text_of(value) for name, value in given.items()})
        telemetry = Telemetry(
            logs.metrics_file,
            logs.tensorboard,
            first,
            config.train.steps,
            mfu_per_token=_mfu(config, data_info, lengths, peak),
            settings={
                n: value if isinstance(value, bool | int | float) else settings_lib.text_of(value) for n, value in given.items()
            },
            follow=followed.log,
        )
        step = runtime.compile_train(train_step) if alone else train_step
        with contextlib.ExitStack() as stack:
            stack.enter_context(telemetry)
            stack.enter_context(stop)
            if wanted is not None and hosts.is_first():
                step = stack.enter_context(tracing.traced(step, first, wanted, workdir.profile, telemetry))
            placing = runtime if alone else vmap_seeds.OnHost(runtime)
            job = loop.Job(config, placing, step, Callbacks(), telemetry, monitor, stop)
            read = pipeline.read(batches, first, first if ended else config.train.steps, config.data.workers)
            held = pipeline.count_slots(batches, range(first - first % settings.log_every, first), objective)
            _, done = yield from loop.train(job, state, first, read, held)
    asked = any(hosts.every([stop.asked]))
    if done < config.train.steps and not ended:
        if not monitor.exhausted:
            why = f"config.train.max_minutes {config.train.max_minutes:g} reached: " if stop.late else ""
            say(f"{why}stopped after step {done:,} of {config.train.steps:,}, saved; the same command resumes there")
            return False
        say(monitor.reason(done))
    if asked:
        say(f"stopped after step {done:,}, the last, saved; the same command scores the model")
        return False
    _finish(workdir, config, splits, pictures, followed, done)
    return True


def _mfu(config: Config, data_info: DataInfo, lengths: Sequence[int], peak: float | None) -> float | None:
    """The fraction of the devices' peak that a target token per second uses; None if that is not known."""
    if not peak:
        return None
    try:
        return costs.count(config, data_info, lengths).training_flops / peak
    except program.Uncountable as error:
        say(f"no mfu: {error}")
        return None


def _changed(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults, and the seed."""
    default = {name: value for name, _, _, value in settings_lib.fields(Config())}
    values = {name: value for name, _, _, value in settings_lib.fields(config)}
    return {name: value for name, value in values.items() if name == "train.seed" or value != default.get(name)}


def _coordinates(
    runtime: Runtime, model: Any, objective: Any, tokens: Any, config: Config
) -> Callable[[Any], dict[str, float]]:
    """A function from placed parameters to `probes.coordinates` of the first batch of validation."""
    batches, _ = scored_batches(runtime, objective, tokens, config)
    [batch] = pipeline.read(batches, 0, 1, 0)
    placed, step = runtime.place_batch(batch), runtime.compile_eval(coordinates.make_step(model, config))
    return lambda params: coordinates.complete(config, runtime.fetch(step(params, placed)))


def _read(
    config: Config, task: families.Task, workdir: Workdir
) -> tuple[dict[str, Vocabulary], DataInfo, dict[str, prepare.Split]]:
    """Vocabularies, `DataInfo` and splits, from the workdir or written there."""
    where = folders(workdir)
    text = prepare.Text(config.data, task.fields, where.cache, say)
    base = _start_from(config, task, workdir)
    vocabularies = prepare.make_vocabularies(text, families.text_fields(task), where)
    families.check_vocabularies(config, vocabularies, str(workdir.vocabulary))
    prepared = workdir.data_info_file.exists()
    data_info = workdir.data_info() if prepared else prepare.make_data_info(vocabularies, task.extra, text, base)
    found = {
        name: prepare.encode_split(text, name, where, vocabularies, data_info, task.encode, training=name == "train")
        for name in prepare.NAMES
    }
    splits = {name: split for name, split in found.items() if split is not None}
    if not prepared:
        longest = prepare.longest_output({name: split.tokens for name, split in splits.items()}, config.data)
        data_info = dataclasses.replace(data_info, longest_output=longest)
        workdir.write_data_info(data_info)
    _check_data(workdir, {name: split.fingerprint for name, split in splits.items()})
    sizes = ", ".join(f"{name} {len(split.examples):,}" for name, split in splits.items())
    asked = "" if config.data.vocabulary in ("bytes", "imported") else f" of {config.data.vocabulary_size:,} entries asked for"
    entries = ", ".join(f"{v.size:,}" for v in dict.fromkeys(vocabularies.values()))
    say(f"examples: {sizes}; vocabulary: {entries}{asked}")
    return vocabularies, data_info, splits


@contextlib.contextmanager
def _nan_checks(on: bool) -> Iterator[None]:
    """With `on` every operation is checked; UserError names the first one with a NaN, and its line in our code."""
    if not on:
        yield
        return
    try:
        with jax.debug_nans(True):
            yield
    except FloatingPointError as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in reversed(frames) if "transformer" in Path(frame.filename).parts), frames[-1])
        raise UserError(
            f"config.train.debug_nans: {error}, {place.filename}, line {place.lineno}, in {place.name}: {place.line}"
        ) from error


def _keep_batch(workdir: Workdir, step: int, batch: Mapping[str, np.ndarray]) -> str:
    """Writes the batch of an update, or this process's rows of it; returns the file's name."""
    path = workdir.batch_file(step)
    if not hosts.is_first():
        path = path.with_suffix(f".process_{jax.process_index()}.npz")
    with new_file(path) as new, new.open("wb") as file:
        np.savez(file, **batch)  # pyright: ignore[reportArgumentType]
    return str(path)


@contextlib.contextmanager
def _workdir(path: Path, config: Config) -> Iterator[tuple[Workdir, Checkpoints]]:
    """The workdir to prepare, which is locked, and its checkpoints. If that fails, new files are removed (the lock removes an
    empty folder), and an old workdir gets its settings back, so that a corrected command finds no trace of this one. After
    Ctrl-C new files are kept, so that the same command resumes."""
    workdir, found = Workdir(path), set(path.glob("*"))
    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint)
    settings = workdir.config_file.read_bytes() if workdir.config_file.is_file() else None
    done = 0 if settings is None else checkpoints.latest() or 0
    if done > config.train.steps:
        raise UserError(
            f"--workdir={path} has {counted(done, 'update')} already, config.train.steps is {config.train.steps:,}; "
            "raise that, or choose another --workdir"
        )
    hosts.by_first(lambda: _open(workdir, config, done))
    if not (hosts.is_first() or workdir.config_file.is_file()):
        raise UserError(f"--workdir={path}: process {jax.process_index()} does not see what process 0 wrote; all must share it")
    try:
        hosts.by_first(lambda: branch.begin(config, workdir, checkpoints))
        hosts.by_first(lambda: checkpoints.set_aside(say))
        yield workdir, checkpoints
    except BaseException as error:
        if hosts.is_first() and settings is not None:
            if workdir.config_file.read_bytes() != settings:
                # A full disk may be the error: then the file must stay whole, and the error must be the one that is shown.
                with contextlib.suppress(OSError), new_file(workdir.config_file) as new:
                    new.write_bytes(settings)
        elif hosts.is_first() and isinstance(error, Exception):
            remove(set(path.iterdir()) - found)
        raise


def _open(workdir: Workdir, config: Config, done: int) -> None:
    """Makes the workdir, or writes its new settings. UserError: they contradict the `done` updates so far."""
    old = workdir.config() if done else None
    if old is not None and not settings_lib.differences(old, config):
        branch.check_past(old, config, done, f"--workdir={workdir.path}")
    workdirs.create(workdir.path, config, say)


def _kernels(config: Config, runtime: Runtime, loss: Any, params: Any, batch: Any) -> dict[str, list[str]]:
    """By stack and role of attention, and of the loss, the fused kernels, and why there is none; empty if none is asked
    for."""
    backends = {config.model.attention_backend, config.train.loss_backend}
    if "fused" not in backends and not ("auto" in backends and fused.available()):
        return {}
    parts, count = runtime.share  # the batch has the rows of this process alone
    whole = {name: jax.ShapeDtypeStruct((len(x) * count // len(parts), *x.shape[1:]), x.dtype) for name, x in batch.items()}
    with fused.choices() as found, jax.set_mesh(runtime.mesh) if runtime.mesh is not None else contextlib.nullcontext():
        jax.eval_shape(lambda *arguments: loss(*arguments, jax.random.key(0)), params, whole)
    return found


def _check_data(workdir: Workdir, fingerprints: Mapping[str, str]) -> None:
    """UserError: the run was started with other data."""
    before = workdir.records()
    changed = [n for n, value in fingerprints.items() if before and before[-1]["data"].get(n, value) != value]
    if changed:
        raise UserError(
            f"{workdir.path}: the data ({', '.join(changed)}) is not what this run began with; "
            "put it back, or use another --workdir"
        )


def _start_from(config: Config, task: families.Task, workdir: Workdir) -> DataInfo | None:
    """With `train.init_from` a new run uses the vocabulary and the `DataInfo` of the other run."""
    if config.train.init_from is None or workdir.data_info_file.exists():
        return None
    other = workdirs.open_existing(Path(config.train.init_from))
    data_info = other.data_info()
    if (task.extra == "mask" and data_info.mask is None) or (task.extra == "sentinels" and not data_info.sentinels):
        raise UserError(
            f"config.train.init_from {other.path}: its vocabulary has no {task.extra}, which config.objective.kind "
            f"{config.objective.kind} needs; start from a run that has, or from none"
        )
    if not workdir.vocabulary.is_dir():
        try:
            with new_folder(workdir.vocabulary) as new:
                shutil.copytree(other.vocabulary, new, dirs_exist_ok=True)
        except OSError as error:
            raise UserError(f"config.train.init_from {other.path}: its vocabulary cannot be copied: {error}") from error
    return data_info


def _begin_with(config: Config, checkpoints: Checkpoints, init: Callable[[], Any]) -> Any:
    """The parameters of `train.init_from` for a run that has none yet. UserError: they do not fit those that `init` makes."""
    if config.train.init_from is None or checkpoints.latest():
        return None
    params = loading.read(config.train.init_from).params
    pretrained.load_pretrained(jax.eval_shape(init), params, config.train.init_from)
    return params


def _load_pretrained(state: step_lib.State, other: Any, where: str) -> step_lib.State:
    """The initial state with the parameters of the run `where` (`train.init_from`)."""
    params, lines = pretrained.load_pretrained(state.params, other, where)
    for line in lines:
        say(line)

    def copy() -> Any:
        return jax.tree.map(jax.numpy.copy, params)

    def of_rule(part: Any) -> Any:
        return part._replace(z=copy()) if isinstance(part, optimizer.ScheduleFree) else part

    rule = jax.tree.map(of_rule, state.optimizer_state, is_leaf=lambda part: isinstance(part, optimizer.ScheduleFree))
    average = None if state.average is None else copy()
    return state.replace(params=params, average=average, optimizer_state=rule)  # type: ignore[attr-defined]


def _finish(
    workdir: Workdir,
    config: Config,
    splits: Mapping[str, prepare.Split],
    pictures: bool,
    followed: trackers.Trackers,
    done: int,
) -> None:
    """Ends a run after `done` updates: scores of the test split, samples, pictures, and commands to try next."""
    hosts.by_first(lambda: None)  # the last checkpoint is complete
    predictor = predict.load(workdir.path)
    name, rows = "test" if "test" in splits else "validation", []
    if name in splits:
        rows = score_split(workdir, predictor, name, splits[name], splits.get("validation"))
        if hosts.is_first():
            found = workdirs.read_json(workdir.evaluation_file(name))["scores"]
            followed.log(done, {f"{name}/{score}": value for score, value in found.items() if value is not None})
    if pictures:
        outputs = {row["source"]: row[scores.PREDICTION] for row in rows}
        hosts.by_first(lambda: _show(workdir, families.task_of(config), splits, predictor, outputs))


def _show(*arguments: Any) -> None:
    with optional("pictures and next steps"):  # the run is trained and scored
        show(*arguments)
