"""The requests of lm_eval to a language model, against its logits; and lm_eval itself, if installed, on a task
of local files."""

import dataclasses
import functools
import json
import sys
import types

import drawn
import jax
import numpy as np
import pytest

from transformer import harness, settings
from transformer.api import TrainedModel
from transformer.config import Config, Data, Model, Objective, Search
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError
from transformer.inference import loading
from transformer.inference.generate import Generator

LETTERS = Characters("abcdefgh ?.")


@functools.cache
def loaded(kind: str = "causal_lm"):
    config = Config(
        family="decoder_only" if kind == "causal_lm" else "encoder_decoder",  # type: ignore[arg-type]
        objective=Objective(kind=kind),  # type: ignore[arg-type]
        model=Model(num_encoder_layers=1, num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2, dropout_rate=0.0),
        data=Data(vocabulary="characters", max_source_length=20, max_target_length=20),
        search=Search(batch_size=2),
    )
    return drawn.loaded(config, dict.fromkeys(("text",) if kind == "causal_lm" else ("source", "target"), LETTERS), 0.4)


def scorer(more=None, **options):
    found = loaded()
    return harness.Scorer(dataclasses.replace(found, config=settings.override(found.config, more or {})), **options)


def by_hand(context: str, continuation: str) -> tuple[float, bool]:
    """Computed from the logits of the model, with a start token before the text."""
    [logits] = TrainedModel(loaded()).logits([context + continuation])
    log_p = np.asarray(jax.nn.log_softmax(logits))
    ids, first = LETTERS.encode(context + continuation), len(LETTERS.encode(context))
    places = range(first, len(ids))
    return sum(float(log_p[n, ids[n]]) for n in places), all(int(log_p[n].argmax()) == ids[n] for n in places)


def test_likelihoods_are_those_of_the_logits():
    """Several lengths in batches of two, one of which is not full; the results are in the order of the requests."""
    pairs = [("abc", "def"), ("a", "b"), ("", "cab"), ("hgf ed", " c?"), ("bb", "a")]
    found = scorer(batch_size=2).loglikelihood(pairs)
    for pair, (value, greedy) in zip(pairs, found, strict=True):
        assert value == pytest.approx(by_hand(*pair)[0], rel=1e-4)
        assert greedy == by_hand(*pair)[1]


def test_blanks_belong_to_the_continuation():
    assert scorer().tokens("ab ", "c") == (LETTERS.encode("ab"), LETTERS.encode(" c"))


def test_of_a_long_text_the_end_is_read():
    """The window has 20 tokens; earlier tokens have no effect."""
    one, other = scorer().loglikelihood([("a" * 30, "bcd"), ("h" * 10 + "a" * 20, "bcd")])
    assert one == other
    with pytest.raises(UserError, match="continuation"):
        scorer().loglikelihood([("a", "b" * 21)])


def test_greedy_continuations_end_where_they_are_asked_to():
    made = scorer()
    whole = made.generate("ab", [], 6, 0.0)
    assert len(whole) <= 6 and made.generate("ab", [], 6, 0.0) == whole
    assert made.loglikelihood([("ab", whole)])[0][1]
    assert made.generate("ab", [whole[2:4], whole[1:4]], 6, 0.0) == whole[: min(whole.find(whole[2:4]), whole.find(whole[1:4]))]


def test_a_model_of_lowercase_text_reads_lowercase():
    pairs, small = [("AbC", "Def")], [("abc", "def")]
    made = scorer({"data.lowercase": "true"})
    assert made.loglikelihood(pairs) == scorer().loglikelihood(small) and made.rolling(["AbC"]) == scorer().rolling(["abc"])
    whole = scorer().generate("ab", [], 6, 0.0)
    assert whole and made.generate("AB", [whole[-1].upper()], 6, 0.0) == whole[: whole.index(whole[-1])]


def test_the_last_window_of_a_long_text_is_full():
    """The window has 20 tokens: of 26 the last 6 are read behind the 14 before them, as lm_eval has it."""
    made, text = scorer(), "abcdefgh ?" * 2 + "hgfeda"
    ids = [made._model.data_info.start, *LETTERS.encode(text)]
    wanted = []
    for first, count in ((0, 20), (6, 6)):
        logits = made._model.model.apply({"params": made._model.params}, {"inputs": np.asarray([ids[first : first + 20]])})
        log_p = np.asarray(jax.nn.log_softmax(logits))[0]
        wanted += [log_p[n, ids[first + n + 1]] for n in range(20 - count, 20)]
    assert made.rolling([text])[0] == pytest.approx(sum(map(float, wanted)), rel=1e-4)


def test_the_options_of_a_task_are_obeyed():
    """Under all names that lm_eval has for the limit; what the search does not have is named."""
    assert harness.search_of({"until": ["?"]}) == (harness.NEW_TOKENS, 0.0, {})
    assert harness.search_of({"max_new_tokens": 7, "num_beams": 1, "top_p": None}) == (7, 0.0, {})
    assert harness.search_of({"max_gen_toks": 5, "max_tokens": 7, "do_sample": False, "temperature": 0.8}) == (5, 0.0, {})
    assert harness.search_of({"temperature": 0.8})[1] == 0.8 and harness.search_of({"do_sample": True})[1] == 1.0
    more = harness.search_of({"do_sample": True, "top_p": 0.95, "top_k": 0})[2]
    assert more == {"search.top_p": "0.95", "search.top_k": "none"}
    assert harness.search_of({"top_p": 0.5, "repetition_penalty": 1.5})[2] == {"search.repetition_penalty": "1.5"}
    with pytest.raises(UserError, match="num_beams 4, typical_p 0.5"):
        harness.search_of({"num_beams": 4, "typical_p": 0.5})
    made = scorer()
    assert made.generate("ab", [], 6, 1.0, more={"search.top_k": "1"}) == made.generate("ab", [], 6, 0.0)


