"""Limits of length in a `generation_config.json`, in and out.

Transformers counts all tokens (`max_length`: a decoder's start, or a prompt, is one of them) or new ones
(`max_new_tokens`, which prevails). A limit that grows with the source has no name there. So that a model of ours comes
back with its own limits, they stand beside the field that Transformers obeys, in `limits`, which it ignores; they count
only while that field is as it was written.
"""

from collections.abc import Mapping
from typing import Any

from transformer import settings
from transformer.config import Config
from transformer.errors import UserError

THEIRS = ("max_length", "max_new_tokens")
OURS = "limits"
SETTINGS = ("search.max_length", "search.max_extra", "search.max_new_tokens", "data.max_target_length")


def to_settings(generation: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """Settings by dotted name. UserError: a limit is no number of tokens."""
    for name in THEIRS:
        value = generation.get(name)
        if value is not None and not (settings.has_type(value, int) and 1 <= value <= settings.MOST // 2):
            raise UserError(f"{where}: {name} is {value!r}: wants a number of tokens, 1 or more")
    values = _obeyed(generation, family)
    kept = generation.get(OURS)
    if isinstance(kept, Mapping) and all(kept.get(name) == generation.get(name) for name in THEIRS):
        kinds = {name: kind for name, kind, _, _ in settings.fields(Config())}
        values |= {name: kept[name] for name in SETTINGS if name in kept and settings.has_type(kept[name], kinds[name])}
    return values


def _obeyed(generation: Mapping[str, Any], family: str) -> dict[str, Any]:
    max_length, max_new_tokens = (generation.get(name) for name in THEIRS)
    if family == "encoder_decoder":
        most = max_length if max_new_tokens is None else max_new_tokens + 1  # the start is no new token
        if most is None:
            return {}
        # Whatever the source's length is. One token is always written.
        return {"search.max_length": max(most, 2), "search.max_extra": most, "data.max_target_length": max(most - 1, 2)}
    if max_new_tokens is not None:
        return {"search.max_new_tokens": max_new_tokens}
    return {} if max_length is None else {"search.max_length": max(max_length, 2)}


def to_fields(config: Config, longest_output: int = 0) -> dict[str, Any]:
    """`max_length` always, or Transformers would stop after 20 tokens; `max_new_tokens` where it was asked for.

    `longest_output`: as `DataInfo` has it.
    """
    search, data = config.search, config.data
    positions = config.model.most_positions
    if config.family == "encoder_decoder":
        longest = search.output_limit(data.max_source_length, longest_output)
        result = {"max_length": 1 + (longest if positions is None else min(longest, positions))}
    else:  # past the last position Transformers fails, where ours reads the last half again
        longest = positions or data.max_target_length
        result = {"max_length": min(search.max_length or longest, longest)}
        if search.max_length is None and search.max_new_tokens is not None and search.max_new_tokens < longest:
            result["max_new_tokens"] = search.max_new_tokens
    own = {name: value for name, _, _, value in settings.fields(config) if name in SETTINGS}
    again = _obeyed(result, config.family)
    return result if all(again.get(name) == value for name, value in own.items()) else result | {OURS: result | own}
