"""Limits of length in generation_config.json: obeyed, written for each model that makes text, unchanged when they come back."""

import folders
import pytest

from transformer import settings
from transformer.config import Config, DataInfo, Search
from transformer.errors import UserError
from transformer.interop import configs, limits
from transformer.interop.formats import FORMATS

BOTH, ALONE = "encoder_decoder", "decoder_only"


def read(generation, family=BOTH) -> dict:
    return limits.to_settings(generation, family, "generation_config.json")


def config_of(values, family=BOTH, **more) -> Config:
    given = values | {name.replace("__", "."): value for name, value in more.items()}
    return settings.assign(settings.replace(Config(), "family", family), given)


def output_limits(values) -> list[int]:
    return [config_of(values).search.output_limit(source) for source in (1, 30)]


def test_an_output_has_as_many_tokens_as_the_file_says_whatever_the_source():
    assert output_limits(read({"max_new_tokens": 10})) == [10, 10]
    assert output_limits(read({"max_length": 10})) == [9, 9]  # the start is one of them
    assert output_limits(read({"max_length": 10, "max_new_tokens": 70})) == [70, 70]
    assert read({"max_length": 10})["data.max_target_length"] == 9
    assert read({}) == {}


@pytest.mark.parametrize(
    ("generation", "new"),
    [({"max_new_tokens": 10}, 10), ({"max_length": 10}, 3), ({"max_length": 10, "max_new_tokens": 70}, 70), ({}, 200)],
)
def test_a_continuation_has_as_many_tokens_as_the_file_says(generation, new):
    assert config_of(read(generation, ALONE)).search.continuation_limit(7) == new


def test_limits_of_a_search_are_caps_and_the_least_counts():
    assert Search(max_length=10, max_new_tokens=2).continuation_limit(7) == 2
    assert Search(max_length=10, max_extra=2).output_limit(3) == 5
    assert Search(max_length=7).continuation_limit(7) == 0


@pytest.mark.parametrize("value", ["10", 0, -3, 2.5, True, [10]])
@pytest.mark.parametrize("name", limits.THEIRS)
def test_what_is_no_number_of_tokens_is_named(name, value):
    with pytest.raises(UserError, match=name):
        read({name: value})


@pytest.mark.parametrize("family", [BOTH, ALONE])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"search__max_extra": 3, "data__max_target_length": 64},
        {"search__max_new_tokens": 10},
        {"search__max_new_tokens": 5000},
        {"search__max_length": 30},
        {"search__max_length": 30, "search__max_new_tokens": 4, "search__max_extra": 6},
    ],
)
@pytest.mark.parametrize("positions", ["learned", "t5"])
def test_limits_are_the_same_when_they_come_back(family, changes, positions):
    size = {"model__positions__size": 300} if positions == "learned" else {}
    config = config_of({}, family, model__positions=positions, **size, **changes)
    written = limits.to_fields(config)
    assert written["max_length"] > 20
    again = config_of(read(written, family), family)
    assert not [each for each in settings.differences(config, again, free=True) if each.startswith(limits.SETTINGS)]


@pytest.mark.parametrize("generation", [{"max_length": 64}, {"max_new_tokens": 63}])
def test_an_imported_limit_is_written_as_transformers_has_it(generation):
    written = limits.to_fields(config_of(read(generation)))
    assert written == {"max_length": 64}


def test_a_limit_that_somebody_changed_in_the_file_is_obeyed():
    written = limits.to_fields(config_of({}))
    assert limits.OURS in written
    assert output_limits(read(written | {"max_length": 10})) == [9, 9]


def test_no_export_lets_a_text_outgrow_its_positions():
    """Transformers fails there; ours reads the last half again."""
    config = config_of({}, ALONE, model__positions="learned", model__positions__size=128, search__max_new_tokens=500)
    assert "max_new_tokens" not in (written := limits.to_fields(config)) and written["max_length"] == 128
    config = config_of({}, BOTH, model__positions="learned", model__positions__size=128)
    assert limits.to_fields(config)["max_length"] == 129  # the last token is not read


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.family != "encoder_only"])
def test_every_model_that_makes_text_is_written_with_a_limit(name):
    form = FORMATS[name]
    t5 = folders.T5_FIELDS | {"scale_decoder_outputs": True}
    older = {"gpt2": folders.GPT2_FIELDS, "t5": t5, "mt5": t5, "umt5": t5}.get(name, folders.BART_FIELDS)
    hidden = {"vocab_size": 48, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 28}
    fields = {"hidden_size": 24} if name == "opt" else hidden if form.layers else older
    values = configs.to_settings(form, fields, {"max_length": 17}, "config.json", "generation_config.json")
    config = config_of({n: v for n, v in values.items() if not n.startswith("data_info.")}, form.family)
    assert configs.search_fields(config, DataInfo(9, 9, 9, 9))["max_length"] == 17
