"""Kept features: what a key sees, files that are whole or not there, several writers, kills, room, and the estimators."""
import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from examples import LABELS, TEXTS
from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.compress import cache as module
from finetune_book.compress.cache import FeatureCache, arithmetic, body_hash, cached_features, row_hash
from finetune_book.compress.cache import OURS, PART, companies, digest, files_of, hash_of_file, make_room, read_records, spaces_of, write_records
from finetune_book.finetuner import Part, forward_all

SPACE = "5" * 32


def squares(cache, numbers, asked=None, space=SPACE):
    "Row k is (k, k²); `asked` notes which were computed."
    def compute(idx):
        if asked is not None: asked.append([numbers[i] for i in idx])
        return np.array([[numbers[i], numbers[i] ** 2] for i in idx], np.float32)
    out = cache.features(space, [f"{k:032x}" for k in numbers], compute)
    assert (out == np.array([[k, k * k] for k in numbers])).all()
    return out


def said(work):
    "What was warned of while `work()` ran."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(w.message) for w in caught]


def all_files(cache): return sorted(p for s in spaces_of(cache.place) for p in files_of(s))


@pytest.fixture
def cache(tmp_path): return FeatureCache(tmp_path / "kept")


# --- keys --------------------------------------------------------------------------------------------------------------

def test_a_hash_tells_apart_what_is_cut_otherwise():
    assert len({digest(*parts) for parts in [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), ()]}) == 6


@pytest.mark.parametrize("other", [
    dict(x=torch.tensor([[1, 2, 4]])), dict(x=torch.tensor([[1, 2, 3]], dtype=torch.int32)), dict(x=torch.tensor([[1], [2], [3]])),
    dict(y=torch.tensor([[1, 2, 3]])), dict(x=torch.tensor([[1, 2, 3]]), y=torch.ones(1)), dict(x=torch.tensor([[1., 2., 3.]], dtype=torch.float64))])
def test_every_bit_of_a_row_is_in_its_hash(other): assert row_hash(other) != row_hash(dict(x=torch.tensor([[1, 2, 3]])))


def test_a_row_hash_does_not_see_the_order_of_names_nor_the_layout_in_memory():
    x, y = torch.arange(24.).reshape(1, 2, 3, 4), torch.ones(1, dtype=torch.bfloat16)
    assert row_hash(dict(x=x, y=y)) == row_hash(dict(y=y, x=x.contiguous(memory_format=torch.channels_last)))
    with pytest.raises(InputError, match="inputs"): row_hash({})


@pytest.fixture
def small(tiny_base): return dict(base=tiny_base, tune="head", epochs=3, lr=.3, batch_size=4, max_length=16, verbose=0)


@pytest.fixture
def clf(small): return TextClassifier(**small).fit(TEXTS, LABELS)


def test_a_body_is_its_weights_buffers_and_settings_and_not_its_head_nor_its_name(clf, small, tmp_path):
    model = clf.model_
    before = body_hash(model)
    with torch.no_grad(): model.classifier.weight += 1
    model.config.id2label, model.config._name_or_path = {0: "x", 1: "y"}, "elsewhere"
    assert body_hash(model) == before
    seeds = TextClassifier(**small | dict(seed=5)).fit(TEXTS, [f"{l} {i % 2}" for i, l in enumerate(LABELS)])     # another head, other labels
    assert body_hash(seeds.model_) == before
    for change in (lambda m: m.bert.pooler.dense.bias.data.add_(1e-7), lambda m: setattr(m.bert.encoder.layer[0].attention.output.LayerNorm, "eps", 1e-3),
                   lambda m: setattr(m.config, "hidden_act", "relu"), lambda m: setattr(m.config, "_attn_implementation", "eager"), lambda m: m.bert.double()):
        change(model)
        assert body_hash(model) != before
        before = body_hash(model)


