"""Properties of one forward pass: which inputs the output of a token may depend on."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checks.subject import PACKED, ROWS, SLOTS, Outcome, Subject, distance, examples, pack
from transformer.components.attention import Backend
from transformer.components.masks import Pairs, Tokens
from transformer.components.positions import Bound
from transformer.errors import first_line
from transformer.models.attention import nothing_below

ALONE = [(number,) for number in range(ROWS)]


def causal(subject: Subject) -> Outcome:
    """The largest gradient of a state with respect to a later token, and the largest change if later tokens are replaced."""
    if subject.side == "source":
        return "a model without a decoder sees its whole source"
    masks = [each.mask for each in subject.config.model.layers_of_period("decoder")] if not subject.recurrent else []
    if not all(mask.during(False).causal for mask in masks):
        return "the mask lets tokens see later ones by design"
    training = all(mask.during(True).causal for mask in masks)
    return max(_later_gradient(subject, training), _later_change(subject))


def _later_gradient(subject: Subject, training: bool) -> float:
    batch = {name: array[:1] for name, array in subject.separate.items()}
    tokens = batch["inputs"][0]  # all different, so that each row of the table is one token

    def outputs_of(table: jax.Array, params: dict[str, dict[str, jax.Array]]) -> jax.Array:
        params = params | {"target_embedding": params["target_embedding"] | {"table": table}}
        rngs = {"dropout": jax.random.key(0)} if training else {}
        states = subject.model.apply({"params": params}, batch, not training, rngs=rngs, method="states")
        return states[0] @ jax.random.normal(jax.random.key(1), states.shape[-1:])

    of_tokens = subject.program("token gradients", lambda: jax.jacrev(outputs_of))
    gradients = np.asarray(of_tokens(subject.params["target_embedding"]["table"], subject.params))  # T x N x D
    later = np.triu(np.ones((SLOTS, SLOTS), bool), 1)
    by_token = np.abs(gradients[:, tokens]).max(axis=-1)
    return float(np.where(later, by_token, 0).max())


def _later_change(subject: Subject) -> float:
    half, changed = SLOTS // 2, {name: array.copy() for name, array in subject.separate.items()}
    changed["inputs"][:, half:] = np.roll(changed["inputs"][:, half:], 1, axis=1) + (changed["inputs"][:, half:] > 0)
    changed["inputs"] = np.minimum(changed["inputs"], subject.data_info.target_size - 1)
    before, after = (subject.outputs(batch)[:, :half] for batch in (subject.separate, changed))
    seen = subject.separate["segments"][:, :half] > 0
    return float(np.abs(before - after)[seen].max())


def packed(subject: Subject) -> Outcome:
    """The difference between examples that share a row and the same examples in separate rows."""
    if subject.recurrent:
        return "a recurrent model reads one example in a row"
    alone = subject.tokens(subject.outputs(subject.separate), ALONE)
    together = subject.tokens(subject.outputs(subject.packed), PACKED)
    return distance(together, {number: alone[number] for number in together})


def padding(subject: Subject) -> Outcome:
    """The largest change of an output if tokens and positions in the padding are replaced."""
    error = 0.0
    for batch in (subject.separate,) if subject.recurrent else (subject.separate, subject.packed):
        other = {name: array.copy() for name, array in batch.items()}
        for name, segments in (("source", "source_segments"), ("inputs", "segments")):
            empty = batch[segments] == 0
            other[name][empty] = np.random.default_rng(1).integers(0, subject.data_info.target_size, empty.sum())
            positions = "source_positions" if name == "source" else "positions"
            other[positions][empty] = np.random.default_rng(2).integers(0, SLOTS, empty.sum())
        seen = batch["segments" if subject.side == "target" else "source_segments"] > 0
        before, after = subject.outputs(batch), subject.outputs(other)
        error = max(error, _most(before[seen], after[seen]))
    return error


def _most(before: np.ndarray, after: np.ndarray) -> float:
    """The largest difference; inf if a value is not finite."""
    difference = np.abs(before - after)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def longer_rows(subject: Subject) -> Outcome:
    """The change of outputs if rows have more padding before and after the tokens."""
    left = [0, 2, 0, 5, 1, 4]
    wide = pack(subject.examples, ALONE, SLOTS + 5, left)
    return distance(
        subject.tokens(subject.outputs(wide), ALONE, left), subject.tokens(subject.outputs(subject.separate), ALONE)
    )


def other_rows(subject: Subject) -> Outcome:
    """The change of outputs if the rows are permuted, and if half of the other rows are replaced."""
    whole, order = subject.outputs(subject.separate), np.random.default_rng(0).permutation(ROWS)
    reordered = subject.outputs({name: array[order] for name, array in subject.separate.items()})
    strangers, half = pack(examples(seed=1), ALONE), np.arange(ROWS)[:, None] % 2 == 0
    mixed = subject.outputs({name: np.where(half, array, strangers[name]) for name, array in subject.separate.items()})
    seen = subject.separate["segments" if subject.side == "target" else "source_segments"] > 0
    first = distance(reordered[seen[order]], whole[order][seen[order]])
    return max(first, distance(mixed[seen & half], whole[seen & half]))


def pure(subject: Subject) -> Outcome:
    """The number of random operations in evaluation, or the difference between two traces of the program; 0 if there
    is none.
    """
    programs = []
    for _ in range(2):
        programs.append(jax.make_jaxpr(lambda params, batch: subject.apply(params, batch))(subject.params, subject.separate))
    constants = [[np.asarray(each) for each in program.consts] for program in programs]
    same = str(programs[0]) == str(programs[1]) and jax.tree.all(jax.tree.map(np.array_equal, *constants))
    return float(_random(programs[0].jaxpr) + (not same))


def _random(jaxpr: Any) -> int:
    """The operations of a program that draw random numbers."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name.startswith(("random_", "threefry", "rng_"))
        inner = (getattr(leaf, "jaxpr", leaf) for leaf in jax.tree.leaves(list(equation.params.values())))
        count += sum(_random(each) for each in inner if hasattr(each, "eqns"))
    return count


