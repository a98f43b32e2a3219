"""Encoder-decoders beside T5, BART and Marian: mT5, UMT5, Pegasus, mBART, M2M-100 and NLLB; as in fields.py and names.py."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformer.interop import names
from transformer.interop.fields import ACTIVATIONS, BART, MARIAN, ROWS, T5, Field, Format, words
from transformer.interop.names import Names, Place


def _with(form: Format, *, name: str, heads: tuple[str, ...], fields: Mapping[str, Field | None], **changes: Any) -> Format:
    """`form` for the classes `name` + `heads`, with these fields instead of those of the same name; None: without it."""
    kept = [used for field in form.fields if (used := fields.get(field.theirs, field))]
    more = [field for theirs, field in fields.items() if field and theirs not in {each.theirs for each in form.fields}]
    fixed = {**form.fixed, **changes.pop("fixed", {})}
    classes = {f"{name}{head}": "translate" for head in heads}
    return dataclasses.replace(form, architectures=classes, fields=[*kept, *more], fixed=fixed, **changes)


_T5_CLASSES = ("ForConditionalGeneration", "Model")
_T5_FIELDS = {
    "vocab_size": Field("vocab_size", ROWS, 250112),
    "d_ff": Field("d_ff", ["model.d_ff"], 1024),
    "num_layers": Field("num_layers", ["model.num_encoder_layers"], 8),
    "num_heads": Field("num_heads", ["model.num_heads"], 6),
    "feed_forward_proj": dataclasses.replace(
        next(field for field in T5.fields if field.theirs == "feed_forward_proj"), default="gated-gelu"
    ),
}
_T5_FIELDS["scale_decoder_outputs"] = Field(
    "scale_decoder_outputs", ["model.logits_scale"], False, [(True, "1/sqrt(d_model)"), (False, "none")]
)
# Layers normalize what their sublayers read, and stacks their output.
_PRE_NORM = {"model.norm_order": "pre", "model.final_norm": True}
_BART_ONLY = {name: value for name, value in BART.only.items() if not name.startswith(("encoder_", "decoder_"))}
_BART_ONLY = {name: value for name, value in _BART_ONLY.items() if "norm" not in name}
_LAYER_DROP = words("encoder_layerdrop decoder_layerdrop")  # while training alone


def _only(embedding_norm: bool, sinusoids: bool) -> dict[str, Sequence[Any]]:
    norms = {"normalize_before": (True,), "add_final_layer_norm": (True,), "normalize_embedding": (embedding_norm,)}
    return {**_BART_ONLY, **norms, "static_position_embeddings": (sinusoids,)}


def _ids(pad: int, end: int, start: int) -> dict[str, Field]:
    return {
        "pad_token_id": Field("pad_token_id", ["data_info.pad"], pad),
        "eos_token_id": Field("eos_token_id", ["data_info.end"], end),
        "decoder_start_token_id": Field("decoder_start_token_id", ["data_info.start"], start),
    }


_SHARED = Field("tie_word_embeddings", ["model.tying"], True, [(True, "three_way"), (False, "none")])

CODED = ("m2m_100", "mbart")  # a text begins with its language's code, or, in mBART-cc25, ends with it
FORMATS: dict[str, Format] = {
    "mt5": _with(T5, name="MT5", heads=_T5_CLASSES, fields=_T5_FIELDS, silent=T5.silent | {"tokenizer_class"}),
    "umt5": _with(
        T5,
        name="UMT5",
        heads=_T5_CLASSES,
        fields=_T5_FIELDS,
        fixed={"model.positions": "t5_layers"},
    ),
    "pegasus": _with(
        MARIAN,
        name="Pegasus",
        heads=("ForConditionalGeneration", "Model"),
        fields={
            "vocab_size": Field("vocab_size", ROWS, 50265),
            "tie_word_embeddings share_encoder_decoder_embeddings": _SHARED,
            **_ids(0, 1, 0),
        },
        fixed=_PRE_NORM,
        only=_only(embedding_norm=False, sinusoids=True),
        silent=MARIAN.silent | _LAYER_DROP,
    ),
    "mbart": _with(
        BART,
        name="MBart",
        heads=("ForConditionalGeneration", "Model"),
        fields={**_ids(1, 2, 0), "bos_token_id": None},  # without a start `generate` begins with bos; no source does
        fixed=_PRE_NORM,
        only=_only(embedding_norm=True, sinusoids=False),
        silent=BART.silent | _LAYER_DROP,
    ),
    "m2m_100": _with(
        MARIAN,
        name="M2M100",
        heads=("ForConditionalGeneration", "Model"),
        fields={
            "vocab_size": Field("vocab_size", ROWS, 128112),
            "tie_word_embeddings share_encoder_decoder_embeddings": _SHARED,
            "activation_function": Field("activation_function", ["model.feed_forward.activation"], "relu", ACTIVATIONS),
            "dropout": Field("dropout", ["model.dropout_rate"], 0.1),
            "attention_dropout": Field("attention_dropout", ["model.attention.dropout_rate"], 0.1),
            "scale_embedding": Field(
                "scale_embedding", ["model.embedding_scale"], True, [(True, "sqrt(d_model)"), (False, "none")]
            ),
            **_ids(1, 2, 2),
        },
        fixed={
            **_PRE_NORM,
            "model.positions.layout": "halves",
            "model.positions.spacing": "tensor2tensor",
            "model.positions.offset": 2,
            "model.logits_bias": False,
        },
        only={"is_encoder_decoder": (True,), "is_decoder": (False,)},
        force_end=False,
        silent=MARIAN.silent
        | _LAYER_DROP
        | words("normalize_before add_final_layer_norm static_position_embeddings normalize_embedding max_length"),
    ),
}

_FINAL = {f"{stack}/final_norm": f"model.{stack}.layer_norm" for stack in ("encoder", "decoder")}


def _bart(base: Names, **changes: Any) -> Names:
    return dataclasses.replace(base, modules={**base.modules, **_FINAL}, **changes)


NAMES: dict[str, Names] = {
    "mt5": names.T5,
    "umt5": dataclasses.replace(
        names.T5,
        places={
            **{path: place for path, place in names.T5.places.items() if not path.endswith("position_table")},
            **{
                f"{stack}/layers/self_attention/position_table": Place(
                    f"{stack}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight", "table"
                )
                for stack in ("encoder", "decoder")
            },
        },
    ),
    "pegasus": _bart(names.MARIAN),
    "mbart": _bart(names.BART),
    "m2m_100": _bart(names.MARIAN),
}
