"""Each check fails on its planted bug, says which, passes on the mended version, raises no false alarm, and leaves no trace."""
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetune_book import invariants as inv
from finetune_book.checks import InputError
from finetune_book.invariants import InvariantBroken
from torch import nn

X, Y = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def broken(words, check, *args, **kwargs):
    with pytest.raises(InvariantBroken, match=words) as caught: check(*args, **kwargs)
    assert "The usual bug: " in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


class Reader(nn.Module):
    "Vectors (n, t, 16) to scores (n, 4), with one bug or none."
    def __init__(self, bug=""):
        super().__init__()
        self.bug, self.head = bug, nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=bug != "batch first")
        self.norm = nn.BatchNorm1d(16, track_running_stats=bug != "norm over the batch")
        self.parts = [nn.Linear(16, 16)] if bug == "plain list" else nn.ModuleList([nn.Linear(16, 16)])
        if bug == "unused": self.extra = nn.Linear(16, 16)

    def train(self, mode=True):
        super().train(mode)
        if self.bug == "stays in training": self.norm.train()
        return self

    def forward(self, x):
        h = self.parts[0](self.norm(self.layer(x)[:, 0]))
        if self.bug == "dropout": h = F.dropout(h)
        if self.bug == "detach": h = h.detach()
        z = self.head(h)
        if self.bug == "softmax": z = z.softmax(1)
        if self.bug == "squeeze": z = z.squeeze()
        if self.bug == "nan": z = z / 0
        return z


def reader(bug=""): return seeded(lambda: Reader(bug))


class Words(nn.Module):
    "Token numbers (n, t) and mask to scores; the mean counts filling or not."
    def __init__(self, counts_filling=False):
        super().__init__()
        self.table, self.head, self.counts = nn.Embedding(50, 16), nn.Linear(16, 4), counts_filling

    def forward(self, input_ids, attention_mask):
        h = self.table(input_ids)
        if self.counts: return self.head(h.mean(1))
        m = attention_mask[..., None].float()
        return self.head((h * m).sum(1) / m.sum(1))


IDS = torch.randint(5, 50, (8, 6), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 6] * 4 + [[1] * 3 + [0] * 3] * 4)


class Loop:
    "A training of a small model with a frozen part, and one bug or none."
    def __init__(self, bug=""):
        self.bug = bug
        self.model = seeded(lambda: nn.ModuleDict(dict(body=nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8)), head=nn.Linear(8, 4))))
        if bug != "not frozen":
            for p in self.model["body"].parameters(): p.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0. if bug == "rate 0" else .01)
        if bug == "late head": self.model["head"] = seeded(lambda: nn.Linear(8, 4))
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, .5, 1., 6)

    def step(self):
        self.model.train()
        if self.bug != "drifts": self.model["body"].eval()
        if self.bug not in ("not cleared", "cleared at the end"): self.optimizer.zero_grad()
        F.cross_entropy(self.model["head"](self.model["body"](X[:, 0])), Y).backward()
        self.optimizer.step()
        if self.bug == "cleared at the end": self.optimizer.zero_grad()
        if self.bug not in ("not stepped", "rate 0"): self.scheduler.step()

    def train(self):
        for _ in range(3 if self.bug == "too few" else 6): self.step()


# --- each check on its bug, and on the mended version --------------------------------------------------------------

def test_shapes():
    model = seeded(Words)
    inv.check_shapes(model, (IDS, MASK), Y, 4)
    broken("return_tensors", inv.check_shapes, model, {"input_ids": IDS[:, None], "attention_mask": MASK}, Y)
    broken("differ in rows", inv.check_shapes, model, (IDS, MASK), Y[:7])
    broken("model.to", inv.check_shapes, model, (IDS.to("meta"), MASK.to("meta")))
    broken("head of the pretrained model", inv.check_shapes, model, (IDS, MASK), Y, 10)
    broken("label 3 is not one of 0 to 2", inv.check_shapes, model, (IDS, MASK), Y, 3)
    broken("second dimension", inv.check_shapes, model, (IDS, MASK), Y[:, None], 4)
    inv.check_shapes(seeded(Words).to("meta"), (IDS.to("meta"), MASK.to("meta")), Y, 4)
    inv.check_shapes(model, (IDS, MASK), torch.where(Y == 0, -100, Y), 4)


def test_a_window_over_one_place():
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    model = seeded(lambda: resnet18(num_classes=10))
    broken("layer4.0.conv2 moves a window of 3 × 3", inv.check_shapes, model, torch.rand(2, 3, 32, 32), None, 10)
    inv.check_shapes(model, torch.rand(2, 3, 64, 64), torch.tensor([1, 2]), 10)


