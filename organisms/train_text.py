"""Train `organism/text`: a small Llama that masters the skills of `headscope.datasets.skills`.

Run once; the result is committed. `python -m headscope.organisms.train_text --out DIR` is seeded and resumable: a
checkpoint is written every few hundred steps and picked up by the next call. Under two hours on 2 cores.

Training starts on repeated sequences and needles alone, since induction heads take longest to form, then mixes all
skills with equal weight per skill, not per token. Once the skills are there, a penalty on what heads write to the
residual stream makes heads share the work out: without it all eight heads of one layer copy, and no experiment could
tell them apart.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..datasets.skills import WRITERS
from ..datasets.skills.vocabulary import words
from ..datasets.skills.writing import filler

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, BOS, EOS = 0, 1, 2
FIRST = ("repeated", "needle")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: one token a word, `<s>` put first."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def build_model(seed: int) -> LlamaForCausalLM:
    """Return the untrained model: 4 layers, 8 query heads over 4 key-value heads, 128 wide."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(SPECIAL) + len(words()), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=8, num_key_value_heads=4, head_dim=32, max_position_embeddings=256,
            tie_word_embeddings=True, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, initializer_range=0.05,
        )
    )  # fmt: skip
    return model


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def fast_logits(
    model: LlamaForCausalLM, tokens: torch.Tensor, dtype: torch.dtype = torch.bfloat16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [batch, pos, vocab] for right-padded tokens, computed in `dtype`, and what heads write.

    The second value [layer, batch, pos, head] is the length of the vector a head adds to the residual stream, as a
    share of the length of the stream after the layer's attention.

    The same function as `model(tokens)`, written out: on CPUs the fused attention's backward pass takes half of the
    training time, and plain products of all query heads of a key-value head at once take a tenth of it.
    """
    config, width = model.config, tokens.shape[1]
    n_query, n_kv, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    share = n_query // n_kv
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(width), frequency).repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    future = torch.full((width, width), -1e9).triu(1)
    embedding = model.model.embed_tokens.weight
    x = F.embedding(tokens, embedding)
    written = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        h = _rms_norm(x, layer.input_layernorm.weight, config.rms_norm_eps).to(dtype)
        weight = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)).to(
            dtype
        )
        heads = (h @ weight.T).unflatten(-1, (n_query + 2 * n_kv, size)).transpose(1, 2)
        q, k, v = heads.split((n_query, n_kv, n_kv), 1)
        q = _rotate(q, cos, sin).reshape(-1, share * width, size)
        k, v = _rotate(k, cos, sin).reshape(-1, width, size), v.reshape(-1, width, size)
        scores = torch.bmm(q, k.transpose(1, 2)).view(-1, share, width, width).float() * size**-0.5 + future
        pattern = scores.softmax(-1).to(dtype).view(-1, share * width, width)
        z = torch.bmm(pattern, v).view(-1, n_query, width, size).transpose(1, 2)
        out = attention.o_proj.weight.to(dtype)
        # |z W|^2 = z (W W^T) z, head by head: cheaper than the vectors themselves.
        heads_out = out.T.unflatten(0, (n_query, size))
        squared = (z.transpose(0, 2).flatten(1, 2) @ (heads_out @ heads_out.mT)).unflatten(1, (width, -1))
        squared = (squared.transpose(0, 2) * z).float().sum(-1)
        x = x + z.flatten(2) @ out.T
        written.append((squared.clamp(min=0) + 1e-6).sqrt() / x.norm(dim=-1, keepdim=True))
        h = _rms_norm(x, layer.post_attention_layernorm.weight, config.rms_norm_eps).to(dtype)
        gate, up = (h @ torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).to(dtype).T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ mlp.down_proj.weight.to(dtype).T
    return _rms_norm(x, model.model.norm.weight, config.rms_norm_eps).to(dtype) @ embedding.to(
        dtype
    ).T, torch.stack(written)


class Examples:
    """Training examples as token ids with a loss weight per token, written on the fly."""

    def __init__(self, seed: int) -> None:
        self.ids = {word: i for i, word in enumerate([*SPECIAL, *words()])}
        self.rng = random.Random(seed)

    def example(self, skill: str) -> tuple[list[int], list[float]]:
        """Return ids and, for each id, how much its prediction counts as the answer."""
        if skill == "neutral":
            text = " ".join(filler(self.rng) for _ in range(self.rng.randint(2, 6))).split()
            ids = [BOS, *(self.ids[w] for w in text), EOS]
            return ids, [0.0, *[1.0] * (len(ids) - 1)]
        prompt = WRITERS[skill](self.rng, "train")
        text, answer = prompt.text.split(), prompt.answer.split()
        if skill == "repeated":
            n_first = len(prompt.text[: prompt.spans["first"][0][1]].split())
            sequence = text[:n_first]
            ids = [BOS, *(self.ids[w] for w in sequence * 2)]
            return ids, [0.0] * (1 + n_first + 1) + [1.0] * (n_first - 1)
        ids = [BOS, *(self.ids[w] for w in [*text, *answer, "."]), EOS]
        return ids, [0.0] * (1 + len(text)) + [1.0] * len(answer) + [0.3, 0.3]

    def batch(
        self, mix: dict[str, int], n_groups: int
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return groups of rows of like length: ids, answer weights (summing to 1 over the batch), text weights."""
        rows = []
        total = sum(mix.values())
        for skill, n in mix.items():
            for _ in range(n):
                ids, weights = self.example(skill)
                scale = 1.0 / (sum(weights) * total)
                rows.append((ids, [w * scale for w in weights]))
        rows.sort(key=lambda row: len(row[0]))
        size = math.ceil(len(rows) / n_groups)
        groups = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            width = max(len(ids) for ids, _ in part)
            width = -(-width // 16) * 16
            tokens = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in part])
            weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in part])
            groups.append((tokens, weights, (tokens != PAD).float()))
        return groups


