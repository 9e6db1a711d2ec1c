"""The pytest plugin in a project of its own: assertions, seeds, and the budget of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.sizes import quick

KERNELS = """
import torch
import pyro.distributions as dist
from pushforward import draw, program, sample
from pushforward.testing import assert_density, assert_ergodic, assert_invariant, assert_valid

def mass(x):
    return torch.where(x == 1, torch.tensor(0.3, dtype=torch.float64), 0.7)

@program
def coin():
    return sample("x", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))

def right(x):
    accept = draw(dist.Bernoulli((mass(1 - x) / mass(x)).clamp(max=1.0)))
    return torch.where(accept == 1, 1 - x, x)

def wrong(x):
    return draw(dist.Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
"""
RIGHT = """
def test_right(pushforward_seed):
    first = torch.rand(1)
    assert assert_invariant(right, coin).verdict == "pass"
    assert_ergodic(right, coin)
    torch.manual_seed(pushforward_seed)
    assert torch.equal(first, torch.rand(1))

def test_draws(pushforward_level):
    assert pushforward_level == 1e-6
    assert_density(dist.Bernoulli(torch.tensor(0.3)), level=pushforward_level)
"""
WRONG = """
def test_wrong():
    assert_invariant(wrong, coin)
"""


def ran(folder: Path, *parts: str, options: tuple[str, ...] = (), ini: str = "") -> tuple[int, str]:
    """The exit status and what pytest prints of a project with these tests."""
    (folder / "test_project.py").write_text("\n".join(parts))
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    command = [sys.executable, "-m", "pytest", "-q", *PLUGIN, "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


ROOT = Path(__file__).parents[2]
# by its module, and not by the entry point, which an environment may lack
PLUGIN = ("-p", "no:pushforward", "-p", "pushforward_pytest")


def test_right_code_passes_and_the_run_says_what_it_asked(tmp_path: Path) -> None:
    status, said = ran(tmp_path, KERNELS, RIGHT)
    assert status == 0, said
    assert "exact checks 2, statistical ones 1" in said
    assert "with probability 1e-06 at most (budget 0.001)" in said


def test_wrong_code_fails_with_the_report_alone(tmp_path: Path) -> None:
    status, said = ran(tmp_path, KERNELS, WRONG)
    assert status == 1
    assert "FAIL: wrong leaves coin invariant" in said
    assert "the state 0.0 has mass 0.7 before the step and 0.5 after it" in said
    assert "def asserted" not in said


def test_a_run_that_asks_too_much_of_chance_fails(tmp_path: Path) -> None:
    small = RIGHT.replace("== 1e-6", "== 1e-9 / 1000")
    status, said = ran(tmp_path, KERNELS, small, ini="pushforward_budget = 1e-9")
    assert status == 0, said
    greedy = RIGHT.replace("level=pushforward_level", "level=0.01")
    status, said = ran(tmp_path, KERNELS, greedy)
    assert status == 1
    assert "more than the budget of 0.001" in said


def test_workers_are_counted_together(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    status, said = ran(tmp_path, KERNELS, RIGHT, options=("-n", "2"))
    assert status == 0, said
    assert "exact checks 2, statistical ones 1" in said


QUIET = """
import sys

def test():
    assert not {"torch", "pyro", "pushforward"} & sys.modules.keys()
"""


def test_nothing_is_imported_or_said_without_checks(tmp_path: Path) -> None:
    status, said = ran(tmp_path, QUIET)
    assert status == 0, said
    assert "pushforward:" not in said


@pytest.mark.parametrize("value", ["0", "2", "many"])
def test_a_budget_that_is_none(tmp_path: Path, value: str) -> None:
    status, said = ran(tmp_path, QUIET, ini=f"pushforward_budget = {value}")
    assert status != 0
    assert f"not '{value}'" in said


EVERY_SEED = """
import os
import pytest

SEEDS = range(int(os.environ["SEEDS"]))
Y = torch.tensor(1.0, dtype=torch.float64)

@program
def noisy():
    x = sample("x", dist.Normal(0 * Y, 1.0))
    sample("y", dist.Normal(x, 1.0))

def posterior(p):
    return {"x": p.data["y"] / 2 + 0.5**0.5 * torch.randn(100, dtype=torch.float64)}

def autoregression(x):
    return 0.6 * x + 0.8 * torch.randn((), dtype=torch.float64)

def normal():
    return sample("x", dist.Normal(0 * Y, 1.0))

@pytest.mark.parametrize("seed", SEEDS)
def test_right(seed):
    assert_density(dist.Gamma(2 * Y, Y + seed % 7), draws=10_000, seed=seed)
    assert_stationary(autoregression, normal, draws=250, width=9.0, seed=seed)
    assert_calibrated(noisy, posterior, ["y"], simulations=25, seed=seed, progress=False)
"""


@pytest.mark.parametrize("seeds", quick(1, [2, 500]))
def test_right_code_makes_no_alarm_at_any_seed(
    tmp_path: Path, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 runs at 3e-6 each: an alarm comes once in 700 such tests."""
    names = "assert_density, assert_stationary, assert_calibrated"
    imports = f"from pushforward.testing import {names}"
    monkeypatch.setenv("SEEDS", str(seeds))
    status, said = ran(tmp_path, KERNELS, imports, EVERY_SEED, ini="pushforward_budget = 0.01")
    assert status == 0, said
    assert f"{seeds} passed" in said and f"statistical ones {3 * seeds}" in said


@pytest.mark.slow
def test_a_wheel_brings_it_to_another_project(tmp_path: Path) -> None:
    """Built, put beside nothing of the source tree, and found by its entry point."""
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "dist")
    shutil.copytree(ROOT, source, ignore=left_out, symlinks=True)
    python = [sys.executable, "-m"]
    built = [*python, "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    put = [*python, "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(put, check=True, capture_output=True)
    shutil.rmtree(source)
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_it.py").write_text(
        f"{KERNELS}{RIGHT}{WRONG}\n"
        "def test_where():\n"
        "    import pushforward\n"
        f"    assert pushforward.__file__.startswith({str(site)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [*python, "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "1 failed, 3 passed" in said and "FAIL: wrong leaves coin invariant" in said
    assert "pushforward: exact checks 3, statistical ones 1" in said


def test_the_wheel_declares_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["entry-points"]["pytest11"] == {"pushforward": "pushforward_pytest"}
