"""Search against exhaustive search and a plain-Python beam search, on a toy model whose logits depend on the whole prefix."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.inference import search
from transformer.models import cache as cache_lib

V, END, L = 4, 2, 5  # token 3 is an ordinary one: the end is not the last id
STATES = 101
# Some ends likely early, so that hypotheses finish at every length.
TABLE = np.random.default_rng(0).normal(0, 1.5, (STATES, V)).astype(np.float32)


# --- the toy model, twice: with a cache, and as a function of a prefix ----------------------------------------------------


def start_cache(seed_B, beam_size=1):
    """Three leaves that must follow their beam: a running state, the fed tokens by slot, and the slot."""
    seed_R = jnp.repeat(jnp.asarray(seed_B, jnp.int32), beam_size)
    return {"state": seed_R, "deep": [jnp.zeros((len(seed_R), 2, L + 1), jnp.int32), jnp.zeros(len(seed_R), jnp.int32)]}


def step(tokens_RxT, cache):
    assert tokens_RxT.shape[1] == 1 and tokens_RxT.dtype == jnp.int32
    fed, slot_R = cache["deep"]
    state_R = (cache["state"] * 7 + tokens_RxT[:, 0] + 1) % STATES
    written = jnp.broadcast_to(tokens_RxT[:, None], (*fed.shape[:2], 1))
    fed = jax.lax.dynamic_update_slice(fed, written, (0, 0, slot_R[0]))
    other_R = (fed[:, 1] @ (3 + jnp.arange(L + 1) ** 2)) % STATES
    logits_RxV = jnp.asarray(TABLE)[state_R] + jnp.asarray(TABLE)[other_R]
    return logits_RxV[:, None], {"state": state_R, "deep": [fed, slot_R + 1]}


def log_probs(seed, start, prefix):
    state, fed = seed, [start, *prefix]
    for token in fed:
        state = (state * 7 + token + 1) % STATES
    other = sum(token * (3 + i**2) for i, token in enumerate(fed)) % STATES
    logits = TABLE[state].astype(np.float64) + TABLE[other]
    return logits - math.log(np.exp(logits).sum())


def penalty(n, alpha, form):
    return ((5 + n) / 6) ** alpha if form == "gnmt" else n**alpha


def exhaustive(seed, start, limit, alpha, form):
    """(score, log p, tokens) of all hypotheses, best first."""
    found = []
    for n in range(1, limit + 1):
        for tokens in itertools.product(range(V), repeat=n):
            if END in tokens[:-1] or (tokens[-1] != END and n < limit):
                continue
            log_p = sum(log_probs(seed, start, tokens[:i])[tokens[i]] for i in range(n))
            found.append((log_p / penalty(n, alpha, form), log_p, tokens))
    return sorted(found, reverse=True)


def plain_beam(seed, start, limit, alpha, form, beam_size, stopping="limit"):
    """The rule of `beam` with lists, in double precision."""
    alive, finished = [(0.0, ())], []
    for n in range(1, limit + 1):
        candidates = [(p + q, (*tokens, v)) for p, tokens in alive for v, q in enumerate(log_probs(seed, start, tokens))]
        candidates = sorted(candidates, reverse=True)[: 2 * beam_size]
        ended = [c for c in candidates if c[1][-1] == END or n == limit]
        over = [c for c in candidates[:beam_size] if c in ended]
        finished = sorted(finished + [(p / penalty(n, alpha, form), p, t) for p, t in over], reverse=True)[:beam_size]
        alive = [c for c in candidates if c not in ended][:beam_size]
        filled = len(finished) == beam_size
        if stopping == "filled" and filled:
            break
        if stopping == "likely" and filled and alive and alive[0][0] / penalty(n, alpha, form) <= finished[-1][0]:
            break
    return finished


SEEDS, STARTS, LIMITS = [3, 14, 15, 92, 65, 35], [1, 1, 0, 3, 1, 1], [5, 3, 5, 1, 4, 5]


@functools.partial(jax.jit, static_argnames=("beam_size", "n_best", "form", "stopping"))
def _beam(seed_B, start_B, limit_B, alpha, beam_size, n_best, form, stopping):
    cache = start_cache(seed_B, beam_size)
    rule = search.make_rule(L, END, beam_size, alpha, n_best, form=form, stopping=stopping)
    return search.find(rule, step, cache, start_B, limit_B)


def run(beam_size, alpha=0.6, n_best=1, form="gnmt", stopping="bound", seeds=SEEDS, starts=STARTS, limits=LIMITS):
    arrays = [jnp.asarray(x, jnp.int32) for x in (seeds, starts, limits)]
    return jax.tree.map(np.asarray, _beam(*arrays, alpha, beam_size, n_best, form, stopping))


def texts(found, row):
    """The hypotheses of one sentence as tuples, cut at their lengths; the rest must be 0."""
    result = []
    for tokens, length in zip(found.tokens_BxNxL[row], found.lengths_BxN[row], strict=True):
        assert not tokens[length:].any()
        result.append(tuple(int(t) for t in tokens[:length]))
    return result


def assert_found(found, row, wanted):
    assert texts(found, row) == [tokens for _, _, tokens in wanted]
    np.testing.assert_allclose(found.scores_BxN[row], [score for score, _, _ in wanted], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found.log_probs_BxN[row], [p for _, p, _ in wanted], rtol=2e-5, atol=2e-5)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


# --- beam -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gnmt", "power"])
def test_wide_beam_is_exhaustive_search(form):
    width = 3 ** (L - 1)  # every prefix that has not ended stays alive
    for alpha in (0.0, 0.6, 1.0):
        found = run(width, alpha, n_best=5, form=form)
        for row, (seed, start, limit) in enumerate(zip(SEEDS, STARTS, LIMITS, strict=True)):
            wanted = exhaustive(seed, start, limit, alpha, form)[:5]
            assert texts(found, row)[: len(wanted)] == [tokens for _, _, tokens in wanted]
            np.testing.assert_allclose(found.scores_BxN[row, : len(wanted)], [w[0] for w in wanted], rtol=2e-5)
            # At limit 1 there are only V hypotheses; a fifth does not exist.
            assert list(found.lengths_BxN[row, len(wanted) :]) == [0] * (5 - len(wanted))
            assert np.isneginf(found.scores_BxN[row, len(wanted) :]).all()


@pytest.mark.parametrize(
    ("beam_size", "form", "stopping"),
    [(2, "gnmt", "bound"), (2, "gnmt", "filled"), (3, "power", "likely"), (3, "power", "filled"), (4, "gnmt", "bound")],
)
def test_narrow_beam_is_the_plain_loop(beam_size, form, stopping):
    seeds = list(range(24))
    starts, limits = [s % 2 for s in seeds], [2 + s % 4 for s in seeds]
    lengths = set()
    for alpha in (0.0, 0.6, 1.0, 2.5):
        found = run(beam_size, alpha, beam_size, form, stopping, seeds=seeds, starts=starts, limits=limits)
        for row, seed in enumerate(seeds):
            assert_found(found, row, plain_beam(seed, starts[row], limits[row], alpha, form, beam_size, stopping))
            lengths |= {len(t) for t in texts(found, row)}
    assert lengths == {1, 2, 3, 4, 5}  # the toy model ends everywhere, else the test would show little


def test_narrow_beam_misses_what_exhaustive_search_finds():
    """The cases are difficult enough that not every search passes."""
    seeds = list(range(24))
    found = run(2, 0.6, 2, seeds=seeds, starts=[1] * 24, limits=[5] * 24)
    best = [[tokens for _, _, tokens in exhaustive(seed, 1, 5, 0.6, "gnmt")[:2]] for seed in seeds]
    missed = sum(texts(found, row) != best[row] for row in range(24))
    assert 0 < missed < 24


def test_by_hand():
    """Greedy search takes a (0.5), whose best end has 0.3: 0.15. With b (0.4) the end has 0.9: 0.36."""
    a, b, end = 0, 1, 2
    rows = {(): [0.5, 0.4, 0.1], (a,): [0.4, 0.3, 0.3], (b,): [0.05, 0.05, 0.9]}

    def by_last(tokens_RxT, cache):
        table = jnp.log(jnp.asarray([rows[(a,)], rows[(b,)], [1 / 3] * 3, rows[()]], jnp.float32))
        return table[tokens_RxT], cache

    start, limit = jnp.asarray([3]), jnp.asarray([2])
    found = search.find(search.make_rule(4, end, 2, 1.0, 2), by_last, {}, start, limit)
    assert texts(found, 0) == [(b, end), (a, a)]
    np.testing.assert_allclose(found.log_probs_BxN, np.log([[0.36, 0.2]]), rtol=1e-5)
    np.testing.assert_allclose(found.scores_BxN, np.log([[0.36, 0.2]]) / (7 / 6), rtol=1e-5)  # (5 + 2) / 6
    found = search.find(search.make_rule(4, end), by_last, {}, start, limit)
    assert texts(found, 0) == [(a, a)]


def test_stopping_at_the_bound_does_not_change_the_result():
    seeds = list(range(40))
    run_all = functools.partial(run, seeds=seeds, starts=[1] * 40, limits=[1 + s % 5 for s in seeds])
    for alpha in (-0.5, 0.0, 0.6, 1.0, 3.0):
        for form in ("gnmt", "power"):
            assert_same(run_all(3, alpha, 3, form), run_all(3, alpha, 3, form, stopping="limit"))


def test_earlier_stopping_changes_some_results():
    """The cases are difficult enough that not every stopping rule passes."""
    seeds = list(range(40))
    every = [plain_beam(seed, 1, 5, 1.0, "power", 3, stopping) for seed in seeds for stopping in ("filled", "likely", "limit")]
    filled, likely, limit = (every[k::3] for k in range(3))
    assert filled != likely != limit != filled


@pytest.mark.parametrize(
    ("stopping", "alpha", "wanted", "zeros"),
    [("bound", 0, 2, 1), ("limit", 0, 9, 1), ("filled", 2, 2, 1), ("likely", 2, 2, 1), ("bound", 2, 9, 8)],
)
def test_steps_run(stopping, alpha, wanted, zeros):
    """The end always has 0.9: after two steps, 0.9 and 0.06 x 0.9 are finished, and the live beam has 0.0036.

    With a penalty of n^2, the second has the score -2.9 / 4. The live beam has -5.6 / 4 at its length, but -22.6 / 81 at the
    limit."""
    calls = []

    def counted(tokens_RxT, cache):
        jax.debug.callback(lambda: calls.append(1))
        table = jnp.log(jnp.asarray([0.06, 0.03, 0.9, 0.01], jnp.float32))
        return jnp.broadcast_to(table, (*tokens_RxT.shape, V)), cache

    start, limit = jnp.asarray([1]), jnp.asarray([9])
    found = search.find(search.make_rule(9, END, 2, alpha, 2, form="power", stopping=stopping), counted, {}, start, limit)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert texts(found, 0) == [(END,), (*[0] * zeros, END)]
    assert len(calls) == wanted


def test_each_sentence_gets_the_same_alone_and_in_a_batch():
    together = run(3, 0.6, 3)
    for row in range(len(SEEDS)):
        alone = run(3, 0.6, 3, seeds=SEEDS[row : row + 1], starts=STARTS[row : row + 1], limits=LIMITS[row : row + 1])
        assert_same(jax.tree.map(lambda x, row=row: x[row : row + 1], together), alone)


def test_limits():
    found = run(3, 1.0, 3, limits=[0, 1, 2, 3, 4, 99])
    for row, limit in enumerate([0, 1, 2, 3, 4, L]):
        lengths = found.lengths_BxN[row]
        assert lengths.max() <= limit
        for tokens in texts(found, row):
            assert END not in tokens[:-1]
            assert len(tokens) == limit or tokens[-1] == END
    # A row that only fills the batch has no hypothesis.
    assert not found.tokens_BxNxL[0].any() and np.isneginf(found.scores_BxN[0]).all()
    unended = run(3, 1.0, 3, limits=[2] * 6)
    assert any(len(t) == 2 and END not in t for row in range(6) for t in texts(unended, row))


def test_longer_buffer_changes_nothing():
    starts, limits = jnp.asarray(STARTS), jnp.asarray(LIMITS)
    long = search.find(search.make_rule(L + 3, END, 3, 0.6), step, start_cache(SEEDS, 3), starts, limits)
    short = run(3)
    assert long.tokens_BxNxL.shape == (6, 1, L + 3)
    np.testing.assert_array_equal(long.tokens_BxNxL[..., :L], short.tokens_BxNxL)
    np.testing.assert_allclose(long.scores_BxN, short.scores_BxN, rtol=1e-6)


def test_n_best_is_sorted_and_starts_with_the_best():
    four, one = run(4, 0.6, 4), run(4, 0.6, 1)
    assert four.tokens_BxNxL.shape == (6, 4, L) and four.tokens_BxNxL.dtype == np.int32
    assert (np.diff(four.scores_BxN, axis=1) <= 0).all()
    assert_same(jax.tree.map(lambda x: x[:, :1], four), one)
    for row in range(6):
        assert len(set(texts(four, row))) == 4
    with pytest.raises(ValueError, match="n_best is 5"):
        run(4, 0.6, 5)


def test_ties_go_to_the_lower_index():
    def uniform(tokens_RxT, cache):
        return jnp.zeros((*tokens_RxT.shape, 3)), cache

    found = search.find(search.make_rule(2, 2, 3, 0.0, 3), uniform, {}, jnp.asarray([0]), jnp.asarray([2]))
    # Two of the four candidates of step 1 live, 0 and 1; of step 2's, all 1/9, the first are (0, 0), (0, 1), (0, 2).
    assert texts(found, 0) == [(2,), (0, 0), (0, 1)]
    assert texts(search.find(search.make_rule(2, 2), uniform, {}, jnp.asarray([0]), jnp.asarray([2])), 0) == [(0, 0)]


def test_end_at_the_first_position():
    def ends(tokens_RxT, cache):
        return jnp.broadcast_to(jnp.asarray([0.0, 0.0, 20.0, 0.0]), (*tokens_RxT.shape, V)), cache

    for found in (
        search.find(search.make_rule(L, END, 2, 0.6), ends, {}, jnp.asarray([1]), jnp.asarray([L])),
        search.find(search.make_rule(L, END), ends, {}, jnp.asarray([1]), jnp.asarray([L])),
    ):
        assert texts(found, 0) == [(END,)]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_end_may_be_forced_at_the_limit_where_it_costs_nothing(beam_size):
    """The log probability is that of the preceding tokens, as with Transformers' forced_eos_token_id."""
    rule = search.make_rule(L, END, beam_size, 0.0, force_end=True)
    arrays = [jnp.asarray(x, jnp.int32) for x in (STARTS, LIMITS)]
    found = jax.jit(lambda cache, *rest: search.find(rule, step, cache, *rest))(start_cache(SEEDS, beam_size), *arrays)
    at_limit = 0
    for row, limit in enumerate(LIMITS):
        [tokens] = texts(found, row)
        assert tokens[-1] == END and len(tokens) <= limit
        at_limit += len(tokens) == limit
        paid = tokens[:-1] if len(tokens) == limit else tokens
        wanted = sum(log_probs(SEEDS[row], STARTS[row], tokens[:n])[token] for n, token in enumerate(paid))
        np.testing.assert_allclose(found.log_probs_BxN[row, 0], wanted, atol=1e-4)
    assert at_limit >= 2


