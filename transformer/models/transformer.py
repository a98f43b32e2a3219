"""The three Transformers. They hold no state: it is passed in and returned.

    encode(source) -> memory;  start(memory, max_length, rows) -> cache;  step(tokens, cache, memory) -> logits, cache

The memory of a decoder-only model is None. The heads of an encoder-only model are in heads.py.

Letters: B rows (sentences), S source tokens, T target tokens, D d_model, N entries of a table, C outputs of a classifier.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.components.masks import Tokens
from transformer.config import DataInfo, Model
from transformer.models import cache as caches
from transformer.models.attention import MemoryProjection
from transformer.models.cache import Cache
from transformer.models.heads import Classifier, MaskedLM, Pooler
from transformer.models.layers import Embedding, kernel_initializer
from transformer.models.stack import Logits, Memory, Stack, recompute_prefix, start_cache, unstack_for_decoding

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads on the final states: a masked language model, a pooler, a classifier of `outputs` scores (0: no classifier).

    The classifier reads each token (`per_token`) or the pooled sentence. With `pooler` and `per_token`, the pooler's layers are
    applied to each token.
    """

    masked_lm: bool = False
    pooler: bool = False
    outputs: int = 0
    per_token: bool = False


class EncoderDecoder(nn.Module):
    """The Transformer (Vaswani et al. 2017, figure 1).

    With a classifier it gives scores for each source. The decoder then reads the source as well, shifted by one token, and the
    scores are computed from its state at the last token (Lewis et al. 2020, 3.1).
    """

    config: Model
    data_info: DataInfo
    heads: Heads = Heads()
    logits_modules: ClassVar[tuple[str, ...]] = ("target_embedding", "logits")  # whose parameters `logits` reads

    def setup(self) -> None:
        config, data_info = self.config, self.data_info
        self.target_embedding = Embedding(data_info.target_rows, config, name="target_embedding")
        if config.ties_inputs:
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = Embedding(data_info.source_rows, config, name="source_embedding")
        self.encoder = Stack(config, "encoder", cross=False, name="encoder")
        self.memory_projection = MemoryProjection(config, kernel_initializer(config), name="memory")
        self.decoder = Stack(config, "decoder", cross=True, name="decoder")
        self.logits_layer = Logits(config, data_info.target_rows, data_info.target_size, name="logits")
        if self.heads.outputs:
            self.pooler = Pooler(config, last=True, name="pooler")
            self.classifier = Classifier(config, self.heads.outputs, name="classifier")

    def __call__(self, batch: Mapping[str, Array], deterministic: bool = True) -> Any:
        """Logits BxTxN of a batch: `source` BxS and `inputs` BxT, and optionally positions and segments of each.

        With a classifier, it reads only the source and returns a dictionary of `states` BxSxD and `scores` BxC.
        """
        states = self.states(batch, deterministic)
        if not self.heads.outputs:
            return self.logits(states)
        return {"states": states, "scores": self.scores(states, deterministic, batch.get("source_segments"))}

    def states(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """The decoder's last states BxTxD; `logits` makes logits of them."""
        memory = self.encode(batch["source"], batch.get("source_positions"), batch.get("source_segments"), deterministic)
        if self.heads.outputs:
            start = jnp.full_like(batch["source"][:, :1], self.data_info.start)
            inputs, of_source = jnp.concatenate([start, batch["source"][:, :-1]], axis=1), "source_"
        else:
            inputs, of_source = batch["inputs"], ""
        tokens = Tokens(_positions(batch.get(f"{of_source}positions"), inputs), batch.get(f"{of_source}segments"))
        return self.decoder(self.target_embedding(inputs), tokens, memory=memory, deterministic=deterministic)[0]

    def logits(self, states_BxTxD: Array, factors: bool = False) -> Any:
        """States to logits BxTxN, or to their `Factors`."""
        return self.logits_layer(states_BxTxD, self.target_embedding if self.config.ties_output else None, factors)

    def scores(self, states_BxTxD: Array, deterministic: bool = True, segments_BxT: Array | None = None) -> Array:
        """The classifier's scores of sources: BxC."""
        return self.classifier(self.pooler(states_BxTxD, segments_BxT, deterministic), deterministic)

    def encode(
        self,
        source_BxS: Array,
        positions: Array | None = None,
        segments_BxS: Array | None = None,
        deterministic: bool = True,
    ) -> Memory:
        """The source as the decoder's layers see it. Positions default to 0..S-1; segments are 0 for padding."""
        tokens = Tokens(_positions(positions, source_BxS), segments_BxS)
        states, _ = self.encoder(self.source_embedding(source_BxS), tokens, deterministic=deterministic)
        return Memory(self.memory_projection(states, tokens), tokens)

    def unstack_layers(self, params: Any, memory: Memory) -> tuple[Any, Memory]:
        """Parameters and memory for a loop of `step`: see `stack.unstack_for_decoding`."""
        return unstack_for_decoding(self.config, params, memory)  # type: ignore[return-value]

    def start(self, memory: Memory, max_length: int, rows: int) -> Cache:
        """An empty cache of `max_length` tokens for `rows`, a multiple of B: row b x beams + k belongs to sentence b."""
        return start_cache(self.config, rows, max_length)

    def step(self, tokens_BxT: Array, cache: Cache, memory: Memory, valid_BxT: Array | None = None) -> tuple[Array, Cache]:
        """Logits BxTxN after each of T >= 1 tokens, which follow those in the cache; with a shared cache (see cache.py), after
        one token of each of T beams. `valid_BxT` is False for padding."""
        valid = jnp.ones(tokens_BxT.shape, bool) if valid_BxT is None else valid_BxT
        return _step(self, tokens_BxT, cache, memory, valid)


class DecoderOnly(nn.Module):
    """A causal language model (Radford et al. 2018); with a prefix that all tokens see, a prefix LM (Raffel et al. 2020,
    3.2.1).
    """

    config: Model
    data_info: DataInfo
    logits_modules: ClassVar[tuple[str, ...]] = ("target_embedding", "logits")

    def setup(self) -> None:
        config, data_info = self.config, self.data_info
        self.target_embedding = Embedding(data_info.target_rows, config, name="target_embedding")
        self.decoder = Stack(config, "decoder", cross=False, name="decoder")
        self.logits_layer = Logits(config, data_info.target_rows, data_info.target_size, name="logits")

    def __call__(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """Logits BxTxN of a batch: `inputs` BxT, and optionally `positions`, `segments`, and `prefix`, which is not 0 in a
        prefix.
        """
        return self.logits(self.states(batch, deterministic))

    def states(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """The last states BxTxD; `logits` makes logits of them."""
        inputs, prefix = batch["inputs"], batch.get("prefix")
        positions, marked = _positions(batch.get("positions"), inputs), None if prefix is None else prefix > 0
        tokens = Tokens(positions, batch.get("segments"), marked)
        return self.decoder(self.target_embedding(inputs), tokens, deterministic=deterministic)[0]

    def logits(self, states_BxTxD: Array, factors: bool = False) -> Any:
        """States to logits BxTxN, or to their `Factors`."""
        return self.logits_layer(states_BxTxD, self.target_embedding if self.config.ties_output else None, factors)

    def unstack_layers(self, params: Any, memory: None) -> tuple[Any, None]:
        """See `EncoderDecoder.unstack_layers`."""
        return unstack_for_decoding(self.config, params, memory)  # type: ignore[return-value]

    def start(self, memory: None, max_length: int, rows: int) -> Cache:
        """An empty cache of `max_length` tokens for `rows`."""
        return start_cache(self.config, rows, max_length)

    def step(
        self, tokens_BxT: Array, cache: Cache, memory: None = None, valid_BxT: Array | None = None, whole: bool = False
    ) -> tuple[Array, Cache]:
        """See `EncoderDecoder.step`. `whole`: the tokens are a prefix, in which every token sees every token."""
        valid = jnp.ones(tokens_BxT.shape, bool) if valid_BxT is None else valid_BxT
        return _step(self, tokens_BxT, cache, memory, valid, whole)


class EncoderOnly(nn.Module):
    """BERT (Devlin et al. 2019): an encoder, which all heads share, and the heads."""

    config: Model
    data_info: DataInfo
    heads: Heads
    logits_modules: ClassVar[tuple[str, ...]] = ("source_embedding", "masked_lm")

    def setup(self) -> None:
        config, data_info, heads = self.config, self.data_info, self.heads
        self.source_embedding = Embedding(data_info.source_rows, config, name="source_embedding")
        if config.token_types:
            self.type_embedding = Embedding(config.token_types, config, name="type_embedding")
        self.encoder = Stack(config, "encoder", cross=False, name="encoder")
        if heads.masked_lm:
            self.masked_lm = MaskedLM(config, data_info.source_rows, data_info.source_size, name="masked_lm")
        if heads.pooler:
            self.pooler = Pooler(config, per_token=heads.per_token, name="pooler")
        if heads.outputs:
            self.classifier = Classifier(config, heads.outputs, name="classifier")

    def __call__(self, batch: Mapping[str, Array], deterministic: bool = True) -> Any:
        """The states and the outputs of the heads, by name: `states`, `logits` of the masked language model, `pooled`,
        `scores`.
        """
        states = self.states(batch, deterministic)
        result = {"states": states}
        if self.heads.masked_lm:
            result["logits"] = self.logits(states)
        if self.heads.outputs:
            result["scores"] = self.scores(states, deterministic, batch.get("source_segments"))
        elif self.heads.pooler:
            result["pooled"] = self.pooler(states)
        return result

    def states(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """The last states BxSxD of `source` BxS, and optionally `token_types`, `source_positions`, `source_segments`."""
        source = batch["source"]
        tokens = Tokens(_positions(batch.get("source_positions"), source), batch.get("source_segments"))
        x_BxSxD = self.source_embedding(source)
        if self.config.token_types:
            types = batch.get("token_types") if self.config.token_types > 1 else None  # with one type, all tokens have it
            x_BxSxD = x_BxSxD + self.type_embedding(jnp.zeros_like(source) if types is None else types)
        return self.encoder(x_BxSxD, tokens, deterministic=deterministic)[0]

    def logits(self, states_BxSxD: Array, factors: bool = False) -> Any:
        """The logits of the masked language model, BxSxN, or their `Factors`."""
        return self.masked_lm(states_BxSxD, self.source_embedding if self.config.ties_output else None, factors)

    def scores(self, states_BxSxD: Array, deterministic: bool = True, segments_BxS: Array | None = None) -> Array:
        """The classifier's scores: BxC of sentences, BxSxC of tokens."""
        read = self.pooler(states_BxSxD, segments_BxS, deterministic) if self.heads.pooler else states_BxSxD
        return self.classifier(read, deterministic)


def _step(
    model: Any, tokens_BxT: Array, cache: Cache, memory: Memory | None, valid_BxT: Array, prefix: bool = False
) -> tuple[Array, Cache]:
    """`step` of a model with a decoder, target embeddings and logits."""
    if not model.config.remembers_keys:
        states, cache = recompute_prefix(model.decoder, model.target_embedding, tokens_BxT, cache, memory, valid_BxT)
        return model.logits(states), caches.finish(cache, valid_BxT)
    cache, step = caches.advance(cache, valid_BxT, prefix)
    embedded = model.target_embedding(tokens_BxT)
    states, new_cache = model.decoder(embedded, step.query, memory=memory, cache=cache, step=step)
    assert new_cache is not None
    return model.logits(states), caches.finish(new_cache, valid_BxT)


def _positions(positions: Array | None, tokens_BxT: Array) -> Array:
    return jnp.arange(tokens_BxT.shape[1]) if positions is None else positions
