"""The plan of a study: its runs, what each arm costs and reports, whether the comparison is fair, and the table of a dry run.

Nothing is trained here. The section on settings defines what identifies a run, here and in the files that are committed.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformer import effects, families, settings
from transformer.config import Config
from transformer.errors import UserError, counted, nearest
from transformer.files import new_file
from transformer.registry import Component
from transformer.statistics.contrasts import detectable, expected, provable_margin
from transformer.studies.study import LAWS, SEARCH_SEED, Claim, Fair, Metric, Study, arm_configs
from transformer.studies.verdicts import comparisons, planned
from transformer.training import costs as cost_lib
from transformer.validation import validate as validate_config

TOLERANCE: Mapping[Fair, float] = {"steps": 0.0, "tokens": 0.0, "flops": 0.05, "parameters": 0.05}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of an arm. `part`: whether it belongs to the study itself, to the search for the arm's learning rate, or to
    the check, with all updates, of a search with fewer updates."""

    arm: str
    seed: int
    config: Config
    part: Literal["study", "search", "check"] = "study"
    recorded: str = dataclasses.field(default="", compare=False)  # the hash in results.csv, which names an older workdir

    @property
    def hash(self) -> str:
        """The hash of all settings that change results and differ from their defaults: a new setting of the library does not
        change it."""
        stated = {name: text for name, text in changed(self.config).items() if not _is_free(name)} | sources(self.config)
        text = json.dumps({"seed": self.seed, **stated}, sort_keys=True)
        return self.recorded or hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Its workdir. If settings change, the folder changes too, so nothing is ever overwritten."""
        return root / "runs" / (re.sub(r"[^\w.()-]+", "-", self.arm) or "-") / f"{self.seed}-{self.hash}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study that can be run, with each arm's settings and costs."""

    study: Study
    configs: Mapping[str, Config]
    costs: Mapping[str, cost_lib.Totals]

    def search(self, rates: Mapping[str, Iterable[float]] | None = None) -> list[Run]:
        """Runs that choose the arms' learning rates from the study's grid, or from each arm's own `rates`. They have no test
        split, which is only for the chosen rates."""
        study, result = self.study, []
        for arm in self.configs:
            checked = study.search_fraction < 1 and arm == study.search_check
            for rate in study.learning_rates if rates is None else rates.get(arm, ()):
                for seed in range(SEARCH_SEED, SEARCH_SEED + study.search_seeds):
                    result.append(self.run(arm, seed, "search", rate))
                    result += [self.run(arm, seed, "check", rate)] if checked else []
        return result

    def run(self, arm: str, seed: int, part: Literal["study", "search", "check"], rate: float | None) -> Run:
        """A run of an arm. `rate`: its learning rate, or None for that of the arm's settings."""
        changes: dict[str, object] = {"train.seed": seed}
        if rate is not None:
            changes["train.learning_rate"] = rate
        if part != "study":
            changes["data.test"] = None
        config = _replaced(self.configs[arm], changes)
        return Run(arm, seed, _shortened(config, self.study.search_fraction) if part == "search" else config, part)

    def runs(self, rates: Mapping[str, float], seeds: int | None = None) -> list[Run]:
        """The runs of the arms, ordered by seed, so that a study that is stopped has some runs of each arm.

        `rates`: the chosen learning rates; if the study searches for them, an arm without one has no runs. `seeds`: the number
        of seeds, by default that of the study.
        """
        chosen = rates if self.study.learning_rates else dict.fromkeys(self.configs)
        return [
            self.run(arm, seed, "study", chosen[arm])
            for seed in range(self.study.first_seed, self.study.first_seed + (self.study.seeds if seeds is None else seeds))
            for arm in self.configs
            if arm in chosen
        ]


def _shortened(config: Config, fraction: float) -> Config:
    """The settings with a fraction of the updates, of the warm-up and of the decay."""
    if fraction == 1:
        return config
    scaled = {f"train.{name}": getattr(config.train, name) for name in ("steps", "warmup_steps", "decay_steps")}
    changes = {name: max(1, round(fraction * each)) for name, each in scaled.items() if each}
    return _replaced(config, {**changes, "train.evaluate_every": min(config.train.evaluate_every, changes["train.steps"])})


# --- settings as they are recorded -------------------------------------------------------------------------------------

