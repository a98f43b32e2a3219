"""Pages that are made when the site is built: modes and flags, settings, results; and MathJax, from its package."""

import importlib.resources
import re
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from transformer.cli import usage
from transformer.files import EXPERIMENTS

MATHJAX = r"""window.MathJax = {
  tex: {inlineMath: [["\\(", "\\)"], ["$", "$"]], displayMath: [["\\[", "\\]"], ["$$", "$$"]]},
  options: {ignoreHtmlClass: "jp-OutputArea|highlight|md-search"},
};
"""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made."""
    pages = {
        "reference/modes.md": _help("Modes and flags", ""),
        "reference/settings.md": _settings(),
        "results.md": _results(),
        "javascripts/mathjax.js": MATHJAX,
        "javascripts/tex-svg.js": importlib.resources.files("mathjax")
        .joinpath("static/mathjax/es5/tex-svg.js")
        .read_text("utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for report in sorted(EXPERIMENTS.glob("reports/*/report.md")):
        name = report.parent.name
        files.append(File.generated(config, f"reports/{name}.md", content=_report(report.read_text("utf-8"), name)))
        files.append(File.generated(config, f"reports/{name}.svg", abs_src_path=str(report.with_name("figure.svg"))))
    return files


def on_page_markdown(markdown: str, page: Page, **given: Any) -> str:
    """Links to RESULTS.md, which work in the repository, lead to its page."""
    up = "../" * page.file.src_uri.count("/")
    return re.sub(r"\((?:\.\./)+experiments/RESULTS\.md\)", f"({up}results.md)", markdown)


def _help(title: str, section: str) -> str:
    return f"# {title}\n\n```\n{usage.usage(section, 'python launch.py')}\n```\n"


def _settings() -> str:
    """A heading for each section, and what `--help` says of it."""
    parts = ["# Settings\n\n`--config.NAME=VALUE` sets one. `--help=SECTION` prints the same.\n"]
    for name in ("general", *usage.sections(), "study"):
        parts.append(f"## {name}\n\n```\n{usage.usage(name, 'python launch.py')}\n```\n")
    return "\n".join(parts)


def _results() -> str:
    """RESULTS.md, whose links to reports lead to their pages."""
    text = (EXPERIMENTS / "RESULTS.md").read_text("utf-8")
    return re.sub(r"\((?:experiments/)?reports/(\w+)/report\.md\)", r"(reports/\1.md)", text)


def _report(text: str, name: str) -> str:
    return text.replace("(figure.svg)", f"({name}.svg)")
