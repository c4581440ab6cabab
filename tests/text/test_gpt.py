"""Decoders: equal to transformers' GPT-2 and Llama, with and without filling and cache; pieces equal to tokenizers'; the carried one opens offline."""
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.flop_counter import FlopCounterMode

from finetune_book.checks import InputError
from finetune_book.data.tables import carried, load_frame, read_splits
from finetune_book.losses import next_token_nll
from finetune_book.text.gpt import (ByteBPE, Decoder, DecoderConfig, RMSNorm, bits_per_byte, causal_mask, learn_bpe, multiply_adds, rotate_pairs,
                                    token_losses)

SIZES = dict(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=40, bos_token_id=0, eos_token_id=0,
             pad_token_id=0)
CASES = {"gpt2": {}, "gpt2, narrow inside": dict(n_inner=24), "gpt2, another eps": dict(layer_norm_epsilon=1e-2), "gpt2, not tied": dict(tie_word_embeddings=False),
         "llama": dict(intermediate_size=56), "llama, shared keys": dict(intermediate_size=56, num_key_value_heads=2),
         "llama, one key": dict(intermediate_size=40, num_key_value_heads=1, tie_word_embeddings=True),
         "llama, slow turns": dict(intermediate_size=56, rope_parameters=dict(rope_type="default", rope_theta=500_000.))}


def theirs(name, seed=0, **other):
    "A causal model of transformers with random numbers in every parameter."
    config = transformers.AutoConfig.for_model(name.split(",")[0], **{**SIZES, **CASES[name], **other})
    with torch.random.fork_rng(devices=[]): model = transformers.AutoModelForCausalLM.from_config(config)
    rng = torch.Generator().manual_seed(seed)
    for key, p in model.named_parameters():
        p.data = (p.ndim == 1 and key.endswith("weight")) + (.3 if p.ndim == 1 else .15) * torch.randn(p.shape, generator=rng)
    return model.eval()


def filled(side, lengths=(7, 3, 12), seed=0):
    "(ids, mask, places), random texts filled up on one side."
    rng, t = np.random.default_rng(seed), max(lengths)
    ids, mask = torch.zeros(2, len(lengths), t, dtype=torch.long)
    for row, n in enumerate(lengths):
        at = slice(0, n) if side == "right" else slice(t - n, t)
        ids[row, at], mask[row, at] = torch.tensor(rng.integers(1, 50, n)), 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


# --- equal to transformers' ----------------------------------------------------------------------------------------

@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_logits_are_transformers(name):
    ref = theirs(name)
    ours = Decoder.like(ref)
    for side in ("right", "left"):
        ids, mask, places = filled(side)
        a, b = ours(ids, attention_mask=mask)[0], ref(input_ids=ids, attention_mask=mask, position_ids=places).logits
        assert b.std() > .3 and (a - b)[mask.bool()].abs().max() <= 1e-4
    assert (ours(ids[2:])[0] - ref(input_ids=ids[2:]).logits).abs().max() <= 1e-4


def test_gradients_are_transformers():
    for name in ("gpt2", "llama, shared keys"):
        ref, ids = theirs(name), filled("right")[0][2:]
        ours = Decoder.like(ref)
        token_losses(ours(ids)[0], ids).mean().backward()
        token_losses(ref(input_ids=ids).logits, ids).mean().backward()
        a, b = ours.embed.weight.grad, ref.get_input_embeddings().weight.grad
        assert b.abs().max() > 0 and (a - b).abs().max() <= 1e-4 * b.abs().max()


@torch.no_grad()
def test_places_counted_in_columns_change_gpt2_and_not_llama():
    "The known trap, which ours cannot fall into: it reads places off the mask."
    ids, mask, _ = filled("left")
    for name, far in (("gpt2", True), ("llama", False)):
        ref = theirs(name)
        gap = (Decoder.like(ref)(ids, attention_mask=mask)[0] - ref(input_ids=ids, attention_mask=mask).logits)[mask.bool()].abs().max()
        assert (gap > .1) == far, name


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama, shared keys"])
def test_company_and_filling_change_no_logit(name):
    ours = Decoder.like(theirs(name))
    for side in ("right", "left"):
        ids, mask, _ = filled(side)
        together = ours(ids, attention_mask=mask)[0]
        for row, n in enumerate((7, 3, 12)):
            real = mask[row].bool()
            assert (together[row, real] - ours(ids[row, real][None])[0][0]).abs().max() <= 1e-4 and real.sum() == n


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama, shared keys"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_cache_changes_no_logit(name, side):
    ours, (ids, mask, _) = Decoder.like(theirs(name)), filled(side)
    whole = ours(ids, attention_mask=mask)[0]
    for sizes in ([10, 1, 1], [10, 2]) if side == "left" else ([1] * 12, [5, 1, 6]):
        cache, at, parts = None, 0, []
        for size in sizes:
            first = cache
            logits, cache = ours(ids[:, at:at + size], cache, mask[:, at:at + size])
            assert first is None or first.length == at, "a cache that was handed in stays as it was"
            parts.append(logits); at += size
        assert (torch.cat(parts, 1) - whole)[mask.bool()].abs().max() <= 1e-4 and cache.length == 12


