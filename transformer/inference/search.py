"""Greedy and beam search with any pure `step(tokens_BxT, cache) -> (logits_BxTxV, cache)`; independent of the model.

`step` closes over arrays that the search does not reorder, such as a memory; every leaf of the cache has the batch axis first.
Each sentence has its own limit and its own number of tokens so far, so that its result does not depend on the other sentences
in the batch or on when it joins. All functions are meant for jit. A search runs in one call (`find`) or in parts, between which
the caller may replace finished sentences by others and change the space for tokens.

A cache may have one row for each sentence, which its beams share, instead of one for each beam. Then `step` receives one token
of each beam, BxK, and returns logits BxKxV.

Letters: B sentences, R of them, K beams, C candidates, N hypotheses returned, T tokens fed, L room for output tokens,
V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from transformer.inference.top_k import top_k_log_probs

Array = jax.Array
Cache = Any
Step = Callable[[Array, Cache], tuple[Array, Cache]]
# (cache, from_R) -> the cache with row from_R[n] copied to each row n. Rows that are copied to another row do not change.
CopyRows = Callable[[Cache, Array], Cache]

# A hypothesis's score is its log probability divided by one of these functions of its n output tokens, including the end.
PENALTIES: dict[str, Callable[[Array, float], Array]] = {
    "gnmt": lambda n, alpha: ((5.0 + n) / 6.0) ** alpha,  # Wu et al. 2016, equation 14
    "power": lambda n, alpha: n**alpha,
}

# Only masked tokens have a log probability below this: a hypothesis that contains one does not exist.
IMPOSSIBLE = -1e6


def take_rows(cache: Cache, from_R: Array) -> Cache:
    """A `CopyRows` for any cache."""
    return jax.tree.map(lambda leaf: leaf[from_R], cache)


@struct.dataclass
class Hypotheses:
    """Finished hypotheses, best first. A missing one has length 0, and its score and log probability are -inf."""

    tokens_BxNxL: Array  # int32, including the end, 0 after it
    lengths_BxN: Array  # int32, including the end, if there is one
    scores_BxN: Array  # log probability divided by the length penalty
    log_probs_BxN: Array


@struct.dataclass
class _Finished:
    """Finished hypotheses, best first, each stored as its length, its last token and the beam that it extends."""

    scores_BxK: Array
    log_probs_BxK: Array
    lengths_BxK: Array
    parents_BxK: Array
    last_BxK: Array


class State(struct.PyTreeNode):
    """The state of a search. The cache has B x K rows, or B rows that beams share; all other arrays have B as first axis."""

    cache: Cache
    n_B: Array  # output tokens so far
    limit_B: Array
    done_B: Array

    @property
    def beams(self) -> int:
        """The number of beams, K."""
        return 1

    @property
    def shared(self) -> bool:
        """Whether each row of the cache belongs to all beams of a sentence."""
        return all(len(leaf) == len(self.n_B) for leaf in jax.tree.leaves(self.cache))

    def rows(self, numbers_R: Array) -> Array:
        """The rows of the cache that belong to the sentences with these indices."""
        if self.shared:
            return numbers_R
        return (numbers_R[:, None] * self.beams + jnp.arange(self.beams)[None]).reshape(-1)

    def select(self, numbers_R: Array) -> "State":
        """The state of the sentences with these indices."""
        rows, rest = self.rows(numbers_R), self.replace(cache=None)
        cache = jax.tree.map(lambda leaf: leaf[rows], self.cache)
        return jax.tree.map(lambda leaf: leaf[numbers_R], rest).replace(cache=cache)

    def put(self, numbers_R: Array, new: "State", put_cache: Callable[[Cache, Array, Cache], Cache]) -> "State":
        """Replaces the sentences with these indices by the R sentences of `new`. An index past the last is ignored."""
        new, cache = new.resize(self.room), put_cache(self.cache, self.rows(numbers_R), new.cache)
        old, rest = self.replace(cache=None), new.replace(cache=None)
        return jax.tree.map(lambda a, b: a.at[numbers_R].set(b, mode="drop"), old, rest).replace(cache=cache)

    @property
    def room(self) -> int:
        """The space for output tokens, L."""
        raise NotImplementedError

    def resize(self, room: int) -> "State":
        """The state with space for `room` output tokens, which must be at least the number of tokens so far."""
        raise NotImplementedError


def _resize(x: Array, room: int) -> Array:
    return jnp.pad(x[..., :room], [(0, 0)] * (x.ndim - 1) + [(0, max(room - x.shape[-1], 0))])


def _write(x: Array, new: Array, n_B: Array, active_B: Array) -> Array:
    """Appends an entry for each active sentence to an array B..xL, after its first `n_B` entries. (A scatter is slower.)"""
    here_BxL = (jnp.arange(x.shape[-1])[None] == n_B[:, None]) & active_B[:, None]
    return jnp.where(here_BxL.reshape(len(x), *[1] * (x.ndim - 2), -1), new[..., None], x)


class _GreedyState(State):
    """The state of a greedy search: the last token, the log probability and all tokens of each sentence."""

    last_B: Array
    log_probs_B: Array
    tokens_BxL: Array

    @property
    def room(self) -> int:
        return self.tokens_BxL.shape[-1]

    def resize(self, room: int) -> "_GreedyState":
        return self.replace(tokens_BxL=_resize(self.tokens_BxL, room))


class _BeamState(State):
    """The state of a beam search. Slot t holds token t of each beam, and the beam that held its first t tokens."""

    log_probs_BxK: Array  # of the live beams, best first; -inf for dead beams
    rows_BxK: Array  # the index of each beam's cache row among the rows of its sentence
    last_BxK: Array
    tokens_BxKxL: Array
    parents_BxKxL: Array
    finished: _Finished

    @property
    def beams(self) -> int:
        return self.last_BxK.shape[1]

    @property
    def room(self) -> int:
        return self.tokens_BxKxL.shape[-1]

    def resize(self, room: int) -> "_BeamState":
        tokens, parents = (_resize(each, room) for each in (self.tokens_BxKxL, self.parents_BxKxL))
        return self.replace(tokens_BxKxL=tokens, parents_BxKxL=parents)


def _only(token: int, logits_RxV: Array, rows_R: Array) -> Array:
    """Logits that allow only one token in these rows."""
    only_V = jnp.full(logits_RxV.shape[-1], -jnp.inf, logits_RxV.dtype).at[token].set(0.0)
    return jnp.where(rows_R[:, None], only_V[None], logits_RxV)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Takes the most probable token at each step (ties go to the lowest id), until `end` or the sentence's limit; N is 1.

    `max_length`: an upper bound of all limits. Scores are divided by PENALTIES[form] with `alpha`, which does not change the
    output. `scored=False`: log probabilities are not computed, which saves a pass over the logits, and are returned as 0.
    `force_end`: an output that reaches its limit ends with `end`, whose log probability is 0 there.
    """

    max_length: int
    end: int
    alpha: float = 0.0
    form: str = "gnmt"
    scored: bool = True
    force_end: bool = False
    beam_size: ClassVar[int] = 1

    def begin(self, cache: Cache, start_B: Array, limit_B: Array, room: int) -> State:
        """The state before the first token: see `find`."""
        limit_B = jnp.minimum(limit_B, self.max_length)
        return _GreedyState(
            cache=cache,
            n_B=jnp.zeros(start_B.shape, jnp.int32),
            limit_B=limit_B,
            done_B=limit_B <= 0,
            last_B=start_B.astype(jnp.int32),
            log_probs_B=jnp.where(limit_B > 0, 0.0, -jnp.inf),
            tokens_BxL=jnp.zeros((*start_B.shape, room), jnp.int32),
        )

    def run(self, step: Step, state: State, enough: Array | int, copy_rows: CopyRows = take_rows) -> State:
        """The state when so many sentences are done, or one that is not has no room. `copy_rows` is not needed."""
        return _run(lambda state: self._extend(step, state), state, enough)

    def finish(self, state: Any) -> Hypotheses:
        """What was found."""
        scores_B = state.log_probs_B / PENALTIES[self.form](jnp.maximum(state.n_B, 1), self.alpha)
        return Hypotheses(state.tokens_BxL[:, None], state.n_B[:, None], scores_B[:, None], state.log_probs_B[:, None])

    def _extend(self, step: Step, state: Any) -> State:
        logits_Bx1xV, cache = step(state.last_B[:, None], state.cache)
        logits_BxV = logits_Bx1xV[:, -1]
        if self.force_end:
            logits_BxV = _only(self.end, logits_BxV, state.n_B + 1 >= state.limit_B)
        gained_B, next_B = (best_Bx1[:, 0] for best_Bx1 in top_k_log_probs(logits_BxV, 1))
        next_B, active_B = jnp.where(state.done_B, 0, next_B), ~state.done_B
        log_probs_B = jnp.where(active_B, state.log_probs_B + gained_B, state.log_probs_B) if self.scored else state.log_probs_B
        n_B = state.n_B + active_B
        return state.replace(
            cache=cache,
            n_B=n_B,
            done_B=state.done_B | (next_B == self.end) | (n_B >= state.limit_B),
            last_B=next_B,
            log_probs_B=log_probs_B,
            tokens_BxL=_write(state.tokens_BxL, next_B, state.n_B, active_B),
        )


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search, which returns the `n_best` hypotheses by log probability / PENALTIES[form](length, alpha).

    Each step takes the 2 `beam_size` most probable continuations of a sentence's beams (ties go to the lower beam, then to the
    lower id). Continuations among the first `beam_size` that end are added to the finished hypotheses, of which the `beam_size`
    best are kept (ties go to the earlier one), as in fairseq and Transformers. The first `beam_size` continuations that do not
    end stay live. All hypotheses end at the limit. `stopping` decides when a sentence is done:

    - "filled": as soon as `beam_size` hypotheses are finished (fairseq, CTranslate2, Transformers' early_stopping=True);
    - "likely": when the best live beam, scored at its current length, is not better than the worst finished hypothesis
      (Transformers' early_stopping=False);
    - "bound": when no live beam can become better than the worst finished hypothesis (Transformers' early_stopping="never").
      With a penalty that grows with length this can take many more steps;
    - "limit": at the limit, with the same result as "bound".

    `force_end`: see `Greedy`. ValueError if n_best is larger than beam_size.
    """

    max_length: int
    end: int
    beam_size: int
    alpha: float
    n_best: int = 1
    form: str = "gnmt"
    stopping: str = "bound"
    force_end: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.beam_size:
            raise ValueError(f"n_best is {self.n_best}: must be between 1 and beam_size, {self.beam_size}")

    def begin(self, cache: Cache, start_B: Array, limit_B: Array, room: int) -> State:
        """The state before the first token: see `find`."""
        shape, limit_B = (start_B.shape[0], self.beam_size), jnp.minimum(limit_B, self.max_length)
        none_BxK, zeros_BxK = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
        zeros_BxKxL = jnp.zeros((*shape, room), jnp.int32)
        return _BeamState(
            cache=cache,
            n_B=jnp.zeros(start_B.shape, jnp.int32),
            limit_B=limit_B,
            done_B=limit_B <= 0,
            # All beams begin with the same token, so only one is live; otherwise all candidates would be the same.
            log_probs_BxK=none_BxK.at[:, 0].set(jnp.where(limit_B > 0, 0.0, -jnp.inf)),
            rows_BxK=jnp.broadcast_to(jnp.arange(self.beam_size)[None], shape),
            last_BxK=jnp.broadcast_to(start_B[:, None], shape).astype(jnp.int32),
            tokens_BxKxL=zeros_BxKxL,
            parents_BxKxL=zeros_BxKxL,
            finished=_Finished(none_BxK, none_BxK, zeros_BxK, zeros_BxK, zeros_BxK),
        )

    def run(self, step: Step, state: State, enough: Array | int, copy_rows: CopyRows = take_rows) -> State:
        """The state when so many sentences are done, or one that is not has no room."""
        # Scores and bounds use one table, so that both are rounded in the same way and bounds are exact. Slot n: n tokens.
        penalty_L = PENALTIES[self.form](jnp.arange(self.max_length + 1, dtype=jnp.float32), self.alpha)
        return _run(lambda state: self._extend(step, state, penalty_L, copy_rows), state, enough)

    def finish(self, state: Any) -> Hypotheses:
        """What was found."""
        best = jax.tree.map(lambda x_BxK: x_BxK[:, : self.n_best], state.finished)
        tokens_LxBxK, parents_LxBxK = (jnp.moveaxis(x_BxKxL, -1, 0) for x_BxKxL in (state.tokens_BxKxL, state.parents_BxKxL))
        return Hypotheses(_trace(best, tokens_LxBxK, parents_LxBxK), best.lengths_BxK, best.scores_BxK, best.log_probs_BxK)

    def _extend(self, step: Step, state: Any, penalty_L: Array, copy_rows: CopyRows) -> State:
        beam_size, shape, batch = self.beam_size, state.last_BxK.shape, state.last_BxK.shape[0]
        fed_BxK = jnp.take_along_axis(state.last_BxK, jnp.argsort(state.rows_BxK, axis=1), axis=1)
        logits, cache = step(fed_BxK if state.shared else fed_BxK.reshape(-1, 1), state.cache)
        # The best candidates of each beam, then the best of all beams.
        logits_RxV = logits.reshape(batch * beam_size, -1)
        if self.force_end:
            logits_RxV = _only(self.end, logits_RxV, jnp.repeat(state.n_B + 1 >= state.limit_B, beam_size))
        best = top_k_log_probs(logits_RxV, 2 * beam_size)
        rows_BxKx1, each = state.rows_BxK[:, :, None], best[0].shape[1]
        gained_BxKxC, tokens_BxKxC = (jnp.take_along_axis(x.reshape(*shape, each), rows_BxKx1, axis=1) for x in best)
        flat_BxKC = (state.log_probs_BxK[:, :, None] + gained_BxKxC).reshape(batch, -1)
        log_probs_BxC, index_BxC = jax.lax.top_k(flat_BxKC, min(2 * beam_size, flat_BxKC.shape[1]))
        log_probs_BxC = jnp.where(log_probs_BxC < IMPOSSIBLE, -jnp.inf, log_probs_BxC)
        parents_BxC, tokens_BxC = index_BxC // each, jnp.take_along_axis(tokens_BxKxC.reshape(batch, -1), index_BxC, axis=1)

        active_B = ~state.done_B
        n_B = state.n_B + active_B
        ends_BxC = (tokens_BxC == self.end) | (n_B >= state.limit_B)[:, None]
        likely_C = jnp.arange(ends_BxC.shape[1]) < beam_size
        scores_BxC = jnp.where(ends_BxC & likely_C[None], log_probs_BxC / penalty_L[n_B][:, None], -jnp.inf)
        lengths_BxC = jnp.broadcast_to(n_B[:, None], tokens_BxC.shape)
        found = _best(state.finished, _Finished(scores_BxC, log_probs_BxC, lengths_BxC, parents_BxC, tokens_BxC), beam_size)
        finished = jax.tree.map(lambda old, new: jnp.where(active_B[:, None], new, old), state.finished, found)

        log_probs_BxK, slot_BxK = jax.lax.top_k(jnp.where(ends_BxC, -jnp.inf, log_probs_BxC), beam_size)
        parents_BxK = jnp.take_along_axis(parents_BxC, slot_BxK, axis=1)
        last_BxK = jnp.take_along_axis(tokens_BxC, slot_BxK, axis=1)
        rows_BxK, from_BxK = _rows(state.rows_BxK, parents_BxK)
        from_BxK = jnp.where(active_B[:, None], from_BxK, jnp.arange(beam_size)[None])
        cache = copy_rows(cache, (jnp.arange(batch)[:, None] * beam_size + from_BxK).reshape(-1))

        done_B = state.done_B | (n_B >= state.limit_B)
        if self.stopping == "filled":
            done_B |= finished.scores_BxK[:, -1] > -jnp.inf
        elif self.stopping != "limit":
            best_B = log_probs_BxK[:, 0] / _mildest(penalty_L, n_B, state.limit_B, self.stopping)
            done_B |= best_B <= finished.scores_BxK[:, -1]
        return state.replace(
            cache=cache,
            n_B=n_B,
            done_B=done_B,
            log_probs_BxK=log_probs_BxK,
            rows_BxK=rows_BxK,
            last_BxK=last_BxK,
            tokens_BxKxL=_write(state.tokens_BxKxL, last_BxK, state.n_B, active_B),
            parents_BxKxL=_write(state.parents_BxKxL, parents_BxK, state.n_B, active_B),
            finished=finished,
        )


def make_rule(
    max_length: int,
    end: int,
    beam_size: int = 1,
    alpha: float = 0.0,
    n_best: int = 1,
    *,
    form: str = "gnmt",
    stopping: str = "bound",
    scored: bool = True,
    force_end: bool = False,
) -> Greedy | Beam:
    """A `Beam`, or a `Greedy` if `beam_size` is 1. Only `Greedy` can omit scores."""
    beam = Beam(max_length, end, beam_size, alpha, n_best, form, stopping, force_end)
    return Greedy(max_length, end, alpha, form, scored, force_end) if beam_size == 1 else beam


def find(rule: Greedy | Beam, step: Step, cache: Cache, start_B: Array, limit_B: Array) -> Hypotheses:
    """Runs the whole search of `rule` in one call.

    `start_B`: the first token that is fed for each sentence. `limit_B`: its maximum number of output tokens, including the end
    (0 for rows that only fill the batch; they have no hypothesis). `cache` has B x beam_size rows; row b x beam_size + k
    belongs to sentence b, beam k.
    """
    return rule.finish(rule.run(step, rule.begin(cache, start_B, limit_B, rule.max_length), len(start_B)))


def _run(extend: Callable[[State], State], state: State, enough: Array | int) -> State:
    def going(state: State) -> Array:
        return (jnp.sum(state.done_B) < enough) & ~jnp.any(~state.done_B & (state.n_B >= state.room))

    return jax.lax.while_loop(going, extend, state)


def _rows(rows_BxK: Array, parents_BxK: Array) -> tuple[Array, Array]:
    """The cache row of each new beam, and for each row of the cache the row from which it must be copied.

    The first child of a beam keeps the row of its parent; other children use the rows of beams without children.
    """
    parent_BxK = jnp.take_along_axis(rows_BxK, parents_BxK, axis=1)
    count = parents_BxK.shape[1]
    same_BxKxK = parents_BxK[:, :, None] == parents_BxK[:, None, :]
    first_BxK = ~jnp.any(same_BxKxK & jnp.tri(count, k=-1, dtype=bool)[None], axis=2)
    taken_BxK = jnp.any((parent_BxK[:, :, None] == jnp.arange(count)[None, None]), axis=1)
    free_BxK = jnp.argsort(taken_BxK, axis=1, stable=True)
    other_BxK = jnp.take_along_axis(free_BxK, jnp.cumsum(~first_BxK, axis=1) - 1, axis=1, mode="clip")
    new_BxK = jnp.where(first_BxK, parent_BxK, other_BxK)
    return new_BxK, jnp.take_along_axis(parent_BxK, jnp.argsort(new_BxK, axis=1), axis=1)


def _mildest(penalty_L: Array, n_B: Array, limit_B: Array, stopping: str) -> Array:
    """The penalty by which `stopping` divides the log probability of a live beam of `n_B` tokens to bound its future score.

    Log probabilities only decrease, so the bound uses the mildest penalty of all later lengths: that of the limit, or that of
    the next token if alpha < 0.
    """
    if stopping == "likely":
        return penalty_L[n_B]
    return jnp.maximum(penalty_L[jnp.maximum(limit_B, 0)], penalty_L[jnp.minimum(n_B + 1, len(penalty_L) - 1)])


def _best(old: _Finished, new: _Finished, count: int) -> _Finished:
    """The `count` best of both, best first. Ties go to the old ones, so that an equal hypothesis does not replace them."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), old, new)
    _, keep_BxK = jax.lax.top_k(both.scores_BxK, count)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, keep_BxK, axis=1), both)


def _trace(finished: _Finished, tokens_LxBxK: Array, parents_LxBxK: Array) -> Array:
    """The tokens BxNxL of N finished hypotheses, collected from the last token of each backwards along its parents."""

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
