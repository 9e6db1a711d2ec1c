"""Kernels for many chains: their involutions and faults, what warm-up learns, and whole runs.

Statistical tests are of level 1e-6 each, all their comparisons together, and have fixed seeds.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference import MCMC, Fit, chees, jittered_hmc, mams
from pushforward.inference.mcmc import Kernel, Parameters, State, hamiltonian
from pushforward.inference.mcmc.convergence import r_hat
from pushforward.inference.mcmc.ensemble import (
    Spread,
    Trajectory,
    careful,
    climb_init,
    climb_update,
    inverse_mass,
    mixed,
    slope,
    spread,
    trusted,
    van_der_corput,
)
from pushforward.inference.mcmc.hamiltonian import Phase, Potential, with_momentum
from pushforward.models.posteriordb import POSTERIORS
from pushforward.models.posteriordb.comparison import compared
from pushforward.ppl import seeded
from pushforward.semantics import Report, check

pytestmark = pytest.mark.usefixtures("double")

jittered = importlib.import_module("pushforward.inference.mcmc.jittered")
microcanonical = importlib.import_module("pushforward.inference.mcmc.mams")
kick = microcanonical.kick

LEVEL = 1e-6
KERNELS = {"jittered hmc": jittered_hmc(), "chees": chees(), "mams": mams()}


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def correlated(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2 / 0.36)


def funnel(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 / 9 + z[1] ** 2 * torch.exp(-z[0]) + z[0])


def twisted(z: Tensor) -> Tensor:
    """In three dimensions."""
    return -0.5 * (z[0] ** 2 + (z[1] - z[0] ** 2) ** 2 + 4 * (z[2] - 0.5 * z[0] * z[1]) ** 2)


TARGETS = {"correlated": (correlated, 2), "funnel": (funnel, 2), "twisted": (twisted, 3)}


def potential_of(log_density: Callable[[Tensor], Tensor]) -> Potential:
    both = torch.func.vmap(torch.func.grad_and_value(log_density))

    def potential(z: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = both(z)
        return value, gradient

    return potential


# ---------------------------------------------------------------------------- constant speed


def judged(name: str, accept: Any = jittered.acceptance, flip: float = 1.0) -> Report:
    """The check of three leapfrogs on rows (z, p) of R^2d, where p is any multiple of a direction.

    With J the Jacobian of the map on positions and directions, p is multiplied by J^(-1/d), so that
    the map on R^2d preserves volume, and pi(z) |p|^-d takes the place of pi(z).
    """
    log_density, d = TARGETS[name]
    target, scale = potential_of(log_density), 0.1 + 0.05 * torch.arange(d)

    def ends(x: Tensor) -> tuple[Phase, Phase]:
        state = State(x[:, :d], *target(x[:, :d]))
        before = with_momentum(state, microcanonical.on_sphere(x[:, d:]))
        return before, microcanonical.propose(before, target, scale, 3)

    def mapping(x: Tensor) -> Tensor:
        before, after = ends(x)
        gained = (after.log_density - after.log_weight) - (before.log_density - before.log_weight)
        size = x[:, d:].norm(dim=1) * (gained / d).exp() / math.sqrt(d)
        return torch.cat([after.position, flip * size[:, None] * after.momentum], 1)

    def extended(x: Tensor) -> Tensor:
        return torch.func.vmap(log_density)(x[:, :d]) - d * x[:, d:].norm(dim=1).log()

    points = 0.6 * torch.randn(500, 2 * d, generator=torch.Generator().manual_seed(0))
    return check.involution(mapping, lambda x: accept(*ends(x)), extended, points, tolerance=1e-11)


@pytest.mark.parametrize("name", TARGETS)
def test_the_microcanonical_proposal_is_a_reversible_involution(name: str) -> None:
    judged(name).require()


def from_densities(before: Phase, after: Phase) -> Tensor:
    return (after.log_density - before.log_density).clamp(max=0.0).exp()


def always(before: Phase, after: Phase) -> Tensor:
    return torch.ones_like(before.log_weight)


def without_kinetic(direction: Tensor, gradient: Tensor, time: float) -> Any:
    found = kick(direction, gradient, time)
    return found._replace(gained=torch.zeros_like(found.gained))


def backward_kinetic(direction: Tensor, gradient: Tensor, time: float) -> Any:
    found = kick(direction, gradient, time)
    return found._replace(gained=-found.gained)


def as_in_one_dimension_more(direction: Tensor, gradient: Tensor, time: float) -> Any:
    found, d = kick(direction, gradient, time), direction.shape[-1]
    return found._replace(gained=found.gained * d / (d - 1))


def half_kicks_backward(direction: Tensor, gradient: Tensor, time: float) -> Any:
    """A wrong sign of one of the kicks around each drift."""
    return kick(direction, -gradient if time == 0.5 else gradient, time)


def unit_gradients(direction: Tensor, gradient: Tensor, time: float) -> Any:
    """A turn that is not the one whose energy is counted."""
    wrong = kick(direction, gradient / gradient.norm(dim=1, keepdim=True), time)
    return kick(direction, gradient, time)._replace(direction=wrong.direction)


FAULTS: dict[str, tuple[Any, Any, float]] = {
    "no flip": (kick, jittered.acceptance, -1.0),
    "no kinetic energy": (without_kinetic, jittered.acceptance, 1.0),
    "kinetic energy of the wrong sign": (backward_kinetic, jittered.acceptance, 1.0),
    "d for d - 1": (as_in_one_dimension_more, jittered.acceptance, 1.0),
    "another turn": (unit_gradients, jittered.acceptance, 1.0),
    "accepts by densities alone": (kick, from_densities, 1.0),
    "accepts always": (kick, always, 1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_proposal_are_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, accept, flip = FAULTS[fault]
    monkeypatch.setattr(microcanonical, "kick", wrong)
    assert judged("twisted", accept, flip).verdict == "fail"


def largest_error(step: float) -> float:
    """Of the energy, along trajectories of duration 0.8."""
    target = potential_of(twisted)
    z, w = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1))
    before = with_momentum(State(z, *target(z)), microcanonical.on_sphere(w))
    after = microcanonical.propose(before, target, f([step] * 3), round(0.8 / step))
    return float((after.log_weight - before.log_weight).abs().max())


def test_small_steps_conserve_the_energy_to_second_order() -> None:
    coarse, fine = largest_error(0.005), largest_error(0.0025)
    assert fine < 1e-2 and coarse / fine == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("wrong", [half_kicks_backward, backward_kinetic, without_kinetic])
def test_a_kick_of_the_wrong_sign_does_not(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong signs at both ends keep detailed balance, and are found here alone."""
    monkeypatch.setattr(microcanonical, "kick", wrong)
    coarse, fine = largest_error(0.005), largest_error(0.0025)
    assert not (fine < 1e-2 and coarse / fine == pytest.approx(4.0, rel=0.1))


