"""Texts that follow a schema: valid 1,000 times of 1,000 whatever a model says, within any limit that is enough; other schemas are refused."""
import json

import jsonschema
import numpy as np
import pytest
import torch

from finetune_book.checks import InputError
from finetune_book.tasks.generate import Beam, Pick, write_on
from finetune_book.text.schema import SchemaMask, language, least

FINDINGS = dict(type="object", required=["condition", "days"], properties=dict(
    condition=dict(enum=["asthma", "reflux", "urinary infection"]), days=dict(type="integer", minimum=-3, maximum=120)))
SCHEMAS = {
    "findings": FINDINGS, "text": dict(type="string", minLength=1, maxLength=9), "any": dict(type=["string", "null", "boolean"], maxLength=4),
    "unique": dict(type="array", uniqueItems=True, minItems=2, items=dict(enum=["a", "ab", "b", 7, None])),
    "list": dict(type="array", minItems=1, maxItems=3, items=dict(type="integer")), "empty list": dict(type="array", maxItems=0, items=dict(type="null")),
    "optional": dict(type="object", required=["b"], properties=dict(a=dict(type="null"), b=dict(type="boolean"), c=dict(const={"d": [1, "é"]})), additionalProperties=False),
    "inside": dict(type="object", required=["all"], properties=dict(all=dict(type="array", maxItems=2, items=FINDINGS))),
    "one of": dict(anyOf=[dict(enum=["頭痛", "🙂 \"x\" \\"]), dict(type="integer", minimum=8, maximum=12), dict(type="object", properties={})])}
BYTES = [bytes([b]) for b in range(256)]
PIECES = [None, *BYTES, b"as", b'{"', b'": "', b'"}', b', "', b"12", b"1", b"ur", b"\xe9\xa0", b'"']
VALID = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def any_scores(seed):
    "A model that says anything: logits drawn anew for each token."
    rng = torch.Generator().manual_seed(seed)
    return lambda ids, cache, mask: (4 * torch.randn(*ids.shape, len(PIECES), generator=rng), None)


def texts(schema, most, n, way, seed=0):
    mask = SchemaMask(schema, PIECES, 0, most)
    lines = write_on(any_scores(seed), [[0]] * n, way(mask), most, end=0)
    return [b"".join(PIECES[i] for i in line.ids).decode() for line in lines]


@pytest.mark.parametrize("name", SCHEMAS)
def test_all_that_is_written_is_valid(name):
    "A thousand of a thousand findings; also where the limit is the least that is enough."
    shortest = least(language(SCHEMAS[name]))
    for most, n in ((shortest, 40), (shortest + 2, 40), (60, 920 if name == "findings" else 60)):
        for text in texts(SCHEMAS[name], most, n, lambda mask: Pick(temperature=1., allowed=mask), seed=most): VALID[name].validate(json.loads(text))


def test_all_that_a_small_schema_allows_is_written():
    found = set(texts(SCHEMAS["unique"] | dict(items=dict(enum=["a", "b", 7])), 40, 300, lambda mask: Pick(temperature=1., allowed=mask)))
    assert {json.dumps(v) for v in (["a", "b"], ["b", "a"], [7, "a", "b"], ["b", 7, "a"])} <= found and len(found) == 12
    assert set(texts(SCHEMAS["optional"], 60, 200, lambda mask: Pick(temperature=1., allowed=mask))) == {
        f"{{{a}\"b\": {b}{c}}}" for a in ("", '"a": null, ') for b in ("true", "false") for c in ("", ', "c": {"d": [1, "é"]}')}
    assert set(texts(dict(type="integer", minimum=-1, maximum=10), 5, 300, lambda mask: Pick(temperature=1., allowed=mask))) == {str(i) for i in range(-1, 11)}


def test_beams_follow_it_too():
    for text in texts(FINDINGS, 60, 20, lambda mask: Beam(3, allowed=mask)): VALID["findings"].validate(json.loads(text))


@pytest.mark.parametrize("schema, says", [
    (dict(enum=[]), "nothing can satisfy"), (dict(type="integer", minimum=3, maximum=2), "nothing can satisfy"), (dict(type="string", minLength=5, maxLength=4), "nothing can satisfy"),
    (dict(type="array", uniqueItems=True, minItems=3, items=dict(enum=[1, 2])), "nothing can satisfy"), (dict(type="object", required=["a"], properties=dict(a=dict(enum=[]))), "nothing"),
    (dict(type="string", pattern="a"), "'pattern' is not understood"), (dict(type="flaot"), "schema.type"), (dict(), "schema.type"), ("no", "must be a dict"), (dict(enum="ab"), "must be a list"),
    (dict(type="object", required=["a"], properties={}), "requires a"), (dict(type="integer", minimum=3), "both minimum and maximum"), (dict(type="array"), "schema.items"),
    (dict(type="integer", minimum=0, maximum=10**7), "more than"), (dict(type="array", uniqueItems=True, items=dict(type="string")), "uniqueItems"),
    (dict(type="object", properties=dict(a=dict(type="number"))), "schema.a.type"), (dict(type="string", minLength=-1), "minLength=-1"), (dict(anyOf=[dict(enum=[])]), "nothing"),
    (dict(enum=["a" * 50]), "has 52 bytes; give most=52"), (dict(type="object", properties=[]), "properties"), (dict(type="object", required="a", properties={}), "required")])
def test_what_cannot_be_is_one_line(schema, says):
    with pytest.raises(InputError) as error: SchemaMask(schema, PIECES, 0, 50)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_token_of_several_bytes_does_not_lead_astray():
    mask = SchemaMask(dict(enum=["as", "ad"]), PIECES, 0, 4)
    from finetune_book.tasks.generate import Line
    assert np.flatnonzero(mask(Line(0, ()))).tolist() == [i for i, p in enumerate(PIECES) if p == b'"']
    line = Line(0, (), (PIECES.index(b'"'),))
    assert {PIECES[i] for i in np.flatnonzero(mask(line))} == {b"a", b"as"}
    assert {PIECES[i] for i in np.flatnonzero(SchemaMask(dict(enum=["as", "ad"]), PIECES, 0, 99)(line))} == {b"a", b"as"}
