"""The main job on the shipped models: which heads retrieve, is that causal, and does a score find a planted head?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..datasets.prompts import PromptSet
from ..hooks.heads import Head
from ..hooks.interventions import uniform
from ..hooks.load import available, load
from .defaults import default_prompts
from .figures import interval
from .files import publish_folder
from .outcomes import needle_accuracy
from .report import ALONE, Part, write_report
from .run import fill, first_attention, manifest_of, versions, write_manifest
from .score import score, score_patterns
from .verify import verify

TEXT, PLANTED = "organism/text", "organism/planted"
PLANTED_METHODS = ("induction", "previous-token")
N_SCORED, N_CHECKED = 64, 64
K, DRAWS = (1, 2, 4, 8), 5

Say = Callable[[str], None]


def demo(out: str | Path = "runs/demo", *, seed: int = 0, progress: Say = print) -> Path:
    """Score, check and report on the shipped models; under a minute on two cores.

    First: the retrieval heads of `organism/text` on held-out prompts, and on other held-out prompts what happens to
    needle accuracy when the first of them attend evenly while the model answers, beside random heads. Then: whether
    the induction and previous-token scores put the heads first that were written into `organism/planted` by hand.

    Args:
        out: The folder to write. An older demo there is replaced; any other folder with files in it is refused.
        seed: Of the prompts, the random heads and the intervals.
        progress: Called with each line of the summary.

    Returns:
        The path of `report.html`. Beside it stands one run folder per score.

    Raises:
        CannotWrite: The folder cannot be written or is not ours.
        UnknownModel: A shipped model is missing from the installation.
    """
    out, started, begun = Path(out), datetime.now(UTC), time.monotonic()
    command = shlex.join(["headscope", "demo", "--out", str(out), "--seed", str(seed)])
    with publish_folder(out) as folder:
        done = [_retrieval(seed, command, progress), *_planted(seed, command, progress)]
        for part, prompts, manifest in done:
            run = folder / part.scores.method
            run.mkdir()
            fill(run, part, prompts, manifest)
        parts, _, facts = (list(column) for column in zip(*done, strict=True))
        title = "Which heads retrieve, and are the planted heads found?"
        write_report(folder / "report.html", parts, command=command, facts=facts, title=title)
        manifest = {
            "format": "headscope-demo/1",
            "command": command,
            "seed": seed,
            "versions": versions(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - begun, 1),
            "state": "done",
        }
        write_manifest(folder, manifest)
    return out / "report.html"


def _retrieval(seed: int, command: str, progress: Say) -> tuple[Part, PromptSet, dict[str, Any]]:
    """Score and check the retrieval heads of the trained model."""
    started, begun = datetime.now(UTC), time.monotonic()
    model = load(TEXT)
    prompts = default_prompts(model, "needle", seed, n=N_SCORED)
    scores = score(model, "retrieval", prompts, seed=seed)
    seen = {prompt.text for prompt in prompts}
    others = default_prompts(model, "needle", seed + 1, n=N_CHECKED).filter(
        lambda prompt: prompt.text not in seen
    )
    check = verify(
        model, scores, others, needle_accuracy(), how=uniform, phase="decode", k=K, draws=DRAWS, seed=seed
    )
    scores = check.mark(scores)
    part = Part(
        scores,
        verification=check,
        attention=first_attention(model, scores, prompts),
        question=f"Which heads of {TEXT} retrieve, and is that causal?",
        remarks=(f"The heads were chosen on {len(prompts)} prompts and checked on {len(others)} others.",),
    )
    manifest = manifest_of(
        scores,
        model=model,
        prompts=prompts,
        command=command,
        started=started,
        seconds=time.monotonic() - begun,
    )
    _summary(part, progress)
    return part, prompts, manifest


def _planted(seed: int, command: str, progress: Say) -> list[tuple[Part, PromptSet, dict[str, Any]]]:
    """Score the model whose heads are known."""
    started, begun = datetime.now(UTC), time.monotonic()
    truth = next(card.card["ground_truth"] for card in available() if card.name == PLANTED)
    model = load(PLANTED)
    prompts = default_prompts(model, "repeated", seed)
    found = score_patterns(model, prompts, PLANTED_METHODS, seed=seed)
    seconds = time.monotonic() - begun
    done = []
    for method, scores in found.items():
        part = Part(
            scores,
            attention=first_attention(model, scores, prompts, k=1),
            question=f"Does the {method} score find the head planted in {PLANTED}?",
            known={f"{method} head": Head.parse(head) for head in truth[method]},
        )
        manifest = manifest_of(
            scores, model=model, prompts=prompts, command=command, started=started, seconds=seconds
        )
        _summary(part, progress)
        done.append((part, prompts, manifest))
    return done


def _summary(part: Part, progress: Say) -> None:
    """Print the first heads with their intervals, and the verdict."""
    scores = part.scores
    progress(f"\n{scores.model.name} · {scores.method} · {scores.data.name}")
    shown = 5 if part.verification is not None else 2
    for row in scores.table().dropna(subset=["score"]).head(shown).to_dict("records"):
        head = Head(row["layer"], row["head"])
        progress(f"  {head!s:<6} {interval(row['score'], row['low'], row['high'])}  n={row['n']}")
    progress(f"  {part.answer}")
    if part.verification is None:
        progress(f"  ({ALONE})")
