"""One contract for every way of fine-tuning: each kind of rows with each task and each method, the registered ones and a toy.

Nothing here names a method but the toy that lives in helpers/nudge.py: a method that is added later is tested by being there.
"""
import copy
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nudge  # noqa: F401  registers itself: adding a method is adding a file
from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, ImageRegressor, QuestionAnswerer, TextClassifier, TextGenerator, TextMatcher, TextRegressor
from finetune_book.adapt import METHODS, as_method
from finetune_book.adapt.freeze import weights_hash
from finetune_book.data.squad import Question
from finetune_book.rows import logits_of
from finetune_book.tasks.answer import Span
from finetune_book.tasks.classify import Classify
from finetune_book.tasks.generate import NextToken
from finetune_book.tasks.heads import head_of
from finetune_book.tasks.labels import Labels, kind_of
from finetune_book.tasks.match import Match
from finetune_book.tasks.regress import Regress
from finetune_book.text.answerer import WindowRows
from finetune_book.text.generator import GenerateRows
from finetune_book.text.matcher import MatchRows
from finetune_book.text.pairs import PairClassifier, PairRows
from finetune_book.text.rows import TextRows
from finetune_book.train.trainer import Callback
from finetune_book.vision.rows import ImageRows

WORDS = [form.replace("-K", "-1") for form in METHODS]
X, Y = pictures(12)
PLACES = ("left knee", "right head", "bad chest", "two days")
ASKED = [Question(f"{i}{j}", f"the {what} has", f"{'no fever denies ' * i}the {what} has {place}.", ((place, 16 * i + 9 + len(what)),) if j < 3 else ())
         for i, place in enumerate(PLACES) for j, what in enumerate(("pain", "fever", "cough", "ache"))]
NUMBERS = np.array([3. if label == "yes" else -1. for label in LABELS])
CASES = {                                   # name → estimator, examples, targets
    "texts into classes": (TextClassifier, TEXTS, np.array(LABELS)),
    "texts to a number": (TextRegressor, TEXTS, NUMBERS),
    "pictures into classes": (ImageClassifier, X, Y),
    "pictures to a number": (ImageRegressor, X, np.where(Y == "lit", 3., -1.)),
    "texts that match": (TextMatcher, TEXTS, np.array(LABELS)),
    "texts that go on": (TextGenerator, TEXTS, LABELS),
    "pairs into classes": (PairClassifier, list(zip(TEXTS, TEXTS[::-1])), np.array(LABELS)),
    "answers in passages": (QuestionAnswerer, ASKED, None),
    "texts to several labels": (TextClassifier, TEXTS, [[label, "long"] if " " in text else [label] for text, label in zip(TEXTS, LABELS)]),
    "pictures to several labels": (ImageClassifier, X, np.stack([Y == "lit", np.arange(12) % 3 == 0], 1).astype(int)),
}
FEW = {TextMatcher: ("full", "lora"), TextGenerator: ("full", "head", "lora", "gradual"), PairClassifier: ("full", "lora"), QuestionAnswerer: ("full", "lora")}
def goes(case, tune): return tune in FEW.get(CASES[case][0], WORDS)
EVERY = [pytest.param(case, tune, id=f"{case}, {tune}") for case in CASES for tune in WORDS if goes(case, tune)]


@pytest.fixture(scope="module")
def settings(tiny_base, tiny_picture_base, tiny_decoder):
    "Small settings by case; nothing is drawn but what the seed decides."
    text = dict(base=tiny_base, epochs=3, lr=.02, batch_size=6, max_length=16, verbose=0, device="cpu")
    picture = dict(base=tiny_picture_base, epochs=3, lr=.02, batch_size=6, augment="crop", verbose=0, device="cpu")
    special = {ImageClassifier: picture, ImageRegressor: picture, TextGenerator: text | dict(base=tiny_decoder, max_length=40),
               QuestionAnswerer: text | dict(max_length=18)}                       # the longest passage takes two windows
    return {case: special.get(kind, text) for case, (kind, *_) in CASES.items()}


@pytest.fixture
def make(settings, request):
    "Function that makes the estimator of a case with a method; more settings on top."
    def estimator(case, tune, **more): return CASES[case][0](**{**settings[case], **more}, tune=tune)
    return estimator


