"The synthetic clinic notes: rebuilt to the byte, fair by construction, no short cut to the label."
import hashlib
import random
import re
import subprocess
import sys

import pandas as pd
import pytest

from finetune_book.data.sets import clinic_notes as cn
from finetune_book.checks import InputError
from finetune_book.data.splits import find_leaks

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(repo):
    return repo / "data" / "clinic_notes"


@pytest.fixture(scope="module")
def frames(folder):
    return {s: pd.read_csv(folder / f"{s}.csv") for s in (*SPLITS, "unlabelled")}


def plans(n=200, seed=3):
    "Plans of every label, each for a fresh patient."
    rng = random.Random(seed)
    for label in cn.CONDITIONS:
        for _ in range(n):
            patient = cn.new_patient(rng, "P00000", "train")
            yield label, cn.present(rng, label) + cn.absent(rng, label) + cn.context(rng, label, patient)


def test_one_command_rebuilds_the_carried_bytes(tmp_path, folder):
    run = subprocess.run([sys.executable, "-m", "finetune_book.data.sets.clinic_notes", "--out", str(tmp_path / "new" / "notes")],
                         capture_output=True, text=True, cwd=folder.parent.parent)
    assert run.returncode == 0, run.stderr
    made = {p.name: p.read_bytes() for p in (tmp_path / "new" / "notes").iterdir()}
    assert set(made) == {"train.csv", "validation.csv", "test.csv", "unlabelled.csv", "README.md"}
    for name, content in made.items():
        assert content == (folder / name).read_bytes(), f"{name} differs from the carried file: run the command and commit"
        assert b"\r" not in content
        if name.endswith(".csv"): assert f"{hashlib.sha256(content).hexdigest()}  {name}" in run.stdout


def test_another_seed_is_another_clinic_and_the_global_stream_stays(tmp_path):
    random.seed(5)
    before = random.getstate()
    small = {"train": 40, "test": 20}
    a, b, c = (cn.write_clinic_notes(tmp_path / str(i), seed, small) for i, seed in enumerate((0, 0, 1)))
    assert a == b and a != c
    assert random.getstate() == before


def test_every_plan_has_one_answer_and_never_names_it():
    for label, plan in plans():
        assert cn.answer(plan) == [label]
        assert not any(m.status == "now" and m.kind == "name" for m in plan)
        said = [(m.condition, m.kind, m.finding) for m in plan]
        now = {(m.condition, m.kind, m.finding) for m in plan if m.status == "now"}
        assert not any((m.condition, m.kind, m.finding) in now for m in plan if m.status in ("denied", "past", "excluded")), said


def test_every_condition_has_enough_to_say():
    assert len(cn.CONDITIONS) == 10
    for name, c in cn.CONDITIONS.items():
        assert len(c.told) >= 3 and len(c.found) >= 2 and cn.shared_by(name), name
        for part in (c.names, c.helped, *c.told.values(), *c.found.values()):
            assert len(part.train) >= 2 and len(part.validation) >= 1 and len(part.test) >= 2, part
    known = set(cn.CONDITIONS)
    assert all(set(f.conditions.split(", ")) <= known for f in cn.SHARED.values())


def test_templates_of_all_voices_fill():
    parts = dict(X="XX", L="LL", who="WW", dur="DD", rel="RR", year="YY", age="1", sex="F", person="PP", n="N", unit="U", short="S")
    slot = {k: "X" for k in cn.TEMPLATES} | {"denied": "L", "absent": "L", "but": "L", "who": "age", "dur": "unit", "filler": None}
    for kind, f in cn.TEMPLATES.items():
        texts = [t.format(**parts) for voice in f for t in voice]
        assert len(set(texts)) == len(texts), kind
        if kind not in ("filler", "who", "dur"): assert all(parts[slot[kind]] in t for t in texts), kind


def test_training_never_uses_a_held_out_phrase(frames):
    text = " ".join(frames["train"].text).lower()
    bank = [f for c in cn.CONDITIONS.values() for f in (c.names, c.helped, *c.told.values(), *c.found.values())]
    common = " ; ".join(p.lower() for f in bank + [s.forms for s in cn.SHARED.values()] for p in f.train)
    held = [p.lower() for f in bank for p in f.validation + f.test if p.lower() not in common]
    assert len(held) > 200
    assert [p for p in held if re.search(rf"\b{re.escape(p)}\b", text)] == []


def test_splits_share_no_patient_and_no_note(frames):
    leaks = find_leaks({s: d.rename(columns={"patient": "group"}) for s, d in frames.items()})
    assert leaks.empty, leaks.head()


def test_counts_columns_and_size(frames, folder):
    assert {s: len(d) for s, d in frames.items()} == cn.SIZES
    for s in SPLITS:
        assert list(frames[s].columns) == ["patient", "text", "label", "days"]
        share = frames[s].label.value_counts(normalize=True)
        assert set(share.index) == set(cn.CONDITIONS) and .04 < share.min() and share.max() < .2
        assert frames[s].groupby("patient").size().mean() > 2
        assert 24 < frames[s].text.str.split().str.len().mean() < 34
    assert list(frames["unlabelled"].columns) == ["patient", "text"]
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3_200_000


def test_days_stand_in_the_text(frames):
    unit = {"day": 1, "days": 1, "week": 7, "weeks": 7}
    numbers = {w: i for i, w in enumerate(cn.NUMBERS)} | {str(i): i for i in range(9)}
    d, found = frames["train"], 0
    for text, days in zip(d.text, d.days):
        times = [numbers[n] * unit[u] for n, u in re.findall(r"\b(\w+) (days?|weeks?)\b", text) if n in numbers]
        times += [int(n) * (1 if of == "7" else 7) for n, of in re.findall(r"x (\d)/(7|52)", text)]
        assert set(times) <= {days}, (text, days)
        found += days in times
    assert found / len(d) > .95  # the rest has a typo in the number


def test_durations_do_not_depend_on_the_label(frames):
    d = pd.concat([frames[s] for s in SPLITS])
    means = d.groupby("label").days.mean()
    assert (means - d.days.mean()).abs().max() < 4 * d.days.std() / d.groupby("label").size().min() ** .5


@pytest.mark.parametrize("sizes, said", [({"train": -1}, "-1"), ({"tests": 3}, "tests"), ({"test": 1.5}, "1.5"), ({"test": True}, "True")])
def test_bad_sizes_are_refused(sizes, said):
    with pytest.raises(InputError, match=re.escape(said)): cn.make_clinic_notes(sizes=sizes)


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert cn.main(["--out", str(tmp_path / "file")]) == 2
    line = capsys.readouterr().err.strip()
    assert line.count("\n") == 0 and "file" in line and "folder" in line


def test_order_of_letters_and_weights():
    rng = random.Random(0)
    draws = [cn.weighted(rng, {"a": 1, "b": 0, "c": 3}) for _ in range(4000)]
    assert "b" not in draws and abs(draws.count("c") / 4000 - .75) < .03
    assert sorted(cn.shuffled(rng, range(10))) == list(range(10)) and cn.shuffled(rng, []) == []
