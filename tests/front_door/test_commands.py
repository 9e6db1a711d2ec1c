"""The commands beside type, check and validate: what each prints and writes, and its mistakes."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import Called, called

import pushforward.models
from pushforward.commands.new import starter
from pushforward.inference import Fit, nuts
from pushforward.inference.runs.progress import Progress
from pushforward.models.systems import SHARED, SYSTEMS, as_markdown

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import torch

from pushforward import dist, plate, program, sample


@program
def line(x):
    slope = sample("slope", dist.Normal(0.0, 2.0))
    with plate("point", len(x)):
        sample("y", dist.Normal(slope * x, 0.5))


@program
def flat(x):
    level = sample("level", dist.Normal(0.0, 2.0))
    with plate("point", len(x)):
        sample("y", dist.Normal(level + 0.0 * x, 0.5))


@program
def other():
    sample("slope", dist.Normal(0.0, 3.0))
"""
DATA = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0.1, 0.9, 2.2, 2.9]}
FEW = ("--draws", 8, "--warmup", 6, "--chains", 2, "--no-compile", "--max-depth", 2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its data, and two fits: line.pt and flat.pt."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "m.py").write_text(MODEL)
    (folder / "d.json").write_text(json.dumps(DATA))
    for name in ("line", "flat"):
        words = ("infer", f"{folder}/m.py:{name}", "--data", folder / "d.json", "--method")
        found = called(*words, "laplace", "--draws", 200, "--save", folder / f"{name}.pt")
        assert found.code == 0, found.err
    return folder


def infer(home: Path, *words: object, name: str = "line") -> Called:
    return called("infer", f"{home}/m.py:{name}", "--data", home / "d.json", *words)


# -------------------------------------------------------------------------------------------- infer


def test_options_reach_the_driver(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def run(self: Any, p: Any, *args: Any, **how: Any) -> Any:
        seen.update(vars(self), dtype_of=args[0].dtype, data=p.data["y"].dtype, **how)
        raise Seen

    monkeypatch.setattr("pushforward.commands.infer.MCMC.run", run)
    words = ("--target", 0.9, "--max-depth", 7, "--metric", "dense", "--dtype", "float32")
    words = (*words, "--cores", 3, "--chains", 5, "--warmup", 11, "--draws", 12, "--seed", 13)
    infer(home, *words, "--no-compile", "--checkpoint", tmp_path / "c")
    wanted = {"target": 0.9, "metric": "dense", "dtype": torch.float32, "cores": 3, "chains": 5}
    wanted |= {"warmup": 11, "draws": 12, "seed": 13, "compiled": False}
    wanted |= {"dtype_of": torch.float32, "data": torch.float32, "checkpoint": tmp_path / "c"}
    assert {name: seen[name] for name in wanted} == wanted
    assert seen["kernel"].max_depth == 7
    infer(home)
    assert seen["kernel"].max_depth == nuts().max_depth and seen["target"] is None
    assert (seen["chains"], seen["draws"], seen["warmup"], seen["metric"]) == (
        4,
        1000,
        1000,
        "auto",
    )
    assert seen["dtype"] == torch.float64 and seen["seed"] == 0 and seen["compiled"]


def test_double_precision_reads_all_digits_of_the_data(home: Path, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"x": [1.0], "y": [0.1]}')
    words = ("infer", f"{home}/m.py:line", "--data", tmp_path / "d.json", "--method", "laplace")
    words = (*words, "--draws", 5, "--save", tmp_path / "f.pt")
    for dtype, value in (("float64", 0.1), ("float32", float(torch.tensor(0.1)))):
        asked = ("--dtype", dtype) if dtype == "float32" else ()
        assert called(*words, *asked).code == 0
        fit = Fit.load(tmp_path / "f.pt")
        assert float(fit.observed["y"][0]) == value
        assert fit["slope"].dtype == getattr(torch, dtype)


def test_a_run_is_extended(home: Path, tmp_path: Path) -> None:
    """The draws of before stand first, and the fit is longer by as many as were asked for."""
    first, both = tmp_path / "first.pt", tmp_path / "both.pt"
    assert infer(home, *FEW, "--seed", 4, "--save", first).code == 0
    words = ("--resume", first, "--no-compile", "--max-depth", 2, "--save", both)
    found = infer(home, *words, "--extend", 5, "--out", tmp_path / "d.csv")
    assert found.code == 0, found.err
    before, after = Fit.load(first), Fit.load(both)
    assert (before.size, after.size, after.chains, after.seed) == (8, 13, 2, 4)
    assert torch.equal(after["slope"][:, :8], before["slope"])
    assert "2 x 13 draws" in found.out and f"saved to {both}" in found.out
    files = [tmp_path / f"d_{i}.csv" for i in (1, 2)]
    assert f"draws written to {files[0]}, {files[1]}" in found.out
    header = next(x for x in files[0].read_text().splitlines() if not x.startswith("#"))
    assert header.split(",")[-1] == "slope"
    assert {"lp__", "accept_stat__", "stepsize__", "treedepth__"} <= set(header.split(","))
    assert infer(home, *words).code == 0 and Fit.load(both).size == 16  # as many as it had
    refused = infer(home, *words, name="other")
    assert refused.code == 2 and "'x' is no argument and no site" in refused.err
    (tmp_path / "e.json").write_text(json.dumps(DATA | {"y": [0.0] * 4}))
    changed = called("infer", f"{home}/m.py:line", "--data", tmp_path / "e.json", *words)
    assert changed.code == 2 and "of another posterior" in changed.err


def interrupted_at(monkeypatch: Any, step: int) -> None:
    """Ctrl-C after so many transitions."""
    done = 0

    def advance(self: Progress, steps: int = 1, **figures: Any) -> None:
        nonlocal done
        done += steps
        if done >= step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", advance)


def test_ctrl_c_in_warm_up_says_what_happened_and_keeps_what_can_be_kept(
    home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.pt"
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(patch, 4)
        code, out, _ = infer(home, *FEW, "--save", path, "--out", tmp_path / "d.csv")
        assert code == 130
        assert "Ctrl-C came in warm-up, after 3 of 6 transitions: there are no draws" in out
        assert f"--resume {path} --extend N goes on, with what warm-up has learnt" in out
        assert not list(tmp_path.glob("*.csv")) and "nan" not in out.lower()
        interrupted_at(patch, 4)
        nothing = infer(home, *FEW)
        assert nothing.code == 130 and "nothing is kept: --save keeps" in nothing.out
    stopped = Fit.load(path)
    assert stopped.size == 0 and stopped.interrupted
    for words in (
        ("plot", path),
        ("report", path),
        ("predict", f"{home}/m.py:line", "--fit", path),
    ):
        data = ("--data", home / "d.json") if words[0] == "predict" else ()
        found = called(*words, *data, "--out", tmp_path / "x.png")
        assert found.code == 2 and len(found.err.splitlines()) == 1, found
    found = infer(home, "--resume", path, "--extend", 6, "--no-compile", "--save", path)
    fit = Fit.load(path)
    assert found.code == 0 and fit.size == 6
    assert {"lp", "diverging"} <= fit.stats.keys()


def test_ctrl_c_later_keeps_the_draws(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "f.pt"
    interrupted_at(monkeypatch, 10)
    code, out, _ = infer(home, *FEW, "--save", path)
    assert code == 130
    kept = Fit.load(path).size
    assert 0 < kept < 8 and f"the run was interrupted: it holds {kept} draws a chain" in out
    assert f"interrupted; --resume {path} --extend N goes on" in out.splitlines()


def test_ctrl_c_before_there_is_a_run(home: Path, monkeypatch: Any) -> None:
    def stopped(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pushforward.commands.infer.posed", stopped)
    found = infer(home)
    assert (found.code, found.out) == (130, "")
    assert found.err == "interrupted, before there was anything to keep\n"


# ------------------------------------------------------------------------------ predict and compare


def test_predict_from_a_fit_at_new_arguments(home: Path, tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text('{"x": [10.0, -10.0]}')
    words = ("predict", f"{home}/m.py:line", "--data", tmp_path / "new.json")
    code, out, err = called(*words, "--fit", home / "line.pt", "--out", tmp_path / "p.json")
    assert code == 0, err
    rows = {
        line.split()[0]: float(line.split()[1]) for line in out.splitlines() if "y[" in line[:3]
    }
    posterior = 14.0 * 4 / (14.0 * 4 + 0.25)  # of data y about x with precision 4, prior 1 / 4
    slope = posterior * (0.9 + 4.4 + 8.7) / 14.0
    assert rows["y[0]"] == pytest.approx(10 * slope, abs=0.5)
    assert rows["y[1]"] == pytest.approx(-10 * slope, abs=0.5)
    content = json.loads((tmp_path / "p.json").read_text())
    assert torch.tensor(content["posterior_predictive"]["y"]).shape == (1, 200, 2)


def test_predict_from_the_prior(home: Path) -> None:
    words = ("predict", f"{home}/m.py:line", "--data", home / "d.json", "--seed", 1)
    code, out, _ = called(*words, "--draws", 4000)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1] in "ys"}
    assert code == 0 and set(rows) == {"slope", "y[0]", "y[1]", "y[2]", "y[3]"}
    assert float(rows["slope"][1]) == pytest.approx(2.0, rel=0.1)
    assert float(rows["y[3]"][1]) == pytest.approx((36.0 + 0.25) ** 0.5, rel=0.1)
    assert called(*words, "--draws", 10).out == called(*words, "--draws", 10).out


def test_compare_ranks_fits(home: Path) -> None:
    for by in ("loo", "waic"):
        code, out, err = called("compare", home / "flat.pt", home / "line.pt", "--by", by)
        lines = out.splitlines()
        assert code == 0, err
        assert lines[0].split()[:4] == ["elpd", "se", "p", "elpd_diff"]
        assert [line.split()[0] for line in lines[1:3]] == ["line", "flat"]
        assert lines[1].split()[4] == "0.00" and float(lines[2].split()[4]) > 1.0
    assert "observations of flat are doubtful" in out


# -------------------------------------------------------------------------------- plot, report, new


@pytest.mark.parametrize(
    ("words", "name", "head"),
    [
        (("line.pt",), "a.png", b"\x89PNG"),
        (("line.pt", "--sites", "slope"), "b.pdf", b"%PDF"),
        (("line.pt", "line2.pt", "--kind", "intervals"), "c.svg", b"<?xml"),
    ],
)
def test_plot(home: Path, tmp_path: Path, words: Any, name: str, head: bytes) -> None:
    (home / "line2.pt").write_bytes((home / "line.pt").read_bytes())
    given = [home / word if word.endswith(".pt") else word for word in words]
    code, out, err = called("plot", *given, "--out", tmp_path / name)
    assert (code, out) == (0, f"written to {tmp_path / name}\n"), err
    assert (tmp_path / name).read_bytes().startswith(head)


def test_report(home: Path, tmp_path: Path) -> None:
    words = ("report", home / "line.pt", "--out", tmp_path / "r.html")
    assert called(*words).code == 0
    page = (tmp_path / "r.html").read_text()
    assert "<title>line</title>" in page and "Should I believe it?" in page
    assert "def line" not in page
    code, out, _ = called(*words, f"{home}/m.py:line", "--data", home / "d.json", "--title", "A&B")
    page = (tmp_path / "r.html").read_text()
    assert (code, out) == (0, f"written to {tmp_path / 'r.html'}\n")
    assert "def line" in page and "Real" in page and "A&amp;B" in page


def test_a_new_file_is_one_that_passes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called("new", "bridges")
    assert code == 0 and "pushforward infer bridges.py:posterior --save bridges.pt" in out
    text = (tmp_path / "bridges.py").read_text()
    assert text == starter("bridges.py", "bridges") and "{" not in text.split('"""')[1]
    found = runpy.run_path("bridges.py")
    tests = [value for name, value in found.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()
    line = next(x for x in out.splitlines() if x.startswith("  pushforward type"))
    kind = "{intercept: Real, slope: Real, noise: Positive, y: Real[8] observed} -> M Unit\n"
    assert called(*line.split()[1:]).out == kind


@pytest.mark.slow
def test_the_test_of_a_new_file_fails_for_a_wrong_model(tmp_path: Path) -> None:
    right = starter("w.py", "w")
    wrong = right.replace("Normal(intercept + slope * x", "Normal(intercept - slope * x")
    assert wrong != right
    (tmp_path / "w.py").write_text(wrong)
    found = runpy.run_path(str(tmp_path / "w.py"))
    with pytest.raises(AssertionError, match="slope"):
        found["test_parameters_are_found_in_data_that_they_made"]()


def test_new_leaves_what_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("x = 1\n")
    for name, said in {
        "mine": "mine.py exists",
        "no-name": "'no-name' is no name of a module",
        "class": "'class' is no name",
        "torch": "there is a module 'torch' already",
        "nowhere/x": "there is no folder nowhere",
    }.items():
        found = called("new", name)
        assert found.code == 2 and said in found.err
    assert Path("mine.py").read_text() == "x = 1\n" and os.listdir() == ["mine.py"]


# ------------------------------------------------------------------------------------------- models


def test_models_lists_what_there_is() -> None:
    code, out, _ = called("models")
    assert code == 0
    for system in SYSTEMS:
        assert re.search(rf"^{', '.join(system.modules)} +{re.escape(system.purpose)}$", out, re.M)
    assert called("models", "--markdown").out == as_markdown() + "\n"


def test_the_table_of_the_page_is_that_of_the_command() -> None:
    page = (ROOT / "docs" / "models" / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert "\n".join(rows) == as_markdown(), "put there what `pushforward models --markdown` says"


def test_every_module_is_in_the_table() -> None:
    there = {module.name for module in pkgutil.iter_modules(pushforward.models.__path__)}
    listed = [name for system in SYSTEMS for name in system.modules]
    assert len(set(listed)) == len(listed)
    assert there - {*listed, *SHARED} == set(), "add them to models/systems.py"
    assert {*listed, *SHARED} - there == set()


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("infer", "@line", "--method", "smc", "--target", "0.9"), "--target is for nuts, not for"),
        (("infer", "@line", "--method", "advi", "--chains", "2"), "--chains is for nuts, smc"),
        (("infer", "@line", "--metric", "round"), "--metric is auto or diagonal or dense"),
        (("infer", "@line", "--dtype", "half"), "--dtype is float32 or float64, not 'half'"),
        (("infer", "@line", "--target", "1.5"), "--target is between 0 and 1"),
        (("infer", "@line", "--extend", "5"), "name its fit by --resume"),
        (("infer", "@line", "--resume", "f.pt", "--draws", "5"), "--draws beside --resume"),
        (("infer", "@line", "--format", "csv"), "--format needs a file"),
        (("infer", "@line", "--out", "x.dat"), "--out x.dat: say --format"),
        (("infer", "@line", "--data", "@d.json", "--resume", "no.pt"), "there is no file no.pt"),
        (("infer", "@line", "--data", "@d.json", "--resume", "@m.py"), "does not hold a fit"),
        (("infer", "@line", "--data", "@d.json", "--resume", "@line.pt"), "is not by MCMC"),
        (("predict", "@line", "--discrete", "best"), "--discrete is sample or max or prior"),
        (("predict", "@line", "--fit", "@line.pt", "--draws", "3"), "--draws is for the prior"),
        (("predict", "@other", "--fit", "@flat.pt"), "level"),
        (("predict", "@line", "--data", "@d.json", "--fit", "@line.pt", "--given", "x"),
         "'x' is no latent"),
        (("compare", "@line.pt"), "compare needs two fits or more"),
        (("compare", "@line.pt", "@line.pt"), "a fit is named twice"),
        (("compare", "@line.pt", "@flat.pt", "--by", "aic"), "--by is loo or waic, not 'aic'"),
        (("plot", "@line.pt", "--kind", "pie"), "--kind is chains or intervals, not 'pie'"),
        (("plot", "@line.pt", "--out", "x.bmp"), "a picture ends in .png, .pdf or .svg"),
        (("plot", "@line.pt", "--sites", "slop"), "has no site 'slop'"),
        (("plot", "@line.pt", "@flat.pt"), "--kind chains is of one fit"),
        (("plot", "@line.pt", "@flat.pt", "--kind", "intervals"), "no site in common"),
        (("report", "@line.pt", "--out", "nowhere/x.html"), "there is no folder nowhere"),
        (("report", "@line.pt", "--data", "@d.json"), "--data is of a program"),
        (("infer", "@line", "--chain", "3"), "No such option: --chain"),
        (("infer", "@line", "--chain", "3"), "--chains"),
        (("plots",), "No such command 'plots'"),
        (("infer", "@line", "--draws", "0"), "--draws"),
        (("plot",), "Missing argument"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(home: Path, words: Any, said: str) -> None:
    programs = {"@line": f"{home}/m.py:line", "@other": f"{home}/m.py:other"}
    given = [
        programs.get(word) or (home / word[1:] if word.startswith("@") else word) for word in words
    ]
    code, out, err = called(*given)
    assert code == 2 and out == "", err
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    assert said in err and "Traceback" not in err
