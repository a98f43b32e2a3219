"""The results of runs: reads them from workdirs, chooses learning rates, and keeps results.csv and curves.csv.

results.csv has a row for each run, with everything that a report needs: its metrics, the settings that differ from the defaults
that plan.json records (`name=value`, as on the command line), and a curve (`update:value`, at most 50 of them). So a report can
be made again even if the workdirs are gone.
"""

import csv
import dataclasses
import io
import json
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer import cuts
from transformer.config import Config
from transformer.cuts import Cut
from transformer.errors import UserError, counted, nearest, no_failure
from transformer.files import new_file
from transformer.runtime.workdir import Workdir, read_cuts, read_json
from transformer.studies import plan as plans
from transformer.studies.plan import Plan, Run, changed
from transformer.studies.study import Metric, Study
from transformer.training import costs
from transformer.training.telemetry import read_metrics

# --- outcomes ---------------------------------------------------------------------------------------------------------

LOSSES = ("train/loss", "validation/loss")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run. `metrics`: by label; missing values are absent, and a target that was never reached is inf."""

    status: Literal["finished", "diverged", "failed"]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""


def read_workdir(folder: Path, config: Config, metrics: Sequence[Metric], max_rise: float = 0.0) -> Outcome | None:
    """The result of the run in a workdir, or None if it has not ended: with its last update, or with scores if a split is
    scored."""
    workdir = Workdir(folder)
    rows = read_metrics(workdir.metrics_file)
    if config.data.test is config.data.validation is None:
        ended = bool(rows) and rows[-1]["step"] >= config.train.steps
    else:
        ended = any(workdir.evaluation_file(split).exists() for split in ("test", "validation"))
    if not ended:
        return None
    if diverged(rows):
        return Outcome("diverged")
    if max_rise and (rise := _rise(rows)) > max_rise:
        return Outcome("diverged", error=f"it ended {rise:.3g} above its best validation loss")
    found = {metric.label: _value(metric, rows, workdir) for metric in metrics}
    return Outcome("finished", {label: value for label, value in found.items() if value is not None})


def diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss was not finite at the end (null in a metrics.jsonl), or the last update was skipped for that reason."""
    last = [values[-1] for name in LOSSES if (values := [row[name] for row in rows if name in row])]
    return None in last or bool(rows and rows[-1].get("train/skipped"))


def _value(metric: Metric, rows: Sequence[Mapping[str, Any]], workdir: Workdir) -> float | None:
    """The value from the rows of training if they have it, else from the scores at the end."""
    values = [row[metric.name] for row in rows if metric.name in row]
    if not values:
        file = workdir.evaluation_file(metric.split)
        return read_json(file)["scores"].get(metric.name.partition("/")[2]) if file.exists() else None
    if metric.take == "updates":
        return next((row["step"] for row in rows if metric.reached(row.get(metric.name))), math.inf)
    if metric.take != "best":
        return values[-1]
    best = min if metric.better == "lower" else max
    return best((value for value in values if value is not None), default=None)


def chooser(study: Study) -> Metric:
    """The metric that chooses learning rates: the study's first metric on validation, without its restriction to lengths or
    positions, which validation may not have."""
    first = next((metric for metric in study.metrics if not metric.where), Metric("validation/nll", "lower"))
    take = "best" if study.checkpoint == "best" and first.split != "validation" else first.take
    return dataclasses.replace(first, name=f"validation/{first.name.partition('/')[2]}", take=take, learned=None)


EXTENSIONS = 2  # how often a grid of learning rates is extended


class Tried(NamedTuple):
    """A run of the search for learning rates. `value`: of the metric that chooses them; nan if the run has none."""

    arm: str
    part: str
    seed: int
    rate: float
    value: float
    status: str


def tried(study: Study, outcomes: Mapping[Run, Outcome]) -> list[Tried]:
    """The runs of the search that have ended. A target that was never reached counts with all updates of the run."""
    label, result = chooser(study).label, []
    for run, found in outcomes.items():
        rate, value = run.config.train.learning_rate, found.metrics.get(label, math.nan)
        if run.part != "study" and rate is not None:
            value = run.config.train.steps if value == math.inf else value
            result.append(Tried(run.arm, run.part, run.seed, rate, value, found.status))
    return result


