"""The effects and combinators of the language, each by its meaning under every interpretation."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import (
    BranchError,
    DataError,
    DuplicateNameError,
    NoDensityError,
    ProgramError,
)
from pushforward.inference import MCMC, nuts
from pushforward.ppl import (
    assess,
    cond,
    condition,
    deterministic,
    draw,
    factor,
    generate,
    iterate,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    seeded,
    simulate,
    untraced,
    vmap,
    weighted,
)
from pushforward.semantics import denote


def f(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@program
def rain() -> Tensor:
    wet = sample("rain", dist.Bernoulli(f(0.25)))
    observe("grass", dist.Bernoulli(0.25 + 0.5 * wet), f(1.0))
    return deterministic("dry", 1.0 - wet)


# --------------------------------------------------------------------------------- interpretations


def test_simulate_records_every_kind_of_site() -> None:
    trace = simulate(rain, seed=0)
    wet = float(trace.choices["rain"])
    assert trace.observed == {"grass": f(1.0)}
    assert trace.derived == {"dry": f(1.0 - wet)}
    assert float(trace.value) == 1.0 - wet
    expected = math.log(0.25 if wet else 0.75) + math.log(0.25 + 0.5 * wet)
    assert float(trace.log_density) == pytest.approx(expected, abs=1e-15)


def test_assess_is_the_density_at_given_choices() -> None:
    log_density, value = assess(rain, {"rain": f(1.0)})
    assert float(log_density) == pytest.approx(math.log(0.25 * 0.75), abs=1e-15)
    assert float(value) == 0.0
    with pytest.raises(DataError, match=r"no value for \['rain'\]"):
        assess(rain, {})
    with pytest.raises(DataError, match=r"no site called \['snow'\]"):
        assess(rain, {"rain": f(1.0), "snow": f(1.0)})


def test_generate_weighs_what_was_given_and_observed() -> None:
    trace, log_weight = generate(rain, {"rain": f(0.0)})
    assert float(log_weight) == pytest.approx(math.log(0.75 * 0.25), abs=1e-15)
    assert float(trace.value) == 1.0
    free, log_weight = generate(rain, {}, seed=1)
    assert float(log_weight) == pytest.approx(math.log(0.25 + 0.5 * float(free.choices["rain"])))
    with pytest.raises(DataError, match="no site called"):
        generate(rain, {"snow": f(1.0)})


def test_a_seed_fixes_a_simulation_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    p = program(lambda: sample("x", dist.Normal(0.0, 1.0)))
    first, second = simulate(p, seed=3).value, simulate(p, seed=3).value
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(simulate(p).value, first)


def test_effects_outside_any_handler_mean_themselves() -> None:
    observe("x", dist.Normal(0.0, 1.0), f(0.5))
    factor("w", -1.0)
    assert float(deterministic("y", f(2.0))) == 2.0
    assert draw(dist.Bernoulli(f(1.0)), (3,)).tolist() == [1.0, 1.0, 1.0]


# ------------------------------------------------------------------------------------------ effects


def test_a_draw_is_anonymous_but_counts() -> None:
    @program
    def hidden() -> Tensor:
        return draw(dist.Bernoulli(f(0.25))) + sample("x", dist.Bernoulli(f(0.5)))

    assert simulate(hidden).choices.keys() == {"x"}
    assert denote(hidden).pmf() == pytest.approx({0.0: 0.375, 1.0: 0.5, 2.0: 0.125})
    with pytest.raises(NoDensityError, match="no exact density"):
        assess(hidden, {"x": f(1.0)})
    with pytest.raises(NoDensityError, match="no exact density"):
        pyro.poutine.trace(hidden).get_trace()


def test_a_program_without_draws_is_a_pyro_model() -> None:
    trace = pyro.poutine.trace(pyro.poutine.condition(rain, {"rain": f(1.0)})).get_trace()
    assert float(trace.log_prob_sum()) == pytest.approx(math.log(0.25 * 0.75), abs=1e-15)


def test_draws_obey_plates() -> None:
    @program
    def plated() -> Tensor:
        with plate("n", 4):
            return draw(dist.Normal(0.0, 1.0))

    value = simulate(plated, seed=0).value
    assert value.shape == (4,)
    assert len(set(value.tolist())) == 4


def test_a_name_may_be_used_once_on_a_path() -> None:
    @program
    def twice() -> Tensor:
        sample("x", dist.Bernoulli(f(0.5)))
        return sample("x", dist.Bernoulli(f(0.5)))

    for run in (lambda: simulate(twice), lambda: denote(twice), twice.type):
        with pytest.raises(DuplicateNameError, match=r"'x'.*rename"):
            run()


def test_a_name_may_stand_in_both_arms_of_a_branch() -> None:
    @program
    def arms() -> Tensor:
        if sample("b", dist.Bernoulli(f(0.5))) == 1:
            return sample("x", dist.Bernoulli(f(0.25)))
        return sample("x", dist.Bernoulli(f(0.75)))

    assert denote(arms).pmf() == pytest.approx({0.0: 0.5, 1.0: 0.5})


# ------------------------------------------------------------------------------------ conditioning


def test_conditioning_makes_an_observation() -> None:
    @program
    def coin() -> Tensor:
        p = sample("p", dist.Categorical(f([0.5, 0.5])))
        sample("y", dist.Bernoulli(0.25 + 0.5 * p))
        return p

    assert denote(condition(coin, {"y": 1.0})).pmf() == pytest.approx({0: 0.125, 1: 0.375})
    both = condition(condition(coin, {"y": 1.0}), {"p": 1})
    assert denote(both).mass() == pytest.approx(0.375)
    assert "y: Bool observed" in str(condition(coin, {"y": 1.0}).type())


def test_data_for_observed_or_missing_sites_are_refused() -> None:
    with pytest.raises(DataError, match=r"already observes.*'grass'"):
        simulate(condition(rain, {"grass": f(1.0)}))
    for run in (lambda p: p.type(), denote):
        with pytest.raises(DataError, match="does not exist: 'snow'"):
            run(condition(rain, {"snow": f(1.0)}))


def test_scope_prefixes_names_and_conditions_see_the_full_name() -> None:
    @program
    def scoped() -> Tensor:
        with scope("today"), scope("london"):
            return rain.fn()

    assert simulate(scoped).choices.keys() == {"today/london/rain"}
    assert denote(condition(scoped, {"today/london/rain": 1.0})).mass() == pytest.approx(0.1875)

    @program
    def inside() -> Tensor:
        with scope("today"):
            return condition(rain, {"rain": 1.0})()

    assert denote(inside).mass() == pytest.approx(0.1875)


# -------------------------------------------------------------------------------------- combinators


def test_scan_threads_a_carry_and_stacks_outputs() -> None:
    def step(c: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = sample("z", dist.Bernoulli(f(0.5)))
        return c + z * x, {"before": c}

    @program
    def walk() -> tuple[Tensor, dict[str, Tensor]]:
        return scan(step)(f(0.0), f([1.0, 10.0, 100.0]))

    trace = simulate(condition(walk, {"z": f([1.0, 0.0, 1.0])}))
    last, ys = trace.value
    assert float(last) == 101.0
    assert ys["before"].tolist() == [0.0, 1.0, 1.0]
    assert trace.observed.keys() == {"z[0]", "z[1]", "z[2]"}
    assert len(denote(lambda: walk()[0])) == 8
    with pytest.raises(ProgramError, match="one length"):
        scan(step)(f(0.0), (f([1.0]), f([1.0, 2.0])))


def test_iterate_stops_once_it_may() -> None:
    p = iterate(lambda c: c + sample("s", dist.Bernoulli(f(0.5))), 3, until=lambda c: c >= 1)
    measure = denote(lambda: p(f(0.0)))
    assert measure.pmf() == pytest.approx({0.0: 0.125, 1.0: 0.875})
    assert measure.deviation(denote(lambda: p(f(0.0)), merge=False))[0] < 1e-15
    lanes = vmap(lambda c: iterate(lambda c: c + 1.0, 9, until=lambda c: c >= 2)(c))
    assert lanes(f([0.0, 1.5, 5.0])).tolist() == [2.0, 2.5, 5.0]


def test_vmap_runs_lanes_independently() -> None:
    @program
    def lanes() -> Tensor:
        return vmap(lambda p: sample("x", dist.Bernoulli(p)))(f([0.25, 0.5]))

    trace = simulate(lanes)
    assert trace.choices["x"].shape == (2,)
    both = denote(lanes).pmf()
    assert both[(1.0, 1.0)] == pytest.approx(0.125)
    assert both[(1.0, 0.0)] == pytest.approx(0.125)
    log_density, _ = assess(lanes, {"x": f([1.0, 0.0])})
    assert float(log_density) == pytest.approx(math.log(0.125))
    with pytest.raises(ProgramError, match="one leading size"):
        vmap(lambda x, y: x)(f([1.0, 2.0]), f([1.0, 2.0, 3.0]))
    with pytest.raises(ProgramError, match="in_axes"):
        vmap(lambda x: x, in_axes=(1,))(f([1.0]))


def test_lanes_never_share_a_draw_even_without_mapped_parameters() -> None:
    value = vmap(vmap(lambda: draw(dist.Normal(0.0, 1.0)), size=3), size=4)()
    assert value.shape == (4, 3)
    assert len(set(value.flatten().tolist())) == 12


def test_cond_scores_the_branch_that_is_taken() -> None:
    def heads() -> Tensor:
        factor("f", math.log(0.5))
        return f(10.0)

    def tails() -> Tensor:
        observe("o", dist.Bernoulli(f(0.25)), f(1.0))
        return f(20.0)

    @program
    def branching() -> Tensor:
        return cond(sample("b", dist.Bernoulli(f(0.5))) == 1, heads, tails)()

    assert denote(branching).pmf() == pytest.approx({10.0: 0.25, 20.0: 0.125})
    assert float(assess(branching, {"b": f(0.0)})[0]) == pytest.approx(math.log(0.125))
    lanes = vmap(weighted(lambda p: cond(p > 0, heads, tails)()))
    value, log_weight = lanes(f([1.0, -1.0]))
    assert value.tolist() == [10.0, 20.0]
    assert log_weight.tolist() == pytest.approx([math.log(0.5), math.log(0.25)])


def test_branches_of_different_structure_are_refused() -> None:
    with pytest.raises(ProgramError, match="different structures"):
        vmap(lambda p: cond(p > 0, lambda: (p, p), lambda: p)())(f([1.0, -1.0]))


def test_weighted_turns_scores_into_a_value() -> None:
    @program
    def outer() -> Tensor:
        value, log_weight = weighted(rain)()
        return log_weight.exp() * (1.0 - value)

    assert denote(outer).mass() == pytest.approx(1.0)
    assert float(denote(outer).expect()) == pytest.approx(0.25 * 0.75)


def test_weights_count_the_scale_of_a_subsampled_plate_outside() -> None:
    """Law (c): one of four data stands for all, so its score counts four times."""

    @program
    def subsampled() -> Tensor:
        with plate("data", 4, subsample_size=1):
            _, log_weight = weighted(
                lambda: observe("y", dist.Bernoulli(f(0.25)), torch.ones(1).double())
            )()
        return log_weight

    assert float(simulate(subsampled).value) == pytest.approx(4 * math.log(0.25))
    assert denote(subsampled).pmf() == pytest.approx({4 * math.log(0.25): 1.0})


def test_an_untraced_program_may_be_run_twice() -> None:
    @program
    def twice() -> Tensor:
        run = untraced(lambda: sample("x", dist.Bernoulli(f(0.5))))
        return run() + run()

    assert simulate(twice).choices == {}
    assert denote(twice).pmf() == pytest.approx({0.0: 0.25, 1.0: 0.5, 2.0: 0.25})


def test_python_control_flow_in_lanes_is_named_with_its_line() -> None:
    def looking(x: Tensor) -> Tensor:
        if sample("b", dist.Bernoulli(f(0.5))) == 1:  # the line that is named
            return x
        return -x

    line = looking.__code__.co_firstlineno + 1
    with pytest.raises(BranchError, match=rf"test_effects.py:{line}\).*use cond"):
        simulate(lambda: vmap(looking)(f([1.0, 2.0])))


# ------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plain_data_take_the_dtype_of_the_parameters_and_lose_nothing(dtype: torch.dtype) -> None:
    @program
    def model() -> None:
        x = sample("x", dist.Normal(torch.zeros((), dtype=dtype), 1.0))
        sample("k", dist.Bernoulli(torch.sigmoid(x)))

    trace = simulate(condition(model, {"x": 0.1, "k": True}))
    assert trace.observed["x"].dtype == trace.observed["k"].dtype == dtype
    assert trace.log_density.dtype == dtype
    assert float(trace.observed["x"]) == float(torch.tensor(0.1, dtype=dtype))


def test_arrays_keep_their_precision() -> None:
    import numpy as np

    @program
    def model() -> None:
        sample("x", dist.Normal(0.0, 1.0))

    trace = simulate(condition(model, {"x": np.float64(0.1)}))
    assert float(trace.observed["x"]) == 0.1
    assert trace.log_density.dtype == torch.float64


def test_arguments_keep_their_precision_and_a_mixture_is_named() -> None:
    import numpy as np

    @program
    def regression(X: Tensor) -> None:
        w = sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with plate("row", len(X)):
            sample("y", dist.Poisson((X @ w).exp()))

    X, y = np.linspace(-1, 1, 16).reshape(8, 2), np.arange(8)
    p = condition(regression, {"y": y})
    method = MCMC(nuts(2), 1, 2, 2, compiled=False, progress=False)
    mixed = (
        r"argument 0 is float64, new tensors are float32 .*test_effects.py:\d+\).*float64 to the"
    )
    for attempt in (
        lambda: regression.type(X),
        lambda: simulate(regression, X),
        lambda: assess(p, {"w": torch.zeros(2)}, X),
    ):
        with pytest.raises(DataError, match=mixed):
            attempt()
    with pytest.raises(DataError, match=r"argument 0 is int64, .* convert one of them by x.to"):
        regression.type(np.ones((8, 2), dtype=np.int64))
    for given in (X, X.astype(np.float32)):  # drivers take them to double precision
        assert method.run(p, given)["w"].dtype == torch.float64


def test_counts_and_categories_fit_their_sites() -> None:
    @program
    def model() -> None:
        sample("z", dist.Categorical(f([0.5, 0.5])))
        sample("n", dist.Poisson(f(2.0)))

    trace = simulate(condition(model, {"z": 1, "n": torch.tensor(3)}))
    assert trace.observed["z"].dtype == torch.int64
    assert trace.observed["n"].dtype == torch.float64


def test_a_float32_model_is_judged_by_float32_rounding() -> None:
    from pushforward.inference import importance
    from pushforward.semantics import check

    @program
    def model() -> Tensor:
        x = sample("x", dist.Bernoulli(0.3))
        observe("y", dist.Bernoulli(0.1 + 0.7 * x), torch.tensor(1.0))
        return x

    report = check.valid(importance(model, 2, lambda: sample("x", dist.Bernoulli(0.7))), model)
    assert report.verdict == "pass"
    assert "float64" in report.source and 1e-7 < report.tolerance < 1e-5
    wrong = check.valid(importance(model, 2, lambda: sample("x", dist.Bernoulli(0.0))), model)
    assert wrong.verdict == "fail"
