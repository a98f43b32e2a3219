"""What `config.search` finds for sources: search.py over a model, in a pool of slots for sentences.

A sentence leaves the pool when it is done, and the next one takes its slot, so that no step is spent on what is done.

Letters: B sentences in the pool, R of them, S source tokens, T target tokens, N entries.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from transformer import families
from transformer.components.attention import MASKED
from transformer.config import Config, DataInfo
from transformer.inference import search
from transformer.inference.loading import most_positions, pad, round_length
from transformer.models import cache as caches

Array = jax.Array
Rule = search.Greedy | search.Beam
FEW = 4  # once no more than one slot in so many is needed, there are only so many slots
REFILL = 8  # one slot in so many is free before the pool is filled up again


def positions_left(config: Config, source_length: int, limit: int) -> int:
    """As many of `limit` output tokens as a table of positions has room for; a decoder alone has its source in it, too."""
    if (most := most_positions(config)) is None:
        return limit
    return min(limit, most if families.FAMILIES[config.family].encodes else most - source_length)


def output_limit(config: Config, data_info: DataInfo, source_length: int) -> int:
    """The limit of output tokens, end included, for a source of so many tokens."""
    return positions_left(config, source_length, config.search.output_limit(source_length, data_info.longest_output))


def make_rule(config: Config, data_info: DataInfo, max_length: int, scored: bool = True, exact: bool = False) -> Rule:
    """How `config.search` searches, for outputs of at most `max_length` tokens, or of exactly that many, without an end."""
    asked = config.search
    how: Any = {"form": asked.penalty_form, "stopping": asked.stopping, "scored": scored}
    how |= {"force_end": asked.force_end and not exact}
    return search.make_rule(max_length, data_info.end, asked.beam_size, asked.length_penalty, asked.n_best, **how)


# --- the pool: what is compiled ---------------------------------------------------------------------------------------------


@struct.dataclass
class Pool:
    """Sentences that are searched for: what the model knows of their sources (None: their cache has it), and the search."""

    memory: Any
    state: search.State

    def select(self, numbers_R: Array) -> "Pool":
        """These sentences alone."""
        return Pool(self.memory and self.memory.select(numbers_R), self.state.select(numbers_R))

    def put(self, numbers_R: Array, new: "Pool") -> "Pool":
        """With R sentences in the place of those with these numbers; of one past the last, nothing."""
        memory = self.memory and self.memory.put(numbers_R, new.memory)
        return Pool(memory, self.state.put(numbers_R, new.state, caches.put_rows))

    def resize(self, length: int, room: int) -> "Pool":
        """With room for so many tokens of each source and output."""
        slots = room if self.memory else length + room
        memory, state = self.memory and self.memory.resize(length), self.state.with_room(room)
        return Pool(memory, state.replace(cache=caches.resize(state.cache, slots)))


def begin(
    model: Any,
    data_info: DataInfo,
    params: Any,
    source_BxS: Array,
    segments_BxS: Array,
    limit_B: Array,
    *,
    rule: Rule,
    slots: int,
) -> Pool:
    """Sentences before their first token, with no room for it. Sources of a prefix LM end at the right. A limit of 0: nothing.

    `slots`: as many as the cache will ever have.
    """
    apply = functools.partial(model.apply, {"params": params})
    starts = jnp.full(limit_B.shape, data_info.start, jnp.int32)
    if hasattr(model, "encode"):
        memory = model.unstack_layers(params, apply(source_BxS, None, segments_BxS, method="encode"))[1]
        cache: Any = apply(memory, slots, rule.beam_size * len(limit_B), method="start")
        return Pool(memory, rule.begin(caches.resize(cache, 0), starts, limit_B, 0))
    # The source is a prefix in the cache, fed once and then shared out to the beams. It sees the start, as in training, which
    # the search feeds again.
    length = source_BxS.shape[1]
    cache = caches.resize(apply(None, slots, len(limit_B), method="start"), length + 1)  # type: ignore[arg-type]
    seen = jnp.concatenate([source_BxS, starts[:, None]], axis=1)
    valid = jnp.concatenate([segments_BxS > 0, jnp.ones_like(starts, bool)[:, None]], axis=1)
    fed: Any = apply(seen, cache, None, valid, True, method="step")[1]
    cache = caches.resize(fed | {"slot": fed["slot"] + length, "next": fed["next"] - 1}, length)
    return Pool(
        None, rule.begin(jax.tree.map(lambda leaf: jnp.repeat(leaf, rule.beam_size, axis=0), cache), starts, limit_B, 0)
    )


def advance(
    model: Any,
    data_info: DataInfo,
    params: Any,
    pool: Pool,
    enough: Array | int,
    *,
    rule: Rule,
    exact: bool,
    positions: int | None,
) -> Pool:
    """The pool when so many sentences are done, or one needs more room. `exact`: no token is the end. `positions`: the size
    of the model's table of them, if it has one."""

    def step(tokens_BxT: Array, cache: Any) -> tuple[Array, Any]:
        if positions is not None:  # a sentence that is done walks on, but not to where there is nothing
            cache = cache | {"next": jnp.minimum(cache["next"], positions - 1)}
        logits_BxTxN, new = model.apply({"params": params}, tokens_BxT, cache, pool.memory, method="step")
        if data_info.first is not None:
            only_N = jnp.full(logits_BxTxN.shape[-1], MASKED).at[data_info.first].set(0.0)
            logits_BxTxN = jnp.where((cache["next"] == 0)[:, None, None], only_N[None, None], logits_BxTxN)
        return logits_BxTxN.at[..., data_info.end].set(MASKED) if exact else logits_BxTxN, new

    return Pool(pool.memory, rule.run(step, pool.state, enough))


