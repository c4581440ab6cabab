"""What lesson 66 (vision_augment) cannot check on itself: types and shapes, no global randomness, independence, the trainer, each refused input."""
import dataclasses
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import v2

from finetune_book.checks import InputError
from finetune_book.train.trainer import Trainer, shuffled_batches
from finetune_book.vision import augment
from finetune_book.vision.augment import Augment, color_jitter, cutmix, mix_either, mixup, normalise, random_crop, random_flip, random_turn


def dice(seed=0): return torch.Generator().manual_seed(seed)
def pictures(n=8, c=3, h=12, w=20, dtype=torch.float32): return torch.rand(n, c, h, w, generator=dice(1)).to(dtype)
def labels(n=8): return torch.arange(n) % 3


WAYS = {
    "crop": lambda x, y, g: (random_crop(x, 2, g), y),
    "flip": lambda x, y, g: (random_flip(x, g), y),
    "turn": lambda x, y, g: (random_turn(x, g), y),
    "colour": lambda x, y, g: (color_jitter(x, g, .4, .4, .4), y),
    "normalise": lambda x, y, g: (normalise(x, [.5] * x.shape[1], [.2] * x.shape[1]), y),
    "mixup": lambda x, y, g: mixup(x, y, 3, .4, g),
    "cutmix": lambda x, y, g: cutmix(x, y, 3, 1., g),
    "either": lambda x, y, g: mix_either(x, y, 3, .4, 1., g),
    "all": lambda x, y, g: Augment(crop=2, flip=True, color=.3, mixup=.4, cutmix=1., turn=True)(x, y, 3, g),
}
DRAWN = [name for name in WAYS if name != "normalise"]
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# --- shapes, types, memory -----------------------------------------------------------------------------------------

@way
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_shape_and_type_stay(way, dtype):
    x = pictures(dtype=dtype)
    out, target = way(x, labels(), dice())
    assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()
    assert target.dtype == (torch.int64 if target.ndim == 1 else torch.float32) and len(target) == len(x)


@way
@pytest.mark.parametrize("n, c", [(0, 3), (1, 3), (5, 1)])
def test_no_picture_one_picture_one_channel(way, n, c):
    out, target = way(pictures(n, c), labels(n), dice())
    assert out.shape == (n, c, 12, 20) and len(target) == n


@way
def test_memory_layout_does_not_change_the_result(way):
    x = pictures()
    plain, other = way(x, labels(), dice())[0], way(x.to(memory_format=torch.channels_last), labels(), dice())[0]
    assert (plain - other).abs().max() < 1e-6
    one = x[:1].expand(8, 3, 12, 20)  # the same memory eight times: writing into it would show
    assert (way(one, labels(), dice())[0] - way(one.clone(), labels(), dice())[0]).abs().max() < 1e-6


@way
def test_the_input_is_not_written_to(way):
    x, y = pictures(), labels()
    kept = x.clone(), y.clone()
    way(x, y, dice())
    assert x.equal(kept[0]) and y.equal(kept[1])


# --- randomness ----------------------------------------------------------------------------------------------------

@way
def test_same_state_same_bits_and_global_dice_untouched(way):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, second = way(pictures(), labels(), dice(3)), way(pictures(), labels(), dice(3))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    assert torch.random.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


@pytest.mark.parametrize("name", DRAWN)
def test_a_second_call_draws_anew(name):
    g = dice()
    first, second = WAYS[name](pictures(), labels(), g), WAYS[name](pictures(), labels(), g)
    assert not first[0].equal(second[0])


def test_normalise_draws_nothing():
    g = dice()
    state = g.get_state()
    WAYS["normalise"](pictures(), labels(), g)
    assert g.get_state().equal(state)


def test_a_picture_does_not_depend_on_the_rest_of_its_batch():
    x, offsets, coins = pictures(), augment.draw_offsets(8, 2, dice()), torch.rand(8, generator=dice()) < .5
    factors, order = augment.draw_colors(8, (.4, .4, .4), dice())
    together = augment.color_at(augment.flip_where(augment.crop_at(x, offsets, 2), coins), factors, order)
    for i in range(8):
        alone = augment.flip_where(augment.crop_at(x[i:i + 1], offsets[i:i + 1], 2), coins[i:i + 1])
        assert (augment.color_at(alone, factors[i:i + 1], order[i:i + 1]) - together[i]).abs().max() < 1e-6


