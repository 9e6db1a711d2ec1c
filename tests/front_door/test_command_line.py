"""The command line: its commands, what it prints, its exit status, and how it tells mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pushforward.__main__ import main
from pushforward.inference import Fit

MODELS = """
from __future__ import annotations

from dataclasses import dataclass

import torch

from pushforward import condition, dist, plate, program, sample, scan
from pushforward.inference import importance
from pushforward.semantics import check


@dataclass
class Prior:
    scale: float = 5.0


@program
def schools(sigma):
    mu = sample("mu", dist.Normal(0.0, Prior().scale))
    with plate("school", len(sigma)):
        theta = sample("theta", dist.Normal(mu, 3.0))
        sample("y", dist.Normal(theta, sigma))
    return theta


def flips(n, group=None):
    p = sample("p", dist.Beta(1.0, 1.0))
    with plate("toss", n):
        sample("heads", dist.Bernoulli(p if group is None else p.expand(3)[group]))


@program
def die():
    x = sample("x", dist.Categorical(torch.ones(6)))
    sample("even", dist.Bernoulli((x % 2 == 0).double()))
    return x


def die_without_result():
    die.fn()


def walk():
    scan(lambda x, t: (sample("x", dist.Normal(x, 1.0)), None))(0.0, torch.arange(3))


def double():
    sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))


def branching():
    if sample("x", dist.Bernoulli(0.5)) == 1:
        sample("y", dist.Normal(0.0, 1.0))


def keywords(*, scale):
    return sample("x", dist.Normal(0.0, scale))


class Module(torch.nn.Module):
    def forward(self, scale):
        return sample("x", dist.Normal(0.0, scale))


module = Module()
number = 3


def divides():
    return 1 / 0


def refuses():
    raise ValueError("the data are not of this world")


even = condition(die, {"even": torch.tensor(1.0, dtype=torch.float64)})


def good():
    return check.valid(importance(even, 1), even)


def bad():
    def forgetful():
        return importance(even, 1)().values[0], torch.zeros(())

    return [good(), check.valid(program(forgetful), even)]


def required():
    return bad()[1].require()


def nothing():
    return []


def not_a_report():
    return "all is well"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return path


