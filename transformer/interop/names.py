"""Tables of names: a module of ours and what Transformers calls it, family by family; and how one's tensor is the other's.

A module's name is enough: what lies in it has the same name everywhere (LEAVES). "{}" is the layer: a stack's layers are
axis 0 of ours and tensors of their own in theirs. Files are tensors.py, settings fields.py.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from transformer import settings
from transformer.config import Config

# How a tensor of theirs is ours: of the same shape; flattened; a row of one; (inputs, outputs); (outputs, inputs).
Form = Literal["table", "vector", "row", "kernel", "turned"]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter of ours lies: tensor `name`; None: they have none, and what is read is zeros.

    `fused`: modules whose outputs the tensor holds, in this order, ours among them; `by_head`: for each head in turn, else one
    module after another.
    """

    name: str | None
    form: Form
    fused: tuple[str, ...] = ()
    by_head: bool = False
    flipped: bool = False  # outputs in the other order
    optional: bool = False  # zeros where a file has it not


LEAVES: dict[str, tuple[str, Form]] = {
    "kernel": ("weight", "turned"),
    "bias": ("bias", "vector"),
    "scale": ("weight", "vector"),
    "table": ("weight", "table"),
}


@dataclasses.dataclass(frozen=True)
class Names:
    """`modules`: ours -> theirs. `variants`: (setting, its values, modules that it brings). `fused`: one of theirs, by the end
    of its name, and the modules of a layer that it holds, whose outputs stand side by side.

    `prefix`: of every module of the body; the bare body's file has it not. `places`: parameters that no leaf's rule gives.
    `same`: names of one tensor, which may stand for each other. `dropped`: patterns of tensors that say nothing new.
    """

    modules: Mapping[str, str]
    variants: Sequence[tuple[str, Sequence[str], Mapping[str, str]]] = ()
    places: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    heads: tuple[str, ...] = ()  # beginnings of names that have no prefix
    same: Sequence[tuple[str, ...]] = ()
    dropped: Sequence[str] = ()
    turned: bool = True
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    by_head: bool = False

    def place(self, path: str, config: Config) -> Place:
        """Of the parameter "module/../leaf". KeyError: this family has no such parameter."""
        module, _, leaf = path.rpartition("/")
        modules: dict[str, str] = {}
        for name, values, more in self.variants:
            if settings.plain(config).get(name) in values:
                modules |= more
        if path in self.places and module not in modules:
            return self.places[path]
        name, (ending, form) = {**self.modules, **modules}[module], LEAVES[leaf]
        form = "kernel" if form == "turned" and not self.turned else form
        parts = next((parts for each, parts in self.fused.items() if name.endswith(each)), ())
        inside = module.removesuffix(next((part for part in parts if module.endswith(part)), ""))
        fused = tuple(f"{inside}{part}/{leaf}" for part in parts)
        return Place(f"{name}.{ending}", form, fused, self.by_head and bool(fused), name == "cls.seq_relationship")

    def normal(self, name: str, bare: bool) -> str:
        """A tensor's name as this table has it. `bare`: the file is of a body alone."""
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        return name if not bare or name.startswith(self.heads) else self.prefix + name


def stack(ours: str, theirs: str, modules: Mapping[str, str]) -> dict[str, str]:
    """The modules of a stack's layers, by their names in a layer."""
    return {f"{ours}/layers/{module}": f"{theirs}.{{}}.{name}" for module, name in modules.items()}


# --- T5 ----------------------------------------------------------------------------------------------------------------

_T5_SELF = {
    "self_attention_norm": "layer.0.layer_norm",
    "self_attention/query": "layer.0.SelfAttention.q",
    "self_attention/key": "layer.0.SelfAttention.k",
    "self_attention/value": "layer.0.SelfAttention.v",
    "self_attention/output": "layer.0.SelfAttention.o",
}
_T5_CROSS = {
    "cross_attention_norm": "layer.1.layer_norm",
    "cross_attention/query": "layer.1.EncDecAttention.q",
    "cross_attention/output": "layer.1.EncDecAttention.o",
}
_T5_PLAIN, _T5_GATED = {"inner": "wi", "outer": "wo"}, {"inner": "wi_0", "gate": "wi_1", "outer": "wo"}


