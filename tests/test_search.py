"""Searching settings: what is searched, what is refused, that a killed search loses nothing, and that luck is not reported as skill."""
import numpy as np
import pandas as pd
import pytest

from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.adapt import METHODS, Method, as_method, method
from finetune_book.adapt.adapters import Bottlenecks
from finetune_book.adapt.lora import Lora
from finetune_book.checks import InputError
from finetune_book.search import JOURNAL, SEARCHED, Range, by_method, grid, luck_of_best, search, search_space

WORDS = {"a": "rain wind snow frost".split(), "b": "bread milk salt corn".split()}


def rows(n, seed, noise=0.):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["a", "b"], n)
    said = [f"{seed} {i} " + " ".join(rng.choice(WORDS[c], 4)) for i, c in enumerate(labels)]
    return said, np.where(rng.random(n) < noise, rng.permutation(labels), labels).tolist()


PARTS = rows(24, 1), rows(20, 2), rows(40, 3)


@pytest.fixture(scope="module")
def est(tiny_base): return TextClassifier(base=tiny_base, tune="head", epochs=2, max_length=16, verbose=0, precision="float32")


def tried(found): return found.trials[[c for c in found.trials if c != "seconds"]]


# --- what is searched ---------------------------------------------------------------------------------------------

def test_a_space_follows_rows_task_and_method(est):
    "The rate lies around the method's own; a rank is searched of LoRA alone, augmentation of pictures that move, smoothing of classes."
    text, lora = search_space(TextClassifier(tune="full"), 200), search_space(TextClassifier(tune="lora"), 200)
    for space, word in ((text, "full"), (lora, "lora")):
        own = as_method(word).rate(TextClassifier()._rows().rates_for("book-bert"))
        assert np.isclose(np.sqrt(space["lr"].low * space["lr"].high), own, rtol=1e-6)
    assert "tune" not in text and lora["tune"] == tuple(f"lora(r={r})" for r in Lora.searched["r"])
    assert "tune" not in search_space(TextClassifier(tune="lora(r=4)"), 200), "a rank that was given stays"
    assert search_space(TextClassifier(tune="adapter"), 200)["tune"] == tuple(f"adapter(size={k})" for k in Bottlenecks.searched["size"])
    assert "augment" in search_space(ImageClassifier(tune="full"), 200) and "augment" not in search_space(ImageClassifier(tune="head"), 200)
    assert "augment" not in text, "no augmentation of texts has gained in lesson 65 (text_augment)"
    assert "label_smoothing" in text and "label_smoothing" not in search_space(TextRegressor(tune="full"), 200)
    assert "epochs" not in search_space(est, 24), "what is set stays"
    assert search_space(est, 24, {"epochs": [1, 2], "lr": None}).keys() == {"epochs", "batch_size", "weight_decay", "label_smoothing"}


@pytest.mark.parametrize("form", list(METHODS))
def test_every_method_of_the_registry_has_a_space(form):
    word = form.replace("-K", "-1")
    space = search_space(TextClassifier(tune=word), 100)
    assert {"lr", "epochs"} <= space.keys() and space["lr"].low < space["lr"].high
    for tune in space.get("tune", ()): assert isinstance(as_method(tune), Method)


def test_methods_with_rates_of_their_own_go_by_their_word():
    space = search_space(TextClassifier(), 200, {"tune": ["head", "lora"]})
    assert space["tune"] == ("head", *(f"lora(r={r})" for r in Lora.searched["r"])) and set(space["lr"]) == {"head", "lora"}
    assert isinstance(space["epochs"], Range)
    one, other = by_method(space)
    assert one["tune"] == ("head",) and one["lr"] == space["lr"]["head"] and len(other["tune"]) == len(Lora.searched["r"])
    points = grid(space, 12)
    assert len(points) == 12 and {p["tune"] for p in points} & {"head"} and all(set(p) == set(space) for p in points)


