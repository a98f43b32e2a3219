"""How well attention agrees with the known alignment of numbers in words, and what it means for what is said.

Attention that points at a word need not use it (Jain and Wallace 2019): beside the error rate stands what happens to the
translation of a word when that word is hidden, and when another one is.

Letters: L layers, B sentences, H heads, T target tokens, S source tokens, V target words, W source words.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.encode import touching
from transformer.errors import UserError, say
from transformer.inference import alignment, predict
from transformer.runtime import workdir as workdirs

SENTENCES = 256


@dataclasses.dataclass(frozen=True)
class _Words:
    """A sentence: its alignment, and the places of its tokens."""

    known: Any
    source_tokens: Sequence[tuple[int, int]]
    target_tokens: Sequence[tuple[int, int]]

    def matrix(self, links: frozenset[tuple[int, int]]) -> np.ndarray:
        return alignment.link_matrix(links, len(self.known.source), len(self.known.target))

    def by_word(self, weights_TxS: np.ndarray) -> np.ndarray:
        """Of what is said of the end nothing is known, nor of what is on the source's."""
        weights_TxS = weights_TxS[: len(self.target_tokens), : len(self.source_tokens)]
        return alignment.by_word(weights_TxS, self.target_tokens, self.source_tokens, self.known.target, self.known.source)


def align(path: Path, overrides: Mapping[str, str]) -> None:
    """The table by layer and head, of test numbers, to stdout and evaluation/alignment.json."""
    from transformer.data import number_alignment, number_words

    workdir = workdirs.open_existing(path)
    predictor = predict.load(path, overrides, "align")
    data = predictor.config.data
    if data.source != "number_words":
        raise UserError(f"--mode=align: words are aligned for config.data.source number_words alone, not {data.source}")
    numbers = number_words.draw(data)["test"][:SENTENCES]
    spell = [
        number_words.speller(getattr(data, f"{side}_language"), f"{side}_language", data.number_range[1])
        for side in ("source", "target")
    ]
    pairs = [(data.prefix + spell[0](n), spell[1](n)) for n in numbers]
    sentences = [
        _Words(
            _shifted(number_alignment.align(number, data.source_language, data.target_language), len(data.prefix)),
            predictor.source_vocabulary.spans(source),
            predictor.target_vocabulary.spans(target),
        )
        for number, (source, target) in zip(numbers, pairs, strict=True)
    ]
    say(f"attention of {len(pairs)} test numbers, their translations given")
    table = _agreement(predictor.cross_attention(pairs), sentences)
    hidden = _hidden(predictor, pairs, sentences)
    workdirs.write_json(workdir.evaluation_file("alignment"), {"sentences": len(pairs), "heads": table, "hidden": hidden})
    print(f"{'attention':<24}{'error rate':>12}{'mass on the right word':>26}")
    for row in table:
        print(f"{row['name']:<24}{row['alignment_error_rate']:>11.1%} {row['mass']:>25.1%}")
    print(f"\n{'nats of a word, given':<36}{'the word it translates':>24}{'another word':>16}")
    for name, values in hidden.items():
        print(f"{name:<36}{values['aligned']:>24.3f}{values['other']:>16.3f}")


def _shifted(known: Any, by: int) -> Any:
    return dataclasses.replace(known, source=tuple((first + by, last + by) for first, last in known.source))


def _agreement(weights_LxBxHxTxS: np.ndarray, sentences: Sequence[_Words]) -> list[dict[str, Any]]:
    """Each head, each layer's mean of heads, and even weights, to compare with."""
    gold, possible = (_stacked([s.matrix(getattr(s.known, name)) for s in sentences]) for name in ("links", "possible"))
    counts = np.array([len(sentence.source_tokens) for sentence in sentences])
    even_BxTxS = np.ones_like(weights_LxBxHxTxS[0, :, 0]) / counts[:, None, None]
    rows = [("even weights", even_BxTxS)]
    for layer, weights_BxHxTxS in enumerate(weights_LxBxHxTxS, 1):
        heads = [(f"layer {layer}, head {n}", weights_BxHxTxS[:, n - 1]) for n in range(1, weights_BxHxTxS.shape[1] + 1)]
        rows += heads + ([(f"layer {layer}, mean of heads", weights_BxHxTxS.mean(axis=1))] if len(heads) > 1 else [])
    table = []
    for name, weights_BxTxS in rows:
        words = _stacked([s.by_word(w) for s, w in zip(sentences, weights_BxTxS, strict=True)])
        rate, mass = alignment.alignment_error_rate(words, gold, possible), alignment.mass_on_gold(words, gold)
        table.append({"name": name, "alignment_error_rate": rate, "mass": mass})
    return table


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, [(0, 0), (0, width - row.shape[1])]) for row in rows])


def _hidden(predictor: Any, pairs: Sequence[tuple[str, str]], sentences: Sequence[_Words]) -> dict[str, dict[str, float]]:
    """Mean nats of a target word: with all of the source; with its source word, or another one, hidden from attention
    alone (the encoder has read it), and from the encoder too."""
    draw, some, places = np.random.default_rng(0), [], []
    for pair, sentence in zip(pairs, sentences, strict=True):
        known, links = sentence.known, sorted(sentence.known.links)
        if links and len(known.source) > 1:
            source, target = links[draw.integers(len(links))]
            other = draw.choice([word for word in range(len(known.source)) if word != source])
            some.append(pair)
            places.append((sentence, known.target[target], known.source[source], known.source[other]))
    said = [touching(sentence.target_tokens, target) for sentence, target, _, _ in places]

    def cost(hidden: list[list[int]] | None = None, encoder: bool = False) -> float:
        nats = predictor.target_nll(some, hidden, encoder)
        return float(np.mean([nll[tokens].sum() for nll, tokens in zip(nats, said, strict=True)]))

    words = {
        "aligned": [touching(sentence.source_tokens, word) for sentence, _, word, _ in places],
        "other": [touching(sentence.source_tokens, word) for sentence, _, _, word in places],
    }
    return {
        "all of the source": dict.fromkeys(words, cost()),
        "hidden from attention": {name: cost(tokens) for name, tokens in words.items()},
        "hidden from the encoder too": {name: cost(tokens, encoder=True) for name, tokens in words.items()},
    }
