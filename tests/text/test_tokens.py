"""Lesson 41 (tokens) beyond the lesson: equality with transformers on the carried vocabulary, hostile text, and what batches may not do."""
import copy
import pickle
import random
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from finetune_book.checks import InputError
from finetune_book.text.tokens import (SPECIAL, WordPiece, basic_tokens, length_buckets, longest_match, pad_batch, padding_fraction, read_vocab,
                                       token_report)

HOSTILE = {
    "empty": "", "only spaces": " \t\r\n\u3000\u2028", "emoji": "👩\u200d⚕\ufe0f fever 🤒🤒 🇨🇳 👍🏽", "many emoji": "🩺" * 5000,
    "right to left": "ألم في الصدر منذ يومين", "hebrew": "כאב ראש\u05bc", "bidi override": "\u202eniap tsehc\u202c", "control": "ch\x00e\x07st\x1f pa\x7fin\x85",
    "invisible": "che\u00adst\u200b pa\u2060in\ufeff", "replacement": "pain \ufffd\ufffd", "combining": "e\u0301e\u0327\u0301 \u0301\u0301", "zalgo": "p\u0300\u0301\u0302" * 300,
    "chinese": "患者头痛3天，伴发热。", "rare chinese": "\U00020000\U0002b919\U0002b920\uf900\U0002f800", "japanese": "頭がいたいアイウ", "korean": "한국어 두통", "devanagari": "हिन्दी दर्द",
    "turkish": "İstanbul ISI ı", "greek": "ΟΔΟΣ Σ ΑΣ.", "german": "STRAẞE ſtraße", "ligature": "ﬁne ﬀ", "math": "𝐩𝐚𝐢𝐧 ℌ ½ ②",
    "special": "[CLS] pain [SEP][PAD] [MASK]ed [sep] [UNK][UN", "hashes": "##ing # ## #ing", "symbols": "3.5mg/kg (q6h) $5+5^2=~`|<>\\ don't—“stop”…",
    "100 letters": "x" * 100, "101 letters": "x" * 101, "100 accents": "é" * 101, "one word of 100,000": "a" * 100_000, "100,000 characters": "no chest pain, " * 6667,
    "100,000 chinese": "痛" * 100_000, "100,000 marks": "." * 100_000, "100,000 combining": "\u0301" * 100_000,
}


@pytest.fixture(scope="module")
def book_vocab(repo):
    return read_vocab(repo / "data" / "book-bert" / "vocab.txt")


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def pair(request, book_vocab):
    "Our tokenizer and transformers' with the carried vocabulary."
    ours = WordPiece(book_vocab, lowercase=request.param)
    return ours, BertTokenizer(vocab=ours.vocab, do_lower_case=request.param)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("max_length", [None, 3, 128])
def test_equal_to_transformers_on_hostile_text(pair, name, max_length):
    ours, theirs = pair
    assert ours.encode(HOSTILE[name], max_length) == theirs.encode(HOSTILE[name], truncation=max_length is not None, max_length=max_length)


def test_equal_to_transformers_on_the_carried_notes(pair, repo):
    ours, theirs = pair
    texts = pd.read_csv(repo / "data" / "clinic_notes" / "test.csv").text.tolist()
    assert len(texts) > 500 and [ours.encode(t) for t in texts] == theirs(texts)["input_ids"]


def test_equal_to_transformers_on_real_text(pair, real_data):
    ours, theirs = pair
    for part in ("sst2/test.csv", "banking77/test.csv", "zh_chnsenticorp_hotel/test.csv"):
        texts = pd.read_csv(real_data / "text" / part).text.tolist()[:500]
        assert [ours.encode(t) for t in texts] == theirs(texts)["input_ids"], part


NEWER = {"Mn", "Mc", "Cf", "Po", "Ps", "Pe", "Pd", "So"}
def test_every_character_of_unicode(pair):
    ours, theirs = pair
    t = theirs.backend_tokenizer
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    other = [c for c in assigned if basic_tokens(f"a{c}b", ours.lowercase) !=
             [w for w, _ in t.pre_tokenizer.pre_tokenize_str(t.normalizer.normalize_str(f"a{c}b"))]]
    # what is left are marks and punctuation that entered Unicode after the tables of the tokenizers library
    assert len(assigned) > 140_000 and len(other) < 700 and min(other) > "\u0600" and {unicodedata.category(c) for c in other} <= NEWER


def test_equal_to_transformers_on_random_strings(pair):
    ours, theirs = pair
    rng = random.Random(0)
    alphabets = [(0x20, 0x7f), (0xa0, 0x250), (0x370, 0x400), (0x400, 0x500), (0x5d0, 0x5eb), (0x620, 0x64b), (0x2000, 0x2050), (0x3000, 0x3100),
                 (0x4e00, 0x4f00), (0xac00, 0xad00), (0x1f300, 0x1f600)]
    for _ in range(1500):
        text = "".join(chr(rng.randrange(*rng.choice(alphabets))) for _ in range(rng.randrange(30)))
        text = " ".join([text, rng.choice(SPECIAL), text[::-1]]) if rng.random() < .2 else text
        assert ours.encode(text) == theirs.encode(text), ascii(text)