@pytest.mark.parametrize("masked", [-1e30, -1e9, -np.inf])
def test_masked_tokens_never_appear(masked):
    """With two remaining tokens, a beam of 4 has space for masked ones; hypotheses that do not exist have length 0."""

    def narrow(tokens_RxT, cache):
        return jnp.broadcast_to(jnp.asarray([0.0, masked, -1.0, masked]), (*tokens_RxT.shape, V)), cache

    found = search.find(search.make_rule(L, END, 4, 0.6, 4), narrow, {}, jnp.asarray([1]), jnp.asarray([2]))
    assert sorted(texts(found, 0)) == sorted([(0, 0), (0, END), (END,), ()])
    assert np.isneginf(found.scores_BxN[0, 3]) and np.isfinite(found.scores_BxN[0, :3]).all()


# --- greedy ---------------------------------------------------------------------------------------------------------------


def plain_greedy(seed, start, limit):
    tokens, total = [], 0.0
    while len(tokens) < limit and END not in tokens:
        row = log_probs(seed, start, tokens)
        tokens.append(int(row.argmax()))
        total += row.max()
    return total, tuple(tokens)


@pytest.mark.parametrize("form", ["gnmt", "power"])
def test_greedy_is_the_plain_loop_and_beam_1(form):
    seeds = list(range(24))
    starts, limits = jnp.asarray([s % 2 for s in seeds]), jnp.asarray([1 + s % 5 for s in seeds])
    greedy = jax.jit(
        lambda cache, starts, limits: search.find(search.make_rule(L, END, alpha=0.6, form=form), step, cache, starts, limits)
    )
    found = greedy(start_cache(seeds), starts, limits)
    for row, seed in enumerate(seeds):
        log_p, tokens = plain_greedy(seed, int(starts[row]), int(limits[row]))
        assert_found(found, row, [(log_p / penalty(len(tokens), 0.6, form), log_p, tokens)])
    assert len({len(texts(found, row)[0]) for row in range(24)}) > 2
    assert_same(found, run(1, 0.6, 1, form, seeds=seeds, starts=starts, limits=limits))


