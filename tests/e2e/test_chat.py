"""`vllama chat`, `--record` and `vllama replay` as a person and as a script use them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Vllama
from tests.live.terminal import own_terminal

OPTIONS = ("-n", "6", "--temperature", "0")


@pytest.fixture
def talk(vllama: Vllama, tiny_bundle: Path, clip: Path) -> Vllama:
    def talk(*lines: str, options: tuple[object, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        arguments = ("chat", "--video", clip, "--model", tiny_bundle, *OPTIONS, *options)
        return vllama(*arguments, input="\n".join(lines) + "\n", env=env)

    return talk


def test_lines_of_a_pipe_are_one_conversation(talk: Vllama) -> None:
    done = talk("What happens?", "", "And then?", options=("--json",))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["question"] for row in rows] == ["What happens?", "And then?"]
    assert rows[1]["prefilled_tokens"] < rows[0]["prompt_tokens"]


def test_spans_are_asked_about_once_or_from_now_on(talk: Vllama) -> None:
    done = talk("/span 1-3", "a", "/at 0-0:01 b", "c", "/span all", "d", "/at last 1s e", options=("--json",))
    assert done.returncode == 0, done.stderr
    rows = {row["question"]: row["frame_times"] for row in map(json.loads, done.stdout.splitlines())}
    assert all(1 <= frame <= 3 for frame in rows["a"] + rows["c"])
    assert all(frame <= 1 for frame in rows["b"])
    assert len(rows["d"]) == 8
    assert all(frame >= 3 for frame in rows["e"])


def test_a_wrong_line_is_said_and_the_conversation_goes_on(talk: Vllama) -> None:
    done = talk("/nothing", "/at 0-1", "/span soon", "/frames", "/save", "What?", "/exit", "never asked")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    said = [line for line in done.stderr.splitlines() if line.startswith("vllama: ")]
    assert len(said) == 5
    assert "/help" in said[0]


def test_what_cannot_be_saved_is_said_once_and_not_at_each_question(talk: Vllama, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = str(tmp_path / "file" / "cache")
    done = talk("What happens?", "And then?", "/at 0-1 And there?", VLLAMA_CACHE=cache)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert done.stderr.count("not saved: ") == 1, done.stderr


def test_frames_and_conversation_are_written_where_asked(talk: Vllama, tmp_path: Path) -> None:
    sheet, text = tmp_path / "frames.png", tmp_path / "talk.txt"
    done = talk("What?", f"/frames {sheet}", "/frames", f"/save {text}", f"/save {text}", "/clear", "What?")
    with Image.open(sheet) as image:
        assert image.size == (4 * 224, 2 * (224 + 18))
    assert "> What?\n" + done.stdout.splitlines()[0] in text.read_text("utf-8")
    assert "▀" in done.stderr
    assert "give a new file" in done.stderr
    first, second = done.stdout.splitlines()
    assert first == second  # nothing of what was said is left after /clear


def test_a_record_is_repeated_token_for_token(
    vllama: Vllama, tiny_bundle: Path, clip: Path, silent_clip: Path, tmp_path: Path, export_tiny: Callable[..., Path]
) -> None:
    record = tmp_path / "record.jsonl"
    how = ("-n", 8, "--seed", 5, "--from", "1")  # some drawn answers end before their third token
    asked = vllama("ask", clip, "What?", "And?", "--model", tiny_bundle, *how, "--record", record)
    assert asked.returncode == 0, asked.stderr
    again = vllama("replay", record, "--model", tiny_bundle)
    assert (again.returncode, again.stdout) == (0, asked.stdout), again.stderr
    assert again.stderr.count("same: ") == 2
    assert vllama("ask", clip, "x", "--model", tiny_bundle, "--record", record).returncode == 3

    other_clip = vllama("replay", record, "--model", tiny_bundle, "--clip", silent_clip)
    assert (other_clip.returncode, "its contents differ" in other_clip.stderr) == (3, True)
    other_model = vllama("replay", record, "--model", export_tiny(precision="int8", quant="Q8_0"))
    assert (other_model.returncode, "not the recorded one" in other_model.stderr) == (3, True)

    lines = record.read_text("utf-8").splitlines()
    row = json.loads(lines[1])
    row["token_ids"][3] += 1
    record.write_text("\n".join([lines[0], json.dumps(row), lines[2]]), "utf-8")
    changed = vllama("replay", record, "--model", tiny_bundle)
    assert (changed.returncode, "differs from token 3 of 8" in changed.stderr) == (1, True)
    record.write_text("nothing", "utf-8")
    assert vllama("replay", record, "--model", tiny_bundle).returncode == 3


def test_a_conversation_is_repeated_with_what_was_forgotten_and_with_spans_that_came_later(
    talk: Vllama, vllama: Vllama, tiny_bundle: Path, tmp_path: Path
) -> None:
    record = tmp_path / "record.jsonl"
    said = ("/clear", "What?", "/at 1-2 And there?", "/clear", "What?", "/at 0.3 And before?", "/clear")
    asked = talk(*said, options=("--record", record), VLLAMA_CACHE=str(tmp_path / "cache"))
    assert asked.returncode == 0, asked.stderr
    rows = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    assert [row.get("clear", row.get("question")) for row in rows[1:]] == [
        "What?", "And there?", True, "What?", "And before?", True,
    ]  # fmt: skip
    assert rows[1]["came"] is None
    assert rows[2]["came"]["frames"], "the span was between the frames that were there"
    for cache in ("cache", "new cache"):
        again = vllama("replay", record, "--model", tiny_bundle, env={"VLLAMA_CACHE": str(tmp_path / cache)})
        assert (again.returncode, again.stdout) == (0, asked.stdout), again.stderr
        assert again.stderr.count("same: ") == 4
        assert not [line for line in again.stderr.splitlines() if "note" in line or "differs" in line], again.stderr

    before = record.read_bytes()
    taken = talk("What?", options=("--record", record, "--model", "no-such-model"))
    assert (taken.returncode, len(taken.stderr.splitlines())) == (3, 1)
    assert "is there already" in taken.stderr
    assert record.read_bytes() == before
    assert talk("/clear", "/exit", options=("--record", tmp_path / "empty.jsonl")).returncode == 0
    assert not (tmp_path / "empty.jsonl").exists()


def test_a_full_context_is_summed_up_where_that_is_asked_for(talk: Vllama) -> None:
    lines = [f"Question number {number}, please?" for number in range(16)]
    plain, summed = (
        talk(*lines, options=("--json", "--ctx-size", "640", "--max-tokens", "12", *more))
        for more in ((), ("--summarise",))
    )
    left_out = [[json.loads(line)["turns_left_out"] for line in done.stdout.splitlines()] for done in (plain, summed)]
    first = next(number for number, count in enumerate(left_out[0]) if count)
    assert left_out[0][first] < first  # as many as must
    assert left_out[1][first] == first  # all of them: the summary stands for them


def test_a_summary_does_not_stand_beside_a_record(talk: Vllama, tmp_path: Path) -> None:
    done = talk(options=("--summarise", "--record", tmp_path / "a.json"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is opened as POSIX does it")
def test_ctrl_c_in_a_terminal_stops_the_answer_and_keeps_the_chat(
    tiny_bundle: Path, clip: Path, home: Path, tmp_path: Path
) -> None:
    import pty

    leader, follower = pty.openpty()
    arguments = ["chat", "--video", str(clip), "--model", str(tiny_bundle), "-n", "300", "--temperature", "0"]
    record = tmp_path / "record.jsonl"
    arguments += ["--record", str(record)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", *arguments],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        preexec_fn=own_terminal,
        env={**os.environ, "VLLAMA_CACHE": str(home / "cache"), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )  # fmt: skip
    os.close(follower)
    try:
        _until(leader, "/help lists the commands")
        time.sleep(0.5)
        answered, seen = -1, ""
        while "stopped" not in seen:  # on a fast machine the answer may be over by then
            answered += 1
            assert answered < 10
            os.write(leader, b"Why\r")  # has an answer of 270 tokens
            _until(leader, "Why")
            time.sleep(0.15)
            os.write(leader, b"\x03")
            seen = _until(leader, "stopped", "saw 8 frames")
            time.sleep(0.5)
        assert "the record ends before" in seen
        os.write(leader, b"/span last 2s\r")
        _until(leader, "asking about the last 2 s")
        time.sleep(0.5)
        os.write(leader, b"And then?\r")
        _until(leader, "heard ")
        time.sleep(0.5)
        os.write(leader, b"/exit\r")
        assert process.wait(60) == 0
        rows = record.read_text("utf-8").splitlines()[1:] if record.exists() else []
        assert len(rows) == answered, "nothing of the answer that was stopped, or after it"
    finally:
        process.kill()
        os.close(leader)


def _until(leader: int, *wanted: str, seconds: float = 60.0) -> str:
    seen, end = "", time.monotonic() + seconds
    while not any(words in seen for words in wanted):
        assert time.monotonic() < end, seen
        if select.select([leader], [], [], 0.5)[0]:
            seen += os.read(leader, 4096).decode("utf-8", "replace")
    return seen
