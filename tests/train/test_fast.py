"What lesson 57 (fast) cannot check on itself: every p, every way out, the table step by step, and the estimators on the fast road."
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torch.optim import optimizer as torch_optimizer
from transformers.integrations import sdpa_attention

from examples import LABELS, TEXTS
from finetune_book import TextClassifier
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.text.rows import TextRows
from finetune_book.train import fast
from finetune_book.train.callbacks import KeepBest
from finetune_book.train.fast import FastDropout, Road, UsedRows, dropouts_fast, fast_dropout, parse_shortcuts, pick_dtype, plain_attention
from finetune_book.train.trainer import Callback, Trainer


@pytest.fixture(autouse=True)
def seeded():
    "Torch's own generator from a seed, and put back."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# --- dropout by bytes -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("p", [.01, .05, .1, 1 / 3, .5, .9, .997, .9999])
def test_the_share_kept_the_factor_and_the_gradient(p):
    k = max(1, round(256 * (1 - p)))
    x = torch.randn(600, 701).abs().add(.1).requires_grad_()
    y = fast_dropout(x, p)
    keep = y != 0
    y.backward(push := torch.randn_like(y))
    assert abs(keep.double().mean() - k / 256) < 5 * (k / 256 * (1 - k / 256) / y.numel())**.5
    assert torch.allclose(y[keep], x.detach()[keep] * (256 / k), rtol=1e-6)
    assert torch.allclose(x.grad, torch.where(keep, push * (256 / k), 0.), rtol=1e-6)


@pytest.mark.parametrize("p", [0., 1e-9, 1 / 512 - 1e-6])
def test_a_share_below_half_a_byte_drops_nothing_and_draws_nothing(p):
    x, state = torch.randn(50, 50, requires_grad=True), torch.get_rng_state()
    y = fast_dropout(x, p)
    y.sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, torch.ones_like(x)) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [.1, .5])
def test_no_place_knows_of_another(p):
    "Within a draw of 64 bits, from draw to draw, row to row and call to call; and each of the eight bytes keeps as often."
    one, two = ((fast_dropout(torch.ones(800, 1000), p) > 0).double().flatten() for _ in range(2))
    a, b = one - one.mean(), two - two.mean()
    n, var = len(a), one.var()
    lags = [*range(1, 17), 64, 1000]
    assert max(abs((a[lag:] * a[:-lag]).mean() / var) for lag in lags) < 5 / n**.5
    assert abs((a * b).mean() / var) < 5 / n**.5
    places = one.view(-1, 8).mean(0)
    assert abs(places - places.mean()).max() < 5 * (var / (n / 8))**.5


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (7, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_shape_and_kind_of_float(shape, dtype):
    y = fast_dropout(torch.ones(shape, dtype=dtype), .5)
    assert y.shape == shape and y.dtype == dtype and set(y.flatten().tolist()) <= {0., 2.}


def test_what_is_not_laid_out_row_by_row_is_dropped_place_by_place():
    x = torch.randn(40, 30)
    torch.manual_seed(1); plain = fast_dropout(x.T.contiguous(), .5)
    torch.manual_seed(1); turned = fast_dropout(x.T, .5)
    assert torch.equal(plain, turned)


def test_the_same_seed_the_same_places():
    def drawn(seed):
        torch.manual_seed(seed)
        return fast_dropout(torch.ones(100), .5)
    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))


@pytest.fixture
def never(monkeypatch):
    def called(*args): raise AssertionError("it drew bytes")
    monkeypatch.setattr(fast, "fast_dropout", called)


@pytest.mark.parametrize("p, training, device", [(.5, False, "cpu"), (.5, True, "meta"), (0., True, "cpu"), (1., True, "cpu")])
def test_where_bytes_are_of_no_use_it_is_torchs_own(never, p, training, device):
    x = torch.ones(64, device=device)
    out, due = FastDropout(p).train(training)(x), nn.Dropout(p).train(training)(x)
    assert out.device == due.device and (device == "meta" or torch.equal(out, due))


def test_in_training_on_a_cpu_it_draws_bytes(never):
    with pytest.raises(AssertionError, match="drew bytes"): FastDropout(.5).train()(torch.ones(8))


