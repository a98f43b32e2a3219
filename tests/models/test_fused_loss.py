"""The fused loss against slices of all logits: sums and gradients of all parameters; where there is no kernel,
and the reason."""

import contextlib
import functools
import importlib.util
import re
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import AbstractMesh, AxisType

from transformer.components import fused
from transformer.models import fused_loss
from transformer.models.stack import Factors
from transformer.sharding import MESH

EXACT = {"model__tying": "none", "train__label_smoothing": 0.2, "train__z_loss": 0.01}
TIED = {"model__tying": "three_way", "train__label_smoothing": 0.0, "model__dtype": "bfloat16"}
NEW = importlib.util.find_spec("tokamax") is not None and tuple(map(int, version("tokamax").split("."))) >= (0, 0, 17)
tokamax = pytest.mark.skipif(not NEW, reason="tokamax is not installed, or gives no losses of single tokens")


def gradient(backend: str, **settings):
    """The gradients of all parameters and the sums of a training loss."""
    config = small.config(**settings, train__loss_backend=backend)
    _, _, loss = small.trainer(config)
    batch: Any = small.batch(1, 5)
    batch["weights"] *= np.linspace(0.5, 2, len(batch["weights"]), dtype=np.float32)[:, None]

    def total(params):
        sums = loss(params, batch, jax.random.key(0))
        return sums["loss_sum"], sums

    return jax.jit(jax.grad(total, has_aux=True))(small.params(config))


def same(settings: dict, name: str) -> None:
    with fused.choices() as chosen, jax.numpy_rank_promotion("allow"):
        found, sums = gradient("fused", **settings)
    assert chosen == {"loss": [name]}
    wanted, plain = gradient("chunked", **settings)
    assert set(plain) - set(sums) == {"correct_sum"}
    rounding = 1e-5 if settings is EXACT else 0.02
    for each in sums:
        np.testing.assert_allclose(sums[each], plain[each], rtol=rounding, err_msg=each)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=rounding * float(jnp.abs(b).max()) + 1e-7)


@pytest.mark.parametrize("settings", [EXACT, TIED], ids=["smoothing and z-loss", "tied, bfloat16"])
def test_the_sums_and_gradients_are_those_of_slices(settings):
    same(settings, "xla")


@tokamax
def test_tokamax_by_xla_is_slices(monkeypatch):
    """Its reference implementation; `chunked_xla` of 0.0.17 is wrong if 2,048 does not divide the number of entries."""
    monkeypatch.setattr(fused_loss, "KERNELS", {"cpu": fused_loss._tokamax("xla")})
    same(EXACT, "tokamax xla")


@contextlib.contextmanager
def a_tpu(sizes=(1,), names=("one",)):
    """Programs are traced for a TPU, or for a mesh of TPUs, which an AbstractMesh represents."""
    import tokamax as library  # pyright: ignore[reportMissingImports]
    from jax._src.mesh import AbstractDevice

    device = AbstractDevice("TPU v6 lite", 1, "tpu")
    mesh = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), abstract_device=device)
    fused.tokamax_settings()
    with jax.sharding.use_abstract_mesh(mesh), library.config.cross_compile(True):
        yield


@tokamax
@pytest.mark.slow
def test_the_kernel_of_a_tpu_is_the_loss_of_whole_logits():
    """In Pallas's interpreter, with numbers of tokens, entries and a width that blocks do not divide."""
    from jax.experimental.pallas import tpu as pltpu

    draw = np.random.default_rng(0)
    arrays = draw.normal(size=(1000, 16)), draw.integers(0, 300, 1000), draw.normal(size=(300, 16))
    states, targets, table = (jnp.asarray(x, t) for x, t in zip(arrays, (jnp.float32, jnp.int32, jnp.float32), strict=True))
    weights = jnp.asarray(draw.normal(size=1000) * (draw.random(1000) < 0.7), jnp.float32)

    def total(compute, states, table):
        return jnp.sum(compute((states, targets, table)) * weights)

    wanted = jax.value_and_grad(functools.partial(total, fused_loss._xla), (0, 1))(states, table)
    with a_tpu(), pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(buffer_bounds="padded")):
        compute = fused_loss.KERNELS["tpu"].compute
        found = jax.value_and_grad(functools.partial(total, compute), (0, 1))(states, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, wanted)


@tokamax
@pytest.mark.parametrize(
    ("mesh", "tokens", "seeds"), [((), 4096, 0), (((2, 2, 1), MESH), 1024, 0), ((), 4096, 3)], ids=["one", "mesh", "seeds"]
)
def test_the_program_of_a_tpu_has_no_logits(mesh, tokens, seeds, monkeypatch):
    """No array of tokens times entries, forward and backward; on a mesh each device has the tokens of its rows."""
    monkeypatch.setattr(fused, "platform", lambda: "tpu")

    def total(states, table, targets):
        sums = fused_loss.cross_entropy(Factors(states, table, None), targets, jnp.ones(targets.shape), 0.1, 1e-4)
        assert sums is not None
        return sums["loss_sum"]

    def shape(sizes, dtype):
        return jax.ShapeDtypeStruct((seeds, *sizes) if seeds else sizes, dtype)

    given = shape((16, 256, 128), jnp.bfloat16), shape((9001, 128), jnp.float32), shape((16, 256), jnp.int32)
    gradients = jax.grad(total, (0, 1))
    with a_tpu(*mesh), fused.choices() as chosen, jax.numpy_rank_promotion("allow"):
        program = jax.jit(jax.vmap(gradients) if seeds else gradients)
        text = jax.export.export(program, platforms=["tpu"])(*given).mlir_module()
    assert chosen == {"loss": ["tokamax mosaic_tpu"]}
    calls = [line for line in text.splitlines() if "@tpu_custom_call" in line]
    assert len(calls) == 2 and all(f"{tokens}x128xbf16>" in line for line in calls)
    assert not re.findall(r"tensor<(?:3x|1x)?(?:16x256|4096|1024|256)x9001x", text)


def test_evaluation_has_accuracy_and_training_falls_back_with_a_reason(monkeypatch, capsys):
    monkeypatch.setattr(fused, "_said", set())
    config = small.config(train__loss_backend="fused", model__logits_bias=True)
    _, _, loss = small.trainer(config)
    params, batch = small.params(config), small.batch(1, 5)
    with fused.choices() as chosen:
        shapes = jax.eval_shape(loss, params, batch, None)
        assert "correct_sum" in shapes and not chosen
        assert "correct_sum" in jax.eval_shape(loss, params, batch, jax.random.key(0))
        jax.eval_shape(loss, params, small.batch(1, 4), jax.random.key(0))
    assert "a bias" in chosen["loss"][0] and capsys.readouterr().err.count("a bias") == 1


def test_what_has_no_kernel_says_why(monkeypatch):
    factors = Factors(jnp.zeros((2, 3, 8)), jnp.zeros((11, 8)), None)
    for platform, why in (("gpu", "none for gpu"), ("tpu", "tokamax mosaic_tpu: ")):
        monkeypatch.setattr(fused, "platform", lambda platform=platform: platform)
        with fused.choices() as chosen:
            assert fused_loss.cross_entropy(factors, jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3)), 0.1, 0.0) is None
        assert why in chosen["loss"][0]


def test_auto_takes_a_kernel_for_large_vocabularies_where_there_are_kernels(monkeypatch):
    assert fused_loss.wanted("fused", 10) and not fused_loss.wanted("auto", 100_000)
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    assert [fused_loss.wanted("auto", size) for size in (1000, 8192)] == [False, True]
    assert not fused_loss.wanted("chunked", 100_000)
