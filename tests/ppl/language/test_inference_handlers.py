"""Pyro's inference handlers in a program are refused by name; around an inference they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor

from pushforward import dist, marginal, program, simulate
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, Exact, importance, nuts
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


def base() -> Tensor:
    z = pyro.sample("z", dist.Bernoulli(0.3))
    pyro.sample("y", dist.Bernoulli(0.2 + 0.6 * z), obs=torch.tensor(1.0))
    return z  # type: ignore[no-any-return]


TRACE = poutine.trace(lambda: pyro.sample("z", dist.Delta(torch.tensor(1.0)))).get_trace()
WRAPS: dict[str, Callable[[], Any]] = {
    "block": lambda: poutine.block(base, hide=["z"])(),
    "replay": lambda: poutine.replay(base, trace=TRACE)(),
    "trace": lambda: poutine.trace(base).get_trace().nodes["z"]["value"],
    "lift": lambda: poutine.lift(base, prior={})(),
    "uncondition": lambda: poutine.uncondition(base)(),
}
RUNS: dict[str, Callable[[Any], Any]] = {
    "denote": denote,
    "Exact": lambda p: Exact(draws=1).run(p),
    "marginal": lambda p: denote(marginal(p, exact=True)),
    "importance": lambda p: simulate(importance(p, 2), seed=0),
    "type": lambda p: program(p).type(),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("wrap", WRAPS)
def test_what_has_no_meaning_is_refused_by_name(wrap: str, run: str) -> None:
    with pytest.raises(ProgramError, match=f"poutine.{wrap} stands within the program"):
        RUNS[run](WRAPS[wrap])


def test_they_may_stand_around_an_inference() -> None:
    real = lambda: pyro.sample("x", dist.Normal(0.0, 1.0))  # noqa: E731
    method = MCMC(nuts(), chains=1, draws=5, warmup=5, compiled=False, progress=False)
    with poutine.block():
        assert method.run(real).draws["x"].shape == (1, 5)
