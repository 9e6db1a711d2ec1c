"""Scales and masks around lanes give each lane its own entry, in every meaning.

The class: a tensor scale or mask around ``vmap``, of any shape that broadcasts with the sites of
all lanes.  Members differ in lanes, plates inside, shapes of the factors, and whether the sites are
latents or data; numpy says what they score.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pushforward import assess, condition, dist, observe, plate, sample, vmap, weighted
from pushforward.errors import DataError
from pushforward.inference import Exact
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")

Shape = tuple[int, ...]


def shapes_within(batch: Shape) -> Iterator[Shape]:
    """Every shape that broadcasts to a batch and no further."""
    for length in range(len(batch) + 1):
        tail = batch[len(batch) - length :]
        yield from dict.fromkeys(itertools.product(*({1, size} for size in tail)))


def factor_of(kind: str, shape: Shape, draws: random.Random) -> Tensor:
    n = math.prod(shape)
    if kind == "scale":
        return torch.tensor([draws.choice([0.5, 1.0, 2.0, 3.0]) for _ in range(n)]).reshape(shape)
    return torch.tensor([draws.random() < 0.5 for _ in range(n)]).reshape(shape)


def around(kind: str, factor: Tensor) -> Any:
    if kind == "scale":
        return pyro.poutine.scale(scale=factor)
    return pyro.poutine.mask(mask=factor)


def lane_of(rows: int | None, latent: bool) -> Any:
    def site(p: Tensor) -> Tensor:
        if latent:
            return sample("z", dist.Bernoulli(p))
        return observe("y", dist.Bernoulli(p), torch.tensor(1.0))

    def lane(p: Tensor) -> Tensor:
        if rows is None:
            return site(p)
        with plate("row", rows):
            return site(p)

    return lane


@pytest.mark.parametrize("kind", ["scale", "mask"])
@pytest.mark.parametrize(("lanes", "rows"), [(2, None), (3, None), (2, 2), (2, 3), (1, 2)])
def test_each_lane_has_its_factor(kind: str, lanes: int, rows: int | None) -> None:
    draws = random.Random(f"{kind} {lanes} {rows}")
    batch = (lanes,) if rows is None else (lanes, rows)
    for shape in shapes_within(batch):
        factor = factor_of(kind, shape, draws)
        ps = torch.tensor([draws.uniform(0.2, 0.8) for _ in range(math.prod(batch))]).reshape(batch)
        for latent, merge in ((False, True), (False, False), (True, True)):
            lane = lane_of(rows, latent)

            def p(lane: Any = lane, factor: Tensor = factor, ps: Tensor = ps) -> Tensor:
                with around(kind, factor):
                    return vmap(lane)(ps)

            powers = np.broadcast_to(factor.double().numpy(), batch)
            if latent and kind == "mask":
                powers = np.ones(batch)  # a masked latent keeps its law
            by_value = [ps.numpy() ** powers] + [(1 - ps.numpy()) ** powers] * latent
            mass = float(sum(by_value).prod())
            where = (shape, factor.tolist(), latent)
            assert denote(p, merge=merge).mass() == pytest.approx(mass), where
            if latent:
                total = sum(
                    float(assess(p, {"z": torch.tensor(zs).reshape(batch)})[0].exp())
                    for zs in itertools.product((0.0, 1.0), repeat=math.prod(batch))
                )
                assert total == pytest.approx(mass), where
            else:
                assert float(assess(p, {})[0].exp()) == pytest.approx(mass), where


def test_the_sum_of_the_factors_is_no_factor_of_a_lane() -> None:
    def p() -> None:
        with pyro.poutine.scale(scale=torch.tensor([1.0, 3.0])):
            vmap(lane_of(None, False))(torch.tensor([0.3, 0.5]))

    assert denote(p).mass() == pytest.approx(0.3 * 0.5**3)
    assert denote(p).mass() != pytest.approx((0.3 * 0.5) ** 4)


def test_factors_for_lanes_stand_with_data_other_lanes_and_weights() -> None:
    ps, y = torch.tensor([[0.3, 0.5], [0.6, 0.9]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    lane = lambda q: sample("y", dist.Bernoulli(q))  # noqa: E731
    for shape in shapes_within((2, 2)):
        factor = factor_of("scale", shape, random.Random(str(shape)))
        powers = np.broadcast_to(factor.numpy(), (2, 2))
        likelihood = np.where(y.numpy() == 1, ps.numpy(), 1 - ps.numpy())
        log_mass = float((powers * np.log(likelihood)).sum())

        def p(factor: Tensor = factor) -> None:
            with pyro.poutine.scale(scale=factor):
                condition(vmap(vmap(lane)), {"y": y})(ps)

        assert denote(p).log_mass() == pytest.approx(log_mass), shape
        assert float(assess(p, {})[0]) == pytest.approx(log_mass), shape
        assert Exact(draws=1).run(p).log_evidence == pytest.approx(log_mass), shape
        total = denote(lambda p=p: weighted(p)()[1]).expect()
        assert float(total) == pytest.approx(log_mass), shape


def test_a_mask_drops_missing_data_lane_by_lane() -> None:
    y = torch.tensor([1.0, math.nan, 0.0])

    def p() -> Tensor:
        with pyro.poutine.mask(mask=~y.isnan()):
            return vmap(lane_of(None, True))(torch.tensor([0.3, 0.5, 0.2]))

    seen = condition(p, {"z": y})
    assert float(assess(seen, {})[0].exp()) == pytest.approx(0.3 * 0.8)
    assert denote(lambda: seen() * 0).mass() == pytest.approx(0.3 * 0.8)


@pytest.mark.parametrize("kind", ["scale", "mask"])
def test_factors_that_are_wider_than_all_lanes_are_refused(kind: str) -> None:
    factor = torch.ones((2, 3), dtype=torch.bool if kind == "mask" else torch.float64)

    def p() -> None:
        with around(kind, factor):
            vmap(lane_of(None, False))(torch.tensor([0.3, 0.5, 0.8]))

    for meaning in (lambda: denote(p), lambda: assess(p, {})):
        with pytest.raises(DataError, match=f"a {kind} of shape \\[2, 3\\] on a site"):
            meaning()