@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 1e6])
def test_kicks_add_up_and_keep_the_length(size: float) -> None:
    u = microcanonical.on_sphere(torch.randn(7, 4, generator=torch.Generator().manual_seed(0))) / 2
    g = size * torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    whole, first = kick(u, g, 1.0), kick(u, g, 0.4)
    second = kick(first.direction, g, 0.6)
    torch.testing.assert_close(second.direction, whole.direction)
    torch.testing.assert_close(first.gained + second.gained, whole.gained)
    torch.testing.assert_close(whole.direction.norm(dim=1), torch.ones(7))


def test_one_dimension_has_no_directions() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        microcanonical.on_sphere(torch.ones(3, 1))


# ------------------------------------------------------------------------------------- transitions

ROOT = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
CHAINS = 4000


def p_value(points: Tensor, root: Tensor) -> float:
    """Of independent draws of the normal law of covariance root root', by Bonferroni.

    Whitened and projected on directions, n draws have sums that are normal, and sums of squares
    that are chi-squared.  The directions are the axes, and those halfway between neighbours.
    """
    x = torch.linalg.solve_triangular(root, points.mT, upper=False).mT
    x = torch.cat([x, (x + x.roll(1, 1)) * math.sqrt(0.5)], 1)
    n = len(x)
    sums, squares = (x.sum(0) / math.sqrt(n)).numpy(), (x * x).sum(0).numpy()
    tails = [
        *(2 * stats.norm.sf(abs(sums))),
        *(2 * stats.chi2.cdf(squares, n)),
        *(2 * stats.chi2.sf(squares, n)),
    ]
    return len(sums) * 2 * float(min(tails))


