"""The command search: an index built, added to and searched; CSV and JSON lines; each slip is one line."""
import io
import json

import pandas as pd
import pytest

from commands import refused
from finetune_book.cli import main

DOCS = "id,text\na,pain in the chest\nb,no fever\nc,cough for two days\nd,我的卡丢了 😀\ne,ساعات العمل\n"


@pytest.fixture(autouse=True)
def nothing_on_stdin(monkeypatch): monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.fixture
def table(tmp_path):
    (tmp_path / "docs.csv").write_text(DOCS, encoding="utf-8")
    return str(tmp_path / "docs.csv")


@pytest.fixture
def index(tmp_path, table, tiny_base, capsys):
    assert main(["search", "--index", str(tmp_path / "index"), "--data", table, "--base", tiny_base]) == 0
    assert capsys.readouterr().out.endswith("index: 5 documents\n")
    return str(tmp_path / "index")


def said(capsys, *args):
    assert main(["search", *map(str, args)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_csv_and_json_lines_say_the_same(index, capsys):
    frame = pd.read_csv(io.StringIO(said(capsys, "--index", index, "-k", 2, "chest pain", "cough")))
    assert list(frame.columns) == ["query", "rank", "id", "score", "text"] and frame["rank"].tolist() == [1, 2, 1, 2] and frame.id[0] == "a" and frame.id[2] == "c"
    lines = [json.loads(line) for line in said(capsys, "--index", index, "-k", 2, "--json", "chest pain", "cough").splitlines()]
    assert [line["id"] for line in lines] == frame.id.tolist() and [line["score"] for line in lines] == frame.score.tolist()


@pytest.mark.parametrize("query, id", [("卡 在哪里", "d"), ("😀", "d"), ("ساعات", "e")])
def test_any_script(table, capsys, query, id): assert json.loads(said(capsys, "--data", table, "--words", "words", "-k", 1, "--json", query))["id"] == id


def test_more_documents_and_the_same_again(index, tmp_path, capsys):
    (tmp_path / "more.csv").write_text("id,text\na,pain in the chest\nf,knee left\n")
    assert "6 documents" in said(capsys, "--index", index, "--data", tmp_path / "more.csv")
    assert said(capsys, "--index", index, "-k", 1, "--json", "knee").count("\n") == 1


def test_queries_on_stdin_and_a_file_out(index, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("chest pain\ncough\n"))
    assert said(capsys, "--index", index, "-k", 1, "--out", tmp_path / "found.csv") == f"{tmp_path / 'found.csv'}\n"
    assert pd.read_csv(tmp_path / "found.csv").id.tolist() == ["a", "c"]


def test_rows_without_ids_are_numbered_from_1(tmp_path, capsys):
    (tmp_path / "plain.csv").write_text("note\nfever\ncough\n")
    assert json.loads(said(capsys, "--data", tmp_path / "plain.csv", "--text", "note", "--words", "words", "--json", "cough"))["id"] == 2


def test_what_cannot_be_is_one_line(index, table, tmp_path, capsys, tiny_base):
    from tiny import save_tiny_base
    (tmp_path / "other.csv").write_text("id,text\na,another text\n")
    (tmp_path / "empty.csv").write_text("id,text\n")
    (tmp_path / "blank.csv").write_text("id,text\na, \n")
    other = str(save_tiny_base(tmp_path / "other", layers=1))
    capsys.readouterr()                                                   # the bar of writing it
    for args, says in [
            (["--index", index, ""], ["empty"]), (["--index", index, "ok", " "], ["argument 2", "empty"]), (["--index", index, "--data", str(tmp_path / "other.csv"), "x"], ["twice with other text", "'a'"]),
            (["--index", index, "--base", other, "x"], ["made by another base"]), (["--index", index, "--words", "words", "x"], ["was made with --words both"]),
            (["--index", index, "--words", "some", "x"], ["--words"]), (["--index", index, "-k", "0", "x"], ["-k=0"]), (["--index", str(tmp_path / "none"), "x"], ["no index yet", "--data"]),
            (["--data", str(tmp_path / "empty.csv"), "x"], ["empty.csv"]), (["--data", str(tmp_path / "blank.csv"), "x"], ["blank.csv", "empty text"]),
            (["--data", table, "--text", "body", "x"], ["no column 'body'"]), (["--data", table, "--out", table, "x"], ["would be overwritten"]), (["x"], ["--data"])]:
        refused(capsys, ["search", *args], says)


def test_a_damaged_index_is_one_line(index, capsys):
    from pathlib import Path
    file = next(Path(index).glob("*-docs.json"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    refused(capsys, ["search", "--index", index, "x"], ["damaged", "again"])
    (Path(index) / "index.json").unlink()
    refused(capsys, ["search", "--index", index, "x"], ["never finished"])


def test_help_has_examples(capsys):
    assert main(["search", "--help"]) == 0
    assert capsys.readouterr().out.count("finetune-book search") >= 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory, tiny_picture_base):
    "A folder of six pictures, and a saved classifier of them."
    from PIL import Image
    from examples import pictures
    from finetune_book import ImageClassifier
    folder, (X, y) = tmp_path_factory.mktemp("photos"), pictures(6)
    (folder / "pictures/more").mkdir(parents=True)
    for i, picture in enumerate(X): Image.fromarray(picture).save(folder / "pictures" / ("more" if i % 2 else "") / f"{i}.png")
    ImageClassifier(base=tiny_picture_base, tune="full", epochs=1, verbose=0, device="cpu", precision="float32").fit(X, y).save(folder / "sorter")
    return folder


def test_a_folder_of_pictures(photos, tmp_path, capsys):
    index, pictures, query = tmp_path / "index", photos / "pictures", photos / "pictures/more/3.png"
    assert said(capsys, "--index", index, "--data", pictures, "--base", photos / "sorter") == f"{index}: 6 documents\n"
    found = pd.read_csv(io.StringIO(said(capsys, "--index", index, "-k", 2, query)))
    assert found.id.tolist()[0] == found.text[0] == str(query.resolve()) and found.score[0] == pytest.approx(1) and len(found) == 2
    assert "6 documents" in said(capsys, "--index", index, "--data", pictures)                      # the same again adds nothing
    assert pd.read_csv(io.StringIO(said(capsys, "--data", pictures, "--base", photos / "sorter", "-k", 2, query))).equals(found)


def test_pictures_and_words_are_kept_apart(photos, index, tmp_path, capsys, tiny_base):
    pictures = str(photos / "pictures")
    refused(capsys, ["search", "--data", pictures, "--words", "both", "x.png"], ["--words both: there are no words in pictures"])
    refused(capsys, ["search", "--index", index, "--data", pictures, "x.png"], ["holds pictures, and the base reads texts"])
    refused(capsys, ["search", "--data", pictures, "--base", tiny_base, "x.png"], ["holds pictures, and the base reads texts"])
    refused(capsys, ["search", "--data", pictures, "--base", str(photos / "sorter"), "nowhere.png"], ["nowhere.png"])


def test_a_picture_that_cannot_be_read(photos, tmp_path, capsys):
    from shutil import copytree
    copytree(photos / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures/notes.png").write_text("no picture")
    asked = ["search", "--data", str(tmp_path / "pictures"), "--base", str(photos / "sorter"), "-k", "9", "--json", str(photos / "pictures/0.png")]
    refused(capsys, asked, ["notes.png", "no picture"])
    assert main([*asked, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 6 and "warning: left out" in shown.err and "notes.png" in shown.err


def test_a_document_is_taken_out_and_another_put_in_its_place(index, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("id,text\na,left knee\n", encoding="utf-8")
    assert said(capsys, "--index", index, "--delete", "a", "--data", tmp_path / "new.csv").endswith("5 documents\n")
    assert "pain in the chest" not in said(capsys, "--index", index, "chest pain") and "left knee" in said(capsys, "--index", index, "knee")
    assert said(capsys, "--index", index, "--delete", "b", "--delete", "c").endswith("3 documents\n")
    refused(capsys, ["search", "--index", index, "--delete", "a", "--delete", "nobody", "knee"], ["--delete", "nobody", "nothing was deleted"])
    assert "left knee" in said(capsys, "--index", index, "knee")
    refused(capsys, ["search", "--delete", "a", "knee"], ["--delete", "the id a"])


def test_a_row_number_is_an_id_too(tmp_path, tiny_base, capsys):
    (tmp_path / "t.csv").write_text("text\nfever\ncough\n", encoding="utf-8")
    index = tmp_path / "i"
    said(capsys, "--index", index, "--data", tmp_path / "t.csv", "--base", tiny_base)
    assert said(capsys, "--index", index, "--delete", "1").endswith("1 documents\n") and "fever" not in said(capsys, "--index", index, "cough")
