"""The audit: each finding counts what it says, on tables made for it, and stays quiet on clean ones."""
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from finetune_book.data.audit import (Finding, audit_table, balance_finding, copy_findings, effective_classes, far_out, find_suspects, label_suspects,
                                 leak_finding, leak_notice, length_finding, out_of_fold, picture_findings, script_counts, script_finding, script_of, spelling_finding, suspect_finding,
                                 text_findings, token_findings)
from finetune_book.checks import InputError
from finetune_book.figures import table_html
from finetune_book.judge.ladder import pixels_floor, tfidf_floor
from finetune_book.data.splits import duplicate_groups, find_leaks


# --- one line a finding ---------------------------------------------------------------------------------------------

def test_a_finding_without_rows_asks_for_nothing_and_shows_no_example():
    row = audit_table([Finding("x", 0, 10, "secret", "do it")]).iloc[0]
    assert row["worst example"] == "" and row["what to do"] == "nothing" and row["share"] == "0.0%" and Finding("x", 0, 0).share == 0


@pytest.mark.parametrize("rows, of", [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(rows, of):
    with pytest.raises(ValueError, match=f"{rows} of {of}"): audit_table([Finding("x", rows, of)])


def test_what_a_row_holds_is_shortened_and_escaped_in_the_page():
    worst = audit_table([Finding("x", 1, 1, "<script>alert(1)</script>$5\n" + "y" * 900, "read")])
    page = table_html(worst)
    assert "<script>" not in page and "&lt;script&gt;" in page and len(worst["worst example"][0].replace("\u200b", "")) <= 110 and "y" * 25 not in page


# --- balance, lengths, scripts, tokens ------------------------------------------------------------------------------

@pytest.mark.parametrize("c", [1, 2, 7, 77])
def test_equal_classes_count_in_full(c): assert effective_classes(list(range(c)) * 3) == pytest.approx(c)


def test_balance_counts_rows_of_classes_under_a_tenth():
    labels = ["a"] * 100 + ["b"] * 10 + ["c"] * 9 + ["d"]
    assert balance_finding(labels).rows == 10 and balance_finding(labels).of == 120 and "d: 1 rows" in balance_finding(labels).worst


@pytest.mark.parametrize("factor", [1, 7, 1000])
def test_the_fence_does_not_depend_on_the_unit(factor):
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(6, 1, 500)); lengths[:3] = 1e9
    far, low, high = far_out(lengths)
    again, low2, high2 = far_out(lengths * factor)
    assert np.array_equal(far, again) and far[:3].all() and low2 == pytest.approx(low * factor) and high2 == pytest.approx(high * factor)


def test_a_short_row_among_long_ones_is_far_too_and_zero_length_is_no_error():
    found = length_finding([0] + [500 + i for i in range(40)], ["empty"] + ["x"] * 40)
    assert found.rows == 1 and found.worst == "0 characters: empty" and not far_out([80] * 30)[0].any()


SAMPLES = {"Latin": "naïve café Ħ", "Cyrillic": "Привет", "Greek": "καλημέρα", "Arabic": "مرحبا", "Hebrew": "שלום", "Devanagari": "नमस्ते", "Thai": "สวัสดี",
           "Hangul": "안녕", "Han": "酒店々", "Kana": "ひらカタカナー", "emoji": "😀👍❤🚀"}


@pytest.mark.parametrize("script", SAMPLES)
def test_scripts(script): assert {script_of(ch) for ch in SAMPLES[script]} - {None} == {script}


def test_digits_marks_and_symbols_belong_to_no_script(): assert {script_of(ch) for ch in "12 ,.!…$€²\u200d\ufe0f"} == {None}


def test_the_language_mix_counts_letters_and_foreign_rows():
    texts = ["酒店 OK"] * 6 + ["only English here", "😀😀😀", "2026"]
    counts = script_counts(texts)
    assert counts["Han"].tolist() == [2] * 6 + [0] * 3 and counts["emoji"].sum() == 3
    found = script_finding(["很好的酒店"] * 6 + texts[6:])
    assert found.rows == 2 and found.worst == "only English here" and found.finding.startswith("language mix: Han")
    assert script_finding([]).of == 0


def test_unknown_tokens_and_cuts():
    rows = [[101, 7, 100, 102], [101, 7, 8, 9, 7, 8, 102], [101, 7, 8, 9, 100, 7, 8, 102]]
    lost, cut = token_findings(rows, ["half", "none", "a sixth"], 100, [100, 101, 102, 0], 7)
    assert lost.rows == 1 and lost.worst.endswith("half") and "15.4%" in lost.finding and cut.rows == 1 and cut.worst == "8 tokens: a sixth"


# --- copies and wrong labels ----------------------------------------------------------------------------------------

def test_copies_that_agree_and_copies_that_do_not():
    double, torn = copy_findings([0, 0, 1, 2, 2, 2, 3], list("aabxyxz"), list("0123456"))
    assert double.rows == 3 and double.worst == "3 times: 3" and torn.rows == 3 and torn.worst == "x / y: 3"


def planted(n=240, wrong=12, seed=0):
    "Texts of three topics with some shared words; `wrong` labels changed. Texts, labels, which are wrong."
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    texts = [" ".join([f"topic{k}word{w}" for w in rng.integers(12, size=5)] + [f"common{w}" for w in rng.integers(30, size=6)]) for k in y]
    bad = np.isin(np.arange(n), rng.permutation(n)[:wrong])
    return texts, np.where(bad, (y + 1) % 3, y).astype(str), bad


@pytest.mark.parametrize("seed", range(3))
def test_planted_labels_come_first(seed):
    texts, y, bad = planted(seed=seed)
    found, judged, agrees = find_suspects(tfidf_floor, texts, y)
    assert judged == len(y) and agrees > .8 and bad[found.row[:12]].mean() > .8 and (found.own.diff().dropna() >= 0).all() and (found.label.to_numpy() == y[found.row]).all()
    assert (found.likely != found.label).all()


def test_a_weak_judge_tells_nothing():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(50, size=8)) for _ in range(120)]
    y = rng.choice(list("abc"), 120)
    found = find_suspects(tfidf_floor, texts, y)
    told = suspect_finding(found, texts)
    assert found.agrees < .5 and not found.trusted and told[1:3] == (0, 0) and f"agrees with only {found.agrees:.0%}" in told.finding and len(found.table)
    assert "too small to judge" in suspect_finding(find_suspects(tfidf_floor, texts[:4], list("abab")), texts).finding


