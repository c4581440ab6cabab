"""Checks: Python's and NumPy's scalars alike, one line for everything else, and no NumPy needed to say so."""
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from finetune_book.checks import (InputError, check_choice, check_flag, check_real, check_seed, check_whole, did_you_mean,
                                  listed, shorten, shorten_path)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int16(3)])
def test_whole_numbers_of_any_kind_are_pythons(value):
    assert check_whole("n", value, 1, 9) == 3 and type(check_whole("n", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 3., np.float64(3.), "3", None, Fraction(3), np.array(3), np.array([3]), 0, 10])
def test_what_is_no_whole_number_from_1_to_9(value):
    with pytest.raises(InputError, match=r"^n=.*: must be a whole number from 1 to 9$"): check_whole("n", value, 1, 9)


@pytest.mark.parametrize("value", [.5, 1, np.float32(.5), np.float64(.5), np.int64(1), Fraction(1, 2)])
def test_numbers_of_any_kind_are_pythons(value): assert type(check_real("p", value, 0, 1)) is float


@pytest.mark.parametrize("value", [True, np.True_, float("nan"), float("inf"), np.float32("inf"), 10**400, "0.5", None, 1j, -.1, 1.1])
def test_what_is_no_number_from_0_to_1(value):
    with pytest.raises(InputError, match=r"^p=.*: must be a number from 0 to 1$"): check_real("p", value, 0, 1)


@pytest.mark.parametrize("limits, says", [
    (dict(low=0), ", at least 0"), (dict(low=0, ends="(]"), " above 0"), (dict(high=1), " at most 1"), (dict(high=1, ends="[)"), " below 1"),
    (dict(low=0, high=1), " from 0 to 1"), (dict(low=0, high=1, ends="(]"), " above 0 and at most 1"),
    (dict(low=0, high=1, ends="[)"), " at least 0 and below 1"), (dict(), "")])
def test_the_limits_are_said_as_they_hold(limits, says):
    for value in (-9, 9):
        low, high = limits.get("low", -99), limits.get("high", 99)
        if low <= value <= high: continue
        with pytest.raises(InputError) as e: check_real("x", value, **limits)
        assert str(e.value) == f"x={value}: must be a number{says}"


def test_an_excluded_end_is_excluded():
    for ends, bad in (("(]", 0), ("[)", 1)):
        with pytest.raises(InputError): check_real("x", bad, 0, 1, ends)
        assert check_real("x", 1 - bad, 0, 1, ends) == 1 - bad


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags(value): assert check_flag("f", value) is bool(value)


@pytest.mark.parametrize("value", [1, 0, np.int64(1), "true", None, 1.])
def test_what_is_no_flag(value):
    with pytest.raises(InputError, match="must be True or False"): check_flag("f", value)


def test_choices():
    assert check_choice("schedule", "cosine", ("linear", "cosine")) == "cosine"
    with pytest.raises(InputError, match=r"schedule='liner': must be one of linear, cosine. Did you mean 'linear'\?"):
        check_choice("schedule", "liner", ("linear", "cosine"))
    for bad in (None, 3, ["linear"]):
        with pytest.raises(InputError, match="must be one of"): check_choice("schedule", bad, ("linear",))


def test_seeds():
    assert check_seed(np.uint64(2**63 - 1)) == 2**63 - 1
    for bad in (-1, 2**63, True, 1.):
        with pytest.raises(InputError, match=r"must be a whole number from 0 to 2\*\*63 - 1"): check_seed(bad)


def test_errors_are_one_short_line():
    long = "a\nb\x1b[2J" * 200
    for e in (shorten(long), listed([long] * 30), did_you_mean(long, ["x"])): assert "\n" not in e and "\x1b" not in e
    with pytest.raises(InputError) as e: check_choice("name", long, ["x"])
    assert len(str(e.value)) < 150 and "\n" not in str(e.value)


@pytest.mark.parametrize("path, seen", [
    ("model", "model"), ("/data/" + "long/" * 20 + "deep/modle", "…/long/long/long/long/long/long/long/long/long/deep/modle"), ("/x/" + "a" * 60 + "z", "a" * 29 + "…" + "a" * 29 + "z"),
    ("/home/" + "b" * 57, "…/" + "b" * 57), (Path("/very/" * 30 + "end"), "…/very/very/very/very/very/very/very/very/very/very/very/end"), ("a\nb/\x1bc", "a b/ c")])
def test_a_long_path_keeps_its_end(path, seen):
    assert shorten_path(path) == seen and len(seen) <= 60 and shorten_path(path, 200).endswith(str(path).split("/")[-1].replace("\x1b", " "))


def test_a_wrong_name_at_the_end_of_a_long_path_is_seen(tmp_path):
    from finetune_book.data.hub import resolve_base
    with pytest.raises(InputError, match=r"^base '….*/modle': no such folder$"): resolve_base(tmp_path / ("deep" * 20) / "modle")


def test_import_is_light():
    code = "import sys, finetune_book.checks; print(sorted({'numpy', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
