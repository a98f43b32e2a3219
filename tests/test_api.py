"""The library from Python, on models whose parameters are drawn: nothing is trained unless training is tested."""

import functools
import html
import inspect
import json
import re
from typing import Any

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import trained

import transformer
from experiments.variants.summed_heads import SummedHeads
from transformer.api import TrainedModel
from transformer.components.rotary import Rotary
from transformer.config import Config, Data, DataInfo, Model, Objective, Search
from transformer.data.tokenizers.vocabulary import Characters
from transformer.errors import UserError
from transformer.models.self_attention import SelfAttention
from transformer.models.transformer import DecoderOnly, EncoderDecoder, EncoderOnly, Heads
from transformer.probes.sites import added_to_embeddings
from transformer.runtime.workdir import Workdir

LETTERS = Characters("abcdefgh ?.")
FAMILIES = {
    "translate": ("encoder_decoder", ("source", "target")),
    "causal_lm": ("decoder_only", ("text",)),
    "classify": ("encoder_only", ("text", "pair")),
    "embed": ("encoder_only", ("text",)),
    "answer": ("encoder_only", ("text",)),
}
SHAPE = Model(
    num_encoder_layers=3, num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2, dropout_rate=0.0, positions=Rotary()
)


@functools.cache
def model(kind: str, **shape: Any) -> TrainedModel:
    family, fields = FAMILIES[kind]
    config = Config(
        family=family,  # type: ignore[arg-type]
        objective=Objective(kind=kind),  # type: ignore[arg-type]
        model=small.model(SHAPE, **shape),
        data=Data(vocabulary="characters", max_source_length=20, max_target_length=20),
        search=Search(batch_size=2, beam_size=2, n_best=2, max_extra=2, max_new_tokens=4),
    )
    return TrainedModel(drawn.loaded(config, dict.fromkeys(fields, LETTERS), 0.4, labels=("x", "y")))


def test_hidden_states_are_those_that_the_heads_read():
    """The states of the last layer are those from which logits are computed; this model has no final norm."""
    made = model("translate")
    found, batch = made.hidden_states(["abc", "de"], ["fed", "a"]), made.batch(["abc", "de"], ["fed", "a"])
    states = small.apply(made.model, {"params": made.params}, batch, method="states")
    for row, each in enumerate(found["decoder"]):
        there = batch["segments"][row] > 0
        assert each.shape == (2, there.sum(), 16)
        np.testing.assert_allclose(each[-1], np.asarray(states)[row, there], rtol=1e-4, atol=1e-5)
    assert [x.shape for x in found["encoder"]] == [(3, 4, 16), (3, 3, 16)]


def test_gradients_are_the_slope_of_the_log_probability():
    """Against a finite difference: one entry of a token's embedding is changed in the table, in a row that only one token
    reads."""
    made, source, target = model("translate"), "abc", "fed"
    token = LETTERS.encode("b")[0]
    found = made.gradients([source], [target])
    assert [found[name][0].shape for name in ("source", "inputs")] == [(4, 16), (4, 16)]
    table = np.array(made.params["target_embedding"]["table"])  # type: ignore[index]
    batch = made.batch([source], [target])

    def log_probability(change: float) -> float:
        rows = table.copy()
        rows[token, 5] += change
        # Only the source's "b" reads the row that is moved: the logits keep the old table.
        params = {**made.params, "target_embedding": {"table": jnp.asarray(rows)}}
        moved = small.apply(made.model, {"params": params}, batch["source"], method="encode")
        cache = made.model.apply({"params": made.params}, moved, 4, 1, method="start")
        logits, _ = small.apply(made.model, {"params": made.params}, batch["inputs"], cache, moved, method="step")
        logp = np.asarray(jax.nn.log_softmax(logits))[0]
        return float(sum(logp[n, token] for n, token in enumerate(batch["inputs"][0, 1:])))

    slope = (log_probability(0.01) - log_probability(-0.01)) / 0.02
    assert found["source"][0][1, 5] * 16**0.5 == pytest.approx(slope, rel=0.02)  # embeddings are scaled by sqrt(d_model)


def test_gradients_of_an_answer_are_those_of_its_two_ends():
    """Ends are chosen among the tokens of the text, not between the two ends of each token."""
    made = model("answer")
    (found,) = made.gradients(["abc"], ["bcdef"])["source"]
    batch = made.batch(["abc"], ["bcdef"])

    def log_probability(added: jax.Array) -> jax.Array:
        with added_to_embeddings(added):
            scores = made.model.apply({"params": made.params}, batch)["scores"][0]  # type: ignore[index]
        return sum(jax.nn.log_softmax(scores[:, end][batch["source_segments"][0] > 0]).max() for end in range(2))

    wanted = jax.jit(jax.grad(log_probability))(jnp.zeros((*batch["source"].shape, 16)))
    np.testing.assert_allclose(found, wanted[0][batch["source_segments"][0] > 0], rtol=1e-3, atol=1e-5)


