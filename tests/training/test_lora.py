"""Adapters and frozen parameters: which are trained, that nothing else changes, and merging of adapters."""

import functools
import json

import jax
import numpy as np
import pytest
import small
import trained
from flax import traverse_util

from transformer import families
from transformer.errors import UserError
from transformer.inference import loading
from transformer.models import lora
from transformer.modes import costs as describing
from transformer.runtime.devices import Runtime
from transformer.training import costs, optimizer, trainer

KERNELS = ("query", "key", "value", "output", "inner", "outer")
ADAPTED = {"model__lora_rank": 3, "model__lora_alpha": 6.0, "model__lora_kernels": KERNELS, "train__warmup_steps": 1}


def leaves(params):
    return traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")


@functools.cache
def updated(family="encoder_decoder", updates=3, **settings):
    """Parameters before and after a few updates, and the state's optimizer."""
    config = small.config(family=family, **({"objective__kind": "causal_lm"} if family == "decoder_only" else {}), **settings)
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    before = small.params(config)
    _, step, begin = trainer.make(config, small.DATA_INFO, model)
    state, run = begin(before), jax.jit(step)
    for number in range(updates):
        state, _ = run(state, small.batch(number, 8))
    return config, leaves(before), leaves(state.params), state.optimizer_state


@pytest.mark.parametrize("family", ["encoder_decoder", "decoder_only"])
def test_adapters_alone_are_trained(family):
    _, before, after, optimizer_state = updated(family, **ADAPTED)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {path for path in before if path.endswith((lora.A, lora.B))}
    assert {path.split("/")[-2] for path in changed} == set(KERNELS)
    moments = [leaf for leaf in jax.tree.leaves(optimizer_state) if leaf.size > 1]
    assert sum(leaf.size for leaf in moments) == 2 * sum(before[path].size for path in changed)


def test_a_model_with_new_adapters_is_the_one_without_and_merging_changes_nothing():
    config, _, after, _ = updated(**ADAPTED)
    params = traverse_util.unflatten_dict(after, sep="/")
    merged = lora.merge(config.model, params)
    plain = small.config()
    model, without = (families.FAMILIES[each.family].model(each, small.DATA_INFO) for each in (config, plain))
    batch = small.batch(7, 4)
    logits, wanted = (each.apply({"params": p}, batch) for each, p in ((model, params), (without, merged)))
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    new = {path: np.zeros_like(leaf) if path.endswith(lora.B) else leaf for path, leaf in after.items()}
    old = {path: leaf for path, leaf in after.items() if not path.endswith((lora.A, lora.B))}
    logits = model.apply({"params": traverse_util.unflatten_dict(new, sep="/")}, batch)
    wanted = without.apply({"params": traverse_util.unflatten_dict(old, sep="/")}, batch)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(logits - model.apply({"params": params}, batch)).max() > 1e-2  # what was trained is not nothing


def test_adapters_begin_at_zero_and_are_drawn_with_the_width_of_their_inputs():
    config = small.config(**ADAPTED | {"model__d_model": 64})
    model = families.FAMILIES[config.family].model(config, small.DATA_INFO)
    made = leaves(families.init_params(model, families.make_objective(config, small.DATA_INFO, {}), 0))
    assert all(not leaf.any() for path, leaf in made.items() if path.endswith(lora.B))
    assert made["encoder/layers/self_attention/query/lora_a"].std() == pytest.approx(64**-0.5, rel=0.15)


def test_what_is_frozen_stays_as_it_is():
    _, before, after, _ = updated(train__freeze=("encoder/*", "*embedding*"), train__weight_decay=0.1, train__optimizer="adamw")
    still = {path for path in before if np.array_equal(before[path], after[path])}
    assert still == {path for path in before if path.startswith("encoder/") or "embedding" in path}


@pytest.mark.parametrize("patterns", [("encoder/no_such/*",), ("*",)])
def test_a_pattern_of_nothing_or_of_all_is_refused(patterns):
    config = small.config(train__freeze=patterns)
    with pytest.raises(UserError) as error:
        optimizer.frozen_mask(small.params(config), patterns, adapters=False)
    assert "config.train.freeze" in str(error.value) and "\n" not in str(error.value)


def test_the_bytes_of_optimizer_and_gradients_are_those_of_adapters():
    config = small.config(**ADAPTED)
    tree = jax.eval_shape(lambda: small.params(config))
    sizes = costs.state_bytes(config.train, {}, tree, adapters=True), costs.state_bytes(config.train, {}, tree)
    paths = traverse_util.flatten_dict(tree, sep="/")
    adapters = sum(leaf.size for path, leaf in paths.items() if path.endswith((lora.A, lora.B)))
    name = next(each for each in sizes[0] if each.startswith("optimizer"))
    assert sizes[0][name] == 2 * 4 * adapters < sizes[1][name]
    assert sizes[0]["gradients"] == 4 * adapters < sizes[1]["gradients"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_memory_that_is_described_is_that_of_the_step(monkeypatch, accumulate):
    """Its temporary arrays take less than gradients of all parameters would."""
    found, count = [], Runtime.train_memory
    monkeypatch.setattr(Runtime, "train_memory", lambda *arguments: found.append(count(*arguments)) or found[-1])
    sizes = {
        "model__d_model": 128,
        "model__d_ff": 1024,
        "data__row_length": 16,
        "train__batch_tokens": 32,
        "train__accumulate": accumulate,
    }
    memory = describing.memory(small.config(model__lora_rank=2, **sizes), small.DATA_INFO, 16)
    compiled = found[0].argument_size_in_bytes + found[0].temp_size_in_bytes
    assert sum(memory.held.values()) + memory.temporary == pytest.approx(compiled, rel=0.05)


@pytest.mark.slow
def test_a_run_with_adapters_resumes_to_the_bit_and_predicts_merged(tmp_path):
    """It starts from another run's parameters."""
    run = trained.run()
    changes = {"train.init_from": run.workdir, "model.lora_rank": 2, "train.learning_rate": 0.01, "train.schedule": "constant"}
    changes |= {"checkpoint.every_steps": 4, "data.directory": run.folder / "data"}
    arguments = [f"--config={run.experiment}", *(f"--config.{name}={value}" for name, value in changes.items())]
    results = [
        trained.command(*arguments, f"--workdir={tmp_path}/whole", "--config.train.steps=8"),
        trained.command(*arguments, f"--workdir={tmp_path}/halves", "--config.train.steps=4"),
        trained.command(f"--workdir={tmp_path}/halves", "--config.train.steps=8"),
    ]
    assert [result.status for result in results] == [0, 0, 0], results
    one, two = (
        json.loads((tmp_path / each / "evaluation" / "test.json").read_text())["scores"] for each in ("whole", "halves")
    )
    assert one == two
    made = loading.read(tmp_path / "whole")
    old, new = leaves(loading.read(run.workdir).params), leaves(made.params)
    changed = {path for path in new if not np.array_equal(new[path], old[path])}
    assert old.keys() == new.keys() and made.config.model.lora_rank is None
    assert {tuple(path.split("/")[-2:]) for path in changed} == {("query", "kernel"), ("value", "kernel")}
