"""The `vllama index` command as a person and as a script use it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import Done, Vllama, needs_links

Run = Callable[..., Done]


@pytest.fixture
def index(command: Vllama, tiny_bundle: Path, cache: Path) -> Run:
    """`vllama index` with a cache of its own, and the model where one is needed; verb: another command."""

    def run(*words: object, verb: str = "index") -> Done:
        return command(*_words(verb, words, tiny_bundle))

    return run


@pytest.fixture
def index_process(vllama: Vllama, tiny_bundle: Path, cache: Path) -> Run:
    """The same in a process of its own."""

    def run(*words: object, verb: str = "index", **options: object) -> Done:
        return vllama(*_words(verb, words, tiny_bundle), **options)

    return run


def _words(verb: str, words: tuple[object, ...], model: Path) -> list[object]:
    needs_model = verb == "ask" or words[0] not in ("ls", "rm", "show")
    return [verb, *words, *(("--model", model) if needs_model else ())]


def _rows(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_indexed_clip_is_found_and_asked_without_encoding(index_process: Run, clip: Path) -> None:
    first = index_process(clip)
    assert (first.returncode, first.stderr, len(first.stdout.splitlines())) == (0, "", 1)
    assert first.stdout.startswith(f"{clip}: ")
    assert " encoded in " in first.stdout
    assert index_process(clip).stdout.endswith("; was there\n")
    assert index_process(clip, "What?", "-n", 2, verb="ask").stderr.endswith("; encoded before\n")


def test_question_leaves_its_pictures_for_the_next_and_for_the_index(index: Run, clip: Path) -> None:
    asked = index(clip, "What?", "-n", 2, verb="ask")
    assert (asked.returncode, asked.stderr.endswith("; encoded before\n")) == (0, False)
    assert index(clip, "And?", "-n", 2, verb="ask").stderr.endswith("; encoded before\n")
    (row,) = _rows(index(clip, "--json"))
    assert row["encoded"] == row["frames"] + row["clips"] - 8 - 8


def test_more_pictures_are_added_to_those_there_are(index: Run, clip: Path) -> None:
    (one,) = _rows(index(clip, "--fps", 1, "--json"))
    (five,) = _rows(index("--fps", 5, clip, "--json"))
    (less,) = _rows(index(clip, "--fps", 2, "--json"))
    assert five["encoded"] == five["frames"] - one["frames"] > 0
    assert (less["encoded"], less["frames"], less["fps"]) == (0, five["frames"], 5)


def test_index_without_sound_does_not_spoil_the_one_with_it(index: Run, clip: Path) -> None:
    (quiet,) = _rows(index(clip, "--no-audio", "--json"))
    assert quiet["clips"] == 0
    heard = index(clip, "What?", "-n", 2, verb="ask")
    assert "heard 0.0-2.0" in heard.stderr
    (full,) = _rows(index(clip, "--json"))
    assert full["clips"] > 8
    assert full["frames"] == quiet["frames"]


def test_folder_is_searched_and_what_is_left_out_is_said(
    index: Run, clip: Path, sound_file: Path, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    (folder / "deep").mkdir(parents=True)
    for file in (clip, sound_file, picture):
        shutil.copy(file, folder / "deep")
    (folder / "notes.txt").write_text("no film")
    (folder / ".hidden.mp4").write_text("no film")
    done = index(folder, "--json")
    assert [(Path(row["path"]).name, row["kind"]) for row in _rows(done)] == [
        ("clip.mp4", "video"), ("picture.png", "image"), ("sound.m4a", "audio"),
    ]  # fmt: skip
    skipped = "skipped 1 that are no video, sound or picture by their names: notes.txt"
    assert done.stderr == f"vllama: note: {folder}: {skipped}\n"
    empty = index(tmp_path / "films" / "deep" / "..", "--json", "--fps", 1)
    assert [row["encoded"] for row in _rows(empty)] == [0, 0, 0]


def test_one_bad_file_does_not_stop_the_others(index: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "bad.mp4").write_text("no film")
    shutil.copy(clip, tmp_path / "films" / "good.mp4")
    done = index(tmp_path / "films")
    assert done.returncode == 4
    assert "bad.mp4: cannot be decoded" in done.stderr
    assert "1 of 2 files could not be indexed" in done.stderr
    assert "good.mp4: " in done.stdout
    alone = index(tmp_path / "films" / "bad.mp4")
    assert (alone.returncode, len(alone.stderr.splitlines()), alone.stdout) == (4, 1, "")


def test_one_empty_folder_does_not_stop_the_others(index: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    done = index(tmp_path / "empty", clip, tmp_path / "none")
    assert done.returncode == 4
    assert done.stdout.startswith(f"{clip}: ")
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:2]] == [str(tmp_path / "empty"), str(tmp_path / "none")]
    assert lines[2:] == ["vllama: 2 of 3 files and folders could not be indexed"]
    done = index(tmp_path / "empty", tmp_path / "none")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 2)


@needs_links
def test_link_that_leads_nowhere_is_a_file_that_could_not_be_indexed(index: Run, clip: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    shutil.copy(clip, films / "a.mp4")
    (films / "b.mp4").symlink_to(films / "gone.mp4")
    done = index(films)
    assert done.returncode == 4
    assert done.stdout.startswith(f"{films / 'a.mp4'}: ")
    bad, count = done.stderr.splitlines()
    assert bad.startswith(f"vllama: {films / 'b.mp4'}: ")
    assert count == "vllama: 1 of 2 files could not be indexed"


def test_folder_that_cannot_be_read_is_said_and_the_rest_is_indexed(
    index_process: Run, clip: Path, tmp_path: Path, unprivileged: Callable[[], None]
) -> None:
    (tmp_path / "films" / "locked").mkdir(parents=True)
    for folder in (tmp_path / "films", tmp_path / "films" / "locked"):
        shutil.copy(clip, folder)
    (tmp_path / "films" / "locked").chmod(0)
    try:
        done = index_process(tmp_path / "films", preexec_fn=unprivileged)
        alone = index_process(tmp_path / "films" / "locked", preexec_fn=unprivileged)
        inside = index_process(tmp_path / "films" / "locked" / clip.name, preexec_fn=unprivileged)
    finally:
        (tmp_path / "films" / "locked").chmod(0o700)
    assert done.returncode == 4
    assert done.stdout.startswith(f"{tmp_path / 'films' / clip.name}: ")
    locked, count = done.stderr.splitlines()
    assert locked.startswith(f"vllama: {tmp_path / 'films' / 'locked'}: cannot be read (Permission denied); ")
    assert count == "vllama: 1 of 2 files and folders could not be indexed"
    assert (alone.returncode, alone.stderr) == (4, f"{locked}\n")
    assert (inside.returncode, len(inside.stderr.splitlines())) == (4, 1)


def test_clip_that_cannot_be_read_is_said_by_the_runtime(
    index_process: Run, clip: Path, tmp_path: Path, unprivileged: Callable[[], None]
) -> None:
    locked = Path(shutil.copy(clip, tmp_path / "locked.mp4"))
    locked.chmod(0)
    for words, verb in (((locked,), "index"), ((locked, "What?"), "ask")):
        done = index_process(*words, verb=verb, preexec_fn=unprivileged)
        assert (done.returncode, done.stdout) == (4, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"vllama: {locked}: Permission denied; "), line


@pytest.mark.parametrize("name", ["[red]x.mp4", "clips[/b]/x.mp4", ":smile:.mp4"])  # a folder clips[, and b] in it
def test_name_that_looks_like_markup_is_listed_as_it_is(index: Run, clip: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip, tmp_path / name)
    assert index(tmp_path / name).returncode == 0
    listed = index("ls")
    assert listed.returncode == 0, listed.stderr
    assert f"{tmp_path / name} " in listed.stdout


def test_same_content_under_another_name_is_found(index: Run, clip: Path, tmp_path: Path) -> None:
    index(clip)
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    assert _rows(index(copy, "--json"))[0]["encoded"] == 0
    assert len(_rows(index("ls", "--json"))) == 1


def test_saved_timelines_are_listed_shown_and_deleted(
    index: Run, clip: Path, silent_clip: Path, tmp_path: Path
) -> None:
    assert "nothing is saved" in index("ls").stderr
    rows = _rows(index(clip, silent_clip, "--json"))
    ids = [row["id"] for row in rows]
    found = {row["id"]: row["bytes"] for row in _rows(index("ls", "--json"))}
    assert found == {row["id"]: row["bytes"] for row in rows}
    listed = index("ls")
    for words in ("clip.mp4", "silent.mp4", "tiny-vicuna", "0:04", "indexed"):
        assert words in listed.stdout, listed.stdout
    assert "2 timelines" in listed.stderr
    (shown,) = _rows(index("show", clip, "--json"))
    assert (shown["id"], shown["path"], shown["fps"], shown["source"]) == (ids[0], str(clip), 1.0, "there")
    assert "duration  4.0" in index("show", ids[1][:6]).stdout
    deleted = index("rm", clip)
    assert (deleted.returncode, ids[0] in deleted.stdout) == (0, True)
    assert [row["id"] for row in _rows(index("ls", "--json"))] == ids[1:]
    (tmp_path / "cache" / "prefixes").mkdir()
    (tmp_path / "cache" / "prefixes" / "of another.safetensors").touch()
    assert index("rm", "--all").returncode == 0
    assert [path.parent.name for path in (tmp_path / "cache").glob("*/*")] == ["verified"]
    assert clip.exists()


def test_what_was_asked_about_is_nowhere_once_it_is_deleted(index: Run, clip: Path, tmp_path: Path) -> None:
    private = Path(shutil.copy(clip, tmp_path / "private.mp4"))
    os.utime(private, (0, 0))  # what was changed just now is not remembered
    index(private, "What?", "-n", 1, "--keep-prefix", verb="ask")
    content = sha256(private.read_bytes()).hexdigest()[:32]
    assert {path.parts[0] for path in _naming(tmp_path / "cache", "private", content)} == {
        "contents", "prefixes", "timelines",
    }  # fmt: skip
    assert index("rm", private).returncode == 0
    assert _naming(tmp_path / "cache", "private", content) == []


def _naming(cache: Path, *words: str) -> list[Path]:
    """The files that have one of them in their path or their bytes."""
    there = [path.relative_to(cache) for path in cache.rglob("*")]
    return [
        path
        for path in there
        if any(word in str(path) for word in words)
        or ((cache / path).is_file() and any(word.encode() in (cache / path).read_bytes() for word in words))
    ]


def test_broken_and_orphaned_timelines_are_listed_as_such(index: Run, clip: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    index(copy)
    copy.unlink()
    (row,) = _rows(index("ls", "--json"))
    assert (row["state"], row["source"]) == ("indexed", "gone")
    assert "the file is gone" in index("ls").stdout
    (chunk,) = (tmp_path / "cache" / "timelines").glob("*/*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert "broken: 0" in index("ls").stdout
    assert index("rm", copy).returncode == 0
    assert _rows(index("ls", "--json")) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("rm",), 2, "--all"),
        (("rm", "nothing"), 2, "`vllama index ls`"),
        (("show", "nothing"), 2, "`vllama index ls`"),
        (("none.mp4",), 4, "none.mp4"),
        (("add", "none.mp4"), 4, "none.mp4"),
        (("{folder}",), 4, "holds no video"),
        (("none.mp4", "--fps", "-1"), 2, "--fps"),
        (("",), 4, "vllama: the clip's name is empty; "),
        (("https://example.org/a.mp4",), 4, "vllama: https://example.org/a.mp4: is an address; "),
        (("-",), 4, "vllama: -: stdin cannot be a clip"),
    ],
)
def test_wrong_use_has_a_documented_exit_code(
    index: Run, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = index(*(word.format(folder=tmp_path / "empty") for word in words))
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    assert said in done.stderr


def test_help_names_both_forms(vllama: Vllama) -> None:
    for words in (("index", "--help"), ("index",)):
        done = vllama(*words)
        said = " ".join((done.stdout + done.stderr).split())
        assert "VIDEO... | ls | show PATH | rm" in said
    assert "--fps" in vllama("index", "add", "--help").stdout


def test_pictures_that_show_nothing_new_are_said_and_shown(command: Vllama, cache: Path, tmp_path: Path) -> None:
    film = tmp_path / "still.mp4"
    with av.open(film, "w") as container:
        video = container.add_stream("libx264", 2)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for shade in (80, 160):
            for _ in range(20):
                pixels = np.full((48, 64, 3), shade, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode())
    (row,) = _rows(command("index", film, "--model", "miniature", "-t", 1, "--json"))
    assert row["encoded"] + row["shared"] == row["frames"] > 20
    assert 2 <= row["encoded"] < 12
    (shown,) = _rows(command("index", "show", film, "--json"))
    assert (shown["frames"], shown["shared"]) == (row["frames"], row["shared"])
    again = command("index", film, "--model", "miniature", "-t", 1, "--fps", 2)
    assert f"{40 - row['frames']} as before" in again.stdout, again.stdout
