"""The page: hostile outputs stay text, it needs no network; looked at in a browser where there is one."""
import itertools
import re

import pandas as pd
import pytest
from nbformat import v4
from page_check import CHROMIUM, TEX, examine, problems
from reports import notebook

from finetune_book.cli import main
from finetune_book.report.page import TOGGLE, html_page

ATTACKS = ["<script>document.title='owned'</script>", "$x^2$ and $\\frac12$", "![a](http://example.org/a.png)", "</style><style>main{display:none}</style>", "\x1b[31mred\x1b[0m",
           "\u202eright to left", "<img src=http://example.org/b.png onerror=\"document.title='owned'\">", "</table></main><h1>owned", "[a](javascript:alert(1))", "{{ 7*7 }} {% raw %}",
           "<a href=\"javascript:alert(2)\">a</a>", "&lt;b&gt; &amp;", "`code` **bold** | cell |"]
LABELS = ["<script>document.title='owned'</script>", "costs $5 and $6 \\frac{", "![b](http://example.org/c.png)"]


@pytest.mark.usefixtures("warm_kernels")
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


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page is looked at in a browser")
def test_the_page_in_a_browser_without_network(runs):
    "Hostile rows and outputs do nothing; formulas are formulas; code is behind its toggle; every text can be read, light, dark and on paper."
    pytest.importorskip("playwright.sync_api")
    found = examine(runs[0].html)
    assert problems(found) == [] and found["title"] == "A tiny report" and found["images"] >= 1 and found["formulas"] == 4


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page is looked at in a browser")
def test_the_browser_sees_what_is_wrong(tmp_path):
    pytest.importorskip("playwright.sync_api")
    (tmp_path / "bad.html").write_text("<title>x</title><main><p style='color:#999'>grey $\\frac12$</p><img src='http://example.org/a.png'><table><th>a</th></table>"
                                       "<div class=code>shown</div><button id=toggle-code>x</button><script>boom()</script></main>")
    wrong = " ".join(problems(examine(tmp_path / "bad.html")))
    for word in ("requests", "errors", "raw_tex", "no_alt", "no_scope", "contrast", "code cells"): assert word in wrong, word


def test_hostile_outputs_are_inert():
    html = ("<script>a()</script><SCRIPT src=//x.org/a.js></SCRIPT><iframe src=//x.org></iframe><img src='https://x.org/a.png' onerror='a()'>"
            "<meta http-equiv=refresh content='0;url=//x.org'><link rel=preconnect href=//x.org><style>body{display:none}</style></style></main>")
    nb = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=[v4.new_output("display_data", {"text/html": html}),
                                                               v4.new_output("display_data", {"text/markdown": html}),
                                                               v4.new_output("stream", text="\x1b[31m" + html),
                                                               v4.new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": '"><script>a()'}}),
                                                               v4.new_output("display_data", {"application/javascript": "a()"})]),
                                v4.new_markdown_cell(html)])
    nb.metadata["title"] = "</title><script>a()</script>"
    page = html_page(nb)
    start, end = page.index("</style><noscript>"), page.index(f"<script>{TOGGLE}")
    body = page[start:end].replace("</style><noscript><style>.code[hidden]{display:block!important}</style></noscript>", "")
    assert not re.search(r"<(script|iframe|meta|link|style)\b", body, re.I) and "\x1b" not in page
    assert not re.search(r"<[^>]+\s(src|href|onerror)\s*=(?!\s*[\"']?(data:|#))", body, re.I)
    assert "a()" not in page[:start] or "<script>a()" not in page


def test_maths_is_inlined_only_where_it_is_needed():
    assert len(html_page(notebook("x = '$'"))) < 20_000
    assert len(html_page(v4.new_notebook(cells=[v4.new_markdown_cell("$x$")]))) > 2_000_000