def test_half_a_character_is_dropped_and_not_a_crash(pair):
    # JSON can hold a lone surrogate; transformers raises a TypeError on it
    ours, _ = pair
    assert ours.encode("pa\ud800in") == ours.encode("pain")


def test_long_input_is_bounded(pair):
    ours, _ = pair
    fresh = WordPiece(ours.vocab)
    spent = time.process_time()
    for text in ("a" * 100_000, "ab" * 50 + " " + "q" * 99_000, " ".join(f"zqxj{i}" * 10 for i in range(2000))): fresh.encode(text)
    assert time.process_time() - spent < 3
    for i in range(60_000): fresh.encode(str(i))
    assert len(fresh._seen) == 50_000  # the memory for words is bounded too


def test_vocabularies(tmp_path, book_vocab):
    assert len(book_vocab) == len(set(book_vocab)) and book_vocab[-1]
    file = tmp_path / "vocab.txt"
    for end in ("\n", "\r\n"):
        file.write_bytes(end.join([*SPECIAL, "a", "\u2028", "##b", ""]).encode())
        assert read_vocab(file) == [*SPECIAL, "a", "\u2028", "##b"]
    sparse = WordPiece({s: 10 * i for i, s in enumerate([*SPECIAL, "pain", "##s"])})
    assert sparse.encode("pains") == [20, 50, 60, 30] and sparse.decode([20, 50, 60, 30]) == "pains" and len(sparse) == 7


def test_a_tokenizer_can_be_copied_and_sent(pair):
    ours, _ = pair
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))): assert twin.encode("Chest pains!") == ours.encode("Chest pains!")


def test_decode_gives_the_cleaned_text(pair):
    ours, _ = pair
    text = "denies chest pain , has fever"
    assert ours.decode(ours.encode(text)) == text and ours.decode(np.array(ours.encode(text))) == text
    assert ours.decode([]) == "" and ours.decode([ours.pad_token_id] * 3) == ""


def naive_match(word, vocab, mark=""):
    "The same by recursion and exhaustive search: the longest fitting piece, then the rest."
    if not word: return []
    fit = [p for p in vocab if p.startswith("##") == bool(mark) and (mark + word).startswith(p)]
    if not fit: return None
    best = max(fit, key=len)
    rest = naive_match(word[len(best) - len(mark):], vocab, "##")
    return None if rest is None else [vocab[best], *rest]


def test_longest_match_by_exhaustive_search():
    rng, cut = random.Random(1), 0
    for _ in range(500):
        vocab = {p: i for i, p in enumerate({rng.choice(["", "##"]) + "".join(rng.choices("ab", k=rng.randint(1, 3))) for _ in range(8)})}
        word = "".join(rng.choices("ab", k=rng.randint(1, 8)))
        expected = naive_match(word, vocab)
        assert longest_match(word, vocab, max(len(p.removeprefix("##")) for p in vocab)) == expected
        cut += expected is not None
    assert 50 < cut < 450  # both outcomes were seen often


OK = [*SPECIAL, "a"]
@pytest.mark.parametrize("call,error,words", [
    (lambda: WordPiece([]), InputError, "[PAD]"),
    (lambda: WordPiece(OK[1:]), InputError, "lacks [PAD]"),
    (lambda: WordPiece([*OK, "a"]), InputError, "twice"),
    (lambda: WordPiece({**{p: i for i, p in enumerate(OK)}, "b": 0}), InputError, "twice"),
    (lambda: WordPiece(OK).encode(None), InputError, "NoneType"),
    (lambda: WordPiece(OK).encode(float("nan")), InputError, "float"),
    (lambda: WordPiece(OK).encode("a", max_length=2), InputError, "max_length=2"),
    (lambda: WordPiece(OK).encode("a", max_length=-1), InputError, "max_length=-1"),
    (lambda: WordPiece(OK).encode("a", max_length=3.), InputError, "max_length=3.0: must be a whole number of pieces, [CLS] and [SEP] among them, at least 3"),
    (lambda: WordPiece(OK).decode([99]), ValueError, "99"),
    (lambda: read_vocab("/nowhere/vocab.txt"), InputError, "/nowhere/vocab.txt"),
    (lambda: pad_batch([], 0), ValueError, "no rows"),
    (lambda: pad_batch([[1], []], 0), ValueError, "row 1"),
    (lambda: length_buckets([3, 4], 0), InputError, "batch_size=0"),
    (lambda: length_buckets([3, 4], -2), InputError, "batch_size=-2"),
    (lambda: length_buckets([3, 4], 1.5), InputError, "batch_size=1.5"),
    (lambda: length_buckets([3, 4], 2.), InputError, "batch_size=2.0"),
    (lambda: length_buckets([3, 4], True), InputError, "batch_size=True"),
    (lambda: length_buckets([3, 4], 1, pool=0), InputError, "pool=0"),
    (lambda: length_buckets([], 4), ValueError, "(0,)"),
    (lambda: length_buckets([[3]], 4), ValueError, "(1, 1)"),
    (lambda: token_report(WordPiece(OK), [], 8), ValueError, "no texts"),
    (lambda: token_report(WordPiece(OK), ["a"], 1), InputError, "max_length=1"),
])
def test_refusals_name_the_value(call, error, words):
    with pytest.raises(error) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


