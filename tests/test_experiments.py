"""Every shipped experiment is valid, and trains: one update at a small size, on a few lines of text."""

import random
from pathlib import Path

import pytest

from transformer import effects, settings
from transformer.config import Config
from transformer.data import fitting
from transformer.errors import UserError
from transformer.modes import training
from transformer.studies import study as studies
from transformer.training import costs as cost_lib
from transformer.training.telemetry import read_metrics
from transformer.validation import validate

ROOT = Path(__file__).parents[1] / "experiments"
FILES = sorted(path for path in ROOT.glob("*.py") if path.stem != "__init__")
PUBLISHED = sorted(path for path in (ROOT / "published").glob("*.py") if path.stem != "__init__")

# What makes a run small without making it another: kinds of layers, optimiser, batches and so on stay.
SMALL = {
    "model.num_encoder_layers": "1",
    "model.num_decoder_layers": "1",
    "model.d_model": "16",
    "model.d_ff": "16",
    "model.num_heads": "2",
    "data.vocabulary_size": "100",
    "data.number_train_size": "60",
    "data.number_test_size": "5",
    "data.number_small_copies": "1",
    "data.synthetic_train_size": "60",
    "data.synthetic_test_size": "5",
    "data.buckets": "1",
    "data.workers": "0",
    "train.batch_tokens": "512",
    "train.steps": "1",
}


EMBEDDED = {"number_words", "list_ops", "entities", "stories", "summaries", "algorithms"}


def pairs(folder: Path, config: Config) -> None:
    draw, data = random.Random(0), config.data
    for split, count in ((data.train, 40), (data.validation, 5), (data.test, 5)):
        for language, words in ((data.source_language, "one two three"), (data.target_language, "eins zwei drei")):
            lines = [" ".join(draw.choices(words.split(), k=draw.randint(1, 6))) for _ in range(count)]
            (folder / f"{split}.{language}").write_text("\n".join(lines) + "\n")


def documents(folder: Path, config: Config) -> None:
    """Paragraphs of sentences. Splits may be slices of one file."""
    draw = random.Random(0)
    for split in filter(None, (config.data.train, config.data.validation, config.data.test)):
        sentences = [f"{draw.choice('abc')}n {draw.choice(['egg', 'hen'])} is one of {n}." for n in range(99)]
        paragraphs = [" ".join(sentences[first : first + 3]) for first in range(0, 99, 3)]
        (folder / split.partition("[")[0]).write_text("\n\n".join(paragraphs) + "\n")


def stand_in(folder: Path, config: Config) -> dict[str, str]:
    """Data of the kind that the configuration names, and the settings for reading it."""
    if config.data.source in EMBEDDED:
        return {}
    if config.data.source == "documents":
        documents(folder, config)
        return {"data.directory": str(folder)}
    pairs(folder, config)
    return {"data.source": "text", "data.directory": str(folder)}


def read(path: Path, folder: Path) -> Config:
    """The settings of the experiment, fitted to the stand-in in `folder` if they depend on the data."""
    pairs(folder, Config())
    return fitting.read(path, {"data.directory": str(folder)} if path.stem == "parallel_text" else {})


def test_there_are_some(tmp_path):
    """There are experiments for each family and each kind of study."""
    every = [read(path, tmp_path) for path in FILES]
    assert {"number_words", "multi30k", "parallel_text", "wmt14_base"} <= {path.stem for path in FILES}
    assert {config.family for config in every} == {"encoder_decoder", "recurrent", "encoder_only", "decoder_only"}
    jobs = {"translate", "causal_lm", "masked_lm", "span_corruption", "denoise", "classify", "tag", "answer"}
    assert {config.objective.kind for config in every} >= jobs


# One of most kinds of data and job; tests/modes/test_tasks.py trains each family and task.
ONE_OF_A_KIND = (
    "number_words",
    "bert_list_ops",
    "shakespeare",
    "rnn_luong",
    "bert_pretrain",
    "bert_stories",
    "bart_pretrain",
    "t5_pretrain",
    "gpt_number_words",
    "parallel_text",
    "wmt14_big",
)
MARKED = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in ONE_OF_A_KIND else pytest.mark.thorough)
    for path in FILES
]


@pytest.mark.parametrize("path", MARKED)
def test_experiment(path, tmp_path, monkeypatch):
    config = validate(read(path, tmp_path))
    assert settings.from_dict(settings.to_dict(config), Config) == config
    small = validate(effects.without_idle(settings.override(config, SMALL | stand_in(tmp_path, config))))
    finished = []
    # These are tested elsewhere, and compile for long.
    monkeypatch.setattr(training, "_finish", lambda *arguments: finished.append(arguments))
    monkeypatch.setattr(training, "token_sums", lambda *arguments: (lambda params: {"loss_sum": 3.0, "weight_sum": 2.0}, []))
    monkeypatch.setattr(training, "peak_flops", lambda devices: 1e12)
    training.train(small, tmp_path / "run")
    assert finished and (tmp_path / "run" / "checkpoints" / "1").is_dir()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert 0 < rows[0]["train/loss"] < 10 and rows[0]["train/gradient_norm"] > 0 and rows[1]["validation/loss"] == 1.5