def tried_in(study: Study, rows: Iterable["Row"]) -> list[Tried]:
    """As `tried`, from the rows of a results.csv."""
    label = chooser(study).label
    return [
        Tried(row.arm, row.part, row.seed, row.learning_rate, row.values.get(label, math.nan), row.status)
        for row in rows
        if row.part != "study" and row.learning_rate is not None
    ]


def mean_scores(study: Study, runs: Sequence[Tried], seeds: int) -> dict[float, float]:
    """The mean score of each learning rate, from the runs of one arm and part; empty without a run. Lower is better. inf: a run
    diverged. nan: unknown, because one of `seeds` runs failed or is missing."""
    metric, result = chooser(study), {}
    for rate in sorted({*study.learning_rates, *(run.rate for run in runs)}) if runs else ():
        ours = [run for run in runs if run.rate == rate]
        whole = len(ours) >= seeds and all(run.status != "failed" for run in ours)
        values = [run.value if run.status == "finished" else math.nan for run in ours]
        scores = [(-value if metric.higher_is_better else value) if math.isfinite(value) else math.inf for value in values]
        result[rate] = statistics.fmean(scores) if whole else math.nan
    return result


def scores_by_seed(study: Study, runs: Iterable[Tried], arm: str) -> list[dict[float, float]]:
    """For each seed of an arm's search, the score of each learning rate, as in `mean_scores`."""
    ours = [run for run in runs if (run.arm, run.part) == (arm, "search")]
    seeds = sorted({run.seed for run in ours})
    return [mean_scores(study, [run for run in ours if run.seed == seed], 1) for seed in seeds]


def best_rate(study: Study, runs: Iterable[Tried], arm: str, part: str) -> float | None:
    """The learning rate that one part of the search chooses: the smallest if all runs diverged, None if a run failed or is
    missing."""
    scores = mean_scores(study, [run for run in runs if (run.arm, run.part) == (arm, part)], study.search_seeds)
    return None if any(map(math.isnan, scores.values())) else min(scores, key=scores.__getitem__, default=None)


def choose(study: Study, runs: Sequence[Tried]) -> dict[str, float]:
    """The best learning rate of each arm; none if a run of the arm's search failed or is missing.

    For the arm that was also tried with all updates, those runs decide.
    """
    result = {}
    for arm in study.arms:
        checked = study.search_fraction < 1 and arm == study.search_check
        rates = [best_rate(study, runs, arm, part) for part in (("search", "check") if checked else ("search",))]
        if None not in rates:
            result[arm] = rates[-1]
    return result


def rates_tried(runs: Iterable[Tried]) -> dict[str, list[float]]:
    """By arm, the learning rates of its search, from the smallest."""
    result: dict[str, set[float]] = {}
    for run in runs:
        result.setdefault(run.arm, set()).add(run.rate)
    return {arm: sorted(rates) for arm, rates in result.items()}


def extended_grids(study: Study, runs: Sequence[Tried]) -> dict[str, list[float]]:
    """For arms whose best rate is at an end of the grid, the next rate beyond that end, if the grid may still be extended."""
    result, known = {}, rates_tried(runs)
    for arm, best in choose(study, runs).items():
        rates = known[arm]
        beyond = best / 2 if best == rates[0] else best * 2 if best == rates[-1] else None
        if beyond is not None and len(rates) < len(study.learning_rates) + EXTENSIONS and len(study.learning_rates) > 1:
            result[arm] = [beyond]
    return result


