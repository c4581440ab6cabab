"""Search over documents: the same answers however the index came about, nothing deleted found, no base but its own."""
import subprocess
import sys

import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.find.ranked import cosines, first_of
from finetune_book.find.reader import reader_hash, reader_of
from finetune_book.find.searcher import Searcher

DOCS = {"lost": "pain in the chest", "b": "no fever", "c": "cough for two days", "d": "the head with pain", "e": "knee left", "f": "no cough", "卡": "我的卡丢了 😀"}
QUERIES = ["chest pain", "cough", "fever", "卡 😀", "ساعات"]
WAYS = [True, False, "both"]


@pytest.fixture(params=WAYS, ids=str)
def make(request, tiny_base): return lambda **more: Searcher(**dict(dict(base=tiny_base, words=request.param, max_length=16, device="cpu"), **more))


def same(one, other, k=9):
    (a, s), (b, t) = one.search(QUERIES, k), other.search(QUERIES, k)
    return np.array_equal(a, b) and np.array_equal(s, t)


def test_shapes_order_and_what_is_not_there(make):
    ids, scores = make().fit(DOCS).search(QUERIES, 9)
    assert ids.shape == scores.shape == (5, 9) and ids.dtype == object and scores.dtype == np.float64
    assert ids[0, 0] == "lost" or make().words is False
    for row, said in zip(ids, scores):
        found = [i for i in row if i is not None]
        assert len(found) == len(set(found)) and row.tolist() == found + [None] * (9 - len(found))
        assert (np.diff(said[:len(found)]) <= 0).all() and (said[len(found):] == -np.inf).all()


def test_words_alone_find_only_what_shares_one(tiny_base):
    ids, _ = Searcher(words=True).fit(DOCS).search(["cough", "ساعات"], 3)
    assert set(ids[0]) == {"c", "f", None} and ids[1].tolist() == [None] * 3


def test_added_in_pieces_in_another_order_and_deleted_it_answers_the_same(make):
    pieces = make().fit({"x": "very bad knee", "e": DOCS["e"]})
    for id in reversed([i for i in DOCS if i != "e"]): pieces.add({id: DOCS[id]})
    assert same(make().fit(DOCS), pieces.delete(["x"]))


def test_saved_and_opened_it_answers_the_same_and_goes_on(make, tmp_path):
    one = make().fit(DOCS)
    one.save(tmp_path / "index")
    two = Searcher.open(tmp_path / "index", device="cpu")
    assert same(one, two) and two.get_params() == one.get_params() | dict(base=two.base)
    two.add({"new": "good clean room"}).delete(["lost"]).save(tmp_path / "index")
    three = Searcher.open(tmp_path / "index", device="cpu")
    assert same(two, three) and same(three, make().fit({i: d for i, d in (DOCS | {"new": "good clean room"}).items() if i != "lost"}))


def test_what_was_deleted_is_in_no_answer(make):
    searcher = make().fit(DOCS).delete(["lost", "c"])
    assert len(searcher) == 5 and not {"lost", "c"} & set(searcher.search(QUERIES, 9)[0].ravel())
    searcher.add({"lost": "another text"})                              # its id is free again
    assert searcher.ids_[-1] == "lost"


def test_batch_mates_change_nothing(make):
    searcher = make().fit(DOCS)
    ids, scores = searcher.search(QUERIES, 4)
    for i, q in enumerate(QUERIES):
        alone = searcher.search([q], 4)
        assert np.array_equal(alone[0][0], ids[i]) and np.array_equal(alone[1][0], scores[i])


def test_queries_in_parts_are_the_same(make, monkeypatch):
    searcher = make().fit(DOCS)
    whole = searcher.search(QUERIES, 4)
    monkeypatch.setattr("finetune_book.find.searcher.AT_ONCE", 1)
    parts = searcher.search(QUERIES, 4)
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])


def test_equal_documents_are_ordered_by_their_ids_alone():
    texts = ["the same text"] * 20
    ids = [f"doc{i}" for i in range(20)]
    one, other = (Searcher(words=True).fit(texts, order).search(["same"], 20)[0][0].tolist() for order in (ids, ids[::-1]))
    assert one == other != ids and sorted(one) == sorted(ids)


def test_cosine_is_symmetric_and_of_itself_one(tiny_base):
    texts = list(DOCS.values())[:4]
    searcher = Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(texts)
    table = searcher.scores(texts)
    assert np.array_equal(table, table.T) and np.allclose(np.diag(table), 1)