def test_a_model_without_a_head_differs_and_the_first_one_stays():
    made = model("translate")
    before = made.logits(["abc"], ["de"])[0]
    without = made.without_heads(["decoder/cross/2/1"]).logits(["abc"], ["de"])[0]
    assert np.abs(before - without).max() > 1e-3
    np.testing.assert_array_equal(before, made.logits(["abc"], ["de"])[0])


@pytest.mark.parametrize("kind", ["translate", "causal_lm", "classify"])
def test_no_texts_give_no_results(kind):
    made, given = model(kind), ([], []) if kind == "translate" else ([],)
    assert all(len(rows) == 0 for rows in made.batch(*given).values()) and made.logits(*given) == []
    for found in (made.hidden_states(*given), made.gradients(*given)):
        assert found and not any(found.values())


@pytest.mark.slow
def test_each_family_says_what_it_can():
    assert model("causal_lm").generate("ab", num_samples=2, seed=1) == model("causal_lm").generate("ab", 2, 1)
    assert set(model("classify").predict(["abc", "de\tf"][:1])) <= {"x", "y"}
    assert model("classify").embed(["abc", "d"]).shape == (2, 16)
    assert [x.shape for x in model("classify").logits(["abc", "d"])] == [(2,), (2,)]
    assert model("classify").gradients(["abc", "d"])["source"][1].shape == (3, 16)
    assert {each.name for each in model("translate").attention("abc", "de")} >= {"decoder cross attention"}


