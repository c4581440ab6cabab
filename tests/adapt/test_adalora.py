"""AdaLoRA: the penalty, the scores, the budget, PEFT's numbers and files, and what it refuses."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, TextClassifier
from finetune_book.adapt import as_method
from finetune_book.adapt.adalora import AdaLora, Importance, RankAllocator, add_adalora, budget_at, most_important, orthogonality
from finetune_book.adapt.files import Adapter
from finetune_book.adapt.lora import Adapters, Lora, adapted, merge_lora, put_adapter
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.train.trainer import Callback
from finetune_book.vision.bases import load_image_base

X, Y = pictures(12)


@pytest.fixture
def text(tiny_base): return load_text_base(tiny_base, 3, seed=0)[0]


@pytest.fixture
def picture(tiny_picture_base): return load_image_base(tiny_picture_base, 3, seed=0)[0]


@pytest.fixture
def peft(): return pytest.importorskip("peft", reason="peft is not installed (pip install peft): whether our numbers are its numbers stays untested")


def near(a, b, limit=1e-5):
    a, b = a.detach(), b.detach()
    assert (a - b).abs().max() <= limit * max(1., float(b.abs().max())), float((a - b).abs().max())


def inputs_of(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    if hasattr(model.config, "vocab_size"): return dict(input_ids=torch.randint(5, 40, (6, 7), generator=g))
    return dict(pixel_values=torch.randn(6, 3, 8, 8, generator=g))


@torch.no_grad()
def said(model, inputs):
    out = model.eval()(**inputs)
    return getattr(out, "logits", out).clone()


def learned(model, seed=0):
    "Whatever moves is changed, and some directions are gone: as after a training."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p += .1 * torch.randn(p.shape, generator=g)
        for i, layer in enumerate(adapted(model).values()): layer.lora_E[i % 4:] = 0.
    return model


# --- the parts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["text", "picture"])
def test_the_sides_begin_orthonormal_and_by_the_seed(kind, request):
    model = request.getfixturevalue(kind)
    before = torch.get_rng_state()
    layers, budget = add_adalora(model, seed=3)
    assert all(orthogonality(m.lora_B, m.lora_A) < 1e-9 and not m.lora_E.any() for m in layers.values())
    again, _ = add_adalora(fresh(kind, request), seed=3)
    assert all(torch.equal(m.lora_A, again[n].lora_A) for n, m in layers.items())
    assert budget == 8 * len(layers) and torch.equal(before, torch.get_rng_state())


def fresh(kind, request):
    if kind == "text": return load_text_base(request.getfixturevalue("tiny_base"), 3, seed=0)[0]
    return load_image_base(request.getfixturevalue("tiny_picture_base"), 3, seed=0)[0]


def test_sides_that_are_orthonormal_to_within_rounding_are_left_alone(text):
    layers, _ = add_adalora(text, seed=1)
    for layer in layers.values():
        orthogonality(layer.lora_B, layer.lora_A).backward()
        assert layer.lora_A.grad.abs().max() < 1e-5


def test_importance_by_hand():
    w, seen = nn.Parameter(torch.tensor([2., -1.])), Importance(.5, .75)
    for grad in ([3., 0.], [0., 4.]):
        w.grad = torch.tensor(grad)
        seen.look([("w", w)])
    near(seen.mean["w"], torch.tensor([1.5, 2.]))
    near(seen.stray["w"], torch.tensor([.75 * .75 + .25 * 1.5, .25 * 2.]))


@pytest.mark.parametrize("settings", [(12, 8, 10, 0, 0), (228, 152, 100, 10, 30), (5, 5, 7, 2, 2), (9, 3, 1, 0, 0), (9, 3, 3, 1, 1)])
def test_the_budget_falls_from_the_first_to_the_last_and_never_rises(settings):
    first, last, total, wait, rest = settings
    told = [budget_at(t, *settings) for t in range(1, total + 3)]
    assert told == sorted(told, reverse=True) and told[-1] == last and all(last <= b <= first for b in told)
    assert all(budget_at(t, *settings) == first for t in range(wait + 1)) and budget_at(total - rest, *settings) == last


def test_equal_scores_never_leave_more_than_the_budget():
    for scores, budget in (({"a": torch.zeros(4)}, 2), ({"a": torch.ones(2), "b": torch.tensor([1., 2.])}, 2)):
        assert sum(int(k.sum()) for k in most_important(scores, budget).values()) <= budget
    assert all(k.all() for k in most_important({"a": torch.zeros(4)}, 4).values())


# --- in training ---------------------------------------------------------------------------------------------------

SMALL = dict(epochs=4, batch_size=6, verbose=0, device="cpu")


@pytest.mark.parametrize("word, total", [("adalora(r=2, start=6)", 26), ("adalora(r=3)", 39), ("adalora(r=2, start=2)", 26), ("adalora(r=1, start=4, wait=0.0, rest=0.0, every=3)", 13)])
def test_in_the_end_so_many_directions_are_left_as_the_budget_says(tiny_base, word, total):
    est = TextClassifier(base=tiny_base, tune=word, lr=.02, max_length=16, **SMALL).fit(TEXTS, LABELS)
    assert sum(est.adapter_.rank(n) for n in est.adapter_.layers) == total
    assert est.adapter_.svd.keys() == est.adapter_.layers.keys()


class Watched(Callback):
    "What the allocator has seen: it must have been called at each step."
    order = 50
    def on_fit_start(self, trainer): [self.allocator] = [c for c in trainer.callbacks if isinstance(c, RankAllocator)]
    def on_batch_end(self, trainer): assert len(self.allocator.history) == trainer.step


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_allocator_is_called_at_each_step_and_sees_gradients(tiny_base, precision):
    watched = Watched()
    TextClassifier(base=tiny_base, tune="adalora(r=2, start=5, wait=0.25)", lr=.02, max_length=16, precision=precision, callbacks=[watched], **SMALL).fit(TEXTS, LABELS)
    seen = watched.allocator
    assert seen.history[0] == 65 and seen.history[-1] == 26 and seen.history == sorted(seen.history, reverse=True)
    assert all(t.isfinite().all() and t.max() > 0 for t in seen.seen.mean.values())
    assert not any(h.id in (h.hooks_dict_ref() or {}) for h in seen.handles)


def test_without_a_penalty_the_sides_drift_further(tiny_base):
    def drift(orth):
        model = load_text_base(tiny_base, 3, seed=0)[0]
        layers, _ = add_adalora(model, r=2, start=4)
        allocator = RankAllocator(layers, 26, orth=orth)
        allocator.total = 30
        method = AdaLora(r=2, start=4)
        for p in model.parameters(): p.requires_grad_(False)
        for layer in layers.values():
            for p in (layer.lora_A, layer.lora_B, layer.lora_E): p.requires_grad_(True)
        opt, inputs = torch.optim.Adam(method.groups(model, .01)), inputs_of(model)
        for t in range(1, 31):
            opt.zero_grad()
            nn.functional.cross_entropy(model(**inputs).logits, torch.arange(6) % 3).backward()
            allocator.pull(); opt.step(); allocator.choose(t)
        return sum(float(orthogonality(m.lora_B, m.lora_A)) for m in layers.values())
    assert drift(5.) < .8 * drift(0.)


class Break(Callback):
    order = 200
    def __init__(self, step): self.step = step
    def on_batch_end(self, trainer):
        if trainer.step == self.step: raise RuntimeError("power cut")


@pytest.mark.parametrize("step", [1, 3, 6, 7])
def test_resumed_it_keeps_the_same_directions(tiny_base, tmp_path, step):
    settings = dict(base=tiny_base, tune="adalora(r=2, start=6, rest=0.2)", lr=.02, max_length=16, **SMALL)
    whole = TextClassifier(**settings).fit(TEXTS, LABELS)
    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): TextClassifier(**settings, **kept, callbacks=[Break(step)]).fit(TEXTS, LABELS)
    again = TextClassifier(**settings, **kept).fit(TEXTS, LABELS)
    assert again.adapter_.layers.keys() == whole.adapter_.layers.keys()
    assert all(torch.equal(a, b) for n in whole.adapter_.layers for a, b in zip(whole.adapter_.layers[n], again.adapter_.layers[n]))
    assert again.history_ == whole.history_


# --- PEFT ----------------------------------------------------------------------------------------------------------

STEPS = 20


def both(peft, model):
    "(ours, its allocator, PEFT's) with the same triplets, the same head and the same schedule."
    config = peft.AdaLoraConfig(task_type="SEQ_CLS", init_r=6, target_r=4, lora_alpha=12, target_modules=["query", "value", "output.dense"],
                                total_step=STEPS, tinit=3, tfinal=5, deltaT=2, orth_reg_weight=0.)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    method = AdaLora(r=4, start=6, alpha=12., targets="query+value+output.dense", wait=3 / STEPS, rest=5 / STEPS, every=2, orth=0.)
    method.attach(model)
    [allocator] = method.callbacks(model)
    allocator.total = STEPS
    inner, named = theirs.base_model.model, dict(theirs.base_model.model.named_parameters())
    with torch.no_grad():
        for name, layer in adapted(model).items():
            for part in "AB": getattr(inner.get_submodule(name), f"lora_{part}")["default"].copy_(getattr(layer, f"lora_{part}"))
        for name, p in model.named_parameters():
            if "classifier" in name: named[name.replace("classifier", "classifier.modules_to_save.default")].copy_(p)
    return model.eval(), allocator, theirs.eval()


def test_the_same_weights_and_gradients_give_pefts_importance_mask_and_answers(peft, text):
    ours, allocator, theirs = both(peft, text)
    inner, ranks = theirs.base_model.model, theirs.base_model.rankallocator
    opt, other = (torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=.5) for m in (ours, theirs))
    left = set()
    for t in range(1, STEPS + 1):
        inputs, y = inputs_of(ours, t), torch.arange(6) % 3
        opt.zero_grad(); other.zero_grad()
        nn.functional.cross_entropy(ours(**inputs).logits, y).backward()
        allocator.pull(); opt.step(); allocator.choose(t)
        theirs(**inputs, labels=y).loss.backward()
        other.step(); theirs.base_model.update_and_allocate(t)
        for name, layer in adapted(ours).items():
            for part in "AEB":
                if f"{name}.lora_{part}.default" not in ranks.exp_avg_ipt: continue             # PEFT forgets them in the end
                mean, stray = (kept[f"{name}.lora_{part}.default"] for kept in (ranks.exp_avg_ipt, ranks.exp_avg_unc))
                for mine, its in ((allocator.seen.mean, mean), (allocator.seen.stray, stray)):
                    assert (mine[f"{name}.lora_{part}"].view_as(its) - its).abs().max() <= 1e-3 * its.abs().max()
            assert torch.equal(inner.get_submodule(name).lora_E["default"].flatten() != 0, layer.lora_E != 0)
        near(said(ours, inputs), said(theirs, inputs), 1e-4)
        left.add(allocator.history[-1])
    assert max(left) == 48 and min(left) == allocator.history[-1] == 32 and len(left) > 4


def test_pefts_penalty_is_ours_without_the_squares(peft, text):
    ours, _, theirs = both(peft, text)
    learned(ours)
    inner, squares = theirs.base_model.model, []
    with torch.no_grad():
        for name, layer in adapted(ours).items():
            for part in "AB": getattr(inner.get_submodule(name), f"lora_{part}")["default"].copy_(getattr(layer, f"lora_{part}"))
            squares += [orthogonality(layer.lora_B, torch.eye(1)), orthogonality(torch.eye(1), layer.lora_A)]
        losses = []
        for weight in (0., 1.):
            theirs.peft_config["default"].orth_reg_weight = weight
            losses.append(theirs(**inputs_of(ours), labels=torch.arange(6) % 3).loss)
    near(losses[1] - losses[0], torch.stack(squares).sqrt().mean(), 1e-4)


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_peft_opens_ours_as_what_it_is_and_as_plain_lora(peft, kind, request, tmp_path):
    from dataclasses import replace
    model = request.getfixturevalue(kind)
    plain, inputs, method = copy.deepcopy(model), inputs_of(model), AdaLora(r=4, start=5)
    method.attach(model)
    ours = said(learned(model), inputs)
    adapter = method.adapter(model, "a base")
    for form, kind_of in ((adapter, "ADALORA"), (replace(adapter, svd={}), "LORA")):
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), form.write(tmp_path / kind_of))
        assert theirs.peft_config["default"].peft_type.value == kind_of
        near(said(theirs, inputs), ours)
        near(said(put_adapter(copy.deepcopy(plain), Adapter.read(tmp_path / kind_of)), inputs), ours)
    near(said(merge_lora(model), inputs), ours)


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_we_open_pefts(peft, kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    targets = ["query", "output.dense"] if kind == "text" else ["conv1", "conv2"]
    more = dict(task_type="SEQ_CLS") if kind == "text" else dict(modules_to_save=["fc"])
    theirs = peft.get_peft_model(model, peft.AdaLoraConfig(init_r=6, target_r=2, lora_alpha=7, target_modules=targets, total_step=9, **more))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad: p += .1 * torch.randn(p.shape, generator=g)
    names = [n for n, _ in theirs.base_model.model.named_parameters() if "lora_E" in n]
    pattern = {n: [j <= i % 6 and i > 0 for j in range(6)] for i, n in enumerate(names)}           # of one layer nothing is left
    theirs.base_model.rankallocator.mask_using_rank_pattern(theirs.base_model.model, pattern)
    theirs.peft_config["default"].rank_pattern = pattern
    told = said(theirs, inputs)
    theirs.save_pretrained(tmp_path / "a")
    adapter = Adapter.read(tmp_path / "a")
    near(said(put_adapter(copy.deepcopy(plain), adapter), inputs), told)
    shelf = Adapters(copy.deepcopy(plain))
    shelf.add("theirs", adapter)
    near(torch.stack(shelf(["theirs"] * 6, **inputs)), told)
    again = Adapter.read(adapter.write(tmp_path / "b"))
    near(said(merge_lora(put_adapter(plain, again)), inputs), told)


# --- files and refusals --------------------------------------------------------------------------------------------

def test_saved_alone_it_opens_and_says_the_same(tiny_base, tiny_picture_base, tmp_path):
    cases = ((TextClassifier(base=tiny_base, tune="adalora(r=2, start=5)", lr=.02, max_length=16, **SMALL), TEXTS, LABELS),
             (ImageClassifier(base=tiny_picture_base, tune="adalora(r=2)", lr=.02, **SMALL), X, Y))
    for i, (est, data, y) in enumerate(cases):
        est.fit(data, y)
        alone = type(est).load(est.save(tmp_path / str(i)) / "adapter", device="cpu")
        assert np.abs(alone.outputs(data) - est.outputs(data)).max() < 1e-4
        again = type(est).load(alone.save(tmp_path / f"{i} again") / "adapter", device="cpu")
        assert np.abs(again.outputs(data) - est.outputs(data)).max() < 1e-4 and again.adapter_.svd


@pytest.mark.parametrize("word, told", [
    ("adalora(r=0)", "r=0: must be a whole number, at least 1"), ("adalora(r=8, start=4)", "start=4: must be a whole number, at least 8"), ("adalora(alpha=0)", "alpha=0"),
    ("adalora(wait=.5, rest=.5)", "wait=0.5, rest=0.5: together below 1"), ("adalora(every=0)", "every=0"), ("adalora(orth=-1)", "orth=-1"), ("adalora(rest=1)", "rest=1"),
    ("adalora(beta=1)", "adalora has no such setting; it has r, start, alpha, targets, wait, rest, every, orth"), ("adalorra", "Did you mean 'adalora'")])
def test_settings_that_cannot_work(word, told):
    with pytest.raises(InputError, match=told): as_method(word)


def test_ranks_that_a_layer_cannot_have(text):
    with pytest.raises(InputError, match=r"r=17: the matrix of bert.encoder.layer.0.attention.self.query is 16 × 16"): AdaLora(r=17).attach(text)
    with pytest.raises(InputError, match=r"start=17: the matrix of .* has 16 directions at most"): AdaLora(start=17).attach(text)
    with pytest.raises(InputError, match="start=3: must be at least r, which is 8"): AdaLora(start=3).attach(text)
    with pytest.raises(InputError, match="targets='nose'"): AdaLora(targets="nose").attach(text)
    assert not adapted(text)
    Lora().attach(text)
    with pytest.raises(InputError, match="low rank already"): AdaLora().attach(text)


def test_small_layers_get_what_they_can_have():
    layers, budget = add_adalora(nn.Sequential(nn.Linear(3, 20), nn.Linear(20, 20)))
    assert [m.lora_E.numel() for m in layers.values()] == [3, 12] and budget == 11


@pytest.mark.parametrize("word", ["adalora", "adalora(r=4)", "adalora(r=4, start=6, wait=0.2)"])
def test_a_method_is_written_as_the_word_that_makes_it(word): assert str(as_method(word)) == word


@pytest.mark.parametrize("change, told", [(dict(init_r=0), "init_r=0"), (dict(init_r="x"), "init_r='x'"), (dict(peft_type="LORA"), "has only half of"), (dict(lora_alpha=-1), "lora_alpha=-1")])
def test_files_that_do_not_fit_together(text, tmp_path, change, told):
    import json
    method = AdaLora(r=2)
    method.attach(text)
    path = method.adapter(learned(text)).write(tmp_path / "a") / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=told): Adapter.read(tmp_path / "a")
