"""Reads labelled files: TSV as {"text", "pair"?, "label"}, CoNLL as {"text", "tags"}. SQuAD is in squad.py."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from transformer.config import Data
from transformer.cuts import Cut, some
from transformer.data.sources.base import Split, SplitName, listed, lowered
from transformer.data.sources.reading import find_one, read_lines
from transformer.data.text import tagged_words
from transformer.errors import UserError, counted


def read_tsv(data: Data, split: SplitName, cache: Path) -> Split:
    """Reads lines `label TAB text`, or `label TAB text TAB pair` if all lines have a pair. Fields are stripped. Slices count
    lines.
    """
    path, cut = find_one(data, split, (".tsv",))
    lines = read_lines(path)
    first = lines[0].count("\t") + 1
    names = ("label", "text", "pair")[:first]
    examples = []
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split("\t")]
        found = f"{path}: line {number} has {counted(len(fields), 'field')}"
        if len(fields) not in (2, 3):
            raise UserError(f"{found}; expected label TAB text, or label TAB text TAB pair")
        if len(fields) != first:
            raise UserError(f"{found}, line 1 has {first}; all lines must have the same number")
        example = dict(zip(names, fields, strict=True))
        if empty := [name for name, field in example.items() if not field]:
            raise UserError(f"{path}: line {number}: the {empty[0]} is empty; fill it or delete the line")
        examples.append(example)
    return _split(data, split, path, examples[cut(len(examples))], len(examples))


def read_conll(data: Data, split: SplitName, cache: Path) -> Split:
    """Reads sentences with one token per line and its tag in the last column (CoNLL-2003; Tjong Kim Sang and De Meulder 2003).

    Tags are BIO, or IOB1 as in that corpus, where B- is used only between two adjacent entities of the same type. An I- that
    does not continue an entity of its type becomes a B-. This is its meaning in IOB1, but in BIO it is a mistake, so a notice
    gives their number. Lines of -DOCSTART- separate sentences. Slices count sentences.
    """
    path, cut = find_one(data, split, (".conll", ".txt"))
    examples, changed, total = [], 0, 0
    sentences = [*_sentences(path)]
    for sentence in sentences[cut(len(sentences))]:
        tags = [tag for _, _, tag in sentence]
        begun = to_bio(tags)
        changed, total = changed + sum(a != b for a, b in zip(tags, begun, strict=True)), total + len(tags)
        examples.append({"text": " ".join(token for _, token, _ in sentence), "tags": " ".join(begun)})
    what = "tags begin an entity with I- and were read as B- (IOB1, or mistakes if the file is BIO)"
    return _split(data, split, path, examples, len(sentences), tuple(some(Cut(changed, total, what, split))))


def to_bio(tags: list[str]) -> list[str]:
    """Converts IOB1 or BIO to BIO, where every entity begins with B-."""
    before = ["O", *tags]
    return ["B" + t[1:] if t[0] == "I" and p[1:] != t[1:] else t for p, t in zip(before, tags, strict=False)]


def _sentences(path: Path) -> Iterator[list[tuple[int, str, str]]]:
    """(line, token, tag) of each sentence."""
    width = 0

    def parts(line: tuple[int, str]) -> bool:
        return not line[1].strip() or line[1].startswith("-DOCSTART-")

    for between, lines in itertools.groupby(enumerate(read_lines(path), 1), parts):
        if between:
            continue
        sentence = []
        for number, line in lines:
            columns = tagged_words(line)
            width = width or len(columns)
            if len(columns) < 2:
                raise UserError(f"{path}: line {number} has one column; expected a token and, in the last column, its tag")
            if len(columns) != width:
                raise UserError(
                    f"{path}: line {number} has {counted(len(columns), 'column')}, but the lines before it have {width}"
                )
            tag = columns[-1]
            if tag != "O" and not (tag[:2] in ("B-", "I-") and len(tag) > 2):
                raise UserError(f"{path}: line {number}: the tag {tag} is neither O nor B- or I- with a type, as in B-PER")
            sentence.append((number, columns[0], tag))
        yield sentence


def _split(
    data: Data, split: SplitName, path: Path, examples: list[dict[str, str]], total: int, notices: tuple[Cut, ...] = ()
) -> Split:
    """`total`: the number of examples of the file, of which `examples` are a slice."""
    if not examples:
        none = f"this slice contains none of the {counted(total, 'example')}" if total else "the file has no example"
        raise UserError(f"config.data.{split} {getattr(data, split)}: {none} ({path})")
    return listed([lowered(example) for example in examples] if data.lowercase else examples, notices)
