"""The measurement of the lessons' steps: one line a step, a run goes on where it was stopped, and what it stored is whole."""
import numpy as np
import pytest

from finetune_book import ImageClassifier
from finetune_book.train.callbacks import EarlyStopping


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("measure_pipeline_steps")


@pytest.fixture(scope="module")
def stored(script): return script.known(script.PLACE)


@pytest.mark.parametrize("name", ["clinic_notes", "surface_defects"])
def test_each_step_is_one_change_away_from_another(script, name):
    steps = script.STEPS[name]
    lines = {step: set(settings.items()) for step, settings in steps.items()}
    one = {("schedule", "linear"), ("warmup_frac", .1)}                          # the schedule and its warm-up are one line
    def away(a, b): return len({k for k, _ in lines[a] ^ lines[b]} - ({"warmup_frac"} if one <= lines[a] ^ lines[b] else set()))
    looked = [f"{epochs} epochs" for (s, _), looks in script.LOOKS.items() if s == name for epochs in looks]
    lines |= {step: set(script.settings_of(name, step).items()) for step in looked}
    for step in list(lines)[1:]: assert min(away(step, other) for other in lines if other != step) == 1, step


def test_stopped_is_what_early_stopping_does(script):
    rng = np.random.default_rng(0)
    for _ in range(50):
        losses, watch = rng.random(8), EarlyStopping(patience=2)
        trainer = type("T", (), dict(history_=[], stop=False))()
        watch.on_fit_start(trainer)
        while len(trainer.history_) < len(losses) and not trainer.stop:
            trainer.history_.append(dict(epoch=len(trainer.history_), val_loss=losses[len(trainer.history_)]))
            watch.on_epoch_end(trainer)
        done = len(trainer.history_)
        assert script.stopped(losses, 2) == (done, int(np.argmin(losses[:done])) + 1)


def test_at_a_constant_rate_a_training_passes_through_the_shorter_ones(script):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8), np.arange(40) % 2
    snapshots, lines = script.Snapshots(), dict(script.FAST, base="scratch", batch_size=16, verbose=0)
    lines.pop("norm")
    ImageClassifier(**lines | dict(epochs=2), callbacks=[snapshots]).fit(x, y)
    short = ImageClassifier(**lines | dict(epochs=1)).fit(x, y).model_.state_dict()
    assert all((snapshots.weights[0][name] == t).all() for name, t in short.items())


def test_a_step_is_measured_once_and_the_line_is_whole(script, tmp_path, monkeypatch):
    x, y = np.arange(6), np.array(list("ababab"))
    class Model:
        history_, best_epoch_, classes_ = [1, 2], 1, np.array(["a", "b"])
        def predict_proba(self, x): return np.tile([.75, .25], (len(x), 1))
    calls = []
    monkeypatch.setattr(script, "fitted", lambda *a: calls.append(a) or Model())
    for _ in range(2): script.measure_step(tmp_path / "t.csv", "surface_defects", dict(validation=(x, y)), "linear", 3, "validation")
    row = script.known(tmp_path / "t.csv").iloc[0]
    assert len(calls) == 1 and (row.n, row.accuracy, row.epochs_done, row.epoch_kept, row.right) == (6, .5, 2, 2, "101010")
    assert abs(row.loss - (np.log(4 / 3) + np.log(4)) / 2) < 1e-5 and "augment=crop+flip" in row.settings


def test_the_parts_share_no_row(script):
    rows = script.notes()
    assert {part: len(x) for part, (x, _) in rows.items()} == dict(train=128, validation=200, watch=100, test=600)
    groups = [set(x) for x, _ in rows.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_what_is_stored_is_whole(script, stored):
    assert (stored.right.str.len() == stored.n).all() and stored.right.str.fullmatch("[01]+").all()
    share = stored.right.map(lambda r: r.count("1") / len(r))
    assert np.allclose(share, stored.accuracy, atol=1e-5) and not stored.duplicated(["set", "step", "seed", "part"]).any()
    for (name, step), some in stored[stored.part == "validation"].groupby(["set", "step"]):
        assert set(some.settings) <= {script.told(script.settings_of(name, step)), ""}, (name, step)
    for name, steps in script.STEPS.items():
        assert set(steps) <= set(stored[stored["set"] == name].step), name
    trained = stored[(stored.settings != "") & (stored.part == "validation") & (stored.step != script.UNSET)]
    assert (trained.groupby(["set", "step"]).seed.nunique() >= 3).all()


def test_what_was_scored_on_test_rows_was_chosen_on_validation_rows(script, stored):
    for name in script.STEPS:
        scored = stored[(stored["set"] == name) & (stored.part == "test") & (stored.settings != "")]
        assert set(scored.step) == set(script.tested(script.PLACE, name)), name
