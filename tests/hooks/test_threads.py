"""Several threads, tasks and generators on one model: results are each one's own, or one clear error says why not."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from models import sentence

from headscope.analysis.score import score_patterns
from headscope.datasets.prompts import Prompt
from headscope.errors import BadOption
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.encode import encode
from headscope.hooks.forward import forward, running_pass
from headscope.hooks.generate import generate
from headscope.hooks.hidden import final_hidden
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import scale, uniform, zero
from headscope.hooks.rows import read_rows
from headscope.hooks.sweep import sweep
from headscope.hooks.turn import open_blocks, turn

TEXTS = [sentence(n, seed=n) for n in (12, 5, 17, 8)]


def in_thread(work: Callable[[], Any]) -> Any:
    """Run work in another thread to its end; its result, or the error that it raised."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert found, "the other thread hangs"
    return found[0]


def patterns(model: Any, text: str) -> torch.Tensor:
    seen = []
    each_pattern(model, encode(model, [text]), lambda layer, pattern: seen.append(pattern))
    return torch.stack(seen)


WORK: dict[str, Callable[[Any, str], Any]] = {
    "forward": lambda model, text: forward(model, encode(model, [text])),
    "patterns": patterns,
    "outputs": lambda model, text: capture_z(model, encode(model, [text])),
    "rows": lambda model, text: torch.cat(read_rows(model, text).queries),
    "sweep": lambda model, text: sweep(model, encode(model, [text]), "kl_to_clean", zero),
    "hidden": lambda model, text: final_hidden(model, encode(model, [text])),
    "scores": lambda model, text: (
        score_patterns(model, [text, text[::-1]], ["previous-token"])["previous-token"].values
    ),
    "generate": lambda model, text: torch.tensor(generate(model, text, max_new_tokens=4)[0].tokens),
}


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_threads_that_only_read_get_what_they_get_alone(
    tiny: Callable[[str], Any], architecture: str
) -> None:
    """Hooks of one thread act in every pass, so without turns each would read the passes of the others."""
    model = tiny(architecture)
    jobs = [(name, text) for text in TEXTS for name in WORK]
    with torch.no_grad():
        alone = [WORK[name](model, text) for name, text in jobs]

        def work(job: tuple[str, str]) -> Any:
            with torch.no_grad():
                return WORK[job[0]](model, job[1])

        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(work, jobs))
    for job, one, other in zip(jobs, alone, together, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(other), torch.as_tensor(one), rtol=0, atol=0, equal_nan=True, msg=str(job)
        )


def test_without_turns_threads_would_read_each_others_passes(tiny: Callable[[str], Any]) -> None:
    """The test above says something: a thread that runs the model past Headscope is refused while another reads it."""
    model = tiny("gpt2")
    batch, other = encode(model, [TEXTS[0]]), encode(model, [TEXTS[1]])
    errors = []

    def visit(layer: int, pattern: torch.Tensor) -> None:
        if not errors:
            errors.append(in_thread(lambda: model(other.tokens)))

    each_pattern(model, batch, visit)
    assert isinstance(errors[0], BadOption) and "is being read in another thread" in str(errors[0])


@pytest.mark.parametrize("name", WORK)
def test_an_open_block_is_closed_to_other_threads(tiny: Callable[[str], Any], name: str) -> None:
    model = tiny("llama")
    batch = encode(model, [TEXTS[0]])
    before = forward(model, batch)
    with intervene(model, scale("L1H0", 3.0)):
        inside = forward(model, batch)
        error = in_thread(lambda: WORK[name](model, TEXTS[1]))
        assert isinstance(error, BadOption), error
        assert "inside intervene(...) of another thread" in str(error)
        assert torch.equal(forward(model, batch), inside), "the refused thread changed the pass of this one"
    assert torch.equal(forward(model, batch), before) and not torch.equal(inside, before)
    assert torch.is_tensor(in_thread(lambda: WORK["forward"](model, TEXTS[1])))


def test_two_threads_that_intervene_are_isolated_or_refused(tiny: Callable[[str], Any]) -> None:
    """Whatever comes out was computed under one's own change alone."""
    model = tiny("llama")
    gains = [-2.0, 0.5, 2.0, 4.0]
    batch = encode(model, TEXTS[:2])

    def logits(gain: float) -> torch.Tensor:
        with torch.no_grad(), intervene(model, scale("L0H1", gain)):
            return forward(model, batch)

    alone = {gain: logits(gain) for gain in gains}

    def work(gain: float) -> list[Any]:
        found = []
        for _ in range(15):
            try:
                found.append(logits(gain))
            except BadOption as error:
                found.append(str(error))
        return found

    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(gains, pool.map(work, gains), strict=True))
    done = [(gain, one) for gain, many in results.items() for one in many if torch.is_tensor(one)]
    assert done and all(torch.equal(one, alone[gain]) for gain, one in done)
    refused = {one for many in results.values() for one in many if isinstance(one, str)}
    assert all("of another thread" in one for one in refused)
    assert not open_blocks(model)


def test_entering_a_block_waits_for_a_pass_of_another_thread(tiny: Callable[[str], Any]) -> None:
    model = tiny("gpt2")
    batch = encode(model, TEXTS[:1])
    started, go_on, entered = threading.Event(), threading.Event(), threading.Event()

    def slow(layer: int, pattern: torch.Tensor) -> None:
        started.set()
        assert go_on.wait(30)

    def enter() -> None:
        assert started.wait(30)
        with intervene(model, zero("L0H0")):
            entered.set()
            forward(model, batch)

    threads = [threading.Thread(target=work) for work in (lambda: each_pattern(model, batch, slow), enter)]
    for thread in threads:
        thread.start()
    assert started.wait(30) and not entered.wait(0.2), "the block was entered in the middle of a pass"
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert entered.is_set() and not any(thread.is_alive() for thread in threads)