def after_three_transitions(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Start and end of chains that start from exact draws, and share nothing but lengths."""
    parameters = Parameters(f(0.4), torch.ones(2))
    target = potential_of(correlated)
    with seeded(0), torch.no_grad():
        start = torch.randn(CHAINS, 2) @ ROOT.T
        state = kernel.init(start, target)
        for _ in range(3):
            state, _ = kernel.step(state, target, parameters)
    return start, state.position


@pytest.mark.parametrize("kernel", ["chees", "mams"])
def test_transitions_keep_exact_draws_exact(kernel: str) -> None:
    start, end = after_three_transitions(KERNELS[kernel])
    assert p_value(end, ROOT) >= LEVEL
    assert float((start != end).all(1).double().mean()) > 0.95


energy_weight = hamiltonian.energy_weight
WRONG: dict[str, tuple[str, Any, str, Any]] = {
    "chees accepts always": ("chees", jittered, "acceptance", always),
    "chees forgets half of the kinetic energy": (
        "chees", hamiltonian, "energy_weight", lambda lp, w: energy_weight(lp, w * 0.5**0.5)),
    "mams accepts always": ("mams", jittered, "acceptance", always),
    "mams forgets the kinetic energy": ("mams", microcanonical, "kick", without_kinetic),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_transitions_that_shift_the_target_are_rejected(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, module, attribute, wrong = WRONG[fault]
    monkeypatch.setattr(module, attribute, wrong)
    assert p_value(after_three_transitions(KERNELS[kernel])[1], ROOT) < LEVEL


def test_all_chains_make_as_many_leapfrogs_as_were_drawn() -> None:
    """Uniform on 1, ..., 8 where 8 of them are twice the mean length."""
    target, kernel = potential_of(correlated), KERNELS["chees"]
    with seeded(0), torch.no_grad():
        state = kernel.init(torch.zeros(3, 2), target)
        counts = []
        for _ in range(400):
            state, info = kernel.step(state, target, Parameters(f(0.25), torch.ones(2)))
            assert len(set(info.n_steps.tolist())) == 1
            counts.append(int(info.n_steps[0]))
    seen = torch.bincount(torch.tensor(counts), minlength=9)[1:]
    assert len(seen) == 8 and stats.chisquare(seen.numpy()).pvalue > LEVEL


# ----------------------------------------------------------------------------------------- warm-up


def circled(z: Tensor, w: Tensor, t: Tensor) -> Trajectory:
    """On a standard normal law, exactly."""
    end, momentum = z * t.cos() + w * t.sin(), w * t.cos() - z * t.sin()
    zero = torch.zeros(len(z))
    phases = Phase(z, w, -z, zero, zero), Phase(end, -momentum, -end, zero, zero)
    return Trajectory(*phases, torch.ones(len(z)), t)


@pytest.mark.parametrize("t", [0.3, 1.0, 2.0])
def test_the_slope_is_the_derivative_of_the_criterion(t: float) -> None:
    z, w = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1))
    centre = Spread(f([0.1, 0.0, -0.2, 0.0, 0.3]), torch.ones(5))

    def criterion(log_time: Tensor) -> Tensor:
        end = circled(z, w, log_time.exp()).after.position
        before, after = ((x - centre.mean).square().sum(1) for x in (z, end))
        share = weight / weight.sum()
        gain: Tensor = (share * (after - before).square()).sum() / 4
        return gain / (share * (before - (share * before).sum()).square()).sum()

    log_time = f(t).log().requires_grad_()
    (expected,) = torch.autograd.grad(criterion(log_time), log_time)
    found = slope(circled(z, w, f(t)), weight, centre, torch.ones(5))
    torch.testing.assert_close(found, expected)


def test_the_length_climbs_to_the_best_on_a_normal_law() -> None:
    """The mean of sin^2 over (0, 2 T) is greatest first at tan 4T = 4T, which is T = 1.1234."""
    climb, one = climb_init(f(0.3)), torch.ones(200)
    centre = Spread(torch.zeros(30), torch.ones(30))
    with seeded(0):
        for n in range(1, 400):
            t = 2 * van_der_corput(n) * climb.log_length.exp()
            z, w = torch.randn(2, 200, 30)
            up = slope(circled(z, w, t), one, centre, torch.ones(30))
            climb = climb_update(climb, up, 1 / (n // 8 + 1), f(3.0))
    assert float(climb.log_average.exp()) == pytest.approx(1.1234, rel=0.1)
    bound = climb_update(climb, f(1.0), 1.0, climb.log_length + 0.01)
    assert float(bound.log_length - climb.log_length) == pytest.approx(0.01)
    for nothing in (math.nan, math.inf, 0.0):
        assert climb_update(climb, f(nothing), 0.1, f(3.0)).log_length == climb.log_length


def test_trajectories_fill_the_lengths_evenly() -> None:
    assert [van_der_corput(n) for n in range(1, 6)] == [0.5, 0.25, 0.75, 0.125, 0.625]
    numbers = sorted(van_der_corput(n) for n in range(1, 128))
    assert numbers == [k / 128 for k in range(1, 128)]


def test_the_spread_of_parts_is_that_of_all() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    halves = [spread(x, torch.ones(len(x))) for x in (points[:40], points[40:])]
    found = mixed(*halves, 1 / 3)
    torch.testing.assert_close(found.mean, points.mean(0))
    torch.testing.assert_close(found.variance, points.var(0, correction=0))
    weighed = spread(torch.cat([points, f([[math.inf] * 3])]), torch.cat([torch.ones(60), f([0])]))
    torch.testing.assert_close(weighed, spread(points, torch.ones(60)))


def test_the_metric_of_a_normal_law_is_exact_from_any_points() -> None:
    scales, one = f([0.01, 1.0, 40.0]), torch.ones(9)
    points = 5 + torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    found = inverse_mass(spread(points, one), spread(-points / scales**2, one), one[:3])
    torch.testing.assert_close(found, scales**2)
    still = spread(torch.zeros(9, 3), one)
    assert torch.equal(inverse_mass(still, still, scales), scales)


def test_chains_that_are_rejected_take_smaller_steps_until_they_move() -> None:
    caution = f([1.0, 1.0, 0.25, 0.25, 0.75])
    probability = f([0.0, 0.9, 0.0, 0.9, 0.9])
    assert careful(caution, probability).tolist() == [0.25, 1.0, 0.0625, 0.5, 1.0]
    assert trusted(caution, probability).tolist() == [0.0, 0.9, 0.0, 0.0, 0.0]


def cliffs(z: Tensor) -> tuple[Tensor, Tensor]:
    """Normal but for walls far out, ten thousand times as steep."""
    beyond = (z.abs() - 5).clamp(min=0.0)
    return (-(z**2) / 2 - 1e4 * beyond**2).sum(-1), -z - 2e4 * beyond * z.sign()


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_that_start_on_a_cliff_come_down(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside() -> int:
        with seeded(0), torch.no_grad():
            start = torch.randn(64, 3)
            start[0] = 40.0
            assert KERNELS[kernel].sample is not None
            found = KERNELS[kernel].sample(KERNELS[kernel], cliffs, start, 60, 1)
        return int((found.state.position.abs() > 6).any(1).sum())

    assert outside() == 0
    ensemble = importlib.import_module("pushforward.inference.mcmc.ensemble")
    monkeypatch.setattr(ensemble, "careful", lambda caution, probability: caution)
    assert outside() == 1 or kernel == "mams"  # negative control; constant speed is slow anyway


# -------------------------------------------------------------------------------------- whole runs


def normal(root: Tensor) -> Callable[[], None]:
    def p() -> None:
        sample("x", dist.MultivariateNormal(torch.zeros(len(root)), scale_tril=root))

    return p


def ill_scaled() -> Tensor:
    return torch.logspace(-2, 2, 50).diag()


def banded() -> Tensor:
    """A series in time whose neighbours have correlation 0.7."""
    k = torch.arange(10.0)
    return torch.linalg.cholesky(0.7 ** (k[:, None] - k).abs())


def run(kernel: Kernel, p: Any, draws: int, *args: Any, **options: Any) -> Fit:
    about = {"chains": 128, "warmup": 200, "progress": False, "compiled": False}
    return MCMC(kernel, draws=draws, **{**about, **options}).run(p, *args, seed=3)


@pytest.mark.parametrize("root", [ill_scaled, banded])
@pytest.mark.parametrize("kernel", ["chees", "mams"])
def test_normal_laws_are_sampled(kernel: str, root: Callable[[], Tensor]) -> None:
    """The last draws of 512 chains, which depend on each other by what they share in warm-up."""
    fit = run(KERNELS[kernel], normal(root()), 30, chains=512)
    assert p_value(fit["x"][:, -1], root()) >= LEVEL
    assert p_value(1.2 * fit["x"][:, -1], root()) < LEVEL  # negative control


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_agree_after_few_transitions(kernel: str) -> None:
    """R-hat below 1.05 of a normal law in 20 dimensions, by 200 transitions and 32 draws."""
    fit = run(KERNELS[kernel], normal(torch.eye(20)), 32, thin=2)
    assert float(r_hat(fit["x"]).max()) < 1.05
    assert not fit.divergences


SCHOOLS = "eight_schools-eight_schools_noncentered"


@pytest.mark.parametrize("kernel", KERNELS)
def test_eight_schools_are_those_of_the_reference(kernel: str) -> None:
    """By 200 transitions and 32 draws, each of which is the last of five transitions."""
    p, args = POSTERIORS[SCHOOLS]()
    fit = run(KERNELS[kernel], p, 32, *args, thin=5, compiled=True)
    found = compared(fit, SCHOOLS)
    assert found.r_hat < 1.05 and found.worst() < 4.5


def test_a_run_goes_on_from_a_fit_and_from_a_file(tmp_path: Path) -> None:
    p = normal(banded())
    first = run(chees(), p, 5, chains=16, warmup=40)
    more = MCMC(chees(), 16, 7, progress=False, compiled=False).run(p, resume=first)
    assert more["x"].shape == (16, 12, 10)
    assert len(set(more.stats["step_size"].flatten().tolist())) == 1
    driver = MCMC(mams(), 16, 5, 40, progress=False, compiled=False)
    whole = driver.run(p, checkpoint=tmp_path / "run")
    again = driver.run(p, checkpoint=tmp_path / "run")
    assert torch.equal(whole["x"], again["x"])


@pytest.mark.parametrize("stop", [7, 27])
def test_an_interrupted_run_keeps_its_draws(stop: int) -> None:
    seen = []

    def watch(done: int, total: int, info: Any, parameters: Parameters) -> None:
        seen.append((done, total))
        if done == stop:
            raise KeyboardInterrupt

    kernel = chees()
    assert kernel.sample is not None
    with seeded(0), torch.no_grad():
        start = torch.randn(8, 2)
        found = kernel.sample(kernel, potential_of(correlated), start, 20, 30, progress=watch)
    assert found.interrupted and found.draws.shape == (8, max(stop - 20, 0), 2)
    assert seen == [(k, 50) for k in range(1, stop + 1)]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="mean length"):
        jittered_hmc(0.0)
    with pytest.raises(ValueError, match="most"):
        chees(0)
    with pytest.raises(ValueError, match="one dimension"):
        run(
            mams(),
            lambda: observe("y", dist.Normal(sample("x", dist.Normal(0.0, 1.0)), 1.0), 0.5),
            3,
        )
