"""Properties of training: gradients, the loss, and the costs of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checks.programs import trained
from transformer.checks.subject import PACKED, SLOTS, Outcome, Subject, pack, paths
from transformer.config import Parallel
from transformer.models import program
from transformer.runtime.devices import Runtime
from transformer.training import costs

EXTREME = 100.0  # factor on the parameters of attention, which makes logits 10,000 times as large
UPDATES, MOST_UPDATES = 100, 600  # on one batch: in a round, and in all rounds
WIDE = 256  # d_model when operations are counted


def masked_rows(subject: Subject) -> Outcome:
    """The number of gradients that are not finite if rows have no tokens or no source."""
    batch = {name: array.copy() for name, array in pack(subject.examples, PACKED).items()}
    if len(subject.reads) == 2:
        for name in ("source", "source_positions", "source_segments"):
            batch[name][0] = 0
    return _not_finite(subject.gradients(batch))


def extreme_logits(subject: Subject) -> Outcome:
    """The number of gradients that are not finite if the parameters of attention are large."""

    def large(path: Any, leaf: Any) -> Any:
        return leaf * EXTREME if "attention" in jax.tree_util.keystr(path) else leaf

    return _not_finite(subject.gradients(subject.packed, jax.tree.map_with_path(large, subject.params)))


def _not_finite(trees: Any) -> float:
    return float(sum(np.sum(~np.isfinite(np.asarray(leaf, np.float32))) for leaf in jax.tree.leaves(trees)))


def unread(subject: Subject) -> dict[str, int]:
    """The parameters that have no gradient: path -> the number of layers, or 1 for a parameter outside of layers."""
    result = {}
    for path, leaf in paths(subject.gradients(subject.packed)[1]).items():
        layers = leaf if "/layers/" in path or path.startswith("memory/") else leaf[None]
        if count := sum(not np.any(layer) for layer in layers):
            result[path] = count
    return result


def no_gradient(subject: Subject) -> Outcome:
    """The number of parameters that have no gradient."""
    if not (missing := unread(subject)):
        return 0.0
    made = trained(subject)  # some are used only in training
    if not isinstance(made, str):
        loss = made[0].loss
        gradients = jax.jit(jax.grad(lambda params: loss(params, made[2], jax.random.key(0))["loss_sum"]))(subject.params)
        missing = {path for path in missing if not np.any(paths(gradients)[path])}
    return float(len(missing))


def repeated_batch(subject: Subject) -> Outcome:
    """The loss after 100 updates on one batch, divided by the loss before them. While it is more than half, another 100 updates
    follow, up to 600: some correct models, such as those with a tanh as their norm, first learn frequencies alone.
    """
    made = trained(subject)
    if isinstance(made, str):
        return made
    parts, step, batch = made
    runtime = Runtime(Parallel("jit"), jax.devices("cpu")[:1])
    state = runtime.place_state(jax.device_get(parts.begin(subject.initial)))
    update, placed, losses = runtime.compile_train(step), runtime.place_batch(batch), []
    while len(losses) < MOST_UPDATES and (not losses or losses[-1] > losses[0] / 2):
        for _ in range(UPDATES):
            state, metrics = update(state, placed)
            losses.append(metrics["loss_sum"])
    return float(losses[-1] / losses[0])


def parameters(subject: Subject) -> Outcome:
    """The counted parameters minus the model's parameters."""
    counted = costs.totals(subject.config, subject.data_info).size
    return float(abs(counted - sum(leaf.size for leaf in jax.tree.leaves(subject.params))))


def flops(subject: Subject) -> Outcome:
    """The ratio of our count of operations of a forward pass to XLA's count, minus 1."""
    if subject.recurrent:
        return "XLA does not count what is inside a loop over time"
    model = subject.config.model
    # Wider than elsewhere, so that products dominate elementwise operations, which XLA counts in more detail. Nothing is run.
    wide = {"d_model": WIDE, "d_ff": 4 * WIDE, "unroll": max(model.num_encoder_layers, model.num_decoder_layers)}
    other = subject.variant(**wide)
    batch = {name: jax.ShapeDtypeStruct((1, SLOTS), jnp.int32) for name in subject.separate}
    params = jax.eval_shape(lambda: other.model.init(jax.random.key(0), jax.tree.map(jnp.zeros_like, batch))["params"])
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = jax.jit(lambda params, batch: other.model.apply({"params": params}, batch)).lower(params, batch)
        compiled = lowered.compile({"xla_backend_optimization_level": "0"})
    text = compiled.as_text() or ""
    if " while(" in text or "custom-call" in text:
        return "XLA does not count what is inside a loop or a library's call"
    measured = (compiled.cost_analysis() or {})["flops"]
    try:
        found = costs.count(other.config, subject.data_info, (SLOTS, SLOTS))
    except program.Uncountable as error:
        return str(error)
    return float(abs(sum(work.total for work in found.forward.values()) / measured - 1))
