"""Each lane of a ``vmap`` scores all its data, also those that are wider than their site.

The class: programs under ``vmap`` that observe more entries than the law and the plates of their
site have.  Members differ in the number of lanes, the shape of the law, the plate inside, the
further dimensions of the data, and in whether these are shared or a lane's own; their masses are
sums of products by hand, and every meaning is held to them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pushforward import assess, condition, dist, marginal, observe, plate, sample, vmap, weighted
from pushforward.errors import DataError
from pushforward.inference import Exact, importance
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


@dataclass(frozen=True)
class Member:
    """Lanes of a latent z ~ Bernoulli(chance) and data ~ Bernoulli((0.2 + 0.6 z) * slope)."""

    chances: Tensor  # [lanes]
    slopes: Tensor  # [lanes, *law], or [*law] of all lanes
    data: Tensor  # [lanes, *more, *law], or [*more, *law] of all lanes
    own_slopes: bool
    own_data: bool
    plated: bool

    def program(self) -> Any:
        def lane(chance: Tensor, slope: Tensor, y: Tensor) -> Tensor:
            z = sample("z", dist.Bernoulli(chance))
            if self.plated:
                with plate("row", slope.shape[-1]):
                    observe("y", dist.Bernoulli((0.2 + 0.6 * z) * slope), y)
            else:
                observe("y", dist.Bernoulli((0.2 + 0.6 * z) * slope), y)
            return z

        axes = (0, 0 if self.own_slopes else None, 0 if self.own_data else None)
        lanes = vmap(lane, in_axes=axes)
        return lambda: lanes(self.chances, self.slopes, self.data)

    def weights(self) -> list[list[float]]:
        """Prior times likelihood of z = 0 and of z = 1, of each lane."""
        found = []
        for i, chance in enumerate(self.chances.tolist()):
            slope = np.asarray(self.slopes[i] if self.own_slopes else self.slopes)
            y = np.asarray(self.data[i] if self.own_data else self.data)
            row = []
            for z, prior in ((0, 1 - chance), (1, chance)):
                p = (0.2 + 0.6 * z) * slope
                row.append(prior * float(np.where(y == 1, p, 1 - p).prod()))
            found.append(row)
        return found

    def mass(self) -> float:
        return math.prod(sum(row) for row in self.weights())


def members(seed: int) -> Iterator[Member]:
    draws = random.Random(seed)

    def numbers(shape: tuple[int, ...], of: Callable[[], float]) -> Tensor:
        return torch.tensor([of() for _ in range(math.prod(shape))]).reshape(shape)

    laws = [((), False), ((1,), False), ((2,), False), ((2,), True), ((3,), True), ((3, 2), True)]
    for lanes, (law, plated), more in itertools.product((1, 2, 3), laws, ((), (2,), (3,), (2, 3))):
        own_slopes, own_data = draws.choice([True, False]), draws.choice([True, False])
        yield Member(
            numbers((lanes,), lambda: draws.uniform(0.1, 0.9)),
            numbers((lanes, *law) if own_slopes else law, lambda: draws.uniform(0.3, 1.0)),
            numbers(((lanes,) if own_data else ()) + more + law, lambda: draws.choice([0.0, 1.0])),
            own_slopes,
            own_data,
            plated,
        )


@pytest.mark.parametrize("seed", range(2))
def test_every_meaning_scores_all_entries_in_each_lane(seed: int) -> None:
    for member in members(seed):
        p, mass, weights = member.program(), member.mass(), member.weights()
        assert denote(p).mass() == pytest.approx(mass, rel=1e-12), member
        for zs in itertools.product((0, 1), repeat=len(weights)):
            by_hand = math.prod(row[z] for row, z in zip(weights, zs, strict=True))
            found = float(assess(p, {"z": torch.tensor(zs).double()})[0].exp())
            assert found == pytest.approx(by_hand, rel=1e-12), (member, zs)
        assert float(assess(marginal(p, exact=True), {})[0].exp()) == pytest.approx(mass), member
        assert math.exp(Exact(draws=1).run(p).log_evidence) == pytest.approx(mass), member


def test_algorithms_in_lanes_and_lanes_in_lanes_do_too() -> None:
    y = torch.tensor([1.0, 0.0, 1.0])
    chances = torch.tensor([[0.3, 0.6, 0.2], [0.5, 0.1, 0.7], [0.4, 0.4, 0.9]])

    def lane(chance: Tensor) -> Tensor:
        z = sample("z", dist.Bernoulli(chance))
        observe("y", dist.Bernoulli(0.2 + 0.6 * z), y)
        return z

    def mass(chance: float) -> float:
        return (1 - chance) * 0.2 * 0.8 * 0.2 + chance * 0.8 * 0.2 * 0.8

    by_hand = math.prod(mass(chance) for chance in chances.flatten().tolist())
    nested = vmap(vmap(lane))
    total = sum(
        float(assess(nested, {"z": torch.tensor(zs).reshape(3, 3)}, chances)[0].exp())
        for zs in itertools.product((0.0, 1.0), repeat=9)
    )
    assert total == pytest.approx(by_hand)
    # each of two particles has a row of three lanes, and weighs as many entries
    row = chances[0]
    particles = denote(lambda: importance(lambda: vmap(lane)(row), 2)().log_evidence().exp())
    assert float(particles.expect()) == pytest.approx(
        math.prod(mass(chance) for chance in row.tolist())
    )


def test_entries_for_lanes_are_told_from_entries_for_data() -> None:
    """What aligned data with lanes is another number, and is not found."""
    slopes, y = torch.tensor([0.3, 0.5, 0.8]), torch.tensor([1.0, 0.0, 1.0])

    def p() -> None:
        vmap(lambda q: observe("y", dist.Bernoulli(q), y))(slopes)

    found = float(assess(p, {})[0].exp())
    by_hand = math.prod(q * (1 - q) * q for q in slopes.tolist())
    aligned = (0.3 * (1 - 0.5) * 0.8) ** 3  # three times entry i by lane i
    assert found == pytest.approx(by_hand)
    assert abs(found - aligned) > 0.1 * by_hand


WIDE = torch.ones(3, 3)


def test_data_from_outside_that_are_wider_than_the_lanes_are_refused() -> None:
    lanes = vmap(lambda q: sample("y", dist.Bernoulli(q)))
    slopes = torch.tensor([0.3, 0.5, 0.8])
    assert float(assess(condition(lanes, {"y": WIDE[0]}), {}, slopes)[0].exp()) == pytest.approx(
        0.3 * 0.5 * 0.8
    )
    for meaning in (
        lambda: assess(condition(lanes, {"y": WIDE}), {}, slopes),
        lambda: assess(lanes, {"y": WIDE}, slopes),
        lambda: condition(lanes, {"y": WIDE}).type(slopes),
        lambda: Exact(draws=1).run(condition(lanes, {"y": WIDE}), slopes),
    ):
        with pytest.raises(DataError, match=r"data of shape \[3, 3\] for a site of batch \[3\]"):
            meaning()


@pytest.mark.parametrize("where", ["scale", "mask"])
def test_factors_for_lanes_are_not_taken_for_those_of_entries(where: str) -> None:
    factors = {"scale": torch.tensor([1.0, 2.0, 0.5]), "mask": torch.tensor([True, False, True])}
    around: Any = {
        "scale": lambda: pyro.poutine.scale(scale=factors["scale"]),
        "mask": lambda: pyro.poutine.mask(mask=factors["mask"]),
    }[where]
    slopes, y = torch.tensor([0.3, 0.5, 0.8]), torch.tensor([1.0, 0.0, 1.0])
    wide = vmap(lambda q: observe("y", dist.Bernoulli(q), y))
    scores = vmap(lambda q: weighted(lambda: observe("y", dist.Bernoulli(q), y[0]))()[1])

    def outside(lanes: Any) -> Any:
        with around():
            return lanes(slopes)

    for lanes in (wide, scores):
        with pytest.raises(DataError, match=f"a {where} of shape \\[3\\] around lanes"):
            assess(lambda lanes=lanes: outside(lanes), {})

    def lane(q: Tensor) -> None:
        with around():
            observe("y", dist.Bernoulli(q), y)

    log = lambda q: np.log([q, 1 - q, q])  # noqa: E731
    by_hand = sum(float(log(q) @ factors[where].double().numpy()) for q in slopes.tolist())
    for meaning in (
        lambda: float(assess(vmap(lane), {}, slopes)[0]),
        lambda: denote(vmap(lane), slopes).log_mass(),
    ):
        assert meaning() == pytest.approx(by_hand)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 1)])
def test_a_scale_that_is_wider_than_its_site_is_refused_in_every_meaning(
    shape: tuple[int, ...],
) -> None:
    """It would count one choice, or one datum, several times; ones in front count it once."""
    slopes = torch.tensor([0.3, 0.5, 0.8])

    def of(site: Callable[[Tensor], Tensor], scale: Tensor) -> Any:
        def lane(q: Tensor) -> Tensor:
            with pyro.poutine.scale(scale=scale):
                return site(q)

        return lane

    def latent(q: Tensor) -> Tensor:
        return sample("z", dist.Bernoulli(q))

    def seen(q: Tensor) -> Tensor:
        return observe("z", dist.Bernoulli(q), torch.tensor(1.0))

    for site in (latent, seen):
        lane = of(site, torch.ones(shape))
        for meaning in (
            lambda lane=lane: denote(lane, slopes[0]),
            lambda lane=lane: denote(vmap(lane), slopes),
        ):
            with pytest.raises(DataError, match=r"a scale of shape \[.*\] on a site of batch"):
                meaning()
    for meaning in (
        lambda: assess(of(seen, torch.ones(shape)), {}, slopes[0]),
        lambda: assess(vmap(of(seen, torch.ones(shape))), {}, slopes),
    ):
        with pytest.raises(DataError, match=r"a scale of shape \[.*\] on a site of batch"):
            meaning()
    found = float(assess(of(seen, torch.tensor([2.0])), {}, slopes[0])[0].exp())
    assert found == pytest.approx(0.3**2)
