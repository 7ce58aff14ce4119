"""What is written is what is read: heads, scores, checks, runs, directions, circuits, jobs; shards are the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from simulated_jobs import simulated

from headscope.analysis.changes import Change
from headscope.analysis.circuits.circuit import Circuit
from headscope.analysis.circuits.sae.autoencoder import Sae, SaeConfig
from headscope.analysis.run import load_run, save_run
from headscope.analysis.scores import HeadScores, Source
from headscope.analysis.verification import TOP, Arm, Verification
from headscope.commands.arguments import interventions, steered_by
from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadRun, HeadscopeError, UnknownHead
from headscope.hooks.directions import Directions
from headscope.hooks.heads import Head, parse_heads
from headscope.hooks.info import describe
from headscope.hooks.wiring import Edge
from headscope.jobs.run import run_job, shard_of
from headscope.jobs.spec import Job, job_of, read_job
from headscope.jobs.store import JobStore

few = partial(settings, max_examples=15)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=True, allow_infinity=False, width=64)
FINITE = st.floats(-(2.0**90), 2.0**90, width=32)
heads = st.builds(Head, st.integers(0, 200), st.integers(0, 200))


def same(one: Any, other: Any) -> None:
    if one is None or other is None:
        assert one is other
    else:
        np.testing.assert_array_equal(one, other)  # NaN equals NaN, and nothing is rounded


# --- heads -----------------------------------------------------------------------------------------------------------


@given(head=heads)
def test_a_head_is_read_back_from_every_form_it_is_written_in(head):
    forms = [str(head), str(head).lower(), f" {head} ", f"{head.layer}.{head.index}", tuple(head), list(head)]
    forms += [np.array(head), torch.tensor(head), head]
    assert {Head.parse(form) for form in forms} == {head}


@given(listed=st.lists(heads, max_size=8), between=st.sampled_from([",", ", ", " ", ";", " ; ", "\n", ",,"]))
def test_a_list_of_heads_is_read_back_in_order_and_each_once(listed, between):
    want = tuple(dict.fromkeys(listed))
    assert parse_heads(between.join(map(str, listed))) == want
    assert parse_heads(listed) == parse_heads(iter(listed)) == parse_heads(want) == want
    assert parse_heads(between.join(f"{one.layer}.{one.index}" for one in listed)) == want


@settings(max_examples=40)
@given(text=st.text(max_size=8) | st.text("LlHh0123456789.,-+ ()", max_size=8))
def test_any_text_is_heads_or_one_clear_error(text):
    try:
        found = parse_heads(text)
    except UnknownHead as error:
        assert "is not a head: write L5H1" in str(error)
    else:
        assert parse_heads(",".join(map(str, found))) == found
        assert all(one.layer >= 0 and one.index >= 0 for one in found)


@given(one=heads, other=heads, slot=st.sampled_from(["q", "k", "v"]), mlp=st.integers(0, 99))
def test_an_edge_is_read_back(one, other, slot, mlp):
    for edge in (Edge(str(one), str(other), slot), Edge(f"m{mlp}", "logits"), Edge("input", str(one), slot)):
        assert (
            Edge.parse(str(edge))
            == Edge.parse(str(edge).replace("→", " -> "))
            == Edge.parse(tuple(edge))
            == edge
        )


# --- results ---------------------------------------------------------------------------------------------------------


@st.composite
def scores(draw: st.DrawFn, shape: tuple[int, int] | None = None, n: int | None = None) -> HeadScores:
    cells = shape or draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    n_examples = draw(st.none() | st.integers(1, 4)) if n is None else n
    samples = (
        None if n_examples is None else draw(hnp.arrays(np.float64, (n_examples, *cells), elements=NUMBERS))
    )
    chance = (
        None if n_examples is None else draw(st.none() | hnp.arrays(np.float64, n_examples, elements=NUMBERS))
    )
    # A method gives an interval of its own only where it has no samples.
    own = st.none() if samples is not None else hnp.arrays(np.float64, (2, *cells), elements=NUMBERS)
    interval = draw(own)
    return HeadScores(
        draw(hnp.arrays(np.float64, cells, elements=NUMBERS)),
        samples,
        "induction",
        options={
            "earlier": draw(st.sampled_from(["last", "all"])),
            "t": draw(st.integers() | st.booleans() | FINITE),
        },
        model=Source(draw(TEXT), draw(TEXT)),
        data=Source(draw(TEXT), draw(TEXT)),
        seed=draw(st.integers(0, 2**31)),
        higher=draw(TEXT),
        chance=chance,
        alternative=draw(st.sampled_from(["greater", "less", "two-sided"])),
        causal=draw(st.booleans()),
        notes=tuple(draw(st.lists(TEXT, max_size=3))),
        interval=interval,
        n_resampled=0 if interval is None else draw(st.integers(1, 9)),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # means of numbers near float64's end
@few()
@given(before=scores())
def test_scores_survive_a_folder(tmp_path_factory, before):
    after = HeadScores.load(before.save(tmp_path_factory.mktemp("scores")))
    for name in ("values", "samples", "chance", "interval"):
        same(getattr(after, name), getattr(before, name))
    rest = ("method", "model", "data", "seed", "higher", "alternative", "causal", "notes", "n_resampled")
    assert [getattr(after, name) for name in rest] == [getattr(before, name) for name in rest]
    assert dict(after.options) == dict(before.options)
    pd.testing.assert_frame_equal(after.table(), before.table())


def test_scores_of_no_prompt_are_refused():
    with pytest.raises(BadRun, match="samples hold no prompt; give one or more"):
        HeadScores(np.zeros((2, 3)), np.zeros((0, 2, 3)), "induction")


@few(max_examples=3)
@given(data=st.data(), texts=st.lists(TEXT.map(str.strip).filter(bool), min_size=1, max_size=3))
def test_a_run_survives_its_folder(tmp_path_factory, planted, data, texts):
    shape = (int(planted.cfg.n_layers), int(planted.cfg.n_heads))
    prompts = PromptSet("p", tuple(Prompt(text, label=text[::-1]) for text in texts))
    small = hnp.arrays(np.float64, (len(texts), *shape), elements=st.floats(0, 1))
    samples = data.draw(small)
    before = HeadScores(
        samples.mean(0), samples, "induction", options={"earlier": "last"}, chance=np.zeros(len(texts)),
        model=Source(describe(planted).name, describe(planted).digest), data=Source(prompts.name, prompts.digest),
    )  # fmt: skip
    folder = save_run(
        tmp_path_factory.mktemp("runs"), before, model=planted, prompts=prompts, command="a 'b' <c>"
    )
    after = load_run(folder)
    same(after.scores.samples, before.samples)
    assert after.prompts == prompts and after.manifest["command"] == "a 'b' <c>" and after.dtype == "float32"
    after.require(planted)


@few()
@given(
    data=st.data(),
    n=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True),
)
def test_a_check_survives_a_folder(tmp_path_factory, data, n, sizes):
    values = hnp.arrays(np.float64, n, elements=st.floats(-50, 50))
    arms = []
    for k in sorted(sizes):
        for name, draws in ((TOP, [0]), ("anywhere", [1, 2])):
            for draw in draws:
                chosen = data.draw(st.lists(heads, min_size=k, max_size=k, unique=True))
                arms.append(Arm(name, k, draw, tuple(chosen), data.draw(values)))
    before = Verification(
        data.draw(values), tuple(arms), metric="answer_logprob", how="uniform (all)", phase="all", method="induction",
        model=Source("m", "d"), data=Source("p", "q"), seed=3, margin=0.1,
        notes=tuple(data.draw(st.lists(TEXT, max_size=2))),
    )  # fmt: skip
    after = Verification.load(before.save(tmp_path_factory.mktemp("check")))
    same(after.clean, before.clean)
    for one, other in zip(after.arms, before.arms, strict=True):
        assert (one.name, one.k, one.draw, one.heads) == (other.name, other.k, other.draw, other.heads)
        same(one.values, other.values)
    assert (after.verdict, after.notes, after.margin) == (before.verdict, before.notes, before.margin)


places = st.dictionaries(heads, st.just(None), min_size=1, max_size=4)


@few()
@given(
    data=st.data(), at=st.sampled_from(["z", "q", "k", "rot_q", "rot_k", "resid"]), width=st.integers(1, 6)
)
def test_directions_survive_a_file_and_add_like_vectors(tmp_path_factory, data, at, width):
    vector = hnp.arrays(np.float32, width, elements=FINITE)
    keys = st.integers(0, 99) if at == "resid" else heads
    made = st.dictionaries(keys, vector, min_size=1, max_size=4).map(
        lambda held: Directions(at, {place: torch.tensor(one) for place, one in held.items()}, about="drawn")
    )
    one, other = data.draw(made), data.draw(made)
    path = tmp_path_factory.mktemp("directions") / "d.safetensors"
    again = Directions.load(one.save(path))
    assert (
        again == one
        and again.about == "drawn"
        and again.digest == one.digest
        and list(again.vectors) == list(one.vectors)
    )
    assert one + other == other + one
    assert one - one == one * 0.0 and -1 * (-one) == one and one * 1.0 == one
    assert set((one + other).vectors) == set(one.vectors) | set(other.vectors)
    assert one.only(one.places) == one


@few()
@given(data=st.data(), d_in=st.integers(1, 5), d_sae=st.integers(1, 6), layer=st.integers(0, 40))
def test_an_autoencoder_survives_a_folder_and_computes_the_same(tmp_path_factory, data, d_in, d_sae, layer):
    kind = data.draw(st.sampled_from(["standard", "topk", "jumprelu"]))
    config = SaeConfig(
        kind, d_in, d_sae, layer,
        head=data.draw(st.none() | st.integers(0, 3)),
        k=data.draw(st.integers(1, d_sae)) if kind == "topk" else None,
        apply_b_dec_to_input=data.draw(st.booleans()),
        rescale_acts_by_decoder_norm=data.draw(st.booleans()) if kind == "topk" else False,
        model_name=data.draw(TEXT),
        metadata=data.draw(st.dictionaries(st.text("abcde", min_size=3), TEXT | st.integers(), max_size=2)),
    )  # fmt: skip
    small = st.floats(-4, 4, width=32)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.tensor(data.draw(hnp.arrays(np.float32, shape, elements=small)))

    threshold = drawn(d_sae).abs() if kind == "jumprelu" else None
    before = Sae(config, drawn(d_in, d_sae), drawn(d_sae), drawn(d_sae, d_in), drawn(d_in), threshold)
    after = Sae.load(before.save(tmp_path_factory.mktemp("sae")))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        same(getattr(after, name), getattr(before, name))
    assert replace(after.config, metadata={}) == replace(config, metadata={})
    assert {name: after.config.metadata.get(name) for name in config.metadata} == dict(config.metadata)
    x = drawn(3, d_in)
    assert torch.equal(after.encode(x), before.encode(x))


@few()
@given(data=st.data(), n_layers=st.integers(1, 3), n_heads=st.integers(1, 3))
def test_a_circuit_survives_its_file(tmp_path_factory, data, n_layers, n_heads):
    number = st.integers(0, n_layers * n_heads - 1)
    chosen = [Head(*divmod(one, n_heads)) for one in data.draw(st.sets(number, min_size=1, max_size=4))]
    cells = hnp.arrays(np.float64, (n_layers, n_heads), elements=NUMBERS)
    before = replace(
        Circuit.stated(n_layers, n_heads, chosen, method=data.draw(TEXT), task=data.draw(TEXT)),
        node_scores=data.draw(cells),
    )
    after = Circuit.load(before.save(tmp_path_factory.mktemp("circuit") / "c.json"))
    assert (
        after.record() == before.record() and after.heads == before.heads and set(after.heads) == set(chosen)
    )
    same(after.node_scores, before.node_scores)


# --- jobs ------------------------------------------------------------------------------------------------------------

METHODS = ["induction", "previous-token", "entropy", "first-token"]
steps = st.fixed_dictionaries(
    {
        "kind": st.just("score"),
        "method": st.sampled_from(METHODS),
        "name": st.text("abcxyz-", min_size=1, max_size=6),
    },
    optional={"seed": st.integers(0, 99)},
)
jobs = st.fixed_dictionaries(
    {
        "name": TEXT.map(str.strip).filter(bool),
        "model": st.just("organism/planted"),
        "steps": st.lists(steps, min_size=1, max_size=3, unique_by=lambda one: one["name"]),
    },
    optional={
        "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
        "seed": st.integers(0, 9),
        "run": st.fixed_dictionaries({}, optional={"shards": st.integers(1, 9), "batch": st.integers(1, 9)}),
        "sweep": st.fixed_dictionaries(
            {"seed": st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)}
        ),
    },
)


@few()
@given(asked=jobs)
def test_a_job_survives_its_file_and_its_record(tmp_path_factory, asked):
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    try:
        before = job_of(asked, path.parent)
    except HeadscopeError:
        assume(False)
    path.write_text(yaml.safe_dump(asked, allow_unicode=True), encoding="utf-8")
    for after in (read_job(path), Job.from_record(before.record())):
        assert after.record() == before.record()
        assert (after.digest, after.folder_name) == (before.digest, before.folder_name)
    assert len(before.cells) == len(asked.get("sweep", {}).get("seed", [0]))


@pytest.fixture(scope="module")
def no_page() -> Iterator[None]:
    """Leave out the job's page, which takes longer than these jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headscope.jobs.run._report", lambda folder: None)
        yield


