"""Prints the cost of a configuration; trains nothing."""

import dataclasses

import jax

from transformer import families
from transformer.config import Config, DataInfo
from transformer.data import pipeline, prepare
from transformer.data.tokenizers.vocabulary import Bytes
from transformer.errors import UserError, counted
from transformer.models import axes, program
from transformer.runtime import devices, layout
from transformer.training import costs, trainer

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while it trains. `held`: counted here, by purpose; the rest is the compiler's count."""

    layout: str
    batch: str
    held: dict[str, int]
    temporary: int  # temporary arrays of a step, without gradients
    arguments: int  # state and batch, as the compiler counts them


def describe(config: Config, count: int | None = None, gib: float | None = None) -> None:
    """Prints parameters, FLOPs and bytes; with `count` devices also the bytes on each, and whether they fit in `gib` GiB."""
    task, data_info = families.task_of(config), costs.assumed_data_info(config)
    if gib is not None and count is None:
        raise UserError(
            f"--memory_gib={gib:g} is the memory of one device of --devices=N; give the number of devices, at least 1"
        )
    if count is not None:
        layout.choose(config.parallel, count)  # an error comes before anything is printed
        devices.simulate(count)
    try:
        found = costs.count(config, data_info)
    except program.Uncountable as error:
        raise UserError(f"--mode=describe: {error}, so its cost cannot be counted") from error
    print(costs.table(found))
    if count is not None:
        print(f"\n{table(memory(config, _completed(data_info, task.extra), found.tokens), gib)}")


def memory(config: Config, data_info: DataInfo, longest: int) -> Memory:
    """The memory in the layout that training would use on all devices of this process, with rows of `longest` tokens. A step is
    compiled but not run.

    UserError: `config.parallel` does not fit the devices.
    """
    runtime = devices.Runtime(config.parallel, axes=axes.of_model(config.model))
    model = families.FAMILIES[config.family].model(config, data_info)
    objective = families.make_objective(
        config, data_info, dict.fromkeys(families.text_fields(families.task_of(config)), Bytes())
    )
    _, step, begin = trainer.make(config, data_info, model)
    state = jax.eval_shape(lambda: begin(families.init_params(model, objective, config.train.seed)))
    batch = pipeline.blank(objective, config.data, longest, config.train.batch_tokens, runtime.count * config.train.accumulate)
    rows, slots = batch[objective.sequences[-1].segments].shape
    trained = costs.trained(config.train, state.params, config.model.lora_rank is not None)
    params, gradients, moments, average = (
        costs.device_bytes(part, runtime.layout.sizes, runtime.axes)
        for part in (state.params, trained, state.optimizer_state, state.average)
    )
    held = {"parameters": params, "gradients": gradients, f"optimizer ({config.train.optimizer})": moments}
    if average:
        held["moving average"] = average
    compiled = runtime.train_memory(step, state, batch)
    return Memory(
        runtime.layout.describe(),
        f"{counted(rows, 'row')} of {slots:,}",
        held,
        max(compiled.temp_size_in_bytes - gradients, 0),
        compiled.argument_size_in_bytes,
    )


def table(found: Memory, gib: float | None) -> str:
    """The counts as plain text, and whether `gib` GiB are enough."""
    total = sum(found.held.values()) + found.temporary
    values = found.held | {"activations and temporary arrays, compiled for CPUs": found.temporary, "total": total}
    lines = [f"{found.layout}, batches of {found.batch}: MB on each device"]
    lines += [f"  {name:<48}{value / 1e6:>14,.1f}" for name, value in values.items()]
    if gib is not None:
        verdict = "fits" if total <= gib * GIB else "does not fit"
        lines.append(f"{verdict} in {gib:g} GiB: {total / GIB:,.2f} GiB, {total / GIB / max(gib, 1e-9):.0%}")
    return "\n".join(lines)


def _completed(data_info: DataInfo, extra: str | None) -> DataInfo:
    """DataInfo with the entries that some objectives add to a vocabulary."""
    if extra == "mask":
        return dataclasses.replace(data_info, mask=data_info.source_size - 1)
    return dataclasses.replace(data_info, sentinels=prepare.SENTINELS) if extra == "sentinels" else data_info
