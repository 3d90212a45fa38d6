from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.cache.prefixes import PrefixStore, prefixes_dir
from vllama.runtime.llm.rows import KvPrefix

PREFIX = KvPrefix((1, 2, (b"row", 0)), np.arange(100, dtype=np.uint8))
CONTENT = "0123456789abcdef" * 4


def test_those_of_a_user_are_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    assert prefixes_dir() == tmp_path / "prefixes"


def test_its_name_begins_with_its_clip(tmp_path: Path) -> None:
    of_clip, of_live = (PrefixStore(tmp_path, "a model", content).keep(PREFIX) for content in (CONTENT, ""))
    assert of_clip.name == f"0123456789abcdef0123456789abcdef-{of_live.name}"
    assert len(of_live.name) == len("digest.safetensors") - len("digest") + 40


def test_what_was_kept_is_found_for_the_same_clip_model_and_positions(tmp_path: Path) -> None:
    PrefixStore(tmp_path, "a model", CONTENT).keep(PREFIX)
    found = PrefixStore(tmp_path, "a model", CONTENT).find(PREFIX.keys)
    assert found is not None
    np.testing.assert_array_equal(found.data, PREFIX.data)
    assert PrefixStore(tmp_path, "another", CONTENT).find(PREFIX.keys) is None
    assert PrefixStore(tmp_path, "a model", CONTENT[::-1]).find(PREFIX.keys) is None
    assert PrefixStore(tmp_path, "a model", CONTENT).find(PREFIX.keys[:2]) is None


@pytest.mark.parametrize("spoilt", [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda data: b""])
def test_what_is_not_as_it_was_written_is_removed(tmp_path: Path, spoilt: object) -> None:
    store = PrefixStore(tmp_path, "a model", CONTENT)
    path = store.keep(PREFIX)
    assert callable(spoilt)
    path.write_bytes(spoilt(path.read_bytes()))
    assert store.find(PREFIX.keys) is None
    assert not path.exists()


def test_what_cannot_be_opened_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    store = PrefixStore(tmp_path, "a model", CONTENT)
    store.keep(PREFIX)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        found = store.find(PREFIX.keys)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found is None
    assert store.find(PREFIX.keys) is not None
