"""What the carried bases are worth: the script that measures, the stored table, and the report that reads it."""
import json
import os
import re
from pathlib import Path

import cells
import numpy as np
import pandas as pd
import pytest
from tiny import save_tiny_base

from finetune_book.cli import main
from finetune_book.checks import InputError
from finetune_book.data.tables import carried
from finetune_book.report.gallery import publish_gallery
from finetune_book.report.params import parameters_of

REPO = Path(__file__).parents[2]
HEADER = "modality,set,base,method,labels_per_class,seed,metric,value,n_test,seconds,base_sha"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("measure_bases")


# --- the script ----------------------------------------------------------------------------------------------------

def write_set(folder, n=24):
    "A set of two classes that words tell apart; n training rows, half of it to test."
    folder.mkdir(parents=True)
    for part, rows, shift in (("train", n, 0), ("test", n // 2, 3)):
        words = {"bad": "loud pain room", "good": "clean right room"}
        texts = [(f"{words[label]} f{(i + shift) % 10}", label) for i in range(rows) for label in [("bad", "good")[i % 2]]]
        pd.DataFrame(texts, columns=["text", "label"]).to_csv(folder / f"{part}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def measured(script, tmp_path_factory):
    "(folder of results, base, set, arguments) of one small run of the script."
    tmp = tmp_path_factory.mktemp("measured")
    base, words = save_tiny_base(tmp / "tiny", positions=128), write_set(tmp / "sets" / "words")
    told = ["--data", words.parent, "--only", "words", "--base", f"tiny={base}", "--bases", "tiny", "--labels", "2", "all", "--seeds", "0", "1",
            "--out", tmp / "out" / "results_text.csv", "--work", tmp / "work"]
    told = [str(t) for t in told]
    script.EPOCHS, kept = (1, 1), script.EPOCHS
    script.main(told)
    script.EPOCHS = kept
    return tmp / "out", base, words, told


def test_a_row_for_every_training(measured):
    table = pd.read_csv(measured[0] / "results_text.csv", dtype={"labels_per_class": str})
    assert ",".join(table.columns) == HEADER and not table.duplicated(list(table.columns[:7])).any()
    counts = table.groupby(["base", "method", "labels_per_class"]).size().to_dict()
    assert counts == {("none", "TF-IDF + LR", "2"): 2, ("none", "TF-IDF + LR", "all"): 1, ("tiny", "probe", "2"): 2, ("tiny", "probe", "all"): 1,
                      ("tiny", "fine-tuned", "2"): 2}, "all rows are fine-tuned where ALL_TUNED says so"
    assert table.value.between(0, 1).all() and (table.n_test == 12).all() and table.value[table.method == "TF-IDF + LR"].max() == 1
    assert table.base_sha[table.base == "tiny"].str.fullmatch("[0-9a-f]{12}").all() and table.base_sha[table.base == "none"].isna().all()


def test_a_killed_run_goes_on(script, measured, capsys):
    "Nothing is measured twice; a line cut off by a kill is measured again, to the same value."
    path, told = measured[0] / "results_text.csv", measured[3]
    whole = path.read_text()
    script.main([*told, "--methods", "TF-IDF + LR", "probe"])
    assert path.read_text() == whole and capsys.readouterr().out == ""
    lines = whole.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if ",probe," in line)
    path.write_text("".join(lines[:at] + lines[at + 1:] + [lines[at][:30]]))
    script.main([*told, "--methods", "TF-IDF + LR", "probe"])
    without_seconds = lambda text: {re.sub(r",[\d.]+,(\w*)$", r",\1", line) for line in text.splitlines()}
    assert without_seconds(path.read_text()) == without_seconds(whole)


def test_two_versions_of_a_base_do_not_mix(script, measured, tmp_path):
    "Rows of other weights are refused in one line that tells the ways out; --replace drops them."
    path = tmp_path / "results_text.csv"
    path.write_text((measured[0] / "results_text.csv").read_text())
    other = save_tiny_base(tmp_path / "other", layers=1, positions=128)
    told = [*measured[3], "--base", f"tiny={other}", "--out", str(path), "--methods", "probe", "--labels", "2"]
    with pytest.raises(SystemExit) as caught: script.main(told)
    assert all(word in str(caught.value) for word in ("tiny", "--replace", "--out")) and "\n" not in str(caught.value)
    script.main([*told, "--replace"])
    table = pd.read_csv(path)
    assert table[table.base == "tiny"].base_sha.nunique() == 1 and set(table.method[table.base == "tiny"]) == {"probe"} and "none" in set(table.base)


def test_what_the_script_refuses(script, measured, tmp_path):
    (tmp_path / "results_text.csv").write_text("a,b\n1,2\n")
    for more, says in ((["--out", str(tmp_path / "results_text.csv")], "columns"), (["--only", "word"], "Did you mean 'words'"), (["--base", "tiny=/no/such"], "no such folder")):
        with pytest.raises(SystemExit) as caught: script.main([*measured[3], *more])
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_settings_are_chosen_on_training_rows(script, measured, tmp_path):
    script.main([*measured[3], "--choose", "--methods", "probe", "--labels", "2", "--out", str(tmp_path / "results_text.csv")])
    table = pd.read_csv(tmp_path / "choices_text.csv")
    assert set(table.metric) == {"held-out accuracy"} and set(table.seed) == {100, 101} and (table.n_test == 12).all() and table.method.nunique() == 5
    rest, held = script.held_out(24)
    assert len(held) == 12 and not set(rest) & set(held) and len({*rest, *held}) == 24


def test_draws(script):
    labels = np.array(["a"] * 3 + ["b"] * 9)
    rows = script.drawn(labels, "4", seed=0)
    assert list(labels[rows]) == ["a"] * 3 + ["b"] * 4 and (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, script.drawn(labels, "4", seed=1)) and len(script.drawn(labels, "all", seed=0)) == 12
    assert len(script.drawn(labels, "20", seed=0)) == 12


def test_the_mean_is_over_the_text_alone(script, measured):
    "Padding leaves no trace, and the mean is that of the body's states."
    import torch
    from finetune_book.text.bases import load_text_base
    texts = ["bad room", "good clean room with right head"]
    both, one = script.mean_features(measured[1], texts), script.mean_features(measured[1], texts[:1])
    assert both.dtype == np.float16 and np.abs(both[0].astype(float) - one[0]).max() < 2e-3
    model, tokenizer = load_text_base(measured[1], 2)
    with torch.inference_mode(): state = model.base_model(**tokenizer(texts[:1], return_tensors="pt")).last_hidden_state[0].mean(0)
    assert np.abs(one[0].astype(float) - state.numpy()).max() < 2e-3


# --- the stored table ----------------------------------------------------------------------------------------------

def stored(): return [pd.read_csv(p, dtype={"labels_per_class": str}, keep_default_na=False) for p in sorted(carried("base_models").glob("results_*.csv"))]


def test_the_stored_results_are_whole():
    for table in stored():
        assert list(table.columns) == HEADER.split(",")[:len(table.columns)] and len(table.columns) >= 10
        assert not table.duplicated(list(table.columns[:7])).any()
        assert table.value.between(0, 1).all() and table.seed.between(0, 4).all() and (table.n_test > 0).all()
        assert table.labels_per_class.str.fullmatch(r"all|[1-9]\d*").all()
        floors = table[(table.base == "none") & (table.modality == "text")].groupby(["set", "labels_per_class"]).seed.nunique()
        assert (floors[[k for k in floors.index if k[1] != "all"]] == 5).all(), "five seeds of every floor"


def test_the_stored_results_are_of_the_carried_base(script):
    table = next(t for t in stored() if "book-bert" in set(t.base))
    assert set(table.base_sha[table.base == "book-bert"]) == {script.sha_of("book-bert")}, "measure it again: python scripts/measure/measure_bases.py --replace"


@pytest.mark.skipif("FINETUNE_BOOK_REAL_DATA" not in os.environ, reason="FINETUNE_BOOK_REAL_DATA is not set: no real data to measure on")
def test_a_stored_floor_comes_out_again(script):
    "TF-IDF on uci_sentences: the stored value at 16 labels a class, and the data's own published one on all rows."
    train, test = script.read_sets(Path(os.environ["FINETUNE_BOOK_REAL_DATA"]) / "text", ["uci_sentences"])["uci_sentences"]
    def floor(k):
        rows = script.drawn(train.label, k, 0)
        return np.mean(script.learn(script.FLOOR, None, train.text.to_numpy(object)[rows], train.label.to_numpy(str)[rows], test.text, 0) == test.label)
    table = next(t for t in stored() if "uci_sentences" in set(t.set))
    kept = table[(table.set == "uci_sentences") & (table.base == "none") & (table.seed == 0)].set_index("labels_per_class").value
    assert abs(floor("16") - kept["16"]) < 1e-5 and abs(floor("all") - kept["all"]) < 1e-5 and round(kept["all"], 3) == .849


# --- the report ----------------------------------------------------------------------------------------------------

def run_cells(results, **values):
    "The report's cells in this process, without a kernel and without the live probe; its names at the end."
    return cells.run_cells("base_models", results=str(results), **{"live_seeds": 0, **values})


def write_results(folder, rows, goals=""):
    "A results folder; rows of (modality, set, base, method, labels, values by seed)."
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, [*row[:5], seed, "accuracy", value, 100, 1.0, ""])) for row in rows for seed, value in enumerate(row[5])]
    (folder / "results_x.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    if goals: (folder / "goals.csv").write_text("modality,set,labels_per_class,base,methods,at_least,above_floor\n" + goals)
    return folder


TEXT = [("text", "a", "none", "TF-IDF + LR", 16, (.50, .52, .54)), ("text", "a", "book-bert", "probe", 16, (.60, .62, .64)),
        ("text", "a", "book-bert", "fine-tuned", 16, (.50, .55, .54)), ("text", "a", "random-bert", "fine-tuned", 16, (.40, .40, .43)),
        ("text", "a", "none", "TF-IDF + LR", "all", (.8,)), ("text", "a", "book-bert", "fine-tuned", "all", (.82, .86, .84))]


def test_the_aims_are_judged_right(tmp_path):
    goals = "".join(f"text,a,{g}\n" for g in ("16,book-bert,probe or fine-tuned,0.62,", "16,book-bert,probe,,0.11", "16,book-bert,probe,,0.10", "all,book-bert,fine-tuned,0.845,",
                                               "64,book-bert,probe,0.5,"))
    aims = run_cells(write_results(tmp_path / "r", TEXT, goals))["aims"]
    assert list(aims.reached) == ["yes", "no", "no", "yes", "no", "not measured"] and list(aims.goal) == [1, 1, 2, 3, 4, 5]
    assert aims["mean"][0] == pytest.approx(.62) and aims.must_reach[2] == pytest.approx(.63) and aims.floor[0] == pytest.approx(.52)
    assert list(aims.interval_above[:2]) == ["no", "no"]          # Student: 0.62 -+ 4.30 * 0.02 / sqrt(3)
    assert aims.low[0] == pytest.approx(.62 - 4.3027 * .02 / 3 ** .5, abs=1e-4)


def test_gains_are_paired_with_the_highest_floor(tmp_path):
    space = run_cells(write_results(tmp_path / "r", TEXT))
    table = space["table"].set_index(["labels", "method"])
    assert table.floor["16", "probe"] == "TF-IDF + LR 0.520" and table.gain["16", "probe"] == pytest.approx(.1)
    assert table.verdict["16", "probe"] == "the same in every seed: more seeds tell nothing" and table.verdict["16", "fine-tuned"] == "no clear difference"
    assert table.gain["all", "fine-tuned"] == pytest.approx(.04) and table.gain_low["all", "fine-tuned"] < 0, "a floor on all rows stands for every seed"
    assert len(space["aims"]) == 0 and space["told"]["metrics"]["means"]["text · a · all · none · TF-IDF + LR"]["low"] is None


def test_pictures_must_beat_both_on_two_sets(tmp_path):
    rows = []
    for name, gain in (("s", .1), ("t", .1), ("u", 0)):
        rows += [("image", name, base, method, k, [b + x for x in (0, .01, .02)]) for k in (5, 20)
                 for base, method, b in (("none", "pixels + SVC", .5), ("scratch", "fine-tuned", .5), ("book-resnet", "fine-tuned", .5 + gain), ("book-resnet", "frozen", .4))]
    pictures = run_cells(write_results(tmp_path / "r", rows))["pictures"]
    assert len(pictures) == 12 and set(pictures.set[pictures.beats_both == "yes"]) == {"s", "t"} and set(pictures.method[pictures.beats_both == "yes"]) == {"fine-tuned"}


def test_the_answer_comes_first_and_says_when_nothing_is_clear(tmp_path):
    "Over several sets Student's interval over them decides, of one set the seeds of its fewest labels; no base, no answer."
    rows = [("text", name, "none", "TF-IDF + LR", 16, (.5, .5)) for name in "abc"]
    one = [("text", name, "book-bert", "probe", 16, (.5 + gain, .52 + gain)) for name, gain in zip("abc", (.10, .11, .12))]
    other = [("text", name, "book-bert", "fine-tuned", 16, (.5 + gain, .52 + gain)) for name, gain in zip("abc", (-.2, .1, .1))]
    answer = run_cells(write_results(tmp_path / "r", [*rows, *one, *other]))["told"]["metrics"]["answer"]
    half = 4.3027 * .01 / 3 ** .5
    assert answer["score"] == pytest.approx(dict(value=.12, low=.12 - half, high=.12 + half, n=3), abs=1e-4) and answer["stands"] == "better" and answer["unit"] == "sets"
    assert answer["model"] == "book-bert, probe" and list(answer["others"]) == ["book-bert, fine-tuned"] and "book-bert (probe) clearly gains: +0.120" in answer["verdict"]
    assert set(answer["wary"]) == {"chosen afterwards", "few sets", "clearly below the floor"} and answer["wary"]["clearly below the floor"].startswith("book-bert, fine-tuned at 1 ") and "the best of 2 methods" in answer["wary"]["chosen afterwards"]
    space = run_cells(write_results(tmp_path / "o", [*rows, *other]))
    answer = space["told"]["metrics"]["answer"]
    assert answer["stands"] == "no clear difference" and "shows no clear difference" in answer["verdict"] and "few sets" in answer["wary"]
    answer = run_cells(write_results(tmp_path / "s", TEXT))["told"]["metrics"]["answer"]
    assert answer["unit"] == "seeds of a with 16 labels per class" and answer["score"]["n"] == 3 and answer["score"]["value"] == pytest.approx(.1)
    assert "answer" not in run_cells(write_results(tmp_path / "n", rows))["told"]["metrics"]


GOOD = "text,a,none,TF-IDF + LR,16,0,accuracy,0.5,100,1.0,"


@pytest.mark.parametrize("content, says", [
    (HEADER.replace("value", "valeu") + "\n" + GOOD, "no column 'value'"), (HEADER + "\n" + GOOD.replace("0.5", "half"), "value is no finite number in row 1"),
    (HEADER + "\n" + GOOD + "\n" + GOOD.replace("0.5", "nan").replace(",0,", ",1,"), "value is no finite number in row 2"),
    (HEADER + "\n" + GOOD.replace("16", "few"), "labels_per_class is no count"), (HEADER + "\n" + GOOD.replace("16", "0"), "labels_per_class is no count"),
    (HEADER + "\n" + GOOD.replace(",0,", ",x,"), "seed is no whole number"), (HEADER + "\n" + GOOD + "\n" + GOOD, "measured twice in row 2"), ("", "is empty"),
    (HEADER + "\n" + GOOD.replace("100", "-1"), "n_test is no count")])
def test_a_broken_table_is_one_line(tmp_path, content, says):
    (tmp_path / "results_x.csv").write_text(content)
    with pytest.raises(InputError) as caught: run_cells(tmp_path)
    assert says in str(caught.value) and "results_x.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_bases_can_be_chosen(tmp_path):
    folder = write_results(tmp_path / "r", [*TEXT, ("text", "a", "mine", "probe", 16, (.9, .9, .9))])
    assert "mine" not in set(run_cells(folder)["table"].base) and "mine" in set(run_cells(folder, bases=[])["table"].base)


@pytest.mark.parametrize("values, says", [(dict(only="aa"), "Did you mean 'a'"), (dict(metric="f1"), "there is accuracy")])
def test_what_was_not_measured(tmp_path, values, says):
    with pytest.raises(InputError, match=says): run_cells(write_results(tmp_path / "r", TEXT), **values)


def test_no_results_and_mixed_versions(tmp_path):
    with pytest.raises(InputError, match="no results_"): run_cells(tmp_path)
    folder = write_results(tmp_path / "r", TEXT)
    text = (folder / "results_x.csv").read_text().replace("book-bert,probe,16,0,accuracy,0.6,100,1.0,", "book-bert,probe,16,0,accuracy,0.6,100,1.0,abc")
    (folder / "results_x.csv").write_text(text)
    with pytest.raises(InputError, match="2 versions"): run_cells(folder)


@pytest.mark.usefixtures("warm_kernels")
def test_the_report_computes_a_stored_value_anew(measured, tmp_path):
    "End to end, in its kernel: the probe's stored accuracies come out again. A stored value that is not true fails the report."
    folder, base, words, _ = measured
    values = dict(results=str(folder), bases=[], base=str(base), live=str(words), live_labels=2, live_seeds=2)
    given = [w for pair in values.items() for w in ("-p", "{}={}".format(*pair))]
    assert main(["report", "base_models", "-q", *given, "--out", str(tmp_path / "out")]) == 0
    page, run = (tmp_path / "out" / "base_models.html").read_text(), json.loads((tmp_path / "out" / "base_models.json").read_text())
    alts = re.findall(r'<img[^>]*\balt="([^"]*)"', page)
    assert len(alts) == page.count("data:image/png") == 2 and "words at 2 labels per class" in alts[1] and alts[0].startswith("Bars of the gain in accuracy")
    first = page[page.index("<h1"):page.index("What was measured</h2>" if "What was measured</h2>" in page else "What was measured")]
    assert "aria-label='The answer'" in first.replace('"', "'") and "Against the best of what needs no base" in first and run["metrics"]["answer"]["model"].startswith("tiny")
    gallery = publish_gallery(tmp_path / "out").read_text()
    assert run["metrics"]["answer"]["verdict"].split(":")[0] in gallery and "seeds of words with 2 labels per class" in gallery
    assert "2 values were computed anew" in page and run["metrics"]["live_furthest"] < 1e-4 and set(run["metrics"]["live"]) == {"0", "1"}
    assert run["inputs"]["results"]["kind"] == "folder" and run["data"]["results"]["rows"] == 8
    false = tmp_path / "false"
    false.mkdir()
    (false / "results_text.csv").write_text(re.sub(r"(tiny,probe,2,\d,accuracy),[\d.]+,", r"\1,0.125,", (folder / "results_text.csv").read_text()))
    with pytest.raises(AssertionError, match="more than band=0.02"): run_cells(false, **{name: value for name, value in values.items() if name != "results"})


def test_the_defaults_probe_what_is_carried(script):
    defaults = {p.name: p.default for p in parameters_of("base_models")}
    assert defaults["results"] == "base_models" and defaults["probe_c"] == script.C and defaults["base"] == "book-bert" and defaults["live"] == "clinic_notes"