def _rise(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far the last validation loss is above the best one."""
    values = [row["validation/loss"] for row in rows if row.get("validation/loss") is not None]
    return values[-1] - min(values) if values else 0.0


# --- results.csv ------------------------------------------------------------------------------------------------------

NAME, CURVES = "results.csv", "curves.csv"
# Columns about a run that are text, and the beginning of the name of the column that has its curve.
TEXTS = ("commit", "versions", "machine", "hash", "error", "settings", "sources", "cuts", "not_reached")
CURVE = "curve of "
FEW, POINTS = 50, 200  # maximum of a curve, in results.csv and in curves.csv
Curve = Sequence[tuple[int, float]]
Key = tuple[str, str, int, str]  # of a run in curves.csv: part, arm, seed, learning rate


def columns(study: Study) -> list[Metric]:
    """The metrics that have a column: those of the study, and the one that chooses learning rates."""
    searched = [chooser(study)] if study.learning_rates else []
    return list({metric.label: metric for metric in (*study.metrics, *searched)}.values())


def curve_of(study: Study) -> str:
    """The metric of the learning curves: the first one on validation."""
    if study.base.data.validation is None:
        return "train/loss"
    return next((metric.name for metric in study.metrics if metric.name.startswith("validation/")), "validation/nll")


# --- from workdirs -----------------------------------------------------------------------------------------------------


Rows = Mapping[Run, Mapping[str, str]]  # of runs that ended


def kept(plan: Plan, root: Path) -> dict[Run, dict[str, str]]:
    """The rows of runs that finished or diverged in a results.csv, if there is one: they are kept without their workdirs.

    UserError: a row belongs to an unknown arm, or its run was trained with settings that are not those of the arm now.
    """
    path = root / NAME
    if not path.is_file():
        return {}
    with no_failure(str(path), "read"), path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        rows = [(lines.line_num, row) for row in lines if row.get("status") in ("finished", "diverged")]
    before = known.defaults if (known := plans.recorded(root)) else {}
    result: dict[Run, dict[str, str]] = {}
    for number, row in rows:
        run, where = _run_of(plan, row, f"{path}, line {number}"), f"{path}: a finished run of arm {row['arm']!r}"
        stated = _pairs(shlex.split(row.get("settings") or ""))
        others = plans.other_settings(run.config, stated, before) + _other_files(run, row.get("sources") or "")
        if others:
            more = f" ({counted(len(others) - 1, 'other difference')} not shown)" if others[1:] else ""
            raise UserError(
                f"{where} would be lost: {others[0]}{more}; "
                "change it back, or train the study in another --workdir (or remove the row, to train the run again)"
            )
        result[run] = row
    return result


def _run_of(plan: Plan, row: Mapping[str, str], where: str) -> Run:
    """The run of a row, as it is in the plan now."""
    arm, part = row.get("arm", ""), row.get("part", "")
    if arm not in plan.configs or part not in ("study", "search", "check"):
        raise UserError(
            f"{where}: a finished run of arm {arm!r}, which the study does not have{nearest(arm, plan.configs)}; add the "
            "arm, or train the study in another --workdir"
        )
    try:
        seed, rate = int(row["seed"]), float(row["learning_rate"]) if row["learning_rate"] else None
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: damaged, {error}; restore it") from error
    searched = part != "study" or plan.study.learning_rates
    run = plan.run(arm, seed, part, rate if searched else None)
    return dataclasses.replace(run, recorded=row.get("hash") or "")


def _other_files(run: Run, recorded: str) -> list[str]:
    """Variants whose files have changed since a run was trained."""
    then, now = _pairs(recorded.split()), plans.sources(run.config)
    return [f"the file {name} has changed since" for name in now if then.get(name, now[name]) != now[name]]


def _pairs(items: Iterable[str]) -> dict[str, str]:
    return {name: text for name, _, text in (item.partition("=") for item in items)}


def outcome(row: Mapping[str, str], metrics: Sequence[Metric]) -> Outcome:
    """The result of a run according to its row. Metrics that the row does not have are absent."""
    texts = {metric.label: text for metric in metrics if (text := row.get(metric.label))}
    never = _not_reached(row.get("not_reached"))
    values = {label: math.inf if label in never else float(text) for label, text in texts.items()}
    return Outcome("finished" if row["status"] == "finished" else "diverged", values, row.get("error") or "")


def _not_reached(text: str | None) -> frozenset[str]:
    """The labels of targets that a run did not reach, for the column `not_reached`."""
    return frozenset(text.split("; ")) if text else frozenset()


def write(plan: Plan, root: Path, outcomes: Mapping[Run, Outcome], rows: Rows | None = None) -> None:
    """Writes a row for every run with an outcome, in the order of the study's arms and seeds, and the whole file at once. Runs
    that have a row in `rows` keep it, with columns that the study does not have any more."""
    arms, study, curve = list(plan.configs), plan.study, curve_of(plan.study)
    curves, rows = read_curves(root / CURVES), rows or {}
    planned = plans.recorded(root)
    before = planned.defaults if planned else {}
    ordered = sorted(outcomes, key=lambda run: (run.part, arms.index(run.arm), run.seed, run.config.train.learning_rate or 0))
    head = ["part", "arm", "seed", "status", *(metric.label for metric in columns(study)), "learning_rate", "parameters"]
    head += ["flops", "seconds", *TEXTS, f"{CURVE}{curve}"]
    head = list(dict.fromkeys([*head, *(name for row in rows.values() for name in row if name)]))
    with new_file(root / NAME) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for run in ordered:
            found = outcomes[run]
            if known := rows.get(run):  # a metric may be new, and so may the curve
                new_ones = {label: each for label, each in found.metrics.items() if not known.get(label) and each == each}
                row = {**known, **_values(run, new_ones)}
                row["not_reached"] = "; ".join(filter(None, (known.get("not_reached"), row["not_reached"])))
                of_run, there = curves.get(_curve_key(run), {}), f"{CURVE}{curve}"
                row[there] = known.get(there) or _curve_text(run.folder(root), curve) or _short(of_run.get(curve, ()))
                writer.writerow(row)
            else:
                writer.writerow(_row(run, found, run.folder(root), curve, before))
    _write_curves_of(plan, root, ordered, rows, curves)


def _write_curves_of(plan: Plan, root: Path, runs: Sequence[Run], rows: Rows, known: Mapping[Key, Mapping[str, Curve]]) -> None:
    """Writes curves.csv: from the workdirs where they exist, else from `known`, the old curves.csv, or results.csv."""
    shown = curve_of(plan.study)
    names = dict.fromkeys(["train/loss", shown, *(m.name for m in plan.study.metrics if m.split == "validation")])
    curves = {}
    for run in runs:
        lines = read_metrics(Workdir(run.folder(root)).metrics_file)
        made = {name: [(line["step"], line[name]) for line in lines if line.get(name) is not None] for name in names}
        old = known.get(_curve_key(run)) or {shown: _read_curve((rows.get(run) or {}).get(f"{CURVE}{shown}") or "")}
        curves[_curve_key(run)] = {name: curve for name, curve in made.items() if curve} or old
    write_curves(root / CURVES, curves)


def _curve_text(folder: Path, name: str) -> str:
    """The curve of a run in a workdir, for results.csv."""
    return _short([(line["step"], line[name]) for line in read_metrics(Workdir(folder).metrics_file) if name in line])


def _short(points: Sequence[tuple[int, float | None]]) -> str:
    return " ".join(f"{step}:{math.nan if value is None else value:.5g}" for step, value in _thin(points, FEW))


def _read_curve(text: str) -> Curve:
    pairs = (point.partition(":") for point in text.split())
    return [(int(step), float(value)) for step, _, value in pairs]


def add_curves(path: Path, rows: Sequence["Row"], study: Study) -> None:
    """Writes a curves.csv from the rows of a results.csv, if there is none."""
    if not path.exists() and any(row.curve for row in rows):
        write_curves(
            path, {(row.part, row.arm, row.seed, _rate(row.learning_rate)): {curve_of(study): row.curve} for row in rows}
        )


def _values(run: Run, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The columns of metrics: a target that was never reached has all updates of the run, and is in `not_reached`."""
    never = [label for label, value in metrics.items() if value == math.inf]
    return {**metrics, **dict.fromkeys(never, run.config.train.steps), "not_reached": "; ".join(never)}


def _row(run: Run, found: Outcome, folder: Path, curve: str, before: Mapping[str, str]) -> dict[str, Any]:
    workdir, row = Workdir(folder), {"part": run.part, "arm": run.arm, "seed": run.seed, "status": found.status}
    row |= _values(run, found.metrics) | {
        "learning_rate": run.config.train.learning_rate,
        "hash": run.hash,
        "error": found.error,
    }
    row |= {"settings": shlex.join(f"{name}={text}" for name, text in changed(run.config, before).items())}
    row |= {"sources": " ".join(f"{name}={digest}" for name, digest in plans.sources(run.config).items())}
    row["cuts"] = json.dumps(cuts.to_json(_cuts(workdir)), ensure_ascii=False) if row["status"] == "finished" else ""
    row[f"{CURVE}{curve}"] = _curve_text(folder, curve)
    if workdir.data_info_file.exists():
        cost = costs.totals(run.config, workdir.data_info())
        row |= {"parameters": cost.size} | ({} if math.isnan(cost.total_flops) else {"flops": cost.total_flops})
    if (times := run_file(folder, ".seconds")).exists():
        row["seconds"] = round(sum(map(float, times.read_text().split())), 1)
    if workdir.record_file.exists():
        record = read_json(workdir.record_file)[-1]
        versions = " ".join(f"{name}={version}" for name, version in record["versions"].items())
        devices = " ".join(f"{count}x {name}" for name, count in record["devices"].items())
        and_changes = " and changes" if record.get("dirty") else ""
        row |= {"versions": versions, "machine": f"{record['platform']}; {record['cpus']} cores; {devices}"}
        row |= {"commit": record["commit"] + and_changes} if "commit" in record else {}
    return row


def _cuts(workdir: Workdir) -> list[Cut]:
    """The counts of everything that the run dropped, cut or replaced, in training and in the splits that it scored."""
    files = [file for split in ("test", "validation") if (file := workdir.evaluation_file(split)).exists()]
    scored = [cut for file in files for cut in read_cuts(file, read_json(file).get("cuts", []))]
    return list(dict.fromkeys([*workdir.cuts(), *scored]))


def run_file(folder: Path, ending: str) -> Path:
    """A file of a run that is stored next to its workdir."""
    return folder.with_name(folder.name + ending)


# --- for a report ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of results.csv. Values that are absent there are None or missing from a mapping; `cuts` is empty in older files.

    `values`: by the metrics' labels. `censored`: labels of targets that were not reached (column `not_reached`); their
    value is the number of all updates.
    """

    part: str
    arm: str
    seed: int
    status: str
    values: Mapping[str, float]
    censored: frozenset[str]
    learning_rate: float | None
    parameters: int | None
    flops: float | None
    seconds: float | None
    commit: str
    versions: str
    machine: str
    error: str
    settings: Mapping[str, str]
    curve: Curve
    cuts: Sequence[Cut] = ()


def read(path: Path, study: Study) -> list[Row]:
    """The rows of a study's results.csv. UserError: there is none, it is damaged or empty, or it belongs to another study."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; --mode=ablate makes it")
    with no_failure(str(path), "read"):
        data = path.read_bytes()
    try:
        lines = csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)
        rows = [_read_row(path, lines.line_num, line, study) for line in lines]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, {error}; --mode=ablate makes it again from the runs") from error
    if all(row.part != "study" for row in rows):
        raise UserError(f"{path}: it has no run of the study yet; train one with --mode=ablate")
    known = set()
    for row in rows:
        if (key := (row.part, row.arm, row.seed, row.part != "study" and row.learning_rate)) in known:
            raise UserError(f"{path}: it has two rows of the arm {row.arm!r}, seed {row.seed}; remove one")
        known.add(key)
    return rows


