"""Building: C++ to a shared library in the disk cache, by the system's compiler."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ..cache import CACHE, compiler
from .header import header

LIBRARIES = CACHE / "lanes"

# What these leave out changes no result: no value of errno is read, and no trap is set.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
         "-shared", "-fPIC", "-Wno-psabi", "-Wno-ignored-attributes")  # fmt: skip


@cache
def _about(compiler: str) -> str:
    """The compiler's version, and what machine it builds for."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return f"{version.stdout}{platform.machine()}{_features()}"


@cache
def _features() -> str:
    """What the machine's vectors can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x for x in lines if x.startswith(("flags", "Features"))), "")


@cache
def widest(real: str) -> int:
    """How many numbers a vector of this machine holds."""
    has = _features()
    size = 64 if "avx512f" in has else 32 if "avx2" in has else 16
    return size // (8 if real == "double" else 4)


def built(text: str, real: str, lanes: int) -> Any:
    """The function ``lanes`` of this code, which stands on the header.

    Errors:
        subprocess.CalledProcessError: the compiler refuses it; its stderr says why.
    """
    whole = f"{header()}\n{text}"
    function = library(whole, f"-DREAL={real}", f"-DLANES={lanes}").lanes
    function.restype = None
    function.argtypes = [ctypes.c_long, *(ctypes.c_void_p,) * 4]
    return function


def library(text: str, *options: str) -> ctypes.CDLL:
    """The shared library of this code, from the disk cache if it is there.

    Errors:
        subprocess.CalledProcessError: the compiler refuses it; its stderr says why.
        OSError: the compiler made nothing.
    """
    path = compiler()
    assert path is not None
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    flags = (*FLAGS, native, *options)
    key = hashlib.sha256("\0".join((text, *flags, _about(path))).encode()).hexdigest()[:32]
    made = _folder() / f"{key}.so"
    if not made.exists() or _loaded(made) is None:
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            code, new = Path(folder) / "lanes.cpp", Path(folder) / "lanes.so"
            code.write_text(text)
            command = [path, *flags, str(code), "-o", str(new)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            new.replace(made)
    return ctypes.CDLL(str(made))


def _loaded(path: Path) -> ctypes.CDLL | None:
    """A library from the cache, unless it is damaged."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="pushforward"))


def _folder() -> Path:
    """The cache, or where it cannot be written a folder for this process alone."""
    try:
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=LIBRARIES):
            return LIBRARIES
    except OSError:
        return _temporary()
