"""The pytest plugin: a seed for each test, and what a run of tests asks of chance, told at its end.

It imports neither torch nor the library until a test does.  Settings, in pytest's configuration:

    pushforward_budget = 1e-3

is the largest chance, in one run of all tests, that some check says of right code that it is wrong;
a run whose checks ask for more fails, and says so.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest

MODULE = "pushforward.testing"
KEY = "pushforward"


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "the largest chance that checks of Pushforward fail in a run of right code (1e-3)"
    parser.addini("pushforward_budget", what, default="1e-3")


@pytest.fixture
def pushforward_seed(request: pytest.FixtureRequest) -> int:
    """Seeds torch for this test, by its name; the seed."""
    import torch

    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    torch.manual_seed(seed)
    return seed


@pytest.fixture
def pushforward_level(pytestconfig: pytest.Config) -> float:
    """A level for one check, of which a run may make a thousand."""
    return _budget(pytestconfig) / 1000


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Workers hand over what they have; a run that asks for too much fails."""
    config = session.config
    ledger = getattr(sys.modules.get(MODULE), "LEDGER", None)
    if ledger is not None and (ledger.exact or ledger.levels):
        config.stash[_FOUND].append((ledger.exact, list(ledger.levels)))
    worker: Any = getattr(config, "workeroutput", None)
    if worker is not None:
        worker[KEY] = config.stash[_FOUND]
    elif _level(config) > _budget(config) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist hands over."""
    node.config.stash[_FOUND] += getattr(node, "workeroutput", {}).get(KEY, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash[_FOUND]
    if not found:
        return
    exact, statistical = sum(n for n, _ in found), sum(len(levels) for _, levels in found)
    said = f"pushforward: exact checks {exact}, statistical ones {statistical}"
    if statistical:
        level, budget = _level(config), _budget(config)
        said += f"; of right code one fails with probability {level:.1g} at most"
        if level > budget:
            terminalreporter.write_line(said, red=True)
            said = f"that is more than the budget of {budget:g}: lower the levels of checks"
            terminalreporter.write_line(said, red=True)
            return
        said += f" (budget {budget:g})"
    terminalreporter.write_line(said)


_FOUND = pytest.StashKey[list[tuple[int, list[float]]]]()


def _level(config: pytest.Config) -> float:
    return sum(sum(levels) for _, levels in config.stash[_FOUND])


def _budget(config: pytest.Config) -> float:
    value = str(config.getini("pushforward_budget"))
    try:
        budget = float(value)
    except ValueError:
        budget = -1.0
    if not 0 < budget < 1:
        raise pytest.UsageError(f"pushforward_budget is a probability, not {value!r}")
    return budget