@pytest.fixture(scope="module")
def fitted(settings):
    "Function that gives a case fitted with a method and seed 0, each once: for tests that only look at it."
    return cache(lambda case, tune: fit(CASES[case][0](**settings[case], tune=tune), case))


def given(est, case):
    "Examples and targets as the five steps take them."
    X, y = CASES[case][1:]
    return est._pairs(X, y)[0] if hasattr(est, "_pairs") else (X, y)


def opened(est, case):
    "A model with a fresh head, the rows that read for it, a batch of inputs and its targets, and the task."
    X, y = given(est, case)
    rows, task = est._rows(), est._task(kind_of(y))
    targets = task.learn(task.aligned(y, len(X)))
    model = rows.open(est.base, task, est.seed)
    return model, rows.collate(rows.prepare(rows.check(X)), np.arange(len(X))), targets, task


@torch.no_grad()
def said(model, inputs):
    return logits_of(model.eval()(**inputs)).clone()


def bits(est): return weights_hash({k: v for k, v in est.model_.state_dict().items() if v.is_floating_point()})
def examples(est, case): return given(est, case)[0] if isinstance(est, QuestionAnswerer) else CASES[case][1]
def fit(est, case, **more): return est.fit(CASES[case][1], CASES[case][2], **more)


@pytest.mark.parametrize("case, tune", EVERY)
def test_at_step_zero_nothing_changes(make, case, tune):
    model, inputs, *_ = opened(make(case, tune), case)
    before = said(model, inputs)
    moving = as_method(tune).attach(model, 0)
    assert (said(model, inputs) - before).abs().max() == 0
    assert moving == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


class Flags(Callback):
    "The parameters that were ever allowed to move, by identity."
    def on_fit_start(self, trainer): self.moved = set()
    def on_batch_end(self, trainer): self.moved |= {id(p) for p in trainer.model.parameters() if p.requires_grad}


@pytest.mark.parametrize("case, tune", EVERY)
def test_what_should_moves_and_nothing_else_bit_for_bit(make, case, tune, monkeypatch):
    seen = SimpleNamespace()
    method = as_method(tune)
    attach = type(method).attach
    def watched(self, model, seed=0):
        count = attach(self, model, seed)
        seen.model, seen.before = model, {n: p.detach().clone() for n, p in model.named_parameters()}
        return count
    monkeypatch.setattr(type(method), "attach", watched)
    monkeypatch.setattr(type(method), "merge", lambda self, model: model)         # look before anything is folded
    flags = Flags()
    est = fit(make(case, tune, callbacks=[flags]), case)
    changed = {n for n, p in seen.model.named_parameters() if not torch.equal(p, seen.before[n])}
    allowed = {n for n, p in seen.model.named_parameters() if id(p) in flags.moved}
    if isinstance(est, (TextRegressor, ImageRegressor)):                               # `finish` scales the head
        head = {id(p) for p in head_of(seen.model).parameters()}
        allowed |= {n for n, p in seen.model.named_parameters() if id(p) in head}
    assert changed and changed <= allowed


@pytest.mark.parametrize("case, tune", EVERY)
def test_saved_and_loaded_says_the_same(fitted, case, tune, tmp_path):
    est = fitted(case, tune)
    again = type(est).load(est.save(tmp_path / "model"), device="cpu")
    assert np.array_equal(again.outputs(examples(again, case)), est.outputs(examples(est, case))) and bits(again) == bits(est)
    assert again.get_params()["tune"] == tune and again.n_trainable_ == est.n_trainable_


@pytest.mark.parametrize("case, tune", EVERY)
def test_kept_state_and_merged_model_answer_as_the_attached_one(make, case, tune):
    model, inputs, *_ = opened(make(case, tune), case)
    method, fresh = as_method(tune), copy.deepcopy(model)
    method.attach(model, 0); method.attach(fresh, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p += .1 * torch.randn(p.shape, generator=generator)
    attached = said(model, inputs)
    method.load(fresh, method.state(model))
    assert torch.equal(said(fresh, inputs), attached)
    assert (said(method.merge(model), inputs) - attached).abs().max() <= 1e-5 * attached.abs().max().clamp(min=1)


@pytest.mark.parametrize("case, tune", EVERY)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make, fitted, case, tune):
    one, two, other = fitted(case, tune), fit(make(case, tune, seed=0), case), fit(make(case, tune, seed=1), case)
    assert bits(one) == bits(two) != bits(other) and one.history_ == two.history_


