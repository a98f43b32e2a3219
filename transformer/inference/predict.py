"""A trained model and text in, text out: tokens, batches by length, search, text again.

Reading a workdir is `load`; search itself is search.py. Letters: B sentences, S source tokens, T target tokens.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer import config as config_lib
from transformer import families
from transformer.config import Config, Facts
from transformer.data import prepare
from transformer.data.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.inference import search
from transformer.runtime import checkpoints as checkpoints_lib
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.workdir import open_existing

Array = jax.Array

# Source lengths that are compiled for; longer ones go by multiples of the last.
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256)
CHUNK = 32  # batches sorted by length together; memory is constant however many lines come


@dataclasses.dataclass(frozen=True)
class Output:
    """One hypothesis: its text and its length-penalised log probability."""

    text: str
    score: float


def load(path: str | Path, overrides: Mapping[str, str] | None = None) -> "Predictor":
    """What a workdir holds, ready to use: `load("runs/multi30k").translate(["ein hund ."])`.

    `overrides` of settings, as on the command line, may touch those alone that change no parameter. The checkpoints are
    those of `config.evaluate`: the last, the best, or the mean of the last few; the moving average if one was kept.
    """
    workdir = open_existing(Path(path))
    made = workdir.config()
    config = config_lib.validate(config_lib.override(made, overrides or {}))
    if changed := config_lib.differences(made, config):
        raise UserError(f"--config: {path} was trained with other settings, they cannot change now: {', '.join(changed)}")
    facts, family = workdir.facts(), families.FAMILIES[config.family]
    vocabularies = prepare.load_vocabularies(config.data, family.vocabularies, workdir.vocabulary)
    model, objective = family.model(config, facts), family.objective(config, facts)
    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint)
    settings, item = config.evaluate, "params" if config.train.ema_decay is None else "average"
    like = jax.eval_shape(lambda: families.init_params(model, objective, config.train.seed))
    steps = checkpoints.steps()[-settings.average :]
    if settings.checkpoint == "best":
        if (best := checkpoints.best()) is None and steps:
            raise UserError(
                f"config.evaluate.checkpoint best: no checkpoint of {path} has {config.checkpoint.best_metric}; "
                "set --config.evaluate.checkpoint=last"
            )
        steps = [] if best is None else [best]
    params = checkpoints_lib.average(checkpoints, steps, item, like)
    checkpoints.close()
    return Predictor(config, facts, model, params, vocabularies, steps)


class Predictor:
    """A model with its parameters and vocabularies, by field, ready to translate. `steps`: the checkpoints it is made of."""

    def __init__(
        self,
        config: Config,
        facts: Facts,
        model: nn.Module,
        params: Any,
        vocabularies: Mapping[str, Vocabulary],
        steps: Sequence[int] = (),
    ):
        self.config, self.facts, self.model, self.params = config, facts, model, params
        self.vocabularies, self.steps = vocabularies, tuple(steps)
        self.source_vocabulary, self.target_vocabulary = vocabularies["source"], vocabularies["target"]
        self._cut: list[int] = []  # numbers, from 1, of the texts that the last call cut
        self._search = jax.jit(self._search_batch, static_argnames="max_length")
        self._logits = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
        self._observe = jax.jit(lambda params, batch: model.apply({"params": params}, batch, mutable=["intermediates"])[1])

    def translate(self, texts: Iterable[str]) -> Iterator[list[Output]]:
        """For each text, in order, its `search.n_best` hypotheses, best first. A blank text gives blank ones."""
        texts, first = iter(texts), 1
        while chunk := list(itertools.islice(texts, self.config.search.batch_size * CHUNK)):
            yield from self._chunk(chunk, first)
            first += len(chunk)

    @property
    def notices(self) -> list[str]:
        """What the user should be told of the last call."""
        if not self._cut:
            return []
        count, limit = f"{len(self._cut):,} sentence{'s' * (len(self._cut) > 1)}", self.config.data.max_source_length
        return [f"{count} cut to {limit} tokens (config.data.max_source_length), the first of them number {self._cut[0]:,}"]

    def logits(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """For each pair the logits TxN after start, target token 1, ..., T - 1 target tokens."""
        if not sources:
            return []
        source, inputs = self._sources(sources), self._inputs(targets)
        source_tokens, source_segments = pad(source, max(map(len, source)))
        input_tokens, segments = pad(inputs, max(map(len, inputs)))
        batch = {"source": source_tokens, "source_segments": source_segments, "inputs": input_tokens, "segments": segments}
        logits = np.asarray(self._logits(self.params, batch))
        return [logits[row, : len(ids)] for row, ids in enumerate(inputs)]

    def attention(self, source: str, target: str) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
        """Weights by stack and kind, each LxHxTxS, and the pieces of source (end included) and target (start included)."""
        [source_ids], [input_ids] = self._sources([source]), self._inputs([target])
        batch = {"source": jnp.asarray([source_ids]), "inputs": jnp.asarray([input_ids])}
        weights = {}
        for stack, layers in self._observe(self.params, batch)["intermediates"].items():
            for kind, sown in layers["layers"].items():
                weights[f"{stack} {kind.replace('_', ' ')}"] = np.asarray(sown["weights"][0])[:, 0]
        columns = [*self.source_vocabulary.pieces(source_ids[:-1]), "</s>"]
        return weights, columns, ["<s>", *self.target_vocabulary.pieces(input_ids[1:])]

    def _clean(self, text: str) -> str:
        """As the training text was: stripped, and lowercased where that was asked."""
        return text.strip().lower() if self.config.data.lowercase else text.strip()

    def _sources(self, texts: Sequence[str], first: int = 1) -> list[list[int]]:
        """What the encoder reads of each text, the end included; `first`: the number of the first text."""
        limit = self.config.data.max_source_length
        if first == 1:
            self._cut = []
        ids = self.source_vocabulary.encode_batch([self._clean(text) for text in texts])
        self._cut += [number for number, tokens in enumerate(ids, first) if len(tokens) >= limit]
        return [[*tokens[: limit - 1], self.facts.end] for tokens in ids]

    def _inputs(self, texts: Sequence[str]) -> list[list[int]]:
        """What the decoder reads of each target, the start included. UserError: past the end of a positions table."""
        inputs = [[self.facts.start, *ids] for ids in self.target_vocabulary.encode_batch([self._clean(t) for t in texts])]
        longest, most = max(map(len, inputs)), self._most
        if most is not None and longest > most:
            raise UserError(
                f"a target has {longest} tokens, the start included, and config.model.max_positions is {most}; shorten it"
            )
        return inputs

    @property
    def _most(self) -> int | None:
        """Tokens that positions can be told of; none: any number."""
        return self.config.model.max_positions if self.config.model.positions == "learned" else None

    def _chunk(self, texts: list[str], first: int) -> Iterator[list[Output]]:
        sources, size = self._sources(texts, first), self.config.search.batch_size
        blank = Output("", 0.0)
        results = [[blank] * self.config.search.n_best for _ in texts]
        order = sorted((n for n in range(len(texts)) if len(sources[n]) > 1), key=lambda n: len(sources[n]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            for row, outputs in zip(rows, self._batch([sources[row] for row in rows]), strict=True):
                results[row] = outputs
        yield from results

    def _batch(self, sources: list[list[int]]) -> list[list[Output]]:
        size, extra = self.config.search.batch_size, self.config.search.max_extra
        # No longer than any source may be: a table of positions may end there.
        length = min(round_length(max(map(len, sources))), self.config.data.max_source_length)
        most = self._most or length + extra
        tokens, segments = pad(sources + [[]] * (size - len(sources)), length)
        limits = np.array([min(len(s) + extra, most) for s in sources] + [0] * (size - len(sources)), np.int32)
        found = jax.device_get(self._search(self.params, tokens, segments, limits, max_length=min(length + extra, most)))
        outputs = []
        for row in range(len(sources)):
            ids = [found.tokens_BxNxL[row, n, : found.lengths_BxN[row, n]] for n in range(found.lengths_BxN.shape[1])]
            kept = [[int(i) for i in best if i != self.facts.end] for best in ids]
            texts = [self.target_vocabulary.decode(best) for best in kept]
            outputs.append([Output(text, float(score)) for text, score in zip(texts, found.scores_BxN[row], strict=True)])
        return outputs

    def _search_batch(self, params: Any, source_BxS: Array, segments_BxS: Array, limit_B: Array, *, max_length: int) -> Any:
        settings, beams = self.config.search, self.config.search.beam_size
        apply = functools.partial(self.model.apply, {"params": params})
        memory = apply(source_BxS, None, segments_BxS, method="encode")
        cache = apply(memory, max_length, beams, method="start")
        starts = jnp.full(limit_B.shape, self.facts.start, jnp.int32)
        alpha = settings.length_penalty

        def step(tokens_BxT: Array, cache: Any) -> tuple[Array, Any]:
            return apply(tokens_BxT, cache, memory, method="step")

        if beams == 1:
            return search.greedy(step, cache, starts, limit_B, max_length, self.facts.end, alpha=alpha)
        return search.beam(step, cache, starts, limit_B, max_length, self.facts.end, beams, alpha, settings.n_best)


def round_length(length: int) -> int:
    """The compiled length that holds `length` tokens."""
    for known in LENGTHS:
        if length <= known:
            return known
    return -(-length // LENGTHS[-1]) * LENGTHS[-1]


def pad(rows: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments (1 where there is a token), int32 BxS."""
    tokens = np.zeros((len(rows), length), np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        segments[number, : len(row)] = 1
    return tokens, segments
