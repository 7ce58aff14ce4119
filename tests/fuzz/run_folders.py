"""Folders of runs: a run, a checked run and a job, with files damaged, missing, renamed, copied, or made links."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.judge import Room, Target
from fuzz.terminal import headscope
from headscope.analysis.browse import list_runs, open_run, report_of, table
from headscope.analysis.run import load_run, save_check, save_run
from headscope.analysis.score import default_prompts, score
from headscope.analysis.verify import verify
from headscope.hooks.interventions import uniform
from headscope.hooks.load import load
from headscope.jobs.listing import find, open_folder
from headscope.jobs.run import run_job
from headscope.jobs.spec import job_of

_LONG_AGO = 1_000_000_000.0
Tree = dict[str, bytes | None]  # by path below the folder of runs; None stands for a folder

_JOB = {
    "name": "j",
    "model": "organism/planted",
    "steps": [
        {"kind": "score", "method": "previous-token", "data": {"name": "repeated", "n": 4}},
        {"kind": "verify", "k": [1], "draws": 1},
    ],
    "run": {"shards": 2, "batch": 2},
}
# How often of a hundred, and the call: what draws intervals or plans costs more, and stands for less.
_CALLS: tuple[tuple[int, tuple[tuple[str, ...], ...]], ...] = (
    (
        22,
        (
            ("runs", "list"),
            ("runs", "list", "--results"),
            ("runs", "list", "--json"),
            ("runs", "list", "--match", "planted"),
        ),
    ),
    (
        20,
        (
            ("runs", "gc"),
            ("runs", "gc", "--older", "0"),
            ("runs", "gc", "--older", "0", "--yes"),
            ("runs", "gc", "--older", "0", "--json"),
        ),
    ),
    (18, (("jobs", "status", "{runs}"), ("jobs", "status", "{job}"), ("jobs", "status", "{job}", "--json"))),
    (16, (("load",), ("load-checked",), ("open-job",))),
    (6, (("browse",),)),
    (
        6,
        (
            ("runs", "show", "{run}"),
            ("runs", "show", "{checked}", "--json"),
            ("runs", "show", "{job}"),
            ("runs", "show", "{job}", "--json"),
        ),
    ),
    (
        5,
        (
            ("runs", "export", "{run}", "{job}", "--to", "csv", "--out", "out/a.csv"),
            ("runs", "export", "{checked}", "--to", "json", "--out", "out/a.json"),
            ("runs", "export", "{run}", "--to", "parquet", "--table", "samples", "--out", "out/a.parquet"),
            ("runs", "export", "{job}", "--to", "csv", "--table", "verify", "--out", "out/v.csv"),
        ),
    ),
    (
        3,
        (
            ("runs", "compare", "{run}", "{checked}"),
            ("runs", "compare", "{job}", "{run}"),
            ("runs", "compare", "{job}", "--out", "out/c.html"),
        ),
    ),
    (3, (("verify", "{run}", "--dry-run"), ("verify", "{checked}", "--dry-run", "--json"))),
    (1, (("run", "{job}", "--dry-run"), ("run", "{job}", "--dry-run", "--json"))),
)


class RunFolders(Target):
    """Whatever reads runs and jobs."""

    name = "runs"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self.tree, self.names = _made()
        self.files = sorted(path for path, content in self.tree.items() if content is not None)
        self.manifests = [path for path in self.files if path.endswith(".json")]
        self.tables = [path for path in self.files if path.endswith(".parquet")]
        self.laid: dict[str, tuple[Any, ...]] = {}

    def make(self, rng: Random) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Draw changes of the folder, by path, and the call: bytes, `("link", to)`, `("folder",)` or None."""
        changed: dict[str, Any] = {}
        calls = rng.choices([one for _, one in _CALLS], [weight for weight, _ in _CALLS])[0]
        call = rng.choice(calls)
        named = [name for key, name in self.names.items() if f"{{{key}}}" in call]
        named += {"load": [self.names["run"]], "load-checked": [self.names["checked"]]}.get(call[0], [])
        near = [path for path in self.files if not named or path.split("/")[0] in named]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):  # mostly where the call looks
            self._change(rng, changed, near if rng.random() < 0.8 else self.files)
        return changed, tuple(one.format(runs="in", **self._named(rng)) for one in call)

    def _named(self, rng: Random) -> dict[str, str]:
        """Name folders by their path or, with --runs, by their name; now and then the wrong one."""
        names = {key: f"in/{name}" for key, name in self.names.items()}
        if rng.random() < 0.1:
            names[rng.choice(list(names))] = rng.choice(
                (*names.values(), "in", "in/nothing", "/", f"{names['job']}/results", "")
            )
        return names

    def _change(self, rng: Random, changed: dict[str, Any], files: list[str]) -> None:
        what = rng.random()
        kinds = ".json" if what < 0.45 else ".parquet" if what < 0.65 else ""
        path = rng.choice([one for one in files if one.endswith(kinds)])
        content = changed.get(path) or self.tree[path]
        if not isinstance(content, bytes):
            return
        if what < 0.45:
            value = json.loads(self.tree[path] or b"{}")
            if rng.random() < 0.8:
                others = [json.loads(self.tree[rng.choice(self.manifests)] or b"{}")]
                changed[path] = mutate.encoded(rng, mutate.dumped(rng, mutate.tree(rng, value, others)))
            else:
                changed[path] = mutate.data(rng, content)
        elif what < 0.55:
            changed[path] = mutate.data(rng, content, [self.tree[rng.choice(self.tables)] or b""])
        elif what < 0.65:
            changed[path] = _table(rng, self.tree[path] or b"")
        elif what < 0.72:
            changed[path] = mutate.data(rng, content)
        elif what < 0.78:
            changed[path] = None
        elif what < 0.83:
            changed[path], changed[self._elsewhere(rng, path)] = None, content
        elif what < 0.88:
            changed[self._elsewhere(rng, path)] = content
        elif what < 0.95:
            to = rng.choice(
                (
                    ".",
                    "..",
                    "/etc/passwd",
                    "/dev/zero",
                    "/nowhere",
                    PurePosixPath(path).name,
                    "../../secret",
                    "/",
                )
            )
            changed[rng.choice((path, self._elsewhere(rng, path)))] = ("link", to)
        else:
            changed[path] = ("folder",)

    def _elsewhere(self, rng: Random, path: str) -> str:
        """Another path: another name beside it, another file's name, or another folder."""
        beside = PurePosixPath(path)
        name = rng.choice(
            (
                ".x.0123456789ab.tmp",
                f".{'0' * 32}.tmp",
                f".{'0' * 32}.dead",
                f"{beside.stem}.damaged",
                f"{beside.stem}.parquet",
                "units.json",
                "plan.json",
                "manifest.json",
                "x.jsonl",
                ".x.jsonl.abcdefgh",
                "a b",
                "\x1b[31m",
                "é" * 60,
                "%s",
                f"{beside.stem}.json",
                "nul\udcff.json",
                "-r",
                "\n",
            )
        )
        folder = rng.choice(
            (
                str(beside.parent),
                str(PurePosixPath(rng.choice(self.files)).parent),
                "",
                "new",
                "new/units",
                "a/b/c/d/e/f/g",
            )
        )
        return str(PurePosixPath(folder) / name)

    def lay(self, made: tuple[dict[str, Any], tuple[str, ...]]) -> None:
        if not self.laid:
            for path, content in self.tree.items():
                self._write(path, content)
            (self.room.cwd / "secret").write_text("not to be read or removed")
            self._remember()
        for path, content in made[0].items():
            with contextlib.suppress(OSError, ValueError):  # this change does not go together with another
                self._write(path, content if content is not None else b"")
                if content is None:
                    (self.room.inputs / path).unlink()

    def _write(self, path: str, content: Any) -> None:
        """Put a file, a folder (None) or a link in place, long ago."""
        place = self.room.inputs / path
        if content is None or content == ("folder",):
            if content is not None and not place.is_dir():
                place.unlink(missing_ok=True)
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
            else:
                place.symlink_to(content[1])
        for one in (place, place.parent):
            os.utime(one, (_LONG_AGO, _LONG_AGO), follow_symlinks=False)

    def _remember(self) -> None:
        self.laid = {
            path: facts for path, facts in self.room.seen().items() if path.startswith(str(self.room.inputs))
        }

    def tidy(self, made: tuple[dict[str, Any], tuple[str, ...]]) -> None:
        """Undo what differs, and leave the rest in place."""
        self.room.clear(self.room.out)
        own = str(self.room.inputs)
        now = {path: facts for path, facts in self.room.seen().items() if path.startswith(own)}
        differs = [path for path in {*now, *self.laid} if now.get(path) != self.laid.get(path)]
        for path in sorted(differs, key=len, reverse=True):
            if (
                path in now
                and os.path.lexists(path)
                and (path not in self.laid or now[path][0] != self.laid[path][0])
            ):
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
        for path in sorted(differs, key=len):
            if path in self.laid:
                name = os.path.relpath(path, own)
                self._write(name, self.tree[name])
        if differs:
            self._remember()

    def call(self, made: tuple[dict[str, Any], tuple[str, ...]]) -> str:
        what, *rest = made[1]
        if what == "browse":
            listed = list_runs("in")
            table(listed)
            for one in listed[:3]:
                if not one.problem:
                    report_of("in", one.name)
                    open_run("in", one.name)
            return "browse"
        if what in ("load", "load-checked"):
            load_run(f"in/{self.names['run' if what == 'load' else 'checked']}")
            return "load"
        if what == "open-job":
            open_folder(find(self.names["job"], "in"))
            return what
        below = ("--runs", "in") if what == "runs" else ()
        headscope((what, *rest, *below))
        return " ".join((what, *rest[:1])) if what in ("runs", "jobs") else what

    def may_change(self, made: tuple[dict[str, Any], tuple[str, ...]], path: str) -> bool:
        # gc removes leftovers, and nothing else, inside the folder of runs.
        return (
            made[1][:2] == ("runs", "gc")
            and "--yes" in made[1]
            and path.startswith(f"{self.room.inputs}{os.sep}")
            and not Path(path).exists()
        )


