"""How well attention agrees with the known alignment of number words, and how much it matters for the output.

A model that attends to a word need not use it (Jain and Wallace 2019). So in addition to the error rate, the mode measures how
the loss of a word changes when the word that it translates is hidden, and when another one is.

Letters: L layers, B sentences, H heads, T target tokens, S source tokens.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.encode import touching
from transformer.errors import UserError, counted
from transformer.inference import predict
from transformer.modes.common import kept_as
from transformer.probes import alignment, head_statistics
from transformer.probes.head_statistics import NEIGHBOURS
from transformer.runtime import workdir as workdirs


def align(path: Path, overrides: Mapping[str, str]) -> None:
    """Prints the table by layer and head for test numbers and writes evaluation/alignment.json."""
    workdir = workdirs.open_existing(path)
    workdirs.check_writable("--workdir", path, workdir.evaluation_file("alignment").parent)
    predictor = predict.load(path, overrides, "align")
    data = predictor.config.data
    if data.source != "number_words":
        raise UserError(f"--mode=align: only config.data.source number_words has a known alignment, not {data.source}")
    pairs, sentences = alignment.numbers(predictor, "test")
    read = f"attention of the first {len(pairs):,} of {counted(data.number_test_size, 'test number')}, their translations given"
    print(read, flush=True)
    weights, lengths = predictor.weights(pairs)
    if head_statistics.CROSS not in weights:
        raise UserError(f"--mode=align: {path} has no cross-attention, so there is nothing to align")
    table = _agreement(weights[head_statistics.CROSS], sentences)
    near = head_statistics.by_neighbour(predictor.config, weights, lengths)
    hidden = _hidden(predictor, pairs, sentences)
    result = {"sentences": len(pairs), "of": data.number_test_size, "heads": table, "near": near, "hidden": hidden}
    name, _ = kept_as("alignment", workdir.config(), predictor.config)
    try:
        workdirs.write_json(workdir.evaluation_file(name), result)
    finally:  # print the table before writing it, which may fail
        _print(table, near, hidden)


def _print(table: list[dict[str, Any]], near: list[dict[str, Any]], hidden: dict[str, dict[str, float]]) -> None:
    print(f"{'attention':<24}{'error rate':>12}{'mass on the right word':>26}")
    for row in table:
        print(f"{row['name']:<24}{row['alignment_error_rate']:>11.1%} {row['mass']:>25.1%}")
    if near:
        print(f"\n{'mass of the encoder':<24}" + "".join(f"{f'on the {name} token':>24}" for name in NEIGHBOURS))
        for row in near:
            print(f"{row['name']:<24}" + "".join(f"{row[name]:>24.1%}" for name in NEIGHBOURS))
    if hidden:
        print(f"\n{'nats of a word, given':<36}{'the word it translates':>24}{'another word':>16}")
    for name, values in hidden.items():
        print(f"{name:<36}{values['aligned']:>24.3f}{values['other']:>16.3f}")
    sys.stdout.flush()


def _agreement(weights_LxBxHxTxS: np.ndarray, sentences: Sequence[alignment.Words]) -> list[dict[str, Any]]:
    """Agreement of each head, of the mean of heads of each layer, and, for comparison, of uniform weights."""
    counts = np.array([len(sentence.source_tokens) for sentence in sentences])
    rows = {"even weights": np.ones_like(weights_LxBxHxTxS[0, :, 0]) / counts[:, None, None]}
    for layer, weights_BxHxTxS in enumerate(weights_LxBxHxTxS, 1):
        rows |= alignment.by_head(layer, weights_BxHxTxS)
        if weights_BxHxTxS.shape[1] > 1:
            rows[f"layer {layer}, mean of heads"] = weights_BxHxTxS.mean(axis=1)
    return alignment.agreement(rows, sentences)


def _hidden(
    predictor: Any, pairs: Sequence[tuple[str, str]], sentences: Sequence[alignment.Words]
) -> dict[str, dict[str, float]]:
    """Mean nats of a target word: with all of the source; with its source word, or another one, hidden only from
    cross-attention (the encoder still reads it), and from the encoder too. Empty if all sources have one word."""
    draw, some, places = np.random.default_rng(0), [], []
    for pair, sentence in zip(pairs, sentences, strict=True):
        known, links = sentence.known, sorted(sentence.known.links)
        if links and len(known.source) > 1:
            source, target = links[draw.integers(len(links))]
            other = draw.choice([word for word in range(len(known.source)) if word != source])
            some.append(pair)
            places.append((sentence, known.target[target], known.source[source], known.source[other]))
    if not some:
        return {}
    target_tokens = [touching(sentence.target_tokens, target) for sentence, target, _, _ in places]

    def cost(hidden: list[list[int]] | None = None, encoder: bool = False) -> float:
        nats = predictor.target_nll(some, hidden, encoder)
        return float(np.mean([nll[tokens].sum() for nll, tokens in zip(nats, target_tokens, strict=True)]))

    words = {
        "aligned": [touching(sentence.source_tokens, word) for sentence, _, word, _ in places],
        "other": [touching(sentence.source_tokens, word) for sentence, _, _, word in places],
    }
    return {
        "all of the source": dict.fromkeys(words, cost()),
        "hidden from attention": {name: cost(tokens) for name, tokens in words.items()},
        "hidden from the encoder too": {name: cost(tokens, encoder=True) for name, tokens in words.items()},
    }
