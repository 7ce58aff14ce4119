"""A run on disk: what was asked, what came out, and enough to ask again.

```
<name>-<digest>/
  manifest.json         the job, model and data with their digests, seed, versions, start, seconds, state,
  command prompts.jsonl         the prompts
  scores.parquet, …     what `HeadScores.save` writes
  verification.…        what `Verification.save` writes, where a causal check ran
  report.html           self-contained
```
A folder appears when it is complete. The digest is of the job, so the same question has the same folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.prompts import PromptSet
from ..errors import BadRun
from ..hooks.find import split_part
from ..hooks.info import describe
from ..hooks.tower import sees_pieces
from .attention import Attention, attend
from .files import jsonable, publish_folder, read_json, write_json
from .links import refuse_links
from .report import Part, write_report
from .scores import HeadScores
from .verify import Verification

_FORMAT = "headscope-run/1"
_LIBRARIES = ("headscope", "torch", "transformer-lens", "transformers", "numpy", "pandas", "scipy", "plotly")


@dataclass(frozen=True)
class Run:
    """A run that was read from disk.

    Attributes:
        folder: Where it stands.
        manifest: What `manifest.json` holds.
        scores: The scores.
        prompts: The prompts they were made from.
        verification: The causal check, None where none ran.
    """

    folder: Path
    manifest: dict[str, Any]
    scores: HeadScores
    prompts: PromptSet
    verification: Verification | None

    @property
    def model(self) -> str:
        """What `load` takes to load the model again."""
        return str(self.manifest["model"]["load"])

    @property
    def dtype(self) -> str:
        """Precision of the weights that were scored, such as `float32`."""
        return str(self.manifest["model"]["dtype"])

    def require(self, model: Any) -> None:
        """Refuse a model that is not the one that was scored.

        Raises:
            BadRun: The weights are others.
        """
        digest, scored = describe(model).digest, self.manifest["model"]["digest"]
        if digest != scored:
            raise BadRun(
                f"{self.folder}: scored with weights {scored}, and {self.model} now has {digest}. Score again."
            )


def save_run(
    out: str | Path,
    scores: HeadScores,
    *,
    model: Any,
    prompts: PromptSet,
    command: str,
    verification: Verification | None = None,
    started: datetime | None = None,
    seconds: float | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Write one run with its report. An older run of the same job is replaced as a whole.

    Args:
        out: The folder that holds the runs.
        scores: The scores.
        model: The bridge that was scored; the report shows the attention of its first heads on one prompt.
        prompts: The prompts that were scored.
        command: The command line that makes the run again.
        verification: The causal check of these scores.
        started: When the work began.
        seconds: How long it took.
        folder: Where to write instead of `out/<name>-<digest>`, for example an older run's folder.

    Returns:
        The run's folder.

    Raises:
        CannotWrite: The system refused; nothing partial is left.
    """
    manifest = manifest_of(
        scores, model=model, prompts=prompts, command=command, started=started, seconds=seconds
    )
    scores = verification.mark(scores) if verification is not None else scores
    part = Part(scores, verification=verification, attention=first_attention(model, scores, prompts))
    target = Path(folder) if folder else Path(out) / f"{run_name(scores)}-{manifest['digest']}"
    with publish_folder(target) as fresh:
        write_report(fresh / "report.html", [part], command=command, facts=[manifest])
        fill(fresh, part, prompts, manifest)
    return target


def save_check(
    run: Run, verification: Verification, *, model: Any, command: str, seconds: float | None = None
) -> Path:
    """Write a run again, with a causal check of its scores.

    Args:
        run: The run, as `load_run` gives it.
        verification: The check.
        model: The bridge that was checked.
        command: The command line that made the check; it stands below the one that made the scores.
        seconds: How long the check took.

    Returns:
        The run's folder.

    Raises:
        BadRun: The model is not the one that was scored.
        CannotWrite: The system refused; the run is as it was.
    """
    run.require(model)
    scored = str(run.manifest.get("command") or "headscope score").splitlines()[0]
    before, started = run.manifest.get("seconds"), str(run.manifest.get("started"))
    try:
        begun = datetime.fromisoformat(started)
        before = None if before is None else float(before)
    except (TypeError, ValueError) as error:
        raise BadRun(
            f"{run.folder / 'manifest.json'}: started is {started!r} and seconds {before!r}, expected an ISO time "
            "and a number. The file is damaged: score again."
        ) from error
    return save_run(
        run.folder.parent,
        run.scores,
        model=model,
        prompts=run.prompts,
        command=f"{scored}\n{command}",
        verification=verification,
        started=begun,
        seconds=before if seconds is None else (before or 0) + seconds,
        folder=run.folder,
    )


