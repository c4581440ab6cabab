"""The command line over pictures: what is taken for pictures, and that every way in gives the same answer."""
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_book.cli import main
from finetune_book.commands import fitting, sources
from finetune_book.commands import train as command
from commands import outside
from marked_pictures import marked_pictures

@pytest.fixture
def belt(tmp_path):
    "A folder of class folders: dark and bright noise, twelve of each; and a table of the same with a column of patients."
    rng, rows = np.random.default_rng(0), []
    for bright, label in enumerate(["dark", "lit"]):
        (tmp_path / "belt" / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray((rng.integers(0, 120, (10, 10, 3)) + 120 * bright).astype(np.uint8)).save(tmp_path / "belt" / label / f"{i:02}.png")
            rows.append((f"belt/{label}/{i:02}.png", label, f"p{i // 2}"))
    pd.DataFrame(rows, columns=["file", "said", "patient"]).to_csv(tmp_path / "belt.csv", index=False)
    return tmp_path / "belt"


@pytest.fixture
def quick(tiny_picture_base): return ["--base", tiny_picture_base, "--epochs", "8", "--lr", "1e-2", "--batch-size", "8", "-q"]


def test_what_holds_pictures(tmp_path, belt):
    frame = pd.DataFrame({"path": ["a.png"], "text": ["good"], "label": ["x"]})
    for name in ("path", "text"): frame[[name, "label"]].to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "tables").mkdir()
    frame[["path", "label"]].to_csv(tmp_path / "tables" / "train.csv", index=False)
    frame[["text", "label"]].to_csv(tmp_path / "tables" / "test.csv", index=False)
    found = {name: sources.holds_pictures(str(source)) for name, source in
             dict(digits="digits", defects="surface_defects", notes="clinic_notes", folder=belt, paths=tmp_path / "path.csv", texts=tmp_path / "text.csv", train=tmp_path / "tables").items()}
    assert found == dict(digits=True, defects=True, notes=False, folder=True, paths=True, texts=False, train=True)
    frame.to_csv(tmp_path / "both.csv", index=False)
    assert sources.holds_pictures(str(tmp_path / "both.csv"), path="path") and not sources.holds_pictures(str(tmp_path / "both.csv"), text="text")


@pytest.mark.parametrize("more, says", [
    (["--data", "both.csv"], "say which one to learn from"), (["--data", "empty"], "neither a table nor folders of pictures"), (["--data", "digits", "--path", "a", "--text", "b"], "not both"),
    (["--data", "digits", "--max-length", "9"], "--max-length is for texts"), (["--data", "surface_defects", "--regression"], "not a finite number"), (["--data", "digits", "--text", "a"], "--text is for texts"),
    (["--data", "clinic_notes", "--size", "32"], "--size is for pictures"), (["--data", "clinic_notes", "--freeze-norm"], "--freeze-norm is for pictures"),
    (["--data", "clinic_notes", "--skip-bad"], "--skip-bad is for pictures"), (["--data", "clinic_notes", "--augment", "flip"], "'flip' is none of synonyms"), (["--data", "digits", "--augment", "swap"], "'swap' is none of crop"),
    (["--data", "digits", "--augment", "spin"], "spin"), (["--data", "digits", "--size", "2"], "size=2"), (["--data", "digits", "--epochs", "0"], "epochs=0"), (["--data", "digits", "--lr", "-1"], "lr=-1"),
    (["--data", "digits", "--batch-size", "0"], "batch_size=0"), (["--data", "digits", "--group", "writer"], "only a table of pictures"), (["--data", "digits", "--validation", "1"], "validation=1"),
    (["--data", "digits", "--out", "/proc/x/model"], "cannot be written"), (["--data", "digits", "--base", "no-such/base"], "no-such/base"), (["--data", "belt.csv", "--path", "photo"], "'file', 'said', 'patient'")])