@functools.lru_cache(maxsize=64)  # equal models share their programs
def _programs(model: Any, data_info: DataInfo) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    return (
        jax.jit(lambda params: model.unstack_layers(params, None)[0]),
        jax.jit(functools.partial(begin, model, data_info), static_argnames=("rule", "slots")),
        jax.jit(
            functools.partial(advance, model, data_info),
            static_argnames=("rule", "exact", "positions"),
            donate_argnames="pool",
        ),
    )


_put = jax.jit(lambda pool, numbers, new, of: pool.put(numbers, new.select(of)), donate_argnums=0)
_resize = jax.jit(lambda pool, numbers, length, room: pool.select(numbers).resize(length, room), static_argnums=(2, 3))
_look = jax.jit(lambda rule, state: (rule.finish(state), state.done_B, state.n_B), static_argnums=0)


# --- sentences into the pool and out of it ------------------------------------------------------------------------------------


class Search:
    """Searches in a pool of `config.search.batch_size` slots."""

    def __init__(self, model: Any, config: Config, data_info: DataInfo):
        self.config, self.data_info = config, data_info
        self.encodes, self.positions = hasattr(model, "encode"), most_positions(config)
        self.unstack, self.begin, self.advance = _programs(model, data_info)

    def __call__(
        self, params: Any, sources: Sequence[Sequence[int]], exact: Sequence[int] | None = None, scored: bool = True
    ) -> Iterator[tuple[int, search.Hypotheses]]:
        """The number of each source and what is found for it, without an axis of sentences, as they are done.

        `exact`: outputs have exactly so many tokens, none of them the end. `scored`: with scores.
        """
        return _Run(self, params, sources, exact, scored).found() if sources else iter(())


