"""Small models of Transformers with random weights, their folders, and what they and ours say of the same batch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from transformer import families
from transformer.interop import huggingface

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

V, P = 48, 64
BART = {
    "vocab_size": V,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": P,
}
# The pad is the last entry, as in published ones.
MARIAN = BART | {
    "pad_token_id": V - 1,
    "decoder_start_token_id": V - 1,
    "scale_embedding": True,
    "activation_function": "swish",
}
T5 = {"vocab_size": V, "d_model": 14, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3, "decoder_start_token_id": 0}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
T5_GATED = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
GPT2 = {
    "vocab_size": V,
    "n_positions": P,
    "n_embd": 15,
    "n_layer": 3,
    "n_head": 5,
    "bos_token_id": V - 1,
    "eos_token_id": V - 1,
}
BERT = {"vocab_size": V, "hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
BERT |= {"max_position_embeddings": P}
ROBERTA = BERT | {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DISTILBERT = {"vocab_size": V, "dim": 15, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": P}
MODERN = {"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 28}
MODERN |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4}
HIDDEN = {"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28}
HIDDEN |= {"max_position_embeddings": P, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = HIDDEN | {"num_key_value_heads": 2}
OPT = {name: value for name, value in HIDDEN.items() if name != "intermediate_size"}
OPT |= {"ffn_dim": 28, "word_embed_proj_dim": 24}
LOCAL = {"sliding_window": 4, "head_dim": 6, "query_pre_attn_scalar": 7}
ROPE = {
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 8},
    "longrope": {"short_factor": [1.0, 1.5, 2.0], "long_factor": [3.0, 4.0, 5.0]},
}
ROPE = {kind: {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0} | rope} for kind, rope in ROPE.items()}
LABELS = {"id2label": dict(enumerate("abcd")), "label2id": {label: n for n, label in enumerate("abcd")}}

# name -> (class, settings)
MODELS = {
    "t5": ("T5ForConditionalGeneration", T5 | {"num_decoder_layers": 3}),
    "t5 tied and gated": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-silu"}),
    "t5 1.1": ("T5ForConditionalGeneration", T5_GATED),
    "bart": ("BartForConditionalGeneration", BART | {"decoder_layers": 3}),
    "bart unequal": (
        "BartForConditionalGeneration",
        BART | {"decoder_attention_heads": 2, "decoder_ffn_dim": 28, "encoder_attention_heads": 4},
    ),
    "bart sentences": ("BartForSequenceClassification", BART | LABELS),
    "bart untied": ("BartForConditionalGeneration", BART | {"tie_word_embeddings": False, "activation_function": "relu"}),
    "bart scaled": ("BartForConditionalGeneration", BART | {"scale_embedding": True, "activation_function": "gelu_new"}),
    "marian": ("MarianMTModel", MARIAN | {"encoder_layers": 1}),
    "marian two tables": ("MarianMTModel", MARIAN | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": V}),
    "mt5": ("MT5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5ForConditionalGeneration", T5 | {"num_decoder_layers": 3}),
    "pegasus": ("PegasusForConditionalGeneration", BART | {"scale_embedding": True}),
    "mbart": ("MBartForConditionalGeneration", BART | {"decoder_layers": 3}),
    "m2m_100": ("M2M100ForConditionalGeneration", BART | {"encoder_layers": 3, "attention_dropout": 0.0}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 untied": ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False, "n_inner": 22, "activation_function": "gelu"}),
    "llama": ("LlamaForCausalLM", GROUPED | ROPE["llama3"]),
    "llama biased": ("LlamaForCausalLM", GROUPED | ROPE["yarn"] | {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama tied": ("LlamaForCausalLM", HIDDEN | {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 3, "head_dim": 8}),
    "mistral whole": ("MistralForCausalLM", GROUPED | {"sliding_window": None, "head_dim": 6}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED | {"tie_word_embeddings": True}),
    "qwen2 windows": (
        "Qwen2ForCausalLM",
        GROUPED | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma": ("GemmaForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", GROUPED | LOCAL | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3ForCausalLM", GROUPED | LOCAL | {"num_hidden_layers": 8}),
    "phi3": ("Phi3ForCausalLM", GROUPED | {"sliding_window": 5}),
    "phi3 long": ("Phi3ForCausalLM", HIDDEN | ROPE["longrope"] | {"original_max_position_embeddings": 6}),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", GROUPED | {"num_hidden_layers": 5}),
    "gpt_neox": ("GPTNeoXForCausalLM", HIDDEN | {"hidden_size": 32}),
    "gpt_neox sequential": (
        "GPTNeoXForCausalLM",
        HIDDEN | {"use_parallel_residual": False, "rotary_pct": 0.5, "hidden_size": 16},
    ),
    "opt": ("OPTForCausalLM", OPT),
    "opt unbiased": ("OPTForCausalLM", OPT | {"enable_bias": False, "tie_word_embeddings": False}),
    "bert body": ("BertModel", BERT),
    "bert pre-training": ("BertForPreTraining", BERT),
    "bert masked": ("BertForMaskedLM", BERT | {"type_vocab_size": 3}),
    "bert masked untied": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "relu"}),
    "bert sentences": ("BertForSequenceClassification", BERT | LABELS),
    "bert tokens": ("BertForTokenClassification", BERT | LABELS),
    "bert spans": ("BertForQuestionAnswering", BERT),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "roberta untied": ("RobertaForMaskedLM", ROBERTA | {"tie_word_embeddings": False}),
    "roberta body": ("RobertaModel", ROBERTA),
    "roberta sentences": ("RobertaForSequenceClassification", ROBERTA | LABELS),
    "xlm-roberta tokens": ("XLMRobertaForTokenClassification", ROBERTA | LABELS),
    "roberta tokens": ("RobertaForTokenClassification", ROBERTA | LABELS),
    "roberta spans": ("RobertaForQuestionAnswering", ROBERTA),
    "camembert": ("CamembertForMaskedLM", ROBERTA),
    "xlm-roberta": ("XLMRobertaForMaskedLM", ROBERTA),
    "camembert spans": ("CamembertForQuestionAnswering", ROBERTA),
    "modernbert": ("ModernBertForMaskedLM", MODERN),
    "modernbert body": ("ModernBertModel", MODERN | {"norm_bias": True, "attention_bias": True}),
    "modernbert sentences": ("ModernBertForSequenceClassification", MODERN | LABELS),
    "modernbert means": (
        "ModernBertForSequenceClassification",
        MODERN | LABELS | {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True},
    ),
    "modernbert tokens": ("ModernBertForTokenClassification", MODERN | LABELS),
    "modernbert spans": ("ModernBertForQuestionAnswering", MODERN | {"classifier_bias": True}),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert body": ("DistilBertModel", DISTILBERT),
    "distilbert sentences": ("DistilBertForSequenceClassification", DISTILBERT | LABELS),
    "electra sentences": ("ElectraForSequenceClassification", BERT | {"embedding_size": 15} | LABELS),
    "distilbert tokens": ("DistilBertForTokenClassification", DISTILBERT | LABELS),
    "distilbert spans": ("DistilBertForQuestionAnswering", DISTILBERT),
    "electra tokens": ("ElectraForTokenClassification", BERT | {"embedding_size": 15} | LABELS),
    "electra": ("ElectraForMaskedLM", BERT | {"embedding_size": 15}),
    "electra body": ("ElectraModel", BERT | {"embedding_size": 15}),
    "electra spans": ("ElectraForQuestionAnswering", BERT | {"embedding_size": 15}),
}


def make(name, spread=0.4, seed=0, **more):
    """A model whose weights are all random, none of them as they are made: no bias is 0, no norm is 1."""
    kind, settings = MODELS[name]
    torch.manual_seed(seed)
    settings = {**settings, **more}
    configuration = getattr(transformers, kind).config_class
    model = getattr(transformers, kind)(configuration(**settings)).eval()
    if name == "t5 1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, settings["d_model"]))  # made tied in Transformers 5
    biases = [(name, each) for name, each in model.named_buffers() if name == "final_logits_bias"]
    with torch.no_grad():
        for part, tensor in [*model.named_parameters(), *biases]:
            if "embed_positions" not in part or name.split()[0] not in ("marian", "pegasus"):  # which are sinusoids
                tensor.normal_(0, spread)
                if tensor.ndim == 1 and part.endswith("weight"):  # of a norm
                    tensor += 1.0
    return model


def batch(rows=5, seed=0, longest=9):
    """Tokens, and 1 where they are: rows end at different places."""
    draw = np.random.default_rng(seed)
    lengths = np.append(draw.integers(1, longest + 1, rows - 1), longest)
    seen = (np.arange(longest)[None] < lengths[:, None]).astype(np.int64)
    return draw.integers(3, V - 1, (rows, longest)) * seen, seen


def say(model, source, seen, fed, fed_seen, types=None):
    """All that a model of theirs says, by name."""
    arguments = {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(seen)}
    if model.config.is_encoder_decoder and not hasattr(model, "classification_head"):
        arguments |= {"decoder_input_ids": torch.tensor(fed), "decoder_attention_mask": torch.tensor(fed_seen)}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        arguments["token_type_ids"] = torch.tensor(types)
    with torch.no_grad():
        said = model(**arguments)
    return {name: value.float().numpy() for name, value in said.items() if isinstance(value, torch.Tensor)}


def ours(found: huggingface.Imported):
    """A function of a batch: what the model of ours says."""
    model = families.FAMILIES[found.config.family].model(found.config, found.data_info)

    @jax.jit
    def call(params, source, seen, fed, fed_seen, types):
        inputs = {"source": source, "source_segments": seen, "inputs": fed, "segments": fed_seen, "token_types": types}
        if found.config.family == "decoder_only":
            inputs |= {"inputs": source, "segments": seen}
        return model.apply({"params": params}, inputs)

    return lambda *arrays: jax.tree.map(np.asarray, call(found.params, *map(jnp.asarray, arrays)))