def _read_row(path: Path, number: int, line: Mapping[str, str | None], study: Study) -> Row:
    def cell(name: str) -> str:
        if line.get(name) is None:
            raise UserError(f"{path}, line {number}: it has no {name!r}; --mode=ablate makes the file again from the runs")
        return line[name] or ""

    def value(name: str, kind: Callable[[str], Any], text: str | None = None) -> Any:
        text = cell(name) if text is None else text
        if not text:
            return None
        try:
            if math.isfinite(result := kind(text)):
                return result
        except ValueError:
            pass
        raise UserError(f"{path}, line {number}: {name} is {text!r}, which is not a number; correct it")

    if (arm := cell("arm")) not in study.arms:
        raise UserError(
            f"{path}, line {number}: the study has no arm {arm!r}{nearest(arm, study.arms)}; is --config the study's file?"
        )
    for name, words in (("part", ("study", "search", "check")), ("status", ("finished", "diverged", "failed"))):
        if cell(name) not in words:
            raise UserError(f"{path}, line {number}: {name} is {cell(name)!r}, expected one of {', '.join(words)}; correct it")
    if value("seed", int) is None:
        raise UserError(f"{path}, line {number}: it has no seed; correct it")
    texts = {metric.label: cell(metric.label) for metric in columns(study)}
    values = {label: value(label, float, text) for label, text in texts.items() if text}
    points = [point.partition(":") for point in cell(f"{CURVE}{curve_of(study)}").split()]
    try:
        pairs = [item.partition("=") for item in shlex.split(cell("settings"))]
    except ValueError as error:
        raise UserError(f"{path}, line {number}: settings cannot be split into words ({error}); correct them") from error
    return Row(
        part=cell("part"),
        arm=arm,
        seed=value("seed", int),
        status=cell("status"),
        values=values,
        censored=_not_reached(line.get("not_reached")),
        learning_rate=value("learning_rate", float),
        parameters=value("parameters", int),
        flops=value("flops", float),
        seconds=value("seconds", float),
        commit=cell("commit"),
        versions=cell("versions"),
        machine=cell("machine"),
        error=cell("error"),
        settings={name: text for name, _, text in pairs},
        cuts=_read_cuts(path, number, line.get("cuts")),
        curve=[(value("curve", int, step), math.nan if at == "nan" else value("curve", float, at)) for step, _, at in points],
    )


