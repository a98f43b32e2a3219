"""Encoders beside BERT: RoBERTa and its relatives, DistilBERT, ELECTRA; fields as in fields.py, names as in names.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformer.interop.fields import ACTIVATIONS, BERT, NORMAL, ROWS, Field, Format, words
from transformer.interop.layer_fields import ModernBertLayers
from transformer.interop.names import BERT as BERT_NAMES
from transformer.interop.names import Names, Place, stack

_LAYERED = (  # what fields or layers of ModernBERT say
    "model.positions",
    "model.window",
    "model.layer_pattern",
    "model.attention_norm",
    "model.attention.bias",
    "model.feed_forward.bias",
    "model.norm.bias",
    "model.logits_bias",
    "model.pooling",
    "model.head_bias",
)
_GELU = [("gelu", "gelu"), ("gelu_python", "gelu")]  # heads have this one, whatever the layers have
_OFFSET = 2  # the first position is behind that of padding


def _instead(fields: Any, **others: Field | None) -> list[Field]:
    """The fields with some of them replaced, by their names; None: left out."""
    kept = [others.get(field.theirs, field) for field in fields]
    return [field for field in kept if field is not None]


def _roberta(name: str, vocab: int) -> Format:
    tasks = {"ForMaskedLM": "masked_lm", "Model": "embed", "ForSequenceClassification": "classify"}
    tasks |= {"ForTokenClassification": "tag", "ForQuestionAnswering": "answer"}
    return dataclasses.replace(
        BERT,
        architectures={f"{name}{task}": kind for task, kind in tasks.items()},
        fields=_instead(
            BERT.fields,
            vocab_size=Field("vocab_size", ROWS, vocab),
            hidden_act=Field("hidden_act", ["model.feed_forward.activation"], "gelu", _GELU),
            max_position_embeddings=Field("max_position_embeddings", ["model.positions.size"], 512, added=_OFFSET),
            pad_token_id=Field("pad_token_id", ["data_info.pad"], 1),
        ),
        fixed={**BERT.fixed, "model.positions.offset": _OFFSET},
        silent=BERT.silent | {"output_past"},
    )


_DISTILBERT = Format(
    family="encoder_only",
    architectures={
        "DistilBertForMaskedLM": "masked_lm",
        "DistilBertModel": "embed",
        "DistilBertForSequenceClassification": "classify",
        "DistilBertForTokenClassification": "tag",
        "DistilBertForQuestionAnswering": "answer",
    },
    fields=[
        Field("vocab_size", ROWS, 30522),
        Field("dim", ["model.d_model"], 768),
        Field("n_layers", ["model.num_encoder_layers"], 6),
        Field("n_heads", ["model.num_heads"], 12),
        Field("hidden_dim", ["model.d_ff"], 3072),
        Field("activation", ["model.feed_forward.activation"], "gelu", ACTIVATIONS),
        Field("dropout", ["model.dropout_rate"], 0.1),
        Field("attention_dropout", ["model.attention.dropout_rate"], 0.1),
        Field("qa_dropout", ["model.head_dropout_rate"], 0.1),
        Field("max_position_embeddings", ["model.positions.size"], 512),
        Field("initializer_range", ["model.init_stddev"], 0.02),
        Field("tie_word_embeddings", ["model.tying"], True, [(True, "three_way"), (True, "two_way"), (False, "none")]),
        Field("pad_token_id", ["data_info.pad"], 0),
    ],
    fixed={**BERT.fixed, "model.norm.epsilon": 1e-12, "model.token_types": 0, "model.pooler_activation": "relu"},
    training=BERT.training,
    only={"is_encoder_decoder": (False,), "is_decoder": (False,), "add_cross_attention": (False,)},
    # Sinusoids are what the table began with; one dropout of heads is read.
    silent=words("sinusoidal_pos_embds seq_classif_dropout tie_weights_ bos_token_id eos_token_id prefix"),
    heads_end=True,
)

_ELECTRA = dataclasses.replace(
    BERT,
    architectures={
        "ElectraModel": "embed",
        "ElectraForPreTraining": "embed",  # the discriminator, without its head
        "ElectraForMaskedLM": "masked_lm",
        "ElectraForSequenceClassification": "classify",
        "ElectraForTokenClassification": "tag",
        "ElectraForQuestionAnswering": "answer",
    },
    fields=[
        *_instead(BERT.fields, hidden_act=Field("hidden_act", ["model.feed_forward.activation"], "gelu", _GELU)),
        Field("embedding_size", ["model.d_model"], lambda fields: fields["hidden_size"]),
    ],
    fixed={**BERT.fixed, "model.pooler_activation": "gelu"},
    # Of a head that is not read.
    silent=BERT.silent | words("summary_type summary_use_proj summary_activation summary_last_dropout"),
)

_MODERN = Format(
    family="encoder_only",
    architectures={
        "ModernBertForMaskedLM": "masked_lm",
        "ModernBertModel": "embed",
        "ModernBertForSequenceClassification": "classify",
        "ModernBertForTokenClassification": "tag",
        "ModernBertForQuestionAnswering": "answer",
    },
    fields=[
        Field("vocab_size", ROWS, 50368),
        Field("hidden_size", ["model.d_model"], 768),
        Field("intermediate_size", ["model.d_ff"], 1152),
        Field("num_hidden_layers", ["model.num_encoder_layers"], 22),
        Field("num_attention_heads", ["model.num_heads"], 12),
        Field("hidden_activation", ["model.feed_forward.activation"], "gelu", [("gelu", "geglu")]),
        Field("initializer_range", ["model.init_stddev"], 0.02),
        Field("norm_eps", ["model.norm.epsilon"], 1e-5),
        Field("norm_bias", ["model.norm.bias"], False),
        Field("attention_bias", ["model.attention.bias"], False),
        Field("mlp_bias", ["model.feed_forward.bias"], False),
        Field("attention_dropout", ["model.attention.dropout_rate"], 0.0),
        Field("embedding_dropout", ["model.dropout_rate"], 0.0),
        Field("mlp_dropout", ["model.feed_forward.dropout_rate"], 0.0),
        Field("classifier_dropout", ["model.head_dropout_rate"], 0.0),
        Field("classifier_pooling", ["model.pooling"], "cls", [("cls", "first"), ("mean", "mean")]),
        Field("classifier_bias", ["model.head_bias"], False),
        Field("decoder_bias", ["model.logits_bias"], True),
        Field("tie_word_embeddings", ["model.tying"], True, [(True, "three_way"), (True, "two_way"), (False, "none")]),
        Field("pad_token_id", ["data_info.pad"], 50283),
    ],
    fixed={
        **{name: value for name, value in BERT.fixed.items() if not name.startswith(_LAYERED)},
        "model.norm_order": "pre",
        "model.final_norm": True,
        "model.token_types": 0,
        "model.pooler_activation": "gelu",
        "model.prediction_head": "modernbert",
    },
    training=NORMAL,
    only={
        "is_encoder_decoder": (False,),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "classifier_activation": ("gelu",),
        "position_embedding_type": ("absolute", "sans_pos"),  # neither is used
    },
    silent=words(
        "initializer_cutoff_factor bos_token_id eos_token_id cls_token_id deterministic_flash_attn sparse_prediction "
        "sparse_pred_ignore_index gradient_checkpointing reference_compile repad_logits_with_grad "
        "layer_norm_eps sep_token_id"
    ),
    heads_end=True,
    layers=ModernBertLayers(longest=8192, base=160_000.0, local_base=10_000.0, windows="types", window=128),
)

FORMATS: dict[str, Format] = {
    "modernbert": _MODERN,
    "roberta": _roberta("Roberta", 50265),
    "xlm-roberta": _roberta("XLMRoberta", 250002),
    "camembert": _roberta("Camembert", 32005),
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
}


def _body(prefix: str) -> dict[str, str]:
    """The modules of BERT's body, which these have below another name."""
    return {
        ours: theirs.replace("bert.", prefix, 1)
        for ours, theirs in BERT_NAMES.modules.items()
        if theirs.startswith("bert.") and not ours.startswith("pooler")
    }


