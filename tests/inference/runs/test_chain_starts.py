"""Where chains are told to start: at values, at draws of a fit, at draws of paths; and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from support.killed import OBSERVED, QUIET, X, line
from torch import Tensor
from torch.distributions import constraints

from pushforward.errors import DataError, InitializationError, SupportError
from pushforward.inference import MAP, MCMC, Fit, Pathfinder, chees, hmc, nuts
from pushforward.inference.drivers import starts
from pushforward.inference.kernels import single_site
from pushforward.inference.runs.paths import Target, pathfinder
from pushforward.inference.runs.start import starting_points
from pushforward.ppl import condition, factor, observe, plate, program, sample
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.seeds import seeded

SHORT: dict[str, Any] = {
    **QUIET,
    "chains": 3,
    "draws": 4,
    "warmup": 3,
    "dtype": torch.float32,
}
DENSITY = LogDensity(OBSERVED, X, turning=True)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The vectors [chains, d] that each run began with."""
    found: list[Tensor] = []
    sampled = MCMC._sampled

    def noted(self: MCMC, kernel: Any, engine: Any, potential: Any, u0: Tensor, *rest: Any) -> Any:
        found.append(u0)
        return sampled(self, kernel, engine, potential, u0, *rest)

    monkeypatch.setattr(MCMC, "_sampled", noted)
    return found


def values(u: Tensor, density: LogDensity = DENSITY) -> dict[str, Tensor]:
    """The program's own values at vectors [chains, d], [chains, *shape]."""
    each = [density.layout.unpack(row)[0] for row in u]
    return {name: torch.stack([x[name] for x in each]) for name in each[0]}


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("compiled", [False, True])
def test_chains_start_at_values(begun: list[Tensor], compiled: bool) -> None:
    init = {"a": 0.5, "b": torch.tensor([0.5, 1.0, 2.0])}
    MCMC(nuts(), init=init, **{**SHORT, "compiled": compiled}).run(OBSERVED, X)
    assert begun[0][:, 0].tolist() == [0.5, 0.5, 0.5]
    assert torch.equal(begun[0][:, 1], torch.tensor([0.5, 1.0, 2.0]).log())


@pytest.mark.parametrize("kernel", [hmc(3), chees()], ids=["hmc", "chees"])
def test_chains_of_any_kernel_on_vectors_start_there(begun: list[Tensor], kernel: Any) -> None:
    MCMC(kernel, init={"a": 0.25, "b": 1.0}, **SHORT).run(OBSERVED, X)
    assert begun[0].tolist() == [[0.25, 0.0]] * 3


def test_sites_that_are_left_out_start_at_random(begun: list[Tensor]) -> None:
    method = MCMC(init={"b": 3.0}, **SHORT)
    for seed in (0, 0, 1):
        method.run(OBSERVED, X, seed=seed)
    a, b = begun[0].unbind(1)
    assert torch.allclose(b.exp(), torch.tensor(3.0)) and len({*a.tolist()}) == 3
    assert torch.equal(begun[0], begun[1]) and not torch.equal(begun[0], begun[2])


def test_a_random_site_starts_where_the_given_ones_allow_it(begun: list[Tensor]) -> None:
    """Given x = 50 there is a density for y below 0 only, and next to none at random x."""

    @program
    def narrow() -> None:
        x, y = (sample(n, dist.ImproperUniform(constraints.real, (), ())) for n in "xy")
        law = -0.5 * (x - 50.0).square() - 0.5 * y.square()
        factor("f", torch.where((x > 49.0) & (y < 0.0), law, -torch.inf))

    MCMC(init={"x": 50.0}, **SHORT).run(narrow)
    assert begun[0][:, 0].tolist() == [50.0] * 3 and bool((begun[0][:, 1] < 0.0).all())


@program
def shaped() -> None:
    p = sample("p", dist.Dirichlet(torch.ones(3)))
    angle = sample("angle", dist.VonMises(0.0, 1.0))
    with plate("two", 2):
        sample("z", dist.Normal(angle, 1.0 + p[0]))


def test_values_of_any_shape_come_back(begun: list[Tensor]) -> None:
    init = {
        "p": torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]),
        "angle": torch.tensor([-3.0, 0.0, 3.0]),
        "z": torch.tensor([1.0, -1.0]),
    }
    MCMC(init=init, **SHORT).run(shaped)
    found = values(begun[0], LogDensity(shaped, turning=True))
    assert torch.allclose(found["p"], init["p"], atol=1e-6)
    assert torch.allclose(found["angle"], init["angle"], atol=1e-6)
    assert found["z"].tolist() == [[1.0, -1.0]] * 3


