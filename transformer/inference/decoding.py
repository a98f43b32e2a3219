"""What `config.search` finds for a batch of sources: search.py over a model.

Letters: B sentences, S source tokens, T target tokens, N entries.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import families
from transformer.components.attention import MASKED
from transformer.config import Config, DataInfo
from transformer.inference import search
from transformer.inference.loading import most_positions, round_length
from transformer.models.cache import with_slots

Array = jax.Array
Rule = search.Greedy | search.Beam
FEW = 4  # once at most one sentence in so many is unfinished, only these are decoded further


def positions_left(config: Config, source_length: int, limit: int) -> int:
    """As many of `limit` output tokens as a table of positions has room for; a decoder alone has its source in it, too."""
    if (most := most_positions(config)) is None:
        return limit
    return min(limit, most if families.FAMILIES[config.family].encodes else most - source_length)


def make_rule(config: Config, data_info: DataInfo, max_length: int, scored: bool = True) -> Rule:
    """How `config.search` searches, for outputs of at most `max_length` tokens."""
    asked = config.search
    how: Any = {"form": asked.penalty_form, "stopping": asked.stopping, "scored": scored}
    return search.make_rule(max_length, data_info.end, asked.beam_size, asked.length_penalty, asked.n_best, **how)


def begin(
    model: Any,
    data_info: DataInfo,
    params: Any,
    source_BxS: Array,
    segments_BxS: Array,
    limit_B: Array,
    *,
    rule: Rule,
    slots: int,
) -> tuple[Any, search.State]:
    """What the model knows of the sources, and the search before the first token, with room for `slots` output tokens."""
    apply = functools.partial(model.apply, {"params": params})
    starts = jnp.full(limit_B.shape, data_info.start, jnp.int32)
    if hasattr(model, "encode"):
        memory = apply(source_BxS, None, segments_BxS, method="encode")
        return memory, rule.begin(apply(memory, slots, rule.beam_size * len(limit_B), method="start"), starts, limit_B)
    # The source is a prefix in the cache, fed once and then shared out to the beams. It sees the start, as in training; the
    # search feeds that again, to the same slot.
    cache = apply(None, source_BxS.shape[1] + slots, len(limit_B), method="start")
    seen = jnp.concatenate([source_BxS, starts[:, None]], axis=1)
    valid = jnp.concatenate([segments_BxS > 0, jnp.ones_like(starts, bool)[:, None]], axis=1)
    fed: Any = apply(seen, cache, None, valid, True, method="step")[1]
    cache = fed | {"slot": fed["slot"] - 1, "next": fed["next"] - 1}
    return None, rule.begin(jax.tree.map(lambda leaf: jnp.repeat(leaf, rule.beam_size, axis=0), cache), starts, limit_B)


def go_on(
    model: Any,
    data_info: DataInfo,
    params: Any,
    memory: Any,
    state: search.State,
    until: Array | int,
    *,
    rule: Rule,
    exact: bool,
) -> search.State:
    """The search until all sentences are done, or have `until` tokens. `exact`: none of which is the end."""
    params, memory = model.unstack_layers(params, memory)

    def step(tokens_BxT: Array, cache: Any) -> tuple[Array, Any]:
        begins = None if data_info.first is None else cache["slot"][0] == 0
        logits_BxTxN, cache = model.apply({"params": params}, tokens_BxT, cache, memory, method="step")
        if begins is not None:
            only_N = jnp.full(logits_BxTxN.shape[-1], MASKED).at[data_info.first].set(0.0)
            logits_BxTxN = jnp.where(begins, only_N[None, None], logits_BxTxN)
        return logits_BxTxN.at[..., data_info.end].set(MASKED) if exact else logits_BxTxN, cache

    return rule.run(step, state, until)


def search_batch(
    model: Any,
    config: Config,
    data_info: DataInfo,
    params: Any,
    source_BxS: Array,
    segments_BxS: Array,
    limit_B: Array,
    *,
    max_length: int,
    scored: bool = True,
) -> search.Hypotheses:
    """What `config.search` finds for each source, of `limit_B` output tokens at most, and never more than `max_length`.

    A row of limit 0 fills the batch. Of a prefix LM the sources end at the right. Meant to be called under jit.
    """
    rule = make_rule(config, data_info, max_length, scored)
    memory, state = begin(model, data_info, params, source_BxS, segments_BxS, limit_B, rule=rule, slots=max_length)
    return rule.finish(go_on(model, data_info, params, memory, state, max_length, rule=rule, exact=False))


@functools.lru_cache(maxsize=64)  # equal models share their programs
def _programs(model: Any, data_info: DataInfo) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (
        jax.jit(functools.partial(begin, model, data_info), static_argnames=("rule", "slots")),
        jax.jit(functools.partial(go_on, model, data_info), static_argnames=("rule", "exact")),
    )


_with_slots = jax.jit(lambda state, slots: state.replace(cache=with_slots(state.cache, slots)), static_argnames="slots")
_of = jax.jit(lambda whole, rows: whole.of(rows))
_finish = jax.jit(lambda rule, state: rule.finish(state), static_argnums=0)


class PartedSearch:
    """The same in parts, each compiled on its own; arrays of what is found are NumPy's.

    A step takes the longer the more slots the cache has, and outputs are about as long as sources, but may be much longer. So
    there are slots for the former, for the latter once they turn up; and if few have turned up, for them alone.
    """

    def __init__(self, model: Any, config: Config, data_info: DataInfo):
        self.config, self.data_info = config, data_info
        self._begin, self._go_on = _programs(model, data_info)

    def __call__(
        self,
        params: Any,
        source_BxS: np.ndarray,
        segments_BxS: np.ndarray,
        limit_B: np.ndarray,
        *,
        max_length: int,
        exact: bool,
        scored: bool,
    ) -> search.Hypotheses:
        """As `search_batch`. `exact`: outputs have exactly as many tokens as the limit, none of them the end. `scored`: with
        scores."""
        rule, before = make_rule(self.config, self.data_info, max_length, scored), source_BxS.shape[1]
        slots = max_length if exact else first_slots(before, max_length)
        memory, state = self._begin(params, source_BxS, segments_BxS, limit_B, rule=rule, slots=slots)
        state = self._go_on(params, memory, state, slots, rule=rule, exact=exact)
        found, done_B = jax.device_get((_finish(rule, state), state.done_B))
        if not done_B.all():
            rows, few = np.flatnonzero(~done_B), len(done_B) // FEW
            if len(rows) <= few:  # filled up with one that is done
                rows = np.concatenate([rows, np.full(few - len(rows), np.argmax(done_B))])
                memory, state = memory and _of(memory, rows), _of(state, rows)
            else:
                rows = np.arange(len(done_B))
            state = _with_slots(state, slots=max_length if memory else before + max_length)
            state = self._go_on(params, memory, state, max_length, rule=rule, exact=exact)
            found = jax.tree.map(functools.partial(_put, rows), found, jax.device_get(_finish(rule, state)))
        return found if scored else found.replace(scores_BxN=None, log_probs_BxN=None)


def first_slots(length: int, max_length: int) -> int:
    """Slots for outputs of sources of `length` tokens at first: all, if that is hardly more."""
    first = round_length(length + 1)
    return first if 4 * first <= 3 * max_length else max_length


def _put(rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    old = np.array(old)
    old[rows] = new
    return old
