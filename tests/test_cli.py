"""The command line: what a person and a script see, and how fast."""
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from finetune_book.cli import main
from finetune_book.commands import doctor
from commands import START, outside, refused
from finetune_book.report.progress import Progress
from finetune_book.checks import InputError
from finetune_book.data.tables import read_table
from finetune_book.places import refuse_input
from finetune_book.report.template import read_template

REPO = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures" / "reports"
FAULTY = str(FIXTURES / "faulty.ipynb")
ROWS = [("good clean room", "yes"), ("very good", "yes"), ("bad loud room", "no"), ("very bad", "no")]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "notes.csv"
    pd.DataFrame([(f"{t} f{i}", l) for i in range(6) for t, l in ROWS], columns=["note", "said"]).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def columns(table): return ["--data", table, "--text", "note", "--label", "said"]


@pytest.fixture
def saved(columns, tiny_base, tmp_path, capsys):
    "A model trained by the command."
    out = tmp_path / "model"
    code = main(["train", *columns, "--base", str(tiny_base), "--epochs", "12", "--lr", "1e-2", "--batch-size", "4", "--max-length", "16", "-q", "-o", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.out.strip() == str(out) and "accuracy on the rows held back" in printed.err and "95% interval" in printed.err and "always" in printed.err
    return out


# --- help, version, mistakes ---------------------------------------------------------------------------------------

def test_help_answers_at_once_and_loads_nothing_heavy():
    code = "import sys; from finetune_book.cli import main; main(['--help']); print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'papermill') if m in sys.modules])"
    best = 9.
    def used(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])   # processor seconds: what else the machine does is no matter
    for _ in range(3):
        begun = used()
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout
        best = min(best, used() - begun)
    assert out.splitlines()[-1] == "[]" and "finetune-book report finetune_text" in out and best < 1


def test_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == "finetune-book 0.1.0\n"


@pytest.mark.parametrize("args", [[], ["--help"], ["report", "--help"], ["train", "--help"], ["predict", "--help"], ["doctor", "--help"], ["report", "--list"], ["report"]])
def test_help_everywhere(args, capsys):
    assert main(args) == 0
    shown = capsys.readouterr()
    assert "finetune-book" in shown.out and shown.err == ""


def test_help_of_a_report_is_its_parameters(capsys):
    assert main(["report", str(FIXTURES / "tiny.ipynb"), "--help"]) == 0
    shown = capsys.readouterr().out
    for line in ("epochs=3", "passes over the data; a whole number, at least 1, at most 100", 'tune="full"', "one of head, full, top-*"): assert line in shown


@pytest.mark.parametrize("args, says", [
    (["repor"], "Did you mean 'report'"), (["report", "nonesuch"], "no report is called 'nonesuch'"), (["report", "gone.ipynb"], "no such notebook"),
    (["report", FAULTY, "-p", "epoch=2"], "Did you mean 'epochs'"), (["report", FAULTY, "-p", "epochs=2.5"], "a whole number"), (["report", FAULTY, "-p", "epochs"], "name=value"),
    (["report", FAULTY, "--cell-timeout", "0"], "'--cell-timeout'"), (["report", FAULTY, "--out", __file__], "cannot write in the folder"), (["report", FAULTY, "--fast"], "--fast"),
    (["train"], "--data"), (["train", "--data", "x.csv", "--epochs", "three"], "--epochs"), (["predict", "--model", "nowhere", "text"], "there is no such folder"),
    (["predict", "a", "--data", "b.csv"], "not both")])
def test_a_mistake_is_one_line_and_code_two(args, says, capsys):
    assert main(args) == 2
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1 and shown.err.startswith("finetune-book: ") and shown.out == ""


@pytest.mark.parametrize("change, says", [
    (["--data", "gone.csv"], "no such file"), (["--text", "text"], "it has 'note', 'said'"), (["--epochs", "0"], "epochs=0"), (["--epochs", "-1"], "epochs=-1"), (["--lr", "0"], "lr=0"),
    (["--lr", "nan"], "lr=nan"), (["--batch-size", "-4"], "batch_size=-4"), (["--tune", "ful"], "ful"), (["--validation", "1"], "validation=1"), (["--base", "no-such/base"], "no-such/base"),
    (["--regression"], "number"), (["--out", "/proc/x/model"], "cannot be written"), (["--seed", "-1"], "seed=-1")])
def test_train_refuses_before_it_works(columns, tmp_path, change, says, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    begun = time.monotonic()
    assert main(["train", *columns, "-q", "--out", str(tmp_path / "model"), *change]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1 and shown.out == "" and not (tmp_path / "model").exists()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("given, epochs, lr", [([], 1, None), (["--tune", "full"], 16, 5e-5), (["--epochs", "2", "--lr", "1e-3"], 2, 1e-3)])
def test_few_rows_are_read_more_often_and_a_rate_suits_what_moves(columns, tiny_base, tmp_path, given, epochs, lr):
    out = tmp_path / "model"             # 24 rows in batches of 4: six steps an epoch
    assert main(["train", *columns, "--base", str(tiny_base), "--batch-size", "4", "--max-length", "16", "--validation", "0", "-q", "-o", str(out), *given]) == 0
    kept = json.loads((out / "finetune_book.json").read_text())
    assert kept["epochs"] == len(kept["history"]) == epochs and kept["lr"] == lr     # 24 texts without a word: the head alone


def test_train_leaves_a_strange_folder_alone(columns, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert main(["train", *columns, "-q", "--out", str(tmp_path / "mine")]) == 2 and "no saved model" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"] and sorted(p.name for p in tmp_path.iterdir()) == ["mine", "notes.csv"]


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    def broken(): raise ZeroDivisionError("ours")
    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    with pytest.raises(ZeroDivisionError): main(["doctor"])


# --- report --------------------------------------------------------------------------------------------------------

def test_report_prints_the_path_last(tmp_path):
    code, out, err = outside("report", FAULTY, "-p", "epochs=4", "--name", "mine", "-q", cwd=tmp_path)
    assert code == 0 and out == "reports/mine.html\n" and err == ""
    assert json.loads((tmp_path / "reports" / "mine.json").read_text())["parameters"]["epochs"] == 4


def test_report_that_fails_names_its_page(tmp_path, capsys):
    assert main(["report", FAULTY, "-p", "fault=exit", "-q", "--out", str(tmp_path)]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert "sys.exit(0) ended the run early" in first and second.endswith("faulty.failed.html")


def test_progress_for_machines(tmp_path, capsys):
    "With --json each line on stderr is an event, stdout is the record; the second run knows how long the first took."
    def run(*args):
        code, (out, err) = main(["report", FAULTY, *args, "--json", "--out", str(tmp_path)]), capsys.readouterr()
        lines = err.splitlines()
        return code, out, [json.loads(line) for line in lines if line.startswith("{")], [line for line in lines if not line.startswith("{")]
    code, out, events, other = run()
    assert code == 0 and json.loads(out)["parameters"]["epochs"] == 1 and other == []
    assert [e["event"] for e in events] == ["start", *["cell"] * 4, "published", "note"] and events[0]["cells"] == 4 and events[-1]["says"].startswith("finished in")
    assert [(e["cell"], e["of"], e["heading"]) for e in events[1:5]] == [(1, 4, "Faults")] + [(n, 4, "The fault") for n in (2, 3, 4)]
    assert events[1]["left_s"] is None and [e["elapsed_s"] for e in events[1:5]] == sorted(e["elapsed_s"] for e in events[1:5])
    assert run("-q") == (0, out, [], [])
    code, out, events, other = run("-p", "fault=error")
    assert code == 3 and out == "" and events[-1]["event"] == "failed" and events[-1]["exit_code"] == 3 and events[-1]["page"].endswith("faulty.failed.html")
    assert "BadFile" in events[-1]["error"] and other[0].startswith("finetune-book: cell 3 'The fault' failed: BadFile") and len(other) == 2
    assert [e["left_s"] for e in events if e["event"] == "cell"][0] is not None


def test_the_bar_names_the_cell_and_the_time_left(tmp_path, capsys):
    nb = read_template(FAULTY)
    cells = [{"cell": n, "heading": h, "seconds": s} for n, h, s in ((1, "Faults", 2.), (2, "The fault", 3.), (3, "The fault", 100.), (4, "The fault", 0.))]
    (tmp_path / "faulty.json").write_text(json.dumps({"cells": cells}))
    seen = Progress(nb, True, tmp_path / "faulty.json")
    seen.start(None, seen.code[1])
    seen.bar.close()
    said = capsys.readouterr().err
    assert "The fault" in said and "/4 cells, 00:0" in said and "about 01:4" in said and "left" in said
    Progress(nb, False).start(None, seen.code[0])
    assert capsys.readouterr().err == ""


# --- train and predict ---------------------------------------------------------------------------------------------

def test_predict_from_arguments_table_and_stdin_agree(saved, table, tmp_path, capsys, monkeypatch):
    texts = list(pd.read_csv(table).note)
    assert main(["predict", "-m", str(saved), *texts]) == 0
    by_argument = capsys.readouterr().out
    out = tmp_path / "deep" / "predictions.csv"
    assert main(["predict", "-m", str(saved), "--data", table, "--text", "note", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and out.read_text() == by_argument
    code, printed, err = outside("predict", "-m", str(saved), input="\n".join(texts) + "\n\n")
    assert code == 0 and printed == by_argument, err
    frame = pd.read_csv(out)
    assert list(frame.columns) == ["text", "prediction", "probability"] and len(frame) == len(texts) and frame.probability.between(.5, 1).all()
    assert (frame.prediction == pd.read_csv(table).said).mean() > .8


@pytest.mark.parametrize("out", ["notes.csv", "link.csv", "hard.csv", "model/config.json", "model/finetune_book.json"])
def test_predict_never_overwrites_what_it_reads(saved, table, tmp_path, capsys, out):
    (tmp_path / "link.csv").symlink_to(table)
    (tmp_path / "hard.csv").hardlink_to(table)
    before = (tmp_path / out).read_bytes()
    assert main(["predict", "-m", str(saved), "--data", table, "--text", "note", "-o", str(tmp_path / out)]) == 2
    printed, err = capsys.readouterr()
    assert not printed and len(err.strip().splitlines()) == 1 and "is what is read" in err
    assert (tmp_path / out).read_bytes() == before


def test_a_sheet_and_a_base_are_inputs_too(saved, columns, tmp_path, capsys):
    book = tmp_path / "book.xlsx"
    book.touch()
    with pytest.raises(InputError, match="is what is read"): refuse_input(book, [None, f"{book}#notes"])
    refuse_input(tmp_path / "new.csv", [None, f"{book}#notes", "digits", "hf:a/b"])
    assert main(["train", *columns, "--base", str(saved), "-o", str(saved), "-q"]) == 2
    assert "is what is read" in capsys.readouterr().err


def test_lines_that_end_in_a_carriage_return_are_lines(saved, capsys, monkeypatch):
    for raw in (b"good\rbad\r", b"good\r\nbad\r\n", b"good\nbad\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        assert main(["predict", "-m", str(saved)]) == 0
        assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["text", "good", "bad"], raw


def test_what_predict_writes_can_be_read_again(saved, tmp_path, capsys):
    texts = ["a\rgood", "a\ngood", 'a "good", really', "a\r\ngood", "plain"]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    assert main(["predict", "-m", str(saved), "--data", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "out.csv")]) == 0
    assert list(read_table(tmp_path / "out.csv", label=None).text) == texts
    assert (tmp_path / "out.csv").read_bytes().startswith(b'text,prediction,probability\n"a\rgood",')


def test_lines_that_quotes_join_in_one_column_are_told(saved, tmp_path, capsys):
    (tmp_path / "one.csv").write_text('text\n"good\nbad"\ngood\n')
    (tmp_path / "two.csv").write_text('text,n\n"good\nbad",1\ngood,2\n')
    (tmp_path / "one.jsonl").write_text('{"text": "good\\nbad"}\n')
    for name, told in (("one.csv", True), ("two.csv", False), ("one.jsonl", False)):
        assert main(["predict", "-m", str(saved), "--data", str(tmp_path / name)]) == 0
        assert ("several lines in 1 of 2 rows, first in row 1" in capsys.readouterr().err) is told, name


def test_predict_into_a_closed_pipe_is_no_error(saved):
    line = f"{sys.executable} -c 'import sys; from finetune_book.cli import main; sys.exit(main())' predict -m {saved} good bad | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=REPO, timeout=60)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("estimator", ["__version__", "SVC", None, ["TextClassifier"]])
def test_predict_with_a_model_of_nobody(saved, tmp_path, capsys, estimator):
    shutil.copytree(saved, tmp_path / "m")
    told = json.loads((tmp_path / "m/finetune_book.json").read_text())
    (tmp_path / "m/finetune_book.json").write_text(json.dumps(told | {"estimator": estimator}))
    assert main(["predict", "-m", str(tmp_path / "m"), "good"]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.strip().splitlines()) == 1 and "not TextClassifier" in err


def test_predict_with_nothing_to_read(saved):
    code, out, err = outside("predict", "-m", str(saved), input="\n \n")
    assert code == 2 and out == "" and "nothing to read" in err


@pytest.mark.parametrize("raw, says", [(b"good\n\nbad\n", ["empty text in line 2"]), ("good\ncaf\u00e9\n".encode("latin-1"), ["not UTF-8", "line 2"]),
                                       (b"good\0bad\n", ["zero byte"])])
def test_predict_holds_standard_input_to_the_rules_of_tables(raw, says, saved, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    refused(capsys, ["predict", "-m", str(saved)], says)
    refused(capsys, ["predict", "-m", str(saved), "good", "caf\udce9"], ["argument 2", "half a character"])
    refused(capsys, ["predict", "-m", str(saved), "good", " "], ["empty text in argument 2"])


def test_predict_reads_many_lines_and_ends_without_a_word(saved):
    "More texts than the quick reader takes; with a byte-order mark, in a locale without é."
    done = subprocess.run([*START, "predict", "-m", str(saved)], input="\ufeff" + "bon caf\u00e9\n" * 70 + "\n", capture_output=True, encoding="utf-8",
                          env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(REPO)}, timeout=300)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("bon caf\u00e9,") == 70 and "\ufeff" not in done.stdout


def test_a_regressor_is_trained_and_recognised(tiny_base, tmp_path, capsys):
    pd.DataFrame({"text": ["good", "bad", "very good", "very bad"] * 8, "label": [4.5, 1.5, 5, 1] * 8}).to_csv(tmp_path / "stars.csv", index=False)
    args = ["train", "--data", str(tmp_path / "stars.csv"), "--regression", "--base", str(tiny_base), "--epochs", "2", "--max-length", "16", "--validation", "0", "-q"]
    assert main([*args, "-o", str(tmp_path / "m")]) == 0
    capsys.readouterr()
    assert main(["predict", "-m", str(tmp_path / "m"), "good", "bad"]) == 0
    frame = capsys.readouterr().out.splitlines()
    assert frame[0] == "text,prediction" and 0 < float(frame[1].split(",")[1]) < 6


def test_the_command_builds_no_grammar_that_notebooks_do_not_ask():
    code = "import sys; sys.argv[1:] = ['report', '--list']; from finetune_book.cli import main; code = main(); import nbformat; print(code, 'lark' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout
    assert out.splitlines()[-1] == "0 False"


def test_an_interrupted_training_is_one_line_and_code_six(columns, tiny_base, tmp_path):
    args = ["train", *columns, "--base", str(tiny_base), "--epochs", "9999", "--max-length", "16", "--validation", "0", "-o", str(tmp_path / "m")]
    with open(tmp_path / "err", "w") as err: run = subprocess.Popen([*START, *args], stdout=subprocess.PIPE, stderr=err, text=True, cwd=REPO)
    def told(): return (tmp_path / "err").read_text()
    end = time.monotonic() + 60
    while "epoch" not in told() and time.monotonic() < end: time.sleep(.1)  # the bar shows once training runs
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == 6 and out == "" and not (tmp_path / "m").exists()
    assert told().replace("\r", "\n").strip().splitlines()[-1] == "finetune-book: interrupted" and "Traceback" not in told()


# --- doctor --------------------------------------------------------------------------------------------------------

def test_doctor_names_the_fix_and_returns_one(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, lambda: doctor.check_memory(need_mb=10**9)))
    doctor.CHECKS[1].__name__ = "check_memory"
    assert main(["doctor"]) == 1
    good, bad, summary = capsys.readouterr().out.splitlines()
    assert good.startswith("ok    python") and bad.startswith("FAIL  memory") and "fix: close other programs" in bad and summary == "1 of 2 checks failed"


@pytest.mark.parametrize("check", [c for c in doctor.CHECKS if c is not doctor.check_kernel])
def test_each_check_answers_in_one_line(check):
    try: answer = check()
    except doctor.Ailment as e: answer = str(e); assert "fix: " in answer
    assert answer and "\n" not in answer


def test_an_offline_machine_is_told_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline by HF_HUB_OFFLINE" in doctor.check_hub()


def test_a_cache_that_cannot_be_written_is_an_ailment(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/proc/nowhere/hub")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(doctor.Ailment, match="fix: set HF_HOME"): doctor.check_cache()
