"""Data files: dumps of R and the JSON of Stan, and names that are of nothing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.command_line import called

from pushforward.commands import rdump
from pushforward.commands.data import as_tensor, read_data
from pushforward.commands.saying import UsageError, nearest
from pushforward.commands.targets import posed

MODEL = """
import torch

from pushforward import dist, plate, program, sample


@program
def line(x, group, scale=2.0):
    slope = sample("slope", dist.Normal(0.0, scale).expand((2,)).to_event(1))
    with plate("point", len(x)):
        sample("y", dist.Normal(slope[group] * x, 1.0))


def anything(**kwargs):
    sample("y", dist.Normal(kwargs["mean"], 1.0))
"""

# text, and the value by hand; arrays of R run through their first index fastest
BY_HAND: dict[str, Any] = {
    "3": 3,
    "-3L": -3,
    "3.0": 3.0,
    "+1.5e-3": 1.5e-3,
    ".5": 0.5,
    "1e3L": 1000,
    "- 2": -2,
    "-Inf": -math.inf,
    "c(1, 2.5, -3)": [1.0, 2.5, -3.0],
    "c(1L, 2L)": [1, 2],
    "c(TRUE, F)": [1, 0],
    "2:5": [2, 3, 4, 5],
    "2:-1": [2, 1, 0, -1],
    "c(1:3, 7, c(8L, 9L))": [1, 2, 3, 7, 8, 9],
    "integer(0)": [],
    "double(2)": [0.0, 0.0],
    "structure(1:6, .Dim = c(2L, 3L))": [[1, 3, 5], [2, 4, 6]],
    "structure(c(1, 2, 3,\n 4), .Dim = c(2,\n 2))": [[1, 3], [2, 4]],
    "structure(1:8, .Dim = c(2, 2, 2))": [[[1, 5], [3, 7]], [[2, 6], [4, 8]]],
    "structure(integer(0), .Dim = c(2, 0))": [[], []],
    "structure(1:4, .Dim = 4:4)": [1, 2, 3, 4],
}


def kinds(value: Any) -> Any:
    """Lists by the types of their numbers."""
    return [kinds(x) for x in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize(("text", "value"), BY_HAND.items(), ids=list(BY_HAND))
def test_a_dump_says_what_it_says_by_hand(text: str, value: Any) -> None:
    found = rdump.read(f"# of R\nx <- {text}\n", "f.R")["x"]
    assert found == value and kinds(found) == kinds(value)


def test_names_of_a_dump() -> None:
    text = """N <- 2 # how many\n"y" <-\nc(1, 2);'z'=3\n`a.b` <- 4\n.c <- 5"""
    found = rdump.read(text, "f.R")
    assert found == {"N": 2, "y": [1, 2], "z": 3, "a.b": 4, ".c": 5}
    assert math.isnan(rdump.read("x <- NaN", "f.R")["x"])


def dumped(x: Any, rng: random.Random) -> str:
    """An array as R dumps it, in one of its ways of writing."""
    flat = x.flatten(order="F").tolist()
    whole = x.dtype.kind == "i"
    mark = rng.choice(["L", ""]) if whole else ""
    gap = rng.choice([" ", "\n", ""])
    numbers = f",{gap}".join(f"{v!r}{mark}" for v in flat)
    if x.ndim == 0:
        return numbers
    ends = f"{flat[0]}:{flat[-1]}" if flat else ""
    if whole and flat == [flat[0] + i for i in range(len(flat))]:
        numbers = rng.choice([f"c({numbers})", ends])
    else:
        numbers = f"c({numbers})"
    shape = ", ".join(f"{n}L" for n in x.shape)
    return numbers if x.ndim == 1 else f"structure({numbers},{gap}.Dim = c({shape}))"


