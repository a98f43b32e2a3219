"""Properties of other ways to compute a model: another program, another type, other devices, a saved copy."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import families, settings
from transformer.checks.subject import Outcome, Subject, distance, pack, paths
from transformer.components import fused as kernels
from transformer.config import Checkpoint, Config, Parallel, Train
from transformer.models import axes
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime
from transformer.training import optimizer, step, trainer

TRAIN = Train(label_smoothing=0.0)
RATE, WARMUP = 0.003, 10
RECURRENT = "a recurrent model has no such setting"
DEVICES = 8
LAYOUTS = {
    "pmap": Parallel("pmap"),
    "fsdp": Parallel("mesh", fsdp=4),
    "tensor": Parallel("mesh", fsdp=2, tensor=2),
}


def chunked(subject: Subject) -> Outcome:
    """Chunks of 5 queries, which do not divide a row evenly."""
    return _against(subject, attention_backend="chunked", attention_chunk=5)


def fused(subject: Subject) -> Outcome:
    """A fused kernel, or on a CPU, which has none, a computation from the kernel's arguments."""
    if subject.recurrent:
        return RECURRENT
    return not_fused(subject) or _against(subject, attention_backend="fused")


def not_fused(subject: Subject) -> str | None:
    """The backend of the first attention that no kernel computes, and the reason; None if kernels compute all of them."""
    other = subject.variant(attention_backend="fused")
    with kernels.choices() as found:
        jax.eval_shape(other.apply, other.params, other.packed)
    names = {each.name for each in kernels.KERNELS.get(kernels.platform(), ())}
    return next((f"{where}: {each}" for where, chosen in found.items() for each in chosen if each not in names), None)


def unrolled(subject: Subject) -> Outcome:
    """Unrolled layers instead of a loop over them."""
    model = subject.config.model
    return _against(subject, unroll=max(model.num_encoder_layers, model.num_decoder_layers))


def remat(subject: Subject) -> Outcome:
    """Activations that are recomputed in the backward pass."""
    return _against(subject, remat="full")


def _against(subject: Subject, **model: Any) -> Outcome:
    """The difference of outputs and gradients from those of another program, on packed rows."""
    if subject.recurrent:
        return RECURRENT
    wanted, found = subject.gradients(subject.packed), subject.variant(**model).gradients(subject.packed)
    return max(distance(found[0], wanted[0]), distance(found[1], wanted[1]))


def bfloat16(subject: Subject) -> Outcome:
    """The root mean square of the difference from fp32, divided by that of the fp32 outputs: in bf16, or with products in it,
    whichever is larger."""
    seen = subject.separate["segments" if subject.side == "target" else "source_segments"] > 0
    wanted = subject.outputs(subject.separate)[seen]
    changes = [{"dtype": "bfloat16"}] if subject.recurrent else [{"dtype": "bfloat16"}, {"matmul_dtype": "bfloat16"}]
    found = [subject.variant(**change).outputs(subject.separate)[seen] for change in changes]
    ratio = np.max([np.sqrt(np.mean((each - wanted) ** 2) / np.mean(wanted**2)) for each in found])  # nan if one is
    return float(ratio) if np.isfinite(ratio) else float("inf")


def trained(subject: Subject) -> Any:
    """The loss, step, initial state and a batch of the objective, or the reason why there are none."""
    config = settings.replace(subject.config, "train", TRAIN)
    if families.task_of(config).loss is families.no_loss:
        return f"config.objective.kind {config.objective.kind} has no loss"
    made = trainer.make(config, subject.data_info, subject.model)

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return made.loss(params, batch, None)  # without dropout, which is different on each device with pmap

    def rate(updates: Any) -> Any:
        return RATE * jnp.minimum(1.0, (updates + 1) / WARMUP)

    return made, step.make_train_step(loss, optimizer.make_optimizer(TRAIN), rate, TRAIN), repeated(subject)


def repeated(subject: Subject) -> dict[str, np.ndarray]:
    """Eight rows, one of them empty, with targets for every objective."""
    rows = [(number,) for number in range(6)] + [(1,), ()]
    batch: dict[str, Any] = dict(pack(subject.examples, rows))
    draw, side = np.random.default_rng(5), "source" if subject.side == "source" else "inputs"
    seen = batch["source_segments" if subject.side == "source" else "segments"] > 0
    kind = subject.config.objective.kind
    labels = len(subject.data_info.labels)
    targets = draw.integers(0, labels, seen.shape) if kind == "tag" else np.roll(batch[side], 3, axis=1)
    batch["targets"] = (targets * seen).astype(np.int32)
    batch["weights"] = seen.astype(np.float32)
    filled = seen.any(axis=1, keepdims=True)
    batch["label"], batch["first"], batch["last"] = (
        np.arange(8, dtype=np.int32)[:, None] % labels,
        np.zeros((8, 1), np.int32),
        np.full((8, 1), 2, np.int32),
    )
    batch["related"], batch["related_weights"] = np.arange(8, dtype=np.int32)[:, None] % 2, filled.astype(np.float32)
    if kind in ("classify", "answer"):
        batch.pop("targets")
        batch["weights"] = filled.astype(np.float32)
    return batch


def devices(subject: Subject, layouts: Iterable[str] = LAYOUTS) -> Outcome:
    """The largest relative difference of loss and gradient norm from those on one device, in three updates."""
    each = jax.devices("cpu")
    if len(each) < DEVICES:
        return f"this process has {len(each)} CPU devices, not {DEVICES}"
    made = trained(subject)
    if isinstance(made, str):
        return made
    errors, (parts, update, batch) = [], made
    wanted = _metrics(Runtime(Parallel("jit"), each[:1]), parts, update, subject.params, batch)
    for name in layouts:
        runtime = Runtime(LAYOUTS[name], each[:DEVICES], axes.of_model(subject.config.model))
        found = _metrics(runtime, parts, update, subject.params, batch)
        errors += [abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True)]
    return float(max(errors)) if np.isfinite(errors).all() else float("inf")


def _metrics(runtime: Runtime, parts: Any, update: Any, params: Any, batch: Any) -> list[float]:
    state = runtime.place_state(jax.device_get(parts.begin(params)))
    compiled, placed, result = runtime.compile_train(update), runtime.place_batch(batch), []
    for _ in range(3):
        state, metrics = compiled(state, placed)
        values = runtime.fetch(metrics)
        result += [values["loss_sum"], values["gradient_norm"]]
    return result


def saved(subject: Subject) -> Outcome:
    """The largest change of an output after parameters and settings are written and read back."""
    text = json.dumps(settings.to_dict(subject.config))
    if settings.from_dict(json.loads(text), Config) != subject.config:
        return float("inf")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), Checkpoint())
        checkpoints.save(1, {"params": subject.params})
        checkpoints.wait()
        shapes = jax.eval_shape(lambda: subject.params)
        restored = Checkpoints(Path(folder), Checkpoint()).restore(1, "params", shapes)
    if list(paths(restored)) != list(paths(subject.params)):
        return float("inf")
    return float(np.abs(subject.outputs(subject.packed, restored) - subject.outputs(subject.packed)).max())
