"""How a sentence encoder makes a vector of a text: the files of the sentence-transformers library, in and out.

`modules.json` lists what comes one after another: the encoder, a folder that says how its states are pooled, and, perhaps,
a scaling to length 1.
"""

import json
from pathlib import Path
from typing import Any

from transformer.config import Config
from transformer.errors import UserError
from transformer.interop.tensors import read_json

MODULES, LENGTH, POOLING = "modules.json", "sentence_bert_config.json", "1_Pooling"
# The same file of older folders; the first that there is counts.
LENGTHS = (LENGTH, *(f"sentence_{each}_config.json" for each in ("roberta", "distilbert", "camembert", "xlm-roberta")))
PROMPTS = "config_sentence_transformers.json"  # texts that the library may put before each text
MODES = {"mean": "mean", "cls": "first"}  # theirs -> ours


def read(folder: Path) -> dict[str, Any]:
    """Settings by dotted name; none where the folder is not one of that library. UserError: vectors are made in another way."""
    path = folder / MODULES
    if not path.is_file():
        return {}
    try:
        modules = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: it is no list of modules ({error}); fetch it again") from error
    result: dict[str, Any] = {"embed.normalize": False}
    for kind, name in modules:
        if kind == "Pooling":
            result["embed.pooling"] = _pooling(folder / Path(name).name / "config.json")
        elif kind == "Normalize":
            result["embed.normalize"] = True
        elif kind != "Transformer":
            raise UserError(f"{path}: {kind} is no module that is supported; without that file the encoder alone is imported")
    _check_prompt(folder / PROMPTS)
    length = next((read_json(path) for name in LENGTHS if (path := folder / name).is_file()), {})
    if isinstance(most := length.get("max_seq_length"), int) and most > 1:
        result["data.max_source_length"] = most
    if length.get("do_lower_case") is True:
        result["data.lowercase"] = True
    return result


def _check_prompt(path: Path) -> None:
    """UserError: the library puts a prompt before every text."""
    described = read_json(path) if path.is_file() else {}
    name, prompts = described.get("default_prompt_name"), described.get("prompts")
    if name is not None and (prompt := prompts.get(name) if isinstance(prompts, dict) else name):
        raise UserError(
            f"{path}: default_prompt_name is {name!r}, which puts {prompt!r} before every text, and no text is added here; set "
            "it to null there, and write the prompt into your texts"
        )


def _pooling(path: Path) -> str:
    settings = read_json(path)
    named = settings.get("pooling_mode")
    chosen = (
        [named]
        if isinstance(named, str)
        else [mode for mode in ("cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken") if _asked(settings, mode)]
    )
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise UserError(
            f"{path}: pooling by {' and '.join(map(str, chosen)) or 'nothing'}: only by {' or '.join(MODES)} is supported"
        )
    return MODES[chosen[0]]


def _asked(pooling: dict[str, Any], mode: str) -> bool:
    return bool(
        pooling.get(f"pooling_mode_{mode}_tokens")
        or pooling.get(f"pooling_mode_{mode}_token")
        or pooling.get(f"pooling_mode_{mode}")
    )


def write(folder: Path, config: Config) -> None:
    """The same files of a model of ours."""
    modules = [("Transformer", ""), ("Pooling", POOLING)] + [("Normalize", "2_Normalize")] * config.embed.normalize
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    first = config.embed.pooling == "first"
    pooling = {"word_embedding_dimension": config.model.d_model}
    pooling |= {"pooling_mode_cls_token": first, "pooling_mode_mean_tokens": not first}
    length = {"max_seq_length": config.data.max_source_length, "do_lower_case": config.data.lowercase}
    (folder / POOLING).mkdir()
    for path, value in ((MODULES, listed), (f"{POOLING}/config.json", pooling), (LENGTH, length)):
        (folder / path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
