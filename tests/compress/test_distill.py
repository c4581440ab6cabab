"""Distillation: gradients in double precision, the edges of each loss, cuts that change nothing they should not, and a card that agrees with its files."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from finetune_book.text.tokens import SPECIAL
from finetune_book.compress.distill import (distillation_losses, hidden_loss, keep_layers, mean_pool, piece_shares,
                                            pooled_loss, pooler_loss, prune_tokenizer, prune_vocabulary, same_pieces,
                                            soft_target_loss, unexplained, warm_hold_cool)
from finetune_book.checks import InputError
from finetune_book.data.tables import carried
from finetune_book.data.packed import unpacked


def normal(*shape, seed=0, scale=1.): return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


# --- soft targets ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [.3, 1., 4., 50.])
def test_soft_targets_gradient(temperature):
    z, v = normal(3, 4, scale=3).requires_grad_(), normal(3, 4, seed=1, scale=3)
    assert torch.autograd.gradcheck(lambda s: soft_target_loss(s, v, temperature), z)
    g, = torch.autograd.grad(soft_target_loss(z, v, temperature), z)
    ours = temperature * (torch.softmax(z / temperature, 1) - torch.softmax(v / temperature, 1)) / 3
    assert (g - ours).norm() <= 1e-9 * ours.norm()


def test_soft_targets_at_high_temperature_are_a_squared_error_of_centred_logits():
    z, v = normal(5, 7).requires_grad_(), normal(5, 7, seed=1)
    g, = torch.autograd.grad(soft_target_loss(z, v, 1e5), z)
    half = lambda z: (((z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))) ** 2).sum(1).mean() / (2 * 7)
    assert (g - torch.autograd.grad(half(z), z)[0]).norm() < 1e-4 * g.norm()
    assert abs(soft_target_loss(z, v, 1e5) - half(z)) < 1e-4 * half(z)


def test_soft_targets_with_one_hot_teacher_are_the_cross_entropy():
    z, y = normal(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    assert abs(soft_target_loss(z, 1e4 * F.one_hot(y, 3).double(), 1.) - F.cross_entropy(z, y)) < 1e-12


def test_soft_targets_do_not_see_a_constant_nor_train_the_teacher():
    z, v = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    assert abs(soft_target_loss(v + 5, v, 3.)) < 1e-12
    soft_target_loss(z, v).backward()
    assert v.grad is None and z.grad is not None
    assert soft_target_loss(z.float() * 1e4, v.float() * 1e4).isfinite()


@pytest.mark.parametrize("temperature", [0, -1., float("inf"), float("nan")])
def test_soft_targets_refuse_a_temperature(temperature):
    with pytest.raises(InputError, match="temperature"): soft_target_loss(normal(2, 3), normal(2, 3), temperature)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((2, 1, 3), (2, 1, 3)), ((1, 3), (2, 3))])
def test_soft_targets_refuse_shapes(shapes):
    with pytest.raises(InputError, match="logits"): soft_target_loss(normal(*shapes[0]), normal(*shapes[1]))


# --- states and vectors ----------------------------------------------------------------------------------------------

def test_losses_are_one_minus_r_squared_whatever_the_units():
    from sklearn.metrics import r2_score
    target, guess = normal(50, 1), normal(50, 1) + .3 * normal(50, 1, seed=1)
    assert abs(unexplained(guess, target, target.mean(0)) - (1 - r2_score(target.numpy(), guess.numpy()))) < 1e-12
    assert abs(unexplained(1000 * guess, 1000 * target, 1000 * target.mean(0)) - unexplained(guess, target, target.mean(0))) < 1e-12
    with pytest.raises(InputError): unexplained(guess[:3], target, target.mean(0))


def test_filling_counts_in_no_loss():
    h, g, mask = normal(2, 4, 3), normal(2, 4, 3, seed=1), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    e, mu = mean_pool(h, mask), torch.zeros(3, dtype=torch.float64)
    wild = torch.where(mask[..., None].bool(), g, 1e6)
    for loss in (lambda g: hidden_loss(g, h, mask, mu), lambda g: pooled_loss(g, mask, e, mu)): assert loss(wild) == loss(g)
    assert torch.equal(mean_pool(h, mask)[1], h[1, :2].mean(0))


def test_pooler_loss_in_its_units():
    e = normal(40, 3)
    e[:, 1] = 7.
    centre, spread = e.mean(0), e.std(0, correction=0)
    spread[1] = 0
    wanted = .5 * torch.where(spread > 0, (e - centre) / spread, 0.)
    assert pooler_loss(wanted, e, centre, spread) < 1e-25 and abs(pooler_loss(0 * e, e, centre, spread) - 2 / 3) < 1e-12
    endless = torch.where(spread > 0, spread, torch.inf)
    assert torch.equal(pooler_loss(e, e, centre, endless), pooler_loss(e, e, centre, spread))
    with pytest.raises(InputError): pooler_loss(e[:, :2], e, centre, spread)


def tiny(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertModel(BertConfig(**dict(vocab_size=30, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, max_position_embeddings=12) | changes)).eval()


def test_student_that_is_its_teacher_misses_nothing_and_rows_cut_otherwise_have_no_hidden_loss():
    model, ids = tiny(), torch.arange(1, 13).reshape(2, 6)
    mask = torch.ones_like(ids)
    with torch.no_grad(): h = model(input_ids=ids).last_hidden_state
    target = dict(pooled=h.mean(1), hidden=h.clone())
    facts = dict(state_mean=h.mean((0, 1)), mean=h.mean((0, 1)), spread=h.mean(1).std(0))
    pooled, hidden, pooler = distillation_losses(model, ids, mask, target, torch.tensor([True, True]), facts)
    assert pooled < 1e-9 and hidden < 1e-9 and pooler > 0
    target["hidden"][1] = 1e3
    assert distillation_losses(model, ids, mask, target, torch.tensor([True, False]), facts)[1] < 1e-9
    none = distillation_losses(model, ids, mask, target, torch.tensor([False, False]), facts)[1]
    assert none == 0
    none.backward()                                                              # a batch without a partner still trains the rest
    sum(distillation_losses(model, ids, mask, target, torch.tensor([True, True]), facts)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- cutting ---------------------------------------------------------------------------------------------------------

def test_kept_layers_in_any_order_compute_what_they_computed():
    model = tiny()
    small = BertModel(BertConfig(**model.config.to_dict() | dict(num_hidden_layers=3, vocab_size=4, max_position_embeddings=5))).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small.load_state_dict(keep_layers(model.state_dict(), [3, 0, 2], [9, 0, 29, 4], 5))
    model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[i] for i in (3, 0, 2)])
    model.config.num_hidden_layers = 3
    with torch.no_grad():
        assert torch.equal(small(torch.tensor([[0, 1, 2, 3]])).last_hidden_state, model(torch.tensor([[9, 0, 29, 4]])).last_hidden_state)
        for p in small.parameters(): p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in tiny().state_dict().items())       # copies: the teacher is as it was


def test_ten_layers_and_more_are_told_apart():
    state = keep_layers(tiny(num_hidden_layers=11).state_dict(), [1, 10])
    assert torch.equal(state["encoder.layer.1.output.dense.weight"], tiny(num_hidden_layers=11).state_dict()["encoder.layer.10.output.dense.weight"])
    assert not any("layer.10" in name for name in state)


@pytest.mark.parametrize("wrong", [dict(layers=[4]), dict(layers=[-1]), dict(layers=[0], ids=[30]), dict(layers=[0], ids=[-1]), dict(layers=[0], positions=0), dict(layers=[0], positions=13)])
def test_what_is_not_there_cannot_be_kept(wrong):
    with pytest.raises(InputError): keep_layers(tiny().state_dict(), **wrong)


def test_vocabulary_is_the_same_whatever_the_order_of_the_counts():
    vocab = {p: i for i, p in enumerate([*SPECIAL, "a", "##a", "b", "xyz", "word", "##ing", "猫", "rare"])}
    share = {"word": .2, "##ing": .2, "xyz": .1, "猫": .05, "foreign": 9.}
    pieces, ids = prune_vocabulary(vocab, share, 10, keep=["rare", "not in it"])
    assert pieces == [*SPECIAL, "a", "##a", "b", "word", "rare"] and ids == [vocab[p] for p in pieces]
    assert prune_vocabulary(vocab, dict(reversed(share.items())), 10, keep=["rare"])[0] == pieces
    assert len(prune_vocabulary(vocab, share, 99)[0]) == 12                       # all that there is, less the piece nobody used


def test_votes_count_sources():
    assert piece_shares([{"a": 1}, {"b": 4, "a": 4}], [1, 4]) == {"a": 3., "b": 2.}
    with pytest.raises(InputError): piece_shares([{"a": 0}])
    with pytest.raises(ValueError): piece_shares([{"a": 1}], [1, 2])


def test_pruned_tokenizer_opens_and_leaves_the_old_one_alone():
    from tokenizers import Tokenizer
    spec = json.loads((unpacked("book-bert") / "tokenizer.json").read_text(encoding="utf-8"))
    before = json.dumps(spec)
    vocab = spec["model"]["vocab"]
    pieces, ids = prune_vocabulary(vocab, {}, 300)
    old, new = Tokenizer.from_str(before), Tokenizer.from_str(json.dumps(prune_tokenizer(spec, pieces)))
    assert json.dumps(spec) == before and new.get_vocab() == {p: i for i, p in enumerate(pieces)}
    e = new.encode("Unbelievable, 38.5C!")
    assert e.tokens[0] == "[CLS]" and e.tokens[-1] == "[SEP]" and "[UNK]" not in e.tokens and len(e.ids) > len(old.encode("Unbelievable, 38.5C!").ids)
    assert same_pieces(new.encode("a b").ids, old.encode("a b").ids, ids) and not same_pieces(e.ids, old.encode("Unbelievable, 38.5C!").ids, ids)


def test_rate_rises_stays_and_falls_and_its_first_part_is_the_same_for_every_length():
    rates = [warm_hold_cool(s, 1000, warm=10, cool=.3) for s in range(1000)]
    assert rates[:10] == [pytest.approx((s + 1) / 10) for s in range(10)] and set(rates[10:700]) == {1.} and 0 < rates[-1] < .01
    assert all(b < a for a, b in zip(rates[700:], rates[701:])) and warm_hold_cool(1000, 1000) == 0
    assert rates[:350] == [warm_hold_cool(s, 500, warm=10, cool=.3) for s in range(350)]
    for wrong in (dict(total=0), dict(total=10, warm=0), dict(total=10, cool=0), dict(total=10, cool=1.1)):
        with pytest.raises(InputError): warm_hold_cool(0, **wrong)


# --- what the script left ----------------------------------------------------------------------------------------------

def test_log_table_and_card_of_book_bert_agree():
    folder = carried("book-bert")
    card = (folder / "README.md").read_text(encoding="utf-8")
    with open(folder / "training_log.csv", newline="") as f: log = list(csv.DictReader(f))
    steps = [int(r["step"]) for r in log]
    assert steps == sorted(set(steps)) and f"{steps[-1]:,} steps" in card and f"--steps {steps[-1]}" in card
    assert all(f"{float(log[-1][c]):.3f}" in card for c in ("pooled", "hidden", "pooler")) and float(log[-1]["pooled"]) < .6 * float(log[0]["pooled"])
    with open(folder / "size_accuracy.csv", encoding="utf-8", newline="") as f: rows = list(csv.DictReader(f))
    for base in {r["base"] for r in rows}:
        line = next(line for line in card.splitlines() if line.startswith(f"| {base} |"))
        for name in {r["set"] for r in rows}:
            found = [float(r["accuracy"]) for r in rows if (r["base"], r["set"]) == (base, name)]
            assert len(found) == 5 and f"{np.mean(found):.3f}" in line


def test_script_reads_no_test_file_and_no_label_before_judging():
    source = (Path(__file__).parents[2] / "scripts" / "bases" / "make_book_bert.py").read_text(encoding="utf-8")
    assert "test.csv" not in source and source.count('"label"') == 1 and source.index('"label"') > source.index("# --- judging")
