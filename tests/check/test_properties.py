"""Each property finds its fault, and reports no fault for a correct model."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest
from broken import BROKEN, IntegersTimesFloats

from transformer.checks import batches, decoding, table
from transformer.checks.subject import Subject
from transformer.components.masks import Causal
from transformer.config import Config, Model, Objective
from transformer.families import param_shapes
from transformer.settings import replace

SMALL = Config(
    family="decoder_only",
    objective=Objective("causal_lm"),
    model=Model(num_decoder_layers=2, d_model=8, d_ff=8, num_heads=4, tying="none", attention_backend="plain"),
)
OF = {each.measure: each for each in table.PROPERTIES}


def subject(**model) -> Subject:
    """A model with these settings and drawn parameters: nothing is compiled."""
    config = SMALL
    for name, value in model.items():
        config = replace(config, f"model.{name}", value)
    made = Subject(config)
    draw = np.random.default_rng(1)

    def number(path, leaf):
        return ((path[-1].key == "scale") + draw.normal(scale=0.4, size=leaf.shape)).astype(leaf.dtype)

    shapes = param_shapes(made.model, {name: array.dtype for name, array in made.separate.items()})
    return Subject(config, jax.tree.map_with_path(number, shapes))


@functools.cache
def sound() -> Subject:
    return subject(num_kv_heads=2)


def finding(measure, of: Subject) -> table.Finding:
    (found,) = table.run(of, (OF[measure],))
    return found


# Those that compile gradients or steps.
SLOW = {each for _, each in BROKEN.values() if not each.__module__.endswith("batches")} | {batches.causal}


def few(cases: list, of: Callable) -> list:
    """The cases, those marked slow whose property is in SLOW."""
    return [pytest.param(case, marks=pytest.mark.slow) if of(case) in SLOW else case for case in cases]


@pytest.mark.parametrize("name", few(list(BROKEN), lambda name: BROKEN[name][1]))
def test_a_fault_is_found(name):
    settings, measure = BROKEN[name]
    found = finding(measure, subject(**settings))
    assert found.failed, found
    assert "broken.py" in table.remedy(found, subject(**settings).config)


@pytest.mark.parametrize(
    "measure", few(list(dict.fromkeys(m for _, m in BROKEN.values())), lambda each: each), ids=lambda each: each.__name__
)
def test_a_sound_model_has_no_fault(measure):
    found = finding(measure, sound())
    assert not found.failed and found.error is not None, found


@dataclasses.dataclass(frozen=True)
class Sinks(Causal):
    """The first tokens and a window: the span is wrong, which short rows cannot show."""

    size: int = 64

    def seen(self, query, key):
        near = query.positions[..., :, None] - key.positions[..., None, :] < self.size
        return super().seen(query, key) & (near | (key.positions[..., None, :] < 4))

    def span(self, prefix):
        return self.size - 1, 0


def test_a_mask_that_spans_more_than_the_rows_says_so():
    assert "give it a smaller size" in finding(decoding.past_window, subject(mask=Sinks())).reason
    assert finding(decoding.one_by_one, subject(mask=Sinks(size=3))).failed


def test_integers_that_meet_floats_are_no_fault_of_half_precision():
    found = finding(batches.dtypes, subject(attention=IntegersTimesFloats()))
    assert not found.failed and "integers and floats" in found.reason and "broken.py" in found.reason
