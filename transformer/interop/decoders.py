"""Today's decoders of Transformers: their fields (as in fields.py) and names of parameters (as in names.py), one row each.

Llama 2 and 3, Mistral, Qwen 2 and 3, Gemma 1 to 3 (text), Phi 3, OLMo 2, SmolLM 3, GPT-NeoX (Pythia), OPT.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformer.interop.fields import ACTIVATIONS, ATTENTION, GPT2, NORMAL, ROWS, TIED, Field, Format, same, words
from transformer.interop.layer_fields import LayerFields
from transformer.interop.names import Names, Place, stack

_HIDDEN = [
    Field("vocab_size", ROWS),
    Field("hidden_size", ["model.d_model"]),
    Field("intermediate_size", ["model.d_ff"]),
    Field("num_hidden_layers", ["model.num_decoder_layers"]),
    Field("num_attention_heads", ["model.num_heads"]),
    Field("attention_dropout", ["model.attention.dropout_rate"], 0.0),
    Field("initializer_range", ["model.init_stddev"], 0.02),
]
_GROUPED = [Field("num_key_value_heads", ["model.num_kv_heads"], same("num_attention_heads"))]


def _head_dim(default: Any) -> Field:
    return Field("head_dim", ["model.d_k", "model.d_v"], default)


def _quotient(fields: Mapping[str, Any]) -> int:
    return fields["hidden_size"] // fields["num_attention_heads"]


def _ids(begin: Any, end: Any, pad: Any = None) -> list[Field]:
    """`begin` None: texts have no start of their own, and an empty one starts with the end."""
    return [
        Field("eos_token_id", ["data_info.end"], end),
        Field("bos_token_id", ["data_info.start"], same("eos_token_id") if begin is None else begin),
        Field("pad_token_id", ["data_info.pad"], same("eos_token_id") if pad is None else pad),
    ]


def _tied(default: bool) -> Field:
    return Field("tie_word_embeddings", ["model.tying"], default, TIED)


_GATED = [
    ("silu", "swiglu"),
    ("swish", "swiglu"),
    ("gelu", "geglu"),
    ("gelu_pytorch_tanh", "geglu_tanh"),
    ("gelu_new", "geglu_tanh"),
]
# Gemma 1 computes "gelu" by tanh, too, because its first files say so; the exact function has no name there.
_GATED_GEMMA = [
    ("gelu_pytorch_tanh", "geglu_tanh"),
    ("gelu", "geglu_tanh"),
    ("gelu_new", "geglu_tanh"),
    ("silu", "swiglu"),
    ("swish", "swiglu"),
]
_FIXED = ATTENTION | {
    "model.attention.scale": "1/sqrt(d_k)",
    "model.attention.qk_norm": False,
    "model.attention.bias": False,
    "model.norm_order": "pre",
    "model.norm": "rms",
    "model.norm.plus_one": False,
    "model.final_norm": True,
    "model.embedding_norm": False,
    "model.feed_forward.bias": False,
    "model.embedding_scale": "none",
    "model.logits_scale": "none",
    "model.logits_bias": False,
}
_LAYERS = ("model.window", "model.layer_pattern")  # what `LayerFields` says
_TRAINING = NORMAL | {"model.feed_forward.dropout_rate": 0.0, "model.dropout_rate": 0.0}
_ONLY: dict[str, Sequence[Any]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False, None),
    "quantization_config": (None,),
}


def _decoder(
    name: str,
    fields: Sequence[Field],
    layers: LayerFields,
    fixed: Mapping[str, Any],
    without: Sequence[str] = (),
    **more: Any,
) -> Format:
    """`fixed`: beside `_FIXED`; `without`: what of these does not exist."""
    named = {ours for field in fields for ours in field.ours}
    only = _ONLY | more.pop("only", {})
    return Format(
        family="decoder_only",
        architectures={f"{name}ForCausalLM": "causal_lm", f"{name}Model": "causal_lm"},
        fields=fields,
        fixed={name: value for name, value in {**_FIXED, **fixed}.items() if name not in {*named, *_LAYERS, *without}},
        training=more.pop("training", _TRAINING),
        only=only,
        silent=words("use_mrope pretraining_tp") | more.pop("silent", frozenset()),
        layers=layers,
        **more,
    )


def _gated(theirs: str, default: Any, values: Sequence[tuple[Any, Any]] = _GATED) -> Field:
    return Field(theirs, ["model.feed_forward.activation"], default, values)


def _epsilon(default: float, *more: str) -> Field:
    return Field("rms_norm_eps", ["model.norm.epsilon", *more], default)


_QK_EPSILON = "model.attention.norm_epsilon"
_NO_BIAS: dict[str, Sequence[Any]] = {"attention_bias": (False,), "mlp_bias": (False,)}
_GEMMA = {"model.norm.plus_one": True, "model.embedding_scale": "sqrt(d_model)"}

FORMATS: dict[str, Format] = {
    "llama": _decoder(
        "Llama",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(_quotient),
            _gated("hidden_act", "silu"),
            _epsilon(1e-6),
            Field("attention_bias", ["model.attention.bias"], False),
            Field("mlp_bias", ["model.feed_forward.bias"], False),
            _tied(False),
            *_ids(1, 2),
        ],
        LayerFields(),
        {},
    ),
    "mistral": _decoder(
        "Mistral",
        [*_HIDDEN, *_GROUPED, _head_dim(_quotient), _gated("hidden_act", "silu"), _epsilon(1e-6), _tied(False), *_ids(1, 2)],
        LayerFields(longest=131072, windows="all", window=4096),
        {},
        only=_NO_BIAS,
    ),
    "qwen2": _decoder(
        "Qwen2",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(_quotient),
            _gated("hidden_act", "silu"),
            _epsilon(1e-6),
            _tied(False),
            *_ids(None, 151643),
        ],
        LayerFields(longest=32768, windows="from", window=4096),
        {"model.attention.bias": True, "model.attention.output_bias": False},
    ),
    "qwen3": _decoder(
        "Qwen3",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(128),
            _gated("hidden_act", "silu"),
            _epsilon(1e-6, _QK_EPSILON),
            Field("attention_bias", ["model.attention.bias"], False),
            _tied(False),
            *_ids(None, 151643),
        ],
        LayerFields(longest=32768, windows="from", window=4096),
        {"model.attention.qk_norm": True},
    ),
    "gemma": _decoder(
        "Gemma",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(256),
            _gated("hidden_act", "gelu_pytorch_tanh", _GATED_GEMMA),
            _epsilon(1e-6),
            _tied(True),
            *_ids(2, 1, 0),
        ],
        LayerFields(longest=8192),
        _GEMMA,
        only=_NO_BIAS | {"hidden_activation": (None, "gelu_pytorch_tanh")},
    ),
    "gemma2": _decoder(
        "Gemma2",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(256),
            _gated("hidden_activation", "gelu_pytorch_tanh"),
            _epsilon(1e-6),
            Field("query_pre_attn_scalar", ["model.attention.scale_width"], 256),
            Field("attn_logit_softcapping", ["model.attention.logit_cap"], 50.0),
            Field("final_logit_softcapping", ["model.logits_cap"], 30.0),
            _tied(True),
            *_ids(2, 1, 0),
        ],
        LayerFields(longest=8192, windows="types", window=4096, period=2),
        _GEMMA | {"model.norm_order": "sandwich"},
        only=_NO_BIAS,
        silent=words("hidden_act cache_implementation"),
    ),
    "gemma3_text": _decoder(
        "Gemma3",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(256),
            _gated("hidden_activation", "gelu_pytorch_tanh"),
            _epsilon(1e-6, _QK_EPSILON),
            Field("query_pre_attn_scalar", ["model.attention.scale_width"], 256),
            Field("attn_logit_softcapping", ["model.attention.logit_cap"], None),
            Field("final_logit_softcapping", ["model.logits_cap"], None),
            _tied(True),
            *_ids(2, 1, 0),
        ],
        LayerFields(longest=131072, base=1_000_000.0, local_base=10_000.0, windows="types", window=4096, period=6),
        _GEMMA | {"model.norm_order": "sandwich", "model.attention.qk_norm": True, "model.attention.qk_norm_plus_one": True},
        only=_NO_BIAS,
        silent=words("hidden_act cache_implementation"),
    ),
    "phi3": _decoder(
        "Phi3",
        [*_HIDDEN, *_GROUPED, _gated("hidden_act", "silu"), _epsilon(1e-5), _tied(False), *_ids(1, 32000, 32000)]
        + [Field("resid_pdrop", ["model.dropout_rate"], 0.0), Field("embd_pdrop", ["model.dropout_rate"], 0.0)],
        LayerFields(longest=4096, windows="all", partial="partial_rotary_factor"),
        {},
        only=_NO_BIAS,
        training=NORMAL | {"model.feed_forward.dropout_rate": 0.0},
        silent=words("auto_map"),  # the program that it was published with, which Transformers has replaced
        heads_end=True,
    ),
    "olmo2": _decoder(
        "Olmo2",
        [
            *_HIDDEN,
            *_GROUPED,
            _gated("hidden_act", "silu"),
            _epsilon(1e-5, _QK_EPSILON),
            Field("attention_bias", ["model.attention.bias"], False),
            _tied(False),
            *_ids(None, 50279, 1),
        ],
        LayerFields(),
        {"model.attention.qk_norm": True, "model.attention.qk_norm_over": "all_heads", "model.norm_order": "output"},
        heads_end=True,
    ),
    "smollm3": _decoder(
        "SmolLM3",
        [
            *_HIDDEN,
            *_GROUPED,
            _head_dim(_quotient),
            _gated("hidden_act", "silu"),
            _epsilon(1e-6),
            Field("attention_bias", ["model.attention.bias"], False),
            Field("mlp_bias", ["model.feed_forward.bias"], False),
            _tied(True),
            *_ids(128000, 128001, 128004),
        ],
        LayerFields(longest=32768, base=2_000_000.0, windows="from", positionless=True),
        {},
    ),
    "gpt_neox": _decoder(
        "GPTNeoX",
        [
            *_HIDDEN,
            Field("hidden_act", ["model.feed_forward.activation"], "gelu", ACTIVATIONS),
            Field("hidden_dropout", ["model.dropout_rate"], 0.0),
            Field("layer_norm_eps", ["model.norm.epsilon"], 1e-5),
            Field("use_parallel_residual", ["model.residual"], True, [(True, "parallel"), (False, "sequential")]),
            Field("attention_bias", ["model.attention.bias"], True),
            _tied(False),
            *_ids(0, 2),
        ],
        LayerFields(fraction=0.25, partial="rotary_pct"),
        {"model.norm": "layer", "model.norm.bias": True, "model.feed_forward.bias": True, "model.num_kv_heads": None},
        training=NORMAL | {"model.feed_forward.dropout_rate": 0.0},
        silent=words("classifier_dropout"),
        without=["model.norm.plus_one"],
        heads_end=True,
    ),
}
_BIASES = ("model.attention.bias", "model.feed_forward.bias")  # which OPT's fields say
FORMATS["opt"] = dataclasses.replace(
    GPT2,
    architectures={"OPTForCausalLM": "causal_lm", "OPTModel": "causal_lm"},
    fields=[
        Field("vocab_size", ROWS, 50272),
        Field("hidden_size", ["model.d_model"], 768),
        Field("ffn_dim", ["model.d_ff"], 3072),
        Field("num_hidden_layers", ["model.num_decoder_layers"], 12),
        Field("num_attention_heads", ["model.num_heads"], 12),
        Field("max_position_embeddings", ["model.positions.size"], 2048),
        Field("activation_function", ["model.feed_forward.activation"], "relu", ACTIVATIONS),
        Field("dropout", ["model.dropout_rate"], 0.1),
        Field("attention_dropout", ["model.attention.dropout_rate"], 0.0),
        Field("init_std", ["model.init_stddev"], 0.02),
        Field("enable_bias", _BIASES, True),
        _tied(True),
        *_ids(2, 2, 1),
    ],
    fixed={
        **{name: value for name, value in GPT2.fixed.items() if name not in _BIASES},
        "model.positions.offset": 2,
        "model.norm.epsilon": 1e-5,
    },
    only={
        **{name: _ONLY[name] for name in ("is_encoder_decoder", "is_decoder", "add_cross_attention")},
        "do_layer_norm_before": (True,),
        "_remove_final_layer_norm": (False,),
        "layer_norm_elementwise_affine": (True,),
        "layerdrop": (0.0, 0),
    },
    silent=words("prefix word_embed_proj_dim activation_dropout"),
)

# --- names -------------------------------------------------------------------------------------------------------------

_SELF = {
    "self_attention/query": "self_attn.q_proj",
    "self_attention/key": "self_attn.k_proj",
    "self_attention/value": "self_attn.v_proj",
    "self_attention/output": "self_attn.o_proj",
    "self_attention/query_norm": "self_attn.q_norm",
    "self_attention/key_norm": "self_attn.k_norm",
}
_FORWARD = {
    "feed_forward/inner": "mlp.gate_proj",
    "feed_forward/gate": "mlp.up_proj",
    "feed_forward/outer": "mlp.down_proj",
}
_PRE = {"self_attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_SANDWICH = {
    "self_attention_norm": "input_layernorm",
    "self_attention_output_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}
_OUTPUT = {"self_attention_norm": "post_attention_layernorm", "feed_forward_norm": "post_feedforward_layernorm"}
# Rotations and masks that old files have kept.
_BUFFERS = [r".*\.rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias"]


def _names(norms: Mapping[str, str], layer: Mapping[str, str] | None = None, fused: Any = None) -> Names:
    return Names(
        modules={"target_embedding": "model.embed_tokens", "logits": "lm_head", "decoder/final_norm": "model.norm"}
        | stack("decoder", "model.layers", {**norms, **(layer or {**_SELF, **_FORWARD})}),
        places={"logits/kernel": Place("lm_head.weight", "turned")},
        prefix="model.",
        heads=("lm_head.",),
        same=[("model.embed_tokens.weight", "lm_head.weight")],
        dropped=_BUFFERS,
        fused=fused or {},
    )


_PHI3 = _SELF | dict.fromkeys(("self_attention/query", "self_attention/key", "self_attention/value"), "self_attn.qkv_proj")
_PHI3 |= dict.fromkeys(("feed_forward/inner", "feed_forward/gate"), "mlp.gate_up_proj")
_PHI3 |= {"feed_forward/outer": "mlp.down_proj"}
_QKV = ("self_attention/query", "self_attention/key", "self_attention/value")

NAMES: dict[str, Names] = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3"), _names(_PRE))
NAMES |= dict.fromkeys(("gemma2", "gemma3_text"), _names(_SANDWICH))
NAMES["olmo2"] = _names(_OUTPUT)
NAMES["phi3"] = _names(
    _PRE, _PHI3, {"self_attn.qkv_proj": _QKV, "mlp.gate_up_proj": ("feed_forward/inner", "feed_forward/gate")}
)
NAMES["gpt_neox"] = Names(
    modules={
        "target_embedding": "gpt_neox.embed_in",
        "logits": "embed_out",
        "decoder/final_norm": "gpt_neox.final_layer_norm",
    }
    | stack(
        "decoder",
        "gpt_neox.layers",
        _PRE
        | dict.fromkeys(_QKV, "attention.query_key_value")
        | {
            "self_attention/output": "attention.dense",
            "feed_forward/inner": "mlp.dense_h_to_4h",
            "feed_forward/outer": "mlp.dense_4h_to_h",
        },
    ),
    places={"logits/kernel": Place("embed_out.weight", "turned")},
    prefix="gpt_neox.",
    heads=("embed_out.",),
    same=[("gpt_neox.embed_in.weight", "embed_out.weight")],
    dropped=_BUFFERS,
    fused={"attention.query_key_value": _QKV},
    by_head=True,
)
NAMES["opt"] = Names(
    modules={
        "target_embedding": "model.decoder.embed_tokens",
        "logits": "lm_head",
        "decoder/final_norm": "model.decoder.final_layer_norm",
    }
    | stack(
        "decoder",
        "model.decoder.layers",
        {name: theirs.replace("o_proj", "out_proj") for name, theirs in _SELF.items() if "norm" not in name}
        | {
            "self_attention_norm": "self_attn_layer_norm",
            "feed_forward_norm": "final_layer_norm",
            "feed_forward/inner": "fc1",
            "feed_forward/outer": "fc2",
        },
    ),
    places={
        "decoder/position_table": Place("model.decoder.embed_positions.weight", "table"),
        "logits/kernel": Place("lm_head.weight", "turned"),
    },
    prefix="model.",
    heads=("lm_head.",),
    same=[("model.decoder.embed_tokens.weight", "lm_head.weight")],
)
