"""Multi-head latent attention: keys and values of all heads are computed from one small vector per token, which is cached.

DeepSeek-AI 2024 (DeepSeek-V2), section 2.1, equations 9 to 11 and 14 to 19:

    c = RMSNorm(x W^DKV)                      cached: L numbers per token
    k^R = rotate(x W^KR)                      cached: one rotated key of R numbers, shared by all heads
    k = [c W^UK; k^R], v = c W^UV             d_k + R and d_v numbers per head
    q = [x W^Q; rotate(x W^QR)]               scaled by 1 / sqrt(d_k + R)

Queries are not compressed (equations 12 and 13), as in DeepSeek-V2-Lite. With a cache, W^UK is multiplied with the queries and
W^UV with the weighted latents (section 2.1.2), so that keys and values are not recomputed. Position encodings rotate only the R
entries; without rotary positions these are ordinary entries. Not supported: position encodings that read queries and keys
(Shaw, CoPE), grouped key-value heads, qk_norm.

Letters: B rows, T queries, S keys, H heads, L latent width, R rotated width, K, V head widths, D d_model.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from transformer import registry
from transformer.components.attention import Attention, Backend, Write, project, rms_norm
from transformer.components.masks import Mask, Pairs, Sizes, Tokens
from transformer.components.parameters import Constant, Declared, Kernel, Parameters, Streams
from transformer.components.positions import Bound, Positions
from transformer.components.products import product, wide_product
from transformer.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent(Attention):
    """Caches `latent_width` + `rotated_width` numbers per token instead of heads x (d_k + d_v)."""

    has_own_norm: ClassVar[bool] = True
    latent_width: int = setting(128, "width of the vector from which a token's keys and values are computed", at_least=1)
    rotated_width: int = setting(16, "additional entries of queries and keys, which position encodings rotate", at_least=1)

    def check(self, sizes: Sizes) -> str | None:
        if sizes.num_kv_heads != sizes.num_heads:
            return "config.model.num_kv_heads: latent attention has separate keys and values for each head; leave it at none"
        if self.qk_norm:
            return "config.model.attention.qk_norm: latent attention has a norm of its own; set it to false"
        return None

    def supports(self, mask: Mask, positions: Positions, sizes: Sizes) -> str | None:
        if positions.of_content:
            name = registry.reference(type(positions))
            return f"config.model.positions {name}: reads queries or keys, which are latents here; choose another encoding"
        wrong = positions.check(dataclasses.replace(sizes, d_k=self.rotated_width))
        return wrong and f"config.model.attention.rotated_width {self.rotated_width} takes the role of d_k: {wrong}"

    def _wide(self, sizes: Sizes) -> Sizes:
        return dataclasses.replace(sizes, d_k=sizes.d_k + self.rotated_width)

    def parameters(self, sizes: Sizes) -> Declared:
        up: dict[str, Any] = {
            f"{name}/kernel": Kernel((self.latent_width, sizes.num_heads, width), (None, "heads", "width"))
            for name, width in (("key", sizes.d_k), ("value", sizes.d_v))
        }
        return dict(super().parameters(self._wide(sizes))) | up

    def key_parameters(self, sizes: Sizes) -> Declared:
        return {
            "latent/kernel": Kernel((sizes.d_model, self.latent_width), ("model", None)),
            "latent_norm/scale": Constant((self.latent_width,), (), 1.0),
            "rotated_key/kernel": Kernel((sizes.d_model, 1, self.rotated_width), ("model", None, None)),
        }

    def queries(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Streams:
        return super().queries(p, x_BxTxD, tokens, positions, self._wide(sizes))

    def query(self, p: Parameters, x_BxTxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Array:
        plain, rotated = jnp.split(project(p, "query", x_BxTxD), [sizes.d_k - self.rotated_width], axis=-1)
        return jnp.concatenate([plain, positions.rotate(rotated, tokens.positions)], axis=-1)

    def keys(self, p: Parameters, x_BxSxD: Array, tokens: Tokens, positions: Bound, sizes: Sizes) -> Streams:
        latent_BxSxL = product("bsd,dl->bsl", x_BxSxD, p["latent/kernel"])
        rotated_BxSx1xR = positions.rotate(project(p, "rotated_key", x_BxSxD), tokens.positions)
        streams = {"latent": rms_norm(latent_BxSxL, p["latent_norm/scale"], self.norm_epsilon)}
        return streams | {"rotated_key": rotated_BxSx1xR[:, :, 0]} | positions.key_streams(x_BxSxD, tokens)

    def expand(self, p: Parameters, k: Streams, sizes: Sizes) -> Streams:
        return k | {name: project(p, name, k["latent"]) for name in ("key", "value")}

    def with_cache(
        self,
        p: Parameters,
        q: Streams,
        k: Streams,
        pairs: Pairs,
        positions: Bound,
        cache: dict[str, Array],
        write: Write,
        backend: Backend,
    ) -> tuple[Array, dict[str, Array]]:
        cache, k = write(cache, k)
        return self.attend(p, q, k, pairs, positions, backend), cache  # not expanded

    def scores(self, p: Parameters, q: Streams, k: Streams, pairs: Pairs) -> Array:
        plain_BxTxHxK, rotated_BxTxHxR = jnp.split(q["query"], [q["query"].shape[-1] - self.rotated_width], axis=-1)
        shared = wide_product("bthr,bsr->bhts", rotated_BxTxHxR, k["rotated_key"])
        if "key" in k:
            return shared + wide_product("bthk,bshk->bhts", plain_BxTxHxK, k["key"])
        absorbed_BxTxHxL = product("bthk,lhk->bthl", plain_BxTxHxK, p["key/kernel"])
        return shared + wide_product("bthl,bsl->bhts", absorbed_BxTxHxL, k["latent"])

    def mix(self, p: Parameters, weights_BxHxTxS: Array, k: Streams, pairs: Pairs, positions: Bound) -> Array:
        if "value" in k:
            return super().mix(p, weights_BxHxTxS, k, pairs, positions)
        mixed_BxTxHxL = jnp.einsum("bhts,bsl->bthl", weights_BxHxTxS, k["latent"])
        return product("bthl,lhv->bthv", mixed_BxTxHxL, p["value/kernel"])