def test_numpy_integers_count_as_whole_numbers():
    assert WordPiece(OK).encode("a a a", np.int64(3)) == WordPiece(OK).encode("a a a", 3)
    assert [b.tolist() for b in length_buckets([3, 4, 9], np.int32(2), pool=np.int8(1))] == [b.tolist() for b in length_buckets([3, 4, 9], 2, pool=1)]


def test_vocabulary_that_is_not_utf8(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"): read_vocab(tmp_path / "vocab.txt")


def test_batches_equal_those_of_transformers(pair):
    ours, theirs = pair
    texts = ["chest pain", "", "no fever , [PAD] cough at night", "痛"]
    ids, mask = pad_batch([ours.encode(t) for t in texts], ours.pad_token_id)
    ref = theirs(texts, padding=True, return_tensors="pt")
    assert ids.shape == ref["input_ids"].shape and torch.equal(ids, ref["input_ids"]) and torch.equal(mask, ref["attention_mask"])
    assert ids.dtype == mask.dtype == torch.int64
    assert torch.equal(pad_batch([np.array([1, 2]), np.array([3])], 9)[0], torch.tensor([[1, 2], [3, 9]]))


def test_padding_and_neighbours_leave_no_trace_and_without_a_mask_they_do(book_vocab):
    tok = WordPiece(book_vocab)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=.3)
        model = BertForSequenceClassification(config).eval().double()  # float64: rounding shrinks, a real dependence does not
    def logits(rows, pad=0, use_mask=True):
        ids, mask = pad_batch([*rows, [tok.pad_token_id] * pad] if pad else rows, tok.pad_token_id)
        ids, mask = ids[:len(rows)], mask[:len(rows)]
        with torch.no_grad(): return model(input_ids=ids, attention_mask=mask if use_mask else torch.ones_like(mask)).logits
    rows = [tok.encode(t) for t in ("chest pain at night", "fever", "denies cough and fever , has chest pain on exertion since three days")]
    alone = torch.cat([logits([r]) for r in rows])
    for pad in (0, 20, 60, 200): assert (logits(rows, pad) - alone).abs().max() < 1e-12
    assert (logits(rows[::-1]).flip(0) - alone).abs().max() < 1e-12
    assert (logits(rows[:1], 60, use_mask=False) - alone[:1]).abs().max() > 1e-2


@pytest.mark.parametrize("n,size,pool", [(1, 1, 1), (1, 16, 50), (7, 3, 1), (100, 10, 2), (1001, 16, 5), (50, 100, 50)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once(n, size, pool, shuffle):
    lengths = np.random.default_rng(n).integers(3, 80, size=n)
    batches = length_buckets(lengths, size, seed=1, epoch=2, shuffle=shuffle, pool=pool)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n)) and all(b.dtype == np.int64 for b in batches)
    assert sorted(len(b) for b in batches)[1:] == [size] * (len(batches) - 1) and len(batches) == -(-n // size)


def test_buckets_depend_on_seed_and_epoch_and_on_nothing_else():
    lengths = np.random.default_rng(0).integers(3, 80, size=400)
    np.random.seed(0); torch.manual_seed(0)
    key = lambda **k: [tuple(b) for b in length_buckets(lengths, 16, **k)]
    first = key(seed=5, epoch=0)
    np.random.seed(9); torch.manual_seed(9)
    assert first == key(seed=5, epoch=0)
    assert len({tuple(key(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9
    longest = [lengths[b].max() for b in length_buckets(lengths, 16, shuffle=False)]
    assert longest == sorted(longest, reverse=True)


def test_buckets_save_most_of_the_padding():
    lengths = np.clip(np.random.default_rng(0).lognormal(3, .6, size=4000), 3, 128).astype(int)
    before, after = (padding_fraction(lengths, length_buckets(lengths, 16, pool=p)) for p in (1, 50))
    assert before > .5 and after < .1


def test_report_is_the_same_for_both_tokenizers(pair):
    ours, theirs = pair
    texts = ["chest pain", "", "🤒 fever ж", "cough " * 50, "[UNK] x"]
    assert token_report(ours, texts, 20) == token_report(theirs, pd.Series(texts), 20)
    r = token_report(ours, [""], 20)
    assert r["unknown_frac"] == 0 and r["padding_frac"] == 0 and r["tokens_max"] == 2