def test_the_averages_of_a_batch_norm_belong_to_the_body(tiny_picture_base):
    from finetune_book.tasks.classify import Classify
    task = Classify(None, 0.)
    task.learn(np.array(["a", "b"]))
    model = ImageClassifier(base=tiny_picture_base)._rows().open(tiny_picture_base, task, 0)
    before = body_hash(model)
    next(b for name, b in model.named_buffers() if "running_mean" in name).add_(1e-3)
    assert body_hash(model) != before


def test_the_arithmetic_is_read_where_it_is_done():
    plain, threads = arithmetic("cpu"), torch.get_num_threads()
    assert torch.__version__ in plain and f"{threads} threads" in plain
    with torch.autocast("cpu", torch.bfloat16): assert arithmetic("cpu") != plain
    with torch.backends.mkldnn.flags(enabled=False, deterministic=None, allow_tf32=None, fp32_precision=None): assert arithmetic("cpu") != plain
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert arithmetic("cpu") != plain
    finally: torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_companies_hold_every_row_once_beside_fillers_of_the_same_shape(size):
    shapes = np.random.default_rng(size).integers(3, 7, 40).tolist()
    got = companies(shapes, size)
    assert all(len(c) == size and len({shapes[i] for i in c}) == 1 for c in got)
    assert sorted({int(i) for c in got for i in c}) == list(range(40)) and sum(len(set(c)) for c in map(tuple, got)) == 40


# --- files -------------------------------------------------------------------------------------------------------------

def test_only_what_is_new_is_computed_and_equal_rows_once(cache):
    asked = []
    squares(cache, [3, 1, 3], asked)
    squares(FeatureCache(cache.folder), [1, 3, 3], asked)
    squares(cache, [1, 5, 3, 7, 5], asked)
    squares(cache, [7, 5, 3, 1], asked)
    squares(cache, [1], asked, space="6" * 32)
    assert asked == [[3, 1], [5, 7], [1]]


def test_every_bit_comes_back_also_of_what_is_no_number(cache):
    table = np.array([[np.nan, -0., np.inf], [1e-45, 3e38, -np.inf]], np.float32)
    for _ in range(2): assert cache.features(SPACE, ["a" * 32, "b" * 32], lambda idx: table[idx]).tobytes() == table.tobytes()


def test_files_are_mapped_and_hold_no_pickle(cache):
    squares(cache, [1, 2])
    path, = all_files(cache)
    assert isinstance(read_records(path), np.memmap) and read_records(path).dtype.names == ("key", "row")
    evil = path.with_name("evil.npy")
    np.save(evil, np.array([dict(key=1)], dtype=object), allow_pickle=True)
    named = path.with_name(f"{hash_of_file(evil)}-{evil.stat().st_size}.npy")
    os.replace(evil, named)                                                       # whole, and yet not one of ours
    assert len(said(lambda: squares(cache, [1, 2]))) == 1 and not named.exists()


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b + b"x", lambda b: b[:-1] + bytes([b[-1] ^ 1]),
                                  lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b"\0" * len(b)])
def test_a_damaged_file_is_told_once_thrown_away_and_computed_again(cache, harm):
    squares(cache, [1, 2]); squares(cache, [3])
    for path in all_files(cache): path.write_bytes(harm(path.read_bytes()))
    asked = []
    messages = said(lambda: squares(cache, [1, 2, 3], asked))
    assert asked == [[1, 2, 3]] and len(messages) == 1 and "2 damaged file(s)" in messages[0]
    assert said(lambda: squares(cache, [1, 2, 3], asked)) == [] and len(asked) == 1


def test_a_file_that_another_program_removes_meanwhile_is_a_row_to_compute(cache, monkeypatch):
    squares(cache, [1])
    monkeypatch.setattr(module, "files_of", lambda space: [space / f"{'0' * 32}-5.npy"])
    asked = []
    assert said(lambda: squares(cache, [1], asked)) == [] and asked == [[1]]


# --- room --------------------------------------------------------------------------------------------------------------

def aged(path, used): os.utime(path, ns=(0, used))


