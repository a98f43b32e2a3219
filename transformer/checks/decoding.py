"""Properties of decoding: steps with a cache give the same outputs as one pass over the whole text.

Letters: R rows, T new tokens of a call.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import registry
from transformer.checks.shrink import WINDOW
from transformer.checks.subject import ROWS, SLOTS, Outcome, Subject, distance, examples, pack
from transformer.models import cache as caches

BEAMS, CHUNK, CACHE = 2, 4, 32  # rows per sentence; tokens in a longer call; slots of the cache
SENTENCES = ROWS // BEAMS
ORDER = np.arange(ROWS).reshape(-1, BEAMS)[:, ::-1].ravel()  # the rows of each sentence in reverse order


def no_cache(subject: Subject) -> str | None:
    """The reason why a model has no cache, or None if it has one."""
    if subject.side == "source":
        return "a model without a decoder has no cache"
    if not subject.recurrent and not subject.config.model.remembers_keys:
        return "the mask lets tokens see later ones, so the prefix is recomputed at every step"
    return None


def one_by_one(subject: Subject) -> Outcome:
    """One token in each call."""
    return no_cache(subject) or _error(subject, _calls(*[1] * SLOTS))


def in_chunks(subject: Subject) -> Outcome:
    """Several tokens in one call, then one by one; in between, the rows of each sentence are swapped, like beams."""
    return no_cache(subject) or _error(subject, _calls(CHUNK, CHUNK, 1, 1, 1, 1), reorder_after=2)


def left_padding(subject: Subject) -> Outcome:
    """Rows that begin with padding of different lengths."""
    padding = np.asarray([[0], [1], [3], [CHUNK], [2], [1]])
    return no_cache(subject) or _error(subject, [np.arange(CHUNK) >= padding, *_calls(CHUNK, *[1] * 6)])


def middle_padding(subject: Subject) -> Outcome:
    """Rows with padding between and after the tokens of a call."""
    draw = np.random.default_rng(0)
    calls = [draw.random((ROWS, length)) < 0.6 for length in (CHUNK, CHUNK, 1, CHUNK, 1, 1, CHUNK)]
    return no_cache(subject) or _error(subject, calls)


def past_window(subject: Subject) -> Outcome:
    """All of these with a sliding window, and thus a ring cache; it is added if the configuration has none."""
    if (why := no_cache(subject)) or subject.recurrent:
        return why or "a recurrent model has no window"
    if any(each.window is not None for each in subject.layer_types()):
        return "the configuration has a window: the four lines above decode past it"
    for each in subject.layer_types():
        if (span := each.self_mask("decoder").span(False)[0]) is not None and span >= SLOTS // 2:
            name = registry.reference(type(each.mask))
            return f"config.model.mask {name} spans {span} tokens, more than the rows here; give it a smaller size to check it"
    windowed = subject.variant(window=WINDOW)
    for each in windowed.layer_types():
        mask, sizes = each.self_mask("decoder"), each.sizes("decoder")
        if why := each.attention.supports(mask, each.positions, sizes):
            return why
    return max(float(each(windowed)) for each in (one_by_one, in_chunks, left_padding, middle_padding))


def shared_by_beams(subject: Subject) -> Outcome:
    """The beams of a sentence in one cache, which beam search uses: one token of each beam in each call. After some calls all
    beams continue the first one, and later they are swapped."""
    if why := no_cache(subject):
        return why
    model, params, memory = _begun(subject)
    cache = caches.share(model.start(memory, CACHE, SENTENCES), BEAMS)
    if "seen" not in cache:
        return "a layer has a state or a window, so each beam has its own cache"
    fed, texts = _texts(), _texts()
    texts[1::BEAMS, :CHUNK] = texts[::BEAMS, :CHUNK]
    wanted, run = _whole(subject, texts), _stepper(subject)
    order, found = np.arange(ROWS), np.zeros((ROWS, SLOTS, wanted.shape[-1]), np.float32)
    for slot in range(SLOTS):
        if slot == CHUNK:
            cache, fed = caches.copy_rows(cache, jnp.arange(ROWS) // BEAMS * BEAMS), texts
        elif slot == CHUNK + 2:
            cache, order = caches.copy_rows(cache, jnp.asarray(ORDER)), ORDER
        tokens = fed[order, slot].reshape(SENTENCES, BEAMS)
        logits, cache = run(params, memory, cache, tokens, np.ones(tokens.shape, bool))
        found[order, slot] = np.asarray(logits, np.float32).reshape(ROWS, -1)
    compared = np.ones((ROWS, SLOTS), bool)
    compared[1::BEAMS, :CHUNK] = False  # what these beams had before they continued another one
    return distance([found[compared]], [np.asarray(wanted)[compared]])


def _calls(*lengths: int) -> list[np.ndarray]:
    return [np.ones((ROWS, length), bool) for length in lengths]


def _error(subject: Subject, calls: Sequence[np.ndarray], reorder_after: int | None = None) -> float:
    """`calls`: for each call of the step, a mask RxT that is False for padding."""
    ids = _texts()
    wanted = _whole(subject, ids)
    found = _decode(subject, ids, calls, reorder_after)
    return distance(found, [wanted[row, : len(found[row])] for row in range(ROWS)])


def _texts() -> np.ndarray:
    """The tokens RxT of full rows."""
    return np.concatenate([pack(examples(seed), [(0,)])["inputs"] for seed in range(ROWS)])


def _whole(subject: Subject, ids: np.ndarray) -> Any:
    """The logits of one pass over the whole texts; BEAMS rows belong to each source."""
    sentences = [number for number in range(SENTENCES) for _ in range(BEAMS)]
    whole = {name: array[sentences] for name, array in subject.separate.items()}
    whole |= {"inputs": ids, "positions": np.tile(np.arange(SLOTS, dtype=np.int32), (ROWS, 1)), "segments": np.ones_like(ids)}
    return subject.outputs(whole)


def _begun(subject: Subject) -> tuple[Any, Any, Any]:
    """The model, its parameters, and the memory of the sources, for a loop of steps."""
    model, memory = subject.model, None
    if "source" in subject.reads:
        source = {name: array[:SENTENCES] for name, array in subject.separate.items() if name.startswith("source")}

        def encode(params: Any, source: Any) -> Any:
            arguments = source["source"], source["source_positions"], source["source_segments"]
            return model.apply({"params": params}, *arguments, method="encode")

        memory = subject.program("encode", lambda: encode)(subject.params, source)
    return model, *model.unstack_layers(subject.params, memory)


def _stepper(subject: Subject) -> Any:
    """The compiled step."""

    def step(params: Any, memory: Any, cache: Any, tokens: Any, valid: Any) -> Any:
        return subject.model.apply({"params": params}, tokens, cache, memory, valid, method="step")

    return subject.program("step", lambda: step)


def _decode(subject: Subject, ids: np.ndarray, calls: Sequence[np.ndarray], reorder_after: int | None) -> list[np.ndarray]:
    """For each row of `ids`, the logits after each token that was fed."""
    model, params, memory = _begun(subject)
    cache, run = model.start(memory, CACHE, ROWS), _stepper(subject)
    order, fed, junk = np.arange(ROWS), np.zeros(ROWS, int), np.random.default_rng(3)
    found: list[list[np.ndarray]] = [[] for _ in range(ROWS)]
    for number, wanted in enumerate(calls):
        if number == reorder_after:
            cache, order = jax.tree.map(lambda leaf: leaf[ORDER], cache), order[ORDER]
        tokens = junk.integers(0, subject.data_info.target_size, wanted.shape).astype(np.int32)
        valid = wanted & (np.cumsum(wanted, axis=1) + fed[order][:, None] <= SLOTS)
        for place, row in enumerate(order):
            count = int(valid[place].sum())
            tokens[place, valid[place]] = ids[row, fed[row] : fed[row] + count]
            fed[row] += count
        logits, cache = run(params, memory, cache, tokens, valid)
        for place, row in enumerate(order):
            found[row].extend(np.asarray(logits[place], np.float32)[valid[place]])
    return [np.stack(each) if each else np.zeros((0, subject.data_info.target_size), np.float32) for each in found]
