"""Recurrent encoder-decoders, the predecessors of the Transformer, with one fixed vector or with attention.

With one vector: Cho et al. 2014, Sutskever et al. 2014. With attention: Bahdanau et al. 2015, Luong et al. 2015.
`config.recurrent` selects among them. The interface is that of `EncoderDecoder` (transformer.py), so training, search and
sampling work unchanged. Each row has one sequence, which starts at the first slot; positions are ignored.

At padding, a state does not change. A backward pass therefore effectively starts at the sentence's last token. "Reversed" means
that the sentence is read from its end, while each token's state stays at the token's position.

Letters: B sentences, R rows (a sentence's beams one after the other), K beams, S source tokens, T target tokens,
D d_model, W width of a cell, G widths of all its gates, N entries of the target table.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer.components.attention import masked_softmax
from transformer.config import DataInfo, Model
from transformer.errors import UserError
from transformer.models.cache import put
from transformer.models.dropout import Dropout
from transformer.models.layers import REMAT, Embedding, kernel_initializer
from transformer.models.stack import Logits, fit

Array = jax.Array
State = tuple[Array, ...]  # state of a cell, RxW each; other modules read the first
Cache = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of attention. `keys`: annotations are projected. `additive`: the score is v tanh(query + key), else query key.

    `before`: the query is the state before the token is read (Bahdanau), else the state after it (Luong).
    """

    keys: bool
    additive: bool
    before: bool


ATTENTIONS: dict[str, Form | None] = {
    "none": None,
    "bahdanau": Form(keys=True, additive=True, before=True),  # v tanh(W s_{i-1} + U h_j) (A.1.2)
    "luong_dot": Form(keys=False, additive=False, before=False),  # h_t h_s (equation 8, like the next two)
    "luong_general": Form(keys=True, additive=False, before=False),  # h_t W h_s
    "luong_concat": Form(keys=True, additive=True, before=False),  # v tanh(W [h_t; h_s]); W is stored as two halves
}


@struct.dataclass
class Memory:
    """The source as the decoder sees it: the initial states of its layers, and a fixed vector that is read at every step, or
    keys and values for attention. `valid` is False for padding."""

    initial: tuple[State, ...]
    vector_BxD: Array | None = None
    keys_BxSxD: Array | None = None
    values_BxSxD: Array | None = None
    valid_BxS: Array | None = None

    def select(self, numbers_b: Array) -> "Memory":
        """The memory of the sources with these indices."""
        return jax.tree.map(lambda leaf: leaf[numbers_b], self)

    def put(self, rows_R: Array, new: "Memory") -> "Memory":
        """Replaces the sources with these indices by the R sources of `new`, which must not be longer. An index past the last
        source is ignored."""
        new = new if self.valid_BxS is None else new.resize(self.valid_BxS.shape[1])
        return jax.tree.map(lambda old, leaf: put(old, rows_R, leaf), self, new)

    def resize(self, length: int) -> "Memory":
        """The memory with space for `length` tokens in each source."""
        names = ("keys_BxSxD", "values_BxSxD", "valid_BxS")
        of_tokens = {name: fit(leaf, length, 1) for name in names if (leaf := getattr(self, name)) is not None}
        return self.replace(**of_tokens)  # type: ignore[attr-defined]

    def hide(self, hidden_BxS: Array) -> "Memory":
        """The memory in which attention does not see the tokens where `hidden_BxS` is true."""
        return self if self.valid_BxS is None else self.replace(valid_BxS=self.valid_BxS & ~hidden_BxS)  # type: ignore[attr-defined]


# --- cells -----------------------------------------------------------------------------------------------------------


