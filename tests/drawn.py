"""Models whose parameters are drawn and not trained, ready for use; the parameters are so large that outputs differ."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import small

from transformer import families
from transformer.config import Config, DataInfo
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.inference.loading import Loaded
from transformer.settings import assign


def changed(config: Config, **settings: Any) -> Config:
    """`config` with other settings; two underscores mean a dot."""
    return assign(config, {name.replace("__", "."): value for name, value in settings.items()})


def loaded(
    config: Config, vocabularies: Mapping[str, Vocabulary], scale: float = 0.3, mask: bool = False, labels: tuple[str, ...] = ()
) -> Loaded:
    """Nothing is compiled. `scale`: standard deviation of the parameters."""
    source, target = (list(vocabularies.values())[place].size + mask for place in (0, -1))
    data_info = DataInfo(source, target, source, target, mask=source - 1 if mask else None, labels=labels)
    objective = families.make_objective(config, data_info, vocabularies)
    model = families.FAMILIES[config.family].model(config, data_info)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, scale, x.shape), x.dtype), small.shapes(model, objective))
    return Loaded(config, data_info, model, objective, params, vocabularies)
