"""The number of JAX compilations: counted from JAX's own events, bounded for mixed lengths, and reported if they do not end."""

import io
import json
import random
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import small
from trained import translator

from transformer.inference.loading import LENGTHS, round_length
from transformer.inference.translate import Translator
from transformer.runtime import compilations
from transformer.settings import replace
from transformer.training import loop
from transformer.training.monitor import Monitor
from transformer.training.telemetry import Telemetry


def test_what_is_compiled_is_counted_once():
    double = jax.jit(lambda x: x * 2 + 1)
    values = [jnp.zeros(n) for n in (3, 4)]
    before = compilations.count()
    for shape, times in ((0, 1), (0, 1), (1, 2), (0, 2)):
        double(values[shape])
        assert compilations.count() - before == times


def run(tmp_path, lengths, step=None, **settings):
    """Trains on batches of these lengths; returns its output and its reports."""
    config = replace(replace(small.SMALL, "train.steps", len(lengths)), "train.log_every", 1)
    for name, value in settings.items():
        config = replace(config, name.replace("__", "."), value)
    stream = io.StringIO()
    with Telemetry(tmp_path / "metrics.jsonl", tmp_path / "events", 0, len(lengths), stream=stream) as telemetry:
        runtime = SimpleNamespace(
            place_batch=dict, fetch=lambda metrics: {name: float(value) for name, value in metrics.items()}, asked=bool
        )
        step = step or jax.jit(lambda state, batch: sums(state, batch))  # of this run alone
        job = loop.Job(config, runtime, step, small.callbacks(), telemetry, Monitor(config), loop.Stop())
        loop.alone(loop.train(job, jnp.zeros(()), 0, [{"x": jnp.ones(length)} for length in lengths]))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    return stream.getvalue().splitlines(), [row["train/compilations"] for row in rows]


def sums(state, batch):
    total = batch["x"].sum()
    names = ("loss_sum", "nll_sum", "correct_sum", "weight_sum")
    return state + total, dict.fromkeys(names, total) | {"skipped": jnp.zeros(())}


def test_each_shape_is_compiled_once_and_counted(tmp_path):
    lines, counts = run(tmp_path, [3, 4, 3, 5, 4, 3, 5, 5], data__batching="bucketed", data__buckets=3)
    assert counts == [1, 2, 2, 3, 3, 3, 3, 3]
    assert len(lines) == 8 and not [line for line in lines if "compiled" in line]


@pytest.mark.parametrize(("batching", "due"), [("packed", 1), ("bucketed", 2)])
def test_a_run_that_compiles_again_and_again_says_so_once(tmp_path, batching, due):
    lines, counts = run(tmp_path, range(1, 12), data__batching=batching, data__buckets=2)
    assert counts == list(range(1, 12))
    number = due + loop.SPARE
    [line] = [line for line in lines if "compiled" in line]
    assert line.startswith(f"step {number}/11  compiled again, {number} times so far, though batches have at most {due} shape")


def test_a_step_that_is_made_anew_each_time_is_found_too(tmp_path):
    """With a single shape: only the compiler's events show it."""
    lines, counts = run(tmp_path, [3] * 6, step=lambda state, batch: jax.jit(lambda s, b: sums(s, b))(state, batch))
    assert counts == [1, 2, 3, 4, 5, 6] and any("compiled again" in line for line in lines)


def test_translating_mixed_lengths_compiles_a_bounded_number_of_programs():
    model, draw = Translator(translator().loaded), random.Random(0)
    texts = ["".join(draw.choices("abcdef", k=draw.randint(1, 60))) for _ in range(150)]
    most = model.config.data.max_source_length
    bounds = {min(round_length(n), most) for n in range(1, most + 1)}
    assert len(bounds) <= len(LENGTHS)
    list(model.translate(texts))
    before = compilations.count()
    assert len(list(model.translate(texts[::-1] + ["ab" * n for n in range(40)]))) == 190
    assert compilations.count() == before  # whatever comes, it has been compiled
