"""Curves of mitigation: neutral strengths change nothing, the conclusion follows the numbers, controls are as many."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from headscope.analysis.scores import Source
from headscope.analysis.vision.hallucination import describe_and_count
from headscope.analysis.vision.mitigation import Mitigation, mitigate, scenes_for
from headscope.analysis.vision.mitigation_methods import METHODS
from headscope.analysis.vision.tracing import trace
from headscope.errors import BadOption, MissingData


@pytest.fixture(scope="module")
def llava(tiny):
    return tiny("llava")


@pytest.fixture(scope="module")
def given(llava):
    return scenes_for(llava, 3)


def _run(llava, given, method, **options):
    described, asked, words, _ = given
    return mitigate(llava, method, described, asked, words, max_new_tokens=6, **options)


@pytest.mark.parametrize("method", ["vhr", "rebalance"])
def test_the_neutral_strength_is_the_model_as_it_is_and_every_arm_has_its_row(llava, given, method):
    calls = []
    found = _run(llava, given, method, strengths=[2.0], draws=2, progress=lambda a, b: calls.append((a, b)))
    own = METHODS[method]
    n_random = 0 if own.control == "none" else 2
    assert found.rows.arm.tolist() == ["chosen", "chosen", *["random"] * n_random]
    assert calls[-1] == (2 + n_random, 2 + n_random) and found.wrong.shape == (2 + n_random, 3)
    described, _, words, _ = given
    clean = describe_and_count(llava, described, words, max_new_tokens=6).summary().set_index("measure")
    row = found.rows[found.rows.strength == own.neutral].iloc[0]
    for measure in ("CHAIR_S", "recall", "words"):
        assert row[measure] == pytest.approx(clean.loc[measure, "value"], nan_ok=True)
    assert len(found.figure().data) == 4 * (1 + n_random)


def test_injection_needs_recovery_rates_and_takes_the_best_layers(llava, given, tmp_path):
    with pytest.raises(BadOption, match="iri needs recovery rates"):
        _run(llava, given, "iri")
    traced = trace(llava, given[3][:4], sigma=1.0, min_gap=1e-6)
    found = _run(llava, given, "iri", strengths=[0.5], draws=1, traced=traced)
    folder = found.save(tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == {
        "mitigation.parquet",
        "mitigation.json",
        "mitigation.html",
    }
    assert pd.read_parquet(folder / "mitigation.parquet").strength.tolist() == found.rows.strength.tolist()


def _made(before, after, random, **changed):
    """Build what was measured from shares of hallucinating descriptions out of 100."""

    def row(arm, strength, share):
        row = {"arm": arm, "draw": 0, "strength": strength, "n": 100, "CHAIR_S": share, "CHAIR_I": share / 3}
        row |= {"CHAIR_S_low": share - 0.1, "CHAIR_S_high": share + 0.1}
        for name, value in {"recall": 0.9, "words": 12.0, "right": 0.95}.items():
            value = changed.get(name, value) if strength == 2 and arm == "chosen" else value
            row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
        return row

    shares = [("chosen", 1.0, before), ("chosen", 2.0, after), ("random", 2.0, random)]
    wrong = np.array([np.arange(100) < 100 * share for *_, share in shares])
    rows = pd.DataFrame([row(*one) for one in shares])
    return Mitigation(METHODS["vhr"], wrong, rows, Source("m", "0"), Source("d", "0"), 0)


def test_the_conclusion_follows_the_numbers():
    assert _made(0.5, 0.2, 0.5).conclusion().endswith("It reduces hallucination here.")
    assert "-30 points" in _made(0.5, 0.2, 0.5).conclusion()
    assert _made(0.5, 0.5, 0.5).conclusion().endswith("It is not shown to reduce hallucination here.")
    assert _made(0.5, 0.7, 0.5).conclusion().endswith("It is not shown to reduce hallucination here.")
    assert _made(0.5, 0.2, 0.2).conclusion().endswith("It is not shown to reduce hallucination here.")
    for name, value in {"recall": 0.5, "words": 5.0, "right": 0.5}.items():
        assert _made(0.5, 0.2, 0.5, **{name: value}).conclusion().endswith("by saying or knowing less.")


def test_what_cannot_be_mitigated_is_refused(llava, given, tiny):
    with pytest.raises(BadOption, match="vhs: no such method"):
        _run(llava, given, "vhs")
    with pytest.raises(MissingData, match="takes text only"):
        scenes_for(tiny("llama"), 2)