def test_parallel_text_is_fitted_to_the_number_of_pairs(tmp_path, capfd):
    """Size, vocabulary and updates depend on the number of training pairs, and are printed; the command line takes
    precedence."""

    def fitted(pairs: int, **overrides: str) -> Config:
        for language in ("en", "de"):
            (tmp_path / f"train.{language}").write_text("seven letters\n" * pairs)
        names = {name.replace("__", "."): text for name, text in overrides.items()} | {"data.directory": str(tmp_path)}
        return validate(fitting.read(ROOT / "parallel_text.py", names))

    small, large = fitted(400), fitted(60_000)
    assert small.model.d_model < large.model.d_model and small.data.vocabulary_size < large.data.vocabulary_size
    assert large.train.steps * large.train.batch_tokens == pytest.approx(
        60_000 * (13 / 4 + 1) * 9 * (100 / 60) ** 0.5, rel=0.05
    )
    assert "60,000 training pairs" in capfd.readouterr().err and small.train.warmup_steps < small.train.steps
    mine = fitted(60_000, train__batch_tokens="4096", model__d_model="64", data__validation="none")
    assert mine.model.d_model == 64 and mine.train.steps == pytest.approx(large.train.steps / 2, rel=0.1)
    assert (large.evaluate.checkpoint, mine.evaluate.checkpoint) == ("best", "last")
    longer = fitted(60_000, train__steps="9000")  # an old run can be trained for longer: that setting may change
    assert settings.differences(large, longer, free=True) and not settings.differences(large, longer)
    assert fitted(400, train__steps="3").train.warmup_steps == 1
    with pytest.raises(UserError, match="config.data.source"):
        fitted(400, data__source="number_words")
    with pytest.raises(UserError, match="config.data.train"):
        fitted(400, data__train="none")


@pytest.mark.parametrize("path", [*FILES, *PUBLISHED], ids=lambda path: path.stem)
def test_the_head_says_what_and_how(path, tmp_path):
    assert path.read_text().startswith('"""') and f"--config=experiments/{path.relative_to(ROOT)}" in path.read_text().replace(
        "python launch.py\n", "--config=experiments/number_words.py\n"
    )
    validate(read(path, tmp_path))


# --- studies: that each is valid and fair is tests/studies/test_plan.py ------------------------------------------------


def costs(name: str, arms: list[str]) -> dict[str, cost_lib.Costs]:
    study = studies.read(ROOT / "ablations" / f"{name}.py", {})
    configs = {arm: settings.override(study.base, study.arms[arm]) for arm in arms}
    return {arm: cost_lib.count(c, cost_lib.assumed_data_info(c)) for arm, c in configs.items()}


@pytest.mark.slow
def test_sizes_of_the_scaling_study_are_those_that_are_counted():
    """With and without embeddings: claims count them both ways."""
    seen = set()
    for claim in studies.read(ROOT / "ablations" / "scaling.py", {}).claims:
        found = costs("scaling", list(claim.arms)).values()
        ways = {"whole": [cost.size for cost in found], "body": [cost.size_without_embeddings for cost in found]}
        [way] = [way for way, counted in ways.items() if counted == list(claim.sizes)]
        seen.add(way)
        assert len(found) >= 6 and max(claim.sizes) / min(claim.sizes) >= 10**1.5
    assert seen == set(ways)


@pytest.mark.slow
def test_rows_of_table_3_differ_from_the_base_by_the_published_parameters():
    """Its column "params" in millions, less the base model's 65; the paper's vocabulary was a little larger than 37,000."""
    published = {"B: d_k 16": 58, "C: N 2": 36, "C: N 8": 80, "C: d_model 256": 28, "C: d_ff 4096": 90, "big": 213}
    found = costs("vaswani_table3", ["base", *published])
    for row, millions in published.items():
        assert abs((found[row].size - found["base"].size) / 1e6 - (millions - 65)) < 3.3, row


def test_claims_of_table_3_are_its_numbers():
    """Kinds and effects, which are computed, by hand: ln(5.29 / 4.92), ln(5.47 / 4.92); and the small twin has each row."""
    claims = {claim.arms[0]: claim for claim in studies.read(ROOT / "ablations" / "vaswani_table3.py", {}).claims}
    kinds = {"A: h 1": "worse", "A: h 16": "equal", "C: d_ff 4096": "better", "D: smoothing 0": "better", "E: learned": "equal"}
    assert {row: claims[row].kind for row in kinds} == kinds
    assert claims["A: h 1"].effect == 0.073 and claims["D: smoothing 0.2"].effect == 0.106
    small = studies.read(ROOT / "ablations" / "vaswani_table3_multi30k.py", {})
    rows = {claim.text.partition(": the")[0]: claim.arms[0] for claim in small.claims}
    assert list(rows) == list(claims) and list(small.arms) == ["base", *rows.values()]
    for row, arm in rows.items():  # "A: h 32" is "A: h 16 (paper: 32)"
        name, _, number = arm.removesuffix(")").partition(" (paper: ")
        assert (f"{name.rpartition(' ')[0]} {number}" if number else name) == row
