"""Adversarial training: the steps by hand, every adversary with every method, and the checks that tell a defence from a false one."""
import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from commands import refused
from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, ImageRegressor, TextClassifier, TextRegressor
from finetune_book.adapt import ADVERSARIES, METHODS, adversary
from finetune_book.adapt.adversarial import (FGM, PGD, Adversary, Embeddings, L2, Linf, Pixels, apart, as_adversary, attacked_outputs,
                                             climb, gradient_checks, hurt, robust_score, worst_texts)
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.tasks.heads import head_of
from finetune_book.text.bases import load_text_base
from finetune_book.train.trainer import Callback
from finetune_book.vision.bases import load_image_base

X, Y = pictures(12)
NUMBERS = np.array([3. if label == "yes" else -1. for label in LABELS])
SETS = [["long", label] if " " in text else [label] for text, label in zip(TEXTS, LABELS)]
WORDS = [form for form in ADVERSARIES]


@pytest.fixture
def text(tiny_base): return dict(base=tiny_base, tune="full", epochs=2, lr=.02, batch_size=6, max_length=16, verbose=0, device="cpu")


@pytest.fixture
def picture(tiny_picture_base): return dict(base=tiny_picture_base, tune="full", epochs=2, lr=.02, batch_size=6, verbose=0, device="cpu")


def bits(est): return weights_hash({k: v for k, v in est.model_.state_dict().items() if v.is_floating_point()})


# --- the step -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1., 1e-30, 1e30])
def test_the_steepest_change_has_length_one_and_the_dual_norm_as_its_gain_whatever_the_size_of_the_gradient(scale):
    g = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * scale
    for ball, q in ((L2(), 2), (Linf(), 1)):
        best = ball.steepest(g)
        assert torch.allclose(ball.length(best), torch.ones(4), rtol=1e-5)
        gain = (g.double() * best.double()).sum((1, 2))
        assert torch.allclose(gain, torch.linalg.vector_norm(g.double().flatten(1), ord=q, dim=1), rtol=1e-5)


def test_a_gradient_that_is_zero_or_no_number_moves_nothing():
    g = torch.tensor([[0., 0.], [float("nan"), 0.], [1., 0.]])
    for ball in (L2(), Linf()): assert ball.steepest(g).tolist() == [[0, 0], [0, 0], [1, 0]]


def test_what_is_inside_the_ball_stays_and_the_rest_comes_to_its_edge_each_row_by_its_own_radius():
    delta, r = torch.tensor([[3., 4.], [.3, .4], [6., 8.]]), torch.tensor([[1.], [1.], [20.]])
    assert torch.allclose(L2().project(delta, r), torch.tensor([[.6, .8], [.3, .4], [6., 8.]]))
    assert torch.allclose(Linf().project(delta, r), torch.tensor([[1., 1.], [.3, .4], [6., 8.]]))


@pytest.mark.parametrize("ball", [L2(), Linf()], ids=["2", "inf"])
def test_steps_follow_the_hand_formula(ball):
    "PGD written out, with autograd on a copy: the same changes to rounding."
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), torch.randn(4, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    delta = torch.zeros_like(x)
    for _ in range(5):
        at = (x + delta).requires_grad_()
        g = torch.autograd.grad(nn.functional.cross_entropy(net(at), y), at)[0]
        step = g / g.norm(dim=1, keepdim=True) if ball.p == 2 else g.sign()
        delta = delta + .3 * .4 * step
        if ball.p == 2: delta = delta * torch.clamp(.4 / delta.norm(dim=1, keepdim=True), max=1)
        else: delta = delta.clamp(-.4, .4)
    ours = climb(lambda d: nn.functional.cross_entropy(net(x + d), y), torch.zeros_like(x), ball, .4, steps=5, rate=.3)
    assert torch.allclose(ours, delta, rtol=1e-10, atol=1e-12) and not ours.requires_grad
    assert all(p.grad is None for p in net.parameters())


# --- where changes enter --------------------------------------------------------------------------------------------

def test_filling_gets_no_change_and_the_radius_has_the_length_of_the_texts_own_words(tiny_base):
    model, tokenizer = load_text_base(tiny_base, 3, seed=0)
    inputs = dict(tokenizer(["a b", "a b c d e f g"], padding=True, return_tensors="pt"))
    opening, mask = Embeddings(), inputs["attention_mask"].bool()
    for word in WORDS:
        one = as_adversary(word)
        if not one.attacks: continue
        delta = one.worst(opening, model.train(), lambda out: out.logits.square().sum(), inputs, torch.Generator().manual_seed(0))
        assert (delta[~mask] == 0).all() and (delta[mask] != 0).any() and model.training
        ball, radius = one.reach(opening, model, inputs)
        assert (ball.length(delta) <= radius.flatten() * (1 + 1e-5)).all()
    table = model.get_input_embeddings().weight
    lengths = [table[ids[m]].norm(dim=1).mean().item() for ids, m in zip(inputs["input_ids"], mask)]
    assert opening.unit(model, inputs, L2()).flatten().tolist() == pytest.approx(lengths, rel=1e-5)
    assert not model.get_input_embeddings()._forward_hooks


def test_a_changed_picture_is_a_picture(tiny_picture_base):
    model, how = load_image_base(tiny_picture_base, 3, seed=0)
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (how.mean, how.std))
    opening, inputs = Pixels(how.mean, how.std), {"pixel_values": (pixels - mean) / std}
    for word in ("fgsm(eps=.3)", "pgd(eps=.3)", "pgd(eps=2, norm=2)", "noise(eps=.3)", "fgm(eps=2)"):
        one = as_adversary(word)
        delta = one.worst(opening, model, lambda out: getattr(out, "logits", out).square().sum(), inputs, torch.Generator().manual_seed(0))
        if one.steps or one.random: assert ((pixels + delta) > -1e-6).all() and ((pixels + delta) < 1 + 1e-6).all()
        ball, radius = one.reach(opening, model, inputs)
        assert (ball.length(delta) <= radius * (1 + 1e-5)).all() and (delta != 0).any()