def test_vocabulary():
    inv.check_vocabulary(IDS, 1)
    inv.check_vocabulary([[7, 1, 1, 1]], 1, [[1, 0, 0, 0]])
    broken("75% of 4 pieces", inv.check_vocabulary, [[7, 1, 1, 1]], 1)
    with pytest.raises(InputError, match="no real place"): inv.check_vocabulary([[1]], 1, [[0]])


def test_label_order():
    inv.check_label_order(train=["a", "b"], model={0: "a", 1: "b"}, folder={"b": 1, "a": 0}, saved={"0": "a", "1": "b"})
    broken("class 0 is 'a' for train and 'b' for test", inv.check_label_order, train=["a", "b"], test=["b", "a"])
    broken("2 classes and model 3", inv.check_label_order, train=["a", "b"], model={0: "a", 1: "b", 2: "c"})
    with pytest.raises(InputError, match="two or more"): inv.check_label_order(train=["a"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding(side):
    for batch in ((IDS, MASK), {"input_ids": IDS, "attention_mask": MASK}):
        inv.check_padding_invariant(seeded(Words), batch, side=side)
        broken("a mean over places counts the filling", inv.check_padding_invariant, seeded(lambda: Words(True)), batch, side=side)


def test_padding_of_a_mask_that_marks_the_filling():
    class Torchs(nn.Module):
        def __init__(self): super().__init__(); self.layer, self.table = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Embedding(50, 16)
        def forward(self, ids, empty): return self.layer(self.table(ids), src_key_padding_mask=empty)[:, 0]
    model = seeded(Torchs)
    inv.check_padding_invariant(model, (IDS, MASK == 0), fill={1: True})
    broken("filling", inv.check_padding_invariant, model, (IDS, MASK == 0))


def test_batch():
    inv.check_batch_invariant(reader(), X)
    for bug in ("batch first", "norm over the batch", "squeeze"): broken("batch_first left at False", inv.check_batch_invariant, reader(bug), X)
    with pytest.raises(InputError, match="no neighbours"): inv.check_batch_invariant(reader(), X[:1])


def test_eval():
    inv.check_eval_deterministic(reader(), X)
    broken("without training=self.training", inv.check_eval_deterministic, reader("dropout"), X)
    broken("norm.running_mean.* moves", inv.check_eval_deterministic, reader("stays in training"), X)
    broken("NaN", inv.check_eval_deterministic, reader("nan"), X)
    for check in (inv.check_batch_invariant, inv.check_padding_invariant): broken("asked twice", check, reader("dropout"), X)


def test_gradients_flow():
    inv.check_gradients_flow(reader(), X, Y)
    broken("no gradient reaches layer.*detach", inv.check_gradients_flow, reader("detach"), X, Y)
    broken("no gradient reaches extra.bias, extra.weight", inv.check_gradients_flow, reader("unused"), X, Y)
    inv.check_gradients_flow(reader("unused"), X, Y, ignore=["extra"])
    broken("parts holds layers.*ModuleList", inv.check_gradients_flow, reader("plain list"), X, Y)
    broken("no gradient at all", inv.check_gradients_flow, reader().requires_grad_(False), X, Y)


def test_a_part_that_begins_at_zero_raises_no_alarm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 8, bias=False), nn.Linear(8, 4))
    nn.init.zeros_(model[2].weight)
    inv.check_gradients_flow(model, X, Y)
    inv.check_overfits_one_batch(model, X, Y)


def test_gradients_cleared():
    for bug in ("", "cleared at the end"): loop = Loop(bug); inv.check_gradients_cleared(loop.model, loop.step, [loop.scheduler])
    loop = Loop("not cleared")
    broken("zero_grad.. is never called", inv.check_gradients_cleared, loop.model, loop.step)


def test_frozen():
    loop = Loop()
    for part in ("body", ["body.0", "body.1"], loop.model["body"]): inv.check_frozen(loop.model, part, loop.step)
    for bug, words in {"not frozen": "require_grad for requires_grad", "drifts": "statistics moved.*eval mode",
                       "late head": "nothing moves.*before the head was replaced", "rate 0": "nothing moves"}.items():
        loop = Loop(bug)
        broken(words, inv.check_frozen, loop.model, "body", loop.step)
    with pytest.raises(InputError, match="no such part; the model has body, head"): inv.check_frozen(loop.model, "bert", loop.step)


