"Ways of answering the same questions: verdicts are `compare`'s, rivals are what needs no training, groups are drawn whole."
import numpy as np
import pytest

from finetune_book.judge.bootstrap import compare
from finetune_book.report.ways import Ways, show_worse


def scores(share, n=200, seed=0): return (np.arange(n) % 100 < share).astype(float)[np.random.default_rng(seed).permutation(n)]


def made(words=20, base=40, tuned=70, **more):
    return Ways({"words": {0: scores(words)}, "base": {0: scores(base, seed=1)}, "tuned + words": {0: scores(95, seed=2)}, "tuned": {0: scores(tuned, seed=3)}}, ("words",), "hits", **more)


@pytest.mark.parametrize("base, tuned, stands, says", [(40, 70, "better", "tuned is clearly higher"), (70, 40, "worse", "tuned is clearly lower"), (50, 50, "no clear difference", "no clear difference over test questions")])
def test_the_verdict_is_compares(base, tuned, stands, says):
    ways = made(base=base, tuned=tuned)
    answer = ways.answer(ways.rungs(), "Which?", "200 questions")
    assert answer["stands"] == stands and answer["verdict"].endswith(f"against base ({base / 100:.3f}) {says}.")
    found = compare({"base": {0: ways.of("base")}, "tuned": {0: ways.of("tuned")}}, "base", "tuned", rows="test questions", what="hits")
    assert ways.against("base").sentence == found.sentence and says in found.sentence


def test_another_way_with_the_models_training_is_no_rival():
    ways = made()
    assert ways.rivals() == ["words", "base"] and made(words=60).rivals() == ["words"]
    answer = ways.answer(ways.rungs({"mrr": dict.fromkeys(ways.scores, .5)}), "Which?", "data", {"leaks": "two"})
    assert list(answer["others"]) == ["words", "base", "tuned + words"] and answer["also"] == {"mrr": .5} and list(answer["wary"]) == ["leaks", "one training"]


def test_groups_widen_the_interval_and_are_told():
    spread = np.repeat(np.arange(20) % 2., 10)
    alone, whole = (Ways({"a": {0: spread * 0}, "b": {0: spread}}, ("a",), "hits", groups=groups) for groups in (None, np.arange(200) // 10))
    width = lambda ways: np.ptp(ways.rungs().loc["b", ["low", "high"]].to_numpy(float))
    assert width(whole) > 2 * width(alone) and "20 groups" in whole.answer(whole.rungs(), "?", "d")["wary"]["questions that repeat"]


def test_several_trainings_are_judged_over_seeds_too():
    ways = Ways({"a": {0: scores(50)}, "b": {0: scores(30), 1: scores(90)}}, ("a",), "hits")
    assert ways.value("b") == pytest.approx(.6) and "no clear difference over seeds" in ways.told() and "2 trainings" in ways.answer(ways.rungs(), "?", "d")["wary"]


def test_the_worst_losses_come_first_and_are_escaped(capsys):
    base, tuned = np.ones(6), np.array([1, .5, 0, 1, 1, 2])
    ways = Ways({"a": {0: base}, "b": {0: tuned}}, ("a",), "F1")
    assert show_worse(ways, {"question": [f"<i>{i}</i>" for i in range(6)]}) == dict(worse=2, better=1, same=3)
    assert show_worse(Ways({"a": {0: base}, "b": {0: base}}, ("a",), "F1"), {"question": list("abcdef")}) == dict(worse=0, better=0, same=6)


@pytest.mark.parametrize("tuned, stands, says", [(70, "worse", "tuned is clearly higher"), (20, "better", "tuned is clearly lower"), (40, "no clear difference", "no clear difference over test texts")])
def test_where_less_is_better_the_other_end_wins(tuned, stands, says):
    ways = made(words=80, tuned=tuned, less_is_better=True, unit="test texts", groups=np.arange(200) // 2)
    answer = ways.answer(ways.rungs(), "Which?", "200 texts")
    assert ways.rivals() == ["words", "base"] and answer["stands"] == stands and says in answer["verdict"] and "hits, less is better" in answer["verdict"]
    assert {"few test texts", "texts that repeat"} & answer["wary"].keys() == {"texts that repeat"}
    counts, other = (show_worse(w, {"text": list(range(200))}) for w in (ways, made(words=80, tuned=tuned)))
    assert counts["better"] == ((ways.of("tuned") < ways.of("base")).sum()) and sum(counts.values()) == sum(other.values()) == 200
