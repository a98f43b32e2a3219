"""Text from a causal language model: sampled continuations, which can be streamed, and the likelihood of a text.

The sampling algorithm is in sampling.py, the windows over long documents are in perplexity.py.
Letters: B samples, P slots of a prompt, T tokens.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.cuts import Cut, some
from transformer.data.objectives import CausalLM
from transformer.errors import UserError
from transformer.inference import perplexity, sampling
from transformer.inference.loading import Loaded, Map, Predictor, listed, most_positions, pad, round_length

Array = jax.Array

CHUNK = 16  # tokens drawn in one call before the text is updated


class Generator(Predictor):
    """The causal language model of a workdir."""

    def __init__(self, loaded: Loaded):
        super().__init__(loaded)
        self.vocabulary = loaded.vocabularies["text"]
        self._begin = jax.jit(self._begin_samples, static_argnames="length")
        self._extend = jax.jit(self._extend_samples, static_argnames="count")
        self._nll = jax.jit(self._token_nll)

    @property
    def window(self) -> int:
        """The number of tokens that the model sees at once: its number of positions, else the length of training."""
        return most_positions(self.config) or self.config.data.max_target_length

    def generate(self, prompt: str, num_samples: int = 1, seed: int = 0) -> list[str]:
        """`num_samples` continuations of the prompt, sampled with the settings of `config.search`."""
        texts = [""] * num_samples
        for number, piece in self.stream(prompt, num_samples, seed):
            texts[number] += piece
        return texts

    def stream(self, prompt: str, num_samples: int = 1, seed: int = 0) -> Iterator[tuple[int, str]]:
        """Yields (index of the sample, new text) while sampling. A sample does not depend on the other samples.

        When the window is full, its last half becomes the new prompt. UserError, immediately, if the prompt is longer than the
        model's positions or than `config.search.max_length`.
        """
        self._other_cuts = []
        given = self._ids(prompt, "the prompt")
        if len(given) > self.window:
            self._other_cuts = [self._unread("prompt", len(given), "last")]
        if (limit := self.config.search.continuation_limit(len(given))) < 1:
            raise UserError(
                f"the prompt has {len(given):,} tokens, and config.search.max_length is {self.config.search.max_length:,}, "
                "which includes the prompt; shorten the prompt or raise config.search.max_length"
            )
        return self._stream(given, limit, num_samples, seed)

    def _ids(self, text: str, what: str) -> list[int]:
        """The tokens of the text, preceded by the start token if `config.search.start_token` is set.

        UserError if there are more tokens than the model has positions.
        """
        ids = self._tokens(text)
        if (most := most_positions(self.config)) is not None and len(ids) > most:
            start = ", the start included," if self.config.search.start_token else ""
            raise UserError(
                f"{what} has {len(ids):,} tokens{start} and the model has {most:,} positions "
                "(config.model.positions.size); shorten it"
            )
        return ids

    def _tokens(self, text: str) -> list[int]:
        self._names.reset()
        [ids] = self._names.encode_batch([text.lower() if self.config.data.lowercase else text])
        return [self.data_info.start, *ids] if self.config.search.start_token or not ids else ids

    def _unread(self, what: str, length: int, which: str) -> Cut:
        setting = "model.positions.size" if most_positions(self.config) else "data.max_target_length"
        text = f"tokens of the {what} are not read: only the {which} {self.window:,} are used (config.{setting})"
        return Cut(length - self.window, length, text)

    def _stream(self, given: list[int], left: int, num_samples: int, seed: int) -> Iterator[tuple[int, str]]:
        ids = [list(given) for _ in range(num_samples)]
        writers = [_Writer(self.vocabulary, given, self.config.search.stop) for _ in range(num_samples)]
        going, key = np.ones(num_samples, bool), jax.random.key(seed)
        part, most = 0, left
        while going.any() and left > 0:
            read = [row[-self.window :] if part == 0 else row[-max(self.window // 2, 1) :] for row in ids]
            count = min(left, max(self.window - max(map(len, read)) + 1, 1))
            for tokens_BxN, alive in self._draw(read, going, count, jax.random.fold_in(key, part)):
                for number, row in enumerate(tokens_BxN):
                    ids[number].extend(row)
                    if row and (text := writers[number].write(ids[number][len(given) :], last=not alive[number])):
                        yield number, text
                    alive[number] &= not writers[number].stopped
                going = alive
            left, part = left - count, part + 1
        for number, writer in enumerate(writers):
            if text := writer.write(ids[number][len(given) :], last=True):
                yield number, text
        limit = f"the limit of {most:,} new tokens (config.search.max_new_tokens, .max_length)"
        window = f"the window of {self.window:,} tokens; its last half was used as a new prompt"
        self._other_cuts += some(
            Cut(int(going.sum()), num_samples, f"samples ended at {limit}"),
            Cut(sum(len(row) > self.window for row in ids), num_samples, f"samples are longer than {window}"),
        )

    def _draw(
        self, read: list[list[int]], going: np.ndarray, count: int, key: Array
    ) -> Iterator[tuple[list[list[int]], np.ndarray]]:
        """Yields up to `count` tokens of each sample in chunks, and a mask of unfinished samples, in which the caller may end
        some."""
        length = min(round_length(max(map(len, read))), max(self.window, max(map(len, read))))
        tokens_BxP, valid_BxP = pad(read, length, left=True)
        limit_B = np.where(going, count, 0).astype(np.int32)
        state, new_BxN = self._begin(self.params, tokens_BxP, valid_BxP > 0, limit_B, key, length=length + count)
        drawn = 1
        while True:
            lengths_B, active_B = np.asarray(state.lengths_B), np.asarray(state.active_B)
            first = drawn - new_BxN.shape[1]
            rows = [
                [int(i) for i in new[: max(have - first, 0)] if i not in self.data_info.ends]
                for new, have in zip(np.asarray(new_BxN), lengths_B, strict=True)
            ]
            # A sample that reached the limit of this part continues in the next one; a finished sample does not.
            ended_B = (lengths_B < np.minimum(drawn, limit_B)) | np.isin(np.asarray(state.last_B), self.data_info.ends)
            going = going & ~ended_B
            yield rows, going
            if not (active_B & going).any():
                return
            state = sampling.stop(state, jnp.asarray(~going))
            state, new_BxN = self._extend(self.params, state, count=CHUNK)
            drawn += CHUNK

    def _step(self, params: Any) -> sampling.Step:
        params, _ = self.model.unstack_layers(params, None)

        def step(tokens_BxT: Array, cache: Any, valid_BxT: Array | None = None) -> tuple[Array, Any]:
            return self.model.apply({"params": params}, tokens_BxT, cache, None, valid_BxT, method="step")  # type: ignore[return-value]

        return step

    def _begin_samples(
        self, params: Any, tokens_BxP: Array, valid_BxP: Array, limit_B: Array, key: Array, *, length: int
    ) -> tuple[sampling.State, Array]:
        asked = self.config.search
        cache = self.model.apply({"params": params}, None, length, tokens_BxP.shape[0], method="start")
        warp = sampling.Warp(asked.temperature, asked.top_k, asked.top_p, asked.repetition_penalty)
        return sampling.begin(self._step(params), cache, tokens_BxP, valid_BxP, limit_B, self.data_info.ends, key, warp)

    def _extend_samples(self, params: Any, state: sampling.State, *, count: int) -> tuple[sampling.State, Array]:
        return sampling.extend(self._step(params), state, count)

    # --- the likelihood of a text ---------------------------------------------------------------------------------------

    def logits(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text, the logits TxN after each of its tokens, and first after the start token
        (`config.search.start_token`).

        UserError as in `stream`.
        """
        batch = self.batch(texts)
        logits, lengths = np.asarray(self._forward(self.params, batch)), batch["segments"].sum(axis=1)
        return [each[:length] for each, length in zip(logits, lengths, strict=True)]

    def batch(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The model's inputs for these texts: tokens and segments, int32 BxT. UserError as in `stream`."""
        self._other_cuts = []
        rows = [self._ids(text, "a text") for text in listed(texts)]
        tokens, segments = pad(rows, max(map(len, rows), default=1))
        return {"inputs": tokens, "segments": segments}

    def perplexity(self, documents: Sequence[str]) -> dict[str, float]:
        """Nats and perplexity per token, including an end token after each document, and bits per character and per byte.

        Characters and bytes are those of the text that the tokens decode to, without what the vocabulary discards. The window
        has the length of a training row and moves by `config.evaluate.stride` tokens.
        """
        window = self.config.data.max_target_length
        stride, rows = self.config.evaluate.stride or window, self.config.search.batch_size
        objective = self.loaded.objective
        documents = list(listed(documents))
        encoded = self.vocabulary.encode_batch(documents)
        decoded = [self.vocabulary.decode(each) for each in encoded]
        changed = sum(a != b for a, b in zip(documents, decoded, strict=True))
        what = "documents differ from the text that their tokens decode to; bits are per character or byte of the decoded text"
        self._other_cuts = some(Cut(changed, len(documents), what))
        ids = [[*each, self.data_info.end] for each in encoded]
        if isinstance(objective, CausalLM) and objective.cross_documents:
            ids = [[token for each in ids for token in each]]
        score = partial(self._nll, self.params)
        sums = perplexity.sums(perplexity.token_nll(score, ids, self.data_info.start, window, stride, rows))
        characters, size = sum(map(len, decoded)), sum(len(d.encode("utf-8", "surrogateescape")) for d in decoded)
        return perplexity.measures(sums, characters, size)

    def _token_nll(self, params: Any, inputs_BxT: Array, targets_BxT: Array, weights_BxT: Array) -> Array:
        logits_BxTxN: Any = self.model.apply({"params": params}, {"inputs": inputs_BxT})
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_BxTxN), targets_BxT[..., None], axis=-1)[..., 0]

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """Attention weights for the text, which is cut to the number of tokens that the model sees at once."""
        ids = self._tokens(source + (target or ""))
        self._other_cuts = []
        if len(ids) > self.window:
            self._other_cuts = [self._unread("text", len(ids), "first")]
        ids = ids[: self.window]
        pieces = [
            "<s>" if i == self.data_info.start else piece for i, piece in zip(ids, self.vocabulary.pieces(ids), strict=True)
        ]
        weights_LxBxHxTxS = self.weights_of({"inputs": np.asarray([ids])})["decoder/self"]
        return [Map("decoder self attention", weights_LxBxHxTxS[:, 0], pieces, pieces)]


class _Writer:
    """Decodes a sample step by step: gives its new text, without incomplete characters, and up to the stop string."""

    def __init__(self, vocabulary: Any, given: list[int], stop: str | None):
        self.vocabulary, self.given, self.stop = vocabulary, given, stop
        self.before, self.written, self.stopped = vocabulary.decode(given), 0, False

    def write(self, ids: list[int], last: bool) -> str:
        """The text that can be written now. Unless `last`, the possible beginning of a stop string or character is
        held back.
        """
        if self.stopped:
            return ""
        text = self.vocabulary.decode([*self.given, *ids])[len(self.before) :]
        if self.stop and self.stop in text[max(self.written - len(self.stop), 0) :]:
            self.stopped, last = True, True
            text = text[: text.index(self.stop, max(self.written - len(self.stop), 0))]
        until = len(text)
        if not last:
            whole, stop = text.rstrip("\ufffd"), self.stop or ""
            until = len(whole) - next((n for n in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:n])), 0)
        new, self.written = text[self.written : until], max(self.written, until)
        return new
