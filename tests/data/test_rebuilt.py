"""The end that all generators of carried sets share: files, card, hashes, command."""
import hashlib

import pytest

from finetune_book.checks import InputError
from finetune_book.data.rebuilt import hash_lines, rebuild, sha256_of, write_set


def write_tiny(out, seed=0):
    if seed < 0: raise InputError(f"seed={seed}: at least 0")
    files = {"a.csv": f"x\n{seed}\n".encode(), "b.csv": b"y\n"}
    prints = sha256_of(files)
    write_set(out, files | {"c.txt": lambda path: path.write_text(path.parent.name)}, f"# tiny\n{hash_lines(prints)}\n中")
    return prints


def command(*words): return rebuild("tiny", "the tiny set", write_tiny, "tiny world", list(words))


def test_it_writes_every_file_and_prints_what_the_card_says(tmp_path, capsys):
    assert command("--out", str(tmp_path / "deep/new"), "--seed", "3") == 0
    made, said = {p.name: p.read_bytes() for p in (tmp_path / "deep/new").iterdir()}, capsys.readouterr().out
    assert set(made) == {"a.csv", "b.csv", "c.txt", "README.md"} and made["a.csv"] == b"x\n3\n" and made["c.txt"] == b"new"
    lines = [f"{hashlib.sha256(made[name]).hexdigest()}  {name}" for name in ("a.csv", "b.csv")]
    assert said.splitlines() == lines and made["README.md"].decode() == "# tiny\n" + "".join(f"    {line}\n" for line in lines) + "中"


@pytest.mark.parametrize("words, says", [(["--seed", "-1"], "tiny: seed=-1: at least 0"), ([], "cannot write there")])
def test_bad_input_is_one_line_and_code_two(tmp_path, capsys, words, says):
    (tmp_path / "file").write_text("x")
    assert command("--out", str(tmp_path / "file"), *words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and says in shown.err


def test_the_help_names_the_set_and_what_another_seed_makes(capsys):
    with pytest.raises(SystemExit): command("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "python -m finetune_book.data.sets.tiny" in shown and "data/tiny" in shown and "another tiny world" in shown and "Rebuild the tiny set." in shown