WRONG = {
    "texts": lambda: model("translate").translate("twenty"),
    "sources": lambda: model("translate").logits([1], ["b"]),  # type: ignore[list-item]
    "sources has 2": lambda: model("translate").batch(["a", "b"], ["c"]),
    "targets": lambda: model("causal_lm").logits(["a"], ["b"]),
    "targets: this": lambda: model("translate").hidden_states(["a"]),
    "heads": lambda: model("translate").without_heads("decoder/cross/1/1"),
    "rows of W^O": lambda: model("translate", attention=SummedHeads()).without_heads(["decoder/cross/1/1"]),
    "gradients": lambda: model("embed").gradients(["a"]),
    "decoder/cross/9/9": lambda: model("translate").without_heads(["decoder/cross/9/9"]),
    "prompt": lambda: model("causal_lm").generate(["a"]),  # type: ignore[arg-type]
    "num_samples": lambda: model("causal_lm").generate("a", 0),
    "generate": lambda: model("translate").generate("a"),
    "translate and n_best": lambda: model("translate").embed(["a"]),
    "config": lambda: transformer.train({"model": 1}, "run"),  # type: ignore[arg-type]
    "train.stpes": lambda: transformer.train(Config(), "run", {"train.stpes": 3}),
    "nowhere": lambda: transformer.load("nowhere"),
    "overrides": lambda: transformer.load("run", ["train.steps"]),  # type: ignore[arg-type]
    "metrics.jsonl": lambda: transformer.results("nowhere"),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_argument_is_one_line(says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        WRONG[says]()
    assert says in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_run_is_loaded_trained_again_and_read(capsys):
    """The run is complete, so `train` only scores it again."""
    workdir = trained.run().workdir
    made = transformer.load(workdir, {"search.beam_size": 2, "search.batch_size": 4})
    assert [each.text for each in made.translate(["abc"])] == [trained.translator().translate(["abc"]).__next__()[0].text]
    assert len(made.n_best(["a", "b"])) == 2
    rows = transformer.results(workdir)
    assert len(rows) and rows[0]["step"] == 50 and {"train/loss", "validation/nll"} <= set(rows[0]) and rows[:1][0] == rows[0]
    pandas = pytest.importorskip("pandas")
    assert isinstance(rows.frame(), pandas.DataFrame) and list(rows.frame()["step"]) == [row["step"] for row in rows]


@pytest.mark.parametrize("finished", [True, False])
def test_scores_of_an_earlier_checkpoint_are_not_those_of_the_run(finished, tmp_path, monkeypatch):
    """Of a run that was finished, then trained longer and stopped. What is said about settings is passed on."""
    run, said = trained.run().copy(tmp_path), []
    if not finished:
        file = run / "evaluation" / "test.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"checkpoints": [50]}))
    monkeypatch.setattr(transformer.api.modes, "train", lambda *_, notices, **__: [said.extend(notices), finished][1])
    made = transformer.train(Workdir(run).config(), run)
    assert made.finished == finished and bool(made.scores) == finished and not said
    transformer.train(Workdir(run).config(), run, {"data.validation": None})
    assert "config.train.evaluate_every" in "".join(said)


def test_an_arm_that_looks_like_a_number_is_text(tmp_path):
    (tmp_path / "results.csv").write_text("part,arm,seed,status,test/nll,hash,error\nfinal,1e-3,0,finished,0.5,1e10,\n")
    [row] = transformer.results(tmp_path)
    assert row == {
        "part": "final",
        "arm": "1e-3",
        "seed": 0,
        "status": "finished",
        "test/nll": 0.5,
        "hash": "1e10",
        "error": None,
    }


@pytest.mark.slow
def test_training_gives_scores_and_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained.write_corpus(tmp_path / "data")
    (tmp_path / "tiny.py").write_text(trained.EXPERIMENT)
    [first, *_] = re.findall(r"```python\n(.*?)```", (trained.ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    for shown, small_one in {
        '"experiments/number_words.py"': '"tiny.py"',
        '"runs/numbers"': '"run"',
        '{"train.steps": 160}': '{"train.steps": 3, "checkpoint.every_steps": 3, "evaluate.scores": ["exact_match"]}',
        ".frame()": "",  # pandas may be missing
    }.items():
        assert shown in first
        first = first.replace(shown, small_one)
    names: dict = {}
    exec(compile(first, "docs/python.md", "exec"), names)  # noqa: S102  (our own text)
    run = names["run"]
    assert run.finished and run.scores == json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["scores"]
    assert len(run.model.translate(["abc"])) == 1 and not list((tmp_path / "run").glob("pictures/*.png"))


def test_a_page_of_attention_is_one_file_with_the_texts_and_their_weights(tmp_path, monkeypatch):
    """For given targets and for the model's own outputs; a notebook shows the same page."""
    made = model("translate")
    page = made.attention_page(["ab", "cde"], ["fe", "d"])
    page.save(str(tmp_path / "attention.html"))
    text = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert "<script src" not in text and "http://" not in text.replace("http://www.w3.org", "")
    assert text == page.html() and html.escape(text) in page._repr_html_()
    assert "encoder self" in text and "decoder cross" in text
    assert len(page.sentences) == 2 and len(made.attention_page(["ab"]).sentences) == 1
    with pytest.raises(UserError, match="expected one target for each source"):
        made.attention_page(["ab"], ["a", "b"])
    with pytest.raises(UserError, match="sources is empty: expected at least one text"):
        made.attention_page([])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page.save("~/home.html")
    assert (tmp_path / "home.html").is_file() and not (tmp_path / "~").exists()
    with pytest.raises(UserError, match="attention.html/x.html cannot be written .*; .* choose another name"):
        page.save(tmp_path / "attention.html" / "x.html")


def test_a_page_needs_a_model_with_attention():
    other = {"family": "recurrent", "model__recurrent__attention": "none", "data__batching": "bucketed"}
    config = drawn.changed(model("translate").config, model__positions="sinusoidal", **other)
    made = TrainedModel(drawn.loaded(config, {"source": LETTERS, "target": LETTERS}))
    with pytest.raises(UserError, match="attention_page: this model has no attention to draw"):
        made.attention_page(["ab"], ["fe"])


# --- without a workdir: docs/python.md shows these ----------------------------------------------------------------------


@pytest.mark.parametrize("make", small.some([DecoderOnly, EncoderDecoder], DecoderOnly))
def test_a_model_of_ones_own_generates_what_its_logits_say(make):
    """Greedy tokens against a loop over the whole model; an end token ends a row."""
    net, prompt = make(SHAPE, DataInfo(30, 30, 30, 30)), jnp.array([[1, 4], [1, 7]])
    given = {"source": jnp.array([[5, 6, 7], [8, 9, 3]])} if make is EncoderDecoder else {}
    params = small.drawn(net, given | {"inputs": prompt})["params"]
    generate = jax.jit(functools.partial(transformer.generate, net), static_argnums=2, static_argnames="end")
    found, tokens = np.asarray(generate(params, prompt, 3, source_BxS=given.get("source"))), prompt
    for _ in range(3):
        padded = jnp.pad(tokens, ((0, 0), (0, 5 - tokens.shape[1])))  # a token does not see those behind it
        logits = small.apply(net, {"params": params}, given | {"inputs": padded})
        tokens = jnp.concatenate([tokens, jnp.argmax(logits[:, tokens.shape[1] - 1, None], axis=-1)], axis=1)
    np.testing.assert_array_equal(found, tokens[:, 2:])
    ended = generate(params, prompt, 3, source_BxS=given.get("source"), end=int(found[0, 0]))
    np.testing.assert_array_equal(ended[0], [found[0, 0], 0, 0])


def test_a_model_of_ones_own_says_what_it_lacks():
    net, prompt = DecoderOnly(SHAPE, DataInfo(30, 30, 30, 30)), jnp.array([[1, 4]])
    with pytest.raises(UserError, match="^key: "):
        transformer.generate(net, {}, prompt, 3, temperature=1.0)
    with pytest.raises(UserError, match="^source_BxS: DecoderOnly has no encoder"):
        transformer.generate(net, {}, prompt, 3, source_BxS=prompt)
    with pytest.raises(UserError, match="^top_k, top_p: temperature 0 takes"):
        transformer.generate(net, {}, prompt, 3, top_k=4)
    with pytest.raises(UserError, match="^params: .* pass its entry"):
        transformer.generate(net, {"params": {}}, prompt, 3)
    with pytest.raises(UserError, match="^prompt_BxP has 1 axes"):
        transformer.generate(net, {}, prompt[0], 3)
    pair = EncoderDecoder(SHAPE, DataInfo(30, 30, 30, 30))
    with pytest.raises(UserError, match="^source_BxS has 2 rows and prompt_BxP 1"):
        transformer.generate(pair, {}, prompt, 3, source_BxS=jnp.ones((2, 3), int))
    with pytest.raises(UserError, match="EncoderOnly"):
        transformer.generate(EncoderOnly(SHAPE, DataInfo(30, 30, 30, 30), Heads()), {}, prompt, 3)


@pytest.mark.slow
def test_the_examples_without_a_workdir_run():
    """The code of docs/python.md, unchanged."""
    blocks = re.findall(r"```python\n(.*?)```", (trained.ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    names: dict = {}
    exec(compile(blocks[1], "docs/python.md", "exec"), names)  # noqa: S102  (our own text)
    assert names["logits"].shape == (1, 3, 100) and names["more"].shape == names["output"].shape == (1, 5)
    exec(compile(blocks[2], "docs/python.md", "exec"), names)  # noqa: S102
    x = jax.random.normal(jax.random.key(0), (2, 5, 64))
    variables = small.drawn(names["Block"](), x)
    before, after = (small.apply(names["Block"](), variables, each) for each in (x, x.at[:, 3:].add(1.0)))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])  # causal
    assert np.abs(before - after)[:, 3:].min(axis=-1).max() > 0 and np.abs(before[:, 1] - before[:, 0]).max() > 0.01


def test_self_attention_is_attention():
    """One head against NumPy: one text, and two texts in a row that do not see each other."""
    config = Model(d_model=4, num_heads=1)  # sinusoids are added to the input
    x, segments = np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32), jnp.array([[1, 1, 1, 2, 2]])
    net = SelfAttention(config, causal=True)
    variables = small.drawn(net, x)
    p = {
        name: (each["kernel"].reshape(4, 4), each["bias"].reshape(4)) for name, each in variables["params"]["attention"].items()
    }
    rates = 1 / 10000 ** (np.arange(2) / 2)
    angles = np.arange(5)[:, None] * rates[None]
    added = x[0] + np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(5, 4)
    q, k, v = (added @ p[name][0] + p[name][1] for name in ("query", "key", "value"))
    seen = np.tril(np.ones((5, 5), bool)) & (np.asarray(segments[0])[:, None] == np.asarray(segments[0])[None])
    weights = np.where(seen, np.exp(q @ k.T / 2), 0)
    expected = weights / weights.sum(axis=1, keepdims=True) @ v @ p["output"][0] + p["output"][1]
    np.testing.assert_allclose(small.apply(net, variables, x, segments)[0], expected, rtol=1e-4, atol=1e-4)


def test_public_signatures_are_typed():
    """Every argument and result has a type, and none is Any."""
    functions = [getattr(transformer, name) for name in ("load", "train", "results", "generate")]
    for kind in (transformer.TrainedModel, transformer.Results):
        functions += [each for name, each in vars(kind).items() if inspect.isfunction(each) and not name.startswith("_")]
        functions += [each.fget for each in vars(kind).values() if isinstance(each, property)]
    assert len(functions) > 15
    for function in functions:
        signature = inspect.signature(function)
        names = [name for name in signature.parameters if name != "self"]
        assert set(names) | {"return"} == set(function.__annotations__), function
        assert not [each for each in function.__annotations__.values() if re.search(r"\bAny\b", str(each))], function