class Break(Callback):
    "A power cut after some steps."
    order = 200
    def __init__(self, step): self.step = step
    def on_batch_end(self, trainer):
        if trainer.step == self.step: raise RuntimeError("power cut")


@pytest.mark.parametrize("case, tune", EVERY)
def test_cut_off_and_resumed_gives_the_same_bits(make, fitted, case, tune, tmp_path):
    whole = fitted(case, tune)
    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): fit(make(case, tune, callbacks=[Break(3)], **kept), case)
    resumed = fit(make(case, tune, **kept), case)
    assert bits(resumed) == bits(whole) and resumed.history_ == whole.history_ and resumed.budget_.epochs < whole.budget_.epochs


@pytest.mark.parametrize("case, tune", EVERY)
def test_neighbours_padding_and_order_change_no_answer(fitted, case, tune):
    est = fitted(case, tune)
    data = examples(est, case)
    def outputs(X): return np.nan_to_num(est.outputs(X), neginf=0)                 # where no answer can be, outputs are minus infinity
    together = outputs(data)
    alone = np.vstack([outputs(data[i:i + 1]) for i in range(len(data))])
    order = np.random.default_rng(0).permutation(len(data))
    mixed = outputs([data[i] for i in order] if isinstance(data, list) else data[order])
    limit = 1e-5 * max(1., np.abs(together).max())
    assert np.abs(alone - together).max() < limit and np.abs(mixed - together[order]).max() < limit


@pytest.mark.parametrize("tune", [word for word in WORDS if not as_method(word).thaws])
def test_a_method_keeps_all_its_parts_where_batchnorm_is_kept(make, tune, tmp_path):
    "freeze_norm wraps the method: what the method folds in, watches or saves must not be lost on the way."
    case = "pictures into classes"
    est = fit(make(case, tune, freeze_norm=True), case)
    again = type(est).load(est.save(tmp_path / "model"), device="cpu")
    assert np.array_equal(again.outputs(X), est.outputs(X))
    kept, method = est._method(), as_method(tune)
    parts = ("groups", "callbacks", "rate", "state", "load", "merge")
    assert all(getattr(kept, part).__func__ is getattr(method, part).__func__ for part in parts)


def steps_on_one_batch(model, method, task, inputs, y, lr):
    "Losses of 100 plain steps on one batch, dropout off."
    optimizer, losses = torch.optim.Adam(method.groups(model, lr, 0.), fused=True), []
    model.eval()
    for _ in range(100):
        loss = task.loss(logits_of(model(**inputs)), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("case, tune", EVERY)
def test_one_batch_can_be_learnt_by_heart(make, case, tune):
    "At one of two rates the loss on one batch falls below half of what it was; the second is tried only where the first will not do."
    est = make(case, tune)
    def low(lr):
        (model, inputs, targets, task), method = opened(est, case), as_method(tune)
        method.attach(model, 0)
        losses = steps_on_one_batch(model, method, task, inputs, targets, lr)
        return losses[-1] / losses[0]
    assert any(low(lr) < .5 for lr in (.1, .01))


def test_tasks_and_rows_are_what_the_estimators_answer_with(make):
    assert {type(make(case, "full")._rows()) for case in CASES} == {TextRows, MatchRows, GenerateRows, PairRows, WindowRows, ImageRows}
    assert {type(make(case, "full")._task(kind_of(y))) for case, (*_, y) in CASES.items()} == {Classify, Labels, Match, NextToken, Regress, Span}


def test_the_toy_stands_in_every_list_of_methods():
    "One file made it choosable by word, with settings, in help and in errors."
    from finetune_book.adapt import tune_choices, tune_help
    from finetune_book.checks import InputError
    assert "nudge" in tune_choices() and "nudge" in tune_help() and as_method("nudge(boost=2)") == nudge.Nudge(2)
    with pytest.raises(InputError, match="Did you mean 'nudge'"): TextClassifier(tune="nudgr").fit(TEXTS, LABELS)
    with pytest.raises(InputError, match="boost=0: must be a number above 0"): as_method("nudge(boost=0)")
    with pytest.raises(InputError, match="nudge has no such setting; it has boost"): as_method("nudge(size=1)")
