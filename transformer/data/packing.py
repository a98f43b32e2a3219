"""Packing of several examples into a row. The plan is made once per run and depends only on lengths.

Packing works on the histogram of lengths, so its cost depends on the number of distinct lengths, not on the number of examples:
a pattern (a multiset of lengths that fills a row well) is found once, and used until its lengths are exhausted.
"""

import dataclasses
import math

import numpy as np

from transformer.data.corpus import concatenated_ranges

MOST_LENGTHS = 1000  # distinct lengths between which buckets are chosen; the memory grows with its square


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A plan of rows. A slot is the place of one example: row r has the slots `row_starts[r]` to `row_starts[r + 1]`.

    Slot i holds the `order[i]`-th example of type `slot_types[i]`; type k has the examples `members[starts[k]:starts[k + 1]]`.
    Each epoch permutes the rows, and the members within their type. So every epoch has the same number of rows, but other
    examples share a row.
    """

    shape: tuple[int, ...]  # token slots of a row, for each sequence
    row_starts: np.ndarray
    slot_types: np.ndarray
    order: np.ndarray
    members: np.ndarray  # example numbers
    starts: np.ndarray
    tokens: int  # filled token slots of all rows and sequences

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    @property
    def padding(self) -> float:
        """The fraction of token slots of all rows and sequences that are empty."""
        return 1.0 - self.tokens / max(self.num_rows * sum(self.shape), 1)

    def shuffled(self, generator: np.random.Generator) -> np.ndarray:
        """`members`, permuted within each type."""
        types = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return self.members[np.lexsort((generator.random(len(types)), types))]

    def examples(self, rows_R: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples in the rows `rows_R` (ascending), and for each example the index of its row in `rows_R`."""
        sizes = self.row_starts[rows_R + 1] - self.row_starts[rows_R]
        slots = concatenated_ranges(self.row_starts[rows_R], sizes)
        return members[self.starts[self.slot_types[slots]] + self.order[slots]], np.repeat(np.arange(len(rows_R)), sizes)


def choose_shape(lengths_NxA: np.ndarray, target_slots: int) -> tuple[int, ...]:
    """The number of slots of each sequence in a row: `target_slots` for the last, and for the others in proportion to their
    tokens, but at least the length of their longest example."""
    totals, longest = lengths_NxA.sum(axis=0), lengths_NxA.max(axis=0)
    others = [max(int(long), math.ceil(target_slots * total / totals[-1])) for long, total in zip(longest, totals, strict=True)]
    return (*others[:-1], target_slots)