def test_the_sum_is_of_standardised_scores(tiny_base):
    words, vectors, both = (Searcher(tiny_base, words=w, max_length=16, device="cpu").fit(DOCS) for w in WAYS)
    z = lambda s: (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True)
    w = words.bm25_.scores(QUERIES[:3]).round(5)
    assert np.allclose(both.scores(QUERIES[:3]), z(w) + z(vectors.scores(QUERIES[:3])), atol=1e-4)
    assert np.allclose(both.scores(["ساعات"]), z(vectors.scores(["ساعات"])), atol=1e-4)         # no word shared: vectors decide


def test_another_base_is_refused(tiny_base, tmp_path):
    from tiny import save_tiny_base
    other = save_tiny_base(tmp_path / "other", layers=1)
    Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(DOCS).save(tmp_path / "index")
    opened = Searcher.open(tmp_path / "index", base=str(other), device="cpu")
    with pytest.raises(InputError, match="made by another base"): opened.search(QUERIES)
    with pytest.raises(InputError, match="made by another base"): opened.add(["more"])
    assert len(opened) == len(DOCS)


def test_the_hash_of_a_base_is_that_of_the_base_and_not_of_its_use(tiny_base):
    one, two = (reader_of(tiny_base, 16, "cpu") for _ in range(2))
    one(["pain in the chest"])
    assert reader_hash(one) == reader_hash(two) != reader_hash(reader_of(tiny_base, 12, "cpu"))


def test_an_index_of_an_estimator_asks_for_it(tiny_base, tmp_path):
    reader = reader_of(tiny_base, 16, "cpu")
    assert reader(["pain"]).shape == (1, 16)
    searcher = Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(DOCS)
    searcher.base = None
    searcher.save(tmp_path)
    with pytest.raises(InputError, match="give it as base"): Searcher.open(tmp_path).search(QUERIES)


def test_somebody_elses_change_is_not_undone(tmp_path):
    Searcher(words=True).fit(DOCS).save(tmp_path)
    one, other = Searcher.open(tmp_path), Searcher.open(tmp_path)
    one.add({"x": "more"}).save(tmp_path)
    with pytest.raises(InputError, match="open it again"): other.delete(["b"]).save(tmp_path)
    assert "x" in Searcher.open(tmp_path).ids_


def test_files_that_do_not_fit_are_one_line(tmp_path, tiny_base):
    from finetune_book.find.index import read_index, write_index
    Searcher(tiny_base, words="both", device="cpu").fit(DOCS).save(tmp_path)
    values, settings, _ = read_index(tmp_path)
    for broken in ({k: v for k, v in values.items() if k != "words"}, values | dict(docs=values["docs"][:2]), values | dict(docs=3)):
        write_index(tmp_path, broken, settings)
        with pytest.raises(InputError, match="do not fit each other"): Searcher.open(tmp_path)


def test_the_same_document_again_is_there_already_and_numbers_go_on():
    searcher = Searcher(words=True).fit(["one", "two"]).add(["three"]).add({0: "one"})
    assert searcher.ids_ == [0, 1, 2]
    searcher.delete([2]).add(["four"])
    assert searcher.ids_ == [0, 1, 3]                                    # a number is not given twice


@pytest.mark.parametrize("call, says", [
    (lambda s: s.fit([]), "no texts"), (lambda s: s.fit([" "]), "text 0 is empty"), (lambda s: s.fit("text"), "text"),
    (lambda s: s.fit(["a", "b"], ["x"]), "must agree"), (lambda s: s.fit(["a", "b"], ["x", "x"]), "comes twice with other text"),
    (lambda s: s.add({"b": "other"}), "comes twice with other text"), (lambda s: s.fit(["a"], [1.5]), "an id is text or a whole number"),
    (lambda s: s.fit(["a"], [True]), "an id is text"), (lambda s: s.search([]), "no queries"), (lambda s: s.search(["a", ""]), "query 1 is empty"),
    (lambda s: s.search("a"), "one string"), (lambda s: s.search(["a"], 0), "k=0"), (lambda s: s.delete(["none"]), "none"), (lambda s: s.delete("b"), "list"),
    (lambda s: s.delete(list(DOCS)).search(["a"]), "no documents"), (lambda s: Searcher(words="all").fit(["a"]), "words="),
    (lambda s: Searcher(words=1).fit(["a"]), "words="), (lambda s: Searcher(k1=-1, words=True).fit(["a"]), "k1"),
    (lambda s: Searcher("no-such-base", words=False).fit(["a"]), "no-such-base")])
