"""Constraints between settings, in addition to their types and limits; checked before anything is read or built."""

import itertools
import typing
from collections.abc import Iterator

from transformer import effects, registry, settings
from transformer.components.attention import Attention
from transformer.components.masks import Sizes, Stack
from transformer.components.parameters import Kernel
from transformer.components.positions import Positions
from transformer.config import Config, DataInfo, LayerMetric, Model, Parallel, SoftmaxMetric
from transformer.errors import UserError, nearest


def check_data_info(data_info: DataInfo, where: str) -> DataInfo:
    """`data_info`, if its numbers fit together. UserError, beginning with `where`: they do not."""
    for side in ("source", "target"):
        size, rows = getattr(data_info, f"{side}_size"), getattr(data_info, f"{side}_rows")
        if not 1 <= size <= rows <= settings.MOST:
            raise UserError(f"{where}: a vocabulary of {size} entries does not fit a table of {rows} rows ({side}); restore it")
    least = min(data_info.source_rows, data_info.target_rows)
    for name in ("pad", "start", "first", "end", "unknown", "begin", "code", "mask"):
        token = getattr(data_info, name)
        if token is not None and not 0 <= token < least:
            raise UserError(f"{where}: the {name} token is {token}, and the tables have the rows 0 to {least - 1}; restore it")
    if not all(0 <= end < least for end in data_info.more_ends):
        raise UserError(f"{where}: the ends are {data_info.ends}, and the tables have the rows 0 to {least - 1}; restore it")
    if data_info.longest_output < 0:
        raise UserError(f"{where}: the longest output has {data_info.longest_output} tokens; restore it")
    if not 0 <= data_info.sentinels < data_info.target_size:
        raise UserError(f"{where}: {data_info.sentinels} sentinels are not of {data_info.target_size} entries; restore it")
    return data_info


