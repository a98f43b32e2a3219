"""Studies as data: valid files, and errors for invalid ones."""

import dataclasses

import pytest
import small

from transformer import settings
from transformer.components.rotary import Rotary
from transformer.errors import UserError
from transformer.studies import study as studies
from transformer.studies.study import Claim, Metric, Study

STUDY = Study(
    question="Does the width matter?",
    base=small.SMALL,
    arms={"8": {}, "16": {"model.d_model": "16"}, "24": {"model.d_model": "24", "model.d_ff": "16"}},
    metrics=(Metric("validation/nll", "lower"), Metric("test/bleu", "higher")),
    claims=(Claim("wide is better", "here", "better", ("16", "24"), 0.5),),
    compare_with="8",
    checkpoint="last",
)


def claim(**changes) -> dict:
    return {"claims": (dataclasses.replace(STUDY.claims[0], **changes),)}


def exponent(**changes) -> dict:
    return claim(
        **{"kind": "exponent", "arms": ("8", "16", "24"), "sizes": (1.0, 2.0, 3.0), "exponent": 0.1, "margin": 0.1} | changes
    )


def test_claims_of_a_law_and_of_a_size():
    studies.validate(dataclasses.replace(STUDY, **exponent()))
    studies.validate(dataclasses.replace(STUDY, **claim(effect=0.7)))


def isoflop(rows: int, columns: int, **changes) -> dict:
    """A grid of the same sizes in each row, a budget."""
    grid = [(float(10**size), float(10 ** (10 + budget))) for budget in range(rows) for size in range(columns)]
    arms = {str(number): {"model.d_ff": str(9 + number)} for number in range(len(grid))}
    known = {"sizes": tuple(n for n, _ in grid), "tokens": tuple(c / n for n, c in grid), "budgets": tuple(c for _, c in grid)}
    law = {"kind": "isoflop", "arms": tuple(arms), "exponent": 0.5, "margin": 0.1}
    return claim(**law | known | changes) | {"arms": arms, "compare_with": "0"}


def test_the_same_sizes_at_each_budget_are_an_isoflop_grid():
    for budgets, sizes in ((3, 5), (2, 3)):
        studies.validate(dataclasses.replace(STUDY, **isoflop(budgets, sizes)))
    for kind in ("size exponent", "data exponent"):
        studies.validate(dataclasses.replace(STUDY, **isoflop(3, 3, kind=kind, budgets=())))


def test_arms_are_the_base_with_changes():
    valid = studies.validate(STUDY)
    assert valid == dataclasses.replace(STUDY, metrics=valid.metrics) == studies.validate(valid)
    configs = studies.arm_configs(STUDY)
    assert list(configs) == ["8", "16", "24"] and configs["8"] == small.SMALL
    assert [(config.model.d_model, config.model.d_ff) for config in configs.values()] == [(8, 8), (16, 8), (24, 16)]


def test_arms_are_values_of_any_type():
    """As texts say the same: a component with its own settings, none that the base's has; numbers, none, several."""
    base = settings.override(STUDY.base, {"model.positions": "rotary", "model.positions.fraction": "0.5"})
    values = {"model.positions": Rotary(base=5e5), "model.num_heads": 4, "model.norm_order": "pre", "train.clip_norm": None}
    texts = {
        "model.positions.base": "500000",
        "model.positions.fraction": "1",
        "model.num_heads": "4",
        "model.norm_order": "pre",
    }
    study = dataclasses.replace(STUDY, base=base, arms={"8": {}, "16": values, "24": {"model.d_ff": 16}})
    found = studies.validate(study)
    assert all(isinstance(text, str) for changes in found.arms.values() for text in changes.values())
    configs = studies.arm_configs(found)
    assert configs["16"] == settings.override(base, texts) and configs["16"].model.positions == Rotary(base=5e5)
    assert configs["24"].model.d_ff == 16


