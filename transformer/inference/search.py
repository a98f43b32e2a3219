"""Greedy and beam search over any pure `step(tokens_BxT, cache) -> (logits_BxTxV, cache)`; no model is known here.

What the search does not reorder (a memory) is closed over by the caller; every leaf of a cache has the batch axis first.
Each sentence has its own limit, so that a batch gives it what it gets alone. Meant to be called under jit.

Letters: B sentences, K beams, C candidates, N hypotheses returned, T tokens fed, L slots for output tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from transformer.inference.likeliest import likeliest

Array = jax.Array
Cache = Any
Step = Callable[[Array, Cache], tuple[Array, Cache]]

# A hypothesis's score is its log probability divided by one of these, of its n output tokens, the end included.
PENALTIES: dict[str, Callable[[Array, float], Array]] = {
    "gnmt": lambda n, alpha: ((5.0 + n) / 6.0) ** alpha,  # Wu et al. 2016, equation 14
    "power": lambda n, alpha: n**alpha,
}

# Below this log probability lie masked tokens alone: a hypothesis that has one does not exist.
IMPOSSIBLE = -1e6


@struct.dataclass
class Hypotheses:
    """Finished hypotheses, best first. One that does not exist has length 0 and score and log probability -inf."""

    tokens_BxNxL: Array  # int32, end included, 0 after it
    lengths_BxN: Array  # int32, end included where there is one
    scores_BxN: Array  # log probability divided by the length penalty
    log_probs_BxN: Array


@struct.dataclass
class _Finished:
    """Finished hypotheses, best first, each known by its length, last token and the beam that it came from."""

    scores_BxK: Array
    log_probs_BxK: Array
    lengths_BxK: Array
    parents_BxK: Array
    last_BxK: Array


@struct.dataclass
class _Beams:
    """After n tokens. Row t of tokens and parents: each beam's token t, and the beam that its first t tokens came from."""

    n: Array
    cache: Cache
    log_probs_BxK: Array  # of the beams alive, best first; -inf: dead
    last_BxK: Array
    tokens_LxBxK: Array
    parents_LxBxK: Array
    finished: _Finished
    done_B: Array


def greedy(
    step: Step,
    cache: Cache,
    start_B: Array,
    limit_B: Array,
    max_length: int,
    end: int,
    *,
    alpha: float = 0.0,
    form: str = "gnmt",
) -> Hypotheses:
    """The likeliest token at each step (the lowest id of equals), until `end` or the sentence's limit; N is 1.

    `start_B`: the token each sentence is fed first. `limit_B`: its output tokens at most, the end included (0: a row that
    only fills the batch, which has no hypothesis). `max_length`: L, to which limits are cut. Scores are divided by
    PENALTIES[form] with `alpha`; it changes no choice.
    """
    batch = start_B.shape[0]
    limit_B = jnp.minimum(limit_B, max_length)

    def extend(state: tuple[Any, ...]) -> tuple[Any, ...]:
        n, cache, last_B, active_B, log_probs_B, lengths_B, tokens_BxL = state
        logits_Bx1xV, cache = step(last_B[:, None], cache)
        gained_B, next_B = (best_Bx1[:, 0] for best_Bx1 in likeliest(logits_Bx1xV[:, -1], 1))
        next_B = jnp.where(active_B, next_B, 0)
        log_probs_B = jnp.where(active_B, log_probs_B + gained_B, log_probs_B)
        tokens_BxL = jax.lax.dynamic_update_slice(tokens_BxL, next_B[:, None], (0, n))
        lengths_B = lengths_B + active_B
        active_B = active_B & (next_B != end) & (n + 1 < limit_B)
        return n + 1, cache, next_B, active_B, log_probs_B, lengths_B, tokens_BxL

    log_probs_B = jnp.where(limit_B > 0, 0.0, -jnp.inf)
    tokens_BxL = jnp.zeros((batch, max_length), jnp.int32)
    state = (jnp.int32(0), cache, start_B.astype(jnp.int32), limit_B > 0, log_probs_B, jnp.zeros(batch, jnp.int32), tokens_BxL)
    state = jax.lax.while_loop(lambda state: jnp.any(state[3]), extend, state)
    _, _, _, _, log_probs_B, lengths_B, tokens_BxL = state
    scores_B = log_probs_B / PENALTIES[form](jnp.maximum(lengths_B, 1), alpha)
    return Hypotheses(tokens_BxL[:, None], lengths_B[:, None], scores_B[:, None], log_probs_B[:, None])


