import numpy as np
import pytest
from models import N_HEADS, N_LAYERS

from headscope.errors import UnknownHead, nearest
from headscope.hooks.heads import Head, all_heads, parse_heads


@pytest.mark.parametrize(
    "written", ["L5H1", "l5h1", " L5H1 ", "5.1", (5, 1), [5, 1], Head(5, 1), np.array([5, 1])]
)
def test_a_head_is_read_from_every_form(written):
    assert Head.parse(written) == Head(5, 1)
    assert str(Head.parse(written)) == "L5H1"


@pytest.mark.parametrize(
    "written", ["", "H1L5", "L5", "5", "L5H1x", "L-1H0", "5,1", (5,), (1, 2, 3), (5, True), (1.0, 2), 7, None]
)
def test_what_is_no_head_is_refused(written):
    with pytest.raises(UnknownHead, match="L5H1"):
        Head.parse(written)


@pytest.mark.parametrize(
    "heads",
    [
        "L5H1,L6H0",
        "L5H1 L6H0",
        "5.1; 6.0",
        [(5, 1), "L6H0"],
        (Head(5, 1), Head(6, 0)),
        iter(["5.1", "L6H0", "L5H1"]),
    ],
)
def test_several_heads_are_read_in_order_and_once(heads):
    assert parse_heads(heads) == (Head(5, 1), Head(6, 0))


def test_a_single_head_or_pair_is_one_head():
    assert parse_heads(Head(5, 1)) == parse_heads((5, 1)) == parse_heads("L5H1") == (Head(5, 1),)
    assert parse_heads("") == parse_heads([]) == ()


def test_heads_sort_by_layer_then_index():
    assert sorted(parse_heads("L10H0,L2H11,L2H3")) == [Head(2, 3), Head(2, 11), Head(10, 0)]


def test_a_head_the_model_lacks_is_named_with_the_range(tiny):
    model = tiny("llama")
    with pytest.raises(UnknownHead, match=r"^L99H0: tiny-llama has layers 0-2 and heads 0-3\.$"):
        parse_heads("L0H0,L99H0", model)
    with pytest.raises(UnknownHead, match="L0H4"):
        parse_heads("L0H4", model)


def test_all_heads_are_the_query_heads(tiny):
    heads = all_heads(tiny("llama"))
    assert len(heads) == N_LAYERS * N_HEADS == len(set(heads))
    assert parse_heads(heads, tiny("llama")) == heads


def test_nearest_names_near_ones_or_all_of_a_few():
    assert nearest("retreival", ["retrieval", "induction"]) == " Nearest: retrieval."
    assert nearest("RETRIEVAL", ["retrieval"]) == " Nearest: retrieval."
    assert nearest("x", ["abc", "def"]) == " Choose from: abc, def."
    assert nearest("x", []) == " There are none."
    assert nearest("qq", [f"name{i}" for i in range(20)]).endswith("and 8 more.")
