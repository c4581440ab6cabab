"The measurement of writers: prompts and answers are exchanged between its two tasks, a run goes on where it was, what is stored is whole."
import json

import numpy as np
import pytest

from finetune_book.data.tables import carried


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_generate")


def test_the_tasks_are_each_other_turned_round(script):
    few = script.notes("test").head(3)
    (prompts, records), (asked, texts) = (script.rows_of(task, few) for task in ("findings", "notes"))
    assert [p.strip() for p in prompts] == texts and [a.strip() for a in asked] == records
    assert [json.loads(r) for r in records] == [dict(condition=row.label, days=int(row.days)) for row in few.itertuples()]


def test_what_is_there_is_not_measured_again(script, tmp_path, monkeypatch):
    made = []
    class Writer:
        def untrained(self): return made.append("untrained") or self
        def fit(self, prompts, answers): return made.append(len(prompts)) or self
    monkeypatch.setattr(script, "writer", lambda *how, **settings: Writer())
    monkeypatch.setattr(script, "judged", lambda est, task, frame: [(1., 2, "", "")] * len(frame))
    for _ in range(2): script.measure(script.Stored(tmp_path / "g.csv", script.COLUMNS, ["task", "way", "seed", "row"]), "notes", (0, 1))
    assert made == ["untrained", script.LEARN, script.LEARN]


def test_another_base_is_measured_beside_them(script, tmp_path, monkeypatch):
    made = []
    class Writer:
        def untrained(self): return made.append("untrained") or self
        def fit(self, prompts, answers): return made.append(len(prompts)) or self
    monkeypatch.setattr(script, "writer", lambda *how, **settings: made.append(settings["base"]) or Writer())
    monkeypatch.setattr(script, "judged", lambda est, task, frame: [(1., 2, 1, 0)] * len(frame))
    kept = script.Stored(tmp_path / "g.csv", script.COLUMNS, ["task", "way", "seed", "row"])
    for _ in range(2): script.measure_base(kept, "NAME", "folder", (0, 1), "float32")
    assert made == ["folder", "untrained", "folder", script.FEW["n"], "folder", script.FEW["n"]]
    rows = kept.rows(dtype={})
    assert list(rows.way.unique()) == ["NAME, untrained", "NAME, lora"] and len(rows) == 3 * script.TEST


def test_what_is_stored_is_whole(script):
    kept = script.Stored(carried("base_models") / "generate.csv", script.COLUMNS, ["task", "way", "seed", "row"]).rows(dtype={})
    counts = kept.groupby(["task", "way"]).seed.nunique().to_dict()
    own = {(t, w): 1 if w == "untrained" else len(script.SEEDS) for t, ways in script.TASKS.items() for w in ways}
    assert counts.items() >= own.items()
    for task, way in counts.keys() - own.keys(): assert task == "findings" and counts[task, way] == (1 if way.endswith(", untrained") else len(script.SEEDS))
    assert (kept.groupby(["task", "way", "seed"]).row.nunique() == script.TEST).all() and np.isfinite(kept.bits).all()
    canaries = script.Stored(carried("base_models") / "canaries.csv", script.CANARIES, ["repeats", "seed"]).rows(dtype={})
    assert len(canaries) == len(script.REPEATS) * len(script.SEEDS) and (canaries["rank"] <= canaries.among).all()
