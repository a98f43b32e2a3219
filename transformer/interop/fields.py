"""Tables of fields: what a `config.json` of Transformers says, and the settings of ours that say it.

A field is in a table (a `Field`: it is a setting of ours; `only`: one value of it is ours, whatever the settings), or says
nothing of the model (SILENT); any other is refused, and so is any other value.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformer.interop.layer_fields import LayerFields

REQUIRED = object()
Fields = Mapping[str, Any]


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


@dataclasses.dataclass(frozen=True)
class Field:
    """`theirs` and our settings ("model.d_ff", "data_info.pad") that have its value; "decoder.d_ff" is the decoder's alone.

    `default`: what a file without it means, or a function of the other fields; REQUIRED: there is none. `values`: (theirs,
    ours), where one is not the other; the first that fits counts. `written=False`: another name, which is only read.
    """

    theirs: str
    ours: Sequence[str]
    default: Any = REQUIRED
    values: Sequence[tuple[Any, Any]] | None = None
    written: bool = True
    added: int = 0  # theirs is ours and so many more


@dataclasses.dataclass(frozen=True)
class Format:
    """A model type of Transformers. `architectures`: class -> objective; the first is what a file without one means."""

    family: str
    architectures: Mapping[str, str]
    fields: Sequence[Field]
    fixed: Mapping[str, Any]  # settings of ours that every such model has
    training: Mapping[str, Any]  # the same, and they do not change what a trained model says
    only: Mapping[str, Sequence[Any]]
    silent: frozenset[str] = frozenset()
    objectives: Sequence[str] = ()  # others that make the same model
    heads_end: bool = False  # d_k and d_v are d_model / num_heads
    labels: int = 2  # of a classifier, where a file does not say
    force_end: bool = False  # an output that reaches its limit ends there, where no file says otherwise
    layers: LayerFields | None = None  # rotary positions and windows, which several fields say together

    @property
    def positions(self) -> str:
        """The position encoding that such a model has."""
        return "rotary" if self.layers else self.fixed["model.positions"]


# What says nothing of the model: where it comes from, how it is run, names of what it is not used for.
SILENT = words(
    "architectures model_type transformers_version _name_or_path name_or_path torch_dtype dtype use_cache output_attentions "
    "output_hidden_states output_past return_dict torchscript use_bfloat16 tf_legacy_loss task_specific_params "
    "finetuning_task gradient_checkpointing tokenizer_class chunk_size_feed_forward _commit_hash _attn_implementation "
    "_attn_implementation_autoset _from_model_config id2label label2id num_labels _num_labels save_step sentence_transformers"
)

# Fields that any file may have and that would change a model.
COMMON_ONLY: dict[str, Sequence[Any]] = {
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "cross_attention_hidden_size": (None,),
    "sep_token_id": (None,),
    "problem_type": (None, "single_label_classification", "regression"),
}

ACTIVATIONS = [
    ("relu", "relu"),
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
    ("gelu_new", "gelu_tanh"),
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("silu", "silu"),
    ("swish", "silu"),
]
TIED = [(True, "three_way"), (True, "two_way"), (False, "none")]  # where there is one side, two or three ways are one
ROWS = ("data_info.source_rows", "data_info.target_rows")
_PREFIX = Field("prefix", ["data.prefix"], "")
# Attention as published: all formats have it.
ATTENTION = {
    "model.parametrization": "standard",
    "model.pooler_activation": "tanh",
    "model.pooling": "first",
    "model.prediction_head": "bert",
    "model.head_bias": True,
    "model.attention": "multi_head",
    "model.mask": "prefix",
    "model.feed_forward": "feed_forward",
    "model.num_kv_heads": None,
    "model.window": None,
    "model.layer_pattern": (),
    "model.residual": "sequential",
    "model.attention_norm": True,
    "model.logits_cap": None,
    "model.attention.scale_width": None,
    "model.attention.logit_cap": None,
    "model.attention.qk_norm_over": "head",
    "model.attention.qk_norm_plus_one": False,
    "model.attention.output_bias": None,
}


def same(name: str) -> Callable[[Fields], Any]:
    """The default that another field, which stands before, has as its value."""
    return lambda fields: fields[name]


T5 = Format(
    family="encoder_decoder",
    architectures={"T5ForConditionalGeneration": "translate", "T5WithLMHeadModel": "translate", "T5Model": "translate"},
    fields=[
        Field("vocab_size", ROWS, 32128),
        Field("d_model", ["model.d_model"], 512),
        Field("d_kv", ["model.d_k", "model.d_v"], 64),
        Field("d_ff", ["model.d_ff"], 2048),
        Field("num_layers", ["model.num_encoder_layers"], 6),
        Field("num_decoder_layers", ["model.num_decoder_layers"], same("num_layers")),
        Field("num_heads", ["model.num_heads"], 8),
        Field("relative_attention_num_buckets", ["model.positions.buckets"], 32),
        Field("relative_attention_max_distance", ["model.positions.max_distance"], 128),
        Field("dropout_rate", [f"model.{n}dropout_rate" for n in ("", "attention.", "feed_forward.")], 0.1),
        Field("classifier_dropout", ["model.head_dropout_rate"], 0.0),
        Field("layer_norm_epsilon", ["model.norm.epsilon"], 1e-6),
        Field(
            "feed_forward_proj",
            ["model.feed_forward.activation"],
            "relu",
            [*ACTIVATIONS, ("gated-gelu", "geglu_tanh"), ("gated-gelu_new", "geglu_tanh"), ("gated-silu", "swiglu")],
        ),
        Field("tie_word_embeddings", ["model.tying"], True, [(True, "three_way"), (False, "inputs")]),
        Field("scale_decoder_outputs", ["model.logits_scale"], REQUIRED, [(True, "1/sqrt(d_model)"), (False, "none")]),
        Field("pad_token_id", ["data_info.pad"], 0),
        Field("eos_token_id", ["data_info.end"], 1),
        Field("decoder_start_token_id", ["data_info.start"], same("pad_token_id")),
        _PREFIX,
    ],
    fixed=ATTENTION
    | {
        "model.positions": "t5",
        "model.attention.scale": "none",
        "model.attention.qk_norm": False,
        "model.attention.bias": False,
        "model.norm_order": "pre",
        "model.norm": "rms",
        "model.norm.plus_one": False,
        "model.final_norm": True,
        "model.embedding_norm": False,
        "model.feed_forward.bias": False,
        "model.embedding_scale": "none",
        "model.logits_bias": False,
    },
    training={"model.initializer": "normal", "model.embedding_init": "unit"},
    only={"is_encoder_decoder": (True,), "is_decoder": (False,)},
    # dense_act_fn and is_gated_act are made of feed_forward_proj; n_positions limits nothing; no text begins with a token.
    silent=words("initializer_factor n_positions dense_act_fn is_gated_act bos_token_id"),
    objectives=("translate", "span_corruption", "denoise"),
)

_BART_FIELDS = [
    Field("d_model", ["model.d_model"], 1024),
    Field("encoder_layers", ["model.num_encoder_layers"], 12),
    Field("num_hidden_layers", ["model.num_encoder_layers"], same("encoder_layers"), written=False),
    Field("decoder_layers", ["model.num_decoder_layers"], 12),
    Field("encoder_attention_heads", ["model.num_heads"], 16),
    Field("decoder_attention_heads", ["decoder.num_heads"], 16),
    Field("encoder_ffn_dim", ["model.d_ff"], 4096),
    Field("decoder_ffn_dim", ["decoder.d_ff"], 4096),
    Field("max_position_embeddings", ["model.positions.size"], 1024),
    Field("activation_function", ["model.feed_forward.activation"], "gelu", ACTIVATIONS),
    Field("dropout", ["model.dropout_rate"], 0.1),
    Field("attention_dropout", ["model.attention.dropout_rate"], 0.0),
    Field("activation_dropout", ["model.feed_forward.dropout_rate"], 0.0),
    Field("classifier_dropout", ["model.head_dropout_rate"], 0.0),
    Field("init_std", ["model.init_stddev"], 0.02),
    Field("scale_embedding", ["model.embedding_scale"], False, [(True, "sqrt(d_model)"), (False, "none")]),
    _PREFIX,
]
_BART_FIXED = ATTENTION | {
    "model.attention.scale": "1/sqrt(d_k)",
    "model.attention.qk_norm": False,
    "model.attention.bias": True,
    "model.norm_order": "post",
    "model.norm": "layer",
    "model.norm.epsilon": 1e-5,
    "model.norm.bias": True,
    "model.final_norm": False,
    "model.feed_forward.bias": True,
    "model.logits_scale": "none",
    "model.logits_bias": True,
}
_BART_ONLY: dict[str, Sequence[Any]] = {
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "encoder_layerdrop": (0.0, 0),
    "decoder_layerdrop": (0.0, 0),
    "normalize_before": (False,),
    "add_final_layer_norm": (False,),
    "add_bias_logits": (False,),
}
_BART_SILENT = frozenset({"classif_dropout"})  # of heads that are not read
NORMAL = {"model.initializer": "normal", "model.embedding_init": "normal"}

BART = Format(
    family="encoder_decoder",
    architectures={
        "BartForConditionalGeneration": "translate",
        "BartModel": "translate",
        "BartForSequenceClassification": "classify",
    },
    fields=[
        Field("vocab_size", ROWS, 50265),
        *_BART_FIELDS,
        Field("tie_word_embeddings", ["model.tying"], True, [(True, "three_way"), (False, "none")]),
        Field("pad_token_id", ["data_info.pad"], 1),
        Field("bos_token_id", ["data_info.begin"], 0),
        Field("eos_token_id", ["data_info.end"], 2),
        Field("decoder_start_token_id", ["data_info.start"], 2),
    ],
    fixed=_BART_FIXED | {"model.positions": "learned", "model.positions.offset": 2, "model.embedding_norm": True},
    training=NORMAL,
    only=_BART_ONLY | {"normalize_embedding": (True,), "static_position_embeddings": (False,), "extra_pos_embeddings": (2,)},
    silent=_BART_SILENT,
    objectives=("translate", "span_corruption", "denoise"),
    heads_end=True,
    labels=3,
    force_end=True,
)
MARIAN = Format(
    family="encoder_decoder",
    architectures={"MarianMTModel": "translate", "MarianModel": "translate"},
    fields=[
        Field("vocab_size", ["data_info.source_rows"], 58101),
        Field("decoder_vocab_size", ["data_info.target_rows"], same("vocab_size")),
        *_BART_FIELDS,
        # Both fields at once.
        Field(
            "tie_word_embeddings share_encoder_decoder_embeddings",
            ["model.tying"],
            (True, True),
            [((True, True), "three_way"), ((True, False), "two_way"), ((False, False), "none"), ((False, True), "none")],
        ),
        Field("pad_token_id", ["data_info.pad"], 58100),
        Field("eos_token_id", ["data_info.end"], 0),
        Field("decoder_start_token_id", ["data_info.start"], 58100),
    ],
    fixed=_BART_FIXED
    | {"model.positions": "sinusoidal", "model.positions.layout": "halves", "model.embedding_norm": False}
    | {"model.positions.spacing": "paper", "model.positions.offset": 0},
    training=NORMAL,
    only=_BART_ONLY | {"normalize_embedding": (False,), "static_position_embeddings": (True,)},
    silent=_BART_SILENT | {"bos_token_id", "extra_pos_embeddings"},  # neither is used
    objectives=("translate", "span_corruption", "denoise"),
    heads_end=True,
    force_end=True,
)

_ALONE_FIXED = ATTENTION | {
    "model.positions": "learned",
    "model.positions.offset": 0,
    "model.attention.scale": "1/sqrt(d_k)",
    "model.attention.qk_norm": False,
    "model.attention.bias": True,
    "model.norm": "layer",
    "model.norm.bias": True,
    "model.feed_forward.bias": True,
    "model.embedding_scale": "none",
    "model.logits_scale": "none",
}

BERT = Format(
    family="encoder_only",
    architectures={
        "BertForMaskedLM": "masked_lm",
        "BertForPreTraining": "masked_lm",
        "BertModel": "embed",
        "BertForSequenceClassification": "classify",
        "BertForTokenClassification": "tag",
        "BertForQuestionAnswering": "answer",
    },
    fields=[
        Field("vocab_size", ROWS, 30522),
        Field("hidden_size", ["model.d_model"], 768),
        Field("num_hidden_layers", ["model.num_encoder_layers"], 12),
        Field("num_attention_heads", ["model.num_heads"], 12),
        Field("intermediate_size", ["model.d_ff"], 3072),
        Field("hidden_act", ["model.feed_forward.activation"], "gelu", ACTIVATIONS),
        Field("hidden_dropout_prob", ["model.dropout_rate"], 0.1),
        Field("attention_probs_dropout_prob", ["model.attention.dropout_rate"], 0.1),
        Field("classifier_dropout", ["model.head_dropout_rate"], same("hidden_dropout_prob")),
        Field("max_position_embeddings", ["model.positions.size"], 512),
        Field("type_vocab_size", ["model.token_types"], 2),
        Field("initializer_range", ["model.init_stddev"], 0.02),
        Field("layer_norm_eps", ["model.norm.epsilon"], 1e-12),
        Field("tie_word_embeddings", ["model.tying"], True, TIED),
        Field("pad_token_id", ["data_info.pad"], 0),
    ],
    fixed=_ALONE_FIXED
    | {"model.norm_order": "post", "model.final_norm": False, "model.embedding_norm": True, "model.logits_bias": True},
    training=NORMAL | {"model.feed_forward.dropout_rate": 0.0},
    only={
        "is_encoder_decoder": (False,),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute",),
        "pooler_type": ("first_token_transform",),
        "directionality": ("bidi",),
    },
    # The pooler's other fields are of TensorFlow's first release; begin and end are the tokenizer's [CLS] and [SEP]. No model
    # reads a prefix by itself.
    silent=words(
        "prefix pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head bos_token_id eos_token_id"
    ),
    heads_end=True,
)

GPT2 = Format(
    family="decoder_only",
    architectures={"GPT2LMHeadModel": "causal_lm", "GPT2Model": "causal_lm"},
    fields=[
        Field("vocab_size", ROWS, 50257),
        Field("n_positions", ["model.positions.size"], 1024),
        Field("n_ctx", ["model.positions.size"], same("n_positions"), written=False),
        Field("n_embd", ["model.d_model"], 768),
        Field("n_layer", ["model.num_decoder_layers"], 12),
        Field("n_head", ["model.num_heads"], 12),
        Field("n_inner", ["model.d_ff"], lambda fields: 4 * fields["n_embd"]),
        Field("activation_function", ["model.feed_forward.activation"], "gelu_new", ACTIVATIONS),
        Field("resid_pdrop", ["model.dropout_rate"], 0.1),
        Field("embd_pdrop", ["model.dropout_rate"], 0.1),
        Field("attn_pdrop", ["model.attention.dropout_rate"], 0.1),
        Field("layer_norm_epsilon", ["model.norm.epsilon"], 1e-5),
        Field("initializer_range", ["model.init_stddev"], 0.02),
        Field("tie_word_embeddings", ["model.tying"], True, TIED),
        Field("bos_token_id", ["data_info.start"], 50256),
        Field("eos_token_id", ["data_info.end"], 50256),
        Field("pad_token_id", ["data_info.pad"], same("eos_token_id")),
    ],
    fixed=_ALONE_FIXED
    | {"model.norm_order": "pre", "model.final_norm": True, "model.embedding_norm": False, "model.logits_bias": False},
    training=NORMAL | {"model.feed_forward.dropout_rate": 0.0},
    only={
        "is_encoder_decoder": (False,),
        "is_decoder": (False, True),
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
    },
    # Of a head that is not read, and of the code that GPT-2 was converted by.
    silent=words(
        "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout n_special "
        "predict_special_tokens prefix"
    ),
    heads_end=True,
)

OLDER: dict[str, Format] = {"t5": T5, "bart": BART, "marian": MARIAN, "bert": BERT, "gpt2": GPT2}

# How to search: generation_config.json, or, in files made before there was one, config.json. Limits of length are limits.py.
SEARCH = [
    Field("num_beams", ["search.beam_size"], 1),
    Field("length_penalty", ["search.length_penalty"], 1.0),
    Field("num_return_sequences", ["search.n_best"], 1),
    Field("early_stopping", ["search.stopping"], False, [(False, "likely"), (True, "filled"), ("never", "bound")]),
    Field("temperature", ["search.temperature"], 1.0),
    Field("top_k", ["search.top_k"], None),
    Field("top_p", ["search.top_p"], None),
    Field("repetition_penalty", ["search.repetition_penalty"], 1.0),
]
SEARCH_ONLY: dict[str, Sequence[Any]] = {
    "do_sample": (False, None, True),  # the mode says it: translate searches, generate samples
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1.0, None),
    "num_beam_groups": (1, None),
    "diversity_penalty": (0.0, None),
    "typical_p": (1.0, None),
    "min_p": (None,),
    "epsilon_cutoff": (0.0, None),
    "eta_cutoff": (0.0, None),
    "penalty_alpha": (None,),
    "guidance_scale": (None, 1.0),
    "forced_decoder_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "force_bos_token_to_be_generated": (False, None),
    "bad_words_ids": (None, []),
}
# The same, of fields that only the other family's search obeys.
SEARCH_OF: dict[str, dict[str, Sequence[Any]]] = {
    "decoder_only": {"num_beams": (1, None)},
    "encoder_decoder": {"repetition_penalty": (1.0, None)},
}
SEARCH_SILENT = SILENT | words(
    "output_scores return_dict_in_generate output_logits remove_invalid_values renormalize_logits cache_implementation "
    "bos_token_id"
)
