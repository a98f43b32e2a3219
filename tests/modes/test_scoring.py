"""Scoring a split of a workdir, through the command line."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained
from trained import command

from transformer import effects, families, settings
from transformer.config import Config
from transformer.errors import UserError
from transformer.inference import scores
from transformer.inference.loading import pad
from transformer.inference.translate import Output, Translator
from transformer.modes import scoring
from transformer.modes.scoring import reported
from transformer.probes import head_pruning
from transformer.probes.sites import scaled_heads


def test_evaluate_needs_only_the_workdir(tmp_path, monkeypatch):
    """From another folder, although the folder of the data was relative; with a setting that may change."""
    run = trained.run()
    copy = run.copy(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = command("--mode=evaluate", "--workdir=run", "--split=validation", "--config.evaluate.average=1")
    assert result.status == 0
    assert result.lines[0] == "validation-average=1: 20 examples, checkpoint 150"
    found = json.loads((copy / "evaluation" / "validation-average=1.json").read_text())
    last = json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["scores"]["nll"] == pytest.approx(last["validation/nll"], rel=1e-5)
    assert found["scores"]["loss"] == pytest.approx(last["validation/loss"], rel=1e-5)
    assert (copy / "evaluation" / "test.json").exists()


def kept(run, ending=".json"):
    """The files written in addition to the scores of the run itself, which do not change."""
    [file] = (run / "evaluation").glob(f"test-*{ending}")
    same = [(folder / "evaluation" / "test.json").read_bytes() for folder in (run, trained.run().workdir)]
    assert same[0] == same[1]
    return file


def test_scores_that_are_not_finite_are_reported(tmp_path, monkeypatch, loaded):
    copy = trained.run().copy(tmp_path)
    monkeypatch.setattr(scores, "token_scores", lambda *arguments: {"perplexity": float("inf"), "nll": float("nan")})
    result = command("--mode=evaluate", f"--workdir={copy}", "--config.evaluate.scores=exact_match")
    assert result.status == 0 and "perplexity" in result.out and "inf" in result.out
    found = json.loads((copy / "evaluation" / "test.json").read_text())["scores"]
    assert found["perplexity"] is None and found["nll"] is None


def test_scores_of_outputs_as_long_as_their_targets(tmp_path, monkeypatch, loaded):
    run = trained.run().copy(tmp_path)
    used = trained.translator()
    asked = {"evaluate.scores": "exact_match,word_accuracy", "evaluate.true_lengths": "true"}
    monkeypatch.setattr(used, "config", settings.override(used.config, asked))
    assert command("--mode=evaluate", f"--workdir={run}").status == 0
    found = json.loads(kept(run).read_text())["scores"]
    pairs = list(zip(*((trained.run().folder / "data" / f"test.{s}").read_text().split() for s in ("en", "de")), strict=True))
    given = [best[0].text for best in used.translate_to_length(pairs)]
    assert found["exact_match@true_length"] == 100 * sum(a == b for a, (_, b) in zip(given, pairs, strict=True)) / 12
    samples = [json.loads(line) for line in kept(run, ".jsonl").read_text().splitlines()]
    assert [row["prediction@true_length"] for row in samples] == given != [row["prediction"] for row in samples]
    named = {name.removeprefix("test/") for name in reported(used.config) if name.startswith("test/")}
    assert named == set(found) and {"exact_match@true_length", "word_accuracy@true_length"} <= named


def test_scores_by_length(tmp_path, monkeypatch, loaded):
    """Of one word, which all sources have, and of two. The metrics that a study may request are either written or absent."""
    run = trained.run().copy(tmp_path)
    used = trained.translator()
    asked = {"evaluate.scores": "exact_match,chrf", "evaluate.lengths": "1,2,3", "evaluate.places": "1,2,30,31"}
    monkeypatch.setattr(used, "config", settings.override(used.config, asked))
    result = command("--mode=evaluate", f"--workdir={run}")
    found = json.loads(kept(run).read_text())["scores"]
    assert found["exact_match@1-1"] == found["exact_match"] and found["chrf@1-1"] == found["chrf"] > 0
    assert 0 <= found["place_accuracy@1-1"] <= 100
    samples = [json.loads(line) for line in kept(run, ".jsonl").read_text().splitlines()]
    assert [row["source"] for row in samples] == (trained.run().folder / "data" / "test.en").read_text().split()
    outputs, references = ([row[name] for row in samples] for name in ("prediction", "reference"))
    assert scores.score("chrf", outputs, references).value == found["chrf"]
    assert [line.split()[0] for line in result.lines[6:10]] == ["exact_match", "exact_match@1-1", "chrf", "chrf@1-1"]
    named = {name.removeprefix("test/") for name in reported(used.config) if name.startswith("test/")}
    assert named == set(found) | {"exact_match@2-2", "chrf@2-2"} | {f"place_accuracy@{a}" for a in ("2-29", "30-30")}
    labels = settings.override(used.config, {"family": "encoder_only", "objective.kind": "classify", "evaluate.scores": ""})
    assert not any("@" in name for name in reported(labels))


@pytest.fixture
def unscored(monkeypatch):
    """Scoring with known losses and the same output for every source."""
    monkeypatch.setattr(scoring, "token_sums", lambda *arguments: (lambda params: {"loss_sum": 1.0, "weight_sum": 1.0}, []))
    monkeypatch.setattr(Translator, "translate", lambda used, sources, scored: [[Output("A", 0.0)] for _ in sources])


def test_another_test_set_has_separate_scores(tmp_path, unscored):
    """Selected by prefix or folder, whose whole name counts; the same data at another place counts as the same. Other modes
    refuse another test set."""
    run, data = trained.run().copy(tmp_path), trained.run().folder / "data"
    before = (run / "evaluation" / "test.json").read_bytes()
    for name in ("moved", "newer"):
        shutil.copytree(data, tmp_path / name)
    (tmp_path / "newer" / "test.en").write_text("ab\n")
    (tmp_path / "newer" / "test.de").write_text("A\n")
    evaluate = functools.partial(command, "--mode=evaluate", f"--workdir={run}")
    result = evaluate("--config.data.test=validation", f"--config.data.directory={data}")
    found = json.loads((run / "evaluation" / "test-validation.json").read_text())
    assert result.status == 0 and found["examples"] == 20 and found["changed"] == {"data.test": "validation"}
    assert evaluate(f"--config.data.directory={tmp_path / 'newer'}", "--config.search.beam_size=1").status == 0
    [of_folder] = (run / "evaluation").glob("test-*newer-beam_size=1-*.json")
    assert json.loads(of_folder.read_text())["examples"] == 1
    for name in ("news", "law"):
        for side in ("en", "de"):
            (tmp_path / "newer" / name).mkdir(exist_ok=True)
            (tmp_path / "newer" / name / f"test.{side}").write_text(f"{name}\n".upper() if side == "de" else f"{name}\n")
        assert evaluate(f"--config.data.directory={tmp_path / 'newer'}", f"--config.data.test={name}/test").status == 0
    assert len([*(run / "evaluation").glob("test-news_test-*.json"), *(run / "evaluation").glob("test-law_test-*.json")]) == 2
    assert (run / "evaluation" / "test.json").read_bytes() == before
    assert evaluate(f"--config.data.directory={tmp_path / 'moved'}").status == 0
    assert (run / "evaluation" / "test.json").read_bytes() != before
    refused = command("--mode=translate", f"--workdir={run}", "--config.data.test=validation")
    assert refused.status == 2 and "data.test" in refused.err


def test_scores_are_printed_even_if_they_cannot_be_written(tmp_path, monkeypatch, unscored):
    run = trained.run().copy(tmp_path)

    def full(*arguments):
        raise UserError("no space left")

    monkeypatch.setattr(scoring, "_write", full)
    result = command("--mode=evaluate", f"--workdir={run}")
    assert result.status == 2 and result.lines[0].startswith("test: 12 examples") and "exact_match" in result.out


@pytest.mark.parametrize(
    ("kind", "family", "name"),
    [
        ("answer", "encoder_only", "exact_match"),
        ("translate", "encoder_decoder", "squad_f1"),
        ("classify", "encoder_only", "bleu"),
        ("tag", "encoder_only", "accuracy"),
    ],
)
def test_a_score_that_does_not_fit_the_outputs_is_refused_before_a_run(kind, family, name):
    config = effects.without_idle(settings.override(Config(), {"family": family, "objective.kind": kind}))
    with pytest.raises(UserError, match=rf"^config\.evaluate\.scores={name} "):
        effects.check(settings.replace(config, "evaluate.scores", (name,)))
    for fitting in effects.SCORES[kind]:
        effects.check(settings.replace(config, "evaluate.scores", (fitting,)))
    assert set(scoring.JUDGES[families.task_of(config).output].scores) <= set(effects.SCORES[kind])
    assert {each for fitting in effects.SCORES.values() for each in fitting} == set(scores.SCORES)


PLACES = ("encoder/self", "decoder/self", "decoder/cross")  # each of one layer of two heads


def read_with_gates(used, pairs, gates_3x2):
    """Log probabilities BxTxN, and the tokens of targets including their ends with their mask, BxT."""
    inputs = used._inputs([target for _, target in pairs])
    batch, _ = used._batch_of(used._sources([source for source, _ in pairs]), inputs)
    samples = [[*ids[1:], used.data_info.end] for ids in inputs]
    tokens_BxT, there_BxT = pad(samples, batch["inputs"].shape[1])
    with scaled_heads({place: gates_H[None] for place, gates_H in zip(PLACES, gates_3x2, strict=True)}):
        logits = used.model.apply({"params": used.params}, batch)
    return jax.nn.log_softmax(logits)[..., : used.data_info.target_size], tokens_BxT, there_BxT


@pytest.mark.slow
def test_scores_of_a_model_without_heads(tmp_path):
    """Removes half of the heads, by the gradient of each validation pair's loss; then computes losses and outputs
    without them."""
    run, data = trained.run().copy(tmp_path), trained.run().folder / "data"
    file = run / "evaluation" / "test.json"
    before = json.loads(file.read_text())
    less = ("--config.evaluate.heads_removed=0.5", "--config.search.beam_size=1")
    result = command("--mode=evaluate", f"--workdir={run}", *less)
    assert result.lines[0].endswith(": 12 examples, mean of checkpoints 100, 150, without 3 of 6 heads")
    found, used = json.loads(kept(run).read_text()), trained.translator()

    def pairs(split):
        return list(zip(*((data / f"{split}.{side}").read_text().split() for side in ("en", "de")), strict=True))

    def losses(gates_3x2):  # as trained, with label smoothing
        chances, tokens, there = read_with_gates(used, pairs("validation"), gates_3x2)
        right = jnp.take_along_axis(chances, tokens[..., None], axis=-1)[..., 0]
        return -jnp.sum((0.9 * right + 0.1 * chances.mean(axis=-1)) * there, axis=1)

    importance_3x2 = np.abs(jax.jit(jax.jacfwd(losses))(jnp.ones((3, 2)))).sum(axis=0)
    relative_3x2 = importance_3x2 / np.linalg.norm(importance_3x2, axis=1, keepdims=True)
    order = np.argsort(relative_3x2.reshape(-1))
    assert found["heads_removed"] == [f"{PLACES[head // 2]}/1/{head % 2 + 1}" for head in order[:3]]
    assert before["heads_removed"] == [] and found["scores"].keys() == before["scores"].keys()

    gates_3x2 = jnp.ones(6).at[order[:3]].set(0).reshape(3, 2)
    chances, tokens, there = jax.jit(lambda gates: read_with_gates(used, pairs("test"), gates))(gates_3x2)
    nll = -np.sum(np.take_along_axis(np.asarray(chances), tokens[..., None], axis=-1)[..., 0] * there) / there.sum()
    assert found["scores"]["nll"] == pytest.approx(float(nll), rel=1e-4)
    assert abs(nll - before["scores"]["nll"]) > 0.01
    samples = [(sample["source"], sample["prediction"]) for sample in found["samples"]]
    chances, tokens, there = read_with_gates(used, samples, gates_3x2)
    before_the_end = np.arange(there.shape[1]) < there.sum(axis=1, keepdims=True) - 1  # an output may be cut before it
    assert len(samples) == 12 and np.all((np.argmax(chances, axis=-1) == tokens)[before_the_end])


def test_random_head_order_needs_no_validation(tmp_path, unscored):
    """The order depends on the seed of the run."""
    run = trained.run().copy(tmp_path)
    config = json.loads((run / "config.json").read_text())
    config["data"]["validation"] = None
    config["train"]["evaluate_every"] = Config().train.evaluate_every  # it would have no effect
    (run / "config.json").write_text(json.dumps(config))
    asked = ("--config.evaluate.heads_removed=0.5", "--config.evaluate.head_order=random", "--config.evaluate.head_place=")
    removed = {}
    for place in ("all", "decoder/cross"):
        assert command("--mode=evaluate", f"--workdir={run}", *asked[:2], asked[2] + place).status == 0
        removed[place] = json.loads(kept(run).read_text())["heads_removed"]
        kept(run).unlink()
    every = [f"{place}/1/{head}" for place in PLACES for head in (1, 2)]
    assert removed == {
        "all": head_pruning.random_order(every, 0)[:3],
        "decoder/cross": head_pruning.random_order(every[4:], 0)[:1],
    }