class Own(nn.Dropout):
    "A dropout of somebody else's."


def test_only_plain_dropouts_are_replaced_and_all_come_back():
    net = nn.Sequential(nn.Dropout(.5), nn.Dropout(.5, inplace=True), Own(.5), nn.Sequential(nn.Dropout(.1)), nn.Dropout2d(.5))
    before = [type(m) for m in net.modules()]
    with dropouts_fast(net):
        assert [type(m) for m in net.modules() if isinstance(m, nn.Dropout)] == [FastDropout, nn.Dropout, Own, FastDropout]
    assert [type(m) for m in net.modules()] == before


# --- attention ------------------------------------------------------------------------------------------------------

def drawn(b=3, h=4, t=11, d=8): return [torch.randn(b, h, t, d, requires_grad=True) for _ in range(3)]


def layer(training=True, causal=False):
    module = nn.Module().train(training)
    module.is_causal = causal
    return module


FULL = torch.ones(3, 1, 11, 11, dtype=torch.bool)
PADDED = (torch.arange(11) < torch.tensor([11, 1, 6])[:, None])[:, None, None, :].expand(3, 1, 11, 11)
ANY = (torch.rand(3, 1, 11, 11, generator=torch.Generator().manual_seed(0)) < .6) | torch.eye(11, dtype=torch.bool)


@pytest.mark.parametrize("mask", [None, FULL, PADDED, PADDED[:, :, :1], ANY], ids=["none", "full", "padded", "one row", "any"])
@pytest.mark.parametrize("scaling", [None, .3])
def test_two_products_are_the_fused_attention(mask, scaling):
    q, k, v = drawn()
    out, none = plain_attention(layer(), q, k, v, mask, dropout=1e-9, scaling=scaling)
    due = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(1, 2)
    push = torch.randn_like(due)
    pairs = zip(torch.autograd.grad(out, (q, k, v), push), torch.autograd.grad(due, (q, k, v), push))
    assert none is None and out.shape == (3, 11, 4, 8) and (out - due).abs().max() < 1e-5
    assert all((a - b).abs().max() < 1e-5 for a, b in pairs)


def test_what_is_dropped_is_the_map():
    q, k, v = drawn()
    torch.manual_seed(2); out, _ = plain_attention(layer(), q, k, v, None, dropout=.5)
    torch.manual_seed(2); due = fast_dropout((q @ k.transpose(2, 3) / 8**.5).softmax(-1), .5) @ v
    assert torch.allclose(out, due.transpose(1, 2), atol=1e-6) and not torch.allclose(out, F.scaled_dot_product_attention(q, k, v).transpose(1, 2), atol=.1)


@pytest.mark.parametrize("module, shape, more", [
    (layer(training=False), (3, 4, 11, 8), {}), (layer(causal=True), (3, 4, 11, 8), {}), (layer(), (3, 4, 11, 8), {"is_causal": True}),
    (layer(), (3, 2, 11, 8), {}), (layer(), (3, 4, 12, 8), {}), (layer(), (3, 4, 129, 8), {"dropout": 0.}),
], ids=["eval", "causal layer", "causal call", "grouped heads", "other keys", "long, no dropout"])
def test_what_two_products_are_not_meant_for_goes_to_the_fused_one(monkeypatch, module, shape, more):
    seen = []
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", lambda *args, **kwargs: seen.append((args, kwargs)) or ("fused", None))
    q, other, scaling = torch.randn(3, 4, 129 if "dropout" in more else 11, 8), torch.randn(shape), .3
    found = plain_attention(module, q, other, other, None, **{"dropout": .1, "scaling": scaling, **more})
    (args, kwargs), = seen
    assert found == ("fused", None) and args[1] is q and args[5:] == (more.get("dropout", .1), scaling)
    assert kwargs == {k: v for k, v in more.items() if k == "is_causal"}