def test_train_refuses_before_it_looks_at_pictures(belt, tmp_path, more, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "both.csv").write_text("path,text,label\na.png,good,x\n")
    (tmp_path / "empty").mkdir()
    assert main(["train", "-q", "--out", str(tmp_path / "model"), *more]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1 and shown.out == "" and not (tmp_path / "model").exists()


def test_pictures_from_folder_table_arguments_and_stdin_agree(belt, quick, tmp_path, capsys):
    assert main(["train", "--data", str(belt), *quick, "--validation", ".25", "--augment", "crop+flip", "--size", "10", "--freeze-norm", "-o", str(tmp_path / "m")]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "m") and err.startswith("accuracy on the rows held back: ") and "95% interval" in err and "always 'dark'" in err
    saved = json.loads((tmp_path / "m" / "finetune_book.json").read_text())
    kept = saved["params"]
    assert (kept["augment"], kept["size"], kept["freeze_norm"], kept["tune"]) == ("crop+flip", 10, True, None)
    assert saved["tune"] in ("head", "full", "full, BatchNorm kept", "head, BatchNorm kept")
    paths = sorted(str(p) for p in belt.glob("*/*.png"))
    answers = []
    for args in (paths, ["--data", str(belt)], ["--data", str(tmp_path / "belt.csv"), "--path", "file"]):
        assert main(["predict", "-m", str(tmp_path / "m"), *args]) == 0
        answers.append(capsys.readouterr().out)
    code, piped, err = outside("predict", "-m", str(tmp_path / "m"), input="\n".join(paths) + "\n")
    assert code == 0 and len({*answers, piped}) == 1, err
    (tmp_path / "answer.csv").write_text(piped)
    frame = pd.read_csv(tmp_path / "answer.csv")
    assert list(frame.columns) == ["path", "prediction", "probability"] and frame.path.tolist() == paths and frame.probability.between(.5, 1).all()
    assert (frame.prediction == [Path(p).parent.name for p in paths]).mean() > .8


def test_a_table_of_pictures_with_groups(belt, quick, tmp_path, capsys, monkeypatch):
    "The rows of one patient are on one side: with six of two pictures a class, a third held back is whole patients."
    seen, real = {}, fitting.judge
    monkeypatch.setattr(command, "judge", lambda model, held, train, numeric: seen.update(held=held, train=train) or real(model, held, train, numeric))
    args = ["train", "--data", str(tmp_path / "belt.csv"), "--path", "file", "--label", "said", *quick, "--validation", ".3", "-o", str(tmp_path / "m")]
    assert main([*args, "--group", "patient"]) == 0
    held, train = ({Path(p).stem: p for p in seen[part][0]} for part in ("held", "train"))
    assert seen["held"][1].group.nunique() >= 1 and not set(seen["held"][1].group) & set(seen["train"][1].group) and held and train
    assert len(seen["held"][0]) == len(seen["held"][1]) and len(seen["held"][0]) + len(seen["train"][0]) == 24


def test_copies_of_a_picture_are_on_one_side(belt, quick, tmp_path, monkeypatch):
    for label in ("dark", "lit"):
        for i in range(12): Image.open(belt / label / f"{i:02}.png").resize((20, 20)).save(belt / label / f"{i:02} copy.jpg", quality=95)
    seen = {}
    monkeypatch.setattr(command, "judge", lambda model, held, train, numeric: seen.update(held=held, train=train) or "")
    assert main(["train", "--data", str(belt), *quick, "--epochs", "1", "--validation", ".3", "-o", str(tmp_path / "m")]) == 0
    held, train = ({(Path(p).parent.name, Path(p).stem[:2]) for p in seen[part][0]} for part in ("held", "train"))
    assert held and train and not held & train


def test_the_carried_digits(quick, tmp_path, capsys):
    assert main(["train", "--data", "digits", *quick, "--epochs", "2", "-o", str(tmp_path / "m")]) == 0
    err = capsys.readouterr().err
    assert "over 179 test rows" in err and float(re.search(r"held back: (\S+)", err)[1]) > .5
    assert main(["predict", "-m", str(tmp_path / "m"), "--data", "digits"]) == 2 and "to train on" in capsys.readouterr().err


def test_the_carried_defects_keep_their_own_validation_part():
    parts = sources.read_parts("surface_defects", True, "path", "label", None, False)
    train, held = fitting.parts_to_train(parts, True, False, .1, 0, False)
    assert set(parts) == {"train", "validation", "test"} and len(train[0]) == len(parts["train"][0]) and len(held[0]) == len(parts["validation"][0])


@pytest.mark.parametrize("args, says", [(["--data", "nowhere"], "nowhere"), (["--data", "bare"], "no picture in it"), (["gone.png"], "no such file"), (["--text", "note", "a.png"], "--text is for texts")])
def test_predict_refuses_what_is_no_picture(saved_pictures, tmp_path, args, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    assert main(["predict", "-m", saved_pictures, *args]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1 and shown.out == ""


def test_a_link_out_of_the_folder_is_not_followed(saved_pictures, belt, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (belt / "dark" / "link.png").symlink_to(tmp_path / "secret.png")
    assert main(["predict", "-m", saved_pictures, "--data", str(belt)]) == 2 and "leads out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def saved_pictures(tiny_picture_base, tmp_path_factory):
    "A picture model with random weights, saved by the estimator."
    from finetune_book import ImageClassifier
    x = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    return str(ImageClassifier(tiny_picture_base, tune="head", epochs=1, verbose=0).fit(x, ["a", "b", "a", "b"]).save(tmp_path_factory.mktemp("pictures") / "m"))


@pytest.fixture
def marked(tmp_path):
    marked_pictures(tmp_path, 60)
    return tmp_path / "table.csv"


def answers(capsys, *args):
    "The CSV that `predict` prints, as a frame."
    assert main(["predict", *map(str, args)]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)


def test_several_labels_of_pictures_from_a_table_to_answers(marked, quick, tmp_path, capsys):
    args = ["--data", str(marked), "--labels-by", ";", "--group", "roll", "--validation", ".3", *quick, "--size", "16"]
    assert main(["train", *args, "--tune", "full", "--epochs", "20", "-o", str(tmp_path / "m")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("micro F1 on the rows held back: ") and "always " in err
    said = answers(capsys, "-m", tmp_path / "m", "--data", marked, "--labels-by", "+")
    assert list(said.columns) == ["path", "prediction", "probability"] and len(said) == 60
    assert set("+".join(said.prediction).split("+")) <= {"left", "right", "top", ""}
    truth = pd.read_csv(marked, keep_default_na=False).label.str.split(";").map(set)
    assert np.mean([set(p.split("+")) == t for p, t in zip(said.prediction, truth)]) > .3      # of 8 sets
    assert main(["train", "--data", str(marked), "--labels-by", "|", "-q", "-o", str(tmp_path / "n")]) == 2 and "stands in no cell" in capsys.readouterr().err


def test_a_number_of_pictures_from_a_table_to_answers(marked, quick, tmp_path, capsys):
    args = ["train", "--data", str(marked), "--label", "shade", "--regression", "--group", "roll", "--validation", ".3", *quick]
    assert main([*args, "--tune", "full", "--epochs", "30", "-o", str(tmp_path / "m")]) == 0
    err = capsys.readouterr().err
    score, floor = float(re.search(r"held back: (\S+)", err)[1]), float(re.search(r"the mean: (\S+)", err)[1])
    assert err.startswith("mean squared error on the rows held back: ") and score < floor
    said = answers(capsys, "-m", tmp_path / "m", "--data", marked)
    assert list(said.columns) == ["path", "prediction"] and said.prediction.dtype == float and said.prediction.between(-50, 150).all()
    for more, says in ((["--label", "label"], "no label"), (["--label", "roll"], "not a finite number"), (["--augment", "mixup"], "mix classes"), (["--labels-by", ";"], "give one of the two")):
        assert main([*args, *more, "-o", str(tmp_path / "n")]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "n").exists()


def test_groups_in_a_folder_of_tables(marked, tmp_path):
    table = pd.read_csv(marked, keep_default_na=False)
    (tmp_path / "split").mkdir()
    for name, part in (("train", table[:48]), ("test", table[48:])):
        part.assign(path=[str(tmp_path / p) for p in part.path]).to_csv(tmp_path / "split" / f"{name}.csv", index=False)
    parts = sources.read_parts(str(tmp_path / "split"), True, "path", "shade", "roll", "number")
    assert {name: frame.group.nunique() for name, (_, frame) in parts.items()} == {"train": 24, "test": 6}
