"""What a reader meets: check, hint, solution and progress, right and wrong, in a notebook and in a terminal."""
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

import finetune_book.exercises as exercises
from finetune_book.checks import InputError
from finetune_book.exercises import check, hint, kept, progress, solution
from finetune_book.exercises.lesson_11 import bias_slope, bias_times_x, log_not_given
from finetune_book.places import state_folder


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    "A state folder of the test's own, and a session in which nothing was asked yet."
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(exercises, "HEARD", {})
    monkeypatch.setattr(exercises, "ASKED", set())
    return tmp_path


def flat(note):
    "The words of a note, wherever its lines were broken: that depends on the inputs that were drawn."
    return " ".join(str(note).split())


def test_right_and_a_usual_mistake():
    assert check("11.1", bias_slope)
    found = check("11.1", bias_times_x)
    assert found.kind == "mistake" and "∂z/∂b = 1" in flat(found) and "right is" in flat(found) and not found


def test_each_call_draws_other_inputs_and_a_seed_the_same(monkeypatch):
    seen = []
    def spy(*args): seen.append([np.array(a) for a in args]); return 0.
    def inputs(**opts):
        seen.clear(); check("11.1", spy, **opts)
        return repr(seen[0])
    assert inputs(seed=1) == inputs(seed=1) and inputs() != inputs()


@pytest.mark.parametrize("blank", [None, ..., lambda *a: None, lambda *a: ...])
def test_nothing_written_yet(blank, state):
    assert check("11.1", blank).kind == "empty" and list(state.iterdir()) == []


def test_a_fault_that_is_still_there(): assert check("11.8", log_not_given).kind == "empty"


def test_an_error_names_its_line_and_input():
    def slope(X, y, theta, b): return X["rows"]
    found = str(check("11.1", slope))
    assert "IndexError" in found and 'at `def slope(X, y, theta, b): return X["rows"]`' in found and "X = [[" in found
    assert "TypeError" in flat(check("11.1", lambda X: 0.))


def loops(*args):
    while True: pass


def swallows(*args):
    while True:
        try: len(args)
        except: pass  # noqa: E722


@pytest.mark.parametrize("endless", [loops, swallows])
@pytest.mark.parametrize("where", ["main", "elsewhere"])
def test_an_endless_loop_is_ended(endless, where):
    found, before = [], threading.active_count()
    def ask(): found.append(check("11.1", endless, seconds=.1))
    if where == "main": ask()
    else:
        thread = threading.Thread(target=ask); thread.start(); thread.join()
    assert found[0].kind == "endless" and "did not come back" in flat(found[0]) and threading.active_count() == before


def test_what_sleeps_is_left_and_said(monkeypatch):
    monkeypatch.setattr("finetune_book.exercises.running.stop", lambda thread: False)
    waiting = threading.Event()
    found = check("11.1", lambda *a: waiting.wait(), seconds=.1)
    waiting.set()
    assert "restart the kernel" in flat(found)


def test_recursion_without_end():
    def slope(*args): return slope(*args)
    assert "RecursionError" in flat(check("11.1", slope))


@pytest.mark.parametrize("answer, kind", [(3, "kind"), ("x", "kind"), (bias_slope, "right")])
def test_another_kind_of_answer(answer, kind): assert check("11.1", answer).kind == kind


@pytest.mark.parametrize("id, says", [
    ("11.99", " 11 has 11.1, 11.2"), (" 11.1x", " 11 has"), ("eleven", "ids such as '11.2'"), ("99.1", "nearest are"), ("", "ids such as"),
    (11.1, 'as text, "11.1"'), (None, "as text"),
])
@pytest.mark.parametrize("ask", [lambda id: check(id, 1), hint, solution])
def test_an_unknown_id_is_one_line_with_the_nearest(ask, id, says):
    with pytest.raises(InputError) as e: ask(id)
    assert says in str(e.value) and len(e.value._render_traceback_()) == 1 and "\n" not in str(e.value)


def test_hints_come_one_at_a_time():
    hints = exercises_of_11()["11.1"].hints
    heard = [hint("11.1") for _ in range(len(hints) + 1)]
    for text, note in zip(hints, heard): assert text in " ".join(str(note).split())
    assert "again for the next" in flat(heard[0]) and "That was the last" in flat(heard[-1])
    assert kept.read_table()[0]["11.1"]["hints"] == len(hints)


