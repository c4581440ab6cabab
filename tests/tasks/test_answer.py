"Spans: SQuAD's measure, the loss, the best pair, windows that skip nothing, the threshold."
import numpy as np
import pytest
import torch

from finetune_book.checks import InputError
from finetune_book.data.squad import Question
from finetune_book.tasks.answer import (SentenceFloor, Span, SpanLoss, answer_place, answer_scores, best_span, choose_threshold, exact_match, make_windows, normalise_answer,
                                        span_targets, text_of_span, token_f1, window_starts)

# What SQuAD 2.0's evaluation script gives: (said, right answers, exact match, F1).
OFFICIAL = [
    ('Denver Broncos', ['Denver Broncos', 'The Denver Broncos'], 1, 1.0),
    ('the Broncos', ['Denver Broncos', 'Denver Broncos football team'], 0, 0.666666666667),
    ('', [], 1, 1),
    ('x', [], 0, 0),
    ('a', [], 1, 1),
    ('the', ['the'], 1, 1),
    ('', ['the', 'x'], 0, 0),
    ('5 mg twice a day', ['5 mg'], 0, 0.666666666667),
    ('5-mg', ['5 mg', '5mg'], 1, 1.0),
    ('7 a.m.', ['7 am'], 1, 1.0),
    ('An Apple a day.', ['apple day'], 1, 1.0),
    ('“the” cat', ['cat', 'the cat'], 0, 0.5),
    ('theatre', ['the atre'], 0, 0),
    ('mg mg 5', ['5 mg'], 0, 0.8),
    ('५ mg', ['5 mg'], 0, 0.5),
    ('每天 一次', ['每天一次'], 0, 0),
    ("Don't", ['dont'], 1, 1.0),
    ('THE\tcat\xa0sat', ['cat sat'], 1, 1.0),
    ('a-an-the', ['aanthe'], 1, 1.0),
    ('$5.00', ['500'], 1, 1.0),
    ('yes — no', ['yes no'], 0, 0.8)]


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.mark.parametrize("said, right, exact, f1", OFFICIAL)
def test_the_scores_are_those_of_the_official_script(said, right, exact, f1):
    ours = answer_scores([Question("q", "q", "p", tuple((t, 0) for t in right))], [said])
    assert ours[0].tolist() == [exact] and abs(ours[1][0] - f1) < 1e-11


def test_one_answer_for_each_question():
    with pytest.raises(InputError, match="1 questions and 2 answers"): answer_scores([Question("q", "q", "p")], ["", ""])
    assert exact_match("The 5 mg.", "5 mg") == 1 and token_f1("5 mg twice a day", "5 mg") == 4 / 6 and normalise_answer(" An  A.M. ") == "am"


def test_the_loss_is_that_of_transformers_and_padding_changes_nothing():
    from transformers import BertConfig, BertForQuestionAnswering
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForQuestionAnswering(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32)).eval()
        ids, logits = torch.randint(5, 30, (3, 12)), torch.randn(3, 24, dtype=torch.float64)
    first, last = torch.tensor([3, 0, 7]), torch.tensor([5, 0, 11])
    out = model(ids, start_positions=first, end_positions=last)
    whole = torch.stack([first, last, torch.ones(3, dtype=int), torch.full((3,), 11)], 1)
    assert abs(SpanLoss()(torch.cat([out.start_logits, out.end_logits], 1), whole) - out.loss) < 1e-6
    targets = torch.tensor([[3, 5, 2, 9], [0, 0, 4, 6], [8, 8, 8, 8]])
    wide = torch.cat([logits.view(3, 2, 12), torch.full((3, 2, 5), 50.)], 2).flatten(1)
    assert abs(SpanLoss()(wide, targets) - SpanLoss()(logits, targets)) < 1e-12
    assert torch.autograd.gradcheck(lambda z: SpanLoss()(z, targets), logits.requires_grad_())


def test_the_gradient_leaves_what_cannot_be_an_answer_alone():
    z = torch.randn(1, 12, dtype=torch.float64, requires_grad=True)
    SpanLoss()(z, torch.tensor([[3, 4, 3, 4]])).backward()
    assert (z.grad.view(2, 6)[:, [1, 2, 5]] == 0).all() and (z.grad.view(2, 6)[:, [0, 3, 4]] != 0).all()


def test_the_best_span_is_the_best_of_all_pairs():
    rng = np.random.default_rng(0)
    for longest in (1, 2, 5, 40):
        s, e = rng.normal(size=(2, 12))
        s[[0, 7]], e[3] = -np.inf, -np.inf
        assert best_span(s, e, longest)[:2] == max(((i, j) for i in range(12) for j in range(i, min(12, i + longest))), key=lambda p: s[p[0]] + e[p[1]])


def test_the_task_compares_with_no_answer_and_keeps_its_threshold():
    task = Span(longest=2)
    scores = np.full((2, 2, 6), -np.inf)
    scores[:, :, 0], scores[0, :, 3:], scores[1, :, 2:4] = [[2, 1]], [[1, 5, 0], [0, 3, 4]], [[0, 1], [1, 0]]
    found = task.answers(scores.reshape(2, -1))
    assert found.tolist() == [[4, 5, 5 + 4 - 3], [2, 2, 0 + 1 - 3]]
    assert task.score([[4, 5, 3, 5], [0, 0, 2, 3]], found) == 1 and task.score([[4, 4, 3, 5], [2, 2, 2, 3]], found) == 0
    task.threshold = 7.5
    again = Span()
    again.restore(task.settings())
    assert again.threshold == 7.5 and task.score([[0, 0, 3, 5], [0, 0, 2, 3]], found) == 1
    for bad in (dict(longest=0), dict(threshold="x"), dict(threshold=float("nan"))):
        with pytest.raises(InputError): Span(**bad)


