"""The answer of a report: a verdict that is computed and honest, what to be wary of, a card that holds no markup of the data."""
import numpy as np
import pandas as pd
import pytest

from finetune_book.data.audit import Finding
from finetune_book.judge.bootstrap import seed_interval
from finetune_book.judge.ladder import calibrate
from finetune_book.report import answer as answers
from finetune_book.report.answer import Answer, cost_of, wary_of
from finetune_book.report.card import answer_html, answer_text, short_html
from finetune_book.report.exam import Exam
from finetune_book.report.record import flat_numbers, json_value
from finetune_book.train.budget import Budget

TRUTH = np.tile(["a", "b"], 150)


def exam(truth=TRUTH): return Exam.of(pd.DataFrame({"label": truth}), 0, "texts")


def right_on(share, seed=0):
    "Answers that are right on so many of the rows."
    wrong = np.random.default_rng(seed).permutation(len(TRUTH))[:round(len(TRUTH) * (1 - share))]
    said = TRUTH.copy()
    said[wrong] = np.where(said[wrong] == "a", "b", "a")
    return said


def ladder(words, frozen, tuned): return {"majority": np.full(300, "a"), "TF-IDF": right_on(words, 1), "frozen body": right_on(frozen, 2), "fine-tuned": right_on(tuned, 3)}


def answered(said, runs=None, **found):
    runs = runs or {"fine-tuned": [said["fine-tuned"]]}
    return Answer.of(exam(), said, exam().rungs(said), runs=runs, classes=["a", "b"], data="300 texts", wary=wary_of(exam=exam(), runs=runs, **found))


@pytest.mark.parametrize("shares, stands, verdict", [
    ((.6, .7, .9), "better", "Fine-tuned (0.900) beats frozen body (0.700) clearly; TF-IDF (0.600) is clearly beaten."),
    ((.7, .6, .9), "better", "Fine-tuned (0.900) beats TF-IDF (0.700) clearly."),
    ((.6, .84, .85), "no clear difference", "No clear difference between fine-tuned (0.850) and frozen body (0.840), which costs less; TF-IDF (0.600) is clearly beaten."),
    ((.83, .84, .85), "no clear difference", "No clear difference between fine-tuned (0.850) and frozen body (0.840), which costs less; nor is there a clear difference from TF-IDF (0.830)."),
    ((.9, .7, .6), "worse", "TF-IDF (0.900) is better: use it, not fine-tuned (0.600)."),
    ((.8, .9, .6), "worse", "Frozen body (0.900) is better: use it, not fine-tuned (0.600); TF-IDF (0.800) is clearly better, too."),
])
def test_the_verdict_names_the_best_of_the_cheaper_ways(shares, stands, verdict):
    got = answered(ladder(*shares))
    assert (got.stands, got.verdict) == (stands, verdict)


def test_a_majority_that_beats_counting_words_is_the_floor():
    said = ladder(.4, .45, .9)
    assert answered(said).verdict == "Fine-tuned (0.900) beats majority (0.500) clearly."


@pytest.mark.parametrize("change, clear", [({}, True), ({"low": -.01}, False), ({"p_value": .06}, False), ({"mcnemar_p": .06}, False), ({"gain": -.1, "low": -.2, "high": -.05}, True)])
def test_a_difference_is_clear_when_all_witnesses_agree(change, clear):
    step = pd.Series(dict(gain=.1, low=.02, high=.18, p_value=.01, mcnemar_p=.03) | change)
    assert answers.is_clear(step) == clear
    assert not answers.is_clear(step, seed_interval([.1, -.1, .02]))


def test_other_trainings_can_take_a_verdict_back():
    "Clear over the test rows of the first training; over three seeds the gain spans zero."
    said = ladder(.6, .8, .9)
    same = {"frozen body": [said["frozen body"]] * 3, "fine-tuned": [said["fine-tuned"], right_on(.5, 4), right_on(.85, 5)]}
    assert answered(said).stands == "better" and answered(said, same).stands == "no clear difference"
    assert list(answered(said, same).wary) == ["3 trainings"] and "on average 0.750" in answered(said, same).wary["3 trainings"]


