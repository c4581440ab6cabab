"""Excel workbooks: cells as they are shown, sheets by name, and a line for everything that is no table."""
import datetime

import pytest
from openpyxl import Workbook

from finetune_book.checks import InputError
from finetune_book.data import sheets
from finetune_book.data.tables import find_source, read_splits, read_table


def saved(path, **pages):
    book = Workbook()
    book.remove(book.active)
    for title, rows in pages.items():
        page = book.create_sheet(title)
        for row in rows: page.append(row)
    book.save(path)
    return path


ROWS = [["text", "label", "day"], ["NA", 1.0, datetime.date(2026, 1, 2)], ['says "no", then\nleaves', 2, None], ["=1+1 is no sum", 1, None]]


def refused(source, *says):
    with pytest.raises(InputError) as caught: read_table(source)
    assert all(s in str(caught.value) for s in says), caught.value


def test_the_first_sheet_or_a_named_one(tmp_path):
    ROWS[3][0] = "a last text"
    path = saved(tmp_path / "n.xlsx", Notes=ROWS, **{"Other one": [["text", "label"], ["fine", "x"]]})
    with pytest.warns(UserWarning, match="its first sheet, 'Notes', is read"): table = read_table(path)
    assert table.text.tolist() == ["NA", 'says "no", then\nleaves', "a last text"] and table.label.tolist() == ["1", "2", "1"]
    assert read_table(f"{path}#Other one").label.tolist() == ["x"] and list(read_splits(f"{path}#Other one")) == ["all"]
    refused(f"{path}#Other", "no sheet 'Other'", "'Notes', 'Other one'", "Did you mean 'Other one'?")
    refused(f"{tmp_path}/m.xlsx#Notes", "no such file")
    assert find_source(f"{path}#Notes").name == "n.xlsx#Notes"


def test_workbooks_that_are_no_table(tmp_path):
    path = tmp_path / "n.xlsx"
    refused(saved(path, A=[["text", "label"], ["fine", "x"], [None, None], ["bad", "y"]]), "empty text", "row 2")
    refused(saved(path, A=[["text", "label"], ["fine", "x"], [3, "y"]]), "not a string", "row 2")
    refused(saved(path, A=[["text", "label"], ["fine", "x", "beyond"]]), "line 2 has 3 cells, the header 2")
    refused(saved(path, A=[["text", "label"], ["#N/A", "x"]]), "line 2", "#N/A")
    refused(saved(path, A=[]), "empty")
    refused(saved(path, A=[["text", "text"], ["a", "b"]]), "2 columns are named 'text'")
    path.write_bytes(b"\xd0\xcf\x11\xe0 a workbook with a password")
    refused(path, "not a whole zip")


def test_without_the_package_the_line_that_installs_it(tmp_path, monkeypatch):
    path = saved(tmp_path / "n.xlsx", A=ROWS)
    monkeypatch.setattr(sheets, "find_spec", lambda name: None)
    refused(path, "openpyxl", "pip install 'finetune-book[excel]'")