def dtypes(subject: Subject) -> Outcome:
    """Whether attention mixes bf16 and fp32 without an explicit conversion: the exception that names the line; else 0."""
    if subject.recurrent:
        return "of attention's hooks, which a recurrent model does not have"
    stack = "encoder" if subject.side == "source" else "decoder"
    for each in subject.layer_types():
        attention, positions, sizes = each.attention, each.positions, each.sizes(stack)
        declared = {**attention.key_parameters(sizes), **attention.parameters(sizes)}
        p, of_positions = (
            {name: jax.ShapeDtypeStruct(d.shape, jnp.float32) for name, d in every.items()}
            for every in (declared, positions.parameters(sizes, each.init_stddev))
        )
        p |= {"random_key": jax.eval_shape(lambda: jax.random.key(0))} if attention.random else {}

        def layer(p: Any, of_positions: Any, x: Any, each: Any = each, attention: Any = attention, sizes: Any = sizes) -> Any:
            bound, tokens = Bound(each.positions, of_positions), Tokens(jnp.arange(SLOTS), jnp.ones(x.shape[:2], jnp.int32))
            q, k = attention.queries(p, x, tokens, bound, sizes), attention.keys(p, x, tokens, bound, sizes)
            pairs = Pairs(tokens, tokens, 0, each.self_mask(sizes.stack), sizes, aligned=True)
            k, _ = attention.from_below(p, k, nothing_below((each,), sizes.stack, x), pairs)
            heads = attention.attend(p, q, attention.expand(p, k, sizes), pairs, bound, Backend(dtype=jnp.bfloat16))
            return attention.output(p, heads, x, sizes)

        try:
            with jax.numpy_dtype_promotion("strict"):
                jax.eval_shape(layer, p, of_positions, jax.ShapeDtypeStruct((2, SLOTS, each.d_model), jnp.bfloat16))
        except jax.dtypes.TypePromotionError as error:
            if len(set(re.findall(r"b?float\d+", first_line(error)))) != 1:
                raise
            return f"integers and floats are mixed{subject.place(error)}, which hides it: convert them with astype"
    return 0.0
