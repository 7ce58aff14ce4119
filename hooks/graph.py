"""Run a model as a graph: every reader of the residual stream is given a sum of writers that one may choose.

The model's own norms, MLPs, unembedding, masks and rotations are used; only attention is written out, so that the
queries, keys and values of one query head can read a stream of their own (also where heads share keys and values).
An unchanged run must give the model's own logits, or the graph refuses to be made.

All rows of a call run together: a row is one prompt under one choice of edges, so that many circuits go through the
model at once. Nothing here needs TransformerLens' split inputs, which exist neither for shared keys nor for batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadPrompts, NonFinite, NotAdditive
from .blocks import Blocks, Unsupported, close
from .encode import Batch
from .faults import advice
from .lean import lean
from .wiring import Wiring

WORKING_BYTES, WORKING_BYTES_ON_DEVICE = 2**24, 2**31
"""What one run's readers may take at once: on a CPU more leaves the caches and gets slower, not faster."""


@dataclass
class Flow:
    """One run of the graph.

    Attributes:
        logits: At each row's last real position.
        written: What every writer wrote, in the order of `Wiring.writers`.
        reads: Leaves that were added to what every reader read, in the order of `Wiring.readers`; their gradients are
            those of the readers' inputs. Empty unless asked for.
    """

    logits: Float[Tensor, "row vocab"]
    written: Float[Tensor, "row writer pos d_model"]
    reads: list[Float[Tensor, "row reader pos d_model"]]


