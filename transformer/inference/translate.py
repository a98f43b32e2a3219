"""Translation of texts: tokens, search, texts.

Search itself is search.py, over a model decoding.py. Letters: B sentences, S source tokens, T target tokens.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from transformer.cuts import Cut
from transformer.errors import UserError
from transformer.inference.decoding import Search, output_limit
from transformer.inference.loading import Loaded, Map, Predictor, clean, listed, most_positions, pad
from transformer.inference.search import Hypotheses

Array = jax.Array

LIMIT_SETTING = "config.search.max_extra, .max_length"
CHUNK = 32  # times config.search.batch_size: texts that are searched for together; memory is constant however many come


@dataclasses.dataclass(frozen=True)
class Output:
    """One hypothesis: its text and its length-penalised log probability (none where none was asked for).

    `ended`: the model ended it; else it was cut at the limit on its length.
    """

    text: str
    score: float | None
    ended: bool = True


class Translator(Predictor):
    """Translates texts by search, with an encoder-decoder model or a prefix LM whose prefix is the source."""

    noun = "sentence"

    def __init__(self, loaded: Loaded):
        super().__init__(loaded)
        self._unended = 0  # best hypotheses of the last call that the model did not end
        fields = list(loaded.vocabularies.values())
        self.source_vocabulary, self.target_vocabulary = fields[0], fields[-1]
        self._encodes = hasattr(loaded.model, "encode")
        self._search = Search(loaded.model, loaded.config, loaded.data_info)
        self._given = jax.jit(self._with_hidden)

    def translate(self, texts: Iterable[str], scored: bool = True) -> Iterator[list[Output]]:
        """For each text, in order, its `search.n_best` hypotheses, best first. A blank text gives blank ones.

        `scored`: with scores. Greedy search sums over the vocabulary for nothing else, a tenth of its time with 58,000 entries.
        """
        return self._translated(iter(listed(texts)), scored)

    def _translated(self, texts: Iterator[str], scored: bool) -> Iterator[list[Output]]:
        first, self._cut, self._told, self._unended, self._count = 1, [], [], 0, 0
        while chunk := list(itertools.islice(texts, self.config.search.batch_size * CHUNK)):
            for outputs in self._chunk(chunk, first, scored=scored):
                self._unended += not outputs[0].ended
                yield outputs
            first += len(chunk)

    @property
    def cuts(self) -> list[Cut]:
        what = f"outputs ended at the limit on their length ({LIMIT_SETTING})"
        return [*super().cuts, Cut(self._unended, self._count, what)]

    def limits(self, source_lengths: Iterable[int]) -> list[int]:
        """The limit of output tokens, end included, for sources with these numbers of tokens."""
        around, most = sum(map(len, self._around)), self.config.data.max_source_length
        return [self.limit(min(length + around, most)) for length in source_lengths]

    def limit(self, source: int) -> int:
        """The same for a source of so many tokens, special ones included."""
        return output_limit(self.config, self.data_info, source)

    def translate_to_length(self, pairs: Sequence[tuple[str, str]]) -> list[list[Output]]:
        """As `translate`, with hypotheses of exactly as many tokens as the target: the model does not decide when to end."""
        targets = self.target_vocabulary.encode_batch([clean(self.config, target) for _, target in listed(pairs, "pairs")])
        return self._chunk([source for source, _ in pairs], 1, [len(target) for target in targets])

    def logits(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """For each pair the logits TxN after the start, after target token 1, ..., after T - 1 target tokens."""
        if not sources:
            return []
        inputs = self._inputs(targets)
        batch, places = self._batch_of(self._sources(sources), inputs)
        logits = np.asarray(self._said(self.params, batch))
        return [logits[row, place : place + len(ids)] for row, (ids, place) in enumerate(zip(inputs, places, strict=True))]

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> dict[str, np.ndarray]:
        """What the model is called with for these pairs: tokens and segments, int32 BxS and BxT."""
        return self._batch_of(self._sources(sources), self._inputs(targets))[0]

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """Attention weights of each stack at the tokens of `target` (none: the model's own output). Texts are cut to the table
        of positions."""
        if target is None:
            target = next(self.translate([source]))[0].text
        [source_ids], [input_ids] = self._sources([source]), self._tokens([target])
        self._told, most = [], most_positions(self.config)
        room = len(input_ids) if most is None else most - (0 if self._encodes else len(source_ids))
        if len(input_ids) > room:  # an error where numbers come of it; this is only drawn
            what = f"tokens of the target are not read: there are {most:,} positions (config.model.positions.size)"
            self._told = [Cut(len(input_ids) - room, len(input_ids), what)]
        input_ids = input_ids[:room]
        batch, _ = self._batch_of([source_ids], [input_ids])
        columns = self.source_vocabulary.pieces(source_ids)
        rows = ["<s>", *self.target_vocabulary.pieces(input_ids[1:])]
        if not self._encodes:
            columns = rows = [*columns, *rows]
        maps = []
        for place, weights_LxBxHxTxS in self.weights_of(batch).items():
            stack, kind = place.split("/")
            across = columns if kind == "cross" or stack == "encoder" else rows
            # Rows of cross-attention are the tokens that are generated, not those that were read.
            down = [*rows[1:], "</s>"] if kind == "cross" else across
            maps.append(Map(f"{stack} {kind} attention", weights_LxBxHxTxS[:, 0], across, down))
        return maps

    def weights(self, pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """As `weights_of`, while each target is generated, from the token after the start on; and how many tokens each text has
        that is read: a source, or, of a decoder alone, a source and its target. Rows have padding behind them."""
        pairs = listed(pairs, "pairs")
        batch, _ = self._batch_of(self._sources([s for s, _ in pairs]), self._inputs([t for _, t in pairs]))
        return self.weights_of(batch), batch["source_segments" if self._encodes else "segments"].sum(axis=1)

    def target_nll(
        self, pairs: Sequence[tuple[str, str]], hidden: Sequence[Sequence[int]] | None = None, encoder: bool = False
    ) -> list[np.ndarray]:
        """Nats of each target's tokens. `hidden`: numbers of source tokens that attention does not see, nor, with
        `encoder`, the encoder."""
        sources, inputs = self._sources([s for s, _ in pairs]), self._inputs([t for _, t in pairs])
        batch, _ = self._batch_of(sources, inputs)
        mask_BxS = np.zeros(batch["source"].shape, bool)
        for row, places in enumerate(hidden or [[]] * len(pairs)):
            mask_BxS[row, list(places)] = True
        if encoder:
            batch["source_segments"] = np.where(mask_BxS, 0, batch["source_segments"])
        log_probs = np.asarray(self._given(self.params, batch, mask_BxS))
        return [-log_probs[row, np.arange(len(ids) - 1), ids[1:]] for row, ids in enumerate(inputs)]

    def _with_hidden(self, params: Any, batch: Any, hidden_BxS: Array) -> Array:
        apply = functools.partial(self.model.apply, {"params": params})
        memory: Any = apply(batch["source"], None, batch["source_segments"], method="encode")
        cache = apply(memory, batch["inputs"].shape[1], len(batch["inputs"]), method="start")
        logits, _ = apply(batch["inputs"], cache, memory.hide(hidden_BxS), batch["segments"] > 0, method="step")  # type: ignore[misc]
        return jax.nn.log_softmax(logits)

    def _batch_of(self, sources: list[list[int]], inputs: list[list[int]]) -> tuple[dict[str, np.ndarray], list[int]]:
        """What the model is called with, and where in its rows each target begins. UserError: as in `_inputs`."""
        if not self._encodes:
            rows = [[*source, *ids] for source, ids in zip(sources, inputs, strict=True)]
            longest, most = max(map(len, rows)), most_positions(self.config)
            if most is not None and longest > most:
                raise UserError(
                    f"source and target have {longest} tokens, the start included, and config.model.positions.size is {most}; "
                    "shorten them"
                )
            tokens, segments = pad(rows, longest)
            prefix, _ = pad([[1] * (len(source) + 1) for source in sources], longest)  # all see the start, as in training
            return {"inputs": tokens, "segments": segments, "prefix": prefix}, [len(source) for source in sources]
        source, source_segments = pad(sources, max(map(len, sources)))
        tokens, segments = pad(inputs, max(map(len, inputs)))
        batch = {"source": source, "source_segments": source_segments, "inputs": tokens, "segments": segments}
        return batch, [0] * len(sources)

    def _asked(self, text: str) -> str:
        """A source with the prefix of the task, which is added if it is missing."""
        text, prefix = clean(self.config, text), self.config.data.prefix
        prefix = prefix.lower() if self.config.data.lowercase else prefix
        return text if not text or text.startswith(prefix) else prefix + text

    def _sources(self, texts: Sequence[str], first: int = 1) -> list[list[int]]:
        """The encoder's inputs for each text, the end included; `first`: the number of the first text."""
        limit = self.config.data.max_source_length
        if first == 1:
            self._cut, self._told, self._unended = [], [], 0
            self._names.reset()
        self._count = first - 1 + len(texts)
        ids = self._names.encode_batch([self._asked(text) for text in listed(texts)])
        before, after = self._around
        room = limit - len(before) - max(len(after), 1)  # the end, or, behind a prefix, the start
        self._cut += [number for number, tokens in enumerate(ids, first) if len(tokens) > room]
        return [[*before, *tokens[:room], *after] for tokens in ids]

    @property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after the tokens of a source."""
        known = self.data_info
        if not self._encodes:
            return [], []
        return [] if known.begin is None else [known.begin], [known.end, *([] if known.code is None else [known.code])]

    def _inputs(self, texts: Sequence[str]) -> list[list[int]]:
        """The decoder's inputs for each target, the start included. UserError: past the end of a positions table."""
        inputs = self._tokens(texts)
        longest, most = max(map(len, inputs)), most_positions(self.config)
        if most is not None and longest > most:
            raise UserError(
                f"a target has {longest} tokens, the start included, and config.model.positions.size is {most}; shorten it"
            )
        return inputs

    def fits(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each source and target fit into the table of positions; all do if there is none."""
        if (most := most_positions(self.config)) is None:
            return [True] * len(pairs)
        sources, inputs = self._sources([s for s, _ in pairs]), self._tokens([t for _, t in pairs])
        before = [0 if self._encodes else len(ids) for ids in sources]
        return [first + len(ids) <= most for first, ids in zip(before, inputs, strict=True)]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            [self.data_info.start, *ids]
            for ids in self.target_vocabulary.encode_batch([clean(self.config, t) for t in listed(texts)])
        ]

    def _chunk(
        self, texts: list[str], first: int, lengths: Sequence[int] | None = None, scored: bool = False
    ) -> list[list[Output]]:
        sources, blank = self._sources(texts, first), Output("", 0.0 if scored else None)
        results = [[blank] * self.config.search.n_best for _ in texts]
        rows = [row for row, text in enumerate(texts) if text.strip()]
        exact = None if lengths is None else [lengths[row] for row in rows]
        for number, found in self._search(self.params, [sources[row] for row in rows], exact, scored):
            results[rows[number]] = self._outputs(found, sources[rows[number]], exact is not None)
        return results

    def _outputs(self, found: Hypotheses, source: list[int], exact: bool) -> list[Output]:
        outputs = []
        limit = self.limit(len(source)) if self.config.search.force_end else None  # an end there may not be the model's
        for n, length in enumerate(found.lengths_BxN):
            ids = found.tokens_BxNxL[n, :length].tolist()
            text = self._names.decode([i for i in ids if i != self.data_info.end], source, self.target_vocabulary)
            score = None if found.scores_BxN is None else float(found.scores_BxN[n])
            outputs.append(Output(text, score, exact or (self.data_info.end in ids[-1:] and length != limit)))
        return outputs
