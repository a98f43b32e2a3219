"""From a published folder and back, on the command line: import, check, evaluate, generate, attend, fine-tune, export, load."""

import json

import folders
import numpy as np
import pytest
import small
import trained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)

from transformer.inference import loading  # noqa: E402

LINES = ["the small cat sees a bird", "a bird hears the cat", "the mouse is small", "a small mouse sees the bird"]


@pytest.mark.slow
@pytest.mark.parametrize("name", small.some(["llama", "qwen3", "gemma3"], "llama", "gemma3", others=pytest.mark.thorough))
def test_a_decoder_goes_all_the_way(tmp_path, name):
    made = folders.byte_bpe(["<|endoftext|>"])
    model = theirs.make(name, vocab_size=made.get_vocab_size(), bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model.save_pretrained(tmp_path / "a")
    made.save(str(tmp_path / "a" / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(described))
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text("\n\n".join(LINES * (20 if split == "train" else 2)) + "\n")
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    data = ["--config.data.source=documents", f"--config.data.directory={tmp_path}"]
    data += [f"--config.data.{split}={split}.txt" for split in ("train", "validation", "test")]

    def command(*arguments):
        result = trained.command(*arguments)
        assert result.status == 0, result
        return result.out

    command("--mode=import", f"--source={tmp_path / 'a'}", f"--workdir={run}", *data)
    assert "fail" not in command("--mode=check", f"--workdir={run}").lower()
    command("--mode=evaluate", f"--workdir={run}", "--split=test")
    before = json.loads((run / "evaluation" / "test.json").read_text())["scores"]["nll"]
    assert command("--mode=generate", f"--workdir={run}", "--prompt=the cat", "--config.search.max_new_tokens=5")
    command("--mode=attend", f"--workdir={run}", "--source=the small cat")
    settings = {"model.lora_rank": 4, "model.lora_kernels": "query,value,outer", "train.steps": 30, "train.learning_rate": 0.02}
    settings |= {"train.warmup_steps": 3, "train.batch_tokens": 256, "train.init_from": run}
    command(f"--workdir={tuned}", *(f"--config.{setting}={value}" for setting, value in settings.items()))
    after = json.loads((tuned / "evaluation" / "test.json").read_text())["scores"]["nll"]
    assert after < before - 0.5
    command("--mode=export", f"--workdir={tuned}", f"--output={tmp_path / 'b'}")
    written = type(model).from_pretrained(tmp_path / "b").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    found = loading.read(tuned)
    ids = found.vocabularies["text"].encode(LINES[0])
    assert tokenizer(LINES[0], add_special_tokens=False).input_ids == ids
    with torch.no_grad():
        wanted = written(torch.tensor([ids])).logits.numpy()
    said = found.model.apply(
        {"params": found.params}, {"inputs": np.array([ids]), "segments": np.ones((1, len(ids)), np.int32)}
    )
    np.testing.assert_allclose(said, wanted, atol=2e-4, rtol=1e-3)
