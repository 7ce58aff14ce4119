"""Job files: every mistake with its line, sweeps, values from the command line, and the schema for editors."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from simulated_jobs import simulated

from headscope.errors import BadJob, MissingData
from headscope.jobs.spec import Job, job_of, read_job, schema
from headscope.jobs.steps import Data, kinds
from headscope.jobs.tree import parse

GOOD = """
name: night
model: organism/text
seed: 3
sweep:
  seed: [0, 1]
  steps.score.dtype: [float32, bfloat16]
steps:
  - kind: score
    data: repeated
    sweep:
      method: [induction, previous-token]
  - kind: verify
    k: [1, 2]
run: {shards: 8}
"""

BAD = """name: night
seeed: 3
model: organism/text
dtype: float32
sweep:
  seed: [0, 1]
  steps.score.options.form: [paper, codex]
steps:
  - kind: score
    method: retrieval
    sweep: {options.span: [needle, gold]}
    dtype: 3
  - kind: scores
  - kind: verify
    name: v
    of: scor
    k: [1, x]
  - kind: score
    method: inductoin
    name: v
  - kind: verify
    name: w
    of: scor
    model: organism/planted
  - kind: score
    name: file
    method: induction
    model: organism/tex
    data: nothing.jsonl
run: {shards: 0}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_every_mistake_is_reported_with_its_line_all_at_once(tmp_path: Path):
    with pytest.raises(BadJob) as caught:
        read_job(written(tmp_path, BAD))
    head, *lines = str(caught.value).splitlines()
    assert head == "job.yaml: 11 mistakes, nothing was run"
    found = [line.strip() for line in lines]
    numbers = [int(line.split(":")[1]) for line in found]
    assert numbers == sorted(numbers) == [2, 7, 12, 13, 17, 18, 19, 23, 28, 29, 30]
    assert "job.yaml:2: seeed: there is no such setting" in found
    assert any("form='codex': expected paper or code" in line for line in found)
    assert any("steps[1]: 'scores' is no kind of step. Nearest: score" in line for line in found)
    assert any(
        line.startswith("job.yaml:19: steps[3].method: inductoin: no such method. Nearest") for line in found
    )
    assert "job.yaml:23: steps[4].of: no step above is called 'scor'. Nearest: score, scores." in found
    assert any("no shipped model is called 'organism/tex'" in line for line in found)
    assert any("nothing.jsonl: no such file" in line for line in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\nsteps: []", "job.yaml:2: name stands twice; give it once"),
        (
            "name: !!python/object:os.system x",
            "job.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is not read",
        ),
        ("name: !x\n  - 1", "job.yaml:1: the tag !x is not read"),
        ("name: &a x\nmodel: *a", "job.yaml:2: not YAML: aliases (*name) are not read"),
        ("? [a]\n: 1", "job.yaml:1: a key must be a plain word"),
        ("<<: {a: 1}", "job.yaml:1: a key must be a plain word"),
        ("name: [", "job.yaml:1: not YAML"),
        ("- 1", "job.yaml:1: a job file holds name: and steps:, this one holds a list"),
        ("", "job.yaml: a job file holds name: and steps:, this one is empty"),
        ("name: x\nsteps: []", "job.yaml:2: steps: Tuple should have at least 1 item"),
        ("name: x\nsteps: [3]", "job.yaml:2: steps[0]: Input should be a valid dictionary"),
        ("name: x\nsteps: {}", "job.yaml:2: steps: expected a list"),
        (
            "name: x\nmodel: m\nsteps: [{kind: steer, method: focus, k: 2}]",
            "job.yaml:3: steps[0].k: expected a list, such as [2]",
        ),
        ("name: x\nsteps: [{}]", "job.yaml:2: steps[0]: a step needs its kind"),
        ("name: x\nsteps: [{kind: score}]", "steps[0].method: is missing"),
        (
            "name: x\nsweep: {a.b: 3}\nsteps: [{kind: score}]",
            "job.yaml:2: sweep.a.b: expected a list of values",
        ),
        (
            "name: x\nsweep: [3]\nsteps: [{kind: score}]",
            "job.yaml:2: sweep: expected places with lists of values",
        ),
        (
            "name: x\nsweep: {steps.no.k: [1]}\nsteps: [{kind: score}]",
            "steps.no.k: no entry no; there are score, or 0 to 0",
        ),
        ("name: x\nsteps: [{kind: score, method: induction}]", "steps[0].model: is missing: name one here"),
        ("name: " + "[" * 3000, "nested too deeply"),
        ("name: x\x07", "not YAML"),
    ],
)
def test_each_kind_of_mistake_names_the_line(text: str, message: str, tmp_path: Path):
    with pytest.raises(BadJob) as caught:
        read_job(written(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_one_error(tmp_path: Path):
    with pytest.raises(MissingData, match="No such file"):
        read_job(tmp_path / "none.yaml")
    (tmp_path / "job.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(BadJob, match="not UTF-8"):
        read_job(tmp_path / "job.yaml")


def test_a_sweep_is_the_product_of_its_lists_and_steps_inherit_from_the_job(tmp_path: Path):
    job = read_job(written(tmp_path, GOOD))
    assert [cell.point for cell in job.cells] == [
        {"seed": seed, "steps.score.dtype": dtype} for seed in (0, 1) for dtype in ("float32", "bfloat16")
    ]
    for cell in job.cells:
        first, second, check = cell.steps
        assert [first.method, second.method] == ["induction", "previous-token"]  # type: ignore[attr-defined]
        assert first.seed == check.seed == cell.point["seed"]
        assert first.dtype == cell.point["steps.score.dtype"] and check.dtype == "float32"
        assert first.model == "organism/text" and first.data == Data(name="repeated")  # type: ignore[attr-defined]
    assert job.run.shards == 8


def test_values_from_the_command_line_replace_what_the_file_says(tmp_path: Path):
    path = written(tmp_path, GOOD)
    sets = [
        "sweep.seed=[7]",
        "run.shards=2",
        "steps.verify.k=[4]",
        "steps.1.how=zero",
        "steps.score.sweep.method=[entropy]",
    ]
    job = read_job(path, sets)
    assert {cell.point["seed"] for cell in job.cells} == {7} and job.run.shards == 2
    assert job.cells[0].steps[-1].k == (4,) and job.cells[0].steps[-1].how == "zero"  # type: ignore[attr-defined]
    assert [len(cell.steps) for cell in job.cells] == [2, 2]
    with pytest.raises(BadJob, match=r"--set run\.shards=x: run\.shards: Input should be a valid integer"):
        read_job(path, ["run.shards=x"])
    with pytest.raises(BadJob, match="expected place=value"):
        read_job(path, ["run.shards"])
    with pytest.raises(BadJob, match=r"steps\.nothing\.k: no entry nothing"):
        read_job(path, ["steps.nothing.k=1"])


def test_a_job_survives_its_json_form(tmp_path: Path):
    job = read_job(written(tmp_path, GOOD))
    again = Job.from_record(json.loads(json.dumps(job.record())))
    assert again == job and again.digest == job.digest


def test_the_digest_is_of_what_is_computed_and_not_of_how():
    one = simulated(units=3, run={"shards": 2, "retries": 5})
    assert one.digest == simulated(units=3).digest
    assert one.digest != simulated(units=4).digest
    assert one.digest != simulated(units=3, run={"batch": 5}).digest


def test_steps_are_frozen_and_know_no_other_settings():
    step = kinds()["score"](method="induction", model="organism/text")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="frozen"):
        step.seed = 3
    with pytest.raises(ValueError, match="Extra inputs"):
        kinds()["score"](method="induction", colour="red")  # type: ignore[call-arg]


def test_the_schema_accepts_what_is_read_and_refuses_what_is_not(tmp_path: Path):
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.validate(yaml.safe_load(GOOD), made)
    for wrong in ("steps: []", "name: x\nsteps: [{kind: scores}]", "name: x\nsteps: [{kind: verify, q: 1}]"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(wrong), made)


def test_plain_values_are_read_as_yaml_reads_them():
    tree = parse("a: 1\nb: [true, null, 1.5, 2020-01-01]\nc:\n  d: x\n", "f")
    assert tree.value == {"a": 1, "b": [True, None, 1.5, "2020-01-01"], "c": {"d": "x"}}
    assert tree.origin(("c", "d")) == "f:4" and tree.origin(("c", "e")) == "f:3" and tree.origin(()) == "f:1"


def test_a_job_of_python_values_is_checked_alike():
    with pytest.raises(BadJob, match=r"job: steps\[0\]\.k: there is no such setting"):
        job_of(
            {"name": "x", "model": "organism/text", "steps": [{"kind": "score", "method": "entropy", "k": 1}]}
        )
