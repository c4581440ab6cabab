"""What lesson 65 (text_augment) cannot check on itself: the trainer, saving, a killed run, the command, every refused input."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from examples import LABELS, TEXTS
from finetune_book import TextClassifier, TextRegressor
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.text import augment
from finetune_book.text.augment import KEPT, Guesser, TextAugment, back_translate, cut_words, hub_translator, is_kept, join_words
from finetune_book.text.bases import load_text_base
from finetune_book.text.rows import TEXT_AUGMENTATIONS, TextRows
from finetune_book.text.thesaurus import read_synonyms
from finetune_book.train.trainer import Callback

NOTES = ["No severe pain, denies cough at night.", "mother had sudden heartburn, patient feels tired today", "Sore belly for 3 days; no fever"] * 4
MARKS = ["pain 👩🏽‍⚕️👍🏽 severe", "❤️ tired ❤️", "严重 pain, 无发热。", "cafe\u0301 smell", "नमस्ते दुनिया bad", "🇩🇪🇫🇷", "\u200bweak\u200d", "«tired»—sore…", "1️⃣ cold 2️⃣", "a\tb\n c"]


@pytest.fixture
def small(tiny_base): return dict(base=tiny_base, epochs=3, lr=5e-3, batch_size=4, max_length=16, verbose=0)


def draw(seed=0): return np.random.default_rng(seed)


# --- texts ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [*MARKS, *NOTES[:3], " ", "", "?!"])
def test_cutting_loses_no_character(text): assert join_words(*cut_words(text)) == text


@pytest.mark.parametrize("text", MARKS)
def test_no_character_is_cut_apart(text):
    "Whatever is drawn, every word, emoji and mark that is left is one that was there, whole."
    fully = TextAugment(swap=.5, deletion=.5)
    signs = "".join(cut_words(text)[0]).split()
    for seed in range(30):
        new, = fully([text], draw(seed))
        assert new.strip() and set(cut_words(new)[1]) <= set(cut_words(text)[1])
        assert "".join("".join(cut_words(new)[0]).split()) == "".join(signs)


@pytest.mark.parametrize("text", ["cough", "No", "3/7", "tired tired", "胸痛", "(sore)", "a b"])
def test_a_text_never_becomes_empty(text):
    for setting in (dict(deletion=1.), dict(deletion=1., protect=False), dict(deletion=1., swap=1., synonyms=1., insertion=1., protect=False)):
        assert cut_words(TextAugment(**setting)([text], draw())[0])[1]


def test_kept_words_stay_in_their_order_and_clause():
    every = TextAugment(synonyms=.5, insertion=.5, swap=.5, deletion=.5)
    for seed in range(20):
        for old, new in zip(NOTES, every(NOTES, draw(seed))):
            kept = [[w for w in cut_words(t)[1] if is_kept(w)] for t in (old, new)]
            assert kept[0] == kept[1]
            assert [c for c in new if c in ",.;"] == [c for c in old if c in ",.;"]
            for a, b in zip(old.replace(".", ",").replace(";", ",").split(","), new.replace(".", ",").replace(";", ",").split(",")):
                assert [w for w in cut_words(a)[1] if is_kept(w)] == [w for w in cut_words(b)[1] if is_kept(w)]


def test_without_protection_negations_do_go():
    lost = [t for seed in range(5) for t in TextAugment(deletion=.5, protect=False)(NOTES, draw(seed)) if "no" not in t.lower().split() and "denies" not in t]
    assert lost


@pytest.mark.parametrize("word", ["no", "No", "NOT", "doesn't", "doesn’t", "non-smoker", "mother's", "h/o", "FHx", "3/7", "x2", "denied", "无发热", "ない", "nicht"])
def test_words_that_turn_the_meaning_are_kept(word): assert is_kept(word)


@pytest.mark.parametrize("word", ["cough", "night", "severe", "nose", "notable", "Patient"])
def test_other_words_are_free(word): assert not is_kept(word)


def test_more_words_can_be_kept():
    assert all("tired" in t for t in TextAugment(deletion=1., keep={"Tired"})(["tired today"], draw()))


def test_the_carried_list_holds_no_kept_word():
    book = read_synonyms()
    assert not {w for pair in book.items() for text in (pair[0], *pair[1]) for w in text.split()} & KEPT


# --- guessing, back-translation -------------------------------------------------------------------------------------

def test_a_guesser_says_other_words_of_the_texts_and_never_kept_ones(tiny_base):
    texts = [*TEXTS, *NOTES]
    guesser = Guesser(*load_text_base(tiny_base, 2), texts, max_length=32)
    again = Guesser(*load_text_base(tiny_base, 2), texts, max_length=32)
    assert torch.equal(guesser.W, again.W) and not any(is_kept(w) for w in guesser.words)
    word = guesser.words[0]
    said = guesser([f"{guesser.tokenizer.mask_token} x"] * 40, [[word]] * 40, draw())
    assert {w for row in said for w in row} <= set(guesser.words) - {word} and all(len(row) == 1 for row in said)


def test_a_text_with_a_mask_of_its_own_and_one_that_is_cut_survive(tiny_base):
    guesser = Guesser(*load_text_base(tiny_base, 2), [*TEXTS, *NOTES], max_length=6)
    long = " ".join(guesser.words * 3)
    for text in (f"{guesser.tokenizer.mask_token} {guesser.words[0]}", long, "胸痛"):
        new, = TextAugment(masking=1.)([text], draw(), guesser)
        assert len(cut_words(new)[1]) == len(cut_words(text)[1])


def test_masking_needs_a_base_with_a_mask(small):
    model, tokenizer = load_text_base(small["base"], 2)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="masking"): Guesser(model, tokenizer, TEXTS)
    with pytest.raises(InputError, match="Guesser"): TextAugment(masking=.5)(TEXTS, draw())


def test_back_translation_keeps_negations_or_the_text():
    def there(t): return t.replace("No ", "Kein ").replace("pain", "schmerz")
    def back(t): return t.replace("Kein ", "No ").replace("schmerz", "ache")
    assert back_translate(["No pain"], there, back) == ["No ache"]
    for bad in (lambda t: back(t).replace("No ", ""), lambda t: back(t) + " not", lambda t: " "): assert back_translate(["No pain"], there, bad) == ["No pain"]


@pytest.mark.parametrize("there, says", [(None, "function"), (lambda t: 3, "must give a text"), ("no-such/model", "hub_translator")])
def test_translators_that_are_none(there, says):
    with pytest.raises(InputError, match=says): back_translate(["a"], there, str)


def test_a_hub_translator_is_refused_offline_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("Helsinki-NLP/opus-mt-en-de", "book-bert", ""):
        with pytest.raises(InputError) as e: hub_translator(name)
        assert len(str(e.value).splitlines()) == 1


# --- files of synonyms ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, says", [
    ("word,synonym\ntired,weary\nweary,tired\n", "circle"), ("word,synonym\na,a\n", "circle"), ("word,synonym\na,b\nb,c\nc,d\nd,b\n", "b → c → d → b"),
    ("word,synonym\ntired,\n", "synonym"), ("word,synonym\nchest pain,angina\n", "more than one word"), ("a,b\n1,2\n", "no column 'word'"),
    ("word,synonym\n", "no"), ("", "empty|no"), ('{"a": 1', "mine.csv"), (b"\xff\xfe\x00word", "mine.csv")])
def test_a_file_of_synonyms_that_will_not_do(tmp_path, content, says, capsys):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as e: read_synonyms(str(path))
    assert len(str(e.value).splitlines()) == 1 and "mine.csv" in str(e.value)
    assert main(["train", "-q", "--data", "clinic_notes", "--augment", f"synonyms({path})", "--out", str(tmp_path / "m")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "Traceback" not in err


def test_synonyms_of_a_file_and_of_json_lines(tmp_path):
    (tmp_path / "mine.csv").write_text("word,synonym\nTired,weary\n")
    (tmp_path / "mine.jsonl").write_text('{"word": "tired", "synonym": "run down"}\n')
    assert TextAugment(synonyms=1., thesaurus=str(tmp_path / "mine.csv"))(["TIRED, tired no"], draw()) == ["WEARY, weary no"]
    assert TextAugment(synonyms=1., thesaurus=str(tmp_path / "mine.jsonl"))(["Tired"], draw()) == ["Run down"]
    with pytest.raises(InputError, match="no such"): read_synonyms(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="WordNet"): read_synonyms(str(tmp_path))


def test_a_synonym_that_is_a_negation_is_not_used(tmp_path):
    (tmp_path / "mine.csv").write_text("word,synonym\npain,no pain\nno,yes\ncough,cold\n")
    assert TextAugment(synonyms=1., thesaurus=str(tmp_path / "mine.csv"))(["no pain, cough"], draw()) == ["no pain, cold"]


# --- training -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("spec", [*TEXT_AUGMENTATIONS, TextAugment(deletion=.3, keep=("good",))])
def test_each_augmentation_changes_the_training_alone(small, spec):
    spec = f"{spec}(.5)" if isinstance(spec, str) else spec
    texts = NOTES
    plain, one, two = (TextClassifier(**small, augment=a).fit(texts, LABELS, validation=(texts, LABELS)) for a in ("none", spec, spec))
    assert weights_hash(one.model_.parameters()) == weights_hash(two.model_.parameters()) != weights_hash(plain.model_.parameters())
    assert one.history_ == two.history_


def test_validation_and_prediction_see_the_texts_themselves(small, monkeypatch):
    seen = []
    whole = TextRows.prepare
    monkeypatch.setattr(TextRows, "prepare", lambda self, X: (seen.append(list(X)), whole(self, X))[1])
    clf = TextClassifier(**small, augment="deletion(1)").fit(NOTES, LABELS, validation=(NOTES[:4], LABELS[:4]))
    assert seen[0] == NOTES and seen[1] == NOTES[:4] and all(len(" ".join(x)) < len(" ".join(NOTES)) for x in seen[2:])
    clf.predict(NOTES)
    assert seen[-1] == NOTES
    assert np.array_equal(clf.outputs(NOTES), clf.outputs(NOTES))


class Kill(Callback):
    "Stops the training as a kill would, after some batches."
    def __init__(self, after): self.after = after
    def on_batch_end(self, trainer):
        self.after -= 1
        if not self.after: raise KeyboardInterrupt


@pytest.mark.parametrize("spec", ["synonyms(.5)+deletion(.2)+mixup", "masking(.5)+swap(.5)"])
def test_a_training_that_goes_on_ends_with_the_same_bits(small, tmp_path, spec):
    settings = dict(small, augment=spec, checkpoint_every=1)
    whole = TextClassifier(**settings).fit(NOTES, LABELS)
    kept = dict(settings, checkpoint_dir=str(tmp_path / "state"))
    for after in (2, 3):
        with pytest.raises(KeyboardInterrupt): TextClassifier(**kept, callbacks=[Kill(after)]).fit(NOTES, LABELS)
    resumed = TextClassifier(**kept).fit(NOTES, LABELS)
    assert weights_hash(whole.model_.parameters()) == weights_hash(resumed.model_.parameters())


def test_a_checkpoint_of_another_augmentation_is_refused(small, tmp_path):
    state = str(tmp_path / "state")
    TextClassifier(**small, augment="swap", checkpoint_dir=state).fit(TEXTS, LABELS)
    with pytest.raises(InputError, match="augment"): TextClassifier(**small, augment="deletion", checkpoint_dir=state).fit(TEXTS, LABELS)


@pytest.mark.parametrize("spec", ["synonyms+deletion(.2)", TextAugment(swap=.1, keep=("x",))])
def test_saved_loaded_and_on_the_card(small, tmp_path, spec):
    clf = TextClassifier(**small, augment=spec).fit(NOTES, LABELS)
    clf.save(tmp_path / "m")
    again, card = TextClassifier.load(tmp_path / "m", verbose=0), (tmp_path / "m" / "README.md").read_text()
    assert again.augment == spec and np.array_equal(again.outputs(NOTES), clf.outputs(NOTES))
    words = "swap" if isinstance(spec, TextAugment) else "synonyms, deletion"
    assert f"Training texts were varied anew in every epoch ({words}" in card and "read texts as they are" in card
    TextClassifier(**small).fit(NOTES, LABELS).save(tmp_path / "plain")
    assert "varied" not in (tmp_path / "plain" / "README.md").read_text()


def test_mixup_mixes_states_before_the_head_in_training_alone(small):
    clf = TextClassifier(**small, augment="mixup(.4)").fit(TEXTS, LABELS)
    assert not any(m._forward_pre_hooks for m in clf.model_.modules())
    sets = [["a"] if label == LABELS[0] else ["a", "b"] for label in LABELS]
    assert TextClassifier(**small, augment="mixup").fit(TEXTS, sets).predict(TEXTS)
    with pytest.raises(InputError, match="a regressor has none"): TextRegressor(**small, augment="mixup").fit(TEXTS, np.arange(12.))
    assert len(TextRegressor(**small, augment="swap").fit(TEXTS, np.arange(12.)).predict(TEXTS)) == 12


def test_mixup_does_not_go_in_pieces(small):
    rows = TextRows(16, augment="mixup")
    rows.mixing = augment.draw_partners(4, .2, draw())
    head = torch.nn.Linear(3, 2)
    with pytest.raises(InputError, match="pieces of 2"): rows.mix_seen(head, (torch.zeros(2, 3),))
    with pytest.raises(InputError, match="one vector for each text"): rows.mix_seen(head, (torch.zeros(4, 5, 3),))
    assert rows.mix_seen(head.eval(), (torch.zeros(2, 3),)) is None


def test_few_texts_with_augmentation_move_everything(small):
    assert TextClassifier(**dict(small, lr=None), augment="swap").fit(TEXTS, LABELS).tune_ == "full"


@pytest.mark.parametrize("settings, says", [
    (dict(augment="rotate"), "'rotate' is none of synonyms"), (dict(augment="swap,deletion"), "is none of"), (dict(augment=""), "is none of"), (dict(augment=3), "is none of"),
    (dict(augment="swap(1.5)"), "swap=1.5"), (dict(augment="deletion(-1)"), "deletion=-1"), (dict(augment="mixup(-1)"), "mixup=-1"), (dict(augment="swap(nan)"), "swap=nan"),
    (dict(augment="swap(often)"), "no strength"), (dict(augment="deletion()"), "no strength"), (dict(augment="synonyms(no.csv)"), "no such file"), (dict(augment="swap+"), "is none of"),
    (dict(augment=dict(turn=1)), "is none of"), (dict(augment="swap", tune="head"), "reads each text once"), (dict(augment="mixup", batch_size=1), "partner"), (dict(augment=["swap"]), "is none of")])
def test_augmentations_that_are_none_are_refused(small, settings, says):
    with pytest.raises(InputError) as e: TextClassifier(**{**small, **settings}).fit(TEXTS, LABELS)
    assert says in str(e.value) and len(str(e.value).splitlines()) == 1


def test_texts_that_no_rule_can_touch_are_told_and_others_not(small):
    with pytest.warns(UserWarning, match="only 0% of the training texts"): TextClassifier(**small, augment="deletion").fit(["胸痛两天", "发热咳嗽"] * 6, LABELS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        TextClassifier(**small, augment="deletion").fit(TEXTS, LABELS)
    assert not [str(w.message) for w in told if "augment" in str(w.message)]


# --- the command ----------------------------------------------------------------------------------------------------

def test_the_command_takes_it_and_refuses_in_one_line(tmp_path, small, capsys):
    pd.DataFrame(dict(text=NOTES, label=LABELS)).to_csv(tmp_path / "notes.csv", index=False)
    told = ["train", "-q", "--data", str(tmp_path / "notes.csv"), "--base", small["base"], "--epochs", "1", "--lr", "1e-3", "--validation", "0", "--max-length", "16", "--out", str(tmp_path / "m")]
    assert main([*told, "--augment", "synonyms+deletion(.2)"]) == 0
    assert json.loads((tmp_path / "m" / "finetune_book.json").read_text())["params"]["augment"] == "synonyms+deletion(.2)"
    capsys.readouterr()
    for spec, says in (("flip", "'flip' is none of synonyms"), ("deletion(2)", "deletion=2"), ("synonyms(none.csv)", "none.csv")):
        assert main([*told, "--augment", spec]) == 2
        err = capsys.readouterr().err
        assert says in err and len(err.splitlines()) == 1
