"""Random segmentations depend only on the seed, and have the distribution of sentencepiece."""

import collections
import hashlib
import itertools
import subprocess
import sys

import pytest

from transformer.config import Data
from transformer.data.tokenizers.training import train
from transformer.data.tokenizers.vocabulary import SentencePiece

TEXTS = ["walking and talking, she walked", "she talks to the walkers\nand  then to the talkers", "the end of the talk"] * 20
HARD = ["", " ", "x\u00e4\u00e4\u03b1 walking\n\n  she", "\n", "\u03b1\u03b2\u03b3", "a" * 50, "talking\u2581talks the½"]


def trained(kind: str, normalization: str) -> SentencePiece:
    data = Data(vocabulary=kind, vocabulary_size=70, normalization=normalization)  # type: ignore[arg-type]
    made = train(data, TEXTS, lambda _: None)
    assert isinstance(made, SentencePiece)
    return made


@pytest.fixture(scope="module", params=itertools.product(["bpe", "unigram"], ["nmt_nfkc", "identity"]), ids=" ".join)
def vocabulary(request) -> SentencePiece:
    return trained(*request.param)


def test_low_randomness_gives_the_usual_segmentation(vocabulary):
    sampler = vocabulary.sampled(1e-9, 0)
    if not sampler.is_bpe:
        sampler.rate = 200.0  # the best segmentation alone has a probability that counts
    texts = TEXTS + HARD
    assert sampler.encode_batch(texts) == vocabulary.encode_batch(texts)


def test_samples_decode_to_the_text_and_differ_by_seed_and_call(vocabulary):
    sampler, same, other = (vocabulary.sampled(0.3, seed) for seed in (5, 5, 6))
    first, second = sampler.encode_batch(TEXTS), sampler.encode_batch(TEXTS)
    assert first == same.encode_batch(TEXTS) and second == same.encode_batch(TEXTS)
    assert len({str(first), str(second), str(other.encode_batch(TEXTS))}) == 3
    assert [vocabulary.decode(ids) for ids in first] == [vocabulary.decode(vocabulary.encode(text)) for text in TEXTS]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_segmentations_are_as_frequent_as_those_of_sentencepiece(vocabulary, rate):
    draws, text = 4000, "walking talks"
    ours = collections.Counter(map(tuple, vocabulary.sampled(rate, 1).encode_batch([text] * draws)))
    options = {"enable_sampling": True, "alpha": rate, "nbest_size": -1}
    theirs = collections.Counter(tuple(vocabulary.processor.Encode(text, out_type=int, **options)) for _ in range(draws))
    assert len(ours) > 3
    distance = sum(abs(ours[ids] - theirs[ids]) for ids in ours | theirs) / 2 / draws
    expected = sum((2 * count / draws) ** 0.5 for count in (ours | theirs).values()) / draws**0.5 / 2  # about, of equal ones
    assert distance < 2 * expected


def test_another_process_draws_the_same(vocabulary, tmp_path):
    ids = vocabulary.sampled(0.3, 5).encode_batch(TEXTS)
    vocabulary.save(tmp_path, "text")
    program = f"""if True:
        import hashlib, pathlib
        from transformer.data.tokenizers.vocabulary import SentencePiece
        made = SentencePiece(pathlib.Path({str(tmp_path / "text.model")!r}).read_bytes())
        print(hashlib.sha256(str(made.sampled(0.3, 5).encode_batch({TEXTS!r})).encode()).hexdigest())"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert found == hashlib.sha256(str(ids).encode()).hexdigest()
