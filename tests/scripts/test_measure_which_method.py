"The measurement behind the report which_method: a run goes on where it was stopped, every method gets the same, what it stored is whole."
import numpy as np
import pandas as pd
import pytest

from finetune_book.data.tables import carried


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_which_method")


@pytest.fixture
def toy(script, monkeypatch):
    "What the trainings of a toy set were asked for; nothing is trained."
    asked, x = [], np.arange(8)
    def trained(kind, settings, few, test):
        asked.append((settings, few, test))
        return dict(accuracy=".75000", moved=3, parameters=9, seconds="1.0", peak_mb=5, saved_bytes=7, settings="lr=1 epochs=2", right="1101")
    monkeypatch.setattr(script, "read_sets", lambda told: {"clinic_notes": ("text", (x, np.array(list("abababab"))), (x[:4], np.array(list("abab"))))})
    monkeypatch.setattr(script, "in_fresh_process", lambda work, *given: trained(*given))
    return asked


def test_each_training_is_one_row_and_a_killed_run_goes_on(script, toy, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    told = ["--out", str(out), "--rows", "2", "16", "--methods", "head", "lora"]
    script.main([*told, "--seeds", "0"])
    out.write_text(out.read_text() + "text,clinic_notes,book-bert,lo")              # killed while it wrote
    script.main([*told, "--seeds", "0", "1"])
    rows = script.Stored(out, script.COLUMNS, script.KEY).rows()
    assert len(toy) == len(rows) == 8 and not rows.duplicated(script.KEY).any() and set(rows.right) == {"1101"}
    assert rows[["rows", "drawn", "n_train"]].drop_duplicates().values.tolist() == [[2, 2, 4], [16, 4, 8]] and "book-bert" in capsys.readouterr().out


def test_all_methods_of_a_seed_learn_from_the_same_rows_and_take_as_many_steps(script, toy, tmp_path):
    script.main(["--out", str(tmp_path / "rows.csv"), "--rows", "2", "--seeds", "3", "4"])
    for seed in (3, 4):
        few = [(settings["tune"], settings["epochs"], [*f[0]]) for settings, f, _ in toy if settings["seed"] == seed]
        assert {m for m, *_ in few} == set(script.METHODS) and len({tuple(f) for *_, f in few}) == 1
        assert {e for m, e, _ in few if m != "head"} == {script.STEPS["text"]} and dict((m, e) for m, e, _ in few)["head"] is None
    for n, epochs in ((32, 30), (160, 6), (2500, 1)): assert script.settings_of("text", "b", "full", 0, n)["epochs"] == epochs
    assert script.settings_of("pictures", "b", "lora", 0, 96, 64) == dict(base="b", tune="lora", epochs=33, seed=0, verbose=0, size=64)


def test_of_a_file_with_other_columns_and_a_set_nobody_knows_one_line_is_said(script, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(script.InputError, match="name another --out"): script.Stored(tmp_path / "rows.csv", script.COLUMNS, script.KEY)
    with pytest.raises(SystemExit): script.main(["--only", "clinic"])
    assert "there are clinic_notes" in capsys.readouterr().err


def test_one_note_of_each_patient_is_judged(script):
    table = pd.read_csv(carried("clinic_notes") / "test.csv")
    texts, labels = script.some("clinic_notes", (table.text.to_numpy(object), table.label.to_numpy(str)))
    chosen = table[table.text.isin(texts)]
    assert len(texts) == len(labels) == table.patient.nunique() == chosen.patient.nunique()
    many = np.arange(2000)
    assert len(script.some("sst2", (many, many))[0]) == script.TESTED and script.some("sst2", (many, many))[0].tolist() == script.some("sst2", (many, many))[1].tolist()


def test_what_is_stored_is_whole(script):
    rows = script.Stored(carried("base_models") / "which_method.csv", script.COLUMNS, script.KEY).rows()
    assert not rows.duplicated(script.KEY).any() and (rows.right.str.len() == rows.n_test).all()
    assert np.allclose(rows.right.map(lambda r: r.count("1") / len(r)), rows.accuracy, atol=1e-5)
    assert ((rows.moved == rows.parameters) == (rows.method == "full")).all() and (rows.drawn <= rows.rows).all()
    assert rows.groupby(["set", "n_test"]).ngroups == rows["set"].nunique() and (rows.groupby(["set", "seed", "rows"]).n_train.nunique() == 1).all()
    for base in set(rows.base) & set(script.BASES.values()):
        assert set(rows.base_sha[rows.base == base]) == {script.sha_of(base)}, "measure it again: python scripts/measure/measure_which_method.py"
