"""`train --labels-by` and `predict` with the model that it saves."""
import csv
import io

import pandas as pd
import pytest

from finetune_book.cli import main
from finetune_book.commands.fitting import compare_sets
from label_sets import joined_notes


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_base):
    tmp = tmp_path_factory.mktemp("sets")
    joined_notes(80, labels=2, by="|").to_csv(tmp / "notes.csv", index=False)
    args = ["train", "--data", str(tmp / "notes.csv"), "--labels-by", "|", "--base", tiny_base, "--epochs", "1", "--max-length", "16", "-q"]
    assert main([*args, "--out", str(tmp / "model")]) == 0
    return tmp / "model"


def test_predict_joins_the_labels_and_their_probabilities(model, capsys):
    assert main(["predict", "-m", str(model), "chest pain", "cough for two days", "--labels-by", " + "]) == 0
    from finetune_book import TextClassifier
    said = TextClassifier.load(model, device="cpu").predict(["chest pain", "cough for two days"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["prediction"] for row in rows] == [" + ".join(labels) for labels in said]
    for row, labels in zip(rows, said): assert len(row["probability"].split(" + ")) == max(1, len(labels)) and (labels or row["probability"] == "")


def test_a_separator_inside_a_label_and_labels_that_are_numbers_too_are_refused(model, capsys, tmp_path):
    assert main(["predict", "-m", str(model), "chest pain", "--labels-by", "a"]) == 2 and "stands in the label" in capsys.readouterr().err
    assert main(["train", "--data", "clinic_notes", "--labels-by", ";", "--regression"]) == 2 and "--labels-by and --regression" in capsys.readouterr().err
    joined_notes(20, labels=2, by="|").to_csv(tmp_path / "t.csv", index=False)
    assert main(["train", "--data", str(tmp_path / "t.csv"), "--labels-by", ";", "--out", str(tmp_path / "m")]) == 2
    assert "stands in no cell" in capsys.readouterr().err


def test_the_score_of_train_has_a_floor_of_one_constant_set():
    train = pd.DataFrame({"labels": [["a", "b"], ["a"], ["a"], ["c"]], "label": "a"})
    name, metric, y, pred, constant, told = compare_sets([["a"], ["c"]], [["a"], ["a", "c"]], train)
    assert (name, told) == ("micro F1", "a") and metric(y, pred) == .8 and metric(y, constant) == .5
