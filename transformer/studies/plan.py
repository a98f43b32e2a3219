"""A study -> runs: what each arm costs and reports, whether the comparison is fair, and the table of a dry run.

Nothing is trained here, and no file is read or written.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformer import families, settings
from transformer.config import Config
from transformer.errors import UserError, counted, nearest
from transformer.files import new_file
from transformer.studies.statistics import detectable
from transformer.studies.study import SEARCH_SEED, Fair, Study, arm_configs
from transformer.studies.verdicts import planned
from transformer.training import costs as cost_lib

TOLERANCE: Mapping[Fair, float] = {"steps": 0.0, "tokens": 0.0, "flops": 0.05, "parameters": 0.05}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training of an arm. `part`: of the study itself, of the search for the arm's learning rate, or of the
    check with all updates of a search with fewer."""

    arm: str
    seed: int
    config: Config
    part: Literal["study", "search", "check"] = "study"

    @property
    def hash(self) -> str:
        """Of the complete settings: a run with other settings is another run."""
        text = json.dumps(settings.to_dict(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Its workdir. Where settings change, the folder is another one, so nothing is ever written over."""
        return root / "runs" / (re.sub(r"[^\w.()-]+", "-", self.arm) or "-") / f"{self.seed}-{self.hash}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study that can be run, with each arm's settings and costs."""

    study: Study
    configs: Mapping[str, Config]
    costs: Mapping[str, cost_lib.Costs]

    def search(self, rates: Mapping[str, Sequence[float]] | None = None) -> list[Run]:
        """Runs that choose the arms' learning rates, of the study's grid or of each arm's own `rates`. They have no test split:
        it is for what was chosen."""
        study, result = self.study, []
        for arm, config in self.configs.items():
            checked = study.search_fraction < 1 and arm == study.search_check
            for rate in study.learning_rates if rates is None else rates.get(arm, ()):
                for seed in range(SEARCH_SEED, SEARCH_SEED + study.search_seeds):
                    whole = _replaced(config, {"train.seed": seed, "data.test": None, "train.learning_rate": rate})
                    result.append(Run(arm, seed, _shortened(whole, study.search_fraction), "search"))
                    result += [Run(arm, seed, whole, "check")] if checked else []
        return result

    def runs(self, rates: Mapping[str, float], seeds: int | None = None) -> list[Run]:
        """The runs of the arms, in the order of seeds, so that a study that is stopped has some of each arm.

        `rates`: the learning rates that were chosen; where the study chooses, an arm without one has no runs. `seeds`: as
        many as the study's if not told.
        """
        chosen = {arm: {"train.learning_rate": rate} for arm, rate in rates.items()}
        if not self.study.learning_rates:
            chosen = dict.fromkeys(self.configs, {})
        return [
            Run(arm, seed, _replaced(config, chosen[arm] | {"train.seed": seed}))
            for seed in range(self.study.seeds if seeds is None else seeds)
            for arm, config in self.configs.items()
            if arm in chosen
        ]


def _shortened(config: Config, fraction: float) -> Config:
    """With a fraction of the updates, warm-up and all."""
    if fraction == 1:
        return config
    steps, warmup = (max(1, round(fraction * each)) for each in (config.train.steps, config.train.warmup_steps))
    changes = {"train.steps": steps, "train.evaluate_every": min(config.train.evaluate_every, steps)}
    return _replaced(config, changes | ({"train.warmup_steps": warmup} if config.train.warmup_steps else {}))


# --- the plan as it was before the first run ---------------------------------------------------------------------------

PLAN = "plan.json"


def as_data(study: Study) -> dict[str, Any]:
    """All that is decided before the first run: arms, claims with their margins, metrics, seeds, rates and rules."""
    default = settings.to_dict(Config())
    changes = {
        f"{section}.{name}" if isinstance(values, dict) else section: value
        for section, values in settings.to_dict(study.base).items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
        if value != (default[section][name] if isinstance(values, dict) else default[section])
    }
    rest = {field.name: getattr(study, field.name) for field in dataclasses.fields(study) if field.name != "base"}
    rest |= {name: [dataclasses.asdict(each) for each in rest[name]] for name in ("claims", "metrics")}
    rules = {"level": 0.95, "correction": "Holm over all claims", "other pairs": "Games and Howell, exploratory"}
    return json.loads(json.dumps({"base": changes, **rest, "rules": rules}, default=dict))


def digest(data: Mapping[str, Any]) -> str:
    """The hash of a plan."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def record(study: Study, root: Path, runs: int) -> None:
    """Writes plan.json, before the first run if `runs`, how many have ended, is 0. One that is there stays as it is."""
    if not (root / PLAN).exists():
        data = as_data(study)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with new_file(root / PLAN) as new:
            text = {"hash": digest(data), "written": now, "runs_before": runs, "plan": data}
            new.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def followed(study: Study, folder: Path) -> str:
    """Whether the plan of a folder is the study's, in a sentence. UserError: plan.json is damaged."""
    path = folder / PLAN
    if not path.exists():
        return "No plan was recorded before the first run."
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        plan, written, before = known["plan"], known["written"], known["runs_before"]
        damaged = digest(plan) != known["hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; restore it, or remove it, so that the report says there was no plan") from error
    if damaged:
        raise UserError(f"{path}: it does not have the hash that it states; restore it, or remove it")
    now = as_data(study)
    differ = sorted(name for name in {*plan, *now} if plan.get(name) != now.get(name))
    when = "before the first run" if not before else f"after {counted(before, 'run')}"
    text = f"The plan (plan.json, {known['hash']}) was written on {written[:10]}, {when}"
    return f"{text}, and followed." if not differ else f"{text}, and **not followed**: {', '.join(differ)} changed since."


def _replaced(config: Config, changes: Mapping[str, object]) -> Config:
    for name, value in changes.items():
        config = settings.replace(config, name, value)
    return config


def make(study: Study, reported: Callable[[Config], Sequence[str]]) -> Plan:
    """The plan of a valid study. `reported`: what a run with these settings reports.

    UserError: an arm's family cannot have its objective, an arm does not report a metric, or the comparison is unfair.
    """
    configs = arm_configs(study)
    check_reported(study, configs, reported)
    costs = {arm: cost_lib.count(config, cost_lib.assumed_data_info(config)) for arm, config in configs.items()}
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
                raise UserError(
                    f"metric {metric.name!r}: arm {arm!r} does not report it{nearest(metric.name, names)}; "
                    f"it reports {', '.join(names)}"
                )


def amounts(plan: Plan, fair: Fair) -> dict[str, float]:
    """How much of it each arm has, as `--mode=describe` counts."""
    count: Mapping[Fair, Callable[[cost_lib.Costs], float]] = {
        "steps": lambda cost: cost.train.steps,
        "tokens": lambda cost: cost.train.steps * cost.train.batch_tokens,
        "flops": lambda cost: cost.total_flops,
        "parameters": lambda cost: cost.size,
    }
    return {arm: count[fair](cost) for arm, cost in plan.costs.items()}


def _check_fair(plan: Plan, fair: Fair) -> None:
    amount_of = amounts(plan, fair)
    if fair != "parameters":
        for arm, config in plan.configs.items():
            if config.train.patience is not None:
                raise UserError(
                    f"arms are to have equal {fair}, but {arm!r} may end before its last update (config.train.patience "
                    f"{config.train.patience}); set that to none, or leave {fair} out of config.fair"
                )
    for arms in plan.study.groups().values():
        _check_equal(fair, {arm: amount_of[arm] for arm in arms})


def _check_equal(fair: Fair, found: Mapping[str, float]) -> None:
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    if (share := found[most] / found[least] - 1) > TOLERANCE[fair]:
        raise UserError(
            f"arms are to have equal {fair}, but {most!r} has {_amount(found[most])} and {least!r} {_amount(found[least])}, "
            f"{share:.1%} more, and {TOLERANCE[fair]:.0%} is allowed; change an arm, or config.fair"
        )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value < 1e12 else f"{value:.3g}"


# --- the table of a dry run --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pace:
    """What was measured of an arm, in seconds: until its first update is done, an update, and a validation if it has one."""

    start: float
    update: float
    validation: float | None

    def expected(self, config: Config) -> float:
        """Seconds of a whole run, without its last scores."""
        validations = math.ceil(config.train.steps / config.train.evaluate_every) if self.validation is not None else 0
        return self.start + config.train.steps * self.update + validations * (self.validation or 0.0)


def table(plan: Plan, paces: Mapping[str, Pace | str] | None = None, workers: int = 1) -> str:
    """What would be run, as text. `paces`: of each arm, or the error that measuring it ended in, if they were measured."""
    study, width = plan.study, max(map(len, plan.configs)) + 2
    lines = [study.question, *(f'  "{claim.text}" ({claim.source})' for claim in study.claims), ""]
    head = f"{'arm':<{width}}{'parameters':>14}{'no embeddings':>15}{'FLOP':>11}{'updates':>10}"
    lines.append(head if paces is None else f"{head}{'s an update':>13}{'time of a run':>15}")
    each = study.seeds + len(study.learning_rates) * study.search_seeds
    total = 0.0
    for arm, config in plan.configs.items():
        cost, pace = plan.costs[arm], paces and paces[arm]
        line = f"{arm:<{width}}{cost.size:>14,}{cost.size_without_embeddings:>15,}{cost.total_flops:>11.3g}"
        line += f"{config.train.steps:>10,}"
        if isinstance(pace, Pace):
            total += each * pace.expected(config)
            line += f"{pace.update:>13.3g}{duration(pace.expected(config)):>15}"
        lines.append(f"{line}  failed: {pace}" if isinstance(pace, str) else line)
    search = ""
    if study.learning_rates:
        tried = f"{counted(len(study.learning_rates), 'learning rate')} x {counted(study.search_seeds, 'seed')}"
        search = f" and {tried} of {study.search_fraction:g} of the updates"
    expected = f"; expected {duration(total / workers)} with {workers} at a time, last scores not counted" if paces else ""
    lines += [
        "",
        f"compared with {study.compare_with!r} by {', '.join(metric.label for metric in study.metrics)}; "
        f"equal: {', '.join(study.fair) or 'nothing'}",
        f"{len(plan.configs)} arms x ({counted(study.seeds, 'seed')}{search}) = {len(plan.configs) * each} runs{expected}",
        _power(study),
    ]
    if paces is None:
        lines.append("how long it takes: --dry_run=measure")
    return "\n".join(lines)


def _power(study: Study) -> str:
    """Which differences so many seeds find. How far runs vary is not known yet, so that is the unit."""
    if study.seeds < 2:
        return "with one seed no difference can be told from noise; raise config.seeds"
    tests = max(planned(study), 1)
    freedom = (study.seeds - 1) * (1 if study.blocked else 2 - 2 / study.seeds)
    least = detectable(math.sqrt(2 / study.seeds), freedom, tests)
    return (
        f"in {study.metrics[0].label} a difference is found with a probability of 80 % from {least:.2g} standard deviations on "
        f"(of runs of one arm that differ in their seeds; {counted(tests, 'planned comparison')})"
    )


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
