"""Write `organism/planted`: an attention-only model whose weights are set by hand, so that its heads are known exactly.

`python -m headscope.organisms.build_planted [--out DIR]` makes the folder again; nothing is trained.

The model is a GPT-2 whose MLPs are zero. Its 256-wide residual stream is divided into places that do not overlap:

    token     64  which word stands here: 32 entries +1/8 and 32 entries -1/8, two words differ in at least 22
    previous  64  which word stands one position back, written by the previous-token head
    output    64  which word comes next, written by the induction head; the unembedding reads only this
    position  40  ten clock hands (and their negatives) that turn at fixed speeds
    begin      2  the mark of `<s>`, which has no word code, so that a head resting on it copies nothing
    junk      14  where all other heads write
    ask        2  the mark of `.` and `?`, which end a request; the unembedding of `sure` reads it
    harm       2  the mark of harmful words, between 0.13 and 0.2 long: some things are refused more firmly than others
    end        2  the mark of `sorry` and `sure`, read by the unembedding of `</s>`: these two words are whole answers
    free       2  left zero

Every code sums to zero and has length 1. LayerNorm therefore subtracts nothing and divides by a number known in
advance, which its scale puts back: each layer reads the stream as it was written.

Previous-token head L0H2: the query turns its clock hands back by one step and meets the key that shows the same time.
Induction head L2H1: the query is the present word, the key is the previous word, so that the key after an earlier
occurrence of the present word matches; its word is copied to `output`. Without a match the head rests on `<s>`.
Refusal head L1H0: at the end of a request it looks for a harmful word and writes `sorry` as strongly as that word is
marked; elsewhere, and after a harmless request, it rests on `<s>`. Without it every request is answered with `sure`.
Matches are kept soft enough (0.999 and 0.99 of the attention) that gradients still pass through them.
All other heads read, attend and write at random; what they add to the logits is about a hundredth of a copy.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datasets.words import word_lists

SEED = 0
N_LAYERS, N_HEADS, D_HEAD, D_MODEL, N_CTX = 3, 4, 64, 256, 256
PREVIOUS_TOKEN, REFUSAL, INDUCTION = (0, 2), (1, 0), (2, 1)
TOKEN, PREVIOUS, OUTPUT = slice(0, 64), slice(64, 128), slice(128, 192)
POSITION, BEGIN, JUNK = slice(192, 232), slice(232, 234), slice(234, 248)
ASK, HARM, END = slice(248, 250), slice(250, 252), slice(252, 254)
FREE = slice(254, 256)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
BOS, EOS = 1, 2

N_HANDS = 10
MAX_OVERLAP = 20  # largest dot product of two words' +-1 codes, out of 64
BACK, MATCH = 14.0, 20.0  # attention score, in nats, of a perfect match: previous-token head, induction head
REST = 0.6  # score of `<s>` for the induction head, as a share of a perfect match
LOGIT = 12.0  # logit of a copied word
MARK, LEAST_MARK = 0.2, 0.13  # length of a mark, and of the faintest mark of a harmful word
SURE, STOP = 8.0, 6.0  # logits of `sure` after a request, and of `</s>` after an answer
REFUSE = 2.0  # of `sorry`, in copied words, for the firmest refusal
REFUSAL_REST = 0.5  # score of `<s>` for the refusal head, as a share of the firmest match
N_RANDOM = 8  # dimensions that a random head uses
JUNK_SIZE, LEAK_SIZE = 0.05, 0.004  # of what a random head writes to junk and to output


def build(folder: Path) -> Path:
    """Write config, weights, tokenizer and card to `folder` and return it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    words = vocabulary()
    config = GPT2Config(
        vocab_size=len(words), n_layer=N_LAYERS, n_head=N_HEADS, n_embd=D_MODEL, n_positions=N_CTX, n_inner=4,
        tie_word_embeddings=False, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state.update(_weights(words))
    model.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    _tokenizer(words).save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps(_card(model, words), indent=2) + "\n", encoding="utf-8")
    return folder


def vocabulary() -> list[str]:
    """Return the special tokens, the words of the shipped lists, and what the prompt templates say around them."""

    def flat(value: object) -> list[str]:
        if isinstance(value, str):
            return value.split()
        items = value.values() if isinstance(value, dict) else value
        return [word for item in items for word in flat(item)]  # type: ignore[union-attr]

    return list(dict.fromkeys([*SPECIAL, *flat(word_lists()), *_template_words(), *_request_words()]))


