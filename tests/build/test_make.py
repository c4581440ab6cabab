"""The Makefile: builds .venv once, again when it is stale or half built, never with a wrong Python.

A tiny book with an empty lock stands in for ours, so that nothing is downloaded.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on the PATH")

# A build backend in the tree, so that `pip install -e .` needs neither setuptools nor a network.
BACKEND = '''
import zipfile, os
def _wheel(folder):
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        z.writestr("tiny.pth", os.getcwd())
        z.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        z.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        z.writestr("tiny-1.0.dist-info/RECORD", "")
    return name
def build_editable(wheel_directory, config_settings=None, metadata_directory=None): return _wheel(wheel_directory)
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None): return _wheel(wheel_directory)
'''
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "tiny"\nversion = "1.0"\n'


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "tools/setup.sh", "_quarto.yml"): shutil.copyfile(REPO / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    return tmp_path


def make(where, *args, path=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PYTHON", "TORCH_INDEX"))}
    if path: env["PATH"] = path
    done = subprocess.run(["make", *args], cwd=where, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def marked(tiny):
    "Leave a file in .venv: it is gone once .venv is built again."
    (tiny / ".venv/mark").touch()
    return lambda: not (tiny / ".venv/mark").exists()


def test_setup_builds_once_and_rebuilds_when_it_must(tiny):
    python = f"PYTHON={sys.executable}"
    code, out, err = make(tiny, "setup", python)
    assert code == 0 and "building .venv" in out, err
    assert subprocess.run([tiny / ".venv/bin/python", "-c", "import backend"]).returncode == 0  # the package is installed, editable
    rebuilt = marked(tiny)

    assert make(tiny, "setup", python)[:2] == (0, "") and not rebuilt()
    assert make(tiny, "setup")[:2] == (0, "") and not rebuilt(), "a finished .venv needs no Python to be named"

    (tiny / "pyproject.toml").write_text(PYPROJECT + 'description = "other"\n')
    assert make(tiny, "setup")[0] == 0 and not rebuilt(), "new packaging installs the package again, not the world"

    named = {"PYTHON": sys.executable}
    assert pick(tiny, os.environ["PATH"], **named) == "current"
    (tiny / "requirements.lock").write_text("# another lock\n")
    assert pick(tiny, os.environ["PATH"], **named) == sys.executable, "a stale .venv is built again"

    (tiny / "requirements.lock").write_text("./no-such-wheel.whl\n")
    assert make(tiny, "setup", python)[0] == 2 and rebuilt() and not (tiny / ".venv/.stamp").exists(), "a failed build leaves no stamp"

    (tiny / "requirements.lock").write_text("nvidia-none @ file:///nowhere/nvidia_none-1-py3-none-any.whl\n")
    assert make(tiny, "setup", python)[0] == 2 and not (tiny / ".venv/.stamp").exists(), "nor does one whose libraries for the GPU are missing"

    rebuilt = marked(tiny)
    (tiny / "requirements.lock").write_text("# repaired\n")
    assert make(tiny, "setup", python)[0] == 0 and rebuilt(), "a half-built .venv is built again, from nothing"

    moved = tiny.rename(tiny.with_name("moved"))
    assert pick(moved, os.environ["PATH"], **named) == sys.executable, "scripts of a moved .venv point nowhere"


def test_two_at_once(tiny):
    both = [subprocess.Popen(["make", "setup", f"PYTHON={sys.executable}"], cwd=tiny, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [p.communicate(timeout=300)[0] for p in both]
    if shutil.which("flock") is None: pytest.skip("no flock here: two builds at once are not kept apart")
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("building .venv" in s for s in said) == 1, said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here: whether the install ended cannot be seen")
def test_ctrl_c_ends_both_installs(tiny):
    "The shell starts the second install deaf to Ctrl-C, so it must be ended in another way; it would go on writing into .venv."
    slow = tiny / "slow"
    slow.mkdir()
    (slow / "pyproject.toml").write_text(PYPROJECT)
    (slow / "backend.py").write_text(f"import os, time\ndef build_wheel(*args, **kwargs):\n    open({str(tiny / 'pip')!r}, 'w').write(str(os.getppid()))\n    time.sleep(60)\n")
    (tiny / "requirements.lock").write_text(f"nvidia-slow @ file://{slow}\n")
    def listens():
        for number in (signal.SIGINT, signal.SIGQUIT): signal.signal(number, signal.SIG_DFL)
    run = subprocess.Popen(["make", "setup", f"PYTHON={sys.executable}"], cwd=tiny, start_new_session=True, preexec_fn=listens, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not ((tiny / "pip").exists() and (tiny / "pip").read_text()) and time.monotonic() < end: time.sleep(.05)
    pip = Path("/proc") / (tiny / "pip").read_text()
    assert pip.exists()
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(30) != 0
    end = time.monotonic() + 30
    while pip.exists() and time.monotonic() < end: time.sleep(.05)
    alive = pip.exists()
    with contextlib.suppress(ProcessLookupError): os.killpg(run.pid, signal.SIGKILL)       # the sleeper
    assert not alive and not (tiny / ".venv/.stamp").exists()


def fake(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def tools_only(folder):
    "A PATH with what make and sh need and no Python at all."
    folder.mkdir()
    for tool in ("sh", "make", "awk", "sed", "cat", "cksum", "dirname", "rm", "mv", "grep", "flock"):
        if found := shutil.which(tool): (folder / tool).symlink_to(found)
    return str(folder)


OLD = 'case "$*" in *version_info*) exit 1;; *) echo 3.9.2;; esac'
SHIM = 'echo "pyenv: command not found" >&2; exit 127'
MADE = 'case "$*" in *ensurepip*) exit ${VENV_MISSING:-0};; *version_info*) exit 0;; *python_version*) echo 3.12.1;; *) exit 0;; esac'


def pick(tiny, path, **env):
    done = subprocess.run(["sh", "tools/setup.sh", "pick"], cwd=tiny, env={"PATH": path, **env}, capture_output=True, text=True)
    return done.stdout.strip()


def test_an_old_python_gets_one_line_and_exit_code_2(tiny, tmp_path):
    path = tools_only(tmp_path / "bin")
    fake(tmp_path / "bin", "python3", OLD)
    for target in ("setup", "report", "test", "lock"):
        code, out, err = make(tiny, target, path=path)
        assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
        assert "needs Python 3.11 or newer and python3 is 3.9.2" in err and "make PYTHON=" in err
    assert not (tiny / ".venv").exists()


def test_without_any_python(tiny, tmp_path):
    code, _, err = make(tiny, "setup", path=tools_only(tmp_path / "bin"))
    assert code == 2 and "python3 is not there" in err


def test_a_newer_python_beside_an_old_one_is_found(tiny, tmp_path):
    path = tools_only(tmp_path / "bin")
    fake(tmp_path / "bin", "python3", OLD)
    fake(tmp_path / "bin", "python3.13", SHIM)  # exists, and fails when run
    fake(tmp_path / "bin", "python3.12", MADE)
    assert pick(tiny, path) == "python3.12"
    assert pick(tiny, path, VENV_MISSING="1").startswith("!python3.12 (3.12.1) cannot make a virtual environment")
    assert pick(tiny, path, PYTHON="python3").startswith("!finetune_book needs Python 3.11"), "a Python that was named is not replaced by another"


def test_a_cpu_only_torch_leaves_the_gpu_libraries_out(tiny, tmp_path):
    "pip is replaced by one that writes down what it was asked for."
    (tiny / "requirements.lock").write_text("numpy==2\nnvidia-cublas==1 ; sys_platform == 'linux'\ncuda-bindings==1\ntriton==3\ntorch==2.15.0\n")
    python = (f'case "$*" in "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; '
              f'*"-m pip"*) echo "$@" >> asked;; *) exec {sys.executable} "$@";; esac')
    fake(tmp_path / "fake", "python3.11", python)
    named = [f"PYTHON={tmp_path}/fake/python3.11", "TORCH_INDEX=https://example.org/cpu"]
    assert make(tiny, "setup", *named)[0] == 0
    asked = (tiny / "asked").read_text()
    assert "--extra-index-url https://example.org/cpu" in asked
    assert (tiny / ".venv/rest.lock").read_text().split() == ["numpy==2", "torch==2.15.0"]
    assert make(tiny, "setup", named[0])[0] == 0 and (tiny / "asked").read_text() == asked, "later makes keep the CPU-only torch"
    assert make(tiny, "setup", named[0], "TORCH_INDEX=https://example.org/other")[0] == 0 and "/other" in (tiny / "asked").read_text()


def test_every_target_is_listed(tiny):
    code, out, _ = make(tiny, "help")
    listed = {line.split()[1] for line in out.splitlines()}
    assert code == 0 and listed >= {"setup", "report", "test", "lab", "book", "bench", "lock", "export", "clean", "help"}


def test_clean_keeps_the_environment(tiny):
    (tiny / ".venv").mkdir()
    for name in ("finetune_book/__pycache__", "nbs", "tests", "bench", "data", "build", "_book"): (tiny / name).mkdir(parents=True)
    for _ in range(2): assert make(tiny, "clean")[0] == 0
    left = {p.name for p in tiny.iterdir()}
    assert ".venv" in left and not {"build", "_book"} & left and not (tiny / "finetune_book/__pycache__").exists()


def test_the_book_with_quarto_and_without(tiny, tmp_path):
    "Quarto gets a copy with every page that the list names, and its pages are looked over; test_site.py looks into the copy."
    for folder in ("nbs", "tools", "finetune_book"):
        shutil.copytree(REPO / folder, tiny / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    shutil.copyfile(REPO / "index.qmd", tiny / "index.qmd")
    code, out, _ = make(tiny, "book", "PY=" + sys.executable, "-o", "setup", path=tools_only(tmp_path / "bin"))
    assert code == 0 and out.startswith("no quarto on the PATH") and len(out.splitlines()) == 1
    fake(tmp_path / "bin", "quarto", '[ "$1" = render ] && /bin/mkdir _book && /bin/cp -r nbs api downloads index.qmd _book/ && '
         'echo \'<script src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml-full.js"></script>\' > _book/nbs/00_map.html')
    code, out, err = make(tiny, "book", "PY=" + sys.executable, "-o", "setup", path=str(tmp_path / "bin"))
    assert code == 0 and "_book/index.html" in out and "-m http.server -d _book" in out.splitlines()[-1], err
    pages = {p.relative_to(tiny / "_book").as_posix() for p in (tiny / "_book").rglob("*.*") if "downloads" not in p.parts}
    assert {"index.qmd", "nbs/00_map.ipynb", "nbs/library/figures.ipynb", "api/figures.qmd"} <= pages
    assert (tiny / "_book/mathjax.js").exists() and 'src="../mathjax.js"' in (tiny / "_book/nbs/00_map.html").read_text()
    assert not (tiny / "_proc/_book").exists()
