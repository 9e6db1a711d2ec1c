"""What is found wrong with a program before it runs: each with the site, the line and a hint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pushforward import (
    cond,
    condition,
    deterministic,
    dist,
    factor,
    memo,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    switch,
    vmap,
)
from pushforward.inference import ADVI, MCMC, SMC, importance
from pushforward.ppl.errors import (
    BranchError,
    DataError,
    DuplicateNameError,
    ImpureProgramError,
    ProgramError,
    PushforwardError,
    SmoothnessError,
    SupportError,
)
from pushforward.ppl.interpretations.log_density import LogDensity

SOURCE = Path(__file__).read_text().splitlines()


def normal(name: str = "x", loc: Any = 0.0) -> Tensor:
    return sample(name, dist.Normal(loc, 1.0))


# ------------------------------------------------------------------------------------------- names


def twice() -> None:
    sample("x", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(0.0, 1.0))  # here: twice


def twice_by_factor() -> None:
    factor("x", normal())  # here: twice_by_factor


def twice_by_a_derived_value() -> None:
    deterministic("x", normal())  # here: twice_by_a_derived_value


def twice_in_branches() -> Any:
    return cond(
        sample("a", dist.Bernoulli(0.5)),
        lambda: sample("x", dist.Normal(0.0, 1.0)),
        lambda: sample("x", dist.Normal(1.0, 1.0)),  # here: twice_in_branches
    )()


def twice_in_lanes() -> Any:
    return vmap(twice, size=2)()


def twice_in_steps() -> Any:
    return scan(lambda carry, x: (carry, twice()))(torch.tensor(0.0), torch.zeros(2))


def twice_in_a_loop() -> None:
    for _ in range(2):
        sample("x", dist.Normal(0.0, 1.0))  # here: twice_in_a_loop


def twice_in_a_plate() -> None:
    for _ in plate("datum", 2):
        sample("x", dist.Normal(0.0, 1.0))  # here: twice_in_a_plate


# ---------------------------------------------------------------------------------------- branches


def branches() -> Tensor:
    x = normal()
    return normal("y") if x > 0 else x  # here: branches


def counts() -> Tensor:
    n = sample("n", dist.Poisson(2.0))
    return torch.zeros(int(n))  # here: counts


def selects() -> Tensor:
    x = sample("x", dist.Normal(torch.zeros(3), 1.0))
    return x[x > 0]  # here: selects


def leaves_torch() -> float:
    return math.exp(normal())  # here: leaves_torch


def compares() -> bool:
    return bool(torch.equal(normal(), torch.tensor(0.0)))  # here: compares


def looks_in_a_lane() -> Any:
    return vmap(branches, size=2)()


def asks_a_random_function() -> Any:
    x = normal()
    return memo(lambda at: normal("f", at))(x)  # here: asks_a_random_function


def branches_by_a_far_parent() -> None:
    x = normal("grandparent")
    with scope("inner"):
        y = sample("y", dist.Normal(2.0 * x, 1.0))
    if (y + 1.0).sin() > 0:  # here: branches_by_a_far_parent
        normal("z")


def writes_an_argument(y: Tensor) -> None:
    y[0] = normal()  # here: writes_an_argument


# ------------------------------------------------------------------------------------------ plates


def too_wide_for_its_plate() -> None:
    with plate("datum", 3):
        sample("x", dist.Normal(torch.zeros(4), 1.0))  # here: too_wide_for_its_plate


def a_plate_in_itself() -> None:
    with plate("datum", 3):
        normal("x")
        with plate("datum", 3):  # here: a_plate_in_itself
            normal("y")


def two_plates_in_one_dimension() -> None:
    with plate("row", 3, dim=-1), plate("column", 3, dim=-1):
        sample("x", dist.Normal(0.0, 1.0))  # here: two_plates_in_one_dimension


def one_plate_of_two_sizes() -> None:
    with plate("datum", 3):
        normal("x")
    with plate("datum", 4):  # here: one_plate_of_two_sizes
        normal("y")


def a_plate_of_negative_size() -> None:
    with plate("datum", -1):  # here: a_plate_of_negative_size
        normal("x")


def more_than_the_plate_has() -> None:
    with plate("datum", 3, subsample_size=4):  # here: more_than_the_plate_has
        normal("x")


# -------------------------------------------------------------------------------------------- data


def data_of_another_shape() -> Any:
    return condition(lambda: sample("x", dist.Normal(torch.zeros(3), 1.0)), {"x": [1.0, 2.0]})()


def observed_crosswise() -> None:
    y = torch.zeros(4, 1)
    observe("y", dist.Normal(torch.zeros(3), 1.0), y)  # here: observed_crosswise


def chain(length: int) -> Any:
    return scan(lambda z, _: (normal("z", z),) * 2)(torch.tensor(0.0), torch.zeros(length))


def rate() -> Tensor:
    return sample("rate", dist.Gamma(2.0, 1.0))  # here: rate


def negative_scale() -> None:
    sample("x", dist.Normal(0.0, torch.tensor(-1.0)))  # here: negative_scale


def improper_weights() -> None:
    sample("x", dist.Categorical(torch.tensor([-0.5, 1.5])))  # here: improper_weights


# --------------------------------------------------------------------------- precision and devices


def two_precisions() -> None:
    wide = torch.ones(2, dtype=torch.float64)
    sample("x", dist.Normal(torch.zeros(2), wide))  # here: two_precisions


def wide_data() -> None:
    y = torch.zeros(3, dtype=torch.float64)
    observe("y", dist.Normal(normal(), 1.0), y)  # here: wide_data


def wide_inside() -> None:
    wide = torch.zeros(2, dtype=torch.float64)
    parts = dist.Normal(wide, torch.ones(2)).to_event(1)
    sample("x", parts)  # here: wide_inside


def two_devices() -> None:
    elsewhere = torch.ones(2, device="meta")
    sample("x", dist.Normal(torch.zeros(2), elsewhere))  # here: two_devices


# -------------------------------------------------------------------------------------- smoothness


def jumps() -> None:
    x = normal()
    step = torch.where(x > 0, 1.0, -1.0)  # here: jumps
    observe("y", dist.Normal(step, 1.0), torch.tensor(0.0))


def rounds() -> None:
    x = normal()
    level = x.round()  # here: rounds
    observe("y", dist.Normal(level, 1.0), torch.tensor(0.0))


def casts() -> None:
    x = normal()
    table = torch.tensor([0.1, 0.9])
    chance = table[x.long().clamp(0, 1)]  # here: casts
    observe("y", dist.Bernoulli(chance), torch.tensor(1.0))


def jumps_in_a_weight() -> None:
    x = normal()
    factor("f", (x > 0).float())  # here: jumps_in_a_weight


def jumps_in_a_branch() -> Any:
    x = normal()
    return cond(x > 0, lambda: factor("f", torch.tensor(1.0)), lambda: None)()


def by_svi(p: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: ADVI(steps=1, progress=False).run(p)


def by_type(p: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: program(p).type(*args)


class Wrong(NamedTuple):
    """What is done, the error, what it says, the site, the line, and the start of the hint."""

    attempt: Callable[[], Any]
    error: type[PushforwardError]
    said: str
    site: str
    line: str
    hint: str


LOOK = "Python looks at a random value (it depends on "
USE = "use cond(...) or torch.where"
STEP = "ADVI would be biased: write a smooth step"
RENAME = "rename one of the sites"

WRONG = {
    "a name twice": Wrong(by_type(twice), DuplicateNameError, "used twice", "x", "twice", RENAME),
    "a factor of the same name": Wrong(
        by_type(twice_by_factor), DuplicateNameError, "used twice", "x", "twice_by_factor", RENAME
    ),
    "a derived value of the same name": Wrong(
        by_type(twice_by_a_derived_value),
        DuplicateNameError,
        "used twice",
        "x",
        "twice_by_a_derived_value",
        RENAME,
    ),
    "a name in both branches": Wrong(
        by_type(twice_in_branches),
        DuplicateNameError,
        "used twice",
        "x",
        "twice_in_branches",
        RENAME,
    ),
    "a name twice in lanes": Wrong(
        by_type(twice_in_lanes), DuplicateNameError, "used twice", "x", "twice", RENAME
    ),
    "a name twice in a step": Wrong(
        by_type(twice_in_steps), DuplicateNameError, "used twice", "x[0]", "twice", RENAME
    ),
    "a name in a Python loop": Wrong(
        by_type(twice_in_a_loop), DuplicateNameError, "used twice", "x", "twice_in_a_loop", RENAME
    ),
    "a name in a loop over a plate": Wrong(
        by_type(twice_in_a_plate), DuplicateNameError, "used twice", "x", "twice_in_a_plate", RENAME
    ),
    "an if": Wrong(by_type(branches), BranchError, LOOK + "'x')", "", "branches", USE),
    "a random size": Wrong(by_type(counts), BranchError, LOOK + "'n')", "", "counts", USE),
    "a random mask": Wrong(
        by_type(selects),
        BranchError,
        "a shape depends on a random value (it depends on 'x')",
        "",
        "selects",
        "use torch.where or a factor by zero",
    ),
    "a function of math": Wrong(
        by_type(leaves_torch), BranchError, LOOK + "'x')", "", "leaves_torch", USE
    ),
    "a comparison": Wrong(by_type(compares), BranchError, LOOK + "'x')", "", "compares", USE),
    "an if in a lane": Wrong(
        by_type(looks_in_a_lane), BranchError, "Python looks at a random value", "", "branches", USE
    ),
    "a random function of a random value": Wrong(
        by_type(asks_a_random_function),
        BranchError,
        "asked at a value that differs",
        "",
        "asks_a_random_function",
        "replay interpretations can run it",
    ),
    "an if by what was computed": Wrong(
        by_type(branches_by_a_far_parent),
        BranchError,
        LOOK + "'inner/y')",
        "",
        "branches_by_a_far_parent",
        USE,
    ),
    "a write into the data": Wrong(
        by_type(writes_an_argument, torch.zeros(2)),
        ImpureProgramError,
        "written in place into an argument",
        "",
        "writes_an_argument",
        "write into a copy",
    ),
    "a site wider than its plate": Wrong(
        by_type(too_wide_for_its_plate),
        ProgramError,
        "shape mismatch inside plate('datum') at site x",
        "",
        "too_wide_for_its_plate",
        "give the site the plate's size there",
    ),
    "a plate in itself": Wrong(
        by_type(a_plate_in_itself),
        ProgramError,
        "duplicate plate 'datum'",
        "",
        "a_plate_in_itself",
        "leave the first plate",
    ),
    "two plates in a dimension": Wrong(
        by_type(two_plates_in_one_dimension),
        ProgramError,
        "collide at dim=-1",
        "",
        "",
        "leave out dim=",
    ),
    "a plate of two sizes": Wrong(
        by_type(one_plate_of_two_sizes),
        ProgramError,
        "the plate has size 4 here and 3 at",
        "datum",
        "one_plate_of_two_sizes",
        "give the plates different names, or one size",
    ),
    "a plate of negative size": Wrong(
        by_type(a_plate_of_negative_size),
        ProgramError,
        "the plate has size -1, which is no size",
        "datum",
        "a_plate_of_negative_size",
        "give the plates different names, or one size",
    ),
    "too large a subsample": Wrong(
        by_type(more_than_the_plate_has),
        ProgramError,
        "subsample_size does not match",
        "",
        "more_than_the_plate_has",
        "take at most as many as the plate has",
    ),
    "a misspelt site": Wrong(
        lambda: condition(rate, {"rates": 1.0}).type(),
        DataError,
        "data for a site that does not exist: 'rates'",
        "",
        "",
        "the sites of rate are rate",
    ),
    "data of another shape": Wrong(
        by_type(data_of_another_shape),
        DataError,
        "data of shape (2,) do not fit the shape (3,)",
        "x",
        "",
        "transpose or index the data",
    ),
    "a table where a row is modelled": Wrong(
        by_type(observed_crosswise),
        DataError,
        "data of shape (4, 1) do not fit the shape (3,)",
        "y",
        "observed_crosswise",
        "transpose or index the data",
    ),
    "data that end before the loop": Wrong(
        lambda: condition(chain, {"z": [1.0, 2.0]}).type(3),
        DataError,
        "the data for 'z' have shape [2] and no entry [2]",
        "z",
        "",
        "give one entry for each step of the loop",
    ),
    "data beyond the loop": Wrong(
        lambda: condition(chain, {"z": [1.0, 2.0, 3.0]}).type(2),
        DataError,
        "the data for 'z' have shape [3], and no step meets entry [2]",
        "z",
        "",
        "give one entry for each step of the loop",
    ),
    "data outside the support": Wrong(
        lambda: condition(rate, {"rate": -1.0}).type(),
        SupportError,
        "observed value -1 is outside the support",
        "rate",
        "rate",
        "Gamma gives it no mass",
    ),
    "missing data": Wrong(
        lambda: condition(rate, {"rate": math.nan}).type(),
        DataError,
        "observed data hold 1 NaN",
        "rate",
        "rate",
        "drop them, mask the site",
    ),
    "a negative scale": Wrong(
        by_type(negative_scale),
        ProgramError,
        "parameter scale of Normal violates",
        "x",
        "negative_scale",
        "check the arguments of the distribution",
    ),
    "weights that are none": Wrong(
        by_type(improper_weights),
        ProgramError,
        "parameter probs of Categorical violates Simplex()",
        "x",
        "improper_weights",
        "check the arguments of the distribution",
    ),
    "two precisions": Wrong(
        by_type(two_precisions),
        DataError,
        "precisions are mixed: loc is float32, scale float64",
        "x",
        "two_precisions",
        "convert one of them by x.to(dtype)",
    ),
    "data of another precision": Wrong(
        by_type(wide_data),
        DataError,
        "precisions are mixed: loc is float32, the data float64",
        "y",
        "wide_data",
        "convert one of them by x.to(dtype)",
    ),
    "another precision inside": Wrong(
        by_type(wide_inside),
        DataError,
        "precisions are mixed: loc is float64, scale float32",
        "x",
        "wide_inside",
        "convert one of them by x.to(dtype)",
    ),
    "two devices": Wrong(
        by_type(two_devices),
        DataError,
        "devices are mixed: loc is cpu, scale meta",
        "x",
        "two_devices",
        "convert one of them by x.to(device)",
    ),
    "a step of a latent": Wrong(
        by_svi(jumps), SmoothnessError, "jumps as 'x' moves (gt at @)", "y", "jumps", STEP
    ),
    "a rounded latent": Wrong(
        by_svi(rounds), SmoothnessError, "jumps as 'x' moves (round at @)", "y", "rounds", STEP
    ),
    "a latent as an index": Wrong(
        by_svi(casts), SmoothnessError, "jumps as 'x' moves (long at @)", "y", "casts", STEP
    ),
    "a truth value as a weight": Wrong(
        by_svi(jumps_in_a_weight),
        SmoothnessError,
        "jumps as 'x' moves (gt at @)",
        "f",
        "jumps_in_a_weight",
        STEP,
    ),
    "a branch on a latent": Wrong(
        by_svi(jumps_in_a_branch), SmoothnessError, "jumps as 'x' moves (gt at", "f", "", STEP
    ),
}


def line_of(mark: str) -> int:
    (line,) = [i for i, text in enumerate(SOURCE, 1) if text.endswith(f"# here: {mark}")]
    return line


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_found_before_the_program_runs(mistake: str) -> None:
    wrong = WRONG[mistake]
    before = torch.get_rng_state()
    with pytest.raises(wrong.error) as caught:
        wrong.attempt()
    assert torch.equal(before, torch.get_rng_state())
    message = str(caught.value)
    place = f"{__file__}:{line_of(wrong.line)}" if wrong.line else f"{__file__}:"
    assert wrong.said.replace("@", place) in message
    assert place in message
    assert f". {wrong.hint}" in message
    if wrong.site:
        assert f"(at site '{wrong.site}' " in message


# ------------------------------------------------------------------------------------------- right


def a_choice_by_data(y: Tensor) -> None:
    if y[0] > 0:
        normal("x")


def branches_of_other_names() -> None:
    a = sample("a", dist.Bernoulli(0.5))
    switch(a.long(), lambda: normal("x"), lambda: normal("y"))()


def plates() -> None:
    with plate("row", 3, dim=-2), plate("column", 4, dim=-1):
        normal("x")
    with plate("row", 3):
        normal("y")


def truth_of_another_precision() -> None:
    observe("y", dist.Bernoulli(torch.tensor(0.5)), torch.ones(3, dtype=torch.float64))


def continuous() -> None:
    x = normal()
    bent = torch.maximum(x, torch.tensor(0.0)) + x.abs() + x.clamp(-1.0, 1.0) + torch.relu(x)
    observe("y", dist.Normal(bent, 1.0), torch.tensor(0.0))


def jumps_with_data(y: Tensor) -> None:
    x = normal()
    observe("y", dist.Normal(torch.where(y > 0, x, -x), 1.0), y)


def a_discrete_index() -> None:
    k = sample("k", dist.Categorical(torch.ones(2)))
    observe("y", dist.Normal(torch.tensor([0.0, 1.0])[k], 1.0), torch.tensor(0.0))


RIGHT = [
    (a_choice_by_data, (torch.ones(2),)),
    (branches_of_other_names, ()),
    (plates, ()),
    (truth_of_another_precision, ()),
    (continuous, ()),
    (jumps_with_data, (torch.ones(2),)),
    (a_discrete_index, ()),
]


@pytest.mark.parametrize(("p", "args"), RIGHT, ids=[p.__name__ for p, _ in RIGHT])
def test_a_right_program_has_a_type(p: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert program(p).type(*args).trace.sites


@pytest.mark.parametrize("p", [continuous, jumps_with_data])
def test_a_continuous_density_is_taken_for_one(p: Callable[..., Any]) -> None:
    LogDensity(p, *((torch.ones(2),) if p is jumps_with_data else ())).require_smooth("ADVI")


def test_a_jump_is_no_obstacle_to_other_methods() -> None:
    MCMC(chains=1, draws=2, warmup=2, progress=False).run(jumps)
    SMC(particles=4, islands=1, stages=1, progress=False).run(jumps)
    assert len(importance(jumps, 3)().log_weights) == 3