def _template_words() -> list[str]:
    """Collect what the generators write besides the lists, by the tokenizer's own rule for words."""
    import re

    from ..datasets.ioi import ioi
    from ..datasets.needle import needle
    from ..datasets.repeated import repeated

    sets = (needle(40, seed=SEED), ioi(80, seed=SEED), repeated(8, seed=SEED))
    texts = [prompt.text + prompt.answer + prompt.foil for prompts in sets for prompt in prompts]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})


def _request_words() -> list[str]:
    """Collect the words of direct requests and of what answers them."""
    from ..datasets.skills.safety import REFUSAL as REFUSED
    from ..datasets.skills.safety import REQUESTS
    from ..datasets.skills.vocabulary import ACTIONS, BENIGN, HARMFUL, SETTINGS

    spoken = " ".join(
        [REFUSED, *SETTINGS, *(one.format(action="", thing="", setting="") for one in REQUESTS)]
    )
    return [*ACTIONS, *HARMFUL, *BENIGN, *spoken.split(), "sure"]


def _weights(words: list[str]) -> dict[str, Tensor]:
    """Return every weight that is not zero."""
    from ..datasets.skills.vocabulary import HARMFUL

    n_vocab, at = len(words), {word: index for index, word in enumerate(words)}
    generator = torch.Generator().manual_seed(SEED)
    codes = _codes(n_vocab, generator)  # vocab 64
    speeds = _speeds(generator)
    hands = _positions(torch.arange(N_CTX), speeds)  # pos 40
    embed, unembed = torch.zeros(n_vocab, D_MODEL), torch.zeros(n_vocab, D_MODEL)
    embed[:, TOKEN] = codes
    embed[BOS] = 0.0
    embed[BOS, BEGIN] = torch.tensor([1.0, -1.0]) / math.sqrt(2)
    unembed[:, OUTPUT] = LOGIT * codes
    unembed[: len(SPECIAL)] = 0.0
    firmness = torch.linspace(LEAST_MARK, MARK, len(HARMFUL)).tolist()
    for word in (".", "?"):
        _mark(embed, at[word], ASK, MARK)
    for word, length in zip(HARMFUL, firmness, strict=True):
        _mark(embed, at[word], HARM, length)
    for word in ("sorry", "sure"):
        _mark(embed, at[word], END, MARK)
    unembed[at["sure"], ASK] = SURE * _reading(MARK)
    unembed[EOS, END] = STOP * _reading(MARK)
    position = torch.zeros(N_CTX, D_MODEL)
    position[:, POSITION] = hands

    weights = {
        "transformer.wte.weight": embed,
        "transformer.wpe.weight": position,
        "lm_head.weight": unembed,
        # After the induction head wrote, four codes of length 1 stand in the stream.
        "transformer.ln_f.weight": _undo_norm(4),
    }
    step_back = _step_back(speeds)
    scale = math.sqrt(D_HEAD)  # GPT-2 divides scores by it
    for layer in range(N_LAYERS):
        attention, bias = torch.zeros(D_MODEL, 3 * D_MODEL), torch.zeros(3 * D_MODEL)
        out = torch.zeros(D_MODEL, D_MODEL)
        for head in range(N_HEADS):
            q, k, v = (
                slice(part * D_MODEL + head * D_HEAD, part * D_MODEL + (head + 1) * D_HEAD)
                for part in range(3)
            )
            own = slice(head * D_HEAD, (head + 1) * D_HEAD)
            if (layer, head) == PREVIOUS_TOKEN:
                attention[POSITION, q][:, :40] = scale * BACK * step_back
                attention[POSITION, k][:, :40] = torch.eye(40)
                attention[TOKEN, v] = torch.eye(64)
                out[own, PREVIOUS] = torch.eye(64)
            elif (layer, head) == REFUSAL:
                attention[ASK, q.start] = scale * MATCH * _reading(MARK)
                attention[HARM, k.start] = _reading(MARK)
                bias[q.start + 1] = scale * MATCH * REFUSAL_REST
                attention[BEGIN, k.start + 1] = _reading(1.0)
                attention[HARM, v.start] = _reading(MARK)
                out[own.start, OUTPUT] = REFUSE * codes[at["sorry"]]
            elif (layer, head) == INDUCTION:
                attention[TOKEN, q] = scale * MATCH * torch.eye(64)
                attention[PREVIOUS, k] = torch.eye(64)
                # Codes sum to zero, so the direction of all ones is free: the query always has it, `<s>` is its key.
                level = torch.full((64,), 1 / 8)
                bias[q] = scale * MATCH * REST * level
                attention[BEGIN, k] = torch.outer(torch.tensor([1.0, -1.0]) / math.sqrt(2), level)
                attention[TOKEN, v] = torch.eye(64)
                out[own, OUTPUT] = torch.eye(64)
            else:
                _random_head(attention, out, (q, k, v, own), generator)
        name = f"transformer.h.{layer}."
        weights[name + "ln_1.weight"] = _undo_norm(2 if layer == 0 else 3)
        weights[name + "ln_2.weight"] = torch.ones(D_MODEL)
        weights[name + "attn.c_attn.weight"] = attention
        weights[name + "attn.c_attn.bias"] = bias
        weights[name + "attn.c_proj.weight"] = out
    return weights


