"""Copies among pictures: found across parts, grouped within one, and nothing else taken for a copy."""
import io
import time
import tracemalloc

import numpy as np
from PIL import Image

from finetune_book.data.images import read_picture, read_pictures
from finetune_book.data.picture_copies import (duplicate_pictures, perceptual_hash, picture_leaks,
                                               refuse_picture_leaks)
from finetune_book.data.picture_tables import digits, read_picture_splits
from finetune_book.data.splits import LeakError, split_rows
from pictures import line_of, scenes


def again(x, **options):
    sink = io.BytesIO()
    Image.fromarray(x).save(sink, "JPEG", **options)
    return np.asarray(Image.open(sink).convert("RGB"))


def test_hash_keeps_and_differs():
    x = scenes(60)
    h = perceptual_hash(x)
    assert h.dtype == np.uint64 and h.shape == (60,)
    for copy in (np.stack([again(p, quality=40) for p in x]), (x * .6 + 30).astype(np.uint8), read_pictures(x, 32)[0], read_pictures(x, 100)[0]):
        assert np.bitwise_count(h ^ perceptual_hash(copy)).max() <= 8
    apart = np.bitwise_count(h[:, None] ^ h)[np.triu_indices(60, 1)]
    assert 28 < apart.mean() < 35 and apart.min() > 10
    assert (perceptual_hash(x[..., 0]) == perceptual_hash(np.repeat(x[..., :1], 3, axis=3))).all()
    assert not perceptual_hash(np.stack([np.full((224, 224, 3), v, np.uint8) for v in (0, 77, 255)])).any()
    many = np.concatenate([x] * 40)                  # more than one block
    assert (perceptual_hash(many) == np.tile(h, 40)).all()


def test_leaks_are_found_and_only_these():
    train, test = scenes(80), scenes(40, 1000)
    test[3], test[7], test[9] = train[11], again(train[12], quality=50), (train[13] * .7).astype(np.uint8)
    leaks = picture_leaks({"train": train, "validation": scenes(10, 2000), "test": test})
    assert leaks[["kind", "split_a", "row_a", "split_b", "row_b"]].values.tolist() == [
        ["duplicate", "train", 11, "test", 3], ["near-duplicate", "train", 12, "test", 7], ["near-duplicate", "train", 13, "test", 9]]
    assert (leaks.distance <= 10).all() and (leaks.similarity >= .97).all()
    line_of(lambda: refuse_picture_leaks({"train": train, "test": test}), "1 of 40 test pictures in train (duplicate)", "test row 3", kind=LeakError)
    assert len(refuse_picture_leaks({"train": train, "test": test}, allow=True)) == 3
    assert refuse_picture_leaks({"train": train, "test": scenes(9, 1000)}).empty


def test_leaks_across_sizes(): assert picture_leaks({"a": scenes(5), "b": read_pictures(scenes(5), 24)[0]}).row_a.tolist() == [0, 1, 2, 3, 4]


def test_flat_pictures_are_twins_only_when_equal():
    flat = np.stack([np.full((16, 16, 3), v, np.uint8) for v in (0, 100, 250)])
    assert picture_leaks({"a": flat, "b": flat + np.uint8(1)}).empty
    assert picture_leaks({"a": flat, "b": flat[1:]}).kind.tolist() == ["duplicate"] * 2
    speck = flat.copy()
    speck[:, 3, 3] = 40                              # a defect on a blank sheet is no copy of the blank
    assert picture_leaks({"a": flat, "b": speck}).empty


def test_limits():
    x = scenes(2)
    line_of(lambda: picture_leaks({"a": x}, max_distance=64), "max_distance=64")
    line_of(lambda: duplicate_pictures(x, min_similarity=0), "min_similarity=0")
    line_of(lambda: picture_leaks({"a": x, "b": x.astype(float)}), "float64")
    assert picture_leaks({"a": x}).empty


def test_groups_keep_copies_together():
    x = scenes(30)
    both = np.concatenate([x, np.stack([again(p, quality=60) for p in x]), x[:5]])
    groups = duplicate_pictures(both)
    assert groups.dtype == np.int64 and (groups == np.r_[np.arange(30), np.arange(30), np.arange(5)]).all()
    parts = split_rows(np.where(groups % 2, "odd", "even"), groups, (.6, .2, .2), seed=0)
    assert picture_leaks({str(k): both[rows] for k, rows in enumerate(parts)}).empty


def test_many_copies_take_little():
    x = np.repeat(scenes(1)[:, ::2, ::2], 3000, axis=0).copy()
    x[:, 0, 0, 0] = np.arange(3000) % 256
    tracemalloc.start()
    start = time.perf_counter()
    assert duplicate_pictures(x).max() == 0 and len(picture_leaks({"a": x[:1500], "b": x[1500:]})) == 1500
    assert time.perf_counter() - start < 8 and tracemalloc.get_traced_memory()[1] < 4e8
    tracemalloc.stop()


def test_digits_hold_no_copies():
    x, _ = digits()
    assert len(picture_leaks({"a": x[:1200], "b": x[1200:]})) <= 2


def test_cifar_copies(real_data):
    "Of 1,000 real test pictures next to none has a copy among 2,000 others; every copy that was saved again is found."
    parts = {s: read_picture_splits(real_data / "images/cifar10")[s] for s in ("train", "test")}
    train, test = (read_pictures(t.path, 32)[0] for t in parts.values())
    assert len(train) == 2000 and len(picture_leaks({"train": train, "test": test})) <= 5
    for edit, least in ((lambda p: again(p, quality=75), .99), (lambda p: again(p, quality=30), .95), (lambda p: (p * .7).astype(np.uint8), .99),
                        (lambda p: read_picture(read_picture(p, 24), 32), .99)):
        found = picture_leaks({"train": train, "test": np.stack([edit(p) for p in train[::20]])})
        assert (found.row_a == found.row_b * 20).mean() > .97 and len(found) >= least * 100