@pytest.mark.parametrize(
    ("init", "error", "said"),
    [
        ({"c": 1.0}, DataError, "no latent site is called c.*the latents are a, b"),
        ({"y": torch.zeros(3)}, DataError, "no latent site is called y"),
        ({"a": torch.zeros(2)}, DataError, r"shape \[2\].*'a'.*give one of shape \[\], or \[3\]"),
        ({"b": -1.0}, SupportError, "-1 is not in the interior.*'b'"),
        ({"b": torch.nan}, SupportError, "nan is not in the interior.*'b'"),
        (
            {"a": 1e30, "b": torch.tensor([1.0, 1e9, 1.0])},
            InitializationError,
            "log density of chain 0 is not finite.*'y'.*start within the support",
        ),
        ({"a": 1e30}, InitializationError, "chain 0 has no start at its values: no starting point"),
    ],
)
def test_wrong_values_are_refused(init: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        MCMC(init=init, **SHORT).run(OBSERVED, X)


# Members of the class of values that are no real numbers, alone and among such.
NO_NUMBERS: list[Any] = [
    *("a", None, 1j, True, {}, object(), lambda: 1.0, (1.0, "a", 2.0), [[1.0], [1.0, 2.0]]),
    *(torch.tensor(1j), torch.tensor([True, False, True]), np.array(["a", "b", "c"])),
    *([None] * 3, [0.5, None, 1.0], b"1.0"),
]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_values_that_are_no_numbers_are_refused_by_name(value: Any) -> None:
    with pytest.raises(DataError, match=r"init: .* is no real number.*site 'b'.*one for each"):
        MCMC(init={"a": 0.5, "b": value}, **SHORT).run(OBSERVED, X)


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(2.0), np.array([1, 2, 3]), [0.5, 1.0, 2.0], (1, 2, 3)]
)
def test_values_that_are_numbers_are_not(begun: list[Tensor], value: Any) -> None:
    MCMC(init={"a": 0.5, "b": value}, **SHORT).run(OBSERVED, X)
    expected = torch.as_tensor(value).float().expand(3)
    torch.testing.assert_close(begun[0][:, 1].exp(), expected)


def test_names_that_are_no_words_are_refused() -> None:
    with pytest.raises(DataError, match=r"no latent site is called 3.*the latents are a, b"):
        MCMC(init={3: 0.5}, **SHORT).run(OBSERVED, X)  # type: ignore[dict-item]


# -------------------------------------------------------------------------------------------- fits


def rows(u: Tensor) -> list[tuple[float, ...]]:
    return [tuple(round(x, 5) for x in row) for row in u.tolist()]


def test_chains_start_at_draws_of_a_fit(begun: list[Tensor]) -> None:
    fit = MCMC(**SHORT).run(OBSERVED, X)
    held = rows(torch.stack([fit["a"].flatten(), fit["b"].flatten()], 1))
    for seed in (0, 0, 1):
        MCMC(init=fit, **SHORT).run(OBSERVED, X, seed=seed)
    _, first, again, other = begun
    at = values(first)
    chosen = rows(torch.stack([at["a"], at["b"]], 1))
    assert {*chosen} <= {*held} and len({*chosen}) == 3
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_fit_by_another_method_will_do_and_few_draws_are_shared(begun: list[Tensor]) -> None:
    fit = Pathfinder(paths=1, draws=2, resample=False, **QUIET).run(OBSERVED, X)
    MCMC(init=fit, **SHORT).run(OBSERVED, X)
    assert len({*rows(begun[0])}) == 2


def test_fits_of_other_programs_are_refused() -> None:
    with pytest.raises(DataError, match="no latent site is called p, angle, z"):
        MCMC(init=MCMC(**SHORT).run(shaped), **SHORT).run(OBSERVED, X)
    with pytest.raises(DataError, match="holds no draws"):
        MCMC(init=Fit("none", {"a": torch.zeros(1, 0)}, latents=("a",)), **SHORT).run(OBSERVED, X)


# ------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("compiled", [False, True])
def test_each_chain_starts_at_a_draw_of_its_own_path(begun: list[Tensor], compiled: bool) -> None:
    method = MCMC(init="pathfinder", **{**SHORT, "compiled": compiled})
    for seed in (4, 4, 5):
        method.run(OBSERVED, X, seed=seed)
    with seeded(4):
        u = starting_points(DENSITY, 3)
        potential = Potential(DENSITY, u, compiled=compiled)
        target = Target(potential, u, None if compiled else 3)
        for i, start in enumerate(u.double()):
            law = pathfinder(target, start).normal
            assert law is not None
            noise = torch.distributions.Normal(torch.zeros(2).double(), 1.0)
            points = law.points(noise.sample((starts.TRIES,)))
            assert torch.equal(begun[0][i], points[0].float())
    assert torch.equal(begun[0], begun[1]) and not torch.equal(begun[0], begun[2])


