"What lesson 58 (pack) cannot check on itself: families and paddings, every way out, models that cannot be packed, and the estimators."
import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from examples import LABELS, TEXTS
from finetune_book import TextClassifier
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.text.rows import TextRows
from finetune_book.text.tokens import length_buckets
from finetune_book.train import pack
from finetune_book.train.fast import FastDropout, Road, parse_shortcuts
from finetune_book.train.forecast import Pass
from finetune_book.train.pack import Layout, RowByRow, packed, packs
from finetune_book.train.trainer import Callback

SIZES = dict(vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=40, pad_token_id=0)
MORE = {"modernbert": dict(local_attention=4, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2), "gpt2": dict(bos_token_id=1, eos_token_id=2),
        "albert": dict(num_hidden_layers=4, num_hidden_groups=2, embedding_size=16), "llama": dict(bos_token_id=1, eos_token_id=2)}
STILL = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "modernbert", "ernie", "mobilebert", "data2vec-text")
DECODERS = ("gpt2", "llama")
ROWS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [12, 13], [14, 15, 16, 17, 18], [9]]


def family(name, **more):
    "A model with random weights large enough to be seen, without dropout, in double precision."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(name, **SIZES | MORE.get(name, {}) | more))
        for p in net.parameters():
            if p.dim() > 1: nn.init.normal_(p, std=.05 if name == "mobilebert" else .3)     # it has no norms: numbers would grow without end
    return net.double().eval()


def batch(rows, side="right"):
    t = max(map(len, rows))
    fill = [[0] * (t - len(r)) for r in rows]
    ids = torch.tensor([r + f if side == "right" else f + r for r, f in zip(rows, fill)])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def said(net, rows=ROWS, side="right"):
    "What the model says of the tokens, (N, d)."
    inputs = batch(rows, side)
    return net(**inputs)[0][inputs["attention_mask"].bool()]


def gradients(net, **kind):
    out = said(net, **kind)
    push = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * push).sum(), list(net.parameters()), allow_unused=True)


def quietly(net, ids=range(1, 60)):
    "The context, a warning an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return packed(net, ids)


# --- where the tokens are -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kept", [[[1, 1, 1], [1, 0, 0]], [[0, 1, 1], [1, 1, 1]], [[1, 0, 1], [0, 1, 0]], [[1, 1, 0]]], ids=["right", "left", "holes", "one row"])
def test_packed_and_put_back(kept):
    keep = torch.tensor(kept, dtype=torch.bool)
    b, t = keep.shape
    layout = Layout.of(keep[:, None, None, :].expand(b, 1, t, t))
    x = torch.randn(b, t, 5, 2, dtype=torch.float64, requires_grad=True)
    long = layout.pack(x)
    n = int(keep.sum())
    assert long.shape == (1, 16, 5, 2) and torch.equal(long[0, :n], x[keep]) and sum(layout.lengths) == 16 and layout.n_tokens == n
    assert torch.equal(layout.unpack(long), x * keep[:, :, None, None])
    layout.unpack(long).square().sum().backward()
    assert torch.equal(x.grad, 2 * x.detach() * keep[:, :, None, None])
    same_for_all = torch.randn(1, t, 3)
    assert torch.equal(layout.pack(same_for_all), layout.pack(same_for_all.expand(b, t, 3)))


@pytest.mark.parametrize("n, more", [(15, 1), (16, 0), (17, 15)])
def test_as_long_as_a_multiple_of_sixteen(n, more):
    keep = torch.arange(20)[None] < torch.tensor([[n - 1], [1]])
    layout = Layout.of(keep[:, None, None, :].expand(2, 1, 20, 20))
    assert layout.lengths == [n - 1, 1] + [more] * (more > 0) and len(layout.where) == n + more and len(layout.masks) == len(layout.lengths)


# --- other people's models ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_outputs_and_gradients_are_those_of_the_padded_batch(name, side):
    net = family(name)
    want, pushed = said(net, side=side), gradients(net, side=side)
    with quietly(net):
        got, ours = said(net, side=side), gradients(net, side=side)
    assert (want - got).abs().max() < 1e-12 * want.abs().max() + 1e-12
    scale = max(g.abs().max() for g in pushed if g is not None)
    assert [g is None for g in pushed] == [g is None for g in ours]
    assert max((a - b).abs().max() for a, b in zip(pushed, ours) if a is not None) < 1e-10 * scale


@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_no_row_sees_another(name):
    "A word changed in one row changes no bit of another, and no gradient passes."
    net = family(name)
    other = [ROWS[0], ROWS[1], [14, 15, 50, 17, 18], ROWS[3]]
    with quietly(net):
        one, two = said(net), said(net, other)
        ends = np.cumsum([0, *map(len, ROWS)])
        equal = [torch.equal(one[a:b], two[a:b]) for a, b in zip(ends, ends[1:])]
        words = []
        hook = net.get_input_embeddings().register_forward_hook(lambda module, args, out: words.append(out.requires_grad_()) or out)
        grad, = torch.autograd.grad(said(net)[:10].square().sum(), words)
        hook.remove()
    assert equal == [True, True, False, True]
    assert grad[0].abs().max() > 0 and grad[1:].abs().max() == 0


