"""Data sets by name: from a hub on loopback, from its cache, from a folder that was saved; and all the ways it can fail."""
import os
import subprocess
import sys
import time
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from fake_hub import fake_hub
from finetune_book.checks import InputError
from finetune_book.data import hub_data, sheets
from finetune_book.data.picture_tables import read_picture_splits
from finetune_book.data.tables import find_source, read_splits, read_table

CARD = """---
dataset_info:
- config_name: default
  features: &features
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
- config_name: de
  features: *features
configs:
- config_name: default
  default: true
  data_files:
  - split: train
    path: en/train-*
  - split: test
    path: en/test-*
- config_name: de
  data_files:
  - split: train
    path: de/train-*
---
"""
LOOK = """
import sys, time
begun = time.perf_counter()
from finetune_book.checks import InputError
from finetune_book.data.tables import read_splits
for source in sys.argv[1:]:
    try: print({k: (len(v), sorted(set(v.label))) for k, v in read_splits(source).items()})
    except InputError as e: print("refused:", e)
print("datasets" in sys.modules)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    "A hub with one data set; gives a function that reads names in a process of its own, and what the hub was asked for."
    root = tmp_path_factory.mktemp("hub")
    for language, parts in dict(en=dict(train=20, test=4), de=dict(train=6)).items():
        (root / "ann/notes" / language).mkdir(parents=True)
        for part, n in parts.items():
            frame = pd.DataFrame({"text": [f"{language} {part} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]})
            frame.to_parquet(root / "ann/notes" / language / f"{part}-00000-of-00001.parquet")
    (root / "ann/notes/README.md").write_text(CARD)
    (root / "ann/script").mkdir()
    (root / "ann/script/script.py").write_text("raise SystemExit('remote code ran')")
    home = tmp_path_factory.mktemp("home")
    quiet = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and "OFFLINE" not in k}
    with fake_hub(root) as (address, asked):
        def look(*names, **more):
            env = quiet | dict(HF_ENDPOINT=address, HF_HOME=str(home), HF_HUB_DISABLE_TELEMETRY="1") | more
            done = subprocess.run([sys.executable, "-c", LOOK, *names], capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()
        yield look, asked


def test_a_data_set_by_its_name(hub):
    look, asked = hub
    got = look("hf:ann/notes", "hf:ann/notes:de", "hf:ann/notes::test", "hf:ann/notes:fr", "hf:ann/notes::dev", "hf:ann/nothing", "hf:ann/script")
    assert got[0] == "{'train': (20, ['neg', 'pos']), 'test': (4, ['neg', 'pos'])}"
    assert got[1] == "{'all': (6, ['neg', 'pos'])}" and got[2] == "{'all': (4, ['neg', 'pos'])}"
    assert "refused: hf:ann/notes:fr:" in got[3] and "Available: ['default', 'de']" in got[3]
    assert "dev" in got[4] and "['train', 'test']" in got[4] and got[5].startswith("refused: hf:ann/nothing:")
    assert got[6].startswith("refused: hf:ann/script:") and "script" in got[6]
    del asked[:]
    for off in (dict(HF_HUB_OFFLINE="1"), dict(HF_ENDPOINT="http://127.0.0.1:9")):
        assert look("hf:ann/notes", **off)[0] == got[0] and not asked       # from the cache, and nobody is asked


def test_offline_and_not_in_the_cache_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    begun = time.perf_counter()
    with pytest.raises(InputError, match=r"hf:ann/letters: not in the cache .*HF_HUB_OFFLINE is set.*save_to_disk"): find_source("hf:ann/letters")
    assert time.perf_counter() - begun < 1
    code = "import sys; from finetune_book.cli import main; c = main(['predict', '-m', sys.argv[1], '--data', 'hf:ann/letters']); print(c, 'datasets' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "2 False False" and len(done.stderr.splitlines()) == 1 and "not in the cache" in done.stderr, done.stderr


def test_without_the_package_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(sheets, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'finetune-book\[hub\]'"): find_source("hf:ann/letters")


@pytest.mark.parametrize("name", ["hf:", "hf:/x", "hf:a/b/c", "hf:a/b:c:d:e", "hf:../x/y", "hf:a b"])
def test_names_that_are_none(name):
    with pytest.raises(InputError, match="not the name of a data set; write hf:owner/name"): find_source(name)


def test_a_saved_data_set_is_a_path_like_any_other(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    some = Dataset.from_dict({"text": ["fine", "bad"], "label": [1, 0]}, features=features)
    hidden = Dataset.from_dict({"text": ["so so"], "label": [-1]}, features=features)
    with hub_data.told_offline(True):
        some.save_to_disk(tmp_path / "one")
        DatasetDict(train=some, test=some).save_to_disk(tmp_path / "two")
        hidden.save_to_disk(tmp_path / "hidden")
        DatasetDict(a=some, b=some).save_to_disk(tmp_path / "odd")
    assert read_table(tmp_path / "one").label.tolist() == ["pos", "neg"]
    assert {k: v.label.tolist() for k, v in read_splits(tmp_path / "two").items()} == dict(train=["pos", "neg"], test=["pos", "neg"])
    with pytest.raises(InputError, match="no label .* row 1"): read_table(tmp_path / "hidden")
    with pytest.raises(InputError, match="its splits are a, b; name the one to read"): read_table(tmp_path / "odd")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"no arrow"); os.utime(tmp_path / "one/state.json", (1, 1))
    with pytest.raises(InputError, match="not a readable data set"): read_table(tmp_path / "one")


def test_pictures_of_a_data_set_become_files(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image
    rng, raw = np.random.default_rng(0), []
    for _ in range(4):
        file = BytesIO(); Picture.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG"); raw.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    with hub_data.told_offline(True): Dataset.from_dict({"image": raw, "label": [0, 1, 0, 1]}, features=features).save_to_disk(tmp_path / "pets")
    table = read_picture_splits(tmp_path / "pets")["all"]
    assert table.label.tolist() == ["cat", "dog", "cat", "dog"] and table.path[1].endswith("pictures/data/000001.png")
    assert open(table.path[1], "rb").read() == raw[1]["bytes"]