def test_a_chain_whose_path_fails_starts_at_random_and_this_is_told(begun: list[Tensor]) -> None:
    @program
    def rising() -> None:
        x = sample("x", dist.ImproperUniform(constraints.real, (), ()))
        factor("f", torch.where(x < 0.0, -x - 5.0, -0.5 * (x - 9.0).square()))

    fit = MCMC(hmc(1), init="pathfinder", **{**SHORT, "warmup": 0, "chains": 8, "draws": 8}).run(
        rising
    )
    with seeded(0):
        u = starting_points(LogDensity(rising), 8)
    told = [note for note in fit.warnings() if "started at random, and not by a path" in note]
    stayed = begun[0][:, 0] == u[:, 0]
    assert 0 < len(told) < 8 and int(stayed.sum()) == len(told)
    assert bool((u[stayed] < 0.0).all()) and bool((begun[0][~stayed] > 5.0).all())


def test_a_program_without_latents_has_no_path() -> None:
    @program
    def constant() -> None:
        observe("y", dist.Normal(0.0, 1.0), torch.tensor(0.5))

    assert MCMC(hmc(1), init="pathfinder", **SHORT).run(constant).stats["lp"].shape == (3, 4)


# ------------------------------------------------------------------------------------------- peaks


@program
def correlated() -> None:
    """By hand: the mean is (1, -2), of covariance [[4, 1.2], [1.2, 1]]; b is a log of a scale."""
    a = sample("a", dist.Normal(1.0, 2.0))
    sample("b", dist.LogNormal(-2.0 + 0.3 * (a - 1.0), 0.8))


MEAN, COVARIANCE = torch.tensor([1.0, -2.0]), torch.tensor([[4.0, 1.2], [1.2, 1.0]])


def covered(u: Tensor) -> float:
    """The p-value of vectors being draws of the posterior above, by their squared distances."""
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(COVARIANCE), (u - MEAN).T, upper=False)
    return float(chi2.sf(float(z.square().sum()), u.numel()))


@pytest.mark.parametrize("compiled", [False, True])
def test_chains_start_at_the_peak_or_at_draws_of_the_law_there(
    begun: list[Tensor], compiled: bool
) -> None:
    method: dict[str, Any] = {**SHORT, "chains": 12, "compiled": compiled}
    MCMC(hmc(1), init="map", **method).run(correlated)
    torch.testing.assert_close(begun[0], MEAN.expand(12, 2), atol=1e-4, rtol=0.0)
    for seed in (4, 4, 5):
        MCMC(hmc(1), init="laplace", **method).run(correlated, seed=seed)
    _, first, again, other = begun
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({*rows(first)}) == 12 and 1e-4 < covered(first) < 1 - 1e-4  # level 2e-4
    assert covered(begun[0]) > 1 - 1e-6  # the negative control: no draws, but the mode


def test_chains_climb_to_peaks_of_their_own(begun: list[Tensor]) -> None:
    """Peaks at -3 and 3 of equal mass: each chain comes to that of its side."""

    @program
    def two() -> None:
        x = sample("x", dist.ImproperUniform(constraints.real, (), ()))
        factor("f", (-8.0 * torch.stack([x - 3.0, x + 3.0]).square()).logsumexp(0))

    for init in ("map", "laplace"):
        MCMC(hmc(1), init=init, **{**SHORT, "chains": 12}).run(two)
        with seeded(0):
            u = starting_points(LogDensity(two), 12)[:, 0]
        at = begun.pop()[:, 0]
        assert torch.equal(at.sign(), u.sign()) and 0 < int((at > 0).sum()) < 12
        off = (at.abs() - 3.0).abs()
        assert float(off.max()) < (1e-4 if init == "map" else 5 / 4)


