"What is measured once on a machine and kept, and precision='auto' that stands on it: one number for all programs, whatever happens to the file or the machine."
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from filelock import FileLock

from finetune_book.cli import main
from finetune_book.commands import doctor
from finetune_book.train import fast, machine
from finetune_book.train.machine import cpu_facts, measured_once

FACTS = {"torch": "2", "model name": "an Ünusual chip"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache folder of the test's own, and a program that has not measured yet."
    monkeypatch.delenv(fast.PINNED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kept in (fast.machine_gain, fast.product_gain): kept.cache_clear()
    yield tmp_path / "cache"
    for kept in (fast.machine_gain, fast.product_gain): kept.cache_clear()


@pytest.fixture
def ask():
    "`measured_once` of a number that is one higher each time it is measured."
    tries = []
    def ask(name="tries", **facts):
        def measure(): tries.append(1.); return float(len(tries))
        return measured_once(name, measure, FACTS | facts)
    ask.tries = tries
    return ask


# --- one number ------------------------------------------------------------------------------------------------------

def test_it_is_measured_once_for_the_same_facts(ask, cache):
    assert [ask().value for _ in range(3)] == [1., 1., 1.] and ask().place.is_relative_to(cache) and ask().why == ""
    assert [ask(torch="3").value, ask(name="others").value, ask(more=1).value] == [2., 3., 4.]
    assert ask().value == 1. and len(ask.tries) == 4


def test_the_file_says_what_the_number_is_of(ask):
    assert json.loads(ask().place.read_text(encoding="utf-8")) == FACTS | {"what": "tries", "value": 1.}


PROGRAM = """
import os, sys, time
from finetune_book.train.machine import measured_once
def measure():
    with open(sys.argv[1], "a") as f: f.write("measured\\n")
    time.sleep(.5)
    return float(os.getpid())
while not os.path.exists(sys.argv[2]): time.sleep(.01)
print(measured_once("pid", measure, {"torch": "2"}).value)
"""


def test_programs_that_start_together_agree(tmp_path):
    "Each would find another number, and while the first measures all the others have found no file."
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), str(tmp_path / "go")]
    programs = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    (tmp_path / "go").touch()
    said = {program.communicate(timeout=60)[0] for program in programs}
    assert len(said) == 1 and float(said.pop()) in {program.pid for program in programs}
    assert (tmp_path / "log").read_text() == "measured\n"


@pytest.mark.parametrize("change", [
    lambda text: "", lambda text: text[:-5], lambda text: "[1, 2]", lambda text: "3", lambda text: "null", lambda text: "[" * 100_000,
    lambda text: text.replace('"2"', '"3"'), lambda text: text.replace("1.0", "NaN"), lambda text: text.replace("1.0", "Infinity"),
    lambda text: text.replace("1.0", "0.0"), lambda text: text.replace("1.0", "-1.0"), lambda text: text.replace("1.0", '"1.0"'),
    lambda text: text.replace("1.0", "true"), lambda text: json.dumps({"value": 1.}), lambda text: "\0" * 200,
], ids=range(15))
def test_a_broken_file_is_measured_anew(ask, change):
    place = ask().place
    place.write_text(change(place.read_text()))
    assert [ask().value, ask().value] == [2., 2.] and ask().place == place and len(ask.tries) == 2


def test_what_is_no_text_is_measured_anew(ask):
    ask().place.write_bytes(b"\xff\xfe\x00")
    assert [ask().value, ask().value] == [2., 2.]


def test_what_a_killed_program_leaves_is_in_nobodys_way(ask):
    place = ask().place
    place.unlink()
    place.with_suffix(".lock").touch(); (place.parent / f"{place.name}half").write_text("{")
    assert [ask().value, ask().value] == [2., 2.]


# --- nowhere to keep it ----------------------------------------------------------------------------------------------

def no_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME"); monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])


def read_only(monkeypatch, tmp_path): monkeypatch.setattr("finetune_book.places.writable", lambda path: False)


