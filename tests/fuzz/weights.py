"""Weights in safetensors, and the JSON beside them: files of directions, folders of SAEs, folders of models."""

from __future__ import annotations

import json
import shutil
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from fuzz import mutate
from fuzz.arguments import small_sae
from fuzz.judge import Fault, Room, Target
from headscope.analysis.circuits.sae.autoencoder import Sae
from headscope.hooks.directions import Directions
from headscope.hooks.find import ORGANISMS, check_folder, find_model, weights_digest
from headscope.hooks.load import load
from headscope.hooks.outline import outline

_DTYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", "", 7, None)
# How often of a hundred: an SAE and directions are read in a millisecond, a model in a good part of a second.
_KINDS = (("directions", 46), ("sae", 34), ("folder", 13), ("outline", 3), ("model", 4))


class Weights(Target):
    """Whatever reads weights."""

    name = "weights"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        generator = torch.Generator().manual_seed(0)
        head = Directions(
            "z", {"L0H1": torch.randn(8, generator=generator), "L2H0": torch.randn(8, generator=generator)}
        )
        layer = Directions(
            "resid",
            {0: torch.randn(6, generator=generator), 3: torch.randn(6, generator=generator)},
            about="a",
        )
        folder = room.base / "made"
        folder.mkdir()
        files = [one.save(folder / f"{i}.safetensors").read_bytes() for i, one in enumerate((head, layer))]
        small_sae().save(folder / "sae")
        plain = save(
            {
                "W_enc": torch.ones(4, 6),
                "b_enc": torch.zeros(6),
                "W_dec": torch.ones(6, 4),
                "b_dec": torch.zeros(4),
                "threshold": torch.ones(6),
            }
        )
        config = {
            "architecture": "jumprelu",
            "d_in": 4,
            "d_sae": 6,
            "apply_b_dec_to_input": False,
            "normalize_activations": "layer_norm",
            "hook_name": "blocks.0.attn.hook_z",
            "hook_head_index": 1,
            "model_name": "gpt2",
            "activation_fn_kwargs": {},
        }
        sae = {path.name: path.read_bytes() for path in sorted((folder / "sae").iterdir())}
        model = {
            path.name: path.read_bytes()
            for path in sorted((ORGANISMS / "planted").iterdir())
            if path.suffix in (".json", ".safetensors")
        }
        shutil.rmtree(folder)
        # By kind: folders of files, each a seed.
        self.seeds: dict[str, list[dict[str, bytes]]] = {
            "directions": [{"d.safetensors": one} for one in files],
            "sae": [sae, {"cfg.json": json.dumps(config).encode(), "sae_weights.safetensors": plain}],
            "model": [model],
        }
        self.others = [*files, plain]

    def make(self, rng: Random) -> tuple[str, dict[str, Any]]:
        kind = rng.choices([name for name, _ in _KINDS], [weight for _, weight in _KINDS])[0]
        files: dict[str, Any] = dict(rng.choice(self.seeds.get(kind, self.seeds["model"])))
        changed: dict[str, Any] = {}
        for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2, 2))):
            names = [name for name in files if name != "card.json"]
            if kind not in ("directions", "sae"):  # mostly what is read first: the configuration
                names += ["config.json"] * 3
            name = rng.choice(names)
            self._change(rng, name, files[name], changed)
        return kind, changed if kind in ("folder", "outline", "model") else {**files, **changed}

    def _change(self, rng: Random, name: str, content: bytes, changed: dict[str, Any]) -> None:
        what = rng.random()
        if what < 0.72:
            changed[name] = self._mutated(rng, name, content)
        elif what < 0.78:
            changed[name] = None
        elif what < 0.84:
            changed[name] = (
                "link",
                rng.choice((".", "..", "/etc/passwd", "/dev/zero", "/dev/null", "/nowhere", "config.json")),
            )
        elif what < 0.88:
            changed[name] = ("folder",)
        elif what < 0.94:
            shards = {
                "weight_map": {
                    "a": rng.choice(
                        ("model.safetensors", "../x", "/etc/passwd", 7, None, "a\0b", "a" * 300, ["x"])
                    )
                }
            }
            changed["model.safetensors.index.json"] = mutate.dumped(
                rng, mutate.tree(rng, shards) if rng.random() < 0.5 else shards
            )
        else:
            changed[
                rng.choice(
                    (
                        "pytorch_model.bin",
                        "x.safetensors",
                        "tokenizer.model",
                        "preprocessor_config.json",
                        "modeling_x.py",
                        "generation_config.json",
                    )
                )
            ] = rng.choice((b"", b"\x80\x04.", b"{}", content[:100]))

    def _mutated(self, rng: Random, name: str, content: bytes) -> bytes:
        if name.endswith(".safetensors"):
            return _tensors(rng, content, self.others)
        if rng.random() < 0.75:
            value = json.loads(content)
            if name == "config.json" and rng.random() < 0.15:
                value |= {"auto_map": {"AutoModel": "modeling_x.X"}}
            return mutate.encoded(rng, mutate.dumped(rng, mutate.tree(rng, value)))
        return mutate.data(rng, content)

    def lay(self, made: tuple[str, dict[str, Any]]) -> None:
        kind, files = made
        if kind in ("folder", "outline", "model"):
            files = {**self.seeds["model"][0], **files}
        for name, content in files.items():
            place = self.room.inputs / name
            if content is None:
                continue
            if isinstance(content, bytes):
                place.write_bytes(content)
            elif content[0] == "link":
                place.symlink_to(content[1])
            else:
                place.mkdir()

    def call(self, made: tuple[str, dict[str, Any]]) -> str:
        kind = made[0]
        if kind == "directions":
            found = Directions.load("in/d.safetensors")
            if Directions.load(found.save(self.room.out / "again.safetensors")) != found:
                raise Fault("what is written is not what was read")
            found.norms()
        elif kind == "sae":
            sae = Sae.load("in")
            if str(Sae.load(sae.save(self.room.out / "again")).config) != str(sae.config):
                raise Fault("what is written is not what was read")
            sae.encode(torch.ones(1, sae.config.d_in))
        else:
            folder, shown = find_model(str(self.room.inputs))
            check_folder(folder, shown)
            weights_digest(folder)
            if kind == "outline":
                outline(str(self.room.inputs))
            elif kind == "model":
                load(str(self.room.inputs), device="cpu")
        return kind


