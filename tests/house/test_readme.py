"""README.md and its Chinese twin: the same commands, the same sections, and links that lead somewhere."""
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
WORDS = {name: (REPO / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def headings(text): return [len(marks) for marks in re.findall(r"^(#+) ", FENCED.sub("", text), re.MULTILINE)]
def anchor(heading): return re.sub(r"[^\w\u4e00-\u9fff -]", "", heading.lower()).replace(" ", "-")


def test_the_commands_are_the_same():
    english, chinese = (FENCED.findall(text) for text in WORDS.values())
    assert english == chinese and len(english) >= 10


def test_the_sections_and_rows_are_the_same():
    english, chinese = WORDS.values()
    assert headings(english) == headings(chinese)
    assert english.count("\n| ") == chinese.count("\n| "), "a row of a table is missing"
    in_line = [set(re.findall(r"`(make [\w-]+|nbs/[\w./]+|data/[\w-]+|-p \w+=\S*?)`", text)) for text in (english, chinese)]
    assert in_line[0] == in_line[1]


@pytest.mark.parametrize("name", WORDS)
def test_links_and_targets_are_there(name):
    text = FENCED.sub("", WORDS[name])
    ids = {anchor(h) for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    local = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("http")]
    assert [t for t in local if (t[1:] not in ids if t.startswith("#") else not (REPO / t).exists())] == [] and len(local) >= 3
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", WORDS[name])) <= targets


def test_the_chinese_one_is_chinese():
    prose = FENCED.sub("", WORDS["README.zh.md"])
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 1500


def test_the_home_page_has_the_same_commands():
    first, *others = FENCED.findall((REPO / "index.qmd").read_text(encoding="utf-8"))
    english = FENCED.findall(WORDS["README.md"])
    assert first == english[0], "the two commands"
    assert all(code in english for code in others if code[0] == "bash")
