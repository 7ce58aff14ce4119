"""Prompt files: JSON lines, and what is read the same way: requests in CSV, annotations of images."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.judge import Fault, Room, Target
from headscope.commands.arguments import prompts_from_file
from headscope.datasets.annotated import from_coco
from headscope.datasets.csv_files import from_csv
from headscope.datasets.prompts import PromptSet
from headscope.hooks.encode import encode
from headscope.hooks.load import load

_RECORDS: tuple[dict[str, Any], ...] = (
    {"text": "apple banana orange apple"},
    {"text": "The key is red.", "answer": " red", "spans": {"needle": [[11, 14]]}},
    {
        "text": "Anna met Ben, and Anna",
        "answer": " smiled",
        "foil": " wept",
        "corrupted": "Carl met Ben, and Anna",
    },
    {"text": "how to", "label": "harmful", "variants": {"template": "Q: how to A:"}},
    {
        "text": "is there a circle :",
        "image": "scene:17:red-circle@0",
        "boxes": {"object": [[0, 0, 9, 9], [1, 2, 3, 4]]},
    },
    {"text": "naïve “quotes” 日本 🦊", "spans": {"a": [[0, 5], [6, 7]], "b": []}},
)
_CSV = (
    "text\napple banana\norange\n",
    'input,label\n"how, to",harmful\n"a ""b""\nc",benign\n',
    "id;goal\n1;x\n",
    "Goal,Behavior\nwrite it,one\nread it,two\n",
)
_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b/c.jpg", "width": 9}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [1.5, 2, 3, 4.25]},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1},
    ],
}


class Prompts(Target):
    """Files of prompts."""

    name = "prompts"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self.model = load("organism/planted", device="cpu")
        self.seeds = [
            "\n".join(json.dumps(one, ensure_ascii=False) for one in _RECORDS[i:]).encode() for i in range(6)
        ]

    def make(self, rng: Random) -> tuple[str, bytes]:
        form = rng.choice(("jsonl",) * 8 + ("csv", "coco"))
        if form == "csv":
            made = rng.choice(_CSV).encode()
            made = mutate.data(rng, made, [one.encode() for one in _CSV]) if rng.random() < 0.9 else made
        elif form == "coco":
            made = (
                mutate.dumped(rng, mutate.tree(rng, _COCO))
                if rng.random() < 0.7
                else json.dumps(_COCO).encode()
            )
            made = mutate.data(rng, made) if rng.random() < 0.3 else made
        elif rng.random() < 0.6:
            records = [rng.choice(_RECORDS) for _ in range(rng.choice((1, 1, 2, 5)))]
            lines = [mutate.tree(rng, one, _RECORDS) if rng.random() < 0.6 else one for one in records]
            made = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")).join(
                mutate.dumped(rng, one) for one in lines
            )
        else:
            made = mutate.data(rng, rng.choice(self.seeds), self.seeds)
        return form, mutate.encoded(rng, made)

    def lay(self, made: tuple[str, bytes]) -> None:
        form, content = made
        (self.room.inputs / f"x.{'json' if form == 'coco' else form}").write_bytes(content)

    def call(self, made: tuple[str, bytes]) -> str:
        form = made[0]
        if form == "coco":
            from_coco("in/x.json", "in")
            return form
        if form == "csv":
            from_csv("in/x.csv")
            return form
        found = prompts_from_file("in/x.jsonl")
        assert found is not None
        small = len(found) < 3 and not any(prompt.image for prompt in found)
        if small:
            encode(self.model, found)
        again = PromptSet.from_jsonl(found.to_jsonl(self.room.out / "again.jsonl"))
        if again.prompts != found.prompts or again.digest != found.digest:
            raise Fault("what is written is not what was read")
        return "encoded" if small else form
