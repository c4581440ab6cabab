"""Carried weights: int8 rows, and the cache that holds what they were unpacked to."""
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_book.checks import InputError
from finetune_book.data import packed
from finetune_book.data.packed import (PACKED, SUMS, WEIGHTS, dequantise_rows, holds_its_sums, pack_state, quantise_rows,
                                       unpack_state, unpacked)
from finetune_book.data.tables import carried
from finetune_book.text.bases import load_text_base


# --- int8 rows and the cache that holds what they were packed from ---------------------------------------------------

def test_rows_of_any_size_come_back_within_half_a_step():
    gen = torch.Generator().manual_seed(0)
    w = torch.randn(50, 30, generator=gen) * torch.logspace(-6, 6, 50)[:, None]
    w[7] = 0
    q, scale = quantise_rows(w)
    assert q.dtype == torch.int8 and scale.dtype == torch.float32 and q.abs().max() == 127 and q.shape == w.shape and scale.shape == (50,)
    assert ((dequantise_rows(q, scale) - w).abs() <= scale[:, None] * .5001).all() and (dequantise_rows(q, scale)[7] == 0).all()
    again = quantise_rows(dequantise_rows(q, scale))
    assert torch.equal(again[0], q)                                              # packed twice is packed once
    assert torch.equal(quantise_rows(-w)[0], -q)


@pytest.mark.parametrize("w", [torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[1., float("inf")]]), torch.tensor([[float("nan")]])])
def test_what_no_scale_holds_is_refused(w):
    with pytest.raises(InputError): quantise_rows(w)


def test_packing_keeps_vectors_exactly_and_names():
    state = {"a.weight": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "a.bias": torch.tensor([1 / 3, 1e-9]), "n": torch.ones(2).half()}
    back = unpack_state(pack_state(state))
    assert list(back) == list(state) and torch.equal(back["a.bias"], state["a.bias"]) and all(t.dtype == torch.float32 for t in back.values())
    assert not torch.equal(back["a.weight"], state["a.weight"]) and torch.allclose(back["a.weight"], state["a.weight"], atol=.02)


