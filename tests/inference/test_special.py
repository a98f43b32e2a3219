"""Names of special tokens in texts: encoded as tokens if a model fills them, else as text and counted."""

import json

import folders
import pytest

from transformer import settings
from transformer.config import Config, DataInfo
from transformer.data.tokenizers.imported import Tokenizer
from transformer.data.tokenizers.vocabulary import Bytes, Vocabulary
from transformer.inference.special import SpecialNames

BERT = {"tokenizer_class": "BertTokenizer"}
BART = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def names(family, kind, vocabulary: Vocabulary, data="imported", **data_info) -> SpecialNames:
    config = Config()
    for name, value in {"family": family, "objective.kind": kind, "data.vocabulary": data}.items():
        config = settings.replace(config, name, value)
    size = max(vocabulary.size, 1 + max(data_info.get("mask", 0), data_info.pop("top", 0)))
    return SpecialNames(config, DataInfo(size, size, size, size, **data_info), vocabulary)


def test_a_mask_is_known_by_its_own_name_and_by_ours():
    bert = Tokenizer(folders.word_pieces().to_str(), BERT)
    used = names("encoder_only", "masked_lm", bert, mask=4)
    before, after = bert.encode("the small"), bert.encode("cat")
    for text in ("the small [MASK] cat", "the small <mask> cat", "the small[MASK]cat"):
        assert used.encode_batch(["a", text])[1] == [*before, 4, *after]
    assert not used.notices


def test_a_mask_removes_the_space_before_it_if_its_file_says_so():
    described = json.loads(folders.byte_bpe(BART).to_str())
    for entry in described["added_tokens"]:
        entry["lstrip"] = entry["content"] == "<mask>"
    bart = Tokenizer(json.dumps(described), {"tokenizer_class": "BartTokenizer"})
    used = names("encoder_decoder", "translate", bart, mask=4)
    assert used.encode_batch(["the <mask> cat"]) == [[*bart.encode("the"), 4, *bart.encode(" cat")]]


def test_names_that_a_model_cannot_fill_are_text_and_counted():
    bert = Tokenizer(folders.word_pieces().to_str(), BERT)
    used = names("encoder_only", "classify", bert, mask=4)
    texts = ["the [MASK] cat", "[SEP] a [SEP]", "bird"]
    assert used.encode_batch(texts) == bert.encode_batch(texts)
    assert "3 names" in used.notices[0] and "[MASK]" in used.notices[0]
    used.reset()
    assert not used.notices
    used = names("encoder_only", "masked_lm", bert, mask=4)
    used.encode_batch(texts)
    assert "2 names" in used.notices[0] and "[SEP]" in used.notices[0]


@pytest.mark.parametrize("own", [True, False], ids=["in the file", "past the vocabulary"])
def test_sentinels_are_taken_and_shown_in_the_output(own):
    t5 = Tokenizer(folders.unigram().to_str(), {"tokenizer_class": "T5Tokenizer"}) if own else Bytes()
    top = t5.size - 1 if own else t5.size + 3
    used = names("encoder_decoder", "translate", t5, "imported" if own else "bytes", sentinels=4, top=top)
    [ids] = used.encode_batch(["the <extra_id_0> cat <extra_id_1>"])
    assert [i for i in ids if i > top - 4] == [top, top - 1] and t5.decode(ids).split() == ["the", "cat"]
    output = [top, *t5.encode("small"), top - 1, *t5.encode("a bird")]
    assert used.decode(output, ids, t5) == "<extra_id_0> small <extra_id_1> a bird"
    assert "extra" not in used.decode(output, t5.encode("the cat"), t5)


def test_names_in_our_own_vocabulary_are_not_counted():
    used = names("encoder_only", "masked_lm", Bytes(), "bytes", mask=260)
    assert used.encode_batch(["a<mask>b"]) == [[*Bytes().encode("a"), 260, *Bytes().encode("b")]]
    used.encode_batch(["<s> </s>"])
    assert not used.notices
