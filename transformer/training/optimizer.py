"""Schedules and update rules, as optax chains."""

import fnmatch
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transformer.config import Model, Train
from transformer.errors import UserError
from transformer.models import lora

# Last names of parameters that are decayed: kernels and embeddings; not norms' factors, biases, or a component's small tables.
DECAYED = ("kernel", "table", lora.A, lora.B)
HEADS = ("classifier/", "pooler/")  # classifiers, which are new in a fine-tuned model


def peak_learning_rate(train: Train, model: Model) -> float:
    """`learning_rate`, or the rate that equation 3 of Vaswani et al. 2017 reaches at the end of its warm-up."""
    if train.learning_rate is not None:
        return train.learning_rate
    return model.d_model**-0.5 * max(train.warmup_steps, 1) ** -0.5


def numbers(train: Train, model: Model) -> dict[str, float]:
    """The arguments of a schedule besides the update. They are arguments of the program, which is then the same for all
    values."""
    peak = peak_learning_rate(train, model)
    return {"peak": peak, "warmup": train.warmup_steps, "steps": train.steps, "decay": train.decay_updates}


def make_schedule(train: Train, model: Model) -> optax.Schedule:
    """Update number (from 0) -> learning rate, as `learning_rate` with the settings' numbers."""
    return functools.partial(learning_rate, train.schedule, **numbers(train, model))


def learning_rate(schedule: str, update: Any, *, peak: Any, warmup: Any, steps: Any, decay: Any) -> Any:
    """The learning rate of an update (from 0): linear warm-up to the peak at update `warmup` - 1, then `schedule`.

    rsqrt: peak * sqrt(warmup / step), the paper's equation 3, whose steps count from 1; cosine and linear: from the peak
    down to 0 at update `steps`, the first that is not made; wsd: the peak, and in the last `decay` updates as linear.
    """
    if schedule == "rsqrt":
        after = peak * ((update + 1) / jnp.maximum(warmup, 1)) ** -0.5
    elif schedule == "cosine":
        after = peak * 0.5 * (1 + jnp.cos(jnp.pi * _fraction(update - warmup, steps - warmup)))
    elif schedule == "linear":
        after = peak * (1 - _fraction(update - warmup, steps - warmup))
    elif schedule == "wsd":
        after = peak * (1 - _fraction(update - (steps - decay), decay))
    else:
        after = peak * jnp.ones(())
    warming = peak * (update + 1) / jnp.maximum(warmup, 1)  # not from 0: the first update would do nothing
    return jnp.where(update < warmup, warming, after)


def _fraction(done: Any, of: Any) -> Any:
    return jnp.clip(done / jnp.maximum(of, 1), 0, 1)


def warm_up_warning(train: Train, model: Model) -> list[str]:
    """A line for a run that ends before its warm-up does, so that it learns little; none for any other."""
    if train.steps >= train.warmup_steps:
        return []
    reached = peak_learning_rate(train, model) * train.steps / train.warmup_steps
    return [
        f"config.train.steps {train.steps:,} is less than config.train.warmup_steps {train.warmup_steps:,}: the learning rate "
        f"reaches {reached:.2g}, {train.steps / train.warmup_steps:.1%} of its peak; lower the second or raise the first"
    ]


def decay_mask(params: optax.Params) -> optax.Params:
    """True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def _muon(train: Train) -> optax.GradientTransformation:
    """Orthogonalized momentum for the kernels of layers (Jordan 2024), times 0.2 sqrt(max(inputs, outputs)), the size of Adam's
    updates, so that one learning rate does for both (Liu et al. 2025, section 2.2); Adam for embeddings, heads, norms, biases.
    """

    def is_leaf(x: Any) -> bool:
        return x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda axes: "adam" if axes is None else "muon", matrices(params), is_leaf=is_leaf)

    def sized(updates: Any, _: Any) -> Any:
        def of(axes: Any, update: Any) -> Any:
            sizes = [math.prod(update.shape[axis] for axis in side) for side in (axes.reduction_axis, axes.output_axis)]
            return update * (0.2 * math.sqrt(max(sizes)))

        return jax.tree.map(of, matrices(updates), updates, is_leaf=is_leaf)

    muon = optax.chain(optax.contrib.scale_by_muon(weight_dimension_numbers=matrices), optax.stateless(sized))
    adam = optax.scale_by_adam(train.beta1, train.beta2, train.epsilon)
    return optax.multi_transform({"muon": muon, "adam": adam}, labels)


def matrices(params: Any) -> Any:
    """For each kernel of a layer its axes of inputs and of outputs, as one matrix each: d_model x (heads * width), and (heads *
    width) x d_model for the output of attention; None for other parameters. Layers that are stacked are matrices of their own.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [part.key for part in path]
        if names[-1] != "kernel" or names[0] not in ("encoder", "decoder", "memory"):
            return None
        # Behind the axis of layers, which the cells of a recurrent decoder do not have: they are matrices.
        first = int(leaf.ndim > 2 and ("layers" in names or names[0] == "memory"))
        inputs = 2 if names[-2] == "output" and leaf.ndim - first == 3 else 1
        axes = range(first, leaf.ndim)
        return optax.contrib.MuonDimensionNumbers(tuple(axes[:inputs]), tuple(axes[inputs:]))

    return jax.tree_util.tree_map_with_path(of, params)


