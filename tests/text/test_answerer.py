"`QuestionAnswerer`: contract of an estimator, answers that stand in their passage, windows, thresholds, finders."
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from finetune_book import QuestionAnswerer
from finetune_book.adapt import METHODS, as_method
from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.data.squad import Question
from finetune_book.tasks.answer import answer_scores, choose_threshold, make_windows
from finetune_book.find.searcher import Searcher
from finetune_book.text.answerer import answer_from, with_wrong_passages
from finetune_book.train.trainer import Callback

PLACES = ["left knee", "right head", "bad chest", "good room"]


def question(i, ask="pain", known=True):
    where, other = PLACES[i % 4], PLACES[(i + 1) % 4]
    passage = f"the pain has {where}. the fever has {other}." if known or ask == "fever" else f"the fever has {other}. very loud f{i % 9}."
    answers = ((where if ask == "pain" else other, passage.index(where if ask == "pain" else other)),) if known else ()
    return Question(f"{ask}{i}", f"the {ask} has", passage, answers, str(i))


ROWS = [question(i, ("pain", "fever")[i % 2]) for i in range(8)] + [question(i, known=False) for i in range(3)]
ASKED, PASSAGES = [r.question for r in ROWS], [r.passage for r in ROWS]
LONG = " ".join(f"day {k} is clean." for k in range(60)) + " the pain has left knee."


@pytest.fixture(scope="module")
def make(tiny_base):
    small = dict(base=tiny_base, epochs=2, lr=.01, batch_size=4, max_length=40, stride=8, verbose=0, device="cpu")
    return lambda **more: QuestionAnswerer(**{**small, **more})


@pytest.fixture(scope="module")
def fitted(make): return make(epochs=20).fit(ROWS, validation=ROWS)


def bits(est): return weights_hash({k: v for k, v in est.model_.state_dict().items() if v.is_floating_point()})
def texts(answers): return [a.text for a in answers]


def test_it_learns_a_few_questions_by_heart(fitted):
    assert fitted.score(ROWS) > .9 and fitted.history_[-1]["val_loss"] < fitted.history_[0]["val_loss"]


def test_an_answer_stands_in_its_passage_and_none_has_no_place(fitted):
    for a, passage in zip(fitted.spans(ASKED, PASSAGES), PASSAGES): assert a.text and passage[a.start:a.start + len(a.text)] == a.text and a.passage == passage
    for a in fitted.predict(ASKED, PASSAGES): assert (a.text == "") == (a.start is None) == (a.score <= fitted.task_.threshold)


def test_neighbours_order_and_padding_change_no_answer(fitted):
    asked, passages = [*ASKED, "the pain has"], [*PASSAGES, LONG]
    together = fitted.spans(asked, passages)
    order = np.random.default_rng(0).permutation(len(asked))
    mixed = fitted.spans([asked[i] for i in order], [passages[i] for i in order])
    for i, a in zip(order, mixed):
        alone = fitted.spans([asked[i]], [passages[i]])[0]
        for other in (together[i], alone): assert (other.text, other.start) == (a.text, a.start) and abs(other.score - a.score) < 1e-4


def test_the_threshold_is_chosen_on_the_validation_rows_alone(make, fitted):
    found = fitted.spans(ASKED, PASSAGES)
    spoken, silent = answer_scores(ROWS, texts(found))[1], np.array([float(not r.answers) for r in ROWS])
    assert fitted.task_.threshold == choose_threshold([a.score for a in found], spoken, silent)
    assert make(epochs=1).fit(ROWS).task_.threshold == 0
    given = make(epochs=1, threshold=1e6).fit(ROWS, validation=ROWS[:4])
    assert given.task_.threshold == 1e6 and set(texts(given.predict(ASKED, PASSAGES))) == {""}
    only_silent = make(epochs=1).fit(ROWS, validation=ROWS[-3:])
    assert only_silent.score(ROWS[-3:]) == 1 and max(a.score for a in only_silent.spans(ASKED[-3:], PASSAGES[-3:])) < only_silent.task_.threshold


def test_an_answer_behind_the_first_window_is_found(fitted):
    near = fitted.spans(["the pain has"], ["the pain has left knee."])[0]
    far = fitted.spans(["the pain has"], [LONG])[0]
    windows = len(LONG.split()) // 20
    assert windows > 5 and near.text == "left knee" and LONG[far.start:far.start + len(far.text)] == far.text
    task = fitted.task_
    cut = make_windows(fitted.rows_.tokenizer, ["the pain has"], [LONG], 40, 8)
    odds = task.answers(fitted.outputs(cut))[:, 2]
    assert len(cut) > 5 and abs(far.score - odds.max()) < 1e-6


