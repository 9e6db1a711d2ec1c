"""The example files of the calculus: their answers by hand, and what the command line says."""

from __future__ import annotations

import math
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

import pushforward
from pushforward.__main__ import main
from pushforward.calculus import posterior, read, types
from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.parse import parse_module
from pushforward.ppl.calculus.pretty import pretty
from pushforward.ppl.errors import CalculusError
from pushforward.semantics import check, denote, reference

EXAMPLES = Path(pushforward.__file__).parent / "examples"
FILES = sorted(EXAMPLES.glob("*.pf"))

# evidence and posterior, by hand
EXACT: dict[str, tuple[F, dict[Any, F]]] = {
    "sprinkler": (F(2513, 5000), {True: F(39, 359), False: F(320, 359)}),
    "monty_hall": (F(1, 2), {F(0): F(1, 3), F(1): F(2, 3)}),
    "random_function": (F(1), {(True, True): F(5, 9), (True, False): F(4, 9)}),
    "medical_test": (F(4347, 1_250_000), {True: F(363, 1288), False: F(925, 1288)}),
    "listener": (F(9, 16), {F(1): F(4, 9), F(2): F(4, 9), F(3): F(1, 9)}),
    "missing": (F(5, 12), {True: F(3, 5), False: F(2, 5)}),
    "branching": (F(1), {True: F(1249, 2187), False: F(938, 2187)}),
}


def example(name: str) -> Any:
    return read(EXAMPLES / f"{name}.pf")


def test_there_are_a_dozen() -> None:
    assert len(FILES) >= 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_reads_back_and_agrees_with_its_program(file: Path) -> None:
    module = read(file)
    assert parse_module(pretty(module)) == module
    depth = 3 if file.stem == "dirichlet_process" else 20
    check.agreement(module, depth=depth).require()


@pytest.mark.parametrize("name", EXACT)
def test_the_answer_of_an_example(name: str) -> None:
    measure = reference.denote(example(name))
    evidence, normalised = EXACT[name]
    assert measure.mass() == evidence
    assert dict(measure.normalize().value) == normalised  # type: ignore[union-attr]


def test_the_burglar_of_russell_and_norvig() -> None:
    measure = reference.denote(example("alarm"))
    assert float(measure.atoms[True] / measure.mass()) == pytest.approx(0.284, abs=5e-4)


def test_the_hidden_markov_model_by_the_forward_algorithm() -> None:
    at = [F(1), F(0), F(0)]
    for day in range(12):
        at = [sum(at[i] * F(1 + (i == j), 4) for i in range(3)) for j in range(3)]
        chances = (F(1, 4), F(1, 2), F(3, 4))
        at = [a * (c if day % 3 else 1 - c) for a, c in zip(at, chances, strict=True)]
    assert dict(reference.denote(example("hmm"))) == {F(i): a for i, a in enumerate(at)}


@pytest.mark.parametrize(
    ("name", "evidence", "mean", "deviation"),
    [
        ("coin", 1 / 20, 2 / 3, math.sqrt(2 / 63)),
        ("fair_or_not", (3 / 32 + 1 / 7) / 2, 21 / 53, math.sqrt(21 * 32) / 53),
    ],
)
def test_the_answer_of_a_continuous_example(
    name: str, evidence: float, mean: float, deviation: float
) -> None:
    measure = denote(elaborate(example(name)), quadrature=64)
    assert measure.mass() == pytest.approx(evidence, rel=1e-8)
    found = float(measure.normalize().expect(float))
    assert found == pytest.approx(mean, rel=1e-8)
    square = float(measure.normalize().expect(lambda x: (float(x) - mean) ** 2))
    assert math.sqrt(square) == pytest.approx(deviation, rel=1e-7)


def test_the_line() -> None:
    """The posterior precision is 1 + X'X = [[6, 3], [3, 4]], and X'y = (7.5, 5.5)."""
    measure = denote(elaborate(example("regression")), quadrature=64).normalize()
    slope, height = (float(measure.expect(lambda v, i=i: v[i])) for i in (0, 1))
    assert slope == pytest.approx((4 * 7.5 - 3 * 5.5) / 15, abs=1e-8)
    assert height == pytest.approx((6 * 5.5 - 3 * 7.5) / 15, abs=1e-8)


def test_recursions_are_intervals() -> None:
    low, high = reference.denote(example("geometric"), depth=10).interval()
    assert (low, high) == (F(29524, 59049), F(29525, 59049))
    measure = reference.denote(example("gambler"), depth=20)
    assert measure.atoms[True] == measure.atoms[False]
    assert measure.interval()[1] == 1
    low, high = reference.denote(example("dirichlet_process"), depth=3).interval()
    assert low < high == 1


