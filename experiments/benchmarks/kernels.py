"""Updates of every family on a device against the CPU's; fused attention against plain; the fused loss against slices."""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import jobs
from experiments.benchmarks.session import Session, timed

UPDATES = 10


def families(session: Session) -> None:
    """Losses of the same updates from the same state, here and on the CPU."""
    title = f"{UPDATES} updates of tiny models in fp32, against the CPU"
    for name in ("encoder_decoder", "decoder_only", "encoder_only", "recurrent"):
        session.part(title, name, 15, functools.partial(_family, name))


def _family(name: str) -> Mapping[str, Any]:
    import jax
    import numpy as np

    from transformer.components import fused
    from transformer.runtime.devices import Runtime

    losses, job = {}, jobs.family(name)
    first: Any = None
    for device, backend in ((jax.devices("cpu")[0], "plain"), (jax.devices()[0], "auto")):
        model = dataclasses.replace(job.config.model, attention_backend=backend)
        config = dataclasses.replace(job.config, model=model)
        step, init = jobs.parts(dataclasses.replace(job, config=config))
        with jax.default_device(device), fused.choices() as chosen:
            first = jax.device_get(init(0)) if first is None else first
            runtime = Runtime(jobs.ONE, [device])
            update, placed = runtime.compile_train(step), runtime.place_batch(jobs.batch(job))
            state = runtime.place_state(first)
            found = []
            for _ in range(UPDATES):
                state, metrics = update(state, placed)
                found.append(runtime.fetch(metrics)["loss_sum"])
        losses[backend] = np.asarray(found)
    difference = float(np.max(np.abs(losses["auto"] / losses["plain"] - 1)))
    kernels = "; ".join(f"{where}: {', '.join(each)}" for where, each in chosen.items()) or "none"
    values = {"family": name, "first loss": float(losses["auto"][0]), "last loss": float(losses["auto"][-1])}
    return values | {"greatest relative difference": difference, "kernels": kernels}


def forward_and_backward(pairs: Any, backend: Any, dtype: Any) -> Callable[..., Any]:
    """Attention of queries, keys and values: gradients of the sum of squares, and the outputs."""
    import jax
    import jax.numpy as jnp

    from transformer.components.attention import Backend, attend

    def total(query: Any, key: Any, value: Any) -> Any:
        heads = attend(query, key, value, pairs, backend=Backend(backend, dtype=dtype))
        return jnp.sum(heads.astype(jnp.float32) ** 2), heads

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


def attention(session: Session) -> None:
    """One attention, forward and backward, in bf16; errors are those to plain attention in fp32."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from transformer.components import fused
    from transformer.components.masks import All, Causal, Pairs, Sizes, Tokens

    title = "attention, forward and backward, 16 heads of 64, bf16"
    shapes = {"packed texts of 32": (48, 512, 32, All()), "causal": (8, 2048, 2048, Causal())}
    if session.small:
        shapes = {"packed texts of 32": (2, 128, 32, All()), "causal": (2, 128, 128, Causal())}

    def arrays_of(rows: int, slots: int, dtype: Any) -> list[Any]:
        draw = np.random.default_rng(0)
        drawn = [jnp.asarray(draw.normal(size=(rows, slots, 16, 64)), jnp.bfloat16) for _ in range(3)]
        return [each.astype(dtype) for each in drawn]

    def measure(what: str, backend: str, exact: Callable[[], Any]) -> Mapping[str, Any]:
        rows, slots, *_ = shapes[what]
        both, given = forward_and_backward(pairs[what], backend, jnp.bfloat16), arrays_of(rows, slots, jnp.bfloat16)
        with fused.choices() as chosen:
            found = jax.tree.map(lambda x: np.asarray(x, np.float32), both(*given))
        same = zip(jax.tree.leaves(found), jax.tree.leaves(exact()), strict=True)
        errors = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in same]
        seconds = timed(lambda: jax.block_until_ready(both(*given)), 1)
        values = {"ms": 1e3 * statistics.median(seconds), "error of outputs": errors[-1]}
        by = ", ".join(*chosen.values()) if chosen else backend
        values["error of gradients"] = max(errors[:-1])
        return {"rows": f"{what}, {rows} x {slots}", "backend": backend, "by": by, **values}

    pairs = {}
    for what, (rows, slots, text, mask) in shapes.items():
        own = np.broadcast_to(np.arange(slots, dtype=np.int32), (rows, slots))
        tokens = Tokens(jnp.asarray(own % text), jnp.asarray(own // text + 1))
        pairs[what] = Pairs(tokens, tokens, mask=mask, sizes=Sizes(1024, 16, 16, 64, 64, 0), aligned=True)

        @functools.cache
        def exact(what: str = what, rows: int = rows, slots: int = slots) -> Any:
            plain = forward_and_backward(pairs[what], "plain", jnp.float32)
            return jax.tree.map(lambda x: np.asarray(x, np.float32), plain(*arrays_of(rows, slots, jnp.float32)))

        for backend in ("fused", "plain"):
            session.part(title, f"{what}, {backend}", 10, functools.partial(measure, what, backend, exact))


def loss(session: Session) -> None:
    """Of 24,576 tokens with 37,000 entries, forward and backward, in bf16; differences are those of gradients to slices'."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from transformer.components import fused
    from transformer.models import fused_loss, losses
    from transformer.models.layers import all_products
    from transformer.models.stack import Factors

    rows, slots, width, entries = (2, 64, 64, 500) if session.small else (48, 512, 1024, 37_000)
    title = f"loss of {rows * slots:,} tokens with {entries:,} entries, forward and backward, bf16"
    draw = np.random.default_rng(0)
    states = jnp.asarray(draw.normal(size=(rows, slots, width)), jnp.bfloat16)
    table = jnp.asarray(draw.normal(size=(entries, width)) / width**0.5, jnp.float32)
    targets, weights = jnp.asarray(draw.integers(0, entries, (rows, slots)), jnp.int32), jnp.ones((rows, slots))

    def sliced(table: Any, states: Any) -> Any:
        def sums(table: Any, states: Any, labels: Any) -> Any:
            return losses.cross_entropy(all_products(states, table), labels[0], labels[1], 0.1, entries)

        return losses.in_chunks(sums, table, states, (targets, weights), 4096)["loss_sum"]

    def whole(table: Any, states: Any) -> Any:
        found = fused_loss.cross_entropy(Factors(states, table, None), targets, weights, 0.1, 0.0)
        if found is None:
            raise NotImplementedError("; ".join(*chosen.values()))
        return found["loss_sum"]

    def measure(name: str, function: Callable[[Any, Any], Any]) -> Mapping[str, Any]:
        both = jax.jit(jax.value_and_grad(function, (0, 1)))
        found = jax.tree.map(lambda x: np.asarray(x, np.float32), both(table, states))
        exact.setdefault("found", found)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact["found"]), strict=True)
        differences = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs]
        seconds = timed(lambda: jax.block_until_ready(both(table, states)), 1)
        return {"loss": name, "ms": 1e3 * statistics.median(seconds), "greatest relative difference": max(differences)}

    exact: dict[str, Any] = {}
    with fused.choices() as chosen:
        session.part(title, "chunked", 10, lambda: measure("chunked", sliced))
        session.part(title, "fused", 10, lambda: measure("fused", whole))
