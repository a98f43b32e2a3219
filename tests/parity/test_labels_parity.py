"""A score that a published classifier gives to a text or a pair is the one that Transformers gives with its own tokenizer."""

import dataclasses
import json

import folders
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)

from transformer import families, settings  # noqa: E402
from transformer.config import Data, DataInfo  # noqa: E402
from transformer.data.tokenizers import training  # noqa: E402
from transformer.inference.label import Labeller  # noqa: E402
from transformer.inference.loading import Loaded  # noqa: E402
from transformer.interop import convert, huggingface  # noqa: E402

PAIRS = [("the small cat", "a dog"), ("a bird", "the big old dog sees a house " * 6), ("the cat hears a bird " * 6, "a tree")]


def labeller(found: huggingface.Imported) -> Labeller:
    model, vocabularies = (
        families.FAMILIES[found.config.family].model(found.config, found.data_info),
        found.vocabularies["joint"],
    )
    texts = dict.fromkeys(("text", "pair"), vocabularies)
    objective = families.make_objective(found.config, found.data_info, texts)
    return Labeller(Loaded(found.config, found.data_info, model, objective, found.params, texts))


@pytest.mark.parametrize(
    "name",
    ["bert sentences", "roberta sentences", "bart sentences", "distilbert sentences", "electra sentences", "modernbert means"],
)
def test_scores_of_texts_and_pairs(tmp_path, name):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = folders.byte_bpe(special) if name.startswith(("bart", "roberta")) else folders.word_pieces()
    model = theirs.make(name, vocab_size=made.get_vocab_size(), id2label={0: "score"}, label2id={"score": 0})
    model.save_pretrained(tmp_path / "a")
    described: dict[str, object] = {"model_max_length": 30}
    if name.startswith("modernbert"):  # which has no tokenizer class of its own
        folders.between(made, "[CLS]", "[SEP]")
        named = {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "sep", "pad", "unk", "mask")}
        described |= {"tokenizer_class": "PreTrainedTokenizerFast"} | named
    made.save(str(tmp_path / "a/tokenizer.json"))
    (tmp_path / "a/tokenizer_config.json").write_text(json.dumps(described))
    found = huggingface.read(tmp_path / "a")
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    ours = labeller(found)
    for folder in (tmp_path / "a", tmp_path / "b"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        written = type(model).from_pretrained(folder).eval()
        for texts in (PAIRS, [pair[:1] for pair in PAIRS]):
            mine = ours.predict([dict(zip(("text", "pair"), each, strict=False)) for each in texts])
            with torch.no_grad():
                said = [written(**tokenizer(*each, return_tensors="pt", truncation=True)).logits.item() for each in texts]
            np.testing.assert_allclose(np.asarray(mine, float), said, atol=2e-4)


def test_a_classifier_that_was_trained_here_is_exported_with_its_pieces(tmp_path):
    data = dataclasses.replace(Data(), vocabulary="bpe", vocabulary_size=90)
    known = training.train(data, folders.TEXTS, lambda line: None)
    model = theirs.make("bart sentences")
    model.save_pretrained(tmp_path / "sizes")
    config = huggingface.read_model(tmp_path / "sizes").config
    config = settings.assign(config, {"data.vocabulary": "bpe", "data.vocabulary_size": 90, "data.max_source_length": 30})
    data_info = DataInfo(known.size, known.size, known.size, known.size, labels=("score",))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.normal(0, 0.4, leaf.shape).astype(np.float32), convert.shapes(config, data_info))
    huggingface.write(tmp_path / "out", config, data_info, params, {"text": known})
    ours = labeller(huggingface.Imported(config, data_info, params, {"joint": known}))
    written = type(model).from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for texts in (PAIRS, [pair[:1] for pair in PAIRS]):
        mine = ours.predict([dict(zip(("text", "pair"), each, strict=False)) for each in texts])
        with torch.no_grad():
            said = [written(**tokenizer(*each, return_tensors="pt", truncation=True)).logits.item() for each in texts]
        np.testing.assert_allclose(np.asarray(mine, float), said, atol=2e-4)
    again = huggingface.read(tmp_path / "out")
    assert (again.data_info.begin, again.data_info.start, again.data_info.end) == (None, data_info.start, data_info.end)