@pytest.fixture
def run(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> Iterator[Run]:
    """Run a command; ``:name`` stands for a name in the models, ``data=`` is written as JSON."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()

    def call(*arguments: str, data: Any = None) -> tuple[int, str, str]:
        words = [f"{models}{a}" if a.startswith(":") else a for a in arguments]
        if data is not None:
            (tmp_path / "data.json").write_text(data if isinstance(data, str) else json.dumps(data))
            words += ["--data", str(tmp_path / "data.json")]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(words)
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, out, err

    yield call
    torch.set_num_threads(threads)


SCHOOLS = {"args": {"sigma": [15, 10, 16]}, "data": {"y": [28, 8, -3]}}

# ------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("name", "data", "shown"),
    [
        (":schools", {"args": {"sigma": [15.0, 10.0]}},
         "{mu: Real, theta: Real[2], y: Real[2]} -> P Real[2]"),
        (":schools", SCHOOLS, "{mu: Real, theta: Real[3], y: Real[3] observed} -> M Real[3]"),
        (":flips", {"args": {"n": 2}}, "{p: UnitInterval, heads: Bool[2]} -> P Unit"),
        (":flips", {"args": {"n": 2, "group": [0, 2]}}, "{p: UnitInterval, heads: Bool[2]} -> P "),
        (":die", {"even": 1}, "{x: Fin(6), even: Bool observed} -> M Int"),
        (":die", None, "{x: Fin(6), even: Bool} -> P Int"),
        (":keywords", {"args": {"scale": 2.5}}, "{x: Real} -> P Real"),
        (":module", {"args": {"scale": 2.5}, "data": {"x": 1}}, "{x: Real observed} -> M Real"),
        (":walk", {"x": [1, 2, 3]}, "{x: Real^3 observed} -> M Unit"),
    ],
)  # fmt: skip
def test_type(run: Run, name: str, data: Any, shown: str) -> None:
    code, out, err = run("type", name, data=data)
    assert (code, err) == (0, "")
    assert out.startswith(shown)


# --------------------------------------------------------------------------------------- inference

FEW = {
    "nuts": ("--draws", "30", "--warmup", "30", "--chains", "2"),
    "smc": ("--draws", "30", "--chains", "2"),
    "advi": ("--draws", "30"),
    "pathfinder": ("--draws", "30", "--chains", "2"),
}


@pytest.mark.parametrize("method", FEW)
def test_infer_saves_what_python_loads(run: Run, tmp_path: Path, method: str) -> None:
    path = tmp_path / "fit.pt"
    words = ("infer", ":schools", "--method", method, *FEW[method], "--no-compile", "--seed", "3")
    code, out, _ = run(*words, "--save", str(path), data=SCHOOLS)
    assert code == 0
    fit = Fit.load(path)
    assert method in fit.method.lower()
    assert repr(fit) in out and f"saved to {path}" in out
    assert fit["theta"].shape == (1 if method in ("advi", "pathfinder") else 2, 30, 3)
    assert fit["theta"].dtype == torch.float64
    assert fit.observed["y"].tolist() == [28.0, 8.0, -3.0]
    table = [line for line in out.splitlines() if line.startswith(("mu ", "theta["))]
    assert len(table) == 4
    assert all(f"warning: {warning}" in out for warning in fit.warnings())
    assert fit.warnings() or method != "nuts"  # thirty draws are too few, and it is said


@pytest.mark.parametrize("method", ["nuts", "smc"])
def test_a_run_is_kept_and_gone_on_from(run: Run, tmp_path: Path, method: str) -> None:
    words = ("infer", ":schools", "--method", method, *FEW[method], "--no-compile")
    words = (*words, "--checkpoint", str(tmp_path / "run"), "--seed")
    code, first, _ = run(*words, "1", data=SCHOOLS)
    assert code == 0 and (tmp_path / "run").exists()
    assert run(*words, "1", data=SCHOOLS)[1].splitlines()[1:] == first.splitlines()[1:]
    code, _, err = run(*words, "2", data=SCHOOLS)
    assert code != 0 and "of another run" in err


def test_a_seed_repeats_a_run_and_another_does_not(run: Run) -> None:
    words = ("infer", ":schools", "--method", "advi", "--draws", "20", "--no-compile", "--seed")
    first, second, third = (
        run(*words, seed, data=SCHOOLS)[1].splitlines()[1:] for seed in ("1", "1", "2")
    )
    assert first == second != third


def test_exact_prints_the_measure_and_the_posterior(run: Run) -> None:
    code, out, _ = run("infer", ":die", "--method", "exact", data={"even": 1})
    assert code == 0
    assert "Measure of mass 0.5 on 3 values" in out
    assert "normalised:\nMeasure of mass 1 on 3 values" in out
    assert out.split().count("0.333333") == 3
    _, out, _ = run("infer", ":die", "--method", "exact")
    assert "Measure of mass 1 on 6 values" in out and "normalised" not in out


def test_exact_prints_the_choices_of_a_program_without_result(run: Run) -> None:
    code, out, _ = run("infer", ":die_without_result", "--method", "exact", data={"even": 1})
    assert code == 0
    assert "(('x', 4),)" in out


def test_data_take_the_dtype_of_their_site(run: Run, models: Path, tmp_path: Path) -> None:
    from pushforward.commands.targets import posed

    def data_of(name: str, content: Any) -> dict[str, torch.Tensor]:
        (tmp_path / "d.json").write_text(json.dumps(content))
        p, _, _ = posed(f"{models}:{name}", tmp_path / "d.json")
        data: dict[str, torch.Tensor] = p.data
        return data

    heads = data_of("flips", {"args": {"n": 3}, "data": {"heads": [1, 0, True]}})["heads"]
    assert torch.equal(heads, torch.tensor([1.0, 0.0, 1.0]))
    x = data_of("double", {"x": 0.1})["x"]
    assert x.dtype == torch.float64 and float(x) == 0.1
    x = data_of("walk", {"x": [1, 2, 3]})["x"]
    assert x.dtype == torch.float32
    assert data_of("die", {"x": 3})["x"].dtype == torch.int64
    assert data_of("branching", {"y": 0.5})["y"].dtype == torch.float32


# ------------------------------------------------------------------------------------------- checks


def test_check_passes(run: Run) -> None:
    code, out, err = run("check", ":good")
    assert (code, err) == (0, "")
    assert out.startswith("PASS: importance(1) is valid for condition(die, ['even'])")


@pytest.mark.parametrize("name", [":bad", ":required"])
def test_a_failing_check_prints_its_counterexample_and_exits_with_1(run: Run, name: str) -> None:
    code, out, err = run("check", name)
    assert (code, err) == (1, "")
    assert "FAIL:" in out and "counterexample: the value" in out
    assert ("PASS:" in out) == (name == ":bad")


# ---------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (("type", "models.py"), None, "write FILE.py:name, not 'models.py'"),
        (("type", "nowhere.py:p"), None, "there is no file nowhere.py"),
        (("type", ":missing"), None, "has no 'missing'; it has Prior, schools, flips, die"),
        (("type", ":number"), None, "is of type int, not a program"),
        (("type", ":Module"), None, "is a class, not a program"),
        (("type", ":schools"), None, 'give arguments under "args"'),
        (("type", ":schools"), {"args": {"sigmas": [1.0]}}, "sigma"),
        (("type", ":schools"), {"args": {"sigma": [[1.0], [1.0, 2.0]]}}, "sigma must be a number"),
        (("type", ":schools"), {"args": {"sigma": [1.0, None]}}, "sigma must be a number"),
        (("type", ":die"), {"even": "yes"}, "even must be a number"),
        (("type", ":die"), {"odd": 1}, "'odd' is no argument and no site of the program"),
        (("type", ":die"), {"data": {"odd": 1}}, "a site that does not exist: 'odd'; there are"),
        (("type", ":die"), {"args": {}, "date": {"even": 1}}, "['date'] beside"),
        (("type", ":die"), "{", "is not JSON"),
        (("type", ":die"), "[1]", "must hold a JSON object, not a list"),
        (("type", ":die", "--data", "nowhere.json"), None, "cannot read nowhere.json"),
        (("type", ":branching"), None, "Python looks at a random value"),
        (("type", ":divides"), None, "ZeroDivisionError: division by zero"),
        (("infer", ":die", "--method", "magic"), None, "must be nuts, smc, advi, pathfinder"),
        (("infer", ":double", "--save", "nowhere/fit.pt"), None, "there is no folder nowhere"),
        (("infer", ":die", "--method", "exact", "--save", "fit.pt"), None, "--save is for"),
        (("infer", ":die", "--method", "advi", "--checkpoint", "f"), None, "--checkpoint is for"),
        (("infer", ":double", "--method", "exact"), None, "no finite support"),
        (("infer", ":die", "--method", "exact"), {"even": 0.5}, "outside the support"),
        (("check", ":nothing"), None, "gives no report"),
        (("check", ":not_a_report"), None, "gives a str, not a Report"),
        (("check", ":refuses"), None, "ValueError: the data are not of this world"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_words(run: Run, words: Any, data: Any, said: str) -> None:
    code, out, err = run(*words, data=data)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and said in err
    assert "Traceback" not in err


def test_an_error_of_the_users_file_names_its_line(run: Run, models: Path) -> None:
    line = 1 + MODELS.splitlines().index("    return 1 / 0")
    code, _, err = run("type", ":divides")
    assert code == 2
    assert f"{models}:{line}" in err and "--debug shows the traceback" in err


@pytest.mark.parametrize("at", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, at: int) -> None:
    words = ["type", ":divides"]
    code, _, err = run(*words[:at], "--debug", *words[at:])
    assert code == 2
    assert "Traceback" in err and "return 1 / 0" in err and "error: ZeroDivisionError" in err


def test_a_file_that_does_not_run(run: Run, tmp_path: Path) -> None:
    broken, text = tmp_path / "broken.py", tmp_path / "notes.txt"
    broken.write_text("import no_such_module\n")
    text.write_text("words")
    code, _, err = run("type", f"{broken}:p")
    assert code == 2
    assert "ModuleNotFoundError: No module named 'no_such_module'" in err and f"{broken}:1" in err
    broken.write_text("def p(:\n")
    assert "SyntaxError" in run("type", f"{broken}:p")[2]
    assert "is not a Python file" in run("type", f"{text}:p")[2]


def test_a_file_may_import_its_neighbours(run: Run, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_model.py").write_text("scale = 2.0\n")
    (tmp_path / "main_model.py").write_text(
        "from pushforward import dist, sample\n\n"
        "def p():\n    from neighbour_of_model import scale\n"
        "    return sample('x', dist.Normal(0.0, scale))\n"
    )
    code, out, _ = run("type", f"{tmp_path / 'main_model.py'}:p")
    assert (code, out) == (0, "{x: Real} -> P Real\n")


@pytest.mark.parametrize(
    "words",
    [("type",), ("infer", ":die", "--draws", "0"), ("infer", ":die", "--seed", "x"), ("nonsense",)],
)
def test_a_wrong_command_line_exits_with_2(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Usage: pushforward" in err


def test_help_lists_the_commands(run: Run) -> None:
    code, out, _ = run("infer", "--help")
    assert code == 0
    assert all(word in out for word in ("--method", "--seed", "--save", "--warmup", "--no-compile"))
    process = subprocess.run(
        [sys.executable, "-m", "pushforward", "--help"], capture_output=True, text=True, check=True
    )
    wanted = ("demo", "infer", "type", "check", "--debug", "Exit status")
    assert all(word in process.stdout for word in wanted)


def test_the_process_exits_with_the_status(models: Path) -> None:
    words = [sys.executable, "-m", "pushforward", "check", f"{models}:bad"]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (1, "")


# ----------------------------------------------------------------------------------- Pyro as it is

PYRO = """
import pyro
import pyro.distributions as dist
import torch


def two_coins(a_chance):
    a = pyro.sample("a", dist.Bernoulli(a_chance))
    b = pyro.sample("b", dist.Bernoulli(0.5))
    pyro.sample("either", dist.Bernoulli(torch.max(a, b)), obs=torch.tensor(1.0))
    return a


def line(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("point", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)
"""


def test_a_file_that_never_heard_of_this_library(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(PYRO)
    coins = {"args": {"a_chance": 0.25}, "data": {}}
    code, out, _ = run("type", f"{path}:two_coins", data=coins)
    assert code == 0
    assert out.startswith("{a: Bool, b: Bool, either: Bool observed} -> M Real")
    code, out, _ = run("infer", f"{path}:two_coins", "--method", "exact", data=coins)
    assert code == 0
    assert "mass 0.625" in out  # 1 - 3/4 * 1/2
    points = {"args": {"x": [1.0, 2.0], "y": [0.9, 2.1]}, "data": {}}
    for method, options in FEW.items():
        words = ("infer", f"{path}:line", "--method", method, *options, "--no-compile")
        code, out, _ = run(*words, data=points)
        assert code == 0
        assert "slope" in out