def test_a_window_and_a_look_back_stay():
    "ModernBERT's near layers see two tokens to each side; GPT-2 sees nothing that comes later."
    near = family("modernbert")
    plain = said(near)
    with quietly(near): assert torch.allclose(said(near), plain, atol=1e-12)
    net = family("gpt2")
    with quietly(net): one, two = said(net), said(net, [ROWS[0][:-1] + [40], *ROWS[1:]])
    assert torch.equal(one[:9], two[:9]) and not torch.equal(one[9], two[9])


@pytest.mark.parametrize("rows, cut", [(ROWS, 15), ([[5, 6, 7]] * 3, 0), ([[5, 6, 7]], 0)], ids=["filling", "no filling", "one row"])
def test_what_has_no_filling_stays_a_batch(rows, cut):
    "Four rows and the short row of nothing, in each of three layers."
    net = family("bert")
    with pack.hooked(net) as attention: said(net, rows)
    assert attention.rows == cut


def test_a_row_of_nothing_stays_in_its_batch():
    net = family("bert")
    inputs = batch(ROWS)
    inputs["attention_mask"][1] = 0
    want = net(**inputs)[0]
    with pack.hooked(net) as attention: assert torch.equal(net(**inputs)[0], want) and attention.rows == 0


def test_layers_that_are_computed_again_on_the_way_back():
    net = family("bert", **STILL)
    pushed = gradients(net)
    net.activation_checkpointing_enable()
    with quietly(net): ours = gradients(net.train())
    assert max((a - b).abs().max() for a, b in zip(pushed, ours) if a is not None) < 1e-9


def two_stacks():
    net = family("bert")
    net.more = nn.ModuleList([nn.Linear(32, 32)])
    return net


@pytest.mark.parametrize("make, why", [
    (lambda: family("mpnet"), "attention cannot be replaced"), (lambda: family("deberta-v2"), "attention cannot be replaced"), (lambda: nn.Linear(2, 2), "attention cannot be replaced"),
    (two_stacks, "2 stacks"),
    (lambda: family("bert", attn_implementation="eager"), "attention cannot be replaced"),
], ids=["mpnet", "deberta", "no transformer", "two stacks", "eager, as somebody chose"])
def test_what_cannot_be_packed_says_so_and_stays(make, why):
    net = make()
    before = {k: type(v) for k, v in net.named_modules()}, getattr(getattr(net, "config", None), "_attn_implementation", None)
    with pytest.warns(UserWarning, match=f"cannot be packed .*{why}.*keep their filling") as told, packed(net, {5}):
        assert ({k: type(v) for k, v in net.named_modules()}, getattr(getattr(net, "config", None), "_attn_implementation", None)) == before
    assert len(told) == 1 and "\n" not in str(told[0].message)


class Mixing(nn.Module):
    "A layer that adds the mean over all places."
    def __init__(self, layer): super().__init__(); self.layer = layer
    def forward(self, hidden, *args, **kwargs): return self.layer(hidden + hidden.mean(1, keepdim=True), *args, **kwargs)


class Failing(nn.Module):
    "A layer that wants to see the batch."
    def __init__(self, layer): super().__init__(); self.layer = layer
    def forward(self, hidden, *args, **kwargs):
        if len(hidden) == 1: raise ValueError("several texts,\n please")
        return self.layer(hidden, *args, **kwargs)


@pytest.mark.parametrize("kind, why", [(Mixing, "in a try its answers differed"), (Failing, "ValueError: several texts")])
def test_a_model_of_another_kind_is_found_out(kind, why):
    net = family("bert", **STILL).train()
    net.encoder.layer[1] = kind(net.encoder.layer[1])
    state, before = torch.get_rng_state(), said(net)
    with pytest.warns(UserWarning, match=why), packed(net, {5, 6, 7}): assert torch.equal(said(net), before)
    assert net.config._attn_implementation == "sdpa" and net.training and torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.encoder.layer)


def test_a_leak_of_the_attention_would_be_found_out(monkeypatch):
    "The try is strong enough to see rows that see each other."
    net = family("bert").float()
    monkeypatch.setattr(RowByRow, "__call__", lambda self, module, q, k, v, mask, *args, **kwargs: setattr(self, "rows", 1) or self.inner(module, q, k, v, None if q.shape[2] != mask.shape[2] else mask, *args, **kwargs))
    with pytest.warns(UserWarning, match="differed"), packed(net, {5, 6, 7}): pass


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_put_back(tiny_base, error):
    model, _ = load_text_base(tiny_base, 2, seed=0)
    def outside(): return [(len(m._forward_pre_hooks), len(m._forward_hooks), type(m), m.training) for m in model.modules()], model.config._attn_implementation
    before = outside()
    try:
        with Road("float32", "dropout+attention+table+packing").taken_by(model.train(), {5, 6, 7}):
            inside = outside()
            if error: raise error
    except (ValueError, KeyboardInterrupt) as e: assert type(e) is error
    model.eval()
    assert outside() == before != inside and inside[1] == "packed_" + "plain_with_fast_dropout"


