"""Simulation-based calibration: whether posteriors are right on average, for any method.

Parameters are drawn from the prior, data from the parameters, and the data are given to the method.
If its draws come from the posterior, the rank of the true parameter among them is uniform, and so
is that of the joint log density, which sees what margins do not.  Exact checks see more, where they
can be made: this one is for whole workflows.

Source: Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms with
Simulation-Based Calibration (arXiv 1804.06788); the joint log density as in Modrak et al.
(arXiv 2211.02383).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from ...ppl.distributions.data import as_arguments
from ...ppl.distributions.validate import no_validation
from ...ppl.errors import DataError, located
from ...ppl.interpretations.recorder import Recorder
from ...ppl.interpretations.simulate import simulate
from ...ppl.language.combinators import condition
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import program_name
from ...ppl.tasks.checkpoint import Checkpoint, Store
from ...ppl.tasks.workers import Client, Workers
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..judging.candidate import Broken, held
from ..judging.rank_bets import RankBets
from ..judging.report import Report, Verdict

JOINT = "log density"
MOST_NUMBERS = 100
CHUNK = 1000
SPACED = 10_000_000  # simulations of one seed, before those of the next
FEW = 20  # draws of each fit, of which fewer say little of a width
LOOK = 20  # simulations between two looks at the evidence
Choices = dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Calibration(Report):
    """A report with the ranks [simulations] of every quantity, as shares between 0 and 1."""

    ranks: dict[str, Tensor] = field(default_factory=dict)

    def plot(self) -> Any:
        """A figure: for each quantity, how far the share of ranks below a number exceeds it.

        Grey is where 95 % of right methods stay at every one number.
        """
        import matplotlib.pyplot as plt

        columns = min(4, len(self.ranks))
        rows = math.ceil(len(self.ranks) / columns)
        size = (3.2 * columns, 2.4 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
        x = torch.linspace(0, 1, 201)
        for axis in axes.flat[len(self.ranks) :]:
            axis.set_visible(False)
        for axis, (name, ranks) in zip(axes.flat, self.ranks.items(), strict=False):
            band = 1.96 * (x * (1 - x) / max(1, len(ranks))).sqrt()
            axis.fill_between(x, -band, band, color="0.85")
            below = (ranks[:, None] <= x).float().mean(0)
            axis.plot(x, below - x)
            axis.set_title(name)
        figure.supxlabel("rank")
        figure.supylabel("share below, less the rank")
        figure.tight_layout()
        return figure


def sbc(
    model: Callable[..., Any],
    fit: Callable[..., Any],
    observed: Sequence[str],
    *args: Any,
    simulations: int = 4_000,
    draws: int = 100,
    quantities: Mapping[str, Callable[[Choices], Tensor]] | None = None,
    level: float = 1e-6,
    seed: int = 0,
    progress: bool = True,
    checkpoint: Checkpoint | str | Path | None = None,
    executor: Executor | Client | None = None,
) -> Calibration:
    """Whether a method's posteriors are calibrated on data simulated from the model.

    Args:
        model: a program without data, called with ``args``.
        fit: from the program conditioned on data to its draws: a ``Fit``, or a mapping of names to
            draws [n, ...].  They should be nearly independent.  If it has an argument ``seed``, it
            gets another one each time; else it draws from torch's generator.
        observed: the sites that are data.
        simulations: the most fits; a wrong method is found earlier.
        draws: how many of each fit are used, evenly spaced.
        quantities: functions of the latent choices to a number; all numbers of all latents unless
            given.  The joint log density is always among them.
        level: the chance that a right method is said to be wrong, however many simulations are
            made, added later, or looked at before.
        seed: of everything.
        checkpoint: a file where the simulations that are done are kept, and from which a campaign
            that was killed, or is to have more of them, goes on.
        executor: whose workers run the simulations: a ``ProcessPoolExecutor``, a client of Dask, or
            any other whose workers are processes.  The result is the same.

    Money is bet against uniform ranks (``rank_bets``).  The report says how wrong posteriors of one
    quantity could be without being found: by default, those that are a tenth too wide are.  If it
    is interrupted, the verdict is that of the simulations so far, and not a pass.  A method that
    raises an error fails.

    Errors:
        DataError: a site is not in the model, or a fit has fewer draws than are asked for.
        ValueError: there are too many numbers, or a setting is out of range.
        ProgramError: the executor has lost too many workers, or its workers are threads.
    """
    if simulations < 1 or draws < 1 or not 0 < level < 1:
        what = f"{simulations}, {draws}, {level}"
        raise ValueError(f"simulations and draws are positive, the level is in (0, 1): {what}")
    if isinstance(observed, str):
        raise ValueError(f"observed is a list of names: [{observed!r}]")
    if quantities is not None and JOINT in quantities:
        raise ValueError(f"a quantity may not be called {JOINT!r}: that one is always there")
    start, notes = time.perf_counter(), tuple[str, ...]()
    subject = f"{program_name(model)} is fitted with calibrated posteriors"
    one = _Simulation(subject, model, fit, tuple(observed), args, draws, quantities)
    about = {"method": "sbc", "seed": seed, "draws": draws}
    if checkpoint is not None:
        about |= {"model, method or data": fingerprint((model, fit, observed, args, quantities))}
    store = Store(checkpoint, about)
    found: dict[int, dict[str, float]] = (store.content or {"ranks": {}})["ranks"]
    seeds = {i: SPACED * seed + i for i in range(simulations)}
    left = {i: (i, own) for i, own in seeds.items() if i not in found}
    results: Iterator[tuple[int, Any]] = ((i, one(*task)) for i, task in left.items())
    if executor is not None:
        results = Workers(executor, one).results(left)
    shown = track(results, "calibration", len(left), disable=not progress, transient=True)
    broken: dict[int, str] = {}
    judged = _Judged(found, draws)
    judged.go_on(simulations)
    try:
        for i, ranks in shown if not judged.found(level) else ():
            if isinstance(ranks, str):
                broken[i] = ranks
            else:
                found[i] = ranks
                store.offer(lambda: {"ranks": found})
            judged.go_on(simulations, least=LOOK)
            if judged.found(level) or (broken and min(broken) == judged.number):
                break
    except KeyboardInterrupt:
        notes = ("interrupted",)
    store.write({"ranks": found})
    judged.go_on(simulations)
    ranks, seconds = judged.ranks(), time.perf_counter() - start
    if broken and not judged.found(level):
        report = Broken(subject, broken[min(broken)]).report(seconds)
        return Calibration(**vars(report), ranks=ranks)
    notes = tuple(f"{note} after {judged.number} simulations" for note in notes)
    report = judged.report(subject, level, seconds, notes)
    return Calibration(**vars(report), ranks=ranks)


class _Judged:
    """What is known of the simulations without a gap from the first on."""

    def __init__(self, found: dict[int, dict[str, float]], draws: int) -> None:
        self.all, self.draws, self.names = found, draws, list[str]()
        self.rows: list[list[float]] = []
        self.bets: RankBets | None = None

    @property
    def number(self) -> int:
        return len(self.rows)

    def go_on(self, most: int, least: int = 1) -> None:
        """Bet on what has come since, if it is so much, of the first so many simulations."""
        end = self.number
        while end < most and end in self.all:
            end += 1
        if end < self.number + least:
            return
        rows = [self._row(self.all[i]) for i in range(self.number, end)]
        self.bets = self.bets or RankBets(len(self.names))
        self.bets.place(torch.tensor(rows, dtype=torch.float64))
        self.rows += rows

    def _row(self, ranks: dict[str, float]) -> list[float]:
        self.names = self.names or list(ranks)
        if self.names != list(ranks):
            other = sorted(set(ranks) ^ set(self.names))
            what = f"{other} are numbers of some simulations, and not of others"
            raise DataError(located(what, hint="say quantities= that all simulations have"))
        return [ranks[name] for name in self.names]

    def ranks(self) -> dict[str, Tensor]:
        """Of every quantity [simulations]."""
        columns = torch.tensor(self.rows).reshape(self.number, len(self.names)).T
        return dict(zip(self.names, columns, strict=True))

    def found(self, level: float) -> bool:
        return self.bets is not None and self.bets.found(level)

    def report(self, subject: str, level: float, seconds: float, notes: tuple[str, ...]) -> Report:
        """The evidence is a deviation, which the level allows to be so large."""
        needed = -math.log(level)
        about = f"of log evidence, by {self.number} fits at the level {level:g}"
        if self.bets is None:
            return Report(subject, "unknown", 0.0, needed, about, "", seconds, notes)
        verdict: Verdict = "unknown" if notes else "pass"
        told = ""
        if self.bets.found(level):
            verdict, name = "fail", self.names[worst := self.bets.worst()]
            told = _told(name, torch.tensor([row[worst] for row in self.rows]))
        else:
            narrow, wide = self.bets.finds(level)
            sees = f"posteriors {wide:.3g} times too wide, or narrow by a factor of {narrow:.2g}"
            known = f"{sees} are found, of continuous quantities"
            if math.isinf(wide) and not narrow:
                verdict, known = "unknown", "nothing would be found by so few simulations"
            elif self.draws < FEW:
                known = f"{self.draws} draws of each fit tell little of widths"
            notes = (*notes, known)
        return Report(subject, verdict, self.bets.best, needed, about, told, seconds, notes)


def _told(name: str, ranks: Tensor) -> str:
    """What ranks [n] say: by their mean or their distance from one half, whichever is worse."""
    mean, away = float(ranks.mean()), float((ranks - 0.5).abs().mean())
    if abs(mean - 0.5) / math.sqrt(1 / 12) > abs(away - 0.25) / math.sqrt(1 / 48):
        side = "above" if mean < 0.5 else "below"
        return f"draws of {name!r} lie {side} the truth: the mean rank is {mean:.3f}"
    width = "narrow" if away > 0.25 else "wide"
    told = f"posteriors of {name!r} are too {width}"
    return f"{told}: ranks are on average {away:.3f} from one half, not .25"


@dataclass(frozen=True)
class _Simulation:
    """What one simulation needs, and a worker is told."""

    subject: str
    model: Callable[..., Any]
    fit: Callable[..., Any]
    observed: tuple[str, ...]
    args: tuple[Any, ...]
    draws: int
    quantities: Mapping[str, Callable[[Choices], Tensor]] | None

    def __call__(self, i: int, seed: int) -> dict[str, float] | str:
        """The ranks, or why the method broke."""
        within = held(self.subject, f"in the fit of simulation {i}, seed {seed}")
        about = self.model, self.fit, self.observed, self.args, self.draws, self.quantities
        try:
            with seeded(seed):
                return _ranks(*about, within)
        except Broken as broken:
            return broken.reason


def _ranks(
    model: Callable[..., Any],
    fit: Callable[..., Any],
    observed: Sequence[str],
    args: tuple[Any, ...],
    draws: int,
    quantities: Mapping[str, Callable[[Choices], Tensor]] | None,
    within: AbstractContextManager[None],
) -> dict[str, float]:
    """Of one simulation: by name, the share of draws below the truth, ties broken at random.

    The method runs ``within`` a context, which answers for its errors.
    """
    truth = simulate(model, *args).choices
    absent = [name for name in observed if name not in truth]
    if absent or not observed:
        what = f"no site called {absent}" if absent else "no site is observed"
        hint = f"the sites are {sorted(truth)}"
        raise DataError(located(f"calibration of {program_name(model)}: {what}", hint=hint))
    posterior = condition(model, {name: truth.pop(name) for name in set(observed)})
    if not truth:
        what = f"calibration of {program_name(model)}: all sites are observed"
        raise DataError(located(what, hint="leave a latent, whose posterior is to be judged"))
    about: dict[str, Any] = {}
    if "seed" in inspect.signature(fit).parameters:  # the same noise in all fits would not average
        about["seed"] = int(torch.randint(2**31, ()))
    with within:
        fitted = fit(posterior, **about)
    merged = _merged(fitted, truth, draws)
    asked = _numbers(truth) if quantities is None else quantities
    found = {}
    for name, quantity in asked.items():
        values = torch.func.vmap(quantity, chunk_size=CHUNK)(merged)
        found[name] = _rank(name, quantity(truth), values)

    def joint(choices: Choices) -> Tensor:
        with no_validation(), Sealed(), Recorder(choices, density=True, validate=False) as run:
            posterior(*as_arguments(args))
        return torch.as_tensor(run.log_density)

    with torch.no_grad():
        among = torch.func.vmap(joint, chunk_size=CHUNK)(merged)
        found[JOINT] = _rank(JOINT, joint(truth), among)
    return found


def _merged(fit: Any, truth: Choices, draws: int) -> Choices:
    """Draws [draws, ...] of the latents, evenly spaced in all that there are."""
    merged = {}
    for name, value in truth.items():
        if hasattr(fit, "draws"):
            all_of_it = fit[name].flatten(0, 1)
        elif name in fit:
            all_of_it = fit[name]
        else:
            raise DataError(located(f"the fit has no draws of {name!r}", hint="return all latents"))
        if len(all_of_it) < draws or all_of_it.shape[1:] != value.shape:
            what = f"the fit has draws {list(all_of_it.shape)} of {name!r}"
            hint = f"[{draws} or more, *{list(value.shape)}] are needed"
            raise DataError(located(what, hint=hint))
        at = torch.linspace(0, len(all_of_it) - 1, draws, dtype=torch.float64).round().long()
        merged[name] = all_of_it[at].to(value.dtype)
    return merged


def _numbers(truth: Choices) -> dict[str, Callable[[Choices], Tensor]]:
    """Every number of every latent, under its name and place."""
    found: dict[str, Callable[[Choices], Tensor]] = {}
    for name, value in truth.items():
        for i in range(value.numel()):
            place = torch.unravel_index(torch.tensor(i), value.shape) if value.ndim else ()
            shown = name + "".join(f"[{int(k)}]" for k in place)
            found[shown] = partial(_number, name, i)
    if len(found) > MOST_NUMBERS:
        raise ValueError(f"there are {len(found)} numbers: say which by quantities=")
    return found


def _number(name: str, i: int, choices: Choices) -> Tensor:
    return choices[name].reshape(-1)[i]


def _rank(name: str, truth: Tensor, values: Tensor) -> float:
    """Uniform on [0, 1] if truth and values are drawn alike: ties and gaps are filled at random.

    Errors:
        DataError: the quantity is no number.
    """
    if truth.numel() != 1:
        what = f"the quantity {name!r} has shape {list(truth.shape)}"
        raise DataError(located(what, hint="return one number"))
    if bool(truth.isnan()) or bool(values.isnan().any()):
        whose = "the truth" if bool(truth.isnan()) else "a draw of the fit"
        raise DataError(located(f"{name!r} is NaN for {whose}", hint="it has no rank there"))
    less, equal = int((values < truth).sum()), int((values == truth).sum())
    return (less + float(torch.rand(())) * (equal + 1)) / (len(values) + 1)