# ------------------------------------------------------------------------------- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    caught = capsys.readouterr()
    return int(stop.value.code or 0), caught.out + caught.err


def path(name: str) -> str:
    return str(EXAMPLES / f"{name}.pf")


def test_infer_prints_rationals(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "infer", path("sprinkler")) == (
        0,
        "evidence 2513/5000 = 0.5026\n  false  320/359 = 0.8913649\n  true   39/359 = 0.1086351\n",
    )


def test_infer_prints_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "infer", path("geometric"), "--depth", "3")
    assert status == 0
    assert said.startswith("evidence 0.48148148, and up to 0.037 more beyond --depth 3\n")
    assert "  0  0.64285714 to 0.71428571\n" in said


def test_infer_integrates(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "infer", path("regression"))
    assert status == 0
    assert "value.0  mean 0.9, sd 0.516398" in said


def test_infer_runs_the_elaborated_program(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--method", "smc", "--draws", "500", "--chains", "2", "--no-compile")
    status, said = run(capsys, "infer", path("coin"), *options)
    assert status == 0
    assert "bias" in said


def test_check_compares_with_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "check", path("alarm"))
    assert status == 0
    assert said.startswith("goes_off : Bool -> Bool -> Prob\nmain     : S Bool\nPASS: the program")


def test_type_prints_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "type", path("monty_hall")) == (
        0,
        "opens : Fin 3 -> P (Fin 3)\nmain  : S (Fin 3)\n",
    )


@pytest.mark.parametrize("command", ["check", "infer", "type"])
def test_a_mistake_is_marked_in_its_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.pf"
    file.write_text("def main : P Bool = do {\n  rain <- flip(0.3);\n  return rian\n}\n")
    status, said = run(capsys, command, str(file))
    assert status == 2
    assert f"{file}:3:10: unknown variable 'rian'. did you mean 'rain'?" in said
    assert "3 |   return rian\n" + 13 * " " + "^" in said


def test_a_file_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "check", "nowhere.pf")
    assert (status, said) == (2, "error: there is no file nowhere.pf\n")


def test_an_m_that_recurs_has_no_upper_bound(tmp_path: Path) -> None:
    file = tmp_path / "wild.pf"
    text = (EXAMPLES / "geometric.pf").read_text().replace("1/2", "2").replace("S Nat", "M Nat")
    file.write_text(text)
    assert "at least" in posterior(read(file), 5, 8)
    assert "  0  unknown" in posterior(read(file), 5, 8)


def test_a_value_is_printed_as_such(tmp_path: Path) -> None:
    file = tmp_path / "value.pf"
    file.write_text("def main : List Real = [1, 1/2, -3]")
    assert posterior(read(file), 5, 8) == "[1, 1/2, -3]"
    assert types(read(file)) == "main : List Real"


def test_an_error_at_the_end_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "open.pf"
    file.write_text("def main : P Bool = do {\n")
    with pytest.raises(CalculusError, match=r"open\.pf:2:1: unexpected the end"):
        read(file)


def test_a_long_line_is_shown_about_the_mistake(tmp_path: Path) -> None:
    file = tmp_path / "long.pf"
    file.write_text(f"def main : S Real = return ({'1 + ' * 100}true)\n")
    with pytest.raises(CalculusError, match="expected Real, found Bool") as caught:
        read(file)
    shown, mark = str(caught.value).splitlines()[1:]
    assert len(shown) < 130
    assert shown[mark.index("^") :].startswith("true")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "binary.pf"
    file.write_bytes(b"def main\xff")
    with pytest.raises(CalculusError, match=r"binary\.pf is no text in UTF-8 \(byte 8\)"):
        read(file)


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (f"return ({' + '.join(['1'] * 2_000)})", "  2000  1"),
        (f"return {'(' * 2_000}1{')' * 2_000}", "  1  1"),
        (f"do {{ {'x <- flip(1/2); ' * 300} return 1 }}", "  1  1"),
    ],
    ids=["sum", "parentheses", "statements"],
)
def test_a_deeply_nested_file(
    text: str, evidence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep.pf"
    file.write_text(f"def main : S Real = {text}")
    status, said = run(capsys, "check", str(file))
    assert status == 0
    assert said.startswith("main : S Real\nPASS: the program has the measure of the reference")
    assert run(capsys, "infer", str(file)) == (0, f"evidence 1\n{evidence}\n")


def test_an_infinite_support_is_listed_by_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "count.pf"
    file.write_text("def main : S Nat = poisson(3)")
    status, said = run(capsys, "check", str(file))
    assert status == 0
    assert "30 values, of mass 1" in said
