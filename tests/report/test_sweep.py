"""Sweeps: what a failing, killed or interrupted run costs, what is refused, and what a hostile text can do (nothing)."""
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from reports import SWEPT

from finetune_book.cli import main
from finetune_book.report.gallery import publish_gallery
from finetune_book.report.page import TOGGLE
from finetune_book.report.pool import share_of
from finetune_book.report.sweep import RunsFailed, run_sweep
from finetune_book.report.sweep_page import number_to_compare

REPO = Path(__file__).parents[2]
HOSTILE = "<script>document.title='owned'</script> $x$ </style> ![](http://example.org/a.png) \"q\" 'r' 中文 ../up"
START = [sys.executable, "-c", "import sys; from finetune_book.cli import main; sys.exit(main())"]


class Page(HTMLParser):
    "What a browser would act on: tags that run or load, links, pictures without alt text."
    def __init__(self, text):
        super().__init__()
        self.active, self.links, self.silent, self.images = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.active += [tag] if tag in ("iframe", "object", "embed", "link", "base", "form") else []
        self.active += [f"{tag} {k}={v[:40]}" for k, v in attrs.items() if k.startswith("on") or k in ("src", "srcset", "poster") and not v.startswith("data:")]
        self.links += [attrs["href"]] if tag == "a" else []
        self.images += tag == "img"
        self.silent += [attrs] if tag == "img" and not attrs.get("alt", "").strip() else []


def harmless(path):
    "The page at a path, proved to fetch nothing and to run only our own script; links lead to files that are there."
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.active == [] and page.silent == [] and text.count("<script") == 1 and f"<script>{TOGGLE}</script>" in text
    assert [link for link in page.links if not (path.parent / unquote(link)).is_file()] == []
    return page, text


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    "A finished sweep of two settings and two seeds, with a hostile text in every run, and what the command said."
    out = tmp_path_factory.mktemp("sweep")
    done = subprocess.run([*START, "sweep", str(SWEPT), "-p", "lr=1e-3,1e-2", "-p", f"note={quoted(HOSTILE)}", "--seeds", "2", "--out", str(out), "--json"],
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=600)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(e["event"], e["status"], e["ended"], e["of"]) for e in events] == [("run", "done", n, 4) for n in (1, 2, 3, 4)]
    return out, json.loads(done.stdout)


def quoted(text): return f"[{text}]"   # brackets keep commas and quotes together; in a text they stay


# --- a sweep that goes well ----------------------------------------------------------------------------------------


def test_the_comparison_is_right(swept):
    out, found = swept
    assert [r["status"] for r in found["runs"]] == ["done"] * 4 and found["metric"] == "accuracy" and found["seeds"] == [0, 1]
    a, b = found["comparison"]
    assert (a["seeds"], a["lr"], b["lr"]) == (2, "0.001", "0.01") and a["std over seeds"] > 0
    [diff] = found["differences"]
    assert diff["settings"] == "2 minus 1" and abs(diff["difference"] - .036) < 1e-12 and abs(b["mean"] - a["mean"] - .036) < 1e-12


def test_each_run_keeps_to_its_share_of_the_cores(swept):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {r["numbers"]["threads"] for r in swept[1]["runs"]} == {1} and share_of(cores, cores) == 1


def test_the_page_is_one_harmless_file(swept):
    page, text = harmless(swept[0] / "swept-sweep/sweep.html")
    assert len([link for link in page.links if link.startswith("runs/")]) == 4 and page.images == 1
    assert "&lt;script&gt;document.title" in text and "MathJax" not in text


