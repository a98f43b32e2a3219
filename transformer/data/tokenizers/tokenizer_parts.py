"""Parts of a `tokenizer.json` that several classes of Transformers have in common."""

from collections.abc import Iterable, Mapping
from typing import Any

Described = dict[str, Any]  # a tokenizer.json
Settings = Mapping[str, Any]  # a tokenizer_config.json, and the special tokens of special_tokens_map.json


class Contradiction(ValueError):
    """The files of a tokenizer contradict each other. The message says what to change."""


def token(settings: Settings, role: str, default: str | None = None) -> str | None:
    """The special token of a role, such as "mask_token"."""
    value = settings.get(role, default)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else default


def flags(settings: Settings, role: str) -> Described:
    """How the special token of a role is found in text, where the settings say it: with the spaces around it, for example."""
    value = settings.get(role)
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {name: value[name] for name in names if isinstance(value.get(name), bool)} if isinstance(value, Mapping) else {}


def known_token(settings: Settings, role: str, defaults: Mapping[str, str], ids: Mapping[str, int]) -> str:
    """The special token of a role. Contradiction if the entries lack this token, which the class needs."""
    name = token(settings, role, defaults[role])
    if name is None or name not in ids:
        raise Contradiction(f"its tokenizer has no token {name} ({role}); name another in tokenizer_config.json")
    return name


def described_as(model: Described) -> Described:
    """A `tokenizer.json` that contains only a model."""
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(names), "added_tokens": [], "model": model}


def added_token(number: int, content: str) -> Described:
    """The entry of a special token in `tokenizer.json`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def template(
    before: Iterable[str], after: Iterable[str], between: Iterable[str], ids: Mapping[str, int], second_type: int = 0
) -> Described:
    """A post-processor that adds special tokens around a text, and in a pair around the first and before and after the
    second.
    """

    def named(tokens: Iterable[str], kind: int) -> list[Described]:
        return [{"SpecialToken": {"id": each, "type_id": kind}} for each in tokens]

    before, after, between = list(before), list(after), list(between)
    single = [*named(before, 0), {"Sequence": {"id": "A", "type_id": 0}}, *named(after, 0)]
    second = [{"Sequence": {"id": "B", "type_id": second_type}}, *named(after, second_type)]
    special = {each: {"id": each, "ids": [ids[each]], "tokens": [each]} for each in (*before, *after, *between)}
    pair = [*single, *named(between, second_type), *second]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
