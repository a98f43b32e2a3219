"""Predictions of models that read a text: labels, tags of words, answers in texts, tokens for masks, and vectors.

An example is a mapping of fields as in `data/sources`, without the field to predict.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transformer import families
from transformer.cuts import Cut
from transformer.data.encode import tagged, texts
from transformer.data.objectives import Objective
from transformer.data.text import tagged_words
from transformer.errors import UserError, counted
from transformer.inference.loading import Loaded, Map, Predictor, clean, listed, pad, round_length
from transformer.inference.special import MASK

LONGEST_ANSWER = 30  # tokens, unless the data has longer answers (BERT's code for SQuAD)


class Labeller(Predictor):
    """A model with a head on its final states."""

    def __init__(self, loaded: Loaded):
        super().__init__(loaded)
        self.objective = loaded.objective

    def predict(self, examples: Sequence[Mapping[str, str]], first: int = 1) -> list[str]:
        """The prediction for each example, as text: a label (or the score, if the model has one label), tags separated by
        spaces, an answer (blank if there is none), or the text with its masks filled. A model without a head gives the numbers
        of its
        vector.

        `first`: the number of the first example in messages. UserError if only some of the texts have a pair.
        """
        if first == 1:
            self._cut, self._other_cuts = [], []
            self._names.reset()
        self._count = first - 1 + len(examples)
        ways = {"label": self._labels, "tags": self._tags, "span": self._answers, "filled": self._fill}
        ways["vector"] = self._vectors
        cleaned = [self._cleaned(example) for example in listed(examples, "examples")]
        for number, example in enumerate(cleaned, first):
            if example.keys() != cleaned[0].keys():
                has = [f"line {n} has the fields {', '.join(e)}" for n, e in ((number, example), (first, cleaned[0]))]
                raise UserError(f"{'; '.join(has)}: give all lines the same fields")
        output = families.task_of(self.config).output
        if output not in ("filled", "vector"):  # which count by themselves
            self._names.count(text for example in cleaned for text in example.values())
        return ways[output](cleaned, first) if examples else []

    @property
    def longest_answer(self) -> int:
        """The largest number of tokens in an answer: that of the longest answer in the run's data."""
        return max(LONGEST_ANSWER, self.data_info.longest_output)

    def parse(self, line: str, number: int = 1) -> dict[str, str]:
        """An example from a line with fields separated by tabs. UserError if there are too few or too many."""
        several = {"label": ("text", "pair"), "vector": ("text", "pair"), "span": ("question", "text")}
        fields = several.get(families.task_of(self.config).output, ("text",))
        parts = line.split("\t")
        least = 2 if fields[0] == "question" else 1
        if not least <= len(parts) <= len(fields):
            raise UserError(f"line {number} has {counted(len(parts), 'field')} separated by tabs: give {' TAB '.join(fields)}")
        return dict(zip(fields, parts, strict=False))

    def _cleaned(self, example: Mapping[str, str]) -> dict[str, str]:
        """In question answering only case is changed, because offsets into the text must stay valid."""
        if "question" in example:
            return {k: v.lower() if self.config.data.lowercase else v for k, v in example.items() if k in ("question", "text")}
        return {k: clean(self.config, v) for k, v in example.items() if k in ("text", "pair")}

    def _labels(self, examples: Sequence[Mapping[str, str]], first: int) -> list[str]:
        corpus = self.objective.chunk_documents(texts(examples, self.loaded.vocabularies, ()))
        rows = self._rows(corpus, first)
        if len(self.data_info.labels) == 1:  # a score, not a choice
            return [f"{float(scores[0]):.9g}" for scores in rows]
        return [self.data_info.labels[int(scores.argmax())] for scores in rows]

    def embed(self, examples: Sequence[str | Mapping[str, str]], first: int = 1) -> np.ndarray:
        """A vector for each text (or pair, {"text": .., "pair": ..}), with the settings of `config.embed`: float32 NxD.

        This works with any encoder, whatever its head, but the vectors are meaningful only if the encoder was trained for them.
        """
        if first == 1:
            self._cut, self._other_cuts = [], []
            self._names.reset()
        self._count = first - 1 + len(examples)
        given = [self._cleaned({"text": each} if isinstance(each, str) else each) for each in listed(examples, "examples")]
        if not given:
            return np.zeros((0, self.config.model.d_model), np.float32)
        self._names.count(text for example in given for text in example.values())
        vocabulary = self.loaded.vocabularies["text"]
        objective = families.classify(self.config, self.data_info, {"text": vocabulary})
        corpus = objective.chunk_documents(texts(given, dict.fromkeys(("text", "pair"), vocabulary), ()))
        mean = self.config.embed.pooling == "mean"
        states = self._rows(corpus, first, objective, "states")
        vectors_NxD = np.stack([(x_SxD.mean(axis=0) if mean else x_SxD[0]).astype(np.float32) for x_SxD in states])
        if not self.config.embed.normalize:
            return vectors_NxD
        return vectors_NxD / np.maximum(np.linalg.norm(vectors_NxD, axis=1, keepdims=True), 1e-12)

    def _vectors(self, examples: Sequence[Mapping[str, str]], first: int) -> list[str]:
        vectors = [[f"{number:.9g}" for number in vector] for vector in self.embed(examples, first)]
        json = self.config.embed.format == "json"
        return [f"[{', '.join(numbers)}]" if json else "\t".join(numbers) for numbers in vectors]

    def _tags(self, examples: Sequence[Mapping[str, str]], first: int) -> list[str]:
        corpus = tagged(examples, self.loaded.vocabularies, ())
        words = list(dict.fromkeys(word for example in examples for word in tagged_words(example["text"])))
        ids = self.loaded.vocabularies["text"].encode_words(words)
        tokens = {word: len(each) for word, each in zip(words, ids, strict=True)}
        none = sum(tokens[word] == 0 for example in examples for word in tagged_words(example["text"]))
        total = sum(len(tagged_words(example["text"])) for example in examples)
        self._other_cuts.append(Cut(none, total, "words have no token in the vocabulary and were tagged O"))
        result = []
        for example, scores_SxC in zip(examples, self._rows(corpus, first), strict=True):
            place, tags = 1, []  # after the start token
            for word in tagged_words(example["text"]):
                # There is no prediction for a word that was cut or that has no token.
                known = tokens[word] and place < len(scores_SxC) - 1
                tags.append(self.data_info.labels[int(scores_SxC[place].argmax())] if known else "O")
                place += tokens[word]
            result.append(" ".join(tags))
        return result

    def _answers(self, examples: Sequence[Mapping[str, str]], first: int) -> list[str]:
        corpus = texts(examples, self.loaded.vocabularies, ())
        self._other_cuts += self.objective.cuts(corpus)
        corpus = self.objective.chunk_documents(corpus)
        best = [(0.0, "")] * len(examples)
        spans = [self.loaded.vocabularies["text"].spans(example["text"]) for example in examples]
        for (example, place, length), scores_Sx2 in zip(
            corpus["window"].values.reshape(-1, 3), self._rows(corpus, first), strict=True
        ):
            text_Sx2 = scores_Sx2[len(scores_Sx2) - 1 - length : len(scores_Sx2) - 1]  # without the end token
            pairs = (
                text_Sx2[:, None, 0] + text_Sx2[None, :, 1] - scores_Sx2[0].sum()
            )  # compared with the start token, which means no answer
            ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
            pairs = np.where((ahead >= 0) & (ahead < self.longest_answer), pairs, -np.inf)
            if length and (score := pairs.max()) > best[example][0]:
                begin, end = np.unravel_index(pairs.argmax(), pairs.shape)
                where = spans[example][place + int(begin)][0], spans[example][place + int(end)][1]
                best[example] = float(score), examples[example]["text"][slice(*where)].strip()
        return [text for _, text in best]

    def _fill(self, examples: Sequence[Mapping[str, str]], first: int) -> list[str]:
        vocabulary, size, result = self.loaded.vocabularies["text"], self.config.search.batch_size, []
        for start in range(0, len(examples), size):  # logits are large, so process one batch at a time
            numbered = enumerate(examples[start : start + size], first + start)
            rows = [self._with_masks(example["text"], number) for number, example in numbered]
            ready = [{"source": np.asarray(ids), "token_types": np.zeros(len(ids), np.int64)} for ids, _ in rows]
            for (ids, masks), logits_SxN in zip(rows, self._apply(ready, "logits"), strict=True):
                for place in masks:
                    ids[place] = int(logits_SxN[place, : vocabulary.size].argmax())
                result.append(vocabulary.decode(ids[1:-1]))
        return result

    def _with_masks(self, text: str, number: int) -> tuple[list[int], list[int]]:
        """The tokens of a text between start and end, and the indices of its masks, which are one token each. Long texts are
        cut.
        """
        data_info, limit = self.data_info, self.config.data.max_source_length
        ids = [data_info.start if data_info.begin is None else data_info.begin, *self._names.encode_batch([text])[0]]
        if len(ids) >= limit:
            self._cut.append(number)
        ids = [*ids[: limit - 1], data_info.end]
        return ids, [place for place, token in enumerate(ids) if token == data_info.mask]

    def _rows(self, corpus: Any, first: int, objective: Objective | None = None, name: str = "scores") -> Iterator[np.ndarray]:
        """The output `name` for each row, in order. `first`: the number of the first row in messages."""
        objective = objective or self.objective
        lengths, limit = objective.lengths(corpus)[:, -1], self.config.data.max_source_length
        self._cut += (np.flatnonzero(lengths > limit) + first).tolist()
        return self._apply([objective.features(corpus, n, 0) for n in range(len(lengths))], name)

    def _apply(self, rows: list[dict[str, np.ndarray]], name: str) -> Iterator[np.ndarray]:
        """Applies the model in batches of similar lengths. The results have no padding."""
        size, results = self.config.search.batch_size, [np.zeros(0)] * len(rows)
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]["source"]))
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            length = min(round_length(len(rows[chosen[-1]]["source"])), self.config.data.max_source_length)
            length = max(length, len(rows[chosen[-1]]["source"]))
            fill: list[Any] = [[]] * (size - len(chosen))
            tokens, segments = pad([rows[n]["source"] for n in chosen] + fill, length)
            types, _ = pad([rows[n]["token_types"] for n in chosen] + fill, length)
            batch = {"source": tokens, "source_segments": segments, "token_types": types}
            found = np.asarray(self._forward(self.params, batch)[name])
            for row, n in enumerate(chosen):
                results[n] = found[row] if found.ndim == 2 else found[row, : len(rows[n]["source"])]
        return iter(results)

    def batch(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The model's inputs for these texts, as `predict` makes them, each with a second segment if `targets` are given (of a
        question its text, up to the length of one window): int32 BxS. UserError: the model reads no second segment."""
        self._cut, self._other_cuts, self._count = [], [], len(listed(sources))
        rows = self._read(sources, targets) if sources else []
        length = max((len(row["source"]) for row in rows), default=1)
        tokens, segments = pad([row["source"] for row in rows], length)
        types, _ = pad([row["token_types"] for row in rows], length)
        return {"source": tokens, "source_segments": segments, "token_types": types}

    def _read(self, sources: Sequence[str], targets: Sequence[str] | None) -> list[Mapping[str, np.ndarray]]:
        """`source` and `token_types` of each row of `batch`."""
        output, vocabulary = families.task_of(self.config).output, self.loaded.vocabularies["text"]
        if targets is not None and output == "tags":
            raise UserError("targets: a tagger reads one text; leave it out")
        if output == "filled" or (output == "span" and targets is None):
            return [self._unlabelled(n, text, None if targets is None else targets[n - 1]) for n, text in enumerate(sources, 1)]
        names = ("question", "text") if output == "span" else ("text", "pair")
        pairs = zip(sources) if targets is None else zip(sources, targets, strict=True)
        given = [self._cleaned(dict(zip(names, pair, strict=False))) for pair in pairs]
        fields: dict[str, Any] = dict.fromkeys(names, vocabulary)
        objective = self.objective
        if output == "vector":
            objective = families.classify(self.config, self.data_info, {"text": vocabulary})
        corpus = objective.chunk_documents((tagged if output == "tags" else texts)(given, fields, ()))
        numbers = np.arange(len(given))
        if output == "span":  # the first window of each
            examples_N = corpus["window"].values.reshape(-1, 3)[:, 0]
            numbers = np.searchsorted(examples_N, numbers)
            self._cut += (np.flatnonzero(np.bincount(examples_N) > 1) + 1).tolist()
        lengths = objective.lengths(corpus)[numbers, -1]
        self._cut += (np.flatnonzero(lengths > self.config.data.max_source_length) + 1).tolist()
        return [objective.features(corpus, int(number), 0) for number in numbers]

    def _unlabelled(self, number: int, source: str, target: str | None) -> Mapping[str, np.ndarray]:
        """A text, which may have masks, and perhaps a second segment."""
        vocabulary, limit = self.loaded.vocabularies["text"], self.config.data.max_source_length
        ids, _ = self._with_masks(clean(self.config, source), number)
        second = [] if target is None else [*vocabulary.encode(clean(self.config, target)), self.data_info.end]
        more = [*vocabulary.between, *second] if second else []
        if len(ids) + len(more) > limit and number not in self._cut:
            self._cut.append(number)
        types = np.repeat(np.arange(2, dtype=np.int32), [len(ids), len(more)])
        return {"source": np.asarray([*ids, *more])[:limit], "token_types": types[:limit]}

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """Attention weights for the text; `target`: a second segment."""
        vocabulary = self.loaded.vocabularies["text"]
        batch = self.batch([source], [target] if target else None)
        ids = batch["source"][0].tolist()
        pieces = [MASK if i == self.data_info.mask else vocabulary.pieces([i])[0] for i in ids]
        rows = {"encoder": pieces, "decoder": ["<s>", *pieces[:-1]]}  # the decoder reads the text after a start token
        maps = []
        for place, weights_LxBxHxTxS in self.weights_of(batch).items():
            stack, role = place.split("/")
            across = pieces if role == "cross" else rows[stack]
            maps.append(Map(f"{stack} {role} attention", weights_LxBxHxTxS[:, 0], across, rows[stack]))
        return maps
