"""Residual connections of users: the shipped ones against loops in NumPy, and inside whole models."""

import contextlib
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from trained import ROOT

from experiments.variants.hyper_connections import HyperConnections
from experiments.variants.layer_scale import LayerScale, ReZero
from transformer import sharding
from transformer.checks import batches, decoding, table
from transformer.checks.shrink import shrink
from transformer.checks.subject import Subject, paths
from transformer.components.masks import Sizes, Tokens
from transformer.components.residuals import ParallelSublayers, Residual, Sublayer
from transformer.config import Config
from transformer.errors import UserError
from transformer.models import axes
from transformer.models.stack import Stack
from transformer.probes.inside import hidden_states
from transformer.registry import carry_over
from transformer.settings import override
from transformer.validation import validate

D, N = 6, 3
SIZES = Sizes(D, 2, 2, 3, 3, 8, "decoder", "self", 1.0)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def drawn(residual: Residual) -> dict[str, np.ndarray]:
    return {name: normal(*one.shape, seed=n) for n, (name, one) in enumerate(residual.parameters(SIZES).items())}


def mixed(p: dict[str, np.ndarray], name: str, factor: str, rows_NxD: np.ndarray) -> np.ndarray:
    """What the published equations add to a weight's initial value: for each row one number, or one for each stream."""
    weights = np.array(p[f"{name}/bias"])
    if f"{name}/kernel" in p:
        for row, column in np.ndindex(*weights.shape):
            unit = rows_NxD[row] / np.sqrt(np.mean(rows_NxD[row] ** 2) + 1e-6)
            weights[row, column] += p[factor] * np.tanh(unit @ p[f"{name}/kernel"][:, column])
    return weights


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("dynamic", [False, True])
def test_hyper_connections_are_their_equations(dynamic, number):
    residual = HyperConnections(streams=N, dynamic=dynamic)
    p, stream, y = drawn(residual), normal(2, 5, N, D, seed=8), normal(2, 5, D, seed=9)
    sublayer = Sublayer("feed_forward", jnp.asarray(number), jnp.asarray(6))
    given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (p, stream, y))
    read, written = (
        residual.read(given[0], given[1], given[1], sublayer),
        residual.write(given[0], given[1], given[2], sublayer),
    )
    for b, t in np.ndindex(2, 5):
        rows = stream[b, t]
        a = np.eye(N)[number % N] + mixed(p, "read", "mix_factor", rows)[:, 0]
        np.testing.assert_allclose(read[b, t], sum(a[n] * rows[n] for n in range(N)), atol=1e-5)
        keep, add = np.eye(N) + mixed(p, "keep", "mix_factor", rows), 1 + mixed(p, "write", "write_factor", rows)[:, 0]
        for m in range(N):
            wanted = sum(keep[n, m] * rows[n] for n in range(N)) + add[m] * y[b, t]
            np.testing.assert_allclose(written[b, t, m], wanted, atol=1e-5)


def test_learned_factors_are_for_channels_or_for_the_sublayer():
    x, y, sublayer = normal(2, 5, D), normal(2, 5, D, seed=1), Sublayer("feed_forward", jnp.asarray(0), jnp.asarray(2))
    for residual, shape, initial in ((LayerScale(), (D,), 0.1), (LayerScale(initial=0.5), (D,), 0.5), (ReZero(), (1,), 0.0)):
        one: Any = residual.parameters(SIZES)["scale"]
        assert (one.shape, one.value) == (shape, initial)
        scale = normal(*shape, seed=2)
        found = residual.write({"scale": jnp.asarray(scale)}, jnp.asarray(x), jnp.asarray(y), sublayer)
        np.testing.assert_allclose(found, x + scale * y, atol=1e-5)


def subject(**model: Any) -> Subject:
    changes = {f"model__{name}": each for name, each in {"norm_order": "pre", **model}.items()}
    return Subject(shrink(small.config(**changes))[0])


def test_hyper_connections_begin_as_plain_ones_and_an_empty_sublayer_leaves_the_input():
    plain = subject()
    wanted = plain.outputs(plain.separate, plain.initial)
    for residual in (HyperConnections(), HyperConnections(streams=2, dynamic=False), LayerScale(initial=1.0)):
        other = subject(residual=residual)
        shared, found = paths(plain.initial), paths(other.initial)
        assert found.keys() - {path for path in found if "_residual/" in path} == shared.keys()
        mixed_leaves = [shared.get(path, leaf) for path, leaf in found.items()]
        params = jax.tree.unflatten(jax.tree.structure(other.initial), mixed_leaves)
        np.testing.assert_allclose(other.outputs(other.separate, params), wanted, atol=2e-5)
    zero = subject(residual=ReZero(), final_norm=False)
    states = hidden_states(zero.config, zero.model, zero.initial, zero.separate)
    for each in states.values():
        np.testing.assert_array_equal(each[0], each[-1])


def test_states_after_layers_have_the_width_of_the_model():
    many = subject(residual=HyperConnections(streams=2))
    states = hidden_states(many.config, many.model, many.params, many.separate)
    rows, slots = many.separate["inputs"].shape
    depth, width = many.config.model.num_decoder_layers, many.config.model.d_model
    assert states["decoder"].shape == (depth, rows, slots, width)