def test_least_recently_used_goes_first_and_reading_is_using(cache):
    for k in range(4):
        squares(cache, [k], space=f"{k:032x}")
        aged(files_of(cache.place / f"{k:032x}")[0], 10 + k)
    squares(cache, [0], space=f"{0:032x}")                                         # read: now the youngest
    size = all_files(cache)[0].stat().st_size
    make_room(cache.place, 2 * size)
    assert [s.name for s in sorted(spaces_of(cache.place))] == [f"{k:032x}" for k in (0, 3)]     # empty spaces go too
    make_room(cache.place, 2 * size - 1)
    assert [s.name for s in spaces_of(cache.place)] == [f"{0:032x}"]


def test_a_write_keeps_the_limit_and_what_was_just_written(tmp_path):
    probe = FeatureCache(tmp_path / "probe")
    squares(probe, [1])
    size = all_files(probe)[0].stat().st_size
    cache = FeatureCache(tmp_path / "kept", max_mb=2.5 * size / 1e6)
    for k in range(5):
        squares(cache, [k])
        for path in all_files(cache): aged(path, path.stat().st_mtime_ns - 10**9)  # the clock goes on
        assert sum(p.stat().st_size for p in all_files(cache)) <= 2.5 * size
    asked = []
    squares(cache, [4, 3, 0], asked)
    assert asked == [[0]]


def test_features_larger_than_the_limit_are_not_kept_and_push_nothing_out(tmp_path):
    cache = FeatureCache(tmp_path / "kept", max_mb=.001)
    squares(cache, [1])
    there = all_files(cache)
    messages = said(lambda: squares(cache, list(range(100))))
    assert len(messages) == 1 and "max_mb=0.001" in messages[0] and all_files(cache) == there


def test_what_is_not_ours_is_never_deleted_nor_counted_nor_read(cache, tmp_path):
    squares(cache, [1])
    space, own = cache.place / SPACE, all_files(cache)[0]
    outside = tmp_path / own.name
    outside.write_bytes(own.read_bytes())
    foreign = [cache.place / "thesis.txt", cache.place / own.name, space / "notes.npy", space / f"{own.name}.bak", space / own.name.upper(),
               space / ".part-x", cache.place / "mine" / own.name, cache.place / f"{PART}x"]
    (cache.place / "mine").mkdir()
    for path in foreign: path.write_bytes(b"mine" * 1000)
    link, folder = space / f"{'1' * 32}-4.npy", space / f"{'2' * 32}-4.npy"
    link.symlink_to(outside); folder.mkdir()
    (cache.place / ("7" * 32)).symlink_to(tmp_path)
    assert said(lambda: squares(cache, [1, 2])) == []
    make_room(cache.place, 0)
    assert all(p.read_bytes() == b"mine" * 1000 for p in foreign) and link.is_symlink() and folder.is_dir() and outside.exists()
    assert all_files(cache) == [] and (cache.place / ("7" * 32)).is_symlink()


# --- several writers, and kills ------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
import numpy as np
from finetune_book.compress import cache as module
from finetune_book.compress.cache import FeatureCache
folder, first, last, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
def after(fn):
    def both(*args, **kwargs): fn(*args, **kwargs); die()
    return both