def _made() -> tuple[Tree, dict[str, str]]:
    """Make a run, a checked one and a job, and read them into memory; reports are long, and nobody reads them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = load("organism/planted", device="cpu")
        prompts = default_prompts(model, "repeated", 0, n=2)
        facts: dict[str, Any] = {"model": model, "prompts": prompts, "command": "headscope score"}
        run = save_run(root, score(model, "previous-token", prompts), **facts)
        checked = save_run(root, score(model, "induction", prompts), **facts)
        done = load_run(checked)
        save_check(
            done,
            verify(model, done.scores, prompts, how=uniform, k=(1,), draws=1),
            model=model,
            command="headscope verify",
        )
        job = run_job(job_of(_JOB, root), root, device="cpu").folder
        names = {"run": run.name, "checked": checked.name, "job": job.name}
        unit = next((job / "units").iterdir()).stem
        for place, said in (
            ("claims", {"token": "a", "where": "b", "pid": 1, "born": "c"}),
            ("failed", {"unit": unit, "error": "x", "title": "t"}),
        ):
            (job / place).mkdir(exist_ok=True)
            (job / place / f"{unit}.json").write_text(json.dumps(said))
        tree: Tree = {}
        for path in sorted(root.rglob("*")):
            content = (
                None if path.is_dir() else b"<p>report</p>" if path.suffix == ".html" else path.read_bytes()
            )
            tree[path.relative_to(root).as_posix()] = content
    return tree, names


def _table(rng: Random, content: bytes) -> bytes:
    """Change a table as a table: columns, rows, types, values; what is said beside it stays or goes."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    read = pq.ParquetFile(io.BytesIO(content)).read()
    name = rng.choice(read.column_names)
    at = read.column_names.index(name)
    what = rng.randrange(8)
    try:
        if what == 0:
            read = read.drop_columns([name])
        elif what == 1:
            read = read.rename_columns(
                [mutate.text(rng, one) if one == name else one for one in read.column_names]
            )
        elif what == 2:
            read = read.slice(rng.randrange(len(read) + 1), rng.randrange(len(read) + 1))
        elif what == 3:
            read = pa.concat_tables([read, read])
        elif what == 4:
            kind = rng.choice(
                (pa.string(), pa.float64(), pa.int8(), pa.bool_(), pa.list_(pa.int64()), pa.null())
            )
            plain = (
                [str(one) for one in read[name].to_pylist()] if kind == pa.string() else [None] * len(read)
            )
            read = read.set_column(at, name, pa.array(plain, kind))
        elif what == 5:
            values = read[name].to_pylist()
            if values:
                values[rng.randrange(len(values))] = rng.choice(
                    (None, -1, 10**12, 0, 1, float("nan"), float("inf"))
                )
            read = read.set_column(at, name, pa.array(values))
        elif what == 6:
            read = read.replace_schema_metadata(None)
        else:
            read = read.append_column(name, read[name])
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return mutate.data(rng, content)
    file = io.BytesIO()
    pq.write_table(read, file, store_schema=False)
    return file.getvalue()