def _t5_feed_forward(names: Mapping[str, str]) -> dict[str, str]:
    parts = {f"feed_forward/{ours}": f"DenseReluDense.{theirs}" for ours, theirs in names.items()}
    encoder = {ours: f"layer.1.{theirs}" for ours, theirs in parts.items()}
    decoder = {ours: f"layer.2.{theirs}" for ours, theirs in parts.items()}
    return stack("encoder", "encoder.block", encoder) | stack("decoder", "decoder.block", decoder)


T5 = Names(
    modules={
        "target_embedding": "shared",
        "logits": "lm_head",
        "encoder/final_norm": "encoder.final_layer_norm",
        "decoder/final_norm": "decoder.final_layer_norm",
    }
    | stack("encoder", "encoder.block", _T5_SELF | {"feed_forward_norm": "layer.1.layer_norm"})
    | stack("decoder", "decoder.block", _T5_SELF | _T5_CROSS | {"feed_forward_norm": "layer.2.layer_norm"}),
    variants=[
        ("model.feed_forward.activation", ("relu", "gelu", "gelu_tanh", "silu"), _t5_feed_forward(_T5_PLAIN)),
        ("model.feed_forward.activation", ("geglu", "geglu_tanh", "swiglu"), _t5_feed_forward(_T5_GATED)),
    ],
    places={
        "memory/key/kernel": Place("decoder.block.{}.layer.1.EncDecAttention.k.weight", "turned"),
        "memory/value/kernel": Place("decoder.block.{}.layer.1.EncDecAttention.v.weight", "turned"),
    }
    | {
        f"{stack}/position_table": Place(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "table")
        for stack in ("encoder", "decoder")
    },
    same=[("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")],
    # Of the first checkpoints, which Transformers does not read either.
    dropped=[r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"],
)

# --- BART and Marian ---------------------------------------------------------------------------------------------------

_BART_LAYER = {
    "self_attention_norm": "self_attn_layer_norm",
    "self_attention/query": "self_attn.q_proj",
    "self_attention/key": "self_attn.k_proj",
    "self_attention/value": "self_attn.v_proj",
    "self_attention/output": "self_attn.out_proj",
    "feed_forward_norm": "final_layer_norm",
    "feed_forward/inner": "fc1",
    "feed_forward/outer": "fc2",
}
_BART_CROSS = {
    "cross_attention_norm": "encoder_attn_layer_norm",
    "cross_attention/query": "encoder_attn.q_proj",
    "cross_attention/output": "encoder_attn.out_proj",
}
_BART_TABLES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")

BART = Names(
    modules={
        "logits": "lm_head",
        "encoder/embedding_norm": "model.encoder.layernorm_embedding",
        "decoder/embedding_norm": "model.decoder.layernorm_embedding",
        "pooler/dense": "classification_head.dense",
        "classifier/dense": "classification_head.out_proj",
    }
    | stack("encoder", "model.encoder.layers", _BART_LAYER)
    | stack("decoder", "model.decoder.layers", _BART_LAYER | _BART_CROSS),
    variants=[
        ("model.tying", ("three_way",), {"target_embedding": "model.shared"}),
        (
            "model.tying",
            ("two_way", "none"),
            {"source_embedding": "model.encoder.embed_tokens", "target_embedding": "model.decoder.embed_tokens"},
        ),
    ],
    places={
        f"memory/{side}/{leaf}": Place(f"model.decoder.layers.{{}}.encoder_attn.{side[0]}_proj.{name}", form)
        for side in ("key", "value")
        for leaf, (name, form) in LEAVES.items()
        if leaf in ("kernel", "bias")
    }
    | {f"{stack}/position_table": Place(f"model.{stack}.embed_positions.weight", "table") for stack in ("encoder", "decoder")}
    | {"logits/bias": Place("final_logits_bias", "row", optional=True)},
    prefix="model.",
    heads=("final_logits_bias", "lm_head.", "classification_head."),
    same=[("model.shared.weight", *_BART_TABLES, "lm_head.weight")],
    dropped=[r"model\.shared\.weight"],  # not read where the stacks have tables of their own
)
# The second are sinusoids, and looked at.
MARIAN = dataclasses.replace(BART, dropped=[*BART.dropped, r"model\.(en|de)coder\.embed_positions\.weight"])

# --- BERT --------------------------------------------------------------------------------------------------------------

BERT = Names(
    modules={
        "source_embedding": "bert.embeddings.word_embeddings",
        "type_embedding": "bert.embeddings.token_type_embeddings",
        "encoder/embedding_norm": "bert.embeddings.LayerNorm",
        "pooler/dense": "bert.pooler.dense",
        "masked_lm/transform": "cls.predictions.transform.dense",
        "masked_lm/norm": "cls.predictions.transform.LayerNorm",
    }
    | stack(
        "encoder",
        "bert.encoder.layer",
        {
            "self_attention_norm": "attention.output.LayerNorm",
            "self_attention/query": "attention.self.query",
            "self_attention/key": "attention.self.key",
            "self_attention/value": "attention.self.value",
            "self_attention/output": "attention.output.dense",
            "feed_forward_norm": "output.LayerNorm",
            "feed_forward/inner": "intermediate.dense",
            "feed_forward/outer": "output.dense",
        },
    ),
    variants=[
        ("model.tying", ("three_way", "two_way"), {"masked_lm/logits": "cls.predictions"}),
        ("model.tying", ("none",), {"masked_lm/logits": "cls.predictions.decoder"}),
        ("objective.kind", ("classify", "tag"), {"classifier/dense": "classifier"}),
        ("objective.kind", ("answer",), {"classifier/dense": "qa_outputs"}),
        # Ours says that sentences belong together by 1, theirs by 0.
        ("objective.kind", ("masked_lm",), {"classifier/dense": "cls.seq_relationship"}),
    ],
    places={"encoder/position_table": Place("bert.embeddings.position_embeddings.weight", "table")},
    prefix="bert.",
    heads=("cls.", "classifier.", "qa_outputs."),
    same=[
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ],
    # Also the heads that the architecture named in config.json has not, as Transformers does.
    dropped=[r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\..*"],
)

# --- GPT-2 -------------------------------------------------------------------------------------------------------------

GPT2 = Names(
    modules={
        "target_embedding": "transformer.wte",
        "logits": "lm_head",
        "decoder/final_norm": "transformer.ln_f",
    }
    | stack(
        "decoder",
        "transformer.h",
        {
            "self_attention_norm": "ln_1",
            "self_attention/query": "attn.c_attn",
            "self_attention/key": "attn.c_attn",
            "self_attention/value": "attn.c_attn",
            "self_attention/output": "attn.c_proj",
            "feed_forward_norm": "ln_2",
            "feed_forward/inner": "mlp.c_fc",
            "feed_forward/outer": "mlp.c_proj",
        },
    ),
    places={
        "decoder/position_table": Place("transformer.wpe.weight", "table"),
        "logits/kernel": Place("lm_head.weight", "turned"),
    },
    prefix="transformer.",
    heads=("lm_head.",),
    same=[("transformer.wte.weight", "lm_head.weight")],
    dropped=[r"transformer\.h\.\d+\.attn\.(masked_)?bias"],  # the causal mask
    turned=False,
    fused={"attn.c_attn": ("self_attention/query", "self_attention/key", "self_attention/value")},
)

OLDER: dict[str, Names] = {"t5": T5, "bart": BART, "marian": MARIAN, "bert": BERT, "gpt2": GPT2}
