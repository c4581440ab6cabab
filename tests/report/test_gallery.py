"""The gallery of a folder; that it lists sweeps is in test_sweep.py, which has one."""
import io
import json
import re
from base64 import b64encode

import pytest
from page_check import CHROMIUM
from PIL import Image

from finetune_book.checks import InputError
from finetune_book.report.gallery import publish_gallery, thumbnail


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"outputs": [{"data": {"image/png": "AAAA"}}]}]}', '{"cells": [3]}', '{"cells": []}'])
def test_a_broken_notebook_costs_only_the_picture(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content)
    assert thumbnail(tmp_path / "x.ipynb") is None and thumbnail(tmp_path / "gone.ipynb") is None


def test_a_report_called_index_is_not_overwritten(tmp_path):
    (tmp_path / "index.html").write_text("a report")
    (tmp_path / "index.json").write_text(json.dumps({"schema": 2, "report": "index", "title": "x", "parameters": {}, "metrics": {}}))
    with pytest.raises(InputError, match="called index"): publish_gallery(tmp_path)
    assert (tmp_path / "index.html").read_text() == "a report"


def interval(v, n=300): return {"value": v, "low": v - .05, "high": v + .05, "n": n}


def publish(folder, name, value=None, rows="a" * 64, measure="accuracy", **settings):
    "A report as it lies in a folder: record, page, notebook."
    answer = dict(question="Which of 2 classes?", data="300 texts", measure=measure, model="fine-tuned", score=value and interval(value), also={"macro_f1": .5}, others={"majority": interval(.5)},
                  stands="better" if value and value > .6 else "worse", verdict=f"A verdict on {name} & <b>more</b>.", gains={"majority": "+0.3"}, wary={"one training": "it may move"})
    record = {"schema": 2, "report": name, "title": f"Title of {name}", "parameters": {"data": "notes.csv", "lr": .1} | settings, "data": {"test": {"rows": 300, "sha256": rows}},
              "metrics": {"ladder": {"fine-tuned": {"accuracy": value or .5, "low": .4, "high": .6, "n": 300}}} | ({"answer": answer} if value else {})}
    (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / f"{name}.html").write_text("a report")


@pytest.fixture
def several(tmp_path):
    for name, value in (("one", .8), ("two", .82), ("three", .55)): publish(tmp_path, name, value, lr={"one": .1, "two": .2, "three": .1}[name])
    publish(tmp_path, "elsewhere", .9, rows="b" * 64)
    publish(tmp_path, "number", .9, measure="error")
    publish(tmp_path, "own")
    return publish_gallery(tmp_path)


def test_each_report_shows_its_answer_and_no_raw_key(several):
    text = several.read_text()
    shown = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert "A verdict on one &amp; &lt;b&gt;more&lt;/b&gt;." in shown and shown.count("1 reason to be wary: one training") == 5
    assert "ladder.fine-tuned" not in shown and "fine-tuned accuracy: 0.5 [0.4, 0.6]" in shown
    assert shown.count("5 reports of this folder were judged on the same test rows") == 5, "all but the one of other rows"
    assert "<b>more" not in text and publish_gallery(several.parent).read_text() == text


def test_an_answer_that_is_none_costs_only_the_card(tmp_path):
    publish(tmp_path, "x", .8)
    record = json.loads((tmp_path / "x.json").read_text())
    for broken in (None, [], "text", {"wary": 3}, {"score": {}}, {**record["metrics"]["answer"], "score": {"value": "<b>"}}):
        (tmp_path / "x.json").write_text(json.dumps(record | {"metrics": record["metrics"] | {"answer": broken}}))
        assert "fine-tuned accuracy" in publish_gallery(tmp_path).read_text()


def test_the_thumbnail_is_the_picture_on_top(tmp_path):
    pixel = {c: made(c) for c in ("red", "blue")}
    def output(colour, **meta): return {"output_type": "display_data", "data": {"image/png": pixel[colour]}, "metadata": {"image/png": {"alt": colour}} | meta}
    cells = [{"outputs": [output("red")]}, {"outputs": [output("blue", finetune_book={"place": "top"})]}]
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}))
    assert thumbnail(tmp_path / "x.ipynb")[1] == "blue"
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells[:1]}))
    assert thumbnail(tmp_path / "x.ipynb")[1] == "red"


def made(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return b64encode(buffer.getvalue()).decode()


@pytest.fixture
def opened(several):
    "The gallery in a browser without a network."
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM: pytest.skip("no Chromium")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(offline=True).new_page()
        errors = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(several.as_uri())
        yield page
        assert errors == []
        browser.close()


def names(page): return [t.split("\n")[1] for t in page.locator("table.reports tbody:not([hidden]) th").all_inner_texts()]


def test_it_sorts_filters_and_compares(opened):
    assert names(opened) == ["elsewhere", "number", "one", "own", "three", "two"]
    opened.get_by_label("Sort by").select_option("score")
    assert names(opened) == ["elsewhere", "number", "two", "one", "three", "own"]
    opened.get_by_label("Show").select_option("worse")
    assert names(opened) == ["three"]
    opened.get_by_label("Show").select_option("")
    opened.get_by_label("Filter").fill("TITLE OF T")
    assert names(opened) == ["two", "three"] and opened.locator("table.reports caption").inner_text() == "2 of 6 reports"

    def compare(a, b):
        opened.locator("select").nth(2).select_option(label=a)
        opened.locator("select").nth(3).select_option(label=b)
        opened.get_by_role("button", name="Compare").press("Enter")
        return opened.locator(".compared").inner_text()
    told = compare("one", "two")
    assert "two minus one in accuracy: +0.020 [−0.051, +0.091]: no clear difference" in told and "lr" in told and "notes.csv" not in told
    assert "three is clearly lower" in compare("one", "three")
    assert "different rows" in compare("one", "elsewhere") and "cannot be compared" in compare("one", "number") and "own has no answer" in compare("one", "own")
    assert compare("one", "one") == "Choose two reports."


def test_one_report_needs_no_script(tmp_path):
    publish(tmp_path, "x", .8, note="</script><script>alert(1)</script>")
    assert publish_gallery(tmp_path).read_text().count("<script") == 1
    publish(tmp_path, "y", .8)
    assert publish_gallery(tmp_path).read_text().count("<script") == 2
