"""Batches by index: (seed, step) -> the global batch. packing.py plans once per run which examples share a row.

A batch is a dict of arrays whose first axis is the row. It is filled to a fixed number of rows with empty ones, which have
segment 0 and weight 0. Grain prefetches batches. With several processes, each makes only the rows of its own devices.
"""

import dataclasses
import functools
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from absl import flags

from transformer.config import Data
from transformer.cuts import Cut, some
from transformer.data import packing
from transformer.data.corpus import concatenated_ranges
from transformer.data.objectives import Corpus, Objective
from transformer.errors import UserError, counted
from transformer.parent import end_with_parent

Batch = dict[str, np.ndarray]
Share = tuple[tuple[int, ...], int]
ORDER, COMPANY = 2, 3  # random streams, in addition to initialization (0) and dropout (1)
LEAST_ROW = 64


@dataclasses.dataclass(frozen=True)
class Rows:
    """How devices share a batch. Empty rows fill it to a multiple of `multiple`, so that its examples do not depend on it.

    The batch is divided into `count` equal parts, of which only `parts` (ascending) are made.
    """

    multiple: int = 1
    parts: tuple[int, ...] = (0,)
    count: int = 1

    def height(self, rows: int) -> int:
        """The number of rows of the whole batch."""
        return -(-rows // self.multiple) * self.multiple


class Batches(Sequence[Batch]):
    """The batches of a split. With `shuffle`, batch n is that of update n, without end; else `len` batches contain each example
    once."""

    def __init__(self, corpus: Corpus, objective: Objective, kept: np.ndarray, seed: int, shuffle: bool, of: Rows):
        self.corpus, self.objective, self.kept, self.seed, self.shuffle = corpus, objective, kept, seed, shuffle
        self.of = of

    @property
    def padding(self) -> float:
        """The fraction of empty slots in the batches of an epoch, over all sequences, including empty rows.

        In training it is the mean of `train/padding_share` over an epoch.
        """
        raise NotImplementedError

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]
        if number < 0 or not self.shuffle and number >= len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return self._batch(number)

    def _batch(self, number: int) -> Batch:
        raise NotImplementedError

    def __getstate__(self) -> dict:
        """The state without cached permutations, which a worker process draws itself."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def _generator(self, stream: int, *path: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, *path))

    def _assemble(self, index_N: np.ndarray, epoch_N: np.ndarray, row_N: np.ndarray, rows: int, shape: Sequence[int]) -> Batch:
        """A batch in which example `index_N[i]` is appended to row `row_N[i]` (ascending); only the rows of this process."""
        parts, size = np.asarray(self.of.parts), self.of.height(rows) // self.of.count
        mine = np.isin(row_N // size, parts)
        index_N, epoch_N, row_N = index_N[mine], epoch_N[mine], row_N[mine]
        row_N, rows = np.searchsorted(parts, row_N // size) * size + row_N % size, len(parts) * size
        features = self.objective.features_batch(self.corpus, self.kept[index_N], epoch_N)
        first_of_row = np.searchsorted(row_N, row_N)
        segment_N = np.arange(len(row_N)) - first_of_row + 1
        batch: Batch = {}
        for sequence, slots in zip(self.objective.sequences, shape, strict=True):
            length_N = features[next(iter(sequence.features))].lengths
            ends = np.cumsum(length_N)
            before_N = (ends - length_N) - (ends - length_N)[first_of_row]
            place = concatenated_ranges(row_N * slots + before_N, length_N)
            arrays = {name: (features[name].values, dtype) for name, dtype in sequence.features.items()}
            arrays[sequence.positions] = (concatenated_ranges(np.zeros_like(length_N), length_N), np.int32)
            arrays[sequence.segments] = (np.repeat(segment_N, length_N), np.int32)
            for name, (values, dtype) in arrays.items():
                flat = np.zeros(rows * slots, dtype)
                flat[place] = values
                batch[name] = flat.reshape(rows, slots)
        return batch


class Packed(Batches):
    """Batches with several examples in a row; the batch of an update may contain rows of two epochs."""

    def __init__(self, *arguments, plan: packing.Plan, rows: int):
        super().__init__(*arguments)
        self.plan, self.rows = plan, rows

    @property
    def padding(self) -> float:
        slots = len(self) * self.of.height(self.rows) * sum(self.plan.shape)
        if self.shuffle:  # an epoch begins in the batch in which the previous one ends
            slots = self.plan.num_rows / self.rows * self.of.height(self.rows) * sum(self.plan.shape)
        return 1.0 - self.plan.tokens / slots

    @functools.cached_property
    def _rows_of_epoch(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        return functools.lru_cache(4)(self._permute)

    def _permute(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of rows in an epoch, and the order of examples within each type."""
        if not self.shuffle:
            return np.arange(self.plan.num_rows), self.plan.members
        return (
            self._generator(ORDER, epoch).permutation(self.plan.num_rows),
            self.plan.shuffled(self._generator(COMPANY, epoch)),
        )

    def __len__(self) -> int:
        return -(-self.plan.num_rows // self.rows)

    def _batch(self, number: int) -> Batch:
        wanted = np.arange(number * self.rows, (number + 1) * self.rows)
        if not self.shuffle:
            wanted = wanted[wanted < self.plan.num_rows]
        epochs = wanted // self.plan.num_rows
        parts = []
        for epoch in np.unique(epochs):
            (order, members), mine = self._rows_of_epoch(int(epoch)), epochs == epoch
            index_N, row_N = self.plan.examples(order[wanted[mine] % self.plan.num_rows], members)
            parts.append((index_N, np.full(len(index_N), epoch), row_N + np.flatnonzero(mine)[0]))
        index_N, epoch_N, row_N = (np.concatenate(p) for p in zip(*parts, strict=True))
        return self._assemble(index_N, epoch_N, row_N, self.rows, self.plan.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Examples of similar length: `shape` slots for each sequence, `rows` examples per batch."""

    members: np.ndarray
    shape: tuple[int, ...]
    rows: int

    @property
    def batches(self) -> int:
        return -(-len(self.members) // self.rows)


class Bucketed(Batches):
    """Batches with one example in a row, in a few shapes; the last batch of a bucket in an epoch has empty rows."""

    def __init__(self, *arguments, buckets: Sequence[Bucket], tokens: int):
        super().__init__(*arguments)
        self.buckets, self.tokens = buckets, tokens
        self.numbers = [(b, n) for b, bucket in enumerate(buckets) for n in range(bucket.batches)]

    @functools.cached_property
    def _order(self) -> Callable[[int], np.ndarray]:
        """The order of batches in an epoch."""
        return functools.lru_cache(2)(lambda epoch: self._generator(ORDER, epoch).permutation(len(self.numbers)))

    @functools.cached_property
    def _members(self) -> Callable[[int, int], np.ndarray]:
        """The examples of a bucket in the order of an epoch."""

        def permute(epoch: int, which: int) -> np.ndarray:
            return self._generator(COMPANY, epoch, which).permutation(self.buckets[which].members)

        return functools.lru_cache(2 * len(self.buckets))(permute)

    @property
    def padding(self) -> float:
        return 1.0 - self.tokens / sum(b.batches * self.of.height(b.rows) * sum(b.shape) for b in self.buckets)

    def __len__(self) -> int:
        return len(self.numbers)

    def _batch(self, number: int) -> Batch:
        epoch, place = divmod(number, len(self.numbers))
        which, part = self.numbers[self._order(epoch)[place] if self.shuffle else place]
        bucket = self.buckets[which]
        members = self._members(epoch, which) if self.shuffle else bucket.members
        index_N = members[part * bucket.rows : (part + 1) * bucket.rows]
        return self._assemble(index_N, np.full(len(index_N), epoch), np.arange(len(index_N)), bucket.rows, bucket.shape)


def plan(
    corpus: Corpus,
    objective: Objective,
    data: Data,
    batch_tokens: int,
    multiple: int,
    seed: int,
    training: bool,
    share: Share = ((0,), 1),
) -> tuple[Batches, list[str | Cut]]:
    """The batches of a split for an objective, and notices: lines of text, and counts of what was cut.

    The number of rows of a batch is a multiple of `multiple` (devices x micro-batches). `share` is (parts, count): the batch is
    divided into `count` equal parts, and this process makes only `parts`.

    In training, examples above the objective's limits are dropped or cut (`data.too_long`). In evaluation they are always cut,
    and never dropped. UserError if no example remains.
    """
    notices: list[str | Cut] = [*some(*objective.cuts(corpus))]
    corpus = objective.chunk_documents(corpus)
    lengths_NxA, limits = objective.lengths(corpus), np.asarray(objective.limits)
    long_NxA = lengths_NxA > limits
    long_N, dropping = np.any(long_NxA, axis=1), training and data.too_long == "drop"
    if long_N.any():
        what = "dropped (config.data.too_long=cut keeps their beginning)" if dropping else "cut"
        over = [
            (sequence.name, limit)
            for sequence, limit, any_ in zip(objective.sequences, limits, np.any(long_NxA, axis=0).tolist(), strict=True)
            if any_
        ]
        limit = " or ".join(f"{limit:,} {name} tokens (config.data.max_{name}_length)" for name, limit in over)
        notices.append(Cut(int(long_N.sum()), len(long_N), f"examples take more than {limit} and were {what}"))
        if dropping and long_N.all():
            raise UserError(f"{notices[-1]}, so that no example remains; or raise the limit")
    kept = np.flatnonzero(~long_N) if dropping else np.arange(len(long_N))
    lengths_NxA = np.minimum(lengths_NxA[kept], limits)
    arguments = (corpus, objective, kept, seed, training, Rows(multiple, *share))
    slots = int(lengths_NxA[:, -1].max())
    if data.batching == "packed":
        slots = data.row_length or max(LEAST_ROW, slots)
    row = f"config.train.batch_tokens {batch_tokens:,}: one row has {counted(slots, 'slot')}"
    if slots > batch_tokens:
        notices.append(f"{row}, and an update has at least one whole row")
    if (empty := multiple - _rows(slots, batch_tokens)) > 0:
        notices.append(
            f"{row}, and a batch has a row for each device and micro-batch, in total {multiple:,}: {counted(empty, 'row')} of "
            "each batch of rows with this length remain empty"
        )
    if data.batching == "packed":
        packed = packing.pack(lengths_NxA, packing.choose_shape(lengths_NxA, slots))
        return Packed(*arguments, plan=packed, rows=_rows(slots, batch_tokens)), notices
    bounds, chosen = packing.buckets(lengths_NxA, data.buckets), []
    which = np.searchsorted(bounds, lengths_NxA.max(axis=1))
    for number in range(len(bounds)):
        members = np.flatnonzero(which == number)
        shape = tuple(int(x) for x in lengths_NxA[members].max(axis=0))
        chosen.append(Bucket(members, shape, _rows(shape[-1], batch_tokens)))
    return Bucketed(*arguments, buckets=chosen, tokens=int(lengths_NxA.sum())), notices


def _rows(slots: int, batch_tokens: int) -> int:
    """The number of rows of a batch that may have examples: as many as `batch_tokens` allows, at least one."""
    return max(batch_tokens // slots, 1)


def blank(objective: Objective, data: Data, longest: int, batch_tokens: int, multiple: int) -> Batch:
    """A batch of zeros with the shapes of a batch from `plan` with rows of `longest` slots (shorter if the objective's limits
    are, without packing). It takes no memory."""
    slots = [longest if data.batching == "packed" else min(longest, limit) for limit in objective.limits]
    rows, batch = Rows(multiple).height(_rows(slots[-1], batch_tokens)), {}
    for sequence, length in zip(objective.sequences, slots, strict=True):
        types = {**sequence.features, sequence.positions: np.int32, sequence.segments: np.int32}
        batch |= {name: np.broadcast_to(np.zeros((), dtype), (rows, length)) for name, dtype in types.items()}
    return batch


class _BatchSource(Sequence[Batch]):
    """Batches `first` to `last` (excluded) as a random-access source for Grain."""

    def __init__(self, batches: Batches, first: int, last: int):
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]
        return self.batches[self.first + int(number)]


def read(batches: Batches, first: int, last: int, workers: int) -> Iterator[Batch]:
    """Batches `first` to `last` (excluded), prefetched by a thread or by `workers` processes."""
    import grain

    if first >= last:
        return iter(())
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    dataset = grain.MapDataset.source(_BatchSource(batches, first, last)).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's worker processes read flags, which are not parsed outside of a launcher
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        return _watched(iter(dataset.mp_prefetch(options, worker_init_fn=_begin_worker)))
    return iter(dataset)


def _begin_worker(worker: int, workers: int) -> None:
    """Ctrl-C reaches all processes of a terminal, and SIGTERM those of a cluster's job; the run, which saves first, ends its
    readers itself. If it is killed, they end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def _watched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields the batches. UserError if a process that reads them was killed; its own exceptions are raised unchanged."""
    try:
        yield from batches
    except RuntimeError as error:
        if code := re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error)):
            raise UserError(
                f"a process that reads data ended (exit code {code[1]}; -9: killed, perhaps because memory ran out); the same "
                "command resumes from the last checkpoint; config.data.workers=0 uses no worker processes"
            ) from error
        raise


def count(batch: Mapping[str, np.ndarray], objective: Objective) -> dict[str, int]:
    """Counts of a batch: `examples`, `tokens` (of the last sequence), and over all sequences `filled` and all `slots`."""
    segments = [batch[sequence.segments] for sequence in objective.sequences]
    return {
        "examples": int(segments[-1].max(axis=1).sum()),
        "tokens": int(np.count_nonzero(segments[-1])),
        "filled": int(sum(np.count_nonzero(s) for s in segments)),
        "slots": int(sum(s.size for s in segments)),
    }


def count_slots(batches: Batches, numbers: Iterable[int], objective: Objective) -> dict[str, int]:
    """The sums of `filled` and `slots` (see `count`) over these batches."""
    counts = [count(batches[number], objective) for number in numbers]
    return {name: sum(each[name] for each in counts) for name in ("filled", "slots")}
