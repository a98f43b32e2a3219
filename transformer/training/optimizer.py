"""Schedules and update rules, as optax chains."""

from typing import Any

import jax
import optax

from transformer.config import Model, Train

# Last names of parameters that are decayed: kernels and embeddings; not norms' factors, biases, or a component's small tables.
DECAYED = ("kernel", "table")


def peak_learning_rate(train: Train, model: Model) -> float:
    """`learning_rate`, or what equation 3 of Vaswani et al. 2017 reaches at the end of its warm-up."""
    if train.learning_rate is not None:
        return train.learning_rate
    return model.d_model**-0.5 * max(train.warmup_steps, 1) ** -0.5


def make_schedule(train: Train, model: Model) -> optax.Schedule:
    """Update number (from 0) -> learning rate. Linear warm-up to the peak at update `warmup_steps` - 1, then `schedule`.

    rsqrt: peak * sqrt(warmup / step), the paper's equation 3, whose steps count from 1; cosine and linear: from the peak
    down to 0 at update `steps`, the first that is not made; wsd: the peak, and in the last `decay_steps` updates as linear.
    """
    peak, warmup = peak_learning_rate(train, model), train.warmup_steps
    rest = max(train.steps - warmup, 1)

    def warm_up(update: Any) -> Any:  # not from 0: the first update would do nothing
        return peak * (update + 1) / warmup

    def rsqrt(update: Any) -> Any:  # updates since the end of the warm-up
        return peak * ((update + 1 + warmup) / warmup) ** -0.5

    after = {
        "rsqrt": rsqrt,
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
        "wsd": optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, max(train.decay_updates, 1))],
            [train.steps - warmup - train.decay_updates],
        ),
    }[train.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules([warm_up, after], [warmup])


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


def make_optimizer(train: Train) -> optax.GradientTransformation:
    """Clipping by global norm, then Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or Adafactor
    (Shazeer and Stern 2018). Its updates are to be multiplied by the learning rate and subtracted."""
    parts = {
        "adam": lambda: [optax.scale_by_adam(train.beta1, train.beta2, train.epsilon)],
        "adamw": lambda: [
            optax.scale_by_adam(train.beta1, train.beta2, train.epsilon),
            optax.add_decayed_weights(train.weight_decay, decay_mask),
        ],
        "adafactor": lambda: [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()],
    }[train.optimizer]()
    if train.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(train.clip_norm))
    return optax.chain(*parts)