@pytest.mark.parametrize("room, overlap", [(10, 0), (10, 3), (7, 6), (2, 1), (1, 0)])
def test_windows_skip_no_position_and_hold_what_the_overlap_promises(room, overlap):
    for n in range(1, 60):
        spans = [(a, min(a + room, n)) for a in window_starts(n, room, overlap)]
        assert {k for a, b in spans for k in range(a, b)} == set(range(n)) and len(set(spans)) == len(spans) and spans[-1][1] == n
        assert all(any(a <= i and i + overlap + 1 <= b for a, b in spans) for i in range(n - overlap))


PASSAGE = " ".join(f"f{k % 10} pain {k}." for k in range(40))


@pytest.mark.parametrize("max_length, stride", [(24, 0), (24, 8), (40, 20), (64, 0)])
def test_every_token_is_in_a_window_where_the_tokenizer_says(tokenizer, max_length, stride):
    windows = make_windows(tokenizer, ["the pain", "has no fever"], [PASSAGE, "left knee."], max_length, stride)
    assert [w.row for w in windows] == sorted(w.row for w in windows) and {w.row for w in windows} == {0, 1}
    for row, text in enumerate((PASSAGE, "left knee.")):
        ids, own = tokenizer(text, add_special_tokens=False)["input_ids"], [w for w in windows if w.row == row]
        starts = window_starts(len(ids), max_length - own[0].low - 1, stride)
        assert [list(w.ids[w.low:w.high + 1]) for w in own] == [ids[a:a + max_length - own[0].low - 1] for a in starts]
        for w in own: assert len(w) <= max_length and sum(w.types) == len(w) - w.low and len(w.offsets) == w.high - w.low + 1
        assert {c for w in own for a, b in w.offsets for c in range(a, b)} == {c for c, letter in enumerate(text) if letter != " "}


def test_each_answer_is_found_in_every_window_that_holds_it_and_in_no_other(tokenizer):
    windows, at = make_windows(tokenizer, ["the pain"], [PASSAGE], 24, 8), 0
    for word in PASSAGE.split():
        at = PASSAGE.index(word, at)
        targets, lost = span_targets(windows, [Question("q", "the pain", PASSAGE, ((word, at),))])
        assert lost == set()
        for w, (first, last, low, high) in zip(windows, targets):
            whole = w.offsets[0][0] <= at and at + len(word) <= w.offsets[-1][1]
            assert bool(first) == whole and (low, high) == (w.low, w.high)
            if whole: assert text_of_span(w, PASSAGE, first, last) == (word, at)
        at += len(word)


def test_an_answer_too_long_for_every_window_is_told_and_spaces_around_one_are_not_missed(tokenizer):
    windows = make_windows(tokenizer, ["the pain"], [PASSAGE], 24, 8)
    targets, lost = span_targets(windows, [Question("q", "the pain", PASSAGE, ((PASSAGE[:200], 0),))])
    assert lost == {0} and not targets[:, :2].any()
    at = PASSAGE.index(" pain ")
    targets, lost = span_targets(windows, [Question("q", "the pain", PASSAGE, ((" pain ", at),))])
    assert lost == set() and text_of_span(windows[0], PASSAGE, *targets[0, :2]) == ("pain", at + 1)
    assert answer_place(windows[-1], 0, 2) is None


def test_a_question_without_room_is_refused_with_the_length_that_would_do(tokenizer):
    asked = ["the", "the pain has no fever with a cough"]
    with pytest.raises(InputError, match="question 1: has 8 tokens") as error: make_windows(tokenizer, asked, ["left", "left"], 16, 8)
    needed = int(str(error.value).rsplit("max_length to ", 1)[1].split()[0])
    make_windows(tokenizer, asked, ["left", "left"], needed, 8)
    with pytest.raises(InputError): make_windows(tokenizer, asked, ["left", "left"], needed - 1, 8)
    with pytest.raises(InputError, match="passage 0: the tokenizer finds nothing"): make_windows(tokenizer, ["the"], ["\u200b\u0007"], 16, 2)


def test_the_threshold_is_the_best_there_is():
    rng = np.random.default_rng(0)
    for n in (1, 2, 30):
        for odds in (rng.normal(size=n), rng.normal(size=n).round(1)):
            silent = (rng.random(n) < .4).astype(float)
            spoken = np.where(silent > 0, 0, rng.random(n))
            def mean_at(cut): return np.where(odds > cut, spoken, silent).mean()
            cut = choose_threshold(odds, spoken, silent)
            every = [odds.min() - 1, *odds]
            assert mean_at(cut) >= max(map(mean_at, every)) - 1e-12 and all(mean_at(c) < mean_at(cut) - 1e-12 for c in odds if c > cut)
    assert choose_threshold([1., 1, 2], [1., 0, 1], [0., .5, 0]) == 0 and choose_threshold([3., 4], [0., 0], [1., 1]) == 5


def test_the_floor_answers_by_the_sentence_with_the_words():
    floor = SentenceFloor().fit(["Velorin helps. Take 5.5 mg daily! Never with gout."])
    text, odds = floor.best("How many mg daily?", "Velorin helps. Take 5.5 mg daily! Never with gout.")
    assert text == "Take 5.5 mg daily!" and 0 < odds <= 1
    assert floor.best("Wohin?", "No end") == ("No end", 0.)
