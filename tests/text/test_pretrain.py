"""Masked language modelling: what is hidden and how often, loss on hidden places only, one table read twice, a run that resumes; the script's file."""
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from finetune_book.train.callbacks import Checkpoint
from finetune_book.checks import InputError
from finetune_book.adapt.freeze import weights_hash
from finetune_book.tasks.heads import load_text_base
from finetune_book.losses import cross_entropy
from finetune_book.text.bert import BertConfig, BertModel
from finetune_book.text.pretrain import IGNORE, MaskedLM, Masker, fixed_batches, load_body, masked_batch, perplexity, portions, pretrain, save_base
from finetune_book.text.tokens import SPECIAL, WordPiece
from finetune_book.train.trainer import Callback

REPO = Path(__file__).parents[2]
WORDS = [*SPECIAL, *(f"w{i}" for i in range(30))]
TOKENIZER = WordPiece(WORDS)
SIZES = dict(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=32, initializer_range=.2)


def generator(seed=0): return torch.Generator().manual_seed(seed)
def model(seed=0): return MaskedLM(BertModel(BertConfig(**SIZES), seed), seed).eval()


def notes(n=40, seed=0):
    "Rows that each use the three words of one of ten topics, so that there is something to learn."
    rng = np.random.default_rng(seed)
    return [[2, *(5 + 3 * topic + rng.integers(3, size=length)).tolist(), 3] for topic, length in zip(rng.integers(10, size=n), rng.integers(4, 12, size=n))]


# --- what is hidden ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate, shares", [(.15, (.8, .1, .1)), (.4, (1., 0., 0.)), (.5, (0., 0., 1.)), (.3, (.2, .5, .3))])
def test_shares_are_kept(rate, shares):
    ids = torch.randint(5, 35, (1500, 60), generator=generator(1))
    ids[:, 0], ids[:, -5:] = 2, 0
    shown, labels = Masker(TOKENIZER, rate, shares)(ids, generator(2))
    chosen, ordinary = labels != IGNORE, ids >= 5
    n, k = int(ordinary.sum()), int(chosen.sum())
    near = lambda count, n, r: abs(count - n * r) <= 4.5 * math.sqrt(n * r * (1 - r)) + 1e-9
    assert near(k, n, rate) and not chosen[~ordinary].any()
    assert near(int((shown == 4)[chosen].sum()), k, shares[0])
    assert near(int((shown == ids)[chosen].sum()), k, shares[2] + shares[1] / 30)
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(shown[~chosen], ids[~chosen])
    assert not torch.isin(shown[chosen], torch.tensor([0, 1, 2, 3])).any(), "a random piece is never a special token"
    rows = chosen.float().sum(1)
    assert rows.std() > 1, "each place decides for itself"