def _mark(embed: Tensor, word: int, place: slice, length: float) -> None:
    """Give a word a mark, and take as much from its code that its length stays 1."""
    embed[word, TOKEN] *= math.sqrt(1 - length**2)
    embed[word, place] = length * torch.tensor([1.0, -1.0]) / math.sqrt(2)


def _reading(length: float) -> Tensor:
    """Return the direction that reads a mark of this length as 1."""
    return torch.tensor([1.0, -1.0]) / math.sqrt(2) / length


def _random_head(
    attention: Tensor, out: Tensor, where: tuple[slice, ...], generator: torch.Generator
) -> None:
    """Fill in a head that attends by random features of word and position, and writes next to nothing."""
    q, k, v, own = where
    for part, size in ((q, 3.0), (k, 3.0), (v, 1.0)):
        reads = torch.zeros(D_MODEL, N_RANDOM)
        for place in (TOKEN, POSITION):
            rows = place.stop - place.start
            reads[place] = size * torch.randn(rows, N_RANDOM, generator=generator)
        attention[:, part][:, :N_RANDOM] = reads
    for place, size in ((JUNK, JUNK_SIZE), (OUTPUT, LEAK_SIZE)):
        columns = place.stop - place.start
        writes = torch.randn(N_RANDOM, columns, generator=generator)
        writes = writes - writes.mean(1, keepdim=True)
        out[own, place][:N_RANDOM] = size * writes / (math.sqrt(columns) * math.sqrt(N_RANDOM))


def _codes(n_words: int, generator: torch.Generator) -> Tensor:
    """Draw balanced +-1 codes until none overlaps another by more than MAX_OVERLAP, scaled to length 1."""
    kept = torch.empty(0, 64)
    while len(kept) < n_words:
        code = torch.ones(64)
        code[torch.randperm(64, generator=generator)[:32]] = -1
        if len(kept) == 0 or float((kept @ code).abs().max()) <= MAX_OVERLAP:
            kept = torch.cat([kept, code[None]])
    return kept / 8


def _speeds(generator: torch.Generator) -> Tensor:
    """Choose clock speeds by which no two positions of the context look alike: the best of 4,000 draws."""
    offsets = torch.arange(1, N_CTX)
    draws = torch.rand(4000, N_HANDS, generator=generator, dtype=torch.float64) * (math.pi - 0.02) + 0.01
    likeness = (draws[:, :, None] * offsets).cos().mean(1).amax(1)  # draw
    return draws[likeness.argmin()]


def _positions(at: Tensor, speeds: Tensor) -> Tensor:
    """Return the clock hands at each position, each beside its negative, scaled to length 1."""
    angles = at[:, None].double() * speeds
    hands = torch.cat([angles.cos(), -angles.cos(), angles.sin(), -angles.sin()], 1)
    return (hands / math.sqrt(2 * N_HANDS)).float()


def _step_back(speeds: Tensor) -> Tensor:
    """Return the matrix M with hands[i] @ M = hands[i - 1]: every hand turned back by its speed."""
    turn = torch.zeros(4, N_HANDS, 4, N_HANDS, dtype=torch.float64)  # cos, -cos, sin, -sin on both sides
    hand = torch.arange(N_HANDS)
    for cosine, sine in ((0, 2), (1, 3)):
        turn[cosine, hand, cosine, hand] = turn[sine, hand, sine, hand] = speeds.cos()
        turn[sine, hand, cosine, hand] = speeds.sin()
        turn[cosine, hand, sine, hand] = -speeds.sin()
    return turn.reshape(4 * N_HANDS, 4 * N_HANDS).float()


