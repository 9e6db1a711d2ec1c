"""Tasks for workers: what travels to them, what holds there, and what is said when it fails."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyro
import pytest
import torch
from support.executors import InTurn

from pushforward.errors import ProgramError
from pushforward.ppl.tasks.workers import Workers, _packed

TASKS = {i: (float(i),) for i in (3, 1, 2)}


def test_a_function_travels_with_what_it_closes_over() -> None:
    slope = torch.tensor(2.0)

    def line(x: float) -> torch.Tensor:
        return slope * x

    found = dict(Workers(InTurn(), line).results(TASKS))
    assert found == {1: torch.tensor(2.0), 2: torch.tensor(4.0), 3: torch.tensor(6.0)}


def test_precision_and_parameters_are_those_of_the_caller() -> None:
    def asked(x: float) -> tuple[torch.dtype, float]:
        return torch.get_default_dtype(), pyro.param("rate", torch.tensor(0.0)).item()

    store, before = pyro.get_param_store(), torch.get_default_dtype()
    with store.scope():
        pyro.param("rate", torch.tensor(0.25))
        torch.set_default_dtype(torch.float64)
        try:
            workers = Workers(InTurn(), asked)
        finally:
            torch.set_default_dtype(before)
    with store.scope():
        assert dict(workers.results({0: (1.0,)})) == {0: (torch.float64, 0.25)}
        assert "rate" not in store
    assert torch.get_default_dtype() == before


def test_a_task_leaves_nothing_behind_for_the_next() -> None:
    def first(x: float) -> float:
        found: float = pyro.param("x", torch.tensor(x)).item()
        return found

    with pyro.get_param_store().scope():
        assert dict(Workers(InTurn(), first).results(TASKS)) == {i: float(i) for i in TASKS}


SCRIPT = """
from pushforward import dist, program, sample, simulate

SCALE = 3.0

@program
def start():
    return SCALE * sample("x", dist.Delta(__import__("torch").tensor(2.0)))

@program
def doubled():
    return 2.0 * start()
"""


def script() -> types.ModuleType:
    """What the interpreter would make of the text, if it were the one that is run."""
    module = types.ModuleType("__main__")
    exec(SCRIPT, vars(module))
    return module


def test_programs_of_a_script_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that another calls: at the worker there is no module that holds them."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", script())
        program = sys.modules["__main__"].doubled
        sent, by_name = _packed(program), pickle.dumps(program)
    assert float(pickle.loads(sent)()) == 12.0
    with pytest.raises((AttributeError, pickle.PickleError)):
        pickle.loads(by_name)


def test_threads_are_refused() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ProgramError, match="cannot run in threads"):
        list(Workers(pool, float).results(TASKS))


def test_what_is_no_executor_is_refused() -> None:
    wrong: Any = 4
    with pytest.raises(ProgramError, match=r"an executor is one of concurrent\.futures or a Dask"):
        Workers(wrong, float)


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_worker_is_told_of_after_all_that_was_done(lost: int) -> None:
    found = []
    with pytest.raises(ProgramError, match="gave up a task: BrokenExecutor"):  # noqa: PT012
        for each in Workers(InTurn(frozenset({lost})), float).results(TASKS):
            found.append(each)
    assert sorted(found) == sorted((i, float(i)) for i in TASKS if i != [*TASKS][lost])


def test_an_error_of_the_function_is_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        list(Workers(InTurn(), lambda x: x / 0).results(TASKS))


def test_nothing_of_a_cluster_is_imported_before_it_is_used() -> None:
    code = "import sys, pushforward.inference, pushforward.semantics.check\n"
    code += "print({'cloudpickle', 'dask', 'distributed'} & sys.modules.keys())"
    order = [sys.executable, "-c", code]
    done = subprocess.run(order, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
