"""Texts that go on, against a plain loop over the whole model; how likely a text is, against sums of its logits."""

import dataclasses
import functools
import math

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.components.rotary import Rotary
from transformer.config import Config, Data, Model, Objective, Search
from transformer.data.tokenizers.vocabulary import Bytes, Characters, Vocabulary
from transformer.errors import UserError
from transformer.inference.generate import CHUNK, Generator

CONFIG = Config(
    family="decoder_only",
    objective=Objective(kind="causal_lm"),
    model=Model(
        num_decoder_layers=2,
        d_model=16,
        d_ff=16,
        num_heads=2,
        dropout_rate=0.0,
        positions=Rotary(),
        norm_order="pre",
        final_norm=False,
        tying="none",
        logits_bias=True,
    ),
    data=Data(source="documents", vocabulary="characters", max_target_length=24),
    search=Search(batch_size=3, max_new_tokens=40),
)
LETTERS = Characters("abcdefgh .\n")
START, END = 1, 2


def generator(vocabulary: Vocabulary = LETTERS, end: float = -100.0, **settings) -> Generator:
    """`end`: the logit of the end; by default it never occurs. Other special tokens never occur."""
    loaded = drawn.loaded(drawn.changed(CONFIG, **settings), {"text": vocabulary}, 0.4)
    bias = jnp.zeros(vocabulary.size).at[jnp.arange(4)].set(jnp.array([-100.0, -100.0, end, -100.0]))
    return Generator(dataclasses.replace(loaded, params=loaded.params | {"logits": loaded.params["logits"] | {"bias": bias}}))


@functools.cache
def drawing() -> Generator:
    """Compiled once for each number of samples."""
    return generator(end=2.5, search__temperature=2.5)


@functools.cache
def greedy() -> Generator:
    """Without a penalty it would repeat its output again and again."""
    return generator(search__temperature=0.0, search__repetition_penalty=1.5)


@functools.cache
def jitted(model):
    return jax.jit(lambda params, inputs: model.apply({"params": params}, {"inputs": inputs})[0])


def logits_after(used: Generator, ids: list[int], length: int = 24) -> np.ndarray:
    """From the whole model without a cache. Padding comes at the end, so that no token sees it."""
    row = jnp.asarray([[*ids, *[0] * (length - len(ids))]], jnp.int32)
    return np.asarray(jitted(used.model)(used.params, row), np.float64)[: len(ids)]


# --- samples -------------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_alone_and_among_others():
    """Also beyond the window, and wherever other samples end; the end token is not text."""
    found = {seed: drawing().generate("abc", 3, seed) for seed in (0, 2, 5)}
    for seed in (0, 2, 5):
        assert drawing().generate("abc", 1, seed) == found[seed][:1]
    lengths = [list(map(len, texts)) for texts in found.values()]
    assert min(map(min, lengths)) < CHUNK < drawing().window < max(map(max, lengths)) == 40
    assert [length < 40 for length in lengths[0]] == [True, True, False] and len(set(sum(found.values(), []))) == 9
    assert drawing().generate("abc", 3, 5) == found[5]


