"""Every record keeps to its schema, and a spoilt one is refused in one line."""
import copy
import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from reports import FAULTY

from finetune_book.checks import InputError
from finetune_book.judge.ladder import ladder_table, steps_table
from finetune_book.judge.metrics import precision_recall_f1
from finetune_book.report.ingredients import ingredients
from finetune_book.report.params import parameters_of
from finetune_book.report.publish import run_report
from finetune_book.report.record import json_value
from finetune_book.report.schema import RECORD_SCHEMA
from finetune_book.report.template import read_template, templates
from finetune_book.report.verify import moves_between, verify_report

SCHEMA = Draft202012Validator(RECORD_SCHEMA)


def test_records_of_real_runs_keep_to_the_schema(made, tmp_path):
    record = json.loads((made[0] / "gain.json").read_text())
    assert list(SCHEMA.iter_errors(record)) == [] and record["inputs"]["data"]["kind"] == "file"
    without_numbers = run_report(FAULTY, out_dir=tmp_path, progress=False).json
    assert list(SCHEMA.iter_errors(json.loads(without_numbers.read_text()))) == []
    with pytest.raises(InputError, match="no numbers to compare"): verify_report("faulty", tmp_path, progress=False)


def test_the_shape_of_the_fine_tuning_report_keeps_to_the_schema(made):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60).astype(str)
    said = {name: np.where(rng.random(60) < right, y, "0") for name, right in (("majority", .1), ("frozen body", .5), ("fine-tuned", .8))}
    metrics = dict(ladder=ladder_table(y, said), steps=steps_table(y, said), per_class=precision_recall_f1(y, said["fine-tuned"]),
                   history=[dict(epoch=0, train_loss=1.6, lr=3e-4, val_loss=.9, val_accuracy=.7)], leaks=0)
    record = json.loads((made[0] / "gain.json").read_text())
    for name, path in templates().items():
        declared = parameters_of(path)
        record |= ingredients(name, read_template(path), declared, {}) | {"metrics": json_value(metrics)}
        assert list(SCHEMA.iter_errors(json.loads(json.dumps(record)))) == [], name
        if "data" in record["parameters"]: assert record["inputs"]["data"]["kind"] == "carried" and record["inputs"]["base"]["sha256"], name
        assert moves_between(record["metrics"], record["metrics"]) == []


def places_of(schema, value, path=()):
    "Every (path, field) that an object of the record must have."
    for name in schema.get("required", []): yield path, name
    for name, part in schema.get("properties", {}).items():
        if isinstance(value, dict): yield from places_of(part, value.get(name), (*path, name))
    if isinstance(value, list) and value: yield from places_of(schema.get("items", {}), value[0], (*path, 0))


def test_a_missing_a_strange_and_a_wrong_field_are_seen(made):
    record = json.loads((made[0] / "gain.json").read_text())
    found = list(places_of(RECORD_SCHEMA, record))
    assert len(found) > 30
    for path, name in found:
        for spoil in (lambda part: part.pop(name), lambda part: part.update({name + "_": 1}), lambda part: part.update({name: object})):
            spoilt = part = copy.deepcopy(record)
            for step in path: part = part[step]
            spoil(part)
            anything = name == "seed" and part.get(name) is object
            assert anything or list(SCHEMA.iter_errors(spoilt)), (path, name)


@pytest.mark.parametrize("content, says", [
    ("", "not a readable record"), ("[]", "at the whole"), ('{"schema": 1}', "run the report again"), ("\x00", "not a readable record"),
    ('{"a": NaN}', "NaN"), ("[" * 100_000, "not a readable record"), (b"\xff\xfe", "not a readable record")])
def test_a_bad_record_is_one_line(tmp_path, content, says):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as caught: verify_report("x", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_missing_record_names_the_nearest(folder):
    with pytest.raises(InputError, match="no such record.*Did you mean 'gain'"): verify_report("gian", folder)
    with pytest.raises(InputError, match="no such record.*none"): verify_report("gain", folder / "nowhere")
    for name in ("../gain", str(folder / "gain")):
        with pytest.raises(InputError, match="--out"): verify_report(name, folder)