def test_what_is_done_is_not_run_again(swept, capsys):
    out, _ = swept
    home = out / "swept-sweep"
    stamps, page = {p: p.stat().st_mtime_ns for p in home.glob("runs/*/swept.json")}, (home / "sweep.html").read_bytes()
    done = run_sweep(SWEPT, {"lr": [.001, .01], "note": quoted(HOSTILE)}, 2, out, progress=False)
    assert done.done_before == 4 and (home / "sweep.html").read_bytes() == page
    assert {p: p.stat().st_mtime_ns for p in home.glob("runs/*/swept.json")} == stamps
    args = ["sweep", str(SWEPT), "-p", "lr=.001,.01", "-p", f"note={quoted(HOSTILE)}", "--seeds", "2", "--out", str(out), "--metric", "acuracy"]
    assert main(args) == 2 and "Did you mean 'accuracy'" in capsys.readouterr().err
    assert main([*args[:-2], "-q"]) == 0 and capsys.readouterr().out.strip() == str(home / "sweep.html")


def test_the_gallery_lists_it_and_is_stable(swept, capsys):
    out = swept[0]
    for end in ("html", "ipynb", "json", "metrics.json"):   # a run of the sweep stands in for a report
        source = next(out.glob(f"swept-sweep/runs/*/swept.{end}"))
        (out / f"swept.{end}").write_bytes(source.read_bytes())
    (out / "other.failed.html").write_text('<div class="notice" role="alert"><p><strong>x</strong></p><p>row 3 is &lt;b&gt;broken</p><p>')
    for name, text in (("a.json", "{"), ("b.json", "[1]"), ("c.json", '{"schema": 2}')): (out / name).write_text(text)
    assert main(["gallery", str(out)]) == 0 and capsys.readouterr().out.strip() == str(out / "index.html")
    page, text = harmless(out / "index.html")
    assert set(page.links) == {"swept.html", "swept-sweep/sweep.html", "other.failed.html"} and "row 3 is &lt;b&gt;broken" in text
    assert "[0.6, 0.8]" in text and page.images == 1 and publish_gallery(out).read_text() == text


# --- runs that fail ------------------------------------------------------------------------------------------------


def test_failures_lose_nothing_else(tmp_path, capsys):
    "An error and a refused input are not tried again; a kernel that was killed is, once, and may succeed."
    args = ["sweep", str(SWEPT), "-p", "fault=error,input,kill,once", "-p", "seed=1", "-p", f"marks_dir={tmp_path}", "--out", str(tmp_path / "out"), "-q"]
    assert main(args) == 3
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("finetune-book: 3 of 4 runs failed, the first with:") and "sweep.html" in printed.err
    found = json.loads((tmp_path / "out/swept-sweep/sweep.json").read_text())
    went = {s["fault"]: (r["status"], r["attempts"], r["exit_code"]) for r, s in zip(found["runs"], found["settings"], strict=True)}
    assert went["error"] == ("failed", 1, 3) and went["input"] == ("failed", 1, 2) and went["kill"] == ("failed", 2, 4)
    assert went["once"] == ("done", 2, 0)
    assert [p.parent.name for p in (tmp_path / "out").rglob("*.failed.html") if "once" in p.parent.name] == []
    page, text = harmless(tmp_path / "out/swept-sweep/sweep.html")
    assert "row 3 is &lt;b&gt;broken" in text and "rows.csv: no such file" in text and sum("failed.html" in link for link in page.links) == 3


@pytest.mark.parametrize("codes, expected", [([2], 2), ([3, 3], 3), ([4], 4), ([5, 5], 5), ([-9], 4), ([1], 4), ([2, 3], 3), ([7], 7)])
def test_the_exit_code_of_failed_runs(codes, expected):
    rows = [{"status": "failed", "exit_code": c, "error": "x"} for c in codes] + [{"status": "done", "exit_code": 0, "error": ""}]
    assert RunsFailed({"runs": rows}, None).exit_code == expected


# --- interruption --------------------------------------------------------------------------------------------------


