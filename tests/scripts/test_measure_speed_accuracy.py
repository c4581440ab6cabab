"The measurement of accuracy at speed: a run goes on where it was stopped, all ways get the same, what it stored is whole, and the table says below where it is below."
import sys

import numpy as np
import pandas as pd
import pytest

SETS = ("uci_sentences", "sst2", "medical_abstracts")


@pytest.fixture(scope="module")
def script(load_script, repo):
    return load_script("measure_speed_accuracy")


@pytest.fixture
def texts(tmp_path):
    "Twenty training and ten test texts a set, as files."
    for name in SETS:
        (tmp_path / "text" / name).mkdir(parents=True)
        for part, n in (("train", 20), ("test", 10)):
            rows = pd.DataFrame({"text": [f"{name} {part} {i} {'good' if i % 2 else 'bad'}" for i in range(n)], "label": ["bad", "good"] * (n // 2)})
            rows.to_csv(tmp_path / "text" / name / f"{part}.csv", index=False)
    return tmp_path / "text"


def rows_of(script, right):
    "A table of rows from {way: {seed: ones and zeros}} on every set."
    return pd.DataFrame([[name, way, seed, 1, len(r), np.mean(r), 1., "", "".join(map(str, r))] for name in script.SETS for way, of in right.items() for seed, r in of.items()],
                        columns=script.COLUMNS)


# --- a run -----------------------------------------------------------------------------------------------------------

def test_each_training_is_one_row_and_is_not_made_twice(script, texts, tmp_path, monkeypatch, capsys):
    asked = []
    def answers(kind): return lambda train, x, seed, settings: asked.append((kind, tuple(train.text), tuple(x), seed, settings)) or ["good"] * len(x)
    monkeypatch.setattr(script, "answers_of_ours", answers("ours")); monkeypatch.setattr(script, "answers_of_theirs", answers("theirs"))
    monkeypatch.setattr(script, "N_TRAIN", 8); monkeypatch.setattr(script, "N_TEST", 6)
    out = tmp_path / "rows.csv"
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["measure", "--texts", str(texts), "--out", str(out), "--sets", "sst2", "--seeds", *seeds])
        script.main()
    rows = script.known(out)
    assert len(asked) == len(rows) == 2 * len(script.WAYS) and list(rows) == script.COLUMNS and not rows.duplicated(["set", "way", "seed"]).any()
    assert (rows.n_train == 8).all() and (rows.right.str.len() == rows.n_test).all() and (rows.right.map(lambda r: r.count("1") / 6).round(5) == rows.accuracy).all()
    by_seed = {seed: {(train, x) for _, train, x, s, _ in asked if s == seed} for seed in (0, 1)}
    assert [len(pairs) for pairs in by_seed.values()] == [1, 1], "all ways of one seed have the same texts"
    (one, test_one), (two, test_two) = (pairs.pop() for pairs in by_seed.values())
    assert one != two and test_one == test_two and not set(one) & set(test_one)
    alike = {tuple(settings[k] for k in ("epochs", "lr", "batch_size", "max_length")) for *_, settings in asked}
    assert len(alike) == 1 and [kind for kind, *_ in asked[:6]] == ["ours"] * 4 + ["theirs"] * 2


def test_both_begin_with_the_same_weights(script, tiny_base, monkeypatch):
    "The contestant opens the base with the head of the seed; ours begins with that very one."
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification
    from finetune_book.text.bases import load_text_base
    monkeypatch.setattr(script, "BASE", tiny_base)
    seen = {}
    class Trainer:
        def __init__(self, job): self.job = job
        def round(self): seen["model"] = AutoModelForSequenceClassification.from_pretrained(f"{self.job['work']}/{script.prepare.BASE}")
        def predict(self, texts): return [""] * len(texts)
    monkeypatch.setattr(script, "HFTrainer", Trainer)
    train = pd.DataFrame({"text": ["good", "bad"], "label": ["yes", "no"]})
    script.answers_of_theirs(train, ["good"], 3, dict(epochs=1))
    due, _ = load_text_base(tiny_base, 2, labels=["no", "yes"], seed=3)
    assert seen["model"].config.id2label == {0: "no", 1: "yes"}
    assert all(torch.equal(a, b) for a, b in zip(seen["model"].state_dict().values(), due.state_dict().values(), strict=True))


@pytest.mark.parametrize("way", ["HF Trainer", "HF Trainer, group_by_length, bf16", "ours, bfloat16, all shortcuts"])
def test_a_way_trains_and_answers(script, texts, tiny_base, tmp_path, monkeypatch, way):
    if way in script.THEIRS: pytest.importorskip("accelerate", reason="the Trainer does not run without accelerate: pip install finetune-book[bench]")
    monkeypatch.setattr(script, "BASE", tiny_base)
    script.measure_one(tmp_path / "rows.csv", texts, "sst2", way, 0)
    row = script.known(tmp_path / "rows.csv").iloc[0]
    assert (row.way, row.n_train, row.n_test) == (way, 20, 10) and set(row.right) <= {"0", "1"} and len(row.right) == 10


# --- the table -------------------------------------------------------------------------------------------------------

def drawn(share, seed, n=400): return (np.random.default_rng(seed).random(n) < share).astype(int)


@pytest.mark.parametrize("share, clear", [(.6, True), (.9, False), (.97, False)])
def test_below_is_said_where_it_is_so(script, share, clear):
    ways = {way: {seed: drawn(share if way == "ours, bfloat16" else .9, 100 * w + seed) for seed in range(5)} for w, way in enumerate(script.WAYS)}
    found = script.below(rows_of(script, ways))
    assert {a for _, a, _ in found} == ({"ours, bfloat16"} if clear else set())
    assert len(found) == (4 * len(script.THEIRS) if clear else 0), "three sets and all of them together"


def test_only_seeds_that_every_way_has_are_compared(script):
    ways = {way: {seed: drawn(.8, seed) for seed in range(3 if way == "HF Trainer" else 5)} for way in script.WAYS}
    found = script.results(rows_of(script, ways))
    assert list(found) == [*script.SETS, "all sets"] and all(list(of) == [0, 1, 2] for sets in found.values() for of in sets.values())
    assert len(found["all sets"]["HF Trainer"][0]) == 3 * 400
    shown = script.table(rows_of(script, ways))
    assert list(shown.index) == list(script.WAYS) and list(shown) == list(found) and (shown != "").all(axis=None)


def test_one_set_or_one_seed_is_no_accident(script):
    ways = {way: {0: drawn(.8, 1)} for way in script.WAYS}
    rows = rows_of(script, ways)
    assert list(script.results(rows[rows["set"] == "sst2"])) == ["sst2"] and (script.table(rows) == "").all(axis=None)
    assert all("by one training of each" in str(found) for *_, found in script.compared(rows))
    assert script.compared(rows[:0]) == [] and script.below(rows[:0]) == []


def test_what_is_stored_is_whole(script):
    stored = script.known(script.PLACE)
    assert (stored.right.str.len() == stored.n_test).all() and stored.right.str.fullmatch("[01]+").all() and not stored.duplicated(["set", "way", "seed"]).any()
    assert np.allclose(stored.right.map(lambda r: r.count("1") / len(r)), stored.accuracy, atol=1e-5)
    due = [(name, way) for ways, sets in ((script.WAYS, script.SETS), (script.WAYS_BESIDE, script.BESIDE)) for name in sets for way in ways]
    assert set(zip(stored["set"], stored.way)) == set(due) and len(stored) == len(due) * len(script.SEEDS)
    for (name, way), some in stored.groupby(["set", "way"]):
        settings = script.SAME | (script.SETS | script.BESIDE)[name] | (script.OURS | script.THEIRS)[way]
        assert {frozenset(one.split()) for one in some.settings} == {frozenset(script.told(settings).split())}, (name, way)


def test_no_way_of_ours_is_below_the_trainer(script):
    assert script.below(script.known(script.PLACE)) == []