def half(file, records, allow_pickle):
    import io
    whole = io.BytesIO(); np.lib.format.write_array(whole, records, allow_pickle=False)
    file.write(whole.getvalue()[:len(whole.getvalue()) // 2]); file.flush(); die()
KILLS = {"part made": ("np.save", die), "half written": ("np.save", half), "before fsync": ("os.fsync", die), "after fsync": ("os.fsync", after(os.fsync)),
         "before rename": ("os.replace", die), "after rename": ("os.replace", after(os.replace)), "before room": ("make_room", die), "after room": ("make_room", after(module.make_room))}
if mode in KILLS:
    where, what = KILLS[mode]
    owner, _, name = where.rpartition(".")
    setattr({"np": np, "os": os, "": module}[owner], name, what)
cache = FeatureCache(folder)
if mode == "race":
    print("ready", flush=True); sys.stdin.readline()
for k in range(first, last):
    cache.features("5" * 32, [f"{j:032x}" for j in (k, k + 1)], lambda idx: np.array([[k + i, (k + i) ** 2] for i in idx], np.float32))
"""


def child(folder, first, last, mode):
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD, str(folder), str(first), str(last), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_that_write_at_once_lose_nothing_and_halve_nothing(cache):
    writers = [child(cache.folder, first, first + 25, "race") for first in (0, 10)]
    for w in writers: assert w.stdout.readline() == "ready\n"
    for w in writers: w.stdin.write("\n"); w.stdin.flush()
    for w in writers:
        errors = w.communicate(timeout=120)[1]
        assert w.returncode == 0, errors
    asked = []
    assert said(lambda: squares(cache, list(range(36)), asked)) == [] and asked == []
    keys = [key for path in all_files(cache) for key in read_records(path)["key"].tolist()]
    assert len(keys) == len(set(keys)) == 36                                      # no row twice, though both had some


STEPS = ["part made", "half written", "before fsync", "after fsync", "before rename", "after rename", "before room", "after room"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_no_half_file_is_read_and_the_next_writer_goes_on(cache, step):
    squares(cache, [100])
    dead = child(cache.folder, 0, 1, step)
    dead.communicate(timeout=120)
    assert dead.returncode == -signal.SIGKILL
    parts = list(cache.place.rglob(f"{PART}*"))
    assert len(parts) == (STEPS.index(step) < STEPS.index("after rename"))
    asked = []
    assert said(lambda: squares(cache, [100, 0, 1], asked)) == []                  # reads, computes what is missing, takes the lock
    assert asked == ([[0, 1]] if parts else []) 
    squares(cache, [7])
    assert list(cache.place.rglob(f"{PART}*")) == [] and all(read_records(p) is not None for p in all_files(cache))


def test_a_lock_that_does_not_come_is_told_and_the_features_are_there(cache, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", .05)
    cache.place.mkdir(parents=True)
    with FileLock(cache.place / module.LOCK):
        messages = said(lambda: squares(cache, [1, 2]))
    assert len(messages) == 1 and "another program has been writing" in messages[0]
    asked = []
    squares(cache, [1, 2], asked)
    assert asked == [[1, 2]]


# --- what cannot be written ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("where", ["np.save", "os.fsync", "os.replace", "tempfile.mkstemp", "Path.mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_the_work_goes_on(cache, monkeypatch, where, number):
    def full(*args, **kwargs): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(f"{dict(np='numpy', Path='pathlib.Path').get(where.split('.')[0], where.split('.')[0])}.{where.split('.')[1]}", full)
    messages = said(lambda: squares(cache, [1, 2, 3]))
    assert len(messages) == 1 and os.strerror(number) in messages[0] and "\n" not in messages[0] and str(cache.place) in messages[0]
    monkeypatch.undo()
    assert not cache.place.exists() or list(cache.place.rglob(f"{PART}*")) == []
    asked = []
    assert said(lambda: squares(cache, [1, 2, 3], asked)) == [] and asked == [[1, 2, 3]]


def test_a_disk_that_is_really_full(tmp_path):
    "The system refuses a file of more than 4 kB, in a process of its own."
    code = ("import resource, signal, sys, warnings, numpy as np\nfrom finetune_book.compress.cache import FeatureCache\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "out = FeatureCache(sys.argv[1]).features('5' * 32, [f'{k:032x}' for k in range(999)], lambda idx: np.ones((len(idx), 9)))\n"
            "assert (out == 1).all() and out.shape == (999, 9)\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "kept")], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stderr.count("UserWarning") == 1 and "features are not kept" in done.stderr, done.stderr
    assert [p for p in (tmp_path / "kept").rglob("*.npy")] == [] == list((tmp_path / "kept").rglob(f"{PART}*"))


def test_a_file_in_the_way_is_one_line(tmp_path):
    cache = FeatureCache(tmp_path / "kept")
    (tmp_path / "kept").write_text("mine")
    assert len(said(lambda: squares(cache, [1]))) == 1 and (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize("wrong", [dict(max_mb=0), dict(max_mb=-1), dict(max_mb=float("nan")), dict(max_mb="1"), dict(max_mb=True), dict(folder=3), dict(folder=" "), dict(folder="a\0b")])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): FeatureCache(**wrong)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"): FeatureCache(tmp_path / "file")


def test_the_usual_place_is_the_users_cache_and_its_lack_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux": assert FeatureCache().place == tmp_path / "finetune_book" / "features"
    monkeypatch.setattr(module, "cache_folder", lambda: None)
    messages = said(lambda: squares(FeatureCache(), [1, 2]))
    assert len(messages) == 1 and "name a folder" in messages[0]


# --- estimators ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def counted(tmp_path, monkeypatch):
    "(cache, numbers of rows that were computed, one for each time)."
    computed, remember = [], FeatureCache.remember
    monkeypatch.setattr(FeatureCache, "remember", lambda self, space, keys, table: (computed.append(len(keys)), remember(self, space, keys, table))[1])
    return FeatureCache(tmp_path / "kept"), computed


def bits(est): return weights_hash(est.model_.parameters())


@pytest.mark.parametrize("settings", [dict(), dict(epochs=None, lr=None), dict(tune="full", lr=None)])
def test_a_fit_says_the_same_bits_whatever_was_kept(small, counted, tmp_path, settings):
    cache, computed = counted
    given = small | settings
    held = TEXTS[:3] + ["knee pain left"], LABELS[:4]
    cold = TextClassifier(**given, cache=cache).fit(TEXTS, LABELS, validation=held)
    n = len(set(TEXTS))
    assert sum(computed) == (n if given["tune"] == "full" else n + 1) and computed[0] == n
    computed.clear()
    warm = TextClassifier(**given, cache=cache).fit(TEXTS, LABELS, validation=held)
    other = FeatureCache(tmp_path / "other")
    cached_features(cold, TEXTS[1::2], other)
    part = TextClassifier(**given, cache=other).fit(TEXTS, LABELS, validation=held)
    assert bits(cold) == bits(warm) == bits(part) and str(cold.history_) == str(warm.history_) == str(part.history_)
    plain = TextClassifier(**given).fit(TEXTS, LABELS, validation=held)
    assert (plain.predict(TEXTS) == cold.predict(TEXTS)).all() and np.allclose(plain.predict_proba(TEXTS), cold.predict_proba(TEXTS), atol=1e-3)


def test_cached_features_are_those_computed_anew(clf, cache, tmp_path):
    first = cached_features(clf, TEXTS, cache)
    assert first.dtype == np.float32 and (cached_features(clf, TEXTS, cache) == first).all() and (cached_features(clf, TEXTS, FeatureCache(tmp_path / "new")) == first).all()
    for i, text in enumerate(TEXTS): assert (cached_features(clf, [text], FeatureCache(tmp_path / f"alone{i}")) == first[i]).all()
    rows = clf.rows_.prepare(TEXTS)
    plain = forward_all(clf.model_, clf.rows_.reading_batches(rows, 64), lambda idx: clf.rows_.collate(rows, idx), len(rows), fn=clf.rows_.features).numpy()
    assert np.abs(plain - first).max() < 1e-5


def test_an_edited_row_and_a_cut_one_are_computed_and_no_others(clf, small, counted):
    cache, computed = counted
    cached_features(clf, TEXTS, cache)
    cached_features(clf, [*TEXTS[:2], "no pain at all two days", *TEXTS[3:]], cache)
    assert computed == [len(set(TEXTS)), 1]
    length = sorted(len(r) for r in clf.rows_.prepare(TEXTS))[-2]
    longer = {tuple(r) for r in clf.rows_.prepare(TEXTS) if len(r) > length}
    TextClassifier(**small | dict(max_length=length), cache=cache).fit(TEXTS, LABELS)
    assert computed[2:] == [len(longer)] * bool(longer)


def test_another_base_of_the_same_name_and_another_task_on_the_same_base(small, counted, tmp_path):
    import shutil
    from tiny import save_tiny_base
    cache, computed = counted
    base, n = tmp_path / "base", len(set(TEXTS))
    shutil.copytree(small["base"], base)
    given = small | dict(base=str(base), cache=cache)
    TextClassifier(**given).fit(TEXTS, LABELS)
    TextClassifier(**given | dict(seed=3)).fit(TEXTS, [f"{l} {i % 2}" for i, l in enumerate(LABELS)])
    TextRegressor(**given).fit(TEXTS, np.arange(len(TEXTS)))
    TextClassifier(**given | dict(base=small["base"])).fit(TEXTS, LABELS)           # the same content under another name
    assert computed == [n]
    shutil.rmtree(base)
    save_tiny_base(base, layers=1)
    TextClassifier(**given).fit(TEXTS, LABELS)
    assert computed == [n, n]


def test_pictures_too_and_a_precision_is_another_space(tiny_picture_base, counted):
    cache, computed = counted
    X = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    y = ["a", "b"] * 5
    given = dict(base=tiny_picture_base, tune="head", lr=.1, epochs=2, verbose=0, cache=cache)
    first = ImageClassifier(**given).fit(X, y)
    again = ImageClassifier(**given).fit(X, y)
    assert bits(first) == bits(again) and computed == [10]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                            # this processor may not know bfloat16
        ImageClassifier(**given | dict(precision="bfloat16")).fit(X, y)
    assert computed == [10, 10]
    ImageClassifier(**given | dict(size=6)).fit(X, y)
    assert computed == [10, 10, 10]


def test_a_grid_search_reads_each_row_once(small, counted):
    cache, computed = counted
    grid = GridSearchCV(TextClassifier(**small, cache=cache), {"lr": [.1, .3]}, cv=3).fit(TEXTS, LABELS)
    assert sum(computed) == len(set(TEXTS)) and grid.best_estimator_.cache == cache


def test_the_forecast_says_that_it_is_for_an_empty_cache(small, cache):
    said = {name: str(TextClassifier(**small, **kept).fit(TEXTS, LABELS).budget_) for name, kept in (("with", {"cache": cache}), ("without", {}))}
    assert "at most, as what the cache keeps takes no time" in said["with"] and "cache" not in said["without"]


def test_nothing_is_kept_unless_asked(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    TextClassifier(**small).fit(TEXTS, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_does_not_know_the_cache(small, cache, tmp_path):
    clf = clone(TextClassifier(**small, cache=cache)).fit(TEXTS, LABELS)
    assert clf.cache == cache
    clf.save(tmp_path / "model")
    assert TextClassifier.load(tmp_path / "model").cache is None
    assert not any(re.search("/kept|FeatureCache", p.read_text()) for p in (tmp_path / "model").glob("*") if p.suffix in (".json", ".md"))


@pytest.mark.parametrize("wrong", ["folder", Path("folder"), True, 3, FeatureCache])
def test_what_is_no_cache_is_refused(small, clf, wrong):
    with pytest.raises(InputError, match="cache=.*FeatureCache"): TextClassifier(**small, cache=wrong).fit(TEXTS, LABELS)
    with pytest.raises(InputError, match="cache=.*FeatureCache"): cached_features(clf, TEXTS, wrong)
    with pytest.raises(NotFittedError): cached_features(TextClassifier(**small), TEXTS, FeatureCache("never"))


def test_companies_are_no_larger_than_the_memory_allows_and_others_are_another_space(clf, cache, counted, monkeypatch):
    cache, computed = counted
    job = SimpleNamespace(rows=clf.rows_, model=clf.model_, device=torch.device("cpu"), est=SimpleNamespace(budget_=SimpleNamespace(eval_rows=64)))
    part = Part(clf.rows_.prepare(TEXTS), torch.zeros(len(TEXTS)))
    sizes = []
    def fn(model, inputs): sizes.append(len(inputs["input_ids"])); return clf.rows_.features(model, inputs)
    cache.read(job, part, fn)
    job.est.budget_.eval_rows = 2
    cache.read(job, part, fn)
    assert set(sizes) == {module.COMPANY, 2} and computed == [len(set(TEXTS))] * 2
