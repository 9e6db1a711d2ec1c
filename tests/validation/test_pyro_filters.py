"""Pyro's SMCFilter: its weighted particles with the evidence, exactly, and mutants of it."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as laws
import pytest
import torch
from pyro.infer import SMCFilter
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, observe, program, sample, scan
from pushforward.semantics import check, denote
from pushforward.validation.foreign import pyro_filter, with_effects

pytestmark = pytest.mark.usefixtures("double")
WET = torch.tensor([1.0, 0.0], dtype=torch.float64)


def moves(x: Tensor) -> Tensor:
    return torch.where(x == 1, 0.625, 0.25)


def sees(x: Tensor) -> Tensor:
    return torch.where(x == 1, 0.9, 0.2)


class Model:
    def init(self, state: Any) -> None:
        state["x"] = pyro.sample("first", laws.Bernoulli(torch.tensor(0.5)))

    def step(self, state: Any, y: Tensor) -> None:
        state["x"] = pyro.sample("x", laws.Bernoulli(moves(state["x"])))
        pyro.sample("y", laws.Bernoulli(sees(state["x"])), obs=y)


class Guide:
    def init(self, state: Any) -> None:
        pyro.sample("first", laws.Bernoulli(torch.tensor(0.4)))

    def step(self, state: Any, y: Tensor) -> None:
        pyro.sample("x", laws.Bernoulli(torch.where(state["x"] == 1, 0.5, 0.4)))


@program
def days(wet: Tensor) -> Tensor:
    def day(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Bernoulli(moves(x)))
        observe("y", dist.Bernoulli(sees(x)), y)
        return x, None

    first = sample("first", dist.Bernoulli(torch.tensor(0.5)))
    last: Tensor = scan(day)(first, wet)[0]
    return last


class Forgetful(SMCFilter):  # type: ignore[misc]
    """Weighs as if the guide were the model."""

    def _update_weights(self, model_trace: Any, guide_trace: Any) -> None:
        for name in list(guide_trace.nodes):
            if guide_trace.nodes[name]["type"] == "sample":
                del guide_trace.nodes[name]
        super()._update_weights(model_trace, guide_trace)


class Greedy(SMCFilter):  # type: ignore[misc]
    """Takes the heaviest particle, wherever it should resample."""

    def _importance_resample(self, probs: Tensor) -> None:
        self.state._resample(probs.argmax().repeat(self.num_particles))


class Centred(SMCFilter):  # type: ignore[misc]
    """Resamples systematically from the middle on, not from a number that is drawn."""

    def _importance_resample(self, probs: Tensor) -> None:
        n = (probs.cumsum(-1) * len(probs) + 0.5).floor().long()
        self.state._resample((n[:, None] <= torch.arange(len(probs))).sum(0))


def filter(kind: Any, particles: int, threshold: float) -> Any:
    return pyro_filter(
        lambda: kind(Model(), Guide(), particles, 0, ess_threshold=threshold), returned="x"
    )


@pytest.mark.parametrize(("threshold", "steps"), quick(2, [(1.0, 1), (0.5, 2), (1.0, 2)]))
def test_the_evidence_of_a_filter_of_pyro(threshold: float, steps: int) -> None:
    check.valid(filter(SMCFilter, 2, threshold), days, WET[:steps]).require()


@pytest.mark.parametrize("kind", [Forgetful, Greedy, Centred])
def test_a_filter_with_a_fault(kind: Any) -> None:
    assert check.valid(filter(kind, 2, 1.0), days, WET).verdict == "fail"


def test_an_index_beyond_the_last_particle() -> None:
    """In single precision the weights of three particles may sum to less than one."""

    def chosen() -> Tensor:
        from pyro.infer.smcfilter import _systematic_sample

        weights = torch.tensor([0.3, 0.3, 0.4 - 1e-6], dtype=torch.float32)
        return (_systematic_sample(weights) == 3).any()

    found = denote(with_effects(chosen)).pmf()
    assert found[True] == pytest.approx(3e-6, rel=0.2)


# ------------------------------------------- what the adapter asks of numbers that are undecided


def test_whole_parts_of_many_functions_of_one_number() -> None:
    """Of u and u + 1/4 of [0, 1]: by hand; the second rounds up from 3/4 on."""

    def parts(name: str) -> tuple[int, ...]:
        u = draw(dist.Uniform(torch.tensor(0.0), torch.tensor(1.0)))
        both = torch.tensor([0.0, 0.25]) + 2 * u
        found = both.long() if name == "long" else getattr(torch, name)(both)
        return tuple(int(x) for x in found)

    expected = {(0, 0): 0.375, (0, 1): 0.125, (1, 1): 0.375, (1, 2): 0.125}
    for name in ("floor", "trunc", "long"):
        assert denote(lambda: parts(name)).pmf() == pytest.approx(expected), name  # noqa: B023


def test_a_tensor_that_is_changed_in_place_by_an_undecided_number() -> None:
    """What reads the tensor afterwards, by whatever name, reads the number."""

    def read() -> tuple[int, int]:
        x = torch.tensor([0.0, 0.5])
        y = x.add_(torch.rand(1)).floor_()
        return int(y.sum()), int((x >= 1.0).sum())

    assert denote(with_effects(read)).pmf() == pytest.approx({(0, 0): 0.5, (1, 1): 0.5})
