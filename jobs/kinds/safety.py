"""The kind `safety`: heads that carry refusals, searched round by round, and what losing them does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.safety.answers import Answers, Evaluation
from ...analysis.safety.asked import HARMFUL, ablation, counterparts, wanted_rows
from ...analysis.safety.curve import Curve
from ...analysis.safety.evaluate import evaluate
from ...analysis.safety.sahara import Search, best
from ...analysis.safety.settings import Asking, By, Searching
from ...analysis.safety.shift import representation_shift
from ...analysis.safety.study import Study, both_kinds, requests
from ...analysis.scores import Source
from ...datasets.prompts import PromptSet
from ...hooks.heads import Head
from ...hooks.info import describe
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, UnitFailed, kind

_DEGREES = 57.29577951308232


@kind("safety")
class Safety(Step):
    """Search the heads whose loss turns harmful requests most; answer held-out requests without them."""

    table: ClassVar[str] = "safety"

    kind: Literal["safety"] = "safety"
    how: Literal["uniform", "scale", "mean"] = "uniform"
    """What takes a head's place: attention spread evenly, its output scaled by `gain`, or its mean."""
    size: int = Field(default=3, ge=1)
    """Heads to find."""
    gain: float = 1e-5
    """Of `how: scale`."""
    rank: int = Field(default=1, ge=1)
    """Directions of the space of requests that are compared."""
    by: By = "harmful"
    """Maximise the harmful score, as the paper does, or its difference to the benign one."""
    judge: Literal["corrected", "published"] = "corrected"
    """Who says whether a request was answered."""
    forms: tuple[Literal["direct", "template"], ...] = Field(default=("direct",), min_length=1)
    """How requests are put."""
    temperatures: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """0 takes the likeliest token."""
    top_k: int | None = Field(default=None, ge=1)
    """Above temperature 0, draw from this many tokens."""
    draws: int = Field(default=5, ge=0)
    """Random sets of heads beside each group."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer."""
    stop: str | None = None
    """Text that ends an answer."""
    n: int = Field(default=120, ge=8, le=100_000)
    """Requests, where they are made."""
    data: Data | None = None
    """Requests to search on; by default made ones."""
    held_out: Data | None = None
    """Labelled requests to evaluate on; by default every second one of `data`, or made ones of another split."""
    neutral: Data | None = None
    """Texts whose perplexity tells damage; the shipped models have their own."""

    def searching(self) -> Searching:
        """Return the settings of the search."""
        return Searching(self.size, self.how, self.gain, self.rank, self.by)

    def asking(self) -> Asking:
        """Return the settings of the evaluation."""
        return Asking(
            self.judge, self.forms, self.temperatures, self.top_k, self.draws, self.max_new_tokens, self.stop
        )

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan a task for every round of the search, a unit a layer, and one for the answers, a unit a group."""
        model = at.model(self)
        outline = at.outline(model)
        given, other, neutral = (
            at.prompts(one, default="refusal", model=model, seed=self.seed) if one else None
            for one in (self.data, self.held_out, self.neutral)
        )
        searched, asked, note = requests(outline, given, other, n=self.n, seed=self.seed)
        asked = both_kinds(asked)
        sets = [searched, asked] + ([neutral] if neutral is not None else [])
        for one in sets:
            at.prompt_sets[one.digest] = one
        layers, per_layer = int(outline.cfg.n_layers), int(outline.cfg.n_heads)
        search = {"how": self.how, "gain": self.gain if self.how == "scale" else None, "rank": self.rank}
        short = model.name.rstrip("/").split("/")[-1]
        length = sum(at.lengths(model, searched))
        rounds: list[Task] = []
        for number in range(1, self.size + 1):
            made = at.task(
                self,
                f"sahara-{short}-{self.how}-round-{number}",
                model=model,
                params={**search, "round": number, "by": self.by if number > 1 else None},
                parts=[{"layer": layer} for layer in range(layers)],
                data=[searched],
                needs=list(rounds),
                costs=[2.0 * per_layer * length] * layers,
            )
            rounds.append(made)
            yield made
        asking = self.asking()
        sequences = 1 + (1 + self.draws)
        new = sum(at.lengths(model, asked)) + len(asked) * self.max_new_tokens
        yield at.task(
            self,
            f"safety-{short}-{self.how}",
            model=model,
            params={
                **search, "by": self.by, "note": note, "judge": self.judge, "forms": list(self.forms),
                "temperatures": list(self.temperatures), "top_k": self.top_k, "draws": self.draws,
                "max_new_tokens": self.max_new_tokens, "stop": self.stop, "neutral": neutral is not None,
            },
            parts=[{"k": k} for k in range(1, self.size + 1)],
            data=sets,
            needs=list(rounds),
            costs=[float(sequences * new * len(asking.forms) * len(asking.temperatures))] * self.size,
        )  # fmt: skip

    def run(self, unit: Unit, model: Any, inputs: Inputs) -> Found:
        """Score the heads of a layer beside the group so far, or answer requests without the first k heads."""
        task = unit.task
        steps = [_scored(inputs.results[need.digest]) for need in task.needs]
        searched = inputs.prompts[task.data[0]]
        rows = wanted_rows(searched, HARMFUL)
        harmful = PromptSet(searched.name, tuple(searched[row] for row in rows))
        change = ablation(self.how, self.gain, harmful)
        if "round" in task.params:
            group = tuple(best(step, self.by) for step in steps)
            layer = int(unit.part["layer"])
            left = [head for i in range(int(model.cfg.n_heads)) if (head := Head(layer, i)) not in group]
            both = [
                dict(representation_shift(model, texts, change, left, group=group, rank=self.rank))
                for texts in (harmful, counterparts(harmful))
            ]
            table = [(head.layer, head.index, *(_DEGREES * one[head] for one in both)) for head in left]
            return Found(pd.DataFrame(table, columns=["layer", "head", "harmful", "benign"]), _facts(model))
        k = int(unit.part["k"])
        heads = [best(step, self.by) for step in steps][:k]
        found = evaluate(
            model,
            inputs.prompts[task.data[1]],
            heads,
            kind=change,
            asking=self.asking(),
            neutral=inputs.prompts[task.data[2]] if task.params["neutral"] else None,
            seed=task.seed,
            clean=k == 1,
            progress=inputs.progress,
        )
        return Found(_long(found), {**_facts(model), "notes": list(found.notes)})

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write the study's tables, texts and report; rounds alone have none."""
        if "round" in task.params:
            return None
        assert task.model is not None
        if found[0] is None:
            raise UnitFailed(
                f"{task.title}: the answers of the clean model are missing, nothing can be compared"
            )
        present = [one for one in found if one is not None]
        searched, asked = (inputs.prompts[digest] for digest in task.data[:2])
        harmful = PromptSet(searched.name, tuple(searched[row] for row in wanted_rows(searched, HARMFUL)))
        matched = counterparts(harmful)
        facts = present[0].meta["model"]
        name = Source(facts["name"], facts["digest"])
        # A group whose answers are missing ends the curve: those behind it would stand in the wrong place.
        usable = found[: next((i for i, one in enumerate(found) if one is None), len(found))]
        steps = tuple(_scored(inputs.results[need.digest]) for need in task.needs)
        search = Search(
            steps,
            self.by,
            "degrees",
            name,
            Source(harmful.name, harmful.digest),
            Source(matched.name, matched.digest),
        )
        evaluations = tuple(
            _evaluation(one, asked, name, search.heads[:k])
            for k, one in enumerate(usable, 1)
            if one is not None
        )
        notes = tuple(dict.fromkeys(note for one in present for note in one.meta["notes"]))
        lost = () if len(usable) == len(found) else (f"No answers without more than {len(usable)} heads.",)
        study = Study(search, evaluations, self.searching(), (*notes, *lost))
        Curve((study,), task.params["note"]).save(folder)
        known = {
            "step": self.name or self.kind,
            "model": task.model.name,
            "model_digest": task.model.digest,
            "dtype": task.model.dtype,
            "data": asked.name,
            "data_digest": asked.digest,
            "seed": task.seed,
        }
        table = study.summary()
        table["heads"] = [" ".join(map(str, search.heads[:k])) for k in table["k"]]
        for place, (column, value) in enumerate(known.items()):
            table.insert(place, column, value)
        return table


