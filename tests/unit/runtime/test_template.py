from __future__ import annotations

import pytest

from vllama.runtime.errors import SpecError
from vllama.runtime.template import check_template


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("prompt.first", "{message}"),
        ("prompt.first", "<<SYS>>{system}<</SYS>> {message} {{as it is}}"),
        ("messages.message.video", "<Video>{video}</Video> {num_frames} at {seconds}. {question}"),
        ("messages.message.video", "{video}{question}"),
        ("messages.message.audio_video", "{video}{audio}{question}?"),
        ("messages.message.audio", "{audio} of {seconds}: {question}"),
    ],
)
def test_template_with_its_fields_is_right(kind: str, text: str) -> None:
    check_template(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("prompt.first", "{system}"),
        ("prompt.first", "{message} {question}"),
        ("prompt.answer", "{answer"),
        ("prompt.answer", "answer}"),
        ("prompt.next", ""),
        ("prompt.next", "{message} {message}"),
        ("messages.message.video", "{video}"),
        ("messages.message.video", "{question}"),
        ("messages.message.video", "{video} {questoin}"),
        ("messages.message.video", "{video} {}{question}"),
        ("messages.message.video", "{video} {question!r}"),
        ("messages.message.video", "{video} {question:>9}"),
        ("messages.message.video", "{video} {{question}} {question}"),
        ("messages.message.video", "{question} {video}"),
        ("messages.message.video", "{audio} {video} {question}"),
        ("messages.message.audio_video", "{video} {question}"),
        ("messages.message.audio", "{audio} {video} {question}"),
        ("messages.message.text", "{video} {question}"),
    ],
)
def test_template_without_its_fields_is_refused_with_those(kind: str, text: str) -> None:
    with pytest.raises(SpecError) as error:
        check_template(kind, text)
    assert str(error.value).startswith(f"{kind} is {text!r}; write a template that has {{")


def test_fields_are_said_as_they_are_written() -> None:
    with pytest.raises(SpecError) as error:
        check_template("messages.message.video", "")
    assert str(error.value) == (
        "messages.message.video is ''; write a template that has {video} and {question} once, {question} as the last, "
        "and may have {num_frames} and {seconds}"
    )
