"""Tasks that do not depend on each other, done by the workers of an executor or a Dask client.

What a task gives depends on its arguments alone: its randomness comes from a seed among them.  So
the results are the same whoever does a task, in which order, and how often one is begun again
because its worker was lost.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import os
import pickle
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed
from types import CodeType, ModuleType
from typing import Any, Protocol

import pyro
import torch

from ..errors import ProgramError, located
from ..language.program import Program

Work = Callable[..., Any]


class Client(Protocol):
    """What is used of a client of Dask (``dask.distributed.Client``)."""

    def get_executor(self, *, pure: bool) -> Executor: ...

    def submit(self, work: Work, *args: Any, pure: bool) -> Any: ...


class Workers:
    """The workers of an executor, to whom one function is told.

    The function travels by value, with what it closes over, if ``cloudpickle`` is installed (Dask
    brings it along): it may be of a notebook, a script or another function.  Torch's default
    precision and Pyro's parameters, as they are now, hold there too.  A process keeps the last
    function that it was told, and does one task at a time.

    Dask begins a task anew whose worker was lost.  It gets the function once, as the result of a
    task, which can be made again: scattered data would be lost with the worker that holds them.
    Other executors get it with each task.
    """

    def __init__(self, executor: Executor | Client, function: Work) -> None:
        store = pyro.get_param_store().get_state()
        packed = _packed((function, torch.get_default_dtype(), store))
        self._name = hashlib.sha256(packed).digest()
        self._packed: Any = packed
        if isinstance(executor, Executor):
            self._executor = executor
        elif hasattr(executor, "get_executor"):
            self._executor = executor.get_executor(pure=False)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph")  # it is sent once
                self._packed = executor.submit(bytes, packed, pure=False)
        else:
            what = f"an executor is one of concurrent.futures or a Dask client, not {executor!r}"
            raise ProgramError(located(what))

    def results(self, tasks: Mapping[int, tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """By number, what the function gives for the arguments of each task, as they get done.

        Errors:
            ProgramError: a worker was lost and the executor gave up, or its workers are threads of
                this process.
        """
        here = _place()
        futures = {
            self._executor.submit(_done, self._name, self._packed, pickle.dumps((here, args))): i
            for i, args in tasks.items()
        }
        given = set[Future[bytes]]()
        try:
            for future in as_completed(futures):
                found = future.result()
                given.add(future)
                yield futures[future], pickle.loads(found)
        except Exception as error:
            for future in futures.keys() - given:
                if future.done() and not future.cancelled() and future.exception() is None:
                    yield futures[future], pickle.loads(future.result())
            if not isinstance(error, _lost()):
                raise
            what = f"the executor gave up a task: {type(error).__name__}: {error}"
            hint = "give workers more memory, or run again: a checkpoint keeps what is done"
            raise ProgramError(located(what, hint=hint)) from error
        finally:
            for future in futures:
                future.cancel()


def _lost() -> tuple[type[BaseException], ...]:
    """The errors of executors that lost a worker, or too many of them."""
    dask: ModuleType | None = sys.modules.get("distributed")
    return (BrokenExecutor, CancelledError, *([dask.KilledWorker] if dask else []))


# ---------------------------------------------------------------------------------- at the worker

_ALONE = threading.Lock()
_KNOWN: dict[bytes, Any] = {}  # the function told last, by the name of what it was packed in
_PROCESS = uuid.uuid4().hex


def _place() -> tuple[str, int, int]:
    """This process and thread; a process that was forked is another."""
    return _PROCESS, os.getpid(), threading.get_ident()


def _done(name: bytes, packed: bytes, task: bytes) -> bytes:
    """A task, done in this process: its result as bytes, as it came."""
    here, (caller, args) = _place(), pickle.loads(task)
    if here[:2] == caller[:2] and here != caller:
        what = "tasks cannot run in threads, which share torch's generator and the handlers"
        raise ProgramError(located(what, hint="use an executor whose workers are processes"))
    with _ALONE:
        if name not in _KNOWN:
            _KNOWN.clear()
            _KNOWN[name] = pickle.loads(packed)
        function, dtype, store = _KNOWN[name]
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            own: Any = {name: dict(part) for name, part in store.items()}
            with pyro.get_param_store().scope(own):
                return pickle.dumps(function(*args))
        finally:
            torch.set_default_dtype(before)


# ------------------------------------------------------------------------------------- on the way


def _packed(value: Any) -> bytes:
    """A value as bytes, functions by value where that can be."""
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(value)

    by_value = {"__main__", *cloudpickle.list_registry_pickle_by_value()}

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Programs of a script by value too, not by a name that is not there; code with its file.

        Errors tell the user's lines; cloudpickle would give all code the file ``<dynamic-code>``.
        """

        def reducer_override(self, each: Any) -> Any:
            if isinstance(each, CodeType):
                made, about = self.dispatch_table[CodeType](each)
                return made, tuple(each.co_filename if x == "<dynamic-code>" else x for x in about)
            if isinstance(each, Program) and each.fn.__module__ in by_value:
                return copyreg.__newobj__, (type(each),), vars(each)  # type: ignore[attr-defined]
            return super().reducer_override(each)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()
