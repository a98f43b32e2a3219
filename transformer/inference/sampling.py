"""Sampling with any pure `step(tokens_BxT, cache) -> (logits_BxTxV, cache)`: all at once, or in chunks for streaming.

As in search.py, nothing here depends on the model, and all functions are meant for jit. `begin` feeds the prompts and draws one
token; `extend` draws more tokens and needs one jit, with a static count. A sample ends at its end token or its limit. To end it
for another reason, such as a string in its text, the caller uses `stop` between two chunks.

Letters: B samples, P slots of prompts, T tokens fed, N tokens drawn by one call, L slots for output tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from transformer.inference.search import Hypotheses

Array = jax.Array
Cache = Any
# As in search.py. Padded prompts are fed with step(tokens_BxT, cache, valid_BxT), which is False for padding.
Step = Callable[..., tuple[Array, Cache]]


@dataclasses.dataclass(frozen=True)
class Warp:
    """Transformations of the logits before a token is drawn. None and 1 mean no change. ValueError if a value is out
    of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: must be at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: must be above 0 and at most 1")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: must be above 0")


@struct.dataclass
class State:
    """The state of unfinished samples. The tokens of row b are the first `lengths_B[b]` that `begin` and `extend` returned."""

    cache: Cache
    n: Array  # tokens drawn of each active sample
    last_B: Array  # drawn, not yet fed
    active_B: Array
    lengths_B: Array  # including the end
    log_probs_B: Array
    limit_B: Array
    keys_B: Array
    earlier_BxV: Array | None  # None: no repetition penalty
    ends: tuple[int, ...] = struct.field(pytree_node=False)  # tokens that end a sample
    warp: Warp = struct.field(pytree_node=False)


# --- warpers: logits in, logits out; excluded tokens have -inf ------------------------------------------------------------


def penalize_repetition(logits_BxV: Array, earlier_BxV: Array, penalty: float) -> Array:
    """Makes earlier tokens less likely if `penalty` > 1: Keskar et al. 2019 (CTRL), equation 2.

    Positive logits are divided and negative ones multiplied, as in the authors' code, because dividing a negative logit would
    make its token more likely.
    """
    penalized_BxV = jnp.where(logits_BxV > 0, logits_BxV / penalty, logits_BxV * penalty)
    return jnp.where(earlier_BxV, penalized_BxV, logits_BxV)


def keep_top_k(logits_BxV: Array, k: int) -> Array:
    """Keeps only the `k` most probable tokens (Fan et al. 2018). Ties go to the lower id."""
    batch, size = logits_BxV.shape
    k = min(k, size)
    # Minimum instead of the last: XLA turns a slice of a top-k into a full sort (CPU, V = 50,257: 10 ms instead of 0.1).
    least_B = jnp.min(jax.lax.top_k(logits_BxV, k)[0], axis=-1)
    return _keep(logits_BxV, least_B, jnp.full(batch, k))


def keep_top_p(logits_BxV: Array, p: float) -> Array:
    """Keeps the smallest set of tokens with a total probability of at least `p` (Holtzman et al. 2020, section 3.1).

    The most probable tokens are kept, at least one. Ties go to the lower id.
    """
    # A token is kept if it and all less likely ones have more than 1 - p. Small sums are accurate if they start at the tail.
    sorted_BxV = jnp.sort(logits_BxV, axis=-1)
    tails_BxV = jnp.cumsum(jax.nn.softmax(sorted_BxV, axis=-1), axis=-1)
    count_B = jnp.maximum(jnp.sum(tails_BxV > 1 - p, axis=-1), 1)
    least_B = jnp.take_along_axis(sorted_BxV, sorted_BxV.shape[1] - count_B[:, None], axis=1)[:, 0]
    return _keep(logits_BxV, least_B, count_B)


