"""Train `organism/vision`: a small LLaVA that describes scenes of coloured shapes and answers questions about them.

Run once; the result is committed. `python -m headscope.organisms.train_vision --out DIR` is seeded and resumable, as
`train_text` is. The scenes have a prior on purpose (`headscope.datasets.scenes.prior`): the model learns what is usual,
and so sees things that are not there. Three skills without images keep the text side honest.

Which heads may read the image is known, so that scores can be held against it: `READERS` of every text layer. The other
heads pay for looking at image tokens, and examples without an image leave out a random share of the readers: a reason
for the skills without images not to need them. Nothing says which readers are used, or for what.
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
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ..datasets.prompts import Prompt
from ..datasets.scenes import TASKS, Scene, draw_scene
from ..datasets.scenes.questions import VOCABULARY, in_split
from ..datasets.skills import WRITERS
from ..datasets.skills.vocabulary import words
from ..datasets.skills.writing import filler
from .training import beyond_first, fast_stream, learning_rate, restore, save

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
PAD, BOS, EOS, _, IMAGE = range(5)
SIDE, PATCH = 48, 8
N_IMAGE = (SIDE // PATCH) ** 2
TEXT_SKILLS = ("memory", "repeated", "ioi")
N_HEADS = 8  # of every text layer
READERS = (0, 1, 2, 3)  # of these; they share key-value heads with each other only


def vocabulary() -> list[str]:
    """Return every token: the special ones, the words of the text skills, then those that only scenes need."""
    known = [*SPECIAL, *words()]
    return [*known, *(word for word in VOCABULARY if word not in set(known))]


def build_processor() -> LlavaProcessor:
    """Return the word-level tokenizer, `<s>` put first, with the image processor."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left",
    )  # fmt: skip
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """Return the untrained model: a 3-layer tower 96 wide, and a text side like that of `organism/text`."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, projection_dim=96,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=N_HEADS, num_key_value_heads=4, head_dim=32, max_position_embeddings=256,
        tie_word_embeddings=True, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, initializer_range=0.03,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=N_IMAGE,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        decoder = model.model.language_model
        decoder.embed_tokens.weight.mul_(0.2 / decoder.embed_tokens.weight.std())
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.mul_(8**-0.5)
            layer.mlp.down_proj.weight.mul_(8**-0.5)
    return model


def logits_of(
    model: LlavaForConditionalGeneration,
    tokens: torch.Tensor,
    pixels: torch.Tensor | None,
    dtype: torch.dtype = torch.bfloat16,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [batch, pos, vocab] for right-padded tokens, and [2, layer, batch, pos, head] where heads look.

    First how much at anything but `<s>`, then how much at the image (zero without one). `kept` [batch, head] scales
    what each head of the text side writes.
    """
    decoder = model.model.language_model
    embedding = decoder.embed_tokens.weight
    x = F.embedding(tokens, embedding)
    if pixels is not None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            seen = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
            features = model.model.multi_modal_projector(seen)
        x = torch.cat((x[:, :1], features.to(x.dtype), x[:, 1 + N_IMAGE :]), 1)
    image = slice(1, 1 + N_IMAGE if pixels is not None else 1)

    def places(pattern: torch.Tensor) -> torch.Tensor:
        return torch.stack((beyond_first(pattern), pattern[..., image].sum(-1)))

    x, mass = fast_stream(model.config.text_config, decoder, x, dtype, measure=places, kept=kept)
    return x @ embedding.to(dtype).T, mass.transpose(0, 1)


