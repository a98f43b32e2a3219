"""Markdown -> one HTML file that needs nothing else: figures inside it, no script; for a screen, a phone and paper."""

import html
from collections.abc import Mapping

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light; }
body { max-width: 54rem; margin: 0 auto; padding: 1rem 1rem 3rem; color: #222; background: #fff; }
body { font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-top: 1.6rem; }
blockquote { margin: 1rem 0; padding: 0 0 0 0.9rem; border-left: 3px solid #bbb; color: #444; }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
code { background: #f3f3f3; border-radius: 3px; padding: 0.05em 0.25em; }
pre { background: #f3f3f3; padding: 0.7rem; border-radius: 4px; white-space: pre-wrap; } pre code { padding: 0; }
.table { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td[style*="right"] { white-space: nowrap; }
td:first-child code, th code { white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8.5pt; } .table { overflow: visible; }
  th, td { padding: 0.15rem 0.35rem; } h2, h3 { break-after: avoid; } tr, figure, blockquote { break-inside: avoid; }
}
"""


def page(title: str, markdown: str, figures: Mapping[str, str]) -> str:
    """The HTML. `figures`: SVG of the pictures that the Markdown names, by name."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(self, tokens, index, options, env) -> str:
        token = tokens[index]
        svg = figures[str(token.attrs["src"])]
        return f'<span role="img" aria-label="{html.escape(token.content)}">{svg[svg.index("<svg") :]}</span>'

    reader.add_render_rule("image", image)
    reader.add_render_rule("table_open", lambda *arguments: '<div class="table"><table>\n')
    reader.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{reader.render(markdown)}</body>\n</html>\n"
    )
