"""The text report where several labels hold at once, and where a number is asked: from a CSV to the page."""
import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from finetune_book.cli import main
from label_sets import joined_notes

pytestmark = pytest.mark.usefixtures("warm_kernels")


def report(tmp_path, base, table, **more):
    "Run the report on a table; its exit code, its page as words, and its record."
    table.to_csv(tmp_path / "data.csv", index=False)
    values = dict(base=base, data=tmp_path / "data.csv", epochs=1, max_length=24, batch_size=8, max_train=120) | more
    pairs = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    code = main(["report", "finetune_text", "-q", *pairs, "--out", str(tmp_path / "out")])
    page, kept = tmp_path / "out" / "finetune_text.html", tmp_path / "out" / "finetune_text.json"
    text = page.read_text() if page.exists() else ""
    return code, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split()), json.loads(kept.read_text()) if kept.exists() else {}


@pytest.fixture(scope="module")
def of_labels(tmp_path_factory, tiny_base):
    "500 rows with three labels each; one with an empty cell."
    table = joined_notes(500)
    table.loc[7, "label"] = ""
    return report(tmp_path_factory.mktemp("labels"), tiny_base, table, labels_by=";")


def test_three_labels_in_each_of_500_rows_go_from_a_csv_to_a_report(of_labels):
    code, page, run = of_labels
    m = run["metrics"]
    assert code == 0 and list(m["ladder"]) == ["best constant set", "TF-IDF + logistic regressions", "frozen body", "fine-tuned"]
    for rung in m["ladder"].values():
        assert rung["low"] <= rung["micro F1"] <= rung["high"] and {"macro F1", "subset accuracy", "hamming loss"} <= rung.keys() and rung["n"] >= 70
    assert len(m["per_label"]) == 10 and all(0 < r["threshold"] < 1 and r["ap_low"] <= r["ap"] <= r["ap_high"] for r in m["per_label"].values())
    assert set(m["thresholds"]["table"]) == {"0.5 for every label", "fitted for each label"} and len(m["thresholds"]["fitted"]) == 10
    assert set(m["calibration"]) == set(m["per_label"]) and sum(d["rows"] for d in run["data"].values()) == 500
    assert "Which of 10 labels hold" in page and "micro F1 of fine-tuned" in page and "Missed and invented in the same row" in page


def test_every_label_is_in_every_part_and_a_row_without_labels_is_counted(of_labels):
    m = of_labels[2]["metrics"]
    assert all(row["support"] > 0 for row in m["per_label"].values()) and "class balance" not in m["audit"]
    assert m["audit"]["texts without any label"] in (0, pytest.approx(1 / 351, rel=.02)) and "labels per text" in of_labels[1]


def test_a_number_is_judged_by_its_error(tmp_path, tiny_base):
    rng = np.random.default_rng(0)
    days = rng.integers(1, 30, 160)
    table = pd.DataFrame({"text": [f"fever for f{d % 10} days head f{d // 10} m {rng.integers(10**6)}" for d in days], "label": days})
    code, page, run = report(tmp_path, tiny_base, table, task="number")
    m = run["metrics"]
    assert code == 0 and list(m["ladder"]) == ["mean", "TF-IDF + ridge regression", "frozen body", "fine-tuned"]
    assert all({"mean absolute error", "RMSE", "R²"} <= rung.keys() for rung in m["ladder"].values())
    assert set(m["ranges"]) == {"50%", "80%", "90%", "95%"} and sum(b["rows"] for b in m["bands"].values()) == m["ladder"]["mean"]["n"]
    assert m["answer"]["stands"] in ("better", "worse", "no clear difference") and "Answers against truth" in page


@pytest.mark.parametrize("table, more, said", [
    (dict(label=["a|b", "a", "b|c", "c"] * 10), dict(labels_by=";"), "stands in no cell"),
    (dict(label=["a;b", "a", "b;c", "c"] * 10), dict(task="labels"), "labels_by=';'"),
    (dict(label=["1", "2", "3", "4"] * 10), dict(task="number", labels_by=";"), "labels or a number"),
    (dict(label=["a;b", "a", "b", "a"] * 9 + ["c;a", "a", "a", "a"]), dict(labels_by=";"), "'c' has 1 of the 3 rows"),
    (dict(label=["1", "x", "3", "4"] * 10), dict(task="number"), "not a finite number")])
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, tiny_base, capfd, table, more, said):
    table = pd.DataFrame(dict(text=[f"note {i} of {i * 7919 % 1000}" for i in range(40)]) | table)
    assert report(tmp_path, tiny_base, table, **more)[0] in (2, 3)
    assert said in capfd.readouterr().err
