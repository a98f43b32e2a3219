"""A study: one question as data, which a file in experiments/ablations/ returns from `get_study()`.

Arms are settings that differ from a base; each is trained with several seeds. How that becomes runs is plan.py.
"""

import dataclasses
import itertools
import math
import shlex
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformer import effects, settings
from transformer.config import Config
from transformer.errors import UserError, counted, nearest
from transformer.registry import Component
from transformer.settings import setting
from transformer.validation import validate as validate_config

Fair = Literal["steps", "tokens", "flops", "parameters"]
Law = Literal["exponent", "isoflop", "size exponent", "data exponent"]
Kind = Literal["better", "worse", "equal", "not worse", "order", "rises", "falls"] | Law
LAWS: tuple[Law, ...] = typing.get_args(Law)  # kinds that are about a fitted exponent

SEARCH_SEED = 1_000_000  # learning rates are chosen on it; a study's own seeds are 0, 1, 2, ...


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that a run reports, by the name it has there: "validation/nll", "test/bleu", and, of `train.init_metrics`,
    "init/jacobian_norm" or "init/jacobian_norm@decoder/cross/last".

    `take`: of a number that is reported during training, the last or the best one (None: as the study's `checkpoint`
    says), or instead of it the `updates` until it was first reported to be as good as `target`. A run that never
    was counts as all of its updates: the mean is one restricted to them (Royston & Parmar 2013), so arms must have equally
    many.

    `learned`: what an arm's mean must be as good as, else it has not learned, and no claim about it is decided.

    `scale`: what means and intervals are computed on; None: logit for percentages, log for everything else, which is positive.
    """

    name: str
    better: Literal["lower", "higher"]
    take: Literal["last", "best", "updates"] | None = None
    target: float | None = None
    scale: Literal["linear", "log", "logit"] | None = None
    learned: float | None = None

    @property
    def split(self) -> str:
        """ "test" of "test/bleu@10-19"."""
        return self.name.partition("/")[0]

    @property
    def score(self) -> str:
        """ "bleu" of "test/bleu@10-19"."""
        return self.name.partition("/")[2].partition("@")[0]

    @property
    def where(self) -> str:
        """ "10-19" of "test/bleu@10-19"; of a score of everything ""."""
        return self.name.partition("@")[2]

    @property
    def label(self) -> str:
        """Its name in tables."""
        if self.take == "updates":
            return f"updates until {self.name} {'<=' if self.better == 'lower' else '>='} {self.target:g}"
        return f"{self.name} (best)" if self.take == "best" else self.name

    @property
    def higher_is_better(self) -> bool:
        return self.better == "higher" and self.take != "updates"

    def has_learned(self, mean: float | None) -> bool:
        """Whether an arm's mean is as good as `learned`."""
        if mean is None or self.learned is None:
            return False
        return mean >= self.learned if self.higher_is_better else mean <= self.learned

    def reached(self, value: float | None) -> bool:
        """Whether a reported value is as good as `target`."""
        if value is None or self.target is None:
            return False
        return value <= self.target if self.better == "lower" else value >= self.target


