"""The command line as tests call it: in a process of its own, and refusing."""
import os
import subprocess
import sys
import time
from pathlib import Path

from finetune_book.cli import main

REPO = Path(__file__).parents[2]
START = [sys.executable, "-c", "import sys; from finetune_book.cli import main; sys.exit(main())"]


def outside(*args, **options):
    "The command in a process of its own: (exit code, stdout, stderr)."
    done = subprocess.run([*START, *args], capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(REPO)}, **options)
    return done.returncode, done.stdout, done.stderr


def refused(capsys, args, says):
    "The command refuses `args` with code 2 and one line that says all of `says`; returns the seconds it took."
    begun = time.monotonic()
    assert main(args) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith("finetune-book: see ")]
    assert len(lines) == 1 and lines[0].startswith("finetune-book: "), shown.err
    assert all(word in lines[0] for word in says), lines[0]
    assert shown.out == ""
    return time.monotonic() - begun