def validate(config: Config) -> Config:
    """`config`, with ~ in its paths expanded. UserError: a setting has the wrong type, is outside its limits, or does not fit
    the others."""
    settings.check(config)
    config = settings.expand_paths(config)
    model, data, train = config.model, config.data, config.train
    if config.family != "recurrent":
        _check_components(config)
    most = model.most_positions if config.family != "recurrent" else None
    source = data.max_source_length if config.objective.kind != "causal_lm" else 0
    longest = max(source, data.max_target_length if "target" in config.sequences else 0)
    if most is not None and longest > most:
        raise UserError(
            f"config.model.positions.size {most} is shorter than the longest sequence, {longest} "
            "(config.data.max_source_length, config.data.max_target_length); raise the first or lower the others"
        )
    if "://" in (data.directory or ""):
        raise UserError(
            f"config.data.directory {data.directory}: records are read from local files only; mount the bucket "
            "and name that folder"
        )
    if data.segmentations > 1 and data.vocabulary not in ("bpe", "unigram"):
        raise UserError(
            f"config.data.segmentations {data.segmentations}: {data.vocabulary} has one way to cut a text; "
            "set it to 1, or config.data.vocabulary to bpe or unigram"
        )
    if data.segmentations > 1 and config.objective.kind in ("tag", "answer"):
        raise UserError(
            f"config.data.segmentations {data.segmentations}: labels of {config.objective.kind} belong to tokens; set it to 1"
        )
    _check_joint_vocabulary(config)
    side = config.sequences[-1]
    if data.row_length is not None and data.row_length < (longest := getattr(data, f"max_{side}_length")):
        raise UserError(
            f"config.data.row_length {data.row_length} is shorter than config.data.max_{side}_length {longest}; "
            f"a packed row must hold the longest {side}"
        )
    one_in_a_row = {
        "config.family recurrent": config.family == "recurrent",
        f"config.objective.kind {config.objective.kind}": config.objective.kind in ("classify", "tag", "answer"),
        "config.objective.next_sentence": config.objective.kind == "masked_lm" and config.objective.next_sentence,
    }
    if data.batching == "packed" and any(one_in_a_row.values()):
        what = next(name for name, alone in one_in_a_row.items() if alone)
        raise UserError(f"{what} reads one example in a row: set config.data.batching=bucketed")
    for name in ("number_range", "number_train_range", "number_test_range"):
        low, high = getattr(data, name) or data.number_range
        if not data.number_range[0] <= low < high <= data.number_range[1] or low < 0:
            raise UserError(
                f"config.data.{name} is {low},{high}: expected two numbers, the first smaller, inside config.data.number_range"
            )
    for name in ("algorithm_train_lengths", "algorithm_test_lengths"):
        low, high = getattr(data, name) or data.algorithm_train_lengths
        if not 1 <= low <= high:
            raise UserError(
                f"config.data.{name} is {low},{high}: expected two lengths of at least 1, the first not above the second"
            )
    if data.source == "algorithms" and data.lowercase and data.algorithm_alphabet > 26:
        raise UserError(
            f"config.data.lowercase true: config.data.algorithm_alphabet {data.algorithm_alphabet} has letters of both cases; "
            "set the first to false or the second to 26"
        )
    for name, least in (("lengths", 0), ("places", 1)):
        edges = getattr(config.evaluate, name)
        if edges and (len(edges) < 2 or any(a >= b for a, b in itertools.pairwise((least - 1, *edges)))):
            raise UserError(
                f"config.evaluate.{name} {','.join(map(str, edges))}: expected two numbers or more, from {least} on, each "
                "above the last"
            )
    if train.optimizer == "schedule_free" and (train.schedule != "constant" or train.ema_decay is not None):
        raise UserError(
            "config.train.optimizer schedule_free takes the place of a decaying schedule and of an average: set "
            "config.train.schedule=constant and config.train.ema_decay=none"
        )
    if model.parametrization == "mup":
        _check_mup(config)
    if train.warmup_steps == 0 and train.schedule == "rsqrt":
        raise UserError("config.train.warmup_steps is 0: the rsqrt schedule needs at least 1 (or set config.train.schedule)")
    if train.schedule == "wsd" and train.warmup_steps + train.decay_updates > train.steps:
        raise UserError(
            f"config.train.decay_steps {train.decay_updates} and config.train.warmup_steps {train.warmup_steps} are more than "
            f"config.train.steps {train.steps}; lower one"
        )
    if (train.branch_from is None) != (train.branch_step is None):
        raise UserError("config.train.branch_from and config.train.branch_step need each other: set both or neither")
    if train.branch_step is not None and train.branch_step >= train.steps:
        raise UserError(
            f"config.train.branch_step {train.branch_step}: config.train.steps {train.steps} must be greater, "
            "as it includes the updates before the branch"
        )
    of_layers = [name for name in train.init_metrics if name in typing.get_args(LayerMetric)]
    if of_layers and config.family == "recurrent":
        raise UserError(
            f"config.train.init_metrics {','.join(of_layers)}: these are metrics of Transformer layers, which "
            "config.family recurrent does not have; leave them out"
        )
    if "gradient_distance" in train.init_metrics and "target" not in config.sequences:
        raise UserError(
            f"config.train.init_metrics gradient_distance is measured from output tokens; config.family {config.family} with "
            f"config.objective.kind {config.objective.kind} has none; leave it out"
        )
    if config.evaluate.stride is not None and config.evaluate.stride > data.max_target_length:
        raise UserError(
            f"config.evaluate.stride {config.evaluate.stride} is more than config.data.max_target_length "
            f"{data.max_target_length}, the tokens of a window: text between two windows would not be scored; lower the first"
        )
    if config.search.n_best > config.search.beam_size:
        raise UserError(
            f"config.search.n_best {config.search.n_best} is more than config.search.beam_size {config.search.beam_size}; "
            "raise the second or lower the first"
        )
    if config.evaluate.average > config.checkpoint.keep_last:
        raise UserError(
            f"config.evaluate.average {config.evaluate.average} is more than config.checkpoint.keep_last "
            f"{config.checkpoint.keep_last}: checkpoints that are averaged must be kept; raise the second or lower the first"
        )
    check_parallel(config.parallel)
    if config.uses_best:
        wanted = "config.train.patience" if config.evaluate.checkpoint is None else "config.evaluate.checkpoint best"
        if data.validation is None:
            raise UserError(
                f"{wanted}: config.data.validation is none, so there is no best checkpoint; name a validation split"
            )
        if config.checkpoint.keep_best == 0:
            raise UserError(f"{wanted}: config.checkpoint.keep_best is 0; set it to at least 1")
    effects.check(config)
    return config


def shares_table(config: Config) -> bool:
    """Whether sources and targets are read from the same table of embeddings, so that an id means the same in both."""
    return config.family == "decoder_only" or config.model.ties_inputs


