"""Pictures from formulas: maps that shrink, pictures that depend on formula and seed alone, and bad input named."""
import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.vision.fractals import (System, box_dimension, contrast, filled, fractal_set, has_form, orbits, random_system, render_systems, shrinkage,
                                           variants)

CORNERS = np.array([[0, 0], [1, 0], [0, 1]])
SIERPINSKI = System(np.tile(np.eye(2) / 2, (3, 1, 1)), CORNERS / 2, np.full(3, 1 / 3))


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    return [random_system(rng) for _ in range(n)]


def test_marks_lie_on_the_triangle():
    "In base 2 no digit of x and y is 1 at once: the definition of the triangle, to 12 places."
    marks = (orbits([SIERPINSKI], 5000)[0] * 2**12).astype(int)
    assert marks.shape == (5000, 2) and not (marks[:, 0] & marks[:, 1]).any()


def test_odds_decide_how_often_a_map_is_taken():
    odd = SIERPINSKI._replace(p=np.array([.7, .2, .1]))
    x = orbits([odd], 40_000)[0]
    last = np.where(x[:, 0] >= .5, 1, np.where(x[:, 1] >= .5, 2, 0))
    assert np.abs(np.bincount(last) / len(x) - odd.p).max() < .01


@pytest.mark.parametrize("turn, error", [(0, .01), (30, .05)])
def test_box_dimension_of_the_triangle(turn, error):
    t = np.radians(turn)
    marks = np.concatenate([CORNERS, orbits([SIERPINSKI], 200_000)[0]]) @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    assert abs(box_dimension(marks) - np.log(3) / np.log(2)) < error


def test_a_picture_does_not_depend_on_its_company():
    systems = drawn(5)
    together = render_systems(systems, 24, 1000, seed=3)
    alone = np.concatenate([render_systems([s], 24, 1000, seed=3) for s in systems])
    assert together.dtype == np.uint8 and together.shape == (5, 24, 24) and np.array_equal(together, alone)


def test_blocks_of_systems_are_one_picture_each():
    "More marks than fit at once are drawn in blocks; the pictures are the same."
    systems = drawn(3)
    whole = render_systems(systems, 16, 100_000)
    assert np.array_equal(whole[2:], render_systems(systems[2:], 16, 100_000))
    many = render_systems(systems * 20, 16, 100_000)          # 60 x 100,000 marks: two blocks
    assert np.array_equal(many, np.concatenate([whole] * 20))


def test_a_picture_does_not_depend_on_place_and_scale():
    moved = SIERPINSKI._replace(b=SIERPINSKI.b * 1024 + 512 * np.ones(2))      # powers of two: the same bits
    assert (render_systems([SIERPINSKI]) != render_systems([moved])).mean() < .05


def test_systems_drawn_by_chance_shrink_and_mostly_show_a_form():
    systems = drawn(200)
    assert max(shrinkage(s).max() for s in systems) < 1
    assert all(abs(s.p.sum() - 1) < 1e-12 and np.allclose(s.p, (a := np.abs(np.linalg.det(s.A))) / a.sum()) for s in systems)
    assert {len(s.p) for s in systems} == {2, 3, 4, 5, 6} and len(random_system(0, n_maps=8).p) == 8
    assert has_form(render_systems(systems, n_points=1000)).mean() > .7


def test_dust_fog_and_flat_pictures_have_no_form():
    dust, fog, grey = np.zeros((3, 32, 32), np.uint8)
    dust[0, :5], fog[:], grey[::2] = 255, 255, 60
    pictures = np.stack([dust, fog, grey])
    assert filled(pictures).tolist() == [5 / 1024, 1, .5] and contrast(pictures)[1] == 0
    assert not has_form(pictures).any()


def test_the_set_is_the_same_bit_for_bit_and_moves_no_dice():
    before = np.random.get_state()[1].copy()
    a, b = fractal_set(5, 6, 16, seed=1), fractal_set(5, 6, 16, seed=1)
    assert np.array_equal(np.random.get_state()[1], before)
    assert all(np.array_equal(x, y) for x, y in zip(a, b)) and not np.array_equal(a[0], fractal_set(5, 6, 16, seed=2)[0])
    pictures, labels = a
    assert pictures.shape == (30, 16, 16) and pictures.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [c for c in range(5) for _ in range(6)]
    assert len({p.tobytes() for p in pictures}) == 30


def test_a_class_holds_together():
    "The nearest class mean names more than half of unseen variants; a guess one in six."
    pictures, labels = fractal_set(6, 20, seed=0)
    flat, learn = pictures.reshape(120, -1).astype(float), np.arange(120) % 2 == 0
    means = np.stack([flat[learn & (labels == c)].mean(0) for c in range(6)])
    said = ((flat[~learn, None] - means) ** 2).sum(-1).argmin(1)
    assert (said == labels[~learn]).mean() > .5


def test_variants_shrink_and_keep_the_odds():
    near = variants(random_system(0), 50, np.random.default_rng(0), spread=.5)
    assert max(shrinkage(s).max() for s in near) < 1 and all(np.array_equal(s.p, near[0].p) for s in near)


@pytest.mark.parametrize("call, words", [
    (lambda: render_systems([SIERPINSKI._replace(A=SIERPINSKI.A * 2)]), "a map stretches by 1"),
    (lambda: render_systems([SIERPINSKI._replace(b=SIERPINSKI.b * np.nan)]), "nan or inf"),
    (lambda: render_systems([SIERPINSKI._replace(p=np.ones(3))]), "must sum|sum to 1"),
    (lambda: render_systems([SIERPINSKI._replace(p=np.ones(2) / 2)]), r"p \(2,\)"),
    (lambda: render_systems(SIERPINSKI), "list of at least one System"),
    (lambda: render_systems([]), "list of at least one System"),
    (lambda: render_systems([SIERPINSKI], size=0), "size=0: must be a whole number from 2"),
    (lambda: render_systems([SIERPINSKI], n_points=True), "n_points=True"),
    (lambda: render_systems([SIERPINSKI], seed=.5), "seed=0.5"),
    (lambda: random_system(0, n_maps=9), "n_maps=9"),
    (lambda: random_system(-1), "seed=-1"),
    (lambda: fractal_set(1, 5), "n_classes=1"),
    (lambda: fractal_set(5, 0), "n_each=0"),
    (lambda: box_dimension(np.zeros((5, 3))), "must be"),
    (lambda: box_dimension(np.random.default_rng(0).random((9, 2)), levels=[3]), "at least two box sizes"),
])
def test_refused(call, words):
    with pytest.raises(InputError, match=words): call()
