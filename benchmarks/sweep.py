"""Time a sweep over all heads against the plain ways of doing the same, side by side in one run.

Prints a table with one line per way: the seconds of its median round, how many times the loop's speed that is (median
over rounds of the paired ratio, with the lowest and the highest), the same ratio in processor time, which other work on
the machine disturbs least, and the largest difference from the loop's result, in logits:

    loop of run_with_hooks   one whole forward pass per head
    TransformerLens          its patching function for head outputs, fed with what the intervention puts in place
    headscope.sweep          changed runs start in the middle and move on together
    bound                    the operations that exactness needs, at the speed of this machine's matrix products

The model has random weights and GPT-2 small's shape unless told otherwise; nothing is downloaded. Arms take turns
within every round, in reverse order in every other one, so that other work on the machine hits them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    args = _arguments()
    import torch

    torch.set_grad_enabled(False)
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, batch = _setting(args, Path(folder))
    n_heads = args.layers * args.heads
    arms = _arms(model, batch, args)
    results: dict[str, Any] = {}
    model(batch.tokens)  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    processor: dict[str, list[float]] = {name: [] for name in arms}
    speeds = []
    for round_ in range(args.rounds):
        order = list(arms) if round_ % 2 == 0 else list(reversed(arms))
        for name in order:
            started, worked = time.perf_counter(), time.process_time()
            results[name] = arms[name]()
            # The slow ways run once per head and once clean.
            scale = 1.0 if name.startswith("headscope") else (n_heads + 1) / (len(_sampled(args)) + 1)
            seconds[name].append(scale * (time.perf_counter() - started))
            processor[name].append(scale * (time.process_time() - worked))
            print(f"round {round_ + 1}: {name} took {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
        speeds.append(matmul_speed(args.prompts * args.heads * args.tokens, args.width))
    operations = needed_operations(args.layers, args.heads, args.width, args.words, args.prompts, args.tokens)
    bound = [operations / speed for speed in speeds]
    print(
        f"{args.kind} of each of {n_heads} heads ({args.layers} layers, width {args.width}, {args.words} words), "
        f"{args.prompts} prompts of {args.tokens} tokens, {torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    print(f"{'':26}{'seconds':>9}{'x loop':>9}{'lowest':>9}{'highest':>9}{'x in cpu':>10}{'max diff':>11}")
    loop = next(iter(arms))
    for name, taken in {**seconds, "bound": bound}.items():
        ratios = [slow / fast for slow, fast in zip(seconds[loop], taken, strict=True)]
        spent = [slow / fast for slow, fast in zip(processor[loop], processor.get(name, []), strict=False)]
        off = f"{(results[name] - results[loop]).abs().nan_to_num().max():11.1e}" if name in results else ""
        print(
            f"{name:26}{statistics.median(taken):9.2f}{statistics.median(ratios):9.2f}"
            f"{min(ratios):9.2f}{max(ratios):9.2f}"
            f"{statistics.median(spent) if spent else float('nan'):10.2f}{off}"
        )
    print(f"bound: {operations:.3g} operations at {statistics.median(speeds) / 1e9:.0f} GFLOP/s")


def needed_operations(
    n_layers: int, n_heads: int, d_model: int, n_vocab: int, n_prompts: int, n_tokens: int
) -> float:
    """Count the floating-point operations of all changed runs that no exact method of this kind avoids.

    Nothing before the changed layer; in the changed layer the MLP; whole blocks after it; in the last layer keys and
    values, and everything else at the one position that is read; one unembedding per run. An MLP is 4 widths.
    """
    mlp = 2 * 2 * 4 * d_model**2  # per token, as what follows
    projections = 2 * 4 * d_model**2
    pairs = n_tokens * (n_tokens + 1) / 2
    attention = 2 * 2 * d_model * pairs  # per sequence
    block = n_tokens * (mlp + projections) + attention
    last_block = n_tokens * projections / 2 + projections / 2 + mlp + 2 * 2 * d_model * n_tokens
    unembedding = 2 * d_model * n_vocab
    total = 0.0
    for layer in range(n_layers):
        later = n_layers - 1 - layer
        if later:
            total += n_tokens * mlp + (later - 1) * block + last_block + unembedding
        else:
            total += mlp + unembedding
    return n_prompts * n_heads * total


def matmul_speed(n_rows: int, width: int) -> float:
    """Measure operations per second of the matrix product an MLP is made of."""
    import torch

    left, right = torch.randn(n_rows, width), torch.randn(width, 4 * width)
    left @ right
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        left @ right
        count += 1
    return 2 * n_rows * width * 4 * width * count / (time.perf_counter() - started)


def _arms(model: Any, batch: Any, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Make the three ways of doing the same work, each giving `[example, layer, head]` on the CPU."""
    import pandas
    import torch
    from transformer_lens import patching

    from headscope.hooks.interventions import resample, zero
    from headscope.hooks.metrics import logit_difference
    from headscope.hooks.sweep import sweep

    heads = _sampled(args)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(args.layers)]

    def metric(logits: Any) -> Any:
        return logit_difference(logits[:, -1], batch)

    def replacement() -> dict[str, Any]:
        if args.kind == "resample":
            _, cache = model.run_with_cache(batch.corrupted().tokens, names_filter=names)
            return {name: cache[name] for name in names}
        return dict.fromkeys(names, torch.zeros(*batch.tokens.shape, args.heads, args.width // args.heads))

    def loop() -> Any:
        put = replacement()
        clean = metric(model(batch.tokens))
        effects = torch.full((len(batch), args.layers, args.heads), torch.nan)
        for layer, head in heads:

            def change(z: Any, hook: Any, new: Any = put[names[layer]], head: int = head) -> Any:
                z[:, :, head] = new[:, :, head]
                return z

            logits = model.run_with_hooks(batch.tokens, fwd_hooks=[(names[layer], change)])
            effects[:, layer, head] = metric(logits) - clean
        return effects

    def transformer_lens() -> Any:
        result = patching.get_act_patch_attn_head_out_all_pos(
            model,
            batch.tokens,
            replacement(),
            metric,
            index_axis_names=None,
            index_df=pandas.DataFrame(heads, columns=["layer", "head"]),
            reduce="none",
            baseline=True,
        )
        effects = torch.full((len(batch), args.layers, args.heads), torch.nan)
        for (layer, head), effect in zip(heads, result.effect(), strict=True):
            effects[:, layer, head] = effect
        return effects

    def ours() -> Any:
        return sweep(
            model, batch, logit_difference, resample if args.kind == "resample" else zero, chunk=args.chunk
        )

    return {"loop of run_with_hooks": loop, "TransformerLens": transformer_lens, "headscope.sweep": ours}


def _sampled(args: argparse.Namespace) -> list[tuple[int, int]]:
    """List the heads that the slow ways run: all, or every nth."""
    heads = [(layer, head) for layer in range(args.layers) for head in range(args.heads)]
    return heads[:: max(1, len(heads) // args.sample)] if args.sample else heads


def _setting(args: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Make a GPT-2 of the asked shape with random weights, a tokenizer of numbered words, and random prompts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from headscope.datasets.prompts import Prompt
    from headscope.hooks.encode import encode
    from headscope.hooks.load import load

    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    shape = {"n_layer": args.layers, "n_head": args.heads, "n_embd": args.width, "vocab_size": args.words}
    GPT2LMHeadModel(GPT2Config(**shape, n_positions=max(64, args.tokens), **ends)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(args.words)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w0").save_pretrained(folder)
    model = load(str(folder))

    def text() -> str:
        return " ".join(f"w{index}" for index in torch.randint(1, args.words, (args.tokens,)).tolist())

    prompts = [Prompt(text=text(), corrupted=text(), answer=" w1", foil=" w2") for _ in range(args.prompts)]
    batch = encode(model, prompts)
    excess = batch.tokens.shape[1] - args.tokens
    if excess:  # the model adds a BOS token
        prompts = [
            Prompt(
                text=prompt.text.split(" ", excess)[-1],
                corrupted=prompt.corrupted.split(" ", excess)[-1],
                answer=prompt.answer,
                foil=prompt.foil,
            )
            for prompt in prompts
        ]
        batch = encode(model, prompts)
    assert batch.tokens.shape == (args.prompts, args.tokens)
    return model, batch


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        help="time the slow ways on about N heads and scale up (default: on all)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often every way is timed (default 3)")
    parser.add_argument(
        "--threads", type=int, default=0, help="torch's threads (default: torch's own choice)"
    )
    parser.add_argument("--kind", choices=["zero", "resample"], default="zero", help="the intervention")
    parser.add_argument(
        "--chunk", type=int, default=None, help="changed sequences at once (default: ours chooses)"
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="of the residual stream")
    parser.add_argument("--words", type=int, default=50257, help="size of the vocabulary")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24, help="of each prompt")
    return parser.parse_args()


if __name__ == "__main__":
    main()
