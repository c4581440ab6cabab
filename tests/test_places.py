"""No home folder, no place for temporary files: the work goes on, or one line says what to set."""
import os
import pathlib
import tempfile

import pytest

from finetune_book import places
from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.commands import doctor
from finetune_book.report import publish


@pytest.fixture
def nobody(monkeypatch):
    "A user whom the system does not know, without HOME."
    def unknown(number): raise KeyError(number)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"): monkeypatch.delenv(name, raising=False)


def test_a_home_is_made_and_removed(nobody):
    with pytest.raises(RuntimeError): pathlib.Path.home()
    with pytest.warns(UserWarning, match="set HOME"):
        with places.home_folder():
            home = pathlib.Path.home()
            assert home.is_dir() and os.environ["LOGNAME"].startswith("user-") and places.home_problem()
    assert not home.exists() and "HOME" not in os.environ and "LOGNAME" not in os.environ


def test_state_and_cache_have_folders_of_their_own_and_none_without_a_home(nobody, tmp_path, monkeypatch):
    assert places.state_folder() is None is places.cache_folder()
    monkeypatch.setenv("HOME", str(tmp_path))
    state, cache = places.state_folder(), places.cache_folder()
    assert state.is_relative_to(tmp_path) and cache.is_relative_to(tmp_path) and state != cache
    monkeypatch.setattr(places, "writable", lambda path: False)
    assert places.state_folder() is None is places.cache_folder()


def test_a_command_says_it_in_one_line(nobody, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "x.ipynb", "-q"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "x.ipynb\n" and len(shown.err.splitlines()) == 1 and "HOME is not set" in shown.err


def test_doctor_names_home_and_not_a_reinstall(nobody, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_home,))
    assert main(["doctor"]) == 1
    assert "FAIL  home" in (out := capsys.readouterr().out) and "fix: set HOME" in out and "pip" not in out
    assert "set HOME" in doctor.mend_kernel()
    monkeypatch.setenv("HOME", "/home/read/only")
    monkeypatch.setattr(os, "access", lambda path, how: False)
    assert "cannot be written" in places.home_problem() and "set HOME" in doctor.mend_kernel()


def test_no_place_for_temporary_files_is_one_line(tmp_path, monkeypatch):
    def none(): raise FileNotFoundError("no usable temporary directory")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(InputError, match="set TMPDIR"): places.temp_folder()
    with pytest.raises(InputError, match="set TMPDIR"): publish.private_folder()
    with pytest.raises(doctor.Ailment, match="fix: .*TMPDIR"): doctor.check_disk()
    assert "TMPDIR" in doctor.mend_kernel()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc/no-such-folder")
    with pytest.raises(InputError, match="set TMPDIR to a folder with a short path"): publish.private_folder()
