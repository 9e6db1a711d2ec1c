"""Clipping, accumulation and validation, on objectives whose steps are known by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, sample
from pushforward.errors import ObjectiveError, ProgramError
from pushforward.inference import Checkpoint
from pushforward.inference.vi import (
    SVI,
    Validation,
    elbo,
    objective,
    reparam,
    sample_trace,
)

QUIET: dict[str, Any] = {"progress": False, "compiled": False}


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def near(theta: Tensor) -> Any:
    """-|theta - x|^2, whose derivative is 2 (x - theta)."""

    @objective
    def nearness(x: Tensor) -> Tensor:
        return -((theta - x) ** 2).sum()

    return nearness()


# ---------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize(("clip", "moved"), [(None, 1.0), (20.0, 1.0), (5.0, 0.5), (0.1, 0.01)])
def test_a_gradient_is_clipped_to_its_norm(clip: float | None, moved: float) -> None:
    """(6, 8) of norm 10, over two parameters: a step of rate 0.1 goes 1 unclipped."""
    a, b = parameter(0.0), parameter(0.0)

    @objective
    def slope() -> Tensor:
        return 6 * a.sum() + 8 * b.sum()

    result = SVI(slope(), torch.optim.SGD([a, b], lr=0.1), clip=clip, **QUIET).run(steps=1)
    assert a.item() == pytest.approx(0.6 * moved, rel=1e-12)
    assert b.item() == pytest.approx(0.8 * moved, rel=1e-12)
    assert result.noise["parameter 0"][1] == pytest.approx(6.0)  # what is followed is not clipped


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_norm_to_clip_to_is_positive(clip: float) -> None:
    a = parameter(0.0)
    with pytest.raises(ObjectiveError, match="clipped to a norm above zero"):
        SVI(near(a), torch.optim.SGD([a], lr=0.1), clip=clip, **QUIET).run(torch.zeros(1))


# ------------------------------------------------------------------------------------ accumulation


def test_batches_are_averaged() -> None:
    """Two steps over batches 1, 3 and 1, 5; each by hand."""
    theta = parameter(0.0)
    batches = [torch.tensor([x]) for x in (1.0, 3.0, 1.0, 5.0)]
    svi = SVI(near(theta), torch.optim.SGD([theta], lr=0.1), accumulate=2, **QUIET)
    result = svi.run(batches=batches, steps=2)
    first = 0.1 * (2 * 1 + 2 * 3) / 2
    second = first + 0.1 * (2 * (1 - first) + 2 * (5 - first)) / 2
    assert theta.item() == pytest.approx(second, rel=1e-12)
    expected = [-(1.0 + 9.0) / 2, -((1 - first) ** 2 + (5 - first) ** 2) / 2]
    assert result.history.tolist() == pytest.approx(expected)
    with pytest.raises(ObjectiveError, match="at least one batch"):
        SVI(near(theta), torch.optim.SGD([theta], lr=0.1), accumulate=0, **QUIET).run()


def breaking(batches: list[Any], at: int) -> Iterator[Any]:
    for i, batch in enumerate(itertools.cycle(batches)):
        if i == at:
            raise ArithmeticError
        yield batch


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_broken_run_goes_on_with_the_batch_that_was_next(tmp_path: Path, accumulate: int) -> None:
    batches = [torch.tensor([x]) for x in (1.0, 3.0, -1.0, 5.0, 2.0)]

    def run(given: Any, **settings: Any) -> tuple[Any, float]:
        theta = parameter(0.0)
        adam = torch.optim.Adam([theta], lr=0.1)
        svi = SVI(near(theta), adam, accumulate=accumulate, validation=judge, **QUIET)
        return svi.run(batches=given, steps=20, **settings), theta.item()

    judge = Validation((torch.tensor([1.5]),), every=3, patience=None)
    whole, end = run(batches)
    file = Checkpoint(tmp_path / "run", seconds=0)
    with pytest.raises(ArithmeticError):
        run(breaking(batches, 7 * accumulate), checkpoint=file)
    rest, again = run(itertools.cycle(batches), checkpoint=file)
    assert torch.equal(rest.history, whole.history)
    assert torch.equal(rest.validation, whole.validation)
    assert rest.noise == whole.noise
    assert again == end


# -------------------------------------------------------------------------------------- validation


def validated(judge: Validation, steps: int = 200) -> tuple[Any, float, list[float]]:
    """theta goes from 0 to 3, by 0.8 of the way left at each step."""
    theta = parameter(0.0)
    svi = SVI(near(theta), torch.optim.SGD([theta], lr=0.1), validation=judge, **QUIET)
    result = svi.run(torch.tensor([3.0]), steps=steps)
    return result, theta.item(), [3 * (1 - 0.8**t) for t in range(steps + 1)]


@pytest.mark.parametrize("best", [True, False])
def test_a_run_stops_and_goes_back_to_the_best(best: bool) -> None:
    """The validation is highest at 1, which is passed between the first and the third step."""
    judge = Validation((torch.tensor([1.0]),), every=1, patience=4, best=best)
    result, end, way = validated(judge)
    top = max(range(1, 20), key=lambda t: -((way[t] - 1) ** 2))
    assert result.stopped
    assert len(result.history) == top + 4
    assert end == pytest.approx(way[top if best else top + 4], rel=1e-12)
    expected = [[t, -((way[t] - 1) ** 2)] for t in range(1, top + 5)]
    torch.testing.assert_close(result.validation, torch.tensor(expected, dtype=torch.float64))


def test_a_run_that_gets_better_goes_on() -> None:
    result, end, way = validated(Validation((torch.tensor([3.0]),), every=7, patience=1), steps=30)
    assert not result.stopped
    assert result.validation[:, 0].tolist() == [7, 14, 21, 28]
    assert end == pytest.approx(way[28], rel=1e-12)  # the best that was seen


def test_a_validation_has_the_same_noise_and_leaves_that_of_the_run_alone() -> None:
    loc = parameter(0.0)

    def model() -> None:
        sample("x", dist.Normal(torch.tensor(1.0, dtype=torch.float64), 1.0))

    def guide() -> None:
        sample("x", reparam(dist.Normal(loc.sum(), 2.0)))

    def run(rate: float, **settings: Any) -> Any:
        loc.data.zero_()
        svi = SVI(elbo(model, guide), torch.optim.SGD([loc], lr=rate), **QUIET, **settings)
        return svi.run(steps=30, seed=2)

    judge = Validation(every=10, samples=3, patience=None, best=False)
    with_it, without = run(0.1, validation=judge), run(0.1)
    assert torch.equal(with_it.history, without.history)
    values = run(0.0, validation=judge).validation[:, 1]
    assert torch.equal(values, values[:1].expand(3))
    assert len(set(run(0.1, validation=judge).validation[:, 1].tolist())) == 3


def test_another_objective_may_judge() -> None:
    theta = parameter(0.0)

    @objective
    def size() -> Tensor:
        return theta.sum()

    judge = Validation(objective=size(), every=5, patience=None)
    svi = SVI(near(theta), torch.optim.SGD([theta], lr=0.1), validation=judge, **QUIET)
    result = svi.run(torch.tensor([3.0]), steps=10)
    expected = [3 * (1 - 0.8**t) for t in (5, 10)]
    assert result.validation[:, 1].tolist() == pytest.approx(expected)


def test_what_is_no_validation_is_told() -> None:
    theta = parameter(0.0)
    adam = torch.optim.SGD([theta], lr=0.1)

    def run(judge: Any) -> None:
        SVI(near(theta), adam, validation=judge, **QUIET).run(torch.tensor([3.0]), steps=2)

    with pytest.raises(ObjectiveError, match="validation is a Validation"):
        run(torch.tensor([1.0]))
    with pytest.raises(ObjectiveError, match="needs every above 0"):
        run(Validation((torch.tensor([1.0]),), every=0))
    with pytest.raises(ProgramError, match="the validation is nan after 1 steps"):
        run(Validation((torch.tensor([math.nan]),), every=1))


# ------------------------------------------------------------------------------- lower precision


@pytest.mark.parametrize("back_end", ["replay", "graph"])
def test_networks_may_run_in_bfloat16(back_end: str) -> None:
    """Under autocast in the program, the densities stay in single precision: both back ends agree,
    and what is lost is the rounding of the network."""
    from pushforward.inference.vi.captured import Captured, Replayed

    torch.manual_seed(0)
    net = torch.nn.Linear(6, 4)
    x = torch.randn(5, 6)

    def bound(low: bool) -> Any:
        def guide(x: Tensor) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                out = net(x)
            assert out.dtype == (torch.bfloat16 if low else torch.float32)
            sample("z", reparam(dist.Normal(out.float(), 1.0).to_event(2)))

        @objective
        def squares(x: Tensor) -> Tensor:
            return -(sample_trace(guide, x).choices["z"] ** 2).sum()

        return squares()

    found = {}
    for low in (False, True):
        parameters = list(net.parameters())
        if back_end == "graph":
            step: Any = Captured(bound(low), parameters, 1, x, compiled=False)
        else:
            step = Replayed(bound(low), parameters, 1)
        torch.manual_seed(1)
        found[low] = step(x)
    assert all(g.dtype == torch.float32 for g in found[True].by)
    size = float(torch.cat([g.reshape(-1) for g in found[False].by]).abs().max())
    for a, b in zip(found[True].by, found[False].by, strict=True):
        gap = float((a - b).abs().max())
        assert gap < 2**-7 * 2 * size
    assert float(found[True].values) != float(found[False].values)
