"""Each task from its files to its scores, figures and outputs, through the command line."""

import json
import shlex
import shutil
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import tasks
import trained
from seqeval.metrics import f1_score
from tasks import TASKS
from trained import command

from transformer import families
from transformer.inference import loading, predict
from transformer.modes import lines
from transformer.training import loop

ENCODER_DECODER = ["decoder cross attention", "decoder self attention", "encoder self attention"]
MADE = {  # what the pictures of a run show
    "recurrent": ["decoder cross attention"],
    "decoder_only": ["decoder self attention"],
    "prefix_lm": ENCODER_DECODER,
    "span_corruption": ENCODER_DECODER,
    "causal_lm": ["decoder self attention"],
}
# The runs of the others are made for further tests as well.
SLOW = ("recurrent", "decoder_only", "prefix_lm", "span_corruption")
each_task = pytest.mark.parametrize("task", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in TASKS])


@pytest.fixture
def use(monkeypatch):
    """A task's run; modes then use the predictor made at its end, which is already compiled."""
    load = predict.load

    def use(task: str) -> tasks.Run:
        monkeypatch.setattr(predict, "load", load)  # a run that is trained now loads its own
        run = tasks.run(task)
        monkeypatch.setattr(predict, "load", lambda *arguments, **named: run.predictor)
        return run

    return use


def test_every_kind_has_a_run():
    """`translate` and `embed` are tested elsewhere; `denoise` differs from `span_corruption` only in its objective."""
    assert families.TASKS.keys() - {"translate", "denoise", "embed"} == TASKS.keys() - families.FAMILIES.keys()


# --- train ---------------------------------------------------------------------------------------------------------------


@each_task
def test_a_run_is_scored_and_drawn(task):
    run = tasks.run(task)
    assert run.result.status == 0, run.result.err
    steps = [line.split()[1] for line in run.result.err.splitlines() if line.startswith("step ") and "/loss" not in line]
    assert steps == ["1/3", "2/3", "3/3"]
    found = json.loads((run.workdir / "evaluation" / "test.json").read_text())
    assert tuple(found["scores"]) == TASKS[task].scores and all(np.isfinite(list(found["scores"].values())))
    rows = [line.split() for line in run.result.lines[1 : 1 + len(found["scores"])]]
    shown = {row[0]: float(row[1].replace(",", "")) for row in rows if row[1] != ">1,000,000"}  # a perplexity
    assert shown == pytest.approx({name: found["scores"][name] for name in shown}, rel=1e-3, abs=1e-4)
    assert run.result.out.endswith((run.workdir / "evaluation" / "test.txt").read_text())
    maps = MADE.get(task, ["encoder self attention"])
    pictures = {f"attention_{name.replace(' ', '_')}" for name in maps} | {"learning_curve"}
    pictures |= {"attention"} | ({"cross_attention"} if "decoder cross attention" in maps else set())
    assert {path.stem for path in (run.workdir / "pictures").iterdir()} == pictures