def test_a_model_without_a_table_of_words_is_refused():
    with pytest.raises(InputError, match="no table of words"): Embeddings().free(nn.Linear(2, 2), dict(input_ids=torch.zeros(1, 2)))


# --- in training ----------------------------------------------------------------------------------------------------

FORMS = [f.replace("-K", "-1") for f in METHODS]

@pytest.mark.parametrize("form, word", [(form, "pgd(steps=2)") for form in FORMS] + [("head", word) for word in WORDS])
def test_adversaries_go_with_every_method_and_no_frozen_part_moves(text, form, word):
    est = TextClassifier(**text | dict(tune=form, epochs=1), adversarial=word).fit(TEXTS, LABELS)
    off = TextClassifier(**text | dict(tune=form, epochs=1)).fit(TEXTS, LABELS)
    assert est.n_trainable_ == off.n_trainable_ and bits(est) != bits(off)
    if form == "head":
        fresh = load_text_base(text["base"], 2, seed=0)[0]
        head = {id(p) for p in head_of(est.model_).parameters()}
        for (name, p), q in zip(est.model_.named_parameters(), fresh.parameters()): assert id(p) in head or torch.equal(p, q), name


@pytest.mark.parametrize("word", ["pgd", "free", "virtual"])
@pytest.mark.parametrize("kind", ["number", "sets", "pictures", "picture numbers"])
def test_every_adversary_goes_with_every_task(text, picture, word, kind):
    how, data, y = {"number": (TextRegressor, TEXTS, NUMBERS), "sets": (TextClassifier, TEXTS, SETS), "pictures": (ImageClassifier, X, Y),
                    "picture numbers": (ImageRegressor, X, np.where(Y == "lit", 3., -1.))}[kind]
    est = how(**picture if how in (ImageClassifier, ImageRegressor) else text, adversarial=word).fit(data, y)
    assert np.isfinite(est.outputs(data)).all() and np.isfinite([h["train_loss"] for h in est.history_]).all()


class Break(Callback):
    order = 200
    def __init__(self, step): self.step = step
    def on_batch_end(self, trainer):
        if trainer.step == self.step: raise RuntimeError("power cut")


@pytest.mark.parametrize("word", WORDS)
def test_the_same_seed_and_a_resumed_run_give_the_same_bits(text, word, tmp_path):
    def est(**more): return TextClassifier(**text | more, adversarial=word)
    more = dict(unlabelled=TEXTS[::-1]) if word == "virtual" else {}
    whole, again = est().fit(TEXTS, LABELS, **more), est().fit(TEXTS, LABELS, **more)
    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): est(callbacks=[Break(3)], **kept).fit(TEXTS, LABELS, **more)
    resumed = est(**kept).fit(TEXTS, LABELS, **more)
    assert bits(whole) == bits(again) == bits(resumed) and resumed.history_ == whole.history_


