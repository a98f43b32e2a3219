"""Head pruning: the order of heads, by differences of losses, and the pruned model, by rows of W^O that are 0."""

import functools

import jax
import numpy as np
import pytest
import small

from experiments.variants.summed_heads import SummedHeads
from transformer import families, settings
from transformer.config import Config
from transformer.errors import UserError
from transformer.probes import head_pruning
from transformer.probes.sites import scaled_heads
from transformer.settings import Variations

ROWS = 4
DEEP = {"model__num_decoder_layers": 2, "data__batching": "bucketed"}
KINDS = {
    "translate": {},
    "causal_lm": {"family": "decoder_only", "model__tying": "two_way"},
    "masked_lm": {"family": "encoder_only", "objective__next_sentence": True, "model__tying": "two_way"},
    "tag": {"family": "encoder_only"},
    "answer": {"family": "encoder_only"},
}
PLACES = {family: families.FAMILIES[family].attention for family in ("encoder_decoder", "decoder_only", "encoder_only")}


def configured(kind: str, **more) -> Config:
    return small.config(**DEEP | KINDS[kind] | {"objective__kind": kind} | more)


def batch(kind: str, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Rows of different lengths, with the inputs of the objective."""
    made = small.batch(7, rows)
    if KINDS[kind].get("family") != "encoder_only":
        return made
    source, full = made["source"], made["source_segments"] > 0
    seen = {name: made[name] for name in ("source", "source_segments", "source_positions")}
    if kind == "answer":
        places = np.arange(rows)[:, None] % 3
        return seen | {"first": places, "last": places + 1, "weights": full[:, :1].astype(np.float32)}
    seen |= {"targets": source % 2 if kind == "tag" else source, "weights": full.astype(np.float32)}
    return seen | {"related": source[:, :1] % 2, "related_weights": full[:, :1].astype(np.float32)}


@functools.cache
def parts(kind: str):
    """Settings, loss, and drawn parameters."""
    config = configured(kind)
    data_info = settings.replace(settings.replace(small.DATA_INFO, "mask", 3), "labels", ("even", "odd"))
    model, params = small.untrained(config, data_info)
    return config, families.task_of(config).loss(model, config, data_info), params


def scaled(params, head: str, factor: float):
    """Parameters in which a head's rows of W^O are multiplied by `factor`."""
    stack, kind, layer, number = head.split("/")
    wanted = [stack, "layers", f"{kind}_attention", "output", "kernel"]

    def leaf(path, value):
        if [entry.key for entry in path] != wanted:
            return value
        value = np.array(value)
        value[int(layer) - 1, int(number) - 1] *= factor
        return value

    return jax.tree.map_with_path(leaf, params)


def factors(config: Config, removed: list[str]):
    result = {}
    for place in PLACES[config.family]:
        layers = {"encoder": 1, "decoder": 2}[place.split("/")[0]]
        result[place] = np.array(
            [[f"{place}/{layer + 1}/{head + 1}" not in removed for head in range(2)] for layer in range(layers)], np.float32
        )
    return result


@pytest.mark.parametrize("kind", small.some(KINDS, "translate"))
def test_importance_is_the_gradient_of_each_rows_loss(kind):
    config, loss, params = parts(kind)
    rows = 1 if kind == "masked_lm" else ROWS  # a pair is weighed by the tokens of its batch
    given, step = batch(kind, rows), 0.003
    found = jax.jit(head_pruning.make_importance(loss, config))(params, given, None)
    assert set(found) == set(head_pruning.heads(config))

    each = [{name: value[row : row + 1] for name, value in given.items()} for row in range(rows)]
    of_row = jax.jit(lambda params, row: loss(params, row, None)["loss_sum"])

    wanted, of_sum = {}, {}
    for head in found:
        nearby = (scaled(params, head, 1 + step), scaled(params, head, 1 - step))
        more, less = (np.array([of_row(params, row) for row in each], np.float64) for params in nearby)
        wanted[head] = np.abs(more - less).sum() / (2 * step)
        of_sum[head] = np.abs((more - less).sum()) / (2 * step)
    assert {head: float(value) for head, value in found.items()} == pytest.approx(wanted, rel=0.02, abs=0.01)
    assert min(wanted.values()) > 0.01
    assert rows == 1 or max(wanted[head] - of_sum[head] for head in wanted) > 0.1  # no sum over rows, whose signs differ


@pytest.mark.parametrize("kind", small.some(KINDS, "translate"))
def test_removed_heads_are_heads_times_zero(kind):
    """And factors of one change no bit."""
    config, loss, params = parts(kind)

    @jax.jit
    def compiled(params, factors):
        with scaled_heads(factors):
            return loss(params, batch(kind), None)

    def run(params, factors={}):  # noqa: B006
        return {name: float(value) for name, value in compiled(params, factors).items()}

    plain = run(params)
    assert run(params, factors(config, [])) == plain
    removed = [head for head in head_pruning.heads(config) if head[-1] == "2"][:3]
    cut = head_pruning.prune(config, params, removed)
    assert run(cut) == pytest.approx(run(params, factors(config, removed)), rel=1e-5)
    assert abs(run(cut)["loss_sum"] - plain["loss_sum"]) > 1e-2
    wanted = functools.reduce(lambda params, head: scaled(params, head, 0.0), removed, params)
    assert jax.tree.all(jax.tree.map(np.array_equal, cut, wanted))
    assert jax.tree.all(jax.tree.map(np.array_equal, head_pruning.prune(config, params, []), params))
    place, deepest, last = removed[0].rsplit("/", 2)
    for head in (f"{place}/9/1", f"{place}/1/9", f"{place}/0/1", "decoder/nowhere/1/1", "", f"{place}/{deepest}/{last}/1"):
        with pytest.raises(UserError, match="there is no head"):
            head_pruning.prune(config, params, [head])


def test_importances_are_normalized_within_layers():
    """Norms 5, 2 and 0. Heads without importance come first, in the given order."""
    first, second, third = "encoder/self/1", "decoder/self/1", "decoder/self/2"
    of_heads = {f"{first}/1": 4.0, f"{first}/2": 3.0, f"{second}/1": 2.0, f"{second}/2": 0.0}
    of_heads |= {f"{third}/1": 0.0, f"{third}/2": 0.0}
    wanted = [f"{second}/2", f"{third}/1", f"{third}/2", f"{first}/2", f"{first}/1", f"{second}/1"]
    assert head_pruning.order_by_importance(of_heads) == wanted
    assert head_pruning.order_by_importance({head: 7 * value for head, value in of_heads.items()}) == wanted


def test_the_random_order_depends_on_the_seed():
    every = head_pruning.heads(configured("translate"))
    orders = [head_pruning.random_order(every, seed) for seed in (0, 0, 1, 2)]
    assert all(sorted(order) == sorted(every) for order in orders)
    assert orders[0] == orders[1] and len(set(map(tuple, [every, *orders]))) == 4


def test_stacks_may_have_different_numbers_of_heads():
    config = configured("translate", model__layer_types=Variations({"encoder": {"num_heads": 4}}))
    assert [sum(head.startswith(place) for head in head_pruning.heads(config)) for place in PLACES["encoder_decoder"]] == [
        4,
        4,
        4,
    ]
    cut = head_pruning.prune(config, small.untrained(config, small.DATA_INFO)[1], ["encoder/self/1/4"])
    kernel = cut["encoder"]["layers"]["self_attention"]["output"]["kernel"]
    assert kernel.shape == (1, 4, 2, 8) and not kernel[0, 3].any() and kernel[0, :3].all()


def test_heads_are_those_of_a_site_in_all_layers():
    every = [f"{place}/{n}" for place in ("encoder/self/1", "decoder/self/1", "decoder/self/2") for n in (1, 2)]
    every += [f"decoder/cross/{layer}/{n}" for layer in (1, 2) for n in (1, 2)]
    assert head_pruning.heads(configured("translate")) == every
    assert head_pruning.heads(configured("translate", evaluate__head_place="decoder/cross")) == every[6:]
    assert head_pruning.heads(configured("tag")) == every[:2]
    cross = {"evaluate__head_place": "decoder/cross"}
    for share, place, count in ((0.0, {}, 0), (0.04, {}, 0), (0.05, {}, 1), (0.34, {}, 3), (1.0, {}, 10), (0.5, cross, 2)):
        assert head_pruning.num_removed(configured("translate", evaluate__heads_removed=share, **place)) == count


WRONG = {
    "recurrent": ({"family": "recurrent"}, ["config.evaluate.heads_removed 0.5", "config.family recurrent", "leave it at 0"]),
    "place": (
        KINDS["tag"] | {"objective__kind": "tag", "evaluate__head_place": "decoder/cross"},
        ["config.evaluate.head_place decoder/cross", "config.family encoder_only", "choose all or encoder/self"],
    ),
    "summed": ({"model__attention": SummedHeads()}, ["heads_removed 0.5", "config.model.attention", "leave it at 0"]),
    "summed in one stack": (
        {"model__layer_types": Variations({"decoder": {"attention": SummedHeads()}})},
        ["heads_removed 0.5", "SummedHeads", "leave it at 0"],
    ),
    "none": ({"evaluate__heads_removed": 0.04}, ["heads_removed 0.04", "none of 10 heads", "raise it"]),
    "no validation": ({"data__validation": None}, ["heads_removed 0.5", "config.data.validation is none", "to random"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_heads_that_cannot_be_removed(name):
    changes, says = WRONG[name]
    wrong = configured("translate", **{"evaluate__heads_removed": 0.5} | changes)
    with pytest.raises(UserError) as error:
        head_pruning.check(wrong)
    assert all(part in str(error.value) for part in says) and "\n" not in str(error.value)
    head_pruning.check(settings.replace(wrong, "evaluate.heads_removed", 0.0))


def test_heads_that_can_be_removed():
    head_pruning.check(configured("translate", evaluate__heads_removed=1.0))
    head_pruning.check(configured("translate", evaluate__heads_removed=0.5, evaluate__head_place="decoder/cross"))
    head_pruning.check(configured("tag", evaluate__heads_removed=0.5, evaluate__head_place="encoder/self"))
    unseen = {"data__validation": None, "evaluate__head_order": "random"}
    head_pruning.check(configured("translate", evaluate__heads_removed=0.5, **unseen))
