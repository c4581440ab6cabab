"""An estimator that writes: it learns answers, keeps them when saved, writes alone as in company, and follows a schema."""
import json
import warnings

import jsonschema
import numpy as np
import pytest
import torch
import transformers

from finetune_book import TextGenerator
from finetune_book.checks import InputError
from finetune_book.text.generator import as_published, with_linear
from finetune_book.text.gpt import token_losses

NOTES = ["the knee is red", "the head is hot", "the chest is bad", "the room is loud"] * 3
SAID = ["left", "right", "very good", "two days"] * 3


@pytest.fixture(scope="module")
def settings(tiny_decoder): return dict(base=tiny_decoder, epochs=60, lr=.02, batch_size=12, max_length=32, verbose=0, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def fitted(settings): return TextGenerator(**settings).fit(NOTES, SAID)


def test_it_learns_its_answers_and_where_they_end(fitted, settings):
    found = fitted.generate(NOTES[:4], most=20)
    assert [g.text for g in found] == SAID[:4] == fitted.predict(NOTES[:4]) and {g.stopped for g in found} == {"end"}
    before = TextGenerator(**settings).untrained()
    assert before.score(NOTES, SAID) < fitted.score(NOTES, SAID) < 0 and fitted.perplexity(NOTES, SAID) < 1.2 < before.perplexity(NOTES, SAID)


def test_score_is_bits_per_byte_of_the_answers(fitted):
    ids = fitted.rows_.tokenizer(NOTES[0])["input_ids"], fitted.rows_.tokenizer(SAID[0])["input_ids"]
    row = torch.tensor([[0, *ids[0], *ids[1], 0]])
    with torch.no_grad(): nats = token_losses(fitted.model_(input_ids=row).logits, row)[0, len(ids[0]):]
    assert fitted.surprise(NOTES[:1], SAID[:1])[0][0] == pytest.approx(float(nats.sum()), rel=1e-4, abs=1e-6)
    assert fitted.score(NOTES[:1], SAID[:1]) == pytest.approx(-float(nats.sum()) / np.log(2) / (len(SAID[0]) + 1), rel=1e-4, abs=1e-6)


def test_saved_loaded_and_opened_by_transformers_it_is_the_same(fitted, tmp_path):
    again = TextGenerator.load(fitted.save(tmp_path / "m"), device="cpu")
    assert again.generate(NOTES, temperature=1.5, seed=3) == fitted.generate(NOTES, temperature=1.5, seed=3) and np.array_equal(again.outputs(NOTES), fitted.outputs(NOTES))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = torch.tensor([[0, *tok(NOTES[1])["input_ids"]]])
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert tok.decode(out[0, ids.shape[1]:], skip_special_tokens=True) == SAID[1]


def test_company_and_seed(fitted):
    def texts(prompts, **other): return [(g.text, g.stopped, g.tokens) for g in fitted.generate(prompts, most=12, temperature=3., **other)]
    together = texts(NOTES[:4])
    assert together == [texts([p])[0] for p in NOTES[:4]] == texts(NOTES[:4]) != texts(NOTES[:4], seed=9)
    assert len({g.text for g in fitted.generate([""] * 5, most=12, temperature=2.)}) > 1


@pytest.mark.parametrize("tune", ["lora", "lora(r=2)", "head", "top-1", "gradual", "adapter", "bitfit"])
def test_methods_move_it(settings, tune, tmp_path):
    est = TextGenerator(**settings | dict(epochs=8, tune=tune)).fit(NOTES, SAID)
    assert est.n_trainable_ <= est.n_parameters_ and est.score(NOTES, SAID) > TextGenerator(**settings).untrained().score(NOTES, SAID)
    assert TextGenerator.load(est.save(tmp_path / "m"), device="cpu").score(NOTES, SAID) == est.score(NOTES, SAID)


def test_what_is_learned_is_the_answer_alone(settings):
    "With learn_prompt the prompts get likelier; without it they are only read."
    short = settings | dict(epochs=10)
    alone, both = (TextGenerator(**short, learn_prompt=flag).fit(NOTES, SAID) for flag in (False, True))
    assert both.score(NOTES) > alone.score(NOTES) + 1 and alone.history_[-1]["train_loss"] != both.history_[-1]["train_loss"]


def test_whole_texts_and_validation(settings):
    est = TextGenerator(**settings | dict(epochs=12, patience=2)).fit(NOTES[:8], validation=NOTES[8:])
    assert "val_loss" in est.history_[0] and est.score(NOTES) > TextGenerator(**settings).untrained().score(NOTES)
    nats, tokens = est.surprise(NOTES[8:])
    assert est.history_[est.best_epoch_]["val_loss"] == pytest.approx(nats.sum() / tokens.sum(), rel=1e-4)
    assert TextGenerator(**settings | dict(epochs=2)).fit(NOTES, SAID, validation=(NOTES[:4], SAID[:4])).forecast(NOTES, SAID).predicted_s >= 0


def test_stop_words_limits_and_streams(fitted):
    found = fitted.generate(NOTES[2:4], most=20, stop=["good", "zzz"])
    assert [(g.text, g.stopped) for g in found] == [("very ", "stop"), ("two days", "end")]
    assert fitted.generate(NOTES[2:3], most=2)[0].stopped == "limit"
    seen = []
    fitted.generate(NOTES[2:3], most=20, tell=lambda row, text: seen.append(text))
    assert seen[-1] == "very good" and all(seen[-1].startswith(t) for t in seen)
    told = []
    found = fitted.generate(NOTES[2:3], most=9, contrast=.8, top_k=3, tell=lambda row, text: told.append(text))
    assert found[0].text == told[-1] and all(told[-1].startswith(t) for t in told)


def test_a_prompt_beyond_the_context_is_refused_or_cut_and_said(fitted):
    long = "the knee is red " * 40
    with pytest.raises(InputError, match="prompt 1 has .* cut=True"): fitted.generate(["a", long], most=8)
    with pytest.warns(UserWarning, match="first prompt 1"): assert len(fitted.generate(["a", long], most=8, cut=True)) == 2
    with pytest.raises(InputError, match="most=500"): fitted.generate(["a"], most=500)


def test_a_schema_is_followed(fitted):
    schema = dict(type="object", required=["side", "days"], properties=dict(side=dict(enum=["left", "right"]), days=dict(type="integer", minimum=0, maximum=30)))
    for found in (*fitted.generate(NOTES, most=40, schema=schema), *fitted.generate(NOTES, most=40, schema=schema, temperature=3.), *fitted.generate(NOTES[:2], most=40, schema=schema, beams=2),
                  *fitted.generate(NOTES[:2], most=40, schema=schema, contrast=.9, penalty=1.2)):
        jsonschema.validate(json.loads(found.text), schema)


def test_layers_are_turned_and_turned_back(tiny_decoder):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_decoder).eval()
    before, ids = {k: v.clone() for k, v in theirs.state_dict().items()}, torch.randint(1, 200, (2, 9))
    with torch.no_grad(): logits = theirs(input_ids=ids).logits
    ours = with_linear(theirs)
    with torch.no_grad(): assert torch.allclose(ours(input_ids=ids).logits, logits, atol=1e-5)
    back = as_published(ours)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in before.items()) and back.lm_head.weight is back.transformer.wte.weight


