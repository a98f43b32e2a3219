"""Published shapes of BERT, GPT-2, T5 and BART, which `experiments/published/` names; `--mode=describe` counts them.

To train one of them, give your own text (`--config.data.directory`); to use published weights, see `--mode=import`. Shapes are
as published, recipes only in part: GPT-2's is nanoGPT's, because Radford et al. 2019 name the batch alone (its smaller initial
kernels of deep models are not here); T5's learning rate warms up instead of being constant at first, and its updates are those
of the baseline in Raffel et al. 2020, 3.1; BART's learning rate and warm-up are not in Lewis et al. 2020.
"""

from experiments.shapes import small
from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.norms import LayerNorm, RMSNorm
from transformer.components.positions import Learned, T5Buckets
from transformer.config import Config, Model, Objective, Train

GPT2 = Train(
    steps=600_000,
    batch_tokens=524_288,
    optimizer="adamw",
    learning_rate=6e-4,
    schedule="cosine",
    warmup_steps=2000,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    label_smoothing=0.0,
)


def bert(layers: int, d_model: int) -> Config:
    """Devlin et al. 2019, section 3: body, pooler, both pre-training heads; WordPiece of 30,522 entries with the mask's."""
    return Config(
        family="encoder_only",
        objective=Objective(kind="masked_lm", next_sentence=True),
        model=Model(
            num_encoder_layers=layers,
            d_model=d_model,
            d_ff=4 * d_model,
            num_heads=d_model // 64,
            attention=Attention(dropout_rate=0.1),
            positions=Learned(size=512),
            feed_forward=FeedForward(activation="gelu"),
            norm=LayerNorm(epsilon=1e-12),
            embedding_norm=True,
            logits_bias=True,
            embedding_scale="none",
            initializer="normal",
            embedding_init="normal",
            token_types=2,
        ),
        data=small.documents(
            vocabulary_size=30_522,
            max_source_length=512,
            batching="bucketed",
        ),
        train=Train(
            steps=1_000_000,
            batch_tokens=131_072,
            optimizer="adamw",
            learning_rate=1e-4,
            schedule="linear",
            warmup_steps=10_000,
            beta2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
            label_smoothing=0.0,
        ),
    )


def gpt2(layers: int, d_model: int, heads: int) -> Config:
    """Radford et al. 2019, table 2 (its counts are wrong, as its code's authors say: the smallest has 124 M)."""
    return Config(
        family="decoder_only",
        objective=Objective(kind="causal_lm"),
        model=Model(
            num_decoder_layers=layers,
            d_model=d_model,
            d_ff=4 * d_model,
            num_heads=heads,
            attention=Attention(dropout_rate=0.1),
            positions=Learned(size=1024),
            feed_forward=FeedForward(activation="gelu_tanh"),
            norm=LayerNorm(epsilon=1e-5),
            norm_order="pre",
            embedding_scale="none",
            initializer="normal",
            embedding_init="normal",
        ),
        data=small.documents(
            vocabulary_size=50_257,
            max_target_length=1024,
        ),
        train=GPT2,
    )


def t5(layers: int, d_model: int, d_ff: int, heads: int, d_k: int = 64) -> Config:
    """Raffel et al. 2020, section 3.1.1 and the sizes of 3.8; 32,128 rows for 32,000 entries and 100 sentinels."""
    return Config(
        objective=Objective(kind="span_corruption"),
        model=Model(
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            d_model=d_model,
            d_ff=d_ff,
            num_heads=heads,
            d_k=d_k,
            d_v=d_k,
            attention=Attention(scale="none", bias=False, query_init="initializer/sqrt(d_k)", dropout_rate=0.1),
            positions=T5Buckets(),
            feed_forward=FeedForward(bias=False, dropout_rate=0.1),
            norm=RMSNorm(),
            norm_order="pre",
            initializer="fan_in",
            embedding_scale="none",
            embedding_init="unit",
            logits_scale="1/sqrt(d_model)",
        ),
        data=small.documents(
            vocabulary="unigram",
            vocabulary_size=32_000,
            max_source_length=512,
            max_target_length=114,
        ),
        train=Train(
            steps=524_288,
            batch_tokens=14_592,
            optimizer="adafactor",
            learning_rate=0.01,
            warmup_steps=10_000,
            label_smoothing=0.0,
        ),
    )


def bart(layers: int, d_model: int, heads: int) -> Config:
    """Lewis et al. 2020, section 2; the vocabulary is GPT-2's."""
    return Config(
        objective=Objective(kind="denoise", rate=0.3, permute_sentences=True),
        model=Model(
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            d_model=d_model,
            d_ff=4 * d_model,
            num_heads=heads,
            attention=Attention(dropout_rate=0.1),
            positions=Learned(size=1026, offset=2),
            feed_forward=FeedForward(activation="gelu"),
            norm=LayerNorm(epsilon=1e-5),
            embedding_norm=True,
            logits_bias=True,
            embedding_scale="none",
            initializer="normal",
            embedding_init="normal",
        ),
        data=small.documents(
            vocabulary_size=50_264,
            max_source_length=1024,
            max_target_length=1024,
        ),
        train=Train(
            steps=500_000,
            batch_tokens=8000 * 1024,
            optimizer="adamw",
            learning_rate=4e-4,
            schedule="linear",
            warmup_steps=10_000,
            weight_decay=0.01,
            clip_norm=0.1,
            label_smoothing=0.0,
        ),
    )