@pytest.mark.parametrize("word", WORDS)
def test_a_batch_in_pieces_is_trained_too(text, word):
    from finetune_book.train import trainer as loop
    seen, was = [], loop.gradient
    est = TextClassifier(**text, adversarial=word)
    def cut(trainer, *args, **more):
        trainer.micro_batch = 4
        seen.append(1)
        return was(trainer, *args, **more)
    loop.gradient = cut
    try: est.fit(TEXTS, LABELS)
    finally: loop.gradient = was
    assert seen and np.isfinite(est.outputs(TEXTS)).all()


def test_no_adversary_changes_no_bit_and_none_is_a_word_for_it(text, picture):
    for how, settings, data, y in ((TextClassifier, text, TEXTS, LABELS), (ImageClassifier, picture, X, Y)):
        assert bits(how(**settings).fit(data, y)) == bits(how(**settings, adversarial="none").fit(data, y))


def test_free_takes_each_batch_so_often_in_a_row_and_moves_its_change_by_the_parameters_pass(text):
    seen = []
    class Watch(Callback):
        order = 50                                          # after the adversary's own
        def on_batch_end(self, trainer): seen.append([d.clone() for d in next(c for c in trainer.callbacks if hasattr(c, "kept")).kept])
    est = TextClassifier(**text | dict(epochs=1, callbacks=[Watch()]), adversarial="free(replays=3)").fit(TEXTS, LABELS)
    assert len(seen) == 3 * -(-len(TEXTS) // 6) and est.epochs_ == 1
    assert all(a[0].shape == b[0].shape and not torch.equal(a[0], b[0]) for a, b in zip(seen[:2], seen[1:3]))


def test_virtual_learns_from_unlabelled_texts_and_only_virtual_does(text, tmp_path):
    alone = TextClassifier(**text, adversarial="virtual").fit(TEXTS, LABELS)
    more = TextClassifier(**text, adversarial="virtual").fit(TEXTS, LABELS, unlabelled=["some new words", "others"])
    assert bits(alone) != bits(more) and more._more is None, "a fitted model keeps no examples"
    for word in (None, "fgm"):
        with pytest.raises(InputError, match="only adversarial='virtual'"):
            TextClassifier(**text, adversarial=word).fit(TEXTS, LABELS, unlabelled=TEXTS)
    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError):
        TextClassifier(**text, callbacks=[Break(2)], adversarial="virtual", **kept).fit(TEXTS, LABELS, unlabelled=TEXTS)
    with pytest.raises(InputError, match="unlabelled rows"):
        TextClassifier(**text, adversarial="virtual", **kept).fit(TEXTS, LABELS, unlabelled=TEXTS[:4])


def test_unlabelled_texts_may_have_words_that_no_labelled_one_has(text):
    base = dict(text, shortcuts="table")
    est = TextClassifier(**base, adversarial="virtual").fit(["a b", "b a"] * 3, ["x", "y"] * 3, unlabelled=["c d e f g h i j k"] * 9)
    assert np.isfinite(est.outputs(["c d"])).all()


def test_unlabelled_pictures(picture):
    assert ImageClassifier(**picture, adversarial="virtual(eps=.5)").fit(X, Y, unlabelled=X[::-1]).score(X, Y) >= 0


def test_distance_is_zero_at_the_answer_itself_and_never_below():
    z = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    for kind in ("classification", "multilabel", "regression"):
        assert abs(apart(kind, z[0], z[0])) < 1e-6 and apart(kind, z[0], z[1]) > 0
    with pytest.raises(InputError, match="'span'"): apart("span", z[0], z[1])


# --- words ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad, told", [
    ("fgn", "Did you mean 'fgm'"), ("fgm(eps=-.5)", "eps=-0.5: must be a number above 0"), ("pgd(steps=0)", "steps=0"),
    ("pgd(norm=1)", "must be 2, or 'inf'"), ("free(replays=1)", "replays=1"), ("virtual(weight=0)", "weight=0"), ("pgd(eps=1/0)", "written as"),
    ("fgm(size=3)", "it has eps, share"), (7, "must be 'fgm'"), ("", "must be 'fgm'"), ("fgm(share=2)", "share=2"), ("fgm(eps=nan)", "written as")])
def test_a_bad_word_is_refused_in_one_line(bad, told):
    for make in (TextClassifier, ImageClassifier):
        with pytest.raises(InputError) as e: make(adversarial=bad).check_settings()
        assert told in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("word", [*WORDS, "pgd(eps=4/255, steps=7, norm='inf')", "fgm(eps=.5, share=1)", "free(replays=2)"])
def test_a_word_comes_back_as_itself(word): assert as_adversary(str(as_adversary(word))) == as_adversary(word)