NAMES = ("self_attention", "cross_attention", "feed_forward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded(Residual):
    """In the channel of each sublayer: its count and its name, as a number."""

    def write(self, p, stream, y_BxTxD, sublayer):
        return stream.at[..., sublayer.number].set(10 * sublayer.count + NAMES.index(sublayer.name))


@pytest.mark.parametrize("depth", [3, 4])
def test_sublayers_are_named_and_numbered_over_layers_that_differ(depth):
    """Every other layer has no feed-forward layer; the last of three layers is outside the scan."""
    pattern = {"layer_pattern": ("whole", "short"), "layer_types": {"whole": {"d_ff": 8}, "short": {"feed_forward": "none"}}}
    sizes = {"d_model": 16, "num_heads": 2, "num_decoder_layers": depth, "positions": "none"}
    model = small.model(residual=Recorded(), norm_order="pre", final_norm=False, **pattern | sizes)
    stack, tokens, x = Stack(model, "decoder", cross=False), Tokens(jnp.arange(4)), jnp.zeros((1, 4, 16))
    states, _ = stack.apply(stack.init(jax.random.key(0), x, tokens), x, tokens)
    names = [0, 2, 0, 0, 2, 0][: 5 if depth == 3 else 6]
    np.testing.assert_array_equal(states[0, 0, : len(names)], [10 * len(names) + name for name in names])
    np.testing.assert_array_equal(states[0, 0, len(names) :], 0)


def test_hyper_connections_read_one_stream_after_another_at_first():
    residual, stream = HyperConnections(streams=2, dynamic=False), jnp.arange(4.0).reshape(1, 1, 2, 2)
    p = {name: jnp.zeros(one.shape) for name, one in residual.parameters(SIZES).items()}
    rows = [residual.read(p, stream, stream, Sublayer("feed_forward", jnp.asarray(n), jnp.asarray(4)))[0, 0] for n in range(3)]
    np.testing.assert_array_equal(rows, [[0, 1], [2, 3], [0, 1]])


@pytest.mark.parametrize(("order", "final", "refused"), [("post", None, True), ("pre", False, True), ("pre", None, False)])
def test_streams_that_no_norm_follows_are_refused(order, final, refused):
    config = small.config(model__norm_order=order, model__final_norm=final, model__residual=HyperConnections())
    with pytest.raises(UserError, match="final_norm") if refused else contextlib.nullcontext():
        validate(config)


def test_a_component_of_the_same_file_begins_with_its_own_initial_values():
    assert carry_over(LayerScale(initial=0.5), ReZero) == ReZero()
    assert carry_over(ReZero(), LayerScale) == LayerScale(initial=0.1)


def test_kernels_of_a_residual_connection_have_the_names_of_their_axes():
    model = subject(residual=HyperConnections()).config.model
    path = "decoder/layers/self_attention_residual/read/kernel"
    assert sharding.names(path, 3, axes.of_model(model)) == (None, "model", None)


def test_parallel_sublayers_read_the_start_of_the_layer():
    x, start, sublayer = jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3)), Sublayer("feed_forward", jnp.asarray(1), jnp.asarray(2))
    assert ParallelSublayers().read({}, x, start, sublayer) is start
    assert Residual().read({}, x, start, sublayer) is x


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "output"])
@pytest.mark.parametrize("residual", [HyperConnections(streams=2), LayerScale()], ids=["hyper_connections", "layer_scale"])
def test_whole_models_have_the_properties_of_the_check(residual, order):
    """Both stacks, layers of two types and a cache."""
    pattern = {"layer_pattern": ("local", "global"), "layer_types": {"local": {"window": 3}, "global": {"d_ff": 8}}}
    whole = subject(**pattern | {"residual": residual, "norm_order": order, "num_decoder_layers": 3, "final_norm": True})
    assert isinstance(whole.config, Config)
    measured = (decoding.one_by_one, decoding.shared_by_beams, batches.packed, batches.causal, batches.dtypes, batches.padding)
    found = list(table.run(whole, tuple(each for each in table.PROPERTIES if each.measure in measured)))
    assert len(found) == len(measured) and [table.line(each) for each in found if each.failed] == []


def test_the_residual_connection_of_the_docs_works_as_it_is_shown(tmp_path, monkeypatch):
    """With the imports that the page names, in a file, by the setting that it shows."""
    page = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    [shown] = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "(Residual)" in each]
    [own] = re.findall(r"`(from transformer.components.residuals .*?)`", page)
    [value] = re.findall(r"`--config.model.residual=(.*?)`", page)
    monkeypatch.chdir(tmp_path)
    imports = f"import dataclasses\n{own}\nfrom transformer.settings import setting\n"
    (tmp_path / value.partition(":")[0]).write_text(imports + shown)
    config = validate(override(Config(), {"model.residual": value, "model.residual.alpha": "3"}))
    sublayer = Sublayer("feed_forward", jnp.asarray(0), jnp.asarray(2))
    np.testing.assert_array_equal(config.model.residual.write({}, jnp.full((1, 1, 2), 2.0), jnp.ones((1, 1, 2)), sublayer), 7.0)