def a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def full(monkeypatch, tmp_path):
    def refuse(path, text): raise OSError(28, "No space left on device")
    monkeypatch.setattr(machine, "replace_text", refuse)


def without_locks(monkeypatch, tmp_path):
    def refuse(*args, **kwargs): raise NotImplementedError("this file system knows no locks")
    monkeypatch.setattr(machine, "FileLock", refuse)


NOWHERE = pytest.mark.parametrize("hinder", [no_home, read_only, a_file, full, without_locks])


@NOWHERE
def test_where_it_cannot_be_kept_it_is_measured_and_said(ask, hinder, monkeypatch, tmp_path):
    hinder(monkeypatch, tmp_path)
    found = ask()
    assert found.value >= 1 and found.place is None and found.why and "\n" not in found.why


def test_a_lock_that_somebody_holds_is_not_waited_for_for_ever(ask, monkeypatch):
    monkeypatch.setattr(machine, "PATIENCE_S", .05)
    place = ask().place
    place.unlink()
    with FileLock(place.with_suffix(".lock")):
        found = ask()
        assert found.value == 2. and found.place is None and "lock" in found.why
    assert ask().place == place


# --- what names the processor ----------------------------------------------------------------------------------------

def core(**facts): return "".join(f"{name.replace('_', ' ')}\t: {value}\n" for name, value in facts.items()) + "\n"


@pytest.mark.parametrize("text, facts", [
    (core(processor=0, model_name="Fast 3000", model=17, cpu_MHz=2000.1) + core(processor=1, model_name="Fast 3000", model=17, cpu_MHz=1700.),
     {"model name": "Fast 3000", "model": "17"}),
    (core(processor=0, CPU_implementer="0x41", CPU_part="0xd0c") + core(processor=1, CPU_implementer="0x41", CPU_part="0xd0c"),
     {"CPU implementer": "0x41", "CPU part": "0xd0c"}),
    (core(processor=0, model_name="Little") + core(processor=1, model_name="Big"), {"model name": "Little"}),
], ids=["a name", "numbers", "two kinds"])
def test_the_processor_is_named_by_what_does_not_change(monkeypatch, tmp_path, text, facts):
    "Not by its speed of the moment, nor by the core that happens to be asked."
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "cpuinfo")
    assert cpu_facts() == facts


@pytest.mark.parametrize("text", [None, "", "Features : fp\n"])
def test_without_a_name_the_system_is_asked(monkeypatch, tmp_path, text):
    if text is not None: (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "cpuinfo")
    assert cpu_facts().keys() == {"system", "model name"} and all(cpu_facts().values())


# --- the gain of bfloat16 --------------------------------------------------------------------------------------------

