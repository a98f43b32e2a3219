"""Shared by small experiments: shapes that train in minutes on two cores, and their training settings.

Runs that start from another run (`config.train.init_from`) must have the same shape, so each shape is written once.
"""

from typing import Any

from transformer.components.attention import Attention
from transformer.components.feed_forward import FeedForward
from transformer.components.norms import RMSNorm
from transformer.components.positions import Learned, T5Buckets
from transformer.components.rotary import Rotary
from transformer.config import Data, Model, Train


def _rotary(layers: int, **settings: Any) -> Model:
    """Width 128, with rotary positions and pre-norm."""
    return Model(
        d_model=128,
        d_ff=512,
        num_heads=4,
        norm_order="pre",
        positions=Rotary(),
        embedding_scale="none",
        embedding_init="normal",
        unroll=layers,
        **settings,
    )


def bert(layers: int) -> Model:
    """An encoder-only model."""
    return _rotary(layers, num_encoder_layers=layers, feed_forward=FeedForward(activation="gelu"), token_types=2)


def gpt(layers: int, **settings: Any) -> Model:
    """A decoder-only model."""
    gelu = FeedForward(activation="gelu_tanh")
    return _rotary(layers, num_decoder_layers=layers, feed_forward=gelu, tying="two_way", **settings)


def t5() -> Model:
    """The architecture of T5 1.1 (gated, no biases, unscaled attention, relative buckets), with tied embeddings as in 1.0.

    It learns well only with T5's initialisers: small queries, which replace the missing scale, and embeddings of unit variance,
    because states are divided by sqrt(d_model).
    """
    return Model(
        num_encoder_layers=3,
        num_decoder_layers=3,
        d_model=128,
        d_ff=320,
        num_heads=4,
        attention=Attention(scale="none", bias=False, query_init="initializer/sqrt(d_k)"),
        positions=T5Buckets(),
        feed_forward=FeedForward(activation="geglu_tanh", bias=False),
        norm=RMSNorm(),
        norm_order="pre",
        initializer="fan_in",
        embedding_scale="none",
        embedding_init="unit",
        tying="three_way",
        logits_scale="1/sqrt(d_model)",
        unroll=3,
    )


def bart() -> Model:
    """The architecture of BART: learned positions, post-norm, a norm on the embeddings, all embeddings tied."""
    return Model(
        num_encoder_layers=3,
        num_decoder_layers=3,
        d_model=128,
        d_ff=320,
        num_heads=4,
        positions=Learned(),
        feed_forward=FeedForward(activation="gelu"),
        norm_order="post",
        embedding_norm=True,
        embedding_scale="none",
        tying="three_way",
        logits_bias=True,
        unroll=3,
    )


def documents(**settings: Any) -> Data:
    """Your own text: train.txt and validation.txt in `config.data.directory`."""
    return Data(source="documents", train="train.txt", validation="validation.txt", test=None, **settings)


def train(steps: int, batch_tokens: int = 4096) -> Train:
    """Settings for short targets, such as those of span corruption, which have few slots compared with their sources."""
    return Train(
        steps=steps,
        batch_tokens=batch_tokens,
        learning_rate=1e-3,
        schedule="linear",
        warmup_steps=100,
        label_smoothing=0.0,
        evaluate_every=250,
    )
