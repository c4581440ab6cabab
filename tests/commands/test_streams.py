"""Standard streams as shells, schedulers and old locales give them."""
import os
import subprocess

import pytest

from commands import REPO, START

PROGRAM = f"{START[0]} -c '{START[2]}'"


def shell(line, **more):
    "A line of shell in which FB is the command: (exit code, stdout, stderr), bytes as UTF-8."
    env = os.environ | {"PYTHONPATH": str(REPO)} | more
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line.replace("FB", PROGRAM)], capture_output=True, env=env, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1:strict"])
def test_what_is_printed_is_utf8_whatever_the_locale(encoding):
    assert shell("FB report --list", PYTHONIOENCODING=encoding) == shell("FB report --list")
    code, out, err = shell("FB report --list", PYTHONIOENCODING=encoding)
    assert code == 0 and "·" in out and err == ""


@pytest.mark.parametrize("line, code, says", [
    ("FB report --list > /dev/full", 7, "finetune-book: standard output: No space left on device\n"), ("FB report --list >&-", 0, ""),
    ("FB report --list | true", 0, ""), ("FB --version <&- >&- 2>&-", 0, ""), ("FB report --list 2> /dev/full > /dev/full", 7, ""),
    ("FB nonsense 2> /dev/full", 2, "")])
def test_streams_that_are_closed_full_or_gone(line, code, says):
    got = shell(line)
    assert got[0] == code and got[2] == says, got


def test_a_name_for_the_output_is_held_to_the_same_rules():
    code, out, err = shell(r"FB predict -m nowhere -o $'caf\xe9.csv' text")
    assert code == 2 and len(err.splitlines()) == 1 and "not UTF-8" in err, err


def test_many_texts_leave_nothing_on_stderr(tmp_path, tiny_base):
    "Above 64 texts the full model reads, and with it come compiled libraries that once told of leaks (nanobind) as they were unloaded."
    from examples import LABELS, TEXTS
    from finetune_book import TextClassifier
    TextClassifier(tiny_base, max_length=16, epochs=1, tune="head", verbose=0, device="cpu").fit(TEXTS, LABELS).save(tmp_path / "m")
    (tmp_path / "many.csv").write_text("text\n" + "\n".join(TEXTS * 6) + "\n")
    code, out, err = shell(f"FB predict -m {tmp_path}/m --data {tmp_path}/many.csv")
    assert code == 0 and err == "" and len(out.splitlines()) == 73
    code, out, err = shell(f"tail -n +2 {tmp_path}/many.csv | FB predict -m {tmp_path}/m")
    assert code == 0 and err == "" and len(out.splitlines()) == 73
