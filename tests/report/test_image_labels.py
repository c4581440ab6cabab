"""The picture report where several labels hold at once, and where a number is asked: from a table to the page."""
import html
import json
import re

import pandas as pd
import pytest

from finetune_book.cli import main
from marked_pictures import marked_pictures

pytestmark = pytest.mark.usefixtures("warm_kernels")
SMALL = dict(base="scratch", size=16, epochs=1, batch_size=16)


def report(tmp_path, **more):
    "Run the report on a table; its exit code, its page as words, its record and the page itself."
    pairs = [word for name, value in (SMALL | more).items() for word in ("-p", f"{name}={value}")]
    code = main(["report", "finetune_image", "-q", *pairs, "--out", str(tmp_path / "out")])
    page, kept = tmp_path / "out" / "finetune_image.html", tmp_path / "out" / "finetune_image.json"
    text = page.read_text() if page.exists() else ""
    return code, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split()), json.loads(kept.read_text()) if kept.exists() else {}, text


def test_several_labels_of_each_picture(tmp_path):
    table = marked_pictures(tmp_path, 150)
    code, page, run, text = report(tmp_path, data=tmp_path / "table.csv", labels_by=";", group="roll")
    m = run["metrics"]
    assert code == 0 and list(m["ladder"]) == ["best constant set", "pixels + logistic regressions", "frozen body", "fine-tuned"]
    assert all(rung["low"] <= rung["micro F1"] <= rung["high"] for rung in m["ladder"].values()) and m["ladder"]["pixels + logistic regressions"]["micro F1"] > .75
    assert set(m["per_label"]) == set(m["thresholds"]["fitted"]) == {"left", "right", "top"} and sum(d["rows"] for d in run["data"].values()) == len(table)
    assert "Which of 3 labels hold for each of the pictures" in page and "labels per picture" in page and "no roll on two sides" in page
    assert 0 < m["audit"]["pictures without any label"] < .3 and {"size outliers", "leaks"} <= set(m["audit"]) and "class balance" not in m["audit"]
    alts = re.findall(r'<img[^>]*\balt="([^"]*)"', text)
    assert all(alts) and any(a.startswith("Contact sheet") and "left" in a and "top" in a for a in alts)
    assert any("most confident mistakes" in a and re.search(r"(misses|invents) (left|right|top) 0\.\d\d", a) for a in alts)


def test_a_number_of_each_picture(tmp_path):
    marked_pictures(tmp_path, 120)
    code, page, run, text = report(tmp_path, data=tmp_path / "table.csv", label="shade", task="number", group="roll")
    m = run["metrics"]
    assert code == 0 and list(m["ladder"]) == ["mean", "pixels + ridge regression", "frozen body", "fine-tuned"]
    assert all({"mean absolute error", "RMSE", "R²"} <= rung.keys() for rung in m["ladder"].values())
    assert m["ladder"]["pixels + ridge regression"]["mean absolute error"] < .6 * m["ladder"]["mean"]["mean absolute error"]
    assert set(m["ranges"]) == {"50%", "80%", "90%", "95%"} and "Answers against truth" in page and "Which number belongs to each of the pictures?" in page
    alts = re.findall(r'<img[^>]*\balt="([^"]*)"', text)
    assert all(alts) and any(re.search(r"most confident mistakes: [\d.]+ → -?[\d.]+", a) for a in alts)


@pytest.mark.parametrize("more, said", [
    (dict(labels_by="|"), "stands in no cell"), (dict(task="labels"), "labels_by=';'"), (dict(task="number", labels_by=";"), "labels or a number"),
    (dict(task="number", label="roll"), "not a finite number"), (dict(task="number", label="shade", augment="mixup"), "mix classes"),
    (dict(label="said"), "no column 'said'"), (dict(task="number", label="shade", group="owner"), "no column 'owner'"), (dict(task="sets"), "must be one of classes, labels, number")])
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, capfd, more, said):
    table = marked_pictures(tmp_path, 40)
    assert report(tmp_path, data=tmp_path / "table.csv", **more)[0] == 2
    assert said in capfd.readouterr().err and len(pd.unique(table.label)) > 3


def test_one_picture_in_two_rows(tmp_path, capfd):
    "A row for each label, or for each measurement: refused, and told how to write it."
    table = marked_pictures(tmp_path, 40)
    pd.concat([table, table.head(1).assign(label="right", shade=999.)]).to_csv(tmp_path / "twice.csv", index=False)
    for more, says in ((dict(labels_by=";"), "all its labels in one cell"), (dict(task="number", label="shade"), "or their mean")):
        assert report(tmp_path, data=tmp_path / "twice.csv", **more)[0] == 2
        assert says in capfd.readouterr().err
