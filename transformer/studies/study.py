"""A study: one question as data, which a file in experiments/ablations/ returns from `get_study()`.

Arms are settings that differ from a base; each arm is trained with several seeds. plan.py turns a study into runs.
"""

import dataclasses
import difflib
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

BEST_RATE = "log2 of the best learning rate"  # the quantity of claims about rates
LOWER = ("loss", "nll", "perplexity", "perplexity_per_word", "bits_per_character", "bits_per_byte")
HIGHER = ("token_accuracy", "place_accuracy", *(name for names in effects.SCORES.values() for name in names))
SEARCH_SEED = 1_000_000  # the first seed of the learning-rate search; the study itself has the seeds 0, 1, 2, ...


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that a run reports under this name: "validation/nll", "test/bleu", and with `train.init_metrics`
    "init/jacobian_norm" or "init/jacobian_norm@decoder/cross/last".

    `take`: which value to use of a number that is reported during training: the last or the best one (None: according to the
    study's `checkpoint`), or the number of `updates` until it was first as good as `target`. A run that never reached the
    target counts with all of its updates, so the mean is a restricted mean (Royston & Parmar 2013), and all arms must have the
    same number of updates.

    `learned`: the value that an arm's mean must reach; otherwise the arm has not learned, and no claim about it is decided.

    `scale`: the scale for means and intervals; None: logit for percentages, linear for numbers of updates, and log for all
    others, which are positive. Values that are derived from metrics (`Claim.computed`) are linear.
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
        """ "10-19" of "test/bleu@10-19"; "" for a score of all examples."""
        return self.name.partition("@")[2]

    @property
    def label(self) -> str:
        """The name of the metric in tables."""
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
    """A published claim, as a hypothesis about arms.

    Kinds: each of `arms` is `better` or `worse` than `against` by more than `margin`, `equal` to it within `margin`, or `not
    worse` by as much as `margin`; `arms` stand in `order`, best first; the metric over `arms`, which have these `sizes`,
    `rises` or `falls` by more than `margin` with each doubling of the size (least squares), or falls as a power law whose
    exponent is `exponent` within `margin`.

    Scaling laws, over `arms` with these `sizes` N, `tokens` D and `budgets` C, counted by some convention. `isoflop`: the size
    with the lowest loss, found by parabolas (Hoffmann et al. 2022, approach 2), is proportional to C^a, with a within `margin`
    of `exponent`. `size exponent`, `data exponent`: in L = E + A / N^a + B / D^b, fitted with the Huber loss, a or b is within
    `margin` of `exponent`. `profiles`: numbers that show which arms belong to the same parabola, if the convention's budgets
    differ within it.

    `against`: the comparison arm, by default the study's `compare_with`. `beyond`: other arms, whose difference or slope is
    subtracted, so that the claim is about an interaction: "each of `arms` is worse than `against` by more than beyond[0] is
    worse than beyond[1]". For a slope, `beyond` has as many arms as `arms`, with the same sizes. In a study with tasks, an arm
    that is named without its task stands for the mean over tasks.

    `metric`: the label of the study's metric that the claim is about, by default the first. `minus`: the label of another
    metric, which is subtracted in each run ("more is lost at length 40 than at length 10"). `ranks`: the claim is about each
    arm's mean reciprocal rank over the tasks instead of the metric itself. `rates`: the claim is about each arm's best learning
    rate in doublings (base-2 logarithms), one for each seed of the search: the minimum of a parabola through the best of the
    rates that were tried and its two neighbours.

    `effect`: the published difference (or slope), if there is one. `effect` and `margin` are in the metric's own units.
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
        """Whether the claim is about a value derived from metrics or from the search."""
        return bool(self.minus) or self.ranks or self.rates


@dataclasses.dataclass(frozen=True)
class Study:
    """One question. Every field that is a `setting` can be changed on the command line, and so can every setting of the base.

    `arms`: by name, the settings that differ from the base: typed values, components as objects, or texts as on the command
    line. `metrics`: claims are about the first unless they name another. `tasks`: the names of the tasks, if each arm is
    trained on several; then `arms` is made by `crossed`, and an arm is compared with the arm of the same task.
    """

    question: str
    arms: Mapping[str, Mapping[str, Any]]
    metrics: tuple[Metric, ...]
    claims: tuple[Claim, ...] = ()
    tasks: tuple[str, ...] = ()
    base: Config = Config()
    compare_with: str = setting("", "the arm that the others are compared with")
    blocked: bool = setting(
        False, "arms are compared within seeds, because all arms of a seed have something in common, such as the trained model"
    )
    seeds: int = setting(5, "runs of each arm, each with another seed", at_least=1, below=SEARCH_SEED)
    first_seed: int = setting(
        0, "the first of these seeds; others than those of an earlier study confirm its result", at_least=0, below=SEARCH_SEED
    )
    max_seeds: int = setting(
        0,
        "seeds are added, up to this number, until the claims' effects or margins could be shown with a probability of 80 %, "
        "given the variances of the first `seeds`; 0: no seeds are added",
        at_least=0,
        below=SEARCH_SEED,
    )
    checkpoint: Literal["best", "last"] = setting(
        "best", "which checkpoint of a run with validations is scored: the best one, or the last one even if the run overfits"
    )
    max_rise: float = setting(
        0.0,
        "a run that ends this far above its best validation loss has diverged; 0: only a loss that is not finite",
        at_least=0,
    )
    fair: tuple[Fair, ...] = setting(("steps",), "amounts that must be equal in all arms")
    learning_rates: tuple[float, ...] = setting(
        (),
        "the best of these, at most a factor of two apart, is chosen for each arm on validation with seeds outside the study; "
        "if it is at an end of the grid, the grid is extended by a factor of two, at most twice; empty: no search",
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
        """The arm that an arm is compared with: `compare_with`, for the same task if the arm belongs to a task."""
        task = next((task for task, arms in self.groups().items() if task and name in arms), "")
        return f"{self.compare_with}, {task}" if task else self.compare_with

    def label(self, claim: Claim) -> str:
        """The name of the quantity that a claim is about."""
        label = claim.metric or self.metrics[0].label
        if claim.rates:
            return BEST_RATE
        return f"{label} minus {claim.minus}" if claim.minus else f"mean reciprocal rank by {label}" if claim.ranks else label

    def metric(self, label: str) -> Metric:
        """The study's metric with this label; the first metric if the label is ""."""
        return next(metric for metric in self.metrics if label in ("", metric.label))


def crossed(arms: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm on each task, as the arms of a study with these `tasks`; settings of the arm override those of the task."""
    return {f"{arm}, {task}": {**settings_of, **own} for arm, own in arms.items() for task, settings_of in tasks.items()}


def _read_config(path: str | Path, overrides: Mapping[str, str], flag: str) -> Config:
    return settings.from_file(path, Config, flag=flag, overrides=overrides)


def read(
    path: str | Path, overrides: Mapping[str, str], read_config: Callable[[str, dict[str, str], str], Config] = _read_config
) -> Study:
    """The study of a file. `overrides`: for its own settings, for `base.*`, and for `base` itself, another experiment's file
    that `read_config(path, overrides, flag)` reads."""
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
    metrics: Sequence[str] = (),
) -> Study:
    """A study without claims. Its arms are "NAME: SETTING=VALUE .." and all combinations of a grid's "SETTING=VALUE,..".

    The base is the experiment's file at `path`; if no arm equals the base, it is added as the arm "base". Arms are compared in
    the best validation loss and in further `metrics`, "NAME" or "NAME:lower" and "NAME:higher". `overrides`: for the study's
    own settings and for the base, with or without the prefix "base.".
    """
    own = {field.name for field in dataclasses.fields(Study) if field.metadata}
    base = read_config(str(path), {n.removeprefix("base."): text for n, text in overrides.items() if n not in own}, "--config")
    if base.data.validation is None:
        raise UserError("--arm, --grid: arms are compared on validation, and config.data.validation is none; name one")
    made: dict[str, dict[str, str]] = {}
    axes = [
        [(name, value.strip()) for value in values.split(",")] for name, values in (_split(each, "--grid") for each in grid)
    ]
    for cell in itertools.product(*axes) if grid else ():
        made[", ".join("=".join(each) for each in cell)] = dict(cell)
    for arm in arms:
        name, colon, rest = arm.partition(":")
        if not name.strip() or not colon or name.strip() in made:
            raise UserError(f'--arm={arm}: expected a unique name, then settings: --arm="8 heads: model.num_heads=8"')
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise UserError(f"--arm={arm}: {str(error).lower()}; correct its quotation marks") from error
        made[name.strip()] = dict(_split(each, f"--arm={arm}") for each in words)
    names = " and ".join(dict.fromkeys(name for changes in made.values() for name in changes))
    study = Study(f"What does another {names} change?", {**made, "": {}}, (), base=base)
    configs = arm_configs(study)
    if "base" in made and configs["base"] != configs[""]:
        raise UserError("--arm=base: its settings are not those of the base, --config; give the arm another name")
    same = next((name for name in made if configs[name] == configs[""]), "")
    study = dataclasses.replace(
        study,
        arms=made if same else {"base": {}, **made},
        compare_with=same or "base",
        metrics=(Metric("validation/nll", "lower", "best"), *map(_metric, metrics)),
    )
    return validate(settings.override(study, {name: text for name, text in overrides.items() if name in own}))


def _metric(text: str) -> Metric:
    """A metric from "test/bleu" or "test/first_token:lower"."""
    name, colon, better = text.strip().partition(":")
    score = Metric(name, "lower").score.removeprefix("sliding_")
    if not colon:
        better = "lower" if score in LOWER else "higher" if score in HIGHER else ""
    if better not in ("lower", "higher"):
        split, _, last = name.rpartition("/")
        close = difflib.get_close_matches(last, (*LOWER, *HIGHER), n=1) if not colon else []
        same = f"; did you mean '{split or 'test'}/{close[0]}'?" if close else ""
        raise UserError(f"--metric={text}: say what is better, --metric={name}:lower or --metric={name}:higher{same}")
    return Metric(name, better)


def _split(text: str, flag: str) -> tuple[str, str]:
    name, sign, value = text.strip().partition("=")
    if not sign or not name:
        raise UserError(f"{flag}: {text!r} is not of the form SETTING=VALUE, such as model.num_heads=8; correct it")
    return name, value


def validate(study: Study) -> Study:
    """The study with the settings that its `checkpoint` implies. UserError: its parts do not fit together. plan.py checks what
    arms cost and report."""
    lists = {name: tuple(each) for name in ("metrics", "claims", "tasks") if isinstance(each := getattr(study, name), list)}
    study = dataclasses.replace(study, **lists)
    settings.check(study)
    if isinstance(study.metrics, tuple) and all(isinstance(metric, Metric) for metric in study.metrics):
        study = _at_checkpoint(study)
    if not study.metrics:
        raise UserError("the study has no metrics; name at least one, such as Metric('validation/nll', 'lower')")
    if not isinstance(study.arms, Mapping) or not all(isinstance(changes, Mapping) for changes in study.arms.values()):
        raise UserError("the study's arms must be a mapping of names to settings, such as {'8 heads': {'model.num_heads': 8}}")
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
    if study.tasks and study.compare_with in study.arms:
        raise UserError(f"compare_with is {study.compare_with!r}, an arm of one task; name it without its task")
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
            "that arm is also trained with all updates, to verify the choice"
        )
    if study.max_seeds and study.max_seeds < study.seeds:
        raise UserError(f"config.max_seeds is {study.max_seeds}, below config.seeds, {study.seeds}; raise it, or set it to 0")
    if len(set(study.learning_rates)) != len(study.learning_rates):
        raise UserError(f"config.learning_rates is {study.learning_rates}: name each rate once")
    if study.learning_rates and study.base.data.validation is None:
        raise UserError("config.learning_rates: config.base.data.validation is none, so there is nothing to choose on")
    if study.learning_rates and study.metrics[0].split == "init":
        raise UserError(
            f"config.learning_rates: the first metric, {study.metrics[0].name!r}, is measured before any update; leave them out"
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
    """Settings as on the command line. A component that is given as an object becomes its class and all of its settings."""
    result: dict[str, str] = {}
    for name, value in changes.items():
        result[name] = value if isinstance(value, str) else settings.text_of(value)
        if isinstance(value, Component):
            fields = (field.name for field in dataclasses.fields(type(value)) if "meaning" in field.metadata)  # pyright: ignore[reportArgumentType]
            result |= as_text({f"{name}.{field}": getattr(value, field) for field in fields})
    return result


def _at_checkpoint(study: Study) -> Study:
    """The study with the settings of its base, and the `take` of its metrics, that follow from `checkpoint` unless they are
    set."""
    base = study.base
    best = study.checkpoint == "best" and base.data.validation is not None
    if best and base.evaluate.checkpoint is None and base.evaluate.average == 1 and base.checkpoint.keep_best:
        base = dataclasses.replace(base, evaluate=dataclasses.replace(base.evaluate, checkpoint="best"))
        if base.checkpoint.best_metric == "validation/loss":  # which includes label smoothing
            base = dataclasses.replace(base, checkpoint=dataclasses.replace(base.checkpoint, best_metric="validation/nll"))

    def taken(metric: Metric) -> Metric:
        take = "best" if best and metric.split == "validation" and not metric.where else "last"
        return metric if metric.take else dataclasses.replace(metric, take=take)

    return dataclasses.replace(study, base=base, metrics=tuple(map(taken, study.metrics)))


def arm_configs(study: Study) -> dict[str, Config]:
    """Each arm's settings: those of the base with its changes. A setting of the base that has no effect in an arm is at its
    default there. UserError: an arm has an unknown setting, one that belongs to the study, or one without effect."""
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
            raise UserError(f"config.base.{name}: it has an effect only {where}, which holds for no arm; remove it")
    return result


def _check_metric(metric: Metric) -> None:
    _check_types(metric, Metric, "metrics")
    counts = metric.take == "updates"
    if counts != (metric.target is not None):
        raise UserError(f"metric {metric.name!r}: take='updates' needs a target, and no other take has one; change one of them")
    if counts and metric.split != "validation":
        raise UserError(f"metric {metric.name!r}: updates are counted on validation; use a metric such as 'validation/nll'")


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
        raise UserError(f"{where}: a claim of kind {claim.kind} names {counted(len(claim.arms), 'arm')}; name at least {least}")
    if pairwise and any((against := claim.against or study.against(arm)) == arm for arm in claim.arms):
        raise UserError(
            f"{where}: a claim of kind {claim.kind} compares {against!r} with itself; remove it, or name another arm"
        )
    if claim.against and not pairwise:
        raise UserError(f"{where}: a claim of kind {claim.kind} has no single comparison arm; remove against={claim.against!r}")
    if claim.beyond and len(claim.beyond) != (wanted := 2 if pairwise else len(claim.arms) if slope else 0):
        raise UserError(
            f"{where}: a claim of kind {claim.kind} has {counted(len(claim.beyond), 'arm')} in `beyond`; name {wanted}"
        )
    if claim.beyond and (claim.beyond[0] in claim.arms if pairwise else claim.beyond == claim.arms):
        raise UserError(f"{where}: {claim.beyond[0]!r} in `beyond` cancels the same arm of the claim; name other arms")
    if claim.ranks and (not study.tasks or claim.minus or not {*claim.arms, *claim.beyond}.isdisjoint(study.arms)):
        raise UserError(f"{where}: ranks are over the tasks of a study, so name its arms without their tasks, and no minus")
    if claim.rates and (claim.minus or claim.ranks or claim.metric or len(study.learning_rates) < 3 or study.search_seeds < 2):
        raise UserError(
            f"{where}: rates are those of the search: set at least three config.learning_rates, at least two "
            "config.search_seeds, and no metric, minus or ranks"
        )
    within = claim.kind in ("equal", "not worse", *LAWS)
    if claim.margin < 0 or (within and claim.margin == 0):
        raise UserError(f"{where}: its margin is {claim.margin}; expected {'a number above 0' if within else 'at least 0'}")
    if claim.effect is not None and (claim.effect <= 0 or within):
        raise UserError(f"{where}: its effect is {claim.effect}; expected a difference above 0; correct it, or leave it out")
    if claim.effect is not None and claim.effect < claim.margin:
        raise UserError(
            f"{where}: its effect, {claim.effect}, is below its margin, {claim.margin}; correct one, or leave it out"
        )
    differ = 3 if claim.kind in LAWS else 2
    if (claim.sizes or slope) and (
        len(claim.sizes) != len(claim.arms) or min(claim.sizes) <= 0 or len(set(claim.sizes)) < differ
    ):
        raise UserError(
            f"{where}: its sizes are {claim.sizes}; name one above 0 for each of its {len(claim.arms)} arms, "
            f"at least {differ} that differ"
        )
    if claim.kind in LAWS:
        _check_exponent(study, claim, where)
        return
    for name in ("exponent", *(() if slope else ("sizes",)), "tokens", "budgets", "profiles"):
        if getattr(claim, name) not in (None, ()):
            raise UserError(f"{where}: a claim of kind {claim.kind} does not use {name}; remove {name}={getattr(claim, name)}")


def _check_exponent(study: Study, claim: Claim, where: str) -> None:
    wanted = {"exponent": ("sizes",), "isoflop": ("sizes", "tokens", "budgets")}.get(claim.kind, ("sizes", "tokens"))
    if without := [arm for arm in claim.arms if arm not in study.arms]:
        raise UserError(
            f"{where}: a claim of kind {claim.kind} names {without[0]!r} without its task; name one, "
            f"{study.cells(without[0])[0]!r}"
        )
    allowed = (*wanted, "profiles") if claim.kind == "isoflop" else wanted
    for name in ("sizes", "tokens", "budgets", "profiles"):
        values: tuple[float, ...] = getattr(claim, name)
        if values and name not in allowed:
            raise UserError(f"{where}: a claim of kind {claim.kind} does not use {name}; remove them")
        if (values or name in wanted) and (len(values) != len(claim.arms) or min(values) <= 0):
            raise UserError(f"{where}: a claim of kind {claim.kind} has {name} {values}; name one above 0 for each of its arms")
    if "tokens" in wanted and len(set(claim.tokens)) < 3:
        raise UserError(f"{where}: its tokens are {claim.tokens}, and its law needs at least three that differ; add arms")
    if "budgets" in wanted:
        names = claim.profiles or claim.budgets
        sizes = [{size for size, own in zip(claim.sizes, names, strict=True) if own == name} for name in set(names)]
        if len(sizes) < 2 or min(map(len, sizes)) < 3:
            raise UserError(
                f"{where}: its parabolas need two or more {'profiles' if claim.profiles else 'budgets'} with three sizes each; "
                "add arms, or name equal `profiles` for arms that belong to one parabola"
            )
    if claim.exponent is None or claim.exponent <= 0:
        raise UserError(f"{where}: its exponent is {claim.exponent}; expected the published one, above 0")
    if (metric := study.metric(claim.metric)).better != "lower" or metric.take == "updates" or claim.computed:
        raise UserError(
            f"{where}: a claim of kind {claim.kind} must be about a loss, and this is about {study.label(claim)!r}; name a loss"
        )


def _no_arm(study: Study, name: str) -> str:
    return (
        f"names the arm {name!r}, which does not exist{nearest(name, study.arms)}; there are {', '.join(map(repr, study.arms))}"
    )


def _check_types(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{where}: {value!r} is not a {kind.__name__}")
    for name, wanted in typing.get_type_hints(kind).items():
        if not settings.has_type(given := getattr(value, name), wanted):
            raise UserError(f"{where}: {name} is {given!r}, expected {settings.type_name(wanted)}")
