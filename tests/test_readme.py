"""README and docs: the things they name exist, and the example in the README works unchanged."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from trained import ROOT, command

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_is_short():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.:])(?:experiments|transformer|tests|docs)/[\w/.]*\w", text))
    assert not [name for name in named if not (ROOT / name).exists() and not (ROOT / name.partition(":")[0]).exists()]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if link and not (page.parent / link).resolve().exists()]


def block(begin: str, fence: str = "```") -> str:
    """The fenced block that begins with this text."""
    [found] = [each for each in re.findall(rf"{fence}\w*\n(.*?){fence}", README, re.DOTALL) if each.startswith(begin)]
    return found


@pytest.mark.slow
def test_the_promise_on_one_screen_is_kept(tmp_path, monkeypatch):
    """The variant in the README, unchanged, passes the check with the table shown there. The report of the study, made again
    from its runs, gives the verdict shown there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "soft_cap.py").write_text(block("import dataclasses"))
    [check] = [line.strip() for line in README.splitlines() if "--mode=check" in line]
    shown = [line for line in block("property").splitlines() if not line.startswith("...")]
    ran = command(*check.split()[2:])
    assert ran.status == 0, ran.err
    lines = {line[:42].strip(): line.split()[-1] for line in ran.lines if line.rstrip().endswith("ok")}
    assert shown[0].split() == ["property", "error", "bound"] and len(shown) > 5
    assert not [line for line in shown[1:] if lines.get(line[:42].strip()) != line.split()[-1]]

    whole = README.replace("\\\n", " ").splitlines()  # a command may have two lines
    studies = [line.strip() for line in whole if "--mode=ablate" in line and line.startswith("    ")]
    study, own = studies
    planned = command(*shlex.split(own)[2:], "--dry_run")
    assert planned.status == 0 and [line for line in planned.lines if line.startswith("capped ")], planned.err
    config, workdir = (part for part in study.split() if part.startswith(("--config=", "--workdir=")))
    folder = Path(workdir.partition("=")[2])
    shutil.copytree(ROOT / "experiments" / "reports" / folder.name, tmp_path / folder)
    made = command("--mode=report", config, workdir)
    assert made.status == 0, made.err
    quoted = [line.removeprefix("> ") for line in README.splitlines() if line.startswith("> ") and len(line) > 3]
    report = (tmp_path / folder / "report.md").read_text(encoding="utf-8")
    assert len(quoted) == 3 and all(line in report for line in quoted)