def test_repeated_samples_differ_and_are_the_same_each_time():
    made = scorer()
    drawn = [made.generate("ab", [], 12, 1.0, seed=seed) for seed in (0, 1, 2, 0)]
    assert len(set(drawn)) == 3 and drawn[0] == drawn[3]


def test_another_kind_of_model_is_refused():
    with pytest.raises(UserError, match=r"config\.objective\.kind is translate"):
        harness.Scorer(loaded("translate"))


def test_a_setting_of_sampling_has_no_effect_on_greedy_requests():
    assert scorer({"search.top_k": "3"}).generate("ab", [], 6, 0.0) == scorer().generate("ab", [], 6, 0.0)


def test_of_a_long_prompt_at_least_half_a_window_is_read(monkeypatch):
    """The window has 20 tokens."""
    made, read = scorer(), []
    monkeypatch.setattr(Generator, "generate", lambda model, prompt, seed: [read.append(prompt) or ""])
    for new_tokens in (40, 5):
        for prompt in ("abbegfdh cbaa", "abbegfdh cbaaa"):
            made.generate(prompt, [], new_tokens, 0.0)
    assert read == ["egfdh cbaa", "gfdh cbaaa", "abbegfdh cbaa", "abbegfdh cbaaa"]
    assert [cut.count for cut in made.cuts] == [1, 1, 0, 0] and "10 tokens" in str(made.cuts[0])


def test_a_model_may_read_texts_without_a_start_token():
    made = scorer({"search.start_token": "false"})
    [logits] = TrainedModel(made._model.loaded).logits(["abcdef"])
    log_p, ids = np.asarray(jax.nn.log_softmax(logits)), LETTERS.encode("abcdef")
    assert made.loglikelihood([("abc", "def")])[0][0] == pytest.approx(sum(log_p[n - 1, ids[n]] for n in (3, 4, 5)), rel=1e-4)
    assert made.loglikelihood([("", "cab")]) == scorer().loglikelihood([("", "cab")])


def test_a_wrong_workdir_is_a_line(monkeypatch, capsys):
    """Whatever raises the error inside lm_eval."""
    monkeypatch.setattr(harness, "register", lambda: None)
    run = types.SimpleNamespace(cli_evaluate=lambda: loading.read("nowhere"))
    monkeypatch.setattr(harness.importlib, "import_module", lambda name: run)
    with pytest.raises(SystemExit) as ended:
        harness.main()
    assert ended.value.code == 2 and "nowhere" in capsys.readouterr().err


def test_without_lm_eval_it_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(harness.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SystemExit) as ended:
        harness.main()
    assert ended.value.code == 2 and "lm_eval: not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "rows"), [("auto", 16), ("auto:4", 16), (None, 16), ("8", 8), (8, 8)])
def test_batch_sizes_of_lm_eval(monkeypatch, given, rows):
    """What its flag --batch_size may be."""
    made: list = []
    registry = types.SimpleNamespace(register_model=lambda name: made.append)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", types.SimpleNamespace(LM=object))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", registry)  # type: ignore[arg-type]
    monkeypatch.setattr(harness.loading, "read", lambda *arguments: loaded())
    harness.register()
    assert made[0]("a workdir", batch_size=given)._scorer._rows == rows


TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "b"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{label}}"
generation_kwargs: {until: ["?"], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.slow
def test_lm_eval_scores_a_task_of_local_files(tmp_path, monkeypatch):
    """All kinds of requests; accuracy and bits per byte are those of the logits."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    texts = ["abc ", "ffg", "h? a"]
    lines = [json.dumps({"text": text, "label": n % 2}) for n, text in enumerate(texts)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in TASKS.items():
        head = f"task: ours_{name}\ndataset_path: json\ntest_split: test\ntarget_delimiter: ''\n"
        files = f"dataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(head + files + text.lstrip())
    monkeypatch.setattr(loading, "read", lambda workdir, more: loaded())
    harness.register()
    found = lm_eval.simple_evaluate(
        model="workdir",
        model_args={"workdir": "anywhere"},
        tasks=[f"ours_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    right = [by_hand(text.rstrip(), text[len(text.rstrip()) :] + "ab"[n % 2])[0] for n, text in enumerate(texts)]
    wrong = [by_hand(text.rstrip(), text[len(text.rstrip()) :] + "ba"[n % 2])[0] for n, text in enumerate(texts)]
    assert found["ours_choice"]["acc,none"] == pytest.approx(np.mean([a > b for a, b in zip(right, wrong, strict=True)]))
    bits = -sum(by_hand("", text)[0] for text in texts) / np.log(2) / sum(map(len, texts))
    assert found["ours_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    assert 0 <= found["ours_written"]["exact_match,none"] <= 1
