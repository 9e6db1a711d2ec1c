"""Compiling in another process, while this one goes on.

Tracing and Inductor set modes of the whole process, and restore its random numbers: a thread of
this one is no place for them.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from . import worker
from .cache import CACHE, compiler
from .inductor import OPTIONS, Call, Notify, agreeing, compile_graph, with_constants


class Beside:
    """A graph that another process compiles.

    Where that is impossible (no compiler, a GPU, what cannot be sent), this process does in
    ``call`` what ``compile_graph`` does.

    Args:
        random: see ``compile_graph``.
    """

    def __init__(self, graph: GraphModule, *example: Tensor, random: bool = False) -> None:
        self.graph, self.example, self.random = graph, example, random
        self.folder = tempfile.TemporaryDirectory(prefix="pushforward-", ignore_cleanup_errors=True)
        self.job = Path(self.folder.name) / "job"
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes] | None:
        if compiler() is None or not sys.executable or any(not x.is_cpu for x in self.example):
            return None
        targets = [str(n.target) for n in self.graph.graph.nodes if n.op == "get_attr"]
        try:
            about = {
                "nodes": worker.packed(self.graph),
                "constants": {target: getattr(self.graph, target) for target in targets},
                "options": {**OPTIONS, "fallback_random": self.random},
                "inputs": [(x.shape, x.stride(), x.dtype) for x in self.example],
                "threads": torch.get_num_threads(),
                "dtype": torch.get_default_dtype(),
            }
            self.job.write_bytes(pickle.dumps(about))
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))
            made = subprocess.Popen(
                [sys.executable, "-P", str(worker.__file__), str(self.job)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for this process
            )
        except Exception:  # what pickle and the system refuse has no common class
            return None
        weakref.finalize(self, _ended, made)
        return made

    def call(self, notify: Notify | None = None) -> Call:
        """Wait for the code, and load it."""
        if self.process is not None and self.process.poll() is None and notify is not None:
            notify("waiting for the compiler")
        code = None if self.process is None else self._loaded(self.process)
        self.folder.cleanup()
        return code or compile_graph(self.graph, *self.example, notify=notify, random=self.random)

    def _loaded(self, process: subprocess.Popen[bytes]) -> Call | None:
        """The code that the process has made, if it does what the graph does."""
        done = self.job.with_suffix(".done")
        if process.wait() or not done.exists():
            return None
        try:
            code = _module(Path(done.read_text())).call
            call = with_constants(code, self.graph)
            return call if agreeing(self.graph, call, self.example, self.random) else None
        except Exception:  # as of Inductor's own failures
            return None

    def stop(self) -> None:
        """End the process; nothing is kept of it."""
        if self.process is not None:
            _ended(self.process)
        self.folder.cleanup()


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _module(path: Path) -> Any:
    """The module of a file of Inductor's cache."""
    spec = importlib.util.spec_from_file_location(f"pushforward_code_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no code in {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
