"""Run vllama, or its tests, from a fresh checkout.

    python3.11 .dev/run.py vllama ...
    python3.11 .dev/run.py test

On Windows it is `py -3.11 .dev/run.py`. The first call makes `.venv` and installs there what the job needs, at the
versions of constraints.txt; llama.cpp is compiled once, which takes about ten minutes. Later calls start at once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
CONSTRAINTS = ROOT / ".dev" / "constraints.txt"
SOURCES = ("export", "runtime", "cli", "models.toml", "pyproject.toml")
CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("lint-imports",),
    ("pytest",),
)
COMPILER = {
    "linux": "sudo apt-get install g++   (or: sudo dnf install gcc-c++)",
    "darwin": "xcode-select --install",
    "win32": "winget install Microsoft.VisualStudio.2022.BuildTools  with the C++ workload",
}


def main(arguments: list[str]) -> int:
    """Install what the job needs, then do it."""
    if not arguments or arguments[0] not in ("vllama", "test"):
        print(__doc__)
        return 2
    need_system()
    program, *rest = arguments
    if program == "vllama":
        extras = ["cpu", *(["export"] if rest[:1] == ["export"] else []), *(["rtx"] if wants_tensorrt(rest) else [])]
        install(",".join(extras))
        return run("vllama", *rest)
    install("cpu,rtx,export,speech,dev")
    checks = CHECKS[:-1] if not rest else ()
    return next((code for check in checks if (code := run(*check))), 0) or run("pytest", *rest)


def wants_tensorrt(arguments: list[str]) -> bool:
    """Whether they, or the environment, ask for it; a question may be that word, too."""
    named = "--engine=tensorrt" in arguments or ("--engine", "tensorrt") in pairwise(arguments)
    return named or os.environ.get("VLLAMA_ENGINE") == "tensorrt"


def install(extras: str) -> None:
    """Bring `.venv` up to date: dependencies when they were changed, vllama itself when a source file was."""
    need_venv()
    if stale(f"dependencies-{extras}", ROOT / "pyproject.toml", CONSTRAINTS):
        need_compiler()
        pip("install", "--constraint", str(CONSTRAINTS), f"{ROOT}[{extras}]")
        done(f"dependencies-{extras}", ROOT / "pyproject.toml", CONSTRAINTS)
    files = [path for name in SOURCES for path in sorted([ROOT / name, *(ROOT / name).rglob("*")]) if path.is_file()]
    if stale("sources", *files):
        pip("install", "--no-deps", "--force-reinstall", str(ROOT))
        done("sources", *files)


def need_venv() -> None:
    """Make `.venv`, or what is missing of one whose making was interrupted: pip comes last."""
    if (BIN / ("pip.exe" if os.name == "nt" else "pip")).exists():
        return
    if sys.version_info[:2] != (3, 11):
        print(f"note: tested on Python 3.11, this is {sys.version.split()[0]}", file=sys.stderr)
    code = subprocess.run([sys.executable, "-m", "venv", str(VENV)], stdout=sys.stderr).returncode
    if code:
        sys.exit(f"{VENV} cannot be made ({code}); on Debian and Ubuntu: sudo apt-get install python3.11-venv")


def need_system() -> None:
    """Say where there are no packages of what vllama is made of, before pip says it on a page."""
    release, machine = platform.mac_ver()[0], platform.machine()
    if sys.platform == "darwin" and (machine != "arm64" or int(release.partition(".")[0]) < 14):
        sys.exit(f"PyAV and ONNX Runtime need macOS 14 or newer on Apple silicon; this is {release} on {machine}")


def need_compiler() -> None:
    """Say what is missing before ten minutes of pip end in a page of CMake."""
    names = ("c++", "g++", "clang++", os.environ.get("CXX") or "c++")
    if os.name == "nt" or any(shutil.which(name) for name in names):
        return  # on Windows CMake finds the compiler where PATH does not show it
    sys.exit(f"a C++ compiler is missing; install it: {COMPILER.get(sys.platform, COMPILER['linux'])}")


def pip(*arguments: str) -> None:
    command = [str(BIN / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it has heard it, too, and leaves nothing half
        raise
    if code:
        paths = "; where a path was too long, set TEMP to a short folder, C:\\t" if os.name == "nt" else ""
        sys.exit(f"pip failed ({code}); on a machine without a C++ compiler: {COMPILER.get(sys.platform, '')}{paths}")


def run(program: str, *arguments: str) -> int:
    """Do it; Ctrl-C is its own business, however long it takes over that."""
    command = [str(BIN / program), *arguments]
    if program != "vllama":
        return wait(subprocess.Popen(command, cwd=ROOT))
    if os.name == "nt":  # has no exec that a shell would wait for
        return wait(subprocess.Popen(command))
    sys.stdout.flush()
    os.execv(command[0], command)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; Ctrl-C goes to it as well, and `subprocess.run` would kill it a quarter of a second later."""
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code  # as a shell has it


def stale(what: str, *files: Path) -> bool:
    stamp = VENV / f".{what}"
    return not stamp.is_file() or stamp.read_text() != digest(*files)


def done(what: str, *files: Path) -> None:
    (VENV / f".{what}").write_text(digest(*files))


def digest(*files: Path) -> str:
    sha = hashlib.sha256()
    for path in files:
        sha.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return sha.hexdigest()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
