"""Models saved by earlier versions open and answer as they did. A folder in fixtures/models is named by the commit that saved it."""
import json
from pathlib import Path

import numpy as np
import pytest

import finetune_book
from examples import TEXTS

FOLDERS = sorted((Path(__file__).parent / "fixtures/models").iterdir())
PICTURES = np.random.default_rng(0).integers(0, 120, (12, 8, 8, 3)).astype(np.uint8)
PICTURES[1::2] += 120


def test_there_is_something_to_open(): assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["text", "number", "picture"])
def test_a_model_of_an_earlier_version_answers_as_it_did(folder, name):
    kind = json.loads((folder / name / "finetune_book.json").read_text(encoding="utf-8"))["estimator"]
    est = getattr(finetune_book, kind).load(folder / name, device="cpu")
    examples = PICTURES if name == "picture" else TEXTS
    now = est.predict_proba(examples) if hasattr(est, "predict_proba") else est.predict(examples)
    before = json.loads((folder / "said.json").read_text(encoding="utf-8"))[name]
    assert np.abs(now - np.array(before)).max() < 2e-6 * max(1., np.abs(now).max())
    assert est.n_trainable_ > 0 and est.history_ and est.get_params()["base"] == "a-base-that-is-gone"