def test_saved_and_loaded_with_its_word_in_the_card(text, tmp_path):
    for given in ("fgm(eps=.25)", FGM(.25)):
        est = TextClassifier(**text, adversarial=given).fit(TEXTS, LABELS)
        folder = est.save(tmp_path / "model")
        again = TextClassifier.load(folder)
        assert (again.outputs(TEXTS) == est.outputs(TEXTS)).all() and as_adversary(again.adversarial) == FGM(.25)
        assert '"adversarial": "fgm(eps=' in (folder / "README.md").read_text(encoding="utf-8")
    assert clone(est).adversarial == FGM(.25)


def test_an_adversary_of_ones_own(text):
    @adversary("toyfoe")
    class Toy(Adversary): norm = 2
    try: assert bits(TextClassifier(**text, adversarial="toyfoe").fit(TEXTS, LABELS)) == bits(TextClassifier(**text, adversarial="fgm").fit(TEXTS, LABELS))
    finally: del ADVERSARIES.classes["toyfoe"]


def test_the_command_line_refuses_a_bad_radius(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(TEXTS * 2, LABELS * 2)), encoding="utf-8")
    refused(capsys, ["train", "--data", str(table), "--adversarial", "fgm(eps=-1)", "--out", str(tmp_path / "m")], ["eps=-1"])


# --- judging --------------------------------------------------------------------------------------------------------

@pytest.fixture
def fitted(picture): return ImageClassifier(**picture | dict(epochs=8)).fit(X, Y)


def test_an_attack_never_helps_and_the_same_seed_attacks_alike(fitted):
    clean = fitted.score(X, Y)
    scores = [robust_score(fitted, X, Y, f"pgd(eps={e}, steps=5)", restarts=2) for e in (1e-6, .2, 1.)]
    assert clean >= scores[0] >= scores[-1]
    a, b = (attacked_outputs(fitted, X, Y, "pgd(eps=.2)", seed=3) for _ in range(2))
    assert (a == b).all() and (a != attacked_outputs(fitted, X, Y, "pgd(eps=.2)", seed=4)).any()


def test_the_worst_is_a_wrong_answer_first_then_a_high_loss():
    out, y = torch.tensor([[.4, .5, .1], [-9., -9.1, -20.], [3., 0., 0.]]), torch.tensor([0, 0, 0])
    worse = hurt("classification", out, y)
    assert worse[0] > worse[1] > worse[2]


def test_who_cannot_attack_is_refused(fitted):
    for word in ("free", "virtual", None, "toast"):
        with pytest.raises(InputError, match="must be"): robust_score(fitted, X, Y, word)
    with pytest.raises(InputError, match="restarts=0"): robust_score(fitted, X, Y, restarts=0)


def test_a_loaded_model_can_be_attacked(fitted, tmp_path):
    again = ImageClassifier.load(fitted.save(tmp_path / "m"))
    assert (attacked_outputs(again, X, Y, "fgsm") == attacked_outputs(fitted, X, Y, "fgsm")).all()


def test_a_false_defence_is_exposed_and_a_plain_model_is_not_accused(fitted):
    fake = copy.deepcopy(fitted)
    with torch.no_grad():
        for p in head_of(fake.model_).parameters(): p *= 1e6
    assert (fake.predict(X) == fitted.predict(X)).all()
    told = gradient_checks(fake, X, Y, eps=.3, other=fitted, steps=(1, 5))
    assert not told[0]["holds"] and len(told) == 5
    assert gradient_checks(fitted, X, Y, eps=.3, steps=(1, 5))[0]["holds"]


def test_mistakes_keep_what_denies_and_do_no_less_harm_than_none(text):
    est = TextClassifier(**text).fit(TEXTS, LABELS)
    notes = ["denies fever and has cough today"] * len(LABELS)
    for change in ("typo", "swap"):
        found = worst_texts(est, notes, LABELS, change, edits=3, tries=4)
        assert len(found) == len(notes) and all(t.startswith("denies fever") for t in found)
        assert found == worst_texts(est, notes, LABELS, change, edits=3, tries=4)
        assert est.score(worst_texts(est, TEXTS, LABELS, change), LABELS) <= est.score(TEXTS, LABELS) or len(set(LABELS)) > 2
    assert worst_texts(est, ["no", "a b", "12 no"], LABELS[:3]) == ["no", "a b", "12 no"]
    with pytest.raises(InputError, match="change='rot13'"): worst_texts(est, TEXTS, LABELS, "rot13")
