from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.runtime.answer import AnswerStream, answer_text


def streamed(raw: bytes, cuts: list[int], stop: list[str]) -> str:
    stream = AnswerStream(stop)
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return "".join([*(stream.push(raw[a:b]) for a, b in pairwise(edges)), stream.finish()])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (" A dog barks.###Human: hi", "A dog barks."),
        ("Assistant: one Assistant: two ###", "two"),
        ("### nothing", ""),
        ("  no stop at all \n", "no stop at all"),
    ],
)
def test_an_answer_is_cut_at_the_stop_and_stripped_as_upstream_does(raw: str, text: str) -> None:
    assert answer_text(raw, ["###"], "Assistant:") == text


def test_text_is_shown_as_soon_as_it_cannot_be_part_of_a_stop_string() -> None:
    stream = AnswerStream(["###"])
    assert [stream.push(piece) for piece in (b" A", b" dog", b" #", b"1", b"##", b"x")] == [
        "A",
        " dog",
        "",
        " #1",
        "",
        "##x",
    ]
    assert not stream.stopped


def test_a_stop_string_in_unusual_pieces_stops_and_is_not_shown() -> None:
    stream = AnswerStream(["###"])
    assert [stream.push(piece) for piece in (b"yes", b" #", b"##Hu", b"man")] == ["yes", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_characters_of_several_tokens_appear_whole() -> None:
    stream = AnswerStream(["###"])
    assert [stream.push(bytes([byte])) for byte in "é🐶".encode()] == ["", "é", "", "", "", "🐶"]


def test_a_broken_character_at_the_end_is_replaced() -> None:
    stream = AnswerStream(["###"])
    assert stream.push(b"dog \xf0\x9f") + stream.finish() == "dog \ufffd"


def test_blanks_wait_for_something_to_follow() -> None:
    stream = AnswerStream(["</s>"])
    assert [stream.push(piece) for piece in (b"a", b" ", b"\n", b"b", b"  ")] == ["a", "", "", " \nb", ""]
    assert stream.finish() == ""


def test_of_two_stop_strings_the_one_completed_first_ends_the_answer() -> None:
    assert answer_text("a###b</s>", ["</s>", "###"], "") == "a"
    assert answer_text("abcd", ["abcd", "bc"], "") == streamed(b"abcd", [], ["abcd", "bc"]) == "a"
    assert streamed(b"one abc", [4, 5, 6], ["bc", "abc"]) == "one"


@given(
    st.text(alphabet="ab #\n\u3000é🐶", max_size=40),
    st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.text(alphabet="ab #", max_size=4), max_size=3),
)
def test_any_split_streams_the_text_of_the_whole_answer(text: str, cuts: list[int], stop: list[str]) -> None:
    assert streamed(text.encode(), cuts, stop) == answer_text(text, stop, "")


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=20))
def test_any_split_of_any_bytes_streams_the_same_text(raw: bytes, cuts: list[int]) -> None:
    assert streamed(raw, cuts, ["###"]) == answer_text(raw.decode("utf-8", "replace"), ["###"], "")
