"""TextClassifier and TextRegressor: contracts that lesson 54 (text_classifier) cannot check on itself."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from finetune_book import TextClassifier, TextRegressor
from finetune_book.checks import InputError
from finetune_book.finetuner import pick_device
from finetune_book.adapt.freeze import weights_hash
from examples import LABELS, TEXTS

@pytest.fixture
def small(tiny_base):
    "Settings that train in well under a second."
    return dict(base=tiny_base, epochs=3, lr=5e-3, batch_size=4, max_length=16, verbose=0)


@pytest.mark.parametrize("tune", ["head", "full", "top-1", "gradual"])
def test_every_way_of_tuning_learns_the_training_texts(small, tune):
    clf = TextClassifier(**{**small, "epochs": 25, "lr": .3 if tune == "head" else 5e-3, "tune": tune}).fit(TEXTS, LABELS)
    assert clf.score(TEXTS, LABELS) >= .75
    assert clf.predict_proba(TEXTS).shape == (12, 2)
    assert np.allclose(clf.predict_proba(TEXTS).sum(1), 1)


def test_same_seed_same_weights_and_global_rng_untouched(small):
    import torch
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first, second = (TextClassifier(**small).fit(TEXTS, LABELS) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights_hash(first.model_.parameters()) == weights_hash(second.model_.parameters())
    other = TextClassifier(**{**small, "seed": 1}).fit(TEXTS, LABELS)
    assert weights_hash(first.model_.parameters()) != weights_hash(other.model_.parameters())


def test_predictions_do_not_depend_on_order_or_batch_mates(small):
    clf = TextClassifier(**small).fit(TEXTS, LABELS)
    together = clf.predict_proba(TEXTS)
    alone = np.vstack([clf.predict_proba([t]) for t in TEXTS])
    backwards = clf.predict_proba(TEXTS[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-6
    assert np.abs(together - backwards).max() < 1e-6


@pytest.mark.parametrize("labels", [[0, 1] * 6, [True, False] * 6, [-1, 7] * 6, np.array(["b", "a"] * 6)])
def test_label_types_survive_saving(small, tmp_path, labels):
    clf = TextClassifier(**small).fit(TEXTS, labels)
    clf.save(tmp_path / "m")
    back = TextClassifier.load(tmp_path / "m")
    assert back.classes_.tolist() == np.unique(labels).tolist()
    assert back.predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()


def test_saved_model_opens_with_transformers_and_predicts_the_same(small, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    clf = TextClassifier(**small, precision="float32").fit(TEXTS, LABELS)
    clf.save(tmp_path / "m")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "m")(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch).logits.softmax(1).numpy()
    assert np.abs(theirs - clf.predict_proba(TEXTS)).max() < 1e-5
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert not list((tmp_path / "m").glob("*.bin"))
    assert "yes" in (tmp_path / "m" / "README.md").read_text()


def test_regressor_speaks_in_the_targets_units_after_saving(small, tmp_path):
    y = np.array([100.] * 6 + [900.] * 6)
    reg = TextRegressor(**{**small, "epochs": 60, "lr": 2e-3, "patience": 60}).fit(TEXTS, y, validation=(TEXTS, y))
    assert reg.score(TEXTS, y) > .5
    assert 50 < reg.predict(TEXTS).mean() < 950
    reg.save(tmp_path / "m")
    assert np.abs(TextRegressor.load(tmp_path / "m").predict(TEXTS) - reg.predict(TEXTS)).max() < 1e-2
    with pytest.raises(InputError, match="saved by TextRegressor"):
        TextClassifier.load(tmp_path / "m")


def test_validation_keeps_the_best_epoch(small):
    clf = TextClassifier(**{**small, "epochs": 30, "patience": 2, "lr": .05}).fit(TEXTS, LABELS, validation=(TEXTS[::2], LABELS[::2]))
    losses = [h["val_loss"] for h in clf.history_]
    assert clf.best_epoch_ == int(np.argmin(losses))
    kept = -np.log(clf.predict_proba(TEXTS[::2])[np.arange(6), np.searchsorted(clf.classes_, LABELS[::2])]).mean()
    assert abs(kept - min(losses)) < 1e-5


BAD_SETTINGS = [("epochs", 0), ("epochs", -1), ("epochs", 1.5), ("epochs", True), ("lr", 0), ("lr", -1e-5), ("lr", float("nan")), ("lr", "1e-5"),
                ("batch_size", 0), ("batch_size", -8), ("max_length", 10_000), ("tune", "ful"), ("schedule", "cosinus"), ("seed", -1),
                ("patience", 0), ("label_smoothing", 1.), ("class_weight", "even"), ("class_weight", [1.]), ("clip_norm", -1), ("device", "abacus")]


@pytest.mark.parametrize("name, value", BAD_SETTINGS)
def test_bad_settings_are_refused_in_one_line(small, name, value):
    with pytest.raises(InputError) as caught:
        TextClassifier(**{**small, name: value}).fit(TEXTS, LABELS)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or str(value) in str(caught.value)


def test_a_full_gpu_is_not_called_a_missing_one(small, monkeypatch):
    def full(*a, **k): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nGPU 0 has a total capacity of 8 GiB")
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(InputError, match="^device='cuda': .*CUDA out of memory.*'cpu'$"): pick_device("cuda")


BAD_TEXTS = [("one string", ["a"], "one string"), ([], [], "no texts"), (["a", None], ["x", "y"], "text 1 is None"),
             (["a", float("nan")], ["x", "y"], "text 1 is nan"), (["a", " "], ["x", "y"], "text 1 is empty"),
             (np.array([["a"], ["b"]]), ["x", "y"], "shape"), (["a", "b"], ["x"], "2 examples and 1 targets"), (["a", "b"], ["x", "x"], "only one class")]


@pytest.mark.parametrize("texts, labels, says", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line(small, texts, labels, says):
    with pytest.raises(InputError, match=says) as caught:
        TextClassifier(**small).fit(texts, labels)
    assert "\n" not in str(caught.value)


def test_unseen_validation_label_is_refused(small):
    with pytest.raises(InputError, match="'maybe' was never seen"):
        TextClassifier(**small).fit(TEXTS, LABELS, validation=(["good"], ["maybe"]))


def test_regressor_refuses_what_is_no_number(small):
    for y in (LABELS, [1.] * 11 + [float("inf")], [2.] * 12):
        with pytest.raises(InputError):
            TextRegressor(**small).fit(TEXTS, y)


def test_hostile_texts_are_read(small):
    odd = ["x" * 100_000, "👩‍⚕️ 🤒🤒", "شفاء عاجل", "a\x00b\u202e", "<script>alert(1)</script>", "胸痛"]
    with pytest.warns(UserWarning):
        clf = TextClassifier(**small).fit(TEXTS + odd, LABELS + ["yes", "no"] * 3)
    assert np.isfinite(clf.predict_proba(odd)).all()


def test_a_base_that_cannot_read_the_language_warns(small):
    with pytest.warns(UserWarning, match="unknown to this base"):
        clf = TextClassifier(**small).fit(["酒店很干净", "房间很吵"] * 3, ["good", "bad"] * 3)
    assert clf.token_report_["unknown_frac"] > .2


def test_saving_is_all_or_nothing(small, tmp_path, monkeypatch):
    clf = TextClassifier(**small).fit(TEXTS, LABELS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="no saved model"):
        clf.save(tmp_path / "notes")
    clf.save(tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    monkeypatch.setattr(type(clf.tokenizer_), "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        TextClassifier(**{**small, "seed": 5}).fit(TEXTS, LABELS).save(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "notes"]


def test_read_only_folder_is_one_line(small, tmp_path):
    if os.geteuid() == 0:
        target = "/proc/nowhere/model"
    else:
        (tmp_path / "ro").mkdir(mode=0o500)
        target = tmp_path / "ro" / "model"
    clf = TextClassifier(**small).fit(TEXTS, LABELS)
    with pytest.raises(InputError, match="cannot be written"):
        clf.save(target)


RUN = """
import json, os, sys
import torch._dynamo, transformers.models.auto.modeling_auto, transformers.models.bert.modeling_bert  # once here instead of once in each child
import test_classifier
ends = [test_classifier.fit_in_a_child(*run) for run in json.loads(sys.argv[1])]
print(json.dumps(ends))
"""


def fit_in_a_child(settings, out, left):
    """Fit in a forked process that writes its end to `out`; kill -9 it once `left` more checkpoints were seen (None: never).

    Returns the signal that ended it, 0 for none. This process does no torch arithmetic, so that a fork is safe.
    """
    pid, folder = os.fork(), settings["checkpoint_dir"]
    if pid == 0:
        code = 1
        try:
            clf = TextClassifier(**settings).fit(TEXTS * 8, LABELS * 8, validation=(TEXTS, LABELS))
            Path(out).write_text(json.dumps([weights_hash(clf.model_.parameters()), clf.history_]))
            code = 0
        except BaseException: traceback.print_exc()
        finally: os._exit(code)
    seen = newest_checkpoint(folder) if folder else 0
    while left:
        time.sleep(.002)
        now = newest_checkpoint(folder)
        if now != seen: seen, left = now, left - 1
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT): break
    if left == 0: os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def newest_checkpoint(folder):
    "When a checkpoint was last written to, in ns; 0 before the first. Files come and go meanwhile: one that is gone does not count."
    times = [0]
    for entry in Path(folder).glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(entry.stat().st_mtime_ns)
    return max(times)


def test_a_fit_killed_three_times_ends_with_the_same_weights(small, tmp_path):
    "Each fit in a process of its own, killed from outside at a random moment; one more goes on to the end, and one was never disturbed."
    settings = {**small, "epochs": 6, "batch_size": 2, "checkpoint_every": 7, "checkpoint_dir": None}
    kept, whole, resumed = {**settings, "checkpoint_dir": str(tmp_path / "state")}, tmp_path / "whole", tmp_path / "resumed"
    lefts = np.random.default_rng(0).integers(1, 6, 3).tolist()
    runs = [(settings, str(whole), None), *((kept, str(resumed), left) for left in [*lefts, None])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(runs)], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [0, *[signal.SIGKILL] * 3, 0], done.stderr[-2000:]
    assert whole.read_text() == resumed.read_text()


def test_a_checkpoint_of_another_run_is_refused(small, tmp_path):
    state = str(tmp_path / "state")
    TextClassifier(**small, checkpoint_dir=state).fit(TEXTS, LABELS)
    with pytest.raises(InputError):
        TextClassifier(**{**small, "lr": 1e-3}, checkpoint_dir=state).fit(TEXTS, LABELS)


def test_pandas_and_numpy_texts(small):
    frame = pd.DataFrame(dict(text=TEXTS, label=LABELS), index=range(100, 112))
    a = TextClassifier(**small).fit(frame.text, frame.label)
    b = TextClassifier(**small).fit(np.array(TEXTS), np.array(LABELS))
    c = TextClassifier(**small).fit(np.array(TEXTS, dtype=object), LABELS)
    assert a.predict_proba(frame.text).tolist() == b.predict_proba(TEXTS).tolist() == c.predict_proba(TEXTS).tolist()
