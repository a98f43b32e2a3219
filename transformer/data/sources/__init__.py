"""Sources of text: synthetic tasks, text files, labelled files, and data sets of the TFDS catalogue.

An example is a mapping from field names to text: {"source", "target"} for a pair, {"text"} for a document, {"text", "pair"?,
"label"}, {"text", "tags"}, {"question", "text", "answer", "start", "answers"}. Tokenization is in `tokenizers/`, batches are in
`pipeline.py`. TensorFlow is never imported.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from transformer.config import Data
from transformer.data.sources.base import Example, Examples, Split, SplitName, fingerprint
from transformer.data.sources.documents import read_documents
from transformer.data.sources.labelled import read_conll, read_tsv
from transformer.data.sources.pairs import prefixer, read_text
from transformer.data.sources.records import read_catalogue, read_synthetic
from transformer.data.sources.squad import read_squad

__all__ = ["SOURCES", "Example", "Examples", "Split", "SplitName", "read", "resolve_paths"]

SOURCES: Mapping[str, Callable[[Data, SplitName, Path], Split]] = {
    "number_words": read_synthetic,
    "list_ops": read_synthetic,
    "list_ops_pairs": read_synthetic,
    "entities": read_synthetic,
    "stories": read_synthetic,
    "summaries": read_synthetic,
    "algorithms": read_synthetic,
    "text": read_text,
    "documents": read_documents,
    "tsv": read_tsv,
    "conll": read_conll,
    "squad": read_squad,
    "tfds": read_catalogue,
}


def resolve_paths(data: Data) -> Data:
    """The settings with `directory` as an absolute path, so that the data is found from any working directory."""
    own = SOURCES[data.source] not in (
        read_synthetic,
        read_catalogue,
    )  # files are relative to the working directory; the other sources have default folders
    folder = "." if own and data.directory is None else data.directory
    return data if folder is None else dataclasses.replace(data, directory=os.path.abspath(folder))


def read(data: Data, split: SplitName, cache: Path) -> Split | None:
    """The split that `data.train`, `.validation` or `.test` names, or None if that setting is none.

    A synthetic data set is prepared in `data.directory` or, if that is none, in the folder `cache`. UserError if the data is
    missing, malformed or empty, or if the settings do not match it.
    """
    if getattr(data, split) is None:
        return None
    result = SOURCES[data.source](data, split, cache)
    if not data.prefix:
        return result
    return dataclasses.replace(
        result,
        examples=result.examples.map(prefixer(data.prefix, data.lowercase)),
        fingerprint=fingerprint([result.fingerprint, repr(data.prefix)]),
    )
