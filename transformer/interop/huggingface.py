"""Weights in and out: a folder of Hugging Face's Transformers to what a workdir holds, and back.

The families are those of formats.py. Names of parameters are in names.py, settings in fields.py and the files beside it.
Neither PyTorch nor Transformers is needed.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer import effects, families, settings
from transformer.config import Config, DataInfo
from transformer.data.tokenizers.imported import Tokenizer
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.files import new_folder
from transformer.interop import configs, convert, sentences, tensors, vocabularies
from transformer.interop.formats import FORMATS, NAMES
from transformer.interop.names import Names
from transformer.validation import check_data_info, validate

MOST_SLOTS = 4096  # tokens of a text, unless a setting says more: a model's positions may be for many more than memory is
LONGEST = 512  # tokens of a sentence, where positions know no end
PACKED = ("translate", "causal_lm", "masked_lm")  # the other objectives take one example in a row


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a workdir is made of. Vocabularies by name: "joint", or "source" and "target"."""

    config: Config
    data_info: DataInfo
    params: Any
    vocabularies: dict[str, Vocabulary]


Placing = Callable[[Config, Any], Any]  # settings and the tree of a model's shapes -> the tree of shardings


def read(folder: str | Path, place: Placing | None = None) -> Imported:
    """The model and the tokenizer of a folder with `config.json` and safetensors.

    `place`: then parameters are read piece by piece onto the devices, and the host never has all of them.
    UserError, one line: what is missing, damaged or unsupported; fields of `config.json` by name.
    """
    folder = Path(folder)
    model_type, raw, generation = _read_fields(folder)
    rows = raw.get("vocab_size") or next(f.default for f in FORMATS[model_type].fields if f.theirs == "vocab_size")
    made, found = vocabularies.read(folder, model_type, rows)
    return _read_model(folder, model_type, raw, generation, made, found, place)


def read_model(folder: str | Path, place: Placing | None = None) -> Imported:
    """`read` without the tokenizer: every entry of a table counts as one of the vocabulary."""
    folder = Path(folder)
    return _read_model(folder, *_read_fields(folder), {}, {}, place)


def write(folder: str | Path, config: Config, data_info: DataInfo, params: Any, vocabs: Mapping[str, Vocabulary]) -> None:
    """Makes the folder: `config.json`, `generation_config.json`, `model.safetensors`, tokenizer.

    `vocabs`: of the source (the text) first, of the target last, or one. UserError: a setting or a vocabulary that
    Transformers has not, or the folder has something in it.
    """
    folder = Path(folder)
    name = configs.choose(config, data_info)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is there already and not empty; choose another folder")
    fields = configs.to_fields(name, config, data_info) | _head_fields(name, config, data_info)
    arrays = convert.to_tensors(NAMES[name], config, params)
    with new_folder(folder) as new:
        tensors.write(new, arrays)
        _write_json(new / "config.json", fields)
        if "target" in config.sequences:
            _write_json(new / "generation_config.json", configs.search_fields(config, data_info))
        if config.objective.kind == "embed":
            sentences.write(new, config)
        if vocabs:
            sides = list(vocabs.values())
            vocabularies.write(new, config, name, sides[0], sides[-1], data_info)


def _read_fields(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """The model type, `config.json`, and `generation_config.json` where there is one."""
    if not (folder / "config.json").is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder}: {what}; wants a folder that Transformers' save_pretrained has written")
    raw = tensors.read_json(folder / "config.json")
    name = _model_type(raw, str(folder / "config.json"))
    generation = folder / "generation_config.json"
    return name, raw, tensors.read_json(generation) if generation.is_file() else None


def _architecture(raw: Mapping[str, Any]) -> Any:
    named = raw.get("architectures")
    return named[0] if isinstance(named, list) and named else named or None


def _model_type(raw: Mapping[str, Any], where: str) -> str:
    """The row of FORMATS; a file without `model_type` says it by its architecture. UserError: it is not supported."""
    name, architecture = raw.get("model_type"), _architecture(raw)
    if name is None:
        name = next((name for name, form in FORMATS.items() if str(architecture) in form.architectures), None)
        if name is None and architecture is not None:
            known = ", ".join(each for form in FORMATS.values() for each in form.architectures)
            raise UserError(f"{where}: architectures is {architecture}, and there is no model_type: only {known} are supported")
    if not isinstance(name, str) or name not in FORMATS:
        raise UserError(f"{where}: model_type is {name!r}: only {', '.join(FORMATS)} are supported")
    if architecture is not None and str(architecture) not in FORMATS[name].architectures:
        known = ", ".join(FORMATS[name].architectures)
        raise UserError(f"{where}: architectures is {architecture}: of {name} models only {known} are supported")
    return name


def _read_model(
    folder: Path,
    name: str,
    raw: dict[str, Any],
    generation: dict[str, Any] | None,
    made: dict[str, Vocabulary],
    found: Mapping[str, Any],
    place: Placing | None = None,
) -> Imported:
    form, names, where = FORMATS[name], NAMES[name], str(folder / "config.json")
    architecture = _architecture(raw) or next(iter(form.architectures))
    arrays: convert.Tensors = convert.normalise(names, tensors.read(folder))
    values = configs.to_settings(form, _completed(name, raw, arrays), generation, where, str(folder / "generation_config.json"))
    values |= {"family": form.family, "objective.kind": form.architectures[architecture]}
    values["objective.next_sentence"] = (
        values["objective.kind"] == "masked_lm"
        and "cls.seq_relationship.weight" in arrays
        and "bert.pooler.dense.weight" in arrays
    )
    if values["objective.kind"] == "embed":
        missing = {name: array for name, array in _pooler(names, values["model.d_model"]).items() if name not in arrays}
        arrays = collections.ChainMap(missing, arrays)  # type: ignore[arg-type]
        values |= sentences.read(folder)
    data_info = _make_data_info(values, {**found, "model_type": name}, _labels(architecture, raw, where, form.labels), folder)
    config = _make_config(values, made, vocabularies.longest(folder) if made else None)
    families.check_vocabularies(config, made, where)
    shardings = None if place is None else functools.partial(place, config)
    return Imported(config, data_info, convert.to_params(names, config, data_info, arrays, str(folder), shardings), made)


