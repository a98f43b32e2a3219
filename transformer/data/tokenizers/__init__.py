"""Vocabularies encode text as token ids and decode them: learned here (vocabulary.py, training.py), or of published models."""

import json
from pathlib import Path

from transformer.data.tokenizers.vocabulary import Bytes, Characters, SentencePiece, Vocabulary, read_characters
from transformer.errors import UserError


def load(folder: Path, name: str) -> Vocabulary:
    """The vocabulary that `save(folder, name)` wrote. UserError if it is missing or damaged."""
    try:
        if (path := folder / f"{name}.model").exists():
            return SentencePiece(path.read_bytes())
        if (path := folder / f"{name}.characters.json").exists():
            return Characters(read_characters(json.loads(path.read_text(encoding="utf-8"))))
        if (folder / f"{name}.bytes").exists():
            return Bytes()
        if any((folder / f"{name}.{kind}.json").exists() for kind in ("tokenizer", "marian", "m2m_100")):
            from transformer.data.tokenizers import imported  # imported here, because few runs need its library

            return imported.load(folder, name)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: the vocabulary {name!r} cannot be read ({error}); train again in a new workdir") from error
    raise UserError(f"{folder}: there is no vocabulary {name!r}; the workdir is incomplete, train again in a new one")
