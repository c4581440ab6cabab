"The measurement of rates on a larger base: pictures that are drawn are not judged on, and the rates that the library gives are among the good ones."
import numpy as np
import pytest

from finetune_book.adapt import as_method
from finetune_book.data.tables import carried
from finetune_book.vision.rows import ImageRows


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_rates")


def test_what_is_drawn_is_not_judged_on_and_no_training_is_made_twice(script, tmp_path, monkeypatch):
    asked, out, y = [], tmp_path / "rows.csv", np.array(["a", "b"] * 700)
    monkeypatch.setattr(script, "picture_sets", lambda cifar: {"cifar10": ((np.arange(1400), y), None)})
    monkeypatch.setattr(script.drifted, "read", lambda folder, size: {"train": (None,)})
    monkeypatch.setattr(script.drifted, "recalibrated", lambda file, seen, folder, size: folder)
    monkeypatch.setattr(script, "in_fresh_process", lambda work, settings, few, held: asked.append((settings, few, held)) or .5)
    for _ in range(2): script.main(["--base", "big=weights.pth", "--cifar", "there", "--out", str(out), "--methods", "lora", "full"])
    assert [s["lr"] for s, *_ in asked] == [*script.TRIED["lora"], *script.TRIED["full"]] * 2
    for _, (x, labels), (held, _) in asked: assert len(held) == 600 and not set(x) & set(held) and (labels == y[x]).all()


def test_what_is_missing_is_said(script, capsys):
    with pytest.raises(SystemExit): script.main(["--cifar", "there"])
    assert "--base NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_the_rate_of_a_larger_base_is_near_the_best_that_was_measured(script, method):
    rows = script.Stored(carried("base_models") / "rates.csv", script.COLUMNS, script.KEY).rows(dtype=None)
    means = rows[rows.method == method].groupby("lr").accuracy.mean()
    assert means[as_method(method).rate(ImageRows.rates_for("another"))] > means.max() - .03 > means.min() + .05
    assert as_method(method).rate(ImageRows.rates_for("book-resnet")) == {"lora": .0075, "adalora": .015}[method]