@pytest.mark.parametrize("seed", range(30))
def test_arrays_come_back_from_a_dump(seed: int) -> None:
    """Arrays of up to four dimensions, of integers and of doubles in all their digits."""
    rng = random.Random(seed)
    arrays: dict[str, Any] = {}
    for name in "abc":
        shape = tuple(rng.randint(1, 4) for _ in range(rng.randint(0, 4)))
        size = int(np.prod(shape))
        values: list[Any] = [rng.gauss(0.0, 10.0 ** rng.randint(-20, 20)) for _ in range(size)]
        if rng.random() < 0.5:
            values = [rng.randint(-5, 1 << 40) for _ in range(size)]
        if rng.random() < 0.3:
            values = list(range(3, 3 + size))
        arrays[name] = np.array(values).reshape(shape)
    text = "\n".join(f"{name} <- {dumped(x, rng)}" for name, x in arrays.items())
    found = rdump.read(text, "f.R")
    assert rdump.looks_like(text)
    for name, x in arrays.items():
        assert found[name] == x.tolist() and kinds(found[name]) == kinds(x.tolist())
    swapped = {n: x for n, x in arrays.items() if x.ndim > 1 and min(x.shape[:2]) > 1}
    assert all(
        found[n] != x.flatten().reshape(x.shape, order="F").tolist() for n, x in swapped.items()
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x <- ", "f.R:1: a number is expected, not 'the end'"),
        ("x <- c(1,\n2", "f.R:2: ',' is expected"),
        ("x <- c(1, NA)", "a number is expected, not 'NA'"),
        ("x <- 1\nx <- 2", "f.R:2: 'x' is given twice"),
        ("x <- structure(c(1, 2, 3), .Dim = c(2L, 2L))", "3 numbers do not fill .Dim = (2, 2)"),
        ("x <- list(1)", "a number is expected, not 'list'"),
        ("x <- 'words'", "a number is expected"),
        ("3 <- 4", "a name is expected, not '3'"),
        ("x <- 1 $ 2", "f.R:1: '$' has no place in a dump of R"),
        ("x <- c(a = 1)", "a number is expected, not 'a'"),
        ("x <- integer(-1)", "f.R:1: a size is expected, not '-'"),
    ],
)
def test_what_is_no_dump_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        rdump.read(text, "f.R")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.R", "x <- c(1.5, 2)\ny <- 3"),
        ("d.data.R", "x <- c(1.5, 2)\ny <- 3"),
        ("d.rdump", "x = c(1.5, 2); y = 3"),
        ("d.txt", "# a dump\n\nx <- c(1.5, 2)\ny <- 3"),
        ("d", "'x' <- c(1.5, 2)\ny <- 3"),
        ("d.json", '{"x": [1.5, 2], "y": 3}'),
        ("d.data", ' {"x": [1.5, 2], "y": 3}'),
    ],
)
def test_the_form_is_seen(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_data(tmp_path / name).flat == {"x": [1.5, 2], "y": 3}


def test_numbers_that_json_lacks_are_read_as_stan_writes_them() -> None:
    words = ["NaN", "+inf", "-inf", "Inf", "-Infinity", "+Infinity", 1]
    found = as_tensor("x", [words])
    inf = math.inf
    wanted = torch.tensor([[math.nan, inf, -inf, inf, -inf, inf, 1.0]])
    assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0)) and found[0, 0].isnan()
    assert as_tensor("x", "-inf") == -inf
    with pytest.raises(UsageError, match="x must be a number"):
        as_tensor("x", ["nan of things"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data_files") / "lines.py"
    path.write_text(MODEL)
    return path


@pytest.mark.parametrize("name", ["d.json", "d.R"])
def test_names_are_arguments_or_sites(model: Path, tmp_path: Path, name: str) -> None:
    """One file as Stan has it: x and group are arguments, y a site, scale is left out."""
    text = "x <- c(1, 2.5)\ngroup <- c(0L, 1L)\ny <- c(3, 4)"
    if name == "d.json":
        text = json.dumps({"x": [1, 2.5], "group": [0, 1], "y": [3, 4]})
    (tmp_path / name).write_text(text)
    p, (x, group), _ = posed(f"{model}:line", tmp_path / name)
    assert torch.equal(x, torch.tensor([1.0, 2.5])) and torch.equal(group, torch.tensor([0, 1]))
    assert torch.equal(p.data["y"], torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"args": {"xs": [1.0], "group": [0]}},
         "has no argument 'xs'; did you mean 'x'? there are x, group, scale"),
        ({"args": {"x": [1.0], "groups": [0]}}, "did you mean 'group'?"),
        ({"args": {"x": [1.0], "group": [0]}, "data": {"slop": [1.0, 2.0]}},
         "does not exist: 'slop'; did you mean 'slope'? there are slope, y"),
        ({"x": [1.0], "group": [0], "Q": 3},
         "'Q' is no argument and no site of the program; there are x, group, scale, slope, y"),
        ({"x": [1.0], "group": [0], "scal": 3}, "no site of the program; did you mean 'scale'?"),
        ({"x": [1.0], "grop": [0]}, "required argument: 'group'; 'grop' is no argument"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_told_with_the_nearest(
    model: Path, tmp_path: Path, data: Any, said: str
) -> None:
    (tmp_path / "d.json").write_text(json.dumps(data))
    code, out, err = called("type", f"{model}:line", "--data", tmp_path / "d.json")
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1


def test_a_program_of_any_keywords_has_no_unknown_ones(model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"args": {"mean": 2.0}, "data": {"y": 1}}')
    code, out, _ = called("type", f"{model}:anything", "--data", tmp_path / "d.json")
    assert (code, out) == (0, "{y: Real observed} -> M Unit\n")


def test_nearest() -> None:
    assert nearest("sigmas", ["mu", "sigma"]) == "did you mean 'sigma'? there are mu, sigma"
    assert nearest("zzz", ["mu"]) == "there is mu"
    assert nearest("zzz", []) == "there are none"
