"""Tables of pairs as they are published: STS-B and Quora's questions, each slip named by its row; groups and splits; what a reader does with them."""
import gzip

import numpy as np
import pytest

from commands import refused
from finetune_book.checks import InputError
from finetune_book.data.pairs import groups_of_pairs, holds_pairs, read_pairs, split_pairs

STS = ["main-captions\tMSRvid\t2012test\t0001\t5.000\tA cat sits.\tA cat is sitting.", 'main-news\theadlines\t2014\t0002\t0.4\t"Rain" is coming\tHe said "no\tlicence\tanother']
GLUE = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
QUORA = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"


@pytest.fixture
def put(tmp_path):
    def write(name, *lines, end="\n"):
        content = (end.join(lines) + end).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return tmp_path / name
    return write


@pytest.mark.parametrize("heads", ["sentence1,sentence2,score", "question1,question2,is_duplicate"])
def test_any_table(put, heads):
    pairs, scores = read_pairs(put("pairs.csv", heads, "a,b,1", "c,d,0"))
    assert pairs == [("a", "b"), ("c", "d")] and scores.tolist() == [1, 0]


@pytest.mark.parametrize("name, end", [("sts-train.csv", "\n"), ("sts-dev.csv", "\r\n"), ("sts-test.csv.gz", "\n")])
def test_sts_b_of_its_own_site(put, name, end):
    pairs, scores = read_pairs(put(name, *STS, end=end))
    assert pairs == [("A cat sits.", "A cat is sitting."), ('"Rain" is coming', 'He said "no')] and scores.tolist() == [5, .4]


def test_sts_b_of_glue_and_its_test_part_without_scores(put):
    row = '0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA "hard hat.\tA man dances.'
    assert read_pairs(put("test.tsv", GLUE, row)) == ([('A "hard hat.', "A man dances.")], None)
    pairs, scores = read_pairs(put("dev.tsv", GLUE + "\tscore", row + "\t4.750"))
    assert pairs == [('A "hard hat.', "A man dances.")] and scores.tolist() == [4.75]


def test_quora_and_what_glue_makes_of_it(put):
    pairs, same = read_pairs(put("quora_duplicate_questions.tsv", QUORA, '0\t1\t2\t"What is ""rain""?"\tWhy rain?\t0', '1\t3\t4\t"How do I\ncook\trice?"\tHow is rice cooked?\t1'))
    assert pairs == [('What is "rain"?', "Why rain?"), ("How do I\ncook\trice?", "How is rice cooked?")] and same.tolist() == [0, 1]
    pairs, same = read_pairs(put("train.tsv", QUORA, '0\t1\t2\t"Rain" is what?\tWhy "rain?\t1'))
    assert pairs == [('"Rain" is what?', 'Why "rain?')] and same.tolist() == [1]
    assert read_pairs(put("test.tsv", "id\tquestion1\tquestion2", "0\tWhy?\t我的卡丢了 😀")) == ([("Why?", "我的卡丢了 😀")], None)


TORN = [QUORA, '0\t1\t2\t"Rain" is what?\tWhy rain?\t0', "1\t3\t4\tHow do I", "cook rice?\tHow is rice cooked?\t1"]


@pytest.mark.parametrize("name, lines, says", [
    ("train.tsv", TORN, r"row 2 has 4 fields of 6; row 3 has 3 fields of 6; mend or drop these rows \(2 of 3\), or leave them out by skip_bad=True"),
    ("q.tsv", [QUORA, "0\t1\t2\tWhy?\t\t0"], "row 1 has empty text in column 'question2'"), ("q.tsv", [QUORA, "0\t1\t2\tWhy?\tHow?\tyes"], "row 1 has no number in column 'is_duplicate'"),
    ("sts-dev.csv", [STS[0], STS[0].rsplit("\t", 1)[0]], "row 2 has 6 fields of 7"), ("sts-dev.csv", [STS[0], STS[0].replace("5.000", "nan")], "row 2 has no number in column 'score'"),
    ("dev.tsv", [GLUE + "\tscore", "0\tg\tf\t2012\t7\tnone\tnone\tOne.\tTwo.\t1.0\tmore"], "row 1 has 11 fields of 10"),
    ("pairs.csv", ["text1,text2,score", "a,b,1", "c,d,much"], "row 2 has no number in column 'score'"), ("pairs.csv", ["x,y", "a,b"], "no column 'text_a'"),
    ("q.tsv", [QUORA], "no row in it")])
