from __future__ import annotations

import numpy as np

from vllama.runtime.speech.echo import Echo
from vllama.runtime.speech.voice_activity import WINDOW


def window(level: float) -> np.ndarray:
    return np.full(WINDOW, level, np.float32)


def learnt(level: float = 0.1, count: int = 100) -> Echo:
    echo = Echo()
    for _ in range(count):
        echo.hear(window(level))
        echo.learn()
    return echo


def heard(echo: Echo, level: float, count: int) -> list[bool]:
    return [echo.hear(window(level)) for _ in range(count)]


def test_nothing_is_louder_before_the_voice_is_known() -> None:
    assert not any(heard(learnt(count=40), 0.9, 30))


def test_the_voice_itself_is_not_louder_and_somebody_near_is() -> None:
    assert not any(heard(learnt(), 0.12, 60))
    assert all(heard(learnt(), 0.2, 60)[15:])


def test_a_clap_is_not_somebody() -> None:
    echo = learnt()
    assert not any([*heard(echo, 0.9, 4), *heard(echo, 0.1, 30)])


def test_somebody_who_gets_louder_slowly_is_not_learnt_as_the_voice() -> None:
    echo = learnt()
    found = False
    for level in np.linspace(0.1, 0.3, 40):
        if echo.hear(window(level)):
            found = True
        else:
            echo.learn()
    assert found


def test_a_voice_that_was_turned_up_is_learnt_once_it_has_proved_to_be_it() -> None:
    echo = learnt()
    assert any(heard(echo, 0.3, 20))
    for _ in range(20):
        echo.hear(window(0.3))
        echo.learn(proved=True)
    assert not any(heard(echo, 0.3, 60))