def fill(folder: Path, part: Part, prompts: PromptSet, manifest: dict[str, Any]) -> None:
    """Write everything but the report into a folder that exists, the manifest last."""
    part.scores.save(folder)
    prompts.to_jsonl(folder / "prompts.jsonl")
    if part.verification is not None:
        part.verification.save(folder)
    done = {"causal_check": part.verification is not None, "state": "done"}
    write_manifest(folder, {**manifest, **done})


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the folder's files, by which a later run knows what it may replace."""
    names = {"manifest.json", *(entry.name for entry in folder.iterdir())}
    write_json(folder / "manifest.json", {**manifest, "files": sorted(names)})


def load_run(folder: str | Path) -> Run:
    """Read what `save_run` wrote.

    Raises:
        BadRun: The folder is no run, lacks a file, was changed, or holds a link.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadRun(f"{folder}: no such folder. Give a run folder, such as runs/{'<name>-<digest>'}.")
    refuse_links(folder)
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != _FORMAT:
        raise BadRun(f"{folder}: not a run of this version (format {manifest.get('format')!r}). Score again.")
    for part, needed in (("model", ("load", "digest")), ("data", ("name", "digest"))):
        said = manifest.get(part)
        if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in needed):
            raise BadRun(
                f"{folder / 'manifest.json'}: {part} does not say {' and '.join(needed)}. "
                "The file is damaged: score again."
            )
    prompts = PromptSet.from_jsonl(folder / "prompts.jsonl", name=manifest["data"]["name"])
    if prompts.digest != manifest["data"]["digest"]:
        raise BadRun(
            f"{folder / 'prompts.jsonl'}: the prompts have the digest {prompts.digest}, the manifest says "
            f"{manifest['data']['digest']}. They were changed after the run: score again."
        )
    checked = Verification.load(folder) if manifest.get("causal_check") else None
    return Run(folder, manifest, HeadScores.load(folder), prompts, checked)


def first_attention(model: Any, scores: HeadScores, prompts: PromptSet, k: int = 3) -> Attention | None:
    """Capture the attention of the first heads on the first prompt that counted; None if no head has a score, or where
    heads read images and not tokens.
    """
    table = scores.table().dropna(subset=["score"])
    if not len(table) or not len(prompts) or sees_pieces(model):
        return None
    counted = 0
    if scores.samples is not None:
        rows = np.flatnonzero(np.isfinite(scores.samples).any(axis=(1, 2)))
        counted = int(rows[0]) if len(rows) and rows[0] < len(prompts) else 0
    return attend(model, prompts[counted], scores.top(min(k, len(table))))


def manifest_of(
    scores: HeadScores,
    *,
    model: Any,
    prompts: PromptSet,
    command: str,
    started: datetime | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Say what was run, on what, with which versions."""
    return manifest_with(
        scores, facts_of(model), prompts=prompts, command=command, started=started, seconds=seconds
    )


def facts_of(model: Any) -> dict[str, Any]:
    """Say of a model what a manifest holds of it; `load` is what loads it again."""
    info = describe(model)
    shipped = info.folder is None or "/" in info.name
    return {
        **{
            key: getattr(info, key)
            for key in ("name", "digest", "n_layers", "n_heads", "n_kv_heads", "n_ctx")
        },
        "dtype": str(info.dtype).removeprefix("torch."),
        "device": str(info.device),
        "load": info.name if shipped else f"{info.folder}{split_part(info.name)[1]}",
    }


def manifest_with(
    scores: HeadScores,
    facts: Mapping[str, Any],
    *,
    prompts: PromptSet,
    command: str,
    started: datetime | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """As `manifest_of`, where the model is no longer at hand: `facts` is what `facts_of` said of it."""
    job = {
        "method": scores.method,
        "options": {key: getattr(value, "__name__", value) for key, value in scores.options.items()},
        "model": list(scores.model),
        "data": [prompts.name, prompts.digest],
        "seed": scores.seed,
        # Another precision is another run; float32, the usual one, does not enter, so that names stay what they were.
        **({"dtype": facts["dtype"]} if facts.get("dtype", "float32") != "float32" else {}),
    }
    text = json.dumps(jsonable(job), sort_keys=True)
    return {
        "format": _FORMAT,
        "digest": hashlib.sha256(text.encode()).hexdigest()[:10],
        "job": job,
        "command": command,
        "model": dict(facts),
        "data": {"name": prompts.name, "digest": prompts.digest, "n_prompts": len(prompts)},
        "seed": scores.seed,
        "versions": versions(),
        "started": (started or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a number may depend on."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # run from a checkout that was never installed
            found[library] = "not installed"
    return found


def run_name(scores: HeadScores) -> str:
    """`retrieval-text`: the method and the last part of the model's name, safe as a folder's name."""
    words = f"{scores.method}-{scores.model.name.rstrip('/').split('/')[-1]}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.")[:80] or "run"