class Graph:
    """A model on pairs of prompts, clean and corrupted, with every edge open to a choice.

    Attributes:
        wiring: Names and order of writers and readers.
        clean, corrupt: The pairs.
        forward, backward: How many sequences have been run so far.
    """

    def __init__(self, model: Any, clean: Batch, corrupt: Batch):
        """Run both sides once, and hold an unchanged run of the graph against the model.

        Raises:
            NotAdditive: The model's residual stream is not the sum of its heads and MLPs, or its attention is of a kind
                that is not known here.
            BadPrompts: The two sides have other lengths.
        """
        if not torch.equal(clean.attention_mask, corrupt.attention_mask):
            raise BadPrompts("clean and corrupted texts have other lengths; pairs must match token by token.")
        self.model, self.clean, self.corrupt = model, clean, corrupt
        self.wiring = Wiring.of(model)
        self.forward = self.backward = 0
        try:
            with torch.no_grad():
                own = Blocks(model, clean)
                self._layers = [_Layer(model, index, own) for index in range(self.wiring.n_layers)]
                self.inputs = own.layers[0].hidden
                self.corrupt_inputs = Blocks(model, corrupt).layers[0].hidden
                unchanged = self.run(self.rows()[:1]).logits
        except Unsupported as reason:
            raise NotAdditive(
                f"{model.cfg.model_name}: its edges cannot be told apart: {reason}."
            ) from reason
        self.forward += 2 * len(clean)
        self.real = (clean.attention_mask > 0).to(self.inputs)
        if not close(unchanged, own.logits[:1]):
            off = float((unchanged - own.logits[:1]).abs().max())
            raise NotAdditive(
                f"{model.cfg.model_name}: written out as a sum of heads and MLPs it gives other logits (off by "
                f"{off:.2g}), so edges between them are not what it computes. Use a method that scores heads alone."
            )

    def __len__(self) -> int:
        return len(self.clean)

    def rows(self, copies: int = 1) -> Int[Tensor, " row"]:
        """Every prompt once, `copies` times over."""
        return torch.arange(len(self), device=self.inputs.device).repeat(copies)

    @cached_property
    def clean_written(self) -> Float[Tensor, "batch writer pos d_model"]:
        """What every writer writes on the clean texts; 0 on padding."""
        return self._written(self.inputs)

    @cached_property
    def corrupt_written(self) -> Float[Tensor, "batch writer pos d_model"]:
        """What every writer writes on the corrupted texts; 0 on padding."""
        return self._written(self.corrupt_inputs)

    @property
    def chunk(self) -> int:
        """How many rows run at once without leaving the processor's caches far behind."""
        width, size = self.inputs.shape[1:]
        readers = 3 * self.wiring.n_heads + len(self.wiring.writers)
        most = WORKING_BYTES if self.inputs.device.type == "cpu" else WORKING_BYTES_ON_DEVICE
        return max(1, most // (4 * width * size * readers))

    def run(
        self,
        rows: Int[Tensor, " row"],
        *,
        source: Float[Tensor, "row pos d_model"] | None = None,
        keep: Float[Tensor, "#row writer reader"] | None = None,
        keep_nodes: Float[Tensor, "#row writer"] | None = None,
        instead: Float[Tensor, "row writer pos d_model"] | None = None,
        start: int = 0,
        probe: bool = False,
    ) -> Flow:
        """Run rows through the graph.

        Args:
            rows: The prompt of each row.
            source: What the input writes; by default the clean text's embedding.
            keep: For every edge, how much of the writer's own output the reader sees; the rest it sees of `instead`.
            keep_nodes: For every writer, how much of its own output all readers see; the rest is of `instead`.
            instead: What is seen in place of writers' outputs; by default, theirs on the corrupted text.
            start: The first layer that is run. Everything before it is taken from the clean texts, so nothing that
                changes it may be asked for.
            probe: Give each reader a leaf of zeros, for gradients.
        """
        self.forward += len(rows)
        if instead is None and (keep is not None or keep_nodes is not None):
            instead = self.corrupt_written[rows]
        n_heads = self.wiring.n_heads
        width, size = self.inputs.shape[1:]
        written = self.inputs.new_zeros(len(rows), len(self.wiring.writers), width, size)
        parts: list[Tensor] = []  # the same, in pieces that gradients can pass
        reads: list[Tensor] = []
        away = None if keep is None else torch.zeros_like(written)
        # What nobody sees need not be computed.
        seen = None if keep is None else (keep != 0).any(2).any(0).tolist()

        def wrote(made: Tensor, place: slice) -> Tensor:
            """Mix what writers made with what stands in its place, and note it."""
            if keep_nodes is not None:
                kept = keep_nodes[:, place].to(made)[:, :, None, None]
                made = kept * made + (1 - kept) * instead[:, place]  # type: ignore[index]
            if probe or made.requires_grad:
                parts.append(made)
            else:
                written[:, place] = made
            if away is not None:
                torch.sub(instead[:, place], made, out=away[:, place])  # type: ignore[index]
            return made

        if start:
            place = slice(0, self.wiring.first_writer(start))
            wrote(self.clean_written[rows, place], place)
            stream = self.clean_streams[start][0][rows]
        else:
            stream = self.inputs[rows] if source is None else source
            stream = wrote(stream.unsqueeze(1), slice(0, 1))[:, 0]
        with lean(self.model):
            for index in range(start, self.wiring.n_layers):
                layer = self._layers[index]
                first, own = self.wiring.first_writer(index), self.wiring.first_reader(index)
                heads = [head for head in range(n_heads) if seen is None or seen[first + head]]
                places = [own + slot * n_heads + head for slot in range(3) for head in heads]
                place = slice(first, first + n_heads)
                if len(heads) == n_heads:
                    read = self._read(stream, away, keep, places, first, reads, probe)
                    made = layer.attend(read, rows)
                else:
                    assert instead is not None
                    made = instead[:, place].clone()
                    if heads:
                        read = self._read(stream, away, keep, places, first, reads, probe)
                        made[:, heads] = layer.attend(read, rows, heads)
                stream = stream + wrote(made, place).sum(1) + layer.bias
                place = slice(first + n_heads, first + n_heads + 1)
                if seen is None or seen[place.start]:
                    read = self._read(stream, away, keep, [own + 3 * n_heads], place.start, reads, probe)[
                        :, 0
                    ]
                    made = torch.zeros_like(read) if layer.mlp is None else layer.mlp(read)
                else:
                    made = instead[:, place.start]  # type: ignore[index]
                stream = stream + wrote(made.unsqueeze(1), place)[:, 0]
            last = len(self.wiring.readers) - 1
            read = self._read(stream, away, keep, [last], len(self.wiring.writers), reads, probe)[:, 0]
            logits = self.unembed(read, rows)
        self._refuse_non_finite(logits, rows)
        return Flow(logits, torch.cat(parts, 1) if parts and not start else written, reads)

    def finish(
        self, rows: Int[Tensor, " row"], index: int, stream: Float[Tensor, "row pos d_model"], *, mlp: bool
    ) -> Float[Tensor, "row vocab"]:
        """Run on from within a layer, with nothing changed later.

        Args:
            rows: The prompt of each row.
            index: The layer.
            stream: The residual stream after the layer's attention, or after the layer.
            mlp: Whether the layer's MLP is still to come.
        """
        self.forward += len(rows)
        with lean(self.model):
            for number in range(index, self.wiring.n_layers):
                layer = self._layers[number]
                if number > index:
                    stream = stream + layer.attend(stream.unsqueeze(1), rows).sum(1) + layer.bias
                if layer.mlp is not None and (mlp or number > index):
                    stream = stream + layer.mlp(stream)
            logits = self.unembed(stream, rows)
        self._refuse_non_finite(logits, rows)
        return logits

    def attend_one(
        self, index: int, head: int, read: Float[Tensor, "row 3 pos d_model"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, "row pos d_model"]:
        """Give what one head writes when its query, key and value read these streams."""
        with lean(self.model):
            return self._layers[index].attend(read, rows, [head])[:, 0]

    def mlp(self, index: int, read: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """Give what a layer's MLP writes."""
        module = self._layers[index].mlp
        with lean(self.model):
            return torch.zeros_like(read) if module is None else module(read)

    @cached_property
    def clean_streams(self) -> list[tuple[Tensor, Tensor]]:
        """The clean texts' stream before each layer's attention and before its MLP; last, before the unembedding."""
        found, n_heads, written = [], self.wiring.n_heads, self.clean_written
        stream = written[:, 0]
        for index, layer in enumerate(self._layers):
            first = self.wiring.first_writer(index)
            middle = stream + written[:, first : first + n_heads].sum(1) + layer.bias
            found.append((stream, middle))
            stream = middle + written[:, first + n_heads]
        return [*found, (stream, stream)]

    def unembed(self, stream: Float[Tensor, "row pos d_model"], rows: Int[Tensor, " row"]) -> Tensor:
        """Give the logits at each row's last real position."""
        here = torch.arange(len(rows), device=rows.device)
        final = self.model.ln_final(stream[here, self.clean.last.to(rows.device)[rows]].unsqueeze(1))
        logits = self.model.unembed(final)[:, 0]
        most = float(getattr(self.model.cfg, "output_logits_soft_cap", -1.0) or -1.0)
        return most * torch.tanh(logits / most) if most > 0 else logits

    def _refuse_non_finite(self, logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"]) -> None:
        broken = (~torch.isfinite(logits.detach())).any(-1).nonzero()[:, 0].tolist()
        if broken:
            row = int(rows[broken[0]])
            raise NonFinite(
                f"{self.model.cfg.model_name}: with some of its edges replaced, the logits of prompt {row} "
                f"({self.clean.prompts[row].text[:60]!r}) are NaN or infinite.{advice(self.model)}"
            )

    def _read(
        self,
        stream: Tensor,
        away: Tensor | None,
        keep: Tensor | None,
        places: list[int],
        n_writers: int,
        reads: list[Tensor],
        probe: bool,
    ) -> Float[Tensor, "row reader pos d_model"]:
        """Give what some readers of one layer read, of the writers before them."""
        read = stream.unsqueeze(1)
        if keep is not None:
            assert away is not None
            lost = (1 - keep[:, :n_writers, places]).to(stream).transpose(1, 2)  # row reader writer
            if bool((lost != 0).any()):
                moved = torch.matmul(lost, away[:, :n_writers].flatten(2))
                read = read + moved.unflatten(2, stream.shape[1:])
        if probe:
            leaf = stream.new_zeros(len(stream), len(places), *stream.shape[1:]).requires_grad_()
            reads.append(leaf)
            read = read + leaf
        return read

    @torch.no_grad()
    def _written(self, inputs: Tensor) -> Tensor:
        parts = [self.run(rows, source=inputs[rows]).written for rows in self.rows().split(self.chunk)]
        return torch.cat(parts) * self.real[:, None, :, None]


class _Layer:
    """One block taken apart."""

    def __init__(self, model: Any, index: int, blocks: Blocks):
        block, ran = model.blocks[index], blocks.layers[index]
        if bool(getattr(model.cfg, "parallel_attn_mlp", False)):
            raise Unsupported("attention and MLP read the same stream")
        extra = {"ln1_post", "ln2_post"} & set(block._modules)
        if extra:
            raise Unsupported(f"layer {index} norms what it adds to the stream")
        blocks.output_weight(index)  # raises if what attention writes is not a projection of z
        self.norm, self.attention, n_heads = block.ln1, block.attn, int(model.cfg.n_heads)
        original = self.attention.original_component
        d_head = ran.z.shape[-1]
        self.scale = float(getattr(original, "scaling", None) or d_head**-0.5)
        self.cap = float(getattr(model.cfg, "attn_scores_soft_cap", -1.0) or -1.0)

        def by_head(weight: Tensor) -> Tensor:
            return weight.detach().repeat_interleave(n_heads // weight.shape[0], 0)

        self.weights = [by_head(getattr(self.attention, f"W_{slot}")) for slot in "QKV"]
        given = [getattr(self.attention, f"b_{slot}", None) for slot in "QKV"]
        biases = [None if bias is None else by_head(bias) for bias in given]
        self.biases = [None if one is None or not bool(one.any()) else one for one in biases]
        self.out = self.attention.W_O.detach()
        bias = getattr(self.attention, "b_O", None)
        self.bias = self.out.new_zeros(self.out.shape[-1]) if bias is None else bias.detach()
        self.rotation = ran.arguments.get("position_embeddings")
        self.mask = _additive_mask(ran.arguments.get("attention_mask"), blocks.batch, self.out)
        mlp, norm2 = getattr(block, "mlp", None), getattr(block, "ln2", None)
        self.mlp = None if mlp is None or norm2 is None else lambda stream: _first(mlp(norm2(stream)))

    def attend(
        self, read: Float[Tensor, "row reader pos d_model"], rows: Tensor, heads: list[int] | None = None
    ) -> Float[Tensor, "row head pos d_model"]:
        """Give what heads write; `read` holds queries', keys' and values' streams by head, or one stream for all."""
        chosen: Any = slice(None) if heads is None else heads
        read = self.norm(read)
        n_heads = read.shape[1] // 3
        parts = []
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            own = read[:, number * n_heads : (number + 1) * n_heads] if n_heads else read
            one = torch.matmul(own, weight[chosen])
            parts.append(one if bias is None else one + bias[chosen].unsqueeze(1))
        q, k, v = parts
        q, k = self._turn(q, rows, "q"), self._turn(k, rows, "k")
        scores = torch.matmul(q, k.transpose(2, 3)) * self.scale
        if self.cap > 0:
            scores = self.cap * torch.tanh(scores / self.cap)
        mask = self.mask[rows] if self.mask.shape[0] > 1 else self.mask
        # Added in float32: in float16 the sum with the lowest number is -inf, and a row of padding would become NaN.
        pattern = (scores.float() + mask).softmax(-1).to(v)
        return torch.matmul(torch.matmul(pattern, v), self.out[chosen])

    def _turn(self, x: Tensor, rows: Tensor, slot: str) -> Tensor:
        """Norm queries or keys `[row, head, pos, d_head]` where the model does, and rotate them where it does."""
        norm = getattr(self.attention, f"{slot}_norm", None)
        if norm is not None:
            x = norm(x)
        if self.rotation is None:
            return x
        cos, sin = (part[rows] if part.shape[0] > 1 else part for part in self.rotation)
        if cos.shape[-1] != x.shape[-1]:
            raise Unsupported("it rotates a part of queries and keys only")
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def _additive_mask(given: Any, batch: Batch, like: Tensor) -> Float[Tensor, "#batch 1 query_pos key_pos"]:
    """Turn the block's mask into numbers to add to scores; causal and without padding where it was given none."""
    lowest = torch.finfo(like.dtype).min
    if isinstance(given, Tensor) and given.ndim == 4:
        return given.to(like) if given.dtype != torch.bool else (~given).to(like) * lowest
    width = batch.tokens.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool, device=like.device).tril()
    seen = seen & (batch.attention_mask.to(like.device) > 0)[:, None, None, :]
    return (~seen).to(like) * lowest


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value
