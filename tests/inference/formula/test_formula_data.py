"""What formulas take from data, and what they refuse."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from pushforward import dist, formula, simulate
from pushforward.errors import DataError
from pushforward.inference import MCMC, Laplace


def data() -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "y": [1.0, 2.0, 4.0, 3.0],
            "x": [0.0, 1.0, 2.0, 4.0],
            "g": ["u", "v", "u", "v"],
            "b": [True, False, True, True],
            "e": ["p", "q", "r", "p"],
            "k": [0, 3, 1, 2],
        }
    )


def test_missing_values_are_named_or_left_out() -> None:
    frame = data()
    frame.loc[1, "x"], frame.loc[3, "g"], frame.loc[2, "e"] = np.nan, None, None
    match = "missing values: 'x' in row 1; 'g' in row 3"
    with pytest.raises(DataError, match=match):
        formula("y ~ x + (1 | g)", frame)
    made = formula("y ~ x + (1 | g)", frame, missing="drop")
    assert made.dropped == (1, 3)
    assert "Left out, as values are missing: rows 1, 3." in str(made)
    assert made.response[1].tolist() == [1.0, 4.0]
    whole = formula("y ~ x", data().iloc[[0, 2]])
    rest = str(formula("y ~ x", frame[["y", "x"]].iloc[[0, 1, 2]], missing="drop"))
    assert rest.partition("b_x = ")[2] == str(whole).partition("b_x = ")[2]
    with pytest.raises(DataError, match="no rows"):
        formula("y ~ x", {"y": [np.nan], "x": [1.0]}, missing="drop")
    with pytest.raises(ValueError, match="missing is one of"):
        formula("y ~ x", data(), missing="impute")  # type: ignore[arg-type]


def test_functions_and_numbers_of_the_caller() -> None:
    shift = 3.0

    def moved(column: Any) -> Any:
        return column + shift

    made = formula("y ~ moved(x) + {x / shift}", data())
    x = torch.tensor(data().x.to_numpy())
    torch.testing.assert_close(made.arguments[1], x + 3.0)
    torch.testing.assert_close(made.arguments[2], x / 3.0)


def test_categories_of_the_response() -> None:
    made = formula("b ~ x", data(), "bernoulli")
    assert made.response[1].tolist() == [1.0, 0.0, 1.0, 1.0]
    made = formula("g ~ x", data(), "bernoulli")
    assert made.categories == ("u", "v") and "Of g 0 is u, 1 is v." in str(made)
    assert formula("g['u'] ~ x", data(), "bernoulli").response[1].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert formula("k ~ x", data(), "ordinal").categories == ("0", "1", "2", "3")


ODD = ["n", "sigma", "eta", "class", "torch", "level", "z_g", "row", "y_", "größe", "Intercept",
       "a b", "1x", "p/q", "x[1]", 'quo"te', "back\\slash", "chain"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_columns_may_be_called_anything(name: str) -> None:
    """As a term, in a group, as its factor and as the response; the text runs."""
    frame = data().rename(columns={"x": name})
    quoted = f"`{name}`" if name in ODD[ODD.index("a b") : -1] else name
    made = formula(f"y ~ {quoted} + (1 + {quoted} | g)", frame)
    drawn = simulate(made.program, *made.arguments, seed=0)
    assert drawn.choices["y"].shape == (4,)
    again = formula(f"y ~ 1 + (1 | {quoted})", frame)
    assert simulate(again.program, *again.arguments, seed=0).choices["y"].shape == (4,)
    third = formula(f"{quoted} ~ k", frame)
    assert third.response[0] in simulate(third.program, *third.arguments, seed=0).choices


def test_priors_of_the_user() -> None:
    priors = {
        "x": dist.StudentT(3.0, 0.0, 2.0),
        "sigma": "dist.LogNormal(0.0, 1.0)",
        "sd_g": dist.HalfNormal(0.5),
    }
    text = str(formula("y ~ x + (1 | g)", data(), priors=priors))
    assert 'sample("x", dist.StudentT(df=3.0, loc=0.0, scale=2.0))' in text
    assert 'sample("sigma", dist.LogNormal(0.0, 1.0))' in text
    assert 'sample("sd_g", dist.HalfNormal(scale=0.5))' in text
    with pytest.raises(DataError, match=r"no site \['w'\]"):
        formula("y ~ x", data(), priors={"w": "dist.Normal(0.0, 1.0)"})
    with pytest.raises(DataError, match="no law with numbers"):
        formula("y ~ x", data(), priors={"x": dist.Normal(torch.zeros(2), 1.0)})


def test_it_is_an_ordinary_program() -> None:
    """Any driver runs it, ``inspect`` reads it, and a fit is resumed with the program made anew."""
    made = formula("y ~ x", data())
    assert inspect.getsource(made.program.fn) in made.source
    assert made.fit(Laplace()).draws["x"].dtype == torch.float64
    driver = MCMC(chains=2, draws=20, warmup=20, compiled=False, progress=False)
    fit = made.fit(driver)
    again = formula("y ~ x", data())
    assert again.fit(driver, resume=fit).size == 40
    other = formula("y ~ x", data().assign(x=[0.0, 1.0, 2.0, 5.0]))
    with pytest.raises(DataError, match="another posterior"):
        other.fit(driver, resume=fit)


def with_grades(y: Any) -> pandas.DataFrame:
    return data().assign(y=y)


@pytest.mark.parametrize(
    ("text", "frame", "family", "match"),
    [
        ("y ~ x g", data(), "gaussian", "'g' follows nothing"),
        ("y ~ x | g", data(), "gaussian", r"write groups in parentheses"),
        ("y ~ x +", data(), "gaussian", "parse"),
        ("y ~ q", data(), "gaussian", "no column or name 'q'"),
        ("y ~ log_of(x)", data(), "gaussian", "no column or name 'log_of'"),
        ("x", data(), "gaussian", "has no response"),
        ("y ~ np.log(x)", data(), "gaussian", r"'np.log\(x\)' is not finite in row 0"),
        ("np.log(x) ~ y", data(), "gaussian", r"response 'np.log\(x\)' is not finite in row 0"),
        ("y ~ x", data(), "normal", "the families are gaussian"),
        ("y ~ x", data(), "bernoulli", "is 2.0 in rows 1, 2, 3"),
        ("y ~ x", with_grades([0.5, 1, 2, 3]), "poisson", "is 0.5 in row 0"),
        ("x ~ y", data(), "gamma", "is 0.0 in row 0"),
        ("y ~ x", data(), "beta", "is 1.0 in rows 0, 1, 2, 3"),
        ("y ~ x", data(), "binomial", "has no trials"),
        ("prop(k, 4) ~ x", data(), "poisson", "has a number of trials"),
        ("prop(k, 1) ~ x", data(), "binomial", "successes"),
        ("e ~ x", data(), "gaussian", r"is categorical: \['p', 'q', 'r'\]"),
        ("e ~ x", data(), "bernoulli", "is categorical"),
        ("e ~ x", data(), "ordinal", "without an order"),
        ("y ~ x", with_grades([0.5, 1, 2, 3]), "ordinal", "is not ordered"),
        ("y ~ x", with_grades([2.0] * 4), "gaussian", "is constant"),
        ("y ~ x", with_grades([2] * 4), "ordinal", "is constant"),
        ("y ~ x", 7, "gaussian", "no frame of columns"),
    ],
)
def test_what_is_refused(text: str, frame: Any, family: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        formula(text, frame, family)
