"""The command `headscope mitigate`: does a method make a model hallucinate less?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..datasets.plain import plain
from ..errors import BadPrompts, MissingData
from .arguments import numbers, one_of, prompts_from_file
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Out, Seed, Trust

_SHOWN = (
    "arm",
    "draw",
    "strength",
    "CHAIR_S",
    "CHAIR_S_low",
    "CHAIR_S_high",
    "CHAIR_I",
    "recall",
    "words",
    "right",
)


def mitigate(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="vhr, var, iri or rebalance.")],
    model: Model,
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="COCO-style annotations; by default scenes are drawn."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the annotated images.")
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Object names to lists of words for them.")
    ] = None,
    describe_by: Annotated[
        str | None, typer.Option("--describe", metavar="TEXT", help="What asks for a description.")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(metavar="FILE.jsonl", help="Questions with answers that should not become harder."),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(metavar="S,S,...", help="By default those of the method.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, max=100_000, help="Images that are described.")] = 100,
    draws: Annotated[int, typer.Option(min=0, help="Random controls at each strength.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    stop: Annotated[str | None, typer.Option(help="Text that ends a description.")] = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Describe images at several strengths of a method; count what is not there.

    By default the images are drawn scenes that break the prior of organism/vision.

    Example: headscope mitigate vhr --model organism/vision
    """
    with working():
        from ..analysis.vision.mitigation_methods import METHODS

        one_of(method, METHODS, "METHOD")
        chosen = None if strengths is None else numbers(strengths, "--strengths", "0,0.5,1")
        asked = prompts_from_file(questions)
        given = _annotated(annotations, images, synonyms, describe_by, asked, n)
    if dry_run:
        own = chosen or METHODS[method].strengths
        plan: dict[str, Any] = {
            "command": "mitigate",
            "method": method,
            "model": model,
            "strengths": own,
            "draws": draws,
        }
        return show_plan(
            as_json, **plan, data=str(annotations or "scenes that break the prior"), n=n, seed=seed, out=out
        )
    with working(f"mitigate {method} of {model}"):
        from ..analysis.vision.mitigation import mitigate as run
        from ..analysis.vision.mitigation import scenes_for
        from ..analysis.vision.tracing import trace
        from ..hooks.info import describe
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        described, asked_of, words, traced_on, stop = given or (*scenes_for(bridge, n, seed), stop or " .")
        traced = trace(bridge, traced_on, seed=seed) if method == "iri" else None
        found = run(
            bridge, method, described, asked_of, words, strengths=chosen, traced=traced, draws=draws,
            max_new_tokens=max_new_tokens, stop=stop, seed=seed, progress=progress_line(),
        )  # fmt: skip
        short = describe(bridge).name.rsplit("/", 1)[-1]
        folder = found.save(out / f"mitigate-{method}-{short}-{described.digest[:8]}-{seed}")
    table = found.table()
    lines = [
        table[list(_SHOWN)].to_string(index=False, float_format="{:.3g}".format, na_rep="-"),
        "",
        found.conclusion(),
        *found.notes,
        f"Folder: {folder}",
    ]
    record = {"table": table.to_dict("records"), "conclusion": found.conclusion(), "notes": found.notes}
    show(as_json, {**record, "folder": folder}, lines)


def _annotated(
    annotations: Path | None,
    images: Path | None,
    synonyms: Path | None,
    text: str | None,
    questions: Any,
    n: int,
) -> Any:
    """Read the user's own images; None where none are given."""
    if annotations is None:
        if images or synonyms or text or questions:
            raise MissingData(
                "--images, --synonyms, --describe and --questions belong to --annotations FILE.json."
            )
        return None
    lacks = [name for name, value in {"--images": images, "--synonyms": synonyms, "--describe": text,
                                      "--questions": questions}.items() if value is None]  # fmt: skip
    if lacks:
        raise MissingData(f"--annotations needs {', '.join(lacks)} too.")
    from ..datasets.annotated import descriptions, from_coco

    assert images is not None and synonyms is not None and text is not None
    found = from_coco(annotations, images)[:n]
    return descriptions(found, text=text, name=annotations.stem), questions, _words(synonyms), questions, None


def _words(path: Path) -> dict[str, list[str]]:
    try:
        words = json.loads(plain(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingData(f"{path}: no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadPrompts(f"{path}: not a JSON file that can be read: {error}") from None
    right = isinstance(words, dict) and all(
        isinstance(forms, list) and all(isinstance(form, str) for form in forms) for forms in words.values()
    )
    if not right:
        raise BadPrompts(f'{path}: expected names with lists of words, such as {{"dog": ["puppy"]}}.')
    return words
