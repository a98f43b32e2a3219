"""Every shipped variant on eight simulated devices, with remat and with unrolled layers: the numbers are those of one device.

This file is the program of the process with the devices. The properties are those of --mode=check."""

import functools
import json
import sys
from pathlib import Path

import every_variant
import pytest
import simulated

from transformer import settings
from transformer.checks import programs, table
from transformer.checks.shrink import shrink
from transformer.checks.subject import Subject
from transformer.components.attention import Attention
from transformer.components.masks import Mask
from transformer.components.positions import Positions
from transformer.components.residuals import Residual
from transformer.config import Config

KINDS = {"attention": Attention, "positions": Positions, "mask": Mask, "residual": Residual}
NAMES = {name: setting for setting, kind in KINDS.items() for name in every_variant.names(kind)}
BROKEN = f"{Path(__file__).parents[1] / 'check' / 'broken.py'}:BatchStatistics"  # a device sees a part of the batch alone
BASE = {
    "family": "decoder_only",
    "objective.kind": "causal_lm",
    "model.num_encoder_layers": "1",
    "model.num_decoder_layers": "2",
    "model.tying": "none",
    "model.dropout_rate": "0",
}


def measured(name: str, setting: str) -> dict[str, float | str]:
    positions = {} if setting == "positions" else {"model.positions": "none"}
    config = settings.override(Config(), BASE | positions | {f"model.{setting}": name})
    subject = Subject(shrink(config)[0])
    if name == BROKEN:
        return {"devices": programs.devices(subject, ["pmap"])}
    return {
        "devices": programs.devices(subject.variant(remat="full"), ["tensor"]),  # 2 x 2 x 2: rows, fsdp and tensor
        "remat": programs.remat(subject),
        "unrolled": programs.unrolled(subject),
    }


# Heads that mix, which lie on several devices, and a state instead of a cache; the others are run on demand.
SAMPLE = ("talking_heads.py", "linear.py")
MARKED = [
    pytest.param(
        name,
        id=Path(name).name,
        marks=pytest.mark.slow if Path(name).name.split(":")[0] in SAMPLE else pytest.mark.thorough,
    )
    for name in NAMES
]


@functools.cache
def found(sample: bool) -> dict[str, dict[str, float | str]]:
    return simulated.eight(__file__, *(["sample"] if sample else []))


@pytest.mark.parametrize("name", MARKED)
def test_every_layout_computes_the_same(name):
    bounds = {each.measure.__name__: each.bound for each in table.PROPERTIES}
    errors = found(Path(name).name.split(":")[0] in SAMPLE)[name]
    assert all(isinstance(error, float) and error <= bounds[each] for each, error in errors.items()), errors


@pytest.mark.slow
def test_what_depends_on_a_device_s_share_of_the_batch_is_found():
    assert found(True)[BROKEN]["devices"] > 1e-3


if __name__ == "__main__":
    inside = {
        name: setting for name, setting in NAMES.items() if (Path(name).name.split(":")[0] in SAMPLE) == (sys.argv[1:] != [])
    }
    chosen = inside | ({BROKEN: "attention"} if sys.argv[1:] else {})
    print(json.dumps({name: measured(name, setting) for name, setting in chosen.items()}))