def test_a_range():
    log, whole = Range(1e-4, 1e-2, log=True), Range(1, 3, whole=True)
    assert np.isclose(log.at(.5), 1e-3) and np.allclose(log.points(3), [1e-4, 1e-3, 1e-2]) and max(log.points(9)) <= 1e-2
    assert sorted(set(whole.rvs(300, 0))) == [1, 2, 3] and min(whole.rvs(300, 0).count(v) for v in (1, 2, 3)) > 70
    draws = np.log10(log.rvs(2000, 1))
    assert abs(draws.mean() + 3) < .05 and abs((draws < -3.5).mean() - .25) < .04
    for bad in (lambda: Range(2, 1), lambda: Range(0, 1, log=True), lambda: Range(1, 1), lambda: Range(1.5, 3, whole=True), lambda: Range("a", 1), lambda: Range(0, float("inf"))):
        with pytest.raises(InputError): bad()


@pytest.mark.parametrize("space, says", [
    ({"lrr": [1]}, "'lr'"), ({"verbose": [0, 1]}, "decides nothing"), ({"lr": []}, "nothing in it"), ({"lr": Range(.1, 2)}, "lr=2"),
    ({"lr": .1}, "must be a Range"), ({"tune": ["head", "fulll"]}, "'full'"), ({"epochs": [0, 3]}, "epochs=0"), ({"epochs": [3, 3]}, "twice"), ([1], "dict"), ({}, "nothing in it"),
    (dict.fromkeys(SEARCHED.keys() - {"augment"}), "nothing in it"), ({"tune": [None]}, "tune"), ({"lr": Range(1e-5, 1e-3), "epochs": Range(1, 2.5)}, "epochs=2.5"),
])
def test_a_space_that_cannot_be_is_refused(est, space, says):
    with pytest.raises(InputError, match=says): search_space(est, 24, space)


# --- refusals of the search ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, says", [
    (dict(trials=0), "trials=0"), (dict(trials=1.5), "trials=1.5"), (dict(minutes=0), "minutes=0"), (dict(minutes=-1), "minutes=-1"), (dict(minutes=1e-6), "one trial takes about"),
    (dict(how="gird"), "'grid'"), (dict(seed=-1), "seed"), (dict(folder=""), "folder"), (dict(space=[1]), "dict"), (dict(how="halving", space={"lr": None, "batch_size": None, "weight_decay": None,
     "label_smoothing": None, "epochs": [1, 2]}), "nothing in it but epochs"),
])
def test_arguments_that_cannot_work_are_refused(est, given, says):
    with pytest.raises(InputError, match=says) as e: search(est, *PARTS, progress=False, **given)
    assert "\n" not in str(e.value)


def test_parts_that_share_or_do_not_fit_are_refused(est):
    shared = (PARTS[1][0][:3] + PARTS[2][0], PARTS[1][1][:3] + PARTS[2][1])
    with pytest.raises(InputError, match="3 of the held-out rows are also validation rows"): search(est, PARTS[0], PARTS[1], shared, progress=False)
    for bad in ((PARTS[0][0], ["a"]), ([], []), (PARTS[0][0], None), ("abc", ["a", "b", "a"])):
        with pytest.raises(InputError): search(est, bad, *PARTS[1:], progress=False)
    assert search(est, PARTS[0], PARTS[1], shared, trials=1, allow_leakage=True, progress=False).held_out.n == 43


def test_without_optuna_the_extra_is_named(est, monkeypatch):
    monkeypatch.setattr("finetune_book.data.sheets.find_spec", lambda name: None if name == "optuna" else object())
    with pytest.raises(InputError, match=r"optuna.*finetune-book\[search\]"): search(est, *PARTS, progress=False)


# --- the search ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["tpe", "random", "grid", "halving"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(est, how, tmp_path):
    "The rest is the rest: the same settings and scores as in one go, and nothing is tried twice."
    if how == "halving": est = TextClassifier(**est.get_params() | dict(epochs=4))
    uncut, seen = search(est, *PARTS, how=how, trials=5, progress=False), []
    def stop(event):
        seen.append(event)
        if len(seen) == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): search(est, *PARTS, how=how, trials=5, folder=tmp_path, progress=stop)
    found = search(est, *PARTS, how=how, trials=5, folder=tmp_path, progress=seen.append)
    assert [e["ended"] for e in seen] == [1, 2, 3, 4, 5] and seen[0] | dict(best=None, score=None) == dict(event="trial", ended=1, of=5, best=None, score=None)
    pd.testing.assert_frame_equal(tried(uncut), tried(found))
    assert found.held_out == uncut.held_out and found.settings == uncut.settings
    assert not (tmp_path / "trial").exists() or not any((tmp_path / "trial").iterdir())


