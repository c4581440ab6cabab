"""The names that a report's notebook calls stand at the package, whatever was imported before."""
import subprocess
import sys

import pytest


@pytest.mark.parametrize("before", ["", "import finetune_book.report.record", "import finetune_book.report.params"])
def test_names_of_a_report_are_callable_from_the_package(before):
    code = f"{before}\nfrom finetune_book.report import record, require, state_dir\nprint(all(map(callable, (record, require, state_dir))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