@torch.no_grad()
def test_a_mask_belongs_to_the_new_tokens():
    ours, (ids, mask, _) = Decoder.like(theirs("gpt2")), filled("left")
    cache = ours(ids[:, :10], None, mask[:, :10])[1]
    told, untold = ours(ids[:, 10:], cache, mask[:, 10:])[0], ours(ids[:, 10:], cache)[0]
    assert torch.equal(told, untold)
    with pytest.raises(InputError, match="that of the new tokens"): ours(ids[:, 10:], cache, mask)


def test_no_answer_depends_on_the_future():
    ours, ids = Decoder.like(theirs("llama")), filled("right")[0][2:]
    a, other = ours(ids)[0], ids.clone()
    other[0, 6:] = 49 - other[0, 6:]
    b = ours(other)[0]
    assert torch.equal(a[0, :6], b[0, :6]) or (a[0, :6] - b[0, :6]).abs().max() < 1e-5
    assert (a[0, 6:] - b[0, 6:]).abs().max() > .1


# --- its pieces ----------------------------------------------------------------------------------------------------

def test_the_causal_mask_by_hand():
    assert ((causal_mask(2, 3) == 0).long() == torch.tensor([[1, 1, 0], [1, 1, 1]])).all()
    seen = causal_mask(2, 3, torch.tensor([[0, 1, 1]]))
    assert seen.shape == (1, 1, 2, 3) and ((seen[0, 0] == 0).long() == torch.tensor([[0, 1, 0], [0, 1, 1]])).all() and seen.isfinite().all()


def test_the_norm_is_torchs():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(RMSNorm(8, 1e-3)(x), torch.nn.functional.rms_norm(x, (8,), eps=1e-3), atol=1e-6)