def test_greedy_batch_alone_and_empty_rows():
    starts, limits = jnp.asarray(STARTS), jnp.asarray([5, 3, 0, 1, 4, 99])
    together = search.find(search.make_rule(L, END), step, start_cache(SEEDS), starts, limits)
    for row in range(6):
        one = slice(row, row + 1)
        alone = search.find(search.make_rule(L, END), step, start_cache(SEEDS[one]), starts[one], limits[one])
        assert_same(jax.tree.map(lambda x, one=one: x[one], together), alone)
    assert texts(together, 2) == [()] and np.isneginf(together.scores_BxN[2, 0])


# --- the cache's rows -----------------------------------------------------------------------------------------------------


def test_beams_keep_their_parents_row_and_copies_are_minimal():
    draw = np.random.default_rng(0)
    rows = jnp.asarray([draw.permutation(4) for _ in range(9)])
    parents = jnp.asarray(np.concatenate([draw.integers(0, 4, (8, 4)), [[3, 1, 0, 2]]]))
    cache = {"large": jnp.asarray(draw.normal(size=(36, 2, 600))), "small": jnp.arange(36)}

    @jax.jit
    def moved(rows, parents, cache):
        new, source = search._rows(rows, parents)
        source = (jnp.arange(9)[:, None] * 4 + source).reshape(-1)
        return new, source, cache_lib.copy_rows(cache, source)

    new, source, copied = moved(rows, parents, cache)
    assert sorted(map(tuple, np.sort(new, axis=1))) == [(0, 1, 2, 3)] * 9
    for name, leaf in copied.items():
        of_beams = [np.asarray(x).reshape(9, 4, -1) for x in (leaf, cache[name])]
        for sentence in range(9):
            got, wanted = of_beams[0][sentence][new[sentence]], of_beams[1][sentence][rows[sentence][parents[sentence]]]
            np.testing.assert_array_equal(got, wanted)
    dead = sum(4 - len(set(each)) for each in parents.tolist())
    assert int((source != np.arange(36)).sum()) == dead