def test_schedule():
    loop = Loop()
    inv.check_schedule(loop.train, 6, loop.model, [loop.scheduler])
    inv.check_schedule(Loop("not stepped").train, 6, constant=True)
    for bug, words in {"too few": "3 optimizer steps where 6.*epochs set and not used", "rate 0": "the rate is 0 in all 6",
                       "not stepped": "made and never stepped"}.items(): broken(words, inv.check_schedule, Loop(bug).train, 6)


@pytest.mark.parametrize("labels", [Y, Y.numpy(), Y.tolist(), [str(y) for y in Y.tolist()], Y % 2], ids=["tensor", "array", "list", "words", "two classes"])
def test_blind_to_test(labels):
    def fit(test_labels, chosen_on=None):
        models = [seeded(lambda: nn.Linear(16, 4)).requires_grad_(False) for _ in range(6)]
        for i, model in enumerate(models): model.bias[i % 4] += 10
        said = [str(model(X[:, 0]).argmax(1).tolist()[0]) for model in models]
        truth = [str(int(y)) for y in test_labels] if chosen_on == "test" else ["1"]
        return next(model for model, y in zip(models, said) if y == truth[0])
    inv.check_blind_to_test(fit, labels)
    broken("chosen on the test rows", inv.check_blind_to_test, lambda y: fit(y, "test"), labels)
    draws = iter(range(100))
    with pytest.raises(InputError, match="two results"): inv.check_blind_to_test(lambda y: next(draws), labels)


def test_what_a_fit_may_give_back():
    for make in (lambda y: torch.ones(3), lambda y: np.array(["a", "b"]), lambda y: .5, lambda y: {"model": nn.Linear(2, 2), "score": 1.}):
        inv.check_blind_to_test(make, Y)
    with pytest.raises(InputError, match="one class"): inv.check_blind_to_test(None, [1, 1])


def test_overfits():
    inv.check_overfits_one_batch(reader(), X, Y)
    broken("a softmax or ReLU on the scores", inv.check_overfits_one_batch, reader("softmax"), X, Y, steps=40)
    inv.check_overfits_one_batch(nn.Linear(16, 1), X[:, 0], X[:, 0].sum(1, keepdim=True))


# --- no false alarm ------------------------------------------------------------------------------------------------

def passes_all(model, batch, labels, n_classes, texts=False):
    """The checks raise where something is wrong. Each has to ask the model, or its silence says nothing; and to leave
    the weights as they were."""
    before, asked = {name: v.clone() for name, v in model.state_dict().items()}, []
    watch = model.register_forward_hook(lambda *_: asked.append(1))
    def asks(check, *args):
        asked.clear()
        check(model, batch, *args)
        return len(asked)
    counts = [asks(inv.check_shapes, labels, n_classes), asks(inv.check_eval_deterministic), asks(inv.check_batch_invariant),
              asks(inv.check_gradients_flow, labels), asks(inv.check_overfits_one_batch, labels)]
    if texts: counts.append(asks(inv.check_padding_invariant))
    watch.remove()
    assert min(counts) >= 1
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def tiny(kind, **settings):
    import transformers
    config = getattr(transformers, f"{kind}Config")(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                                    max_position_embeddings=32, num_labels=4, pad_token_id=0, **settings)
    return seeded(lambda: getattr(transformers, f"{kind}ForSequenceClassification")(config))


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_no_false_alarm_on_transformers(kind):
    model = tiny(kind)
    passes_all(model, {"input_ids": IDS, "attention_mask": MASK}, Y, 4, texts=True)
    if kind == "Bert": broken("mask is not handed", inv.check_padding_invariant, model, IDS)


def test_no_false_alarm_on_a_body_or_tokens_or_a_decoder():
    import transformers
    batch = {"input_ids": IDS, "attention_mask": MASK}
    inv.check_padding_invariant(tiny("Bert").bert, batch)
    inv.check_padding_invariant(tiny("Bert").bert, batch, side="right", extra=1)
    config = transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=2, n_positions=32, pad_token_id=0)
    gpt = seeded(lambda: transformers.GPT2LMHeadModel(config))
    inv.check_padding_invariant(gpt, batch)
    inv.check_gradients_flow(gpt, batch, IDS)


def test_no_false_alarm_on_book_bert():
    from finetune_book.text.bases import load_text_base
    model, tokenizer = load_text_base("book-bert", 4)
    texts = [f"{word} for {n} days" for word in ("headache", "cough", "chest pain", "burning") for n in ("two", "three weeks and four")]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = torch.arange(8) // 2
    passes_all(model, batch, labels, 4, texts=True)


