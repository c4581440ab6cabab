"""How long a run still takes: never negative, and only by a record of the same cells."""
import json

import pytest

from finetune_book.report.progress import earlier_seconds, time_left


def test_the_time_left_is_never_negative_and_needs_no_earlier_run():
    assert time_left([], 0., 3) is None and time_left([1.], 99., 2) == 0. and time_left([], 1., 2, [5., 6.]) == 10.
    assert time_left([1.], 0., 3, [1., 2.]) == 2., "the seconds of another notebook do not count"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [3]}', '{"cells": [{"heading": "a"}]}', '{"cells": [{"heading": "b", "seconds": 1}]}'])
def test_an_earlier_record_that_does_not_fit_gives_no_estimate(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    assert earlier_seconds(tmp_path / "r.json", ["a"]) is None and earlier_seconds(tmp_path / "gone.json", ["a"]) is None


def test_an_injected_cell_does_not_cost_the_estimate(tmp_path):
    cells = [{"heading": h, "seconds": s} for h, s in (("a", 1.), ("b", 2.), ("b", 3.))]
    (tmp_path / "r.json").write_text(json.dumps({"cells": cells}))
    assert earlier_seconds(tmp_path / "r.json", ["a", "b", "b"]) == [1., 2., 3.]
    assert earlier_seconds(tmp_path / "r.json", ["a", "a", "b", "b"]) == [0., 1., 2., 3.] and earlier_seconds(tmp_path / "r.json", ["c", "d", "b"]) is None
