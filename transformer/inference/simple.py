"""Tokens in, tokens out, of any model that has `start` and `step`: no workdir, no vocabulary, no settings.

Letters: B rows, P tokens of a prompt, S source tokens, N tokens drawn.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.errors import UserError
from transformer.inference import sampling

Array = jax.Array


def generate(
    model: nn.Module,
    params: Mapping[str, object],
    prompt_BxP: Array,
    length: int,
    *,
    source_BxS: Array | None = None,
    end: int | None = None,
    key: Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Array:
    """`length` tokens that follow each prompt, BxN int32, with a cache; under `jax.jit` `length` is static.

    Args:
        model: an `EncoderDecoder`, a `RecurrentEncoderDecoder` or a `DecoderOnly`.
        params: what `model.init(...)["params"]` gives.
        prompt_BxP: what is read first; of an encoder-decoder its start token, Bx1.
        source_BxS: what an encoder reads. UserError: it is given to a model without an encoder, or missing.
        end: the token that ends a row, whose further tokens are 0; None: no token does.
        key: of what is drawn; needed unless `temperature` is 0, with which the most likely token is taken.
    """
    encodes = hasattr(model, "encode")
    if not hasattr(model, "start"):
        raise UserError(f"model: {type(model).__name__} generates no tokens; use a model with a decoder")
    if encodes != (source_BxS is not None):
        what = "needs source_BxS, which its encoder reads" if encodes else "has no encoder; leave source_BxS out"
        raise UserError(f"source_BxS: {type(model).__name__} {what}")
    if key is None and temperature:
        raise UserError(f"key: temperature {temperature:g} draws at random; pass key=jax.random.key(0), or temperature=0")
    rows, width = prompt_BxP.shape
    memory = model.apply({"params": params}, source_BxS, method="encode") if encodes else None
    cache = model.apply({"params": params}, memory, width + length, rows, method="start")

    def step(tokens_BxT: Array, cache: sampling.Cache) -> tuple[Array, sampling.Cache]:
        return model.apply({"params": params}, tokens_BxT, cache, memory, method="step")  # type: ignore[return-value]

    limit_B, start_B = jnp.full(rows, length), prompt_BxP[:, 0]
    found = sampling.sample(
        step,
        cache,
        start_B,
        limit_B,
        length,
        -1 if end is None else end,
        jax.random.key(0) if key is None else key,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        prompt_BxP=prompt_BxP[:, 1:] if width > 1 else None,
    )
    return found.tokens_BxNxL[:, 0]
