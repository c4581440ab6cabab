"""What goes into a report and what the page does: contracts that lesson 91 (publish) cannot check on itself."""
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat import v4
from page_check import CHROMIUM, examine, problems

from finetune_book.report import publish as report
from finetune_book.checks import InputError
from finetune_book.report.publish import check_values, declared_in, html_page, parameters_of, parse_values, plain, publish, render_html, require, run_report

FIXTURES = Path(__file__).parents[1] / "fixtures" / "reports"
TINY = FIXTURES / "tiny.ipynb"
DECLARED = parameters_of(TINY)
HOSTILE_TEXTS = ["a=b", "'", '"', '\\', "\\n", "two\nlines", "tab\there", "{x}", "$HOME `ls`", "中文 🙂 \u202e", "true", "1e-5", "null", "[1,2]", " ", "\x1b[31m"]


def notebook(*sources, tags=("parameters",)):
    cells = [v4.new_code_cell(s, metadata={"tags": [tags[i]]} if i < len(tags) and tags[i] else {}) for i, s in enumerate(sources)]
    return v4.new_notebook(cells=cells)


# --- parameters ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pair, value", [
    ("epochs=10", 10), ("epochs= 7 ", 7), ("lr=1e-5", 1e-5), ("lr=.5", .5), ("lr=1", 1.0), ("tune=top-3", "top-3"), ("group=null", None),
    ("group=None", None), ("group=patient", "patient"), ("ks=[1,2]", [1, 2]), ("ks=[]", []), ("ks=(1)", None), ("shuffle=false", False),
    ("shuffle=True", True), ("note=", ""), ("seed=0", 0)])
def test_values_arrive_as_what_they_say(pair, value):
    if pair == "ks=(1)":
        with pytest.raises(InputError): parse_values(DECLARED, [pair])
        return
    [(_, got)] = parse_values(DECLARED, [pair]).items()
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_text_is_taken_as_it_is(text): assert parse_values(DECLARED, [f"note={text}"]) == {"note": text}


@pytest.mark.parametrize("pairs, says", [
    (["epoch=3"], "Did you mean 'epochs'?"), (["epochs"], "name=value"), (["epochs=1", "epochs=2"], "given twice"), (["=3"], "unknown parameter ''"),
    (["epochs=3.0"], "a whole number"), (["epochs=true"], "a whole number"), (["epochs=0"], "at least 1"), (["epochs=101"], "at most 100"),
    (["epochs=null"], "a whole number"), (["epochs="], "a whole number"), (["epochs=1 or 2"], "a whole number"), (["lr=0"], "above 0"), (["lr=nan"], "finite"),
    (["lr=NaN"], "finite"), (["lr=1e999"], "finite"), (["lr=fast"], "finite"), (["lr=" + "9" * 5000], "finite"), (["tune=ful"], "Did you mean 'full'?"),
    (["tune=top"], "one of head, full, top-*"), (["shuffle=yes"], "true or false"), (["shuffle=1"], "true or false"), (["ks=[1,'a']"], "each item is a whole number"),
    (["ks=1,2"], "a list"), (["ks=" + "[" * 3000], "a list"), (["seed=-1"], "at least 0")])
def test_refused_with_one_line(pairs, says, recwarn):
    with pytest.raises(InputError) as caught: parse_values(DECLARED, pairs)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400 and not recwarn.list


def test_values_from_python_are_checked_like_text():
    assert check_values(DECLARED, {"lr": 1, "group": None}) == {"lr": 1.0, "group": None}
    for bad in ({"epochs": "3"}, {"epochs": np.int64(3)}, {"shuffle": 1}, {"note": b"x"}, {"lr": float("inf")}, {"ks": (1, 2)}, {"epoch": 3}, {"lr": 10**400}):
        with pytest.raises(InputError): check_values(DECLARED, bad)


@pytest.mark.parametrize("cell, says", [
    ("import os", "is not `name = literal"), ("x = 1 + y", "is not `name = literal"), ("x += 1", "is not `name = literal"), ("a, b = 1, 2", "is not `name = literal"),
    ("x = 5  # [6..9]", "breaks its own declaration"), ("x = 'a'  # {b, c}", "breaks its own declaration"), ("x = 'a'  # [1..2]", "is not `name = literal"),
    ("x = 1\nx = 2", "declared twice"), ("x = ", "is not Python"), ("%matplotlib inline", "is not Python"), ("x = (1, 2)", "is not `name = literal"),
    ("x: int = None", "breaks its own"), ("x: Path = None", "is not `name = literal")])
