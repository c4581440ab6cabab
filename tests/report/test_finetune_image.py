"""The picture report end to end, on pictures small enough to train in seconds."""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_book.cli import main
from finetune_book.data.suits import suits
from finetune_book.report.params import parameters_of

SMALL = dict(base="scratch", size=16, epochs=1, batch_size=16)
WHERE = {"left": np.s_[:, :8], "right": np.s_[:, 8:]}


def save_pictures(folder, n=20, classes=tuple(WHERE), seed=0):
    "A folder of class folders: noise of 16 x 16 pixels that is brighter on one side. Returns its path as text."
    rng = np.random.default_rng(seed)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(n):
            picture = rng.integers(0, 156, (16, 16, 3)).astype(np.uint8)
            picture[WHERE[label]] += 100
            Image.fromarray(picture).save(folder / label / f"{i:02d}.png")
    return str(folder)


def report(tmp_path, data, out="out", **more):
    "Run the report through the command; its exit code and the folder it wrote to."
    pairs = [word for name, value in (SMALL | dict(data=data) | more).items() for word in ("-p", f"{name}={value}")]
    return main(["report", "finetune_image", "-q", *pairs, "--out", str(tmp_path / out)]), tmp_path / out


def refused(capsys, tmp_path, data, **more):
    "The one line with which the report refuses."
    code, out = report(tmp_path, data, **more)
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith("finetune-book: see ")]
    assert code == 2 and len(lines) == 1 and shown.out == "" and not (out / "finetune_image.html").exists(), shown.err
    return lines[0]


@pytest.fixture(scope="module")
def twice(tmp_path_factory, request):
    "Two runs with the same seed, the second in a forked kernel and from a CSV of the same pictures; the folders they wrote."
    tmp = tmp_path_factory.mktemp("twice")
    data = save_pictures(tmp / "set")
    rows = [(f"set/{label}/{i:02d}.png", label) for label in WHERE for i in range(20)]
    pd.DataFrame(rows, columns=["path", "label"]).to_csv(tmp / "set.csv", index=False)
    runs = [report(tmp, data, out="one")]
    request.getfixturevalue("warm_kernels")
    runs.append(report(tmp, tmp / "set.csv", out="two"))
    assert [code for code, _ in runs] == [0, 0]
    return [out for _, out in runs]


def test_it_writes_four_files_and_every_rung(twice):
    assert sorted(p.name for p in twice[0].iterdir() if not p.name.startswith(".")) == [f"finetune_image.{end}" for end in ("html", "ipynb", "json", "metrics.json")]
    run = json.loads((twice[0] / "finetune_image.json").read_text())
    assert run["parameters"]["size"] == 16 and run["seed"] == 0 and set(run["data"]) == {"train", "validation", "test"}
    assert list(run["metrics"]["ladder"]) == ["majority", "pixels + logistic regression", "frozen body", "fine-tuned"]
    assert run["metrics"]["ladder"]["majority"]["accuracy"] == .5 and run["metrics"]["ladder"]["pixels + logistic regression"]["accuracy"] == 1
    assert len(run["metrics"]["steps"]) == 4 and run["metrics"]["leaks"] == run["metrics"]["skipped"] == 0


def test_it_audits_and_judges(twice):
    run, page = json.loads((twice[0] / "finetune_image.json").read_text())["metrics"], (twice[0] / "finetune_image.html").read_text()
    assert {"leaks", "copies with different labels", "labels in doubt", "class balance", "size outliers", "shape outliers"} <= set(run["audit"]) and run["audit"]["leaks"] == 0
    assert run["calibration"]["T"] > 0 and list(run["calibration"]["table"]) == ["as trained", "after temperature"] and "100%" in run["abstention"]["accuracy"]
    assert all("exact McNemar p" in step["sentence"] for step in run["steps"].values())
    assert list(run["intervals"]) == ["frozen body, over test rows", "fine-tuned, over test rows", "fine-tuned minus frozen body, over test rows"]
    assert "no interval over seeds" in page and "allow_leakage=true" not in page


def test_the_same_seed_gives_the_same_numbers(twice):
    one, two = (json.loads((out / "finetune_image.json").read_text()) for out in twice)
    assert one["metrics"] == two["metrics"] and one["data"] == two["data"] and one["parameters"]["data"] != two["parameters"]["data"]


