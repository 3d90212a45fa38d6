"""What is asked stays on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIP = Path(__file__).parents[2] / "cli" / "demo_clips" / "square.mp4"


@pytest.mark.skipif(sys.platform == "win32", reason="there the home is no variable")
def test_no_library_writes_into_the_home_what_it_would_send(tmp_path: Path) -> None:
    own = ("VLLAMA_MODELS", "VLLAMA_CACHE", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    command = [sys.executable, "-m", "vllama.cli", "ask", str(CLIP), "What colour is the square?"]
    done = subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True)
    assert "green" in done.stdout, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if "vllama" not in path.relative_to(tmp_path).parts] == []
