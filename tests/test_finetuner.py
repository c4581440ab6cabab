"""scikit-learn's own checks on the text estimators, and the meta-estimators that people put them in.

scikit-learn's full suite feeds tables of numbers. A text estimator says in its tags that it reads strings, so `check_estimator` stops after the
first checks. To run the rest all the same, `NumbersAsText` writes each row of numbers as a sentence and passes it on.
"""
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from finetune_book import TextClassifier, TextRegressor
from examples import LABELS, TEXTS


def sentences(X):
    "Each row of numbers as words: sign and tens of each value."
    return [" ".join(f"f{min(9, int(abs(v)))} {'m' if v < 0 else 'p'}" for v in row) for row in np.asarray(X, dtype=float)]


class _NumbersAsText:
    def fit(self, X, y, validation=None):
        X, y = validate_data(self, X, y, y_numeric=isinstance(self, TextRegressor))
        return super().fit(sentences(X), y, validation)

    def outputs(self, X):
        from sklearn.utils.validation import check_is_fitted
        check_is_fitted(self, "model_")
        self.model_.double()          # the checks compare batches of two sizes to 1e-7, less than one step of a float32
        return super().outputs(sentences(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags


class NumbersClassifier(_NumbersAsText, TextClassifier):
    "The classifier behind a coat of numbers."


class NumbersRegressor(_NumbersAsText, TextRegressor):
    "The regressor behind a coat of numbers."


WEAK = "asks for high accuracy on blobs of numbers; two epochs of a random two-layer base on numbers written as words cannot give that"
SKIPPED = {
    "check_classifiers_train": WEAK,
    "check_regressors_train": WEAK,
}


@pytest.fixture
def small(tiny_base):
    return dict(base=tiny_base, epochs=2, lr=5e-3, batch_size=32, max_length=16, device="cpu", verbose=0)      # a GPU's sums move by 3e-7 with the batch, the checks allow 1e-7


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor])
def test_check_estimator_on_text(kind):
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        results = check_estimator(kind(), on_skip=None)
    assert results and {r["status"] for r in results} <= {"passed"}


@pytest.mark.parametrize("kind", [NumbersClassifier, NumbersRegressor])
def test_check_estimator_on_numbers_written_as_text(kind, small):
    results = check_estimator(kind(**small), expected_failed_checks=SKIPPED, on_skip=None, on_fail=None)
    failed = {r["check_name"]: repr(r["exception"])[:300] for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) >= 40


def test_clone_and_params_round_trip(small):
    clf = TextClassifier(**small, tune="top-1")
    assert clone(clf).get_params() == clf.get_params()
    assert clf.set_params(lr=.1).lr == .1


def test_cross_val_score(small):
    scores = cross_val_score(TextClassifier(**{**small, "epochs": 10, "batch_size": 4}), TEXTS * 2, LABELS * 2, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > .5


def test_grid_search_in_a_pipeline(small):
    pipe = Pipeline([("lower", FunctionTransformer(lambda texts: [t.lower() for t in texts])), ("clf", TextClassifier(**small))])
    search = GridSearchCV(pipe, {"clf__lr": [1e-6, 5e-3]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_["clf__lr"] in (1e-6, 5e-3)
    assert search.predict(TEXTS).shape == (12,)


def test_a_failed_fold_is_an_error_of_the_reader_not_a_crash(small):
    with pytest.raises(ValueError):
        cross_val_score(TextClassifier(**small), TEXTS, ["a"] * 12, cv=2, error_score="raise")