def test_turns_keep_lengths_and_know_distances():
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    angles = torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rotate_pairs(x, angles).norm(dim=-1), x.norm(dim=-1), atol=1e-6) and torch.equal(rotate_pairs(x, 0 * angles), x)
    assert torch.allclose(rotate_pairs(rotate_pairs(x, angles), -angles), x, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_formula_counts_what_torch_counts(family):
    config = DecoderConfig(64, width=24, layers=2, heads=4, kv_heads=2, family=family, longest=32, tied=False)
    with torch.device("meta"), torch.no_grad():
        model = Decoder(config)
        for past in (0, 5):
            cache = model(torch.zeros(1, past, dtype=torch.long))[1] if past else None
            with FlopCounterMode(display=False) as counter: cache = model(torch.zeros(1, 3, dtype=torch.long), cache)[1]
            found = multiply_adds(config, 3, past)
            assert counter.get_total_flops() == 2 * (found["linear"] + found["attention"])
            assert found["cache_bytes"] == sum(x.nbytes for pair in cache.layers for x in pair)


def test_a_seed_gives_the_same_weights_and_moves_nothing():
    before = torch.random.get_rng_state()
    a, b, c = (Decoder(DecoderConfig(9, width=8, layers=1, heads=2), seed).embed.weight for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("call, says", [
    (lambda m: m(torch.ones(1, 9, dtype=torch.long)), "9 tokens: this decoder reads 8"),
    (lambda m: m(torch.ones(1, 2, dtype=torch.long), m(torch.ones(1, 7, dtype=torch.long))[1]), "2 tokens behind 7 others: this decoder reads 8"),
    (lambda m: m(torch.ones(2, 1, dtype=torch.long), m(torch.ones(1, 7, dtype=torch.long))[1]), "2 texts, and a cache of 1"),
    (lambda m: m(torch.tensor([[9]])), "holds 9: this decoder knows 0 to 8"), (lambda m: m(torch.tensor([[-1]])), "holds -1"),
    (lambda m: m(torch.zeros(1, 2)), "float32"), (lambda m: m(torch.zeros(2, dtype=torch.long)), "must be"), (lambda m: m(torch.zeros(1, 0, dtype=torch.long)), "at least one"),
    (lambda m: m(torch.ones(1, 2, dtype=torch.long), None, torch.zeros(1, 2, dtype=torch.long)), "no text"),
    (lambda m: DecoderConfig(9, heads=5), "heads=5: must divide width=192"), (lambda m: DecoderConfig(9, kv_heads=4), "kv_heads=4"),
    (lambda m: DecoderConfig(9, family="gtp2"), "Did you mean 'gpt2'"), (lambda m: DecoderConfig(9, width=9, heads=3, family="llama"), "pairs"),
    (lambda m: Decoder.like(theirs("gpt2", activation_function="relu")), "activation_function='relu'"),
    (lambda m: Decoder.like(theirs("llama", attention_bias=True)), "attention_bias=True"),
    (lambda m: Decoder.like(theirs("llama", rope_parameters=dict(rope_type="linear", factor=2., rope_theta=1e4))), "rope_type='linear'"),
    (lambda m: bits_per_byte(1., 0), "n_bytes=0"), (lambda m: multiply_adds(m.config, 0), "t=0"),
])
def test_it_refuses_in_one_line(call, says):
    model = Decoder(DecoderConfig(9, width=8, layers=1, heads=2, longest=8))
    with pytest.raises(InputError, match=says.replace("(", r"\(")) as caught: call(model)
    assert "\n" not in str(caught.value)


# --- bytes ---------------------------------------------------------------------------------------------------------

ODD = ["", " ", "a  b\n\n c\t", "naïve 头痛三天 🙂‍↔️ שלום", "a\u0301 x² ½ 2/7", "it's we'll DON'T", "aaaaaaa", "\u00a0\u2003x", "one<|endoftext|>two"]


def their_bpe(corpus, merges):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=257 + merges, special_tokens=["<|endoftext|>"], show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


@pytest.mark.parametrize("corpus", [["aaaa aaa aa", "abab ab ba", "头痛 头 痛"], "notes"], ids=["ties", "notes"])
def test_merges_and_numbers_are_tokenizers(corpus, tmp_path):
    texts = read_splits("clinic_notes")["train"].text[:80].tolist() if corpus == "notes" else corpus
    ref, merges = their_bpe(texts, 60), learn_bpe(texts, 60)
    assert [tuple(m) for m in json.loads(ref.to_str())["model"]["merges"]] == merges
    ref.save(str(tmp_path / "tokenizer.json"))
    for ours in (ByteBPE(merges), ByteBPE.read(tmp_path / "tokenizer.json")):
        assert ours.vocab == ref.get_vocab()
        for text in ODD + texts[:10]: assert ours.encode(text) == ref.encode(text).ids and ours.decode(ours.encode(text)) == text


def test_bpe_by_hand():
    assert learn_bpe(["hug"] * 10 + ["pug"] * 5, 9) == [("u", "g"), ("h", "ug"), ("p", "ug")] and learn_bpe(["a b"], 0) == []
    assert ByteBPE([]).decode(ByteBPE([]).encode("痛")[:2]) == "�"
    for bad in (lambda: ByteBPE([]).encode(5), lambda: ByteBPE([]).encode("\udce9"), lambda: ByteBPE([]).decode([999]), lambda: learn_bpe(["a"], -1), lambda: learn_bpe([None], 1)):
        with pytest.raises(InputError): bad()


# --- loss ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_is_that_of_lesson_11(side):
    ids, mask, _ = filled(side)
    logits = torch.randn(*ids.shape, 50, generator=torch.Generator().manual_seed(0))
    losses, counts = token_losses(logits, ids, mask), mask[:, 1:] * mask[:, :-1]
    assert (losses[counts == 0] == 0).all() and abs(losses.sum() / counts.sum() - next_token_nll(logits.numpy(), ids.numpy(), mask.numpy())) < 1e-5
    assert abs(bits_per_byte(losses, 10) - losses.sum().item() / math.log(2) / 10) < 1e-5 and bits_per_byte(math.log(256) * 5, 5) == pytest.approx(8)


# --- the carried one -----------------------------------------------------------------------------------------------

def test_book_gpt_opens_offline_and_is_ours(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = carried("book-gpt")
    ref, tok = transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    pieces, texts = ByteBPE.read(folder / "tokenizer.json"), read_splits("clinic_notes")["test"].text[:24].tolist()
    assert [pieces.encode(t) for t in texts + ODD] == tok(texts + ODD)["input_ids"] and ref.dtype == torch.float32 and tok.eos_token_id == tok.pad_token_id == 0
    rows = [[0, *pieces.encode(t), 0] for t in texts]
    ids, held = torch.tensor([r + [0] * (max(map(len, rows)) - len(r)) for r in rows]), load_frame(folder / "held_out.csv")
    mask = torch.tensor([[1] * len(r) + [0] * (ids.shape[1] - len(r)) for r in rows])
    with torch.no_grad(): a, b = Decoder.like(ref)(ids, attention_mask=mask)[0], ref(input_ids=ids, attention_mask=mask).logits
    assert (a - b)[mask.bool()].abs().max() <= 1e-4
    bits = token_losses(a, ids, mask).sum(1) / math.log(2)
    assert np.allclose(bits, held.bits_book_gpt[:24].astype(float), rtol=1e-3)


def test_book_gpt_fits_its_card():
    folder = carried("book-gpt")
    card, result, held = (folder / "README.md").read_text(), json.loads((folder / "result.json").read_text()), pd.read_csv(folder / "held_out.csv")
    assert 2e6 < (folder / "model.safetensors").stat().st_size < 4.1e6
    for name in ("trigram", "ngram", "book_gpt"):
        found = held[f"bits_{name}"].sum() / held.bytes.sum()
        assert found == pytest.approx(result[name], abs=1e-3) and f"| {found:.3f} |" in card
    assert result["book_gpt"] < min(result["ngram"], result["trigram"]) and len(held) == 1200 and "General English is not reached" in card
