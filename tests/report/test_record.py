"""What a record holds: plain numbers that keep their bits, hashes of data, the machine."""
import json

import numpy as np
import pandas as pd
import pytest

from finetune_book.report.record import data_hashes, flat_numbers, gpus, json_value


@pytest.mark.parametrize("value, error", [({"a": {"b": [1, float("nan")]}}, ValueError), (np.array([np.inf]), ValueError), ({1, 2}, TypeError), (object(), TypeError)])
def test_a_record_holds_only_plain_numbers(value, error):
    with pytest.raises(error): json_value(value)


def test_plain_values_keep_their_bits():
    x = {"i": np.int32(3), "f": np.float64(.1) + .2, "b": np.bool_(True), "a": np.arange(3.), "s": pd.Series({"x": 1}), 5: None, "t": (1, "中")}
    assert json_value(x) == {"i": 3, "f": .1 + .2, "b": True, "a": [0., 1., 2.], "s": {"x": 1}, "5": None, "t": [1, "中"]}
    assert json.loads(json.dumps(json_value(x))) == json_value(x)


def test_data_that_is_no_table_is_kept(): assert data_hashes({"a": 1}) == {"a": 1}


def test_numbers_of_a_record():
    metrics = {"accuracy": {"value": .5, "low": .4, "high": .6, "n": 9, "level": .95}, "ok": True, "none": None, "list": [1], "deep": {"a": {"b": 2}}}
    assert flat_numbers(metrics) == {"accuracy": (.5, .4, .6), "deep.a.b": (2, None, None)} and flat_numbers([]) == {}


def test_no_gpu_is_seen_where_none_is_allowed(monkeypatch):
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert gpus() == []