PATHS = ("data.train", "data.validation", "data.test", "train.init_from", "train.branch_from")  # they may be paths
SCORING = (
    "train.steps",
    "train.decay_steps",
    "train.patience",
    "evaluate.",
    "search.",
)  # may change in a workdir, not in a study


def changed(config: Config, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings except the seed that differ from their defaults, by name, as on the command line. Of a path only the last
    part. `before`: earlier defaults of the library, to be used instead of those of now."""
    default = before or defaults()
    return {name: text for name, text in _texts(config).items() if name != "train.seed" and text != default.get(name)}


def defaults() -> dict[str, str]:
    """The default of every setting, as `changed` writes it, except settings of components that are not the default ones."""
    return _texts(Config())


def _texts(config: Config) -> dict[str, str]:
    def text(name: str, value: Any) -> str:
        place = name in (*PATHS, "data.directory") or isinstance(value, Component)
        return Path(settings.text_of(value)).name if place and value else settings.text_of(value)

    return {name: text(name, value) for name, _, _, value in settings.fields(config)}


def _is_free(name: str) -> bool:
    """Whether a setting changes where or how a run is computed, but not its results."""
    return name in _free() and not name.startswith(SCORING)


@functools.cache
def _free() -> frozenset[str]:
    return frozenset(name for name, _, field, _ in settings.fields(Config()) if field.metadata.get("free"))


def sources(config: Config) -> dict[str, str]:
    """The files of an arm's own components, with the beginning of the hash of each."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in sorted(settings.sources(config))}


def other_settings(config: Config, recorded: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The settings in which a run that was `recorded` (as `changed` writes it) differs from `config`, as "name was A and is B".

    The library may have changed since then: a new setting counts if it is not at its default, and a removed one counts unless a
    new setting has the same value (a renamed setting). `before`: the defaults at that time, if they are known.
    """
    now, usual = _texts(config), _defaults_of(config)
    gone = {name: text for name, text in recorded.items() if name not in now}
    result = []
    for name, text in now.items():
        if name == "train.seed" or _is_free(name):
            continue
        was = recorded.get(name, before.get(name, usual.get(name)))
        if was is None or _same(was, text):
            continue
        renamed = next((old for old, value in gone.items() if _same(value, text)), None) if name not in recorded else None
        if renamed is not None and name not in before:
            del gone[renamed]
        else:
            result.append(f"config.base.{name} was {was} and is {text}")
    return result


def _defaults_of(config: Config) -> dict[str, str]:
    """The default of each setting of this configuration, including those of its components."""
    result = defaults()
    for name, _, field, _ in settings.fields(config):
        if name not in result and field.default is not dataclasses.MISSING:
            result[name] = settings.text_of(field.default)
    return result


def _same(one: str, other: str) -> bool:
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


# --- the plan before the first run --------------------------------------------------------------------------------------

PLAN = "plan.json"


def as_data(study: Study) -> dict[str, Any]:
    """Everything that is decided before the first run: arms, claims with their margins, metrics, seeds, rates and rules."""
    rest = {field.name: getattr(study, field.name) for field in dataclasses.fields(study) if field.name != "base"}
    rest |= {name: [dataclasses.asdict(each) for each in rest[name]] for name in ("claims", "metrics")}
    rules = {"level": 0.95, "correction": "Holm over all claims", "other pairs": "Games and Howell, exploratory"}
    base = changed(dataclasses.replace(study.base, data=dataclasses.replace(study.base.data, directory=None)))  # any place
    return json.loads(json.dumps({"base": base, **rest, "rules": rules}, default=dict))


def digest(data: Mapping[str, Any]) -> str:
    """The hash of a plan."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def record(study: Study, root: Path, runs: int) -> None:
    """Writes plan.json unless there is one. `runs`: the number of runs that have ended, 0 if it is written before the first
    run."""
    if not (root / PLAN).exists():
        data = as_data(study)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with new_file(root / PLAN) as new:
            text = {"hash": digest(data), "written": now, "runs_before": runs, "plan": data, "defaults": defaults()}
            new.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A plan.json. `defaults`: those of the library when it was written; empty in older files."""

    hash: str
    written: str
    before: int
    plan: Mapping[str, Any]
    defaults: Mapping[str, str]


def recorded(folder: Path) -> Recorded | None:
    """The plan.json of a folder, or None. UserError: it is damaged."""
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        defaults = known.get("defaults", {})
        result = Recorded(known["hash"], known["written"], known["runs_before"], known["plan"], defaults)
        damaged = digest(result.plan) != result.hash
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; restore it, or remove it, so that the report says there was no plan") from error
    if damaged:
        raise UserError(f"{path}: the plan does not match its hash; restore the file, or remove it")
    return result


@dataclasses.dataclass(frozen=True)
class Followed:
    """Whether the plan was written before the first run, and is still that of the study (`kept`); and a sentence about it."""

    kept: bool
    text: str


def followed(study: Study, folder: Path) -> Followed:
    """Whether the plan of a folder is that of the study. UserError: plan.json is damaged."""
    known = recorded(folder)
    if known is None:
        return Followed(False, "No plan was recorded before the first run.")
    now, default = as_data(study), as_data(Study("", {}, ()))
    differ = sorted(name for name in now if name not in ("base", "arms") and not _as_planned(name, known.plan, now, default))
    if other_settings(study.base, _flat(known.plan.get("base", {})), known.defaults):
        differ.append("base")
    exist = {name for config in arm_configs(study).values() for name in _texts(config)}
    if not _same_arms(known.plan.get("arms", {}), now["arms"], exist):
        differ.append("arms")
    when = "before the first run" if not known.before else f"after {counted(known.before, 'run')}"
    text = f"The plan (plan.json, {known.hash}) was written on {known.written[:10]}, {when}"
    after = "was followed" if not differ else f"was **not followed**: {', '.join(differ)} changed since"
    return Followed(not differ and not known.before, f"{text}, and {after}.")


def _as_planned(name: str, plan: Mapping[str, Any], now: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    """Whether a part of the study equals that of the plan; a field that did not exist then has to be at its default."""
    if name in ("claims", "metrics"):
        blank = {"claims": dataclasses.asdict(Claim("", "", "better", ())), "metrics": dataclasses.asdict(Metric("", "lower"))}
        usual = json.loads(json.dumps(blank[name]))
        found, wanted = plan.get(name, []), now[name]
        return len(found) == len(wanted) and all(
            (old.get(key, usual[key]) == new[key]) for old, new in zip(found, wanted, strict=True) for key in new
        )
    return plan.get(name, default[name]) == now[name]


def _same_arms(planned: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], exist: Collection[str]) -> bool:
    """Whether all arms have the settings that were planned. A setting may have another name if its value is the same and the
    old name does not `exist` any more."""

    def renamed(arm: str) -> dict[str, str]:
        result, new = {}, {name: text for name, text in now[arm].items() if name not in planned[arm]}
        for name, text in planned[arm].items():
            known = name in now[arm] or name in exist
            other = None if known else next((other for other, value in new.items() if value == text), None)
            new.pop(other or "", None)
            result[other or name] = text
        return result

    return set(planned) == set(now) and all(renamed(arm) == dict(now[arm]) for arm in now)


def _flat(base: Mapping[str, Any]) -> dict[str, str]:
    """The settings of the base by name; an older plan.json has the settings of a component as one value."""
    result: dict[str, str] = {}
    for name, value in base.items():
        if isinstance(value, dict) and "component" in value:
            parts = {f"{name}.{key}": each for key, each in value.items() if key not in ("component", "sources")}
            result |= {name: Path(value["component"]).name} | {key: settings.text_of(each) for key, each in parts.items()}
        else:
            result[name] = settings.text_of(settings.Variations(value) if isinstance(value, dict) else value)
    return {name: Path(text).name if name in PATHS else text for name, text in result.items()}


def _replaced(config: Config, changes: Mapping[str, object]) -> Config:
    for name, value in changes.items():
        config = settings.replace(config, name, value)
    return config


def make(study: Study, reported: Callable[[Config], Sequence[str]]) -> Plan:
    """The plan of a valid study. `reported`: what a run with these settings reports.

    UserError: an arm's family cannot have its objective, an arm does not report a metric, its settings do not fit the fewer
    updates of a search, or the comparison is unfair.
    """
    configs = arm_configs(study)
    for arm, config in configs.items() if study.learning_rates else ():
        try:
            validate_config(_shortened(config, study.search_fraction))
        except UserError as error:
            raise UserError(
                f"arm {arm!r}, tried with config.search_fraction {study.search_fraction:g} of the updates: {error}"
            ) from error
    check_reported(study, configs, reported)
    costs = {arm: cost_lib.totals(config, cost_lib.assumed_data_info(config)) for arm, config in configs.items()}
    plan = Plan(study, configs, costs)
    for fair in study.fair:
        _check_fair(plan, fair)
    return plan


def check_reported(study: Study, configs: Mapping[str, Config], reported: Callable[[Config], Sequence[str]]) -> None:
    """UserError: an arm's family cannot have its objective, or an arm does not report a metric."""
    for arm, config in configs.items():
        try:
            families.task_of(config)
        except UserError as error:
            raise UserError(f"arm {arm!r}: {error}") from error
        at_the_end = reported(config)
        as_it_trains = reported(settings.replace(config, "data.test", "test"))  # then validation is not scored at the end
        for metric in study.metrics:
            names = as_it_trains if metric.take == "updates" else at_the_end
            if metric.name not in names:
                known = metric.score in effects.SCORES.get(config.objective.kind, ())
                remedy = f"add {metric.score} to config.base.evaluate.scores" if known else f"it reports {', '.join(names)}"
                raise UserError(
                    f"metric {metric.name!r}: arm {arm!r} does not report it{nearest(metric.name, names)}; {remedy}"
                )


def amounts(plan: Plan, fair: Fair) -> dict[str, float]:
    """The amount of `fair` that each arm has, as `--mode=describe` counts it."""
    count: Mapping[Fair, Callable[[str], float]] = {
        "steps": lambda arm: plan.configs[arm].train.steps,
        "tokens": lambda arm: plan.configs[arm].train.steps * plan.configs[arm].train.batch_tokens,
        "flops": lambda arm: plan.costs[arm].total_flops,
        "parameters": lambda arm: plan.costs[arm].size,
    }
    return {arm: count[fair](arm) for arm in plan.configs}


def _check_fair(plan: Plan, fair: Fair) -> None:
    amount_of = amounts(plan, fair)
    if fair != "parameters":
        for arm, config in plan.configs.items():
            if config.train.patience is not None:
                raise UserError(
                    f"arms must have equal {fair}, but {arm!r} may end before its last update (config.train.patience "
                    f"{config.train.patience}); set that to none, or leave {fair} out of config.fair"
                )
    for arms in plan.study.groups().values():
        _check_equal(fair, {arm: amount_of[arm] for arm in arms})


def _check_equal(fair: Fair, found: Mapping[str, float]) -> None:
    if unknown := next((arm for arm, amount in found.items() if math.isnan(amount)), None):
        raise UserError(
            f"arms must have equal {fair}, and those of {unknown!r} depend on the data, so they cannot be counted; leave "
            f"{fair} out of config.fair"
        )
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    if (share := found[most] / found[least] - 1) > TOLERANCE[fair]:
        raise UserError(
            f"arms must have equal {fair}, but {most!r} has {_amount(found[most])} and {least!r} {_amount(found[least])}, "
            f"{share:.1%} more, and {TOLERANCE[fair]:.0%} is allowed; change an arm, or config.fair"
        )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value < 1e12 else f"{value:.3g}"


# --- the table of a dry run --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pace:
    """Measured times of an arm in seconds: until its first update is done, one update, and one validation, if it has any."""

    start: float
    update: float
    validation: float | None

    def expected(self, config: Config) -> float:
        """Seconds of a whole run, without the scores at its end."""
        validations = math.ceil(config.train.steps / config.train.evaluate_every) if self.validation is not None else 0
        return self.start + config.train.steps * self.update + validations * (self.validation or 0.0)


def table(plan: Plan, paces: Mapping[str, Pace | str] | None = None, workers: int = 1) -> str:
    """The table of a dry run. `paces`: if measured, the pace of each arm or the error of its measurement."""
    study, width = plan.study, max(map(len, plan.configs)) + 2
    lines = [study.question, *(f"  claim: {claim.text} (after {claim.source})" for claim in study.claims), ""]
    head = f"{'arm':<{width}}{'parameters':>14}{'no embeddings':>15}{'FLOP':>11}{'updates':>10}"
    lines.append(head if paces is None else f"{head}{'s an update':>13}{'time of a run':>15}")
    runs = [*plan.search(), *plan.runs(dict.fromkeys(plan.configs, 1.0))]
    for arm, config in plan.configs.items():
        cost, pace = plan.costs[arm], paces and paces[arm]
        line = f"{arm:<{width}}{cost.size:>14,}{cost.size_without_embeddings:>15,}{cost.total_flops:>11.3g}"
        line += f"{config.train.steps:>10,}"
        if isinstance(pace, Pace):
            line += f"{pace.update:>13.3g}{duration(pace.expected(config)):>15}"
        lines.append(f"{line}  failed: {pace}" if isinstance(pace, str) else line)
    flops = sum(plan.costs[run.arm].total_flops * run.config.train.steps / plan.configs[run.arm].train.steps for run in runs)
    expected = ""
    if paces:
        known = ((run, pace) for run in runs if isinstance(pace := paces[run.arm], Pace))
        total = sum(pace.expected(run.config) for run, pace in known)
        expected = f"; expected {duration(total / workers)} with {workers} at a time, without the scores at the end"
    lines += [
        "",
        f"compared with {study.compare_with!r} in {', '.join(metric.label for metric in study.metrics)}; "
        f"equal: {', '.join(study.fair) or 'nothing'}",
        f"{_counted_runs(plan, runs)}, {flops:.3g} FLOP in all{expected}",
        _power(study),
    ]
    if paces is None:
        lines.append("how long it takes: --dry_run=measure")
    return "\n".join(lines)


def _counted_runs(plan: Plan, runs: Sequence[Run]) -> str:
    """ "48 runs: 3 arms x 4 seeds; to choose learning rates 3 arms x 3 rates x 4 seeds"."""
    study, parts = plan.study, {part: sum(run.part == part for run in runs) for part in ("study", "search", "check")}
    arms = counted(len(plan.configs), "arm")
    text = f"{counted(len(runs), 'run')}: {parts['study']} of {arms} x {counted(study.seeds, 'seed')}"
    if parts["search"]:
        tried = f"{counted(len(study.learning_rates), 'learning rate')} x {counted(study.search_seeds, 'seed')}"
        share = f", with {study.search_fraction:.3g} of the updates" if study.search_fraction < 1 else ""
        text += f"; {parts['search']} of {arms} x {tried}{share}"
    return text + (f"; {parts['check']} of {study.search_check!r} x {tried}, with all updates" if parts["check"] else "")


def _power(study: Study) -> str:
    """What can be found with this number of seeds, in standard deviations of runs, which are not known yet."""
    if study.seeds < 2:
        return "with one seed no difference can be distinguished from noise; raise config.seeds"
    tests, found = max(planned(study), 1), dict[tuple[str, str], float]()
    for claim in study.claims or [Claim("", "", "better", ())]:
        for weights in _weights(study, claim):
            solve = provable_margin if claim.kind == "equal" else detectable
            blocked = not claim.rates and (study.blocked or claim.ranks)
            least = solve(*expected(weights, study.search_seeds if claim.rates else study.seeds, blocked), tests)
            slope = "a rise or fall with each doubling of" if claim.kind in ("rises", "falls") else ""
            other = "a difference of differences of" if claim.beyond else "a difference of"
            key = ("equality within" if claim.kind == "equal" else slope or other, study.label(claim))
            found[key] = max(found.get(key, 0.0), least)
    if not found:
        return "how precisely exponents can be fitted is not known before the runs"
    able = "; ".join(f"{what} {least:.2g} in {label}" for (what, label), least in found.items())
    return (
        f"found with a probability of 80 %: {able} (in standard deviations of runs of one arm with different seeds; "
        f"{counted(tests, 'planned comparison')})"
    )


def _weights(study: Study, claim: Claim) -> list[list[float]]:
    """The weights of each comparison of a claim, for all arms; of two arms without a claim about any."""
    if not claim.arms:
        return [[1.0, -1.0]]
    result = []
    for comparison in comparisons(claim, study.against, True) if claim.kind not in LAWS else ():
        each = [(weight, 1 if claim.ranks else len(study.cells(name))) for name, weight in comparison.weights.items()]
        result.append([weight / arms for weight, arms in each for _ in range(arms)])
    return result


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