@given(n=st.integers(0, 60), count=st.integers(1, 12))
def test_every_unit_belongs_to_one_shard(n, count):
    owners = [
        [number for number in range(1, count + 1) if shard_of(f"{number}/{count}")(unit)] for unit in range(n)
    ]
    assert all(len(own) == 1 for own in owners)
    sizes = np.bincount([own[0] for own in owners], minlength=count + 1)[1:] if owners else np.zeros(count)
    assert sizes.max() - sizes.min() <= 1


def results(folder: Path) -> pd.DataFrame:
    (found,) = [table for name, table in tables_of(folder).items() if "number" in table]
    return found.sort_values(["number", "value"], ignore_index=True)


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    return {str(path.relative_to(folder)): pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


@few(max_examples=5)
@given(
    units=st.integers(1, 12),
    rows=st.integers(1, 3),
    count=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
)
def test_shards_in_any_order_are_the_whole(tmp_path_factory, no_page, units, rows, count, order):
    job = simulated(units=units, rows=rows)
    whole = run_job(job, tmp_path_factory.mktemp("whole"))
    assert whole.state == "done" and whole.done == units
    out = tmp_path_factory.mktemp("shards")
    numbers = list(range(1, count + 1))
    order.shuffle(numbers)
    outcomes = [run_job(job, out, shard=f"{number}/{count}") for number in numbers]
    assert [one.done for one in outcomes] == list(
        np.cumsum([sum(shard_of(f"{n}/{count}")(u) for u in range(units)) for n in numbers])
    )
    assert outcomes[-1].state == "done" and all(
        one.state != "done" for one in outcomes[:-1] if one.done < units
    )
    pd.testing.assert_frame_equal(results(outcomes[-1].folder), results(whole.folder))
    assert run_job(job, out).state == "done" and JobStore(outcomes[-1].folder) is not None


# --- what is copied from the workbench -------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    gain=st.floats(allow_nan=False, allow_infinity=False),
    listed=st.lists(heads, min_size=1, max_size=3, unique=True),
    phase=st.sampled_from(["all", "decode", "prefill"]),
    kind=st.sampled_from(["scale", "zero", "uniform", "juice"]),
)
def test_a_change_that_is_copied_is_the_same_change(gain, listed, phase, kind):
    """To the last digit, as Python and as options of the command line."""
    gain = gain if kind in ("scale", "juice") else 2.0
    change = Change(kind, tuple(listed), gain=gain, phase=phase)
    assert eval(change.python(), {"Change": Change}) == change
    options = change.options()
    given = dict(zip(options[::2], options[1::2], strict=True))
    if kind == "scale":
        (read,) = interventions(None, "uniform", [given["--scale"]], phase, [])
        assert (read.gain, read.heads) == (gain, tuple(listed))
    elif kind == "juice":
        read = steered_by(given["--steer"], given["--heads"], None, None, None, phase, None)
        assert (read.gain, read.heads) == (gain, change.heads)
