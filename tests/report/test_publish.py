"""A run, twice: every value arrives, the same seed gives the same bytes, and files appear whole or not at all."""
import json

import nbformat
import pytest
from reports import HOSTILE_TEXTS

from finetune_book.report import publish as publishing
from finetune_book.report.errors import NotPublished
from finetune_book.report.publish import write_whole, render_html


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


def test_publish_is_all_or_nothing(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    write_whole({a: "one", b: "one"})
    def full(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(publishing.os, "fsync", full)
    with pytest.raises(NotPublished, match="No space left"): write_whole({a: "two", b: "two"})
    assert a.read_text() == b.read_text() == "one" and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
