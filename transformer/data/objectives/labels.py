"""Labels of a text, of each token, or of a span, predicted by an encoder-only model (Devlin et al. 2019, 4.1 to 4.3)."""

import dataclasses

import numpy as np

from transformer.cuts import Cut
from transformer.data.corpus import Ragged, concatenated_ranges
from transformer.data.objectives.base import (
    READER,
    TAGGER,
    Corpus,
    Objective,
    SequenceSpec,
    check_limit,
    truncate_pair,
    with_special_tokens,
)

LABEL = SequenceSpec("label", {"label": np.int32, "weights": np.float32}, "label_positions", "label_segments")
SPAN = SequenceSpec("span", {"first": np.int32, "last": np.int32, "weights": np.float32}, "span_positions", "span_segments")


@dataclasses.dataclass(frozen=True)
class Classify(Objective):
    """Fields `text`, optionally `pair`, and `label`, one int per row: begin text end [between pair end], and its label.

    Without a label (the field is missing, the row is empty or -1) the weight is 0. If it is too long, the longer text is cut.
    """

    limit: int
    begin: int
    end: int
    between: tuple[int, ...] = ()
    sequences = (LABEL, READER)

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.limit, 5 + len(self.between))

    @property
    def limits(self) -> tuple[int, ...]:
        return 1, self.limit

    def lengths(self, corpus: Corpus) -> np.ndarray:
        length_N = corpus["text"].lengths + 2
        if "pair" in corpus:
            length_N = length_N + corpus["pair"].lengths + 1 + len(self.between)
        return np.stack([np.ones_like(length_N), length_N], axis=1)

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        parts = [corpus["text"][index][: self.limit - 2]]
        if "pair" in corpus:
            pair = corpus["pair"][index]
            kept = truncate_pair(len(corpus["text"][index]), len(pair), self.limit - 3 - len(self.between))
            parts = [parts[0][: kept[0]], pair[: kept[1]]]
        label = max((int(n) for n in corpus["label"][index]), default=-1) if "label" in corpus else -1
        return {
            "label": np.array([max(label, 0)], np.int32),
            "weights": np.array([label >= 0], np.float32),
            **with_special_tokens(self.begin, self.end, *parts, between=self.between),
        }


@dataclasses.dataclass(frozen=True)
class Tag(Objective):
    """Fields `text` and `tags`, one tag per token: begin text end. The weight is 0 for a tag of -1, and without tags.

    A text that is too long is cut.
    """

    limit: int
    begin: int
    end: int
    sequences = (TAGGER,)

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.limit, 3)

    @property
    def limits(self) -> tuple[int, ...]:
        return (self.limit,)

    def lengths(self, corpus: Corpus) -> np.ndarray:
        return (corpus["text"].lengths + 2)[:, None]

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        text = corpus["text"][index]
        tags = corpus["tags"][index] if "tags" in corpus else np.full(len(text), -1)
        if len(tags) != len(text):
            raise ValueError(f"example {index} has {len(text)} tokens and {len(tags)} tags")
        text, tags = text[: self.limit - 2], tags[: self.limit - 2]
        tags = np.concatenate([[-1], tags, [-1]])
        return {
            **with_special_tokens(self.begin, self.end, text),
            "targets": np.maximum(tags, 0).astype(np.int32),
            "weights": (tags >= 0).astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class Answer(Objective):
    """Fields `question`, `text` (the context) and `span`, the answer's first and last token in it: begin question end [between]
    text end.

    `first` and `last` are indices in the row. A context that does not fit is split into windows, each of which begins `stride`
    tokens after the previous one: `chunk_documents` adds the field `window`, (example, first token of the context, number of
    tokens) per row. In a window without the whole answer, and in a row with an empty span (no answer), both point to `begin`,
    index 0, with weight 1 (BERT's code for SQuAD). Without the field `span` the weight is 0. A question is cut to its first
    `max_question` tokens, at most half of the available space.
    """

    limit: int
    begin: int
    end: int
    between: tuple[int, ...] = ()
    stride: int = 128
    max_question: int = 64
    sequences = (SPAN, READER)

    def __post_init__(self) -> None:
        check_limit("max_source_length", self.limit, 5 + len(self.between))

    @property
    def _special(self) -> int:
        """The number of special tokens in a row."""
        return 3 + len(self.between)

    @property
    def limits(self) -> tuple[int, ...]:
        return 1, self.limit

    def _question(self, length: np.ndarray) -> np.ndarray:
        return np.minimum(length, min(self.max_question, (self.limit - self._special) // 2))

    def chunk_documents(self, corpus: Corpus) -> Corpus:
        context_E = corpus["text"].lengths
        room_E = self.limit - self._special - self._question(corpus["question"].lengths)
        step_E = np.minimum(self.stride, room_E)
        count_E = 1 + -(-np.maximum(context_E - room_E, 0) // step_E)
        example_N = np.repeat(np.arange(len(context_E)), count_E)
        first_N = concatenated_ranges(np.zeros_like(count_E), count_E) * step_E[example_N]
        length_N = np.minimum(room_E[example_N], context_E[example_N] - first_N)
        windows = np.stack([example_N, first_N, length_N], axis=1).astype(np.int32)
        return {**corpus, "window": Ragged(windows.ravel(), 3 * np.arange(len(windows) + 1))}

    def cuts(self, corpus: Corpus) -> list[Cut]:
        question_E, context_E = (corpus[field].lengths for field in ("question", "text"))
        kept_E = self._question(question_E)
        most = int(self._question(np.asarray(self.limit)))
        found = [
            Cut(int((question_E > kept_E).sum()), len(kept_E), f"questions were cut to {most:,} tokens"),
            Cut(
                int((context_E > self.limit - self._special - kept_E).sum()),
                len(kept_E),
                "contexts do not fit with their question and are read in windows (config.data.max_source_length)",
            ),
        ]
        if "span" not in corpus:
            return found
        windows = self.chunk_documents(corpus)["window"].values.reshape(-1, 3)
        span_Ex2 = np.array([row if len(row) else (-1, -1) for row in corpus["span"]], np.int64).reshape(-1, 2)
        first_N, last_N = (span_Ex2[windows[:, 0]] - windows[:, 1:2]).T
        whole_N = (first_N >= 0) & (last_N < windows[:, 2])
        has_E = span_Ex2[:, 0] >= 0
        lost = int(has_E.sum()) - len(np.unique(windows[whole_N & has_E[windows[:, 0]], 0]))
        return [*found, Cut(lost, int(has_E.sum()), "answers are in no window as a whole and are never targets")]

    def lengths(self, corpus: Corpus) -> np.ndarray:
        example_N, _, length_N = corpus["window"].values.reshape(-1, 3).T
        total_N = self._special + self._question(corpus["question"].lengths[example_N]) + length_N
        return np.stack([np.ones_like(total_N), total_N], axis=1)

    def features(self, corpus: Corpus, index: int, epoch: int) -> dict[str, np.ndarray]:
        example, start, length = (int(n) for n in corpus["window"][index])
        question = corpus["question"][example]
        question = question[: self._question(np.asarray(len(question)))]
        context = corpus["text"][example][start : start + length]
        span = corpus["span"][example] if "span" in corpus else []
        places = (0, 0)
        if len(span):
            first, last = (int(n) - start for n in span)
            if 0 <= first <= last < length:
                before = len(question) + self._special - 1
                places = (first + before, last + before)
        return {
            "first": np.array([places[0]], np.int32),
            "last": np.array([places[1]], np.int32),
            "weights": np.array(["span" in corpus], np.float32),
            **with_special_tokens(self.begin, self.end, question, context, between=self.between),
        }
