"""Every setting, once: typed, frozen dataclasses.

An experiment file returns a `Config`. Information that depends on the data is in `DataInfo`, which is made once and stored in
the workdir. `settings.py` names, overrides, writes and reads settings; `validation.py` has the constraints between them.
"""

import dataclasses
from typing import Literal

from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.masks import All, Mask, Prefix, Role, Sizes, Stack, Window
from transformer.components.measures import Measure
from transformer.components.norms import LayerNorm, Norm
from transformer.components.positions import Positions, Sinusoidal
from transformer.components.residuals import Residual
from transformer.components.rotary import Rotary as Rotary  # imported to register itself
from transformer.settings import Variations, override, setting

HeadPlace = Literal["all", "encoder/self", "decoder/self", "decoder/cross"]
SoftmaxMetric = Literal["logit_variance", "attention_entropy", "jacobian_norm"]
LayerMetric = Literal[SoftmaxMetric, "query_gradient", "gradient_norm"]
InitMetric = Literal[LayerMetric, "gradient_distance", "sequential_products", "operations", "gradient_seconds"]


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """Settings of the recurrent family, which also uses `num_*_layers`, `d_model` and `dropout_rate`."""

    cell: Literal["gru", "lstm"] = setting("gru", "recurrent cell (Cho et al. 2014; Hochreiter and Schmidhuber 1997)")
    attention: Literal["none", "bahdanau", "luong_dot", "luong_general", "luong_concat"] = setting(
        "bahdanau", "attention; none: one fixed vector"
    )
    context: Literal["initial", "every_step"] = setting(
        "initial",
        "without attention: the encoder's vector is the decoder's first state (Sutskever), or an input of every step too (Cho)",
    )
    bidirectional: bool = setting(True, "the encoder reads the source in both directions")
    reverse_source: bool = setting(False, "the source is read from its end to its beginning (Sutskever et al. 2014, 3.3)")
    input_feeding: bool = setting(
        True, "luong_*: the last attentional state is an input of the next step (Luong et al. 2015, 3.3)"
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network. Names follow "Attention Is All You Need" (Vaswani et al. 2017), Table 3."""

    num_encoder_layers: int = setting(6, "layers of the encoder (N)", at_least=1)
    num_decoder_layers: int = setting(6, "layers of the decoder (N)", at_least=1)
    d_model: int = setting(512, "width of the residual stream", at_least=1)
    d_ff: int = setting(2048, "inner width of the feed-forward layers", at_least=1)
    num_heads: int = setting(8, "attention heads (h)", at_least=1)
    d_k: int | None = setting(None, "width of a head's queries and keys; none: d_model / num_heads", at_least=1)
    d_v: int | None = setting(None, "width of a head's values; none: d_model / num_heads", at_least=1)

    num_kv_heads: int | None = setting(
        None, "key-value heads, shared by groups of attention heads; none: num_heads; 1: multi-query", at_least=1
    )
    window: int | None = setting(
        None,
        "sliding window of self-attention: in a decoder the number of last tokens that a token sees, itself included; in an "
        "encoder twice the greatest distance; none: no window",
        at_least=1,
    )
    layer_pattern: tuple[str, ...] = setting((), "names of layer types, repeated over the layers; empty: all layers are alike")
    layer_types: Variations = setting(
        Variations(),
        "settings of a layer type that differ from the model's: layer_types.NAME.SETTING=VALUE, such as "
        "layer_types.local.window=512; the types encoder and decoder hold for all layers of that stack",
    )

    attention: Attention = setting(Attention(), "the attention function")
    positions: Positions = setting(Sinusoidal(), "position encoding")
    mask: Mask = setting(Prefix(), "which tokens a token of a decoder sees")
    feed_forward: FeedForward = setting(FeedForward(), "the feed-forward layers; none: layers of attention only")
    norm: Norm = setting(LayerNorm(), "normalization layers, except those of queries and keys")
    norm_order: Literal["post", "pre", "sandwich", "output"] = setting(
        "post",
        "post: norm(x + f(x)) (paper); pre: x + f(norm(x)); sandwich: x + norm(f(norm(x))) (Gemma 2); output: x + norm(f(x)) "
        "(OLMo 2)",
    )
    attention_norm: bool = setting(
        True, "a norm before self-attention too; false, for a layer type: none (ModernBERT's first layer; not with post-norm)"
    )
    residual: Residual = setting(
        Residual(),
        "residual connections: each sublayer reads the output of the one before it, or all read the layer's input (GPT-NeoX; "
        "not with post-norm)",
    )
    final_norm: bool | None = setting(None, "a norm on top of each stack; none: true unless norm_order is post")
    embedding_norm: bool = setting(False, "a norm on the embedded inputs (BERT, BART)")

    dropout_rate: float = setting(0.1, "dropout on outputs of sublayers and embedded inputs (paper, 5.4)", at_least=0, below=1)
    head_dropout_rate: float = setting(0.1, "dropout before the classifier of sentences, tokens or spans", at_least=0, below=1)
    dropout_generator: Literal["hash", "threefry"] = setting(
        "hash", "generator of the random bits of dropout: a fast hash, or JAX's Threefry"
    )

    tying: Literal["three_way", "two_way", "inputs", "none"] = setting(
        "three_way", "which embeddings are shared: source, target and output; target and output; source and target; none"
    )
    embedding_scale: Literal["sqrt(d_model)", "none"] = setting("sqrt(d_model)", "factor on embeddings (paper, 3.4)")
    logits_scale: Literal["none", "1/sqrt(d_model)"] = setting("none", "factor on states before the logits (T5 1.0: tied)")
    logits_cap: float | None = setting(
        None, "soft cap on the logits of the vocabulary: cap * tanh(logits / cap) (Gemma 2); none: no cap", above=0
    )
    logits_bias: bool = setting(False, "a bias for each vocabulary entry on the logits (BART, Marian)")
    token_types: int = setting(
        0, "rows of the table of token types that is added to embeddings (BERT: 2); 0: no table", at_least=0
    )
    initializer: Literal["xavier_uniform", "fan_in", "normal"] = setting("xavier_uniform", "initializer of the kernels")
    init_stddev: float = setting(0.02, "standard deviation of the `normal` initializer", above=0)
    embedding_init: Literal["1/sqrt(d_model)", "normal", "unit"] = setting(
        "1/sqrt(d_model)", "standard deviation of embeddings"
    )
    parametrization: Literal["standard", "mup"] = setting(
        "standard",
        "how initial values, factors and learning rates depend on the width; mup: so that the best learning rate does not "
        "(Yang et al. 2022, Table 8); at base_width both are the same",
    )
    base_width: int = setting(128, "mup: the d_model at which it is the same as standard", at_least=1)
    base_d_k: int | None = setting(None, "mup: d_k at base_width; none: it grows in proportion to d_model", at_least=1)

    pooler_activation: Literal["tanh", "relu", "gelu"] = setting(
        "tanh", "activation between the two layers that classify (BERT and BART, DistilBERT, ELECTRA and ModernBERT)"
    )
    pooling: Literal["first", "mean"] = setting(
        "first", "which states of an encoder a classifier of texts reads: the first token's, or the mean of all (ModernBERT)"
    )
    prediction_head: Literal["bert", "modernbert"] = setting(
        "bert",
        "what stands below a classifier; bert: activation(x W + b) for texts, nothing for tokens and spans; modernbert: "
        "norm(activation(x W + b)) for all of them",
    )
    head_bias: bool = setting(
        True, "a bias in the layer below a classifier and below the logits of a masked language model (ModernBERT: none)"
    )

    lora_rank: int | None = setting(
        None,
        "rank of low-rank adapters, which are trained in place of the kernels (Hu et al. 2021); none: no adapters",
        at_least=1,
    )
    lora_alpha: float = setting(16.0, "adapters: their sum is multiplied by alpha / rank", above=0)
    lora_kernels: tuple[str, ...] = setting(
        ("query", "value"), "adapters: of which kernels (query, key, value, output, inner, gate, outer, or a variant's own)"
    )

    attention_backend: Literal["auto", "plain", "chunked", "fused"] = setting(
        "auto",
        "how attention is computed: with all weights, by blocks of queries, or by a kernel (auto: where there is one)",
        free=True,
    )
    attention_chunk: int = setting(512, "queries in a block of the chunked backend", at_least=1, free=True)
    unroll: int = setting(1, "layers unrolled in one pass of the scan over layers", at_least=1, free=True)
    remat: Literal["none", "full", "dots"] = setting(
        "none", "what the backward pass recomputes instead of storing it", free=True
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "type of computations; parameters are always float32")
    matmul_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "type to which factors are rounded before a product of states and a kernel of a layer, or of logits; sums are float32. "
        "On a TPU, all products of float32 are rounded to bfloat16",
    )
    recurrent: Recurrent = Recurrent()

    @property
    def ties_inputs(self) -> bool:
        """Whether source and target have one embedding table."""
        return self.tying in ("three_way", "inputs")

    @property
    def ties_output(self) -> bool:
        """Whether the logits come from the embedding table."""
        return self.tying in ("three_way", "two_way")

    @property
    def key_width(self) -> int:
        """d_k as used."""
        return self.d_k or self.d_model // self.num_heads

    @property
    def value_width(self) -> int:
        """d_v as used."""
        return self.d_v or self.d_model // self.num_heads

    @property
    def width_ratio(self) -> float:
        """d_model / base_width with mup, else 1."""
        return self.d_model / self.base_width if self.parametrization == "mup" else 1.0

    @property
    def embedding_width(self) -> int:
        """The d_model that determines the size of embeddings."""
        return self.base_width if self.parametrization == "mup" else self.d_model

    @property
    def logits_factor(self) -> float:
        """The factor of attention logits in addition to their scale: with mup sqrt(d_k at base_width / d_k), so that
        1/sqrt(d_k) becomes proportional to 1/d_k."""
        if self.parametrization == "standard":
            return 1.0
        return ((self.base_d_k or self.key_width / self.width_ratio) / self.key_width) ** 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer_types", Variations(self.layer_types))

    def of_stack(self, stack: str) -> "Model":
        """The settings of a stack: those of the layer type with the name of the stack override those of the model."""
        return override(self, dict(dict(self.layer_types).get(stack, ())), load=False)

    def layers_of_period(self, stack: str) -> tuple["Model", ...]:
        """The settings of each layer of the pattern in a stack; without a pattern, one element for all layers."""
        whole = dataclasses.replace(self.of_stack(stack), layer_pattern=(), layer_types=Variations())
        return tuple(override(whole, self.layer_types.get(name), load=False) for name in self.layer_pattern) or (whole,)

    @property
    def most_positions(self) -> int | None:
        """The number of positions that all layers can encode, or None if there is no limit."""
        layers = (each for stack in ("encoder", "decoder") for each in self.layers_of_period(stack))
        return min((most for each in layers if (most := each.positions.longest()) is not None), default=None)

    @property
    def remembers_keys(self) -> bool:
        """Whether a decoder's keys can be cached: they do not change when more tokens follow."""
        return all(each.mask.during(False).causal for each in self.layers_of_period("decoder"))

    def sizes(self, stack: Stack, role: Role = "self") -> Sizes:
        """The sizes of a layer's attention, which its components are given."""
        kv_heads = self.num_kv_heads or self.num_heads
        widths = self.key_width, self.value_width, self.d_ff
        return Sizes(self.d_model, self.num_heads, kv_heads, *widths, stack, role, self.logits_factor)

    def self_mask(self, stack: Stack, training: bool = False) -> Mask:
        """Which tokens of its segment a token sees in the self-attention of a stack."""
        mask = All() if stack == "encoder" else self.mask.during(training)
        if self.window is None:
            return mask
        return mask & Window(self.window // 2 + 1 if stack == "encoder" else self.window)

    @property
    def ring(self) -> int | None:
        """The number of cache slots that a decoder's self-attention needs; None: one for each token."""
        before, _ = self.self_mask("decoder").span(prefix=False)
        return None if before is None else before + 1

    def depth(self, stack: str) -> int:
        """The number of layers of the stack `encoder` or `decoder`."""
        return {"encoder": self.num_encoder_layers, "decoder": self.num_decoder_layers}[stack]

    @property
    def has_final_norm(self) -> bool:
        return self.norm_order != "post" if self.final_norm is None else self.final_norm


@dataclasses.dataclass(frozen=True)
class Data:
    """The data, and how they become batches."""

    source: Literal[
        "number_words",
        "algorithms",
        "list_ops",
        "list_ops_pairs",
        "entities",
        "stories",
        "summaries",
        "text",
        "documents",
        "tsv",
        "conll",
        "squad",
        "tfds",
    ] = setting(
        "number_words",
        "synthetic (number_words, algorithms, summaries, list_ops_pairs: pairs; list_ops: labels; entities: tags; stories: "
        "questions), two text files, documents, labelled files, or TFDS catalogue",
    )
    source_language: str = setting("en", "language of the sources")
    target_language: str = setting("de", "language of the targets")
    directory: str | None = setting(
        None,
        "folder of the data; none: the current folder (files), the workdir (synthetic tasks), TFDS's data_dir (tfds)",
        free=True,
        path=True,
    )
    train: str | None = setting(
        "train",
        "training data: the prefix of <prefix>.<language>, a file, or a split; a slice is written as input.txt[:90%]",
        path=True,
    )
    validation: str | None = setting("validation", "validation data, as train", path=True)
    test: str | None = setting("test", "test data, scored at the end, as train", path=True)
    tfds_name: str | None = setting(None, "name of a TFDS catalogue data set, with its config")
    mixture: tuple[str, ...] = setting(
        (), "text: tasks NAME:RATE, each a folder of data.directory; the task's name is put before every source", path=True
    )
    join: int = setting(1, "text: lines are joined to longer examples of 1, 2, .. up to this many lines in turn", at_least=1)
    prefix: str = setting("", "text that is put before every source (the name of the task in T5)")
    document: Literal["file", "paragraph", "line"] = setting(
        "paragraph", "documents: what a document is; blank lines separate paragraphs"
    )
    cross_documents: bool = setting(False, "language models: attention crosses the documents of a row")

    number_range: tuple[int, int] = setting((0, 1_000_000), "number_words: range of the numbers: first, and last plus one")
    number_train_range: tuple[int, int] | None = setting(
        None, "number_words: range of the training numbers; none: number_range"
    )
    number_test_range: tuple[int, int] | None = setting(None, "number_words: range of validation and test; none: number_range")
    number_train_size: int = setting(40_000, "number_words: training pairs", at_least=1)
    number_train_by_digits: float = setting(
        0.125,
        "number_words: fraction of the training numbers drawn evenly over the counts of digits; the others: over the range",
        at_least=0,
        at_most=1,
    )
    number_small_copies: int = setting(
        1, "number_words: copies of each training number below 100, of which a random sample has few", at_least=1
    )
    number_test_by_digits: float = setting(
        0.0,
        "number_words: as number_train_by_digits for validation and test, at most a quarter of the numbers of each count",
        at_least=0,
        at_most=1,
    )
    number_test_size: int = setting(2_000, "number_words: number of validation pairs, and of test pairs", at_least=1)
    synthetic_train_size: int = setting(20_000, "other synthetic tasks: number of training examples", at_least=1)
    synthetic_test_size: int = setting(
        2_000, "other synthetic tasks: number of validation examples, and of test examples", at_least=1
    )

    algorithm: Literal["copy", "reverse", "sort", "list", "recall", "addition"] = setting(
        "copy", "algorithms: which one; list: items are translated one by one; recall: the value of a key"
    )
    algorithm_alphabet: int = setting(26, "algorithms: letters that items and keys are drawn from", at_least=2, at_most=52)
    algorithm_train_lengths: tuple[int, int] = setting(
        (5, 20), "algorithms: least and greatest number of items (recall: pairs; addition: digits) in training and validation"
    )
    algorithm_test_lengths: tuple[int, int] | None = setting(
        None, "algorithms: as algorithm_train_lengths for the test; none: the same"
    )

    vocabulary: Literal["bpe", "unigram", "bytes", "characters", "imported"] = setting("bpe", "kind of vocabulary")
    vocabulary_size: int = setting(
        8000, "greatest number of entries, special ones included (bpe, unigram, characters)", at_least=8
    )
    joint_vocabulary: bool = setting(True, "one vocabulary for source and target")
    segmentations: int = setting(
        1, "bpe, unigram: copies of the training texts; all except the first are segmented at random", at_least=1
    )
    segmentation_rate: float = setting(
        0.1,
        "of segmentations, bpe: fraction of merges that are left out (BPE-dropout, as in sentencepiece: stronger than in the "
        "paper at the same rate); unigram: smoothing alpha",
        above=0,
        below=1,
    )
    lowercase: bool = setting(False, "convert all text to lower case first")
    normalization: Literal["nmt_nfkc", "nfkc", "identity"] = setting(
        "nmt_nfkc",
        "bpe, unigram: Unicode normalisation of sentencepiece, without leading and repeated spaces; identity: text is kept",
    )

    max_source_length: int = setting(256, "greatest number of tokens of a source, its end included", at_least=2)
    max_target_length: int = setting(256, "greatest number of tokens of a target, its end included", at_least=2)
    too_long: Literal["drop", "cut"] = setting("drop", "treatment of longer training pairs, which are counted")
    batching: Literal["packed", "bucketed"] = setting(
        "packed", "several pairs in a row, or one pair in a row, with a few row lengths"
    )
    row_length: int | None = setting(
        None, "target slots of a packed row; none: as many as the longest target has, but at least 64"
    )
    buckets: int = setting(6, "number of different shapes of bucketed batches", at_least=1)
    workers: int = setting(0, "processes that prepare batches ahead; 0: a thread of this process", at_least=0, free=True)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The training task of a model."""

    kind: Literal[
        "translate", "causal_lm", "prefix_lm", "masked_lm", "span_corruption", "denoise", "classify", "tag", "answer", "embed"
    ] = setting(
        "translate",
        "the training task. translate: a target for a source; causal_lm: the next token; prefix_lm: the rest of a text; "
        "masked_lm: hidden tokens (BERT); span_corruption (T5), denoise (BART): a damaged text; classify, tag, answer: labels, "
        "tags, spans; embed: vectors of an imported encoder",
    )
    rate: float = setting(0.15, "masked_lm, span_corruption, denoise: fraction of tokens that are corrupted", above=0, below=1)
    span_length: float = setting(3.0, "span_corruption, denoise: mean length of a span", at_least=1)
    whole_words: bool = setting(False, "masked_lm: all pieces of a word are chosen together")
    next_sentence: bool = setting(
        False, "masked_lm: also predict whether two segments follow each other, which half of the pairs do (BERT)"
    )
    permute_sentences: bool = setting(False, "denoise: sentences in random order (BART)")
    delete_rate: float = setting(0.0, "denoise: fraction of tokens that are deleted", at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class Train:
    """The optimisation."""

    seed: int = setting(0, "seed of initialisation, data order and dropout", at_least=0)
    steps: int = setting(100_000, "number of updates", at_least=1, free=True)
    batch_tokens: int = setting(
        25_000, "target slots of one update, over all devices and micro-batches, padding included", at_least=1
    )
    freeze: tuple[str, ...] = setting(
        (),
        "parameters that are not trained: patterns of their paths, such as encoder/* or *embedding*; with adapters, all others",
    )
    init_from: str | None = setting(None, "workdir whose parameters and vocabulary a new run starts from", path=True)
    branch_from: str | None = setting(
        None,
        "workdir whose run a new run continues after update branch_step, with its optimizer state, data position and metrics; "
        "the result is that of a run with the new schedule from the start",
        path=True,
    )
    branch_step: int | None = setting(
        None, "branch_from: the update after which the new run branches; it must have a checkpoint", at_least=1
    )
    accumulate: int = setting(1, "micro-batches of one update", at_least=1)
    optimizer: Literal["adam", "adamw", "adafactor", "lion", "muon", "schedule_free"] = setting(
        "adam",
        "update rule; muon: for kernels of layers, with AdamW for all others; schedule_free: AdamW at a constant rate, "
        "scored at an average",
    )
    learning_rate: float | None = setting(
        None, "peak learning rate; none: d_model^-0.5 warmup_steps^-0.5, as in the paper", above=0
    )
    schedule: Literal["rsqrt", "cosine", "linear", "constant", "wsd"] = setting(
        "rsqrt", "schedule after the linear warm-up; cosine, linear: 0 at train.steps; wsd: constant, then linear decay to 0"
    )
    warmup_steps: int = setting(4000, "updates of linear warm-up", at_least=0)
    decay_steps: int | None = setting(
        None,
        "wsd: number of updates of the decay, which ends at train.steps; none: a tenth of train.steps",
        at_least=0,
        free=True,
    )
    beta1: float = setting(
        0.9,
        "decay rate of the first moment; adafactor has none, and muon uses it for what it leaves to Adam",
        at_least=0,
        below=1,
    )
    beta2: float = setting(0.98, "decay rate of the second moment, as for beta1; lion: of the momentum", above=0, below=1)
    epsilon: float = setting(1e-9, "Adam's epsilon", above=0)
    weight_decay: float = setting(
        0.0,
        "adamw, lion, muon, schedule_free: weight decay of kernels and embeddings; it is multiplied by the learning rate",
        at_least=0,
    )
    clip_norm: float | None = setting(None, "gradients are clipped to this global norm; none: no clipping", above=0)
    loss_chunk: int = setting(
        4096, "target slots of a device whose logits are in memory at the same time", at_least=1, free=True
    )
    loss_backend: Literal["auto", "chunked", "fused"] = setting(
        "auto",
        "cross entropy of tokens in training; chunked: loss_chunk slots at a time; fused: a kernel that keeps no logits, which "
        "reports no token accuracy (validation does); auto: fused on a TPU with 8,192 entries or more, where Tokamax has it",
        free=True,
    )
    z_loss: float = setting(
        0.0, "weight of the squared log of the softmax's normalizer, added to the loss (PaLM: 1e-4)", at_least=0
    )
    label_smoothing: float = setting(0.1, "probability that is spread evenly over the vocabulary", at_least=0, below=1)
    ema_decay: float | None = setting(
        None,
        "decay of an exponential moving average of parameters, in which the initial ones have the weight decay ** n after n "
        "updates; none: no average",
        above=0,
        below=1,
    )
    max_skipped: int = setting(
        10,
        "greatest number of updates in a row that are skipped because loss or gradient is not finite; one more ends the run",
        at_least=0,
        free=True,
    )
    debug_nans: bool = setting(False, "check every operation for NaN and name the first one; slow", free=True)
    trackers: tuple[Literal["wandb", "mlflow"], ...] = setting(
        (),
        "additional trackers of the run: Weights & Biases, MLflow; their environment variables set the destination",
        free=True,
    )
    max_minutes: float | None = setting(
        None, "minutes after which the run is saved and stops; it can be resumed; none: no limit", above=0, free=True
    )
    log_every: int = setting(50, "updates between two reports", at_least=1)
    evaluate_every: int = setting(1000, "updates between two validations", at_least=1)
    patience: int | None = setting(
        None,
        "early stopping: validations in a row without an improvement of checkpoint.best_metric after which training ends; "
        "none: it never ends early",
        at_least=1,
        free=True,
    )
    min_delta: float = setting(
        0.0, "early stopping: how much better a validation must be to count as an improvement", at_least=0
    )
    init_metrics: tuple[InitMetric, ...] = setting(
        (),
        "metrics of the initial model on the first batch: init/NAME, by layer init/NAME@decoder/cross/1 or @decoder/1, by "
        "distance init/gradient_distance@8",
    )

    coordinates: bool = setting(
        False,
        "each validation also reports the mean size of activations, validation/coordinates@SITE/LAYER, and of the "
        "logits, on its first batch (the coordinate check of Yang et al. 2022, D.1)",
    )

    @property
    def keeps_average(self) -> bool:
        """Whether an average of the parameters is kept, which is then scored."""
        return self.ema_decay is not None or self.optimizer == "schedule_free"

    @property
    def decay_updates(self) -> int:
        """Updates of the decay of `wsd`."""
        return self.steps // 10 if self.decay_steps is None else self.decay_steps


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How a trained model is scored."""

    scores: tuple[str, ...] = setting(
        (), "scores of the outputs, in addition to losses; empty: those of the objective", free=True
    )
    lengths: tuple[int, ...] = setting(
        (),
        "pairs: also score ranges of the source's number of words; each range begins at a number and ends before the next",
        free=True,
    )
    places: tuple[int, ...] = setting(
        (),
        "pairs: also the percentage of correct words by their position in the target, from 1 on, in ranges as of lengths",
        free=True,
    )
    true_lengths: bool = setting(
        False, "pairs: also score outputs that are decoded to the length of their references", free=True
    )
    bleu_tokenize: Literal["13a", "none", "intl", "char"] = setting("13a", "sacrebleu's tokenisation", free=True)
    average: int = setting(1, "number of last checkpoints that are averaged", at_least=1, free=True)
    checkpoint: Literal["last", "best"] | None = setting(
        None,
        "the checkpoint that is used: the mean of the last `average`, or the best (checkpoint.best_metric); none: best with "
        "train.patience, else the last",
        free=True,
    )
    samples: int = setting(8, "outputs shown", at_least=0, free=True)
    heads_removed: float = setting(
        0.0, "fraction of the attention heads that are removed before a split is scored", at_least=0, at_most=1, free=True
    )
    head_order: Literal["gradient", "random"] = setting(
        "gradient", "order of removal: the least gradient of a head's gate on validation first, or random", free=True
    )
    head_place: HeadPlace = setting("all", "heads that are counted and removed: of one kind of attention, or all", free=True)
    head_statistics: bool = setting(
        False, "Transformers that output a text: also measure what heads attend to, such as the previous token", free=True
    )
    measure: Measure = setting(Measure(), "your own measurement of the trained model, a class in a file", free=True)
    stride: int | None = setting(
        None,
        "language models: stride of the sliding window for perplexity, in tokens; none: windows do not overlap",
        at_least=1,
        free=True,
    )


EXTRA_TOKENS = 50  # default limit of an output: its source's length and this many tokens (Vaswani et al. 2017, 6.1)
NEW_TOKENS = 200  # default limit of a continuation


@dataclasses.dataclass(frozen=True)
class Search:
    """How text is generated."""

    beam_size: int = setting(4, "number of hypotheses that are kept; 1: greedy search", at_least=1, free=True)
    length_penalty: float = setting(0.6, "alpha of ((5 + n) / 6)^alpha (Wu et al. 2016)", at_least=0, free=True)
    penalty_form: Literal["gnmt", "power"] = setting("gnmt", "((5 + n) / 6)^alpha, or n^alpha", free=True)
    stopping: Literal["likely", "filled", "bound"] = setting(
        "likely",
        "a sentence ends when beam_size hypotheses are finished and, likely: no live beam has a better score now; filled: at "
        "once; bound: no live beam can reach a better score at any length",
        free=True,
    )
    force_end: bool = setting(
        False,
        "an output that reaches its limit has the end as its last token (Transformers' forced_eos_token_id); false: any token",
        free=True,
    )
    max_extra: int | None = setting(
        None,
        f"limit of output tokens beyond the source's number; none: {EXTRA_TOKENS}, or the longest target of the data if longer",
        at_least=1,
        free=True,
    )
    max_length: int | None = setting(
        None,
        "limit of tokens of an output with its start token or, generate, of prompt and continuation; none: no such limit",
        at_least=2,
        free=True,
    )
    n_best: int = setting(1, "number of hypotheses that are written for a sentence", at_least=1, free=True)
    batch_size: int = setting(
        64, "number of sentences that are decoded at once; on a CPU up to twice as many", at_least=1, free=True
    )
    temperature: float = setting(
        1.0, "generate: logits are divided by it; 0: always the most probable token", at_least=0, free=True
    )
    top_k: int | None = setting(None, "generate: sample from the k most probable tokens only", at_least=1, free=True)
    top_p: float | None = setting(
        None,
        "generate: sample from the smallest set of tokens with this total probability (Holtzman et al. 2020)",
        above=0,
        at_most=1,
        free=True,
    )
    repetition_penalty: float = setting(1.0, "generate: logits of earlier tokens are divided by it (CTRL)", above=0, free=True)
    max_new_tokens: int | None = setting(
        None, f"generate: limit of new tokens; none: as many as max_length allows, or {NEW_TOKENS}", at_least=1, free=True
    )
    start_token: bool = setting(
        True, "generate: put the start token before the prompt, as in training; false: only before an empty prompt", free=True
    )
    stop: str | None = setting(None, "generate: a text at which a sample ends", free=True)
    source_code: str | None = setting(
        None,
        "translate: entry that a source begins with, as eng_Latn of NLLB, or, of mBART-cc25, ends with; none: as the model was "
        "imported",
        free=True,
    )
    target_code: str | None = setting(
        None,
        "translate: entry that an output begins with, as fra_Latn of NLLB, or, of mBART-cc25, that the decoder starts from; "
        "none: as the model was imported",
        free=True,
    )

    def output_limit(self, source: int, longest: int = 0) -> int:
        """The limit of output tokens, end included, for a source of `source` tokens. `longest`: `DataInfo.longest_output`; the
        default limit is not below it."""
        limit = max(source + EXTRA_TOKENS, longest) if self.max_extra is None else source + self.max_extra
        return limit if self.max_length is None else min(limit, self.max_length - 1)

    def continuation_limit(self, prompt: int) -> int:
        """The limit of new tokens, end included, after a prompt of `prompt` tokens; 0 or less: there is no room."""
        limits = [] if self.max_length is None else [self.max_length - prompt]
        limits += [] if self.max_new_tokens is None else [self.max_new_tokens]
        return min(limits, default=NEW_TOKENS)


@dataclasses.dataclass(frozen=True)
class Embed:
    """How a text becomes a vector: `predict` with an encoder that has no head (objective.kind embed), `TrainedModel.embed`."""

    pooling: Literal["mean", "first"] = setting(
        "mean", "the mean of the states of all tokens, special ones included, or the first token's state", free=True
    )
    normalize: bool = setting(False, "vectors are scaled to length 1", free=True)
    format: Literal["json", "tsv"] = setting("json", "lines of predict: a JSON list, or numbers separated by tabs", free=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are saved, and which are kept."""

    every_steps: int = setting(1000, "number of updates between two checkpoints", at_least=1, free=True)
    keep_last: int = setting(
        3, "number of latest checkpoints that are kept: those of every_steps, and the last one", at_least=1, free=True
    )
    keep_best: int = setting(
        1,
        "number of best checkpoints that are kept as well; every validation that is among the best is saved",
        at_least=0,
        free=True,
    )
    best_metric: Literal["validation/loss", "validation/nll", "validation/token_accuracy"] = setting(
        "validation/loss",
        "metric of the best checkpoints and of train.patience: the training loss, the same without label smoothing, or the "
        "percentage of tokens that are predicted correctly",
    )

    @property
    def best_sign(self) -> int:
        """1 where a lower `best_metric` is better, -1 where a higher one is."""
        return -1 if self.best_metric == "validation/token_accuracy" else 1


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How the work is divided over devices."""

    mode: Literal["auto", "jit", "pmap", "mesh"] = setting(
        "auto",
        "jit: one device; pmap: a copy of the parameters on each device; mesh: sharded parameters; auto: mesh if fsdp or "
        "tensor is above 1 or there are several processes, else pmap if there are several devices",
        free=True,
    )
    fsdp: int = setting(1, "mesh: number of devices over which parameters and rows are sharded", at_least=1, free=True)
    tensor: int = setting(
        1, "mesh: number of devices over which heads, hidden units and the vocabulary are sharded", at_least=1, free=True
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment. Where and how it runs is given by command-line flags."""

    family: Literal["encoder_decoder", "recurrent", "encoder_only", "decoder_only"] = setting(
        "encoder_decoder", "encoder_decoder, decoder_only (GPT), encoder_only (BERT), or recurrent"
    )
    model: Model = Model()
    objective: Objective = Objective()
    data: Data = Data()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    search: Search = Search()
    embed: Embed = Embed()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequences of a batch: source, target or both."""
        if self.family == "decoder_only":
            return ("target",)
        return ("source",) if self.family == "encoder_only" or self.objective.kind == "classify" else ("source", "target")

    @property
    def uses_best(self) -> bool:
        """Whether the best checkpoint is used instead of the last ones."""
        return (self.evaluate.checkpoint or ("last" if self.train.patience is None else "best")) == "best"


@dataclasses.dataclass(frozen=True)
class TrainingText:
    """The size of a training split, to which an experiment file may fit its settings (`fit_to_data`)."""

    examples: int
    bytes: int  # of the targets in UTF-8, or of the texts where there are no targets


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """Information that depends on the data; models are made from (Model, DataInfo). Ids are those of both vocabularies.

    A table may have more rows than the vocabulary (`*_rows`); surplus logits are masked.
    """

    source_size: int
    target_size: int
    source_rows: int
    target_rows: int
    pad: int = 0
    start: int = 1  # first input of the decoder
    end: int = 2
    more_ends: tuple[int, ...] = ()  # other tokens that end a language model's output
    unknown: int = 3
    first: int | None = None  # first token of every output, after `start` (NLLB: the code of its language); none: any token
    begin: int | None = None  # first token of a source (BERT's [CLS], BART's <s>); none: sources have no such token
    code: int | None = (
        None  # last token of a source, after `end` (mBART-cc25: the code of its language); none: `end` is the last
    )
    mask: int | None = None  # replaces tokens in masked_lm and denoise
    longest_output: int = 0  # tokens of the longest target (with its end) or answer in any split; 0: unknown
    sentinels: int = 0  # number of sentinels, which replace spans (T5); sentinel k is target_size - 1 - k
    labels: tuple[str, ...] = ()  # names of the labels of classify and tag, by id
    model_type: str | None = None  # of the imported model of Transformers

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a text."""
        return (self.end, *self.more_ends)
