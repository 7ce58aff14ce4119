"""The commands `headscope sae ...`: train sparse autoencoders on head outputs, and look at their features."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import pairs, prompts_from_file, sizes
from .console import progress_line, show, show_plan, working
from .options import Device, DryRun, Dtype, Json, Model, Seed, Trust

sae = typer.Typer(
    name="sae",
    help="Sparse autoencoders on head outputs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Data = Annotated[
    str | None,
    typer.Option(metavar="FILE.jsonl", help="Texts; shipped models have their own by default."),
]


@sae.command("train")
def train(
    model: Model,
    layer: Annotated[int, typer.Option(min=0, help="Whose heads.")],
    out: Annotated[Path, typer.Option(help="Folder for the SAE, in SAELens' form.")],
    head: Annotated[
        int | None, typer.Option(min=0, help="One head; by default all of the layer together.")
    ] = None,
    data: Data = None,
    n: Annotated[int, typer.Option("-n", min=2, max=100_000, help="Texts, where they are generated.")] = 1500,
    architecture: Annotated[str, typer.Option(help="topk, standard (ReLU) or jumprelu.")] = "topk",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the training, such as k=16; repeatable."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a sparse autoencoder on what the heads of a layer hand on.

    Stopped with Ctrl-C, the same command goes on from the last checkpoint, at most 20 seconds before.

    Example: headscope sae train --model organism/text --layer 2 --out sae/text-2
    """
    with working():
        chosen = _options(architecture, pairs(option or (), "--set"), seed)
        prompts = prompts_from_file(data)
    if dry_run:
        plan = {"command": "sae train", "model": model, "layer": layer, "head": head, "out": out}
        return show_plan(
            as_json, **plan, data=str(prompts or data or f"{n} of the model's own"), **asdict(chosen)
        )
    with working(f"sae train on layer {layer} of {model}"):
        from ..analysis.circuits.sae.measure import measure
        from ..analysis.circuits.sae.texts import held_out, training_texts
        from ..analysis.circuits.sae.train import train_sae
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        texts, others = training_texts(bridge, n, seed) if prompts is None else held_out(prompts)
        trained = train_sae(
            bridge, texts, layer=layer, head=head, options=chosen, out=out, progress=progress_line()
        )
        found = measure(bridge, trained.sae, others)
    last = trained.history.iloc[-1].to_dict()
    done = trained.resumed == chosen.steps
    lines = [
        f"{trained.sae.config} of {model}, trained on {len(texts)} texts"
        + (", found finished" if done else f" in {trained.seconds:.0f} s")
        + (f", taken up at step {trained.resumed}" if trained.resumed and not done else ""),
        f"in training: {last['unexplained']:.3f} of the variance unexplained, L0 {last['l0']:.1f}, "
        f"{last['dead']:.0f} features dead",
        f"on {len(others)} other texts:",
        *(f"  {line}" for line in found.lines()),
        f"Folder: {out}",
    ]
    losses = {name: {**asdict(loss), "recovered": loss.recovered}
              for name, loss in (("text", found.text), ("answers", found.answers)) if loss}  # fmt: skip
    record = {"sae": str(trained.sae.config), "seconds": trained.seconds, "resumed": trained.resumed, "training": last,
              "held_out": {**asdict(found), **losses}, "folder": out}  # fmt: skip
    show(as_json, record, lines)


@sae.command("show")
def show_features(
    folder: Annotated[Path, typer.Argument(metavar="SAE", help="Folder of an SAE, in SAELens' form.")],
    model: Model,
    data: Data = None,
    n: Annotated[int, typer.Option("-n", min=20, max=100_000, help="Texts, where they are generated.")] = 200,
    features: Annotated[
        str | None, typer.Option(metavar="I,I,...", help="Which features; by default those that say most.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features, where none are named.")] = 20,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the features there as a page.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Show what features of an SAE are about: where active, from which heads, for which tokens.

    Example: headscope sae show sae/text-2 --model organism/text --out features.html
    """
    with working():
        prompts = prompts_from_file(data)
        listed = None if features is None else sizes(features, "--features", "3,17", least=0)
        from ..analysis.circuits.sae.autoencoder import Sae

        own = Sae.load(folder)
    if dry_run:
        plan = {"command": "sae show", "sae": str(own.config), "model": model, "out": out}
        return show_plan(as_json, **plan, data=str(prompts or data or f"{n} of the model's own"),
                         features=features or f"the {top} that say most")  # fmt: skip
    with working(f"sae show {folder}"):
        from ..analysis.circuits.sae.dashboard import dashboard
        from ..analysis.circuits.sae.texts import training_texts
        from ..hooks.load import load

        bridge = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        texts = prompts if prompts is not None else training_texts(bridge, n, seed)[1]
        found = dashboard(bridge, own, texts, features=listed, n=top)
        if out is not None:
            found.page(out)
    table = found.table()
    lines = [
        f"{own.config} on {found.n_tokens} tokens of {found.data}; {int((found.density == 0).sum())} features silent",
        "",
        table.to_string(index=False, float_format="{:.3g}".format),
        *([f"Page: {out}"] if out else []),
    ]
    record: dict[str, Any] = {
        "sae": str(own.config),
        "n_tokens": found.n_tokens,
        "features": table.to_dict("records"),
    }
    show(as_json, {**record, "page": out}, lines)


def _options(architecture: str, given: dict[str, str], seed: int) -> Any:
    """Read the settings of a training, text in the type of each."""
    import typing

    from ..analysis.circuits.sae.train import SaeOptions
    from ..analysis.registry import Option
    from ..errors import UnknownOption, nearest

    default = asdict(SaeOptions())
    hints = typing.get_type_hints(SaeOptions)
    for name in given:
        if name not in default or name in ("seed", "architecture"):
            raise UnknownOption(f"--set {name}: the training has no such setting.{nearest(name, default)}")
    values = {
        name: Option(name, hints[name], default[name]).parse(value, "--set") for name, value in given.items()
    }
    return SaeOptions(architecture=architecture, seed=seed, **values)  # type: ignore[arg-type]