@pytest.mark.parametrize("p", [0., .1])
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_a_padded_place_gets_no_share(p, dtype, atol):
    "Without dropout equal to the fused one up to the rounding; with it what stands in a padded place changes no bit."
    q, k, v = (x.to(dtype) for x in drawn())
    mask = (torch.arange(q.shape[2]) < q.shape[2] - 4)[None, None, None].expand(len(q), 1, q.shape[2], -1)
    def answer(v):
        torch.manual_seed(0)
        return plain_attention(layer(), q, k, v, mask, dropout=p)[0]
    other = v.clone(); other[:, :, -4:] = 99.
    assert torch.equal(answer(v), answer(other)) and answer(v).dtype is dtype
    if not p: assert torch.allclose(answer(v), F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2), atol=atol)


# --- the word table -------------------------------------------------------------------------------------------------

ROWS = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 9, 9, 3]])          # 0 is padding
IDS = set(ROWS.flatten().tolist())


def words(tiny_base): return load_text_base(tiny_base, 2, seed=0)[0].eval()
def table(model): return model.get_input_embeddings().weight


def twenty_steps(model, decay, ids=None, **kind):
    "Twenty steps of AdamW whose rate changes from each to the next; dropout is off."
    optimizer = torch.optim.AdamW(model.parameters(), lr=.01, weight_decay=decay, **kind)
    losses = []
    for n in range(20):
        optimizer.param_groups[0]["lr"] = .01 * (1 - n / 20) * (1 + n % 2)
        loss = F.cross_entropy(model(input_ids=ROWS, attention_mask=(ROWS > 0).long()).logits, torch.tensor([0, 1, 1]))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), .5)
        optimizer.step(); optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.parametrize("decay", [0., .1])
@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {}], ids=["fused", "foreach", "plain"])
def test_a_short_table_trains_as_the_whole_one(tiny_base, decay, kind):
    whole, short = words(tiny_base), words(tiny_base)
    original, start = short.get_input_embeddings(), table(short).detach().clone()
    losses = twenty_steps(whole, decay, **kind)
    with Road("float32", "table").taken_by(short, IDS):
        assert type(short.get_input_embeddings()) is UsedRows and len(table(short)) == len(IDS)
        assert abs(twenty_steps(short, decay, **kind) - losses).max() < 1e-5
    assert short.get_input_embeddings() is original and table(short).requires_grad
    # Adam divides by tiny mean squares: where a gradient is all rounding, its steps are too
    gaps = {n: (p - q).abs().max().item() for (n, p), q in zip(whole.named_parameters(), short.parameters())}
    assert max(gaps.values()) < 1e-4, gaps
    unused = sorted(set(range(len(start))) - IDS)
    left = np.prod([1 - .01 * (1 - n / 20) * (1 + n % 2) * decay for n in range(20)])
    assert (table(short)[unused] - table(whole)[unused]).abs().max() < 1e-6
    assert torch.allclose(table(short)[unused], start[unused] * left, rtol=1e-6) and (decay > 0) == (left < 1)


def test_the_padding_row_takes_part_in_nothing(tiny_base):
    model = words(tiny_base)
    with Road("float32", "table").taken_by(model, {2, 3, 5, 7, 9}):                  # nobody announced the padding
        short = model.get_input_embeddings()
        model(input_ids=ROWS, attention_mask=(ROWS > 0).long()).logits.sum().backward()
        grad = dict(zip(short.used.tolist(), short.weight.grad))
        assert grad[0].abs().max() == 0 < min(grad[i].abs().max() for i in (2, 3, 5, 7, 9))


@pytest.mark.parametrize("ids", [[[2, 11]], [[-1]], [[10**6]]])
def test_a_number_that_was_not_announced_is_an_error(tiny_base, ids):
    model = words(tiny_base)
    with Road("float32", "table").taken_by(model, IDS), pytest.raises(IndexError): model(input_ids=torch.tensor(ids))


class Tied(nn.Module):
    "A model whose output layer is its word table."
    def __init__(self):
        super().__init__()
        self.config, self.words, self.out = type("Config", (), {"pad_token_id": 0})(), nn.Embedding(100, 4), nn.Linear(4, 100)
        self.out.weight = self.words.weight
    def get_input_embeddings(self): return self.words


class Norming(Tied):
    "Its table changes rows when they are read."
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(100, 4, max_norm=1.), nn.Linear(4, 2)


