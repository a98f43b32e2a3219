"""--mode=check on every shipped configuration; configurations that are equal after shrinking are checked once."""

from pathlib import Path
from typing import Any

import pytest
import test_experiments
from test_experiments import FILES, PUBLISHED, ROOT
from trained import command

from transformer import settings
from transformer.checks import batches, decoding, table
from transformer.checks.shrink import SIZES, WINDOW, shrink
from transformer.checks.subject import Subject
from transformer.config import Config
from transformer.errors import UserError
from transformer.modes.checking import simulate

LOCAL = {"layer_pattern": "local,global", "positions": "rotary"}
LOCAL |= {"layer_types.local.window": "8", "layer_types.global.window": "none"}
CAPPED, SINKS, TALKING = "soft_cap.py:SoftCap", "sinks.py:Sinks", "talking_heads.py:TalkingHeads"

# Each objective of the families that have several, and layers that differ, with a variant from a file.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "BERT": ("bert_pretrain", {"attention": TALKING}),
    "T5": ("t5_pretrain", {"attention": "gated_output.py:GatedOutput"}),
    "BART": ("bart_pretrain", {"attention": SINKS}),
    "a decoder with a prefix": ("gpt_number_words", {"attention": CAPPED}),
    "a pattern": ("shakespeare", LOCAL | {"attention": CAPPED}),
    "a layer type": ("shakespeare", LOCAL | {"layer_types.global.attention": SINKS}),
}
_checked: dict[Any, str] = {}


def failures(config: Config) -> list[str]:
    simulate()
    small, _ = shrink(config)
    return [table.remedy(each, small) for each in table.run(Subject(small)) if each.failed]


# One with a decoder and one without; the others, 10 to 70 seconds of processor time each, are run on demand.
KINDS = {"number_words", "bert_base"}
EACH = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in KINDS else pytest.mark.thorough)
    for path in (*FILES, *PUBLISHED)
]


@pytest.mark.parametrize("path", EACH)
def test_a_shipped_configuration(path, tmp_path):
    config = test_experiments.read(path, tmp_path)
    small, _ = shrink(config)
    key = small.family, small.objective.kind, small.model
    if key not in _checked:
        assert failures(config) == []
        _checked[key] = path.stem


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_with_a_variant(name, tmp_path):
    stem, changes = VARIANTS[name]
    named = {f"model.{n}": f"experiments/variants/{text}" if ".py:" in text else text for n, text in changes.items()}
    config = settings.override(test_experiments.read(ROOT / f"{stem}.py", tmp_path), named)
    assert failures(config) == []


def test_every_objective_can_be_made_of_the_check_s_data(tmp_path):
    every = [test_experiments.read(path, tmp_path) for path in (*FILES, *PUBLISHED)]
    made = {type(Subject(shrink(config)[0]).objective).__name__ for config in every}
    assert {"Translate", "CausalLM", "MaskedLM", "SpanCorruption", "Denoise", "Classify", "Tag", "Answer"} <= made


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Two properties with little compilation, the second with none."""
    some = tuple(each for each in table.PROPERTIES if each.measure in (decoding.one_by_one, batches.dtypes))
    run = table.run
    monkeypatch.setattr(table, "run", lambda subject: run(subject, some))


def test_the_command_fails_where_a_property_does(few):
    """Exit status 1, with the property and the hook on stderr and the table on stdout, which lists the settings that were made
    small."""
    file = Path(__file__).parent / "broken.py"
    arguments = ["--mode=check", "--config=experiments/shakespeare.py", "--config.model.d_model=64"]
    arguments += ["--config.model.num_decoder_layers=1"]
    result = command(*arguments, f"--config.model.attention={file}:CacheWrittenLate")
    assert "cached, token by token" in str(result.status) and "CacheWrittenLate.with_cache in broken.py" in str(result.status)
    assert "model.d_model: 64 -> 16" in result.out and "1 of 2 properties hold" in result.out


def test_what_is_made_small_is_listed_and_kinds_stay():
    """Grouped heads remain grouped, windows are shorter than the rows, and two periods of a pattern and one more
    layer remain."""
    given = {"num_kv_heads": "2", "window": "512", "num_decoder_layers": "12", "positions": "rotary"}
    given |= {"layer_pattern": "local,global,local,global", "layer_types.local.window": "64", "layer_types.global.d_ff": "1024"}
    config = settings.override(Config(), {f"model.{name}": text for name, text in given.items()})
    small, changes = shrink(config)
    assert (small.model.num_heads, small.model.num_kv_heads, small.model.window) == (SIZES["num_heads"], 2, WINDOW)
    assert (small.model.layer_pattern, small.model.num_decoder_layers) == (("local", "global"), 5)
    assert small.model.layer_types.plain() == {"local": {"window": str(WINDOW)}, "global": {"d_ff": str(SIZES["d_ff"])}}
    assert {line.partition(":")[0] for line in changes} >= {"model.d_model", "model.window", "model.num_decoder_layers"}
    assert "model.num_heads: 8 -> 4" in changes
    assert any(line.startswith("model.layer_types: local.window=64,global.d_ff=1024 -> local.window=3,") for line in changes)


def test_a_model_that_cannot_be_small_is_one_line():
    config = settings.override(Config(), {"model.positions": "learned", "model.positions.size": "40"})
    with pytest.raises(UserError, match=r"^--mode=check makes the model small .*config.model.positions.size 40"):
        shrink(config)