def _named(body: Mapping[str, str], prefix: str, table: str, positions: str, head: str, **more: Any) -> Names:
    """`head`: the module whose bias, and, where it is not tied, whose kernel is that of the logits of masked tokens."""
    return Names(
        modules={**body, **more.pop("modules", {})},
        variants=[
            ("model.tying", ("three_way", "two_way"), {"masked_lm/logits": head.removesuffix(".decoder")}),
            ("model.tying", ("none",), {"masked_lm/logits": head}),
            *more.pop("variants", []),
        ],
        places={"encoder/position_table": Place(positions, "table"), **more.pop("places", {})},
        prefix=prefix,
        same=[(table, f"{head}.weight"), (f"{head.removesuffix('.decoder')}.bias", f"{head}.bias")],
        **more,
    )


_ROBERTA = _named(
    _body("roberta."),
    "roberta.",
    "roberta.embeddings.word_embeddings.weight",
    "roberta.embeddings.position_embeddings.weight",
    "lm_head.decoder",
    modules={"masked_lm/transform": "lm_head.dense", "masked_lm/norm": "lm_head.layer_norm"},
    variants=[
        ("objective.kind", ("embed",), {"pooler/dense": "roberta.pooler.dense"}),
        ("objective.kind", ("classify",), {"pooler/dense": "classifier.dense", "classifier/dense": "classifier.out_proj"}),
        ("objective.kind", ("tag",), {"classifier/dense": "classifier"}),
        ("objective.kind", ("answer",), {"classifier/dense": "qa_outputs"}),
    ],
    heads=("lm_head.", "classifier.", "qa_outputs."),
    dropped=[r"roberta\.embeddings\.(position|token_type)_ids", r"roberta\.pooler\..*", r"lm_head\..*"],
)