@pytest.mark.parametrize("args, more, says", [
    (([],), {}, "no "), (("a", "b"), {}, "list"), ((["a"], ["b", "c"]), {}, "1 prompts and 2 answers"), ((["a"], [" "]), {}, "text 0 is empty"), (([3], ["b"]), {}, "prompt 0"),
    ((["a " * 99], ["b"]), {}, "prompt 0 has"), ((["a"], ["b"]), dict(max_length=999), "reads at most 64"), ((["a"], ["b"]), dict(learn_prompt=3), "learn_prompt"),
    ((["a"], ["b"]), dict(base="book-bert"), "is a bert"), ((["a"], ["b"]), dict(lr=-1), "lr"), ((["\udce9"], ["b"]), {}, "half a character")])
def test_what_cannot_be_learned_is_one_line(settings, args, more, says):
    with pytest.raises(InputError) as error: TextGenerator(**settings | more).fit(*args)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prompts, more, says", [
    (["a"], dict(temperature=0), "temperature=0"), (["a"], dict(top_p=0), "top_p=0"), (["a"], dict(top_p=1.5), "top_p"), ([], {}, "no prompts"), ("a", {}, "list"), ([None], {}, "prompt 0"),
    (["a"], dict(schema=dict(enum=[])), "nothing can satisfy"), (["a"], dict(beams=2, temperature=1.), "draws nothing"),
    (["a"], dict(contrast=.6, temperature=1., top_p=.9), "leave out temperature, top_p"), (["a"], dict(contrast=.6, beams=2), "leave out contrast"), (["a"], dict(contrast="x"), "contrast='x'"),
    (["a"], dict(contrast=.6, top_k=0), "top_k=0"), (["a"], dict(stop=[""]), "stop"), (["a"], dict(most=0), "most=0"),
    (["a"], dict(seed=-1), "seed"), (["a"], dict(schema=dict(enum=["abcdefgh"]), most=4), "give most=10")])
def test_what_cannot_be_written_is_one_line(fitted, prompts, more, says):
    with pytest.raises(InputError) as error: fitted.generate(prompts, **more)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_answers_that_are_cut_are_said(settings):
    with pytest.raises(InputError, match="text 1: has more tokens"): TextGenerator(**settings).untrained().score(["a", "d " * 60])
    with pytest.warns(UserWarning, match="1 of the training texts, first that of row 1"): TextGenerator(**settings | dict(epochs=1)).fit(["a", "b"], ["c", "d " * 60])
    from sklearn.exceptions import NotFittedError
    with pytest.raises(NotFittedError, match="untrained"): TextGenerator(**settings).generate(["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TextGenerator(**settings | dict(epochs=1)).fit(["头痛三天", "🙂"], ["שלום", "a"])