@pytest.mark.parametrize("make, ids", [
    (Tied, {1, 2}), (Norming, {1, 2}), (lambda: nn.Linear(2, 2), {1, 2}), ("tiny", set(range(60))), ("tiny", {1, 10**6}),
], ids=["tied", "with a norm", "no table", "most rows used", "rows it does not have"])
def test_what_a_short_table_cannot_stand_in_for_stays(tiny_base, make, ids):
    model = words(tiny_base) if make == "tiny" else make()
    before = dict(model.named_modules())
    with Road("float32", "table").taken_by(model, ids): assert dict(model.named_modules()) == before
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_parameter_stays_the_models_own(tiny_base, error):
    "An optimizer or a method that knew it before goes on knowing it, and the whole table comes back."
    model = words(tiny_base)
    own, start = table(model), table(model).detach().clone()
    try:
        with Road("float32", "table").taken_by(model, IDS):
            assert table(model) is own and torch.equal(own, start[sorted(IDS)])
            if error: raise error
    except ValueError: assert error
    assert table(model) is own and torch.equal(own, start) and own.grad is None


def test_a_frozen_table_keeps_every_bit(tiny_base):
    model = words(tiny_base)
    table(model).requires_grad_(False)
    start = table(model).clone()
    with Road("float32", "table").taken_by(model, IDS): twenty_steps(model, .1)
    assert torch.equal(table(model), start) and not table(model).requires_grad


@pytest.mark.parametrize("back", [True, False])
def test_the_best_epoch_brings_its_decay_back(tiny_base, back):
    "KeepBest puts back the table's weights and with them the product that belongs to the other rows."
    def run(shortcuts, epochs):
        model = words(tiny_base)
        losses = iter([1., 2., 3.] if back else [3., 2., 1.])
        with Road("float32", shortcuts).taken_by(model, IDS):
            trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=.01, weight_decay=.1),
                              lambda out, y: F.cross_entropy(out.logits, y), callbacks=[KeepBest("val_loss")])
            fetch = lambda idx: ({"input_ids": ROWS, "attention_mask": (ROWS > 0).long()}, torch.tensor([0, 1, 1]))
            trainer.fit(lambda epoch: [np.arange(3)] * 2, fetch, epochs, lambda m: {"val_loss": next(losses)})
        return table(model).detach()
    unused = sorted(set(range(len(table(words(tiny_base))))) - IDS)
    assert torch.allclose(run("table", 3)[unused], run("none", 3)[unused], rtol=1e-6)
    assert torch.allclose(run("table", 3)[unused], run("table", 1)[unused], rtol=1e-7) == back


def test_who_saves_in_the_middle_gets_the_whole_table(tiny_base, tmp_path):
    "All ways of saving go through `state_dict`: the rows as trained, the others with their decay; it comes in again whole."
    model, whole = words(tiny_base), words(tiny_base)
    twenty_steps(whole, .1)
    with Road("float32", "table").taken_by(model, IDS):
        twenty_steps(model, .1)
        state = {name: t.clone() for name, t in model.state_dict().items()}
        model.save_pretrained(tmp_path)
        twenty_steps(model, .1)
        model.load_state_dict(state)
        assert len(table(model)) == len(IDS)
    saved = type(whole).from_pretrained(tmp_path)
    assert state.keys() == whole.state_dict().keys()
    for other in (saved, model): assert all(torch.equal(state[n], t) for n, t in other.state_dict().items())
    unused = sorted(set(range(len(table(whole)))) - IDS)
    assert (table(saved) - table(whole)).abs().max() < 1e-4 and torch.allclose(table(saved)[unused], table(whole)[unused], rtol=1e-6)


@pytest.mark.parametrize("change, told", [(lambda s: s.pop(next(iter(s))), "Missing key"), (lambda s: s.update({next(iter(s)): torch.zeros(3, 16)}), "the table")])
def test_a_table_of_another_size_is_refused(tiny_base, change, told):
    model = words(tiny_base)
    state = model.state_dict()
    assert next(iter(state)).endswith("word_embeddings.weight")
    change(state)
    with Road("float32", "table").taken_by(model, IDS), pytest.raises(RuntimeError, match=told): model.load_state_dict(state)


