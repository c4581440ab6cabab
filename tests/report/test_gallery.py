"""The gallery of a folder; that it lists sweeps is in test_sweep.py, which has one."""
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.report.gallery import publish_gallery, thumbnail


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"outputs": [{"data": {"image/png": "AAAA"}}]}]}', '{"cells": [3]}', '{"cells": []}'])
def test_a_broken_notebook_costs_only_the_picture(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content)
    assert thumbnail(tmp_path / "x.ipynb") is None and thumbnail(tmp_path / "gone.ipynb") is None


def test_a_report_called_index_is_not_overwritten(tmp_path):
    (tmp_path / "index.html").write_text("a report")
    (tmp_path / "index.json").write_text(json.dumps({"schema": 2, "report": "index", "title": "x", "parameters": {}, "metrics": {}}))
    with pytest.raises(InputError, match="called index"): publish_gallery(tmp_path)
    assert (tmp_path / "index.html").read_text() == "a report"