def beam(
    step: Step,
    cache: Cache,
    start_B: Array,
    limit_B: Array,
    max_length: int,
    end: int,
    beam_size: int,
    alpha: float,
    n_best: int = 1,
    *,
    form: str = "gnmt",
    early_stop: bool = True,
) -> Hypotheses:
    """The `n_best` best of what a beam search finds, by log probability / PENALTIES[form](length, alpha).

    Each step takes the 2 `beam_size` likeliest continuations of a sentence's beams (the lower beam, then the lower id, of
    equals). Those of the likeliest `beam_size` that end join the finished, of which the `beam_size` best are kept (the
    earlier of equals), as in fairseq and Transformers; the likeliest `beam_size` of those that do not end live on. At its
    limit every hypothesis ends. A sentence is done when no beam alive can still reach the worst finished one;
    `early_stop=False` searches on to the limit, with the same result. `beam_size` 1 is greedy search.

    `cache` has B x beam_size rows, row b x beam_size + k of sentence b, beam k. `start_B`, `limit_B` and `max_length` are
    as in `greedy`. n_best over beam_size: ValueError.
    """
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is {n_best}: must be between 1 and beam_size, {beam_size}")
    if beam_size == 1:
        return greedy(step, cache, start_B, limit_B, max_length, end, alpha=alpha, form=form)
    batch = start_B.shape[0]
    shape = (batch, beam_size)
    limit_B = jnp.minimum(limit_B, max_length)
    # One table for scores and bounds, so that both round alike and a bound is one to the bit. Slot n is for n tokens.
    penalty_L = PENALTIES[form](jnp.arange(max_length + 1, dtype=jnp.float32), alpha)

    def extend(beams: _Beams) -> _Beams:
        logits_RxTxV, cache = step(beams.last_BxK.reshape(-1, 1), beams.cache)
        # Each beam's best candidates, then the best of all beams'.
        gained_RxC, tokens_RxC = likeliest(logits_RxTxV[:, -1], 2 * beam_size)
        each = gained_RxC.shape[1]
        flat_BxKC = (beams.log_probs_BxK[:, :, None] + gained_RxC.reshape(*shape, each)).reshape(batch, -1)
        log_probs_BxC, index_BxC = jax.lax.top_k(flat_BxKC, min(2 * beam_size, flat_BxKC.shape[1]))
        log_probs_BxC = jnp.where(log_probs_BxC < IMPOSSIBLE, -jnp.inf, log_probs_BxC)
        parents_BxC, tokens_BxC = index_BxC // each, jnp.take_along_axis(tokens_RxC.reshape(batch, -1), index_BxC, axis=1)

        n = beams.n + 1
        ends_BxC = (tokens_BxC == end) | (n >= limit_B)[:, None]
        likely_C = jnp.arange(ends_BxC.shape[1]) < beam_size
        scores_BxC = jnp.where(ends_BxC & likely_C[None], log_probs_BxC / penalty_L[n], -jnp.inf)
        new = _Finished(scores_BxC, log_probs_BxC, jnp.full_like(tokens_BxC, n), parents_BxC, tokens_BxC)
        finished = _best(beams.finished, new, beam_size)

        log_probs_BxK, slot_BxK = jax.lax.top_k(jnp.where(ends_BxC, -jnp.inf, log_probs_BxC), beam_size)
        parents_BxK = jnp.take_along_axis(parents_BxC, slot_BxK, axis=1)
        last_BxK = jnp.take_along_axis(tokens_BxC, slot_BxK, axis=1)
        rows_R = (jnp.arange(batch)[:, None] * beam_size + parents_BxK).reshape(-1)
        cache = jax.tree.map(lambda leaf: jnp.take(leaf, rows_R, axis=0, mode="clip"), cache)

        # Log probability only falls, so a beam scores best with the mildest penalty ahead: the limit's (the next one's if
        # alpha < 0). Past the limit all beams are dead, and -inf <= anything: the loop ends.
        mildest_B = jnp.maximum(penalty_L[jnp.maximum(limit_B, 0)], penalty_L[jnp.minimum(n + 1, max_length)])
        bound_B = log_probs_BxK[:, 0] / mildest_B
        done_B = (bound_B <= finished.scores_BxK[:, -1]) if early_stop else (n >= limit_B)
        return _Beams(
            n=n,
            cache=cache,
            log_probs_BxK=log_probs_BxK,
            last_BxK=last_BxK,
            tokens_LxBxK=beams.tokens_LxBxK.at[beams.n].set(last_BxK),
            parents_LxBxK=beams.parents_LxBxK.at[beams.n].set(parents_BxK),
            finished=finished,
            done_B=done_B,
        )

    none_BxK, zeros_BxK = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    beams = _Beams(
        n=jnp.int32(0),
        cache=cache,
        # All beams begin alike: one is alive, so that candidates differ.
        log_probs_BxK=none_BxK.at[:, 0].set(jnp.where(limit_B > 0, 0.0, -jnp.inf)),
        last_BxK=jnp.broadcast_to(start_B[:, None], shape).astype(jnp.int32),
        tokens_LxBxK=jnp.zeros((max_length, *shape), jnp.int32),
        parents_LxBxK=jnp.zeros((max_length, *shape), jnp.int32),
        finished=_Finished(none_BxK, none_BxK, zeros_BxK, zeros_BxK, zeros_BxK),
        done_B=limit_B <= 0,
    )
    beams = jax.lax.while_loop(lambda beams: ~jnp.all(beams.done_B), extend, beams)
    best = jax.tree.map(lambda x_BxK: x_BxK[:, :n_best], beams.finished)
    tokens_BxNxL = _trace(best, beams.tokens_LxBxK, beams.parents_LxBxK)
    return Hypotheses(tokens_BxNxL, best.lengths_BxK, best.scores_BxK, best.log_probs_BxK)