def plain(used: Generator, prompt: str, count: int) -> str:
    """Greedy, the whole model at each token; when the window is full its last half is read from the start on.

    Logits of what is read are divided by the penalty, or, below 0, times it.
    """
    output: list[int] = []
    read = [START, *used.vocabulary.encode(prompt)][-used.window :]
    while len(output) < count:
        logits, penalty = logits_after(used, read)[-1], used.config.search.repetition_penalty
        for token in set(read):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        output.append(int(logits.argmax()))
        full = len(read) == used.window  # then this token is the last one drawn
        read = [*read, output[-1]]
        read = read[-(used.window // 2) :] if full else read
    return used.vocabulary.decode(output)


@pytest.mark.parametrize(
    ("prompt", "read"), [("", 1), pytest.param("bad cafe", 9, marks=pytest.mark.slow), ("feed a deaf cab.\n" * 2, 24)]
)
def test_past_the_window_its_last_half_is_the_new_prompt(prompt, read):
    [text] = greedy().generate(prompt)
    assert len(text) == 40 > greedy().window and len(set(text)) > 2
    assert text == plain(greedy(), prompt, 40)
    (unread, *rest) = [cut for cut in greedy().cuts if cut.count] if read == 24 else (None, *greedy().cuts[1:])
    assert unread is None or ((unread.count, unread.of) == (11, 35) and "prompt" in unread.what)
    assert [(cut.count, cut.of) for cut in rest] == [(1, 1), (1, 1)]  # it ended at the limit, and left the window
    assert "config.search.max_new_tokens" in rest[0].what and "window" in rest[1].what


def test_a_prompt_longer_than_the_positions_is_an_error():
    used = generator(model__positions="learned", model__positions__size=24, search__temperature=0.0, search__max_new_tokens=14)
    assert used.window == 24
    [text] = used.generate("abcdefgh" * 2 + "abcdefg")  # with the start it fills the table
    assert text == plain(used, "abcdefgh" * 2 + "abcdefg", 14) and len(used.logits(["a" * 23])[0]) == 24
    for call in (lambda: used.generate("a" * 24), lambda: used.stream("a" * 24), lambda: used.logits(["b", "a" * 24])):
        with pytest.raises(UserError, match="has 25 tokens, the start included.* 24 .*config.model.positions.size.*shorten it"):
            call()


# --- streams, stop strings -----------------------------------------------------------------------------------------------


def script(used: Generator, chunks: list[list[list[int]]]) -> list[list[list[int]]]:
    """Replaces sampling by given chunks of tokens for each sample, until all have ended. Returns the chunk sizes that were
    requested."""
    asked = []

    def draw(read, going, count, key):
        for number, rows in enumerate(chunks):
            asked.append(rows)
            going = going & (number < len(chunks) - 1)
            yield rows, going
            if not going.any():
                return

    used._draw = draw
    return asked


def in_chunks(ids: list[int], size: int) -> list[list[list[int]]]:
    return [[ids[first : first + size]] for first in range(0, len(ids), size)]


def test_streamed_pieces_form_the_whole_text():
    for seed in range(3):
        pieces = list(drawing().stream("abc", 3, seed))
        texts = ["".join(piece for number, piece in pieces if number == sample) for sample in range(3)]
        assert texts == drawing().generate("abc", 3, seed) and all(piece for _, piece in pieces)
    assert len(pieces) > 3  # as they are drawn, not at the end


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_characters_are_never_split(size):
    """Characters of one to four bytes, for all chunk boundaries; an incomplete character at the end is shown as such."""
    text = "né €, 𝄞 und ü\ufffd!"
    used = generator(Bytes())
    script(used, in_chunks(Bytes().encode(text) + Bytes().encode("€")[:2], size))
    pieces = [piece for _, piece in used.stream("né")]
    assert "".join(pieces) == text + "\ufffd" and (size == 100 or len(pieces) > 2)
    assert all("\ufffd" not in piece or piece.strip("\ufffd!") == "" or size == 100 for piece in pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "stop", "before"),
    [
        ("one. two. three", ". t", "one"),
        ("a né b", "né", "a "),
        ("ababac", "abac", "ab"),
        ("aaab", "aab", "a"),
        ("stop", "stop", ""),
        ("nearly sto", "stop", "nearly sto"),
        ("𝄞𝄞€", "𝄞€", "𝄞"),
    ],
)
def test_no_part_of_a_stop_string_is_written(text, stop, before, size):
    used = generator(Bytes(), search__stop=stop)
    asked = script(used, in_chunks(Bytes().encode(text), size))
    assert "".join(piece for _, piece in used.stream("x" + stop[:1])) == before
    until = len((before + stop).encode()) if stop in text else len(text.encode())
    assert len(asked) == -(-until // size)  # and nothing is drawn behind it


def test_a_stop_string_ends_its_sample_alone():
    """The sampled tokens are the same as without it."""
    without = drawing().generate("abc", 3, seed=5)
    stop = without[2][4:6]
    assert len(stop) == 2
    used = generator(end=2.5, search__temperature=2.5, search__stop=stop)
    found = used.generate("abc", 3, seed=5)
    assert found == [text.split(stop)[0] for text in without] and found[2] != without[2]


# --- how likely a text is ------------------------------------------------------------------------------------------------


def nll(logits: np.ndarray, labels: list[int]) -> float:
    logits = np.asarray(logits, np.float64)
    return float((np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(labels)), labels]).sum())


