"""An export does the job of its original in Transformers: pairs, texts made with default arguments, texts that are too long."""

import itertools
import json

import folders
import jax
import numpy as np
import pytest
import small

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)

from transformer import families, settings  # noqa: E402
from transformer.interop import huggingface  # noqa: E402

BART = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PAIR = ("where is the cat?", "the small cat hears a bird. " * 3)


def write_tokenizer(folder, made, **settings):
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def exported(folder, out):
    found = huggingface.read(folder)
    huggingface.write(out, found.config, found.data_info, found.params, found.vocabularies)
    return found


def said_of(folder, kind, **given):
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        said = model(**tokenizer(*PAIR, return_tensors="pt", **given))
    return {name: value.numpy() for name, value in said.items()}


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "BertTokenizer", "do_lower_case": False}], ids=["none", "cased"])
@pytest.mark.parametrize("name", ["bert spans", "bert pre-training", "bert sentences"])
def test_pairs_have_two_types_and_long_ones_are_cut(tmp_path, name, settings):
    made = folders.word_pieces()
    model = theirs.make(name, vocab_size=made.get_vocab_size())
    model.save_pretrained(tmp_path / "a")
    write_tokenizer(tmp_path / "a", made, model_max_length=30, **settings)
    exported(tmp_path / "a", tmp_path / "b")
    for given in ({}, {"truncation": True}, {"truncation": "only_second"}):
        said = [said_of(folder, type(model).__name__, **given) for folder in (tmp_path / "a", tmp_path / "b")]
        for each, value in said[0].items():
            np.testing.assert_array_equal(value, said[1][each], err_msg=each)


LIMITS = {"length": {"max_length": 30}, "new": {"max_new_tokens": 25}, "none": {}}
SAMPLE = [("gpt2", "none"), ("bart", "length"), ("t5", "new")]


@pytest.mark.parametrize(
    ("name", "limit"),
    small.some(itertools.product(["gpt2", "bart", "t5", "llama"], LIMITS), *SAMPLE, others=pytest.mark.thorough),
)
def test_texts_are_as_long_with_default_arguments(tmp_path, name, limit):
    generation = LIMITS[limit]
    special = {"gpt2": ["<|endoftext|>"], "llama": ["<|endoftext|>"], "bart": BART}.get(name)
    made = folders.unigram() if special is None else folders.byte_bpe(special)
    end = {"gpt2": 0, "bart": 2, "t5": 1, "llama": 0}[name]
    ids = {"num_decoder_layers": 2} if name == "t5" else {"bos_token_id": 0, "eos_token_id": end}
    model = theirs.make(name, vocab_size=made.get_vocab_size(), **ids)
    with torch.no_grad():  # it never ends by itself
        model.get_output_embeddings().weight[end] = 0.0
        if name == "bart":
            model.final_logits_bias[0, end] = -100.0
    model.save_pretrained(tmp_path / "a")
    starts = {"decoder_start_token_id": model.config.decoder_start_token_id} if model.config.is_encoder_decoder else {}
    common = {"eos_token_id": end, "pad_token_id": model.config.pad_token_id or 0} | starts
    (tmp_path / "a/generation_config.json").write_text(json.dumps(generation | common))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"} if name == "llama" else {}
    write_tokenizer(tmp_path / "a", made, **named)
    exported(tmp_path / "a", tmp_path / "b")
    texts = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        asked = tokenizer("the small cat", return_tensors="pt")
        asked = {each: asked[each] for each in ("input_ids", "attention_mask")}
        model = type(model).from_pretrained(folder).eval()
        texts.append(model.generate(**asked, do_sample=False, num_beams=1)[0].tolist())
    assert all(end not in text[1:] for text in texts)
    if generation:
        assert texts[0] == texts[1]
    else:  # without a limit in the original Transformers stops after 20 tokens
        assert texts[1][: len(texts[0])] == texts[0] and len(texts[1]) > len(texts[0]) > 20


def test_a_pickle_is_converted_by_the_two_lines_that_its_refusal_names(tmp_path):
    from transformer.errors import UserError

    model = theirs.make("bert masked")
    model.save_pretrained(tmp_path)
    whole = huggingface.read_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as error:
        huggingface.read_model(tmp_path)
    for line in str(error.value).split("`")[1::2]:
        exec(line, globals())  # noqa: S102  (one after the other, as in a session of Python)
    again = huggingface.read_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def generator(folder, **search):
    from transformer.inference.generate import Generator
    from transformer.inference.loading import Loaded

    found = huggingface.read(folder)
    config = settings.assign(found.config, {"search.temperature": 0.0} | {f"search.{n}": v for n, v in search.items()})
    kind = families.FAMILIES["decoder_only"].model(config, found.data_info)
    vocabularies = {"text": found.vocabularies["joint"]}
    objective = families.make_objective(config, found.data_info, vocabularies)
    return Generator(Loaded(config, found.data_info, kind, objective, found.params, vocabularies))


# Phi 3's longrope computes its cache anew where a text grows past the trained length; ours keeps it.
DECODERS = [name for name, (kind, _) in theirs.MODELS.items() if kind.endswith(("CausalLM", "GPT2LMHeadModel"))]
DECODERS.remove("phi3 long")


@pytest.mark.parametrize("name", small.some(DECODERS, "gpt2", "llama", "gemma3", others=pytest.mark.thorough))
def test_prompts_are_continued_as_theirs(tmp_path, name):
    """Past a window, too, and up to the first of several ends."""
    made = folders.byte_bpe(["<|endoftext|>"])
    model = theirs.make(name, vocab_size=made.get_vocab_size(), bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, made, tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ends, count = [0], 12
    for prompt in ("the cat", "a small bird sees the cat and the mouse"):
        given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        said = model.generate(**given, do_sample=False, max_new_tokens=count, eos_token_id=ends, pad_token_id=0)
        said = said[0, given.input_ids.shape[1] :].tolist()
        wanted = tokenizer.decode([i for i in said if i not in ends])
        assert generator(tmp_path, max_new_tokens=count).generate(prompt) == [wanted]
        ends = [0, said[min(5, len(said) - 1)]]  # of the next prompt
        fields = json.loads((tmp_path / "generation_config.json").read_text())
        (tmp_path / "generation_config.json").write_text(json.dumps(fields | {"eos_token_id": ends}))
