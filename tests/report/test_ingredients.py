"""What a run reads from outside, found and hashed before it runs."""
import os

import pytest

from finetune_book.report.ingredients import hash_source, inputs_of
from finetune_book.report.params import declared_in
from finetune_book.report.fresh import input_reasons


def declared_inputs(**values):
    declared = declared_in("\n".join(f"{k} = {v!r}" for k, v in values.items()))
    return inputs_of(declared, values)


@pytest.mark.parametrize("text", ["", " ", "plain", "a\0b", "x" * 5000, "~nobody-here/x", "http://example.org/x.csv", "a/b/c", "..", "中文 🙂"])
def test_a_text_that_names_nothing_readable(text):
    found = declared_inputs(note=text)
    assert found == {} or text == ".." and found["note"]["kind"] == "folder"


def test_the_sources_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("x")
    (tmp_path / "a" / ".hidden").write_text("x")
    os.symlink(tmp_path / "a", tmp_path / "a" / "loop")
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = declared_inputs(data=str(tmp_path / "a"), base="org/name", other="org/nothing", more=["clinic_notes", str(tmp_path / "a" / "x.csv")], out_dir=str(tmp_path))
    assert {k: (v["kind"], v["files"]) for k, v in found.items()} == {
        "data": ("folder", 1), "base": ("hub", 1), "more[0]": ("carried", found["more[0]"]["files"]), "more[1]": ("file", 1)}
    assert found["more[0]"]["files"] >= 4 and all(v["sha256"] for v in found.values())


def test_a_folder_that_holds_the_reports_is_never_taken_for_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (".", "..", str(tmp_path)): assert hash_source(text)["sha256"] is None
    unknown = declared_inputs(data=".")
    assert input_reasons(unknown, unknown) == ["it cannot be told whether data changed"]
