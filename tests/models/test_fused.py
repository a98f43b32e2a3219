"""Fused kernels against plain attention, forward and gradients; what a component states of itself; what a TPU is given."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from transformer.components import attention, fused
from transformer.components.attention import Attention, Backend
from transformer.components.masks import All, Causal, Pairs, Prefix, Sizes, Tokens, Window
from transformer.components.positions import Alibi, Bound
from transformer.models.attention import choose_backend

B, T, S, H, K, V = 2, 24, 24, 4, 8, 6
SEGMENTS = np.array([[1] * 9 + [2] * 7 + [3] * 8, [1] * 5 + [2] * 14 + [0] * 5])
SOURCE = np.array([[1] * 4 + [2] * 9 + [3] * 3 + [0] * 5, [1] * 11 + [3] * 10])  # queries of segment 2 of row 1 see nothing


def tokens(segments, packed=True) -> Tokens:
    length = segments.shape[1]
    if not packed:
        return Tokens(jnp.arange(length))
    first = np.stack([[np.flatnonzero(row == each)[0] for each in row] for row in segments])
    return Tokens(jnp.asarray(np.arange(length) - first), jnp.asarray(segments))


@dataclasses.dataclass(frozen=True)
class Case:
    """Self-attention of packed rows, or as the fields say."""

    mask: attention.Mask = All()
    kv_heads: int = H
    packed: bool = True
    cross: bool = False
    positions: str = "none"
    cap: float | None = None
    value_width: int = V

    @property
    def splash(self) -> bool:
        return self.positions != "t5"

    def pairs(self) -> Pairs:
        query = tokens(SEGMENTS, self.packed)
        key = tokens(SOURCE, self.packed) if self.cross else query
        sizes = Sizes(12, H, self.kv_heads, K, self.value_width, 4, role="cross" if self.cross else "self")
        return Pairs(query, key, mask=self.mask, sizes=sizes, aligned=not self.cross)


CASES = {
    "encoder": Case(),
    "decoder, grouped, window, cap": Case(Causal() & Window(5), kv_heads=2, cap=3.0),
    "window in both directions, not packed": Case(Window(4), kv_heads=1, packed=False),
    "cross": Case(cross=True),
    "alibi": Case(Causal(), positions="alibi"),
    "t5": Case(Causal(), positions="t5", kv_heads=2, value_width=K),
}


def run(case: Case, backend: str, dtype=jnp.float32):
    """The result, and gradients of queries, keys, values and tables."""
    draw = np.random.default_rng(0)
    slots = SOURCE.shape[1] if case.cross else S
    shapes = (B, T, H, K), (B, slots, case.kv_heads, K), (B, slots, case.kv_heads, case.value_width)
    arrays = [jnp.asarray(draw.normal(scale=1.5, size=shape), dtype) for shape in shapes]
    cotangent = jnp.asarray(draw.normal(size=(B, T, H, case.value_width)), jnp.float32)
    pairs, kind = case.pairs(), small.model(positions=case.positions).positions
    declared = kind.parameters(pairs.sizes, 0.02)
    tables = {name: jnp.asarray(draw.normal(size=each.shape), jnp.float32) for name, each in declared.items()}

    def total(query, key, value, tables):
        made = Attention(logit_cap=case.cap)
        with_tables = Bound(kind, tables)
        choice = Backend(backend, dtype=dtype)
        result = attention.attend(query, key, value, pairs, scale=0.4, attention=made, positions=with_tables, backend=choice)
        return jnp.sum(result.astype(jnp.float32) * cotangent), result

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))(*arrays, tables)


plain = functools.cache(functools.partial(run, backend="plain"))


def same(case: Case, monkeypatch, kernel: fused.Kernel, name: str) -> None:
    monkeypatch.setattr(fused, "KERNELS", {"cpu": (kernel,)})
    with fused.choices() as chosen, jax.numpy_rank_promotion("allow"):  # kernels are not ours
        found = run(case, "fused")
    assert list(chosen.values()) == [[name]]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, plain(case))
    blind = ~np.broadcast_to(np.asarray(True if case.pairs().seen() is None else case.pairs().seen().any(-1)), (B, 1, T))[:, 0]
    assert np.all(np.asarray(found[1])[blind] == 0) and np.all(np.asarray(found[0][0])[blind] == 0)


@pytest.mark.parametrize("name", CASES)
def test_the_parts_of_a_kernel_say_what_plain_attention_computes(name, monkeypatch):
    same(CASES[name], monkeypatch, fused.KERNELS["cpu"][0], "xla")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.splash])
def test_splash_attention_is_plain_attention(name, monkeypatch):
    (kernel,) = fused.KERNELS["tpu"]
    compute = functools.partial(fused._splash, interpret=True)
    same(CASES[name], monkeypatch, kernel._replace(compute=compute), "splash")


def test_blocks_are_few_alike_and_little_is_filled_up():
    assert [fused.block(length) for length in (1, 128, 129, 384, 512, 513, 640, 1000, 1100, 2048)] == [
        128, 128, 256, 384, 512, 384, 384, 512, 384, 512
    ]  # fmt: skip
    for length in range(1, 3000):
        block = fused.block(length)
        count = -(-length // block)
        assert block % fused.TILE == 0 and block <= fused.BLOCK and count == -(-length // fused.BLOCK)
        assert count * block - length < count * fused.TILE


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(1, 1), (129, 129), (640, 513), (515, 700)], ids=str)
def test_splash_attention_of_odd_lengths_is_plain_attention(lengths):
    """One or two blocks of queries and of keys, the last of which is filled up; causal where the lengths are equal."""
    draw = np.random.default_rng(0)
    queries, keys = lengths
    query, cotangent = (jnp.asarray(draw.normal(size=(1, queries, 1, 8)), jnp.float32) for _ in range(2))
    key, value = (jnp.asarray(draw.normal(size=(1, keys, 1, 8)), jnp.float32) for _ in range(2))

    def total(compute, arrays):
        given = fused.Parts(*arrays, after=0 if queries == keys else None)
        return jnp.sum(compute(fused._arrays(given), given) * cotangent)

    both = [
        jax.jit(jax.value_and_grad(functools.partial(total, compute)))((query, key, value))
        for compute in (functools.partial(fused._splash, interpret=True), fused._xla)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *both)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tokamax") is None, reason="tokamax is not installed")
@pytest.mark.parametrize("name", CASES)
def test_tokamax_given_bounds_is_plain_attention(name, monkeypatch):
    """Its implementation by XLA, which takes the same arguments as its kernels for GPUs."""
    same(CASES[name], monkeypatch, fused._tokamax("xla"), "tokamax xla")


DEVICE_CASES = {  # rows of 256 slots, heads of 64 entries: sizes that kernels are made for
    "packed": fused.Parts,
    "packed, causal": functools.partial(fused.Parts, after=0),
    "packed, window, cap": functools.partial(fused.Parts, before=99, after=0, cap=20.0),
    "causal, not packed": functools.partial(fused.Parts, after=0, segments=None),
}
KERNELS = [pytest.param(platform, kernel, id=kernel.name) for platform, each in fused.KERNELS.items() for kernel in each]


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICE_CASES)
@pytest.mark.parametrize(("platform", "kernel"), KERNELS)
def test_a_kernel_on_its_device_computes_attention_in_bfloat16(platform, kernel, name):
    """Compared with XLA in fp32, forward and gradients. On a CPU this only tests the comparison itself."""
    if platform != jax.default_backend():
        pytest.skip(f"{kernel.name} needs a GPU or TPU")
    draw = np.random.default_rng(0)
    query, cotangent = (jnp.asarray(draw.normal(size=(2, 256, 4, 64)), jnp.bfloat16) for _ in range(2))
    key, value = (jnp.asarray(draw.normal(size=(2, 256, 2, 64)), jnp.bfloat16) for _ in range(2))
    ids = jnp.asarray(np.repeat([[1] * 100 + [2] * 100 + [0] * 56, [1] * 30 + [2] * 226], 1, axis=0), jnp.int32)
    make = functools.partial(DEVICE_CASES[name], **({} if "not packed" in name else {"segments": (ids, ids)}))
    if (reason := kernel.refuses(make(query / 8, key, value))) is not None:
        pytest.skip(f"this GPU or TPU: {kernel.name}: {reason}")

    def total(compute, arrays):
        parts = make(*arrays)
        heads = fused._seen_only(parts, compute(kernel.arrays(parts), parts))
        return jnp.sum(heads.astype(jnp.float32) * cotangent), heads

    wanted, found = (
        jax.jit(jax.grad(functools.partial(total, compute), has_aux=True))(arrays)
        for compute, arrays in (
            (fused._xla, jax.tree.map(lambda x: x.astype(jnp.float32), (query / 8, key, value))),
            (kernel.compute, (query / 8, key, value)),
        )
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03 * float(jnp.abs(b).max()))


def test_slopes_are_exact_in_bfloat16():
    slopes = Alibi().slopes(12)
    parts = fused._in_bfloat16(slopes)
    np.testing.assert_array_equal(parts, parts.astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(parts.sum(-1), slopes)


# --- what fits -------------------------------------------------------------------------------------------------------


class OwnLogits(Attention):
    def logits(self, p, q, k, pairs, positions):
        return 2 * super().logits(p, q, k, pairs, positions)


class OwnMask(Causal):
    def seen(self, query, key):
        return super().seen(query, key)


class OwnSlopes(Alibi):
    def bias(self, p, q, k, scores_BxHxTxS, pairs):
        return -super().bias(p, q, k, scores_BxHxTxS, pairs)


class OfPosition(Alibi):
    """Not of the distance alone: packed rows have another bias at each slot."""

    def bias(self, p, q, k, scores_BxHxTxS, pairs):
        query_BxT = pairs.query.positions.astype(jnp.float32)
        return super().bias(p, q, k, scores_BxHxTxS, pairs) / (1 + query_BxT)[:, None, :, None]


def parts(made: Attention = Attention(), mask=Causal(), positions: str = "none", **changes):  # noqa: B008
    case = Case(mask)
    pairs = case.pairs().replace(**changes)
    arrays = {"query": jnp.zeros((B, T, H, K))}, {"key": jnp.zeros((B, S, H, K)), "value": jnp.zeros((B, S, H, V))}
    return made.fused({}, *arrays, pairs, Bound(small.model(positions=positions).positions))


@pytest.mark.parametrize(
    "refused",
    [
        parts(OwnLogits()),
        parts(mask=OwnMask()),
        parts(mask=Causal() & OwnMask()),
        parts(mask=Prefix(), key=dataclasses.replace(tokens(SEGMENTS), prefix=jnp.asarray(SEGMENTS == 1))),
        parts(positions="shaw"),
        parts(aligned=False),
        parts(mask=All(), key=dataclasses.replace(tokens(SEGMENTS), gaps=True)),
        parts(query=tokens(SEGMENTS, packed=False)),
        parts(allowed=jnp.ones((1, T, S), bool)),
    ],
)
def test_what_no_kernel_computes_says_why(refused):
    assert isinstance(refused, str) and refused


def test_a_subclass_is_not_bound_by_what_its_base_states():
    changed = Case(Causal(), positions="alibi").pairs()
    arrays = {"query": jnp.zeros((B, T, H, K))}, {"key": jnp.zeros((B, S, H, K)), "value": jnp.zeros((B, S, H, V))}
    stated, own = (Attention().fused({}, *arrays, changed, Bound(kind)) for kind in (Alibi(), OwnSlopes()))
    assert stated.slopes is not None and own.slopes is None and own.bias is not None


def test_a_bias_that_depends_on_more_than_distance_is_that_of_each_row():
    arrays = [jnp.asarray(np.random.default_rng(n).normal(size=(B, T, H, K)), jnp.float32) for n in range(3)]
    pairs = Case(Causal()).pairs()
    with fused.choices() as chosen:
        found = attention.attend(*arrays, pairs, positions=Bound(OfPosition()), backend=Backend("fused"))
    assert list(chosen.values()) == [["xla"]]
    np.testing.assert_allclose(found, attention.attend(*arrays, pairs, positions=Bound(OfPosition())), atol=2e-5)


def test_attention_that_falls_back_is_plain_and_says_so_once(capsys, monkeypatch):
    monkeypatch.setattr(fused, "_said", set())
    arrays = [jnp.asarray(np.random.default_rng(0).normal(size=(B, T, H, K)), jnp.float32) for _ in range(3)]
    pairs = Case(OwnMask()).pairs()
    with fused.choices() as chosen:
        found = [attention.attend(*arrays, pairs, backend=Backend("fused")) for _ in range(2)]
    np.testing.assert_array_equal(found[0], attention.attend(*arrays, pairs))
    assert capsys.readouterr().err.count("OwnMask") == 1
    ((where, (text,)),) = chosen.items()
    assert where == "decoder self attention" and text.startswith("plain (") and "OwnMask" in text


def test_auto_is_fused_where_there_are_kernels(monkeypatch):
    lengths = (64, 128, 1024)
    assert [choose_backend("auto", length) for length in lengths] == ["plain", "plain", "chunked"]
    assert choose_backend("fused", 64) == "fused"
    for platform in ("gpu", "tpu"):
        monkeypatch.setattr(fused, "platform", lambda platform=platform: platform)
        assert [choose_backend("auto", length) for length in lengths] == ["plain", "fused", "fused"]
        assert choose_backend("auto", 128, cached=True) == "plain"


def test_dropout_on_weights_falls_back():
    arrays, pairs = [jnp.ones((B, T, H, K))] * 3, Case(Causal()).pairs()
    with fused.choices() as chosen:
        attention.attend(*arrays, pairs, backend=Backend("fused", dropout=lambda weights, first: weights))
    assert "dropout" in chosen["decoder self attention"][0]