def _pooler(names: Names, width: int) -> dict[str, np.ndarray]:
    """Sentence encoders are often saved without it; no vector of a text is made by it. Some model types have none."""
    if "pooler/dense/kernel" in names.places:
        return {}
    shapes = {"weight": (width, width), "bias": (width,)}
    return {f"{names.prefix}pooler.dense.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _completed(name: str, raw: dict[str, Any], arrays: convert.Tensors) -> dict[str, Any]:
    """T5's fields as they are meant: of its two releases one scales its states and ties, the other does neither.

    Older files say both by `tie_word_embeddings`; Transformers 5 says that it ties whatever the tensors are.
    """
    if name not in vocabularies.T5S:
        return raw
    if name == "mt5":  # which never scales
        raw = raw | {"scale_decoder_outputs": False}
    tied = raw.get("tie_word_embeddings") is not False
    scaled = raw.get("scale_decoder_outputs", tied)
    head, table = arrays.get("lm_head.weight"), arrays.get("shared.weight")
    tied = head is None or (tied and table is not None and np.array_equal(head, table))
    return raw | {"tie_word_embeddings": tied, "scale_decoder_outputs": scaled}


def _make_config(values: Mapping[str, Any], made: Mapping[str, Vocabulary], most_source: int | None) -> Config:
    """`most_source`: tokens of a source, or of an encoder's text, at most, as the tokenizer knows them."""
    config = Config()
    config = settings.assign(config, {name: value for name, value in values.items() if not name.startswith("data_info.")})
    if isinstance(text := made.get("joint"), Tokenizer) and config.family == "decoder_only":
        config = settings.replace(config, "search.start_token", text.around[:1] == [values["data_info.start"]])
    table = config.model.most_positions
    longest, most = min(table or LONGEST, MOST_SLOTS), table or settings.MOST
    data: dict[str, Any] = {
        "max_source_length": min([each for each in (most_source, values.get("data.max_source_length")) if each] or [longest]),
        "max_target_length": min(values.get("data.max_target_length", longest), most),
    }
    data["max_source_length"] = min(data["max_source_length"], most)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, **data, vocabulary="imported", batching="bucketed")
    )
    config = settings.replace(config, "data.joint_vocabulary", "source" not in made)
    return validate(effects.without_idle(config))  # published files set what their model does not use


def _make_data_info(values: Mapping[str, Any], found: Mapping[str, Any], labels: tuple[str, ...], folder: Path) -> DataInfo:
    stated = {name.removeprefix("data_info."): value for name, value in values.items() if name.startswith("data_info.")}
    sizes = {side: found.get(f"{side}_size", stated[f"{side}_rows"]) for side in ("source", "target")}
    for side, size in sizes.items():
        if size > stated[f"{side}_rows"]:
            raise UserError(
                f"{folder}: its tokenizer has {size} entries, and vocab_size in config.json is {stated[f'{side}_rows']}"
            )
    sizes["target"] = min(sizes["target"], stated.get("target_size", sizes["target"]))
    known: dict[str, Any] = {"unknown": stated.get("end", 0), "start": 0, "end": 0} | stated | dict(found)
    known |= {f"{side}_size": size for side, size in sizes.items()}
    return check_data_info(DataInfo(**known, labels=labels), str(folder / "config.json"))


def _labels(architecture: str, raw: Mapping[str, Any], where: str, default: int) -> tuple[str, ...]:
    """The labels by id, of the architectures that have them."""
    if not architecture.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return ()
    try:
        count = raw.get("num_labels", raw.get("_num_labels", default))
        named = raw.get("id2label") or {str(n): f"LABEL_{n}" for n in range(count)}
        labels = tuple(str(named[str(n)]) for n in range(len(named)))
    except (KeyError, TypeError):
        raise UserError(
            f"{where}: id2label is {raw.get('id2label')!r}, num_labels {count!r}: wants a label for each of 0, 1, .."
        ) from None
    if not labels or (len(labels) == 1 and architecture.endswith("ForTokenClassification")):
        raise UserError(f"{where}: id2label has {len(labels)} entries: wants a label for each of 0, 1, ..")
    if len(labels) > 1 and raw.get("problem_type") == "regression":
        raise UserError(f"{where}: problem_type is 'regression' with {len(labels)} labels: only one number is supported")
    return labels


def _head_fields(name: str, config: Config, data_info: DataInfo) -> dict[str, Any]:
    """`architectures`, and the labels."""
    form, kind = FORMATS[name], config.objective.kind
    suitable = [a for a, each in form.architectures.items() if each == kind] or list(form.architectures)
    architecture = suitable[0]
    if name == "bert" and kind == "masked_lm" and config.objective.next_sentence:
        architecture = "BertForPreTraining"
    labels = dict(enumerate(data_info.labels))
    named = {"id2label": labels, "label2id": {label: number for number, label in labels.items()}} if labels else {}
    return {"architectures": [architecture]} | named


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