def test_a_forecast_in_the_middle_may_read_any_word(tiny_base):
    model, other = words(tiny_base), words(tiny_base).eval()
    ids = torch.tensor([[2, 11, 12, 3]])
    assert not {11, 12} & IDS
    with Road("float32", "table").taken_by(model.eval(), IDS), torch.no_grad(): logits = model(input_ids=ids).logits
    assert torch.equal(logits, other(input_ids=ids).logits)


# --- put back, whatever happens -------------------------------------------------------------------------------------

def outside(model):
    "What the shortcuts touch."
    hooks = len(torch_optimizer._global_optimizer_post_hooks)
    return [type(m) for m in model.modules()], model.config._attn_implementation, id(model.get_input_embeddings()), hooks


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_put_back(tiny_base, error):
    model = words(tiny_base)
    before, names = outside(model), list(model.state_dict())
    try:
        with Road("float32", "all").taken_by(model, IDS):
            inside = outside(model)
            if error: raise error
    except (ValueError, KeyboardInterrupt) as e: assert type(e) is error
    assert outside(model) == before and list(model.state_dict()) == names
    assert all(a != b for a, b in zip(inside, before))


def test_a_road_without_shortcuts_touches_nothing(tiny_base):
    model = words(tiny_base)
    before = outside(model)
    with Road("float32", "none").taken_by(model, IDS): assert outside(model) == before


def test_attention_that_somebody_chose_stays(tiny_base):
    model = words(tiny_base)
    model.set_attn_implementation("eager")
    with Road("float32", "attention").taken_by(model, IDS): assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


# --- words for it ---------------------------------------------------------------------------------------------------

def test_the_words_for_shortcuts():
    assert parse_shortcuts("all") == ("dropout", "attention", "table") and parse_shortcuts("none") == ()
    assert parse_shortcuts("table") == ("table",) and parse_shortcuts("table+dropout") == ("table", "dropout")


@pytest.mark.parametrize("spec, word", [("dropouts", "'dropouts'"), ("table+luck", "'luck'"), ("", "''"), ("all+table", "'all'"), (None, "None"), (True, "True"), (["table"], "table")])
def test_other_words_are_refused(spec, word):
    with pytest.raises(InputError, match="or say 'auto', 'all' or 'none'") as e: parse_shortcuts(spec)
    assert word in str(e.value) and "dropout" in str(e.value)


@pytest.mark.parametrize("precision", ["float16", "bf16", "", None, 16])
def test_another_precision_is_refused(precision):
    with pytest.raises(InputError, match="precision"): pick_dtype(precision, "cpu")


@pytest.mark.parametrize("precision", ["float16", "tf32"])
@pytest.mark.parametrize("device", ["cpu", "mps", torch.device("cpu")])
def test_what_only_a_gpu_has_is_refused_elsewhere_in_one_line(precision, device):
    with pytest.raises(InputError, match=f"^precision='{precision}': only on an NVIDIA GPU, and device is '{device}'; use 'float32'.*$"):
        pick_dtype(precision, device)


def test_on_a_gpu_they_are_words_like_others():
    for device in ("cuda", "cuda:1"):
        assert pick_dtype("float16", device) is torch.float16 and pick_dtype("tf32", device) is None
        assert [Road(word).precision_on(device) for word in ("float16", "tf32", "float32")] == ["float16", "tf32", "float32"]


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_an_estimator_refuses_it_before_anything_slow(tiny_base, precision):
    from finetune_book import ImageClassifier
    for est, X in ((TextClassifier(tiny_base, precision=precision, device="cpu"), TEXTS), (ImageClassifier(precision=precision, device="cpu"), [])):
        with pytest.raises(InputError, match="only on an NVIDIA GPU"): est.fit(X, LABELS)


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_a_model_that_a_gpu_trained_answers_on_a_cpu(small, tmp_path, precision):
    clf = TextClassifier(**small).fit(TEXTS, LABELS)
    said = clf.predict_proba(TEXTS)
    clf.precision = clf.precision_ = clf.rows_.road.precision = precision              # as if it had come from there
    clf.save(tmp_path / "m")
    there = TextClassifier.load(tmp_path / "m", device="cpu")
    assert there.precision == precision and np.array_equal(there.predict_proba(TEXTS), said)
    assert Road(precision).precision_on("cpu") == "float32"
    with Road(precision).lower("cpu"): assert not torch.is_autocast_enabled("cpu")