def test_the_generator_alone_decides():
    ids = torch.randint(5, 35, (8, 20), generator=generator())
    a, b, c = (Masker(TOKENIZER)(ids, generator(s)) for s in (1, 1, 2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[1], c[1])
    before = torch.get_rng_state()
    Masker(TOKENIZER)(ids, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_at_least_one_place_is_asked():
    for seed in range(20):
        _, labels = Masker(TOKENIZER, rate=1e-9)(torch.tensor([[2, 7, 8, 3]]), generator(seed))
        assert (labels != IGNORE).sum() == 1


def test_it_takes_transformers_tokenizers(tiny_base):
    _, tokenizer = load_text_base(tiny_base, 2)
    masker = Masker(tokenizer)
    assert masker.mask_id == tokenizer.mask_token_id and len(masker.ordinary) + len(masker.special) == len(tokenizer)


@pytest.mark.parametrize("settings, says", [(dict(rate=0), "rate=0"), (dict(rate=1.2), "rate=1.2"), (dict(rate=float("nan")), "rate=nan"),
                                            (dict(shares=(.8, .2)), "three numbers"), (dict(shares=(.9, .2, -.1)), "sum to 1"), (dict(shares=(.8, .1, .2)), "sum to 1")])
def test_masker_refuses(settings, says):
    with pytest.raises(InputError, match=says): Masker(TOKENIZER, **settings)


def test_masker_refuses_what_has_nothing_to_hide():
    with pytest.raises(InputError, match="special tokens only"): Masker(TOKENIZER)(torch.tensor([[2, 3, 0]]))
    class Without(WordPiece): mask_token_id = property(lambda self: None, lambda self, value: None)
    with pytest.raises(InputError, match="no .MASK. token"): Masker(Without(WORDS))


# --- the loss and the head -----------------------------------------------------------------------------------------

def test_the_loss_is_lesson_01s_over_all_places():
    net, rows = model(), notes(6)
    inputs, targets = masked_batch(rows, range(6), Masker(TOKENIZER), 0, generator(3))
    labels = torch.full(inputs["places"].shape, IGNORE)
    labels[inputs["places"]] = targets
    with torch.no_grad(): picked, whole = net(**inputs), net(inputs["input_ids"], inputs["attention_mask"])
    assert picked.shape == (len(targets), len(WORDS)) and whole.shape == (*labels.shape, len(WORDS))
    assert abs(F.cross_entropy(picked, targets).item() - cross_entropy(whole.double().numpy(), labels.numpy())) < 1e-5


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_names_and_logits_are_transformers(act):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ref = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, hidden_act=act)).eval()
        for p in ref.parameters(): p.data += .1 * torch.randn(p.shape)
    inputs, _ = masked_batch(notes(5), range(5), Masker(TOKENIZER), 0, generator())
    bodies = BertModel(BertConfig(**SIZES, hidden_act=act)), transformers.BertModel(ref.config)
    for body in bodies:
        ours = MaskedLM(body).eval()
        lacking = ours.load_state_dict(ref.state_dict(), strict=False)
        assert not lacking.unexpected_keys and all(".pooler." in k for k in lacking.missing_keys)
        with torch.no_grad(): a, b = ours(inputs["input_ids"], inputs["attention_mask"]), ref(inputs["input_ids"], inputs["attention_mask"]).logits
        assert b.std() > .1 and (a - b)[inputs["attention_mask"].bool()].abs().max() <= 1e-5


def test_one_table_before_and_after_training():
    net = model()
    table = net.bert.embeddings.word_embeddings.weight
    assert net.cls.predictions.decoder.weight is table and sum(p is table for p in net.parameters()) == 1
    train(net, 2)
    assert net.cls.predictions.decoder.weight is net.bert.embeddings.word_embeddings.weight and not torch.equal(table, model().bert.embeddings.word_embeddings.weight)


def test_the_head_starts_from_the_seed():
    head = lambda seed: weights_hash(MaskedLM(BertModel(BertConfig(**SIZES)), seed).cls.predictions.transform.state_dict())
    assert head(1) == head(1) != head(2)
    with pytest.raises(InputError, match="seed=-1"): MaskedLM(BertModel(BertConfig(**SIZES)), -1)


# --- perplexity ----------------------------------------------------------------------------------------------------

def test_a_uniform_guess_has_the_vocabularys_size():
    batches = fixed_batches(notes(), Masker(TOKENIZER), 0, batch_size=7)
    assert math.isclose(perplexity(lambda input_ids, attention_mask, places: torch.zeros(int(places.sum()), 35), batches), 35, rel_tol=1e-5)


def test_perplexity_weighs_tokens_not_batches():
    net, batches = model(), fixed_batches(notes(), Masker(TOKENIZER), 0, batch_size=7)
    with torch.no_grad(): logits, targets = torch.cat([net(**x) for x, _ in batches]), torch.cat([y for _, y in batches])
    assert len({len(y) for _, y in batches}) > 1
    assert math.isclose(perplexity(net, batches), math.exp(F.cross_entropy(logits, targets).item()), rel_tol=1e-5)


def test_fixed_batches_are_fixed_and_whole():
    a, b = (fixed_batches(notes(), Masker(TOKENIZER), 0, batch_size=7) for _ in range(2))
    for (x, y), (u, v) in zip(a, b, strict=True): assert torch.equal(y, v) and all(torch.equal(x[k], u[k]) for k in x)
    assert sum(len(x["input_ids"]) for x, _ in a) == 40


def test_no_batches_no_perplexity():
    with pytest.raises(InputError, match="no batches"): perplexity(model(), [])


# --- training ------------------------------------------------------------------------------------------------------

def train(net, n_portions=3, seed=0, **settings):
    return pretrain(net, notes(), Masker(TOKENIZER, rate=.3), 0, n_portions=n_portions, **{**dict(steps=5, batch_size=8, lr=3e-3, seed=seed), **settings})


