"""The environment of the peers, made once in the user's cache, and how a process runs in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")


def peers_python() -> str:
    """The Python of the peers; the first call installs them, which takes minutes."""
    pins = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "pushforward-benchmarks" / pins
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"installing the peers into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        ready.touch()
    return str(python)


def run(python: str, module: str, *args: str, cache: str) -> str:
    """What a module prints that is run by itself, with one thread and with its caches in a folder.

    Errors:
        RuntimeError: it failed.
    """
    environment = {
        **os.environ,
        **{f"{library}_NUM_THREADS": "1" for library in THREADS},
        "JAX_PLATFORMS": "cpu",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "PYTENSOR_FLAGS": f"base_compiledir={cache}/pytensor",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "XDG_CACHE_HOME": cache,
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
    command = [python, "-m", module, *args]
    done = subprocess.run(command, env=environment, cwd=BENCHMARKS, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(args)}: {done.stderr[-2000:]}")
    return done.stdout