def test_the_first_trial_is_the_estimator_as_it_stands_and_the_best_is_fitted_again(est):
    found = search(est, *PARTS, trials=4, seed=3, progress=False)
    alone = TextClassifier(**est.get_params()).fit(*PARTS[0], validation=PARTS[1])
    assert found.usual == found.trials.score.iloc[0] == alone.score(*PARTS[1]) and found.score == found.trials.score.max()
    best = TextClassifier(**est.get_params() | found.settings).fit(*PARTS[0], validation=PARTS[1])
    assert best.score(*PARTS[2]) == found.held_out.value == found.estimator.score(*PARTS[2]) and best.score(*PARTS[1]) == found.score
    assert "held out" in str(found) and f"{found.score:.3f}" in str(found)


def test_the_first_trial_keeps_to_the_values_that_were_named(est):
    "Who names heads and LoRA is not answered with full tuning, because the estimator stood so."
    def first(space, **own):
        found = search(TextClassifier(**est.get_params() | own), *PARTS, trials=1, space=space, progress=False)
        return found.settings, found.estimator.get_params()
    settings, params = first({"tune": ["head", "lora"], "batch_size": [8, 16], "lr": Range(1e-3, 1e-1, log=True), "seed": [4, 5]}, tune="full")
    assert settings.keys() == {"tune", "lr", "seed"} and settings["tune"] == "head" and np.isclose(settings["lr"], 1e-2) and settings["seed"] == 4
    assert params["batch_size"] == 16 and first({"lr": None})[0] == {} and first({"weight_decay": Range(0, .1)})[0] == {}


def test_halving_scores_whoever_comes_to_the_last_epoch(tiny_base):
    est = TextClassifier(base=tiny_base, tune="full", epochs=1, max_length=16, verbose=0, precision="float32")
    assert search(est, *PARTS, trials=4, how="halving", progress=False).trials.score.notna().all()


def test_a_search_begun_with_something_else_is_refused_by_name(est, tmp_path):
    search(est, *PARTS, trials=1, folder=tmp_path, progress=False)
    other = TextClassifier(**est.get_params() | dict(max_length=12))
    for args, given, says in (((est, rows(24, 9), *PARTS[1:]), {}, "training rows"), ((est, *PARTS), dict(space={"lr": [.1, .2]}), "space of lr"), ((other, *PARTS), {}, "max_length"),
                              ((est, *PARTS), dict(seed=1), "seed of the search"), ((est, *PARTS), dict(how="random"), "way of searching"),
                              ((est, *PARTS[:2], (PARTS[2][0], PARTS[2][1][::-1])), {}, "held-out labels")):
        with pytest.raises(InputError, match=f"begun with other .*{says}"): search(*args, trials=2, folder=tmp_path, progress=False, **given)
    assert len(search(est, *PARTS, trials=2, folder=tmp_path, progress=False).trials) == 2, "more trials are the same search"


def test_what_was_refused_before_it_began_leaves_a_folder_free(est, tmp_path):
    with pytest.raises(InputError, match="one trial takes"): search(est, *PARTS, minutes=1e-6, folder=tmp_path, progress=False)
    assert len(search(est, *PARTS, trials=1, seed=5, folder=tmp_path, progress=False).trials) == 1


