"""Everything that is dropped, cut, capped or replaced is counted, and the count is printed with the results that it affects.

A table of all objectives of all families and of all uses of a model; the score files and the report of a study."""

import dataclasses
import json

import drawn
import numpy as np
import pytest
import trained

from transformer import cuts, families
from transformer.config import EXTRA_TOKENS, Config, DataInfo
from transformer.cuts import Cut, some
from transformer.data import pipeline, prepare
from transformer.data.corpus import Ragged
from transformer.data.tokenizers.vocabulary import Characters
from transformer.inference import search
from transformer.inference.label import LONGEST_ANSWER
from transformer.inference.translate import Output, Translator
from transformer.modes import scoring
from transformer.runtime.workdir import Workdir

LETTERS = Characters("abcdefgh ")
SMALL = {
    "data__source": "text",
    "model__d_model": 8,
    "model__d_ff": 8,
    "model__num_heads": 2,
    "data__max_source_length": 12,
    "data__max_target_length": 12,
}


# --- counts ------------------------------------------------------------------------------------------------------------


def test_a_count_reads_as_a_line_and_goes_through_a_file():
    cut = Cut(6174, 16141, "examples were dropped (config.data.too_long)", "train")
    assert str(cut) == "train: 6,174 of 16,141 (38.3%) examples were dropped (config.data.too_long)"
    assert str(Cut(1, 3, "texts were cut")) == "1 of 3 texts were cut"
    assert cuts.from_json(json.loads(json.dumps(cuts.to_json([cut])))) == [cut]
    assert cuts.merged([cut, Cut(0, 9, cut.what, "test"), cut]) == [
        Cut(2 * 6174, 2 * 16141, *(cut.what, "train")),
        Cut(0, 9, cut.what, "test"),
    ]
    assert cuts.some(cut, Cut(0, 9, "none")) == [cut]


# --- data: every objective of every family -------------------------------------------------------------------------------

CASES = [(kind, family) for kind, row in families.TASKS.items() for family in row.objectives]
LONG = {"source": 9, "target": 20, "text": 40, "pair": 2, "question": 2}  # tokens of every fourth example, of the others 2


def config_of(kind: str, family: str, **more) -> Config:
    return drawn.changed(Config(), **(SMALL | {"family": family, "objective__kind": kind} | more))


