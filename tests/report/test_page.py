"""The page of a real report over a data set that tries everything: in a browser without a network it stays text."""
import itertools

import pandas as pd
import pytest
from page_check import CHROMIUM, TEX, examine, problems

from finetune_book.cli import main

ATTACKS = ["<script>document.title='owned'</script>", "$x^2$ and $\\frac12$", "![a](http://example.org/a.png)", "</style><style>main{display:none}</style>", "\x1b[31mred\x1b[0m",
           "\u202eright to left", "<img src=http://example.org/b.png onerror=\"document.title='owned'\">", "</table></main><h1>owned", "[a](javascript:alert(1))", "{{ 7*7 }} {% raw %}",
           "<a href=\"javascript:alert(2)\">a</a>", "&lt;b&gt; &amp;", "`code` **bold** | cell |"]
LABELS = ["<script>document.title='owned'</script>", "costs $5 and $6 \\frac{", "![b](http://example.org/c.png)"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page is looked at in a browser")
def test_a_hostile_data_set_stays_text(tiny_base, tmp_path):
    pytest.importorskip("playwright.sync_api")
    words = list(itertools.combinations("pain chest fever cough head ache knee left right".split(), 3))
    rows = [(f"{ATTACKS[i % len(ATTACKS)]} {' '.join(w)} f{i}", LABELS[i % 3]) for i, w in enumerate(words)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "hostile.csv", index=False)
    given = dict(data=tmp_path / "hostile.csv", base=tiny_base, epochs=1, max_length=16, allow_leakage="true")
    assert main(["report", "finetune_text", "-q", "--out", str(tmp_path), *(p for k, v in given.items() for p in ("-p", f"{k}={v}"))]) == 0
    found = examine(tmp_path / "finetune_text.html")
    assert problems(found) == [] and found["title"] == "Fine-tuning on text"
    page = (tmp_path / "finetune_text.html").read_text(encoding="utf-8")
    assert "\x1b" not in page and "&lt;script&gt;" in page and page.count("<script>") == 3 and page.count("<style>") == 2


@pytest.mark.parametrize("text, raw", [("The price is $5 and $6.", False), ("see $\\frac12$ here", True), ("$$x$$", True), ("a $x_i$ b", True), ("\\sum of all", True), ("C:\\temp", False)])
def test_what_counts_as_raw_tex(text, raw): assert bool(TEX.search(text)) is raw