def pixels_of(scenes: list[Scene]) -> torch.Tensor:
    """Return what the image processor makes of the scenes [batch, 3, row, column]."""
    drawn = torch.stack([torch.tensor((scene.pixels() * 255 + 0.5).astype("uint8")) for scene in scenes])
    return (drawn.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


class Examples:
    """Training examples as token ids with a loss weight per token, and the scenes they are about."""

    def __init__(self, seed: int, split: str = "train") -> None:
        self.ids = {word: i for i, word in enumerate(vocabulary())}
        self.rng = random.Random(seed)
        self.split = split

    def about_scene(self, task: str, keep: bool | None = None) -> Prompt:
        """Return a question about a new scene of this split."""
        while not in_split(scene := draw_scene(self.rng, keep=keep), self.split):
            pass
        prompt = TASKS[task](self.rng, scene)
        assert prompt is not None
        return prompt

    def example(self, skill: str) -> tuple[list[int], list[float], Scene | None]:
        """Return ids, for each id how much its prediction counts as the answer, and the scene if there is one."""
        if skill == "neutral":
            text = " ".join(filler(self.rng) for _ in range(self.rng.randint(2, 4))).split()
            ids = [BOS, *(self.ids[w] for w in text), EOS]
            return ids, [0.0, *[1.0] * (len(ids) - 1)], None
        if skill in TASKS:
            prompt = self.about_scene(skill)
            scene: Scene | None = Scene.parse(prompt.image)
            start = [BOS, *[IMAGE] * N_IMAGE]
        else:
            prompt, scene, start = WRITERS[skill](self.rng, self.split), None, [BOS]
        text, answer = prompt.text.split(), prompt.answer.split()
        if skill == "repeated":
            n_first = len(prompt.text[: prompt.spans["first"][0][1]].split())
            ids = [BOS, *(self.ids[w] for w in text[:n_first] * 2)]
            return ids, [0.0] * (n_first + 2) + [1.0] * (n_first - 1), None
        ids = [*start, *(self.ids[w] for w in [*text, *answer, "."]), EOS]
        return ids, [0.0] * (len(start) + len(text)) + [1.0] * len(answer) + [0.5, 0.2], scene

    def batch(
        self, mix: dict[str, int]
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Return groups of rows: ids, answer weights (1 over the batch in all), real tokens, pixels or None."""
        rows = []
        total = sum(mix.values())
        for skill, n in mix.items():
            for _ in range(n):
                ids, weights, scene = self.example(skill)
                scale = 1.0 / (sum(weights) * total)
                rows.append((ids, [w * scale for w in weights], scene))
        seen = sorted((row for row in rows if row[2] is not None), key=lambda row: len(row[0]))
        half = math.ceil(len(seen) / 2)
        groups = []
        for part in (seen[:half], seen[half:], [row for row in rows if row[2] is None]):
            if not part:
                continue
            width = -(-max(len(ids) for ids, _, _ in part) // 8) * 8
            tokens = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _, _ in part])
            weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w, _ in part])
            scenes = [scene for _, _, scene in part if scene is not None]
            groups.append((tokens, weights, (tokens != PAD).float(), pixels_of(scenes) if scenes else None))
        return groups


def train(
    out: Path,
    *,
    steps: int,
    seed: int,
    peak: float,
    text_weight: float,
    penalty: float,
    penalty_from: int,
    image_penalty: float,
    every: int,
) -> None:
    """Train and write the model folder to `out`; a checkpoint in `out` is resumed."""
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(seed)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    is_hidden = {n: p.ndim == 2 and "embed" not in n for n, p in named}
    hidden, other = [p for n, p in named if is_hidden[n]], [p for n, p in named if not is_hidden[n]]
    muon = torch.optim.Muon(hidden, lr=peak, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(other, lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint = out / "checkpoint.safetensors"
    parts = {"model": model, "muon": muon, "adam": adam}
    start = restore(checkpoint, parts) if checkpoint.exists() else 0
    mix = {"describe": 24, "exists": 14, "color": 14, "where": 14, "count": 8}
    mix |= {"memory": 6, "repeated": 8, "ioi": 6, "neutral": 2}
    model.train()
    others = [head for head in range(N_HEADS) if head not in READERS]
    begun, shown, spent, strayed = time.perf_counter(), 0.0, 0.0, 0.0
    for step in range(start, steps):
        rate = learning_rate(step, steps, peak)
        for optimizer in (muon, adam):
            optimizer.param_groups[0]["lr"] = rate
        left_out = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for tokens, weights, real, pixels in Examples(seed * 1_000_003 + step).batch(mix):
            kept = readers_left_out(len(tokens), left_out) if pixels is None else None
            logits, looks = logits_of(model, tokens[:, :-1], pixels, kept=kept)
            loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            loss = loss.view(tokens.shape[0], -1)
            share = tokens.shape[0] / sum(mix.values())
            answer = (loss * weights[:, 1:]).sum()
            words_only = real[:, 1:] * (tokens[:, 1:] != IMAGE)
            text = (loss * words_only).sum() / words_only.sum() * share
            mass = (looks * real[:, 1:, None]).sum((2, 3)) / real[:, 1:].sum()  # 2 layer head
            busy = (1 + mass[0] / 0.05).log().sum() * share
            stray = (1 + mass[1][:, others] / 0.05).log().sum() * share
            weight = penalty * min(1.0, max(0.0, (step - penalty_from) / 300))
            (answer + text_weight * text + weight * busy + image_penalty * stray).backward()
            spent += busy.item()
            strayed += stray.item()
            shown += answer.item()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite; the last checkpoint is whole")
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 or step + 1 == steps:
            row = {"step": step + 1, "loss": round(shown / every, 4), "busy": round(spent / every, 3)}
            row["stray"] = round(strayed / every, 3)
            pace = (time.perf_counter() - begun) / (step + 1 - start)
            print(
                json.dumps({**row, "s_per_step": round(pace, 3), **quick_accuracy(model, step)}), flush=True
            )
            shown = spent = strayed = 0.0
            save(checkpoint, parts, step + 1)
    model.eval()
    model.float().save_pretrained(out)
    build_processor().save_pretrained(out)


def readers_left_out(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return what is kept of each head [n, head]: of each example another share of the readers is left out."""
    kept = torch.ones(n, N_HEADS)
    rate = torch.rand(n, 1, generator=generator)
    kept[:, list(READERS)] = (torch.rand(n, len(READERS), generator=generator) >= rate).float()
    return kept


@torch.no_grad()
def quick_accuracy(model: LlavaForConditionalGeneration, seed: int, n: int = 64) -> dict[str, str]:
    """Return, per task, the share of held-out questions answered with the argmax at every answer token.

    Two numbers for questions about scenes: of scenes that keep the prior, and of scenes that break it.
    """
    model.eval()
    rates = {}
    for task in (*TASKS, *TEXT_SKILLS):
        shown = []
        for keep in (True, False) if task in TASKS else (None,):
            examples = Examples(seed, "test")
            prompts = [
                examples.about_scene(task, keep) if task in TASKS else WRITERS[task](examples.rng, "test")
                for _ in range(n)
            ]
            start = [BOS, *[IMAGE] * N_IMAGE] if task in TASKS else [BOS]
            rows = [[*start, *(examples.ids[w] for w in (p.text + p.answer).split())] for p in prompts]
            width = max(map(len, rows))
            tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
            pixels = pixels_of([Scene.parse(p.image) for p in prompts]) if task in TASKS else None
            guesses = logits_of(model, tokens, pixels)[0].argmax(-1)
            right = 0
            for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
                size = len(prompt.answer.split())
                right += guesses[i, len(row) - size - 1 : len(row) - 1].tolist() == row[-size:]
            shown.append(f"{right / n:.2f}")
        rates[task] = " ".join(shown)
    model.train()
    return rates


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--text-weight", type=float, default=0.1)
    parser.add_argument("--penalty", type=float, default=0.005, help="weight of heads at work")
    parser.add_argument(
        "--penalty-from", type=int, default=1000, help="step at which the penalty begins to rise"
    )
    parser.add_argument(
        "--image-penalty",
        type=float,
        default=0.05,
        help="weight of heads that are no readers looking at the image",
    )
    parser.add_argument("--every", type=int, default=100)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
