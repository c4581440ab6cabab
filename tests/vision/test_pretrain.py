"""Pretraining without labels: what lesson 73 (vision_pretrain) cannot check on itself."""
import numpy as np
import pytest
import torch
from torch import nn

from finetune_book import ImageClassifier
from finetune_book.checks import InputError
from finetune_book.vision.pretrain import (Imitator, PretextTask, channel_scales, contrastive_task, imitation_loss, imitation_task, label_task, missed, nt_xent,
                                           pretrain_pictures, random_zoom, rotation_task, save_body, stage_maps, student, turn, view)


def noise(n=16, side=8, seed=0): return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
def generator(seed=0): return torch.Generator().manual_seed(seed)
def views(n=6, d=5, seed=0): return torch.randn(2 * n, d, generator=generator(seed))


def body(model):
    model = model.student if isinstance(model, Imitator) else model
    return [v.clone() for k, v in model.state_dict().items() if not k.startswith("fc.")]


def seen_by(teacher_seed=7, pictures=None):
    "Two maps in half precision, as a wider random teacher sees pictures of 8 pixels: 2 x 2 and 1 x 1 places."
    from finetune_book.vision.resnet import resnet18
    x = torch.from_numpy(noise() if pictures is None else pictures).permute(0, 3, 1, 2) / 255
    with torch.no_grad(): return [m.half().numpy() for m in stage_maps(resnet18(2, width=24, stem="32", seed=teacher_seed).eval(), x)]


def test_turns_keep_type_and_each_its_own():
    x = torch.arange(2 * 1 * 3 * 3, dtype=torch.uint8).reshape(2, 1, 3, 3)
    out = turn(x, torch.tensor([0, 2]))
    assert out.dtype == torch.uint8 and torch.equal(out[0], x[0]) and torch.equal(out[1], x[1].flip((1, 2)))
    assert torch.equal(x[1], torch.arange(9, 18, dtype=torch.uint8).reshape(1, 3, 3))        # the pictures given are left alone


def test_the_rotation_task_tells_the_turn_it_made():
    "A picture with one bright corner: the corner says the turn."
    x = torch.zeros(200, 3, 16, 16)
    x[:, :, :8, :8] = 1.
    asked, told = rotation_task().make(x, None, generator())
    quarter = torch.stack([asked[:, 0, 4, 4], asked[:, 0, 11, 4], asked[:, 0, 11, 11], asked[:, 0, 4, 11]], 1).argmax(1)
    # half of the pictures were mirrored before they were turned: the corner is then one quarter turn on
    assert set(((quarter - told) % 4).tolist()) == {0, 3} and set(told.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [.07, .5, 5.])
def test_nt_xent_of_pairs_told_one_by_one(temperature):
    z = views().double()
    u = nn.functional.normalize(z, dim=1)
    want = 0.
    for i in range(12):
        scores = torch.tensor([float(u[i] @ u[j]) / temperature for j in range(12) if j != i])
        want -= (float(u[i] @ u[(i + 6) % 12]) / temperature - scores.logsumexp(0).item()) / 12
    assert abs(nt_xent(z, temperature).item() - want) < 1e-5


def test_nt_xent_does_not_see_length_or_order_and_prefers_partners():
    z = views()
    order = torch.randperm(6, generator=generator(1))
    both = torch.cat([order, order + 6])
    assert torch.allclose(nt_xent(z), nt_xent(z * torch.rand(12, 1, generator=generator(2)).add(.1)), atol=1e-5)
    assert torch.allclose(nt_xent(z), nt_xent(z[both]), atol=1e-5) and torch.allclose(nt_xent(z), nt_xent(z.roll(6, 0)), atol=1e-5)
    assert nt_xent(torch.cat([z[:6], z[:6]])) < nt_xent(z)


def test_views_stay_pictures_differ_and_repeat():
    x = torch.rand(32, 3, 16, 16, generator=generator())
    a, b = view(x, generator(1)), view(x, generator(1))
    assert torch.equal(a, b) and a.shape == x.shape and 0 <= a.min() and a.max() <= 1 and not torch.equal(a, view(x, generator(2)))
    colourless = (a[:, 0] == a[:, 1]).all(-1).all(-1)
    assert 0 < colourless.sum() < 16
    both, _ = contrastive_task().make(x, None, generator(1))
    assert both.shape == (64, 3, 16, 16) and not torch.equal(both[:32], both[32:])


def test_zoom_takes_a_part_of_the_asked_size():
    "On a ramp the span of a part is the share of its side."
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64).contiguous()
    part = random_zoom(ramp, generator(), least=.25)
    span = part[:, 0, 32].amax(1) - part[:, 0, 32].amin(1)
    assert .45 < span.min() < .6 and span.max() > .9


@pytest.mark.parametrize("task, labels", [(rotation_task(), None), (contrastive_task(), None), (label_task(2), np.arange(16) % 2), (imitation_task(*seen_by()), np.arange(16))])
def test_every_task_trains_repeats_and_opens_as_a_base(task, labels, tmp_path):
    before = torch.get_rng_state()
    one, two = (pretrain_pictures(noise(), task, labels, epochs=2, batch_size=8, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(body(one[0]), body(two[0]))) and one[1] == two[1] and len(one[1]) == 2
    moved = [not torch.equal(a, b) for a, b in zip(body(one[0]), body(student(task, 1)[0]))]
    assert all(moved)
    kept = body(one[0])
    save_body(tmp_path / "base", one[0])
    clf = ImageClassifier(base=str(tmp_path / "base"), tune="head", epochs=1, size=8, verbose=0).fit(noise(), np.array(["a", "b", "c", "d"] * 4))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(kept, body(clf.model_))) and clf.model_.fc.out_features == 4


