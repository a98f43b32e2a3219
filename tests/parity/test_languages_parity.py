"""NLLB: sources, languages and outputs, greedy and by beam search, are those of Transformers."""

import json

import folders
import pytest
import trained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)
from tokenizers import processors  # noqa: E402

from transformer.inference import predict  # noqa: E402

CODES = ["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn", "deu_Latn"]
TEXTS = ["the cat", "a small bird sees the mouse"]


def begun(made, code):
    template = f"{code} $A </s>", f"{code} $A $B </s>"
    made.post_processor = processors.TemplateProcessing(
        *template, special_tokens=[(each, made.token_to_id(each)) for each in (code, "</s>")]
    )
    return made


@pytest.mark.parametrize("beam", [1, 3])
def test_translations_are_theirs_in_any_direction(tmp_path, beam):
    made = folders.byte_bpe(CODES)
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    model = theirs.make("m2m_100", vocab_size=made.get_vocab_size(), **ids)
    model.save_pretrained(tmp_path / "a")
    generation = {**ids, "forced_bos_token_id": 5, "max_length": 12, "num_beams": beam, "early_stopping": True}
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps(generation))
    begun(made, "eng_Latn").save(str(tmp_path / "a" / "tokenizer.json"))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(described))
    assert trained.command("--mode=import", f"--source={tmp_path / 'a'}", f"--workdir={tmp_path / 'run'}").status == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    for source, target in (("eng_Latn", "fra_Latn"), ("eng_Latn", "deu_Latn"), ("deu_Latn", "fra_Latn")):
        codes = (
            {"search.source_code": source, "search.target_code": target} if (source, target) != ("eng_Latn", "fra_Latn") else {}
        )
        found = predict.load(tmp_path / "run", codes).translate(TEXTS)
        for text, mine in zip(TEXTS, found, strict=True):
            given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            given["input_ids"][0, 0] = CODES.index(source)
            said = model.generate(**given, **generation | {"forced_bos_token_id": CODES.index(target)})[0]
            assert (mine[0].text if isinstance(mine, list) else mine) == tokenizer.decode(said, skip_special_tokens=True)
