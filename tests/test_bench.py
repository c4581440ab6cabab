"""`make bench` times ours against others in turns and writes one JSON; `make bench-small` runs the scripts of bench/."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nappers
import pytest

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "bench"))
from _timing import compare  # noqa: E402
from against import contests, run, show  # noqa: E402


# --- make ---------------------------------------------------------------------------------------------------------------

def make(folder, target, *words):
    shutil.copyfile(REPO / "Makefile", folder / "Makefile")
    done = subprocess.run(["make", "--no-print-directory", "-o", "setup", target, f"PY={sys.executable}", *words],
                          cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on the PATH")
def test_make_bench_small_runs_scripts_and_leaves_helpers_out(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/_helper.py").write_text("print('helper ran'); x = 5")
    assert make(tmp_path, "bench-small") == (0, "bench/ is empty\n")
    (tmp_path / "bench/one.py").write_text("from _helper import x; print(x)")
    assert make(tmp_path, "bench-small") == (0, "helper ran\n5\n")
    (tmp_path / "bench/another.py").write_text("raise SystemExit(1)")
    assert make(tmp_path, "bench-small")[0] == 2, "a script that fails is not passed over"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on the PATH")
def test_make_bench_hands_its_arguments_on(tmp_path):
    (tmp_path / "bench/against").mkdir(parents=True)
    (tmp_path / "bench/against/__main__.py").write_text("import sys; print(sys.argv[1:])")
    assert make(tmp_path, "bench", "ARGS=--quick --rounds 2") == (0, "['--quick', '--rounds', '2']\n")


# --- the run, with contestants that sleep -----------------------------------------------------------------------------

@pytest.fixture
def held(tmp_path, monkeypatch):
    "A function that holds a contest of sleepers: (exit code, results, lines of the diary)."
    monkeypatch.setenv("PYTHONPATH", str(Path(nappers.__file__).parent))
    for name in ("CONTESTS", "PREPARING"): monkeypatch.setattr(run, name, getattr(run, name))
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    def hold(*words, **others):
        out, diary = tmp_path / "out/results.json", tmp_path / "diary"
        code = nappers.run(diary, ["--out", str(out), *words], **others)
        return code, json.loads(out.read_text()), [line.split() for line in diary.read_text().splitlines()]
    return hold


def gone(pid):
    "Whether a process has ended, within a moment."
    for _ in range(100):
        try: os.kill(int(pid), 0)
        except ProcessLookupError: return True
        time.sleep(.05)


def test_contestants_take_turns(held, tmp_path, capsys):
    code, results, diary = held(b={}, c=dict(nap=.05, answers=["a", "x"]), rounds=3)
    assert code == 0 and results["complete"] and not results["quick"] and results["missing"] == []
    worked = [who for who, word, _ in diary if word == "round"]
    assert [word for _, word, _ in diary[:3]] == ["warm"] * 3 and worked == list("abcbcacab"), "the order turns"
    a, b, c = results["contests"][0]["contestants"]
    assert [len(e["seconds"]) for e in (a, b, c)] == [3, 3, 3] and min(c["seconds"]) >= .05
    assert all(len(e["cpu_s"]) == len(e["others"]) == 3 and e["peak_mb"] > 1 and e["warm_s"] >= 0 for e in (a, b, c))
    assert (b["agreement"], c["agreement"]) == (1., .5) and "answers" not in a and a["ours"] and not b["ours"]
    assert results["machine"]["cores"] == 2 and results["versions"]["torch"] == "2" and len(results["load_before"]) == 3
    assert len({pid for *_, pid in diary}) == 3 and all(gone(pid) for *_, pid in diary)
    said = capsys.readouterr().out
    assert "round 3 of 3" in said and "| title of c" in said and "0.500 agreement" in said
    assert not (tmp_path / "out/results.incomplete.json").exists()


@pytest.mark.parametrize("fails, rounds_done, says", [
    ("made", 0, "ValueError: cannot be made"), ("second", 1, "RuntimeError: the second round"),
    ("dies", 0, "ended with code 3: last words"),
])
def test_who_fails_is_named_and_the_others_go_on(held, capsys, fails, rounds_done, says):
    code, results, _ = held(b=dict(fails=fails), c={})
    a, b, c = results["contests"][0]["contestants"]
    assert code == 1 and results["complete"], "the exit code says that not all took part to the end"
    assert (len(a["seconds"]), len(b["seconds"]), len(c["seconds"])) == (2, rounds_done, 2)
    assert b["failed"] == says and says in capsys.readouterr().out


def test_who_cannot_take_part_is_named_with_the_remedy(held, monkeypatch, capsys):
    monkeypatch.setattr(run, "pins", lambda: {"no_such_package": "no_such_package==1.0"})
    code, results, _ = held(b=dict(needs=("no_such_package",)), c={})
    assert code == 0 and [e["name"] for e in results["contests"][0]["contestants"]] == ["a", "c"]
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("left out: title of b; ") and first.endswith("-m pip install no_such_package==1.0")
    assert results["missing"] == ["no_such_package"]


@pytest.mark.parametrize("now, busy", [([.2, 3., 3.], False), ([.6, 0., 0.], True), (None, False)])
def test_a_busy_machine_is_said(held, monkeypatch, capsys, now, busy):
    monkeypatch.setattr(run, "load", lambda: now)
    _, results, _ = held("--rounds", "1")
    assert results["busy"] is busy and results["load_before"] == now
    assert ("WARNING: the load is 0.6" in capsys.readouterr().out) is busy


def test_where_nothing_can_be_laid_out_it_ends_in_one_line(held, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAPPERS_NOTHING", "1")
    assert nappers.run(tmp_path / "diary", ["--out", str(tmp_path / "r.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "nothing could be laid out: OSError: no room"
    assert not (tmp_path / "r.json").exists()


def test_a_quick_look_is_small_and_is_not_kept(held, capsys):
    code, results, diary = held("--quick", rounds=5)
    assert code == 0 and results["quick"] and results["contests"][0]["settings"]["n"] == 1
    assert sum(word == "round" for _, word, _ in diary) == 2
    assert "a quick look" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="only a whole run is kept"): show.keep(results)
    with pytest.raises(SystemExit): run.main(["--quick", "--keep"])


def test_only_what_is_there(capsys):
    with pytest.raises(SystemExit, match="--only juggling: there is text_full, "): run.main(["--only", "juggling"])


SIGNALLED = """
import sys
sys.path[:0] = [{helpers!r}, {bench!r}]
import nappers
sys.exit(nappers.run({diary!r}, ["--out", {out!r}], rounds=1000, b=dict(nap=.05)))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_writes_what_is_there(tmp_path, signum):
    helpers, diary, out = Path(nappers.__file__).parent, tmp_path / "diary", tmp_path / "results.json"
    out.write_text("the last good one")
    code = SIGNALLED.format(helpers=str(helpers), bench=str(REPO / "bench"), diary=str(diary), out=str(out))
    running = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(helpers)}, text=True,
                               stdout=subprocess.PIPE)
    for line in running.stdout:
        if "round 3" in line: break
    running.send_signal(signum)
    said = running.stdout.read()
    assert running.wait(timeout=60) == 6 and f"interrupted; what is there lies in {tmp_path}" in said
    results = json.loads((tmp_path / "results.incomplete.json").read_text())
    assert not results["complete"] and len(results["contests"][0]["contestants"][0]["seconds"]) >= 2
    assert out.read_text() == "the last good one" and "load_after" in results
    assert all(gone(line.split()[2]) for line in diary.read_text().splitlines())
    with pytest.raises(SystemExit, match="only a whole run"): show.keep(results)