def test_each_slip_is_one_line(put, name, lines, says):
    with pytest.raises(InputError, match=says): read_pairs(put(name, *lines))


def test_what_is_left_out_is_counted_and_named(put):
    path = put("train.tsv", *TORN)
    with pytest.warns(UserWarning, match="left out 2 of 3 rows: row 2 has 4 fields of 6; row 3 has 3 fields of 6"): pairs, same = read_pairs(path, skip_bad=True)
    assert pairs == [('"Rain" is what?', "Why rain?")] and same.tolist() == [0]
    with pytest.raises(InputError, match="none of its 1 rows can be used"): read_pairs(put("q.tsv", QUORA, "0\t1\t2\tWhy?\t\t0"), skip_bad=True)


def test_columns_that_are_named(put): assert read_pairs(put("pairs.csv", "x,y", "a,b"), "x", "y") == ([("a", "b")], None)


def test_groups_and_a_split_that_cuts_no_text():
    assert groups_of_pairs([("a", "b"), ("c", "d"), ("d", "a"), ("e", "f")]).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    rng = np.random.default_rng(0)
    pairs = [(f"t{i}", f"t{j}") for i, j in rng.integers(0, 200, (120, 2))]
    for scores in (None, rng.integers(0, 2, 120).astype(float), rng.uniform(0, 5, 120)):
        parts = split_pairs(pairs, scores, (.7, .3), seed=1)
        words = [{text for row in part for text in pairs[row]} for part in parts]
        assert sorted(np.concatenate(parts)) == list(range(120)) and not words[0] & words[1] and all(np.array_equal(a, b) for a, b in zip(parts, split_pairs(pairs, scores, (.7, .3), seed=1)))
    with pytest.raises(InputError, match="120 pairs and 2 scores"): split_pairs(pairs, [0, 1])


def test_long_chains_and_long_texts_take_no_time_and_no_room():
    chain = [(f"{i} " + "x" * 50, f"{i + 1} " + "x" * 50) for i in range(20_000)]
    assert set(groups_of_pairs([*chain, ("y" * 100_000, "z")]).tolist()) == {0, 1}


def test_what_a_reader_does_with_them(put, tiny_base):
    from finetune_book import TextMatcher
    from finetune_book.judge.scored import pearson, score_rungs, spearman
    from finetune_book.text.pairs import PairClassifier
    settings = dict(base=tiny_base, epochs=1, max_length=16, verbose=0, device="cpu", precision="float32")
    words = ["pain", "fever", "cough", "knee", "head", "chest"]
    pairs, same = read_pairs(put("quora_duplicate_questions.tsv", QUORA, *(f"{k}\t{k}\t{k}\t{a} {k}\t{a if k % 2 else b} again\t{k % 2}" for k, (a, b) in enumerate(zip(words * 2, words[1:] * 3)))))
    judge = PairClassifier(**settings).fit(pairs, same)
    assert judge.predict_proba(pairs).shape == (12, 2)
    matcher = TextMatcher(batch_size=4, **settings).fit([pair for pair, yes in zip(pairs, same) if yes])
    pairs, scores = read_pairs(put("sts-dev.csv", *(f"g\tf\t2012\t{k}\t{k % 6}.0\t{a} one\t{b} two" for k, (a, b) in enumerate(zip(words, words[::-1])))))
    table = score_rungs(scores, {"matcher": matcher.similarity(*map(list, zip(*pairs)))}, {"Spearman": spearman, "Pearson": pearson}, groups=groups_of_pairs(pairs)[::2], n_boot=20)
    assert table.low.iloc[0] <= table.Spearman.iloc[0] <= table.high.iloc[0] and -1 <= table.Pearson.iloc[0] <= 1


@pytest.mark.parametrize("name, lines", [("q.tsv", [QUORA, "0\t1\t2\tWhy?\tHow?\t1"]), ("sts-dev.csv", STS), ("dev.tsv", [GLUE, "0\tg\tf\t2012\t7\tnone\tnone\tOne.\tTwo."])])
def test_the_command_train_says_what_they_are(put, tmp_path, name, lines, capsys):
    refused(capsys, ["train", "--data", str(put(name, *lines)), "--out", str(tmp_path / "m")], ["its rows are pairs of texts: --task match", "read_pairs", "PairClassifier"])


def test_a_table_of_texts_is_none(put, tmp_path): assert not holds_pairs(put("t.csv", "text,text_a,text_b", "a,b,c")) and not holds_pairs(tmp_path)