def _by_width(ratio: float) -> optax.GradientTransformation:
    """Divides the updates of kernels by the ratio of widths (muP for Adam; Yang et al. 2022, Table 8). Embeddings, norms and
    biases keep the learning rate. All kernels have inputs that grow with the width (validation refuses others)."""

    def divided(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, u: u / ratio if path[-1].key == "kernel" else u, updates)

    return optax.stateless(divided)


class ScheduleFree(NamedTuple):
    """State of schedule-free training: the state of the rule, the sequence z, and the sum of squared learning rates."""

    rule: optax.OptState
    z: optax.Params
    weight_sum: Any


def _schedule_free(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule's updates, from which `apply_updates` computes z, the average x and the parameters y (Defazio et al. 2024)."""

    def init(params: Any) -> ScheduleFree:
        return ScheduleFree(rule.init(params), jax.tree.map(jnp.copy, params), jnp.zeros(()))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ScheduleFree]:
        updates, inner = rule.update(updates, state.rule, params)
        return updates, state._replace(rule=inner)

    return optax.GradientTransformation(init, update)


def apply_updates(
    train: Train, params: Any, updates: Any, optimizer_state: Any, average: Any, rate: Any
) -> tuple[Any, Any, Any]:
    """Parameters, optimizer's state and average after an update at the learning rate `rate`.

    Schedule-free (Defazio et al. 2024, equations 3 to 5, with weights of squared learning rates): z -= rate u; x += c (z - x)
    with c = rate^2 / sum of rate^2; y = (1 - beta1) z + beta1 x. The parameters are y, and x is the average.
    """
    if train.optimizer != "schedule_free":
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        if train.ema_decay is not None:
            average = optax.incremental_update(params, average, 1 - train.ema_decay)
        return params, optimizer_state, average
    weight_sum = optimizer_state.weight_sum + rate**2
    share = rate**2 / jnp.maximum(weight_sum, jnp.finfo(jnp.float32).tiny)
    z = jax.tree.map(lambda z, u: z - rate * u, optimizer_state.z, updates)
    average = jax.tree.map(lambda x, z: x + share * (z - x), average, z)
    params = jax.tree.map(lambda x, z: z + train.beta1 * (x - z), average, z)
    return params, optimizer_state._replace(z=z, weight_sum=weight_sum), average


def frozen(path: str, patterns: tuple[str, ...], adapters: bool) -> bool:
    """Whether the parameter of this path is not trained. With adapters, only they and the classifiers are trained."""
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
        return True
    return adapters and path.rpartition("/")[2] not in (lora.A, lora.B) and not path.startswith(HEADS)


def frozen_mask(params: Any, patterns: tuple[str, ...], adapters: bool) -> Any:
    """True where a parameter is not trained. UserError: a pattern matches no parameter, or no parameter is trained."""
    paths = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params)
    leaves = jax.tree.leaves(paths)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in leaves):
            raise UserError(
                f"config.train.freeze {pattern}: no parameter has such a path; examples are {leaves[0]}, {leaves[-1]}"
            )
    if all(frozen(path, patterns, adapters) for path in leaves):
        raise UserError("config.train.freeze: no parameter is left to train; name fewer patterns")
    return jax.tree.map(lambda path: frozen(path, patterns, adapters), paths)


def freezing(train: Train, adapters: bool) -> Callable[[Any], Any] | None:
    """A function from parameters to `frozen_mask`, or None if all parameters are trained."""
    if not train.freeze and not adapters:
        return None
    return functools.partial(frozen_mask, patterns=train.freeze, adapters=adapters)


def still(params: Any, frozen: Callable[[Any], Any] | None) -> Any:
    """The parameters, without gradients for those that are not trained. `frozen`: what `freezing` gives."""
    if frozen is None:
        return params
    return jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, frozen(params))


def make_optimizer(train: Train, adapters: bool = False, width_ratio: float = 1.0) -> optax.GradientTransformation:
    """Clipping by global norm, then Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), Adafactor (Shazeer and Stern
    2018), Lion (Chen et al. 2023), Muon (Jordan 2024) or schedule-free AdamW (Defazio et al. 2024).

    `apply_updates` takes its updates. Frozen parameters have no state and no updates.
    `width_ratio`: that of the model, which divides the updates of kernels, but not their decay.
    """
    adam = (train.beta1, train.beta2, train.epsilon)
    decay = optax.add_decayed_weights(train.weight_decay, decay_mask)
    parts = {
        "adam": lambda: [optax.scale_by_adam(*adam)],
        "adamw": lambda: [optax.scale_by_adam(*adam), decay],
        "lion": lambda: [optax.scale_by_lion(train.beta1, train.beta2), decay],
        "muon": lambda: [_muon(train), decay],
        "schedule_free": lambda: [optax.scale_by_adam(0.0, train.beta2, train.epsilon), decay],
        "adafactor": lambda: [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()],
    }[train.optimizer]()
    if width_ratio != 1:
        parts.insert(1, _by_width(width_ratio))
    if train.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(train.clip_norm))
    rule, mask = optax.chain(*parts), freezing(train, adapters)
    if mask is not None:

        def labels(params: Any) -> Any:
            return jax.tree.map(lambda still: "frozen" if still else "trained", mask(params))

        rule = optax.multi_transform({"trained": rule, "frozen": optax.set_to_zero()}, labels)
    return _schedule_free(rule) if train.optimizer == "schedule_free" else rule
