from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vllama.runtime.speech.utterances import Rules, Utterances
from vllama.runtime.speech.voice_activity import WINDOW
from vllama.runtime.types import Samples

STEP = 0.032


def run(utterances: Utterances, *stretches: tuple[float, float], finish: bool = True) -> list[Samples]:
    """Push (probability, seconds) stretches; the samples of window n are all n."""
    said, number = [], 0
    for probability, seconds in stretches:
        for _ in range(round(seconds / STEP)):
            number += 1
            window = np.full(WINDOW, number, np.float32)
            said.append(utterances.push(window, number * STEP, probability))
    if finish:
        said.append(utterances.finish())
    return [each for each in said if each is not None]


def test_speech_between_silence_is_one_utterance_with_a_margin() -> None:
    (said,) = run(Utterances(), (0.0, 1.6), (0.9, 1.6), (0.0, 1.6))
    assert said.start == pytest.approx(1.6 - 0.3, abs=STEP)
    assert said.end == pytest.approx(3.2 + 0.3, abs=STEP)
    numbers = said.data[0, ::WINDOW]
    np.testing.assert_array_equal(np.diff(numbers), 1)  # without a hole
    assert numbers[0] == round(said.start / STEP) + 1, "the samples are not those of the times"


def test_a_click_is_no_speech() -> None:
    utterances = Utterances()
    assert run(utterances, (0.0, 1.0), (0.9, 0.16), (0.0, 1.0), (0.9, 0.16), (0.0, 1.0)) == []
    assert not utterances.speaking


def test_clicks_do_not_add_up_over_silence() -> None:
    assert run(Utterances(), *[(0.9, 0.16), (0.0, 0.5)] * 10) == []


def test_a_pause_within_a_sentence_does_not_end_it() -> None:
    assert len(run(Utterances(), (0.9, 1.0), (0.0, 0.5), (0.9, 1.0), (0.0, 1.0))) == 1
    assert len(run(Utterances(), (0.9, 1.0), (0.0, 0.9), (0.9, 1.0), (0.0, 1.0))) == 2


def test_what_is_between_the_two_thresholds_continues_speech_and_does_not_begin_it() -> None:
    assert run(Utterances(), (0.42, 3.0)) == []
    (said,) = run(Utterances(), (0.0, 0.5), (0.6, 0.1), (0.42, 3.0), (0.0, 1.0))
    assert said.end - said.start > 3.0


def test_speaking_is_known_before_the_utterance_ends() -> None:
    utterances = Utterances()
    run(utterances, (0.0, 1.0), (0.9, 0.2), finish=False)
    assert not utterances.speaking
    run(utterances, (0.9, 0.1), finish=False)
    assert utterances.speaking
    run(utterances, (0.0, 0.8), finish=False)
    assert not utterances.speaking


def test_an_endless_speech_is_cut_in_a_pause_and_never_kept_whole() -> None:
    rules = Rules(longest=5.0)
    utterances = Utterances(rules)
    said = run(utterances, *[(0.9, 3.2), (0.0, 0.32)] * 20)
    assert len(said) > 10
    assert max(each.data.shape[1] for each in said) <= 5.1 * 16000
    for before, after in pairwise(said):
        assert after.start == pytest.approx(before.end), "something was lost, or said twice"
    pauses = [(each.end % 3.52) for each in said[:-1]]
    assert all(3.2 - STEP <= pause <= 3.52 for pause in pauses), pauses


def test_speech_without_any_pause_is_cut_all_the_same() -> None:
    said = run(Utterances(Rules(longest=5.0)), (0.9, 60.0))
    assert [round(each.end - each.start, 1) for each in said[:5]] == [5.0] * 5
    assert sum(each.data.shape[1] for each in said) == round(60.0 / STEP) * WINDOW


def test_a_pause_that_was_cut_in_once_cuts_nothing_more() -> None:
    said = run(Utterances(Rules(longest=5.0)), (0.9, 3.2), (0.0, 0.32), (0.9, 12.0))
    lengths = [each.end - each.start for each in said]
    assert lengths[0] == pytest.approx(3.4, abs=0.1)
    assert lengths[1:3] == pytest.approx([5.0, 5.0], abs=STEP)


def test_an_hour_of_silence_is_not_kept() -> None:
    utterances = Utterances()
    run(utterances, (0.1, 3600.0), finish=False)
    assert len(utterances._windows) <= 10


def test_what_was_dropped_is_not_said() -> None:
    utterances = Utterances()
    run(utterances, (0.9, 2.0), finish=False)
    utterances.drop()
    assert run(utterances, (0.0, 2.0)) == []
