"""Tokenizers of today's decoders, in the forms that they are published in: ids and special tokens are those of Transformers."""

import json

import folders
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)
from tokenizers import (  # noqa: E402
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX  # noqa: E402

from transformer.interop import huggingface  # noqa: E402

TEXTS = [*folders.TEXTS[:10], "Größe, über (12) naïve!", "it's 12345 o'clock\n\n two  lines", "ﬁnd 日本 😀", "e\u0301", ""]


def pieces(special: list[str], prepend: bool) -> Tokenizer:
    """BPE of sentencepiece with a fallback to bytes, which are entries that are not special (Llama 2, Gemma)."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("\u2581")] if prepend else []), normalizers.Replace(" ", "\u2581")]
    )
    made.train_from_iterator(folders.TEXTS, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False))
    described = json.loads(made.to_str())
    vocab = described["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    described["model"] |= {"byte_fallback": True, "fuse_unk": True}
    made = Tokenizer.from_str(json.dumps(described))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prepend else [])])
    return made


def byte_level(special: list[str], splitting: str | None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if splitting:
        parts = [pre_tokenizers.Split(Regex(splitting), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator(folders.TEXTS, trainer)
    return made


def begun(made: Tokenizer, token: str) -> Tokenizer:
    """Texts start with this token."""
    made.post_processor = processors.TemplateProcessing(
        f"{token} $A", f"{token} $A {token} $B", special_tokens=[(token, made.token_to_id(token))]
    )
    return made


def llama_2():
    return begun(pieces(["<unk>", "<s>", "</s>"], prepend=True), "<s>")


def llama_3():
    return begun(byte_level(["<|begin|>", "<|end|>"], PRETOKENIZE_REGEX), "<|begin|>")


def gemma():
    return begun(pieces(["<pad>", "<eos>", "<bos>", "<unk>"], prepend=False), "<bos>")


ENDS = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|endoftext|>")
CASES = {
    "llama": (llama_2, "LlamaTokenizerFast", {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    "llama tied": (llama_3, "PreTrainedTokenizerFast", {"bos_token": "<|begin|>", "eos_token": "<|end|>"}),
    "qwen2": (
        lambda: byte_level(["<|endoftext|>", "<|im_end|>"], PRETOKENIZE_REGEX),
        "Qwen2Tokenizer",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None},
    ),
    "gpt_neox": (lambda: byte_level(["<|endoftext|>"], None), "GPTNeoXTokenizer", ENDS),
    "gemma": (
        gemma,
        "GemmaTokenizer",
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ids_are_theirs_and_go_round(tmp_path, name):
    make, kind, special = CASES[name]
    made = make()
    roles = {"bos_token_id": "bos_token", "eos_token_id": "eos_token", "pad_token_id": "pad_token"}
    ids = {field: made.token_to_id(special[role]) for field, role in roles.items() if special.get(role)}
    theirs.make(name, vocab_size=made.get_vocab_size(), **ids).save_pretrained(tmp_path / "a")
    made.save(str(tmp_path / "a" / "tokenizer.json"))
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind} | special))
    found = huggingface.read(tmp_path / "a")
    huggingface.write(tmp_path / "b", found.config, found.data_info, found.params, found.vocabularies)
    vocabulary = found.vocabularies["joint"]
    for path in ("a", "b"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / path)
        for text in TEXTS:
            tokens = vocabulary.encode(text)
            assert tokenizer(text, add_special_tokens=False).input_ids == tokens, text
            start = [found.data_info.start] if found.config.search.start_token else []
            assert tokenizer(text).input_ids == start + tokens
            assert vocabulary.decode(tokens) == tokenizer.decode(tokens, skip_special_tokens=True)
        assert tokenizer.eos_token_id == found.data_info.end
        assert found.config.search.start_token == (name not in ("qwen2", "gpt_neox"))
