"""Annotations by spaces: programs that are what they declare, and others, with what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference import ADVI, MCMC, SMC, importance, particle_filter
from pushforward.ppl import (
    condition,
    draw,
    factor,
    observe,
    plate,
    program,
    sample,
    scan,
    simulate,
    vmap,
)
from pushforward.ppl.errors import AnnotationError, ProgramError
from pushforward.ppl.interpretations.abstract_run import program_type
from pushforward.ppl.interpretations.guides import check_guide
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.spaces import (
    Bool,
    CorrCholesky,
    Dim,
    Fin,
    Int,
    Interval,
    M,
    Nat,
    OneHot,
    Ordered,
    P,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    UnitInterval,
)

SOURCE = Path(__file__).read_text().splitlines()
zeros, ones, half = torch.zeros, torch.ones, torch.full((2,), 0.5)

COUNTED = {"x": Real, "n": Nat}

# ---------------------------------------------------------------------------------------- programs


def regression(
    x: Annotated[Tensor, Real("n", "k")], y: Annotated[Tensor, Real("n")]
) -> M[Annotated[Tensor, Real("k")]]:
    k = x.shape[1]
    w = sample("w", dist.Normal(zeros(k), 1.0).to_event(1))
    observe("y", dist.Normal(x @ w, 1.0).to_event(1), y)
    return w


def prior(n: Annotated[int, Dim("n")]) -> P[Annotated[Tensor, Positive("n")]]:
    with plate("datum", n):
        return sample("rate", dist.Gamma(2.0, 1.0))


def scale() -> P[Positive]:
    return sample("scale", dist.HalfCauchy(1.0))


def real_scale() -> P[Positive]:
    return sample("scale", dist.Normal(0.0, 1.0))


def shares(k: Annotated[int, Dim("k")]) -> P[Annotated[Tensor, Simplex("k")]]:
    return sample("share", dist.Dirichlet(ones(k)))


def one_share_less(k: Annotated[int, Dim("k")]) -> P[Annotated[Tensor, Simplex("k")]]:
    return sample("share", dist.Dirichlet(ones(k - 1)))


def category(share: Annotated[Tensor, Simplex("k")]) -> P[Annotated[Tensor, Fin("k")]]:
    return sample("k", dist.Categorical(share))


def category_of_four(share: Annotated[Tensor, Simplex("k")]) -> P[Annotated[Tensor, Fin("k")]]:
    return sample("k", dist.Categorical(ones(4) / 4))


def pair() -> P[tuple[Bool, UnitInterval]]:
    return sample("coin", dist.Bernoulli(0.5)), sample("bias", dist.Beta(1.0, 1.0))


def swapped() -> P[tuple[Bool, UnitInterval]]:
    coin, bias = pair()
    return bias, coin


def record(x: Real) -> P[COUNTED]:
    return {"x": x, "n": sample("n", dist.Poisson(1.0))}


def without_n(x: Real) -> P[COUNTED]:
    return {"x": x, "m": sample("n", dist.Poisson(1.0))}


def maybe(x: Real | None) -> P[None]:
    sample("x", dist.Normal(0.0 if x is None else x, 1.0))


def several(*xs: Positive, shift: Real) -> P[list[Real]]:
    return [sample(f"x{i}", dist.Normal(shift, x)) for i, x in enumerate(xs)]


def correlation(of: CorrCholesky(2)) -> P[PositiveDefinite(2)]:  # type: ignore[valid-type]
    return sample("s", dist.Wishart(torch.tensor(4.0), scale_tril=of))


def scored() -> M[Real]:
    x = sample("x", dist.Normal(0.0, 1.0))
    factor("f", -x)  # scored
    return x


def scored_probability() -> P[Real]:
    x = sample("x", dist.Normal(0.0, 1.0))
    factor("f", -x)  # scored probability
    return x


def observed_probability(y: Real) -> P[Real]:
    x = sample("x", dist.Normal(0.0, 1.0))
    observe("y", dist.Normal(x, 1.0), y)  # observed probability
    return x


def outer() -> M[Positive]:
    observe("y", dist.Normal(scale(), 1.0), torch.tensor(1.0))
    return torch.tensor(2.0)


def outer_of_wrong() -> M[Real]:
    return real_scale_program()


real_scale_program = program(real_scale)


def conditioned_inside() -> M[Real]:
    return condition(program(free), {"y": torch.tensor(0.5)})()


def free() -> P[Real]:
    x = sample("x", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(x, 1.0))
    return x


def walk(steps: Annotated[Tensor, Real("t")]) -> P[Annotated[Tensor, Real("t")]]:
    return scan(program(step))(torch.tensor(0.0), steps)[1]


def step(at: Real, by: Real) -> P[tuple[Real, Real]]:
    at = sample("at", dist.Normal(at + by, 1.0))
    return at, at


def lanes(x: Annotated[Tensor, Real("n", 2)]) -> P[Annotated[Tensor, Real("n")]]:
    return vmap(program(of_two))(x)


def of_two(x: Annotated[Tensor, Real(2)]) -> P[Real]:
    return sample("x", dist.Normal(x.sum(), 1.0))


def partly(x: Annotated[Tensor, Interval(0.0, 2.0)], label: str) -> Annotated[Tensor, P(Real)]:
    return sample(label, dist.Normal(x, 1.0))


def unannotated(x: Tensor, n: int = 3) -> Tensor:
    return sample("x", dist.Normal(x, 1.0).expand([n]))


def whole(k: Annotated[Tensor, Int("n")], flags: Bool) -> P[Annotated[Tensor, Real("n")]]:
    return sample("x", dist.Normal(k * 1.0, 1.0)) * flags


def positive_of_whole() -> P[Positive]:
    return torch.tensor(3)  # no site, and no floating value


def computed() -> P[Positive]:
    return sample("x", dist.Normal(0.0, 1.0)).exp()  # not known to be positive, and not refused


def negative_constant() -> P[Positive]:
    return torch.tensor(-2.0)


def ordered() -> P[Annotated[Tensor, Ordered(3)]]:
    return sample("x", dist.Normal(zeros(3), 1.0))


def one_hot(x: Annotated[Tensor, OneHot(3)]) -> P[None]:
    sample("y", dist.Normal(x @ torch.arange(3.0), 1.0))


def drawing() -> P[Real]:
    return draw(dist.Normal(0.0, 1.0))


class Network(torch.nn.Module):
    """A module whose ``forward`` is annotated."""

    def forward(self, x: Annotated[Tensor, Real("n", 2)]) -> P[Annotated[Tensor, Real("n")]]:
        return sample("y", dist.Normal(x.sum(-1), 1.0))


RIGHT: list[tuple[Any, tuple[Any, ...], str]] = [
    (regression, (ones(4, 2), ones(4)), "{w: Real[2], y: Real[4] observed} -> M Real[k]"),
    (prior, (3,), "{rate: Positive[3]} -> P Positive[n]"),
    (scale, (), "{scale: Positive} -> P Positive"),
    (shares, (3,), "{share: Simplex(3)} -> P Simplex(k)"),
    (category, (half,), "{k: Fin(2)} -> P Fin(k)"),
    (category, (ones(3) / 3,), "{k: Fin(3)} -> P Fin(k)"),
    (pair, (), "{coin: Bool, bias: UnitInterval} -> P (Bool, UnitInterval)"),
    (record, (1.0,), "{n: Nat} -> P {x: Real, n: Nat}"),
    (maybe, (None,), "{x: Real} -> P Unit"),
    (maybe, (2.0,), "{x: Real} -> P Unit"),
    (correlation, (torch.eye(2),), "{s: PositiveDefinite(2)} -> P PositiveDefinite(2)"),
    (scored, (), "{x: Real} -> M Real"),
    (outer, (), "{scale: Positive, y: Real observed} -> M Positive"),
    (conditioned_inside, (), "{x: Real, y: Real observed} -> M Real"),
    (condition(free, {"y": 0.5}), (), "{x: Real, y: Real observed} -> M Real"),
    (walk, (zeros(3),), "{at: Real^3} -> P Real[t]"),
    (lanes, (zeros(3, 2),), "{x: Real[3]} -> P Real[n]"),
    (partly, (torch.tensor(1.5), "x"), "{x: Real} -> P Real"),
    (unannotated, (torch.tensor(0.0),), "{x: Real[3]} -> P Real[3]"),
    (whole, (torch.arange(3), True), "{x: Real[3]} -> P Real[n]"),
    (computed, (), "{x: Real} -> P Positive"),
    (one_hot, (torch.tensor([0.0, 1.0, 0.0]),), "{y: Real} -> P Unit"),
    (drawing, (), "{} -> P Real"),
    (Network(), (zeros(4, 2),), "{y: Real[4]} -> P Real[n]"),
]


def name_of(p: Any) -> str:
    return str(getattr(p, "__name__", type(p).__name__))


@pytest.mark.parametrize(("p", "args", "printed"), RIGHT, ids=[name_of(r[0]) for r in RIGHT])
def test_a_program_that_is_what_it_declares(p: Any, args: tuple[Any, ...], printed: str) -> None:
    assert str(program_type(p, *args)) == printed
    assert str(program_type(program(p), *args)) == printed


def test_arguments_are_also_given_by_name() -> None:
    assert str(program_type(several, 1.0, 2.0, shift=0.5)) == (
        "{x0: Real, x1: Real} -> P List Real"
    )
    assert str(program_type(prior, n=2)) == "{rate: Positive[2]} -> P Positive[n]"


# ------------------------------------------------------------------------------------------- wrong


class Wrong(NamedTuple):
    """A call that is not as declared, and what is said of it before the place and the hint."""

    p: Callable[..., Any]
    args: tuple[Any, ...]
    said: str
    hint: str
    at: Callable[..., Any] | None = None  # the annotated program, if it is another


SIZES = "make the sizes equal, or declare what they are"
UNSCORED = "declare M, or leave the observation to condition(...)"

WRONG = [
    Wrong(
        regression,
        (ones(4, 2), ones(3)),
        "argument 'y' has shape [3] where Real[n] is declared (n is 4 by argument 'x')",
        SIZES,
    ),
    Wrong(
        regression,
        (ones(4), ones(4)),
        "argument 'x' has shape [4] where Real[n, k] is declared",
        SIZES,
    ),
    Wrong(prior, (2.0,), "argument 'n' is Real where Dim(n) is declared", "give a value of type"),
    Wrong(prior, (True,), "argument 'n' is Bool where Dim(n) is declared", "give a value of type"),
    Wrong(
        real_scale,
        (),
        "the result is the site 'scale' (@real_scale+1), in Real where Positive is declared",
        "declare Real, or give another value",
    ),
    Wrong(
        one_share_less,
        (3,),
        "the result has shape [2] where Simplex(k) is declared (k is 3 by argument 'k')",
        SIZES,
    ),
    Wrong(
        category,
        (ones(3),),
        "argument 'share' holds [1.0, 1.0, 1.0] where Simplex(k) is declared",
        "give values in Simplex(k)",
    ),
    Wrong(
        category_of_four,
        (half,),
        "the result is Fin(4) where Fin(k) is declared (k is 2 by argument 'share')",
        SIZES,
    ),
    Wrong(
        swapped,
        (),
        "part 0 of the result is the site 'bias' (@pair+1), in UnitInterval where Bool is declared",
        "declare UnitInterval, or give another value",
    ),
    Wrong(
        without_n,
        (1.0,),
        "the result is {x: Real, m: Real} where {x: Real, n: Nat} is declared",
        "give a value of type {x: Real, n: Nat}",
    ),
    Wrong(
        maybe,
        (zeros(2),),
        "argument 'x' is Real[2] where Real + Unit is declared",
        "give a value of type Real + Unit",
    ),
    Wrong(
        correlation,
        (2 * torch.eye(2),),
        "argument 'of' holds [[2.0, 0.0], [0.0, 2.0]] where CorrCholesky(2) is declared",
        "give values in CorrCholesky(2)",
    ),
    Wrong(
        scored_probability,
        (),
        "declared P, but it scores 'f' at @scored_probability+2",
        UNSCORED,
    ),
    Wrong(
        observed_probability,
        (1.0,),
        "declared P, but it scores 'y' at @observed_probability+2",
        UNSCORED,
    ),
    Wrong(
        condition(observed_probability, {"x": 0.0}),
        (zeros(2),),
        "argument 'y' has shape [2] where Real is declared",
        SIZES,
        observed_probability,
    ),
    Wrong(
        condition(program(observed_probability), {"x": 0.0}),
        (1.0,),
        "declared P, but it scores 'y' at @observed_probability+2",
        UNSCORED,
        observed_probability,
    ),
    Wrong(
        outer_of_wrong,
        (),
        "the result is the site 'scale' (@real_scale+1), in Real where Positive is declared",
        "declare Real, or give another value",
        real_scale,
    ),
    Wrong(
        walk,
        (zeros(3, 2),),
        "argument 'steps' has shape [3, 2] where Real[t] is declared",
        SIZES,
    ),
    Wrong(
        lambda: scan(program(step))(torch.tensor(0.0), zeros(3, 2)),
        (),
        "argument 'by' has shape [2] where Real is declared",
        SIZES,
        step,
    ),
    Wrong(
        lambda: vmap(program(of_two))(zeros(3, 4)),
        (),
        "argument 'x' has shape [4] where Real[2] is declared",
        SIZES,
        of_two,
    ),
    Wrong(
        lambda: program(of_two)(sample("z", dist.Normal(zeros(3), 1.0))),
        (),
        "argument 'x' has shape [3] where Real[2] is declared",
        SIZES,
        of_two,
    ),
    Wrong(
        lambda: program(several)(sample("z", dist.Normal(0.0, 1.0)), shift=0.0),
        (),
        "argument 'xs' is the site 'z' (@here), in Real where Positive is declared",
        "declare Real, or give another value",
        several,
    ),
    Wrong(
        partly,
        (torch.tensor([0.5, 2.5]), "x"),
        "argument 'x' has shape [2] where Interval(0, 2) is declared",
        SIZES,
    ),
    Wrong(
        partly,
        (torch.tensor(2.5), "x"),
        "argument 'x' holds 2.5 where Interval(0, 2) is declared",
        "give values in Interval(0, 2)",
    ),
    Wrong(
        whole,
        (torch.tensor([0.0, 1.5]), True),
        "argument 'k' holds 1.5 where Int[n] is declared",
        "give values in Int",
    ),
    Wrong(
        positive_of_whole,
        (),
        "the result has dtype torch.int64 where Positive is declared",
        "give floating values",
    ),
    Wrong(
        negative_constant,
        (),
        "the result holds -2.0 where Positive is declared",
        "give values in Positive",
    ),
    Wrong(
        ordered,
        (),
        "the result is the site 'x' (@ordered+1), in Real where Ordered(3) is declared",
        "declare Real[3], or give another value",
    ),
    Wrong(
        one_hot,
        (torch.tensor([0.5, 0.5, 0.0]),),
        "argument 'x' holds [0.5, 0.5, 0.0] where OneHot(3) is declared",
        "give values in OneHot(3)",
    ),
    Wrong(
        Network(),
        (zeros(4, 3),),
        "argument 'x' has shape [4, 3] where Real[n, 2] is declared",
        SIZES,
        Network.forward,
    ),
]


def line_of(name: str) -> int:
    (line,) = [i for i, text in enumerate(SOURCE, 1) if text.lstrip().startswith(f"def {name}(")]
    return line


def placed(text: str, here: int) -> str:
    """The text with each ``@name+k`` as the place of the k-th line of that function."""
    if "@" not in text:
        return text
    before, after = text.split("@")
    name = after.split("+")[0].split(")")[0]
    if name == "here":
        return f"{before}{__file__}:{here}{after.removeprefix('here')}"
    offset = int(after.split("+")[1][0])
    rest = after.removeprefix(f"{name}+{offset}")
    return f"{before}{__file__}:{line_of(name) + offset}{rest}"


@pytest.mark.parametrize("wrong", WRONG, ids=[w.said for w in WRONG])
def test_a_program_that_is_not_what_it_declares(wrong: Wrong) -> None:
    annotated = wrong.at or wrong.p
    name = annotated.__name__
    for p in (wrong.p, program(wrong.p)):
        with pytest.raises(AnnotationError) as caught:
            program_type(p, *wrong.args)
        here = getattr(getattr(wrong.p, "__code__", None), "co_firstlineno", 0)
        said = placed(wrong.said, here)
        shown = annotated.__qualname__
        expected = f"{shown}: {said} ({__file__}:{line_of(name)}). {wrong.hint}"
        assert str(caught.value).startswith(expected)


# ------------------------------------------------------------------------------ where it is checked

DRIVERS: list[Callable[[Any, Any], Any]] = [
    lambda p, y: MCMC(chains=1, draws=2, warmup=2, progress=False).run(p, y),
    lambda p, y: SMC(particles=2, islands=1, stages=1, progress=False).run(p, y),
    lambda p, y: ADVI(steps=1, progress=False).run(p, y),
    lambda p, y: LogDensity(p, y),
    lambda p, y: simulate(importance(p, 2), y),
    lambda p, y: simulate(importance(p, 2, lambda y: free_x()), y),
    lambda p, y: simulate(particle_filter(p, 2), y),
    lambda p, y: check_guide(lambda y: free_x(), p, y),
    lambda p, y: program(p).type(y),
]


def free_x() -> None:
    sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("run", DRIVERS)
def test_every_method_checks_before_it_runs(run: Any) -> None:
    before = torch.get_rng_state()
    with pytest.raises(AnnotationError, match=r"argument 'y' has shape \[2\] where Real is"):
        run(observed_probability, zeros(2))
    with pytest.raises(AnnotationError, match="declared P, but it scores 'y'"):
        run(observed_probability, torch.tensor(1.0))
    assert torch.equal(before, torch.get_rng_state())


# -------------------------------------------------------------------------------------- annotations


def test_an_annotation_that_cannot_be_read() -> None:
    def missing(x: Annotated[Tensor, Real(undefined)]) -> None:  # type: ignore[name-defined] # noqa: F821
        sample("x", dist.Normal(x, 1.0))

    with pytest.raises(AnnotationError, match="the annotation of x cannot be read: name 'undefi"):
        program_type(missing, zeros(2))


def test_annotations_of_other_libraries_are_left_alone() -> None:
    def elsewhere(x: Undefined, y: list[int]) -> Undefined:  # type: ignore[name-defined] # noqa: F821
        return sample("x", dist.Normal(x, 1.0))

    assert str(program_type(elsewhere, 0.0, [1])) == "{x: Real} -> P Real"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Simplex(), "Simplex needs 1 parameter"),
        (lambda: Interval(0.0), "Interval needs 2 parameters"),
        (lambda: Real(-1), "Real: -1 is no size"),
        (lambda: Real("two words"), "Real: 'two words' is no size"),
        (lambda: Fin(2.5), "Fin: 2.5 is no size"),
    ],
)
def test_spaces_want_their_parameters_and_sizes(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ProgramError, match=said) as caught:
        make()
    assert f"({__file__}:" in str(caught.value)


def test_annotations_that_are_no_strings_are_read_too() -> None:
    def given(x: Tensor) -> Tensor:
        return sample("x", dist.Normal(x, 1.0))

    given.__annotations__ = {"x": Real("n"), "return": P[Real("n")]}
    assert str(program_type(given, zeros(2))) == "{x: Real[2]} -> P Real[n]"
    with pytest.raises(AnnotationError, match="is Unit where"):
        program_type(given, None)


def test_names_local_to_a_function_are_found() -> None:
    size = 3

    def closed(x: Annotated[Tensor, Real(size)]) -> P[Real(size)]:  # type: ignore[valid-type]
        return sample("x", dist.Normal(zeros(size) + x, 1.0))

    with pytest.raises(AnnotationError, match=r"has shape \[2\] where Real\[3\] is declared"):
        program_type(closed, zeros(2))
