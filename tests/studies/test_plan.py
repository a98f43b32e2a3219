"""Plans: runs and their identities, fairness, reported metrics, and the table of the dry run."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import small
import tasks
from test_study import STUDY

from transformer import settings
from transformer.config import Config
from transformer.data.synthetic import algorithms
from transformer.errors import UserError
from transformer.modes.scoring import check_evaluate, reported
from transformer.statistics.contrasts import detectable, provable_margin
from transformer.studies import plan as plans
from transformer.studies import study as studies
from transformer.studies.plan import Pace
from transformer.studies.study import Claim, Metric

ROOT = Path(__file__).parents[2] / "experiments"
NAMES = ["validation/nll", "test/bleu"]


def plan(**changes) -> plans.Plan:
    return plans.make(studies.validate(dataclasses.replace(STUDY, **{"seeds": 2, **changes})), lambda config: NAMES)


def test_runs_are_arms_times_seeds():
    runs = plan().runs({})
    assert [(run.arm, run.seed) for run in runs] == [(arm, seed) for seed in (0, 1) for arm in ("8", "16", "24")]
    assert [run.config.train.seed for run in runs] == [0, 0, 0, 1, 1, 1]
    assert [run.config.model.d_model for run in runs] == [8, 16, 24] * 2
    assert plan().search() == []


def test_a_run_is_its_settings():
    folders = [run.folder(Path("x")) for run in plan().runs({})]
    assert len(set(folders)) == 6 and folders == [run.folder(Path("x")) for run in plan(question="?").runs({})]
    more = plan(seeds=3, arms=dict(STUDY.arms) | {"16": {"model.d_model": "16", "model.attention.qk_norm": "true"}}).runs({})
    assert set(folders) - {run.folder(Path("x")) for run in more} == {folders[1], folders[4]}  # those of the changed arm
    steps = plan(base=small.config(train__steps=41)).runs({})
    assert not set(folders) & {run.folder(Path("x")) for run in steps}


def test_names_of_arms_make_folders():
    runs = plan(
        arms={"a/b": {}, "../..": {"model.d_ff": "9"}, "a b": {"model.d_ff": "10"}}, compare_with="a b", claims=()
    ).runs({})
    folders = [run.folder(Path("/x")) for run in runs]
    assert len(set(folders)) == 6
    assert {folder.resolve().parent.parent for folder in folders} == {Path("/x/runs")}


def test_rates_are_chosen_outside_the_study():
    searching = plan(learning_rates=(0.1, 0.2))
    search, runs = searching.search(), searching.runs({"8": 0.2, "24": 0.1})
    assert [(run.arm, run.config.train.learning_rate) for run in search[::2]] == [
        (a, r) for a in STUDY.arms for r in (0.1, 0.2)
    ]
    assert not {run.seed for run in search} & {run.seed for run in runs}
    assert {run.config.data.test for run in search} == {None} and {run.config.data.test for run in runs} == {"test"}
    assert [(run.arm, run.config.train.learning_rate) for run in runs] == [("8", 0.2), ("24", 0.1)] * 2


@pytest.mark.parametrize(
    ("fair", "arms", "parts"),
    [
        ("steps", {"a": {}, "b": {"train.steps": "41"}}, ["equal steps", "'b' has 41 and 'a' 40"]),
        ("tokens", {"a": {}, "b": {"train.batch_tokens": "25025"}}, ["equal tokens", "'b' has 1,001,000 and 'a' 1,000,000"]),
        ("parameters", {"a": {}, "b": {"data.vocabulary_size": "9000"}}, ["'b'", "'a'", "% more, and 5% is allowed"]),
        ("flops", {"a": {}, "b": {"train.steps": "43"}}, ["equal flops", "7.5% more"]),
    ],
)
def test_an_unfair_comparison_is_an_error(fair, arms, parts):
    with pytest.raises(UserError) as error:
        plan(arms=arms, fair=(fair,), claims=(), compare_with="a")
    assert all(part in str(error.value) for part in parts)
    others = tuple({"steps", "tokens"} - {fair}) if fair in ("steps", "tokens") else ()
    plan(arms={"a": {}, "b": {"model.attention.qk_norm": "true"}}, fair=(fair, *others), claims=(), compare_with="a")


def test_an_arm_that_may_end_early_has_no_equal_number_of_updates():
    arms = {"a": {}, "b": {"train.patience": "2"}}
    with pytest.raises(UserError, match="equal steps, but 'b' .*config.train.patience 2"):
        plan(arms=arms, claims=(), compare_with="a")
    plan(arms=arms, fair=("parameters",), claims=(), compare_with="a")


def test_flops_that_depend_on_the_data_are_not_known_to_be_equal(monkeypatch):
    totals = plans.cost_lib.totals

    def counted(config, info):
        flops = {"total_flops": math.nan} if config.model.d_model == 16 else {}
        return dataclasses.replace(totals(config, info), **flops)

    monkeypatch.setattr(plans.cost_lib, "totals", counted)
    with pytest.raises(UserError, match="equal flops, and those of '16' depend on the data.*; leave flops out of config.fair"):
        plan(arms={"8": {}, "16": {"model.d_model": "16"}}, fair=("flops",), claims=())


def test_a_search_with_fewer_updates_has_a_shorter_decay():
    """By hand: half of 40 updates, of 20 of warm-up and of 20 of decay. A branch cannot be moved."""
    changes = {"learning_rates": (0.1, 0.2), "search_fraction": 0.5, "search_check": "8", "claims": ()}
    wsd = {"train.schedule": "wsd", "train.warmup_steps": "20", "train.decay_steps": "20"}
    train = plan(arms={"8": {}, "16": wsd}, **changes).search()[-1].config.train
    assert (train.steps, train.warmup_steps, train.decay_steps) == (20, 10, 10)
    branch = {"train.branch_from": "run", "train.branch_step": "30"}
    with pytest.raises(UserError, match="arm '16', tried with config.search_fraction 0.5 of the updates: .*branch_step 30"):
        plan(arms={"8": {}, "16": branch}, **changes)


def test_what_is_equal_is_counted_as_describe_does():
    """By hand: two tables less than 5 % apart, and just more."""
    table, rest = 8 * 8000, plans.amounts(plan(fair=()), "parameters")["8"] - 8 * 8000
    assert 0 < rest < 2000
    allowed = int(8000 + (table + rest) * 0.05 / 8)
    for size, wrong in ((allowed, False), (allowed + 1, True)):
        arms = {"a": {}, "b": {"data.vocabulary_size": str(size)}}
        if wrong:
            with pytest.raises(UserError, match="equal parameters"):
                plan(arms=arms, fair=("parameters",), claims=(), compare_with="a")
        else:
            plan(arms=arms, fair=("parameters",), claims=(), compare_with="a")


def test_a_metric_must_be_reported():
    with pytest.raises(UserError, match="metric 'test/bleu': arm '8' does not report it; did you mean 'test/blue'"):
        plans.make(STUDY, lambda config: ["validation/nll", "test/blue"])


def test_updates_are_counted_by_what_is_reported_as_training_goes_on():
    alone = small.config(data__test=None)
    at_end = {"base": alone, "metrics": (Metric("validation/bleu", "higher"),), "claims": ()}
    study = studies.validate(dataclasses.replace(STUDY, **at_end))
    plans.make(study, reported)
    counting = dataclasses.replace(study, metrics=(Metric("validation/bleu", "higher", "updates", 30.0),))
    with pytest.raises(UserError, match="metric 'validation/bleu': arm '8' does not report it"):
        plans.make(counting, reported)
    plans.make(dataclasses.replace(study, metrics=(Metric("validation/nll", "lower", "updates", 1.0),)), reported)


def test_families_must_have_the_objective():
    with pytest.raises(UserError, match="arm 'b': config.objective.kind translate is for"):
        plan(arms={"a": {}, "b": {"family": "encoder_only"}}, claims=(), compare_with="a")


@pytest.mark.parametrize("kind", tasks.TASKS)
def test_what_is_reported(kind):
    """The table of tasks, which other tests hold against real runs, says what the test split is scored by."""
    changes = dict(argument.removeprefix("--config.").split("=", 1) for argument in tasks.arguments(kind))
    config = settings.override(small.config(data__batching="bucketed"), changes)
    test = {f"test/{name}" for name in tasks.TASKS[kind].scores}
    assert set(reported(config)) == test | {f"validation/{name}" for name in tasks.TOKENS}
    alone = settings.override(config, {"data.test": "none"})
    assert set(reported(alone)) == {name.replace("test/", "validation/") for name in test}
    assert set(reported(settings.override(config, {"data.validation": "none"}))) == test
    assert reported(settings.override(alone, {"data.validation": "none"})) == []


def test_the_start_is_reported_where_it_is_asked_for():
    """By the layers of each arm, so that `last` is in all of them and a number may not be."""
    arms = {"a": {}, "b": {"model.num_decoder_layers": "2"}}
    asking = {"base": small.config(train__init_metrics=("gradient_norm",)), "arms": arms, "claims": (), "compare_with": "a"}
    for name, fits in (("", True), ("@decoder/last", True), ("@encoder/1", True), ("@decoder/2", False)):
        metric = Metric(f"init/gradient_norm{name}", "lower")
        study = studies.validate(dataclasses.replace(STUDY, **asking, metrics=(metric,)))
        if fits:
            plans.make(study, reported)
        else:
            with pytest.raises(UserError, match="arm 'a' does not report it; did you mean 'init/gradient_norm@decoder/1'"):
                plans.make(study, reported)


def test_the_table_of_a_dry_run():
    pace = Pace(start=100.0, update=1.0, validation=10.0)
    # 40 updates, a validation each 1,000: 100 + 40 + 10 seconds; two arms with 2 seeds and a rate, two runs at a time.
    text = plans.table(plan(learning_rates=(0.1,)), {"8": pace, "16": "it failed", "24": pace}, 2)
    rows = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    assert f"{plan().costs['8'].size:,}" in rows["8"] and rows["8"].endswith("0:02:30")
    assert f"{plan().costs['24'].total_flops:.3g}" in rows["24"]
    assert rows["16"].endswith("failed: it failed")
    runs = "12 runs: 6 of 3 arms x 2 seeds; 6 of 3 arms x 1 learning rate x 2 seeds"
    assert f"{runs}, {4 * sum(cost.total_flops for cost in plan().costs.values()):.3g} FLOP in all" in text
    assert "; expected 0:10:00 with 2 at a time" in text
    assert (
        STUDY.question in text
        and "claim: wide is better (after here)" in text
        and "compared with '8' in validation/nll, test/bleu" in text
    )


def test_runs_of_the_search_are_counted_with_their_updates():
    """Half of the updates for each arm, and all of them for the one that is checked."""
    changes = {"learning_rates": (0.1, 0.2), "search_seeds": 1, "search_fraction": 0.5, "search_check": "8"}
    text = plans.table(plan(**changes), dict.fromkeys(STUDY.arms, Pace(0.0, 1.0, None)))
    assert "14 runs: 6 of 3 arms x 2 seeds; 6 of 3 arms" in text and "; 2 of '8' x 2 learning rates x 1 seed, with all" in text
    assert f"; expected {plans.duration(6 * 40 + 6 * 20 + 2 * 40)} with 1 at a time" in text


def test_the_plan_alone_says_what_it_can_find():
    """Without a measured pace: no time; with one seed: nothing is found."""
    text = plans.table(plan())
    assert "time of a run" not in text and "; expected" not in text and "--dry_run=measure" in text
    assert "standard deviations" in text and "80 %" in text
    assert "config.seeds" in plans.table(plan(seeds=1))


def test_each_comparison_has_the_power_of_its_own_runs():
    """By hand from the errors: 2 arms of 4 seeds, 4 arms of an interaction, 3 arms of a slope, and the seeds of the search."""

    def power(*claims: Claim, **changes) -> dict[str, float]:
        text = plans.table(plan(claims=claims, seeds=4, learning_rates=(0.1, 0.2, 0.4), search_seeds=2, **changes))
        return {
            name: float(size)
            for name, size in re.findall(r"(difference|differences|doubling|within)(?: of)? ([\d.]+) in", text)
        }

    arms, sizes = ("8", "16", "24"), (8.0, 16.0, 32.0)
    two, four, three = (Claim("", "", "worse", ("16",)), Claim("", "", "worse", ("16",), beyond=("24", "8")), {"sizes": sizes})
    interaction = dataclasses.replace(four, against="24", beyond=("8", "24 x"))
    more = {"arms": dict(STUDY.arms) | {"24 x": {"model.d_ff": "9"}}}
    slope = Claim("", "", "rises", arms, **three)
    assert power(two) == {"difference": pytest.approx(detectable(math.sqrt(2 / 4), 3 * 1.5, 1), rel=0.03)}
    assert power(interaction, **more) == {"differences": pytest.approx(detectable(1.0, 3 + 0.5 * 9, 1), rel=0.03)}
    assert power(slope) == {"doubling": pytest.approx(detectable(math.sqrt(0.5 / 4), 3 * 1.5, 1), rel=0.03)}
    rates = dataclasses.replace(slope, rates=True)
    assert power(rates) == {"doubling": pytest.approx(detectable(math.sqrt(0.5 / 2), 1, 1), rel=0.03)}
    same = Claim("", "", "equal", ("16",), 0.1)
    assert power(same) == {"within": pytest.approx(provable_margin(math.sqrt(2 / 4), 3 * 1.5, 1), rel=0.03)}


def test_expected_time_counts_validations():
    config = small.config(train__steps=10, train__evaluate_every=4)  # after 4, 8 and the last
    assert Pace(5.0, 2.0, 1.0).expected(config) == 5 + 20 + 3
    assert Pace(5.0, 2.0, None).expected(config) == 25


each_study = pytest.mark.parametrize("path", sorted((ROOT / "ablations").glob("[!_]*.py")), ids=lambda path: path.stem)


@each_study
def test_shipped_studies_are_valid(path):
    assert f"--mode=ablate --config=experiments/{path.relative_to(ROOT)}" in path.read_text()
    study = studies.read(path, {})
    configs = studies.arm_configs(study)
    plans.check_reported(study, configs, reported)
    assert study.claims and isinstance(configs[study.cells(study.compare_with)[0]], Config)
    for config in configs.values():
        check_evaluate(config)
        if config.data.source == "algorithms":
            algorithms.check(config.data)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.thorough if "table3" in path.stem else pytest.mark.slow, id=path.stem)
        for path in sorted((ROOT / "ablations").glob("[!_]*.py"))
    ],
)
def test_shipped_studies_are_fair(path):
    """Each arm's model is traced, so each can be made."""
    plans.make(studies.read(path, {}), reported)
