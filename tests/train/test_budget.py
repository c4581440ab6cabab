"""The budget of a training: what lesson 53 (budget) cannot check on itself, and what the estimators make of it."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.report import pool
from finetune_book.train.budget import Budget, Need, free_mb, numbers, table
from finetune_book.checks import InputError
from finetune_book import finetuner
from finetune_book.train.forecast import SPARE
from finetune_book.adapt.freeze import weights_hash
from finetune_book.train.trainer import Callback
from finetune_book.vision.augment import Augment
from examples import LABELS, TEXTS, pictures

LONG, BOTH = [f"{text} " * 12 for text in TEXTS * 3], LABELS * 3            # 36 texts of up to 62 tokens
X, Y = pictures(36, 16)


def everything(clf): return weights_hash({k: v for k, v in clf.model_.state_dict().items() if v.is_floating_point()})
def flat(clf): return torch.cat([p.detach().flatten() for p in clf.model_.parameters()])
def apart(a, b): return ((flat(a) - flat(b)).norm() / flat(b).norm()).item()
def same(a, b, X=LONG):
    "Same function, and same weights up to what Adam makes of gradients that are zero but for rounding, such as a key's bias."
    return np.abs(a.outputs(X) - b.outputs(X)).max() < 1e-4 and apart(a, b) < 1e-3

def half(clf): return SPARE * clf.budget_.needed_mb * .6                    # too little for a whole batch


@pytest.fixture(scope="module")
def texts(tiny_base): return dict(base=tiny_base, epochs=2, lr=1e-3, batch_size=18, max_length=64, verbose=0)

@pytest.fixture(scope="module")
def plain(texts, tmp_path_factory):
    "Settings for a base without dropout, so that pieces are the same update."
    from tiny import save_tiny_base
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "no-dropout")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)))
    return dict(texts, base=str(folder))

@pytest.fixture(scope="module")
def photos(tiny_picture_base): return dict(base=tiny_picture_base, epochs=2, lr=.01, batch_size=18, size=16, verbose=0)

@pytest.fixture(scope="module")
def whole(texts): return TextClassifier(**texts).fit(LONG, BOTH)


# --- nobody notices ------------------------------------------------------------------------------------------------

def blind(self, trainer, before, left):
    "In place of a forecast: nothing is tried."
    return Budget(0, 10**6, 1, self.job.rows.rows_at_once, left, 0., 0., 0., 0., 0., 0., "machine", 0., 0., 0.)


@pytest.mark.parametrize("kind, changes", [("texts", {}), ("texts", {"tune": "gradual"}), ("texts", {"tune": "head"}),
                                           ("photos", {"augment": "crop+flip+mixup"}), ("photos", {"tune": "head"}), ("photos", {"precision": "bfloat16"})])
def test_the_tries_change_no_bit(kind, changes, request, monkeypatch):
    given = request.getfixturevalue(kind) | changes
    maker, data = (TextClassifier, (LONG, BOTH)) if kind == "texts" else (ImageClassifier, (X, Y))
    state = torch.get_rng_state()
    with_budget = maker(**given).fit(*data, validation=(data[0][:6], data[1][:6]))
    assert torch.equal(state, torch.get_rng_state())
    for way in (finetuner.ThroughAll, finetuner.ThroughTable): monkeypatch.setattr(way, "forecast", blind)
    without = maker(**given).fit(*data, validation=(data[0][:6], data[1][:6]))
    assert everything(with_budget) == everything(without) and with_budget.history_ == without.history_


def test_one_line_before_the_work_and_none_when_silent(texts, capsys):
    TextClassifier(**texts | dict(verbose=1, epochs=1)).fit(TEXTS, LABELS)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
    assert len(said) == 1 and " free" in said[0]
    TextClassifier(**texts | dict(epochs=1)).fit(TEXTS, LABELS)
    assert capsys.readouterr() == ("", "")


def test_memory_is_no_part_of_the_result(texts, whole, tmp_path):
    roomy = TextClassifier(**texts, memory_mb=10_000).fit(LONG, BOTH)
    assert everything(roomy) == everything(whole) and roomy.budget_.limit == "memory_mb" and roomy.budget_.available_mb == 10_000
    assert clone(roomy).get_params()["memory_mb"] == 10_000
    roomy.save(tmp_path / "m")
    assert "memory_mb" not in (tmp_path / "m" / "finetune_book.json").read_text()
    assert TextClassifier.load(tmp_path / "m").predict(LONG[:3]).tolist() == roomy.predict(LONG[:3]).tolist()


# --- what does not fit ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, {"class_weight": [1., 5.]}, {"tune": "top-1"}])
def test_pieces_are_the_same_update(plain, changes):
    one = TextClassifier(**plain, **changes).fit(LONG, BOTH)
    cut = TextClassifier(**plain, **changes, memory_mb=half(one)).fit(LONG, BOTH)
    assert one.budget_.accumulate == 1 and cut.budget_.accumulate >= 2 and cut.budget_.micro_batch < 18
    assert cut.budget_.needed_mb * SPARE <= half(one) and str(cut.budget_).endswith("the same update")
    assert same(cut, one) and np.allclose([h["train_loss"] for h in cut.history_], [h["train_loss"] for h in one.history_], atol=1e-5)


def test_pieces_of_a_regressor(plain):
    y = np.arange(36.)
    one = TextRegressor(**plain).fit(LONG, y)
    cut = TextRegressor(**plain, memory_mb=half(one)).fit(LONG, y)
    assert cut.budget_.accumulate >= 2 and np.abs(cut.predict(LONG) - one.predict(LONG)).max() < 1e-3


def test_pieces_with_dropout_are_said_to_differ(texts, whole):
    cut = TextClassifier(**texts, memory_mb=half(whole)).fit(LONG, BOTH)
    assert "but for other draws of dropout" in str(cut.budget_) and not same(cut, whole)


def test_a_batch_that_batchnorm_learns_from_is_never_cut(photos):
    one = ImageClassifier(**photos).fit(X, Y)
    with pytest.raises(InputError, match=r"BatchNorm sees it whole.*batch_size=\d, freeze_norm=True, a smaller size") as caught:
        ImageClassifier(**photos, memory_mb=half(one)).fit(X, Y)
    assert "\n" not in str(caught.value)
    advised = int(str(caught.value).split("batch_size=")[1].split(",")[0])
    ImageClassifier(**photos | dict(batch_size=advised), memory_mb=half(one)).fit(X, Y)


def test_a_frozen_batchnorm_may_be_cut(photos):
    kept = photos | dict(freeze_norm=True, augment=Augment(crop=1, mixup=.2))
    one = ImageClassifier(**kept).fit(X, Y)
    cut = ImageClassifier(**kept, memory_mb=half(one)).fit(X, Y)
    assert cut.budget_.accumulate >= 2 and str(cut.budget_).endswith("the same update") and same(cut, one, X)


def test_not_even_one_row(texts, photos, whole):
    fixed = 4 * whole.budget_.gradients_mb * SPARE
    for memory, says in ((fixed * .9, "without a single row"), (fixed * 1.01, "even one row at a time")):
        with pytest.raises(InputError, match=f"{says}.*a smaller max_length, a smaller base or tune='head'") as caught:
            TextClassifier(**texts, memory_mb=memory).fit(LONG, BOTH)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="a smaller size or a smaller base$"):
        ImageClassifier(**photos, tune="head", memory_mb=1e-3).fit(X, Y)


def test_reading_is_cut_too(texts):
    roomy = TextClassifier(**texts, tune="head").fit(LONG, BOTH)
    tight = TextClassifier(**texts, tune="head", memory_mb=half(roomy)).fit(LONG, BOTH)
    assert roomy.budget_.eval_rows == 64 and tight.budget_.eval_rows < 64
    assert np.abs(tight.predict_proba(LONG) - roomy.predict_proba(LONG)).max() < 1e-4


@pytest.mark.parametrize("value", [0, -5, "2 GB", True, float("nan")])
def test_bad_memory(texts, value):
    with pytest.raises(InputError, match="memory_mb="): TextClassifier(**texts | dict(memory_mb=value)).fit(TEXTS, LABELS)


# --- killed and resumed --------------------------------------------------------------------------------------------

class Pulled(Callback):
    "Pulls the plug after so many batches."
    def on_batch_end(self, trainer):
        if trainer.epoch == 1 and trainer.batch == 1: raise KeyboardInterrupt


@pytest.mark.parametrize("changes", [{}, {"tune": "head"}])
def test_a_resumed_run_keeps_its_cut_whatever_is_free(texts, changes, tmp_path):
    given = texts | changes | dict(checkpoint_every=1)
    roomy = TextClassifier(**given).fit(LONG, BOTH)
    uncut = TextClassifier(**given, memory_mb=half(roomy)).fit(LONG, BOTH)
    with pytest.raises(KeyboardInterrupt): TextClassifier(**given, memory_mb=half(roomy), checkpoint_dir=tmp_path, callbacks=[Pulled()]).fit(LONG, BOTH)
    resumed = TextClassifier(**given, checkpoint_dir=tmp_path).fit(LONG, BOTH)          # as much memory as there is
    cut = lambda clf: (clf.budget_.micro_batch, clf.budget_.eval_rows)
    assert cut(resumed) == cut(uncut) != cut(roomy) and resumed.budget_.epochs < 2
    assert everything(resumed) == everything(uncut) and (changes or everything(resumed) != everything(roomy))


def test_a_run_begun_whole_is_not_quietly_cut(texts, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): TextClassifier(**texts, checkpoint_dir=tmp_path, callbacks=[Pulled()]).fit(LONG, BOTH)
    with pytest.raises(InputError, match="to go on with this checkpoint, begun with 18 rows at once"):
        TextClassifier(**texts, checkpoint_dir=tmp_path, memory_mb=half(whole)).fit(LONG, BOTH)
    assert everything(TextClassifier(**texts, checkpoint_dir=tmp_path).fit(LONG, BOTH)) == everything(whole)


# --- predicted against measured ------------------------------------------------------------------------------------

FRESH = """
import json, sys
from finetune_book import TextClassifier
from finetune_book.train.budget import numbers
from tiny import WORDS, save_tiny_base
from pathlib import Path
base = save_tiny_base(Path(sys.argv[1]) / "wide", width=192, positions=128)
texts = [" ".join(WORDS[(i * j) % 24] for j in range(1, 120)) for i in range(1, 65)]
clf = TextClassifier(base=str(base), epochs=1, batch_size=32, verbose=0, shortcuts=sys.argv[2], precision=sys.argv[3]).fit(texts, [0, 1] * 32)
print(json.dumps(numbers(clf.budget_)))
"""


@pytest.mark.parametrize("shortcuts, precision, least", [("none", "float32", 100), ("all", "float32", 80)])
def test_the_peak_comes_as_predicted(tmp_path, shortcuts, precision, least):
    done = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path), shortcuts, precision], capture_output=True, text=True, cwd=Path(__file__).parents[1] / "helpers")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    took = got["measured_peak_mb"] - got["held_mb"]
    print(f"predicted {got['predicted_peak_mb']:.0f} MB, of it {got['needed_mb']:.0f} for training; measured {got['measured_peak_mb']:.0f} and {took:.0f}")
    assert got["needed_mb"] > (50 if torch.cuda.is_available() else least) and abs(got["predicted_peak_mb"] / got["measured_peak_mb"] - 1) < .1
    assert .5 < got["needed_mb"] / took < 1.5, "the tensors explain most of what was added; kernels' scratch and the allocator do the rest"


def test_predicted_and_measured_stand_in_one_place(texts):
    clf = TextClassifier(**texts | dict(epochs=6, patience=1, lr=.05)).fit(LONG, BOTH, validation=(LONG[:6], BOTH[:6]))
    b = clf.budget_
    assert b.measured_epochs == len(clf.history_) and min(b.measured_s, b.measured_step_s, b.measured_peak_mb, b.predicted_s, b.predicted_step_s) > 0
    shown = table(b)
    assert shown.columns.tolist() == ["predicted", "measured", "machine"] and "memory at its peak (MB)" in shown.index
    assert (f"in {len(clf.history_)} of 6 epochs" in shown.loc["training (s)", "measured"]) == (len(clf.history_) < 6)
    assert json.loads(json.dumps(numbers(b)))["accumulate"] == 1
    assert b.copies_mb > 0, "with validation the best weights are kept beside the others"


def test_a_need_whose_traces_differ_in_length_uses_their_maxima():
    need = Need(np.array([[10, 0], [4, 5]]), np.array([[12, 0], [15, 0], [6, 5]]))
    assert need.stays == 5 and need.peak(4) == 20 + 5 and need.peak(4, started=True) == 25


def test_light_to_import_and_the_only_one():
    code = "import sys, finetune_book.train.budget, finetune_book.report.sweep, finetune_book.report.pool; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert pool.free_mb is free_mb