def pack(lengths_NxA: np.ndarray, shape: tuple[int, ...]) -> Plan:
    """Packs every example once into rows of `shape` slots. There are N examples of A = 1 or 2 sequences, none longer than
    `shape`.

    Each row starts with the largest remaining example. Then the type with the largest dot product with the remaining space is
    added (vector packing; Panigrahy et al. 2011), because it fits the shape of that space. As soon as one or two examples would
    fill the remaining space exactly, they are added.
    """
    room = np.asarray(shape, np.int64)
    lengths_N = np.ravel_multi_index(
        tuple(lengths_NxA.T), tuple(room + 1)
    )  # one number for each example sorts ten times as fast
    lengths_K, type_N, counts_K = np.unique(lengths_N, return_inverse=True, return_counts=True)
    types_KxA = np.stack(np.unravel_index(lengths_K, tuple(room + 1)), axis=1)
    left = counts_K.copy()
    size_K = np.max(types_KxA / room, axis=1, initial=0.0)
    by_size = np.argsort(-size_K, kind="stable")
    patterns: list[np.ndarray] = []
    uses: list[int] = []
    first = 0
    while True:
        while first < len(by_size) and left[by_size[first]] == 0:
            first += 1
        if first == len(by_size):
            break
        alive = by_size[first:][left[by_size[first:]] > 0]
        pattern = _fill(types_KxA, lengths_K, left, alive, room)
        kinds, multiplicities = np.unique(pattern, return_counts=True)
        use = int(np.min(left[kinds] // multiplicities))
        left[kinds] -= use * multiplicities
        patterns.append(np.asarray(pattern))
        uses.append(use)
    return _plan(shape, types_KxA, type_N, counts_K, patterns, uses)


def _fill(types_KxA: np.ndarray, lengths_K: np.ndarray, left_K: np.ndarray, alive: np.ndarray, room: np.ndarray) -> list[int]:
    """The types of one row, largest first. `alive`: types with remaining examples, largest first; `lengths_K`: as in `pack`."""
    left_K = left_K.copy()
    pattern, free, sizes = [], room, types_KxA[alive] / room
    chosen = 0
    while True:
        kind = int(alive[chosen])
        pattern.append(kind)
        free = free - types_KxA[kind]
        left_K[kind] -= 1
        fits = np.all(types_KxA[alive] <= free, axis=1) & (left_K[alive] > 0)
        if not fits.any():
            return pattern
        alive, sizes = alive[fits], sizes[fits]
        if (rest := _completion(types_KxA, lengths_K, left_K, alive, free, room)) is not None:
            return pattern + rest
        chosen = int(np.argmax(sizes @ (free / room)))


def _completion(
    types_KxA: np.ndarray, lengths_K: np.ndarray, left_K: np.ndarray, alive: np.ndarray, free: np.ndarray, room: np.ndarray
) -> list[int] | None:
    """One or two of the types `alive` that fill `free` exactly, or None if there are none."""
    missing_NxA = np.concatenate([free[None], free - types_KxA[alive]])  # after none, and after each of them
    lengths_N = np.ravel_multi_index(tuple(missing_NxA.T), tuple(room + 1))
    found_N = np.minimum(np.searchsorted(lengths_K, lengths_N), len(lengths_K) - 1)
    firsts_N = np.concatenate([[-1], alive])
    there_N = (lengths_K[found_N] == lengths_N) & (left_K[found_N] > (found_N == firsts_N))
    if not there_N.any():
        return None
    place = int(np.argmax(there_N))
    return [int(i) for i in (firsts_N[place], found_N[place]) if i >= 0]


def _plan(
    shape: tuple[int, ...],
    types_KxA: np.ndarray,
    type_N: np.ndarray,
    counts_K: np.ndarray,
    patterns: list[np.ndarray],
    uses: list[int],
) -> Plan:
    slot_types = np.concatenate([np.tile(p, u) for p, u in zip(patterns, uses, strict=True)] or [np.zeros(0, np.int64)])
    sizes = np.repeat(np.array([len(p) for p in patterns], np.int64), np.array(uses, np.int64))
    starts = np.concatenate([[0], np.cumsum(counts_K)])
    by_type = np.argsort(slot_types, kind="stable")
    order = np.empty(len(slot_types), np.int64)
    order[by_type] = np.arange(len(slot_types)) - starts[slot_types[by_type]]
    return Plan(
        shape=tuple(shape),
        row_starts=np.concatenate([[0], np.cumsum(sizes)]),
        slot_types=slot_types,
        order=order,
        members=np.argsort(type_N, kind="stable"),
        starts=starts,
        tokens=int((types_KxA * counts_K[:, None]).sum()),
    )


def buckets(lengths_NxA: np.ndarray, count: int) -> np.ndarray:
    """At most `count` upper bounds of an example's longest sequence that minimize padding (dynamic programming).

    If there are more than MOST_LENGTHS lengths, only every k-th of them may be a bound.
    """
    values, counts = np.unique(lengths_NxA.max(axis=1), return_counts=True)
    first_K = np.arange(0, len(values), -(-len(values) // MOST_LENGTHS))
    values, counts = values[np.append(first_K[1:], len(values)) - 1], np.add.reduceat(counts, first_K)
    before = np.concatenate([[0], np.cumsum(counts)])
    cost_JxI = np.where(  # slots of a bucket that holds the values j .. i
        np.arange(len(values))[:, None] <= np.arange(len(values)), (before[None, 1:] - before[:-1, None]) * values, np.inf
    )
    best, cuts = cost_JxI[0], []
    for _ in range(min(count, len(values)) - 1):
        total_JxI = np.concatenate([[np.inf], best[:-1]])[:, None] + cost_JxI
        cuts.append(np.argmin(total_JxI, axis=0))
        best = np.min(total_JxI, axis=0)
    bounds, end = [len(values) - 1], len(values) - 1
    for cut in reversed(cuts):
        end = int(cut[end]) - 1
        if end < 0:
            break
        bounds.append(end)
    return values[bounds[::-1]]