def test_the_best_checkpoint_is_scored_unless_the_study_says_the_last():
    best = studies.validate(dataclasses.replace(STUDY, checkpoint="best"))
    assert [metric.label for metric in best.metrics] == ["validation/nll (best)", "test/bleu"]
    assert all(config.uses_best for config in studies.arm_configs(best).values())
    assert best.base.checkpoint.best_metric == "validation/nll"
    listed = dataclasses.replace(STUDY, checkpoint="best", metrics=list(STUDY.metrics), claims=list(STUDY.claims))
    assert studies.validate(listed) == best
    last = studies.validate(STUDY)
    assert [metric.label for metric in last.metrics] == ["validation/nll", "test/bleu"] and last.base == STUDY.base
    blind = dataclasses.replace(STUDY.base, data=dataclasses.replace(STUDY.base.data, validation=None))
    alone = studies.validate(dataclasses.replace(STUDY, base=blind, checkpoint="best", metrics=STUDY.metrics[1:]))
    assert alone.base == blind


TASKS = {
    "arms": studies.crossed(STUDY.arms, {"a": {"model.num_heads": "4"}, "b": {"model.norm_order": "pre"}}),
    "tasks": ("a", "b"),
    "claims": (),
}
WRONG = {
    "one arm": ({"arms": {"8": {}}}, "1 arm"),
    "arms": ({"arms": ["8", "16"]}, "must be a mapping"),
    "claim's metric": (claim(metric="test/bleus"), "claim 1 names the metric 'test/bleus'; did you mean 'test/bleu'?"),
    "subtracted metric": (claim(minus="test/x"), "claim 1 names the metric 'test/x'"),
    "against itself": (claim(against="16"), "claim 1: a claim of kind better compares '16' with itself"),
    "against in an order": (claim(kind="order", against="8"), "claim 1: a claim of kind order has no single comparison arm"),
    "beyond one": (claim(beyond=("8",)), "claim 1: a claim of kind better has 1 arm in `beyond`; name 2"),
    "beyond the same arm": (
        claim(arms=("8",), against="16", beyond=("8", "24")),
        "claim 1: '8' in `beyond` cancels the same arm of the claim; name other arms",
    ),
    "beyond itself": (claim(arms=("8",), against="16", beyond=("8", "16")), "claim 1: '8' in `beyond` cancels"),
    "slope beyond itself": (
        claim(kind="rises", arms=("8", "16"), beyond=("8", "16"), sizes=(1.0, 2.0)),
        "claim 1: '8' in `beyond` cancels",
    ),
    "compared with one task": (TASKS | {"compare_with": "8, a"}, "compare_with is '8, a', an arm of one task; name it without"),
    "exponent of no task": (
        TASKS | exponent(),
        "claim 1: a claim of kind exponent names '8' without its task; name one, '8, a'",
    ),
    "ranks without tasks": (claim(ranks=True), "claim 1: ranks are over the tasks"),
    "rates without a search": (claim(rates=True), "claim 1: rates are those of the search"),
    "slope without sizes": (claim(kind="rises"), "claim 1: its sizes are (); name one above 0 for each of its 2 arms"),
    "tasks that are not crossed": ({"tasks": ("copy",)}, "not every arm has each"),
    "setting": (
        {"arms": {"8": {}, "b": {"model.num_head": "4"}}},
        "arm 'b': --config.model.num_head: there is no such setting",
    ),
    "value": ({"arms": {"8": {}, "b": {"model.num_heads": "x"}}}, "arm 'b': --config.model.num_heads=x: expected int"),
    "ill-typed": ({"arms": {"8": {}, "b": {"model.num_heads": 4.5}}}, "arm 'b': --config.model.num_heads=4.5: expected int"),
    "settings that do not fit": ({"arms": {"8": {}, "b": {"model.num_heads": "3"}}}, "arm 'b': config.model.d_model 8 is not"),
    "seed": (
        {"arms": {"8": {}, "b": {"train.seed": "3"}}},
        "arm 'b': it sets train.seed, which the study sets by config.seeds",
    ),
    "learning rate": (
        {"arms": {"8": {}, "b": {"train.learning_rate": "1"}}, "learning_rates": (0.1,)},
        "arm 'b': it sets train.learning_rate, which the study sets by config.learning_rates",
    ),
    "equal arms": ({"arms": {"8": {}, "a": {"model.d_ff": "9"}, "b": {"model.d_ff": "9"}}}, "arms 'a' and 'b' have the same"),
    "as the base": ({"arms": {"8": {}, "a": {"model.d_model": "8"}}}, "arms '8' and 'a' have the same"),
    "compare_with": ({"compare_with": "61"}, "compare_with names the arm '61', which does not exist; did you mean '16'?"),
    "no metric": ({"metrics": ()}, "no metrics"),
    "metric twice": ({"metrics": (STUDY.metrics[0],) * 2}, "a metric twice"),
    "metric": ({"metrics": ("validation/nll",)}, "metrics: 'validation/nll' is not a Metric"),
    "better": ({"metrics": (Metric("test/bleu", "up"),)}, "metrics: better is 'up', expected one of lower, higher"),  # type: ignore
    "claim's arm": (claim(arms=("61",)), "claim 1 names the arm '61', which does not exist"),
    "claim's kind": (claim(kind="same"), "claim 1: kind is 'same', expected one of better"),
    "claim of no arm": (claim(arms=()), "claim 1: a claim of kind better names 0 arms"),
    "claim of itself": (claim(arms=("8",)), "claim 1: a claim of kind better compares '8'"),
    "order of one": (claim(kind="order", arms=("8",)), "claim 1: a claim of kind order"),
    "exponent of two": (claim(kind="exponent", arms=("8", "16")), "claim 1: a claim of kind exponent"),
    "sizes": (exponent(sizes=(1.0, 2.0)), "claim 1: its sizes are (1.0, 2.0); name one above 0 for each of its 3 arms"),
    "sizes that are equal": (exponent(sizes=(1.0, 2.0, 2.0)), "at least 3 that differ"),
    "one budget": (isoflop(1, 6), "claim 1: its parabolas need two or more budgets with three sizes each; add arms"),
    "budgets that differ": (isoflop(2, 3, budgets=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)), "name equal `profiles` for arms"),
    "two sizes at each budget": (isoflop(3, 2), "its sizes are (1.0, 10.0, 1.0, 10.0, 1.0, 10.0); name one above 0"),
    "one number of tokens": (
        isoflop(2, 3, kind="size exponent", budgets=(), tokens=(1.0,) * 6),
        "claim 1: its tokens are (1.0, 1.0, 1.0, 1.0, 1.0, 1.0), and its law needs at least three that differ",
    ),
    "sizes of 0": (exponent(sizes=(0.0, 1.0, 2.0)), "name one above 0"),
    "no exponent": (exponent(exponent=None), "claim 1: its exponent is None; expected the published one"),
    "exponent within nothing": (exponent(margin=0.0), "its margin is 0.0; expected a number above 0"),
    "exponent of a score": (
        exponent() | {"metrics": STUDY.metrics[1:]},
        "claim 1: a claim of kind exponent must be about a loss, and this is about 'test/bleu'",
    ),
    "sizes of no exponent": (
        claim(sizes=(1.0, 2.0)),
        "claim 1: a claim of kind better does not use sizes; remove sizes=(1.0, 2.0)",
    ),
    "effect": (claim(effect=-1.0), "claim 1: its effect is -1.0; expected a difference above 0"),
    "effect below the margin": (claim(effect=0.4), "claim 1: its effect, 0.4, is below its margin, 0.5; correct one"),
    "effect of equality": (claim(kind="equal", effect=1.0), "its effect is 1.0; expected a difference above 0"),
    "target of no updates": (
        {"metrics": (Metric("validation/nll", "lower", "best", 1.0),)},
        "metric 'validation/nll': take='updates' needs a target",
    ),
    "updates without a target": ({"metrics": (Metric("validation/nll", "lower", "updates"),)}, "needs a target"),
    "updates until a test": (
        {"metrics": (Metric("test/bleu", "higher", "updates", 30.0),)},
        "metric 'test/bleu': updates are counted on validation",
    ),
    "different updates": (
        {"metrics": (Metric("validation/nll", "lower", "updates", 1.0),), "arms": {"8": {}, "b": {"train.steps": "9"}}},
        "metric 'updates until validation/nll <= 1': arms have 9 and 40 updates; give all the same",
    ),
    "equal within nothing": (claim(kind="equal", margin=0.0), "its margin is 0.0; expected a number above 0"),
    "margin": (claim(margin=-1.0), "its margin is -1.0; expected at least 0"),
    "margin of text": (claim(margin="1"), "claim 1: margin is '1', expected float"),
    "seeds": ({"seeds": 0}, "config.seeds is 0"),
    "seeds of the search": ({"seeds": studies.SEARCH_SEED}, "config.seeds is 1000000: must be below"),
    "fair": ({"fair": ("flop",)}, "config.fair is ('flop',)"),
    "rates": ({"learning_rates": (0.1, -0.1)}, "all must be above 0"),
    "rates by the start": (
        {"learning_rates": (0.1, 0.2), "metrics": (Metric("init/gradient_norm", "lower"),)},
        "config.learning_rates: the first metric, 'init/gradient_norm', is measured before any update",
    ),
    "rates far apart": ({"learning_rates": (0.1, 0.3)}, "config.learning_rates: from 0.1 to 0.3 is more than a factor of two"),
    "unchecked search": ({"learning_rates": (0.1, 0.2), "search_fraction": 0.5}, "config.search_fraction is 0.5"),
    "most seeds": ({"max_seeds": 2, "seeds": 3}, "config.max_seeds is 2, below config.seeds"),
    "rate twice": ({"learning_rates": (0.1, 0.1)}, "name each rate once"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_study_is_an_error(name):
    changes, message = WRONG[name]
    changes = ({"claims": ()} if "arms" in changes else {}) | changes
    with pytest.raises(UserError) as error:
        studies.validate(dataclasses.replace(STUDY, **changes))
    assert message in str(error.value)


def test_rates_need_something_to_be_chosen_on():
    with pytest.raises(UserError, match="config.base.data.validation is none"):
        studies.validate(
            dataclasses.replace(
                STUDY, base=small.config(data__validation=None), learning_rates=(0.1,), metrics=STUDY.metrics[1:]
            )
        )


def test_tasks_are_a_factor():
    arms = studies.crossed({"8": {}, "16": {"model.d_model": "16"}}, {"a": {"model.d_ff": "9"}, "b": {"model.d_ff": "10"}})
    both = dataclasses.replace(STUDY, arms=arms, tasks=("a", "b"), claims=(Claim("", "", "better", ("16", "16, b")),))
    assert studies.validate(both).groups() == {"a": ["8, a", "16, a"], "b": ["8, b", "16, b"]}
    assert [both.against(name) for name in ("16", "16, b")] == ["8", "8, b"] and both.cells("16") == ("16, a", "16, b")
    assert arms["16, b"] == {"model.d_model": "16", "model.d_ff": "10"}


FILE = """
import small
from transformer.studies.study import Metric, Study

def get_study():
    arms = {"a": {}, "b": {"model.d_ff": "16"}}
    return Study("?", arms, (Metric("test/bleu", "higher"),), base=small.SMALL, compare_with="a")
"""


def test_overrides_reach_every_arm(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "other.py").write_text("import small\ndef get_config():\n    return small.config(model__num_heads=4)\n")
    plain = studies.read(tmp_path / "mine.py", {})
    assert (plain.seeds, plain.base.model) == (5, small.SMALL.model)
    changes = {"seeds": "3", "base.train.steps": "7", "learning_rates": "0.1,0.2", "fair": "steps,tokens"}
    changed = studies.read(tmp_path / "mine.py", changes | {"base": str(tmp_path / "other.py")})
    assert (changed.seeds, changed.learning_rates, changed.fair) == (3, (0.1, 0.2), ("steps", "tokens"))
    configs = studies.arm_configs(changed)
    assert [(c.train.steps, c.model.num_heads, c.model.d_ff) for c in configs.values()] == [(7, 4, 8), (7, 4, 16)]


def test_wrong_overrides_name_what_is_right(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    wrong = {
        "train.steps": "did you mean 'base.train.steps'",
        "seed": "did you mean 'base.train.seed'",
        "question": "no such setting",
        "base.model": "it is a section, set one of its settings, such as --config.base.model.",
    }
    for name, hint in wrong.items():
        with pytest.raises(UserError, match=f"--config.{name}: .*{hint}"):
            studies.read(tmp_path / "mine.py", {name: "1"})
    with pytest.raises(UserError, match="--config.base=1: there is no such file"):
        studies.read(tmp_path / "mine.py", {"base": "1"})
    with pytest.raises(UserError, match=r"it has no get_study\(\) that returns a Study; it is an experiment"):
        (tmp_path / "mine.py").write_text("def get_config():\n    return 1\n")
        studies.read(tmp_path / "mine.py", {})


def test_a_study_from_the_command_line():
    """A grid has all combinations; the arm that is the base is what others are compared with, or there is one more."""
    base = small.config(data__validation="validation")

    def made(arms=(), grid=(), metrics=(), **overrides):
        return studies.from_flags("x.py", overrides, arms, grid, lambda path, own, flag: settings.override(base, own), metrics)

    found = made(["one: model.num_heads=1 model.d_ff=4"], ["model.d_model=8,16", "model.num_heads=2,4"], seeds="3")
    assert list(found.arms) == [f"model.d_model={d}, model.num_heads={h}" for d in (8, 16) for h in (2, 4)] + ["one"]
    assert found.compare_with == "model.d_model=8, model.num_heads=2" and found.seeds == 3
    alone = made(["one: model.num_heads=1"], **{"base.train.steps": "7", "model.d_ff": "5"})
    assert list(alone.arms) == ["base", "one"] and alone.compare_with == "base" and alone.metrics[0].take == "best"
    assert (alone.base.train.steps, alone.base.model.d_ff) == (7, 5)
    assert list(made(grid=["model.num_heads=1, 2"]).arms) == list(made(grid=["model.num_heads=1,2"]).arms)
    more = made(
        ["one: model.num_heads=1"], metrics=["test/bleu@5-9", "test/sliding_nll", "test/own:lower", "validation/mine:higher"]
    )
    assert [(each.name, each.better) for each in more.metrics[1:]] == [
        ("test/bleu@5-9", "higher"),
        ("test/sliding_nll", "lower"),
        ("test/own", "lower"),
        ("validation/mine", "higher"),
    ]
    for wrong in ("test/own", "test/own:low", "test/bleu:"):
        with pytest.raises(UserError, match=f"--metric={wrong}: say what is better"):
            made(["one: model.num_heads=1"], metrics=[wrong])
    for wrong, meant in {"test/blue": "test/bleu", "exact_match": "test/exact_match"}.items():
        with pytest.raises(UserError, match=f"--metric={wrong}: .*; did you mean '{meant}'\\?"):
            made(["one: model.num_heads=1"], metrics=[wrong])
    with pytest.raises(UserError, match="--arm=a: data.train='x: no closing quotation; correct its quotation marks"):
        made(["a: data.train='x"])
    with pytest.raises(UserError, match="--arm=base: its settings are not those of the base"):
        made(["base: model.d_ff=4", "one: model.num_heads=1"])
    assert made(["base: model.d_ff=8", "one: model.num_heads=1"]).compare_with == "base"
    for wrong in (["one model.d_ff=4"], ["one: model.d_ff"], ["one: model.d_f=4"], ["a: model.d_ff=4", "a: model.d_ff=5"]):
        with pytest.raises(UserError):
            made(wrong)