def test_half_a_line_of_the_journal_is_cut_off_and_another_file_is_refused(est, tmp_path):
    "What a program leaves that is killed while it writes; and a file of somebody else's."
    whole = search(est, *PARTS, trials=2, folder=tmp_path, progress=False)
    with open(tmp_path / JOURNAL, "ab") as f: f.write(b'{"op_code":4,"wor')
    found = search(est, *PARTS, trials=3, folder=tmp_path, progress=False)
    assert len(found.trials) == 3 and tried(found).iloc[:2].equals(tried(whole))
    for content in ("mine\n", "mine", "[1, 2]\n", '{"a": 1}\n', '{"op_code":0}\n'):
        (tmp_path / JOURNAL).write_text(content)
        with pytest.raises(InputError, match="no journal of a search"): search(est, *PARTS, trials=3, folder=tmp_path, progress=False)
        assert (tmp_path / JOURNAL).read_text() == content


def test_two_at_once_are_refused(est, tmp_path):
    def another(event):
        with pytest.raises(InputError, match="another search is at work"): search(est, *PARTS, trials=2, folder=tmp_path, progress=False)
    search(est, *PARTS, trials=1, folder=tmp_path, progress=another)


def test_a_budget_ends_it_between_trials(est):
    found = search(est, *PARTS, trials=10_000, minutes=.05, progress=False)
    assert found.timed_out and 1 <= len(found.trials) < 10_000 and "the time was up" in str(found)


def test_trials_that_cannot_be_are_told_and_cost_nothing_else(est, monkeypatch):
    "A training that diverges, and settings that only the model can refuse."
    from finetune_book.train.trainer import TrainingDiverged
    fit = TextClassifier.fit
    def breaks(self, *args, **kwargs):
        if self.batch_size == 8: raise TrainingDiverged("the loss is nan")
        if self.batch_size == 32: raise InputError("r=32: above the matrix")
        return fit(self, *args, **kwargs)
    monkeypatch.setattr(TextClassifier, "fit", breaks)
    found = search(est, *PARTS, trials=9, how="grid", space={"batch_size": [8, 32, 20], "lr": None, "weight_decay": None, "label_smoothing": None}, progress=False)
    assert {w.split(":")[0] for w in found.trials.why} == {"", "diverged", "refused"} and found.trials.score.notna().any()
    with pytest.raises(InputError, match="above the matrix"): search(TextClassifier(**est.get_params() | dict(batch_size=32)), *PARTS, trials=2, progress=False)


def test_halving_ends_most_trials_early(tiny_base):
    est = TextClassifier(base=tiny_base, tune="full", epochs=9, max_length=16, verbose=0, precision="float32", patience=100)
    found = search(est, *PARTS, trials=8, how="halving", progress=False)
    early = found.trials.why.str.startswith("ended after").sum()
    assert 3 <= early < 8 and found.trials.score.notna().sum() == 8 - early


def test_a_killed_trial_goes_on_from_its_checkpoint(tiny_base, tmp_path):
    "The third trial dies in the middle: it is the same trial that goes on, not from its beginning, and ends with the same score."
    from finetune_book.train.trainer import Callback
    counted = []
    class Count(Callback):
        def on_batch_end(self, trainer):
            counted.append(trainer.step)
            if stop and len(counted) == stop: raise KeyboardInterrupt
    stop, more = None, dict(callbacks=[Count()], checkpoint_every=1, epochs=3)
    est = TextClassifier(base=tiny_base, tune="full", max_length=16, verbose=0, precision="float32", **more)
    uncut = search(est, *PARTS, trials=3, space={"batch_size": None}, progress=False)
    each = 3 * 2                                            # 24 rows in batches of 16, three epochs
    assert len(counted) == 4 * each
    counted, stop = [], 2 * each + 4
    with pytest.raises(KeyboardInterrupt): search(est, *PARTS, trials=3, space={"batch_size": None}, folder=tmp_path, progress=False)
    counted, stop = [], None
    found = search(est, *PARTS, trials=3, space={"batch_size": None}, folder=tmp_path, progress=False)
    assert len(counted) <= each - 3 + each, "the third went on from where it was; then the best is fitted again"
    pd.testing.assert_frame_equal(tried(uncut), tried(found))


# --- luck ---------------------------------------------------------------------------------------------------------