def _keep(logits_BxV: Array, least_B: Array, count_B: Array) -> Array:
    """Keeps the `count_B` largest logits, of which the smallest is `least_B`. Ties go to the lower id."""
    above_BxV, equal_BxV = logits_BxV > least_B[:, None], logits_BxV == least_B[:, None]
    room_B = count_B - jnp.sum(above_BxV, axis=-1)
    keep_BxV = above_BxV | (equal_BxV & (jnp.cumsum(equal_BxV, axis=-1) <= room_B[:, None]))
    return jnp.where(keep_BxV, logits_BxV, -jnp.inf)


def warp_logits(logits_BxV: Array, earlier_BxV: Array | None, warp: Warp) -> Array:
    """Applies repetition penalty, temperature, top-k and top-p, in the order of Transformers' `generate`.

    Temperature 0 keeps only the most probable token. Ties go to the lowest id.
    """
    if earlier_BxV is not None:
        logits_BxV = penalize_repetition(logits_BxV, earlier_BxV, warp.repetition_penalty)
    if warp.temperature == 0:
        return keep_top_k(logits_BxV, 1)
    logits_BxV = logits_BxV / warp.temperature
    if warp.top_k is not None:
        logits_BxV = keep_top_k(logits_BxV, warp.top_k)
    if warp.top_p is not None:
        logits_BxV = keep_top_p(logits_BxV, warp.top_p)
    return logits_BxV


# --- drawing --------------------------------------------------------------------------------------------------------------


def sample(
    step: Step,
    cache: Cache,
    start_B: Array,
    limit_B: Array,
    max_length: int,
    end: int | tuple[int, ...],
    key: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    prompt_BxP: Array | None = None,
    valid_BxP: Array | None = None,
    samples_B: Array | None = None,
) -> Hypotheses:
    """Draws one sample for each row, until `end` (or one of several) or its limit; N is 1. Log probabilities and scores are
    those of the model before warping.

    `start_B`, `limit_B` and `max_length` are as in `search.find`. `prompt_BxP` follows the start token; it is padded on the
    left where `valid_BxP` is False (None: no padding), and is not part of the output. The other arguments are as in `begin`.
    """
    warp = Warp(temperature, top_k, top_p, repetition_penalty)
    fed_BxP, valid_BxP = after_start(start_B, prompt_BxP, valid_BxP)
    limit_B = jnp.minimum(limit_B, max_length)
    state, first_Bx1 = begin(step, cache, fed_BxP, valid_BxP, limit_B, end, key, warp, samples_B)
    state, rest_BxL = extend(step, state, max_length)
    tokens_BxL = jnp.concatenate([first_Bx1, rest_BxL], axis=1)[:, :max_length]
    log_probs_Bx1 = state.log_probs_B[:, None]
    return Hypotheses(tokens_BxL[:, None], state.lengths_B[:, None], log_probs_Bx1, log_probs_Bx1)


def after_start(start_B: Array, prompt_BxP: Array | None, valid_BxP: Array | None) -> tuple[Array, Array | None]:
    """Prompts with the start token inserted before the first valid token, one slot wider, and the mask of valid tokens."""
    start_Bx1 = start_B[:, None].astype(jnp.int32)
    if prompt_BxP is None:
        return start_Bx1, None
    fed_BxP = jnp.concatenate([start_Bx1, prompt_BxP.astype(jnp.int32)], axis=1)
    if valid_BxP is None:
        return fed_BxP, None
    slots_1xP = jnp.arange(fed_BxP.shape[1])[None]
    first_Bx1 = jnp.sum(~valid_BxP, axis=1, keepdims=True)
    return jnp.where(slots_1xP == first_Bx1, start_Bx1, fed_BxP), slots_1xP >= first_Bx1


