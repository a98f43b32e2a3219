"""Sliding windows with models whose likelihood of a token is known for each length of context."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.inference import perplexity

START, V = 1, 11


def documents(*lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(2, V, length).tolist() for length in lengths]


def by_context(context, target):
    """The nats of `target` after all of `context`; they depend on both."""
    value = target
    for token in context:
        value = (value * 31 + token + 7) % 9973
    return value / 1000


def score(inputs, targets, weights):
    """The model `by_context`; arbitrary values where the weight is 0."""
    nll = np.full(inputs.shape, np.nan)
    for b, t in zip(*np.nonzero(weights), strict=True):
        nll[b, t] = by_context(inputs[b, : t + 1].tolist(), targets[b, t])
    return nll


def run(docs, window, stride, batch_size=3, score=score):
    return list(perplexity.token_nll(score, docs, START, window, stride, batch_size))


def contexts(ids, window, stride):
    """The context that each token must see, by definition: its window is the first that ends at or after it."""
    fed, result = [START, *ids], []
    for n in range(len(ids)):
        end = min(next(e for e in range(window, 10**6, stride) if e > n), len(ids))
        result.append(fed[max(end - window, 0) : n + 1])
    return result


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 4), (8, 7), (5, 2), (1, 1), (64, 16)])
def test_each_token_once_in_its_context(window, stride):
    docs = documents(0, 1, 7, 8, 9, 25, 0, 40, 3, 0)
    found = run(docs, window, stride)
    assert [len(nll) for nll in found] == [len(ids) for ids in docs]
    for ids, nll in zip(docs, found, strict=True):
        seen = contexts(ids, window, stride)
        assert nll.tolist() == [by_context(context, target) for context, target in zip(seen, ids, strict=True)]
        for n, context in enumerate(seen):  # as long as the stride allows
            assert min(n + 1, window - stride + 1) <= len(context) <= window


def test_a_last_window_may_be_full():
    """The windows of lm_eval's documentation: ten tokens, of which a model sees four."""
    rows = list(perplexity.windows(range(10), 99, 4, 4, full_last=True))
    scored = [(inputs.tolist(), targets[weights > 0].tolist()) for inputs, targets, weights in rows]
    assert scored == [([99, 0, 1, 2], [0, 1, 2, 3]), ([3, 4, 5, 6], [4, 5, 6, 7]), ([5, 6, 7, 8], [8, 9])]
    short = list(perplexity.windows(range(3), 99, 4, 4, full_last=True))
    assert [inputs.tolist() for inputs, _, _ in short] == [[99, 0, 1, 0]]


def test_stride_1_gives_each_its_full_context():
    [ids] = documents(30)
    [nll] = run([ids], 8, 1)
    fed = [START, *ids]
    assert nll.tolist() == [by_context(fed[max(0, n - 7) : n + 1], ids[n]) for n in range(30)]


@pytest.mark.parametrize("length", [24, 29])
def test_stride_of_a_window_gives_blocks_that_do_not_overlap(length):
    [ids] = documents(length)
    rows = list(perplexity.windows(ids, START, 8, 8))
    assert len(rows) == math.ceil(length / 8)
    fed = [START, *ids]
    assert [t for inputs, _, weights in rows for t in inputs[weights > 0]] == fed[:-1]
    assert [t for _, targets, weights in rows for t in targets[weights > 0]] == ids
    [nll] = run([ids], 8, 8)
    assert nll.tolist() == [by_context(fed[n - n % 8 : n + 1], ids[n]) for n in range(length)]


def test_rows():
    """Ten tokens, windows of 4 with stride 3: the last window moves by the remaining tokens."""
    rows = list(perplexity.windows([10, 11, 12, 13, 14, 15, 16, 17, 18], 1, 4, 3))
    assert [r[0].tolist() for r in rows] == [[1, 10, 11, 12], [12, 13, 14, 15], [14, 15, 16, 17]]
    assert [r[1].tolist() for r in rows] == [[10, 11, 12, 13], [13, 14, 15, 16], [15, 16, 17, 18]]
    assert [r[2].tolist() for r in rows] == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    [(inputs, targets, weights)] = perplexity.windows([10, 11], 1, 4, 3)
    assert (inputs[:2].tolist(), targets[:2].tolist(), weights.tolist()) == ([1, 10], [10, 11], [1, 1, 0, 0])
    assert (inputs.dtype, targets.dtype, weights.dtype) == (np.int32, np.int32, np.float32)