class Busy:
    "A clock on a machine where most products are interrupted, for up to a hundred times as long as they take."
    def __init__(self, seed): self.now, self.reads, self.rng = 0., 0, np.random.default_rng(seed)
    def __call__(self):
        if self.reads % 2:
            seconds = (2., 1.)[self.reads // 2 % 2]                                 # float32 and bfloat16, in turn
            self.now += seconds * (1 if self.rng.random() < .3 else self.rng.uniform(1, 100))
        self.reads += 1
        return self.now


def test_a_busy_machine_finds_what_an_idle_one_finds(monkeypatch):
    found = []
    for seed in range(20):
        monkeypatch.setattr(fast, "perf_counter", Busy(seed))
        found.append(fast.timed_gain())
    assert np.allclose(found, 2)
    seconds = [np.array([(-clock() + clock()) for _ in range(60)]) for clock in map(Busy, range(20))]
    medians = [np.median(s[::2]) / np.median(s[1::2]) for s in seconds]
    assert min(medians) < 4 / 3 < max(medians), "the control: by the median they would decide differently"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_the_program_around_has_set_is_put_aside_and_back(error):
    products, threads = torch.backends.mkldnn.matmul, torch.get_num_threads()
    before = products.fp32_precision
    try:
        torch.set_num_threads(2); products.fp32_precision = "bf16"
        with torch.autocast("cpu", torch.bfloat16):
            try:
                with fast.by_itself():
                    assert torch.get_num_threads() == 1 and products.fp32_precision == "ieee"
                    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
                    if error: raise error
            except KeyboardInterrupt: assert error
            assert torch.get_num_threads() == 2 and products.fp32_precision == "bf16"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16, "the control"
    finally:
        torch.set_num_threads(threads); products.fp32_precision = before


@pytest.fixture
def clock(monkeypatch):
    "A function that sets what this machine would measure, and a processor that knows bfloat16."
    monkeypatch.setattr(fast, "knows_bfloat16", lambda device: True)
    return lambda gain: monkeypatch.setattr(fast, "timed_gain", lambda: gain)


def another_program():
    for kept in (fast.machine_gain, fast.product_gain): kept.cache_clear()


@pytest.mark.parametrize("first, second, dtype", [(2., 1., torch.bfloat16), (1., 2., None)])
def test_the_first_program_decides_for_all(clock, cache, first, second, dtype):
    clock(first)
    assert fast.pick_dtype("auto", "cpu") is dtype
    clock(second); another_program()
    assert fast.pick_dtype("auto", "cpu") is dtype
    for path in cache.rglob("*.json"): path.unlink()
    another_program()
    assert fast.pick_dtype("auto", "cpu") is not dtype, "the control: without the file it is measured anew"


def test_another_torch_and_other_units_are_measured_by_themselves_and_threads_are_not(clock, monkeypatch):
    clock(2.)
    assert fast.product_gain() == 2.
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2)); clock(1.); another_program()
        assert fast.product_gain() == 2.
    finally: torch.set_num_threads(threads)
    for name, value in (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2")):
        with monkeypatch.context() as m:
            m.setenv(name, value); another_program()
            assert fast.product_gain() == 1.
    monkeypatch.setattr(torch, "__version__", "99.1"); another_program()
    assert fast.product_gain() == 1.


@NOWHERE
def test_a_decision_for_one_program_is_said_once(clock, hinder, monkeypatch, tmp_path):
    clock(2.); hinder(monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match="for this program alone") as told:
        assert [fast.pick_dtype("auto", "cpu") for _ in range(3)] == [torch.bfloat16] * 3
    assert len(told) == 1 and "XDG_CACHE_HOME" in str(told[0].message)


def test_who_does_not_ask_measures_nothing_and_hears_nothing(monkeypatch, tmp_path, cache):
    def measured(): raise AssertionError("measured")
    monkeypatch.setattr(fast, "timed_gain", measured); read_only(monkeypatch, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision in ("float32", "bfloat16"): fast.pick_dtype(precision, "cpu")
        monkeypatch.setattr(fast, "knows_bfloat16", lambda device: False)
        assert fast.pick_dtype("auto", "cpu") is None and not cache.exists()


# --- shown -----------------------------------------------------------------------------------------------------------

def test_doctor_says_what_auto_means_and_where_that_lies(clock, cache, monkeypatch, capsys):
    clock(1.987); monkeypatch.setattr(torch.cuda, "is_available", lambda: False); monkeypatch.setattr(doctor, "CHECKS", (doctor.check_precision,))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    place, = cache.rglob("*.json")
    assert "'auto' is bfloat16 on cpu" in said and "1.99 times" in said and str(place) in said and os.path.exists(place)


@NOWHERE
def test_doctor_says_how_to_keep_it(clock, hinder, monkeypatch, tmp_path, capsys):
    clock(2.); hinder(monkeypatch, tmp_path); monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(doctor.Ailment, match="this program alone.*fix: set XDG_CACHE_HOME.*precision='float32'"): doctor.check_precision()


def test_a_processor_without_bfloat16_is_no_ailment(monkeypatch, tmp_path):
    read_only(monkeypatch, tmp_path); monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fast, "knows_bfloat16", lambda device: False)
    assert doctor.check_precision() == "precision='auto' is float32 on cpu, by what it can compute"