def test_clean_labels_raise_few_doubts():
    texts, y, _ = planted(wrong=0)
    assert len(find_suspects(tfidf_floor, texts, y).table) <= .05 * len(y)


def test_pictures_are_judged_by_the_same_function():
    rng = np.random.default_rng(0)
    y = np.repeat(["dark", "light"], 40)
    pictures = [rng.integers(0, 100, (8, 8, 3)).astype(np.uint8) + (k == "light") * np.uint8(100) for k in y]
    y[3], y[50] = "light", "dark"
    found = find_suspects(pixels_floor, pictures, y).table
    assert set(found.row[:2]) == {3, 50}


def test_a_row_is_never_judged_by_a_model_that_saw_it_or_its_copy():
    seen = []
    class Spy:
        classes_ = np.array(["a", "b"])
        def __init__(self, X): self.X = set(X)
        def predict_proba(self, X): seen.append((self.X, set(X))); return np.full((len(X), 2), .5)
    X = [f"row {i // 2}" for i in range(40)]
    out_of_fold(lambda X, y: Spy(X), X, ["a", "a", "b", "b"] * 10, groups=[i // 2 for i in range(40)])
    assert len(seen) == 5 and all(not known & asked for known, asked in seen) and sum(len(asked) for _, asked in seen) == 20


def test_the_same_seed_gives_the_same_suspects():
    texts, y, _ = planted()
    one, two, other = (find_suspects(tfidf_floor, texts, y, most=150, seed=s).table for s in (0, 0, 1))
    assert one.equals(two) and not one.equals(other)


def test_small_classes_are_left_out_and_groups_that_cannot_be_cut_do_not_stop_it():
    texts, y, _ = planted()
    y = y.astype(object); y[:4] = "rare"
    found, judged, _ = find_suspects(tfidf_floor, texts, y)
    assert judged == len(y) - 4 and "rare" not in set(found.label)
    assert find_suspects(tfidf_floor, texts, y, groups=y).judged == judged
    assert find_suspects(tfidf_floor, texts[:8], list("aaaabbbb")).judged == 0


@pytest.mark.parametrize("y, proba, classes, says", [
    (["a"], [[.5, .5]], ["b", "c"], "'a' is not among"), (["a"], [[.5, .5]], ["a", "b"], "'b' has no row"), (["a"], [[1.]], ["a", "b"], "shape")])
def test_what_suspects_cannot_be_found_in(y, proba, classes, says):
    with pytest.raises(ValueError, match=says): label_suspects(y, proba, classes)


def test_one_fold_is_none():
    with pytest.raises(InputError, match="folds=1"): out_of_fold(tfidf_floor, ["x"], ["a"], folds=1)


# --- leaks, and all together ----------------------------------------------------------------------------------------

def leaky():
    "Two splits: one test row repeats, another belongs to a training group. A third is clean."
    return {"train": pd.DataFrame({"text": ["a long enough text with <i>markup</i> and $5", "something else"], "group": ["p", "q"]}),
            "test": pd.DataFrame({"text": ["a long enough text with <i>markup</i> and $5", "quite new", "also new"], "group": ["r", "q", "s"]})}


def test_the_notice_counts_rows_once_and_quotes_inertly():
    parts = leaky()
    found = leak_finding(find_leaks(parts), parts, lambda x: x.text_b)
    assert found.rows == 2 and found.of == 3 and "1 duplicate" in found.finding and "1 group" in found.finding
    notice = leak_notice(found, True)
    assert "2 of 3" in notice and "too good" in notice and "<i>" not in notice and "$5" not in notice
    assert leak_notice(found, False) == "" and "no row repeats" in leak_notice(found._replace(rows=0), True)


def test_all_findings_of_a_table():
    parts = leaky()
    texts, y, _ = planted(n=60, wrong=0)
    leak = leak_finding(find_leaks(parts), parts, lambda x: x.text_b)
    every = text_findings(texts, y, leak, duplicate_groups(texts), suspect_finding(find_suspects(tfidf_floor, texts, y), texts), tokens=[Finding("t", 0, 60)])
    table = audit_table(every)
    assert len(table) == len({f.name for f in every}) == 10 and every[0] is leak and list(table) == ["finding", "rows", "share", "worst example", "what to do"]
    shapes = picture_findings([f"{i}.png" for i in range(9)], list("aaaabbbbb"), [[64, 64]] * 8 + [[640, 8]], leak, range(9), Finding("labels in doubt: none", 0, 0))
    assert shapes[-1].rows == 1 and shapes[-1].worst.endswith("8.png") and len(audit_table(shapes)) == 8


@pytest.mark.parametrize("labels, rows", [(["Pos", "pos", "pos"], 1), (["1", "1.0", "01", "2"], 2), (["caf\u00e9", "cafe\u0301"], 1), ([" pos", "pos"], 1),
                                          (["1e3", "1000"], 1), (["pos", "neg", "10", "1", "nan", "inf", "v1"], 0)])
def test_one_class_under_two_spellings(labels, rows):
    found = spelling_finding(labels)
    assert found.rows == rows and found.of == len(labels) and (not rows or repr(labels[0]) in found.worst)


@pytest.mark.parametrize("texts", [["\U0001f44d", "\U0001f44e"] * 8, ["!!!", "...", "?!"] * 8, ["12:30", "7"] * 8, ["\U0001f44d ok", "..."] * 8])
def test_texts_without_a_word_are_found_and_stop_nothing(texts):
    texts = [t * (1 + i // 2) for i, t in enumerate(texts)]
    labels = np.array(["a", "b"] * (len(texts) // 2))
    leak, copies = Finding("leaks", 0, 0), duplicate_groups(texts)
    doubt = suspect_finding(find_suspects(tfidf_floor, texts, labels, folds=3), texts)
    found = {f.name: f for f in text_findings(texts, labels, leak, copies, doubt)}["texts without a word"]
    assert found.rows == sum(not any(c.isalpha() for c in t) for t in texts) > 0
    assert len(audit_table(text_findings(texts, labels, leak, copies, doubt))) == 9
    assert set(tfidf_floor(texts, labels).predict(texts)) <= {"a", "b"}


def test_the_audit_is_arrays_and_tables():
    code = "import sys, finetune_book.data.audit; print([m for m in ('torch', 'transformers', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
