"""Vocabularies learned from a training split: sentencepiece (BPE, unigram) and characters. Bytes need no training."""

import collections
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from transformer.config import Data
from transformer.data.tokenizers.vocabulary import LINE_ENDS, SPECIAL, UNKNOWN, Bytes, Characters, SentencePiece, Vocabulary
from transformer.errors import UserError, counted, first_line

# sentencepiece learns from evenly spaced pieces of text, at most this many with about this many characters in total; more
# changes little and needs much memory
MOST_PIECES, MOST_TEXT = 2_000_000, 1 << 30
MOST_CHARACTERS = 1 << 14  # characters in a piece of text, because sentencepiece ignores longer lines
MOST_BYTES = 4 * MOST_CHARACTERS
_RESERVED = re.compile("[\0\u2585]")  # sentencepiece ignores lines with these characters


def train(data: Data, texts: Sequence[str], notice: Callable[[str], None]) -> Vocabulary:
    """The vocabulary that `data` describes, learned from `texts`. `notice` is called if characters are omitted or entries
    unused.

    If texts have line ends, these are entries, whatever the normalization, so that a document keeps its lines. UserError if
    such a vocabulary cannot be learned from the texts.
    """
    if data.vocabulary == "bytes":
        return Bytes()
    if data.vocabulary == "characters":
        counts = collections.Counter(itertools.chain.from_iterable(texts))
        frequent = sorted(counts, key=lambda c: (-counts[c], c))
        room = data.vocabulary_size - len(SPECIAL)
        if len(frequent) > room:
            rare = counted(len(frequent) - room, "rare character")
            notice(f"vocabulary: {rare} left out and read as unknown (config.data.vocabulary_size)")
        vocabulary = Characters(frequent[:room])
    else:
        vocabulary = SentencePiece(_train_sentencepiece(data, texts, notice))
    if vocabulary.size < data.vocabulary_size:
        notice(
            f"vocabulary: the training text fills only {vocabulary.size:,} of the {data.vocabulary_size:,} entries of "
            "config.data.vocabulary_size"
        )
    return vocabulary


def pieces(text: str) -> Iterator[str]:
    """Splits a text into pieces that sentencepiece does not ignore, at white space if there is any."""
    for part in _RESERVED.split(text) if _RESERVED.search(text) else (text,):
        first = 0
        while len(part) - first > MOST_CHARACTERS:
            last = max(part.rfind(blank, first + 1, first + MOST_CHARACTERS) for blank in " \n")
            last = last if last > first else first + MOST_CHARACTERS
            yield part[first:last]
            first = last
        if first < len(part):
            yield part[first:]


def _train_sentencepiece(data: Data, texts: Sequence[str], notice: Callable[[str], None]) -> bytes:
    import sentencepiece

    def some(every: int) -> Iterator[str]:
        return itertools.islice(itertools.chain.from_iterable(map(pieces, texts)), 0, None, every)

    lengths = [*map(len, some(1))]
    every = max(-(-len(lengths) // MOST_PIECES), -(-sum(lengths) // MOST_TEXT), 1)
    if every > 1:
        used = -(-len(lengths) // every)
        notice(f"vocabulary: learned from {used:,} of {len(lengths):,} pieces of the training texts, evenly spaced")
    if not any(text.strip() for text in some(every)):
        raise UserError(f"config.data.vocabulary {data.vocabulary}: the training text is blank; name a split that has text")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=some(every),
            model_writer=written,
            model_type=data.vocabulary,
            vocab_size=data.vocabulary_size,
            hard_vocab_limit=False,
            normalization_rule_name=data.normalization,
            remove_extra_whitespaces=data.normalization != "identity",
            character_coverage=1.0,
            max_sentence_length=MOST_BYTES,
            user_defined_symbols=[end for end in LINE_ENDS if any(end in text for text in texts)],
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=UNKNOWN,
            num_threads=4,  # fixed, because sums of the unigram model depend on it
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        least = len(SPECIAL) + len({character for text in some(every) for character in text}) + 1
        if data.vocabulary_size >= least:
            raise UserError(
                f"config.data.vocabulary {data.vocabulary}: sentencepiece cannot learn from the training text "
                f"({first_line(error)}); set config.data.vocabulary=characters or bytes"
            ) from error
        raise UserError(
            f"config.data.vocabulary_size {data.vocabulary_size}: sentencepiece cannot make such a vocabulary of this text, "
            f"which has about {least} distinct characters and special entries; set a larger size "
            "or config.data.vocabulary=bytes"
        ) from error
    return written.getvalue()
