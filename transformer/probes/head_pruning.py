"""Head pruning: the least important heads of a trained model, and the model without them (Michel et al. 2019, section 4).

A head is named SITE/LAYER/HEAD: `decoder/cross/1/4` is head 4 of the decoder's cross-attention in layer 1, the layer next to
the inputs. Removing a head means multiplying its output by 0, or setting its rows of W^O to 0. The model is not trained
afterwards.

Letters: L layers, B rows, H heads.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer import families, registry
from transformer.components.attention import Attention
from transformer.config import Config
from transformer.errors import UserError, nearest
from transformer.models.losses import Loss
from transformer.models.stack import layer_path
from transformer.probes.sites import scaled_heads
from transformer.sharding import by_rows

Array = jax.Array

ORDER = 2  # a random stream, as in training/step.py: keys are fold_in(seed, stream)


def heads(config: Config) -> list[str]:
    """The names of the heads that `config.evaluate.head_place` selects."""
    return [
        f"{site}/{layer}/{head}"
        for site in families.FAMILIES[config.family].attention
        if config.evaluate.head_place in ("all", site)
        for model in [config.model.of_stack(site.split("/")[0])]
        for layer in range(1, model.depth(site.split("/")[0]) + 1)
        for head in range(1, model.num_heads + 1)
    ]


def num_removed(config: Config) -> int:
    """The number of heads that are removed: the fraction `config.evaluate.heads_removed`, rounded."""
    return math.floor(config.evaluate.heads_removed * len(heads(config)) + 0.5)


def _without_rows(config: Config) -> str | None:
    """The name of an attention whose heads do not have separate rows of W^O."""
    sites = families.FAMILIES[config.family].attention
    layers = [each for site in sites for each in config.model.layers_of_period(site.split("/")[0])]
    others = [type(each.attention) for each in layers if type(each.attention).output is not Attention.output]
    return registry.reference(others[0]) if others else None


def check(config: Config) -> None:
    """UserError if `config.evaluate` asks to remove heads from a model that does not support it."""
    asked, sites = config.evaluate, families.FAMILIES[config.family].attention
    if not asked.heads_removed:
        return
    what = f"config.evaluate.heads_removed {asked.heads_removed:g}"
    if not sites:
        raise UserError(f"{what}: config.family {config.family} has no heads; leave it at 0")
    if asked.head_place not in ("all", *sites):
        raise UserError(
            f"config.evaluate.head_place {asked.head_place}: config.family {config.family} has no such attention; "
            f"choose all or {' or '.join(sites)}"
        )
    if (name := _without_rows(config)) is not None:
        raise UserError(f"{what}: in config.model.attention {name} heads do not have separate rows of W^O; leave it at 0")
    if not num_removed(config):
        raise UserError(f"{what}: this removes none of {len(heads(config))} heads; raise it, or leave it at 0")
    if asked.head_order == "gradient" and config.data.validation is None:
        raise UserError(
            f"{what}: config.data.validation is none, and config.evaluate.head_order gradient needs it; name a split, or "
            "set the order to random"
        )


def make_importance(loss: Loss, config: Config) -> Loss:
    """`importance(params, batch, None) -> sums`: for each head, the sum of |dL(x) / dxi_h| over the rows x of a batch (eq. 2).

    xi_h is a factor on head h with the value 1, and L(x) is the row's `loss_sum`. Each row must be one example, so packed rows
    are not allowed. Rows do not affect each other's loss, so with separate factors for each row, one backward pass gives all
    gradients.
    """
    sites: dict[str, list[str]] = collections.defaultdict(list)
    for head in heads(config):
        sites[head.rsplit("/", 2)[0]].append(head)

    def importance(params: Any, batch: Any, dropout_key: Array | None) -> dict[str, Array]:
        rows = len(next(iter(batch.values())))

        def scaled(factors: Mapping[str, Array]) -> Array:
            with scaled_heads(factors):
                return loss(params, batch, dropout_key)["loss_sum"]

        stacks = {site: site.split("/")[0] for site in sites}
        shapes = {
            site: (config.model.depth(stack), rows, config.model.of_stack(stack).num_heads) for site, stack in stacks.items()
        }
        gradients = jax.grad(scaled)({site: by_rows(jnp.ones(shape), axis=1) for site, shape in shapes.items()})
        result = {}
        for site, names in sites.items():
            sums_LxH = jnp.sum(jnp.abs(gradients[site]), axis=1)
            result |= dict(zip(names, sums_LxH.reshape(-1), strict=True))
        return result

    return importance


def order_by_importance(importance: Mapping[str, float]) -> list[str]:
    """The heads, least important first. Importances are divided by their l2 norm in each layer, as in section 4.1, which makes
    layers comparable, and sums equivalent to means. Ties are in the given order."""
    squares: dict[str, float] = collections.defaultdict(float)
    for head, value in importance.items():
        squares[head.rpartition("/")[0]] += value**2
    relative = {head: value / (math.sqrt(squares[head.rpartition("/")[0]]) or 1.0) for head, value in importance.items()}
    return sorted(relative, key=relative.__getitem__)


def random_order(heads: Sequence[str], seed: int) -> list[str]:
    """The heads in a random order, which depends only on the seed."""
    key = jax.random.fold_in(jax.random.key(seed), ORDER)
    return [heads[int(index)] for index in np.asarray(jax.random.permutation(key, len(heads)))]


def prune(config: Config, params: Any, removed: Iterable[str]) -> Any:
    """The parameters of the model without these heads. The bias of W^O is kept, because it belongs to no head. UserError if a
    head does not exist, or heads do not have separate rows of W^O."""
    if removed and (name := _without_rows(config)) is not None:
        raise UserError(f"heads cannot be removed: in config.model.attention {name} they do not have separate rows of W^O")
    leaves, known = dict(flatten_dict(params)), {}
    for stack, kind in (site.split("/") for site in families.FAMILIES[config.family].attention):
        model, period = config.model.of_stack(stack), len(config.model.layers_of_period(stack))
        for layer, head in np.ndindex(model.depth(stack), model.num_heads):
            inside, index = layer_path(layer, period, model.depth(stack))
            path = (stack, *inside, f"{kind}_attention", "output", "kernel")
            known[f"{stack}/{kind}/{layer + 1}/{head + 1}"] = path, head if index is None else (index, head)
    for name in removed:
        if name not in known:
            raise UserError(f"there is no head {name!r}{nearest(name, known)}; heads are SITE/LAYER/HEAD, counted from 1")
        path, index = known[name]
        leaves[path] = jnp.asarray(leaves[path]).at[index].set(0)
    return unflatten_dict(leaves)
