"Which method to use when: the report that reads the stored trainings, its advice, and what it says of trainings that are not there."
import json
import re

import numpy as np
import pytest
from cells import run_cells

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.report.params import parameters_of

HEADER = "kind,set,base,method,rows,seed,drawn,n_train,n_test,together,accuracy,moved,parameters,seconds,peak_mb,saved_bytes,base_sha,settings,right"
PRICE = {"head": (10, 4_000_000), "full": (1000, 4_000_000), "lora": (100, 50_000)}        # parameters moved, bytes saved
METHODS = list(PRICE)


def bits(share, seed, n=200):
    "n answers of which a share is right, and which ones hardly differs between methods."
    right = np.arange(n) < round(share * n)
    return "".join("01"[int(r)] for r in np.random.default_rng(seed).permutation(right))


def row(name, method, share, seed, rows=16, base="b", kind="text", drawn=None, together=1):
    moved, saved = PRICE[method]
    return f"{kind},{name},{base},{method},{rows},{seed},{drawn or rows},{rows * 2},200,{together},{share},{moved},1000,2.5,600,{saved},abc,lr=1,{bits(share, seed)}"


def block(name, shares, seeds=(0, 1, 2), **more):
    "Lines of one set and size: of each method its share of right answers, a little other in each seed."
    return [row(name, m, share + .005 * seed, seed, **more) for m, share in shares.items() for seed in seeds]


def write(folder, *blocks):
    (folder / "which_method.csv").write_text("\n".join([HEADER, *(line for lines in blocks for line in lines)]) + "\n")
    return folder


def cells(folder, **values):
    return run_cells("which_method", **dict(results=str(folder), bases=["b"], methods=METHODS, sets=["a"], sizes=[16]) | values)


SAME, APART = dict(head=.50, full=.80, lora=.795), dict(head=.5, full=.6, lora=.9)


def test_no_clear_difference_is_named_and_the_cheapest_of_the_good_ones(tmp_path):
    space = cells(write(tmp_path, block("a", SAME)))
    one, text = space["advice"][0], space["answer"]["verdict"]
    assert (one["best"], one["near"], one["lower"], one["few"], one["small"]) == ("full", ["lora"], ["head"], "lora", "lora")
    assert text == "In 1 of 1 comparisons no method is clearly best. Nowhere clearly lower than the best: full, lora; of these lora moves the fewest parameters and saves the least. The others keep up in fewer: head in 0 of 1."
    assert space["row_of"](one) == {"of": "texts, 16 rows per class (a)", "best mean": "full (0.805)", "no clear difference to it": "lora (0.800)", "clearly lower": "head",
                                    "of the good ones": "lora moves the fewest parameters (10.00%), lora saves the least (0.05 MB)"}
    assert space["answer"]["stands"] == "no clear difference" and "chosen afterwards" in space["answer"]["wary"]


def test_a_clear_winner_is_named(tmp_path):
    space = cells(write(tmp_path, block("a", APART)))
    assert space["answer"]["verdict"] == "In 0 of 1 comparisons no method is clearly best. Nowhere clearly lower than the best: lora. The others keep up in fewer: head in 0, full in 0 of 1."
    assert space["row_of"](space["advice"][0])["no clear difference to it"] == "none: clearly best"
    assert space["answer"]["stands"] == "better" and space["answer"]["score"]["n"] == 3
    assert space["column_of"](("text", "a", "b", 16))["head"].endswith(" <") and space["column_of"](("text", "a", "b", 16))["lora"].endswith(" best")


def test_a_method_that_wins_once_and_loses_once_is_not_called_good_everywhere(tmp_path):
    space = cells(write(tmp_path, block("a", SAME), block("p", dict(head=.9, full=.5, lora=.6), kind="pictures")), sets=["a", "p"])
    assert "Each method is somewhere clearly lower than the best. The others keep up in fewer: head in 1, full in 1, lora in 1 of 2." in space["answer"]["verdict"]


def test_the_sets_of_a_kind_are_judged_together_and_kinds_apart(tmp_path):
    pictures = block("p", SAME, kind="pictures", rows=256, drawn=200, together=10)
    space = cells(write(tmp_path, block("a", SAME), block("c", APART), pictures), sets=["a", "c", "p"], sizes=[16, 256])
    text, picture = space["advice"]
    assert text["sets"] == ["a", "c"] and picture["sets"] == ["p"] and picture["rows"] == "200 (all)" and text["best"] == "lora"
    assert all(len(right) == 400 for by_seed in text["of"].values() for right in by_seed.values())
    assert space["belongs"](["a"]) is None and len(set(space["belongs"](["a", "p"]))) == 200 + 20


