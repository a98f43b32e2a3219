"""Translation of texts: tokenizes them, searches, and decodes the result.

The search is in search.py, its application to a model in decoding.py. Letters: B sentences, S source tokens, T target tokens.
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
CHUNK = 32  # times config.search.batch_size: texts that are processed together, so that memory does not grow with their number


@dataclasses.dataclass(frozen=True)
class Output:
    """One hypothesis: its text and its length-penalized log probability (None if scores were not requested).

    `ended`: the model ended it; else it was cut at the limit on its length.
    """

    text: str
    score: float | None
    ended: bool = True


class Translator(Predictor):
    """Translates texts by search with an encoder-decoder, or with a prefix LM whose prefix is the source."""

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
        """For each text, in order, its `search.n_best` hypotheses, best first. A blank text gives blank hypotheses.

        `scored`: compute scores. Greedy search needs a sum over the vocabulary only for them, which takes a tenth of its time
        with 58,000 entries.
        """
        return self._translated(iter(listed(texts)), scored)

    def _translated(self, texts: Iterator[str], scored: bool) -> Iterator[list[Output]]:
        first, self._cut, self._other_cuts, self._unended, self._count = 1, [], [], 0, 0
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
        """The maximum number of output tokens, including the end, for sources with these numbers of tokens."""
        around, most = sum(map(len, self._around)), self.config.data.max_source_length
        return [self.limit(min(length + around, most)) for length in source_lengths]

    def limit(self, source: int) -> int:
        """The same for one source of `source` tokens, including special tokens."""
        return output_limit(self.config, self.data_info, source)

    def translate_to_length(self, pairs: Sequence[tuple[str, str]]) -> list[list[Output]]:
        """`translate` with hypotheses of exactly the number of tokens in the target: the model does not decide when to end."""
        targets = self.target_vocabulary.encode_batch([clean(self.config, target) for _, target in listed(pairs, "pairs")])
        forced = self.data_info.first is not None  # the first token of an output, which is no part of its text
        return self._chunk([source for source, _ in pairs], 1, [len(target) + forced for target in targets])

    def logits(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """For each pair, the logits TxN after each of the decoder's inputs: the start token, the first token that the model
        forces if it does (the code of a language), and the target's tokens."""
        if not sources:
            return []
        inputs = self._inputs(targets)
        batch, places = self._batch_of(self._sources(sources), inputs)
        logits = np.asarray(self._forward(self.params, batch))
        return [logits[row, place : place + len(ids)] for row, (ids, place) in enumerate(zip(inputs, places, strict=True))]

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> dict[str, np.ndarray]:
        """The model's inputs for these pairs: tokens and segments, int32 BxS and BxT."""
        return self._batch_of(self._sources(sources), self._inputs(targets))[0]

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """The attention weights of each site for `source` and `target` (None: the model's own output). Texts are cut to the
        size of the table of positions."""
        if target is None:
            target = next(self.translate([source]))[0].text
        [source_ids], [input_ids] = self._sources([source]), self._tokens([target])
        self._other_cuts, most = [], most_positions(self.config)
        room = len(input_ids) if most is None else most - (0 if self._encodes else len(source_ids))
        if len(input_ids) > room:  # an error elsewhere; here the weights are only drawn
            what = f"tokens of the target are not read: there are {most:,} positions (config.model.positions.size)"
            self._other_cuts = [Cut(len(input_ids) - room, len(input_ids), what)]
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
            # Rows of cross-attention are labelled with the generated tokens, not with the decoder's inputs.
            down = [*rows[1:], "</s>"] if kind == "cross" else across
            maps.append(Map(f"{stack} {kind} attention", weights_LxBxHxTxS[:, 0], across, down))
        return maps

    def weights(self, pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The result of `weights_of` for these pairs, and the number of tokens of each text that is attended to: the source, or
        in a decoder-only model the source and its target. Rows are padded on the right."""
        pairs = listed(pairs, "pairs")
        batch, _ = self._batch_of(self._sources([s for s, _ in pairs]), self._inputs([t for _, t in pairs]))
        return self.weights_of(batch), batch["source_segments" if self._encodes else "segments"].sum(axis=1)

    def target_nll(
        self, pairs: Sequence[tuple[str, str]], hidden: Sequence[Sequence[int]] | None = None, encoder: bool = False
    ) -> list[np.ndarray]:
        """The nats of each target's tokens. `hidden`: indices of source tokens that cross-attention does not see; with
        `encoder`, the encoder does not see them either."""
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
        """The model's inputs, and the index in its rows at which each target begins. UserError as in `_inputs`."""
        if not self._encodes:
            rows = [[*source, *ids] for source, ids in zip(sources, inputs, strict=True)]
            longest, most = max(map(len, rows), default=1), most_positions(self.config)
            if most is not None and longest > most:
                raise UserError(
                    f"source and target have {longest} tokens, the start included, and config.model.positions.size is {most}; "
                    "shorten them"
                )
            tokens, segments = pad(rows, longest)
            prefix, _ = pad(
                [[1] * (len(source) + 1) for source in sources], longest
            )  # all tokens see the start, as in training
            return {"inputs": tokens, "segments": segments, "prefix": prefix}, [len(source) for source in sources]
        source, source_segments = pad(sources, max(map(len, sources), default=1))
        tokens, segments = pad(inputs, max(map(len, inputs), default=1))
        batch = {"source": source, "source_segments": source_segments, "inputs": tokens, "segments": segments}
        return batch, [0] * len(sources)

    def _with_prefix(self, text: str) -> str:
        """The source with the prefix of the task, which is added if it is missing."""
        text, prefix = clean(self.config, text), self.config.data.prefix
        prefix = prefix.lower() if self.config.data.lowercase else prefix
        return text if not text or text.startswith(prefix) else prefix + text

    def _sources(self, texts: Sequence[str], first: int = 1) -> list[list[int]]:
        """The encoder's inputs for each text, including the end; `first`: the number of the first text in messages."""
        limit = self.config.data.max_source_length
        if first == 1:
            self._cut, self._other_cuts, self._unended = [], [], 0
            self._names.reset()
        self._count = first - 1 + len(texts)
        ids = self._names.encode_batch([self._with_prefix(text) for text in listed(texts)])
        before, after = self._around
        room = limit - len(before) - max(len(after), 1)  # the end, or for a prefix LM the start
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
        """The decoder's inputs for each target, including the start. UserError if they exceed the table of positions."""
        inputs = self._tokens(texts)
        longest, most = max(map(len, inputs), default=1), most_positions(self.config)
        if most is not None and longest > most:
            raise UserError(
                f"a target has {longest} tokens, the start included, and config.model.positions.size is {most}; shorten it"
            )
        return inputs

    def fits(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """For each pair, whether source and target fit into the table of positions; always True if there is none."""
        if (most := most_positions(self.config)) is None:
            return [True] * len(pairs)
        sources, inputs = self._sources([s for s, _ in pairs]), self._tokens([t for _, t in pairs])
        before = [0 if self._encodes else len(ids) for ids in sources]
        return [first + len(ids) <= most for first, ids in zip(before, inputs, strict=True)]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        before = [self.data_info.start] + ([] if self.data_info.first is None else [self.data_info.first])
        return [[*before, *ids] for ids in self.target_vocabulary.encode_batch([clean(self.config, t) for t in listed(texts)])]

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