def alive(pid): return Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc whether a process lives")
def test_an_interrupted_sweep_ends_its_children_keeps_what_is_done_and_goes_on(tmp_path):
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    args = ["sweep", str(SWEPT), "-p", "fault=sleep", "-p", f"marks_dir={marks}", "--seeds", "2", "--jobs", "2", "--out", str(out), "-q"]
    mark, done = marks / "began 0.001 1", lambda: list(out.glob("swept-sweep/runs/*seed-0*/swept.json"))
    for number in (signal.SIGINT, signal.SIGKILL):
        mark.unlink(missing_ok=True)
        stamps = [p.stat().st_mtime_ns for p in done()]
        process = subprocess.Popen([*START, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPO)})
        try:
            wait_for(lambda: mark.exists() and mark.read_text() and done())
            kernel = int(mark.read_text())
            assert alive(kernel) and (not stamps or stamps == [p.stat().st_mtime_ns for p in done()]), "the run that was done is not repeated"
            process.send_signal(number)
            printed, said = process.communicate(timeout=40)
            if number == signal.SIGINT:
                assert process.returncode == 6 and printed == "" and "SIGINT" in said and not alive(kernel)
                assert "1 done, 1 not run" in harmless(out / "swept-sweep/sweep.html")[1]
            elif sys.platform == "linux": wait_for(lambda: not alive(kernel), 20)
        finally: process.kill()


# --- what is refused, before anything runs -------------------------------------------------------------------------


@pytest.mark.parametrize("args, says", [
    (["-p", "nots=1"], "Did you mean 'note'?"), (["-p", "lr=1e-3,fast"], "a finite number"), (["-p", "lr=1e-3,2"], "at most 1"), (["-p", "lr=1e-3,"], "a finite number"),
    (["-p", "lr=.1,1e-1"], "there twice"), (["-p", "lr=.1", "-p", "lr=.2"], "given twice"), (["-p", "lr"], "name=value"), (["-p", "fault=non,kill"], "Did you mean 'none'"),
    (["-p", "note='a,b"], "' is missing"), (["-p", "note=f(a"], ") is missing"), (["--seeds", "0"], "at least 1"), (["-p", "seed=1,2", "--seeds", "2"], "not both"),
    (["--jobs", "0"], "at least 1"), (["--name", "../up"], "without folders"), (["--scheduler", "tcp://127.0.0.1:1"], "Dask")])
def test_a_mistake_is_one_line(args, says, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["sweep", str(SWEPT), *args, "--out", str(out), "-q"]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and len(printed.err.strip().splitlines()) == 1 and printed.out == "" and not list(out.rglob("*.html"))


def test_help_shows_commands_to_copy(capsys):
    for command in ("sweep", "gallery"):
        assert main([command, "--help"]) == 0 and f"finetune-book {command} " in capsys.readouterr().out
    assert main(["gallery", "no/such/folder"]) == 2


def test_the_number_to_compare():
    assert number_to_compare({}, {}) is None and number_to_compare({"x": 1}, {"ladder": {}}) == "x" and number_to_compare({"x": 1}, {"ladder": [1]}) == "x"


# --- a cluster -----------------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_and_doubles_no_run(tmp_path):
    "A real scheduler and two workers on this machine; one is killed while it works."
    pytest.importorskip("distributed", reason="distributed is not installed (pip install distributed); --scheduler needs it")
    env, host = os.environ | {"PYTHONPATH": str(REPO)}, tmp_path / "scheduler.json"
    def start(*args): return subprocess.Popen([sys.executable, "-m", *args], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    servers = [start("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(host))]
    try:
        wait_for(host.exists)
        worker = ("distributed.cli.dask_worker", "--scheduler-file", str(host), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        servers += [start(*worker), start(*worker)]
        args = [*START, "sweep", str(SWEPT), "--seeds", "3", "-p", f"marks_dir={tmp_path}", "--out", str(tmp_path / "out"), "-q", "--json",
                "--scheduler", json.loads(host.read_text())["address"]]
        done = subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: list(tmp_path.glob("began *")))
        servers[1].kill()
        out, err = done.communicate(timeout=600)
        assert done.returncode == 0, err
        found = json.loads(out)
        assert [r["status"] for r in found["runs"]] == ["done"] * 3 and len(list((tmp_path / "out/swept-sweep/runs").iterdir())) == 3
    finally:
        for server in servers: server.kill(); server.wait()