def test_what_cannot_be_is_one_line(call, says):
    with pytest.raises(InputError) as error: call(Searcher(words=True).fit(DOCS))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_document_beyond_the_window_is_said(tiny_base):
    docs = ["pain " * 40] + ["fever"] * 30
    with pytest.warns(UserWarning, match="1 of 31 documents are longer than max_length=16"): Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(docs)


LONG = {"long": "fever and cough and pain " * 12 + "knee left", "longer": "very bad room " * 20}


def windowed(base, docs, **more):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Searcher(**dict(base=base, words=False, max_length=16, device="cpu") | more).fit(docs)


def test_a_long_document_is_read_in_windows_and_the_best_counts(tiny_base):
    searcher, read = windowed(tiny_base, DOCS | LONG), reader_of(tiny_base, 16, "cpu")
    assert searcher.windows_[:7].tolist() == [1] * 7 and (searcher.windows_[7:] > 1).all() and len(searcher.vectors_) == searcher.windows_.sum()
    table, asked = searcher.scores(QUERIES), read(QUERIES)
    ends = np.cumsum(searcher.windows_)
    for j, (end, n) in enumerate(zip(ends, searcher.windows_)): assert np.allclose(table[:, j], (asked @ searcher.vectors_[end - n:end].T).max(1), atol=2e-5)
    tokens = read.rows.tokenizer(LONG["long"], add_special_tokens=False)["input_ids"]
    seen = {t for row in read.rows.tokenizer(LONG["long"], truncation=True, max_length=16, stride=4, return_overflowing_tokens=True)["input_ids"] for t in row}
    assert set(tokens) <= seen and np.array_equal(read([LONG["long"]])[0], searcher.vectors_[7])


def test_short_documents_answer_as_they_did_beside_long_ones(tiny_base):
    short, both = windowed(tiny_base, DOCS), windowed(tiny_base, DOCS | LONG)
    assert np.array_equal(short.scores(QUERIES), both.scores(QUERIES)[:, :len(DOCS)]) and np.array_equal(short.vectors_, both.vectors_[:len(DOCS)])


def test_a_long_query_is_read_whole_too(tiny_base):
    searcher = windowed(tiny_base, DOCS | LONG)
    assert np.allclose(searcher.scores(list(LONG.values()))[:, 7:].diagonal(), 1, atol=1e-4)
    assert np.array_equal(searcher.scores([*QUERIES, LONG["long"]])[:5], searcher.scores(QUERIES))


def test_windows_go_with_their_document_and_are_kept(tiny_base, tmp_path):
    whole, pieces = windowed(tiny_base, LONG | DOCS), windowed(tiny_base, LONG)
    pieces.add(DOCS).delete(["long"]).add({"long": LONG["long"]})
    assert same(whole, pieces)
    pieces.save(tmp_path)
    opened = Searcher.open(tmp_path, device="cpu")
    assert same(whole, opened) and np.array_equal(opened.windows_, pieces.windows_)
    assert same(opened.delete(["long", "longer"]), windowed(tiny_base, DOCS))


def test_an_index_without_windows_has_one_each_and_a_wrong_count_is_found(tiny_base, tmp_path):
    from finetune_book.find.index import read_index, write_index
    windowed(tiny_base, DOCS).save(tmp_path)
    values, settings, _ = read_index(tmp_path)
    write_index(tmp_path, {k: v for k, v in values.items() if k != "windows"}, settings)
    assert same(Searcher.open(tmp_path, device="cpu"), windowed(tiny_base, DOCS))
    for wrong in (np.full(7, 2), np.ones(6, dtype=int), np.array([0, 2, 1, 1, 1, 1, 1])):
        write_index(tmp_path, values | dict(windows=wrong), settings)
        with pytest.raises(InputError, match="do not fit each other"): Searcher.open(tmp_path)


def test_pictures_are_found_by_pictures(tiny_picture_base, tmp_path):
    from PIL import Image
    from examples import pictures
    from finetune_book.find.reader import picture_reader
    X, y = pictures(12)
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    for path, picture in zip(paths, X): Image.fromarray(picture).save(path)
    searcher = Searcher(picture_reader(tiny_picture_base, "cpu"), words=False).fit(paths)
    ids, scores = searcher.search(paths[:3], 12)
    assert ids[:, 0].tolist() == [0, 1, 2] and np.allclose(scores[:, 0], 1) and searcher.windows_.tolist() == [1] * 12
    searcher.save(tmp_path / "index")
    with pytest.raises(InputError, match="give it as base"): Searcher.open(tmp_path / "index").search(paths[:1])
    again = Searcher.open(tmp_path / "index", base=picture_reader(tiny_picture_base, "cpu"))
    assert np.array_equal(again.search(paths[:3], 12)[0], ids)
    with pytest.raises(InputError, match="set words=False"): Searcher(picture_reader(tiny_picture_base, "cpu")).fit(paths)
    with pytest.raises(InputError, match="nowhere.png"): searcher.search([str(tmp_path / "nowhere.png")])