def switches():
    back = torch.backends
    return (back.cuda.matmul.fp32_precision, back.cuda.matmul.allow_tf32, back.cudnn.conv.fp32_precision, back.cudnn.rnn.fp32_precision,
            back.cudnn.allow_tf32, back.cudnn.deterministic, torch.get_float32_matmul_precision())


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_tf32_holds_for_products_and_convolutions_and_is_put_back(error):
    from finetune_book.rows import repeatable
    before = switches()
    try:
        with repeatable("cuda"), Road("tf32").lower("cuda"):
            inside = switches()
            with repeatable("cuda"): assert torch.backends.cudnn.allow_tf32 is False               # it can be nested
            if error: raise error
    except KeyboardInterrupt: assert error
    assert switches() == before and inside == ("tf32", True, "tf32", "tf32", True, True, "high")


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@CUDA
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_on_a_gpu_each_precision_learns_and_repeats_itself(small, precision):
    def fit(): return TextClassifier(**small | dict(device="cuda", epochs=8), precision=precision, shortcuts="none").fit(TEXTS, LABELS)
    one, two = fit(), fit()
    assert one.precision_ == precision and one.history_ == two.history_
    assert weights_hash(one.model_.state_dict()) == weights_hash(two.model_.state_dict())
    assert one.history_[-1]["train_loss"] < one.history_[0]["train_loss"]


@CUDA
def test_on_a_gpu_the_precisions_differ_by_roundings(small):
    def losses(precision):
        clf = TextClassifier(**small | dict(device="cuda", epochs=1), precision=precision, shortcuts="none").fit(TEXTS, LABELS)
        return np.array([row["train_loss"] for row in clf.history_])
    full = losses("float32")
    assert all(np.abs(losses(p) - full).max() < .05 for p in ("tf32", "bfloat16", "float16"))


