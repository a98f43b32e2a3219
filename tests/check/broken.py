"""Components with one typical fault each, and the property that finds it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checks import batches, decoding, learning, programs
from transformer.components.attention import Attention, masked_softmax
from transformer.components.masks import Causal
from transformer.components.norms import RMSNorm
from transformer.components.parameters import Constant
from transformer.components.positions import Sinusoidal
from transformer.components.residuals import Residual


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskIgnoredInChunks(Attention):
    def attend(self, p, q, k, pairs, positions, backend):
        if backend.name == "chunked":
            pairs = pairs.replace(query=pairs.query.replace(positions=pairs.query.positions + 100))
        return super().attend(p, q, k, pairs, positions, backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheWrittenLate(Attention):
    def with_cache(self, p, q, k, pairs, positions, cache, write, backend):
        return super().with_cache(p, q, k, pairs, positions, cache, write.replace(slot=write.slot + 1), backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleForgottenInSteps(Attention):
    def with_cache(self, p, q, k, pairs, positions, cache, write, backend):
        q = q | {"query": q["query"] * pairs.sizes.d_k**0.5}
        return super().with_cache(p, q, k, pairs, positions, cache, write, backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrongKeyValueHead(Attention):
    """Key-value heads are repeated in turns in one path, and in groups in the other."""

    def with_cache(self, p, q, k, pairs, positions, cache, write, backend):
        def repeated(cache, new):
            written, seen = write(cache, new)
            return written, {
                name: jnp.tile(stream, (1, 1, pairs.sizes.num_heads // pairs.sizes.num_kv_heads, 1))
                for name, stream in seen.items()
            }

        return super().with_cache(p, q, k, pairs, positions, cache, repeated, backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedCounter(Sinusoidal):
    """Positions are counted from the first token of a call, including padding."""

    def embed(self, p, x_BxTxD, positions):
        first = positions[..., :1]
        return super().embed(p, x_BxTxD, first + jnp.arange(positions.shape[-1]).reshape((1,) * (positions.ndim - 1) + (-1,)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaddingSeen(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        return masked_softmax(logits_BxHxTxS, pairs.mask.seen(pairs.query, pairs.key)[:, None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherBeamsSeen(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        return masked_softmax(logits_BxHxTxS, pairs.replace(allowed=None).seen())


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchStatistics(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        return super().normalize(p, logits_BxHxTxS - logits_BxHxTxS.mean(axis=(0, 3), keepdims=True) ** 2, pairs) * (
            1 + jnp.tanh(logits_BxHxTxS.mean(axis=0, keepdims=True))
        )


@dataclasses.dataclass(frozen=True)
class WindowOffByOne(Causal):
    """Sees one more key than its span says."""

    def seen(self, query, key):
        return super().seen(query, key) & (key.positions[..., None, :] >= query.positions[..., :, None] - 3)

    def span(self, prefix):
        return 2, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unread(Attention):
    def parameters(self, sizes):
        return {**super().parameters(sizes), "forgotten": Constant((sizes.num_heads,), (), 1.0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualForAllTokens(RMSNorm):
    def __call__(self, p, x):
        return super().__call__(p, jnp.ones_like(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakThroughTheStream(Residual):
    def read(self, p, stream, start, sublayer):
        return stream - stream.mean(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impure(Attention):
    def logits(self, p, q, k, pairs, positions):
        return super().logits(p, q, k, pairs, positions) * np.random.default_rng().uniform(0.5, 1.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropoutAlways(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        weights = super().normalize(p, logits_BxHxTxS, pairs)
        return weights * jax.random.bernoulli(jax.random.key(0), 0.9, weights.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedTypes(Attention):
    def value(self, p, x_BxSxD, sizes):
        return super().value(p, x_BxSxD, sizes) * p["value/bias"][None, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakThroughValues(Attention):
    def value(self, p, x_BxSxD, sizes):
        value_BxSxNxV = super().value(p, x_BxSxD, sizes)
        return value_BxSxNxV - value_BxSxNxV.mean(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NanWhereNothingIsSeen(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        return jax.nn.softmax(jnp.where(pairs.seen(), logits_BxHxTxS, -jnp.inf), axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overflow(Attention):
    def normalize(self, p, logits_BxHxTxS, pairs):
        powers = jnp.where(pairs.seen(), jnp.exp(logits_BxHxTxS), 0)
        return powers / (powers.sum(axis=-1, keepdims=True) + 1e-30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledBySlots(Attention):
    def logits(self, p, q, k, pairs, positions):
        return super().logits(p, q, k, pairs, positions) * jnp.log(1.0 + k["key"].shape[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LostInHalfPrecision(Attention):
    def key(self, p, x_BxSxD, tokens, positions, sizes):
        key_BxSxNxK = super().key(p, x_BxSxD, tokens, positions, sizes)
        return (key_BxSxNxK + 200) - 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegersTimesFloats(Attention):
    """Not a fault: the product has the type of the logits."""

    def logits(self, p, q, k, pairs, positions):
        return super().logits(p, q, k, pairs, positions) * jnp.arange(1, 1 + k["key"].shape[1])[None, None, None]


BROKEN = {  # name: (settings of the model, the property that must fail)
    "mask ignored in one backend": ({"attention": MaskIgnoredInChunks()}, programs.chunked),
    "cache written one slot late": ({"attention": CacheWrittenLate()}, decoding.one_by_one),
    "scale forgotten in the cached path": ({"attention": ScaleForgottenInSteps()}, decoding.one_by_one),
    "wrong key-value head repeated": ({"attention": WrongKeyValueHead(), "num_kv_heads": 2}, decoding.one_by_one),
    "window off by one": ({"mask": WindowOffByOne()}, decoding.one_by_one),
    "other beams seen": ({"attention": OtherBeamsSeen()}, decoding.shared_by_beams),
    "positions not shifted by left padding": ({"positions": SharedCounter()}, decoding.left_padding),
    "softmax over padding": ({"attention": PaddingSeen()}, batches.padding),
    "segments not separated": ({"attention": PaddingSeen()}, batches.packed),
    "statistics over the batch": ({"attention": BatchStatistics()}, batches.other_rows),
    "scaled by the length of a row": ({"attention": ScaledBySlots()}, batches.longer_rows),
    "leak through values": ({"attention": LeakThroughValues()}, batches.causal),
    "leak through the residual stream": ({"residual": LeakThroughTheStream()}, batches.causal),
    "dropout in evaluation": ({"attention": DropoutAlways()}, batches.pure),
    "other numbers in each trace": ({"attention": Impure()}, batches.pure),
    "bf16 and fp32 mixed": ({"attention": MixedTypes()}, batches.dtypes),
    "digits lost in bf16": ({"attention": LostInHalfPrecision()}, programs.bfloat16),
    "NaN where nothing is seen": ({"attention": NanWhereNothingIsSeen()}, learning.masked_rows),
    "overflow": ({"attention": Overflow()}, learning.extreme_logits),
    "a parameter that nothing reads": ({"attention": Unread()}, learning.no_gradient),
    "a norm that tells no token from another": ({"norm": EqualForAllTokens()}, learning.repeated_batch),
}
