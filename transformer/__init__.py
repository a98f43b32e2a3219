"""Transformers as pure functions in JAX and Flax: the functions for scripts and notebooks.

    import transformer
    run = transformer.train("experiments/number_words.py", "runs/numbers")
    transformer.load("runs/numbers").translate(["twenty-one"])

`load`, `train` and `results` use workdirs; `generate` needs none. Models and settings are in `transformer.models` and
`transformer.config`. Modules are imported when they are first used, so that an error in a setting is reported before JAX is
imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer.api import Results as Results
    from transformer.api import TrainedModel as TrainedModel
    from transformer.api import TrainingRun as TrainingRun
    from transformer.api import load as load
    from transformer.api import results as results
    from transformer.api import train as train
    from transformer.inference.simple import generate as generate

_GENERATE = "transformer.inference.simple"
__all__ = ["Results", "TrainedModel", "TrainingRun", "generate", "load", "results", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_GENERATE if name == "generate" else "transformer.api"), name)
