from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllama.cli.newfile import write_new
from vllama.runtime import FileError

_LIMITED = """
import resource, signal, sys
from pathlib import Path
from vllama.cli.newfile import write_new
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_new(Path(sys.argv[1]), bytes(100_000), "a new file")
"""


def test_new_file_holds_what_was_given(tmp_path: Path) -> None:
    write_new(tmp_path / "new", b"whole", "a new file")
    assert (tmp_path / "new").read_bytes() == b"whole"


def test_file_that_is_there_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(FileError, match=r"mine: is there already; give a new \.png$"):
        write_new(tmp_path / "mine", b"other", "a new .png")
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["none/new", "a\0b", "n" * 300])
def test_name_that_is_no_use_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"; give a new file in a folder that is there"):
        write_new(tmp_path / name, b"", "a new file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as POSIX does")
def test_nothing_is_left_of_what_cannot_be_written_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path / "new")], capture_output=True, text=True)
    assert "FileError: " in done.stderr
    assert "cannot be written (File too large); give a new file" in done.stderr
    assert list(tmp_path.iterdir()) == []