@pytest.mark.parametrize("stride", [0, 9])
def test_stride_outside_the_window(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}"):
        run(documents(20), 8, stride)


# --- a Markov chain -------------------------------------------------------------------------------------------------------

CHAIN = np.random.default_rng(1).dirichlet(np.ones(V), size=(V, V))  # p(next | the two before)


@jax.jit
def second_order(inputs, targets, weights):
    """The nats of a Markov chain of order 2; a token that sees only one input uses START for the other."""
    before = jnp.concatenate([jnp.full_like(inputs[:, :1], START), inputs[:, :-1]], axis=1)
    return -jnp.log(jnp.asarray(CHAIN, jnp.float32)[before, inputs, targets])


def chain_nll(ids):
    fed = [START, START, *ids]
    return math.fsum(-math.log(CHAIN[fed[n], fed[n + 1], ids[n]]) for n in range(len(ids)))


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 5), (8, 7), (2, 1), (100, 50)])
def test_a_chain_of_order_2_needs_two_inputs(window, stride):
    docs = documents(33, 5, 61)
    found = [math.fsum(nll) for nll in run(docs, window, stride, score=second_order)]
    np.testing.assert_allclose(found, [chain_nll(ids) for ids in docs], rtol=1e-6)


def test_blocks_that_do_not_overlap_cost_the_chain_its_context():
    docs = documents(33)
    blocks = math.fsum(run(docs, 8, 8, score=second_order)[0])
    assert abs(blocks - chain_nll(docs[0])) > 0.1


def test_any_batch_size_gives_the_same():
    docs = documents(33, 0, 5, 61, 8)
    rows, wanted = [], run(docs, 8, 3, 1, second_order)

    def counted(inputs, targets, weights):
        rows.append(len(inputs))
        return second_order(inputs, targets, weights)

    for batch_size in (2, 3, 7, 64):
        rows.clear()
        found = run(docs, 8, 3, batch_size, counted)
        assert set(rows) == {batch_size}  # one shape to compile
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        assert perplexity.sums(found) == perplexity.sums(wanted) == perplexity.sums(reversed(found))


def test_documents_are_read_as_they_are_needed():
    """A long corpus is not kept in memory: the nats of a document are returned before the next batch is read."""
    read = []

    def stream():
        for number, ids in enumerate(documents(8, 8, 8, 8)):
            read.append(number)
            yield ids

    found = perplexity.token_nll(score, stream(), START, 8, 8, 1)
    assert len(next(found)) == 8 and read == [0]


# --- measures -------------------------------------------------------------------------------------------------------------


def test_measures_of_a_uniform_model():
    """Bytes with probability 1/256: 8 bits per byte, whatever the characters; the two bytes of 'é' are one character."""
    text = "né é" * 10
    ids = list(text.encode())
    uniform = lambda inputs, targets, weights: np.full(inputs.shape, math.log(256))  # noqa: E731
    total = perplexity.sums(perplexity.token_nll(uniform, [ids], START, 16, 4, 2))
    assert total["weight_sum"] == 60 and total["nll_sum"] == pytest.approx(60 * math.log(256))
    found = perplexity.measures(total, len(text), len(ids))
    assert found == pytest.approx(
        {"nll": math.log(256), "perplexity": 256, "bits_per_byte": 8, "bits_per_character": 8 * 60 / 40}
    )


def test_values_without_a_count_are_absent():
    total = {"nll_sum": 2.0, "weight_sum": 4.0}
    assert perplexity.measures(total) == pytest.approx({"nll": 0.5, "perplexity": math.exp(0.5)})
    assert set(perplexity.measures(total, characters=9)) == {"nll", "perplexity", "bits_per_character"}
    assert perplexity.sums([]) == {"nll_sum": 0.0, "weight_sum": 0.0} and perplexity.measures(perplexity.sums([])) == {}
