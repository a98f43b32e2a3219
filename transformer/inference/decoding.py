"""Search with a model as `config.search` describes it, in a pool of slots for sentences (the search itself is search.py).

A sentence leaves the pool when it is done, and another sentence takes its slot, so that no step is wasted on finished ones. On
a CPU there are two pools, if there are enough sentences to fill both. Their programs run at the same time: when one uses only
one processor, the other uses the rest.

Letters: B sentences in the pool, R of them, S source tokens, T target tokens, N entries.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
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
from transformer.runtime.devices import processors

Array = jax.Array
Rule = search.Greedy | search.Beam
FEW = 4  # the pool shrinks to 1 / FEW of its slots once it needs no more
REFILL = 8  # the pool is refilled once 1 / REFILL of its slots are free
POOLS, BEAMS = 2, 64  # on a CPU: the number of pools, and the beams of a pool below which its products become slow


def positions_left(config: Config, source_length: int, limit: int) -> int:
    """`limit` output tokens, reduced to what a table of positions allows; in a decoder-only model the source uses it too."""
    if (most := most_positions(config)) is None:
        return limit
    return min(limit, most if families.FAMILIES[config.family].encodes else most - source_length)


def output_limit(config: Config, data_info: DataInfo, source_length: int) -> int:
    """The maximum number of output tokens, including the end, for a source of `source_length` tokens."""
    return positions_left(config, source_length, config.search.output_limit(source_length, data_info.longest_output))


def make_rule(config: Config, data_info: DataInfo, max_length: int, scored: bool = True, exact: bool = False) -> Rule:
    """The search that `config.search` describes, for outputs of at most `max_length` tokens, or (`exact`) of exactly this
    number of tokens, without an end."""
    chosen = config.search
    how: Any = {"form": chosen.penalty_form, "stopping": chosen.stopping, "scored": scored}
    how |= {"force_end": chosen.force_end and not exact}
    return search.make_rule(max_length, data_info.end, chosen.beam_size, chosen.length_penalty, chosen.n_best, **how)


# --- the pool: compiled functions -------------------------------------------------------------------------------------------


@struct.dataclass
class Pool:
    """The sentences in search: the memory of their sources (None if the cache contains the source) and the search's state."""

    memory: Any
    state: search.State

    def select(self, numbers_R: Array) -> "Pool":
        """The pool of the sentences with these indices."""
        return Pool(self.memory and self.memory.select(numbers_R), self.state.select(numbers_R))

    def put(self, numbers_R: Array, new: "Pool") -> "Pool":
        """Replaces the sentences with these indices by the R sentences of `new`. An index past the last is ignored."""
        memory = self.memory and self.memory.put(numbers_R, new.memory)
        return Pool(memory, self.state.put(numbers_R, new.state, caches.put_rows))

    def resize(self, length: int, room: int) -> "Pool":
        """The pool with space for `length` tokens of each source and `room` tokens of each output."""
        memory, state = self.memory and self.memory.resize(length), self.state.resize(room)
        slots = caches.slots_for(0 if memory else length, room, state.beams if state.shared else 1)
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
    """The pool before the first token, without space for output. The sources of a prefix LM are padded on the left.

    A row with limit 0 is empty. `slots`: the largest number of slots that the cache will have.
    """
    apply = functools.partial(model.apply, {"params": params})
    starts = jnp.full(limit_B.shape, data_info.start, jnp.int32)
    if hasattr(model, "encode"):
        memory = model.unstack_layers(params, apply(source_BxS, None, segments_BxS, method="encode"))[1]
        cache: Any = caches.resize(apply(memory, slots, len(limit_B), method="start"), 0)
        return Pool(memory, rule.begin(caches.share(cache, rule.beam_size), starts, limit_B, 0))
    # The source is a prefix in the cache: it is fed once for all beams. As in training, the source sees the start token, so the
    # start is fed here too; the search feeds it again.
    length = source_BxS.shape[1]
    cache = caches.resize(apply(None, slots, len(limit_B), method="start"), length + 1)  # type: ignore[arg-type]
    seen = jnp.concatenate([source_BxS, starts[:, None]], axis=1)
    valid = jnp.concatenate([segments_BxS > 0, jnp.ones_like(starts, bool)[:, None]], axis=1)
    fed: Any = apply(seen, cache, None, valid, True, method="step")[1]
    cache = caches.resize(fed | {"slot": fed["slot"] + length, "next": fed["next"] - 1}, length)
    return Pool(None, rule.begin(caches.share(cache, rule.beam_size), starts, limit_B, 0))


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
    """Searches until `enough` sentences are done or one needs more space. `exact`: no output token is the end. `positions`:
    the size of the model's table of positions, if it has one."""

    def step(tokens_BxT: Array, cache: Any) -> tuple[Array, Any]:
        if positions is not None:  # finished sentences continue too, but must not leave the table
            cache = cache | {"next": jnp.minimum(cache["next"], positions - 1)}
        logits_BxTxN, new = model.apply({"params": params}, tokens_BxT, cache, pool.memory, method="step")
        if data_info.first is not None:
            only_N = jnp.full(logits_BxTxN.shape[-1], MASKED).at[data_info.first].set(0.0)
            logits_BxTxN = jnp.where((cache["next"] == 0)[:, None, None], only_N[None, None], logits_BxTxN)
        return logits_BxTxN.at[..., data_info.end].set(MASKED) if exact else logits_BxTxN, new

    return Pool(pool.memory, rule.run(step, pool.state, enough, caches.copy_rows))


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
    """Searches in pools of `config.search.batch_size` slots in all, on a CPU in up to twice as many."""

    def __init__(self, model: Any, config: Config, data_info: DataInfo):
        self.config, self.data_info = config, data_info
        self.encodes, self.positions = hasattr(model, "encode"), most_positions(config)
        self.unstack, self.begin, self.advance = _programs(model, data_info)

    def __call__(
        self, params: Any, sources: Sequence[Sequence[int]], exact: Sequence[int] | None = None, scored: bool = True
    ) -> Iterator[tuple[int, search.Hypotheses]]:
        """Yields the index of each source and its hypotheses, without a batch axis, in the order in which they finish.

        `exact`: the exact number of output tokens for each source, none of them the end. `scored`: compute scores.
        """
        if not sources:
            return iter(())
        how = self.config.search
        count, size = 1, how.batch_size
        slots = max(-(-size // POOLS), min(size, BEAMS // how.beam_size))
        if len(sources) >= POOLS * slots and two_at_once():  # fewer sentences would leave slots empty
            count, size = POOLS, slots
        # The longest come first, so that the last ones are short and finish soon.
        order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
        arguments = self.unstack(params), sources, exact, scored, size
        return _found([_Run(self, order[first::count], *arguments) for first in range(count)])


def two_at_once() -> bool:
    """Whether two programs that run at the same time are faster than one after the other: on one device that is a CPU with
    several processors. Programs for several devices would wait for each other."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and processors() > 1


def _found(runs: list["_Run"]) -> Iterator[tuple[int, search.Hypotheses]]:
    """What the runs find. If there are several, each has a thread, because a thread's programs run one after the other."""
    if len(runs) == 1:
        yield from runs[0].found()
        return
    with futures.ThreadPoolExecutor(len(runs)) as threads:
        working = {threads.submit(run.advance): run for run in runs}
        while working:
            done, _ = futures.wait(working, return_when=futures.FIRST_COMPLETED)
            run, found = working.pop(one := done.pop()), one.result()
            if run.going():
                working[threads.submit(run.advance)] = run
            yield from found  # while the device computes


class _Run:
    """The search of some of the sources: its pool, and the sentence in each slot."""

    def __init__(
        self,
        own: Search,
        order: Sequence[int],
        params: Any,
        sources: Sequence[Sequence[int]],
        exact: Sequence[int] | None,
        scored: bool,
        size: int,
    ):
        """`order`: the numbers of the sources to search for. `size`: the number of slots."""
        config, data_info = own.config, own.data_info
        self.own, self.params, self.sources, self.scored = own, params, sources, scored
        self.exact = None if exact is None else round_length(max(exact))
        if exact is None:
            self.limits = {number: output_limit(config, data_info, len(sources[number])) for number in order}
        else:
            self.limits = {number: positions_left(config, len(sources[number]), exact[number]) for number in order}
        self.few = max(size // FEW, 1)
        self.size = size if len(order) > self.few else self.few
        self.at_once = max(self.size // REFILL, 1)
        longest = self._most_room(config.data.max_source_length)
        self.rule = make_rule(config, data_info, longest, scored, exact is not None)
        self.most_slots = longest if own.encodes else config.data.max_source_length + longest
        self.batches = [order[start : start + self.size] for start in range(0, len(order), self.size)][::-1]
        self._read()
        self.pool, self.shape = self.read, (0, 0, 0)  # slots, space for source tokens, space for output tokens
        self.owner_B = np.array([*self.numbers, *[-1] * (self.size - len(self.numbers))])  # -1: the slot is free
        self.n_B, self.at = np.zeros(self.size, int), len(self.numbers)

    def going(self) -> bool:
        """Whether sentences are in search."""
        return bool(np.any(self.owner_B >= 0))

    def found(self) -> Iterator[tuple[int, search.Hypotheses]]:
        """What the run finds."""
        done = []
        while self.going():
            self._start()
            yield from done  # while the device computes
            done = self._collect()
        yield from done

    def advance(self) -> list[tuple[int, search.Hypotheses]]:
        """Searches until some sentences are done, and returns these with their hypotheses. Others take their slots."""
        self._start()
        return self._collect()

    def _start(self) -> None:
        fixed: dict[str, Any] = {"rule": self.rule, "exact": self.exact is not None, "positions": self.own.positions}
        enough = self._arrange()
        self.pool = self.own.advance(self.params, self.pool, enough, **fixed)

    def _collect(self) -> list[tuple[int, search.Hypotheses]]:
        found, done_B, self.n_B = jax.device_get(_look(self.rule, self.pool.state))
        found = found if self.scored else found.replace(scores_BxN=None, log_probs_BxN=None)
        rows = np.flatnonzero(done_B & (self.owner_B >= 0))
        done = [(int(self.owner_B[row]), jax.tree.map(lambda leaf, row=row: leaf[row], found)) for row in rows]
        self.owner_B[rows] = -1
        self._fill()
        return done

    def _fill(self) -> None:
        """Puts waiting sentences into free slots."""
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
        """Resizes the pool as needed. Returns the number of slots that must be free or done before the search pauses."""
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
        """Encodes the next batch of sentences."""
        self.numbers, self.at = self.batches.pop(), 0
        rows = [[*self.sources[number]] for number in self.numbers] + [[]] * (self.size - len(self.numbers))
        tokens, segments = pad(rows, self._length(len(rows[0])), left=not self.own.encodes)
        limits = np.array([self.limits[number] for number in self.numbers] + [0] * (self.size - len(self.numbers)), np.int32)
        self.read = self.own.begin(self.params, tokens, segments, limits, rule=self.rule, slots=self.most_slots)

    def _length(self, tokens: int) -> int:
        """The padded length for sources of `tokens` tokens, at most the maximum, because a table of positions may end there."""
        return min(round_length(tokens), self.own.config.data.max_source_length)

    def _most_room(self, length: int) -> int:
        """The space that is sufficient for the output of every source of this length."""
        config, data_info = self.own.config, self.own.data_info
        wanted = self.exact or config.search.output_limit(length, data_info.longest_output)
        return positions_left(config, 0, wanted)


def first_room(length: int, most: int) -> int:
    """The initial space for outputs of sources of `length` tokens: about `length`, or `most` if that is hardly more.

    A step takes longer with more space, and most outputs are about as long as their source, but some may be much longer."""
    first = round_length(length + 1)
    return first if 4 * first <= 3 * most else most