class _Run:
    """One call of a search: its pool, and which sentence is in which slot."""

    def __init__(self, own: Search, params: Any, sources: Sequence[Sequence[int]], exact: Sequence[int] | None, scored: bool):
        config, data_info, size = own.config, own.data_info, own.config.search.batch_size
        self.own, self.params, self.sources, self.scored = own, params, sources, scored
        self.exact = None if exact is None else round_length(max(exact))
        if exact is None:
            self.limits = [output_limit(config, data_info, len(source)) for source in sources]
        else:
            self.limits = [positions_left(config, len(source), n) for source, n in zip(sources, exact, strict=True)]
        self.few = max(size // FEW, 1)
        self.size = size if len(sources) > self.few else self.few
        self.at_once = max(self.size // REFILL, 1)
        longest = self._most_room(config.data.max_source_length)
        self.rule = make_rule(config, data_info, longest, scored, exact is not None)
        self.most_slots = longest if own.encodes else config.data.max_source_length + longest
        # The longest first: those that are left at last are short, and done soon.
        order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
        self.batches = [order[start : start + self.size] for start in range(0, len(order), self.size)][::-1]
        self._read()
        self.pool, self.shape = self.read, (0, 0, 0)  # slots, and room for tokens of sources and outputs
        self.owner_B = np.array([*self.numbers, *[-1] * (self.size - len(self.numbers))])  # -1: the slot is free
        self.n_B, self.at = np.zeros(self.size, int), len(self.numbers)

    def found(self) -> Iterator[tuple[int, search.Hypotheses]]:
        """As `Search`."""
        params, done = self.own.unstack(self.params), []
        fixed: dict[str, Any] = {"rule": self.rule, "exact": self.exact is not None, "positions": self.own.positions}
        while np.any(self.owner_B >= 0):
            enough = self._arrange()
            self.pool = self.own.advance(params, self.pool, enough, **fixed)
            yield from done  # while the pool works
            found, done_B, self.n_B = jax.device_get(_look(self.rule, self.pool.state))
            found = found if self.scored else found.replace(scores_BxN=None, log_probs_BxN=None)
            rows = np.flatnonzero(done_B & (self.owner_B >= 0))
            done = [(int(self.owner_B[row]), jax.tree.map(lambda leaf, row=row: leaf[row], found)) for row in rows]
            self.owner_B[rows] = -1
            self._fill()
        yield from done

    def _fill(self) -> None:
        """Puts sentences that wait into slots that are free."""
        free = np.flatnonzero(self.owner_B < 0)
        while len(free) and self._waiting():
            if self.at == len(self.numbers):
                self._read()
            slots = free[: min(self.at_once, len(self.numbers) - self.at)]
            numbers, of = np.full(self.at_once, len(self.owner_B)), np.zeros(self.at_once, int)
            numbers[: len(slots)], of[: len(slots)] = slots, self.at + np.arange(len(slots))
            self.pool = _put(self.pool, numbers, self.read, of)
            self.owner_B[slots] = self.numbers[self.at : self.at + len(slots)]
            self.n_B = np.where(np.isin(np.arange(len(self.n_B)), slots), 0, self.n_B)
            self.at, free = self.at + len(slots), free[len(slots) :]

    def _arrange(self) -> int:
        """Gives the pool the size that it needs; returns how many slots are free or done when it is looked at again."""
        size, waiting = len(self.owner_B), self._waiting()
        busy, free = np.flatnonzero(self.owner_B >= 0), np.flatnonzero(self.owner_B < 0)
        rows = np.arange(size)
        if not waiting and len(busy) <= self.few < size:
            rows = np.concatenate([busy, free[: self.few - len(busy)]])
        numbers = [*self.owner_B[busy], *self.numbers[self.at :][:1]]
        length = max(self._length(len(self.sources[number])) for number in numbers)
        room = most = self._most_room(length)
        if self.exact is None and self.n_B[busy].max() < first_room(length, most):
            room = first_room(length, most)
        if (shape := (len(rows), length, room)) != self.shape:
            self.pool, self.shape = _resize(self.pool, rows, length, room), shape
            self.owner_B, self.n_B = self.owner_B[rows], self.n_B[rows]
        if waiting:
            return size - len(busy) + self.at_once
        return len(rows) if len(busy) <= self.few else size - self.few

    def _waiting(self) -> bool:
        return self.at < len(self.numbers) or bool(self.batches)

    def _read(self) -> None:
        """The next batch of sentences."""
        self.numbers, self.at = self.batches.pop(), 0
        rows = [[*self.sources[number]] for number in self.numbers] + [[]] * (self.size - len(self.numbers))
        tokens, segments = pad(rows, self._length(len(rows[0])), left=not self.own.encodes)
        limits = np.array([self.limits[number] for number in self.numbers] + [0] * (self.size - len(self.numbers)), np.int32)
        self.read = self.own.begin(self.params, tokens, segments, limits, rule=self.rule, slots=self.most_slots)

    def _length(self, tokens: int) -> int:
        """The compiled length of sources of so many tokens: no more than any may have, where a table of positions may end."""
        return min(round_length(tokens), self.own.config.data.max_source_length)

    def _most_room(self, length: int) -> int:
        """Room for the outputs of all sources of this length."""
        config, data_info = self.own.config, self.own.data_info
        wanted = self.exact or config.search.output_limit(length, data_info.longest_output)
        return positions_left(config, 0, wanted)


def first_room(length: int, most: int) -> int:
    """Room for outputs of sources of `length` tokens at first: about as much, or all if that is hardly more.

    A step takes the longer the more room there is, and outputs are about as long as sources, but may be much longer."""
    first = round_length(length + 1)
    return first if 4 * first <= 3 * most else most
