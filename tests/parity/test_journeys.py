"""From a published folder and back, on the command line: import, check, evaluate, ask, attend, fine-tune, export, load."""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import folders
import numpy as np
import pytest
import small
import trained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)
from flax import traverse_util  # noqa: E402

from transformer.inference import loading  # noqa: E402

LINES = ["the small cat sees a bird", "a bird hears the cat", "the mouse is small", "a small mouse sees the bird"]
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Published:
    """A folder as Transformers writes it. `ask(workdir)`: the flags of the mode that its users want, and lines for stdin."""

    model: object
    tokenizer: object
    described: dict
    data: dict[str, str]
    ask: Callable[[Path], tuple[Sequence[str], bytes]]
    attend: Sequence[str] = ("--source=the small cat",)
    settings: dict[str, object] = dataclasses.field(default_factory=dict)


def llm(name: str) -> Published:
    made = folders.byte_bpe(["<|endoftext|>"])
    model = theirs.make(name, vocab_size=made.get_vocab_size(), bos_token_id=0, eos_token_id=0, pad_token_id=0)
    described = {"eos_token": "<|endoftext|>"}
    ask = ["--mode=generate", "--prompt=the cat", "--config.search.max_new_tokens=5"]
    return Published(model, made, described, {"source": "documents"}, lambda workdir: (ask, b""))


