"""Writing: the same tokens as transformers' `generate`, in company and alone, with and without a cache; losses and copies by hand."""
import math

import numpy as np
import pytest
import torch
import transformers

from finetune_book.checks import InputError
from finetune_book.tasks.generate import AnswerLoss, Beam, Contrast, Line, NextToken, Pick, distinct, keep_nucleus, longest_copy, penalize_repeats, write_on
from finetune_book.text.gpt import Decoder

SIZES = dict(vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48, bos_token_id=0, eos_token_id=0, pad_token_id=0)
PROMPTS = [[0, 5, 9], [0, 7, 7, 7, 12, 31, 3], [0]]
WAYS = {"greedy": {}, "penalty": dict(penalty=1.4), "temperature": dict(temperature=.7), "hot": dict(temperature=1.6), "top-k": dict(top_k=4), "nucleus": dict(top_p=.6),
        "all": dict(temperature=1.3, top_k=12, top_p=.8, penalty=1.2), "one is left": dict(temperature=2., top_p=1e-6), "more than there are": dict(top_k=999, temperature=1.)}
BEAMS = {"2 lines": (2, {}), "5 lines": (5, {}), "no length": (3, dict(alpha=0.)), "long": (3, dict(alpha=2.)), "penalty": (3, dict(penalty=1.5))}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def both(request):
    "(ours, transformers') with the same random weights, sharp enough to end sometimes."
    config = transformers.AutoConfig.for_model(request.param, **SIZES, **dict(intermediate_size=40) if request.param == "llama" else {})
    with torch.random.fork_rng(devices=[]): theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    rng = torch.Generator().manual_seed(3)
    for p in theirs.parameters():
        if p.ndim > 1: p.data = .35 * torch.randn(p.shape, generator=rng)
    return Decoder.like(theirs), theirs