@pytest.mark.parametrize("init", ["map", "laplace"])
def test_a_chain_without_a_peak_starts_at_random_and_this_is_told(
    begun: list[Tensor], init: Any
) -> None:
    @program
    def edge() -> None:
        x = sample("x", dist.ImproperUniform(constraints.real, (), ()))
        factor("f", torch.where(x < 0.0, -x - 5.0, -0.5 * (x - 9.0).square()))

    fit = MCMC(hmc(1), init=init, **{**SHORT, "warmup": 0, "chains": 8, "draws": 8}).run(edge)
    told = [note for note in fit.warnings() if "started at random, and not by a peak" in note]
    with seeded(0):
        u = starting_points(LogDensity(edge), 8)
    stayed = begun[0][:, 0] == u[:, 0]
    assert 0 < len(told) < 8 and int(stayed.sum()) == len(told)
    assert bool((u[stayed] < 0.0).all()) and bool((begun[0][~stayed] > 5.0).all())
    assert all("'x'" in note for note in told)


def test_a_fit_by_map_is_a_start(begun: list[Tensor]) -> None:
    fit = MAP(jacobian=True).run(OBSERVED, X)
    MCMC(init=fit, **SHORT).run(OBSERVED, X)
    MCMC(init="map", **SHORT).run(OBSERVED, X)
    assert len({*rows(begun[0])}) == 1
    torch.testing.assert_close(*begun, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------- with other ways to begin


@program
def schools() -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 8):
        theta = sample("theta", dist.Normal(mu, tau))
        law = dist.StudentT(400.0, theta, 12.0)  # not quadratic, so not integrated out
        observe("y", law, torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]))


def test_rewritten_programs_take_the_sites_that_they_keep(begun: list[Tensor]) -> None:
    method: dict[str, Any] = {**SHORT, "rewrite": "auto", "compiled": True}
    MCMC(init={"mu": 1.0, "tau": 2.0}, **method).run(schools)
    assert begun[0][:, 0].tolist() == [1.0] * 3 and begun[0].shape == (3, 10)
    with pytest.raises(DataError, match=r"rewrite='auto' made.*theta non-centred.*'pathfinder'"):
        MCMC(init={"theta": torch.zeros(8)}, **method).run(schools)
    fit = MCMC(init="pathfinder", **method).run(schools)
    assert "theta" in fit.draws
    with pytest.raises(DataError, match="rewrite='auto' made"):
        MCMC(init=fit, **method).run(schools)


def test_a_resumed_run_takes_no_init() -> None:
    fit = MCMC(**SHORT).run(OBSERVED, X)
    for init in ("pathfinder", "map", "laplace", {"a": 1.0}, fit):
        with pytest.raises(DataError, match=r"takes no init.*leave init out"):
            MCMC(init=init, **SHORT).run(OBSERVED, X, resume=fit)
    begun = MCMC(init="pathfinder", **SHORT).run(OBSERVED, X)
    assert MCMC(**SHORT).run(OBSERVED, X, resume=begun).size == 8


def test_kernels_on_traces_take_no_init() -> None:
    for init in ("pathfinder", "map", "laplace", {"a": 1.0}):
        with pytest.raises(ValueError, match="start from the prior: leave init out"):
            MCMC(single_site(), init=init, **SHORT).run(OBSERVED, X)


def test_an_init_is_a_word_values_or_a_fit() -> None:
    words = "'random', 'map', 'laplace', 'pathfinder'"
    said = rf"init is {words}, values by site, or a fit, .*test_chain_starts"
    for init in ("prior", "MAP", True, None, 0.5, ["random"], torch.zeros(3), line, [("a", 0.5)]):
        with pytest.raises(ValueError, match=said):
            MCMC(init=init)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["pathfinder", "values", "fit"])
def test_a_checkpoint_is_of_one_way_to_begin(kind: str, tmp_path: Path) -> None:
    fit = MCMC(**SHORT).run(OBSERVED, X)
    inits: dict[str, Any] = {"pathfinder": "pathfinder", "values": {"a": 1.0}, "fit": fit}
    others: list[Any] = ["random", {"a": 2.0}, MCMC(**SHORT).run(OBSERVED, X, seed=1)]
    path = tmp_path / "run"
    first = MCMC(init=inits[kind], **SHORT).run(OBSERVED, X, checkpoint=path)
    again = MCMC(init=inits[kind], **SHORT).run(OBSERVED, X, checkpoint=path)
    assert torch.equal(first["a"], again["a"]) and torch.equal(first["b"], again["b"])
    for other in others:
        with pytest.raises(DataError, match=r"of another run: init .* is now"):
            MCMC(init=other, **SHORT).run(OBSERVED, X, checkpoint=path)


def test_the_data_of_a_program_decide_its_paths(begun: list[Tensor]) -> None:
    elsewhere = condition(line, {"y": torch.tensor([9.0, -30.0, 95.0])})
    for p in (OBSERVED, elsewhere):
        MCMC(init="pathfinder", **SHORT).run(p, X)
    assert not torch.equal(*begun)