def _check_joint_vocabulary(config: Config) -> None:
    """UserError: two vocabularies share one table."""
    where = "config.data.joint_vocabulary false"
    if config.data.joint_vocabulary or config.objective.kind != "translate":  # other objectives have one text: effects.py
        return
    # Imported vocabularies, such as Marian's, may be two files with the same ids: they are compared once they are read.
    if config.data.vocabulary == "imported" or not shares_table(config):
        return
    if config.family == "decoder_only":
        raise UserError(f"{where}: config.family decoder_only has one table for sources and targets; set the first to true")
    raise UserError(
        f"{where}: config.model.tying {config.model.tying} has one table for sources and targets; set the first to true or the "
        "second to two_way"
    )


def check_parallel(parallel: Parallel) -> None:
    """UserError: parameters would be sharded, but the mode has a copy of them on each device."""
    for name in ("fsdp", "tensor"):
        if (parts := getattr(parallel, name)) > 1 and parallel.mode in ("jit", "pmap"):
            raise UserError(
                f"config.parallel.{name} {parts} needs a mesh, and config.parallel.mode is {parallel.mode}; "
                f"set config.parallel.mode to mesh or auto, or config.parallel.{name} to 1"
            )


STACKS: dict[str, tuple[Stack, ...]] = {
    "encoder_decoder": ("encoder", "decoder"),
    "encoder_only": ("encoder",),
    "decoder_only": ("decoder",),
    "recurrent": (),
}
# Settings that a layer type may change: those of one layer, on which no other part of the model depends.
OF_A_LAYER = ("d_ff", "num_kv_heads", "window", "attention", "attention_norm", "positions", "mask", "feed_forward")
# The same for the types `encoder` and `decoder`, which apply to a whole stack.
OF_A_STACK: dict[str, tuple[str, ...]] = {
    "encoder": ("num_heads", "d_k", "d_v", *(name for name in OF_A_LAYER if name != "mask")),
    "decoder": ("num_heads", "d_k", "d_v", *OF_A_LAYER),
}


def _check_components(config: Config) -> None:
    """UserError: heads or components do not fit the sizes, each other, or the family."""
    _check_layer_types(config)
    for stack, each in _layers(config):
        _check_layer(each, stack)
        _check_use(each, stack, config)
    for stack in STACKS[config.family]:
        _check_passed_up(config.model, stack)


def _layers(config: Config) -> Iterator[tuple[Stack, Model]]:
    """The stacks, and the settings of each layer of the pattern in them."""
    for stack in STACKS[config.family]:
        for each in config.model.layers_of_period(stack):
            yield stack, each


def _check_layer(model: Model, stack: Stack) -> None:
    for width in ("d_k", "d_v"):
        if getattr(model, width) is None and model.d_model % model.num_heads:
            raise UserError(
                f"config.model.d_model {model.d_model} is not divisible by config.model.num_heads {model.num_heads}; "
                f"set config.model.{width} or change one"
            )
    if model.num_kv_heads is not None and model.num_heads % model.num_kv_heads:
        raise UserError(
            f"config.model.num_kv_heads {model.num_kv_heads} does not divide config.model.num_heads {model.num_heads}; "
            "change one"
        )
    if not model.attention_norm and model.norm_order in ("post", "output"):
        raise UserError(
            f"config.model.attention_norm false: with config.model.norm_order={model.norm_order} there is no norm before "
            "attention; set that to pre or sandwich"
        )
    sizes = model.sizes(stack)
    reasons = [model.residual.supports(model.norm_order, model.has_final_norm)]
    reasons += [model.positions.check(sizes), model.attention.check(sizes)]
    for training in (True, False):
        mask = model.self_mask(stack, training)
        reasons += [model.positions.supports(mask, sizes), model.attention.supports(mask, model.positions, sizes)]
    if why := next(filter(None, reasons), None):
        raise UserError(why)


def _check_passed_up(model: Model, stack: Stack) -> None:
    """UserError: layers of different types pass up arrays of one name and different shapes."""
    known: dict[str, tuple[int, ...]] = {}
    for each in model.layers_of_period(stack):
        for name, shape in each.attention.passed_up(each.sizes(stack)).items():
            if known.setdefault(name, shape) != shape:
                raise UserError(
                    f"config.model.layer_types: self-attention passes up {name} of shape {known[name]} in one type of layer "
                    f"and {shape} in another; give these types equal sizes"
                )


