"""What tests of models share."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def draw():
    """A module's variables, drawn and not initialised: no bias is zero, no norm's factor is one, and nothing is compiled."""

    def draw(module, *arguments, **keywords):
        generator = np.random.default_rng(1)

        def number(path, leaf):
            near = 1.0 if path[-1].key == "scale" else 0.0
            return jax.numpy.asarray(near + generator.normal(scale=0.3, size=leaf.shape), leaf.dtype)

        shapes = jax.eval_shape(lambda key: module.init(key, *arguments, **keywords), jax.random.key(0))
        return jax.tree.map_with_path(number, shapes)

    return draw