@dataclasses.dataclass(frozen=True)
class Claim:
    """What was published, as a hypothesis about arms.

    Kinds: each of `arms` is `better` or `worse` than `against` by more than `margin`, `equal` to it within `margin`, or `not
    worse` by as much as `margin`; `arms` stand in `order`, best first; the metric over `arms`, which have these `sizes`,
    `rises` or `falls` by more than `margin` with each doubling of the size (least squares), or falls as a power law whose
    exponent is `exponent` within `margin`.

    Of scaling laws, over `arms` of these `sizes` N, `tokens` D and `budgets` C, as some convention counts them: the size of
    the lowest loss grows as C^`exponent` within `margin` by parabolas (`isoflop`: Hoffmann et al. 2022, approach 2), or in
    L = E + A / N^a + B / D^b, fitted by the Huber loss, a (`size exponent`) or b (`data exponent`) is `exponent`. `profiles`:
    by which arms belong to one parabola, if the convention's budgets differ within it.

    `against`: the study's `compare_with` unless named. `beyond`: other arms, whose difference or slope is subtracted, which
    makes the claim one about an interaction: "each of `arms` is worse than `against` by more than beyond[0] is worse than
    beyond[1]"; with a slope as many arms as `arms`, of the same sizes. In a study with tasks, an arm that is named without its
    task stands for the mean over tasks.

    `metric`: the label of the study's metric that the claim is about, the first unless named. `minus`: the label of another
    one, which is subtracted in each run ("more is lost at length 40 than at length 10"). `ranks`: the claim is about each
    arm's mean reciprocal rank over the tasks in place of the metric itself. `rates`: about each arm's best learning rate, of
    every seed of the search one, in doublings (base-2 logarithms): where a parabola through the best of the rates that were
    tried and its two neighbours has its lowest point.

    `effect`: the difference (or slope) that was published, if one was; both it and `margin` are in the metric's own units.
    """

    text: str
    source: str
    kind: Kind
    arms: tuple[str, ...]
    margin: float = 0.0
    effect: float | None = None
    sizes: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    budgets: tuple[float, ...] = ()
    profiles: tuple[float, ...] = ()
    exponent: float | None = None
    against: str = ""
    beyond: tuple[str, ...] = ()
    metric: str = ""
    minus: str = ""
    ranks: bool = False
    rates: bool = False

    @property
    def computed(self) -> bool:
        """Whether it is about what is computed of a metric, or of the search."""
        return bool(self.minus) or self.ranks or self.rates


@dataclasses.dataclass(frozen=True)
class Study:
    """One question. What is a `setting` here can be changed on the command line, and so can every setting of the base.

    `arms`: by name, the settings that differ from the base: values of their types, components as objects, or texts as on the
    command line.
    `metrics`: the first decides, the others are shown. `tasks`: if each arm is trained on several, their names; then `arms` is
    made by `crossed`, and an arm is compared with the one of the same task.
    """

    question: str
    arms: Mapping[str, Mapping[str, Any]]
    metrics: tuple[Metric, ...]
    claims: tuple[Claim, ...] = ()
    tasks: tuple[str, ...] = ()
    base: Config = Config()
    compare_with: str = setting("", "the arm that the others are compared with")
    blocked: bool = setting(
        False, "arms are compared within seeds, for seeds that give all arms something in common, such as the trained model"
    )
    seeds: int = setting(5, "runs of each arm, with the seeds 0, 1, 2, ...", at_least=1, below=SEARCH_SEED)
    max_seeds: int = setting(
        0,
        "seeds are added, up to so many, until the claims' effects or margins could be shown with 80 %, by the variances of "
        "the first `seeds` alone; 0: none are",
        at_least=0,
        below=SEARCH_SEED,
    )
    checkpoint: Literal["best", "last"] = setting(
        "best", "what runs with validations are scored at: their best checkpoint, or the last one, however far they overfit"
    )
    max_rise: float = setting(
        0.0, "a run that ends so far above its best validation loss has diverged; 0: only one that is not finite", at_least=0
    )
    fair: tuple[Fair, ...] = setting(("steps",), "what all arms have equal")
    learning_rates: tuple[float, ...] = setting(
        (),
        "for each arm the best of these, a factor of two apart at most, is chosen on validation with seeds outside the study; "
        "one at the end of the grid extends it by a factor of two, twice at most; none: as set",
    )
    search_seeds: int = setting(2, "seeds of each learning rate that is tried", at_least=1)
    search_fraction: float = setting(1.0, "learning rates are tried with this fraction of the updates", above=0, at_most=1)
    search_check: str = setting(
        "", "the arm whose learning rates are tried with all updates too, to verify that search_fraction chooses the same"
    )

    def groups(self) -> dict[str, list[str]]:
        """The arms that are compared with each other, by task; without tasks all of them, under ""."""
        if not self.tasks:
            return {"": list(self.arms)}
        return {task: [arm for arm in self.arms if arm.endswith(f", {task}")] for task in self.tasks}

    def cells(self, name: str) -> tuple[str, ...]:
        """The arms that a name stands for: itself, or, without its task, one for each task."""
        return (name,) if name in self.arms or not self.tasks else tuple(f"{name}, {task}" for task in self.tasks)

    def against(self, name: str) -> str:
        """What an arm is compared with: `compare_with`, of the same task if the arm is one of a task."""
        task = next((task for task, arms in self.groups().items() if task and name in arms), "")
        return f"{self.compare_with}, {task}" if task else self.compare_with

    def label(self, claim: Claim) -> str:
        """What a claim is about, by name."""
        label = claim.metric or self.metrics[0].label
        if claim.rates:
            return "log2 of the best learning rate"
        return f"{label} minus {claim.minus}" if claim.minus else f"mean reciprocal rank by {label}" if claim.ranks else label

    def metric(self, label: str) -> Metric:
        """The study's metric with a label, the first for ""."""
        return next(metric for metric in self.metrics if label in ("", metric.label))