def _best(old: _Finished, new: _Finished, count: int) -> _Finished:
    """The `count` best of both, best first. Of equals the old come first, so that nothing displaces what is as good."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), old, new)
    _, keep_BxK = jax.lax.top_k(both.scores_BxK, count)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, keep_BxK, axis=1), both)


def _trace(finished: _Finished, tokens_LxBxK: Array, parents_LxBxK: Array) -> Array:
    """Tokens BxNxL of N finished hypotheses: from the last token of each back along its parents."""

    def back(beam_BxN: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        t, tokens_BxK, parents_BxK = row
        last = t + 1 == finished.lengths_BxK
        inside = t + 1 < finished.lengths_BxK
        tokens_BxN = jnp.where(inside, jnp.take_along_axis(tokens_BxK, beam_BxN, axis=1), 0)
        parents_BxN = jnp.where(inside, jnp.take_along_axis(parents_BxK, beam_BxN, axis=1), beam_BxN)
        return jnp.where(last, finished.parents_BxK, parents_BxN), jnp.where(last, finished.last_BxK, tokens_BxN)

    rows = (jnp.arange(tokens_LxBxK.shape[0]), tokens_LxBxK, parents_LxBxK)
    _, tokens_LxBxN = jax.lax.scan(back, jnp.zeros_like(finished.lengths_BxK), rows, reverse=True)
    return jnp.moveaxis(tokens_LxBxN, 0, -1)
