"""A trained model from Python: its outputs, and the values that it computes on the way.

Letters: N texts or classes, S source tokens, T target tokens, D d_model, L layers, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from transformer.config import Config
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.inference import predict
from transformer.inference.generate import Generator
from transformer.inference.label import Labeller
from transformer.inference.loading import Loaded, Map
from transformer.inference.translate import Output, Translator
from transformer.modes import pictures
from transformer.plots import AttentionPage
from transformer.probes import head_pruning, inside
from transformer.validation import STACKS

Params = Mapping[str, object]


class TrainedModel:
    """A model of a workdir: its outputs, and the values that it computes on the way.

    Its methods depend on its training task; other methods raise a `UserError` that names the available ones. After a call,
    `notices` lists what was cut.
    """

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self._predictor: Translator | Generator | Labeller = predict.make(loaded)

    @property
    def config(self) -> Config:
        return self._loaded.config

    @property
    def model(self) -> nn.Module:
        """The Flax module, for `model.apply({"params": params}, batch)`."""
        return self._loaded.model

    @property
    def params(self) -> Params:
        return self._loaded.params

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """By field of an example, such as "source" and "target"; each has `encode` and `decode`."""
        return self._loaded.vocabularies

    @property
    def notices(self) -> list[str]:
        """What the last call truncated or could not read."""
        return self._predictor.notices

    # --- outputs ---------------------------------------------------------------------------------------------------

    def translate(self, texts: Sequence[str]) -> list[Output]:
        """The best output for each text: `.text`, `.score` (a length-penalised log probability), `.ended`."""
        return [outputs[0] for outputs in self.n_best(texts)]

    def n_best(self, texts: Sequence[str]) -> list[list[Output]]:
        """For each text the `config.search.n_best` outputs, best first."""
        return list(self._translator("translate").translate(_texts(texts, "texts")))

    def generate(self, prompt: str, num_samples: int = 1, seed: int = 0) -> list[str]:
        """`num_samples` continuations of the prompt, sampled with the settings of `config.search`."""
        if not isinstance(self._predictor, Generator):
            raise self._cannot("generate")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise UserError(f"num_samples is {num_samples!r}: expected a whole number of at least 1")
        return self._predictor.generate(_text(prompt, "prompt"), num_samples, seed)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """A label, tags, an answer, or the text with its masks filled, for each text; tabs separate the fields of a text, such
        as a question and its context."""
        labeller = self._labeller("predict")
        lines = enumerate(_texts(texts, "texts"), 1)
        return labeller.predict([labeller.parse(line, number) for number, line in lines])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A vector for each text, float32 NxD, with the settings of `config.embed`."""
        return self._labeller("embed").embed(_texts(texts, "texts"))

    # --- inside the model -----------------------------------------------------------------------------------------------

    def batch(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The inputs of the model for these texts: tokens, and segments, which are 0 in padding; int32.

        `targets`: the decoder's text for each source, or a second segment of a text; a language model has none.
        """
        sources, targets = _pairs(sources, targets)
        if isinstance(self._predictor, Labeller):
            return self._predictor.batch(sources, targets)
        if isinstance(self._predictor, Generator):
            if targets is not None:
                raise UserError("targets: a language model reads one text; put both into one text, and leave targets out")
            return self._predictor.batch(sources)
        if targets is None:
            raise UserError("targets: this model reads a source and its target; pass one target for each source")
        return self._predictor.batch(sources, targets)

    def logits(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> list[np.ndarray]:
        """The logits of each text: for a decoder TxV, of the token that follows each; for an encoder those of its head."""
        sources, targets = _pairs(sources, targets)
        if isinstance(self._predictor, Translator) and targets is not None:
            return self._predictor.logits(sources, targets)
        if isinstance(self._predictor, Generator) and targets is None:
            return self._predictor.logits(sources)
        batch = self.batch(sources, targets)
        found: Any = self.model.apply({"params": self.params}, batch)
        found = found.get("scores", found.get("logits"))
        if found is None:
            raise self._cannot("logits")
        rows, there = np.asarray(found), batch["source_segments"] > 0
        return list(rows) if rows.ndim == 2 else [row[mask] for row, mask in zip(rows, there, strict=True)]

    def hidden_states(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, list[np.ndarray]]:
        """The residual stream after each layer, by stack ("encoder", "decoder"): for each text LxTxD."""
        batch = self.batch(sources, targets)
        if not len(sources):
            return {stack: [] for stack in STACKS[self.config.family]}
        found = inside.hidden_states(self.config, self.model, self.params, batch)
        result = {}
        for stack, states_LxBxTxD in found.items():
            there_BxT = batch["segments" if stack == "decoder" and "segments" in batch else "source_segments"] > 0
            result[stack] = [states_LxBxTxD[:, row, there] for row, there in enumerate(there_BxT)]
        return result

    def gradients(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> dict[str, list[np.ndarray]]:
        """Gradients of the log probability of the targets (without targets, of an encoder's predictions) with respect to token
        embeddings: for each text SxD for the "source" and TxD for the "inputs" of a decoder."""
        batch = self.batch(sources, targets)
        if not len(sources):
            return {name: [] for name in inside.SEGMENTS if name in batch}
        found = inside.input_gradients(self.config, self.model, self.params, batch)
        masks = {name: batch[inside.SEGMENTS[name]] > 0 for name in found}
        return {name: [each[mask] for each, mask in zip(x, masks[name], strict=True)] for name, x in found.items()}

    def attention(self, source: str, target: str | None = None) -> list[Map]:
        """Attention weights of every stack, LxHxTxS, with the tokens of both axes; without `target`, for the model's own
        output."""
        return self._predictor.attention(_text(source, "source"), None if target is None else _text(target, "target"))

    def attention_page(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> AttentionPage:
        """An interactive page of attention: a notebook shows it, `.save("attention.html")` writes it. Without targets, for the
        model's own outputs."""
        first, second = _pairs(sources, targets)
        if not first:
            raise UserError("sources is empty: expected at least one text")
        pairs = zip(first, second or [None] * len(first), strict=True)
        found = [pictures.attended(self._predictor, *pair) for pair in pairs]
        pictures.check_any(found, "attention_page")
        return pictures.page(found)

    def without_heads(self, heads: Sequence[str]) -> "TrainedModel":
        """The model without these heads, each named SITE/LAYER/HEAD, such as "decoder/cross/1/4"; without further training."""
        params = head_pruning.prune(self.config, self.params, _texts(heads, "heads"))
        return TrainedModel(dataclasses.replace(self._loaded, params=params))

    # --- checks ---------------------------------------------------------------------------------------------------------

    def _translator(self, method: str) -> Translator:
        if not isinstance(self._predictor, Translator):
            raise self._cannot(method)
        return self._predictor

    def _labeller(self, method: str) -> Labeller:
        if not isinstance(self._predictor, Labeller):
            raise self._cannot(method)
        return self._predictor

    def _cannot(self, method: str) -> UserError:
        able = {Translator: "translate and n_best", Generator: "generate", Labeller: "predict and embed"}
        config = self.config
        return UserError(
            f"{method}: config.family {config.family} with config.objective.kind {config.objective.kind} has none; use "
            f"{able[type(self._predictor)]}"
        )


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} is a {type(value).__name__}: expected one text")
    return value


def _texts(values: Sequence[str], name: str) -> list[str]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise UserError(f"{name} is {str(values)[:40]!r}: expected a list of texts, [..]")
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise UserError(f"{name} has a {type(wrong[0]).__name__} in it: expected only texts")
    return list(values)


def _pairs(sources: Sequence[str], targets: Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    first = _texts(sources, "sources")
    if targets is None:
        return first, None
    second = _texts(targets, "targets")
    if len(first) != len(second):
        raise UserError(f"sources has {len(first):,} texts and targets {len(second):,}: expected one target for each source")
    return first, second