def begin(
    step: Step,
    cache: Cache,
    prompt_BxP: Array,
    valid_BxP: Array | None,
    limit_B: Array,
    end: int | tuple[int, ...],
    key: Array,
    warp: Warp,
    samples_B: Array | None = None,
) -> tuple[State, Array]:
    """Feeds the prompts, including the start token, in one call, and draws one token for each. Returns the state and tokens
    Bx1.

    `valid_BxP`: False for padding, on the left; None means no padding, and `step` receives no mask. The repetition penalty
    applies to all valid tokens. The cache of a row needs slots for its prompt and for one token less than its limit.

    `samples_B`: the indices of the samples, 0 to B - 1 if None. Token n of sample i depends only on (`key`, i, n) and on its
    own logits, so that a sample does not depend on the batch.
    """
    batch = prompt_BxP.shape[0]
    padded = () if valid_BxP is None else (valid_BxP,)
    logits_BxPxV, cache = step(prompt_BxP, cache, *padded)
    earlier_BxV = None
    if warp.repetition_penalty != 1:
        real_BxP = jnp.ones(prompt_BxP.shape, bool) if valid_BxP is None else valid_BxP
        nothing_BxV = jnp.zeros((batch, logits_BxPxV.shape[-1]), bool)
        earlier_BxV = nothing_BxV.at[jnp.arange(batch)[:, None], prompt_BxP].max(real_BxP)
    samples_B = jnp.arange(batch) if samples_B is None else samples_B
    state = State(
        cache=cache,
        n=jnp.int32(0),
        last_B=jnp.zeros(batch, jnp.int32),
        active_B=limit_B > 0,
        lengths_B=jnp.zeros(batch, jnp.int32),
        log_probs_B=jnp.where(limit_B > 0, 0.0, -jnp.inf),
        limit_B=limit_B.astype(jnp.int32),
        keys_B=jax.vmap(jax.random.fold_in, (None, 0))(key, samples_B),
        earlier_BxV=earlier_BxV,
        ends=(end,) if isinstance(end, int) else end,
        warp=warp,
    )
    state = _draw(state, logits_BxPxV[:, -1])
    return state, state.last_B[:, None]


def extend(step: Step, state: State, count: int) -> tuple[State, Array]:
    """Draws `count` more tokens for each active sample, or fewer if no sample stays active. Returns the state and tokens BxN.

    Tokens after the end of a sample are 0.
    """

    def going(carry: tuple[Array, State, Array]) -> Array:
        return (carry[0] < count) & jnp.any(carry[1].active_B)

    def feed(carry: tuple[Array, State, Array]) -> tuple[Array, State, Array]:
        t, state, tokens_BxN = carry
        logits_Bx1xV, cache = step(state.last_B[:, None], state.cache)
        state = _draw(dataclasses.replace(state, cache=cache), logits_Bx1xV[:, -1])
        return t + 1, state, jax.lax.dynamic_update_slice(tokens_BxN, state.last_B[:, None], (0, t))

    tokens_BxN = jnp.zeros((state.last_B.shape[0], count), jnp.int32)
    _, state, tokens_BxN = jax.lax.while_loop(going, feed, (jnp.int32(0), state, tokens_BxN))
    return state, tokens_BxN


def stop(state: State, rows_B: Array) -> State:
    """Ends the samples where `rows_B` (booleans) is True: no more tokens are drawn for them."""
    return dataclasses.replace(state, active_B=state.active_B & ~rows_B)


def _draw(state: State, logits_BxV: Array) -> State:
    """Draws one more token for each active sample, which is not fed yet."""
    logits_BxV = logits_BxV.astype(jnp.float32)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys_B, state.n)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, warp_logits(logits_BxV, state.earlier_BxV, state.warp)).astype(jnp.int32)
    gained_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BxV), drawn_B[:, None], axis=1)[:, 0]
    earlier_BxV = state.earlier_BxV
    if earlier_BxV is not None:
        earlier_BxV = earlier_BxV.at[jnp.arange(len(drawn_B)), drawn_B].set(True)
    active_B, n = state.active_B, state.n + 1
    return dataclasses.replace(
        state,
        n=n,
        last_B=jnp.where(active_B, drawn_B, 0),
        active_B=active_B & ~jnp.isin(drawn_B, jnp.array(state.ends)) & (n < state.limit_B),
        lengths_B=state.lengths_B + active_B,
        log_probs_B=jnp.where(active_B, state.log_probs_B + gained_B, state.log_probs_B),
        earlier_BxV=earlier_BxV,
    )