def test_the_attention_that_was_there_does_the_work(tiny_base):
    "With `attention` the pieces go through the plain one with fast dropout; the dropouts are the fast ones."
    model, _ = load_text_base(tiny_base, 2, seed=0)
    with Road("float32", "all").taken_by(model, {5, 6, 7}): plain = model.config._attn_implementation
    with Road("float32", "dropout+attention+packing").taken_by(model, {5, 6, 7}):
        assert model.config._attn_implementation == f"packed_{plain}" and any(type(m) is FastDropout for m in model.modules())


def test_in_lower_precision_too(tiny_base):
    model, _ = load_text_base(tiny_base, 2, seed=0)
    inputs = batch(ROWS)
    with torch.no_grad():
        want = model(**inputs).logits
        with torch.autocast("cpu", torch.bfloat16), packed(model, {5, 6}): got = model(**inputs).logits
    assert (want - got).abs().max() < .05 * want.abs().max().clamp(min=1)


# --- the words, the rows, the forecast ------------------------------------------------------------------------------

def test_packing_is_asked_for_by_its_name():
    assert parse_shortcuts("table+packing") == ("table", "packing") and "packing" not in parse_shortcuts("all")
    assert packs(Road("float32", "packing")) and not packs(Road("float32", "all")) and not packs(Road("float32", "none"))
    with pytest.raises(InputError, match="packing"): parse_shortcuts("packed")


@pytest.mark.parametrize("shortcuts, pool", [("table", 50), ("all", 50), ("none", 50), ("packing", 1), ("table+packing", 1)])
def test_batches_are_drawn_by_chance_where_they_are_packed(shortcuts, pool):
    rows = [[1] * n for n in np.random.default_rng(0).integers(3, 40, 100)]
    found = TextRows(shortcuts=shortcuts).batches(rows, 8, 3)
    want = [length_buckets([len(r) for r in rows], 8, 3, epoch, pool=pool) for epoch in range(2)]
    assert all((a == b).all() for epoch in range(2) for a, b in zip(found(epoch), want[epoch], strict=True))


def test_the_rows_that_a_forecast_tries():
    "Without padding the shortest row would say nothing of what a row may cost."
    costs = np.array([5., 9., 2., 7.])
    assert Pass(costs, None, None).probe().tolist() == [1, 2, 1] and Pass(np.ones(1), None, None).probe().tolist() == [0, 0, 0]


# --- estimators -----------------------------------------------------------------------------------------------------

@pytest.fixture
def small(tiny_base):
    return dict(base=tiny_base, tune="full", epochs=3, lr=5e-3, batch_size=4, max_length=16, verbose=0, device="cpu", weight_decay=.1)


def test_a_packed_training_is_the_padded_one(small, tmp_path, monkeypatch):
    "Dropout off, the same batches: the same losses and answers up to rounding."
    import shutil
    base = shutil.copytree(small["base"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    (base / "config.json").write_text(json.dumps(config))
    ours = TextClassifier(**small | dict(base=base), shortcuts="table+packing").fit(TEXTS, LABELS)
    monkeypatch.setattr(TextRows, "batches", lambda self, rows, size, seed: lambda epoch: length_buckets([len(r) for r in rows], size, seed, epoch, pool=1))
    want = TextClassifier(**small | dict(base=base)).fit(TEXTS, LABELS)
    assert [h["train_loss"] for h in ours.history_] == pytest.approx([h["train_loss"] for h in want.history_], abs=1e-5)
    assert np.abs(ours.predict_proba(TEXTS) - want.predict_proba(TEXTS)).max() < 1e-4


class PowerCut(Callback):
    order = 200
    def on_batch_end(self, trainer):
        if trainer.step == 4: raise RuntimeError("power cut")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_the_same_bits_also_after_a_stop(small, tmp_path, precision):
    def fit(**more):
        clf = TextClassifier(**small, precision=precision, shortcuts="dropout+attention+table+packing", **more)
        return clf.fit(TEXTS, LABELS, validation=(TEXTS[::3] + ["very good room head"], [*LABELS[::3], "yes"]))
    whole, again = fit(), fit()
    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): fit(callbacks=[PowerCut()], **kept)
    resumed = fit(**kept)
    assert len({weights_hash(c.model_.state_dict()) for c in (whole, again, resumed)}) == 1 and resumed.history_ == whole.history_


def test_a_base_that_cannot_be_packed_trains_all_the_same(small, monkeypatch):
    monkeypatch.setattr(pack, "obstacle", lambda model, ids: "for a test")
    with pytest.warns(UserWarning, match="cannot be packed"): clf = TextClassifier(**small, shortcuts="packing").fit(TEXTS, LABELS)
    assert len(clf.history_) == 3