def test_crop_and_flip_of_augment_are_independent_and_uniform():
    x = torch.arange(1., 10).view(1, 1, 3, 3).expand(7200, 1, 3, 3)
    out, _ = Augment(crop=1)(x, torch.zeros(7200, dtype=torch.int64), 2, dice())
    seen = np.unique(out.reshape(7200, 9).numpy(), axis=0, return_counts=True)[1]
    assert len(seen) == 18 and stats.chisquare(seen).pvalue > .001


@pytest.mark.parametrize("flip, turn, h, n", [(False, False, 12, 1), (True, False, 12, 2), (False, True, 12, 4), (True, True, 12, 8), (True, True, 20, 4)])
def test_guises_are_all_there_once_and_closed(flip, turn, h, n):
    x = pictures(h=h, w=12)
    seen = augment.guises(x, flip, turn)
    assert seen[0] is x and len(seen) == n and {p.shape for p in seen} == {x.shape}
    keys = {p.numpy().tobytes() for p in seen}
    assert len(keys) == n
    assert all({q.numpy().tobytes() for q in augment.guises(p, flip, turn)} == keys for p in seen)


def test_flip_probability():
    x = torch.tensor([0., 1]).view(1, 1, 1, 2).expand(4000, 1, 1, 2)
    mirrored = lambda p: int(random_flip(x, dice(), p)[:, 0, 0, 0].sum())
    assert mirrored(0) == 0 and mirrored(1) == 4000 and stats.binomtest(mirrored(.2), 4000, .2).pvalue > .001


@pytest.mark.parametrize("strength, low, high", [(.4, .6, 1.4), (1., 0, 2), (2., 0, 3)])
def test_factors_cover_their_range(strength, low, high):
    factors, _ = augment.draw_colors(2000, (strength, 0, strength), dice())
    assert (factors[:, 1] == 1).all()
    for column in (0, 2): assert stats.kstest(factors[:, column].numpy(), stats.uniform(low, high - low).cdf).pvalue > .001


def test_one_strength_moves_one_property():
    x = pictures()
    bright = color_jitter(x, dice(), brightness=.3)
    assert torch.allclose(bright, torch.clamp(x * augment.draw_colors(8, (.3, 0, 0), dice())[0][:, 0, None, None, None], 0, 1), atol=1e-6)
    pale = color_jitter(x * .5 + .25, dice(), saturation=.3)
    assert torch.allclose(augment.grey(pale), augment.grey(x * .5 + .25), atol=1e-3)  # the weights sum to 0.9999


def test_colour_of_a_grey_picture_is_v2_s():
    x = pictures(c=1)
    factors, order = torch.tensor([[1., .5, .3]]).expand(8, 3), torch.zeros(8, dtype=torch.int64)
    assert (augment.color_at(x, factors, order) - torch.stack([v2.functional.adjust_contrast(p, .5) for p in x])).abs().max() < 1e-6


# --- mixing --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mixing", [lambda *a: mixup(*a[:3], .4, a[3]), lambda *a: cutmix(*a[:3], 1., a[3]), lambda *a: mix_either(*a[:3], .4, 1., a[3])])
def test_targets_are_the_shares_of_the_pixels(mixing):
    "Class k is painted into channel k alone: the mean of a channel is the target of its class."
    y = torch.arange(90) % 3
    x = F.one_hot(y, 3).float()[:, :, None, None].expand(90, 3, 7, 11)
    out, q = mixing(x, y, 3, dice())
    assert (out.mean((2, 3)) - q).abs().max() < 1e-6 and (q >= 0).all() and (q.sum(1) - 1).abs().max() < 1e-6
    assert len(q.max(1).values.unique()) > 10, "each picture has its own share"


def test_boxes_on_an_oblong_picture_are_v2_s():
    ref, beta = v2.CutMix(num_classes=3, alpha=.7), torch.distributions.Beta(torch.tensor([.7]), torch.tensor([.7]))
    for seed in range(200):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            x1, y1, x2, y2 = ref.make_params([pictures()])["box"]
            torch.manual_seed(seed)
            share, column, row = float(beta.sample(())), int(torch.randint(20, (1,))), int(torch.randint(12, (1,)))
        box = torch.ones(12, 20, dtype=torch.float64)
        box[y1:y2, x1:x2] = 0
        assert augment.cutmix_weights(torch.tensor([share], dtype=torch.float64), torch.tensor([[row, column]]), 12, 20)[0, 0].equal(box)