_NO_POOLER = {f"pooler/dense/{leaf}": Place(None, "vector") for leaf in ("kernel", "bias")}

_DISTILBERT_NAMES = _named(
    {
        "source_embedding": "distilbert.embeddings.word_embeddings",
        "encoder/embedding_norm": "distilbert.embeddings.LayerNorm",
        "masked_lm/transform": "vocab_transform",
        "masked_lm/norm": "vocab_layer_norm",
    }
    | stack(
        "encoder",
        "distilbert.transformer.layer",
        {
            "self_attention_norm": "sa_layer_norm",
            "self_attention/query": "attention.q_lin",
            "self_attention/key": "attention.k_lin",
            "self_attention/value": "attention.v_lin",
            "self_attention/output": "attention.out_lin",
            "feed_forward_norm": "output_layer_norm",
            "feed_forward/inner": "ffn.lin1",
            "feed_forward/outer": "ffn.lin2",
        },
    ),
    "distilbert.",
    "distilbert.embeddings.word_embeddings.weight",
    "distilbert.embeddings.position_embeddings.weight",
    "vocab_projector",
    variants=[
        ("objective.kind", ("classify",), {"pooler/dense": "pre_classifier", "classifier/dense": "classifier"}),
        ("objective.kind", ("tag",), {"classifier/dense": "classifier"}),
        ("objective.kind", ("answer",), {"classifier/dense": "qa_outputs"}),
    ],
    places=_NO_POOLER,
    heads=("vocab_", "classifier.", "qa_outputs.", "pre_classifier."),
    dropped=[r"distilbert\.embeddings\.position_ids", r"vocab_.*"],
)

_ELECTRA_NAMES = _named(
    _body("electra."),
    "electra.",
    "electra.embeddings.word_embeddings.weight",
    "electra.embeddings.position_embeddings.weight",
    "generator_lm_head",
    modules={"masked_lm/transform": "generator_predictions.dense", "masked_lm/norm": "generator_predictions.LayerNorm"},
    variants=[
        ("objective.kind", ("classify",), {"pooler/dense": "classifier.dense", "classifier/dense": "classifier.out_proj"}),
        ("objective.kind", ("tag",), {"classifier/dense": "classifier"}),
        ("objective.kind", ("answer",), {"classifier/dense": "qa_outputs"}),
    ],
    places=_NO_POOLER,
    heads=("generator_", "discriminator_", "classifier.", "qa_outputs."),
    dropped=[r"electra\.embeddings\.position_ids", r"(generator|discriminator)_.*"],
)

NAMES: dict[str, Names] = dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _ROBERTA)
NAMES |= {"distilbert": _DISTILBERT_NAMES, "electra": _ELECTRA_NAMES}

_QKV = ("self_attention/query", "self_attention/key", "self_attention/value")
NAMES["modernbert"] = Names(
    modules={
        "source_embedding": "model.embeddings.tok_embeddings",
        "encoder/embedding_norm": "model.embeddings.norm",
        "encoder/final_norm": "model.final_norm",
        "masked_lm/transform": "head.dense",
        "masked_lm/norm": "head.norm",
        "masked_lm/logits": "decoder",
    }
    | stack(
        "encoder",
        "model.layers",
        dict.fromkeys(_QKV, "attn.Wqkv")
        | {
            "self_attention_norm": "attn_norm",
            "self_attention/output": "attn.Wo",
            "feed_forward_norm": "mlp_norm",
            "feed_forward/inner": "mlp.Wi",
            "feed_forward/gate": "mlp.Wi",
            "feed_forward/outer": "mlp.Wo",
        },
    ),
    variants=[
        (
            "objective.kind",
            ("classify", "tag", "answer"),
            {"pooler/dense": "head.dense", "pooler/norm": "head.norm", "classifier/dense": "classifier"},
        ),
    ],
    places=_NO_POOLER,
    prefix="model.",
    heads=("head.", "decoder.", "classifier."),
    same=[("model.embeddings.tok_embeddings.weight", "decoder.weight")],
    dropped=[r"head\..*", r"decoder\..*", r".*\.rotary_emb\.inv_freq"],
    fused={"attn.Wqkv": _QKV, "mlp.Wi": ("feed_forward/inner", "feed_forward/gate")},
)