# --- the real contestants, in the smallest size ---------------------------------------------------------------------------

TINY = """
import json, sys
from pathlib import Path
from against.contests import CONTESTS
from against.prepare import MATERIALS, facts
from against.worker import answer, make
from importlib.util import find_spec
work = Path(sys.argv[1])
for name in ("texts", "many", "pictures", "model"): MATERIALS[name](work, dict(most=8, onnx=find_spec("onnxscript") is not None))
found = {}
for c in CONTESTS:
    if c.name == "predict_10000": continue                  # the same as predict_3000
    for one in c.contestants[:1] if c.name == "growing" else c.contestants:
        if not all(map(find_spec, one.needs)) or one.options.get("run") in ("estimator", "torch", "hf", "answer_hf"): continue
        small = dict(n=8, epochs=1, batch_size=4) if c.name != "start" else {}
        made = make(c.settings | one.options | small | dict(make=one.make, work=str(work)))
        if hasattr(made, "held"):
            made.held = {k: v[:4] for k, v in made.held.items()} if isinstance(made.held, dict) else made.held[:4]
        found[f"{c.name} {one.name}"] = answer(made, "round") | answer(made, "check")
print(json.dumps(dict(found=found, facts=facts())), file=open(work / "found.json", "w"))
"""


def test_the_real_contestants_do_their_work(tmp_path):
    "Eight rows each, all in one process: each does what it is asked, and answers in the same words."
    env = os.environ | {"PYTHONPATH": str(REPO / "bench"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TINY, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads((tmp_path / "found.json").read_text())
    found, facts = read["found"], read["facts"]
    assert {"text_full ours", "text_full loop", "text_head solved", "pictures ours", "pictures loop", "growing n1000",
            "predict_3000 ours", "predict_3000 pipeline", "start help", "start answer"} <= set(found)
    assert all(one["seconds"] > 0 and one["peak_mb"] > 1 for one in found.values())
    assert all(0 <= one["accuracy"] <= 1 and one["rows"] == 8 for name, one in found.items() if name.startswith(("text", "pict")))
    readers = [one["answers"] for name, one in found.items() if name.startswith("predict")]
    assert all(one == readers[0] for one in readers) and len(readers[0]) == 8
    assert set(facts) == {"machine", "versions"} and "torch" in facts["versions"] and "bfloat16" in facts["machine"]


def test_what_contestants_need_is_pinned_once():
    needed = {name for c in contests.CONTESTS for one in c.contestants for name in one.needs}
    assert needed == set(run.pins()) and all("==" in pin for pin in run.pins().values())
    assert all(c.contestants[0].ours and len({one.name for one in c.contestants}) == len(c.contestants) for c in contests.CONTESTS)


# --- the README ---------------------------------------------------------------------------------------------------------

MADE = dict(complete=True, quick=False, date="2026-01-31T10:00:00+00:00", busy=False, load_before=[.1, .2, .3], missing=[],
            machine=dict(cpu="a test", cores=2, bfloat16=True), versions=dict(torch="2", transformers="5"),
            contests=[dict(name="naps", title=contests.CONTESTS[0].title, compared=True, settings={}, contestants=[
                dict(name="a", title="ours", ours=True, seconds=[1., 2., 4.], others=[0., 0., 0.]),
                dict(name="b", title="HF Trainer, defaults", ours=False, seconds=[3., 2., 8.], others=[0., 0., 0.]),
                dict(name="c", title="lost", ours=False, seconds=[], others=[], failed="why")])])


def test_the_readme_shows_the_results_that_are_kept():
    "Written by `make bench ARGS=--keep`, or again by `python bench/against --readme`."
    for name, language in show.READMES.items():
        text = (REPO / name).read_text(encoding="utf-8")
        assert show.with_part(text, show.readme_part(show.kept(), language)) == text, f"{name}: python bench/against --readme"
    if show.kept() is not None: assert show.kept()["complete"] and not show.kept()["quick"]


def test_ratios_are_taken_inside_each_round():
    english = show.readme_part(MADE, "en")
    assert "| 2 (1–4) | HF Trainer, defaults | 3 (2–8) | **2 (1–3)** |" in english and "lost" not in english
    assert "median of 3 rounds" in english and "2026-01-31; load 0.1 before." in english
    assert "**other work was running**" in show.readme_part(MADE | dict(busy=True), "en")
    assert "failed" in show.table(MADE) and "| 2 (1–3) " in show.table(MADE)
    apart = MADE | dict(contests=[MADE["contests"][0] | dict(compared=False)])
    assert "HF Trainer" not in show.readme_part(apart, "en") and "2 (1–3)" not in show.table(apart), "other work, no ratio"


def test_what_more_data_costs_is_said_and_its_rounds_are_not_counted_among_the_others():
    sizes = [dict(name=f"n{n}", title="ours", ours=True, seconds=[s], others=[0.], rows=n, peak_mb=mb) for n, s, mb in ((1000, 7.09, 1352), (100_000, 741., 2460))]
    grown = MADE | dict(contests=[*MADE["contests"], dict(name="growing", title="more", compared=False, settings={}, contestants=[*sizes, sizes[0] | dict(seconds=[])])])
    english, chinese = (show.readme_part(grown, language) for language in ("en", "zh"))
    assert english.endswith("of the process: 1,000 texts 7.09 s, 1,352 MB; 100,000 texts 741 s, 2,460 MB.") and "median of 3 rounds" in english
    assert "100,000 条文本 741 秒、2,460 MB" in chinese and "More data" not in show.readme_part(MADE, "en")


@pytest.mark.parametrize("agreement, english, chinese", [
    (1., "(the same answers)", "(答案相同)"), (.9987, "(99.87% the same answers)", "(99.87% 的答案相同)"),
])
def test_answers_that_differ_are_said(agreement, english, chinese):
    made = json.loads(json.dumps(MADE))
    made["contests"][0]["contestants"][1]["agreement"] = agreement
    assert english in show.readme_part(made, "en") and chinese in show.readme_part(made, "zh")


def test_both_languages_have_the_same_rows():
    english, chinese = (show.readme_part(MADE, language) for language in ("en", "zh"))
    assert english.count("|") == chinese.count("|") and "HF Trainer，默认设置" in chinese and "ours" not in chinese
    assert all(c.zh and all(one.zh for one in c.contestants) for c in contests.CONTESTS)


def test_results_that_are_kept_go_into_both_readmes(tmp_path, monkeypatch):
    for name in show.READMES: shutil.copyfile(REPO / name, tmp_path / name)
    monkeypatch.setattr(show, "KEPT", tmp_path / "results.json")
    monkeypatch.setattr(show, "REPO", tmp_path)
    source = tmp_path / "made.json"
    source.write_text(json.dumps(MADE))
    assert run.main(["--readme", str(source)]) == 0 and json.loads((tmp_path / "results.json").read_text()) == MADE
    first = [(tmp_path / name).read_text() for name in show.READMES]
    assert "HF Trainer, defaults" in first[0] and "HF Trainer，默认设置" in first[1]
    assert run.main(["--readme"]) == 0 and [(tmp_path / name).read_text() for name in show.READMES] == first


def test_contests_left_out_stay_and_the_table_says_that_there_were_two_runs():
    def run_of(name, **facts): return MADE | dict(contests=[MADE["contests"][0] | dict(name=name, **facts)])
    first, second = run_of("a", date="2026-01-30", commit="111"), run_of("b", date="2026-01-31", commit="222") | dict(busy=False)
    both = show.joined(second, first | dict(busy=True, load_before=[.4, 0, 0]))
    assert [c["name"] for c in both["contests"]] == ["a", "b"] and both["busy"] and both["load_before"] == [.4, .2, .3]
    assert "Not all in one run: a on 2026-01-30 at 111; b on 2026-01-31 at 222." in show.readme_part(both, "en") and "一次" in show.readme_part(both, "zh")
    assert "Not all" not in show.readme_part(second, "en")
    assert show.joined(second, first | dict(machine=MADE["machine"] | dict(cores=9))) == show.joined(second, None) == second
    assert show.joined(run_of("a", commit="333"), first)["contests"][0]["commit"] == "333"


def test_a_readme_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="has no <!-- bench"): show.with_part("nothing", "part")


# --- timing inside one process --------------------------------------------------------------------------------------------

def test_compare_interleaves_and_gives_the_ratio(capsys):
    order = []
    def fast(): order.append("fast"); time.sleep(.002)
    def slow(): order.append("slow"); time.sleep(.02)
    found = compare({"fast": fast, "slow": slow}, rounds=4, at_least_s=0, title="naps")
    assert order[-8:] == ["fast", "slow", "slow", "fast"] * 2, "one of each a round, the order turning"
    assert len(found["slow"]["seconds"]) == 4 and found["fast"]["ratio"] == 1 and found["slow"]["ratio"] > 1.5
    said = capsys.readouterr().out
    assert said.startswith("naps\n") and "times as long" in said and len(said.splitlines()) == 3


def test_short_functions_are_repeated():
    calls = []
    compare({"a": lambda: calls.append(1), "b": lambda: time.sleep(.001)}, rounds=1, at_least_s=.005)
    assert len(calls) > 100


@pytest.mark.parametrize("fns, rounds, says", [({"a": int}, 3, "at least 2"), ({"a": int, "b": int}, 0, "rounds=0")])
def test_compare_refuses(fns, rounds, says):
    with pytest.raises(ValueError, match=says): compare(fns, rounds)
