"""The package: its requirements, the contents of the wheel, and that it works from any folder."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from trained import ROOT, command

from transformer import registry, settings
from transformer.components.attention import Attention
from transformer.config import Config

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def test_requirements_are_the_packages_and_the_tests():
    run, dev = PROJECT["dependencies"], PROJECT["optional-dependencies"]["dev"]
    asked, checks = requirements(ROOT / "requirements.txt"), requirements(ROOT / ".ci" / "requirements.txt")
    assert asked[: len(run)] == run and sorted([*asked[len(run) :], *checks]) == sorted(dev)
    assert not [each for each in [*run, *dev] if not re.search(r">=[\d.]+", each)]
    assert not [each for each in run if "<" not in each]


def test_shipped_files_have_the_same_name_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.from_file("experiments/number_words.py", Config).data.source == "number_words"
    name = "experiments/variants/soft_cap.py:SoftCap"
    config = settings.override(Config(), {"model.attention": name})
    assert settings.text_of(config.model.attention) == name == registry.reference(registry.find(Attention, name, "a test"))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "number_words.py").write_text("mine")  # the user's own file is the one that is meant
    wrong = command("--mode=describe", "--config=experiments/number_words.py")
    assert wrong.status == 2 and "mine" in wrong.err


@pytest.mark.slow
def test_the_wheel_has_the_library_and_the_experiments_and_works_elsewhere(tmp_path):
    """Built without a network. The package is unpacked outside of the checkout; its dependencies are those of this
    interpreter."""
    source = tmp_path / "source"
    copied = ["transformer", "experiments", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *(ROOT / name for name in copied), _made(source)], check=True)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    [wheel] = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "transformer").rglob("*.py")}
    files |= {str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*.py")}
    left_out = {name for name in files if name.startswith(("experiments/benchmarks/", "experiments/reports/"))}
    assert {
        "transformer/py.typed",
        "transformer/plots/viewer.html",
        "experiments/variants/soft_cap.py",
    } | files - left_out <= names and not left_out & names
    [scripts] = [name for name in names if name.endswith("entry_points.txt")]
    assert "transformer = transformer.cli:run" in (tmp_path / "site" / scripts).read_text()
    (tmp_path / "elsewhere").mkdir()
    shape = "--config.model.attention=experiments/variants/soft_cap.py:SoftCap"
    code = "import sys; sys.argv[0] = 'transformer'; from transformer.cli import run; run()"
    for arguments in (["--mode=describe", shape], ["--mode=describe", "--config=experiments/bert_list_ops.py"]):
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path / "elsewhere",
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0 and "parameters" in ran.stdout, ran.stderr[-2000:]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
