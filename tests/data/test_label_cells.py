"""Cells of several labels, and splits of such tables that lose no label."""
import pytest

from finetune_book.checks import InputError
from finetune_book.data.label_cells import label_strata, split_cells, with_sets
from finetune_book.data.splits import complete_splits
from finetune_book.data.tables import read_table
from label_sets import joined_notes


@pytest.mark.parametrize("cells, by, sets", [
    (["a;b", " a ; b ;", ";;", "", None, float("nan")], ";", [["a", "b"], ["a", "b"], [], [], [], []]),
    (["a, b", "b"], ", ", [["a", "b"], ["b"]]), (["咳嗽、发热", "发热"], "、", [["咳嗽", "发热"], ["发热"]]), (["a;a;b"], ";", [["a", "b"]])])
def test_a_cell_is_cut_at_the_separator_and_an_empty_one_has_no_label(cells, by, sets): assert split_cells(cells, by) == sets


def test_lists_of_json_lines_are_taken_as_they_are(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "x", "label": ["a;b", "c"]}\n{"text": "y", "label": []}\n{"text": "z"}\n')
    frame = with_sets(read_table(tmp_path / "t.jsonl", target_type="labels"), ";", least=1)
    assert frame["labels"].tolist() == [["a;b", "c"], [], []]


def test_a_separator_that_stands_nowhere_is_refused_with_an_example():
    with pytest.raises(InputError, match=r"labels_by=';' stands in no cell of column 'tags', such as 'a\|b'"): split_cells(["a|b"], ";", "tags")


def test_no_label_is_lost_from_a_part_of_500_rows_of_three():
    frame = with_sets(joined_notes(500), ";")
    splits = complete_splits({"all": frame})
    for part in splits.values(): assert len(set(part["labels"].explode())) == 10
    assert sum(map(len, splits.values())) == 500


def test_a_label_of_too_few_rows_is_named():
    with pytest.raises(InputError, match="class 'b' has 1 of the 3 rows"): label_strata([["a"]] * 9 + [["a", "b"]])
