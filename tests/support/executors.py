"""Executors for tests: tasks that are pickled and done in turn, here; and such as break off."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any


class InTurn(Executor):
    """Does each task when it is submitted, as a process would that it is sent to.

    ``lost``: the numbers of tasks, in the order of submission, on which it gives up.  ``sizes`` are
    the bytes of each task that was submitted, and ``done`` counts those that were done.
    """

    def __init__(self, lost: frozenset[int] = frozenset()) -> None:
        self.lost, self.sizes, self.done = lost, list[int](), 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        sent = pickle.dumps((fn, args, kwargs))
        self.sizes.append(len(sent))
        try:
            if len(self.sizes) - 1 in self.lost:
                raise BrokenExecutor("a worker was lost")
            there, given, named = pickle.loads(sent)
            future.set_result(there(*given, **named))
            self.done += 1
        except Exception as error:
            future.set_exception(error)
        return future