def _check_use(model: Model, stack: Stack, config: Config) -> None:
    """UserError: the attention does not support what is done with the model."""
    attention = registry.reference(type(model.attention))
    of_softmax = [name for name in config.train.init_metrics if name in typing.get_args(SoftmaxMetric)]
    if of_softmax and not model.attention.is_softmax:
        raise UserError(
            f"config.train.init_metrics {','.join(of_softmax)}: these are metrics of a softmax, which "
            f"config.model.attention {attention} does not compute; leave them out"
        )
    keeps_state = type(model.attention).state is not Attention.state
    if keeps_state and config.family == "decoder_only" and config.objective.kind in ("translate", "prefix_lm"):
        raise UserError(
            f"config.model.attention {attention}: a search removes the last token of a prefix, and its state cannot "
            "forget a token; set config.family to encoder_decoder, or another attention"
        )


def _check_mup(config: Config) -> None:
    """UserError: Yang et al. 2022 give no rule for a setting, or it contradicts their rules."""
    model, rules, scales = config.model, ("adam", "adamw", "lion", "schedule_free"), ("1/sqrt(d_k)", "1/d_k")
    layers = [(each, each.sizes(stack)) for stack, each in _layers(config)]
    if config.train.optimizer not in rules:
        found, remedy = f"config.train.optimizer {config.train.optimizer}", f"choose one of {', '.join(rules)}"
    elif other := [each.attention.scale for each, _ in layers if each.attention.scale not in scales]:
        found, remedy = f"config.model.attention.scale {other[0]}", f"choose one of {', '.join(scales)}"
    elif widths := [each.attention.scale_width for each, _ in layers if each.attention.scale_width is not None]:
        found, remedy = f"config.model.attention.scale_width {widths[0]}", "set it to none"
    elif fixed := [name for each, sizes in layers for name in _kernels_that_stay(each, sizes)]:
        found, remedy = f"the kernel {fixed[0]}, whose inputs do not grow with d_model", "choose another component"
    elif model.lora_rank is not None:
        found, remedy = f"config.model.lora_rank {model.lora_rank}", "set it to none"
    else:
        return
    raise UserError(
        f"config.model.parametrization mup has no rule for {found}; {remedy}, or config.model.parametrization=standard"
    )


def _kernels_that_stay(model: Model, sizes: Sizes) -> list[str]:
    """The kernels of a layer with as many inputs in a wider model, in all of its components."""
    attention, positions, feed_forward, residual = model.attention, model.positions, model.feed_forward, model.residual
    declared = {
        registry.reference(type(attention)): {**attention.parameters(sizes), **attention.key_parameters(sizes)},
        registry.reference(type(positions)): positions.parameters(sizes, model.init_stddev),
        registry.reference(type(feed_forward)): feed_forward.parameters(sizes),
        registry.reference(type(residual)): residual.parameters(sizes),
    }
    return [
        f"{name} of {component}"
        for component, parameters in declared.items()
        for name, each in parameters.items()
        if isinstance(each, Kernel) and not each.grows
    ]


def _check_layer_types(config: Config) -> None:
    """UserError: a layer type is unknown, unused, or changes what cannot differ by layer or stack."""
    model = config.model
    known = [name for name, _ in model.layer_types if name not in OF_A_STACK]
    for name in model.layer_pattern:
        if name in OF_A_STACK:
            raise UserError(
                f"config.model.layer_pattern names {name}, the type of all layers of that stack; give the type another name"
            )
        if name not in known:
            raise UserError(
                f"config.model.layer_pattern names {name}, which config.model.layer_types does not define; set "
                f"config.model.layer_types.{name}.SETTING=VALUE{nearest(name, known)}"
            )
    if unused := [name for name in known if name not in model.layer_pattern]:
        raise UserError(
            f"config.model.layer_types.{unused[0]} is not in config.model.layer_pattern; add it there, or remove it"
        )
    for name, changes in model.layer_types:
        if name in OF_A_STACK and name not in STACKS[config.family]:
            raise UserError(f"config.model.layer_types.{name}: config.family {config.family} has no {name}; remove it")
        what, able = ("stack", OF_A_STACK[name]) if name in OF_A_STACK else ("layer", OF_A_LAYER)
        for setting, _ in changes:
            if setting.split(".")[0] not in able:
                raise UserError(
                    f"config.model.layer_types.{name}.{setting}: cannot differ by {what}; settings that can: {', '.join(able)}"
                )
    for stack, each in _layers(config):
        of_stack = model.of_stack(stack)
        if each.positions != of_stack.positions and any(
            type(p).embed is not Positions.embed or (p.owner == "stack" and p.parameters(of_stack.sizes(stack), 1.0))
            for p in (each.positions, of_stack.positions)
        ):
            raise UserError(
                "config.model.layer_types: positions that are added to the embeddings, or have one table for the whole stack, "
                "cannot differ by layer of a stack; choose rotary, alibi, shaw or none"
            )