def test_the_best_of_many_guesses():
    assert luck_of_best(.5, 1, 2) == .75 and luck_of_best(.3, 50, 1) == pytest.approx(.3) and luck_of_best(1., 9, 5) == 1
    rng = np.random.default_rng(0)
    drawn = (rng.binomial(100, .25, (20_000, 20)) / 100).max(1)
    assert abs(luck_of_best(.25, 100, 20) - drawn.mean()) < 3 * drawn.std() / np.sqrt(len(drawn))
    for bad in ((1.1, 9, 5), (.5, 0, 5), (.5, 9, 0)):
        with pytest.raises(InputError): luck_of_best(*bad)


def test_on_noise_the_searched_score_climbs_and_the_held_out_one_does_not(est):
    "Labels by chance: the best validation score stands above what the held-out rows say, and above half."
    noisy = [(X, np.random.default_rng(i).choice(["a", "b"], len(X)).tolist()) for i, (X, _) in enumerate((rows(40, 11), rows(30, 12), rows(400, 13)))]
    found = search(est, *noisy, trials=12, how="random", space={"seed": list(range(50))}, progress=False)
    assert found.score > .55 and found.score > found.held_out.value and found.held_out.low <= .5 <= found.held_out.high
    assert found.luck == pytest.approx(luck_of_best(found.held_out.value, 30, 12) - found.held_out.value)


# --- others' searches ---------------------------------------------------------------------------------------------

def test_scikit_learns_searches_take_the_same_space(est):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, RandomizedSearchCV
    X, y = PARTS[0]
    space = search_space(est, len(X), {"batch_size": None, "label_smoothing": None})
    points = [{k: [v] for k, v in point.items()} for point in grid(space, 4)]
    for cls, what, more in ((RandomizedSearchCV, by_method(space), dict(n_iter=3, random_state=0)), (GridSearchCV, points, {}),
                            (HalvingRandomSearchCV, by_method(space), dict(n_candidates=3, resource="epochs", min_resources=1, max_resources=3, random_state=0))):
        found = cls(est, what, cv=2, **more).fit(X, y)
        assert 0 <= found.best_score_ <= 1 and set(found.best_params_) >= {"lr", "weight_decay"} and found.predict(X[:2]).shape == (2,)
    a, b = (RandomizedSearchCV(est, by_method(space), n_iter=2, cv=2, random_state=1).fit(X, y).best_params_ for _ in range(2))
    assert a == b


def test_a_regressor_and_sets_of_labels(tiny_base):
    common = dict(base=tiny_base, tune="head", epochs=2, max_length=16, verbose=0, precision="float32")
    numbers = [(X, [float(len(x) % 7) for x in X]) for X, _ in PARTS]
    found = search(TextRegressor(**common), *numbers, trials=2, progress=False)
    assert found.luck is None and found.held_out.n == 40 and "luck" not in str(found)
    sets = [(X, [["a"] if c == "a" else ["b", "c"] for c in y]) for X, y in PARTS]
    found = search(TextClassifier(**common), *sets, trials=2, progress=False)
    assert found.held_out.value == pytest.approx(found.estimator.score(*sets[2]))
    matrix = [(X, np.array([[c == "a", c == "b"] for c in y], int)) for X, y in PARTS]
    assert search(TextClassifier(**common), *matrix, trials=2, progress=False).held_out.n == 40


def test_a_method_of_ones_own_is_searched_like_any(est):
    @method("mine68")
    class Mine(type(as_method("head"))):
        searched = {"k": (1, 2), "wide": (True, False)}
        def __init__(self, k=4, wide=False): self.k, self.wide = k, wide
        def rate(self, rates): return .05
    try:
        space = search_space(TextClassifier(tune="mine68"), 100)
        assert space["tune"] == tuple(f"mine68(k={k}, wide={wide})" for k in (1, 2) for wide in (True, False)) and np.isclose(space["lr"].low, .005)
        assert "tune" not in search_space(TextClassifier(tune="mine68(k=1, wide=True)"), 100), "what was given stays"
        assert search_space(TextClassifier(tune="mine68(k=1)"), 100)["tune"] == ("mine68(k=1, wide=True)", "mine68(k=1, wide=False)")
    finally: del METHODS.classes["mine68"]