@pytest.mark.parametrize("share, left", [(1., 1.), (0., 0.)])
def test_the_whole_and_the_empty_box(share, left):
    weights = augment.cutmix_weights(torch.tensor([share], dtype=torch.float64), torch.tensor([[4, 4]]), 8, 8)
    assert weights.mean() == left


def test_pasting_is_exact_and_one_share_leaves_the_picture():
    x, partner = pictures(), torch.arange(8).roll(1)
    for whole, expected in ((1., x), (0., x[partner])):
        out, q = augment.mix_at(x, labels(), 3, partner, torch.full((8, 1, 1, 1), whole, dtype=torch.float64))
        assert out.equal(expected) and q.max(1).values.eq(1).all()


def test_every_partner_is_equally_likely():
    x = torch.eye(6)[:, None, :, None].repeat(1, 1, 1, 2)
    found = np.zeros((6, 6))
    for seed in range(600):
        out, _ = mixup(x, labels(6), 3, .4, dice(seed))
        own = out[:, 0, :, 0] * (1 - torch.eye(6))
        found[range(6), [int(r.argmax()) if r.max() > 0 else i for i, r in enumerate(own)]] += 1
    # shares of 1 hide the partner and count as the picture itself: at most a few of a hundred
    assert stats.chisquare(found[~np.eye(6, dtype=bool)]).pvalue > .001 and (np.abs(found.diagonal() - 100) < 50).all()


def test_either_is_half_of_each():
    x = torch.zeros(2000, 1, 8, 8)
    x[1000:] = 1
    out, _ = mix_either(x, (torch.arange(2000) >= 1000).long(), 2, 5., 5., dice())
    strange = ((out > 0) & (out < 1)).flatten(1).any(1)  # a blend has grey pixels, a box has none
    assert abs(strange.float().mean() - .25) < .05       # half of the pictures meet their own class


@pytest.mark.parametrize("alpha", [1e-3, 1e6])
def test_shares_at_the_limits_of_alpha(alpha):
    shares = augment.draw_shares(1000, alpha, dice())
    assert ((0 <= shares) & (shares <= 1)).all() and abs(shares.mean() - .5) < .06


# --- Augment and the trainer ---------------------------------------------------------------------------------------

def test_settings_are_plain_values():
    a = Augment(crop=2, mixup=.2)
    assert Augment(**dataclasses.asdict(a)) == a and repr(a) == "Augment(crop=2, flip=True, color=0.0, mixup=0.2, cutmix=0.0, turn=False)"
    with pytest.raises(dataclasses.FrozenInstanceError): a.crop = -1
    assert Augment(crop=np.int64(2), color=np.float32(.5)).crop == 2 and Augment(flip=np.bool_(False)).flip is False


def test_hard_labels_of_any_kind_pass_when_nothing_mixes():
    y = torch.linspace(0, 1, 8)
    assert Augment()(pictures(), y, 2, dice())[1] is y


X, Y = pictures(24), labels(24)


def run(epochs=2, resume=None, keep=None, bright=True):
    "Trains with the trainer's own dice, which it sets from (seed, epoch, batch) before each fetch."
    way, seen = Augment(crop=2, color=.2, mixup=.4, cutmix=1.), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(720, 3))
    def fetch(idx): return way(X[idx], Y[idx], 3, torch.default_generator)
    def validate(model): seen.append(model(X).clone()); return {"val_loss": F.cross_entropy(model(X), Y).item()}
    trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=.01), F.cross_entropy, seed=5)
    if keep is not None: model.register_forward_pre_hook(lambda m, args: keep.append(args[0].clone()) if m.training else None)
    trainer.fit(shuffled_batches(24, 8), fetch, epochs, validate, resume=resume)
    return trainer, seen


def test_two_trainings_and_a_resumed_one_give_the_same_bits():
    full, again, half = run()[0], run()[0], run(epochs=1)[0]
    resumed = run(resume=half.state_dict())[0]
    weights = [t.model[1].weight for t in (full, again, resumed)]
    assert weights[0].equal(weights[1]) and weights[0].equal(weights[2]) and not weights[0].equal(half.model[1].weight)


def test_each_epoch_sees_other_guises_and_validation_the_pictures_themselves():
    batches = []
    trainer, seen = run(keep=batches)
    assert len(batches) == 6 and not torch.cat(batches[:3]).sum(0).equal(torch.cat(batches[3:]).sum(0))
    assert trainer.model(X).equal(seen[-1])


