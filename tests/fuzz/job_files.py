"""Job files: YAML of jobs, from the recipes and small ones of every kind, with `--set` now and then."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

import headscope
from fuzz import mutate
from fuzz.judge import Fault, Room, Target
from headscope.jobs.run import plan_job
from headscope.jobs.spec import Job, read_job
from headscope.jobs.steps import Step, kinds

_SMALL: tuple[dict[str, Any], ...] = (
    {
        "name": "a",
        "model": "organism/planted",
        "steps": [{"kind": "score", "method": "induction", "data": {"name": "repeated", "n": 3}}],
    },
    {
        "name": "two",
        "seed": 1,
        "sweep": {"model": ["organism/planted", "organism/text"]},
        "steps": [
            {
                "kind": "score",
                "sweep": {"method": ["induction", "previous-token"]},
                "data": {"name": "repeated", "n": 4},
            },
            {"kind": "verify", "k": [1, 2], "draws": 1},
        ],
        "run": {"shards": 2, "batch": 2, "retries": 0, "lease": 5.5},
    },
    {
        "name": "of files",
        "model": "organism/planted",
        "data": "asked.jsonl",
        "steps": [
            {"kind": "score", "name": "one", "method": "self"},
            {"kind": "score", "name": "b", "method": "sink", "options": {"threshold": 0.2}},
            {"kind": "verify", "of": "one"},
        ],
    },
    {
        "name": "s",
        "model": "organism/planted",
        "dtype": "bfloat16",
        "steps": [
            {"kind": "safety", "size": 1, "n": 16, "max_new_tokens": 2, "draws": 1, "forms": ["direct"]}
        ],
    },
    {
        "name": "c",
        "model": "organism/text",
        "steps": [{"kind": "circuit", "task": "ioi", "methods": ["atp"], "n": 4, "seeds": 1}],
    },
    {
        "name": "t",
        "model": "organism/text",
        "steps": [{"kind": "steer", "method": "act", "n": 8, "draws": 1, "strengths": [1, 2]}],
    },
    {
        "name": "v",
        "model": "organism/vision",
        "steps": [
            {"kind": "mitigate", "method": "vhr", "n": 4, "draws": 1, "strengths": [2], "max_new_tokens": 4}
        ],
    },
)
_SETS = (
    "run.shards=4",
    "seed=3",
    "steps.0.method=sink",
    "steps.score.data.n=2",
    "model=organism/planted",
    "name=[1]",
    "sweep.seed=[0,1]",
)
_ASKED = b'{"text": "apple banana apple"}\n{"text": "orange apple orange"}\n'
_PLANNED = 12  # of so many valid jobs, one is planned too


class JobFiles(Target):
    """Whatever a job file may hold."""

    name = "jobs"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        kinds()
        folder = Path(headscope.__file__).parent / "jobs" / "recipes"
        recipes = [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]
        self.trees = [*_SMALL, *_SMALL, *map(yaml.safe_load, recipes)]
        self.texts = [*recipes, *(yaml.safe_dump(one, sort_keys=False).encode() for one in _SMALL)]
        self.texts = [
            b"\n".join(line for line in one.splitlines() if not line.startswith(b"#")) for one in self.texts
        ]

    def make(self, rng: Random) -> tuple[bytes, tuple[str, ...], bool]:
        if rng.random() < 0.6:
            tree = rng.choice(self.trees)
            if rng.random() < 0.95:
                tree = mutate.tree(rng, tree, self.trees)
            made = _yaml(rng, tree)
        else:
            made = mutate.data(rng, rng.choice(self.texts), self.texts)
        sets = ()
        if rng.random() < 0.15:
            sets = tuple(
                mutate.text(rng, one) if rng.random() < 0.6 else one
                for one in rng.sample(_SETS, rng.choice((1, 2)))
            )
        return mutate.encoded(rng, made), sets, rng.randrange(_PLANNED) == 0

    def lay(self, made: tuple[bytes, tuple[str, ...], bool]) -> None:
        (self.room.inputs / "job.yaml").write_bytes(made[0])
        (self.room.inputs / "asked.jsonl").write_bytes(_ASKED)

    def call(self, made: tuple[bytes, tuple[str, ...], bool]) -> str:
        job = read_job("in/job.yaml", made[1])
        record = json.loads(json.dumps(job.record(), allow_nan=False))
        again = Job.from_record(record)
        if again.digest != job.digest or again.folder_name != job.folder_name:
            raise Fault("a job is not what is read from its record")
        if Path(job.folder_name).name != job.folder_name or job.folder_name.startswith("."):
            raise Fault(f"{job.folder_name!r} is no name for a folder")
        if not made[2] or not _is_quick([step for cell in job.cells for step in cell.steps]):
            return "read"
        plan = plan_job(job, fetch=False)
        json.dumps([unit.title for unit in plan.units])
        return "planned"


def _is_quick(steps: list[Step]) -> bool:
    """Whether planning costs little: few steps, few prompts."""
    numbers = [
        value
        for step in steps
        for value in (getattr(step, "n", None), getattr(getattr(step, "data", None), "n", None))
    ]
    return len(steps) <= 6 and all(value is None or value <= 32 for value in numbers)


def _yaml(rng: Random, tree: Any) -> bytes:
    """Write a tree in one of YAML's forms."""
    if rng.random() < 0.2:
        return mutate.dumped(rng, tree)
    try:
        made = yaml.safe_dump(
            tree,
            sort_keys=rng.random() < 0.2,
            default_flow_style=rng.choice((False, None, True)),
            allow_unicode=rng.random() < 0.5,
            width=10_000,
        )
    except (yaml.YAMLError, RecursionError):
        made = json.dumps(str(tree)[:1000])
    return made.encode("utf-8", "surrogatepass")