def said(theirs, prompts, seed=0, most=14, **settings):
    "New tokens of `generate`, filled on the left where there are several prompts."
    wide = max(map(len, prompts))
    ids = torch.tensor([[0] * (wide - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = theirs.generate(ids, attention_mask=mask, max_new_tokens=most, pad_token_id=0, **settings)[:, wide:].tolist()
    return [tuple(row[:row.index(0) + 1] if 0 in row else row) for row in out]


def words(temperature=None, top_k=None, top_p=None, penalty=1.):
    draws = any(v is not None for v in (temperature, top_k, top_p))
    drawn = dict(temperature=temperature or 1., top_k=top_k or 0, top_p=top_p or 1.) if draws else {}
    return dict(do_sample=draws, repetition_penalty=float(penalty)) | drawn


def new(model, prompts, way, most=14, **more): return [line.new for line in write_on(model, prompts, way, most, end=0, **more)]


@pytest.mark.parametrize("name", WAYS)
def test_every_token_is_that_of_transformers(both, name):
    ours, theirs = both
    for seed in (0, 7):
        alone = [said(theirs, [p], seed, **words(**WAYS[name]))[0] for p in PROMPTS]
        assert new(ours, PROMPTS, Pick(**WAYS[name], seed=seed)) == alone


def test_greedy_in_a_batch_of_transformers(both):
    assert new(both[0], PROMPTS, Pick()) == said(both[1], PROMPTS, do_sample=False)


@pytest.mark.parametrize("name", BEAMS)
def test_beams_are_those_of_transformers(both, name):
    (width, more), (ours, theirs) = BEAMS[name], both
    told = dict(num_beams=width, do_sample=False, length_penalty=more.get("alpha", 1.), repetition_penalty=more.get("penalty", 1.))
    for most in (1, 5, 14): assert new(ours, PROMPTS, Beam(width, **more), most) == [said(theirs, [p], most=most, **told)[0] for p in PROMPTS]


class Forgetful:
    def __init__(self, model): self.model = model
    def __call__(self, ids, cache, mask, **asked):
        mask = torch.ones_like(ids) if mask is None else mask
        if cache is not None: ids, mask = (torch.cat(pair, 1) for pair in zip(cache, (ids, mask)))
        logits, _, *more = self.model(ids, None, mask, **asked)
        return logits, (ids, mask), *more


@pytest.mark.parametrize("make", [lambda: Pick(), lambda: Pick(top_p=.9, temperature=1.2, seed=4), lambda: Pick(penalty=1.3), lambda: Beam(3), lambda: Contrast(4, .6, penalty=1.2)])
def test_company_order_and_cache_change_nothing(both, make):
    ours, together = both[0], new(both[0], PROMPTS, make())
    assert together == [new(ours, [p], make())[0] for p in PROMPTS] == new(Forgetful(ours), PROMPTS, make()) == new(ours, PROMPTS[::-1], make())[::-1]
    assert together == new(ours, PROMPTS, make())


@torch.no_grad()
def as_it_stands(theirs, prompt, k, alpha, most=10, penalty=1.):
    """Eq. (5) of Su et al. (2022), each token on trial put behind the whole text and read anew; and the smallest lead of a choice."""
    text, lead = list(prompt), math.inf
    while len(text) < len(prompt) + most and not (len(text) > len(prompt) and text[-1] == 0):
        p = penalize_repeats(theirs(torch.tensor([text])).logits[:, -1], [text], penalty)[0].softmax(-1)
        worth = {}
        for v in p.topk(k).indices.tolist():
            *before, h = theirs(torch.tensor([[*text, v]]), output_hidden_states=True).hidden_states[-1][0]
            worth[v] = float((1 - alpha) * p[v] - alpha * max(torch.cosine_similarity(h, other, dim=0) for other in before))
        first, *others = sorted(worth.values(), reverse=True)
        text, lead = [*text, max(worth, key=worth.get)], min(lead, first - max(others, default=-math.inf))
    return tuple(text[len(prompt):]), lead


@pytest.mark.parametrize("k, alpha, penalty", [(2, .5, 1.), (5, .6, 1.), (3, 1., 1.), (4, .3, 1.5)])
def test_contrastive_search_is_its_equation(both, k, alpha, penalty):
    wanted, leads = zip(*(as_it_stands(both[1], p, k, alpha, penalty=penalty) for p in PROMPTS))
    assert min(leads) > 1e-5 and new(both[0], PROMPTS, Contrast(k, alpha, penalty), 10) == list(wanted)


def test_without_a_choice_or_without_contrast_it_is_greedy(both):
    greedy = new(both[0], PROMPTS, Pick(penalty=1.2))
    assert greedy == new(both[0], PROMPTS, Contrast(1, .9, 1.2)) == new(both[0], PROMPTS, Contrast(5, 0., 1.2)) != new(both[0], PROMPTS, Contrast(5, .6, 1.2))


def parrot(ids, cache, mask, states=False):
    "Always 1 with .6 and 2 with .4; equal tokens have equal vectors."
    return torch.tensor([0., .6, .4]).log().expand(*ids.shape, 3), None, torch.eye(3)[ids]


def test_contrastive_search_by_hand():
    "The second 1 is worth .6(1 - a) - a, the first 2 .4(1 - a): they are alike at 1/6."
    assert [write_on(parrot, [[0]], Contrast(2, alpha), 3)[0].new for alpha in (.16, .17)] == [(1, 1, 1), (1, 2, 1)]
    told, line = [], write_on(parrot, [[0], [0]], Contrast(2, .5), 4, end=9, stop=lambda new: new == (1, 2, 1))[1]
    assert line.why == "stop" and line.score == pytest.approx(math.log(.6 * .4 * .6))
    assert [line.why for line in write_on(parrot, [[0]], Contrast(9, .5), 5, end=2)] == ["end"]
    write_on(parrot, [[0]], Contrast(2, .5), 3, tell=lambda line: told.append((line.new, line.why)))
    assert told == [((1,), ""), ((1, 2), ""), ((1, 2, 1), "limit")]
    assert write_on(parrot, [[0]], Contrast(2, .9, allowed=lambda line: torch.tensor([True, len(line.new) == 1, False])), 3)[0].new == (0, 1, 0)


def test_a_penalty_does_not_count_filling(both):
    "transformers penalizes the number that fills a row up, if the text does not hold it: ours is as if alone."
    prompts = [[5, 9], [7, 7, 7, 12, 31, 3]]
    assert new(both[0], prompts, Pick(penalty=1.5)) == [said(both[1], [p], do_sample=False, repetition_penalty=1.5)[0] for p in prompts]


def test_copies_of_a_prompt_are_texts_of_their_own(both):
    a, b, c = new(both[0], [PROMPTS[0]] * 3, Pick(temperature=2.))
    assert len({a, b, c}) == 3 and [b] == new(both[0], PROMPTS[:1], Pick(temperature=2., seed=1)) and [a, c] == new(both[0], PROMPTS[:1] * 2, Pick(temperature=2., seed=[0, 2]))


def test_why_a_text_is_over(both):
    def only(token): return lambda ids, cache, mask: (torch.eye(40)[torch.full(ids.shape, token)] * 9, None)
    assert [(line.why, line.ids) for line in write_on(only(0), [[1]], Pick(), 5, end=0)] == [("end", ())]
    assert write_on(only(3), [[1]], Pick(), 2, end=0)[0].why == "limit"
    stopped = write_on(only(3), [[1], [2]], Pick(), 9, end=0, stop=lambda new: new[-2:] == (3, 3))
    assert [(line.why, line.ids) for line in stopped] == [("stop", (3, 3))] * 2
    told = []
    line = write_on(only(3), [[1]], Pick(), 3, end=0, tell=told.append)[0]
    assert [(one.new, one.why) for one in told] == [((3,), ""), ((3, 3), ""), ((3, 3, 3), "limit")] and line.score == pytest.approx(3 * (9 - math.log(39 + math.exp(9))), rel=1e-3)


def test_only_what_is_allowed_is_written(both):
    odd = torch.arange(40) % 2 == 1
    for way in (Pick(allowed=lambda line: odd), Pick(temperature=3., allowed=lambda line: odd, top_k=3), Beam(3, allowed=lambda line: odd), Contrast(3, .7, allowed=lambda line: odd)):
        for line in write_on(both[0], PROMPTS, way, 8, end=0): assert len(line.new) == 8 and all(t % 2 for t in line.new)


def test_nucleus_and_penalty_by_hand():
    z = torch.tensor([[.5, .3, .15, .05]]).log()
    assert [int(keep_nucleus(z, p).isfinite().sum()) for p in (.1, .49, .79, .81, .96, 1.)] == [1, 1, 2, 3, 4, 4]
    assert penalize_repeats(torch.tensor([[2., -2., 0., 1.]]), [[0, 0, 1, 2]], 4.).tolist() == [[.5, -8., 0., 1.]]


@pytest.mark.parametrize("call, says", [
    (lambda: Pick(temperature=0), "temperature=0"), (lambda: Pick(temperature=-1.), "leave it out"), (lambda: Pick(top_p=0), "top_p=0"), (lambda: Pick(top_p=1.1), "top_p=1.1"),
    (lambda: Pick(top_k=0), "top_k=0"), (lambda: Pick(penalty=0), "penalty=0"), (lambda: Beam(0), "beams=0"), (lambda: Beam(2, alpha=-1), "alpha=-1"),
    (lambda: Contrast(0), "top_k=0"), (lambda: Contrast(4, 1.1), "contrast=1.1"), (lambda: Contrast(4, -.1), "contrast=-0.1"), (lambda: Contrast(4, .6, 0), "penalty=0"),
    (lambda: write_on(None, [], Pick(), 3), "empty"), (lambda: write_on(None, [[1], []], Pick(), 3), "empty"), (lambda: write_on(None, [[1]], Pick(), 0), "most=0"),
    (lambda: Pick(temperature=float("nan")), "temperature"), (lambda: distinct([[1]], 0), "n=0")])
def test_what_cannot_be_is_one_line(call, says):
    with pytest.raises(InputError) as error: call()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_loss_is_over_the_answer_and_pieces_add_up():
    rng = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(3, 6, 9, generator=rng, dtype=torch.float64), torch.randint(9, (3, 6), generator=rng)
    labels = ids.masked_fill(torch.arange(6) < torch.tensor([[2], [4], [0]]), -100)
    by_hand = [-logits[n, i - 1].log_softmax(-1)[ids[n, i]] for n, start in enumerate((2, 4, 1)) for i in range(start, 6)]
    loss = AnswerLoss()
    assert loss.mass(labels) == len(by_hand) == 11 and float(loss(logits, labels)) == pytest.approx(float(sum(by_hand)) / 11)
    parts = sum(loss(logits[i:i + 1], labels[i:i + 1]) * loss.mass(labels[i:i + 1]) for i in range(3)) / loss.mass(labels)
    assert float(parts) == pytest.approx(float(loss(logits, labels)))
    nats = torch.tensor([[0., 1., 2.], [0., 4., 0.]])
    assert NextToken().judge(nats, torch.tensor([[-100, -100, 3], [5, 6, -100]]))["val_loss"] == 3.


def test_runs_and_copies_by_hand():
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4 and math.isnan(distinct([[1]], 2))
    rng = np.random.default_rng(0)
    for _ in range(30):
        row, shelf = rng.integers(0, 3, 8).tolist(), [rng.integers(0, 3, rng.integers(1, 9)).tolist() for _ in range(4)]
        slow = max(n for n in range(9) for i in range(9 - n) if n == 0 or any(row[i:i + n] == s[j:j + n] for s in shelf for j in range(len(s))))
        assert longest_copy(row, shelf) == slow
    assert longest_copy([1, 2], [[1], [2]]) == 1 and Line(0, (1,), (2, 0), why="end").ids == (2,)