def _facts(model: Any) -> dict[str, Any]:
    info = describe(model)
    return {"model": {"name": info.name, "digest": info.digest}}


def _scored(found: Sequence[Found | None]) -> dict[Head, tuple[float, float]]:
    """Put the layers of a round together.

    Raises:
        UnitFailed: A layer is missing, so that the best head is not known.
    """
    if any(one is None for one in found):
        raise UnitFailed("a layer of an earlier round is missing, so its best head is not known")
    rows = [row for one in found if one is not None for row in one.table.to_dict("records")]
    return {
        Head(int(row["layer"]), int(row["head"])): (float(row["harmful"]), float(row["benign"]))
        for row in rows
    }


def _long(found: Evaluation) -> pd.DataFrame:
    """Write every text as a row, with all that `_evaluation` needs besides the requests."""
    rows = [
        {
            "arm": arm.arm,
            "draw": arm.draw,
            "heads": json.dumps([str(head) for head in arm.heads]),
            "label": arm.label,
            "form": arm.form,
            "temperature": arm.temperature,
            "place": place,
            "text": text,
            "answered": arm.answered[place],
            "complied": arm.complied[place],
            "perplexity": arm.perplexity,
        }
        for arm in found.arms
        for place, text in enumerate(arm.texts)
    ]
    return pd.DataFrame(rows)


def _evaluation(found: Found, asked: PromptSet, model: Source, heads: Sequence[Head]) -> Evaluation:
    """Read back what `_long` wrote."""
    arms = []
    keys = ["arm", "draw", "heads", "label", "form", "temperature"]
    groups: Any = found.table.groupby(keys, sort=False)
    for (arm, draw, names, label, form, temperature), rows in groups:
        rows = rows.sort_values("place")
        arms.append(
            Answers(
                str(arm),
                int(draw),
                tuple(Head.parse(one) for one in json.loads(names)),
                str(label),
                str(form),
                float(temperature),
                tuple(prompt for prompt in asked if prompt.label == label),
                tuple(rows["text"]),
                tuple(map(bool, rows["answered"])),
                tuple(map(bool, rows["complied"])),
                float(rows["perplexity"].iloc[0]),
            )
        )
    return Evaluation(tuple(arms), tuple(heads), model, Source(asked.name, asked.digest))
