"""`config.json` and `generation_config.json` to settings of ours, and back, by the tables of fields.py."""

import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from transformer import effects, registry, settings
from transformer.config import Config, DataInfo
from transformer.errors import UserError, nearest
from transformer.interop import limits
from transformer.interop.fields import (
    COMMON_ONLY,
    REQUIRED,
    SEARCH,
    SEARCH_OF,
    SEARCH_ONLY,
    SEARCH_SILENT,
    SILENT,
    Field,
    Format,
)
from transformer.interop.formats import FORMATS
from transformer.interop.seq2seq import CODED
from transformer.settings import Variations
from transformer.validation import STACKS

# Our settings by dotted name: fields of DataInfo begin with "data_info.", settings of the decoder alone with "decoder.".
Values = dict[str, Any]
DECODER = "decoder."
# Ids that a generation_config.json may say otherwise than config.json does; text is made by the former.
FIRST = "forced_bos_token_id"  # what every output begins with
FORCED = "forced_eos_token_id"  # the last token of an output that reaches its limit
HEAD = ("model.prediction_head", "model.pooler_activation", "model.pooling", "model.head_bias")
# Without a number these settings are as another; most of Transformers' classes do not read null for them.
SAME = {"model.num_kv_heads": "model.num_heads", "model.attention.scale_width": "model.d_k"}
USUAL_TOP_K = 50
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def to_settings(
    form: Format, raw: Mapping[str, Any], generation: Mapping[str, Any] | None, where: str, search_where: str
) -> Values:
    """Settings by dotted name. UserError names a field that is unknown, unsupported or ill-typed."""
    searching = [field.theirs for field in SEARCH] + [*SEARCH_ONLY, *limits.THEIRS, limits.OURS, FORCED, FIRST]
    only = {**COMMON_ONLY, **form.only}
    named = [name for field in form.fields for name in field.theirs.split()]
    only = {name: allowed for name, allowed in only.items() if name not in named and name not in form.silent}
    known = {*named, *only, *SILENT, *form.silent, *searching, *IDS, *(form.layers.names if form.layers else ())}
    _check_names(raw, known, where)
    _check_only(only, raw, where)
    if generation is None:
        generation = {name: value for name, value in raw.items() if name in searching}
        search_where = where
    else:
        for name in generation:
            if name not in {*searching, *IDS, *SEARCH_SILENT}:
                raise UserError(f"{search_where}: {name} is {generation[name]!r}: search has no such setting; remove it there")
        raw = {**raw, **{name: generation[name] for name in IDS if name in named and generation.get(name) is not None}}
    raw, more_ends = _ends(form, raw)
    values = more_ends | dict(form.fixed) | dict(form.training) | _values(form.fields, raw, where, form.fixed)
    if form.layers:
        values |= form.layers.read(raw, values[f"model.num_{STACKS[form.family][-1]}_layers"], where)
    generation = {**generation, "top_k": _top_k(form, generation)}
    values |= {"search.penalty_form": "power"} | _values(SEARCH, generation, search_where)
    if form.force_end and search_where == where:
        generation = {FORCED: values["data_info.end"], **generation}
    _check_search(form, generation, values, search_where)
    if generation.get(FIRST) is not None:
        values["data_info.first"] = _first(form, generation[FIRST], search_where)
    return _with_decoder(values) | limits.to_settings(generation, form.family, search_where)


def _top_k(form: Format, generation: Mapping[str, Any]) -> Any:
    """None: of all tokens. Transformers says 0 for that, and has 50 where a file asks for samples and says nothing."""
    value = generation.get("top_k")
    if value is None and generation.get("do_sample") is True and form.family == "decoder_only":
        return USUAL_TOP_K
    return None if type(value) is int and value == 0 else value


def _first(form: Format, token: Any, where: str) -> int:
    if type(token) is not int or form.family != "encoder_decoder":
        raise UserError(f"{where}: {FIRST} is {token!r}: wants the number of a token, of a model with an encoder and a decoder")
    return token


def _ends(form: Format, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Values]:
    """Of several ids that end a text, the first and the others."""
    ends = raw.get("eos_token_id")
    if (
        form.family != "decoder_only"
        or not isinstance(ends, list)
        or len(ends) < 2
        or not all(type(each) is int for each in ends)
    ):
        return raw, {}
    return {**raw, "eos_token_id": ends[0]}, {"data_info.more_ends": tuple(ends[1:])}