@each_task
def test_commands_proposed_at_the_end_of_a_run_work(task, use, tmp_path, monkeypatch):
    """All modes of its task, on a copy, one command after another."""
    run = use(task)
    shutil.copytree(run.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    proposed = [shlex.split(line) for line in run.result.err.split("next:\n")[1].splitlines()]
    assert proposed.pop() == ["python", "launch.py", "--help"]
    results = {}
    for words in proposed:
        before, after = words[: words.index("python")], words[words.index("python") + 2 :]
        mode = after[0].removeprefix("--mode=")
        stdin = f"{before[-2]}\n".encode() if before else b""
        results[mode] = (command(*after, stdin=stdin), stdin.decode(), after)
        assert results[mode][0].status == 0, results[mode][0].err
    modes = families.TASKS[run.predictor.config.objective.kind].modes
    assert set(results) == {"evaluate", "translate", "predict", "generate", "attend"} & set(modes)
    last = json.loads((run.workdir / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(Path("run/evaluation/validation.json").read_text())["scores"]
    assert found["nll"] == pytest.approx(last["validation/nll"], rel=1e-5)
    shown = {Path(line).name for line in results["attend"][0].lines}
    assert shown == {path.name for path in Path("run/pictures").iterdir() if path.is_file()} - {"learning_curve.png"}
    if "generate" in results:
        predicted, _, given = results["generate"]
        prompt = given[-1].removeprefix("--prompt=")
        assert predicted.out == prompt + run.predictor.generate(prompt)[0] + "\n"
    for mode in {"translate", "predict"} & set(results):
        predicted, stdin, _ = results[mode]
        assert len(predicted.lines) == 1 and predicted.out.endswith("\n")
        if mode == "predict":
            assert predicted.lines == run.predictor.predict([run.predictor.parse(stdin.removesuffix("\n"))])
        else:
            assert predicted.lines == [next(run.predictor.translate([stdin]))[0].text]


# --- scores are those of the outputs --------------------------------------------------------------------------------------


def percent(predicted: list[str], right: list[str]) -> float:
    return 100 * float(np.mean([a == b for a, b in zip(predicted, right, strict=True)]))


def test_scores_of_labels_tags_and_answers_are_those_of_their_lines(use):
    """In the other direction: lines of the test files through `predict`, compared with their labels."""
    predicted, right, found = {}, {}, {}
    for task, texts in (("classify", _labels), ("tag", _tags), ("answer", _answers)):
        run = use(task)
        asked, right[task] = texts(run.folder / "data")
        result = command("--mode=predict", f"--workdir={run.workdir}", stdin="".join(f"{line}\n" for line in asked).encode())
        assert (result.status, result.err, len(result.lines)) == (0, "", len(asked))
        predicted[task] = result.lines
        found[task] = json.loads((run.workdir / "evaluation" / "test.json").read_text())["scores"]
    assert found["classify"]["accuracy"] == pytest.approx(percent(predicted["classify"], right["classify"]))
    tags, true = ([line.split() for line in each["tag"]] for each in (predicted, right))
    assert found["tag"]["entity_f1"] == pytest.approx(100 * f1_score(true, tags))
    assert found["tag"]["token_accuracy"] == pytest.approx(percent(sum(tags, []), sum(true, [])))
    assert found["answer"]["squad_exact_match"] == pytest.approx(percent(predicted["answer"], right["answer"]))
    assert found["classify"]["accuracy"] > 0 < found["tag"]["entity_f1"]
    assert all(answer in line for answer, line in zip(predicted["answer"], asked, strict=True)) and any(predicted["answer"])


def _labels(folder: Path) -> tuple[list[str], list[str]]:
    rows = [line.split("\t") for line in (folder / "test.tsv").read_text().splitlines()]
    return [row[1] for row in rows], [row[0] for row in rows]


def _tags(folder: Path) -> tuple[list[str], list[str]]:
    rows = [[line.split() for line in part.split("\n")] for part in (folder / "test.conll").read_text().strip().split("\n\n")]
    return tuple([" ".join(word[column] for word in row) for row in rows] for column in (0, 1))  # type: ignore[return-value]


def _answers(folder: Path) -> tuple[list[str], list[str]]:
    paragraphs = json.loads((folder / "test.json").read_text())["data"][0]["paragraphs"]
    asked = [f"{each['qas'][0]['question']}\t{each['context']}" for each in paragraphs]
    return asked, [each["qas"][0]["answers"][0]["text"] for each in paragraphs]


def test_notices_and_errors_name_the_line_however_many_there_are(use, monkeypatch):
    monkeypatch.setattr(lines, "BATCH", 2)
    run = use("masked_lm")
    given = ["b<mask>n", "x" * 60, "ann<mask>", "x" * 60, "<mask>"]
    result = command("--mode=predict", f"--workdir={run.workdir}", stdin="\n".join(given).encode())
    assert result.status == 0 and len(result.lines) == 5 and len(result.lines[0]) == 3
    assert result.err == "2 of 5 texts were cut to 48 tokens (config.data.max_source_length), the first of them number 2\n"
    result = command("--mode=predict", f"--workdir={run.workdir}", stdin=b"a\nb\nc\td\n")
    assert result.status == 2 and result.err == "launch.py: line 3 has 2 fields separated by tabs: give text\n"


# --- generate ------------------------------------------------------------------------------------------------------------


def test_generate(use, tmp_path):
    """The prompt from a flag or from stdin; several samples; to a file; another seed."""
    run = use("causal_lm")
    where = ["--mode=generate", f"--workdir={run.workdir}"]
    [alone] = run.predictor.generate("ann has", 1, 3)
    by_flag = command(*where, "--prompt=ann has", "--seed=3", f"--output={tmp_path / 'out.txt'}")
    assert (by_flag.status, by_flag.out) == (0, "") and by_flag.err.startswith("1 of 1 samples ended at the limit")
    assert (tmp_path / "out.txt").read_text() == f"ann has{alone}\n"
    by_stdin = command(*where, "--num_samples=2", "--seed=3", stdin=b"ann has\n")
    two = run.predictor.generate("ann has", 2, 3)
    assert by_stdin.out == f"--- sample 1\nann has{two[0]}\n--- sample 2\nann has{two[1]}\n" and two[0] == alone != two[1]
    assert command(*where, "--prompt=ann has", "--seed=4").out != f"ann has{alone}\n"
    long = command(*where, f"--prompt={'ann has egg. ' * 9}")
    assert long.err.startswith("70 of 118 (59.3%) tokens of the prompt are not read") and "config.data.max_target" in long.err


def test_a_prompt_past_the_positions_is_one_line_and_nothing_else(use):
    run = use("causal_lm")
    with mock.patch("transformer.inference.generate.most_positions", lambda config: 5):
        result = command("--mode=generate", f"--workdir={run.workdir}", "--prompt=ann has egg")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("launch.py: the prompt has 12 tokens, the start included, and the model has 5 positions")


# --- modes that a task lacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "mode", "has"),
    [
        ("masked_lm", "translate", "predict, attend"),
        ("classify", "generate", "predict, attend"),
        ("causal_lm", "predict", "generate, attend"),
    ],
)
def test_a_mode_that_a_task_does_not_have(task, mode, has):
    result = command(f"--mode={mode}", f"--workdir={tasks.run(task).workdir}", stdin=b"a\n")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"launch.py: --mode={mode}: ")
    assert f"config.objective.kind {task} has the modes train, evaluate, {has}" in result.err


# --- a run that starts from another --------------------------------------------------------------------------------------


@pytest.fixture
def first_state(monkeypatch):
    """Stops training before its first update; the initial state. The runs of tasks are trained nevertheless."""
    states, train, run = [], loop.train, tasks.run

    def trained_run(task):
        with pytest.MonkeyPatch.context() as whole:
            whole.setattr(loop, "train", train)
            return run(task)

    def begun(config, state, first, *more, **others):
        states.append(state)
        return state, first
        yield  # no update is asked for

    monkeypatch.setattr(loop, "train", begun)
    monkeypatch.setattr(tasks, "run", trained_run)
    return states


def started(task: str, other: Path, folder: Path, **settings: str):
    run = tasks.run(task)
    given = tasks.arguments(task, **{"train.init_from": str(other), "data.directory": str(run.folder / "data")} | settings)
    return command(f"--config={run.folder / 'tiny.py'}", *given, f"--workdir={folder / 'run'}")


@pytest.mark.parametrize("task", ["causal_lm", "classify", "tag", "answer"])
def test_files_are_found_from_any_folder(task, tmp_path, monkeypatch, first_state):
    """Their location comes from the workdir, although the command does not name it."""
    run = tasks.run(task)
    monkeypatch.chdir(run.folder / "data")
    given = tasks.arguments(task, **{"data.directory": "none"})
    result = command(f"--config={run.folder / 'tiny.py'}", *given, f"--workdir={tmp_path / 'run'}")
    assert result.status == 0, result.err
    written = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["directory"]
    assert Path(written).samefile(run.folder / "data") and Path(written).is_absolute()


def leaves(params) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_an_encoder_is_loaded_from_another_run(tmp_path, first_state):
    other = tasks.run("masked_lm").workdir
    result = started("classify", other, tmp_path)
    assert result.status == 0, result.err
    [message] = [line for line in result.err.splitlines() if line.startswith(f"from {other}: ")]
    own, theirs = leaves(first_state[0].params), leaves(loading.read(other).params)
    shared = own.keys() & theirs.keys()
    assert message.startswith(f"from {other}: {len(shared)} of {len(own)} arrays, ") and 0 < len(shared) < len(own)
    for part in ("source_embedding", "type_embedding", "encoder"):
        assert part in message
    assert "  fresh: classifier, pooler\n" in result.err and "  left there: masked_lm\n" in result.err
    assert {name.split("'")[1] for name in own.keys() - shared} == {"classifier", "pooler"}
    for name in shared:
        np.testing.assert_array_equal(own[name], theirs[name])
    assert np.std(own["['pooler']['dense']['kernel']"]) > 0
    vocabulary = [sorted((path / "vocabulary").iterdir())[0].read_bytes() for path in (other, tmp_path / "run")]
    assert vocabulary[0] == vocabulary[1]
    again = json.loads((tmp_path / "run" / "data_info.json").read_text())
    assert again["labels"] == ["no", "yes"] and again["mask"] == json.loads((other / "data_info.json").read_text())["mask"]


@pytest.mark.slow
def test_a_denoising_model_is_loaded_completely(tmp_path, first_state):
    """As with T5: a text-to-text task has the same model."""
    other, data = tasks.run("span_corruption").workdir, trained.write_corpus(tmp_path / "data")
    task = {"objective.kind": "translate", "data.source": "text", "data.directory": str(data)}
    result = started("span_corruption", other, tmp_path, **task)
    assert result.status == 0, result.err
    own, theirs = leaves(first_state[0].params), leaves(loading.read(other).params)
    assert f"from {other}: {len(own)} of {len(own)} arrays" in result.err
    assert "fresh" not in result.err and "left there" not in result.err and own.keys() == theirs.keys()
    for name in own:
        np.testing.assert_array_equal(own[name], theirs[name])


def test_a_run_that_has_begun_does_not_need_the_other_run(tmp_path, monkeypatch, not_scored):
    """Vocabulary, data_info and parameters are then stored in its own workdir."""
    other = Path(shutil.copytree(tasks.run("masked_lm").workdir, tmp_path / "other"))
    assert started("tag", other, tmp_path, **{"train.steps": "1"}).status == 0
    shutil.rmtree(other)
    result = started("tag", other, tmp_path, **{"train.steps": "1"})
    assert result.status == 0 and "training is complete after step 1;" in result.err, result.err


@pytest.mark.parametrize(
    ("task", "settings", "parts"),
    [
        ("classify", {"model.d_model": "8"}, ["/kernel has the shape (1, 16, 16) there and (1, 8, 16) here", "the same sizes"]),
        ("causal_lm", {"model.d_ff": "8", "model.token_types": "0"}, ["no parameter in common with this model"]),
    ],
)
def test_a_failed_load_of_another_run_leaves_no_trace(task, settings, parts, tmp_path, first_state):
    """Otherwise the corrected command would find the settings of the wrong one."""
    other = tasks.run("masked_lm").workdir
    result = started(task, other, tmp_path, **settings)
    assert result.status == 2 and result.out == "" and not first_state
    last = result.err.splitlines()[-1]
    assert last.startswith(f"launch.py: config.train.init_from {other}: ") and all(part in last for part in parts)
    assert not (tmp_path / "run").exists() and "Traceback" not in result.err


def test_a_vocabulary_without_a_mask_cannot_fill_masks(tmp_path, first_state):
    other = tasks.run("classify").workdir
    result = started("masked_lm", other, tmp_path)
    assert result.status == 2 and not (tmp_path / "run").exists()
    assert result.err == (
        f"launch.py: config.train.init_from {other}: its vocabulary has no mask, which config.objective.kind masked_lm needs; "
        "start from a run that has, or from none\n"
    )
    result = started("masked_lm", tmp_path / "nowhere", tmp_path)
    assert result.status == 2 and "nowhere: there is no such folder" in result.err and not (tmp_path / "run").exists()
