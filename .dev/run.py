"""Run vllama, or its tests, from a fresh checkout.

    python3 .dev/run.py vllama ...
    python3 .dev/run.py test

On Windows it is `py .dev/run.py`. The first call makes `.venv` and installs there what the job needs, at the
versions of constraints.txt; llama.cpp is compiled once, which takes about ten minutes. Later calls start at once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
CONSTRAINTS = ROOT / ".dev" / "constraints.txt"
NEWEST = (3, 14)  # Python that all of it was tested on
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
    need_python()
    need_system()
    program, *rest = arguments
    if program == "vllama":
        install(",".join(["cpu", *extras(rest)]))
        return run("vllama", *rest)
    install("cpu,rtx,export,speech,dev")
    checks = CHECKS[:-1] if not rest else ()
    return next((code for check in checks if (code := run(*check))), 0) or run("pytest", *rest)


def extras(arguments: list[str]) -> list[str]:
    """What a command needs beside the runtime; its words or the environment say so."""
    command = arguments[:1]
    needed: list[str] = []
    if "--help" in arguments:
        return needed
    drawn = command == ["eval"] and value_of("--set", arguments) in (None, "mini", "foreign")
    if command == ["export"] or drawn:
        needed.append("export")
    if (value_of("--engine", arguments) or os.environ.get("VLLAMA_ENGINE")) == "tensorrt":
        needed.append("rtx")
    model = value_of("--speech-model", arguments) or os.environ.get("VLLAMA_SPEECH_MODEL")
    if command == ["chat"] and (model or "--speech" in arguments) and value_of("--video", arguments) is None:
        needed.append("speech")
    return needed


def value_of(option: str, arguments: list[str]) -> str | None:
    """What stands behind an option the last time, after a space or a `=`."""
    found = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else "".join(arguments[place + 1 : place + 2])
    return found


def need_python() -> None:
    """Refuse an older Python, which reads this file as well, before it makes a `.venv` of its own."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it is not yet known that it is not
        how = "py -3.11" if os.name == "nt" else "python3.11"
        sys.exit(f"vllama needs Python 3.11 or newer, this is {platform.python_version()}; run this with {how}")


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
        need_venv_python()
        return
    if sys.version_info[:2] > NEWEST:
        newest = ".".join(map(str, NEWEST))
        print(f"note: tested on Python 3.11 to {newest}, this is {platform.python_version()}", file=sys.stderr)
    code = subprocess.run([sys.executable, "-m", "venv", str(VENV)], stdout=sys.stderr).returncode
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    if code:
        sys.exit(f"{VENV} cannot be made ({code}); on Debian and Ubuntu: sudo apt-get install {package}")


def need_venv_python() -> None:
    """Name a `.venv` of an older Python, which pip would say on a page."""
    settings = VENV / "pyvenv.cfg"
    lines = settings.read_text("utf-8").splitlines() if settings.is_file() else []
    version = next((line.partition("=")[2].strip() for line in lines if line.startswith("version")), "3.11")
    if tuple(map(int, version.split(".")[:2])) < (3, 11):
        sys.exit(f"{VENV} has Python {version}, and vllama needs 3.11 or newer; remove it and run the same command")


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
        sys.exit(f"pip failed ({code}); {pip_advice()}")


def pip_advice() -> str:
    """What to do about what pip has said; elsewhere than on Windows it was looked for a compiler before."""
    if sys.platform != "win32":
        return "mend what it names above and run the same command"
    return (
        f"where it found no C++ compiler: {COMPILER['win32']}; "
        "where a path was too long: set TEMP to a short folder, C:\\t"
    )


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
