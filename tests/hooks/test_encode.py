import pytest
import torch
from models import N_CTX, sentence

from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadOption, BadPrompts, BadSpan, EmptyPromptSet, PromptTooLong
from headscope.hooks.encode import encode, unknown_words
from headscope.hooks.tokens import Codec, Tokens, span_mask

TEXTS = ("the cat", "a dog saw the small red fox in the box", "one two three four")


def marked(model, batch, row, name):
    return model.tokenizer.decode(batch.tokens[row][batch.spans[name][row]]).strip()


@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_are_those_of_the_bridge_whatever_the_padding(any_model, side):
    batch = encode(any_model, TEXTS, padding_side=side)
    for row, text in enumerate(TEXTS):
        real = batch.attention_mask[row].bool()
        assert batch.tokens[row][real].tolist() == any_model.to_tokens(text)[0].tolist()
        assert batch.positions[row][real].tolist() == list(range(int(real.sum())))
        assert set(batch.positions[row][~real].tolist()) <= {-1}
        assert int(batch.last[row]) == int(real.nonzero().max())
    padding_starts = batch.attention_mask[0, 0] == 0
    assert bool(padding_starts) == (side == "left")
    assert batch.lengths.tolist() == batch.attention_mask.sum(1).tolist()


def test_the_tokenizers_own_padding_side_is_the_default(tiny):
    assert encode(tiny("llama"), TEXTS).padding_side == "right"
    assert encode(tiny("qwen3"), TEXTS).padding_side == "left"
    with pytest.raises(BadOption, match="left or right"):
        encode(tiny("llama"), TEXTS, padding_side="both")


def test_a_bos_stands_in_front_exactly_where_the_model_has_one(tiny):
    llama, qwen = tiny("llama"), tiny("qwen3")
    assert encode(llama, "the cat").tokens[0].tolist()[0] == llama.tokenizer.bos_token_id
    assert int((encode(llama, "the cat").tokens == llama.tokenizer.bos_token_id).sum()) == 1
    assert qwen.tokenizer.decode(encode(qwen, "the cat").tokens[0]) == "the cat"


def test_a_bos_that_the_tokenizer_does_not_add_is_added(tiny, monkeypatch):
    model = tiny("qwen3")
    monkeypatch.setattr(model.cfg, "default_prepend_bos", True)
    batch = encode(model, [Prompt("the cat", " dog", spans={"animal": ((4, 7),)})])
    assert batch.tokens[0].tolist() == model.to_tokens("the cat", prepend_bos=True)[0].tolist()
    assert int(batch.tokens[0, 0]) == model.tokenizer.bos_token_id
    assert marked(model, batch, 0, "animal") == "cat"
    assert model.tokenizer.decode(batch.answer_ids[0]) == " dog"


@pytest.mark.parametrize("side", ["left", "right"])
def test_spans_mark_the_tokens_of_their_words(any_model, side):
    text = "a dog saw the small red fox in the box"
    prompts = [
        Prompt("the cat", spans={"animal": ((4, 7),)}),
        Prompt(text, spans={"animal": ((2, 5), (24, 27)), "colour": ((20, 23),)}),
        Prompt("one two"),
    ]
    batch = encode(any_model, prompts, padding_side=side)
    assert set(batch.spans) == {"animal", "colour"}
    assert marked(any_model, batch, 0, "animal") == "cat"
    assert marked(any_model, batch, 1, "animal").replace(" ", "") == "dogfox"
    assert marked(any_model, batch, 1, "colour") == "red"
    assert not batch.spans["colour"][0].any() and not batch.spans["animal"][2].any()
    for mask in batch.spans.values():
        assert not (mask & (batch.attention_mask == 0)).any()


def test_blanks_at_a_spans_edges_catch_no_neighbour(any_model):
    text = "the cat saw a dog"
    for span in ((4, 7), (3, 7), (4, 8), (3, 8)):
        batch = encode(any_model, Prompt(text, spans={"cat": (span,)}))
        assert marked(any_model, batch, 0, "cat") == "cat", span


def test_part_of_a_word_marks_the_tokens_it_touches(tiny):
    words, letters = tiny("llama"), tiny("qwen3")
    prompt = Prompt("the green fox", spans={"part": ((5, 7),)})
    assert marked(words, encode(words, prompt), 0, "part") == "green"
    assert marked(letters, encode(letters, prompt), 0, "part") == "re"


def test_a_character_of_several_byte_tokens_is_marked_whole(tiny):
    model = tiny("qwen3")
    text = "a 猫 é b"
    batch = encode(model, Prompt(text, spans={"cat": ((2, 3),), "e": ((4, 5),)}))
    assert marked(model, batch, 0, "cat") == "猫"
    assert int(batch.spans["cat"].sum()) >= 3
    assert marked(model, batch, 0, "e") == "é"


def test_a_token_that_carries_its_leading_blank_belongs_to_its_word():
    tokens = Tokens((7, 8, 9), ((0, 0), (0, 3), (3, 7)))
    assert span_mask(tokens, "the cat", "x", [(4, 7)], "prompt 0").tolist() == [False, False, True]
    assert span_mask(tokens, "the cat", "x", [(0, 4)], "prompt 0").tolist() == [False, True, False]


@pytest.mark.parametrize("span", [(5, 99), (-1, 3), (4, 4), (6, 4)])
def test_a_span_outside_the_text_is_refused(span):
    tokens = Tokens((1, 2, 3), ((0, 0), (0, 3), (4, 7)))
    with pytest.raises(BadSpan, match=r"prompt 3: span 'needle' is characters .* characters 0-7"):
        span_mask(tokens, "the cat", "needle", [span], "prompt 3")