def test_portions_pass_over_every_row_before_any_comes_again():
    batches = portions([5] * 23, 4, steps=5, seed=1)
    stream = [b for number in range(5) for b in batches(number)]
    passes = [np.concatenate(stream[i:i + 6]) for i in (0, 6, 12, 18)]
    for rows in passes: assert sorted(rows) == list(range(23))
    assert not np.array_equal(passes[0], passes[1]) and all(np.array_equal(a, b) for a, b in zip(batches(3), batches(3)))
    with pytest.raises(InputError, match="steps=0"): portions([5], 4, steps=0)


def test_it_learns_what_follows_what():
    net, judge = model(), fixed_batches(notes(30, seed=9), Masker(TOKENIZER), 0)
    before = perplexity(net, judge)
    history = pretrain(net, notes(400, seed=1), Masker(TOKENIZER), 0, judge, n_portions=5, steps=60, batch_size=16, lr=5e-3).history_
    assert before > 25 and history[-1]["perplexity"] < 8 and history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_seed_decides_all_and_no_dice_move():
    before = torch.get_rng_state()
    a, b, c = (weights_hash(train(model(), seed=s).model.state_dict()) for s in (0, 0, 1))
    assert a == b != c and torch.equal(torch.get_rng_state(), before)


class Killed(Callback):
    order = 200

    def on_batch_end(self, trainer):
        if trainer.step == 7: raise KeyboardInterrupt


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = train(model()).model
    with pytest.raises(KeyboardInterrupt): train(model(), callbacks=[Checkpoint(tmp_path, every_steps=1), Killed()])
    resumed = train(model(seed=5), callbacks=[Checkpoint(tmp_path, every_steps=1)], resume=Checkpoint.latest(tmp_path)).model
    assert weights_hash(resumed.state_dict()) == weights_hash(whole.state_dict())


def test_the_body_is_a_base_again(tiny_base, tmp_path):
    from finetune_book import TextClassifier
    body, tokenizer = load_body(tiny_base)
    start = weights_hash(body.state_dict())
    rows = tokenizer(["no fever two days", "bad chest pain", "the room was clean", "knee pain left"] * 4)["input_ids"]
    pretrain(MaskedLM(body), rows, Masker(tokenizer), tokenizer.pad_token_id, n_portions=1, steps=2, batch_size=8)
    assert weights_hash(body.state_dict()) != start
    folder = save_base(body, tokenizer, tmp_path / "adapted")
    assert weights_hash(load_body(folder)[0].state_dict()) == weights_hash(body.state_dict())
    clf = TextClassifier(base=str(folder), epochs=1, max_length=16, verbose=0).fit(["good room", "bad pain"] * 4, ["+", "-"] * 4)
    assert set(clf.predict(["good room"])) <= {"+", "-"}


# --- the stored result ---------------------------------------------------------------------------------------------

def test_the_stored_result_is_small_paired_and_says_how_it_was_made():
    path = REPO / "nbs/results/masked_lm.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    few = [(r["seed"], r["arm"]) for r in stored["rows"] if r["stage"] == "fewshot"]
    seeds = sorted({s for s, _ in few})
    assert path.stat().st_size < 50_000 and stored["command"].startswith("python scripts/bases/adapt_book_bert.py --out nbs/results/masked_lm.json")
    assert len(seeds) >= 5 and sorted(few) == sorted((s, arm) for s in seeds for arm in ("book-bert", "adapted"))
    assert "/work" not in path.read_text(encoding="utf-8")


def test_the_script_stores_resumes_and_refuses_other_settings(tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(REPO / "scripts" / "bases")
    import adapt_book_bert
    out, small = tmp_path / "found.json", "--steps 2 --portion 1 --batch-size 2 --seeds 1 --k 1 --epochs 1 --test-rows 5 --max-length 12".split()
    def script(*more):
        monkeypatch.setattr(sys, "argv", ["adapt_book_bert.py", "--out", str(out), "--work", str(tmp_path / "work"), "--base", tiny_base, *small, *more])
        adapt_book_bert.main()
        return capsys.readouterr().out
    assert len(script().splitlines()) == 7
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(r["stage"], r["arm"]) for r in rows] == [("pretrain", "adapted")] * 3 + [("fill", "adapted"), ("floor", "TF-IDF"), ("fewshot", "book-bert"), ("fewshot", "adapted")]
    assert script() == "" and json.loads(out.read_text(encoding="utf-8"))["rows"] == rows
    with pytest.raises(InputError, match="holds results of other settings"): script("--lr", "0.1")
