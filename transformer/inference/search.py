"""Greedy and beam search over any pure `step(tokens_BxT, cache) -> (logits_BxTxV, cache)`; no model is known here.

What the search does not reorder (a memory) is closed over by the caller; every leaf of a cache has the batch axis first.
Each sentence has its own limit and its own number of tokens so far, so that a batch gives it what it gets alone, whenever it
joins. Meant to be called under jit, at one go (`find`) or in parts, between which the caller may put other sentences in the
place of those that are done, and give or take room.

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


class State(struct.PyTreeNode):
    """Of a search. All but the cache have the batch axis first; the cache has B x K rows."""

    cache: Cache
    n_B: Array  # output tokens so far
    limit_B: Array
    done_B: Array

    @property
    def beams(self) -> int:
        """K."""
        return 1

    def rows(self, numbers_R: Array) -> Array:
        """The cache's rows of the sentences with these numbers."""
        return (numbers_R[:, None] * self.beams + jnp.arange(self.beams)[None]).reshape(-1)

    def select(self, numbers_R: Array) -> "State":
        """The state of the sentences with these numbers alone."""
        rows, rest = self.rows(numbers_R), self.replace(cache=None)
        cache = jax.tree.map(lambda leaf: leaf[rows], self.cache)
        return jax.tree.map(lambda leaf: leaf[numbers_R], rest).replace(cache=cache)

    def put(self, numbers_R: Array, new: "State", put_cache: Callable[[Cache, Array, Cache], Cache]) -> "State":
        """The state with R sentences in the place of those with these numbers; of one past the last, nothing."""
        new, cache = new.with_room(self.room), put_cache(self.cache, self.rows(numbers_R), new.cache)
        old, rest = self.replace(cache=None), new.replace(cache=None)
        return jax.tree.map(lambda a, b: a.at[numbers_R].set(b, mode="drop"), old, rest).replace(cache=cache)

    @property
    def room(self) -> int:
        """L."""
        raise NotImplementedError

    def with_room(self, room: int) -> "State":
        """The same with room for so many output tokens, at least as many as there are."""
        raise NotImplementedError


def _with_room(x: Array, room: int) -> Array:
    return jnp.pad(x[..., :room], [(0, 0)] * (x.ndim - 1) + [(0, max(room - x.shape[-1], 0))])


def _write(x: Array, new: Array, n_B: Array, active_B: Array) -> Array:
    """B..xL with one more entry for each active sentence, behind the `n_B` that it has. (A scatter is slower.)"""
    here_BxL = (jnp.arange(x.shape[-1])[None] == n_B[:, None]) & active_B[:, None]
    return jnp.where(here_BxL.reshape(len(x), *[1] * (x.ndim - 2), -1), new[..., None], x)


class _Said(State):
    last_B: Array
    log_probs_B: Array
    tokens_BxL: Array

    @property
    def room(self) -> int:
        return self.tokens_BxL.shape[-1]

    def with_room(self, room: int) -> "_Said":
        return self.replace(tokens_BxL=_with_room(self.tokens_BxL, room))


class _Beams(State):
    """Slot t of tokens and parents: each beam's token t, and the beam that its first t tokens came from."""

    log_probs_BxK: Array  # of the beams alive, best first; -inf: dead
    rows_BxK: Array  # the row of the cache, of its sentence's, that each beam has
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

    def with_room(self, room: int) -> "_Beams":
        tokens, parents = (_with_room(each, room) for each in (self.tokens_BxKxL, self.parents_BxKxL))
        return self.replace(tokens_BxKxL=tokens, parents_BxKxL=parents)