def test_every_figure_says_in_words_what_it_shows(twice):
    page = (twice[0] / "finetune_image.html").read_text()
    alts = re.findall(r'<img[^>]*\balt="([^"]*)"', page)
    assert len(alts) == page.count("data:image/png") >= 5 and all(alts)
    sheet = [a for a in alts if a.startswith("Contact sheet")]
    assert len(sheet) == 1 and "left, right" in sheet[0]
    wrong = [a for a in alts if "most confident mistakes" in a]
    assert len(wrong) == 1 and re.search(r"(left → right|right → left) 0\.\d\d", wrong[0])


@pytest.mark.usefixtures("warm_kernels")
def test_what_is_refused_can_be_allowed_knowingly(tmp_path, capsys):
    "A file that is no picture, then a test picture that is a larger copy of a training picture: each named, and each has its way on."
    save_pictures(tmp_path / "set" / "train"); save_pictures(tmp_path / "set" / "test", n=4, seed=1)
    (tmp_path / "set" / "train" / "left" / "00.png").write_bytes(b"no picture")
    Image.open(tmp_path / "set" / "train" / "left" / "03.png").resize((24, 24)).save(tmp_path / "set" / "test" / "left" / "zz.png")
    line = refused(capsys, tmp_path, tmp_path / "set")
    assert "00.png" in line and "skip_bad" in line
    line = refused(capsys, tmp_path, tmp_path / "set", skip_bad="true")
    assert all(word in line for word in ("leak", "test/left/zz.png", "train/left/03.png", "allow_leakage=true"))
    code, out = report(tmp_path, tmp_path / "set", skip_bad="true", allow_leakage="true")
    run, page = json.loads((out / "finetune_image.json").read_text()), (out / "finetune_image.html").read_text()
    assert code == 0 and run["metrics"]["skipped"] == 1 and run["metrics"]["leaks"] == 1
    assert sum(part["rows"] for part in run["data"].values()) == 40 + 8 + 1 - 1
    assert "1 pictures could not be read" in page and page.index("what each rung is worth") < page.index("Its test numbers are too good") < page.index("What came in, by split")
    assert "<h2" not in page[:page.index("Its test numbers are too good")] and "left/03.png" in page and run["metrics"]["audit"]["leaks"] > 0


@pytest.mark.usefixtures("warm_kernels")
def test_one_class(tmp_path, capsys): assert "1 class" in refused(capsys, tmp_path, save_pictures(tmp_path / "set", n=3, classes=("left",)))


@pytest.mark.usefixtures("warm_kernels")
@pytest.mark.parametrize("name, value, says", [("augment", "crop+twirl", "'twirl'"), ("size", 3, "at least 4"), ("batch_size", 1, "at least 2"), ("tune", "heads", "'head'")])
def test_settings_that_cannot_work(name, value, says, tmp_path, capsys):
    line = refused(capsys, tmp_path, "digits", **{name: value})
    assert name in line and str(value) in line and says in line


def test_what_suits_a_carried_set_is_said_by_its_card_and_by_no_template():
    assert suits("surface_defects", augment="crop", size=None, guises="none") == dict(augment="crop+flip+turn+color", size=48, guises="flip+turn") and suits("clinic_notes", group=None) == dict(group="patient")
    for source in (Path(__file__).parents[2] / "nbs/reports").glob("*.ipynb"):
        code = "".join(line for cell in json.loads(source.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []) for line in cell["source"])
        assert "surface_defects" not in code and "clinic_notes" not in code


def test_the_defaults_keep_any_label():
    "Mirrored digits would be other digits, so nothing is mirrored unless asked."
    defaults = {p.name: p.default for p in parameters_of("finetune_image")}
    source = (Path(__file__).parents[2] / "nbs/reports/finetune_image.ipynb").read_text(encoding="utf-8")
    assert 'suits(data, augment=\\"crop\\", size=None, guises=\\"none\\")' in source
    assert suits("digits", augment="crop", size=None, guises="none") == dict(augment="crop", size=None, guises="none")
    assert defaults["augment"] is None and defaults["allow_leakage"] is False and defaults["skip_bad"] is False and defaults["size"] is None