def test_the_carried_base_for_pictures_has_its_name(tmp_path):
    from PIL import Image
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, path in enumerate(paths): Image.fromarray(np.full((32, 32, 3), 90 * i, np.uint8)).save(path)
    searcher = Searcher("book-resnet", words=False, device="cpu").fit(paths)
    searcher.save(tmp_path / "index")
    assert Searcher.open(tmp_path / "index", device="cpu").search(paths, 1)[0].ravel().tolist() == [0, 1]


def test_first_of_is_a_full_sort():
    rng = np.random.default_rng(0)
    for n, k in ((30, 7), (5, 5), (3, 8), (1, 1)):
        scores, lots = rng.integers(0, 3, (6, n)).astype(float), rng.permutation(n).astype(np.uint64)
        found, said = first_of(scores, lots, k)
        for i in range(6): assert found[i].tolist() == np.lexsort((lots, -scores[i]))[:k].tolist() + [-1] * max(0, k - n)


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    a, v = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    assert np.allclose(cosines(a, v, block=7), a @ v.T, atol=1e-5)


def test_features_kept_on_disk_give_the_same(tiny_base, tmp_path):
    from finetune_book.compress.cache import FeatureCache
    kept = FeatureCache(tmp_path / "cache")
    one, two, plain = (Searcher(tiny_base, words=False, device="cpu", cache=c).fit(DOCS) for c in (kept, kept, None))
    assert np.array_equal(one.vectors_, two.vectors_) and np.array_equal(one.vectors_, plain.vectors_)


def test_words_alone_need_no_torch():
    code = ("import sys; from finetune_book.find.searcher import Searcher; found = Searcher(words=True).fit(['my card is lost', 'the parcel']).search(['card'], 1)[0]\n"
            "print(found.tolist(), sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[[0]] []"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Twelve pictures of two classes as files, in two folders; and their labels."
    from PIL import Image
    from examples import pictures
    folder, (X, y) = tmp_path_factory.mktemp("photos"), pictures(12)
    paths = [folder / str(label) / f"{i}.png" for i, label in enumerate(y)]
    for path, picture in zip(paths, X):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder, [str(path) for path in paths], y


@pytest.fixture(scope="module")
def sorter(photos, tiny_picture_base):
    "A fitted ImageClassifier and the folder in which it was saved."
    from finetune_book import ImageClassifier
    est = ImageClassifier(base=tiny_picture_base, tune="full", epochs=1, verbose=0, device="cpu", precision="float32").fit(photos[1], photos[2])
    return est, str(est.save(photos[0].parent / f"{photos[0].name}-sorter"))


def test_a_classifier_of_pictures_is_a_base_fitted_or_saved(photos, sorter, tmp_path):
    _, paths, _ = photos
    fitted, saved = (Searcher(base, words=False, device="cpu").fit(paths) for base in sorter)
    (ids, scores), (same, said) = (searcher.search(paths[:4], 12) for searcher in (fitted, saved))
    assert fitted.reads_pictures() and np.array_equal(ids, same) and np.allclose(scores, said, atol=1e-5) and ids[:, 0].tolist() == [0, 1, 2, 3]
    saved.save(tmp_path / "index")
    again = Searcher.open(tmp_path / "index", device="cpu")
    assert np.array_equal(again.search(paths[:4], 12)[0], ids)                        # the folder's name is kept with the index
    again.delete([2]).save(tmp_path / "index")
    assert 2 not in Searcher.open(tmp_path / "index", device="cpu").search(paths, 12)[0].ravel()


def test_a_picture_that_is_none_is_named_and_nothing_is_kept_of_it(photos, sorter, tmp_path):
    searcher = Searcher(sorter[0], words=False).fit(photos[1][:3])
    (tmp_path / "broken.png").write_bytes(open(photos[1][0], "rb").read()[:40])
    with pytest.raises(InputError, match="broken.png"): searcher.add([*photos[1][3:5], str(tmp_path / "broken.png")])
    assert len(searcher) == 3 and searcher.search(photos[1][:1], 1)[0].tolist() == [[0]]


def test_words_are_no_pictures(tiny_base):
    assert not Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(DOCS).reads_pictures() and not Searcher(words=True).fit(DOCS).reads_pictures()