def _only(token: int, logits_RxV: Array, rows_R: Array) -> Array:
    """Logits that leave one token in these rows."""
    only_V = jnp.full(logits_RxV.shape[-1], -jnp.inf, logits_RxV.dtype).at[token].set(0.0)
    return jnp.where(rows_R[:, None], only_V[None], logits_RxV)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at each step (of equals the lowest id), until `end` or the sentence's limit; N is 1.

    `max_length`: limits are cut to it. Scores are divided by PENALTIES[form] with `alpha`; it changes no choice.
    `scored=False`: log probabilities are not summed, which takes a pass over the logits, and those given are 0. `force_end`: at
    its limit an output ends with `end`, whose log probability is 0 there.
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
        return _Said(
            cache=cache,
            n_B=jnp.zeros(start_B.shape, jnp.int32),
            limit_B=limit_B,
            done_B=limit_B <= 0,
            last_B=start_B.astype(jnp.int32),
            log_probs_B=jnp.where(limit_B > 0, 0.0, -jnp.inf),
            tokens_BxL=jnp.zeros((*start_B.shape, room), jnp.int32),
        )

    def run(self, step: Step, state: State, enough: Array | int) -> State:
        """The state when so many sentences are done, or one that is not has no room."""
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
    """The `n_best` best of what a beam search finds, by log probability / PENALTIES[form](length, alpha).

    Each step takes the 2 `beam_size` most probable continuations of a sentence's beams (the lower beam, then the lower id, of
    equals). Those of the first `beam_size` that end join the finished, of which the `beam_size` best are kept (the
    earlier of equals), as in fairseq and Transformers; the first `beam_size` of those that do not end stay live. At its
    limit every hypothesis ends. When a sentence is done, `stopping` says:

    - "filled": as soon as `beam_size` are finished (fairseq, CTranslate2, Transformers' early_stopping=True);
    - "likely": when the best live beam, scored at its present length, is no better than the worst of these (Transformers'
      early_stopping=False);
    - "bound": when no beam alive can still become better than it (theirs, "never"). A score whose penalty is that of a long
      text may come long after all that was generated;
    - "limit": at its limit, with what "bound" gives.

    `force_end`: as Greedy's. n_best over beam_size: ValueError.
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
        return _Beams(
            cache=cache,
            n_B=jnp.zeros(start_B.shape, jnp.int32),
            limit_B=limit_B,
            done_B=limit_B <= 0,
            # All beams begin alike: one is alive, so that candidates differ.
            log_probs_BxK=none_BxK.at[:, 0].set(jnp.where(limit_B > 0, 0.0, -jnp.inf)),
            rows_BxK=jnp.broadcast_to(jnp.arange(self.beam_size)[None], shape),
            last_BxK=jnp.broadcast_to(start_B[:, None], shape).astype(jnp.int32),
            tokens_BxKxL=zeros_BxKxL,
            parents_BxKxL=zeros_BxKxL,
            finished=_Finished(none_BxK, none_BxK, zeros_BxK, zeros_BxK, zeros_BxK),
        )

    def run(self, step: Step, state: State, enough: Array | int) -> State:
        """The state when so many sentences are done, or one that is not has no room."""
        # One table for scores and bounds, so that both round alike and a bound is one to the bit. Slot n is for n tokens.
        penalty_L = PENALTIES[self.form](jnp.arange(self.max_length + 1, dtype=jnp.float32), self.alpha)
        return _run(lambda state: self._extend(step, state, penalty_L), state, enough)

    def finish(self, state: Any) -> Hypotheses:
        """What was found."""
        best = jax.tree.map(lambda x_BxK: x_BxK[:, : self.n_best], state.finished)
        tokens_LxBxK, parents_LxBxK = (jnp.moveaxis(x_BxKxL, -1, 0) for x_BxKxL in (state.tokens_BxKxL, state.parents_BxKxL))
        return Hypotheses(_trace(best, tokens_LxBxK, parents_LxBxK), best.lengths_BxK, best.scores_BxK, best.log_probs_BxK)

    def _extend(self, step: Step, state: Any, penalty_L: Array) -> State:
        beam_size, shape, batch = self.beam_size, state.last_BxK.shape, state.last_BxK.shape[0]
        fed_BxK = jnp.take_along_axis(state.last_BxK, jnp.argsort(state.rows_BxK, axis=1), axis=1)
        logits_RxTxV, cache = step(fed_BxK.reshape(-1, 1), state.cache)
        # Each beam's best candidates, then the best of all beams'.
        logits_RxV = logits_RxTxV[:, -1]
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
        cache = _copy_rows(cache, (jnp.arange(batch)[:, None] * beam_size + from_BxK).reshape(-1))

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
    """`Beam`; with `beam_size` 1 `Greedy`, which alone can do without scores."""
    beam = Beam(max_length, end, beam_size, alpha, n_best, form, stopping, force_end)
    return Greedy(max_length, end, alpha, form, scored, force_end) if beam_size == 1 else beam


def find(rule: Greedy | Beam, step: Step, cache: Cache, start_B: Array, limit_B: Array) -> Hypotheses:
    """What `rule` finds, at one go.

    `start_B`: the token each sentence is fed first. `limit_B`: its output tokens at most, the end included (0: a row that
    only fills the batch, which has no hypothesis). `cache` has B x beam_size rows, row b x beam_size + k of sentence b, beam k.
    """
    return rule.finish(rule.run(step, rule.begin(cache, start_B, limit_B, rule.max_length), len(start_B)))


def _run(extend: Callable[[State], State], state: State, enough: Array | int) -> State:
    def going(state: State) -> Array:
        return (jnp.sum(state.done_B) < enough) & ~jnp.any(~state.done_B & (state.n_B >= state.room))

    return jax.lax.while_loop(going, extend, state)


def _rows(rows_BxK: Array, parents_BxK: Array) -> tuple[Array, Array]:
    """The rows of new beams, and for each row of the cache the one that it is to be a copy of.

    The first beam of a parent has its row, so that it stays where it is; the others have those of beams without children.
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


def _copy_rows(cache: Cache, from_R: Array) -> Cache:
    """The cache, each row of which is a copy of the one with this number; a row that is copied is one that stays."""
    if jax.default_backend() != "cpu":
        return jax.tree.map(lambda leaf: leaf[from_R], cache)
    # On a CPU time goes by what is copied: large rows one by one, only those that change.
    changed_R = from_R != jnp.arange(len(from_R))
    order_R = jnp.argsort(~changed_R)

    def large(leaf: Array) -> bool:
        return leaf[0].size >= 1024

    def copy(n: Array, leaves: list[Array]) -> list[Array]:
        to, source = order_R[n], from_R[order_R[n]]
        return [jax.lax.dynamic_update_index_in_dim(leaf, leaf[source], to, 0) for leaf in leaves]

    leaves, structure = jax.tree.flatten(cache)
    copied = iter(jax.lax.fori_loop(0, jnp.sum(changed_R), copy, [leaf for leaf in leaves if large(leaf)]))
    return jax.tree.unflatten(structure, [next(copied) if large(leaf) else leaf[from_R] for leaf in leaves])


def _mildest(penalty_L: Array, n_B: Array, limit_B: Array, stopping: str) -> Array:
    """What the log probability of a beam of `n_B` tokens is divided by, in the best case that `stopping` thinks of.

    Log probability only falls, so a beam scores best with the mildest penalty ahead: the limit's (the next one's if alpha < 0).
    """
    if stopping == "likely":
        return penalty_L[n_B]
    return jnp.maximum(penalty_L[jnp.maximum(limit_B, 0)], penalty_L[jnp.minimum(n_B + 1, len(penalty_L) - 1)])


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