def test_a_faulty_declaration_is_refused(cell, says):
    with pytest.raises(InputError) as caught: declared_in(cell)
    assert says in str(caught.value) and "line" in str(caught.value) or "twice" in str(caught.value) or "not Python" in str(caught.value)


def test_declarations_of_every_kind():
    n, name, items, either = declared_in("n: int | None = None  # how many [1..5]\nname = '# not a comment'  # help\nitems: list[str] = []\nk = 2  # {1, 2, 4}")
    assert (n.type, n.optional, n.low, n.high, n.help) == ("int", True, 1, 5, "how many")
    assert name.default == "# not a comment" and name.help == "help" and items.item == "str" and either.choices == (1, 2, 4)
    with pytest.raises(InputError): check_values([either], {"k": 3})


@pytest.mark.parametrize("nb, says", [(notebook("x = 1", tags=()), "0 code cells"), (notebook("x = 1", "y = 2", tags=("parameters",) * 2), "2 code cells"),
                                      (notebook("# Parameters\nx = 1"), "papermill's own")])
def test_one_tagged_cell(nb, says):
    with pytest.raises(InputError, match=re.escape(says)): parameters_of(nb)


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', '{"nbformat": 99}', "\x00\x01"])
def test_a_broken_notebook_is_one_line(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content)
    with pytest.raises(InputError, match="x.ipynb") as caught: run_report(tmp_path / "x.ipynb", out_dir=tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_unknown_template_names_the_nearest(monkeypatch):
    monkeypatch.setattr(report, "templates", lambda: {"finetune_text": TINY})
    with pytest.raises(InputError, match="Did you mean 'finetune_text'"): parameters_of("finetune_txt")
    with pytest.raises(InputError, match="no such notebook"): parameters_of("gone.ipynb")


def test_carried_templates_can_be_read():
    for name, path in report.templates().items():
        assert parameters_of(path), name
        sources = [c.source for c in report.read_template(path).cells if c.cell_type == "code"]
        assert "require()" in sources[1] and "record(" in sources[-1], name


# --- the notebook checks itself ------------------------------------------------------------------------------------

CELL = "epochs = 3  # [1..9]\nlr = 1e-3"


def test_require_finds_its_cell_and_survives_a_rerun():
    names = {"epochs": 4, "lr": 1}
    history = ["", "import os", CELL, "# Parameters\nepochs = 4\nlr = 1\n"]
    assert require(names, history) == {"epochs": 4, "lr": 1.0} and type(names["lr"]) is float
    later = history + ["require()", "other = 5", "print(1)"]  # a cell of literals was run since; the reader runs require() again
    assert require(names, later) == {"epochs": 4, "lr": 1.0}
    assert require({"epochs": 2, "lr": .1}, [CELL]) == {"epochs": 2, "lr": .1}


@pytest.mark.parametrize("injected, values, says", [
    ("epoch = 4", {"epochs": 3, "lr": 1e-3, "epoch": 4}, "Did you mean 'epochs'"), ("epochs = '4'", {"epochs": "4", "lr": 1e-3}, "a whole number"),
    ("lr = float('nan')", {"epochs": 3, "lr": float("nan")}, "finite"), ("x = float('nan')", {"epochs": 3, "lr": .1, "x": float("nan")}, "unknown parameter 'x'"),
    ("epochs = 10", {"epochs": 10, "lr": 1e-3}, "at most 9")])
def test_require_refuses_what_papermill_injects(injected, values, says):
    with pytest.raises(InputError, match=says): require(values, [CELL, "# Parameters\n" + injected])


def test_require_without_a_parameters_cell():
    with pytest.raises(InputError, match="right after the parameters"): require({}, ["import os"])
    with pytest.raises(RuntimeError, match="belongs in a notebook"): require()


@pytest.mark.parametrize("values, says", [({"epoch": 3}, "unknown parameter 'epoch'. Did you mean 'epochs'?"), ({"shuffle": "true"}, "true or false")])
def test_plain_papermill_is_as_strict(tmp_path, values, says, capfd):
    import papermill
    from papermill.exceptions import PapermillExecutionError
    with pytest.raises(PapermillExecutionError) as caught: papermill.execute_notebook(TINY, tmp_path / "out.ipynb", values, progress_bar=False)
    assert says in str(caught.value) and "Traceback" not in str(caught.value) and caught.value.ename == "InputError"


# --- the record ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, error", [({"a": {"b": [1, float("nan")]}}, ValueError), (np.array([np.inf]), ValueError), ({1, 2}, TypeError), (object(), TypeError)])
def test_a_record_holds_only_plain_numbers(value, error):
    with pytest.raises(error): plain(value)


def test_plain_values_keep_their_bits():
    x = {"i": np.int32(3), "f": np.float64(.1) + .2, "b": np.bool_(True), "a": np.arange(3.), "s": pd.Series({"x": 1}), 5: None, "t": (1, "中")}
    assert plain(x) == {"i": 3, "f": .1 + .2, "b": True, "a": [0., 1., 2.], "s": {"x": 1}, "5": None, "t": [1, "中"]}
    assert json.loads(json.dumps(plain(x))) == plain(x)


# --- a run, twice --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "The tiny report twice with the same parameters."
    folder = tmp_path_factory.mktemp("runs")
    values = {"epochs": 5, "lr": 1, "note": "\n".join(HOSTILE_TEXTS), "ks": [3], "shuffle": False, "group": "pa$ti$ent", "seed": 7}
    return [run_report(TINY, values, folder / name, progress=False) for name in "ab"]


def test_every_value_arrives_in_the_kernel(runs):
    assert runs[0].record["metrics"]["echo"] == {"epochs": 5, "lr": 1.0, "tune": "full", "group": "pa$ti$ent", "ks": [3], "shuffle": False,
                                                 "note": "\n".join(HOSTILE_TEXTS), "seed": 7}
    assert sorted(runs[0].record["changed"]) == ["epochs", "group", "ks", "lr", "note", "seed", "shuffle"]


def test_same_seed_same_bytes(runs):
    a, b = runs
    assert a.metrics_json.read_bytes() == b.metrics_json.read_bytes()
    assert a.html.read_bytes() == b.html.read_bytes() and a.ipynb.read_bytes() == b.ipynb.read_bytes()


def test_the_record_is_complete(runs):
    record = json.loads(runs[0].json.read_text())
    assert record == runs[0].record and record["seed"] == 7 and record["data"]["rows"]["rows"] == 7 and record["peak_mb"] > 50
    assert {"python", "torch", "papermill", "finetune_book"} <= set(record["versions"]) and record["machine"]["cores"] >= 1
    assert [c["cell"] for c in record["cells"]] == list(range(1, len(record["cells"]) + 1)) and 0 < record["seconds"] < 600
    assert "seconds" not in runs[0].metrics_json.read_text()


def test_the_published_notebook_is_clean_and_renders_to_the_same_page(runs, tmp_path):
    nb = nbformat.read(runs[0].ipynb, 4)
    nbformat.validate(nb)
    assert "papermill" not in json.dumps(nb.metadata) + json.dumps([c.metadata for c in nb.cells])
    assert render_html(runs[0].ipynb, tmp_path / "again.html").read_bytes() == runs[0].html.read_bytes()


def test_only_the_four_files_are_left(runs):
    assert sorted(p.name for p in runs[0].html.parent.iterdir() if p.name != ".tiny.lock") == ["tiny.html", "tiny.ipynb", "tiny.json", "tiny.metrics.json"]


# --- the page ------------------------------------------------------------------------------------------------------

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
    start, end = page.index("</style><noscript>"), page.index(f"<script>{report.TOGGLE}")
    body = page[start:end].replace("</style><noscript><style>.code[hidden]{display:block!important}</style></noscript>", "")
    assert not re.search(r"<(script|iframe|meta|link|style)\b", body, re.I) and "\x1b" not in page
    assert not re.search(r"<[^>]+\s(src|href|onerror)\s*=(?!\s*[\"']?(data:|#))", body, re.I)
    assert "a()" not in page[:start] or "<script>a()" not in page


def test_maths_is_inlined_only_where_it_is_needed():
    assert len(html_page(notebook("x = '$'"))) < 20_000
    assert len(html_page(v4.new_notebook(cells=[v4.new_markdown_cell("$x$")]))) > 2_000_000


def test_publish_is_all_or_nothing(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    publish({a: "one", b: "one"})
    def full(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(report.NotPublished, match="No space left"): publish({a: "two", b: "two"})
    assert a.read_text() == b.read_text() == "one" and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
