"""The wheel: holds what the book carries, and works in an empty environment, in an empty folder, far from the checkout."""
import csv
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def below(folder): return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def copy_tree(where):
    "The checkout as a fresh clone has it, near enough; building in it leaves ours alone."
    where.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "settings.ini"):
        if (REPO / name).exists(): shutil.copyfile(REPO / name, where / name)
    for name in ("finetune_book", "data", "nbs/reports"):
        shutil.copytree(REPO / name, where / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".last_checked"))
    return where


def pip(*args):
    done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built as `pip wheel` builds it; setuptools comes from the lock, so no network is needed."
    folder, before = tmp_path_factory.mktemp("wheel"), {p.name for p in REPO.iterdir()}
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "out", copy_tree(folder / "tree"))
    found = list((folder / "out").glob("*.whl"))
    assert "build" in before or not (REPO / "build").exists(), "building the wheel left build/ in the checkout"
    assert len(found) == 1 and found[0].name.startswith("finetune_book-") and found[0].name.endswith("-py3-none-any.whl")
    return found[0]


def test_the_wheel_holds_every_module_data_file_and_template(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"finetune_book/{m}" for m in below(REPO / "finetune_book") if m.endswith(".py")}
    data = {f"finetune_book/data_files/{m}" for m in below(REPO / "data")}
    templates = {f"finetune_book/report_templates/{p.name}" for p in (REPO / "nbs/reports").glob("*.ipynb")}
    assert modules - held == set(), "list each subpackage under [tool.setuptools] packages"
    assert data - held == set() and len(data) > 5
    assert templates - held == set() and {f"finetune_book/report_templates/finetune_{kind}.ipynb" for kind in ("text", "image")} <= held
    code = {n for n in held if ".dist-info/" not in n}
    assert code - modules - data - templates == {"finetune_book/report_templates/__init__.py"}, "the wheel holds what it should not"


def test_the_wheel_is_small(wheel): assert wheel.stat().st_size < 60_000_000


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """(python of a fresh environment with the wheel in it, an empty folder).

    The locked packages are seen through a .pth file instead of being downloaded again. It adds their folder and does not
    read the .pth files in it, so our own editable install stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = {k: Path(subprocess.check_output([python, "-c", f"import sysconfig; print(sysconfig.get_path({k!r}))"], text=True).strip()) for k in ("purelib", "data")}
    (where["purelib"] / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # What these packages install outside site-packages: nbconvert's templates.
    shared = Path(sysconfig.get_path("data")) / "share/jupyter/nbconvert"
    if shared.exists(): shutil.copytree(shared, where["data"] / "share/jupyter/nbconvert")
    (folder / "empty").mkdir()
    return python, folder / "empty"


def run(installed, *command):
    python, folder = installed
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER", "VIRTUAL_ENV", "IN_TEST", "COV_"))}
    env = {**keep, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([python.parent / command[0], *command[1:]], cwd=folder, env=env, capture_output=True, text=True, timeout=400)


def test_the_library_its_data_and_its_base_come_from_the_wheel(installed):
    code = ("import finetune_book; from finetune_book import TextClassifier; from finetune_book.data.tables import carried, read_splits; "
            "print(finetune_book.__file__, carried('book-bert'), carried('clinic_notes')); "
            "print(TextClassifier().get_params()['base'], {k: len(v) for k, v in read_splits('clinic_notes').items()})")
    done = run(installed, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    places, said = done.stdout.splitlines()
    assert all(Path(p).is_relative_to(installed[0].parent.parent) for p in places.split()) and said.startswith("book-bert ") and "train" in said


def test_pictures_train_and_predict(installed):
    "The carried pictures and the carried base, from the wheel; then the command on files of the user's own."
    code = """
import finetune_book.vision.classifier as home
from finetune_book import ImageClassifier
from finetune_book.data.sets import surface_defects
from PIL import Image
pictures, table = surface_defects.load("train")
for i in range(24):
    folder = home.Path("belt") / table.label[i]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures[i]).save(folder / f"{i}.png")
clf = ImageClassifier(tune="head", epochs=1, verbose=0).fit(pictures[:64], table.label[:64])
print(home.__file__, clf.get_params()["base"], len(clf.predict(pictures[64:72])))
"""
    done = run(installed, "python", "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    where, base, n = done.stdout.split()
    assert Path(where).is_relative_to(installed[0].parent.parent) and (base, n) == ("book-resnet", "8")
    done = run(installed, "finetune-book", "train", "-q", "--data", "belt", "--epochs", "1", "--validation", "0", "--out", "eyes")
    assert done.returncode == 0 and (installed[1] / "eyes" / "model.safetensors").exists(), done.stderr[-3000:]
    done = run(installed, "finetune-book", "predict", "--model", "eyes", "--data", "belt")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 25, done.stderr[-3000:]


def test_the_version_is_the_wheels(installed, wheel):
    done = run(installed, "finetune-book", "--version")
    assert done.returncode == 0 and done.stdout.split()[-1] == wheel.name.split("-")[1]


def test_the_main_job_runs(installed):
    "A report on the user's own small table, with the carried base, one epoch."
    words = {"inn": "room bed breakfast noise shower window staff towel lobby key pillow view pool lift garden".split(),
             "film": "plot actor scene music camera ending hero script cut drama stage laugh dialogue story star".split()}
    pick = random.Random(0)
    notes = [(" ".join(pick.choices(words[label], k=9)), label) for label in words for _ in range(60)]
    with open(installed[1] / "reviews.csv", "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows([("text", "label"), *notes])
    done = run(installed, "finetune-book", "report", "finetune_text", "-p", "data=reviews.csv", "-p", "epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    page = Path(done.stdout.strip().splitlines()[-1])
    page = page if page.is_absolute() else installed[1] / page
    assert page.suffix == ".html" and page.is_relative_to(installed[1]) and page.with_suffix(".json").exists()
    html = page.read_text(encoding="utf-8")
    assert "<title>" in html and 'src="http' not in html