def test_beams_share_a_row_if_all_layers_have_slots():
    """Then nothing but `seen` changes with the beams; else each beam gets a row."""
    streams = {"key": jnp.ones((2, 1, 3, 6)), "value": jnp.ones((2, 1, 6, 3))}
    tokens = cache_lib.start_tokens(2, 6, set())
    shared = cache_lib.share(tokens | {"layers": [{"slots": streams}]}, 3)
    assert shared["seen"].shape == (2, 3, 6) and shared["layers"][0]["slots"]["key"] is streams["key"]
    seen = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 3, 6)), bool)
    copied = cache_lib.copy_rows(shared | {"seen": seen}, jnp.asarray([0, 0, 2, 5, 4, 4]))
    np.testing.assert_array_equal(copied["seen"], [seen[0, [0, 0, 2]], seen[1, [2, 1, 1]]])
    assert copied["layers"] is shared["layers"]
    for other in ({"state": streams}, {"ring": streams}):
        apart = cache_lib.share(tokens | {"layers": [{"slots": streams}, other]}, 3)
        assert "seen" not in apart and len(apart["next"]) == len(apart["layers"][0]["slots"]["key"]) == 6


def test_a_step_of_all_beams_never_passes_the_last_slot():
    for length, room, beams in ((0, 5, 4), (7, 5, 4), (8, 0, 4), (3, 2, 1)):
        slots = cache_lib.slots_for(length, room, beams)
        assert slots % beams == 0 and length + beams * room <= slots < length + beams * (room + 1)
