"""What comes in: every bad input gets one clear line, every odd but good text comes back whole."""
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from finetune_book.data import tables as data
from finetune_book.checks import InputError
from finetune_book.data.tables import check_table, read_image_folder, read_splits, read_table

GOOD = "text,label\nfine,a\nbad,b\nok,a\nawful,b\n"


def line_of(action, *names):
    "The message of the InputError that `action` raises: one line, short, holding every one of `names`."
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and "\r" not in message and message.isprintable()
    assert len(message) < 600
    for name in names:
        assert str(name) in message, (name, message)
    return message


def write(folder, content, name="my.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- the bad inputs ---------------------------------------------------------------------------------------------

def test_missing_file(tmp_path):
    write(tmp_path, GOOD, "train_notes.csv")
    line_of(lambda: read_table(tmp_path / "train_note.csv"), "train_note.csv", "no such file", "Did you mean 'train_notes.csv'?")
    line_of(lambda: read_table("no/such/folder/x.csv"), "no such file")


def test_not_a_source(tmp_path):
    line_of(lambda: read_table(None), "data=None")
    line_of(lambda: read_table(3), "data=3")
    line_of(lambda: read_table(""), "give a path")
    line_of(lambda: read_table("x" * 5000), "not a path")
    line_of(lambda: read_table("https://example.org/a.csv"), "nothing is downloaded")


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")   # reading it would wait for ever
    line_of(lambda: read_table(tmp_path / "pipe.csv"), "not a regular file")
    line_of(lambda: read_table("/dev/zero"), "not a regular file")


@pytest.mark.parametrize("name", ["my.csv", "my.tsv", "my.jsonl", "my.json"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_empty_file(tmp_path, name, content):
    line_of(lambda: read_table(write(tmp_path, content, name)), name, "empty")


def test_header_only(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text,label\n")), "no rows")
    line_of(lambda: read_table(pd.DataFrame({"text": [], "label": []})), "no rows")
    line_of(lambda: read_table(write(tmp_path, "[]", "my.json")), "no rows")


def test_wrong_column_names_the_columns(tmp_path):
    path = write(tmp_path, "review,Label\nfine,a\nbad,b\n")
    line_of(lambda: read_table(path), "'text'", "'review'", "'Label'")
    line_of(lambda: read_table(path, text="review"), "'label'", "Did you mean 'Label'?")
    line_of(lambda: read_table(path, text="review", label="Label", group="patient"), "'patient'")
    line_of(lambda: read_table(path, text="review", label="review"), "different columns")


def test_wide_or_long_headers_stay_short(tmp_path):
    line_of(lambda: read_table(write(tmp_path, ",".join(f"c{i}" for i in range(500)) + "\n")), "no rows")
    line_of(lambda: read_table(pd.DataFrame({f"c{i}": ["x"] for i in range(500)})), "and 492 more")
    line_of(lambda: read_table(write(tmp_path, '"' + "long header\n " * 99 + '",label\nx,y\n')), "no column 'text'")


def test_semicolons_are_named(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text;label\nfine;a\n")), "';'")


def test_duplicate_column(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text,text,label\na,b,c\n")), "2 columns are named 'text'")


def test_not_utf8(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text,label\nfine,a\ncafé,b\n".encode("latin-1"))), "not UTF-8", "0xe9", "offset 21", "line 3")
    line_of(lambda: read_table(write(tmp_path, GOOD.encode("utf-16"))), "not UTF-8", "offset 0")
    line_of(lambda: read_table(write(tmp_path, GOOD.encode("utf-16-le"))), "UTF-16")
    line_of(lambda: read_table(write(tmp_path, '{"text": "café", "label": "a"}'.encode("latin-1"), "my.jsonl")), "not UTF-8")
    line_of(lambda: read_table(write(tmp_path, gzip.compress("text,label\ncafé,b\n".encode("latin-1")), "my.csv.gz")), "not UTF-8")


@pytest.mark.parametrize("cell", ["", " ", '""', '"  "', "\u3000"])
def test_empty_text_in_csv(tmp_path, cell):
    line_of(lambda: read_table(write(tmp_path, f"text,label\nfine,a\n{cell},b\n")), "empty text", "row 2")


@pytest.mark.parametrize("cell", [np.nan, None, pd.NA, pd.NaT, "", " \n\t"])
def test_nan_or_empty_text_in_a_frame(cell):
    frame = pd.DataFrame({"text": ["fine", cell, "ok", cell], "label": list("abab")}, dtype=object)
    line_of(lambda: read_table(frame), "empty text", "rows 2, 4")


def test_nan_text_in_json_and_parquet(tmp_path):
    line_of(lambda: read_table(write(tmp_path, '{"text": "a", "label": "x"}\n{"text": null, "label": "x"}', "a.jsonl")), "empty text", "row 2")
    line_of(lambda: read_table(write(tmp_path, '{"text": "a", "label": "x"}\n{"label": "x"}', "b.jsonl")), "empty text", "row 2")
    line_of(lambda: read_table(write(tmp_path, '{"text": NaN, "label": "x"}', "c.jsonl")), "empty text", "row 1")
    pd.DataFrame({"text": ["a", None], "label": ["x", "y"]}).to_parquet(tmp_path / "a.parquet")
    line_of(lambda: read_table(tmp_path / "a.parquet"), "empty text", "row 2")


def test_many_bad_rows_are_counted():
    line_of(lambda: read_table(pd.DataFrame({"text": [""] * 1000, "label": "a"})), "1, 2, 3, 4, 5 and 995 more")


@pytest.mark.parametrize("cell", [3.5, 7, True, ["a"], {"a": 1}, b"bytes"])
def test_text_that_is_no_string(cell):
    line_of(lambda: read_table(pd.DataFrame({"text": ["a", cell], "label": ["x", "y"]}, dtype=object)), "not a string", "row 2")


def test_lone_surrogate(tmp_path):
    line_of(lambda: read_table(write(tmp_path, r'{"text": "half \ud83d", "label": "a"}', "a.jsonl")), "surrogate", "row 1")


def test_missing_label(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text,label\nfine,a\nbad,\nok, \n")), "no label", "rows 2, 3")
    line_of(lambda: read_table(write(tmp_path, "text,label\nfine,a\nshort row\n")), "no label", "row 2")
    line_of(lambda: read_table(pd.DataFrame({"text": ["a", "b"], "label": [1, np.nan]})), "no label", "row 2")
    line_of(lambda: read_table(pd.DataFrame({"text": ["a"], "label": [["x", "y"]]})), "single value")


def test_missing_group(tmp_path):
    path = write(tmp_path, "text,label,patient\nfine,a,p1\nbad,b,\n")
    line_of(lambda: read_table(path, group="patient"), "'patient'", "row 2")


def test_target_that_is_no_number(tmp_path):
    path = write(tmp_path, "text,label\na,1.5\nb,high\nc,nan\nd,1e999\ne,\"1,5\"\n")
    line_of(lambda: read_table(path, target_type="number"), "finite number", "rows 2, 3, 4, 5")
    line_of(lambda: read_table(path, target_type="float"), "target_type='float'")


def test_broken_tables(tmp_path):
    line_of(lambda: read_table(write(tmp_path, "text,label\nwell, very good,pos\nno, bad,neg\n")), "Expected 2 fields", "double quotes")
    line_of(lambda: read_table(write(tmp_path, 'text,label\n"never closed,pos\n')), "line 2 opens a quote that never closes")
    line_of(lambda: read_table(write(tmp_path, '{"text": "a", "label": "x"}\n{"text": ', "a.jsonl")), "line 2 is not JSON")
    line_of(lambda: read_table(write(tmp_path, "[1, 2]", "a.json")), "row 1 is a int")
    line_of(lambda: read_table(write(tmp_path, "[" * 100_000, "a.json")), "not JSON")
    line_of(lambda: read_table(write(tmp_path, "text,label", "a.parquet")), "not a readable Parquet")
    line_of(lambda: read_table(write(tmp_path, "text,label", "a.csv.gz")), "gzip")
    line_of(lambda: read_table(write(tmp_path, gzip.compress(GOOD.encode())[:-9], "b.csv.gz")), "gzip")
    line_of(lambda: read_table(write(tmp_path, GOOD, "a.docx")), "unknown ending", ".csv", ".parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = write(tmp_path, GOOD)
    path.chmod(0)
    line_of(lambda: read_table(path), "cannot be read")


def test_one_class_only():
    line_of(lambda: check_table(read_table(pd.DataFrame({"text": list("abc"), "label": "yes"}))), "only 1 class", "'yes'", "3 rows")


def test_class_with_fewer_rows_than_folds():
    frame = read_table(pd.DataFrame({"text": list("abcdefgh"), "label": list("xxxxxyyy")}))
    assert check_table(frame, min_rows_per_class=3) is frame
    line_of(lambda: check_table(frame, min_rows_per_class=5), "'y'", "3 of the 5")


def test_labels_that_are_numbers_get_a_hint():
    frame = read_table(pd.DataFrame({"text": list("abc"), "label": [1.5, 2.5, 3.5]}))
    line_of(lambda: check_table(frame), "target_type='number'")
    assert len(check_table(read_table(frame, target_type="number"))) == 3
    line_of(lambda: check_table(read_table(pd.DataFrame({"text": list("ab"), "label": [2, 2]}), target_type="number")), "same number")


def test_table_without_labels():
    line_of(lambda: check_table(pd.DataFrame({"text": ["a"]})), "no column 'label'")


def test_messages_cannot_carry_terminal_codes_or_newlines(tmp_path):
    line_of(lambda: read_table(pd.DataFrame({"te\nxt\x1b[31m": ["a"], "label": ["b"]})), "no column 'text'")


# --- odd but good -----------------------------------------------------------------------------------------------

ODD = ["word " * 19_999 + "quote \" and 🙂", "👩‍👩‍👧‍👦 👍🏽", "שלום עולם", "مرحبا، كيف الحال؟", "NA", "null", "NaN", "None", "-", "007", "=SUM(A1)",
       'says "no", then\n\nleaves', "tab\there", "trailing space ", "<script>$x$</script>", "\u2028line separator", "0", "\u200fמימין"]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.csv.gz", "t.tsv.gz", "t.jsonl.gz"])
def test_odd_texts_come_back_whole(tmp_path, name):
    frame = pd.DataFrame({"text": ODD, "label": [f"{i % 3:03d}" for i in range(len(ODD))]})
    path = tmp_path / name
    if "csv" in name:
        frame.to_csv(path, index=False)
    elif "tsv" in name:
        frame.to_csv(path, sep="\t", index=False)
    elif "json" in name:
        frame.to_json(path, orient="records", lines="jsonl" in name, force_ascii="gz" in name)
    else:
        frame.to_parquet(path)
    table = read_table(path)
    assert table.text.tolist() == ODD and len(ODD[0]) >= 100_000
    assert table.label.tolist() == frame.label.tolist()
    assert all(type(t) is str for t in table.text.tolist() + table.label.tolist())


def test_bom_crlf_and_spaces_around_labels(tmp_path):
    table = read_table(write(tmp_path, b"\xef\xbb\xbftext,label\r\nfine, a\r\nbad,a \r\n\r\n"))
    assert table.text.tolist() == ["fine", "bad"] and table.label.tolist() == ["a", "a"]


def test_labels_of_any_kind_have_one_name():
    ints = read_table(pd.DataFrame({"text": ["a", "b"], "label": [0, 1]})).label.tolist()
    floats = read_table(pd.DataFrame({"text": ["a", "b"], "label": [0.0, 1.0]})).label.tolist()
    assert ints == floats == ["0", "1"]
    assert read_table(pd.DataFrame({"text": ["a"], "label": [True]})).label.tolist() == ["True"]
    assert read_table(pd.DataFrame({"text": ["a"], "label": pd.Categorical(["x"])})).label.tolist() == ["x"]


def test_index_and_source_frame_are_left_alone():
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"], "other": [1, 2]}, index=[7, 9])
    before = frame.copy()
    table = read_table(frame)
    assert table.index.tolist() == [0, 1] and list(table.columns) == ["text", "label"]
    pd.testing.assert_frame_equal(frame, before)


def test_unlabelled(tmp_path):
    assert list(read_table(write(tmp_path, "text\na\nb\n"), label=None).columns) == ["text"]


# --- folders ----------------------------------------------------------------------------------------------------

def test_folder_of_splits(tmp_path):
    write(tmp_path, GOOD, "train.csv")
    write(tmp_path, "text\tlabel\nx\ta\n", "dev.tsv")
    write(tmp_path, '{"text": "y", "label": "b"}', "test.jsonl")
    write(tmp_path, "not read", "README.md")
    parts = read_splits(tmp_path)
    assert {k: len(v) for k, v in parts.items()} == {"train": 4, "validation": 1, "test": 1}
    assert list(parts) == ["train", "validation", "test"]
    assert read_table(tmp_path).equals(parts["train"])
    assert list(read_splits(tmp_path / "train.csv")) == ["all"]


def test_folder_without_a_table(tmp_path):
    line_of(lambda: read_splits(tmp_path), "without train.csv", "none")
    write(tmp_path, GOOD, "notes.csv")
    line_of(lambda: read_splits(tmp_path), "without train.csv", "notes.csv")


def test_two_tables_for_one_split(tmp_path):
    write(tmp_path, GOOD, "train.csv")
    write(tmp_path, GOOD, "val.csv")
    write(tmp_path, GOOD, "dev.csv")
    line_of(lambda: read_splits(tmp_path), "dev.csv", "val.csv", "keep one")


def test_carried():
    line_of(lambda: data.carried("../secrets"), "does not carry")
    line_of(lambda: data.carried("clinic_note"), "does not carry")
    for name in data.carried_names():
        assert (data.carried(name) / "README.md").is_file()
        assert data.card(name).strip()
        line_of(lambda: data.carried(name + "x"), f"Did you mean {name!r}?")


# --- images -----------------------------------------------------------------------------------------------------

@pytest.fixture
def images(tmp_path):
    for name in ("cat/b.png", "cat/a.JPG", "dog/1.webp", "dog/.DS_Store", "cat/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not opened")
    return tmp_path


def test_image_folder(images):
    table = read_image_folder(images)
    assert [p.rsplit("/", 1)[1] for p in table.path] == ["a.JPG", "b.png", "1.webp"]
    assert table.label.tolist() == ["cat", "cat", "dog"]


def test_image_folder_refusals(images, tmp_path_factory):
    (images / "eel").mkdir()
    line_of(lambda: read_image_folder(images), "eel", "without images")
    (images / "eel" / "x.png").write_bytes(b"")
    line_of(lambda: read_image_folder(images), "x.png", "empty files")
    (images / "eel" / "x.png").unlink()
    (images / "eel" / "notes.txt").write_text("?")
    line_of(lambda: read_image_folder(images), "eel", "notes.txt")
    (images / "eel" / "notes.txt").unlink()
    (images / "eel").rmdir()
    (images / "loose.png").write_bytes(b"x")
    line_of(lambda: read_image_folder(images), "loose.png")
    line_of(lambda: read_image_folder(images / "loose.png"), "give a folder")
    line_of(lambda: read_image_folder(images / "nowhere"), "no such file")
    one = tmp_path_factory.mktemp("one")
    (one / "cat").mkdir()
    (one / "cat" / "a.png").write_bytes(b"x")
    line_of(lambda: read_image_folder(one), "1 class", "cat")
    line_of(lambda: read_image_folder(one / "cat"), "beside the class folders")


def test_image_folder_of_splits_points_one_level_down(real_data):
    line_of(lambda: read_image_folder(real_data / "images/cifar10"), "one level down")
    table = read_image_folder(real_data / "images/cifar10/test")
    assert table.label.value_counts().tolist() == [100] * 10


# --- real tables ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, rows, classes", [("sst2", 6909, 2), ("uci_sentences", 2386, 2), ("banking77", 9992, 77),
                                                 ("medical_abstracts", 1795, 5), ("zh_chnsenticorp_hotel", 6212, 2)])
def test_real_tables(real_data, name, rows, classes):
    parts = read_splits(real_data / "text" / name)
    facts = data.describe(check_table(parts["train"]))
    assert facts["rows"] == rows and facts["classes"] == classes
    assert sum(facts["per_class"].values()) == rows
    json.dumps(facts)


# --- describe and the manifest ----------------------------------------------------------------------------------

def test_describe_numbers_and_groups():
    frame = read_table(pd.DataFrame({"text": ["a", "bb", "bb"], "label": [1, 2, 6], "g": ["p", "q", "q"]}), group="g", target_type="number")
    facts = data.describe(frame)
    assert facts["target"] == {"mean": 3.0, "std": pytest.approx(np.sqrt(14 / 3)), "min": 1.0, "max": 6.0}
    assert facts["groups"] == 2 and facts["duplicates"] == 1 and "classes" not in facts
    json.dumps(facts)


def test_the_carried_data_is_as_listed():
    "Every carried file is in data/manifest.csv with its hash, rows, licence and source."
    assert data.carried_names()
    table = data.verify_manifest()
    assert {p.split("/")[0] for p in table.path} == set(data.carried_names())
    assert (table.licence.str.len() > 0).all() and (table.source.str.len() > 0).all()


def test_manifest_sees_every_change(tmp_path):
    home = tmp_path / "tiny"
    home.mkdir()
    write(home, "# tiny\n\n**Licence:** CC0\n- Source: made here\n", "README.md")
    write(home, GOOD, "train.csv")
    made = data.write_manifest(tmp_path)
    first = (tmp_path / "manifest.csv").read_bytes()
    data.write_manifest(tmp_path)
    assert (tmp_path / "manifest.csv").read_bytes() == first
    assert data.verify_manifest(tmp_path).equals(made)
    assert made.set_index("path").rows.to_dict() == {"tiny/README.md": "", "tiny/train.csv": "4"}
    write(home, GOOD.replace("fine", "fime"), "train.csv")
    line_of(lambda: data.verify_manifest(tmp_path), "tiny/train.csv has changed")
    (home / "train.csv").unlink()
    line_of(lambda: data.verify_manifest(tmp_path), "tiny/train.csv is missing")
    write(home, GOOD, "train.csv")
    write(home, GOOD, "new.csv")
    line_of(lambda: data.verify_manifest(tmp_path), "tiny/new.csv is not listed")
    (home / "README.md").write_text("# tiny\nLicence: CC0\n")
    line_of(lambda: data.write_manifest(tmp_path), "Source")
    (home / "README.md").unlink()
    line_of(lambda: data.write_manifest(tmp_path), "no card")
    (tmp_path / "manifest.csv").unlink()
    line_of(lambda: data.verify_manifest(tmp_path), "manifest.csv")


# --- the module -------------------------------------------------------------------------------------------------

def test_data_and_splits_import_without_torch(repo):
    code = "import sys, finetune_book.data.tables, finetune_book.data.splits; sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=repo).returncode == 0


def test_every_refusal_is_a_value_error():
    assert issubclass(InputError, ValueError)


# --- rows of the file against rows of the table -----------------------------------------------------------------

SAID = [("the room was fine", "pos"), ('"the lift was loud', "neg"), ("the tap was broken", "neg"), ("a screen of 5 inches", "pos"), ("kind staff", "pos")]


def literal(rows, sep, header=("text", "label")):
    "A file of who has never heard of quotes."
    return "".join(sep.join(row) + "\n" for row in [header, *rows])


@pytest.mark.parametrize("name, sep", [("my.csv", ","), ("my.tsv", "\t")])
def test_a_quote_that_belongs_to_the_text_swallows_no_rows(tmp_path, name, sep):
    line_of(lambda: read_table(write(tmp_path, literal(SAID, sep), name)), "line 3 opens a quote that never closes")
    twice = SAID[:4] + [('"kind staff', "pos")]
    line_of(lambda: read_table(write(tmp_path, literal(twice, sep), name)), "line 3 opens a quote that closes at line 6")
    ends = SAID[:3] + [('a screen of 5"', "pos"), *SAID[4:]]
    line_of(lambda: read_table(write(tmp_path, literal(ends, sep), name)), "line 3 opens a quote that closes at line 5", "looks like a row")
    numbered = [(t, str(900 + i)) for i, (t, _) in enumerate(ends)]
    line_of(lambda: read_table(write(tmp_path, literal(numbered, sep), name)), "closes at line 5")
    assert read_table(write(tmp_path, literal([('the 5" nail', "a"), ('so "so', "b")], sep), name)).text.tolist() == ['the 5" nail', 'so "so']


@pytest.mark.parametrize("field", ['"he said "no" to me"', '"quoted" and more', '""doubled"" start', '"blank after" '])
def test_a_quote_inside_a_quoted_text_moves_no_characters(tmp_path, field):
    line_of(lambda: read_table(write(tmp_path, f"text,label\nfine,a\n{field},b\n")), "line 3 goes on after a quote has closed")


@pytest.mark.parametrize("seed", range(3))
def test_what_a_csv_writer_writes_comes_back_as_it_was(seed):
    rng = np.random.default_rng(seed)
    parts = ["Dear all", ", thanks", "\n", "\r\n", "\n\n", ' the 5" nail', '"no"', " word", "é", "\t", "\u2028", "NA", "pos"]
    texts = ["x" + "".join(rng.choice(parts, rng.integers(1, 9))) for _ in range(60)]
    frame = pd.DataFrame({"text": texts, "label": rng.choice(["good", "bad"], 60)})
    for sep, end in ((",", "\n"), ("\t", "\n"), (",", "\r\n")):
        assert data.parse_csv(frame.to_csv(index=False, sep=sep, lineterminator=end), sep).equals(frame.astype("str"))


def test_every_line_keeps_its_place(tmp_path):
    for content in ("text\na\n\nb\n", "text,id\na,1\n\nb,2\n", "text,id\na,1\n,2\nb,3\n"):
        line_of(lambda: read_table(write(tmp_path, content), label=None), "empty text", "row 2")
    line_of(lambda: read_table(write(tmp_path, '{"text": "a"}\n\n{"text": "b"}\n', "a.jsonl"), label=None), "empty text", "row 2")
    assert len(read_table(write(tmp_path, "\n\ntext\na\nb\n\n  \n"), label=None)) == 2
    line_of(lambda: read_table(write(tmp_path, "text,label\none\rtwo,a\n")), "line 2 holds a carriage return")
    assert len(read_table(write(tmp_path, "text,label\rone,a\rtwo,b\r"))) == 2


@pytest.mark.parametrize("orient", ["records", "columns", "index", "list", "wrapped", "table"])
def test_json_in_the_shapes_that_people_have(tmp_path, orient):
    frame = pd.DataFrame({"text": ["fine", "bad", "so so"], "label": ["a", "b", "a"]})
    content = {"list": lambda: json.dumps(frame.to_dict("list")), "wrapped": lambda: json.dumps({"n": 3, "data": frame.to_dict("records")}, indent=1)}
    content = content.get(orient, lambda: frame.to_json(orient=orient))()
    assert read_table(write(tmp_path, content, "my.json")).equals(read_table(frame))


@pytest.mark.parametrize("content, says", [
    ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', ["one object with 'train': list of 1, 'test': list of 1", "[{…}, …]"]),
    ('{"text": ["a", "b"], "label": ["x"]}', ["'text': list of 2"]),
    ('{"text": {"0": "a", "1": "b"}, "label": {"0": "x"}}', ["'label': dict of 1"]),
    ('{"text": {"en": "a"}, "label": {"en": "x"}}', ["'text': dict of 1"]),
    ('{"text": "a", "text": "b", "label": "x"}', ["'text' stands twice"]), ('{"text": "a"} {"text": "b"}', ["line 1 is not JSON"]), ("{}", ["nothing in it"])])
def test_json_of_another_shape_is_named(tmp_path, content, says):
    line_of(lambda: read_table(write(tmp_path, content, "my.json")), *says)


def test_labels_and_names_that_are_not_utf8():
    line_of(lambda: read_table(pd.DataFrame({"text": ["a"], "label": ["caf\udce9"]}, dtype=object)), "half a character", "row 1")
    line_of(lambda: read_table("caf\udce9.csv"), "not UTF-8")
