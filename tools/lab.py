"""JupyterLab over a working copy of the lessons: what is run, answered and saved there leaves the checkout as it is.

    python tools/lab.py [--into FOLDER] [options of jupyter lab]

The copy lies in _lab, which git ignores. A notebook in it that you did not change is made new each time; one that you
changed is kept, and one line says so.
"""
import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESSONS, COPY, FIRST = ROOT / "nbs", ROOT / "_lab", "00_map.ipynb"
LEFT_OUT = {".ipynb_checkpoints", "__pycache__"}
OPTIONS = [f"--LabApp.default_url=/lab/tree/{FIRST}", "--LabApp.news_url=None",
           "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]
NEWS = "@jupyterlab/apputils-extension:announcements"      # asks whether one wants news, even where there are none
MADE = ".made.json"            # what each notebook of the copy said when it was made


def said(nb):
    "A hash of what a notebook's cells say; outputs and metadata, which running changes, do not count."
    cells = [(c["cell_type"], "".join(c["source"])) for c in nb["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def for_the_lab(nb):
    "The notebook with the metadata that JupyterLab would write on opening, so that reading leaves it unchanged."
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelspec import get_kernel_dict
    language = IPythonKernel.language_info | {"version": platform.python_version()}
    spec = {"display_name": get_kernel_dict()["display_name"], "language": "python", "name": "python3"}
    return nb | {"metadata": nb["metadata"] | {"kernelspec": spec, "language_info": language}}


def sources():
    "Every notebook and what lies beside it, relative to nbs/."
    found = (p.relative_to(LESSONS) for p in sorted(LESSONS.rglob("*")) if p.is_file())
    return [p for p in found if not LEFT_OUT & set(p.parts)]


def freshen(copy):
    "Make or renew the working copy; the notebooks that were kept because a reader changed them."
    record = copy / MADE
    made = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    kept = []
    for path in sources():
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".ipynb":
            shutil.copyfile(LESSONS / path, target)
            continue
        nb = json.loads((LESSONS / path).read_text(encoding="utf-8"))
        if changed_by_reader(target, made.get(path.as_posix())): kept.append(path.as_posix())
        else:
            target.write_text(json.dumps(for_the_lab(nb), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            made[path.as_posix()] = said(nb)
    record.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return kept


def changed_by_reader(path, made):
    "Whether a notebook of the copy says something else than when it was made, or cannot be read."
    if not path.exists(): return False
    try: return said(json.loads(path.read_text(encoding="utf-8"))) != made
    except (ValueError, KeyError, TypeError): return True


def without_prompt(copy):
    "A folder of Jupyter's settings, beside the reader's own, in which the question about news is left out."
    settings = copy / ".settings"
    (settings / "labconfig").mkdir(parents=True, exist_ok=True)
    (settings / "labconfig/page_config.json").write_text(json.dumps({"disabledExtensions": {NEWS: True}}) + "\n")
    return str(settings.resolve())


def main(argv=None):
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--into", type=Path, default=COPY, help="folder of the working copy")
    args, options = args.parse_known_args(argv)
    kept = freshen(args.into)
    if kept: print(f"kept as you left them in {args.into}: {', '.join(kept)}; delete one to get the book's again")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={args.into.resolve()}", *OPTIONS, *options]
    # The kernel of this environment before one of that name in the user's home; figures with their words.
    path = [without_prompt(args.into), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ.update(JUPYTER_CONFIG_PATH=os.pathsep.join(path), JUPYTER_PREFER_ENV_PATH="1", FINETUNE_BOOK_LAB="1")
    os.chdir(args.into)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
