from __future__ import annotations

import pytest
from typer.testing import CliRunner

from vllama.cli.app import app
from vllama.cli.options import SamplingOptions, clean, file_size, live
from vllama.runtime import Sampling, Span, SpecError


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MB", 256_000_000), ("1.5 gb", 1_500_000_000), ("64MiB", 64 << 20), ("2k", 2000), ("512 B", 512), ("0", 0)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert file_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "a lot", "-1MB", "1TB"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(SpecError, match="is not a size"):
        file_size(text)


@pytest.mark.parametrize("text", ["8", "0.5 ", "512"])
def test_size_without_a_unit_is_asked_for_one(text: str) -> None:
    with pytest.raises(SpecError, match=rf"no unit; write {text.strip()}MB or {text.strip()}GB"):
        file_size(text)


def test_what_is_no_text_becomes_a_replacement_character() -> None:
    assert clean("gr\udcfcn \ud800 grün 🎬") == "gr\ufffdn \ufffd grün 🎬"


def test_without_a_source_there_is_nothing_to_follow() -> None:
    assert live(None, None, None, None, None) is None
    sources = live("0", None, "1m", "1MB", None)
    assert sources is not None
    assert (sources.window, sources.budget.bytes, sources.fps) == (Span.last(60.0), 1_000_000, 4.0)


def test_live_has_a_window_and_a_memory_where_none_are_named() -> None:
    sources = live("0", None, None, None, None)
    assert sources is not None
    assert (sources.window, sources.budget.bytes) == (Span.last(10.0), 256_000_000)


@pytest.mark.parametrize(
    "words", ["--window 1m", "--memory nonsense", "--headphones", "--speech-language en", "--speech", "--aloud"]
)
def test_what_is_for_live_sources_is_refused_beside_a_clip(words: str) -> None:
    done = CliRunner().invoke(app, ["chat", "--video", "clip.mp4", *words.split()])
    assert isinstance(done.exception, SpecError)
    assert str(done.exception) == f"{words.split()[0]} is for --webcam and --mic; leave it out"


def test_no_pictures_per_second_are_not_the_usual_number() -> None:
    sources = live("0", None, "10s", "1MB", 0.0)
    assert sources is not None
    assert sources.fps == 0.0


@pytest.mark.parametrize("option", ["--top-k", "--max-tokens"])
def test_number_that_no_record_could_hold_is_refused(option: str) -> None:
    done = CliRunner().invoke(app, ["ask", "clip.mp4", "What?", option, "3000000000"])
    assert (done.exit_code, "2147483647" in done.output) == (2, True), done.output


def test_memory_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="more than 0"):
        live("0", None, "10s", "0MB", None)


def test_what_the_options_do_not_name_is_the_models() -> None:
    usual = Sampling(temperature=1.0, top_p=0.9, top_k=50, max_tokens=300)
    assert SamplingOptions(None, None, None, None).over(usual) == usual
    assert SamplingOptions(0.0, 0.5, 0, 7).over(usual) == Sampling(temperature=0.0, top_p=0.5, top_k=0, max_tokens=7)
