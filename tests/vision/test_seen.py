"""A base knows the pictures it was made from: none is missed, no stranger is accused, and the person is told in one line."""
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from finetune_book import ImageClassifier
from finetune_book.data.tables import carried, read_image_folder
from finetune_book.vision.seen import SEEN, seen_filter, warn_if_seen, were_seen


def noise(n, seed=0): return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def said(call, *given):
    "The warnings about seen pictures that a call makes."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*given)
    return [str(w.message) for w in caught if "has learned from these very pictures" in str(w.message)]


@pytest.fixture(scope="module")
def base(tiny_picture_base, tmp_path_factory):
    "A tiny base that has seen noise(500)."
    folder = tmp_path_factory.mktemp("seen") / "base"
    shutil.copytree(tiny_picture_base, folder)
    np.save(folder / SEEN, seen_filter(noise(500)))
    return str(folder)


def test_the_filter_misses_none_and_few_strangers_pass_when_it_is_full():
    known = noise(500)
    bits = seen_filter(known)
    assert were_seen(bits, known).all() and not were_seen(bits, noise(500, seed=1)).any()
    one = known[:1].copy()
    one[0, 5, 5, 1] ^= 1                                   # one bit of one pixel
    assert not were_seen(bits, one).any()


@pytest.mark.parametrize("pictures, warned", [(noise(500)[:40], True), (noise(500)[:2], True), (noise(500)[:1], False), (noise(40, seed=3), False),
                                              (np.concatenate([noise(500)[:32], noise(32, seed=3)]), True),
                                              (np.concatenate([noise(500)[:8], noise(56, seed=3)]), False)])
def test_who_is_warned(base, pictures, warned):
    assert bool(said(warn_if_seen, base, pictures)) == warned
    assert bool(said(warn_if_seen, base, list(pictures))) == warned


def test_files_count_as_their_pixels_and_unreadable_ones_are_passed_over(base, tmp_path):
    paths = []
    for i, picture in enumerate(noise(500)[:6]):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    assert said(warn_if_seen, base, paths) and not said(warn_if_seen, "scratch", paths)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "6 of 6" in said(warn_if_seen, base, [*paths, str(tmp_path / "broken.png")])[0]
    assert not said(warn_if_seen, base, [str(tmp_path / "broken.png")])


@pytest.mark.parametrize("tune", ["head", "full"])
def test_fit_warns_once_in_one_line(base, tune):
    x, y = noise(500)[:12], np.array(["a", "b"] * 6)
    clf = ImageClassifier(base=base, tune=tune, epochs=1, batch_size=12, size=8, verbose=0)
    found = said(clf.fit, x, y)
    assert len(found) == 1 and "\n" not in found[0] and "12 of 12 looked at" in found[0] and "scratch" in found[0]
    assert not said(clf.fit, noise(12, seed=4), y)
    assert not said(ImageClassifier(base="scratch", epochs=1, batch_size=12, size=8, verbose=0).fit, x, y)


def test_the_carried_base_knows_no_other_pictures():
    from finetune_book.data.sets import surface_defects
    from finetune_book.data.picture_tables import digits
    bits = np.load(carried("book-resnet") / SEEN, allow_pickle=False)
    assert bits.nbytes <= 200_000 and .3 < np.unpackbits(bits).mean() < .6
    assert were_seen(bits, noise(5000)).mean() < .002
    flat = np.stack([np.full((32, 32, 3), v, np.uint8) for v in range(256)])
    assert not were_seen(bits, flat[[0, 128, 255]]).any()
    for pictures in (digits()[0], surface_defects.load("train")[0]): assert not said(warn_if_seen, "book-resnet", pictures)


def test_cifar10_is_known(real_data):
    table = read_image_folder(real_data / "images/cifar10/train").groupby("label").head(4)
    paths = [str(p) for p in table.path]
    found = said(ImageClassifier(tune="head", epochs=1, verbose=0).fit, paths, table.label.to_numpy(str))
    assert len(found) == 1 and "book-resnet" in found[0] and "32 of 32 looked at" in found[0]
    test = read_image_folder(real_data / "images/cifar10/test")
    assert not said(warn_if_seen, "book-resnet", [str(p) for p in test.path]), "test pictures were kept from it"