def test_logits_are_the_models_own():
    texts = ["abc", "", "feed a cab."]
    for text, logits in zip(texts, greedy().logits(texts), strict=True):
        np.testing.assert_allclose(logits, logits_after(greedy(), [START, *LETTERS.encode(text)]), atol=1e-4)


def test_perplexity_of_short_texts_is_that_of_their_logits():
    texts = ["feed a cab.", "bad", "né"]  # of unknown letters
    labels = [[*LETTERS.encode(text), END] for text in texts]
    nats = sum(nll(logits, output) for logits, output in zip(greedy().logits(texts), labels, strict=True))
    tokens, characters, size = sum(map(len, labels)), 14, 14  # of the text that is decoded, without them
    found = greedy().perplexity(texts)
    want = {"nll": nats / tokens, "perplexity": math.exp(nats / tokens)}
    bits = {"bits_per_character": nats / math.log(2) / characters, "bits_per_byte": nats / math.log(2) / size}
    assert found == pytest.approx(want | bits, rel=1e-5)
    assert [(cut.count, cut.of) for cut in greedy().cuts if cut.count] == [(1, 3)]  # that does not come back as it was


LONG = ["feed a deaf cab. " * 4, "bad", "aged face. " * 3]


@pytest.mark.parametrize(("stride", "cross"), [(None, False), (7, False), (7, True)])
def test_perplexity_of_long_texts_is_that_of_windows(stride, cross):
    """By definition: the window of a token is the first that ends at it or after it. The result does not depend on batches."""
    settings = {"evaluate__stride": stride, "data__cross_documents": cross}
    used, window, nats, tokens = generator(**settings), 24, 0.0, 0
    documents = [[*LETTERS.encode(text), END] for text in LONG]
    for ids in [sum(documents, [])] if cross else documents:
        fed = [START, *ids]
        for n in range(len(ids)):
            end = min(next(e for e in range(window, 999, stride or window) if e > n), len(ids))
            first = n - n % window if stride is None else max(end - window, 0)
            nats += nll(logits_after(used, fed[first : n + 1])[-1:], [ids[n]])
            tokens += 1
    found = used.perplexity(LONG)
    assert found["nll"] == pytest.approx(nats / tokens, rel=1e-5)
    if stride == 7 and not cross:
        for size in (1, 64):
            other = generator(search__batch_size=size, **settings).perplexity(LONG)
            assert other == pytest.approx(found, rel=1e-6)


# --- attention, lowercase ------------------------------------------------------------------------------------------------


def test_a_text_instead_of_a_list_is_an_error():
    for call in (greedy().logits, greedy().perplexity):
        with pytest.raises(UserError, match="instead of a list of texts"):
            call("bad")


def test_attention_is_causal():
    [found] = greedy().attention("bad cab", "be")
    assert found.across == found.down == ["<s>", *"bad", "␣", *"cabbe"]
    np.testing.assert_allclose(found.weights_LxHxTxS.sum(axis=-1), 1, atol=1e-5)
    assert found.weights_LxHxTxS.shape == (2, 2, 10, 10) and not np.triu(found.weights_LxHxTxS, 1).any()
    used = greedy()
    assert len(used.attention("a" * 99)[0].down) == 24  # a window
    assert [(cut.count, cut.of) for cut in used.cuts if cut.count] == [(76, 100)]
    used.attention("a")
    assert used.notices == []
    table = generator(model__positions="learned", model__positions__size=24)  # what is only drawn is cut
    assert len(table.attention("a" * 99)[0].down) == 24 and table.notices


def test_text_is_preprocessed_like_training_text():
    used, read = generator(data__lowercase=True), []
    used._draw = lambda ids, *more: read.append(ids) or iter([([[]], np.zeros(1, bool))])
    used.generate("Bad CAFE")
    assert read == [[[START, *LETTERS.encode("bad cafe")]]]
    assert np.array_equal(used.logits(["BAD"])[0], used.logits(["bad"])[0])
    assert used.attention("BAD")[0].down == ["<s>", *"bad"]


def test_without_a_start_token_only_the_prompt_is_fed():
    used = dataclasses.replace(greedy().loaded, config=drawn.changed(CONFIG, search__start_token=False))
    bare = Generator(used)
    assert bare._tokens("ab") == LETTERS.encode("ab") and bare._tokens("") == [START]
    np.testing.assert_allclose(bare.logits(["abc"])[0], logits_after(bare, LETTERS.encode("abc")), atol=1e-4)
