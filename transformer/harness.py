"""A workdir's language model in EleutherAI's lm_eval, which must be installed (the extra `eval`).

    python -m transformer.harness run --model workdir --model_args workdir=runs/NAME --tasks NAME --include_path FOLDER

All arguments after the module's name are lm_eval's own. `model_args` also takes settings: `search.top_k=20`.
Letters: B rows, T tokens, V vocabulary.
"""

import collections
import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import effects, settings
from transformer.cuts import Cut, merged, some
from transformer.errors import UserError, say
from transformer.inference import loading, perplexity, predict
from transformer.inference.generate import Generator
from transformer.inference.loading import Loaded, pad, round_length

NAME = "workdir"  # its name for --model
NEW_TOKENS = 256  # limit of a continuation if a task has none, as in lm_eval's other models
# Names that a task may give to that limit; the first that it gives counts, as in lm_eval.
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
WARPS = ("top_k", "top_p", "repetition_penalty")  # options of a task that are settings of `config.search`


class Scorer:
    """The requests of lm_eval, for a language model. UserError: it is another kind of model.

    `cuts`: counts of the contexts and prompts whose beginning was left out.
    """

    def __init__(self, loaded: Loaded, batch_size: int = 16) -> None:
        self._model, self._rows, self.cuts = predict.make(loaded), batch_size, list[Cut]()
        if not isinstance(self._model, Generator):
            kind = loaded.config.objective.kind
            raise UserError(f"config.objective.kind is {kind}: lm_eval needs a language model; choose a workdir of causal_lm")
        self._generator = functools.cache(self._with_search)
        self._score = jax.jit(self._scores)

    def _with_search(self, temperature: float, new_tokens: int, more: tuple[tuple[str, str], ...]) -> Generator:
        """The same model with these settings of its search; settings that then have no effect are left out."""
        asked = {"search.temperature": str(temperature), "search.max_new_tokens": str(new_tokens)} | dict(more)
        loaded = self._model.loaded
        config = effects.without_idle(settings.override(loaded.config, asked), kept=asked)
        return predict.make(dataclasses.replace(loaded, config=config))

    def _scores(self, params: Any, inputs_BxT: Any, targets_BxT: Any) -> tuple[jax.Array, jax.Array]:
        """The log probability of each target, and whether it is the most probable token, BxT."""
        logits_BxTxV: Any = self._model.model.apply({"params": params}, {"inputs": inputs_BxT})
        found_BxT = jnp.take_along_axis(jax.nn.log_softmax(logits_BxTxV), targets_BxT[..., None], axis=-1)[..., 0]
        return found_BxT, jnp.argmax(logits_BxTxV, axis=-1) == targets_BxT

    def tokens(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of context and continuation, split where the tokens of the context alone end. Blanks at the end of the context
        belong to the continuation, as in lm_eval."""
        blanks = len(context) - len(context.rstrip())
        if blanks:
            context, continuation = context[:-blanks], context[-blanks:] + continuation
        whole, first = self._encode(context + continuation), self._encode(context)
        return whole[: len(first)], whole[len(first) :]

    def _encode(self, text: str) -> list[int]:
        return self._model.vocabulary.encode(self._cased(text))

    def _cased(self, text: str) -> str:
        """The text as the model was trained to read it."""
        return text.lower() if self._model.config.data.lowercase else text

    def loglikelihood(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each context and continuation the log probability of the continuation, and whether greedy decoding gives it.

        Only the end of a text that is longer than the model's window is read. A start token is before it if
        `config.search.start_token` is set, or if the context is empty. UserError: a continuation alone is longer.
        """
        start, window, rows, cut = self._model.data_info.start, self._model.window, [], 0
        always = self._model.config.search.start_token
        for context, continuation in pairs:
            given, wanted = self.tokens(context, continuation)
            if len(wanted) > window:
                raise UserError(f"a continuation has {len(wanted):,} tokens, and the model sees {window:,}; use shorter ones")
            ids = [start, *given, *wanted] if always or not given else [*given, *wanted]
            cut += len(ids) - 1 > window
            rows.append((ids[:-1][-window:], ids[1:][-window:], len(wanted)))
        self.cuts.append(Cut(cut, len(rows), f"contexts do not fit the model's window of {window:,} tokens; their end is read"))
        result: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))  # rows of equal length have little padding
        for begin in range(0, len(order), self._rows):
            numbers = order[begin : begin + self._rows]
            length = min(round_length(max(len(rows[number][0]) for number in numbers)), window)
            padded = [*(rows[number] for number in numbers), *[([start], [start], 0)] * (self._rows - len(numbers))]
            inputs_BxT, targets_BxT = (pad([row[side] for row in padded], length)[0] for side in (0, 1))
            found_BxT, likeliest_BxT = map(np.asarray, self._score(self._model.params, inputs_BxT, targets_BxT))
            for row, number in enumerate(numbers):
                ids, _, count = rows[number]
                part = slice(len(ids) - count, len(ids))
                result[number] = math.fsum(found_BxT[row, part]), bool(likeliest_BxT[row, part].all())
        return result

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log probability of each whole text, in windows of which only the last overlaps another: it is full, as lm_eval
        has it."""
        model = self._model
        score, encoded = functools.partial(model._nll, model.params), list(map(self._encode, texts))
        nll = perplexity.token_nll(score, encoded, model.data_info.start, model.window, model.window, self._rows, True)
        return [-math.fsum(each) for each in nll]

    def generate(
        self,
        prompt: str,
        until: Sequence[str],
        new_tokens: int,
        temperature: float,
        seed: int = 0,
        more: Mapping[str, str] | None = None,
    ) -> str:
        """A continuation up to the first occurrence of a text of `until`; greedy at temperature 0. `more`: settings, by name.

        If a prompt leaves no room for the new tokens, its beginning is left out, but at least half of the window is read.
        """
        model = self._generator(temperature, new_tokens, tuple((more or {}).items()))
        room = max(model.window - new_tokens - 1, model.window // 2)
        ids = self._encode(prompt)
        self.cuts.append(
            Cut(int(len(ids) > room), 1, f"prompts leave no room for new tokens; their last {room:,} tokens are read")
        )
        text = model.generate(prompt if len(ids) <= room else model.vocabulary.decode(ids[-room:]), seed=seed)[0]
        ends = [at for each in until if each and (at := text.find(self._cased(each))) >= 0]
        return text[: min(ends, default=len(text))]


def _answered(scorer: Scorer, result: list[Any]) -> list[Any]:
    """The result, after a line to the user about what was cut."""
    for cut in some(*merged(scorer.cuts)):
        say(cut)
    scorer.cuts.clear()
    return result


def search_of(options: Mapping[str, Any]) -> tuple[int, float, dict[str, str]]:
    """The limit of new tokens, the temperature and further settings that a task's `generation_kwargs` say. Without
    `do_sample` a temperature says whether to sample, as in lm_eval. UserError: an option that the search does not have."""
    options = {name: value for name, value in options.items() if value is not None and (name, value) != ("num_beams", 1)}
    if unknown := options.keys() - {"until", "do_sample", "temperature", *LIMITS, *WARPS}:
        named = ", ".join(f"{name} {options[name]!r}" for name in sorted(unknown))
        raise UserError(f"generation_kwargs of the task: {named}: search has no such option; remove it there")
    new_tokens = next((int(options[name]) for name in LIMITS if name in options), NEW_TOKENS)
    sampled = options.get("do_sample", float(options.get("temperature", 0.0)) > 0)
    temperature = float(options.get("temperature", 1.0)) if sampled else 0.0
    more = {f"search.{name}": str(options[name]) for name in WARPS if name in options}
    if temperature == 0:  # they have no effect
        more = {name: value for name, value in more.items() if name == "search.repetition_penalty"}
    elif options.get("top_k") in (0, -1):  # of all tokens
        more["search.top_k"] = "none"
    return new_tokens, temperature, more


def _requests(requests: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return (request.args for request in requests)


def register() -> None:
    """Registers the model in lm_eval as `workdir`. UserError: lm_eval is not installed."""
    try:
        models, registry = (importlib.import_module(f"lm_eval.api.{name}") for name in ("model", "registry"))
    except ImportError as error:
        raise UserError(f'lm_eval: not installed ({error}); pip install -e ".[eval]"') from error

    @registry.register_model(NAME)
    class WorkdirModel(models.LM):
        def __init__(self, workdir: str, batch_size: int | str = 16, **settings: Any) -> None:
            super().__init__()
            size = 16 if batch_size is None or str(batch_size).startswith("auto") else int(batch_size)  # also auto:4
            known = {name: str(value) for name, value in settings.items() if "." in name}  # lm_eval adds a device and others
            self._scorer = Scorer(loading.read(workdir, known), size)

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return _answered(self._scorer, self._scorer.loglikelihood(_requests(requests)))

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self._scorer.rolling([text for (text,) in _requests(requests)])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            result, before = [], collections.Counter[str]()
            for prompt, options in _requests(requests):
                repeated = f"{prompt} {options}"  # lm_eval repeats a request to get several samples
                before[repeated] += 1
                until = options.get("until") or []
                texts = [until] if isinstance(until, str) else until
                new_tokens, temperature, more = search_of(options)
                result.append(
                    self._scorer.generate(prompt, texts, new_tokens, temperature, seed=before[repeated] - 1, more=more)
                )
            return _answered(self._scorer, result)


def main() -> None:
    """lm_eval's own command line, with the model of a workdir."""
    try:
        register()
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except UserError as error:
        say(f"transformer.harness: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
