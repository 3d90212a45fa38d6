"""The `vllama ask` command as a person and as a script use it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vllama, needs_links

_FIELDS = {
    "model", "question", "answer", "token_ids", "prompt_tokens", "prefilled_tokens", "answer_tokens", "encode_ms",
    "prefill_ms", "first_token_ms", "tokens_per_second", "frame_times", "audio_spans", "seed", "finish",
    "turns_left_out", "long", "frames_seen", "parts",
}  # fmt: skip


def test_answer_goes_to_stdout_and_evidence_to_stderr(
    vllama: Vllama, command: Vllama, tiny_bundle: Path, clip: Path
) -> None:
    done = vllama("ask", clip, "What happens?", "--model", tiny_bundle, "--seed", 7, "-n", 12)
    same = command("ask", clip, "What happens?", "--model", tiny_bundle, "--seed", 7, "-n", 12, "--json")
    row = json.loads(same.stdout)
    assert done.returncode == 0
    assert row["answer"]
    assert done.stdout == row["answer"] + "\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("saw 8 frames at 0.0 ")
    assert "heard 0.0-2.0" in line


def test_json_has_the_documented_fields(command: Vllama, tiny_bundle: Path, clip: Path) -> None:
    done = command("ask", clip, "a", "b", "--model", tiny_bundle, "-n", 5, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["question"] for row in rows] == ["a", "b"]
    assert all(set(row) == _FIELDS for row in rows)
    assert [row["answer_tokens"] for row in rows] == [len(row["token_ids"]) for row in rows]
    assert rows[0]["encode_ms"] > rows[1]["encode_ms"]
    assert rows[1]["prefilled_tokens"] < rows[0]["prefilled_tokens"] == rows[0]["prompt_tokens"]
    assert done.stderr == ""


def test_questions_come_from_stdin_a_line_each(vllama: Vllama, tiny_bundle: Path, clip: Path) -> None:
    options = ("--model", tiny_bundle, "-n", 3, "--json")
    for given in ((), ("-",)):
        done = vllama("ask", clip, *given, *options, input="first?\n\nsecond?\n")
        assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["first?", "second?"]
    assert vllama("ask", clip, *options, input="").returncode == 2


def test_same_seed_repeats_and_another_does_not(command: Vllama, tiny_bundle: Path, clip: Path) -> None:
    def tokens(seed: int) -> list[int]:
        done = command("ask", clip, "What?", "--model", tiny_bundle, "-n", 20, "--json", "--seed", seed)
        token_ids: list[int] = json.loads(done.stdout)["token_ids"]
        return token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@pytest.mark.parametrize("model", ["miniature", "tiny"])  # which look at a moment by the rule, and with a memory
def test_moment_is_answered_as_of_a_clip_that_is_encoded_throughout_and_costs_what_it_can_use(
    command: Vllama, tiny_bundle: Path, render_clip: Callable[..., Path], tmp_path: Path, model: str
) -> None:
    clip = render_clip(tmp_path / "long.mp4", picture=True, sound=True, seconds=40)
    options = ("--model", model if model == "miniature" else tiny_bundle, "--threads", 1)

    def asked(cache: str, *how: str) -> dict[str, Any]:
        own = {"VLLAMA_CACHE": str(tmp_path / cache)}
        done = command("ask", clip, "What?", *options, "-n", 4, "--seed", 1, "--json", *how, env=own)
        row: dict[str, Any] = json.loads(done.stdout)
        return row

    def there(cache: str) -> dict[str, Any]:
        found = command("index", "show", clip, "--json", env={"VLLAMA_CACHE": str(tmp_path / cache)})
        row: dict[str, Any] = json.loads(found.stdout)
        return row

    indexed = command("index", clip, *options, env={"VLLAMA_CACHE": str(tmp_path / "all")})
    assert indexed.returncode == 0, indexed.stderr
    same = ("token_ids", "prompt_tokens", "frame_times", "audio_spans", "long", "frames_seen")
    for long, pictures in ((None, 20 if model == "tiny" else 8), ("frames", 8), ("memory", 20), ("segments", 8)):
        how = ("--at", "20", *(("--long", long) if long else ()))
        row, full = asked(f"{long}", *how), asked("all", *how)
        assert {name: row[name] for name in same} == {name: full[name] for name in same}, long
        entry = there(f"{long}")
        assert (entry["state"], entry["fps"]) == ("asked about", 0.0)
        assert pictures <= entry["frames"] <= pictures + 8 + 2, long
        assert entry["clips"] <= 8 + 11
    # What was encoded of its beginning is not taken for the clip.
    before = asked("fresh")
    whole = asked("None")
    assert {name: whole[name] for name in same} == {name: before[name] for name in same}


def test_what_was_read_cannot_be_kept_and_is_answered_all_the_same(
    command: Vllama, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    own = {"VLLAMA_CACHE": str(tmp_path / "file")}
    done = command("ask", clip, "What?", "--model", tiny_bundle, "-n", 2, "--keep-prefix", env=own)
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stderr
    assert "vllama: note: the read media are not kept: " in done.stderr
    assert "vllama: note: not saved: " in done.stderr


def test_no_audio_is_said_with_its_reason(command: Vllama, tiny_bundle: Path, clip: Path, silent_clip: Path) -> None:
    options = ("What?", "--model", tiny_bundle, "-n", 2)
    assert "heard nothing: --no-audio" in command("ask", clip, *options, "--no-audio").stderr
    assert "heard nothing: the clip has no audio track" in command("ask", silent_clip, *options).stderr


def test_sound_file_and_picture_are_answered(
    command: Vllama, tiny_bundle: Path, sound_file: Path, picture: Path
) -> None:
    heard = command("ask", sound_file, "What?", "--model", tiny_bundle, "-n", 4)
    assert (heard.returncode, heard.stderr.startswith("saw nothing: a sound file; heard 0.0-")) == (0, True)
    seen = command("ask", picture, "What?", "--model", tiny_bundle, "-n", 4)
    assert (seen.returncode, seen.stderr) == (0, "saw the picture\n")


def test_context_that_is_too_small_is_refused_before_decoding(vllama: Vllama, tiny_bundle: Path, clip: Path) -> None:
    done = vllama("ask", clip, "What?", "--model", tiny_bundle, "--ctx-size", 64)
    assert (done.returncode, done.stdout) == (6, "")
    assert "n_ctx is 64" in done.stderr


_OWN_PROCESS = [  # one of each exit code
    (("ask",), 2, "Missing argument"),
    (("ask", "none.mp4", "x", "--model", "nothing"), 3, "no bundle 'nothing' here or in "),
    (("ask", "none.mp4", "x", "--model", "{bundle}"), 4, "none.mp4"),
    (("export", "nothing", "--weights", "."), 3, "video-llama-2-7b-chat"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        *_OWN_PROCESS,
        (("ask", "none.mp4", "x", " ", "--model", "nothing"), 2, "the question is empty; write one"),
        (("ask", "none.mp4", "x", "--model", "nothing", "--top-p", "0"), 2, "--top-p is 0, which keeps no token"),
        (("chat", "--video", "none.mp4", "--model", "nothing", "--top-p", "0"), 2, "--top-p is 0, which keeps no"),
        (("ask", "{clip}", "x", "--model", "{bundle}", "--device", "tpu"), 2, "'tpu'"),
        (("ask", "", "x", "--model", "{bundle}"), 4, "vllama: the clip's name is empty; "),
        (("chat", "--video", "", "--model", "{bundle}"), 4, "vllama: the clip's name is empty; "),
        (("ask", "https://example.org/a", "x", "--model", "{bundle}"), 4, "https://example.org/a: is an address; "),
        (("chat", "--video", "-", "--model", "{bundle}"), 4, "vllama: -: stdin cannot be a clip"),
        (("ask", "{bundle}", "x", "--model", "{bundle}"), 4, ": is a folder; "),
    ],
)
def test_wrong_use_is_one_line_and_a_documented_exit_code(
    vllama: Vllama,
    command: Vllama,
    tiny_bundle: Path,
    clip: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    run = vllama if (arguments, code, said) in _OWN_PROCESS else command
    done = run(*(argument.format(bundle=tiny_bundle, clip=clip) for argument in arguments))
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1


@needs_links
def test_answers_without_torch_installed(vllama: Vllama, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    """A site folder with everything but what only `export` needs."""
    site = tmp_path / "site"
    site.mkdir()
    left_out = ("torch", "onnx-", "onnx_", "onnxscript", "gguf", "sentencepiece", "functorch", "transformers")
    for folder in map(Path, sys.path):
        if folder.name != "site-packages":
            continue
        for entry in folder.iterdir():
            if not entry.name.startswith(left_out) and entry.name not in ("onnx",) and entry.suffix != ".pth":
                (site / entry.name).symlink_to(entry)
    if not (site / "vllama").exists():
        from vllama import runtime

        (site / "vllama").symlink_to(Path(runtime.__file__).resolve().parents[1] / ".dev" / "vllama")
    code = (
        "import importlib.util as u, sys; assert u.find_spec('torch') is None; assert u.find_spec('onnx') is None;"
        f"sys.argv = ['vllama', 'ask', {str(clip)!r}, 'What?', '--model', {str(tiny_bundle)!r}, '-n', '3'];"
        "from vllama.cli.app import main; main()"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(site), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("saw 8 frames")


@pytest.mark.parametrize(
    ("options", "env", "code", "words"),
    [
        (("--device", "gpu"), {}, 2, "device 'gpu' is unknown; use auto, cpu, cuda or cuda:N"),
        (("--engine", "openvino"), {}, 2, "engine 'openvino' is unknown; use one of auto, onnx, tensorrt"),
        (("--device", "cpu"), {"VLLAMA_ENGINE": "tensorrt"}, 2, "TensorRT runs on GPUs alone"),
        ((), {"VLLAMA_DEVICE": "cuda:7"}, 5, "cuda:7|there is no NVIDIA driver here"),
    ],
)
def test_place_where_nothing_can_run_is_one_line(
    vllama: Vllama, command: Vllama, options: tuple[str, ...], env: dict[str, str], code: int, words: str, clip: Path
) -> None:
    done = (vllama if code == 5 else command)("ask", clip, "What?", "-m", "miniature", *options, env=env)
    assert done.returncode == code, done.stderr
    assert re.search(words, done.stderr)
    assert done.stderr.count("\n") == 1
