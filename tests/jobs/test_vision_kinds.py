"""The kinds about models that see: in a job, the same as in one call, with the figure written beside the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.concept import concept_study
from headscope.analysis.defaults import default_prompts
from headscope.analysis.score import score
from headscope.analysis.selectivity import selectivity
from headscope.analysis.vision.image_heads import image_heads
from headscope.analysis.vision.skills import skills, to_describe
from headscope.analysis.vision.tracing import about_objects, trace
from headscope.jobs.run import run_job
from headscope.jobs.spec import job_of

WORDS = ("the", "cat", "dog", "saw", "three", "six", "fox")


def _concept(model):
    return concept_study(model, WORDS, *to_describe(model, 12), k=(1,), atoms=1, draws=1, max_new_tokens=3)


def _selective(model):
    asked = skills(model, 4)
    ranked = score(model, "vhd", asked.rank)
    return selectivity(model, ranked, asked.visual, asked.text, asked.train, k=(1,), draws=1)


def _trace(model):
    return trace(model, about_objects(model, "scene-exists", 3), min_gap=1e-6)


def _image_heads(model):
    return image_heads(model, [one.image for one in default_prompts(model, "pictures", n=4)], n_clusters=2)


KINDS = {
    "concept": ("llava", {"words": WORDS, "k": [1], "atoms": 1, "draws": 1, "n": 12, "max_new_tokens": 3}, _concept),
    "selective": ("llava", {"k": [1], "n": 4, "draws": 1}, _selective),
    "trace": ("llava", {"n": 3, "min_gap": 1e-6}, _trace),
    "image-heads": ("vit", {"n_clusters": 2, "data": {"name": "pictures", "n": 4}}, _image_heads),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_job_gives_what_one_call_gives_and_writes_its_figure(tiny, model_folder, tmp_path: Path, name: str):
    architecture, settings, call = KINDS[name]
    step = {"kind": name, **settings}
    outcome = run_job(
        job_of({"name": "t", "model": str(model_folder(architecture)), "steps": [step]}), tmp_path
    )
    assert outcome.state == "done", [*outcome.missing, *outcome.refused]
    table = pd.read_parquet(outcome.folder / f"{name.replace('-', '_')}.parquet")
    expected = call(tiny(architecture)).table()
    for column in expected.columns:
        found, wanted = table[column], expected[column].reset_index(drop=True)
        if pd.api.types.is_float_dtype(wanted):
            assert np.allclose(found, wanted, equal_nan=True, atol=1e-6), column
        else:
            assert found.tolist() == wanted.tolist(), column
    [result] = (outcome.folder / "results").iterdir()
    pages = {
        path.suffix: path for path in result.iterdir() if path.name not in ("manifest.json", "settings.json")
    }
    assert pages[".html"].stat().st_size > 100_000 and json.loads(pages[".json"].read_text())
