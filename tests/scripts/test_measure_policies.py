"The measurement of RandAugment and AugMix: a run goes on where it was stopped, the policies change pictures, what it stored is whole."
import numpy as np
import pytest
import torch

from fake_pictures import PARTS, model_noting
from finetune_book.data.tables import carried


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_policies")


def test_each_training_is_one_row_and_is_not_made_twice(script, tmp_path, monkeypatch, capsys):
    asked, out = [], tmp_path / "rows.csv"
    monkeypatch.setattr(script, "ImageClassifier", model_noting(asked))
    monkeypatch.setattr(script, "picture_sets", lambda cifar: {"cifar10": PARTS})
    for seeds in (["0"], ["0", "1"]):
        script.main(["--out", str(out), "--only", "cifar10", "--seeds", *seeds])
    rows = script.Stored(out, script.COLUMNS, script.KEY).rows()
    assert len(asked) == len(rows) == 2 * len(script.POLICIES) and (rows.accuracy == .75).all()
    assert [type(s["augment"]).__name__ for s in asked[:3]] == ["Augment", "WithPolicy", "WithPolicy"] and "no clear difference" in capsys.readouterr().out


def test_a_policy_changes_each_picture_by_itself_and_stays_in_range(script):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 32, 32, generator=g).expand(8, 3, 32, 32)
    for way in list(script.POLICIES)[1:]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out, labels = script.augment(way, 0)(x, torch.arange(8), 8, g)
        assert len({p.numpy().tobytes() for p in out}) > 2 and 0 <= out.min() and out.max() <= 1 and out.dtype == x.dtype and labels.equal(torch.arange(8))


def test_what_is_stored_is_whole(script):
    stored = script.Stored(carried("base_models") / "policies.csv", script.COLUMNS, script.KEY).rows()
    assert (stored.right.str.len() == stored.n_test).all() and not stored.duplicated(["set", "way", "seed"]).any()
    assert np.allclose(stored.right.map(lambda r: r.count("1") / len(r)), stored.accuracy, atol=1e-5)
    assert set(stored["set"]) == set(script.SETS) and len(stored) == len(script.SETS) * len(script.POLICIES) * len(script.SEEDS)
