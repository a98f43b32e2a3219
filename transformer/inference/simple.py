"""Generation of tokens with any model that has `start` and `step`, without workdir, vocabulary or settings.

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
    """Generates `length` tokens after each prompt, BxN int32, with a cache. Under `jax.jit`, `length` must be static.

    Args:
        model: an `EncoderDecoder`, a `RecurrentEncoderDecoder` or a `DecoderOnly`.
        params: parameters as in `model.init(...)["params"]`.
        prompt_BxP: the prompt; for an encoder-decoder its start token, Bx1.
        source_BxS: the input of the encoder. UserError if it is missing, or given to a model without an encoder.
        end: the token that ends a row; later tokens are 0. None: rows do not end early.
        key: the random key; required unless `temperature` is 0, which selects the most likely token.
        top_k, top_p: as `config.search.top_k` and `.top_p`; only with a temperature.
    """
    encodes = hasattr(model, "encode")
    if not hasattr(model, "start"):
        raise UserError(f"model: {type(model).__name__} generates no tokens; use a model with a decoder")
    if encodes != (source_BxS is not None):
        what = "needs source_BxS, which its encoder reads" if encodes else "has no encoder; leave source_BxS out"
        raise UserError(f"source_BxS: {type(model).__name__} {what}")
    if key is None and temperature:
        raise UserError(f"key: temperature {temperature:g} samples at random; pass key=jax.random.key(0), or temperature=0")
    if not temperature and not (top_k is None and top_p is None):
        raise UserError("top_k, top_p: temperature 0 takes the most likely token; set temperature=1.0, or leave them out")
    if "params" in params:
        raise UserError('params: this is what init returns; pass its entry "params"')
    if jnp.ndim(prompt_BxP) != 2:
        raise UserError(
            f"prompt_BxP has {jnp.ndim(prompt_BxP)} axes: expected rows of tokens, such as jnp.array([[1, 21, 22]])"
        )
    if source_BxS is not None and len(source_BxS) != len(prompt_BxP):
        raise UserError(
            f"source_BxS has {len(source_BxS)} rows and prompt_BxP {len(prompt_BxP)}: expected a prompt for each source"
        )
    prompt_BxP = jnp.asarray(prompt_BxP)
    rows, width = prompt_BxP.shape
    memory = model.apply({"params": params}, source_BxS, method="encode") if encodes else None
    params, memory = model.unstack_layers(params, memory)
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