def encoder(name: str) -> Published:
    """With a tokenizer as ModernBERT's, which has no class of its own."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    made = folders.between(folders.word_pieces(), "[CLS]", "[SEP]")
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    model = theirs.make(name, vocab_size=made.get_vocab_size(), **(ids if name == "modernbert" else {}))
    described = {f"{role}_token": token for role, token in names.items()}
    asked = ["--mode=predict"]
    return Published(model, made, described, {"source": "documents"}, lambda workdir: (asked, b"the small [MASK]\n"))


def nllb() -> Published:
    codes = ["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn"]
    made = folders.between(folders.byte_bpe(codes), "eng_Latn", "</s>")
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
    model = theirs.make("m2m_100", vocab_size=made.get_vocab_size(), **ids)
    model.generation_config.update(**ids, forced_bos_token_id=5, max_length=12)
    described = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    data = {"source": "text", "source_language": "en", "target_language": "fr"}
    asked = ["--mode=translate", "--config.search.beam_size=2"]
    settings = {"train.label_smoothing": 0.0}
    return Published(model, made, described, data, lambda workdir: (asked, b"the small cat\n"), settings=settings)


KINDS = {name: lambda name=name: llm(name) for name in ("llama", "qwen3", "gemma3")} | {"nllb": nllb}
KINDS |= {name: lambda name=name: encoder(name) for name in ("modernbert", "distilbert", "electra")}
JOURNEYS = ("llama", "qwen3", "gemma3", "modernbert", "nllb")


def save(published: Published, folder: Path) -> None:
    """As `save_pretrained` of Transformers does."""
    published.model.save_pretrained(folder)
    published.tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **published.described}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def command(*arguments: str, stdin: bytes = b"") -> str:
    result = trained.command(*arguments, stdin=stdin)
    assert result.status == 0, result
    return result.out


@pytest.mark.slow
@pytest.mark.parametrize("name", small.some(JOURNEYS, "llama", "nllb", others=pytest.mark.thorough))
def test_a_model_goes_all_the_way(tmp_path, name):
    """Adapters that were trained on one's own text lower its loss; what is exported computes in Transformers what ours does."""
    published = KINDS[name]()
    save(published, tmp_path / "a")
    pairs = published.data["source"] == "text"
    for split in SPLITS:
        lines = LINES * (20 if split == "train" else 2)
        (tmp_path / f"{split}.{'en' if pairs else 'txt'}").write_text(("\n" if pairs else "\n\n").join(lines) + "\n")
        if pairs:
            (tmp_path / f"{split}.fr").write_text("\n".join(" ".join(reversed(line.split())) for line in lines) + "\n")
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    data = [f"--config.data.{setting}={value}" for setting, value in published.data.items()]
    data += [f"--config.data.directory={tmp_path}"]
    data += [f"--config.data.{split}={split}{'' if pairs else '.txt'}" for split in SPLITS]

    command("--mode=import", f"--source={tmp_path / 'a'}", f"--workdir={run}", *data)
    assert "fail" not in command("--mode=check", f"--workdir={run}").lower()
    command("--mode=evaluate", f"--workdir={run}", "--split=test")
    before = json.loads((run / "evaluation" / "test.json").read_text())["scores"]["nll"]
    asked, stdin = published.ask(run)
    assert command(f"--workdir={run}", *asked, stdin=stdin).strip()
    command("--mode=attend", f"--workdir={run}", *published.attend)
    settings = {"model.lora_rank": 4, "model.lora_kernels": "query,value,outer", "train.steps": 30, "train.learning_rate": 0.02}
    settings |= {"train.warmup_steps": 3, "train.batch_tokens": 256, "train.init_from": run, **published.settings}
    command(f"--workdir={tuned}", *(f"--config.{setting}={value}" for setting, value in settings.items()))
    after = json.loads((tuned / "evaluation" / "test.json").read_text())["scores"]["nll"]
    assert after < before - 0.5
    command("--mode=export", f"--workdir={tuned}", f"--output={tmp_path / 'b'}")
    written = type(published.model).from_pretrained(tmp_path / "b").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    found = loading.read(tuned)
    ids = found.vocabularies["source" if pairs else "text"].encode(LINES[0])
    assert tokenizer(LINES[0], add_special_tokens=False).input_ids == ids
    one = {
        name: np.array([ids])
        for name in (("source", "inputs") if pairs else ("source",) if name == "modernbert" else ("inputs",))
    }
    said = found.model.apply({"params": found.params}, one)
    said = said["logits"] if isinstance(said, dict) else said
    more = {"decoder_input_ids": torch.tensor([ids])} if pairs else {}
    with torch.no_grad():
        wanted = written(torch.tensor([ids]), **more).logits.numpy()
    np.testing.assert_allclose(said, wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_the_commands_of_the_how_to_fine_tune_an_imported_folder(tmp_path):
    """On one's own text; with adapters, which change the kernels that the how-to names and nothing else."""
    published = KINDS["llama"]()
    save(published, tmp_path / "FOLDER")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("\n\n".join(LINES * 10) + "\n")
    text = (Path(__file__).parents[2] / "docs" / "howto" / "weights.md").read_text()
    written = re.findall(r"(?m)^    python launch\.py ((?:.*\\\n)*.*)", text)
    places = {"FOLDER2": "FOLDER2", "FOLDER": "FOLDER", "runs/gpt2": "llama", "runs/llama": "llama", "runs/tuned": "tuned"}
    asked = {"--mode=generate": ["--config.search.max_new_tokens=5"], "--workdir=runs/tuned": ["--config.train.steps=10"]}
    done = []
    for line in written:
        arguments = shlex.split(line.replace("\\\n", " "))
        if "nllb" in line or "--mode=translate" in arguments or "--config.parallel.fsdp=8" in line:
            continue
        flags = [flag.partition("=") for flag in arguments]
        flags = [f"{name}={tmp_path / places[value] if value in places else value}" for name, _, value in flags]
        flags = [f"{flag.partition('=')[0]}={tmp_path}" if flag.endswith("=DIR") else flag for flag in flags]
        command(*flags, *asked.get(arguments[0], []))
        done.append(arguments[0])
    assert done == ["--mode=import", "--mode=generate", "--mode=export", "--workdir=runs/tuned"]
    old, new = (traverse_util.flatten_dict(loading.read(tmp_path / name).params, sep="/") for name in ("llama", "tuned"))
    changed = {tuple(path.split("/")[-2:]) for path in old if not np.array_equal(old[path], new[path])}
    assert changed == {("query", "kernel"), ("value", "kernel")}


LABELLED = {
    "classify": ("tsv", ["cat\tthe small cat", "bird\ta bird hears"], "SequenceClassification"),
    "tag": ("conll", ["the O\ncat B-ANIMAL\n", "a O\nbird B-ANIMAL\n"], "TokenClassification"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize("name", small.some(["modernbert", "distilbert", "electra"], "modernbert", others=pytest.mark.thorough))
def test_a_masked_language_model_is_trained_to_label_and_exported(tmp_path, name, kind):
    """All parameters are trained, and each has its place in what Transformers reads."""
    published, (source, lines, head) = KINDS[name](), LABELLED[kind]
    save(published, tmp_path / "a")
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("\n".join(lines * 8) + "\n")
    command("--mode=import", f"--source={tmp_path / 'a'}", f"--workdir={tmp_path / 'run'}")
    settings = {"train.init_from": tmp_path / "run", "objective.kind": kind, "data.directory": tmp_path, "data.source": source}
    settings |= {"train.steps": 6, "train.learning_rate": 0.02, "train.warmup_steps": 1, "train.batch_tokens": 64}
    settings |= {f"data.{split}": f"{split}.txt" for split in SPLITS}
    command(f"--workdir={tmp_path / 'tuned'}", *(f"--config.{setting}={value}" for setting, value in settings.items()))
    command("--mode=export", f"--workdir={tmp_path / 'tuned'}", f"--output={tmp_path / 'b'}")
    written = getattr(transformers, f"AutoModelFor{head}").from_pretrained(tmp_path / "b").eval()
    assert type(written).__name__ == type(published.model).__name__.replace("MaskedLM", head)
    tokenizer, found = transformers.AutoTokenizer.from_pretrained(tmp_path / "b"), loading.read(tmp_path / "tuned")
    given = tokenizer("the small cat", return_tensors="pt", return_token_type_ids=False)
    said = found.model.apply({"params": found.params}, {"source": given.input_ids.numpy()})["scores"]
    with torch.no_grad():
        np.testing.assert_allclose(said, written(**given).logits.numpy(), atol=2e-4, rtol=1e-3)
