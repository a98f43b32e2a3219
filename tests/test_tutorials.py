"""Tutorials are notebooks that .ci/run executes when it builds the site; these tests check them without running them."""

import ast
import json
import re

import pytest
import yaml
from trained import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_package_and_keeps_no_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    first = "".join(code[0]["source"])
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    assert "pip install -e ." in first and re.search(r"^(import|from) transformer", first, re.MULTILINE)
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]]
    for cell in code:
        ast.parse("".join(cell["source"]))


def test_the_site_has_every_page():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = re.findall(r"[\w/]+\.(?:md|ipynb)", json.dumps(settings["nav"]))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb")}
    there = {name for name in there if not name.startswith("tutorials/runs/") and ".ipynb_checkpoints" not in name}
    assert there == set(pages) - {"results.md", "reference/modes.md", "reference/settings.md"} and len(NOTEBOOKS) == 5
    assert settings["theme"]["font"] is False