def test_what_is_not_measured_is_said_and_gives_no_advice(tmp_path):
    half = [line for line in block("c", SAME) if ",lora,16,2," not in line]
    space = cells(write(tmp_path, block("a", SAME), half, block("d", dict(head=.5, full=.6))), sets=["a", "c", "d", "e"], sizes=[16, 64])
    left = {(m["set"], m["rows per class"]): m["measured"] for m in space["told"]["metrics"]["missing"]}
    assert left[("c", 16)] == "lora 2 of 3 seeds" and left[("d", 16)] == "lora 0 of 3 seeds" and left[("e", 64)] == "nothing is measured" and ("a", 16) not in left
    assert space["advice"][0]["sets"] == ["a", "c"], "two seeds in common are enough, a method that is not there is not"
    assert "Not measured yet: 7 of 8 combinations" in space["answer"]["verdict"] and "e with 16, 64 rows per class" in space["answer"]["wary"]["not measured, or not whole"]
    assert cells(write(tmp_path, block("a", dict(head=.5))))["answer"] is None


def test_lora_on_another_base_is_held_against_full(tmp_path, capsys):
    for gap, said in ((0., "within"), (.02, "not within")):
        other = block("a", dict(head=.5, full=.8, lora=.8 - gap), base="real")
        space = cells(write(tmp_path, block("a", SAME), other))
        text = space["reached"](space["beyond"]["text", "a", "real", 16], "a", space["runs"][space["runs"].base == "real"])
        assert text.startswith(f"LoRA is {said} 0.01 of full fine-tuning") and "moves 10.00% of the parameters" in text
    assert len(space["advice"]) == 1 and len(space["advice"][0]["sets"]) == 1


@pytest.mark.parametrize("old, new, says", [
    ("right\n", "rihgt\n", "no column 'right'"), (",2.5,", ",fast,", "seconds is no finite number"), (",16,0,", ",few,0,", "rows is no count"),
    (bits(.5, 0), bits(.5, 0)[1:], "right has not a 0 or a 1"), (",head,16,1,", ",head,16,0,", "measured twice")])
def test_a_broken_table_is_one_line(tmp_path, old, new, says):
    write(tmp_path, block("a", SAME))
    path = tmp_path / "which_method.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as caught: cells(tmp_path)
    assert says in str(caught.value) and "which_method.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_no_results_and_an_unknown_set(tmp_path):
    with pytest.raises(InputError, match="no which_method.csv"): cells(tmp_path)
    with pytest.raises(InputError, match="Did you mean 'a'"): cells(write(tmp_path, block("a", SAME)), only="aa")


@pytest.mark.usefixtures("warm_kernels")
def test_the_page_begins_with_the_advice(tmp_path):
    "End to end, in its kernel."
    write(tmp_path, block("a", SAME), block("a", dict(head=.5, full=.8, lora=.8), base="real"))
    values = dict(results=str(tmp_path), bases=["b"], methods=METHODS, sets=["a", "e"], sizes=[16])
    given = [w for pair in values.items() for w in ("-p", "{}={}".format(pair[0], json.dumps(pair[1]) if isinstance(pair[1], list) else pair[1]))]
    assert main(["report", "which_method", "-q", *given, "--out", str(tmp_path / "out")]) == 0
    page, run = (tmp_path / "out" / "which_method.html").read_text(), json.loads((tmp_path / "out" / "which_method.json").read_text())
    first = page[page.index("<h1"):page.index("What was measured")]
    assert "The answer" in first and "Nowhere clearly lower than the best: full, lora" in first and re.search(r'<img[^>]*\balt="Accuracy against rows per class', first)
    assert "--only e" in page and "LoRA is within 0.01 of full fine-tuning" in page
    assert run["metrics"]["answer"]["verdict"].startswith("In 1 of 1") and run["data"]["results"]["rows"] == 18


def test_the_defaults_are_what_the_script_measures(load_script):
    script, defaults = load_script("measure_which_method"), {p.name: p.default for p in parameters_of("which_method")}
    assert defaults["methods"] == list(script.METHODS) and set(defaults["sets"]) == set(script.SETS) and defaults["sizes"] == list(script.ROWS)
    assert defaults["seeds"] == len(script.SEEDS) and set(defaults["bases"]) == set(script.BASES.values())
