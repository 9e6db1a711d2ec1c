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

LIBRARIES = CACHE / "lanes"

# What these leave out changes no result: no value of errno is read, and no trap is set.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
         "-shared", "-fPIC", "-Wno-psabi", "-Wno-ignored-attributes")  # fmt: skip

HEADER = Path(__file__).with_name("lanes.h")


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
    """The function ``lanes`` of this code.

    Errors:
        subprocess.CalledProcessError: the compiler refuses it; its stderr says why.
    """
    path = compiler()
    assert path is not None
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    options = (*FLAGS, native, f"-DREAL={real}", f"-DLANES={lanes}")
    whole = f"{HEADER.read_text()}\n{text}"
    key = hashlib.sha256("\0".join((whole, *options, _about(path))).encode()).hexdigest()[:32]
    library = LIBRARIES / f"{key}.so"
    if not library.exists():
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=LIBRARIES) as folder:
            made = Path(folder) / "lanes.so"
            (Path(folder) / "lanes.cpp").write_text(whole)
            command = [path, *options, str(Path(folder) / "lanes.cpp"), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            made.replace(library)
    function = ctypes.CDLL(str(library)).lanes
    function.restype = None
    function.argtypes = [ctypes.c_long, *(ctypes.c_void_p,) * 4]
    return function