def test_less_can_be_better():
    class Errors(Exam): measure, sign = "error", -1
    other = Errors(np.where(TRUTH == "a", "b", "a"), None, 0, "texts")    # its score is the share of wrong answers
    said = ladder(.6, .7, .9)
    assert answers.judge(other, said, {})[0] == "better"


def test_findings_are_told_by_weight():
    many = [Finding("labels in doubt: by a judge", 10, 300, "", "read the first ones: some are wrong"), Finding("length outliers", 1, 300, "", "look"),
            Finding("unknown tokens: 9% of all", 30, 300, "", "choose a base"), Finding("leaks: rows", 1, 300, "", "drop them; too good"), Finding("class balance", 0, 300)]
    assert wary_of(exam=exam(), runs={"fine-tuned": [TRUTH]}, findings=many) == {
        "leaks": "1 of 300 rows (0.3%); drop them; too good", "unknown tokens": "30 of 300 rows (10.0%); choose a base",
        "labels in doubt": "10 of 300 rows (3.3%); read the first ones", "one training": "another seed may move the score; repeats=5 says by how much"}


def test_few_rows_and_thin_classes_are_told():
    few = exam(np.array(["a"] * 40 + ["b"] * 12 + ["c"] * 3 + ["d"] * 2))
    told = wary_of(exam=few, runs={"fine-tuned": [few.truth]}, skipped=3)
    assert "57" in told["few test rows"] and told["thin classes"].startswith("'c' and 1 more classes have") and "3 could not" in told["rows left out"]
    assert set(wary_of(exam=exam(), runs={"fine-tuned": [TRUTH]})) == {"one training"}


def test_confidence_is_told_where_it_cannot_be_believed():
    classes = np.array(["a", "b"])
    def sure(p, share):
        right = right_on(share) == TRUTH
        a = np.where((TRUTH == "a") == right, p, 1 - p)
        return np.stack([a, 1 - a], 1)
    def told(check, test): return wary_of(exam=exam(), runs={"fine-tuned": [TRUTH]}, calibrated=calibrate(TRUTH, check, TRUTH, test, classes)).get("confidence", "")
    assert told(sure(.8, .8), sure(.8, .8)) == ""
    assert "too sure" in told(sure(.99, .75), sure(.99, .75)) and "it holds" in told(sure(.99, .75), sure(.99, .75))
    assert "even after the temperature" in told(sure(.99, .97), sure(.99, .6))


def budget(**measured): return Budget(16, 16, 1, 64, 2., 1000., 40., 80., 110., 40., 20000, "machine", 28.9, .31, 278., **measured)


def test_the_cost_is_told_roughly_so_that_a_page_stays_the_same():
    a, b = (cost_of(budget(measured_peak_mb=mb, measured_s=s, measured_step_s=.3, measured_epochs=2.)) for mb, s in ((1490, 30.6), (1525, 28.2)))
    assert a == b == "Training took about 30 s (predicted 30 s) and 1.5 GB of memory (predicted 1.5 GB)."
    assert "for 1 of 2 epochs" in cost_of(budget(measured_peak_mb=1490, measured_s=15., measured_epochs=1.)) and cost_of(budget()).startswith("Predicted: about 30 s")


def test_the_card_escapes_what_the_data_say_and_survives_the_record():
    got = json_value(answered(ladder(.5, .7, .9), findings=[Finding("<i>x</i>", 30, 300, "", "pay $5 & $6")]))
    for page in (answer_html(got, "<script>alert(1)</script>", "about $5"), short_html(got)):
        assert "<script" not in page and "<i>" not in page and "$5" not in page and "&lt;i&gt;" in page.lower()
    text = answer_text(got, "notes.csv")
    assert text.startswith(got["verdict"]) and "notes.csv: 300 texts" in text and "TF-IDF 0.500 [" in text
    assert flat_numbers({"answer": got})["answer.score"] == (got["score"]["value"], got["score"]["low"], got["score"]["high"])