def crossed(arms: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm on each task, as arms of a study whose `tasks` these are; settings of the arm come before those of the task."""
    return {f"{arm}, {task}": {**settings_of, **own} for arm, own in arms.items() for task, settings_of in tasks.items()}


def _read_config(path: str | Path, overrides: Mapping[str, str], flag: str) -> Config:
    return settings.from_file(path, Config, flag=flag, overrides=overrides)


def read(
    path: str | Path, overrides: Mapping[str, str], read_config: Callable[[str, dict[str, str], str], Config] = _read_config
) -> Study:
    """The study of a file, with `overrides` of its own settings, of `base.*`, and of `base`: another experiment's file, which
    `read_config(path, overrides, flag)` reads."""
    study, changes = settings.from_file(path, Study, "get_study"), dict(overrides)
    if base := changes.pop("base", None):
        own = {name.removeprefix("base."): text for name, text in changes.items() if name.startswith("base.")}
        study = dataclasses.replace(study, base=read_config(base, own, "--config.base"))
    return validate(settings.override(study, changes))


def from_flags(
    path: str | Path,
    overrides: Mapping[str, str],
    arms: Sequence[str],
    grid: Sequence[str],
    read_config: Callable[[str, dict[str, str], str], Config] = _read_config,
) -> Study:
    """A study without claims, of arms "NAME: SETTING=VALUE .." and of all combinations of a grid's "SETTING=VALUE,..".

    The base is the experiment's file at `path`; if no arm is the base itself, it is one more, "base". They are compared by the
    best validation loss. `overrides`: of the study's own settings, and of the base, with or without "base." before them.
    """
    own = {field.name for field in dataclasses.fields(Study) if field.metadata}
    base = read_config(str(path), {n.removeprefix("base."): text for n, text in overrides.items() if n not in own}, "--config")
    if base.data.validation is None:
        raise UserError("--arm, --grid: arms are compared on validation, and config.data.validation is none; name one")
    made: dict[str, dict[str, str]] = {}
    axes = [[(name, value) for value in values.split(",")] for name, values in (_split(each, "--grid") for each in grid)]
    for cell in itertools.product(*axes) if grid else ():
        made[", ".join("=".join(each) for each in cell)] = dict(cell)
    for arm in arms:
        name, colon, rest = arm.partition(":")
        if not name.strip() or not colon or name.strip() in made:
            raise UserError(f'--arm={arm}: wants a name of its own, then its settings: --arm="8 heads: model.num_heads=8"')
        made[name.strip()] = dict(_split(each, f"--arm={arm}") for each in shlex.split(rest))
    names = " and ".join(dict.fromkeys(name for changes in made.values() for name in changes))
    study = Study(f"What does another {names} change?", {**made, "": {}}, (), base=base)
    configs = arm_configs(study)
    same = next((name for name in made if configs[name] == configs[""]), "")
    study = dataclasses.replace(
        study,
        arms=made if same else {"base": {}, **made},
        compare_with=same or "base",
        metrics=(Metric("validation/nll", "lower", "best"),),
    )
    return validate(settings.override(study, {name: text for name, text in overrides.items() if name in own}))


def _split(text: str, flag: str) -> tuple[str, str]:
    name, sign, value = text.strip().partition("=")
    if not sign or not name:
        raise UserError(f"{flag}: {text!r} is no SETTING=VALUE, such as model.num_heads=8; correct it")
    return name, value


def validate(study: Study) -> Study:
    """The study with what its `checkpoint` says, if its parts fit together; else UserError. What arms cost and report is
    checked by plan.py."""
    settings.check(study)
    if isinstance(study.metrics, tuple) and all(isinstance(metric, Metric) for metric in study.metrics):
        study = _at_checkpoint(study)
    if not study.metrics:
        raise UserError("the study has no metrics: name one at least, such as Metric('validation/nll', 'lower')")
    if not isinstance(study.arms, Mapping) or not all(isinstance(changes, Mapping) for changes in study.arms.values()):
        raise UserError("the study's arms are no mapping of names to settings, such as {'8 heads': {'model.num_heads': 8}}")
    study = dataclasses.replace(study, arms={name: as_text(changes) for name, changes in study.arms.items()})
    for metric in study.metrics:
        _check_metric(metric)
    if len({metric.label for metric in study.metrics}) < len(study.metrics):
        raise UserError("the study names a metric twice; name each once")
    if len(study.arms) < 2:
        raise UserError(f"the study has {counted(len(study.arms), 'arm')}, so there is nothing to compare; name at least two")
    _check_tasks(study)
    if any(arm not in study.arms for arm in study.cells(study.compare_with)):
        raise UserError(f"compare_with {_no_arm(study, study.compare_with)}")
    for number, claim in enumerate(study.claims, 1):
        _check_claim(study, claim, f"claim {number}")
    if any(rate <= 0 for rate in study.learning_rates):
        raise UserError(f"config.learning_rates is {study.learning_rates}: all must be above 0")
    rates = sorted(study.learning_rates)
    if wide := [(low, high) for low, high in itertools.pairwise(rates) if low > 0 and high / low > 2.01]:
        low, high = wide[0]
        raise UserError(
            f"config.learning_rates: from {low:g} to {high:g} is more than a factor of two, so the best may lie between; add "
            f"{math.sqrt(low * high):.2g}"
        )
    if study.search_fraction < 1 and study.search_check not in study.arms:
        raise UserError(
            f"config.search_fraction is {study.search_fraction:g}: config.search_check {_no_arm(study, study.search_check)}; "
            "it is trained with all updates too, to verify the choice"
        )
    if study.max_seeds and study.max_seeds < study.seeds:
        raise UserError(f"config.max_seeds is {study.max_seeds}, below config.seeds, {study.seeds}; raise it, or set it to 0")
    if len(set(study.learning_rates)) != len(study.learning_rates):
        raise UserError(f"config.learning_rates is {study.learning_rates}: name each rate once")
    if study.learning_rates and study.base.data.validation is None:
        raise UserError("config.learning_rates: config.base.data.validation is none, so there is nothing to choose on")
    if study.learning_rates and study.metrics[0].split == "init":
        raise UserError(
            f"config.learning_rates: the first metric, {study.metrics[0].name!r}, is of before any update: no rate is better; "
            "leave them out"
        )
    known: dict[Config, str] = {}
    for name, config in arm_configs(study).items():
        if config in known:
            raise UserError(f"the arms {known[config]!r} and {name!r} have the same settings; remove one or change one")
        known[config] = name
    counting = [metric.label for metric in study.metrics if metric.take == "updates"]
    if counting and len(updates := {config.train.steps for config in known}) > 1:
        raise UserError(
            f"metric {counting[0]!r}: arms have {' and '.join(map(str, sorted(updates)))} updates; give all the same"
        )
    return study


def as_text(changes: Mapping[str, Any]) -> dict[str, str]:
    """Settings as on the command line. A component, given as an object, is its class and all settings that it has."""
    result: dict[str, str] = {}
    for name, value in changes.items():
        result[name] = value if isinstance(value, str) else settings.text_of(value)
        if isinstance(value, Component):
            fields = (field.name for field in dataclasses.fields(type(value)) if "meaning" in field.metadata)  # pyright: ignore[reportArgumentType]
            result |= as_text({f"{name}.{field}": getattr(value, field) for field in fields})
    return result


def _at_checkpoint(study: Study) -> Study:
    """With the settings of the base, and what is taken of metrics, that nobody has set."""
    base = study.base
    best = study.checkpoint == "best" and base.data.validation is not None
    if best and base.evaluate.checkpoint is None and base.evaluate.average == 1 and base.checkpoint.keep_best:
        base = dataclasses.replace(base, evaluate=dataclasses.replace(base.evaluate, checkpoint="best"))
        if base.checkpoint.best_metric == "validation/loss":  # which label smoothing is in
            base = dataclasses.replace(base, checkpoint=dataclasses.replace(base.checkpoint, best_metric="validation/nll"))

    def taken(metric: Metric) -> Metric:
        take = "best" if best and metric.split == "validation" and not metric.where else "last"
        return metric if metric.take else dataclasses.replace(metric, take=take)

    return dataclasses.replace(study, base=base, metrics=tuple(map(taken, study.metrics)))


def arm_configs(study: Study) -> dict[str, Config]:
    """Each arm's settings: the base's, changed. A setting of the base that has no effect in an arm is at its default there.
    UserError: a setting that there is not, one that is the study's own, or one that has no effect."""
    result, idle = {}, []
    for name, changes in study.arms.items():
        own = {"train.seed": "config.seeds"} | (
            {"train.learning_rate": "config.learning_rates"} if study.learning_rates else {}
        )
        if taken := next((setting for setting in own if setting in changes), None):
            raise UserError(f"arm {name!r}: it sets {taken}, which the study sets by {own[taken]}; remove one of them")
        changes = as_text(changes)
        try:
            config = settings.override(study.base, changes)
            idle.append(dict(effects.idle(config)))
            result[name] = validate_config(effects.without_idle(config, kept=changes))
        except UserError as error:
            raise UserError(f"arm {name!r}: {error}") from error
    for name, where in idle[0].items():
        if all(name in others for others in idle):
            raise UserError(f"config.base.{name}: it has an effect only {where}, and no arm is so; remove it")
    return result


def _check_metric(metric: Metric) -> None:
    _check_types(metric, Metric, "metrics")
    counts = metric.take == "updates"
    if counts != (metric.target is not None):
        raise UserError(f"metric {metric.name!r}: a target is for take='updates', which needs one; change one of them")
    if counts and metric.split != "validation":
        raise UserError(f"metric {metric.name!r}: updates are counted on validation; name one such as 'validation/nll'")


def _check_tasks(study: Study) -> None:
    names = [{arm.removesuffix(f", {task}") for arm in arms} for task, arms in study.groups().items() if task]
    if study.tasks and (any(each != names[0] for each in names) or sum(map(len, study.groups().values())) != len(study.arms)):
        raise UserError(
            f"the study's tasks are {', '.join(map(repr, study.tasks))}, and not every arm has each; make its arms with "
            "crossed(arms, tasks)"
        )


def _check_claim(study: Study, claim: Claim, where: str) -> None:
    _check_types(claim, Claim, where)
    for name in (*claim.arms, *claim.beyond, *([claim.against] if claim.against else [])):
        if any(arm not in study.arms for arm in study.cells(name)):
            raise UserError(f"{where} {_no_arm(study, name)}")
    for name in filter(None, (claim.metric, claim.minus)):
        if name not in (labels := [metric.label for metric in study.metrics]):
            raise UserError(f"{where} names the metric {name!r}{nearest(name, labels)}; the study has {', '.join(labels)}")
    pairwise, slope = claim.kind in ("better", "worse", "equal", "not worse"), claim.kind in ("rises", "falls")
    least = {"order": 2, "rises": 2, "falls": 2, "exponent": 3}.get(claim.kind, 6 if claim.kind in LAWS else 1)
    if len(claim.arms) < least:
        raise UserError(f"{where}: of kind {claim.kind} it names {counted(len(claim.arms), 'arm')}; name at least {least}")
    if pairwise and any((against := claim.against or study.against(arm)) == arm for arm in claim.arms):
        raise UserError(f"{where}: of kind {claim.kind} it compares {against!r} with itself; remove it, or name another")
    if claim.against and not pairwise:
        raise UserError(f"{where}: of kind {claim.kind} it is not against one arm; remove against={claim.against!r}")
    if claim.beyond and len(claim.beyond) != (wanted := 2 if pairwise else len(claim.arms) if slope else 0):
        raise UserError(f"{where}: of kind {claim.kind} it is beyond {counted(len(claim.beyond), 'arm')}; name {wanted}")
    if claim.ranks and (not study.tasks or claim.minus or not {*claim.arms, *claim.beyond}.isdisjoint(study.arms)):
        raise UserError(f"{where}: ranks are over the tasks of a study, so name its arms without their tasks, and no minus")
    if claim.rates and (claim.minus or claim.ranks or claim.metric or len(study.learning_rates) < 3 or study.search_seeds < 2):
        raise UserError(
            f"{where}: rates are those of the search: it wants at least three config.learning_rates, at least two "
            "config.search_seeds, and no metric, minus or ranks"
        )
    within = claim.kind in ("equal", "not worse", *LAWS)
    if claim.margin < 0 or (within and claim.margin == 0):
        raise UserError(f"{where}: its margin is {claim.margin}; wants {'a number above 0' if within else '0 at least'}")
    if claim.effect is not None and (claim.effect <= 0 or within):
        raise UserError(f"{where}: its effect is {claim.effect}; wants a number above 0, of a difference; or leave it out")
    if (claim.sizes or slope) and (
        len(claim.sizes) != len(claim.arms) or min(claim.sizes) <= 0 or len(set(claim.sizes)) < least
    ):
        raise UserError(
            f"{where}: its sizes are {claim.sizes}; name one above 0 for each of its {len(claim.arms)} arms, "
            f"at least {least} that differ"
        )
    of_law = claim.tokens or claim.budgets or claim.profiles
    if claim.kind in LAWS:
        _check_exponent(study, claim, where)
    elif claim.exponent is not None or (claim.sizes and not slope) or of_law:
        raise UserError(f"{where}: sizes and exponent are for kind exponent, it is of kind {claim.kind}; remove them")


def _check_exponent(study: Study, claim: Claim, where: str) -> None:
    wanted = {"exponent": ("sizes",), "isoflop": ("sizes", "tokens", "budgets")}.get(claim.kind, ("sizes", "tokens"))
    allowed = (*wanted, "profiles") if claim.kind == "isoflop" else wanted
    for name in ("sizes", "tokens", "budgets", "profiles"):
        values: tuple[float, ...] = getattr(claim, name)
        if values and name not in allowed:
            raise UserError(f"{where}: of kind {claim.kind} it has no use for {name}; remove them")
        if (values or name in wanted) and (len(values) != len(claim.arms) or min(values) <= 0):
            raise UserError(
                f"{where}: of kind {claim.kind} its {name} are {values}; name one above 0 for each of {len(claim.arms)} arms"
            )
    if claim.exponent is None or claim.exponent <= 0:
        raise UserError(f"{where}: its exponent is {claim.exponent}; wants the published one, above 0")
    if (metric := study.metric(claim.metric)).better != "lower" or metric.take == "updates" or claim.computed:
        raise UserError(f"{where}: of kind {claim.kind} it is on a loss, and it names {study.label(claim)!r}; name a loss")


def _no_arm(study: Study, name: str) -> str:
    return f"names the arm {name!r}, and there is none{nearest(name, study.arms)}; there are {', '.join(map(repr, study.arms))}"


def _check_types(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{where}: {value!r} is no {kind.__name__}")
    for name, wanted in typing.get_type_hints(kind).items():
        if not settings.has_type(given := getattr(value, name), wanted):
            raise UserError(f"{where}: {name} is {given!r}, wants {settings.type_name(wanted)}")
