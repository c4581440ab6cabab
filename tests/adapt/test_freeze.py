"""Freezing: what must stay does, bit for bit, in any architecture, and each wrong setting is refused."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune_book.checks import InputError
from finetune_book.adapt import as_method
from finetune_book.adapt.freeze import Full, Gradual, Head, TopK, layer_groups, param_groups, unfreeze_top, weights_hash
from finetune_book.text.bases import load_text_base
from finetune_book.tasks.heads import head_of
from examples import save_other

KINDS = ["bert", "roberta", "distilbert", "gpt2"]


@pytest.fixture(scope="module")
def models(tiny_base, tmp_path_factory):
    "kind → (model with two layers, batch)."
    folder, made = tmp_path_factory.mktemp("kinds"), {}
    for kind in KINDS:
        model, tok = load_text_base(tiny_base if kind == "bert" else save_other(kind, folder / kind, tiny_base), 3)
        made[kind] = model, dict(tok(["chest pain", "no fever for two days", "good room"], padding=True, return_tensors="pt"))
    return made


def train(model, batch, steps=3, optimizer=torch.optim.AdamW, **settings):
    groups = param_groups(model, 1e-2, .9, weight_decay=.1)
    opt = optimizer(groups, **settings)
    batch = {k: v for k, v in batch.items() if k != "token_type_ids"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        for _ in range(steps):
            opt.zero_grad()
            F.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 2])).backward()
            opt.step()
    return opt


def hashes(model): return {name: weights_hash([p]) for name, p in model.named_parameters()}
def changed(before, model): return {name for name, h in hashes(model).items() if h != before[name]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_exactly_one_group_in_order(models, kind):
    model, _ = models[kind]
    groups = layer_groups(model)
    ids = [id(p) for _, ps in groups for p in ps]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert [name for name, _ in groups] == ["embeddings", "layer 0", "layer 1", "head"]
    head = {id(p) for p in groups[-1][1]}
    assert all(id(p) in head for p in head_of(model).parameters())


def test_eleven_layers_are_in_the_order_of_numbers_not_of_letters(tiny_base):
    from transformers import BertConfig, BertForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=11, num_attention_heads=2, intermediate_size=8))
    assert [n for n, _ in layer_groups(model)] == ["embeddings", *(f"layer {i}" for i in range(11)), "head"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tune", ["head", "top-1", "top-2", "gradual", "full"])
@pytest.mark.parametrize("optimizer, settings", [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": .9})], ids=["AdamW", "SGD"])
def test_frozen_stays_to_the_bit_and_the_rest_moves(models, kind, tune, optimizer, settings):
    model, batch = models[kind]
    model = copy.deepcopy(model)
    count = as_method(tune).attach(model)
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert count == sum(p.numel() for n, p in model.named_parameters() if n in free)
    before = hashes(model)
    train(model, batch, optimizer=optimizer, **settings)
    moved = changed(before, model)
    assert moved <= free and moved, "a frozen parameter moved"
    # a key's bias adds the same to every score of a row, so softmax gives it no gradient but rounding; SGD need not move it
    assert {n for n in free - moved if "key" not in n} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_gradual_unfreezing_moves_one_group_more_a_stage(models, kind):
    model, batch = models[kind]
    model = copy.deepcopy(model)
    groups = layer_groups(model)
    opt = torch.optim.AdamW(param_groups(model, 1e-2, weight_decay=.1))
    batch = {k: v for k, v in batch.items() if k != "token_type_ids"}
    for k in (0, 1, 2):
        unfreeze_top(model, k)
        before = [weights_hash(ps) for _, ps in groups]
        for _ in range(2):
            opt.zero_grad()
            F.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 2])).backward()
            opt.step()
        assert [name for (name, ps), h in zip(groups, before) if weights_hash(ps) != h] == ["embeddings", "layer 0", "layer 1", "head"][3 - k:]


def test_freezing_again_drops_old_gradients_and_old_momentum_does_nothing(models):
    "Thaw, train, freeze, train on with the same optimizer: its moments must not push what is frozen now."
    model, batch = models["bert"]
    model = copy.deepcopy(model)
    opt = train(model, batch)
    Head().attach(model)
    before = hashes(model)
    F.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 2])).backward()
    opt.step()
    assert changed(before, model) == {"classifier.weight", "classifier.bias"}


def test_head_is_the_last_linear_layer_alone(models):
    model = copy.deepcopy(models["bert"][0])
    assert Head().attach(model) == 16 * 3 + 3
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert Gradual().attach(model) == 16 * 3 + 3 + 16 * 16 + 16
    assert Full().attach(model) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("bad", ["", "Full", "top", "top-", "top-0", "top--1", "top-1.5", "top-1 ", "top-٣", "all", None, 3, "top-99999"])
def test_unknown_ways_name_the_allowed_ones(bad):
    with pytest.raises(InputError, match=r"must be 'full', 'head', 'top-K'.*'gradual'.*\(K is a whole number from 1, as in 'top-2'\)"): as_method(bad)


def test_known_ways():
    assert [as_method(t) for t in ("head", "full", "gradual", "top-1", "top-12", "top(k=12)")] == [Head(), Full(), Gradual(), TopK(1), TopK(12), TopK(12)]


def test_more_layers_than_there_are(models):
    for k in (3, -1, True, 1.):
        with pytest.raises(InputError, match="has 2 layers"): unfreeze_top(models["bert"][0], k)


def test_rates_by_hand(models):
    "lr 0.8, factor 1/2, two layers: head 0.8, layer 1 0.4, layer 0 0.2, embeddings 0.1."
    model, _ = models["bert"]
    rate = {id(p): g["lr"] for g in param_groups(model, .8, .5, .01) for p in g["params"]}
    by_hand = {"embeddings": .1, "layer.0": .2, "layer.1": .4, "pooler": .8, "classifier": .8}
    for name, p in model.named_parameters(): assert rate[id(p)] == pytest.approx(next(v for k, v in by_hand.items() if k in name), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_no_decay_on_biases_and_norms_and_nobody_twice(models, kind):
    model, _ = models[kind]
    groups = param_groups(model, 1e-3, .9, .05)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    for g in groups: assert {p.ndim > 1 for p in g["params"]} == {g["weight_decay"] == .05}
    torch.optim.AdamW(groups)


def test_any_module_is_one_group():
    groups = param_groups(nn.Linear(4, 2), .1, .5, .01)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(.1, .01), (.1, 0.)]


@pytest.mark.parametrize("bad", [dict(lr=0), dict(lr=-1), dict(lr=float("inf")), dict(lr=1, layer_decay=0), dict(lr=1, layer_decay=1.01),
                                 dict(lr=1, layer_decay=float("nan")), dict(lr=1, weight_decay=-.1), dict(lr=1, weight_decay=float("nan"))])
def test_bad_rates(bad):
    with pytest.raises(InputError, match=next(reversed(bad))): param_groups(nn.Linear(2, 2), **bad)


def test_hash_sees_type_shape_order_sign_and_sixteen_bits():
    a, b = torch.arange(6.), torch.ones(2)
    ways = [[a, b], [b, a], [a.reshape(2, 3), b], [a.double(), b], [a.bfloat16(), b], [a, -b], [a, b, torch.tensor(0.)], [a, b, torch.tensor(-0.)]]
    assert len({weights_hash(w) for w in ways}) == len(ways)
    assert weights_hash([a.reshape(2, 3).t()]) == weights_hash([a.reshape(2, 3).t().contiguous()])
    assert weights_hash({"x": a, "y": b}) == weights_hash([a, b])

