"""The page of attention: its contents, its size, and, in headless Chromium, that a click changes the display."""

import base64
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import trained
from trained import command

from transformer.plots import AttentionPage, View

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def view(layers=2, heads=3, rows=4, columns=5, name="decoder cross attention", **labels) -> View:
    logits = np.random.default_rng(0).normal(0, 2, (layers, heads, rows, columns))
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    names = {"across": [f"key{n}" for n in range(columns)], "down": [f"query{n}" for n in range(rows)]} | labels
    return View(name, weights, **names, steps="decoder" in name)


def data(page: AttentionPage) -> list:
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page.html(), re.DOTALL)[1])  # type: ignore[index]


def test_weights_are_kept_to_a_255th_and_texts_as_they_are():
    made = view(across=["</script><b>", "\u2581die", '"', "\\", "&amp;"])
    page = AttentionPage([("a <b> & c", [made])])
    [[kept]] = [each["maps"] for each in data(page)]
    found = np.frombuffer(base64.b64decode(kept["weights"]), np.uint8).reshape(2, 3, 4, 5) / 255
    np.testing.assert_allclose(found, made.weights_LxHxTxS, atol=0.5 / 255 + 1e-6)
    assert kept["across"] == made.across and data(page)[0]["title"] == "a <b> & c"
    assert "<title>Attention: a &lt;b&gt; &amp; c</title>" in page.html() and not re.search(r"(src|href)=", page.html())
    assert html.unescape(re.search(r'srcdoc="(.*?)" style', page._repr_html_(), re.DOTALL)[1]) == page.html()  # type: ignore[index]
    with pytest.raises(ValueError, match="labels"):
        AttentionPage([("", [view(down=["one"])])]).html()


def test_a_sentence_may_have_the_words_of_the_template():
    [read] = data(AttentionPage([("DATA and TITLE", [view(across=["DATA", "TITLE", "a", "b", "c"])])]))
    assert read["title"] == "DATA and TITLE" and read["maps"][0]["across"][:2] == ["DATA", "TITLE"]


def test_a_large_model_fits():
    assert len(AttentionPage([("t", [view(12, 12, 64, 64)])]).html().encode()) < 3_000_000


def test_lines_of_a_file_are_on_one_page(tmp_path):
    (tmp_path / "texts.txt").write_text("abc\nab\tAB\n\n")
    run = f"--workdir={trained.run().workdir}"
    made = command("--mode=attend", run, f"--input={tmp_path}/texts.txt", f"--output={tmp_path}/out")
    assert (made.status, made.lines) == (0, [f"{tmp_path}/out/attention.html"])
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    titles = [each["title"] for each in json.loads(re.search(r'json">(.*?)</script>', page, re.DOTALL)[1])]  # type: ignore[index]
    assert len(titles) == 2 and titles[0].startswith("abc → ") and titles[1] == "ab → AB"
    wrong = command("--mode=attend", run, f"--input={tmp_path}/texts.txt", "--source=a")
    assert wrong.status == 2 and "--input" in wrong.err


ACTS = """<pre id="found"></pre><script>
const found = {errors: []};
window.addEventListener("error", event => found.errors.push(event.message));
const shown = () => document.getElementById("large").innerHTML;
const press = (element, type, more) => {
  const kind = type.startsWith("key") ? KeyboardEvent : MouseEvent;
  element.dispatchEvent(new kind(type, {bubbles: true, ...more}));
};
const says = () => document.getElementById("says").textContent;
const heads = [...document.querySelectorAll("#heads button")];
found.heads = heads.length; found.before = shown(); found.says = says();
heads[1].click(); found.click = shown() !== found.before; found.clicked = says();
press(document.querySelector("#large text.key[data-side=down]"), "mouseenter"); found.hover = says();
const pale = [...document.querySelectorAll("#large [data-row]")].filter(e => e.style.opacity < 1).length; found.pale = pale;
press(heads[1], "keydown", {key: "ArrowDown"}); found.key = says();
document.getElementById("asLines").click(); found.lines = document.querySelectorAll("#large line").length;
const slider = document.getElementById("step"); slider.value = 1; slider.dispatchEvent(new Event("input"));
found.rows = new Set([...document.querySelectorAll("#large line")].map(e => e.dataset.row)).size;
document.querySelectorAll("#kinds button")[0].click(); found.kind = says();
const select = document.getElementById("sentence"); select.value = 1; select.dispatchEvent(new Event("change"));
found.title = document.getElementById("title").textContent; delete found.before;
document.getElementById("found").textContent = JSON.stringify(found);
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_click_changes_what_is_seen(tmp_path):
    pair = [view(name="encoder self attention", rows=5, across=list("abcde"), down=list("abcde")), view()]
    page = AttentionPage([("first", pair), ("second", pair)]).html().replace("</body>", ACTS)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    ran = subprocess.run([CHROMIUM, *options, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=300)
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)[1]))  # type: ignore[index]
    assert found["errors"] == [] and found["heads"] == 6 and found["click"]
    assert found["says"] == "decoder cross attention, layer 2, head 1" and found["clicked"].endswith("layer 1, head 2")
    largest = view().weights_LxHxTxS[0, 1, 0].argmax()
    assert f"“query0” looks at “key{largest}”" in found["hover"] and found["pale"] == 3 * 5
    assert "layer 2, head 2" in found["key"] and found["lines"] > 4 and found["rows"] == 1
    assert found["kind"].startswith("encoder self attention") and found["title"] == "second"