def by_gate(initializer: Callable[..., Array], gates: int) -> Callable[..., Array]:
    """An initializer of a kernel of several gates side by side, which draws each gate separately."""

    def init(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([initializer(k, (shape[0], shape[1] // gates), dtype) for k in keys], axis=1)

    return init


def dense(config: Model, width: int, name: str, bias: bool = True) -> nn.Dense:
    """x W + b."""
    dtype = jnp.dtype(config.dtype)
    return nn.Dense(width, use_bias=bias, kernel_init=kernel_initializer(config), dtype=dtype, name=name)


def recurrent(config: Model, width: int, gates: int, name: str) -> nn.Dense:
    """h U of several gates. The initial U of each is orthogonal, whatever `config.initializer` is (Cho et al., Bahdanau et
    al.).
    """
    init, dtype = by_gate(nn.initializers.orthogonal(), gates), jnp.dtype(config.dtype)
    return nn.Dense(gates * width, use_bias=False, kernel_init=init, dtype=dtype, name=name)


class Gru(nn.Module):
    """z, r = sigmoid(W x + U h); h' = z h + (1 - z) tanh(W x + U (r h)) (Cho et al. 2014, equations 5 to 8)."""

    config: Model
    width: int
    biases: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)  # initial biases of z, r and the candidate
    states: ClassVar[int] = 1

    @nn.compact
    def __call__(self, state: State, inputs_RxG: Array) -> State:
        """The next state; `inputs`: W x + b."""
        (h,) = state
        gates, candidate = jnp.split(inputs_RxG, [2 * self.width], axis=-1)
        gates = nn.sigmoid(gates + recurrent(self.config, self.width, 2, "gates")(h))
        z, r = jnp.split(gates, 2, axis=-1)
        candidate = jnp.tanh(candidate + recurrent(self.config, self.width, 1, "candidate")(r * h))
        return (z * h + (1 - z) * candidate,)


class Lstm(nn.Module):
    """i, f, o = sigmoid(W x + U h); c' = f c + i tanh(W x + U h); h' = o tanh(c') (Hochreiter and Schmidhuber 1997; f:
    Gers et al. 2000)."""

    config: Model
    width: int
    biases: ClassVar[tuple[float, ...]] = (0.0, 1.0, 0.0, 0.0)  # initial biases of i, f, o, g: the cell forgets little at first
    states: ClassVar[int] = 2

    @nn.compact
    def __call__(self, state: State, inputs_RxG: Array) -> State:
        """The next state; `inputs`: W x + b."""
        h, c = state
        gates = inputs_RxG + recurrent(self.config, self.width, 4, "gates")(h)
        i, f, o = jnp.split(nn.sigmoid(gates[:, : 3 * self.width]), 3, axis=-1)
        c = f * c + i * jnp.tanh(gates[:, 3 * self.width :])
        return o * jnp.tanh(c), c


CELLS: dict[str, type[Gru] | type[Lstm]] = {"gru": Gru, "lstm": Lstm}


def gate_inputs(config: Model, width: int, name: str, use_bias: bool = True) -> nn.Dense:
    """W x + b of all gates of a cell. For a whole sequence it is computed in one product outside of the loop over time."""
    biases = CELLS[config.recurrent.cell].biases
    gates, dtype = len(biases), jnp.dtype(config.dtype)

    def bias(key: Array, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
        return jnp.repeat(jnp.asarray(biases, dtype), shape[0] // gates)

    kernel = by_gate(kernel_initializer(config), gates)
    return nn.Dense(gates * width, use_bias=use_bias, kernel_init=kernel, bias_init=bias, dtype=dtype, name=name)


def keep_at_padding(valid_R: Array, new: Any, old: Any) -> Any:
    """`new` for tokens, `old` for padding."""
    return jax.tree.map(lambda a, b: jnp.where(valid_R[:, None], a, b), new, old)


def over_time(config: Model, step: type[nn.Module], arguments: Any, length: int, reverse: bool = False) -> Callable[..., Any]:
    """Scans the module `step`, (carry, inputs of one step, ..) -> (carry, output), over sequences whose time axis is 1.

    `arguments`: for each argument after the carry, 1 or nn.broadcast. Sown attention weights 1xRx1xS become 1xRx1xTxS.
    """
    if config.remat != "none":
        step = nn.remat(step, policy=REMAT[config.remat], prevent_cse=False)
    return nn.scan(
        step,
        variable_broadcast="params",
        variable_axes={"intermediates": 3},
        split_rngs={"params": False, "dropout": True},
        in_axes=arguments,
        out_axes=1,
        reverse=reverse,
        unroll=min(config.unroll, length),
    )


# --- encoder ---------------------------------------------------------------------------------------------------------


class EncoderStep(nn.Module):
    """One token of each sentence."""

    config: Model
    width: int

    @nn.compact
    def __call__(self, state: State, token: tuple[Array, Array]) -> tuple[State, Array]:
        """`token`: gates' inputs BxG, valid B."""
        inputs_BxG, valid_B = token
        cell = CELLS[self.config.recurrent.cell](self.config, self.width, name="cell")
        state = keep_at_padding(valid_B, cell(state, inputs_BxG), state)
        return state, state[0]


class EncoderLayer(nn.Module):
    """A cell along each sentence, from its beginning or (`reverse`) from its end."""

    config: Model
    width: int
    reverse: bool

    @nn.compact
    def __call__(self, x_BxSxD: Array, valid_BxS: Array) -> tuple[Array, State]:
        """States BxSxW, each after its token is read, and the last one."""
        config, width = self.config, self.width
        inputs = gate_inputs(config, width, "inputs")(x_BxSxD)
        first = (jnp.zeros((len(x_BxSxD), width), inputs.dtype),) * CELLS[config.recurrent.cell].states
        steps = over_time(config, EncoderStep, (1,), x_BxSxD.shape[1], self.reverse)
        last, states_BxSxW = steps(config, width, name="steps")(first, (inputs, valid_BxS))
        return states_BxSxW, last


class Encoder(nn.Module):
    """Layers. If bidirectional, each layer reads in both directions with D/2 units each, and concatenates their states.

    Bahdanau et al. give each direction as many units as the decoder has. Here annotations always have the width of the
    decoder's states, which Luong's dot score needs. With both directions, `reverse_source` only swaps them.
    """

    config: Model

    @nn.compact
    def __call__(self, x_BxSxD: Array, valid_BxS: Array, deterministic: bool) -> tuple[Array, list[State]]:
        """Annotations BxSxD, and each layer's last state."""
        config = self.config
        reverse, both = config.recurrent.reverse_source, config.recurrent.bidirectional
        if both and config.d_model % 2:
            raise UserError(
                f"config.model.d_model is {config.d_model}: a bidirectional encoder uses half in each direction, so it must be "
                "even; or set config.model.recurrent.bidirectional=false"
            )
        ways = {"forward": reverse, "backward": not reverse} if both else {"forward": reverse}
        last = []
        for number in range(config.num_encoder_layers):
            x_BxSxD = dropped(config, deterministic, f"dropout_{number}")(x_BxSxD)
            layers = [
                EncoderLayer(config, config.d_model // len(ways), way, name=f"{name}_{number}")(x_BxSxD, valid_BxS)
                for name, way in ways.items()
            ]
            x_BxSxD = jnp.concatenate([states for states, _ in layers], axis=-1)
            last.append(tuple(jnp.concatenate(parts, axis=-1) for parts in zip(*(state for _, state in layers), strict=True)))
        return x_BxSxD, last


def dropped(config: Model, deterministic: bool, name: str) -> Dropout:
    """Dropout between layers, not between time steps (Zaremba et al. 2014)."""
    return Dropout(config.dropout_rate, config.dropout_generator, deterministic, name=name)


class MemoryProjection(nn.Module):
    """Computes once for each source: the decoder's initial states, and the keys of attention or a fixed vector.

    Initial states are tanh(W h + b) of the encoder's last states (Cho et al., appendix A; Bahdanau et al., A.2.2, where h is
    the state of the backward direction; here h has both directions). An LSTM's c has no tanh, because it is not bounded. Layers
    are matched from the last one down. Sutskever et al. and Luong et al. copy the states of each layer; a projection allows
    encoder and decoder to have different depths.

    A vector that is read at every step is tanh(V h + b) of the last layer, and initial states are computed from it (Cho et
    al.).
    """

    config: Model

    @nn.compact
    def __call__(self, annotations_BxSxD: Array, last: list[State], valid_BxS: Array) -> Memory:
        config, kind = self.config, ATTENTIONS[self.config.recurrent.attention]
        vector, initial = None, []
        if kind is None and config.recurrent.context == "every_step":
            vector = jnp.tanh(dense(config, config.d_model, "vector")(last[-1][0]))
            last = [(vector,) * len(last[-1])]
        for number in range(config.num_decoder_layers):
            state = last[max(number + len(last) - config.num_decoder_layers, 0)]
            h, *cell = [dense(config, config.d_model, f"initial_{number}_{n}")(leaf) for n, leaf in enumerate(state)]
            initial.append((jnp.tanh(h), *cell))
        if kind is None:
            return Memory(tuple(initial), vector)
        keys = dense(config, config.d_model, "key", bias=False)(annotations_BxSxD) if kind.keys else annotations_BxSxD
        return Memory(tuple(initial), None, keys, annotations_BxSxD, valid_BxS)


# --- decoder ---------------------------------------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """softmax(score(query, key)) value; the scores are listed in ATTENTIONS."""

    config: Model

    @nn.compact
    def __call__(self, query_RxD: Array, memory: Memory) -> Array:
        """The context RxD. All beams of a sentence share its memory."""
        config, kind, key_BxSxD = self.config, ATTENTIONS[self.config.recurrent.attention], memory.keys_BxSxD
        assert kind is not None and key_BxSxD is not None and memory.valid_BxS is not None
        if kind.additive:
            query_RxD = dense(config, config.d_model, "query", bias=False)(query_RxD)
        query_BxKxD = query_RxD.reshape(len(key_BxSxD), -1, config.d_model)
        if kind.additive:
            hidden_BxKxSxD = jnp.tanh(query_BxKxD[:, :, None] + key_BxSxD[:, None])
            scores_BxKxS = dense(config, 1, "score", bias=False)(hidden_BxKxSxD)[..., 0]
        else:
            scores_BxKxS = jnp.einsum("bkd,bsd->bks", query_BxKxD, key_BxSxD, preferred_element_type=jnp.float32)
        weights_BxKxS = masked_softmax(scores_BxKxS, memory.valid_BxS[:, None])
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            self.sow("intermediates", "weights", weights_BxKxS.reshape(1, len(query_RxD), 1, -1))
        context_BxKxD = jnp.einsum("bks,bsd->bkd", weights_BxKxS.astype(query_RxD.dtype), memory.values_BxSxD)
        return context_BxKxD.reshape(query_RxD.shape)


class DecoderStep(nn.Module):
    """One token of each row: attention if it precedes the cells, then the cells, then attention if it follows them."""

    config: Model
    deterministic: bool

    @nn.compact
    def __call__(self, cache: Cache, token: tuple[Array, Array], memory: Memory) -> tuple[Cache, tuple[Array, Array | None]]:
        """`token`: the inputs RxG of the first layer's gates, and valid R. The output is the attentional state, or the last
        state and the context that the first layer read."""
        config, kind = self.config, ATTENTIONS[self.config.recurrent.attention]
        width, cell = config.d_model, CELLS[config.recurrent.cell]
        inputs, valid_R = token
        attention = CrossAttention(config, name="cross_attention") if kind else None
        context, new = None, dict(cache)
        if attention and kind and kind.before:
            context = attention(cache["layers"][-1][0], memory)
        read = cache.get("output", context)
        if read is not None:
            inputs = inputs + gate_inputs(config, width, "read", use_bias=False)(read)
        states: list[State] = []
        for number, state in enumerate(cache["layers"]):
            if number:
                below = dropped(config, self.deterministic, f"dropout_{number}")(states[-1][0])
                inputs = gate_inputs(config, width, f"inputs_{number}")(below)
            states.append(cell(config, width, name=f"cell_{number}")(state, inputs))
        output, new["layers"] = states[-1][0], tuple(states)
        if attention and kind and not kind.before:
            # The attentional state (Luong et al. 2015, equation 5).
            both = jnp.concatenate([attention(output, memory), output], axis=-1)
            output = jnp.tanh(dense(config, width, "attentional", bias=False)(both))
            if "output" in cache:
                new["output"] = output
        return keep_at_padding(valid_R, new, cache), (output, context)


class Decoder(nn.Module):
    """Cells along the target, starting from the memory's initial states or from a cache, and the output after each token.

    With Luong's attention, the output is the attentional state. If the decoder reads a context at every step (Bahdanau's or the
    fixed vector), it is a maxout layer of state, token and context (Cho et al., appendix A; Bahdanau et al., A.2.2). The state
    is the new one, as in Cho et al. Else the output is the last layer's state. The first layer reads the context, and the last
    layer's state is the query (the papers have one layer).
    """

    config: Model

    @nn.compact
    def __call__(
        self, x_RxTxD: Array, valid_RxT: Array, cache: Cache, memory: Memory, deterministic: bool
    ) -> tuple[Array, Cache]:
        """States RxTxD, and the cache after them."""
        config = self.config
        x_RxTxD = dropped(config, deterministic, "embedding_dropout")(x_RxTxD)
        inputs_RxTxG = gate_inputs(config, config.d_model, "inputs")(x_RxTxD)
        vector = memory.vector_BxD
        if vector is not None:
            vector = jnp.repeat(vector, len(x_RxTxD) // len(vector), axis=0)[:, None]
            inputs_RxTxG = inputs_RxTxG + gate_inputs(config, config.d_model, "read", use_bias=False)(vector)
        steps = over_time(config, DecoderStep, (1, nn.broadcast), x_RxTxD.shape[1])
        cache, (states, context) = steps(config, deterministic, name="layers")(cache, (inputs_RxTxG, valid_RxT), memory)
        if context is None and vector is not None:
            context = jnp.broadcast_to(vector, x_RxTxD.shape)
        if context is not None:
            together = jnp.concatenate([states, x_RxTxD, context], axis=-1)
            pairs = dense(config, 2 * config.d_model, "readout")(together).reshape(*x_RxTxD.shape, 2)
            states = jnp.max(pairs, axis=-1)
        return dropped(config, deterministic, "dropout")(states), cache


class RecurrentEncoderDecoder(nn.Module):
    """The model of Cho, Sutskever, Bahdanau or Luong, or a mixture of them, as `config.recurrent` describes."""

    config: Model
    data_info: DataInfo
    logits_modules: ClassVar[tuple[str, ...]] = ("target_embedding", "logits")  # whose parameters `logits` reads

    def setup(self) -> None:
        config, data_info = self.config, self.data_info
        self.target_embedding = Embedding(data_info.target_rows, config, name="target_embedding")
        if config.ties_inputs:
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = Embedding(data_info.source_rows, config, name="source_embedding")
        self.encoder = Encoder(config, name="encoder")
        self.memory_projection = MemoryProjection(config, name="memory")
        self.decoder = Decoder(config, name="decoder")
        self.logits_layer = Logits(config, data_info.target_rows, data_info.target_size, name="logits")

    def __call__(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """Logits BxTxN of a batch: `source` BxS and `inputs` BxT, and optionally segments of each, 0 where there is padding."""
        return self.logits(self.states(batch, deterministic))

    def states(self, batch: Mapping[str, Array], deterministic: bool = True) -> Array:
        """The decoder's last states BxTxD; `logits` makes logits of them."""
        memory = self.encode(batch["source"], None, batch.get("source_segments"), deterministic)
        inputs = batch["inputs"]
        cache, x_BxTxD = self.start(memory, inputs.shape[1], len(inputs)), self.target_embedding(inputs)
        return self.decoder(x_BxTxD, token_mask(inputs, batch.get("segments")), cache, memory, deterministic)[0]

    def logits(self, states_BxTxD: Array, factors: bool = False) -> Any:
        """States to logits BxTxN, or to their `Factors`."""
        return self.logits_layer(states_BxTxD, self.target_embedding if self.config.ties_output else None, factors)

    def encode(
        self,
        source_BxS: Array,
        positions: Array | None = None,
        segments_BxS: Array | None = None,
        deterministic: bool = True,
    ) -> Memory:
        """The source as the decoder sees it. Segments: 0 where there is padding; positions are ignored."""
        valid_BxS = token_mask(source_BxS, segments_BxS)
        annotations_BxSxD, last = self.encoder(self.source_embedding(source_BxS), valid_BxS, deterministic)
        return self.memory_projection(annotations_BxSxD, last, valid_BxS)

    def unstack_layers(self, params: Any, memory: Memory) -> tuple[Any, Memory]:
        """Returns both unchanged: there are no stacked layers."""
        return params, memory

    def start(self, memory: Memory, max_length: int, rows: int) -> Cache:
        """The states of `rows` before the first token; row b x beams + k belongs to sentence b. `max_length` is not used."""
        beams = rows // len(memory.initial[0][0])
        cache: Cache = {"layers": jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), memory.initial)}
        if self.config.recurrent.attention.startswith("luong") and self.config.recurrent.input_feeding:
            cache["output"] = jnp.zeros_like(cache["layers"][-1][0])
        return cache

    def step(self, tokens_BxT: Array, cache: Cache, memory: Memory, valid_BxT: Array | None = None) -> tuple[Array, Cache]:
        """Logits BxTxN after each of T >= 1 tokens, which follow those in the cache. `valid_BxT` is False for padding."""
        x_BxTxD = self.target_embedding(tokens_BxT)
        states, cache = self.decoder(x_BxTxD, token_mask(tokens_BxT, valid_BxT), cache, memory, deterministic=True)
        return self.logits(states), cache


def token_mask(tokens: Array, segments: Array | None) -> Array:
    """False for padding, where segments are 0; True everywhere without segments."""
    return jnp.ones(tokens.shape, bool) if segments is None else segments != 0
