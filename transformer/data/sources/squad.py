"""Reads SQuAD's JSON as {"question", "text", "answer", "start", "answers"} (Rajpurkar et al. 2016; 2018)."""

import json
from pathlib import Path
from typing import Any

from transformer.config import Data
from transformer.data.sources.base import Split, SplitName, listed, lowered
from transformer.data.sources.reading import find_one, read_lines
from transformer.errors import UserError

_CALLED = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


def read_squad(data: Data, split: SplitName, cache: Path) -> Split:
    """One example per question: "text" is its context, "answer" the first answer, and "start" the index of its first character.

    "answers" is a JSON list of all answers. Without an answer (v2) these are "", -1 and [""]. Slices count articles, so that
    no paragraph is in two slices.
    """
    path, cut = find_one(data, split, (".json",))
    try:
        content = json.loads("".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number is too long
        raise UserError(f"{path}: not JSON in SQuAD's format ({error})") from error
    articles = _get(path, "", content, "data", list)
    examples, chosen = [], range(len(articles))[cut(len(articles))]
    for a in chosen:
        where = f"data[{a}]"
        for p, paragraph in enumerate(_get(path, where, articles[a], "paragraphs", list)):
            where = f"data[{a}].paragraphs[{p}]"
            context = _get(path, where, paragraph, "context", str)
            for q, question in enumerate(_get(path, where, paragraph, "qas", list)):
                examples.append(_example(path, f"{where}.qas[{q}]", context, question))
    if not examples:
        none = "this slice contains none of the questions" if len(chosen) < len(articles) else "the file has no question"
        raise UserError(f"config.data.{split} {getattr(data, split)}: {none} ({path})")
    return listed([lowered(example) for example in examples] if data.lowercase else examples)


def _example(path: Path, where: str, context: str, question: Any) -> dict[str, str]:
    asked = _get(path, where, question, "question", str).strip()
    answers = _get(path, where, question, "answers", list)
    unanswerable = question.get("is_impossible", False)
    if not isinstance(unanswerable, bool):
        raise UserError(f"{path}: {where}.is_impossible is neither true nor false")
    if unanswerable == bool(answers):
        has = "is_impossible and has answers" if unanswerable else "has no answers and does not say is_impossible: true"
        raise UserError(f"{path}: {where} {has}; correct it")
    texts, starts = [], []
    for n, answer in enumerate(answers):
        here = f"{where}.answers[{n}]"
        text, start = _get(path, here, answer, "text", str), _get(path, here, answer, "answer_start", int)
        if not text.strip():
            raise UserError(f"{path}: {here}.text is blank")
        if start < 0 or context[start : start + len(text)] != text:
            name = question.get("id", where)
            raise UserError(
                f"{path}: {here} of the question with id {name}: {text[:40]!r} is not at character {start} of its context"
            )
        texts.append(text)
        starts.append(start)
    return {
        "question": asked,
        "text": context,
        "answer": texts[0] if texts else "",
        "start": str(starts[0] if starts else -1),
        "answers": json.dumps(list(dict.fromkeys(texts)) or [""], ensure_ascii=False),
    }


def _get(path: Path, where: str, value: Any, key: str, kind: type) -> Any:
    """`value[key]`, which must have the type `kind`. UserError with the path in the JSON if not."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: {where or 'the file'} is not an object")
    here = f"{where}.{key}".lstrip(".")
    if key not in value:
        raise UserError(f"{path}: {here} is missing")
    found = value[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        raise UserError(f"{path}: {here} is not {_CALLED[kind]}")
    if kind is str and not found.isascii():
        try:
            found.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{path}: {here} has half of a surrogate pair ({found[error.start]!a})") from error
    return found
