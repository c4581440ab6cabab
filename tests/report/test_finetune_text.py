"""The text report end to end: what it audits, how it judges, where its warning stands; on texts and a base small enough for seconds."""
import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from finetune_book.cli import main
from finetune_book.report.params import parameters_of

pytestmark = pytest.mark.usefixtures("warm_kernels")
WORDS = {"good": "fine warm clever lovely bright kind".split(), "bad": "dull cold weak sour dark harsh".split()}
COMMON = "film room story hotel plot food scene bed actor night view".split()


def table(n=60, seed=0, wrong=0):
    "n texts of two classes, by word; `wrong` of the labels changed."
    rng = np.random.default_rng(seed)
    labels = np.array(list(WORDS) * (n // 2))
    texts = [f"the {rng.choice(COMMON)} was {rng.choice(WORDS[y])} and {rng.choice(WORDS[y])} but the {rng.choice(COMMON)} {rng.choice(COMMON)} number {rng.integers(10**6)}" for y in labels]
    bad = rng.permutation(n)[:wrong]
    labels[bad] = np.where(labels[bad] == "good", "bad", "good")
    return pd.DataFrame({"text": texts, "label": labels})


def save(folder, **parts):
    "Each part as a CSV in a folder; its path."
    folder.mkdir(parents=True)
    for name, part in parts.items(): part.to_csv(folder / f"{name}.csv", index=False)
    return folder


def report(tmp_path, base, data, out="out", **more):
    "Run the report through the command; its exit code, its page and its record."
    values = dict(base=base, data=data, epochs=1, max_length=24, batch_size=8) | more
    pairs = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    code = main(["report", "finetune_text", "-q", *pairs, "--out", str(tmp_path / out)])
    page, kept = tmp_path / out / "finetune_text.html", tmp_path / out / "finetune_text.json"
    return code, page.read_text() if page.exists() else "", json.loads(kept.read_text()) if kept.exists() else {}


@pytest.fixture(scope="module")
def leaky(tmp_path_factory, tiny_base):
    "Two trainings on a table with a leak that is allowed, wrong labels, a foreign and a very long row."
    tmp = tmp_path_factory.mktemp("leaky")
    train, test = table(60, wrong=4), table(30, seed=1)
    train.loc[0, "text"], train.loc[1, "text"] = "房间很干净，早餐也好，服务员很热情", "<b>long</b> $5 and $6 " * 400
    test.loc[3] = train.loc[20]
    data = save(tmp / "set", train=train, validation=table(20, seed=2), test=test)
    return report(tmp, tiny_base, data, repeats=2, allow_leakage="true")


def words_of(page): return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_leakage_that_was_allowed_is_the_first_thing_below_the_title(leaky):
    code, page, run = leaky
    assert code == 0 and run["metrics"]["leaks"] == 1
    top, warned, facts = page.index("what each rung is worth"), page.index("Its test numbers are too good"), page.index("What came in, by split")
    assert top < warned < facts and 'role="alert"' in page and page.count("<h2", 0, warned) == 0


def test_the_answer_stands_first_and_in_the_record(leaky):
    _, page, run = leaky
    answer, ladder = run["metrics"]["answer"], run["metrics"]["ladder"]
    assert answer["score"]["value"] == ladder["fine-tuned"]["accuracy"] and list(answer["others"]) == list(ladder)[:-1]
    assert list(answer["wary"])[0] == "leaks" and {"few test rows", "2 trainings"} <= set(answer["wary"]) and "one training" not in answer["wary"]
    card, first = page.index("class=\"answer"), page.index("<h2")
    assert card < page.index("Bars of accuracy by rung") < first and html.escape(answer["verdict"], quote=False) in page[card:first]
    assert "20 to validate, 30 to test" in page[card:first] and "Training took about" in page[card:first]


def test_no_heading_stands_alone_and_what_was_not_found_takes_a_line(leaky):
    page = leaky[1]
    headings = [re.sub("<[^>]+>", "", h).strip() for h in re.findall(r"<h2.*?</h2>", page, re.S)]
    assert headings == ["How it was made", "The ladder", "Before and after", "Can it be believed?", "Where it is right, and where not",
                        "Its worst mistakes", "The data", "Data audit", "This run"]
    assert page.count("Looked for and not found:") == 1 and "class balance" in words_of(page).split("Looked for and not found:")[1][:200]
    assert "One training, or several" not in page


def test_the_audit_counts_what_was_planted(leaky):
    audit = leaky[2]["metrics"]["audit"]
    assert audit["leaks"] == pytest.approx(1 / 50) and audit["language mix"] == pytest.approx(1 / 60) and audit["length outliers"] >= 1 / 60
    assert audit["texts of more than 24 tokens, which are cut"] > 0 and audit["class balance"] == 0
    assert {"labels in doubt", "copies with different labels", "copies of an earlier row in training", "unknown tokens"} <= set(audit)
    assert "<b>long</b>" not in leaky[1]


def test_two_trainings_give_two_intervals_with_names(leaky):
    rows = leaky[2]["metrics"]["intervals"]
    assert list(rows) == [f"{what}, over {over}" for what in ("frozen body", "fine-tuned", "fine-tuned minus frozen body") for over in ("test rows", "seeds")]
    assert all(r["n"] == (2 if name.endswith("seeds") else 30) for name, r in rows.items())
    ladder = leaky[2]["metrics"]["ladder"]
    assert rows["fine-tuned, over test rows"]["value"] == ladder["fine-tuned"]["accuracy"] and rows["frozen body, over test rows"]["low"] == ladder["frozen body"]["low"]
    assert "95% interval over 2 seeds" in words_of(leaky[1]) and "95% interval over 30 test rows" in words_of(leaky[1])


def test_confidence_is_judged_before_and_after_the_temperature(leaky):
    got = leaky[2]["metrics"]["calibration"]
    assert got["T"] > 0 and list(got["table"]) == ["as trained", "after temperature"] and got["table"]["as trained"]["accuracy"] == got["table"]["after temperature"]["accuracy"]
    assert 0 < got["table"]["as trained"]["ece_if_perfect"] < 1 and got["sentences"][1].startswith("Log-loss (lower is better), after temperature minus as trained is")
    assert list(leaky[2]["metrics"]["abstention"]["accuracy"]) == ["100%", "95%", "90%", "80%", "50%"] and "surest rows adds" in words_of(leaky[1])


def test_every_step_has_both_tests_and_a_verdict(leaky):
    steps = leaky[2]["metrics"]["steps"]
    assert len(steps) == 4 and list(steps)[-1] == "TF-IDF + logistic regression → fine-tuned"
    for step in steps.values():
        assert 0 < step["mcnemar_p"] <= 1 and 0 < step["p_value"] <= 1 and "exact McNemar p" in step["sentence"]
        assert "no clear difference" in step["sentence"] or "clearly" in step["sentence"]
        assert step["sentence"] in words_of(leaky[1])


def test_every_figure_says_in_words_what_it_shows(leaky):
    alts = re.findall(r'<img[^>]*\balt="([^"]*)"', leaky[1])
    assert len(alts) == leaky[1].count("data:image/png") >= 6 and all(len(a) > 40 for a in alts)
    assert any(a.startswith("As trained. Accuracy by bins") for a in alts) and any(a.startswith("Accuracy against the share of rows answered") for a in alts)


def test_one_training_many_classes_and_patients(tmp_path, tiny_base):
    "33 classes of four notes: the page shows the weakest and the largest confusions; with groups there is no McNemar."
    rng = np.random.default_rng(0)
    rows = [(f"case of kind{k} and kind{k}x seen {rng.integers(10**6)} times in the {rng.choice(COMMON)}", f"kind{k}", f"p{k}-{i}") for k in range(33) for i in range(6)]
    pd.DataFrame(rows, columns=["text", "label", "patient"]).to_csv(tmp_path / "kinds.csv", index=False)
    code, page, run = report(tmp_path, tiny_base, tmp_path / "kinds.csv", group="patient")
    text, m = words_of(page), run["metrics"]
    assert code == 0 and len(m["per_class"]) == 33 and "the 20 weakest of 33 classes" in text and "Classes most often taken for another" in text and "Confusion matrix, 33 by 33" not in page
    assert "mcnemar_p" not in m["steps"]["majority → TF-IDF + logistic regression"] and "McNemar p" not in text
    assert list(m["intervals"])[0] == "frozen body, over test rows" and len(m["intervals"]) == 3 and "no interval over seeds" in text and "allow_leakage=true" not in text.split("Parameters of this run")[0]


def test_the_defaults_are_honest():
    declared = {p.name: p for p in parameters_of("finetune_text")}
    assert declared["repeats"].default == 1 and declared["repeats"].high == 20 and declared["allow_leakage"].default is False
