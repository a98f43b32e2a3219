"""The README's code is run as it stands, on a smaller experiment in the place of the default one."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from transformer import settings
from transformer.components.attention import Attention

ROOT = Path(__file__).parents[1]
SMALL = """
from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train

def get_config():
    return Config(
        model=Model(num_encoder_layers=1, num_decoder_layers=1, d_model=16, d_ff=16, num_heads=2),
        data=Data(vocabulary="characters", number_range=(0, 100), number_train_size=40, number_test_size=10),
        train=Train(steps=2, batch_tokens=256),
        evaluate=Evaluate(scores=("exact_match",)),
        search=Search(beam_size=1, max_extra=4, batch_size=16),
    )
"""


@pytest.mark.slow
def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    prediction, ablation, variant = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "number_words.py").write_text(SMALL)
    exec(compile(ablation.replace("(0, 1, 2)", "(0,)"), "README.md", "exec"), {})  # noqa: S102  (our own text)
    lines = [line for line in capsys.readouterr().out.splitlines() if " seed " in line]
    assert [line.split(" seed")[0].strip() for line in lines] == ["1/sqrt(d_k)", "none"]
    shutil.move("runs/scale/none 0", "runs/number_words")
    names: dict = {}
    exec(compile(prediction, "README.md", "exec"), names)  # noqa: S102
    assert names["logits"][0].shape[0] == len("einundzwanzig") + 1
    names = {"dataclasses": dataclasses, "Attention": Attention, "setting": settings.setting, "jnp": jnp}
    exec(compile(variant, "README.md", "exec"), names)  # noqa: S102
    assert names["SoftCap"](cap=30.0).cap == 30 and "logits" in vars(names["SoftCap"])


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:experiments|transformer|tests)/[\w/.]*\w", text))
    assert named and not [name for name in named if not (ROOT / name).exists()]