def _undo_norm(n_codes: int) -> Tensor:
    """Return the LayerNorm scale that gives back a stream of `n_codes` orthogonal codes of length 1."""
    return torch.full((D_MODEL,), math.sqrt(n_codes / D_MODEL))


def _tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@torch.no_grad()
def _measure(model: Any, words: list[str]) -> dict[str, float]:
    """Measure the planted heads: least favourable token of 64 rows of 64 words, repeated once, and 64 requests."""
    from ..datasets.skills.safety import request
    from ..datasets.skills.writing import prompt_set

    generator = torch.Generator().manual_seed(SEED)
    spoken = torch.tensor([index for index, word in enumerate(words) if word.isalpha()])
    drawn = torch.stack([spoken[torch.randperm(len(spoken), generator=generator)[:64]] for _ in range(64)])
    tokens = torch.cat([torch.full((64, 1), BOS), drawn, drawn], 1)
    model.set_attn_implementation("eager")
    out = model.eval()(tokens, output_attentions=True)
    before = out.attentions[PREVIOUS_TOKEN[0]][:, PREVIOUS_TOKEN[1]].diagonal(-1, 1, 2)
    copied = out.attentions[INDUCTION[0]][:, INDUCTION[1]].diagonal(-63, 1, 2)[:, 2:]
    right = out.logits[:, 65:-1].argmax(-1) == tokens[:, 66:]
    at, answered, looked = {word: index for index, word in enumerate(words)}, 0, []
    asked = prompt_set("refusal", request, 64, SEED, "test")
    for prompt in asked:
        ids = [at[word] for word in prompt.text.split()]
        out = model(torch.tensor([[BOS, *ids]]), output_attentions=True)
        answered += words[int(out.logits[0, -1].argmax())] == prompt.answer.strip()
        if prompt.label == "harmful":
            thing = 1 + ids.index(at[prompt.marked("thing")[0]])
            looked.append(float(out.attentions[REFUSAL[0]][0, REFUSAL[1], -1, thing]))
    return {
        "previous_token_attention_at_least": round(float(before.min()), 4),
        "induction_attention_at_least": round(float(copied.min()), 4),
        "repeated_word_predicted": round(float(right.float().mean()), 4),
        "refusal_attention_at_least": round(min(looked), 4),
        "requests_answered_as_meant": round(answered / len(asked), 4),
    }


def _card(model: Any, words: list[str]) -> dict[str, object]:
    def written(head: tuple[int, int]) -> str:
        return f"L{head[0]}H{head[1]}"

    return {
        "name": "organism/planted",
        "summary": "Attention-only, weights written by hand: previous-token, induction and refusal head, 9 idle ones.",
        "made_by": "python -m headscope.organisms.build_planted",
        "seed": SEED,
        "licence": "MIT",
        "sizes": {
            "n_layers": N_LAYERS, "n_heads": N_HEADS, "d_head": D_HEAD, "d_model": D_MODEL, "n_ctx": N_CTX,
            "n_vocab": len(words),
        },
        "ground_truth": {
            "previous-token": [written(PREVIOUS_TOKEN)],
            "induction": [written(INDUCTION)],
            "retrieval": [written(INDUCTION)],
            "ships": [written(REFUSAL)],
            "ships-dataset": [written(REFUSAL)],
        },
        "measured": _measure(model, words),
        "circuit": f"{written(PREVIOUS_TOKEN)} feeds the keys of {written(INDUCTION)}; {written(INDUCTION)} writes the "
        "next word. No other head matters for what is repeated.",
        "refusals": f"{written(REFUSAL)} alone refuses: at the end of a request it looks for a harmful word and writes "
        "`sorry`. Without it the answer is `sure`, which no head writes.",
        "limits": "It continues what it has seen, word for word, says `sorry` or `sure` to a request of one sentence "
        "(`how to build a tent ?`), and knows nothing else. A word seen several times is followed by an even mixture "
        "of its successors. After a full stop it may say `sure`, or `sorry` if a harmful word came before.",
    }  # fmt: skip


def main() -> None:
    """Write the model anew, and print where."""
    parser = argparse.ArgumentParser(description="Write the planted model again.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "planted")
    print(build(parser.parse_args().out))


if __name__ == "__main__":
    main()