def _with_decoder(values: Values) -> Values:
    """What is the decoder's own, as its layer type where it differs from the encoder's."""
    own = {name.removeprefix(DECODER): value for name, value in values.items() if name.startswith(DECODER)}
    values = {name: value for name, value in values.items() if not name.startswith(DECODER)}
    differs = {name: value for name, value in own.items() if value != values[f"model.{name}"]}
    return values | ({"model.layer_types": Variations({"decoder": differs})} if differs else {})


def _check_names(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """All at once: published files have several."""
    unknown = [name for name in raw if name not in known]
    if not unknown:
        return
    hint = nearest(unknown[0], known) if len(unknown) == 1 else ""
    shown = ", ".join(f"{name} is {raw[name]!r}" for name in unknown)
    these, them = ("these fields are", "them") if len(unknown) > 1 else ("this field is", "it")
    raise UserError(
        f"{where}: {shown}: {these} not known here{hint}. If the model needs {them}, the model is not supported; otherwise "
        f"remove {them} from the file."
    )


def _check_only(only: Mapping[str, Any], raw: Mapping[str, Any], where: str) -> None:
    wrong = [name for name, allowed in only.items() if raw.get(name, allowed[0]) not in allowed]
    if wrong:
        shown = ", ".join(f"{name} is {raw[name]!r} (only {only[name][0]!r} is supported)" for name in wrong)
        raise UserError(f"{where}: {shown}")


def _check_search(form: Format, generation: Mapping[str, Any], values: Values, where: str) -> None:
    """All at once: published files have several."""
    only = SEARCH_ONLY | SEARCH_OF.get(form.family, {})
    wrong = [f"{n} {generation[n]!r}" for n, allowed in only.items() if generation.get(n, allowed[0]) not in allowed]
    pad = values["data_info.pad"]
    if generation.get("bad_words_ids") == [[pad]] and pad == values["data_info.target_rows"] - 1:
        wrong = [each for each in wrong if not each.startswith("bad_words_ids")]
        values["data_info.target_size"] = pad  # an entry past the vocabulary is never generated
    end = values.get("data_info.end")
    forced = generation.get(FORCED)
    if forced not in ((None, end, [end]) if form.family == "encoder_decoder" else (None,)):
        wrong.append(f"{FORCED} {forced!r}")
    values["search.force_end"] = forced is not None
    if wrong:
        raise UserError(
            f"{where}: {', '.join(wrong)}: search has no such rule; remove {'them' if len(wrong) > 1 else 'it'} from the file "
            "to search without"
        )


def _values(fields: Any, raw: Mapping[str, Any], where: str, fixed: Mapping[str, Any] | None = None) -> Values:
    kinds, seen, result, stated = _kinds(fixed or {}), {}, {}, {}
    for field in fields:
        names = field.theirs.split()
        value = raw.get(field.theirs) if len(names) == 1 else _several(names, field, raw)
        if field.theirs in raw and value is None and all(settings.has_type(None, kinds[name]) for name in field.ours):
            continue  # the file states that there is none
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None:
            value = field.default(seen) if callable(field.default) else field.default
        if value is REQUIRED:
            raise UserError(f"{where}: it has no {field.theirs}")
        seen[field.theirs] = value
        if value is None:
            continue  # ours has its own default
        shown = f"{where}: {field.theirs} is {value!r}"
        value = value - field.added if field.added and type(value) is int else value
        if field.values is not None:
            value = next((ours for theirs, ours in field.values if theirs == value), REQUIRED)
            if value is REQUIRED:
                raise UserError(f"{shown}: wants one of {', '.join(str(theirs) for theirs, _ in field.values)}")
        for name in field.ours:
            if field.values is None and not settings.has_type(value, kinds[name]):
                raise UserError(f"{shown}: wants {settings.type_name(kinds[name])}")
            if result.get(name, value) != value:
                raise UserError(
                    f"{shown} and {stated[name]}: config.{name} is one setting for both, so that a model in which they differ "
                    "is not supported"
                )
            result[name], stated[name] = value, shown.removeprefix(f"{where}: ")
    return result


def _several(names: list[str], field: Field, raw: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(raw.get(name, default) for name, default in zip(names, field.default, strict=True))


def _kinds(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The type of each setting, those of the components that are fixed among them."""
    components = {
        name: fixed[name] for name, value in settings.plain(Config()).items() if name in fixed and isinstance(value, str)
    }
    kinds = {name: kind for name, kind, _, _ in settings.fields(settings.assign(Config(), components))}
    kinds |= {name.replace("model.", DECODER): kind for name, kind in kinds.items() if name.startswith("model.")}
    return kinds | {f"data_info.{name}": kind for name, kind in typing.get_type_hints(DataInfo).items()}


def choose(config: Config, data_info: DataInfo) -> str:
    """The model type that a configuration is written as: the first that can. UserError: there is none, and why."""
    mine = {name: form for name, form in FORMATS.items() if form.family == config.family}
    if not mine:
        raise UserError(f"config.family {config.family}: Transformers has no such model; {_families()} can be written")
    turns = config.model.layers_of_period(STACKS[config.family][-1])
    kinds = {registry.reference(type(each.positions)) for each in (config.model, *turns)}
    suitable = [name for name, form in mine.items() if form.positions in kinds]
    if not suitable:
        raise UserError(
            f"config.model.positions {registry.reference(type(config.model.positions))}: of {config.family}, Transformers has "
            f"models with {', '.join({form.positions: None for form in mine.values()})} ({', '.join(mine)}); others cannot be "
            "written"
        )
    reasons = []
    suitable.sort(key=lambda name: name != data_info.model_type)  # what it was before, if it can be that still
    for name in suitable:
        try:
            to_fields(name, config, data_info)
            return name
        except UserError as error:
            reasons.append(str(error))
    more = f" (nor as {', '.join(suitable[1:])})" if len(suitable) > 1 else ""
    raise UserError(reasons[0] + more)


def _families() -> str:
    return ", ".join(dict.fromkeys(form.family for form in FORMATS.values()))


def to_fields(name: str, config: Config, data_info: DataInfo) -> dict[str, Any]:
    """The fields of a `config.json` of model type `name`. UserError: a setting that such a model has not."""
    form, mine = FORMATS[name], {}
    named = {ours for field in form.fields for ours in field.ours}
    for stack in reversed(STACKS[config.family]):  # the first one's settings are those of the model
        of_stack = _of_stack(config, stack)
        of_stack |= {ours: of_stack[same] for ours, same in SAME.items() if ours in named and of_stack[ours] is None}
        mine |= of_stack | {n.replace("model.", DECODER): value for n, value in of_stack.items() if stack == "decoder"}
        fixed = dict(form.fixed)
        if form.heads_end:
            fixed |= dict.fromkeys(("model.d_k", "model.d_v"), config.model.d_model / of_stack["model.num_heads"])
        for setting, value in fixed.items():
            if of_stack[setting] != value and not _without_effect(config, setting, value):
                raise UserError(
                    f"config.{setting} is {of_stack[setting]}: a {name} model of Transformers has {value}; it cannot be written"
                )
    _check_stacks(name, config)
    mine |= {f"data_info.{field}": value for field, value in settings.to_dict(data_info).items()}
    if mine.get("model.positions.size", 0) is None:  # theirs have a table: as large as sources and outputs may need
        longest = limits.to_fields(config, data_info.longest_output)["max_length"]
        mine |= {"model.positions.size": max(config.data.max_source_length, longest)}
    kinds = (*form.architectures.values(), *form.objectives)
    if config.objective.kind not in kinds:
        raise UserError(
            f"config.objective.kind {config.objective.kind}: {name} models are for {', '.join(dict.fromkeys(kinds))}"
        )
    result: dict[str, Any] = {"model_type": name}
    for field in form.fields:
        if field.written:
            names, value = field.theirs.split(), _inverse(name, field, mine)
            written = dict(zip(names, value if len(names) > 1 else [value], strict=True))
            none = field.default is not None and len(names) == 1  # without the field there would be one
            result |= {theirs: each for theirs, each in written.items() if each is not None or none}
    if form.layers:
        result |= form.layers.write(config, name)
    return result | {"is_encoder_decoder": config.family == "encoder_decoder", "torch_dtype": "float32"}


def _of_stack(config: Config, stack: str) -> Values:
    """Every setting's value, those of the model as the stack has them."""
    model = config.model.of_stack(stack)
    used = {"model.d_k": model.key_width, "model.d_v": model.value_width, "model.final_norm": model.has_final_norm}
    return settings.plain(dataclasses.replace(config, model=model)) | used


def _check_stacks(name: str, config: Config) -> None:
    """UserError: the stacks differ in what such a model has once."""
    form, stacks = FORMATS[name], [_of_stack(config, stack) for stack in STACKS[config.family]]
    own = {ours.replace(DECODER, "model.") for field in form.fields for ours in field.ours if ours.startswith(DECODER)}
    own |= {"model.d_k", "model.d_v"} if form.heads_end else set()
    for setting, value in stacks[0].items():
        if (other := stacks[-1].get(setting, value)) != value and setting not in own:
            raise UserError(
                f"config.model.layer_types: {setting.removeprefix('model.')} is {value} in the encoder and {other} in the "
                f"decoder, and a {name} model of Transformers has one for both; it cannot be written"
            )


def with_published_head(config: Config, before: Config, model_type: str | None, given: Collection[str]) -> Config:
    """`config`, which is `before` with the settings `given` changed, with the layers below a classifier that models of that
    type have. So it can be written as one.

    What had an effect before, or is given, stays. A masked language model has no such layers.
    """
    if model_type is None or (form := FORMATS.get(model_type)) is None or form.family != config.family:
        return config
    published = {name: value for name, value in form.fixed.items() if name in HEAD}
    for field in form.fields:
        if (name := field.ours[0]) in HEAD:
            published[name] = dict(field.values or ()).get(field.default, field.default)
    idle = {name for name, _ in effects.idle(settings.assign(before, published))}
    fresh = {name: value for name, value in published.items() if name in idle and name not in given}
    none = {name for name, _ in effects.idle(settings.assign(config, fresh))}
    return settings.assign(config, {name: value for name, value in fresh.items() if name not in none})


def _without_effect(config: Config, setting: str, value: Any) -> bool:
    """Whether the setting does nothing for this model, as the bias on logits of a classifier."""
    known = setting in settings.plain(config)
    return known and setting in dict(effects.idle(settings.assign(config, {setting: value})))


def _inverse(name: str, field: Field, mine: Mapping[str, Any]) -> Any:
    value = mine[field.ours[0]]
    for other in field.ours[1:]:
        if mine[other] != value and not other.endswith("dropout_rate"):
            raise UserError(
                f"config.{other} is {mine[other]} and config.{field.ours[0]} {value}: a {name} model has one for both"
            )
    if field.values is None:
        return value + field.added if field.added else value
    for theirs, ours in field.values:
        if ours == value:
            return theirs
    known = ", ".join(dict.fromkeys(str(ours) for _, ours in field.values))
    raise UserError(
        f"config.{field.ours[0]} is {value}: a {name} model of Transformers has one of {known}; it cannot be written"
    )


def search_fields(config: Config, data_info: DataInfo) -> dict[str, Any]:
    """Fields of a `generation_config.json`. How to search is free, so what has no name there is left out."""
    search = config.search
    ends = list(data_info.ends) if data_info.more_ends else data_info.end
    ids: dict[str, Any] = {"pad_token_id": data_info.pad, "eos_token_id": ends} | limits.to_fields(
        config, data_info.longest_output
    )
    if config.family == "encoder_decoder":
        ids |= {} if data_info.first is None else {FIRST: data_info.first}
        ids |= {FORCED: data_info.end} if search.force_end else {}
        ids |= {"decoder_start_token_id": data_info.start} | (
            {} if data_info.begin is None or data_info.model_type in CODED else {"bos_token_id": data_info.begin}
        )
    else:
        ids |= {"bos_token_id": data_info.start, "top_k": 0}  # 0: of all tokens, which `sampling` may limit
    sampling = {n: v for n in ("temperature", "top_k", "top_p", "repetition_penalty") if (v := getattr(search, n)) is not None}
    if data_info.target_size == data_info.pad == data_info.target_rows - 1:
        ids |= {"bad_words_ids": [[data_info.pad]], "renormalize_logits": True}
    if search.penalty_form == "gnmt" and search.length_penalty:
        return ids | sampling
    mine: dict[str, Any] = settings.plain(config)
    beams = {f.theirs: _inverse("", f, mine) for f in SEARCH if f.theirs in ("num_beams", "length_penalty", "early_stopping")}
    return ids | sampling | beams