def test_another_model_is_free(tiny: Callable[[str], Any]) -> None:
    with intervene(tiny("llama"), zero("L0H0")):
        found = in_thread(lambda: WORK["sweep"](tiny("gpt2"), TEXTS[0]))
        assert torch.is_tensor(found), found
        forward(tiny("llama"), encode(tiny("llama"), TEXTS[:1]))


def test_the_turn_is_not_held_while_progress_is_told(tiny: Callable[[str], Any]) -> None:
    """The workbench lets other tabs in there; a turn that were still held would wait for ever."""
    model, seen = tiny("gpt2"), []
    batch = encode(model, TEXTS[:2])

    def progress(done: int, total: int) -> None:
        seen.append(in_thread(lambda: WORK["outputs"](model, TEXTS[2])))

    sweep(model, batch, "kl_to_clean", zero, chunk=8, progress=progress)
    score_patterns(model, TEXTS, ["previous-token"], progress=progress)
    assert len(seen) >= 3 and all(torch.is_tensor(one) for one in seen), seen
    generate(model, TEXTS[0], max_new_tokens=2, on_step=lambda step: progress(0, 0))
    assert torch.is_tensor(seen[-1]), seen[-1]


def test_one_thread_may_nest_as_it_likes(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    batch = encode(model, [Prompt(TEXTS[0], corrupted=TEXTS[0])])
    with turn(model), turn(model), intervene(model, scale("L0H0", 2.0)), intervene(model, scale("L0H0", 0.5)):
        z = capture_z(model, batch)
        each_pattern(model, batch, lambda layer, pattern: encode(model, TEXTS))
    assert torch.equal(z, capture_z(model, batch)), "times 2, times a half"


def test_tasks_of_one_loop_do_not_see_each_others_blocks(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    batch = encode(model, TEXTS[:1])
    clean = forward(model, batch)
    messages: list[str] = []

    async def holder(entered: asyncio.Event, leave: asyncio.Event) -> torch.Tensor:
        with intervene(model, zero("L1H1")):
            entered.set()
            await leave.wait()
            return forward(model, batch)

    async def other(entered: asyncio.Event, leave: asyncio.Event) -> None:
        await entered.wait()
        for call in (lambda: forward(model, batch), lambda: model(batch.tokens)):
            with pytest.raises(BadOption, match="of another task") as caught:
                call()
            messages.append(str(caught.value))
        leave.set()

    async def both() -> torch.Tensor:
        entered, leave = asyncio.Event(), asyncio.Event()
        return (await asyncio.gather(holder(entered, leave), other(entered, leave)))[0]

    changed = asyncio.run(both())
    assert len(messages) == 2 and not torch.equal(changed, clean)
    assert torch.equal(forward(model, batch), clean)


def test_a_block_that_a_finished_task_left_open_stays_usable(tiny: Callable[[str], Any]) -> None:
    """As in a notebook, where every cell may be a task of its own."""
    model = tiny("llama")
    batch = encode(model, TEXTS[:1])
    block = intervene(model, zero("L1H1"))

    async def enter() -> None:
        block.__enter__()

    async def run() -> torch.Tensor:
        return forward(model, batch)

    async def leave() -> None:
        block.__exit__(None, None, None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    changed = loop.run_until_complete(run())
    loop.run_until_complete(leave())
    loop.close()
    assert not torch.equal(changed, forward(model, batch))


def suspended(model: Any, gain: float) -> Any:
    with intervene(model, scale("L1H0", gain)) as run:
        while True:
            yield run


@pytest.mark.parametrize("first", [0, 1])
def test_suspended_generators_end_in_any_order(tiny: Callable[[str], Any], first: int) -> None:
    model = tiny("gpt2")
    batch = encode(model, TEXTS[:1])
    logits = partial(forward, model, batch)
    clean = logits()
    with intervene(model, scale("L1H0", 3.0 if first == 0 else 2.0)):
        want = logits()
    held = [suspended(model, 2.0), suspended(model, 3.0)]
    list(map(next, held))
    both = logits()
    held.pop(first).close()
    assert torch.equal(logits(), want) and not torch.equal(both, want)
    held.clear()  # the last reference: it is collected, not closed
    gc.collect()
    assert torch.equal(logits(), clean) and not open_blocks(model) and running_pass(model) is None


def test_a_generator_that_another_thread_ends_leaves_nothing(tiny: Callable[[str], Any]) -> None:
    model = tiny("gpt2")
    batch = encode(model, TEXTS[:1])
    clean = forward(model, batch)
    held = suspended(model, 2.0)
    next(held)
    forward(model, batch)
    assert in_thread(held.close) is None
    assert torch.equal(forward(model, batch), clean)
    assert torch.equal(in_thread(lambda: forward(model, batch)), clean)


def test_uniform_keeps_the_values_of_its_own_passes(tiny: Callable[[str], Any]) -> None:
    """Nested in one thread, each block remembers what it saw for itself."""
    model = tiny("llama")
    batch = encode(model, TEXTS[:2], padding_side="left")
    with intervene(model, uniform("L0H0,L2H1")):
        want = forward(model, batch)
    with intervene(model, uniform("L0H0")), intervene(model, uniform("L2H1")):
        got = forward(model, batch)
    assert torch.equal(got, want)