def learning_rate(step: int, steps: int, peak: float, warmup: int = 150) -> float:
    """Warm up linearly, hold, then fall to zero over the last 30 %."""
    if step < warmup:
        return peak * (step + 1) / warmup
    tail = 0.3 * steps
    return peak * min(1.0, (steps - step) / tail)


def train(
    out: Path,
    *,
    steps: int,
    first_steps: int,
    seed: int,
    peak: float,
    text_weight: float,
    penalty: float,
    penalty_from: int,
    every: int,
) -> None:
    """Train and write the model folder to `out`; a checkpoint in `out` is resumed."""
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(seed)
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    other = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    muon = torch.optim.Muon(hidden, lr=peak, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(other, lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint, start = out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        start = state["step"]
    later = dict.fromkeys(WRITERS, 8) | {"needle": 12, "documents": 12, "docstring": 12, "neutral": 4}
    model.train()
    begun, seen, shown, spent = time.perf_counter(), 0, 0.0, 0.0
    for step in range(start, steps):
        examples = Examples(seed * 1_000_003 + step)
        mix = {"repeated": 44, "needle": 20} if step < first_steps else later
        rate = learning_rate(step, steps, peak)
        for optimizer in (muon, adam):
            optimizer.param_groups[0]["lr"] = rate
        for tokens, weights, real in examples.batch(mix, 4):
            logits, written = fast_logits(model, tokens[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            loss = loss.view(tokens.shape[0], -1)
            share = tokens.shape[0] / sum(mix.values())
            answer = (loss * weights[:, 1:]).sum()
            text = (loss * real[:, 1:]).sum() / real[:, 1:].sum() * share
            # The logarithm presses hardest on heads that write little: a sum of lengths would not mind eight heads
            # that each write an eighth of the same vector.
            lengths = (written * real[:, 1:, None]).sum((1, 2)) / real[:, 1:].sum()  # layer head
            spread = (1 + lengths / 0.01).log().sum() * share
            weight = penalty * min(1.0, max(0.0, (step - penalty_from) / 300))
            (answer + text_weight * text + weight * spread).backward()
            spent += spread.item()
            shown += answer.item()
            seen += int(real.sum())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite; the last checkpoint is whole")
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 or step + 1 == steps:
            rates = (
                quick_accuracy(model, seed=step)
                if step >= first_steps or (step + 1) % (4 * every) == 0
                else {}
            )
            speed = seen / (time.perf_counter() - begun)
            row = {"step": step + 1, "loss": round(shown / every, 4), "spread": round(spent / every, 3)}
            print(json.dumps({**row, "tokens_per_s": round(speed), **rates}), flush=True)
            shown = spent = 0.0
            torch.save(
                {
                    "model": model.state_dict(),
                    "muon": muon.state_dict(),
                    "adam": adam.state_dict(),
                    "step": step + 1,
                },
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    model.eval()
    model.float().save_pretrained(out)
    build_tokenizer().save_pretrained(out)


@torch.no_grad()
def quick_accuracy(model: LlamaForCausalLM, seed: int, n: int = 60) -> dict[str, float]:
    """Return the share of held-out prompts per skill whose answer is the argmax at every answer token."""
    model.eval()
    ids = {word: i for i, word in enumerate([*SPECIAL, *words()])}
    rates = {}
    for skill, write in WRITERS.items():
        rng = random.Random(f"{skill}/{seed}")
        right, rows = 0, [write(rng, "test") for _ in range(n)]
        sequences = [[BOS, *(ids[w] for w in (p.text + p.answer).split())] for p in rows]
        width = max(map(len, sequences))
        logits = model(input_ids=torch.tensor([s + [PAD] * (width - len(s)) for s in sequences])).logits
        for i, (prompt, sequence) in enumerate(zip(rows, sequences, strict=True)):
            n_answer = len(prompt.answer.split())
            guess = logits[i, len(sequence) - n_answer - 1 : len(sequence) - 1].argmax(-1).tolist()
            if skill == "greater-than":
                right += guess[0] > ids[prompt.label] and guess[0] <= ids["99"]
            else:
                right += guess == sequence[-n_answer:]
        rates[skill] = round(right / n, 2)
    model.train()
    return rates


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--first-steps", type=int, default=450)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--text-weight", type=float, default=0.1)
    parser.add_argument("--penalty", type=float, default=0.005, help="weight of what heads write")
    parser.add_argument(
        "--penalty-from", type=int, default=1350, help="step at which the penalty begins to rise"
    )
    parser.add_argument("--every", type=int, default=100)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