@pytest.mark.parametrize("tune", [form.replace("-K", "-1") for form in METHODS])
def test_each_method_moves_what_it_should_saves_and_loads(make, tune, tmp_path):
    est = make(tune=tune, epochs=3).fit(ROWS)
    assert est.tune_ == str(as_method(tune)) and 0 < est.n_trainable_ <= est.n_parameters_ and est.lr_ == .01
    again = QuestionAnswerer.load(est.save(tmp_path / "model"), device="cpu")
    assert again.spans(ASKED, PASSAGES) == est.spans(ASKED, PASSAGES) and bits(again) == bits(est)


def test_a_rate_that_is_left_open_is_the_methods_own_and_the_head_takes_steps(make):
    for tune in ("head", "full"):
        est = make(tune=tune, lr=None).fit(ROWS)
        assert est.lr_ == as_method(tune).rate(est.rows_.rates_for(est.base)) and len(est.history_) == 2
    frozen = [p.detach() for p in make(tune="head", epochs=1).fit(ROWS).model_.base_model.parameters()]
    start = [p.detach() for p in make(tune="head", epochs=1, seed=1).fit(ROWS).model_.base_model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, start))


def test_what_is_saved_keeps_the_threshold_and_opens_in_transformers(fitted, tmp_path):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer
    folder = fitted.save(tmp_path / "model")
    again = QuestionAnswerer.load(folder, device="cpu")
    assert again.task_.threshold == fitted.task_.threshold and again.predict(ASKED, PASSAGES) == fitted.predict(ASKED, PASSAGES)
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    read = tokenizer(ASKED[0], PASSAGES[0], return_tensors="pt")
    with torch.no_grad(): out = model(**read)
    windows = make_windows(tokenizer, ASKED[:1], PASSAGES[:1], 40, 8)
    ours = fitted.outputs(windows).reshape(2, 40)[:, windows[0].low:windows[0].high + 1]
    assert np.abs(ours - torch.cat([out.start_logits, out.end_logits]).numpy()[:, windows[0].low:windows[0].high + 1]).max() < 1e-4
    card = (folder / "README.md").read_text()
    assert 'QuestionAnswerer.load(".").predict(["How much do adults take?"], ["Adults take 5 mg."])' in card and "log-odds" in card


def test_the_same_seed_gives_the_same_bits_and_a_cut_training_goes_on(make, tmp_path):
    whole, other = make().fit(ROWS, validation=ROWS[:4]), make(seed=1).fit(ROWS, validation=ROWS[:4])
    assert bits(whole) == bits(make().fit(ROWS, validation=ROWS[:4])) != bits(other)

    class Break(Callback):
        order = 200
        def on_batch_end(self, trainer):
            if trainer.step == 4: raise RuntimeError("power cut")

    kept = dict(checkpoint_dir=str(tmp_path / "state"), checkpoint_every=1)
    with pytest.raises(RuntimeError, match="power cut"): make(callbacks=[Break()], **kept).fit(ROWS, validation=ROWS[:4])
    resumed = make(**kept).fit(ROWS, validation=ROWS[:4])
    assert bits(resumed) == bits(whole) and resumed.task_.threshold == whole.task_.threshold


def test_it_clones_and_forecasts_and_says_that_it_is_not_fitted(make):
    est = make(longest=5, threshold=.5)
    assert clone(est).get_params() == est.get_params()
    assert est.forecast(ROWS, validation=ROWS[:4]).predicted_s > 0 and not hasattr(est, "model_")
    with pytest.raises(NotFittedError): est.predict(ASKED, PASSAGES)


@pytest.mark.parametrize("settings, rows, says", [
    ({}, [*ROWS[:2], Question("x", "the pain", "left knee.", (("head", 0),))], "training row 2: the answer 'head' is not in its passage"),
    ({}, [*ROWS[:2], "how?"], "training row 2 is 'how\\?'"), ({}, [], "no training rows"), ({}, "how?", "training row 0"), ({}, None, "give a list of Question"),
    ({}, ROWS[-3:], "no training row has an answer"), (dict(stride=41), ROWS, "stride=41"), (dict(stride=-1), ROWS, "stride=-1"), (dict(stride=36), ROWS, "max_length to 43"),
    (dict(max_length=65), ROWS, "reads at most 64"), (dict(longest=0), ROWS, "longest=0"), (dict(threshold="f1"), ROWS, "threshold='f1'"), (dict(epochs=0), ROWS, "epochs=0"),
])
def test_what_cannot_be_learned_is_refused_in_one_line(make, settings, rows, says):
    with pytest.raises(InputError, match=says) as error: make(**settings).fit(rows)
    assert "\n" not in str(error.value)


def test_validation_rows_are_checked_too(make):
    with pytest.raises(InputError, match="validation row 0: the answer"): make().fit(ROWS, validation=[Question("x", "the pain", "left knee.", (("head", 0),))])
    with pytest.raises(InputError, match="no validation rows"): make().fit(ROWS, validation=[])