def exercises_of_11():
    from finetune_book.exercises.shelf import exercises_of
    return exercises_of("11")


def test_the_solution_asks_once(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("it waits for an answer"))
    first, second = solution("11.1"), solution("11.1")
    assert first.kind == "ask" and not first.code and "def bias_slope" in second.code
    assert [solution("11.3").kind, solution("11.3").kind] == ["ask", "solution"] and "c: (3) gives nan" in flat(solution("11.3"))


def test_progress_is_a_table_that_a_new_session_reads():
    check("11.1", bias_times_x); check("11.1", bias_slope); check("11.1", bias_times_x); check("11.5", 4)
    table = {row[0]: row for row in progress(11).table[1:]}
    assert table["11.1"][2] == "✓ right" and table["11.5"][2] == "tried 1×" and table["11.6"][2] == "–"
    done = subprocess.run([sys.executable, "-c", "from finetune_book.exercises import progress; progress('11')"], capture_output=True, text=True)
    assert "1 of 8 solved" in done.stdout and "✓ right" in done.stdout, done.stderr
    with pytest.raises(InputError, match="lesson='99'"): progress(99)
    assert [row[0] for row in progress(0).table[1:3]] == ["00.1", "00.2"] == [row[0] for row in progress("00").table[1:3]]


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"11.1": 3}', '{"11.1": {"tries": "x", "right": true, "hints": 0, "solution": false}}', "[" * 100_000])
def test_a_broken_table_is_set_aside_and_said(broken):
    path = kept.progress_file()
    path.parent.mkdir(parents=True); path.write_text(broken)
    found = check("11.1", bias_slope)
    assert found and "set aside as exercises.broken.json" in " ".join(str(found).split())
    assert path.with_name("exercises.broken.json").read_text() == broken and json.loads(path.read_text())["11.1"]["right"]


def test_a_table_that_is_no_text_is_set_aside_too():
    path = kept.progress_file()
    path.parent.mkdir(parents=True); path.write_bytes(b"\xff\xfe\x00")
    assert "could not be read" in " ".join(str(progress()).split())


def test_a_failed_write_leaves_the_old_table(monkeypatch):
    check("11.1", bias_slope)
    before = kept.progress_file().read_text()
    def full(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr(kept.os, "replace", full)
    assert "No space left on device" in " ".join(str(check("11.5", 5)).split())
    assert kept.progress_file().read_text() == before and sorted(p.suffix for p in kept.progress_file().parent.iterdir()) == [".json", ".lock"]


def test_without_a_place_the_exercises_work_and_say_so(monkeypatch, state):
    (state / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(state / "file" / "under"))
    found = check("11.1", bias_slope)
    assert found and "progress" in str(found)


def test_no_home_no_table(monkeypatch):
    def unknown(number): raise KeyError(number)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("XDG_STATE_HOME", "HOME", "LOGNAME", "USER", "LNAME", "USERNAME"): monkeypatch.delenv(name, raising=False)
    assert state_folder() is None and "not kept" in flat(check("11.1", bias_slope))


def test_two_at_once_lose_nothing():
    asking = [threading.Thread(target=kept.keep_try, args=(f"11.{k % 3}", False)) for k in range(12)]
    for t in asking: t.start()
    for t in asking: t.join()
    assert sum(row["tries"] for row in kept.read_table()[0].values()) == 12


def test_html_is_escaped_and_says_in_words_what_the_colour_says():
    found = check("11.2", "<script>alert($1)</script>")
    page = found._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "another kind of answer" in page
    assert "✓" in check("11.1", bias_slope)._repr_html_()


def test_a_script_is_told_too():
    code = "from finetune_book.exercises import check; check('11.5', 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("✗ 11.5 What a weighted mean divides by: not yet: a usual mistake") and done.stderr == ""


def test_what_the_book_is_made_of_does_not_need_its_exercises(repo):
    using = [p for p in (repo / "finetune_book").rglob("*.py") if "exercises" not in p.parts and "exercises" in p.read_text(encoding="utf-8")]
    assert [p.name for p in using if p.name != "_modidx.py"] == []