def test_a_span_that_covers_no_token_is_refused(tiny):
    with pytest.raises(BadSpan, match="covers no token"):
        encode(tiny("llama"), Prompt("the cat", spans={"gap": ((3, 4),)}))


def test_answers_are_the_tokens_that_follow_the_text(any_model):
    prompts = [Prompt("the cat saw", " a dog", " a fox"), Prompt("the dog", " found"), Prompt("the fox")]
    batch = encode(any_model, prompts)
    for row, prompt in enumerate(prompts):
        for ids, word in ((batch.answer_ids[row], prompt.answer), (batch.foil_ids[row], prompt.foil)):
            own = ids[ids >= 0]
            assert bool((ids[len(own) :] == -1).all())
            assert any_model.tokenizer.decode(own).strip() == word.strip()
            whole = any_model.to_tokens(prompt.text + word)[0]
            if word:
                assert whole[-len(own) :].tolist() == own.tolist()
    assert batch.answer_ids[2].tolist() == [-1] * batch.answer_ids.shape[1]


def test_an_answer_that_merges_with_the_text_is_refused_by_name(tiny):
    model = tiny("qwen3")
    assert len(encode(model, "saw the").tokens[0]) < len(encode(model, "saw t").tokens[0]) + 2
    with pytest.raises(BadPrompts, match=r"prompt 1: the answer 'at' merges .*'the c'"):
        encode(model, [Prompt("a", " cat"), Prompt("the c", "at")])


def test_too_long_empty_and_unusable_prompts_are_refused(tiny):
    model = tiny("llama")
    long = sentence(N_CTX, 0)
    assert len(encode(model, sentence(N_CTX - 1, 0)).tokens[0]) == N_CTX
    with pytest.raises(
        PromptTooLong, match=rf"prompt 1 .* has {N_CTX + 1} tokens; tiny-llama reads at most {N_CTX}"
    ):
        encode(model, ["the cat", long])
    with pytest.raises(EmptyPromptSet, match="'mine'"):
        encode(model, PromptSet("mine", ()))
    with pytest.raises(EmptyPromptSet):
        encode(model, [])


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_words_without_a_token_are_named_once(tiny, architecture, caplog):
    model = tiny(architecture)
    texts = [Prompt("the zebra saw a quokka", " zebra", " okapi"), Prompt("the cat saw"), Prompt("a zebra")]
    encode(model, texts)
    encode(model, texts)
    if architecture == "qwen3":  # it spells every word in bytes
        assert not caplog.messages
    else:
        (said,) = caplog.messages
        assert "tiny-llama has no token for 'zebra', 'quokka', 'okapi' and reads <unk> there" in said
        assert unknown_words(Codec.of(model), texts) == (("zebra", "quokka", "okapi"), 2)


def test_the_unknown_token_itself_is_known(tiny, caplog):
    encode(tiny("llama"), "the <unk> saw")
    assert not caplog.messages


def test_plain_texts_prompts_and_sets_encode_alike(tiny):
    model = tiny("gpt2")
    as_set = encode(model, PromptSet("p", tuple(Prompt(text) for text in TEXTS)))
    assert torch.equal(as_set.tokens, encode(model, TEXTS).tokens)
    assert torch.equal(encode(model, TEXTS[0]).tokens, encode(model, [Prompt(TEXTS[0])]).tokens)
    assert len(as_set) == 3 and as_set.prompts[2].text == TEXTS[2]


def test_rows_keep_everything_of_the_chosen_prompts(tiny):
    model = tiny("llama")
    prompts = [
        Prompt("the cat saw", " a", " the", spans={"s": ((0, 3),)}),
        Prompt("one", " two"),
        Prompt("a dog"),
    ]
    batch = encode(model, prompts, padding_side="left")
    assert batch.rows([2, 0]).prompts == (prompts[2], prompts[0])
    part = batch.rows(slice(1, 3))
    assert torch.equal(part.tokens, batch.tokens[1:]) and torch.equal(part.spans["s"], batch.spans["s"][1:])
    assert torch.equal(part.answer_ids, batch.answer_ids[1:]) and torch.equal(part.last, batch.last[1:])


def test_corrupted_texts_keep_answers_and_aligned_spans(any_model):
    prompts = [
        Prompt("the cat saw", " a", " the", corrupted="the dog saw", spans={"animal": ((4, 7),)}),
        Prompt("one two three four", " five", corrupted="ten", spans={"animal": ((0, 3),)}),
    ]
    batch = encode(any_model, prompts)
    other = batch.corrupted()
    texts = any_model.to_tokens("the dog saw")[0].tolist()
    assert other.tokens[0][other.attention_mask[0].bool()].tolist() == texts
    assert torch.equal(other.answer_ids, batch.answer_ids) and torch.equal(other.foil_ids, batch.foil_ids)
    assert other.padding_side == batch.padding_side
    assert marked(any_model, other, 0, "animal") == "dog"
    assert not other.spans["animal"][1].any()
    with pytest.raises(BadPrompts, match=r"prompt 0 .* no corrupted text"):
        encode(any_model, "the cat").corrupted()


def test_the_ids_of_the_outside_model_are_the_known_ones(stories, stories_oracle):
    texts = [known["text"] for known in stories_oracle["prompts"]]
    batch = encode(stories, texts)
    for row, known in enumerate(stories_oracle["prompts"]):
        assert batch.tokens[row][batch.attention_mask[row].bool()].tolist() == known["ids"]


def test_spans_hold_for_a_sentencepiece_tokenizer(stories):
    text = "Once upon a time, Lily had a dog."
    start = text.index("Lily")
    batch = encode(stories, Prompt(text, spans={"name": ((start, start + 4),)}))
    assert marked(stories, batch, 0, "name") == "Lily"


def test_the_context_length_is_the_models(tiny):
    assert Codec.of(tiny("gemma2")).n_ctx == N_CTX
