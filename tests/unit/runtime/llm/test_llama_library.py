from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from vllama.runtime.errors import BackendUnavailableError
from vllama.runtime.llm import llama_library
from vllama.runtime.llm.llama_library import VERSION, load_library


@pytest.mark.skipif(sys.platform != "linux", reason="links as Linux does")
def test_a_library_that_a_build_needs_and_is_not_there_is_named(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("compiles a llama.cpp of its own")
    (tmp_path / "empty.c").touch()
    driver, build = tmp_path / "driver.so", tmp_path / "libllama.so"
    shared: list[str | Path] = [compiler, "-shared", "-fPIC", "-x", "c", tmp_path / "empty.c", "-x", "none"]
    subprocess.run([*shared, "-Wl,-soname,libno-such-driver.so.1", "-o", driver], check=True)
    subprocess.run([*shared, "-Wl,--no-as-needed", driver, "-o", build], check=True)
    code = "from vllama.runtime.llm.llama_library import load_library; load_library()"
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "libno-such-driver.so.1: cannot open shared object file" in last, done.stderr
    assert "; install what it was built for, such as NVIDIA's driver, or build it again: `pip install --force" in last


@pytest.mark.skipif(os.name == "nt", reason="Windows shows a window")
def test_why_llama_cpp_ended_the_process_is_said_in_one_line() -> None:
    code = (
        "from vllama.runtime.llm import llama_library\n"
        "ggml = llama_library._ggml_of(llama_library.load_library())\n"
        "ggml.ggml_log_internal(4, b'CUDA error: %s\\n', b'out of memory')\n"
        "ggml.ggml_abort(b'ggml-cuda.cu', 109, b'CUDA error')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    said = "vllama: llama.cpp has to end here: CUDA error: out of memory; ggml-cuda.cu:109: CUDA error"
    assert done.stderr.splitlines()[0] == said, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (pinned,) = (each for each in requires("vllama") or () if each.startswith("llama-cpp-python"))
    assert pinned == f"llama-cpp-python=={VERSION}"
    monkeypatch.setattr(llama_library, "version", lambda name: f"{VERSION}+cu130")
    assert load_library.__wrapped__() is load_library()
    monkeypatch.setattr(llama_library, "version", lambda name: "0.4.0")
    with pytest.raises(
        BackendUnavailableError, match=r"is 0\.4\.0 and vllama takes 0\.3\.36; install that: `pip install"
    ):
        load_library.__wrapped__()