@CUDA
def test_on_a_gpu_tf32_rounds_a_product():
    a = torch.randn(512, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    exact = a.double() @ a.double()
    def gap():
        with Road("tf32").lower("cuda"): rounded = (a @ a - exact).abs().max()
        return rounded, (a @ a - exact).abs().max()
    rounded, full = gap()
    assert full < 1e-3 and (rounded > 5 * full or torch.cuda.get_device_capability() < (8, 0))


@pytest.mark.parametrize("knows, gain, found", [(False, 9., None), (True, 1.2, None), (True, 1.4, torch.bfloat16)])
def test_auto_asks_and_tries(monkeypatch, knows, gain, found):
    monkeypatch.delenv(fast.PINNED)
    monkeypatch.setattr(fast, "knows_bfloat16", lambda device: knows)
    monkeypatch.setattr(fast, "product_gain", lambda: gain)
    assert pick_dtype("auto", "cpu") is found and pick_dtype("float32", "cpu") is None and pick_dtype("bfloat16", "cpu") is torch.bfloat16
    assert Road("auto").precision_on("cpu") == ("float32" if found is None else "bfloat16")


def test_what_auto_was_is_kept_and_a_training_goes_on_so_or_not_at_all(monkeypatch, tiny_base, tmp_path):
    "A saved model and its card say which shortcuts were taken; a checkpoint of others is refused by their name."
    monkeypatch.setenv(fast.PINNED, "bfloat16")
    given = dict(base=tiny_base, tune="full", epochs=2, max_length=16, verbose=0, device="cpu", precision="bfloat16", checkpoint_every=1,
                 checkpoint_dir=tmp_path / "state")
    TextClassifier(**given | dict(checkpoint_dir=None)).fit(TEXTS, LABELS).save(tmp_path / "m")
    assert TextClassifier.load(tmp_path / "m").shortcuts_ == "dropout+attention+table" and "dropout+attention+table" in (tmp_path / "m/README.md").read_text()
    def stop(*args): raise KeyboardInterrupt
    class Stop(Callback): on_epoch_end = stop
    with pytest.raises(KeyboardInterrupt): TextClassifier(**given, callbacks=[Stop()]).fit(TEXTS, LABELS)
    monkeypatch.setenv(fast.PINNED, "float32")
    with pytest.raises(InputError, match="its shortcuts is dropout.attention.table, here it is table"): TextClassifier(**given).fit(TEXTS, LABELS)


def test_auto_can_be_pinned_and_is_a_text_models_default(monkeypatch, tiny_base):
    "One variable for a whole program; what is said beside it counts more; a word that is none is refused."
    monkeypatch.setattr(fast, "knows_bfloat16", lambda device: True)
    monkeypatch.setattr(fast, "product_gain", lambda: 9.)
    for pin, found, words in (("float32", "float32", "table"), ("bfloat16", "bfloat16", "dropout+attention+table"), ("auto", "bfloat16", "dropout+attention+table")):
        monkeypatch.setenv(fast.PINNED, pin)
        model = TextClassifier(base=tiny_base, tune="full", epochs=1, max_length=16, verbose=0, device="cpu").fit(TEXTS, LABELS)
        assert (model.precision, model.shortcuts) == ("auto", "auto") and (model.precision_, model.shortcuts_) == (found, words)
        assert Road("float32").precision_on("cpu") == "float32" and Road("bfloat16").precision_on("cpu") == "bfloat16"
    monkeypatch.setenv(fast.PINNED, "half")
    with pytest.raises(InputError, match="precision='half'"): pick_dtype("auto", "cpu")


def test_what_torch_cannot_say_is_a_no(monkeypatch):
    "A torch without this question, and a device of another kind."
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert fast.knows_bfloat16("cpu") is False and fast.knows_bfloat16("meta") is False


def test_in_lower_precision_products_are_rounded_and_weights_are_not():
    net, x = nn.Linear(8, 8), torch.randn(4, 8)
    with Road("bfloat16").lower("cpu"): assert net(x).dtype is torch.bfloat16 and net.weight.dtype is torch.float32
    with Road("float32").lower("cpu"): assert net(x).dtype is torch.float32


@pytest.mark.parametrize("lengths, most, width", [([5, 3], 64, 8), ([8], 64, 8), ([9, 2], 64, 16), ([13], 14, 14), ([14], 14, 14), ([5], None, 8)])
def test_in_bfloat16_few_widths_meet_and_none_that_the_base_cannot_read(tiny_base, lengths, most, width):
    "A multiple of 8, or all that the base reads; in float32 as wide as the longest row, as ever."
    rows = TextRows()
    rows.model, rows.tokenizer = load_text_base(tiny_base, 2, seed=0)
    rows.model.config = SimpleNamespace(model_type="bert", pad_token_id=0, max_position_embeddings=most)
    batch = [[7] * n for n in lengths]
    with Road("bfloat16").lower("cpu"): wide = rows.collate(batch, range(len(batch)))
    plain = rows.collate(batch, range(len(batch)))
    assert wide["input_ids"].shape[1] == width and plain["input_ids"].shape[1] == max(lengths)
    assert wide["attention_mask"].sum(1).tolist() == lengths and (wide["input_ids"][wide["attention_mask"] == 0] == rows.tokenizer.pad_token_id).all()


# --- estimators on the fast road ------------------------------------------------------------------------------------

@pytest.fixture
def small(tiny_base):
    return dict(base=tiny_base, tune="full", epochs=3, lr=5e-3, batch_size=4, max_length=16, verbose=0, device="cpu", weight_decay=.1)


def test_no_shortcut_and_the_table_alone_are_the_same_training(small):
    "Dropout is on: the table draws nothing, so both see the same random numbers."
    none, short = (TextClassifier(**small, precision="float32", shortcuts=s).fit(TEXTS, LABELS) for s in ("none", "table"))
    assert np.abs(none.predict_proba(TEXTS) - short.predict_proba(TEXTS)).max() <= 1e-6
    assert (table(none.model_) - table(short.model_)).abs().max() <= 1e-6
    assert [row["train_loss"] for row in none.history_] == pytest.approx([row["train_loss"] for row in short.history_], abs=1e-6)


@pytest.mark.parametrize("shortcuts", ["dropout", "attention"])
def test_other_draws_are_another_training(small, shortcuts):
    none, other = (TextClassifier(**small, precision="float32", shortcuts=s).fit(TEXTS, LABELS) for s in ("none", shortcuts))
    assert np.abs(none.predict_proba(TEXTS) - other.predict_proba(TEXTS)).max() > 1e-6


class PowerCut(Callback):
    order = 200
    def on_batch_end(self, trainer):
        if trainer.step == 4: raise RuntimeError("power cut")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cut_off_in_an_epoch_and_resumed_it_has_the_same_bits(small, tmp_path, precision):
    def fit(**more):
        clf = TextClassifier(**small, precision=precision, shortcuts="all", **more)
        return clf.fit(TEXTS, LABELS, validation=(TEXTS[::3] + ["very good room head"], [*LABELS[::3], "yes"]))
    whole, kept = fit(), dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): fit(callbacks=[PowerCut()], **kept)
    resumed = fit(**kept)
    assert weights_hash(resumed.model_.state_dict()) == weights_hash(whole.model_.state_dict()) and resumed.history_ == whole.history_
    assert resumed.budget_.epochs < whole.budget_.epochs


