"""Arguments of the command line: every command and option, from calls that are right.

Commands that compute for long only say what they would do (`--dry-run`); the quick ones run on the planted model.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
import typer.main

from fuzz import mutate
from fuzz.judge import Room, Target
from fuzz.prompts import _COCO, _CSV, _RECORDS
from fuzz.run_folders import _made
from fuzz.terminal import headscope
from headscope.analysis.circuits.sae.autoencoder import Sae, SaeConfig
from headscope.analysis.circuits.sae.files import save_sae
from headscope.cli import app
from headscope.hooks import load as loading
from headscope.hooks import outline as outlining
from headscope.hooks.directions import Directions

_TEXT, _P = "organism/text", "organism/planted"
_PROMPT = "apple banana orange apple"
# Valid calls. Those of the first list run whole, those of the second with --dry-run.
_QUICK: tuple[str, ...] = (
    f"score previous-token -m {_P} -n 2 --out out --top 3",
    f"score induction --model {_P} --set earlier=last -n 2 --out out --json",
    f"score sink -m {_P} --data in/p.jsonl --set threshold=0.2 --out out --seed 3 --device cpu",
    f"pattern -m {_P} -p %PROMPT --head L2H1 --top 2",
    f"pattern -m {_P} -p %PROMPT --head 0.1 --weighted --out out/a.csv",
    f"pattern -m {_P} -p %PROMPT --head L0H2 --json --out out/a.json",
    f"generate -m {_P} -p %PROMPT --ablate L2H1 --max-new-tokens 2",
    f"generate -m {_P} -p %PROMPT --ablate L2H1,L0H2 --how zero --phase decode --max-new-tokens 2 --json",
    f"generate -m {_P} -p %PROMPT --scale L2H1=2 --positions 0,-1 --max-new-tokens 2",
    f"generate -m {_P} -p %PROMPT --span a=0:5 --positions a --ablate L1H1 --how mean --flow direct "
    "--max-new-tokens 1",
    f"generate -m {_P} -p %PROMPT --corrupted %PROMPT --ablate L1H1 --how resample --temperature 0.7 "
    "--seed 4 --max-new-tokens 2",
    f"generate -m {_P} -p %PROMPT --steer juice=1 --heads L2H1 --suppress L0H2 --max-new-tokens 2",
    f"generate -m {_P} -p %PROMPT --steer add=1 --directions in/d.safetensors --max-new-tokens 2",
)  # fmt: skip
_PLANNED: tuple[str, ...] = (
    f"score retrieval -m {_P} --data needle -n 2 --set form=paper --out out",
    "score vhd --model organism/vision --set outliers=drop --out out", "demo --out out --seed 1",
    "demo --json", "verify in/%RUN --k 1,2 --how zero --draws 1 -n 2",
    "verify in/%RUN -k 1 --data in/p.jsonl --metric answer_logprob --phase all --seed 2 --device cpu --json",
    f"sahara -m {_P} --size 1 -n 16 --kind uniform,scale --gain 0.1 --by difference --judge published "
    "--form direct,template --temperature 0 --temperature 1 --top-k 5 --draws 1 --max-new-tokens 2 "
    "--stop . --out out",
    f"sahara -m {_P} --data in/c.csv --column text --rank 2 -n 16",
    f"refusals L1H0 -m {_P} --gains 0,1,2 -n 16 --draws 1 --max-new-tokens 2 --neutral in/p.jsonl --out out",
    f"steer split-softmax -m {_TEXT} -n 8 --draws 1 --strength 1 --strength 2 -k 1,2 --select 2 --epochs "
    "1 --limit 2 --out out",
    f"steer add -m {_P} --data in/p.jsonl --held-out in/p.jsonl --contrast in/p.jsonl --neutral in/p.jsonl",
    "trace -m organism/vision -n 4 --sigma 3 --min-gap 0.1 --out out",
    "mitigate vhr -m organism/vision -n 4 --strengths 1,2 --draws 1 --max-new-tokens 4 --stop . --out out",
    "mitigate var -m organism/vision --annotations in/coco.json --images in --describe %PROMPT",
    "run in/job.yaml --set run.shards=2 --workers 2 --out out",
    "run in/job.yaml --engine local --shard 1/2 --quiet --json",
    f"sae train -m {_TEXT} --layer 2 --head 1 --out out/sae -n 20 --architecture topk --set k=4 --seed 1",
    f"sae show in/sae -m {_P} -n 20 --features 1,2 --top 3 --out out/f.html",
    f"sae show in/sae -m {_P} --data in/p.jsonl",
    "selective vhd -m organism/vision -k 1,2 -n 4 --how uniform --rank-on all --at-least 0.2 --at-most "
    "0.1 --draws 1 --seed 1",
    "selective vhd -m organism/vision -o outliers=keep --dtype bfloat16 --trust-remote-code --device cpu "
    "--out out --json",
    "concept red,green -m organism/vision --gains 0,2 -k 1,2 --atoms 4 -n 4 --draws 1 --max-new-tokens 2 "
    "--stop . --out out",
    f"concept apple -m {_P} --data in/p.jsonl --dtype float16",
    "circuit find ioi --method atp -n 4 --heads 3 --edges 4 --out out/c.json",
    "circuit compare ioi --methods atp,hisp -n 4 --seeds 1 --curves --out out/c.html",
    "circuit find induction -m planted/induction --set steps=2 --data in/p.jsonl",
)  # fmt: skip
_READING: tuple[str, ...] = (
    "models", "models --json", "methods", "methods --json", "circuit methods --json", "jobs kinds",
    "jobs kinds --json", "jobs schema", "jobs schema --out out/schema.json", "jobs status in",
    "jobs status in/%JOB --json", "runs list --runs in",
    "runs list --runs in --results --match planted --json", "runs show %RUN --runs in --top 2",
    "runs show in/%JOB --json", "runs compare in/%RUN in/%CHECKED --k 1,2 --seed 1 --out out/c.html",
    "runs export %RUN %JOB --to csv --runs in --out out/a.csv",
    "runs export in/%RUN --to json --table samples --out out/s.json", "runs gc --runs in --older 2",
    "runs gc --runs in --json", "app in --port 0 --address 127.0.0.1 --models 1", "--version", "--help",
    "score --help", "runs", "",
)  # fmt: skip
_SWITCHES = (
    "--json", "--dry-run", "--help", "--version", "--", "--quiet", "--yes", "--weighted", "--results", "-",
    "-x", "--install-completion", "-mn", "--no-such",
)  # fmt: skip
_MOST = 64  # a call with a larger number only says what it would do


class Arguments(Target):
    """The command line."""

    name = "arguments"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self.found = loading.load, outlining.outline, os.execve
        loading.load, outlining.outline = _once(loading.load), _once(outlining.outline)
        os.execve = _served  # the workbench would take this process's place
        self.options = sorted(
            {
                word
                for _, one in _commands()
                for option in one.params
                for word in option.opts
                if word.startswith("-")
            }
        )
        self.plans = {
            at for at, one in _commands() if any("--dry-run" in option.opts for option in one.params)
        }
        self.names = _laid(room)
        self.before = room.seen()

    def close(self) -> None:
        loading.load, outlining.outline, os.execve = self.found

    def make(self, rng: Random) -> list[str]:
        kind = rng.choices((_QUICK, _PLANNED, _READING), (25, 55, 20))[0]
        call = [self._named(word) for word in rng.choice(kind).split(" ") if word]
        quick = kind is _QUICK and rng.random() < 0.12
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
            call = self._changed(rng, call)
        call = [_possible(word) for word in call]
        if not quick or any(_large(word) for word in call):
            call = _planned(call, self.plans)
        return call

    def _named(self, word: str) -> str:
        for name, value in self.names.items():
            word = word.replace(name, value)
        return word

    def _changed(self, rng: Random, call: list[str]) -> list[str]:
        call = list(call)
        at = rng.randrange(len(call)) if call else 0
        what = rng.randrange(12)
        if what <= 3 and call:  # a value: most mistakes are there
            values = [i for i, word in enumerate(call) if i and not word.startswith("-")] or [at]
            at = rng.choice(values)
            call[at] = (
                mutate.text(rng, call[at])
                if rng.random() < 0.5
                else str(rng.choice((*mutate.WORDS, *mutate.NUMBERS)))
            )
        elif what == 4 and call:
            del call[at]
        elif what == 5 and call:
            call.insert(rng.randrange(len(call) + 1), call[at])
        elif what == 6 and call:
            other = rng.randrange(len(call))
            call[at], call[other] = call[other], call[at]
        elif what == 7:
            call.insert(rng.randrange(len(call) + 1), rng.choice(_SWITCHES))
        elif what == 8:
            value = rng.choice((*mutate.WORDS, *map(str, mutate.NUMBERS)))
            call[at:at] = (
                [f"{rng.choice(self.options)}={value}"]
                if rng.random() < 0.5
                else [rng.choice(self.options), value]
            )
        elif what == 9 and call:
            call[at] = mutate.text(rng, call[at])
        elif what == 10 and call:
            call = call[: at + 1]
        elif len(call) > 1:
            named = [i for i, word in enumerate(call[:-1]) if word.startswith("--")]
            if named:
                at = rng.choice(named)
                call[at : at + 2] = ["=".join(call[at : at + 2])]
        return call

    def call(self, made: list[str]) -> str:
        shown = headscope(made)
        if "--json" in made and "--help" not in made and shown[:1] in "{[":
            json.loads(shown)
        return (
            "planned"
            if "Would " in shown or '"plan"' in shown
            else "shown"
            if made[:1] and made[0] not in ("score", "pattern", "generate")
            else "ran"
        )

    def asked_for(self, made: list[str], path: str) -> bool:
        for one in _paths(made):
            if path == one or path.startswith(one + os.sep) or one.startswith(path):
                return True
            folder, name = os.path.split(one)
            if path.startswith(os.path.join(folder, f".{name}.")):  # the hidden name that it is written under
                return True
        return False

    def may_change(self, made: list[str], path: str) -> bool:
        if made[:2] == ["runs", "export"] and Path(path).parent == self.room.cwd:  # named after the run
            return True
        return self.asked_for(made, path) or path.startswith(str(self.room.cwd / "runs"))

    def tidy(self, made: list[str]) -> None:
        now = self.room.seen()
        for path in sorted((path for path in now if path not in self.before), key=len, reverse=True):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        if any(now.get(path) != facts for path, facts in self.before.items()):
            self.names = _laid(self.room)
            self.before = self.room.seen()


def _commands(command: Any = None, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        return [found for name, one in command.commands.items() for found in _commands(one, (*at, name))]
    return [(at, command)]


def _once(function: Any) -> Any:
    """The same model for the same arguments; errors are raised each time."""
    kept = cache(function)
    return lambda *given, **named: kept(*given, **named)


def _served(*_: Any) -> None:
    raise SystemExit(0)


def _possible(word: str) -> str:
    """What a shell can hand over: no NUL, and no half of a pair but for a byte that is not UTF-8."""
    word = word.replace("\0", "")
    return "".join(one for one in word if not "\ud800" <= one <= "\udfff" or "\udc80" <= one <= "\udcff")[
        :100_000
    ]


def _large(word: str) -> bool:
    digits = "".join(one if one in "0123456789" else " " for one in word).split()
    return any(len(one) > 3 or int(one) > _MOST for one in digits) or (
        "e" in word and any(one.isdigit() for one in word) and "=" not in word
    )


def _planned(call: list[str], plans: set[tuple[str, ...]]) -> list[str]:
    """Say `--dry-run` where a command knows it, right behind its name."""
    if call[:1] == ["--"]:
        return ["--", *_planned(call[1:], plans)]
    for size in (2, 1):
        if tuple(call[:size]) in plans:
            return [*call[:size], "--dry-run", *call[size:]]
    if call[:1] == ["circuit"] and call[1:2] != [
        "methods"
    ]:  # which reads `circuit ioi` as `circuit find ioi`
        return ["circuit", "find", "--dry-run", *call[1:]]
    return call


def _paths(call: list[str]) -> list[str]:
    words = [part for word in call for part in (word, word.partition("=")[2]) if part]
    return [os.path.abspath(os.path.expanduser(word)) for word in words] + [
        os.path.abspath(word) for word in words
    ]


def _laid(room: Room) -> dict[str, str]:
    """Write the files that the calls name."""
    room.clear(room.inputs)
    tree, names = _made_once()
    for path, content in tree.items():
        place = room.inputs / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if content is None else place.write_bytes(content)
    lines = "".join(json.dumps(one) + "\n" for one in _RECORDS[:1] * 4)
    (room.inputs / "p.jsonl").write_text(lines)
    (room.inputs / "c.csv").write_text(_CSV[0])
    (room.inputs / "coco.json").write_text(json.dumps(_COCO))
    (room.inputs / "job.yaml").write_text(
        "name: a\nmodel: organism/planted\nsteps: [{kind: score, method: self, data: {name: repeated, n: 2}}]\n"
    )
    generator = torch.Generator().manual_seed(0)
    Directions("resid", {1: torch.randn(64, generator=generator)}).save(room.inputs / "d.safetensors")
    save_sae(small_sae(), room.inputs / "sae")
    return {"%RUN": names["run"], "%CHECKED": names["checked"], "%JOB": names["job"], "%PROMPT": _PROMPT}


@cache
def _made_once() -> Any:
    return _made()


def small_sae() -> Sae:
    """An SAE of four features."""
    generator = torch.Generator().manual_seed(0)
    config = SaeConfig("topk", d_in=8, d_sae=4, layer=1, k=2, model_name="organism/planted")
    return Sae(
        config,
        torch.randn(8, 4, generator=generator),
        torch.zeros(4),
        torch.randn(4, 8, generator=generator),
        torch.zeros(8),
    )
