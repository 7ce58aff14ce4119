"""Train an SAE on head outputs, from a model and prompts; stopped, it goes on where it was, to the same bits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ....hooks.info import describe
from ....hooks.sweep import Progress
from ...defaults import as_prompt_set
from .autoencoder import Sae, SaeConfig
from .checkpoint import identity_of, load_checkpoint, load_finished, save_checkpoint, save_finished
from .options import SaeOptions
from .state import begin, finish
from .step import take_step
from .stream import Stream


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained SAE and how it went.

    Attributes:
        sae: The SAE; rows of its decoder have length 1.
        options: As given.
        history: Every 50 steps: `step`, `unexplained` (share of the variance), `l0`, `dead`, `resampled`.
        seconds: Of this call.
        resumed: The step it went on from; 0 for a new one.
        folder: Where it stands, if it was written.
    """

    sae: Sae
    options: SaeOptions
    history: pd.DataFrame
    seconds: float
    resumed: int = 0
    folder: Path | None = None


def train_sae(
    model: Any,
    prompts: Any,
    *,
    layer: int,
    head: int | None = None,
    options: SaeOptions | None = None,
    out: str | Path | None = None,
    checkpoint_seconds: float = 20.0,
    progress: Progress | None = None,
) -> Trained:
    """Train a sparse autoencoder on z of a layer's heads.

    Formula: share of variance unexplained + the architecture's penalty; Adam; decoder rows held at length 1.
    Reference: Kissane et al. 2024, arXiv:2406.17759 (SAEs on attention outputs); Gao et al. 2024, arXiv:2406.04093
        (topk); Rajamanoharan et al. 2024, arXiv:2407.14435 (jumprelu); Bricken et al. 2023, "Towards Monosemanticity"
        (dead features begun anew). Defaults are ours.

    Args:
        model: The bridge.
        prompts: A `PromptSet` or prompts; all tokens of their texts are read.
        layer: Whose heads.
        head: One head, or None for all of them together.
        options: Settings.
        out: Folder for the SAE. A checkpoint stands there meanwhile; the same call takes it up, and returns at once
            what is finished.
        checkpoint_seconds: Seconds between checkpoints.
        progress: Called with steps done and all of them.

    Raises:
        EmptyPromptSet: There is nothing to train on.
        BadOption: A setting is out of range, the model lacks the layer or head, or the folder holds another SAE.
        NonFinite: An activation or a weight is NaN.
    """
    begun, chosen = time.monotonic(), options or SaeOptions()
    data = as_prompt_set(prompts)
    stream = Stream(
        model, tuple(data), layer, head, chosen.batch_tokens, chosen.shard_prompts, chosen.bos, chosen.seed
    )
    d_in = stream.width
    d_sae = chosen.d_sae or 4 * d_in
    info = describe(model)
    config = SaeConfig(
        chosen.architecture, d_in, d_sae, layer, head, chosen.k if chosen.architecture == "topk" else None,
        model_name=info.name,
        metadata={"n_heads": info.n_heads, "model_digest": info.digest, "data": data.name, "data_digest": data.digest,
                  "trained_by": "headscope"},
    )  # fmt: skip
    identity = identity_of(config, chosen)
    folder = None if out is None else Path(out).expanduser()
    state = None
    if folder is not None:
        if (done := load_finished(folder, identity)) is not None:
            sae, past = done
            return Trained(sae, chosen, pd.DataFrame(past), 0.0, chosen.steps, folder)
        state = load_checkpoint(folder, identity)
    resumed = state.step if state else 0
    if state is None:
        state = begin(stream, config, chosen)
    saved = time.monotonic()
    batches = stream.batches(state.place)
    while state.step < chosen.steps:
        place, rows = next(batches)
        take_step(state, config, chosen, rows)
        state.place = place
        if progress:
            progress(state.step, chosen.steps)
        if (
            folder is not None
            and state.step < chosen.steps
            and time.monotonic() - saved >= checkpoint_seconds
        ):
            save_checkpoint(folder, state, identity)
            saved = time.monotonic()
    sae = finish(state, config)
    seconds, history = time.monotonic() - begun, pd.DataFrame(state.history)
    if folder is not None:
        save_finished(folder, sae, identity, chosen, state.history, seconds)
    return Trained(sae, chosen, history, seconds, resumed, folder)
