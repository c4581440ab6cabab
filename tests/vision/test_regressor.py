"""ImageRegressor: contracts that lesson 55 (vision_classifier) cannot check on itself; the twin of TextRegressor."""
import numpy as np
import pandas as pd
import pytest
from sklearn.base import is_regressor
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import finetune_book
from examples import X, Y
from finetune_book import ImageClassifier, ImageRegressor, TextRegressor
from finetune_book.checks import InputError
from finetune_book.vision.augment import Augment
from marked_pictures import marked_pictures

SHADES = X.mean((1, 2, 3)) * 10 - 700


@pytest.fixture(scope="module")
def fast(tiny_picture_base):
    "Settings that train in a fraction of a second."
    return dict(base=tiny_picture_base, epochs=2, lr=.01, batch_size=8, verbose=0)


def test_its_settings_are_those_of_the_classifier():
    assert ImageRegressor().get_params() == ImageClassifier().get_params() and is_regressor(ImageRegressor())
    assert finetune_book.ImageRegressor is ImageRegressor and "ImageRegressor" in finetune_book.__all__


def test_it_answers_in_the_units_of_its_targets_and_so_does_what_was_saved(fast, tmp_path):
    reg = ImageRegressor(**{**fast, "epochs": 40}, patience=60).fit(X, SHADES, validation=(X, SHADES))
    assert reg.score(X, SHADES) > .9 and np.abs(reg.predict(X) - SHADES).mean() < .3 * SHADES.std()
    assert reg.history_[reg.best_epoch_]["val_r2"] > .9 and reg.predict(X).shape == (24,) and not hasattr(reg, "predict_proba")
    again = ImageRegressor.load(reg.save(tmp_path / "m"), device="cpu")
    assert np.array_equal(again.predict(X), reg.predict(X)) and again.predict(X).dtype == float
    for other in (ImageClassifier, TextRegressor):
        with pytest.raises(InputError, match="saved by ImageRegressor"): other.load(tmp_path / "m")


def test_left_open_the_better_way_is_taken(fast):
    "By the share of variance explained on pictures held back."
    found = ImageRegressor(base=fast["base"], epochs=2, verbose=0).fit(X, SHADES)
    assert set(found.tried_) == {"head", "full"} and found.tune_ == max(found.tried_, key=found.tried_.get)


def test_a_table_and_a_folder_bring_numbers(fast, tmp_path):
    table = marked_pictures(tmp_path, 12)
    listed = table[["path", "shade"]].rename(columns=dict(shade="label"))
    listed.to_csv(tmp_path / "shades.csv", index=False)
    paths = [str(tmp_path / p) for p in table.path]
    by_table, by_paths = (ImageRegressor(**fast, tune="head").fit(*given) for given in ((str(tmp_path / "shades.csv"),), (paths, table.shade)))
    assert np.array_equal(by_table.predict(paths), by_paths.predict(paths))
    assert by_table.score(str(tmp_path / "shades.csv")) == by_table.score(paths, table.shade)
    for age in ("3", "7.5"):
        (tmp_path / "ages" / age).mkdir(parents=True)
        for p in paths[:6] if age == "3" else paths[6:]: (tmp_path / "ages" / age / p[-7:]).write_bytes(open(p, "rb").read())
    aged = ImageRegressor(**fast, tune="head").fit(tmp_path / "ages", validation=tmp_path / "ages")
    assert aged.task_.mean == 5.25
    listed.assign(label="dark").to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(InputError, match="not a finite number"): ImageRegressor(**fast).fit(str(tmp_path / "words.csv"))


@pytest.mark.parametrize("settings, says", [
    (dict(augment="crop+mixup"), "mix classes"), (dict(augment="cutmix"), "mix classes"), (dict(augment=Augment(mixup=.2)), "mix classes"),
    (dict(class_weight="balanced"), "a regressor has none"), (dict(label_smoothing=.1), "a regressor has none"), (dict(thresholds="f1"), "several labels")])
def test_what_only_classes_have_is_refused(fast, settings, says):
    with pytest.raises(InputError, match=says) as caught: ImageRegressor(**fast, **settings).fit(X, SHADES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("y", [list(Y), [[1, 2]] * 24, np.full(24, 3.), [np.nan, *SHADES[1:]]])
def test_targets_that_are_no_number_are_refused(fast, y):
    with pytest.raises(InputError): ImageRegressor(**fast).fit(X, y)


def test_it_is_a_scikit_learn_regressor(fast):
    assert {r["status"] for r in check_estimator(ImageRegressor(), on_skip=None)} == {"passed"}
    scores = cross_val_score(ImageRegressor(**{**fast, "epochs": 20}), X, pd.Series(SHADES), cv=3)
    assert scores.shape == (3,) and scores.mean() > .5
