"""BERT: equal to transformers' in answers, gradients and dropout; blind to filling and to company; its costs as its formulas say."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from finetune_book.checks import InputError
from finetune_book.adapt.freeze import weights_hash
from finetune_book.text.bases import load_text_base
from finetune_book.text.bert import (BertConfig, BertModel, LayerNorm, SelfAttention, additive_mask, attend, attention_flops, gelu, merge_heads,
                                     split_heads)
from finetune_book.text.tokens import pad_batch

SIZES = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20, max_position_embeddings=24)
CASES = {"small": {}, "one head": dict(num_attention_heads=1), "heads of one number": dict(num_attention_heads=16), "one layer": dict(num_hidden_layers=1),
         "deep": dict(num_hidden_layers=7), "wide": dict(hidden_size=96, num_attention_heads=6, intermediate_size=200), "by tanh": dict(hidden_act="gelu_new"),
         "another eps": dict(layer_norm_eps=1e-2), "one segment": dict(type_vocab_size=1)}


def rand(*shape, seed=0): return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def theirs(seed=0, **sizes):
    "transformers' BertModel with random numbers in every parameter, norms and biases included."
    with torch.random.fork_rng(devices=[]): net = transformers.BertModel(transformers.BertConfig(**{**SIZES, **sizes})).eval()
    net.set_attn_implementation("eager")
    rng = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters(): p.data = .5 + torch.rand(p.shape, generator=rng) if "LayerNorm.weight" in name else .3 * torch.randn(p.shape, generator=rng)
    return net


def batch(lengths=(7, 3, 12), vocab=60, segments=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    ids, mask = pad_batch([torch.randint(1, vocab, (n,), generator=rng).tolist() for n in lengths], 0)
    return dict(input_ids=ids, attention_mask=mask, token_type_ids=(torch.arange(ids.shape[1]) >= 2).long() * mask * (segments - 1))


# --- equal to transformers' ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_names_answers_and_maps_are_transformers(name, dtype, most):
    "`most` is a share of the largest number, where that is above 1: float32 rounds by shares."
    ref, inputs = theirs(seed=3, **CASES[name]).to(dtype), batch(segments=CASES[name].get("type_vocab_size", 2))
    ours = BertModel.like(ref).to(dtype)
    ours.load_state_dict(ref.state_dict())
    assert list(ours.state_dict()) == list(ref.state_dict())
    lone = {k: v[2:] for k, v in inputs.items() if k == "input_ids"}
    for given, real in ((inputs, inputs["attention_mask"].bool()), (lone, torch.ones(1, 12, dtype=torch.bool))):
        with torch.no_grad(): a, b = ours(**given), ref(**given, output_attentions=True)
        assert a.last_hidden_state.shape == b.last_hidden_state.shape and b.pooler_output.std() > .05
        assert (a.last_hidden_state[real] - b.last_hidden_state[real]).abs().max() <= most * max(1, b.last_hidden_state.abs().max())
        assert (a.pooler_output - b.pooler_output).abs().max() <= most
        for x, y in zip(a.attentions, b.attentions, strict=True): assert x.shape == y.shape and (x - y).abs().max() <= most


def test_gradients_and_dropout_are_transformers():
    ref, found = theirs(), []
    for net in (ref, BertModel.like(ref)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            out = net.train()(**batch())
            (out.pooler_output.square().sum() + out.last_hidden_state[:, 1].sum()).backward()
        found.append((out.pooler_output.detach(), {n: p.grad for n, p in net.named_parameters()}))
    (a, grads), (b, ours) = found
    assert (a - b).abs().max() <= 1e-5 and list(grads) == list(ours)
    for n, g in grads.items(): assert g.abs().max() > 0 and (ours[n] - g).abs().max() <= 1e-4 * g.abs().max() + 1e-5, n


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_books_base(attention):
    classifier, tokenizer = load_text_base("book-bert", 2)
    ref = classifier.bert
    ref.set_attn_implementation(attention)
    ids, mask = pad_batch(tokenizer(["No cough, only heartburn after food.", "Wheeze.", "Denies chest pain; always thirsty. " * 20])["input_ids"], tokenizer.pad_token_id)
    ours = BertModel.like(ref)
    with torch.no_grad():
        a, b = ours(ids, mask), ref(input_ids=ids, attention_mask=mask)
        assert (a.last_hidden_state - b.last_hidden_state)[mask.bool()].abs().max() <= 1e-5 and (a.pooler_output - b.pooler_output).abs().max() <= 1e-5
        n = int(mask[0].sum())
        assert (ours(ids[:1, :n]).last_hidden_state - b.last_hidden_state[:1, :n]).abs().max() <= 1e-5


# --- its pieces ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5, 4), (1, 1)])
def test_attend_is_torchs(shape):
    q, k, v = rand(*shape, seed=1), rand(*shape, seed=2), rand(*shape, seed=3)
    mask = torch.where(torch.rand(shape[-2], shape[-2], generator=torch.Generator().manual_seed(0)) < .3, -1e30, 0.).double().fill_diagonal_(0)
    for m in (None, mask):
        out, weights = attend(q, k, v, m)
        assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v, m), rtol=1e-10, atol=1e-12) and torch.allclose(weights.sum(-1), torch.ones(shape[:-1]).double())
    assert torch.autograd.gradcheck(lambda *a: attend(*a, mask)[0], [x.requires_grad_() for x in (q, k, v)])


def test_attend_drops_weights_not_answers():
    q = rand(2, 4)
    out, weights = attend(q, q, q, drop=lambda w: w * torch.eye(2))
    assert torch.allclose(out, weights.diagonal()[:, None] * q) and torch.allclose(weights.sum(-1), torch.ones(2).double())


@pytest.mark.parametrize("k, v", [((5, 3), (5, 4)), ((5, 4), (6, 4))])
def test_attend_refuses(k, v):
    with pytest.raises(ValueError, match="one width"): attend(rand(5, 4), rand(*k), rand(*v))


def test_the_variance_of_a_dot_product_is_the_width():
    for d in (8, 128):
        a, b = rand(20_000, d, seed=1), rand(20_000, d, seed=2)
        assert abs((a * b).sum(-1).var() / d - 1) < .06


@pytest.mark.parametrize("h", [1, 2, 3, 6])
def test_heads_are_slices_of_the_width(h):
    x = rand(2, 5, 6)
    heads = split_heads(x, h)
    assert heads.shape == (2, h, 5, 6 // h) and torch.equal(merge_heads(heads), x)
    for i, part in enumerate(x.chunk(h, -1)): assert torch.equal(heads[:, i], part)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="width 6 cannot be cut into 4"): split_heads(rand(1, 2, 6), 4)


def test_order_does_not_matter_to_attention():
    net, x, order = SelfAttention(BertConfig(**SIZES)).double().eval(), rand(2, 6, 16), torch.tensor([5, 2, 0, 1, 4, 3])
    assert torch.allclose(net(x[:, order])[0], net(x)[0][:, order], rtol=1e-10)


@pytest.mark.parametrize("shape, eps", [((4,), 1e-12), ((2, 3, 7), 1e-5), ((5, 1), 1e-3)])
def test_layer_norm_is_torchs(shape, eps):
    ours, ref = LayerNorm(shape[-1], eps).double(), nn.LayerNorm(shape[-1], eps).double()
    for p, seed in zip(ours.parameters(), (8, 9)): p.data = rand(*p.shape, seed=seed)
    ref.load_state_dict(ours.state_dict(), strict=True)
    x = 3 + rand(*shape)
    assert torch.allclose(ours(x), ref(x), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(ours, x.requires_grad_())


def test_gelu_is_torchs_and_its_two_versions_differ():
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    for tanh in (False, True): assert torch.allclose(gelu(x, tanh), F.gelu(x, approximate="tanh" if tanh else "none"), rtol=1e-11, atol=1e-14)
    assert 1e-4 < (gelu(x) - gelu(x, True)).abs().max() < 1e-3
    assert torch.autograd.gradcheck(gelu, rand(6).requires_grad_()) and torch.allclose(gelu(x) - gelu(-x), x, atol=1e-14)


# --- invariances ---------------------------------------------------------------------------------------------------

def test_filling_and_company_leave_no_trace():
    net, inputs = BertModel.like(theirs()), batch()
    with torch.no_grad():
        together = net(**inputs)
        for i, n in enumerate((7, 3, 12)):
            for extra in (0, 5, 24 - n):
                one = {k: F.pad(v[i:i + 1, :n], (0, extra), value=9 if k == "input_ids" else 0) for k, v in inputs.items()}
                lone = net(**one)
                assert torch.allclose(lone.last_hidden_state[0, :n], together.last_hidden_state[i, :n], atol=1e-5)
                assert torch.allclose(lone.pooler_output[0], together.pooler_output[i], atol=1e-5)
                assert all((w[..., n:] == 0).all() for w in lone.attentions)


def test_order_enters_by_positions_only():
    net, ids, order = BertModel.like(theirs()), batch()["input_ids"][2:], torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = lambda: (net(ids[:, order]).last_hidden_state - net(ids).last_hidden_state[:, order]).abs().max()
    with torch.no_grad():
        assert moved() > .1
        net.embeddings.position_embeddings.weight.fill_(.7)
        assert moved() < 1e-5


def test_no_gradient_reaches_filling():
    net, inputs = BertModel.like(theirs()), batch(segments=1)
    net.embeddings.word_embeddings.weight.data[0] += 1
    net(**inputs).pooler_output.sum().backward()
    grad = net.embeddings.word_embeddings.weight.grad
    assert (grad[0] == 0).all() and grad[1:].abs().max() > 0


def test_half_precision_stays_finite():
    "The lowest float32 is minus infinity in half precision; the mask takes the dtype of the scores."
    net = BertModel.like(theirs()).to(torch.bfloat16)
    with torch.no_grad(): assert net(**batch()).last_hidden_state.isfinite().all()
    assert additive_mask(torch.tensor([[1, 0]]), torch.float16).tolist() == [[[[0., -65504.]]]]


def test_the_seed_alone_decides_and_no_dice_move():
    before, make = torch.get_rng_state(), lambda seed: weights_hash(BertModel(BertConfig(**SIZES), seed).state_dict())
    assert make(1) == make(1) != make(2)
    assert torch.equal(torch.get_rng_state(), before)


# --- cost ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("t, n", [(1, 1), (24, 3), (300, 2)])
@pytest.mark.parametrize("name", ["small", "wide", "deep"])
def test_operations_are_counted_to_the_last(name, t, n):
    config = BertConfig(**{**SIZES, **CASES[name], "max_position_embeddings": 300})
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter: out = BertModel(config).eval()(torch.zeros(n, t, dtype=torch.long))
    cost = attention_flops(config, t, n)
    assert counter.get_total_flops() == cost["linear"] + cost["attention"]
    assert sum(w.numel() * 4 for w in out.attentions) == cost["map_bytes"]


def bytes_kept(net, t):
    "Bytes of the different tensors that autograd keeps for the backward pass of one text."
    held = {}
    def keep(x):
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x): net(torch.ones(1, t, dtype=torch.long))
    return sum(held.values())


@pytest.mark.parametrize("dropout, times", [(.1, 3), (0., 1)])
@pytest.mark.parametrize("name", ["small", "deep"])
def test_what_training_keeps_of_the_maps_is_counted(name, dropout, times):
    "Second differences leave the part that grows with the square of the length; eval mode keeps each map once."
    config = BertConfig(**{**SIZES, **CASES[name], "max_position_embeddings": 96, "attention_probs_dropout_prob": dropout})
    square = lambda net: (bytes_kept(net, 96) - 2 * bytes_kept(net, 64) + bytes_kept(net, 32)) / (2 * 32**2)
    cost = attention_flops(config, 1)
    assert square(BertModel(config)) == cost["kept_bytes"] == times * cost["map_bytes"]
    assert square(BertModel(config).eval()) == cost["map_bytes"]


def test_attention_overtakes_at_six_widths():
    cost = attention_flops(BertConfig(vocab_size=9, hidden_size=64, intermediate_size=256, num_attention_heads=4, num_hidden_layers=50), 6 * 64)
    assert math.isclose(cost["attention"], cost["linear"], rel_tol=1e-3)


# --- what it refuses -----------------------------------------------------------------------------------------------

IDS = torch.ones(2, 5, dtype=torch.long)


@pytest.mark.parametrize("inputs, says", [
    (dict(input_ids=torch.ones(1, 25, dtype=torch.long)), "25 tokens: this BERT has 24 positions"), (dict(input_ids=torch.full((1, 3), 60)), "holds 60.*0 to 59"),
    (dict(input_ids=torch.full((1, 3), -1)), "holds -1"), (dict(input_ids=torch.ones(5, dtype=torch.long)), r"shape \(5,\)"), (dict(input_ids=IDS.float()), "float32"),
    (dict(input_ids=IDS[:, :0]), "at least one token|one text of one token"), (dict(input_ids=IDS, token_type_ids=IDS[:, :2]), "one shape"),
    (dict(input_ids=IDS, token_type_ids=2 * IDS), "token_type_ids holds 2"), (dict(input_ids=IDS, attention_mask=IDS * torch.tensor([[1], [0]])), "row 1 has no text"),
    (dict(input_ids=IDS, attention_mask=IDS / 2), "holds 0.5"), (dict(input_ids=IDS, attention_mask=IDS[0]), "must be .n, t."),
])
def test_bad_input(inputs, says):
    with pytest.raises(InputError, match=says) as e: BertModel(BertConfig(**SIZES))(**inputs)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad, says", [(dict(hidden_size=15), "must divide"), (dict(vocab_size=0), "vocab_size=0"), (dict(num_hidden_layers=1.5), "1.5"),
                                       (dict(hidden_act="relu"), "hidden_act=.*must be one of gelu, gelu_new"), (dict(num_attention_heads=True), "True"),
                                       (dict(num_attention_heads=4.), "num_attention_heads=4.0")])
def test_bad_sizes(bad, says):
    with pytest.raises(InputError, match=says): BertConfig(**{**SIZES, **bad})


def test_numpy_integers_count_as_whole_numbers():
    config = BertConfig(**{**SIZES, "hidden_size": np.int64(16)})
    assert config == BertConfig(**SIZES) and type(config.hidden_size) is int
    assert attention_flops(config, np.int32(5), np.int8(2)) == attention_flops(config, 5, 2)


def test_bad_lengths():
    with pytest.raises(InputError, match="t=0"): attention_flops(BertConfig(**SIZES), 0)
    with pytest.raises(InputError, match="n=-1"): attention_flops(BertConfig(**SIZES), 3, -1)


def test_other_weights_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch"): BertModel(BertConfig(**SIZES)).load_state_dict(theirs(hidden_size=32).state_dict())
