"""Encodes the fields of a split as token ids and label ids, the inputs of objectives.

`corpus.tokenize` encodes the text. Labels are indices into `labels`, which are those of the training split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer.data.corpus import Ragged, tokenize
from transformer.data.text import tagged_words
from transformer.data.tokenizers.vocabulary import Span, Vocabulary
from transformer.errors import UserError, nearest

Examples = Sequence[Mapping[str, Any]]
Vocabularies = Mapping[str, Vocabulary]


def texts(examples: Examples, vocabularies: Vocabularies, labels: Sequence[str]) -> dict[str, Ragged]:
    """The tokens of all fields that have a vocabulary and that the examples have."""
    return tokenize(examples, {field: each for field, each in vocabularies.items() if field in examples[0]})


def classified(examples: Examples, vocabularies: Vocabularies, labels: Sequence[str]) -> dict[str, Ragged]:
    """The texts, and `label` with one id per row."""
    ids = [[identify(example["label"], labels, number)] for number, example in enumerate(examples, 1)]
    return texts(examples, vocabularies, labels) | {"label": Ragged.of(ids)}


def tagged(examples: Examples, vocabularies: Vocabularies, labels: Sequence[str]) -> dict[str, Ragged]:
    """`text`, word by word, and `tags`: a word's first token has the word's tag, its others -1 (Devlin et al. 2019, 5.3).

    In an example without tags, all words have the tag 0.
    """
    words = {word: None for example in examples for word in tagged_words(example["text"])}
    known = dict(zip(words, vocabularies["text"].encode_words(list(words)), strict=True))
    tokens, tags = [], []
    for number, example in enumerate(examples, 1):
        pieces = [known[word] for word in tagged_words(example["text"])]
        ids = (
            [identify(tag, labels, number) for tag in tagged_words(example["tags"])] if "tags" in example else [0] * len(pieces)
        )
        tokens.append([token for piece in pieces for token in piece])
        tags.append([t for piece, tag in zip(pieces, ids, strict=True) for t in ([tag] + [-1] * len(piece))[: len(piece)]])
    return {"text": Ragged.of(tokens), "tags": Ragged.of(tags)}


def answered(examples: Examples, vocabularies: Vocabularies, labels: Sequence[str]) -> dict[str, Ragged]:
    """`question`, `text` and `span`: the first and the last token that overlap the answer; empty if there is no answer."""
    result, spans, kept = texts(examples, vocabularies, labels), [], (None, [])
    for example in examples:
        begin, end = int(example["start"]), int(example["start"]) + len(example["answer"])
        if begin < 0:
            spans.append([])
            continue
        if kept[0] != example["text"]:  # questions of one text are adjacent
            kept = example["text"], vocabularies["text"].spans(example["text"])
        touched = touching(kept[1], (begin, end))
        spans.append([touched[0], touched[-1]] if touched else [])
    return result | {"span": Ragged.of(spans)}


def touching(tokens: Sequence[Span], part: Span) -> list[int]:
    """The indices of the tokens that share a character with a part of their text."""
    return [number for number, (first, last) in enumerate(tokens) if first < part[1] and last > part[0]]


def identify(label: str, labels: Sequence[str], number: int) -> int:
    """The id of a label. UserError if the training split does not have it."""
    try:
        return labels.index(label)
    except ValueError:
        shown = ", ".join(labels[:20]) + (", .." if len(labels) > 20 else "")
        raise UserError(
            f"example {number} of this split or slice has the label {label!r}, which no training example has"
            f"{nearest(label, labels)}; the labels are {shown}: correct it, or train on examples that have it"
        ) from None


def find_labels(examples: Examples) -> tuple[str, ...]:
    """The sorted labels or tags of a training split, with numbers sorted by value; empty if its examples have none."""
    if "label" in examples[0]:
        found = {example["label"] for example in examples}
    elif "tags" in examples[0]:
        found = {tag for example in examples for tag in tagged_words(example["tags"])}
    else:
        return ()
    return tuple(sorted(found, key=lambda label: (int(label) if label.isdecimal() else np.inf, label)))


def sentence_ends(vocabulary: Vocabulary, size: int) -> np.ndarray:
    """Whether the entry ends a sentence, for each token id below `size`."""
    return np.array([piece[-1:] in ".!?" and piece != "" for piece in vocabulary.pieces(range(size))])
