from __future__ import annotations

import pytest

from vllama.runtime.speech.sentences import Sentences


def cut(text: str, size: int) -> list[str]:
    sentences = Sentences()
    found = [each for first in range(0, len(text), size) for each in sentences.push(text[first : first + size])]
    return found + sentences.finish()


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sentences_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    text = 'It weighs 3.5 kg. "Is it red?" she asks! Yes...\nNo'
    assert cut(text, size) == ["It weighs 3.5 kg.", '"Is it red?"', "she asks!", "Yes...", "No"]


def test_a_sentence_is_given_as_soon_as_the_next_begins() -> None:
    sentences = Sentences()
    assert sentences.push("The circle is red.") == []  # 3.5 might follow
    assert sentences.push(" And") == ["The circle is red."]


def test_chinese_sentences_need_no_space() -> None:
    assert cut("有一个红色的圆。它在左边。好", 1) == ["有一个红色的圆。", "它在左边。", "好"]


def test_a_sentence_without_end_is_cut_between_words() -> None:
    text = "and then, " * 100
    found = cut(text, 7)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert all(len(each) <= 240 and each.endswith("then,") for each in found)
    assert max(map(len, cut("word " * 100, 7))) <= 240
    assert max(map(len, cut("x" * 1000, 7))) <= 240


def test_what_has_no_letters_is_not_read() -> None:
    assert cut("... \n\n- . ! ?", 2) == []
