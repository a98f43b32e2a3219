"""Loading a workdir from Python gives a predictor for its kind of model."""

import typing

import pytest
import trained

from transformer import families
from transformer.errors import UserError
from transformer.inference import predict
from transformer.inference.generate import Generator
from transformer.inference.label import Labeller
from transformer.inference.translate import Translator


def test_a_workdir_is_ready_to_use():
    used = predict.load(trained.run().workdir, {"search.beam_size": "1"}, "translate")
    assert isinstance(used, Translator) and used.config.search.beam_size == 1 and used.loaded.steps == (100, 150)
    with pytest.raises(UserError, match="--mode=predict: .* has the modes train, evaluate, translate, attend, align"):
        predict.load(trained.run().workdir, mode="predict")


def test_each_output_has_a_predictor_class():
    """And the class has the methods that the modes call."""
    assert set(predict.PREDICTORS) == set(typing.get_args(families.Output)) == {row.output for row in families.TASKS.values()}
    for row in families.TASKS.values():
        used = {"translate": Translator, "generate": Generator, "predict": Labeller}
        assert [used[mode] for mode in row.modes if mode in used] == [predict.PREDICTORS[row.output]]
        assert all(hasattr(predict.PREDICTORS[row.output], name) for name in row.modes if name in used)
    assert all(hasattr(each, "attention") for each in predict.PREDICTORS.values())
