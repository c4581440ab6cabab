"""Bases as hubs have them, tiny and random: a Llama with chat marks that lacks some bytes, a BERT that sentence-transformers made for its mean."""
import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from commands import refused
from examples import LABELS, TEXTS
from finetune_book import TextGenerator, TextMatcher
from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.find.reader import reader_of
from finetune_book.text.answerer import WindowRows
from finetune_book.text.generator import GenerateRows
from finetune_book.text.schema import SchemaMask, byte_pieces
from tiny import save_tiny_llama

NOTES, SAID = ["the knee is red\n", "the head is hot\n", "the chest is bad\n"] * 2, ['{"days": 2}', '{"days": 14}', '{"days": 9}'] * 2
SCHEMA = dict(type="object", required=["days"], properties=dict(days=dict(type="integer", minimum=1, maximum=99)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory): return str(save_tiny_llama(tmp_path_factory.mktemp("bases") / "tiny-llama"))


@pytest.fixture(scope="module")
def fitted(llama): return TextGenerator(llama, tune="lora", epochs=30, batch_size=6, max_length=48, verbose=0, device="cpu", precision="float32").fit(NOTES, SAID)


def test_a_low_rank_learns_a_llama_at_a_rate_of_its_own(fitted, llama, tmp_path):
    assert fitted.lr_ == 1e-3 and fitted.history_[-1]["train_loss"] < .9 * fitted.history_[0]["train_loss"]
    again = TextGenerator.load(fitted.save(tmp_path / "m"), device="cpu")
    assert again.generate(NOTES, most=8) == fitted.generate(NOTES, most=8)
    theirs, tok = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval(), transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = torch.tensor([[tok.bos_token_id, *tok(NOTES[0], add_special_tokens=False)["input_ids"]]])
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0, ids.shape[1]:]
    assert tok.decode(out, skip_special_tokens=True) == fitted.generate(NOTES[:1], most=8)[0].text


def test_a_vocabulary_without_bytes_that_no_record_needs_follows_a_schema(fitted, llama):
    for found in fitted.generate(NOTES, most=14, temperature=3., schema=SCHEMA): assert 1 <= json.loads(found.text)["days"] <= 99
    pieces = byte_pieces(fitted.rows_.tokenizer)
    assert bytes([4]) not in pieces and bytes([0xF1]) not in pieces
    with pytest.raises(InputError, match="for which this tokenizer has no tokens"): SchemaMask(dict(enum=["a \U00040000"]), pieces, 2, 40)


def test_the_command_takes_the_folder(llama, tmp_path, capsys):
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    assert main(["generate", "--model", llama, "--most", "14", "--schema", str(tmp_path / "s.json"), "--json", "the knee"]) == 0
    assert json.loads(json.loads(capsys.readouterr().out)["text"])
    (tmp_path / "s.json").write_text(json.dumps(dict(enum=["\U00040000"])))
    refused(capsys, ["generate", "--model", llama, "--schema", str(tmp_path / "s.json"), "the knee"], "has no tokens")


def test_the_carried_bases_keep_their_rates():
    assert GenerateRows.rates_for("book-gpt") == dict(head=1e-2, body=3e-3, added=1e-2) and "added" not in WindowRows.rates_for("book-bert")


def pooled(base, how, tmp_path):
    "A copy of a base whose folder says how sentence-transformers pools it."
    shutil.copytree(base, folder := tmp_path / how)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(dict(pooling_mode_cls_token=how == "first", pooling_mode_mean_tokens=how == "mean")))
    return str(folder)


def by_hand(base, how):
    "Unit vectors of TEXTS by transformers."
    tok, body, found = transformers.AutoTokenizer.from_pretrained(base), transformers.AutoModel.from_pretrained(base).eval(), []
    with torch.no_grad():
        for text in TEXTS:
            states = body(**tok(text, return_tensors="pt", truncation=True, max_length=16)).last_hidden_state[0]
            found.append(states.mean(0) if how == "mean" else states[0])
    return torch.nn.functional.normalize(torch.stack(found), dim=1).numpy()


@pytest.mark.parametrize("how", ["mean", "first"])
def test_vectors_are_what_the_folder_says(tiny_base, tmp_path, how):
    assert np.allclose(reader_of(pooled(tiny_base, how, tmp_path), 16, "cpu")(TEXTS), by_hand(tiny_base, how), atol=1e-5)
    if how == "mean": assert np.allclose(reader_of(tiny_base, 16, "cpu")(TEXTS), by_hand(tiny_base, how), atol=1e-5)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_matcher_starts_from_them_and_keeps_them(tiny_base, tmp_path, tune):
    settings = dict(base=tiny_base, tune=tune, batch_size=12, max_length=16, verbose=0, device="cpu", precision="float32")
    assert np.allclose(TextMatcher(**settings, epochs=1, lr=1e-12).fit(TEXTS, LABELS).transform(TEXTS), by_hand(tiny_base, "mean"), atol=1e-5)
    est = TextMatcher(**settings, epochs=4, lr=.02).fit(TEXTS, LABELS)
    again = TextMatcher.load(est.save(tmp_path / "m"), device="cpu")
    assert again.model_.config.pooled_by == "mean" and np.array_equal(again.transform(TEXTS), est.transform(TEXTS))
    assert not np.allclose(est.transform(TEXTS), by_hand(tiny_base, "mean"), atol=1e-2)
