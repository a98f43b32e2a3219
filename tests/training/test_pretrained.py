"""Loading of parameters from another run, and what is reported about it."""

import numpy as np
import pytest

from transformer.errors import UserError
from transformer.training.pretrained import load_pretrained

OWN = {"encoder": {"kernel": np.zeros((2, 3), np.float32)}, "classifier": {"kernel": np.zeros(3, np.float32)}}


def test_shared_arrays_are_loaded_and_the_others_reported():
    other = {"encoder": {"kernel": np.ones((2, 3))}, "masked_lm": {"bias": np.ones(2)}}
    params, lines = load_pretrained(OWN, other, "runs/a")
    assert params["encoder"]["kernel"].dtype == np.float32 and np.all(params["encoder"]["kernel"] == 1)
    assert np.all(params["classifier"]["kernel"] == 0)
    assert lines == ["from runs/a: 1 of 2 arrays, encoder", "  fresh: classifier", "  left there: masked_lm"]


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"runs/a: encoder/kernel has the shape \(3, 3\) there and \(2, 3\) here"):
        load_pretrained(OWN, {"encoder": {"kernel": np.ones((3, 3))}}, "runs/a")


def test_another_model_altogether_is_refused():
    with pytest.raises(UserError, match="it has no parameter in common with this model"):
        load_pretrained(OWN, {"decoder": {"kernel": np.ones((3, 3))}}, "runs/a")
