"""Every setting, once: typed, frozen dataclasses.

An experiment file returns a `Config`. What only the data knows is in `DataInfo`, resolved once and stored in the workdir.
How settings are named, overridden, written and read is `settings.py`; what must hold between them, `validation.py`.
"""

import dataclasses
from typing import Literal

from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.masks import All, Mask, Prefix, Role, Sizes, Stack, Window
from transformer.components.norms import LayerNorm, Norm
from transformer.components.positions import Positions, Sinusoidal
from transformer.components.rotary import Rotary as Rotary  # registers itself
from transformer.settings import Variations, override, setting

HeadPlace = Literal["all", "encoder/self", "decoder/self", "decoder/cross"]
SoftmaxMetric = Literal["logit_variance", "attention_entropy", "jacobian_norm"]
LayerMetric = Literal[SoftmaxMetric, "query_gradient", "gradient_norm"]
InitMetric = Literal[LayerMetric, "gradient_distance", "sequential_products", "operations", "gradient_seconds"]


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """What the recurrent family has beside the network's sizes (`num_*_layers`, `d_model`, `dropout_rate`)."""

    cell: Literal["gru", "lstm"] = setting("gru", "recurrent cell (Cho et al. 2014; Hochreiter and Schmidhuber 1997)")
    attention: Literal["none", "bahdanau", "luong_dot", "luong_general", "luong_concat"] = setting(
        "bahdanau", "attention; none: one fixed vector"
    )
    context: Literal["initial", "every_step"] = setting(
        "initial", "without attention the vector is the decoder's first state (Sutskever) or read at every step too (Cho)"
    )
    bidirectional: bool = setting(True, "the encoder reads both ways")
    reverse_source: bool = setting(False, "the source is read from its end (Sutskever et al. 2014, 3.3)")
    input_feeding: bool = setting(
        True, "luong_*: the last attentional state is read with the next token (Luong et al. 2015, 3.3)"
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
        None, "heads of keys and values, shared by groups of attention heads; none: num_heads; 1: multi-query", at_least=1
    )
    window: int | None = setting(
        None,
        "sliding window of self-attention: a decoder's token sees the last so many tokens, itself included, an encoder's those "
        "at most half as far away; none: no window",
        at_least=1,
    )
    layer_pattern: tuple[str, ...] = setting(
        (), "names of layer types, repeated over the layers; none named: all layers are alike"
    )
    layer_types: Variations = setting(
        Variations(),
        "what differs in a layer type: layer_types.NAME.SETTING=VALUE, such as layer_types.local.window=512; in the types "
        "encoder and decoder, what differs in all layers of that stack",
    )

    attention: Attention = setting(Attention(), "how attention computes")
    positions: Positions = setting(Sinusoidal(), "position encoding")
    mask: Mask = setting(Prefix(), "which tokens a decoder's token sees")
    feed_forward: FeedForward = setting(FeedForward(), "the feed-forward layers")
    norm: Norm = setting(LayerNorm(), "norms, but those of queries and keys")
    norm_order: Literal["post", "pre", "sandwich", "output"] = setting(
        "post",
        "post: norm(x + f(x)) (paper); pre: x + f(norm(x)); sandwich: x + norm(f(norm(x))) (Gemma 2); output: x + norm(f(x)) "
        "(OLMo 2)",
    )
    residual: Literal["sequential", "parallel"] = setting(
        "sequential", "sub-layers read one another's output, or all of them the layer's input (GPT-NeoX; not with post-norm)"
    )
    final_norm: bool | None = setting(None, "a norm on top of each stack; none: unless norm_order is post")
    embedding_norm: bool = setting(False, "a norm on the embedded inputs (BERT, BART)")

    dropout_rate: float = setting(0.1, "dropout on sub-layer outputs and embedded inputs (paper, 5.4)", at_least=0, below=1)
    head_dropout_rate: float = setting(0.1, "dropout before a classifier of sentences, tokens, spans", at_least=0, below=1)
    dropout_generator: Literal["hash", "threefry"] = setting("hash", "random bits of dropout: a fast hash, or JAX's Threefry")

    tying: Literal["three_way", "two_way", "inputs", "none"] = setting(
        "three_way", "embeddings shared: source, target and output; target and output; source and target; none"
    )
    embedding_scale: Literal["sqrt(d_model)", "none"] = setting("sqrt(d_model)", "factor on embeddings (paper, 3.4)")
    logits_scale: Literal["none", "1/sqrt(d_model)"] = setting("none", "factor on states before the logits (T5 1.0: tied)")
    logits_cap: float | None = setting(
        None, "soft cap on the logits of the vocabulary: cap * tanh(logits / cap) (Gemma 2); none: no cap", above=0
    )
    logits_bias: bool = setting(False, "a bias per vocabulary entry on the logits (BART, Marian)")
    token_types: int = setting(0, "rows of a table of token types, added to embeddings (BERT: 2); 0: none", at_least=0)
    initializer: Literal["xavier_uniform", "fan_in", "normal"] = setting("xavier_uniform", "of the kernels")
    init_stddev: float = setting(0.02, "standard deviation of the `normal` initializer", above=0)
    embedding_init: Literal["1/sqrt(d_model)", "normal", "unit"] = setting(
        "1/sqrt(d_model)", "standard deviation of embeddings"
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

    attention_backend: Literal["auto", "plain", "chunked", "library"] = setting("auto", "how attention is computed", free=True)
    attention_chunk: int = setting(512, "queries in a block of the chunked backend", at_least=1, free=True)
    unroll: int = setting(1, "layers unrolled in one pass of the scan over layers", at_least=1, free=True)
    remat: Literal["none", "full", "dots"] = setting("none", "what the backward pass computes again", free=True)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "type of computation; parameters are float32")
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer_types", Variations(self.layer_types))

    def of_stack(self, stack: str) -> "Model":
        """The settings of a stack: those of the layer type named as the stack prevail over the model's."""
        return override(self, dict(dict(self.layer_types).get(stack, ())), load=False)

    def layers_of_period(self, stack: str) -> tuple["Model", ...]:
        """The settings of each layer of the pattern in a stack; one, of all its layers, if there is no pattern."""
        whole = dataclasses.replace(self.of_stack(stack), layer_pattern=(), layer_types=Variations())
        return tuple(override(whole, self.layer_types.get(name), load=False) for name in self.layer_pattern) or (whole,)

    @property
    def remembers_keys(self) -> bool:
        """Whether a decoder's keys stay as they are when tokens follow, so that they can be cached."""
        return all(each.mask.during(False).causal for each in self.layers_of_period("decoder"))

    def sizes(self, stack: Stack, role: Role = "self") -> Sizes:
        """The sizes of a layer's attention, as components are told them."""
        kv_heads = self.num_kv_heads or self.num_heads
        return Sizes(self.d_model, self.num_heads, kv_heads, self.key_width, self.value_width, self.d_ff, stack, role)

    def self_mask(self, stack: Stack, training: bool = False) -> Mask:
        """Which tokens of its segment a token sees in the self-attention of a stack."""
        mask = All() if stack == "encoder" else self.mask.during(training)
        if self.window is None:
            return mask
        return mask & Window(self.window // 2 + 1 if stack == "encoder" else self.window)

    @property
    def ring(self) -> int | None:
        """Slots that a decoder's self-attention needs of a cache; None: all of them."""
        before, _ = self.self_mask("decoder").span(prefix=False)
        return None if before is None else before + 1

    def depth(self, stack: str) -> int:
        """Layers of the stack `encoder` or `decoder`."""
        return {"encoder": self.num_encoder_layers, "decoder": self.num_decoder_layers}[stack]

    @property
    def has_final_norm(self) -> bool:
        return self.norm_order != "post" if self.final_norm is None else self.final_norm


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read and how it becomes batches."""

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
    source_language: str = setting("en", "language read")
    target_language: str = setting("de", "language written")
    directory: str | None = setting(
        None,
        "folder of the data; none: here (files), the workdir (synthetic tasks), TFDS's data_dir (tfds)",
        free=True,
        path=True,
    )
    train: str | None = setting(
        "train", "prefix of <prefix>.<language>, file, or split, to train on; a slice as in input.txt[:90%]", path=True
    )
    validation: str | None = setting("validation", "the same, to choose on", path=True)
    test: str | None = setting("test", "the same, to score at the end", path=True)
    tfds_name: str | None = setting(None, "name of a TFDS catalogue data set, with its config")
    mixture: tuple[str, ...] = setting(
        (), "text: folders NAME:RATE of data.directory, one a task; a source is read with its name before it", path=True
    )
    join: int = setting(1, "text: lines joined to one example, 1, 2, .. so many in turn, for longer ones", at_least=1)
    prefix: str = setting("", "text put before every source (T5's name of the task)")
    document: Literal["file", "paragraph", "line"] = setting("paragraph", "documents: what one is; blank lines part paragraphs")
    cross_documents: bool = setting(False, "language models: attention crosses documents that share a row")

    number_range: tuple[int, int] = setting((0, 1_000_000), "number_words: numbers from (included) to (excluded)")
    number_train_range: tuple[int, int] | None = setting(None, "number_words: range of the training numbers; none: the whole")
    number_test_range: tuple[int, int] | None = setting(None, "number_words: range of validation and test; none: the whole")
    number_train_size: int = setting(40_000, "number_words: training pairs", at_least=1)
    number_train_by_digits: float = setting(
        0.125,
        "number_words: share of the training numbers drawn evenly over the counts of digits; the others: over the range",
        at_least=0,
        at_most=1,
    )
    number_small_copies: int = setting(
        1, "number_words: copies of each training number below 100, which a draw holds few of", at_least=1
    )
    number_test_by_digits: float = setting(
        0.0,
        "number_words: the same of validation and test, but at most a quarter of the numbers of each count of digits",
        at_least=0,
        at_most=1,
    )
    number_test_size: int = setting(2_000, "number_words: validation pairs, and as many test pairs", at_least=1)
    synthetic_train_size: int = setting(20_000, "the other synthetic tasks: training examples", at_least=1)
    synthetic_test_size: int = setting(2_000, "the other synthetic tasks: validation examples, and as many to test", at_least=1)

    algorithm: Literal["copy", "reverse", "sort", "list", "recall", "addition"] = setting(
        "copy", "algorithms: which; list: items translated one by one; recall: the value of a key"
    )
    algorithm_alphabet: int = setting(26, "algorithms: letters that items and keys are drawn from", at_least=2, at_most=52)
    algorithm_train_lengths: tuple[int, int] = setting(
        (5, 20), "algorithms: items (recall: pairs; addition: digits) in training and validation, from and to (both included)"
    )
    algorithm_test_lengths: tuple[int, int] | None = setting(None, "algorithms: the same, in test; none: as in training")

    vocabulary: Literal["bpe", "unigram", "bytes", "characters", "imported"] = setting("bpe", "kind of vocabulary")
    vocabulary_size: int = setting(8000, "entries at most, special ones included (bpe, unigram, characters)", at_least=8)
    joint_vocabulary: bool = setting(True, "one vocabulary for both sides")
    segmentations: int = setting(
        1, "bpe, unigram: copies of the training texts, all but the first cut into pieces at random", at_least=1
    )
    segmentation_rate: float = setting(
        0.1, "of these, bpe: the share of merges left out (BPE-dropout); unigram: how sharp (alpha)", above=0, below=1
    )
    lowercase: bool = setting(False, "lowercase all text before anything else")
    normalization: Literal["nmt_nfkc", "nfkc", "identity"] = setting("nmt_nfkc", "sentencepiece's Unicode normalisation")

    max_source_length: int = setting(256, "tokens of a source, end included", at_least=2)
    max_target_length: int = setting(256, "tokens of a target, end included", at_least=2)
    too_long: Literal["drop", "cut"] = setting("drop", "what happens to longer training pairs (counted)")
    batching: Literal["packed", "bucketed"] = setting("packed", "several pairs in a row, or one pair in a row of a few lengths")
    row_length: int | None = setting(None, "target slots of a packed row; none: the longest target, 64 at least")
    buckets: int = setting(6, "shapes of bucketed batches", at_least=1)
    workers: int = setting(0, "processes that read ahead (0: a thread of this one)", at_least=0, free=True)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a model is trained to do."""

    kind: Literal[
        "translate", "causal_lm", "prefix_lm", "masked_lm", "span_corruption", "denoise", "classify", "tag", "answer", "embed"
    ] = setting("translate", "what is learned: a row of OBJECTIVES in transformer/families.py")
    rate: float = setting(0.15, "masked_lm, span_corruption, denoise: share of tokens that is corrupted", above=0, below=1)
    span_length: float = setting(3.0, "span_corruption, denoise: mean length of a span", at_least=1)
    whole_words: bool = setting(False, "masked_lm: all pieces of a word are chosen together")
    next_sentence: bool = setting(False, "masked_lm: two segments, half of them unrelated, and a guess whether they are (BERT)")
    permute_sentences: bool = setting(False, "denoise: sentences in random order (BART)")
    delete_rate: float = setting(0.0, "denoise: share of tokens deleted", at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class Train:
    """The optimisation."""

    seed: int = setting(0, "of everything random: initialisation, order, dropout", at_least=0)
    steps: int = setting(100_000, "updates", at_least=1, free=True)
    batch_tokens: int = setting(
        25_000, "target slots of one update, over all devices and micro-batches, padding included", at_least=1
    )
    freeze: tuple[str, ...] = setting(
        (),
        "parameters that stay as they are: patterns of their paths, as encoder/* or *embedding*; with adapters all others do",
    )
    init_from: str | None = setting(None, "workdir whose parameters and vocabulary a new run starts from", path=True)
    branch_from: str | None = setting(
        None,
        "workdir whose run a new run continues after update branch_step, with optimizer, data and metrics: as if it had been "
        "trained with the new run's schedule from the start",
        path=True,
    )
    branch_step: int | None = setting(
        None, "branch_from: updates after which the new run branches; a checkpoint there", at_least=1
    )
    accumulate: int = setting(1, "micro-batches of one update", at_least=1)
    optimizer: Literal["adam", "adamw", "adafactor"] = setting("adam", "update rule")
    learning_rate: float | None = setting(
        None, "highest learning rate; none: the paper's d_model^-0.5 warmup_steps^-0.5", above=0
    )
    schedule: Literal["rsqrt", "cosine", "linear", "constant", "wsd"] = setting(
        "rsqrt", "what follows the linear warm-up; cosine, linear: 0 after train.steps; wsd: constant, then linear decay to 0"
    )
    warmup_steps: int = setting(4000, "updates of linear warm-up", at_least=0)
    decay_steps: int | None = setting(
        None, "wsd: updates of the decay, which ends with train.steps; none: a tenth of them", at_least=0, free=True
    )
    beta1: float = setting(0.9, "Adam's decay of the mean", at_least=0, below=1)
    beta2: float = setting(0.98, "Adam's decay of the square", above=0, below=1)
    epsilon: float = setting(1e-9, "Adam's epsilon", above=0)
    weight_decay: float = setting(0.0, "adamw: decay of kernels and embeddings, times the learning rate", at_least=0)
    clip_norm: float | None = setting(None, "greatest global norm of a gradient; none: no clipping", above=0)
    loss_chunk: int = setting(4096, "target slots of a device whose logits exist at once", at_least=1, free=True)
    label_smoothing: float = setting(0.1, "probability spread evenly over the vocabulary", at_least=0, below=1)
    ema_decay: float | None = setting(
        None, "decay of an exponential moving average of parameters; none: no average", above=0, below=1
    )
    max_skipped: int = setting(
        10,
        "updates in a row that may be skipped as loss or gradient is not finite; one more ends the run",
        at_least=0,
        free=True,
    )
    debug_nans: bool = setting(False, "each operation is checked for NaN, and the first is named; slow", free=True)
    max_minutes: float | None = setting(
        None, "minutes after which the run saves and stops, to be gone on with; none: no limit", above=0, free=True
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
        0.0, "early stopping: how much better a validation must be, to count as an improvement", at_least=0
    )
    init_metrics: tuple[InitMetric, ...] = setting(
        (),
        "measured before the first update, on its batch: init/NAME, by layer init/NAME@decoder/cross/1 or @decoder/1, "
        "by distance init/gradient_distance@8",
    )

    @property
    def decay_updates(self) -> int:
        """Updates of the decay of `wsd`."""
        return self.steps // 10 if self.decay_steps is None else self.decay_steps


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How a trained model is scored."""

    scores: tuple[str, ...] = setting(
        (), "scores of what is said, beside losses; none named: those of the objective", free=True
    )
    lengths: tuple[int, ...] = setting(
        (),
        "pairs: scores of sources with so many words too, from each number (included) to the next (excluded); none named: no",
        free=True,
    )
    places: tuple[int, ...] = setting(
        (),
        "pairs: the share of right words too, by their place in the target (the first is 1), in the same ranges",
        free=True,
    )
    true_lengths: bool = setting(False, "pairs: scores of outputs decoded to the length of their references too", free=True)
    bleu_tokenize: Literal["13a", "none", "intl", "char"] = setting("13a", "sacrebleu's tokenisation", free=True)
    average: int = setting(1, "how many of the last checkpoints are averaged", at_least=1, free=True)
    checkpoint: Literal["last", "best"] | None = setting(
        None,
        "what is used: the mean of the last `average`, or the best one (checkpoint.best_metric); none: the best with "
        "train.patience, else the last",
        free=True,
    )
    samples: int = setting(8, "outputs shown", at_least=0, free=True)
    heads_removed: float = setting(
        0.0, "share of the heads of attention that are taken out before a split is scored", at_least=0, at_most=1, free=True
    )
    head_order: Literal["gradient", "random"] = setting(
        "gradient", "which go first: by the gradients of their gates on validation, the least first; or any", free=True
    )
    head_place: HeadPlace = setting("all", "which are counted and taken out: those of one kind of attention, or all", free=True)
    head_statistics: bool = setting(
        False, "Transformers that say a text: tell what heads have come to do too, as weight on a token's neighbours", free=True
    )
    stride: int | None = setting(
        None,
        "language models: tokens that the window moves on for perplexity; none: windows do not overlap",
        at_least=1,
        free=True,
    )


EXTRA_TOKENS = 50  # of an output above its source's (Vaswani et al. 2017, 6.1), where no setting says how many
NEW_TOKENS = 200  # of a continuation, where no setting limits it


@dataclasses.dataclass(frozen=True)
class Search:
    """How text is generated."""

    beam_size: int = setting(4, "hypotheses kept; 1: greedy", at_least=1, free=True)
    length_penalty: float = setting(0.6, "alpha of ((5 + n) / 6)^alpha (Wu et al. 2016)", at_least=0, free=True)
    penalty_form: Literal["gnmt", "power"] = setting("gnmt", "((5 + n) / 6)^alpha, or n^alpha", free=True)
    stopping: Literal["likely", "filled", "bound"] = setting(
        "likely",
        "a sentence is done when beam_size hypotheses are finished and no beam alive, as long as it is, is better than their "
        "worst; as soon as so many are finished; or when no beam can become better, however long",
        free=True,
    )
    max_extra: int | None = setting(
        None,
        f"output tokens at most, above the source's; none: {EXTRA_TOKENS}, or up to the longest target of the data's splits",
        at_least=1,
        free=True,
    )
    max_length: int | None = setting(
        None,
        "tokens at most: of an output and its start, or, generate, of a prompt and what follows; none: no such limit",
        at_least=2,
        free=True,
    )
    n_best: int = setting(1, "hypotheses written for a sentence", at_least=1, free=True)
    batch_size: int = setting(64, "sentences decoded together", at_least=1, free=True)
    temperature: float = setting(1.0, "generate: logits are divided by it; 0: the likeliest token", at_least=0, free=True)
    top_k: int | None = setting(None, "generate: of the k likeliest tokens alone", at_least=1, free=True)
    top_p: float | None = setting(
        None,
        "generate: of the least set of tokens with this probability alone (Holtzman et al. 2020)",
        above=0,
        at_most=1,
        free=True,
    )
    repetition_penalty: float = setting(
        1.0, "generate: logits of tokens said before are divided by it (CTRL)", above=0, free=True
    )
    max_new_tokens: int | None = setting(
        None, f"generate: new tokens at most; none: as many as max_length allows, or {NEW_TOKENS}", at_least=1, free=True
    )
    start_token: bool = setting(
        True, "generate: the start token stands before a prompt, as in training; false: before an empty one alone", free=True
    )
    stop: str | None = setting(None, "generate: text that ends a sample", free=True)

    def output_limit(self, source: int, longest: int = 0) -> int:
        """Output tokens at most, the end included, for a source of `source` tokens. `longest`: of the longest target of the
        run's own data (`DataInfo.longest_output`), which no limit cuts that is not set."""
        limit = max(source + EXTRA_TOKENS, longest) if self.max_extra is None else source + self.max_extra
        return limit if self.max_length is None else min(limit, self.max_length - 1)

    def continuation_limit(self, prompt: int) -> int:
        """New tokens at most, the end included, after a prompt of `prompt` tokens; 0 or less: there is no room for one."""
        limits = [] if self.max_length is None else [self.max_length - prompt]
        limits += [] if self.max_new_tokens is None else [self.max_new_tokens]
        return min(limits, default=NEW_TOKENS)


@dataclasses.dataclass(frozen=True)
class Embed:
    """How a text becomes a vector: `predict` with an encoder that has no head (objective.kind embed), `Predictor.embed`."""

    pooling: Literal["mean", "first"] = setting(
        "mean", "the mean of the states of all tokens, special ones included, or the first token's state", free=True
    )
    normalize: bool = setting(False, "vectors are scaled to length 1", free=True)
    format: Literal["json", "tsv"] = setting("json", "lines of predict: a JSON list, or numbers separated by tabs", free=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When and what is saved."""

    every_steps: int = setting(1000, "updates between two checkpoints", at_least=1, free=True)
    keep_last: int = setting(3, "latest checkpoints kept: those of every_steps, and the very last", at_least=1, free=True)
    keep_best: int = setting(
        1, "best checkpoints kept beside them, of all validations: each that is among the best is saved", at_least=0, free=True
    )
    best_metric: Literal["validation/loss", "validation/nll", "validation/token_accuracy"] = setting(
        "validation/loss",
        "what the best checkpoints are chosen by, and what train.patience watches: the loss that is trained on, the same "
        "without label smoothing, or the percentage of tokens that are predicted correctly",
    )

    @property
    def best_sign(self) -> int:
        """1 where a lower `best_metric` is better, -1 where a higher one is."""
        return -1 if self.best_metric == "validation/token_accuracy" else 1


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How devices share the work."""

    mode: Literal["auto", "jit", "pmap", "mesh"] = setting(
        "auto",
        "jit: one device; pmap: a copy of the parameters on each; mesh: parameters cut over devices; auto: a mesh with fsdp or "
        "tensor above 1 or several processes, else pmap with several devices",
        free=True,
    )
    fsdp: int = setting(1, "of a mesh: devices that share the parameters of one copy, and rows", at_least=1, free=True)
    tensor: int = setting(1, "of a mesh: devices that share heads, hidden units and the vocabulary", at_least=1, free=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment: what is run. Where and how it is run is said by flags."""

    family: Literal["encoder_decoder", "recurrent", "encoder_only", "decoder_only"] = setting(
        "encoder_decoder", "model: a row of FAMILIES in transformer/families.py"
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
        """The sequences of a batch's row: the source that is read, the target that is said, or both."""
        if self.family == "decoder_only":
            return ("target",)
        return ("source",) if self.family == "encoder_only" or self.objective.kind == "classify" else ("source", "target")

    @property
    def uses_best(self) -> bool:
        """Whether the best checkpoint is used, and not the last ones."""
        return (self.evaluate.checkpoint or ("last" if self.train.patience is None else "best")) == "best"


@dataclasses.dataclass(frozen=True)
class TrainingText:
    """The size of a training split, which an experiment file may fit its settings to (`fit_to_data`)."""

    examples: int
    bytes: int  # of UTF-8, of targets or, where there are none, of texts


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What only the data knows; models are built from (Model, DataInfo). Ids hold for both vocabularies.

    A table may have more rows than the vocabulary (`*_rows`); surplus logits are masked.
    """

    source_size: int
    target_size: int
    source_rows: int
    target_rows: int
    pad: int = 0
    start: int = 1  # what the decoder is fed first
    end: int = 2
    more_ends: tuple[int, ...] = ()  # other tokens that end what a language model writes
    unknown: int = 3
    begin: int | None = None  # what a source begins with (BERT's [CLS], BART's <s>); none: with its text
    mask: int | None = None  # stands for what masked_lm and denoise hide
    longest_output: int = 0  # tokens of the longest target (end included) or answer of the data's splits; 0: not known
    sentinels: int = 0  # that stand for spans (T5): number k is target_size - 1 - k
    labels: tuple[str, ...] = ()  # of classify and tag, by id
    model_type: str | None = None  # of the model of Transformers that was imported

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a text."""
        return (self.end, *self.more_ends)
