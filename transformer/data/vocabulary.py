"""Text to token ids and back: sentencepiece (BPE, unigram), bytes, characters. Trained once, kept in the workdir.

Ids 0 to 3 are the special ones of `Facts` (padding, start, end, unknown), in every kind; `decode` leaves them out.
"""

import abc
import collections
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transformer.config import Data
from transformer.errors import UserError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
UNKNOWN = 3
MOST_SENTENCES = 2_000_000  # sentencepiece learns from as many, evenly spaced; more changes little and needs much memory


class Vocabulary(abc.ABC):
    """Entries with ids 0 .. size - 1."""

    size: int

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids, without start and end."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special ones are left out."""

    @abc.abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for, to show it."""

    @abc.abstractmethod
    def save(self, folder: Path, name: str) -> None:
        """Writes one file, `folder/name.*`."""


class Bytes(Vocabulary):
    """UTF-8 bytes, shifted past the special ids (ByT5; Xue et al. 2022). Any text goes round exactly."""

    size = len(SPECIAL) + 256

    def encode(self, text: str) -> list[int]:
        return [byte + len(SPECIAL) for byte in text.encode("utf-8", "surrogateescape")]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - len(SPECIAL) for i in ids if i >= len(SPECIAL)).decode("utf-8", "replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [SPECIAL[i] if i < len(SPECIAL) else _visible(bytes([i - len(SPECIAL)]).decode("latin-1")) for i in ids]

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.bytes").touch()


class Characters(Vocabulary):
    """Unicode characters of the training text, the most frequent first. Known characters go round exactly."""

    def __init__(self, characters: Sequence[str]):
        self.characters = list(characters)
        self.size = len(SPECIAL) + len(self.characters)
        self.ids = {character: number for number, character in enumerate(self.characters, len(SPECIAL))}

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(character, UNKNOWN) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[i - len(SPECIAL)] for i in ids if i >= len(SPECIAL))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [SPECIAL[i] if i < len(SPECIAL) else _visible(self.characters[i - len(SPECIAL)]) for i in ids]

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.characters.json").write_text(json.dumps(self.characters), encoding="utf-8")


class SentencePiece(Vocabulary):
    """Kudo and Richardson 2018. Text goes round up to the model's own Unicode normalisation and unknown characters."""

    def __init__(self, model: bytes):
        import sentencepiece

        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(model)
        self.size = self.processor.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        return self.processor.EncodeAsIds(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.Encode(list(texts), out_type=int) if texts else []

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.DecodeIds([int(i) for i in ids if i >= len(SPECIAL)])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.processor.IdToPiece(int(i)) for i in ids]

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.model").write_bytes(self.model)


def train(data: Data, texts: Sequence[str], notice: Callable[[str], None]) -> Vocabulary:
    """The vocabulary that `data` asks for, learned from `texts`. A size that they cannot fill is capped, with a notice."""
    if data.vocabulary == "bytes":
        return Bytes()
    if data.vocabulary == "characters":
        counts = collections.Counter(itertools.chain.from_iterable(texts))
        frequent = sorted(counts, key=lambda c: (-counts[c], c))
        room = data.vocabulary_size - len(SPECIAL)
        if len(frequent) > room:
            notice(f"vocabulary: {len(frequent) - room} rare characters are unknown (config.data.vocabulary_size)")
        vocabulary = Characters(frequent[:room])
    else:
        vocabulary = SentencePiece(_train_sentencepiece(data, texts))
    if vocabulary.size < data.vocabulary_size:
        notice(f"vocabulary: the text fills {vocabulary.size:,} entries of {data.vocabulary_size:,}")
    return vocabulary


def _train_sentencepiece(data: Data, texts: Sequence[str]) -> bytes:
    import io

    import sentencepiece

    every = -(-len(texts) // MOST_SENTENCES)
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_sentences(texts, every),
            model_writer=written,
            model_type=data.vocabulary,
            vocab_size=data.vocabulary_size,
            hard_vocab_limit=False,
            normalization_rule_name=data.normalization,
            character_coverage=1.0,
            max_sentence_length=1 << 16,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=UNKNOWN,
            num_threads=4,  # fixed: sums of the unigram model depend on it
            minloglevel=2,
        )
    except RuntimeError as error:
        least = len(SPECIAL) + len({character for text in texts for character in text}) + 1
        raise UserError(
            f"config.data.vocabulary_size {data.vocabulary_size}: sentencepiece cannot make such a vocabulary of this text, "
            f"which has about {least} distinct characters and special entries; set a larger size "
            "or config.data.vocabulary=bytes"
        ) from error
    return written.getvalue()


def _sentences(texts: Sequence[str], every: int) -> Iterable[str]:
    return (texts[i] for i in range(0, len(texts), max(every, 1)))


def load(folder: Path, name: str) -> Vocabulary:
    """What `save(folder, name)` wrote. UserError if it is not there or damaged."""
    try:
        if (path := folder / f"{name}.model").exists():
            return SentencePiece(path.read_bytes())
        if (path := folder / f"{name}.characters.json").exists():
            return Characters(json.loads(path.read_text(encoding="utf-8")))
        if (folder / f"{name}.bytes").exists():
            return Bytes()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: the vocabulary {name!r} cannot be read ({error}); train again in a new workdir") from error
    raise UserError(f"{folder}: there is no vocabulary {name!r}; the workdir is incomplete, train again in a new one")


def _visible(character: str) -> str:
    return {" ": "\u2423", "\n": "\\n", "\t": "\\t"}.get(
        character, character if character.isprintable() else repr(character)[1:-1]
    )