def test_an_answer_that_no_window_holds_is_said(make):
    wide = Question("x", "the pain has", LONG, ((LONG[:300], 0),))
    with pytest.warns(UserWarning, match="1 of the training answers, first that of row 2"): make(epochs=1).fit([*ROWS[:2], wide, *ROWS[2:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(epochs=1).fit(ROWS)


def test_questions_of_any_script_are_answered_or_refused(fitted):
    for asked in ("痛在哪里?", "أين الألم؟", "pain 💊?", "x" * 20): assert len(fitted.predict([asked], ["the pain has left knee."])) == 1
    for asked, passages, says in (([""], ["left"], "text 0 is empty"), (["the"], [" "], "text 0 is empty"), (["the"], ["left", "right"], "1 questions and 2 passages"),
                                  (["the " * 40], ["left"], "question 0: has 40 tokens")):
        with pytest.raises(InputError, match=says): fitted.predict(asked, passages)


SHELF = {"a": PASSAGES[0], "b": PASSAGES[1], "c": "clean room.", "long": LONG}


def test_answers_come_with_the_passage_they_stand_in_or_not_at_all(fitted):
    find = Searcher(words=True).fit(SHELF)
    said = answer_from(fitted, ["the pain has", "Wohin?", "clean room"], SHELF, find, k=4)
    for a in said:
        if a.text: assert a.passage == SHELF[a.source] and a.passage[a.start:][:len(a.text)] == a.text and a.score > fitted.task_.threshold
        else: assert a.passage == "" and a.source is a.start is None
    assert said[1].text == "" and said[1].score == -np.inf
    best = max(fitted.spans(["the pain has"] * 4, list(SHELF.values())), key=lambda a: a.score)
    assert abs(said[0].score - best.score) < 1e-4


def test_any_finder_will_do_and_one_that_brings_what_is_not_there_is_refused(fitted):
    class Numbers:
        def __init__(self, ids): self.ids = ids
        def search(self, queries, k): return np.array([self.ids[:k]] * len(queries)), np.zeros((len(queries), k))
    shelf = dict(enumerate(PASSAGES))
    assert answer_from(fitted, ["the pain has"], shelf, Numbers([0, 0, 2]), k=3)[0].source in (0, 2, None)
    with pytest.raises(InputError, match="99: the finder's id"): answer_from(fitted, ["the pain has"], shelf, Numbers([99]), k=1)
    for bad in (lambda: answer_from(fitted, [" "], SHELF, Searcher(words=True).fit(SHELF)), lambda: answer_from(fitted, ["the"], SHELF, Searcher(words=True).fit(SHELF), k=0)):
        with pytest.raises(InputError): bad()


LEAFLETS = dict(own="the pain in the head is 5 mg.", near="the pain in the head is 9 mg.", same="the pain in the head is 5 MG!", asks="the pain in the head is 7 mg.", far="day clean.")


def about(name, passage, ask="the pain in the head is", answer=None):
    return Question(name, ask, LEAFLETS[passage], ((answer, LEAFLETS[passage].index(answer)),) if answer else (), passage)


def test_wrong_passages_are_the_nearest_that_do_not_answer():
    rows = [about("1", "own", answer="5 mg"), about("1-wrong-0", "near", "who?"), about("3", "same", "who?"), about("4", "asks", answer="7 mg"), about("5", "far", "who?")]
    before, more = list(rows), with_wrong_passages(rows, Searcher(words=True))
    new = more[len(rows):]
    assert rows == before == more[:5] and [(r.id, r.title, r.passage, r.answers) for r in new] == [("1-wrong-0-", "near", LEAFLETS["near"], ()), ("4-wrong-0", new[1].title, new[1].passage, ())]
    assert {new[1].title} <= {"near", "same"} and new[0].question == rows[0].question
    two = with_wrong_passages(rows, Searcher(words=True), per=2)
    assert len({r.id for r in two}) == len(two) == 8 and {r.title for r in two[5:]} == {"near", "same"}, "far shares no word, own and asks answer the question"
    assert with_wrong_passages(rows, Searcher(words=True), depth=2) == with_wrong_passages(rows, Searcher(words=True), depth=2)


@pytest.mark.parametrize("rows, settings, says", [
    ([about("1", "own", answer="5 mg")], {}, "all rows are of one passage"), ([], {}, "no training rows"), (["how?"], {}, "training row 0 is 'how\\?'"),
    (ROWS, dict(per=0), "per=0"), (ROWS, dict(per=3, depth=3), "depth=3")])
def test_wrong_passages_are_refused_in_one_line(rows, settings, says):
    with pytest.raises(InputError, match=says) as error: with_wrong_passages(rows, Searcher(words=True), **settings)
    assert "\n" not in str(error.value)
