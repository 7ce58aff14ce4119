"""What `plan` may ask for: models without their weights, prompts, and the tasks of earlier steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..datasets.prompts import PromptSet
from ..errors import BadRun, MissingData, nearest
from .steps import Data, ModelRef, Step, Task, digest_of


class Planner:
    """Answers the questions of `Step.plan`, each at most once for a job.

    Args:
        base: Where relative paths of the job file start.
        shards: Number of units that a task over prompts is split into, where it can be.
        batch: Prompts that are computed together; borders between units are multiples of it.
        known: What an earlier plan of the same job found out (`known` of it), so that a big model's weights are
            read for their digest once only.
        kept: Reads a prompt set that an earlier plan has made, given its digest and name.
        trust_remote_code: As for `hooks.load.load`.
    """

    def __init__(
        self,
        base: Path = Path("."),
        *,
        shards: int = 1,
        batch: int = 16,
        known: Mapping[str, Any] | None = None,
        kept: Callable[[str, str], PromptSet] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.base = base
        self.shards = shards
        self.batch = batch
        self.prompt_sets: dict[str, PromptSet] = {}
        self.known: dict[str, Any] = {"weights": {}, "prompts": {}, **(known or {})}
        self._kept = kept
        self._trusted = trust_remote_code
        self.tasks: dict[str, list[Task]] = {}
        self._models: dict[tuple[str, str], ModelRef] = {}
        self._outlines: dict[str, Any] = {}
        self._data: dict[str, PromptSet] = {}
        self._lengths: dict[tuple[str, str], tuple[int, ...]] = {}

    def model(self, step: Step) -> ModelRef:
        """Return the step's model; its weights are read once, for their digest, and not loaded.

        Raises:
            UnknownModel, BadModelFolder, HubUnavailable: As for `load`.
        """
        key = (step.model, step.dtype)
        if key not in self._models:
            from ..hooks.find import check_folder, digest_of_part, find_model, split_part

            part = split_part(step.model)[1]
            folder, shown = find_model(self._path(step.model), code=self._trusted)
            check_folder(folder, shown)
            shipped = "/" in shown
            digest = digest_of_part(self._weights(folder), part)
            self._models[key] = ModelRef(shown if shipped else f"{folder}{part}", shown, digest, step.dtype)
        return self._models[key]

    def outline(self, model: ModelRef) -> Any:
        """Return configuration and tokenizer of a model, without its weights."""
        if model.load not in self._outlines:
            from ..hooks.outline import outline

            self._outlines[model.load] = outline(model.load, trust_remote_code=self._trusted)
        return self._outlines[model.load]

    def prompts(self, data: Data | None, *, default: str, model: ModelRef | None, seed: int) -> PromptSet:
        """Read prompts, or make those of a name for the model; they are kept with the job.

        Args:
            data: What the step says.
            default: The name that is used where it says nothing.
            model: Whose vocabulary made prompts are written in.
            seed: Of made prompts, unless `data` has one.

        Raises:
            MissingData, BadPrompts: The file, or the name, is not there or not right.
        """
        data = data or Data(name=default)
        key = digest_of([data.model_dump(), model and model.digest, seed])
        if key not in self._data:
            found = self._file(data) if data.file else self._made_once(key, data, model, seed)
            self._data[key] = found
            self.prompt_sets[found.digest] = found
        return self._data[key]

    def lengths(self, model: ModelRef, prompts: PromptSet) -> tuple[int, ...]:
        """Count the tokens of every prompt."""
        key = (model.load, prompts.digest)
        if key not in self._lengths:
            from ..hooks.tokens import Codec

            codec = Codec.of(self.outline(model))
            self._lengths[key] = tuple(
                len(codec.tokens(prompt.text, f"{prompts.name}[{index}]").ids)
                for index, prompt in enumerate(prompts)
            )
        return self._lengths[key]

    def borders(self, n: int) -> list[tuple[int, int]]:
        """Split n prompts into units: at most `shards`, as even as whole batches allow."""
        batches = -(-n // self.batch)
        pieces = max(1, min(self.shards, batches))
        ends = [min(n, self.batch * (batches * (i + 1) // pieces)) for i in range(pieces)]
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def tasks_of(self, name: str, step: Step) -> list[Task]:
        """Return the tasks of an earlier step of the same job (for a sweep: of the same point).

        Raises:
            MissingData: No earlier step has this name.
        """
        if name not in self.tasks:
            raise MissingData(
                f"step {step.name or step.kind}: no step before it is called {name}.{nearest(name, self.tasks)}"
            )
        return self.tasks[name]

    def task(
        self,
        step: Step,
        title: str,
        *,
        params: Mapping[str, Any],
        parts: Iterable[Mapping[str, Any]] = ({},),
        model: ModelRef | None = None,
        data: Iterable[PromptSet] = (),
        needs: Iterable[Task] = (),
        seed: int | None = None,
        costs: Iterable[float | None] = (),
    ) -> Task:
        """Make a task; see `Task`. The digests of `data` are added to `params`."""
        sets = tuple(data)
        digests = tuple(one.digest for one in sets)
        return Task(
            step=step,
            title=title,
            model=model,
            params={**params, **({"data": list(digests)} if digests else {})},
            parts=tuple(parts),
            seed=step.seed if seed is None else seed,
            data=digests,
            needs=tuple(needs),
            costs=tuple(costs),
        )

    def _path(self, name: str) -> str:
        """A path that is written relative starts at the job file."""
        return str(self.base / name) if name.startswith(".") else name

    def _weights(self, folder: Path) -> str:
        from ..hooks.find import weight_files, weights_digest

        stats = [(path, path.stat()) for path in weight_files(folder)]
        seen = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        before = self.known["weights"].get(str(folder))
        if before is None or before["files"] != seen:
            before = {"files": seen, "digest": weights_digest(folder)}
            self.known["weights"][str(folder)] = before
        return before["digest"]

    def _file(self, data: Data) -> PromptSet:
        path = self.base / Path(data.file).expanduser()
        if path.suffix == ".csv":
            from ..datasets.csv_files import from_csv

            matched = self.base / Path(data.matched).expanduser() if data.matched else None
            return from_csv(path, column=data.column or None, matched=matched)[: data.n]
        return PromptSet.from_jsonl(path)[: data.n]

    def _made_once(self, key: str, data: Data, model: ModelRef | None, seed: int) -> PromptSet:
        """Make prompts, or read those that an earlier plan of this job has made."""
        if key in self.known["prompts"] and self._kept is not None:
            try:
                return self._kept(*self.known["prompts"][key])
            except (MissingData, BadRun):
                pass  # somebody has deleted or changed them
        found = self._made(data, model, seed)
        self.known["prompts"][key] = [found.digest, found.name]
        return found

    def _made(self, data: Data, model: ModelRef | None, seed: int) -> PromptSet:
        if model is None:
            raise BadRun(f"data {data.name}: prompts are made for a model, and this step has none.")
        from ..analysis.defaults import default_prompts

        wanted = seed if data.seed is None else data.seed
        return default_prompts(self.outline(model), data.name, wanted, n=data.n)
