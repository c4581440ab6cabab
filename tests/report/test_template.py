"""Finding and reading a template: each mistake is one line, and what the book carries can be read."""
import pytest
from reports import TINY

from finetune_book.checks import InputError
from finetune_book.report import template
from finetune_book.report.params import parameters_of
from finetune_book.report.publish import run_report


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', '{"nbformat": 99}', "\x00\x01"])
def test_a_broken_notebook_is_one_line(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content)
    with pytest.raises(InputError, match="x.ipynb") as caught: run_report(tmp_path / "x.ipynb", out_dir=tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_unknown_template_names_the_nearest(monkeypatch):
    monkeypatch.setattr(template, "templates", lambda: {"finetune_text": TINY})
    with pytest.raises(InputError, match="Did you mean 'finetune_text'"): parameters_of("finetune_txt")
    with pytest.raises(InputError, match="no such notebook"): parameters_of("gone.ipynb")


def test_carried_templates_can_be_read():
    for name, path in template.templates().items():
        assert parameters_of(path), name
        sources = [c.source for c in template.read_template(path).cells if c.cell_type == "code"]
        assert "require()" in sources[1] and "record(" in sources[-1], name