@pytest.fixture
def library(tiny_base, tmp_path, monkeypatch):
    "A toy library that carries one packed base, toy-bert, and an empty cache; gives the folder of the toy."
    toy = Path(shutil.copytree(tiny_base, tmp_path / "library" / "toy-bert"))
    save_file(pack_state(load_file(toy / WEIGHTS)), toy / PACKED); (toy / WEIGHTS).unlink()
    (toy / "README.md").write_text("a card")
    monkeypatch.setattr("finetune_book.data.tables.data_root", lambda: tmp_path / "library")
    monkeypatch.setenv("FINETUNE_BOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed, "_HERE", {})
    return toy


def test_unpacked_once_and_open_plainly(library, tmp_path, monkeypatch):
    from transformers import AutoModel
    folder = unpacked("toy-bert")
    assert folder.parent == tmp_path / "cache" and AutoModel.from_pretrained(folder).dtype == torch.float32
    monkeypatch.setattr(packed, "write_unpacked", lambda *_: pytest.fail("unpacked a second time"))
    assert unpacked("toy-bert") == folder and [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("FINETUNE_BOOK_CACHE", "XDG_CACHE_HOME"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packed.cache_root() == tmp_path / ".cache" / "finetune_book"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert packed.cache_root() == tmp_path / "xdg" / "finetune_book"
    monkeypatch.setenv("FINETUNE_BOOK_CACHE", "~/mine")
    assert packed.cache_root() == tmp_path / "mine"


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no list", "list is no JSON"])
def test_damaged_cache_is_made_anew(library, damage):
    folder = unpacked("toy-bert")
    before, weights = packed.file_sums(folder), folder / WEIGHTS
    if damage == "cut": weights.write_bytes(weights.read_bytes()[:-9])
    if damage == "changed": weights.write_bytes(weights.read_bytes()[:-9] + b"?" * 9)
    if damage == "gone": weights.unlink()
    if damage == "no list": (folder / SUMS).unlink()
    if damage == "list is no JSON": (folder / SUMS).write_text("{")
    assert not holds_its_sums(folder)
    assert unpacked("toy-bert") == folder and holds_its_sums(folder) and packed.file_sums(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("foreign", ["notes.txt", "pytorch_model.bin", "adapter_config.json", "mine/HEAD"])
def test_what_is_not_ours_in_the_place_of_a_cache_stays_and_is_not_used(library, foreign, damaged):
    "Beside a whole base too: others would read an adapter_config.json that nobody unpacked."
    folder = unpacked("toy-bert")
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("mine")
    if damaged: (folder / WEIGHTS).unlink()
    if damaged or "/" not in foreign:
        with pytest.warns(UserWarning, match=f"{foreign.partition('/')[0]}, which is not ours: toy-bert is unpacked for this run"): spare = unpacked("toy-bert")
        assert spare != folder and holds_its_sums(spare)
    else: assert unpacked("toy-bert") == folder                                   # nobody reads what is in a folder
    assert (folder / foreign).read_text() == "mine"


def test_a_folder_without_our_list_is_not_ours(library):
    folder = unpacked("toy-bert")
    shutil.rmtree(folder); folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="notes.txt, which is not ours"): assert unpacked("toy-bert") != folder
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_what_file_managers_leave_in_a_cache_is_passed_over(library, recwarn):
    folder = unpacked("toy-bert")
    for name in (".DS_Store", "Thumbs.db"): (folder / name).write_text("x")
    assert unpacked("toy-bert") == folder and (folder / ".DS_Store").exists() and not recwarn.list


def test_a_new_base_never_meets_an_old_folder(library):
    old = unpacked("toy-bert")
    config = library / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_dropout_prob": .3}))
    assert unpacked("toy-bert") != old and json.loads((unpacked("toy-bert") / "config.json").read_text())["hidden_dropout_prob"] == .3


def test_where_no_cache_can_be_written_a_temporary_folder_does(library, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file stands here")                      # holds for root too, whom no mode of a folder stops
    spare = unpacked("toy-bert")
    assert holds_its_sums(spare) and not spare.is_relative_to(tmp_path / "cache") and unpacked("toy-bert") == spare
    load_text_base("toy-bert", 2)
    packed._HERE.clear()                                                        # what the end of the program does
    assert not spare.exists()


def test_full_disk_half_way_leaves_nothing_and_falls_back(library, tmp_path, monkeypatch):
    write = packed.write_unpacked
    def full(source, out):
        if out.is_relative_to(tmp_path / "cache"):
            (out / "config.json").write_text("{}")
            raise OSError(28, "No space left on device")
        write(source, out)
    monkeypatch.setattr(packed, "write_unpacked", full)
    assert holds_its_sums(unpacked("toy-bert")) and list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(packed, "write_unpacked", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(packed, "_HERE", {})
    with pytest.raises(InputError, match="No space left on device.*FINETUNE_BOOK_CACHE"): unpacked("toy-bert")


def test_three_at_once_end_with_one_whole_folder(library, tmp_path, monkeypatch):
    "All three look, find nothing and write, and only then does the first one rename."
    from concurrent.futures import ThreadPoolExecutor
    write, together = packed.write_unpacked, threading.Barrier(3)
    def at_once(source, out):
        write(source, out)
        together.wait(timeout=60)
    monkeypatch.setattr(packed, "write_unpacked", at_once)
    with ThreadPoolExecutor(3) as pool: found = set(pool.map(unpacked, ["toy-bert"] * 3))
    assert len(found) == 1 and holds_its_sums(found.pop()) and len(list((tmp_path / "cache").iterdir())) == 1


def test_another_program_is_faster(library, monkeypatch):
    "Between our look and our rename somebody else's whole folder appears: it is used, ours is thrown away."
    write = packed.write_unpacked
    def slow(source, out):
        write(source, out)
        target = out.parent.parent / target_name
        if not target.exists(): shutil.copytree(out, target)
    target_name = unpacked("toy-bert").name
    shutil.rmtree(packed.cache_root() / target_name)
    monkeypatch.setattr(packed, "write_unpacked", slow)
    assert holds_its_sums(unpacked("toy-bert")) and [p.name for p in packed.cache_root().iterdir()] == [target_name]


def test_a_base_that_is_not_packed_stays_where_it_is(): assert unpacked("book-resnet") == carried("book-resnet")


def test_one_sentence_from_a_cold_start_costs_little_more_than_the_imports(tmp_path):
    "A fresh program with a fresh cache: the processor seconds after the imports, which other programs do not lengthen much."
    code = """import time, transformers, torch
from transformers import AutoTokenizer, BertForSequenceClassification
from finetune_book.text.bases import load_text_base
from finetune_book.tasks.heads import pooled_features
start = time.process_time()
m, t = load_text_base('book-bert', 2)
b = t(['It works.'], return_tensors='pt')
assert pooled_features(m, b.input_ids, b.attention_mask).shape == (1, 384)
print(time.process_time() - start)"""
    env = os.environ | {"FINETUNE_BOOK_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 4 and len(list(tmp_path.iterdir())) == 1