# --- refused -------------------------------------------------------------------------------------------------------

x8, y8 = pictures(), labels()
BAD = {
    "global dice": (lambda: random_flip(x8, None), "g=None: must be a torch.Generator"),
    "a seed for a generator": (lambda: Augment()(x8, y8, 3, 0), "g=0: must be a torch.Generator"),
    "uint8": (lambda: random_crop((x8 * 255).byte(), 2, dice()), "torch.uint8 .*x / 255"),
    "one picture": (lambda: random_flip(x8[0], dice()), r"\(3, 12, 20\): a float tensor"),
    "an array": (lambda: random_flip(x8.numpy(), dice()), "pictures are ndarray"),
    "wide frame": (lambda: random_crop(x8, 12, dice()), "pad=12: must be a whole number, for pictures of 12 × 20 pixels from 0 to 11"),
    "half a pixel": (lambda: random_crop(x8, .5, dice()), "pad=0.5: must be a whole number"),
    "p": (lambda: random_flip(x8, dice(), 1.2), "p=1.2: must be a number from 0 to 1"),
    "negative strength": (lambda: color_jitter(x8, dice(), contrast=-1), "contrast=-1: "),
    "nan strength": (lambda: color_jitter(x8, dice(), saturation=math.nan), "saturation=nan: "),
    "normalised before colour": (lambda: color_jitter(x8 - .5, dice(), .1), r"needs \[0, 1\]; normalise afterwards"),
    "nan in a picture": (lambda: color_jitter(x8 * math.nan, dice(), .1), "pictures span nan"),
    "four channels": (lambda: color_jitter(pictures(c=4), dice(), .1), "1 or 3 channels"),
    "mean of one channel": (lambda: normalise(x8, [.5], [.5]), r"need \(3,\) each"),
    "zero std": (lambda: normalise(x8, [.5] * 3, [.5, 0, .5]), "std positive"),
    "nan mean": (lambda: normalise(x8, [math.nan, 0, 0], [.5] * 3), "must be finite"),
    "label too high": (lambda: mixup(x8, y8, 2, .4, dice()), "labels span 0 to 2: must lie in 0 … 1"),
    "label below 0": (lambda: cutmix(x8, y8 - 1, 3, .4, dice()), "labels span -1 to 1"),
    "shares of other classes": (lambda: mixup(x8, torch.rand(8, 4), 3, .4, dice()), r"labels are torch.float32 \(8, 4\)"),
    "labels short": (lambda: cutmix(x8, y8[:5], 3, .4, dice()), "mixing 8 pictures"),
    "one class": (lambda: mixup(x8, y8 * 0, 1, .4, dice()), "n_classes=1: "),
    "alpha 0": (lambda: mixup(x8, y8, 3, 0, dice()), "alpha=0: "),
    "alpha inf": (lambda: cutmix(x8, y8, 3, math.inf, dice()), "alpha=inf: "),
    "crop": (lambda: Augment(crop=-1), "crop=-1: must be a whole number"),
    "crop as text": (lambda: Augment(crop="4"), "crop='4': "),
    "crop 4.0": (lambda: Augment(crop=4.), "crop=4.0: must be a whole number"),
    "flip 1": (lambda: Augment(flip=1), "flip=1: must be True or False"),
    "crop True": (lambda: Augment(crop=True), "crop=True: "),
    "crop of a small picture": (lambda: Augment(crop=12)(x8, y8, 3, dice()), "pad=12: "),
    "flip": (lambda: Augment(flip=.5), "flip=0.5: must be True or False"),
    "color": (lambda: Augment(color=1.1), "color=1.1: must be a number from 0 to 1"),
    "mixup": (lambda: Augment(mixup=-.1), "mixup=-0.1: must be a number from 0 to 1000000"),
    "mixup near 0": (lambda: Augment(mixup=1e-4), "mixup=0.0001: must be a number from 0.001 to 1000000"),
    "cutmix": (lambda: Augment(cutmix=math.nan), "cutmix=nan: "),
    "labels when mixing": (lambda: Augment(mixup=.2)(x8, y8.float(), 3, dice()), "labels are torch.float32"),
}


@pytest.mark.parametrize("call, says", BAD.values(), ids=BAD)
def test_refused_in_one_line(call, says):
    with pytest.raises(InputError, match=says) as caught: call()
    assert len(str(caught.value).splitlines()) == 1