def test_a_state_of_another_road_is_refused(small, tmp_path):
    state = str(tmp_path / "state")
    TextClassifier(**small, precision="float32", checkpoint_dir=state).fit(TEXTS, LABELS)
    for other in ({"precision": "float32", "shortcuts": "none"}, {"precision": "bfloat16"}):
        with pytest.raises(InputError): TextClassifier(**small, **other, checkpoint_dir=state).fit(TEXTS, LABELS)


def test_a_saved_model_is_an_ordinary_one(small, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    clf = TextClassifier(**small).fit(TEXTS, LABELS)
    clf.save(tmp_path / "m")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert len(table(model)) == model.config.vocab_size == len(tokenizer) and model.config._attn_implementation == "sdpa"
    assert type(model.get_input_embeddings()) is nn.Embedding and fast.PLAIN not in (tmp_path / "m/config.json").read_text()
    with safe_open(tmp_path / "m/model.safetensors", "pt") as f: names = set(f.keys())
    assert names == set(model.state_dict()) and json.loads((tmp_path / "m/config.json").read_text())["vocab_size"] == len(tokenizer)
    unread = ["pain chest fever cough", "knee left right"]                          # words that no training text has
    with torch.no_grad(): said = model(**tokenizer(unread, padding=True, return_tensors="pt")).logits.softmax(1).numpy()
    with Road(precision="float32").lower("cpu"): assert np.abs(said - clf.predict_proba(unread)).max() < .02
    assert {type(m) for m in clf.model_.modules() if isinstance(m, nn.Dropout)} == {nn.Dropout}


def test_in_bfloat16_the_mean_stays():
    "A factor rounded to bfloat16 would be 1.109 for 256/230, and the mean .997 of x."
    torch.manual_seed(0)
    x = torch.ones(2_000_000, dtype=torch.bfloat16)
    kept = fast_dropout(x, .1).double()
    assert kept.unique().tolist() == [0, float(torch.tensor(256 / 230, dtype=torch.bfloat16))], "ones are rounded; a spread of values is not all one way"
    spread = torch.rand(2_000_000).bfloat16()
    keep = fast_dropout(spread, .1)
    ratio = (keep[keep > 0].double() / spread[keep > 0].double()).mean()
    assert abs(ratio - 256 / 230) < 5e-4


def test_a_mask_that_is_added_goes_to_the_fused_attention():
    q = torch.randn(2, 3, 5, 8)
    layer = torch.nn.Module().train()
    layer.is_causal = False
    added = torch.zeros(2, 1, 5, 5).masked_fill(torch.rand(2, 1, 5, 5) < .3, -1e9)
    torch.manual_seed(1); ours, _ = plain_attention(layer, q, q, q, added, dropout=.1)
    torch.manual_seed(1); theirs = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=added, dropout_p=.1).transpose(1, 2)
    assert torch.equal(ours, theirs)