def _tensors(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Change a safetensors file: its header as JSON, the header's length, or bytes; rarely what stands behind it."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    what = rng.randrange(10)
    if what < 5:
        value = json.loads(header)
        if rng.random() < 0.5:
            value = mutate.tree(rng, value)
        else:
            _entry(rng, value, len(rest))
        header = mutate.dumped(rng, value)
        header += b" " * (-len(header) % 8)
    elif what < 7:
        header = mutate.data(rng, header, others)
    elif what == 7:
        size = rng.choice(
            (
                0,
                1,
                7,
                size - 1,
                size + 1,
                size + 8,
                len(content),
                len(content) * 2,
                2**31,
                2**63 - 1,
                2**64 - 1,
            )
        )
        return size.to_bytes(8, "little") + header + rest
    elif what == 8:
        return rng.choice(
            (
                b"",
                content[: rng.randrange(len(content))],
                content + b"\0" * 8,
                b"PK\x03\x04" + content,
                b"\x80\x04\x95" + content,
            )
        )
    else:
        at = rng.randrange(len(rest) or 1)
        rest = (
            rest[:at] + rng.choice((b"\xff\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f")) + rest[at + 4 :]
        )
    return len(header).to_bytes(8, "little") + header + rest


def _entry(rng: Random, header: dict[str, Any], size: int) -> None:
    """Change one entry of a header as a tensor's: dtype, shape, offsets, name, or what is said of the whole file."""
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    what = rng.randrange(6)
    if what == 0:
        header[name]["dtype"] = rng.choice(_DTYPES)
    elif what == 1:
        shape = header[name]["shape"]
        header[name]["shape"] = rng.choice(
            (shape[::-1], [*shape, 1], shape[1:], [0], [], [-1], [2**62, 4], [1.5], None)
        )
    elif what == 2:
        header[name]["data_offsets"] = rng.choice(
            ([0, 0], [size, size + 4], [4, 0], [-4, 4], [0, size], [0], None, [0, 2**63])
        )
    elif what == 3:
        fresh = rng.choice(
            (
                *mutate.WORDS,
                "layer.0",
                "layer.x",
                "layer.",
                "layer.-1",
                f"layer.{'9' * 5000}",
                "L0H9",
                f"L{'9' * 5000}H0",
                "W_enc",
                "log_threshold",
            )
        )
        header[fresh] = header.pop(name)
    elif what == 4:
        header["__metadata__"] = mutate.tree(rng, header.get("__metadata__", {"format": "pt"}))
    else:
        header.setdefault("__metadata__", {})[rng.choice(("at", "format", "about"))] = rng.choice(
            ("z", "resid", "pattern", "q", "", "headscope directions 1", "x" * 2000, "\ud800", "\0", None, 7)
        )