def _read_cuts(path: Path, number: int, text: str | None) -> list[Cut]:
    try:
        return cuts.from_json(json.loads(text)) if text else []
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}, line {number}: cuts is {text[:40] if text else text!r}, which is not a list of counts; correct it"
        ) from error


# --- curves.csv --------------------------------------------------------------------------------------------------------


def _curve_key(run: Run) -> Key:
    """The columns that identify a run in curves.csv."""
    return run.part, run.arm, run.seed, _rate(run.config.train.learning_rate)


def _rate(rate: float | None) -> str:
    return "" if rate is None else str(rate)


def _thin(points: Sequence[tuple[int, Any]], most: int) -> list[tuple[int, Any]]:
    """At most `most` of them, evenly spread, the last one included."""
    every = math.ceil(len(points) / most) or 1
    return list(points[::-every][::-1])


def write_curves(path: Path, curves: Mapping[Key, Mapping[str, Curve]]) -> None:
    """Writes the metrics of each run by update, thinned, with a column for each metric."""
    names = list(dict.fromkeys(name for each in curves.values() for name in each))
    with new_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["part", "arm", "seed", "learning_rate", "update", *names])
        for run, each in curves.items():
            known = {name: dict(_thin(curve, POINTS)) for name, curve in each.items()}
            for update in sorted({update for curve in known.values() for update in curve}):
                writer.writerow([*run, update, *(_number(known.get(name, {}).get(update)) for name in names)])


def read_curves(path: Path) -> dict[Key, dict[str, Curve]]:
    """The curves that `write_curves` wrote; empty if there is no such file. UserError: it is damaged."""
    if not path.is_file():
        return {}
    result: dict[Key, dict[str, list[tuple[int, float]]]] = {}
    with no_failure(str(path), "read"), path.open(encoding="utf-8", newline="") as file:
        lines: Iterable[dict[str, str]] = list(csv.DictReader(file))
    try:
        for line in lines:
            run = (line.pop("part"), line.pop("arm"), int(line.pop("seed")), line.pop("learning_rate"))
            update = int(line.pop("update"))
            for name, text in line.items():
                if text:
                    result.setdefault(run, {}).setdefault(name, []).append((update, float(text)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged; restore it, or remove it, and it is made again from the runs that exist") from error
    return {run: dict(each) for run, each in result.items()}


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"