def test_no_false_alarm_on_torchvision():
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    model, x = seeded(lambda: resnet18(num_classes=4)), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.train()
    passes_all(model, x, torch.arange(4), 4)
    assert model.training and model.bn1.num_batches_tracked == 0


def test_no_false_alarm_on_plain_models():
    for model, x in ((nn.Linear(16, 4), X[:, 0]), (nn.Sequential(nn.Flatten(), nn.Linear(80, 32), nn.Dropout(.5), nn.ReLU(), nn.Linear(32, 4)), X),
                     (nn.Sequential(nn.Conv1d(5, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(112, 4)), X),
                     (nn.Linear(16, 4).double(), X[:, 0].double())):
        passes_all(model, x, Y, 4)


# --- no trace ------------------------------------------------------------------------------------------------------

def state_of(loop):
    model = loop.model
    random_state = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    tensors = [t.clone() for t in [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]]
    moments = [t.clone() for s in loop.optimizer.state.values() for t in s.values()]
    plain = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], loop.optimizer.param_groups[0]["lr"], loop.scheduler.last_epoch
    return random_state, plain, tensors + moments, [id(p.grad) for p in model.parameters()]


CHECKS = {
    "frozen": lambda loop: inv.check_frozen(loop.model, "body", loop.step, [loop.scheduler]),
    "cleared": lambda loop: inv.check_gradients_cleared(loop.model, loop.step, [loop.scheduler]),
    "schedule": lambda loop: inv.check_schedule(loop.train, 6, loop.model, [loop.scheduler]),
    "eval": lambda loop: inv.check_eval_deterministic(Whole(loop.model), X),
    "batch": lambda loop: inv.check_batch_invariant(Whole(loop.model), X),
    "flow": lambda loop: inv.check_gradients_flow(Whole(loop.model), X, Y),
    "overfits": lambda loop: inv.check_overfits_one_batch(Whole(loop.model), X, Y, steps=20),
    "shapes": lambda loop: inv.check_shapes(Whole(loop.model), X, Y, 4),
}


class Whole(nn.Module):
    "The parts of a loop as one model, which draws from all three sources of random numbers."
    def __init__(self, parts): super().__init__(); self.parts = parts
    def forward(self, x):
        torch.rand(1), random.random(), np.random.rand()
        return self.parts["head"](self.parts["body"](x[:, 0]))


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("bug", ["", "not cleared", "not frozen", "drifts", "rate 0"])
def test_a_check_leaves_no_trace(name, bug):
    loop = Loop(bug)
    loop.step()
    loop.model["head"].eval()
    before = state_of(loop)
    try: CHECKS[name](loop)
    except InvariantBroken: pass
    after = state_of(loop)
    assert before[:2] == after[:2] and before[3] == after[3]
    assert len(before[2]) == len(after[2]) and all(torch.equal(a, b) for a, b in zip(before[2], after[2]))


def test_a_check_leaves_no_trace_when_the_script_itself_fails():
    loop = Loop()
    loop.step()
    before = state_of(loop)
    def step(): loop.step(); raise RuntimeError("theirs")
    with pytest.raises(RuntimeError, match="theirs"): inv.check_frozen(loop.model, "body", step, [loop.scheduler])
    after = state_of(loop)
    assert before[:2] == after[:2] and all(torch.equal(a, b) for a, b in zip(before[2], after[2]))


# --- what they refuse ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, words", [
    (lambda: inv.check_eval_deterministic(reader(), ["text"]), "no tensor with rows"),
    (lambda: inv.check_padding_invariant(reader(), Y), "nothing to fill"),
    (lambda: inv.check_padding_invariant(reader(), X, side="top"), "right"),
    (lambda: inv.check_padding_invariant(tiny("Bert"), {"input_ids": IDS, "attention_mask": MASK}, extra=30), "shorter batch"),
    (lambda: inv.check_schedule(None, 0), "steps=0"),
    (lambda: inv.check_eval_deterministic(nn.Linear(16, 4).requires_grad_(False).apply(lambda m: (nn.init.zeros_(m.weight), nn.init.zeros_(m.bias))), X), "every answer is 0"),
    (lambda: inv.check_gradients_flow(reader(), X, X), "differ in shape"),
], ids=range(7))
def test_refused(call, words):
    with pytest.raises(InputError, match=words): call()