def corpus_of(kind: str) -> dict[str, Ragged]:
    fields = families.TASKS[kind].fields
    rows = {field: [[5] * (LONG[field] if n % 4 == 0 else 2) for n in range(12)] for field in fields if field in LONG}
    special = {"label": [[1]] * 12, "span": [[0, 1]] * 12}
    rows |= {"span": special["span"]} if kind == "answer" else {"label": special["label"]} if "label" in fields else {}
    rows |= {"tags": [[0] * len(row) for row in rows["text"]]} if "tags" in fields else {}
    return {field: Ragged.of(each) for field, each in rows.items()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_objective_counts_what_it_drops_cuts_or_splits(kind, family, training):
    """Three of twelve examples are too long: they are dropped in training and cut in evaluation; documents are read in chunks
    in both."""
    config = config_of(kind, family)
    size = LETTERS.size + 100
    data_info = DataInfo(size, size, size, size, mask=size - 1, sentinels=100, labels=("0", "1"))
    vocabularies = {field: LETTERS for field in families.text_fields(families.TASKS[kind])}
    objective = families.make_objective(config, data_info, vocabularies, training)
    _, notices = pipeline.plan(corpus_of(kind), objective, config.data, 64, 1, 0, training)
    (cut,) = cuts.only(notices)
    assert (cut.count, cut.of) == (3, 12) and "config.data.max_" in cut.what
    whole = kind in ("causal_lm", "prefix_lm", "masked_lm", "span_corruption", "denoise", "answer")
    assert ("chunks" in cut.what or "windows" in cut.what) == whole
    if not whole:
        assert ("dropped (config.data.too_long" in cut.what) == training and cut.what.endswith("cut") == (not training)


def test_answers_that_no_window_holds_and_long_questions_are_counted():
    objective = families.make_objective(config_of("answer", "encoder_only"), DataInfo(20, 20, 20, 20), {"text": LETTERS})
    corpus = {"question": Ragged.of([[5] * 9, [5]]), "text": Ragged.of([[5] * 30, [5] * 30])}
    counted = {cut.what.split()[0]: cut.count for cut in objective.cuts({**corpus, "span": Ragged.of([[0, 8], [3, 4]])})}
    assert counted == {"questions": 1, "contexts": 2, "answers": 1}


# --- the limit on outputs ------------------------------------------------------------------------------------------------


def translator(family: str = "encoder_decoder", longest: int = 0, **settings) -> Translator:
    config = config_of("translate", family, search__batch_size=4, search__beam_size=1, **settings)
    loaded = drawn.loaded(config, {"source": LETTERS, "target": LETTERS})
    return Translator(dataclasses.replace(loaded, data_info=dataclasses.replace(loaded.data_info, longest_output=longest)))


@pytest.mark.parametrize("family", ["encoder_decoder", "decoder_only", "recurrent"])
def test_by_default_no_reference_of_the_data_is_longer_than_an_output_may_be(family):
    targets = {"train": [3, 40], "validation": [200], "test": [2, 71]}
    tokens = {name: {"target": Ragged.of([[5] * n for n in lengths])} for name, lengths in targets.items()}
    longest = prepare.longest_output(tokens, config_of("translate", family).data)
    assert longest == 201  # of validation, with its end; training ends at config.data.max_target_length
    assert prepare.longest_output({"train": tokens["train"]}, config_of("translate", family).data) == 12
    tying = {"model__tying": "two_way"} if family == "decoder_only" else {}
    more = {} if family == "recurrent" else {"model__positions": "rotary"}
    assert translator(family, longest, **tying, **more).limits([1, 5]) == [201, 201]
    before = 0 if family == "decoder_only" else 1
    assert translator(family, 3, **tying, **more).limits([1, 5]) == [1 + before + EXTRA_TOKENS, 5 + before + EXTRA_TOKENS]
    assert translator(family, longest, search__max_extra=7, **tying, **more).limits([1, 5]) == [8 + before, 12 + before]
    if family != "recurrent":  # a table of positions ends before
        table = {"model__positions": "learned", "model__positions__size": 30}
        assert translator(family, longest, **tying, **table).limits([5]) == [25 if family == "decoder_only" else 30]


def test_answers_may_be_as_long_as_the_longest_of_the_data():
    span = {"train": {"span": Ragged.of([[3, 50], []])}, "test": {"span": Ragged.of([[0, 0]])}}
    assert prepare.longest_output(span, Config().data) == 48 > LONGEST_ANSWER


def test_outputs_that_the_model_does_not_end_are_counted(monkeypatch):
    used = translator(search__max_extra=2)
    end = used.data_info.end

    def found(params, sources, exact, scored):
        for number in range(len(sources)):
            output_tokens = np.array([[5, 5, end if number == 1 else 5]])
            yield number, search.Hypotheses(output_tokens, np.array([3]), None, None)

    monkeypatch.setattr(used, "_search", found)
    outputs = [best[0] for best in used.translate(["a", "ab", "abc", " "], scored=False)]
    assert [output.ended for output in outputs] == [False, True, False, True]
    assert [(cut.count, cut.of) for cut in used.cuts] == [(0, 4), (2, 4)] and len(used.notices) == 1
    assert "config.search.max_extra" in used.notices[0]


# --- scores: the log, the table and the file --------------------------------------------------------------------------


def test_what_is_cut_stands_with_the_scores(tmp_path, monkeypatch, capsys):
    """In targets longer than config.data.max_target_length, only the words that are scored count."""
    used = translator(search__max_extra=2, data__max_target_length=8, evaluate__lengths=(1, 2, 90))
    examples = [{"source": "ab", "target": "ab cd ef gh"}, {"source": "abc", "target": "a b"}]
    tokens = {side: Ragged.of([LETTERS.encode(each[side]) for each in examples]) for side in ("source", "target")}
    split = prepare.Split(examples, tokens, "", (Cut(1, 9, "tokens are unknown", "test"),))
    assert scoring.scored_words(used, split) == 3 + 2  # "ab cd ef"[:8] has three words, and they alone are scored
    monkeypatch.setattr(used, "_search", lambda params, sources, exact, scored: [(n, None) for n in range(len(sources))])
    monkeypatch.setattr(used, "_outputs", lambda *found: [Output("x", None, False)])
    monkeypatch.setattr(scoring.step_lib, "make_eval_step", lambda loss: loss)
    monkeypatch.setattr(scoring.Runtime, "compile_eval", lambda runtime, step: lambda *arguments: None)
    monkeypatch.setattr(scoring.Runtime, "fetch", lambda runtime, part: {"nll_sum": 500.0, "weight_sum": 1.0})
    workdir = Workdir(tmp_path)
    before = Cut(3, 9, "examples were dropped", "train")
    workdir.write_cuts([before, Cut(1, 9, "replaced by what is counted now", "test")])
    scoring.score_split(workdir, used, "test", split)
    shown, file = capsys.readouterr(), json.loads(workdir.evaluation_file("test").read_text())
    found = cuts.from_json(file["cuts"])
    assert found[:2] == [before, split.cuts[0]]
    assert [(cut.where, cut.count, cut.of) for cut in found[2:]] == [
        ("test", 1, 2),
        ("test", 2, 2),
        ("test", 1, 2),
        ("test", 2, 2),
    ]
    settings = ["data.max_target_length", "search.max_extra", "search.max_extra", "evaluate.lengths"]
    assert all(f"config.{name}" in cut.what for name, cut in zip(settings, found[2:], strict=True))
    assert "outputs" in found[3].what and "references" in found[4].what
    assert all(str(cut) in shown.out for cut in found) and all(str(cut) in shown.err for cut in found[2:])
    assert ">1,000,000" in shown.out and file["scores"]["perplexity_per_word"] == pytest.approx(np.exp(100))


def test_training_keeps_what_it_dropped(tmp_path):
    """`Workdir.cuts` of a run without cuts, and a damaged file."""
    run = trained.run()
    assert Workdir(run.workdir).cuts() == [] and (run.workdir / "cuts.json").exists()
    assert Workdir(run.workdir).data_info().longest_output == 21  # 20 letters and the end
    (tmp_path / "cuts.json").write_text('[{"count": 1}]')
    with pytest.raises(Exception, match="cuts.json: damaged"):
        Workdir(tmp_path).cuts()


def test_empty_outputs_are_counted_and_visible_in_samples():
    found = scoring.empty(["", " ", "a", ""], ["x", "y", "z", ""])
    assert (found.count, found.of) == (2, 4) and not some(scoring.empty(["a", ""], ["b", ""]))
    shown = scoring._shown({"source": "s", "reference": "x", "prediction": "", "correct": False})
    assert shown.splitlines()[-1].split() == ["prediction", "(empty)"]