def test_tasks_without_labels_see_none():
    "Other labels, the same network."
    one, two = (pretrain_pictures(noise(), rotation_task(), labels, batch_size=8)[0] for labels in (np.zeros(16), np.arange(16)))
    assert all(torch.equal(a, b) for a, b in zip(body(one), body(two)))


def test_stages_are_those_of_the_network():
    net, x = student(label_task(2), 0)[0].eval(), torch.rand(3, 3, 32, 32, generator=generator())
    third, fourth = stage_maps(net, x)
    assert third.shape == (3, 64, 8, 8) and fourth.shape == (3, 128, 4, 4) and torch.equal(net.fc(fourth.mean((2, 3))), net(x))


def test_a_mirrored_picture_gets_its_mirrored_map():
    "Every target is the standardised map of its own row, turned over exactly where the picture was."
    rng = np.random.default_rng(3)
    maps = [rng.normal(2, 3, shape).astype(np.float16) for shape in ((40, 5, 4, 4), (40, 7, 2, 2))]
    x, rows = torch.linspace(0, 1, 16).expand(40, 3, 16, 16).clone(), torch.randperm(40, generator=generator(1))      # darker on the left
    out, targets = imitation_task(*maps).make(x, rows, generator(2))
    for m, t in zip(maps, targets):
        mean, spread = channel_scales(m)
        plain = (torch.from_numpy(m[rows.numpy()]).float() - mean) / spread
        mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(t, plain)])
        assert all(torch.equal(a, b) for a, b in zip(t[~mirrored], plain[~mirrored])) and 5 < mirrored.sum() < 35
        assert torch.equal(out[:, 0, 8, 3] > out[:, 0, 8, 12], mirrored)


def test_constant_channels_and_large_maps_stay_finite():
    flat = np.full((8, 3, 2, 2), 5, np.float16)
    mean, spread = channel_scales(flat)
    assert (mean == 5).all() and (spread == 1).all()


def test_imitating_gets_nearer_and_a_killed_run_ends_with_the_same_bits(tmp_path):
    from finetune_book.train.callbacks import Checkpoint
    from finetune_book.train.trainer import Callback
    task, told = imitation_task(*seen_by(pictures=noise(64))), dict(labels=np.arange(64), epochs=6, batch_size=16, lr=5e-3)
    whole, history = pretrain_pictures(noise(64), task, **told)
    assert history[-1]["train_loss"] < history[0]["train_loss"] - .3
    class Killed(Callback):
        def on_batch_end(self, trainer):
            if trainer.step == 13: raise RuntimeError("killed")
    with pytest.raises(RuntimeError): pretrain_pictures(noise(64), task, callbacks=[Checkpoint(tmp_path, every_steps=5), Killed()], **told)
    again, _ = pretrain_pictures(noise(64), task, callbacks=[Checkpoint(tmp_path, every_steps=5)], resume=Checkpoint.latest(tmp_path), **told)
    assert all(torch.equal(a, b) for a, b in zip(body(whole), body(again)))


def test_the_pooled_term_is_blind_to_places():
    "Maps with the right means in the wrong places: only the first two terms notice."
    target = [torch.randn(6, 4, 2, 2, generator=generator(i)) for i in range(2)]
    terms = missed([m.flip(3) for m in target], target)
    assert terms[0] > .1 and terms[1] > .1 and terms[2] < 1e-12 and imitation_loss(target, target) == 0


def test_a_task_of_ones_own():
    brightest = PretextTask("brightest channel", 3, lambda xb, yb, g: (xb, xb.mean((2, 3)).argmax(1)), nn.functional.cross_entropy)
    model, history = pretrain_pictures(noise(), brightest, batch_size=8)
    assert model.fc.out_features == 3 and not model.training and np.isfinite(history[0]["train_loss"])


@pytest.mark.parametrize("bad, words", [(dict(task=label_task(2)), "labels=None"), (dict(task=imitation_task(*seen_by())), "labels=None"),
                                        (dict(task=imitation_task(*seen_by(pictures=noise(side=16))), labels=np.arange(16)), "same places"), (dict(batch_size=1), "batch_size=1"), (dict(batch_size=5), "batch of one"),
                                        (dict(precision="half"), "precision='half'"), (dict(pictures=noise()[:, :6]), "must be square")])
def test_refused(bad, words):
    with pytest.raises(InputError, match=words): pretrain_pictures(**{"pictures": noise(), "task": rotation_task(), "batch_size": 8, **bad})


@pytest.mark.parametrize("call, words", [(lambda: nt_xent(views()[:5]), "must be"), (lambda: nt_xent(views()[:2]), "n >= 2"), (lambda: nt_xent(views(), 0), "temperature=0"),
                                         (lambda: random_zoom(torch.zeros(2, 3, 8, 8), generator(), 2), "least=2"), (lambda: turn(torch.zeros(2, 3, 8, 7), torch.zeros(2)), "square")])
def test_parts_refuse(call, words):
    with pytest.raises(InputError, match=words): call()
