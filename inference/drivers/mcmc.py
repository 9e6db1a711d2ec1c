"""The driver of Markov chain Monte Carlo: many chains of one kernel on a program."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...ppl.compile.potential import Potential, by_columns
from ...ppl.errors import DataError, ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.mixed_density import MixedDensity
from ...ppl.language.program import Callback
from ...ppl.tasks.checkpoint import Checkpoint, Store
from ...ppl.tasks.workers import Client
from ...ppl.tensors.decompositions import NO_DECOMPOSITION, OF_BATCHES
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..kernels import TraceKernel
from ..kernels.chains import run_chains
from ..kernels.chains import start as prior_run
from ..mcmc import Kernel, Parameters, Samples, nuts, sample
from ..mcmc.lanes.engine import Engine, cores_for
from ..mcmc.lanes.sampling import AnyEngine, sample_lanes
from ..mcmc.lanes.spread import Spread, spread
from ..mcmc.lanes.tensors import TensorEngine
from ..mcmc.lanes.warmup import Form
from ..mcmc.within_gibbs import first_parameters, of_sizes
from ..results.fit import Drawn, Fit, fit_from_vectors
from ..rewriting import Restored, Rewriting, rewritten
from ..runs.placing import Device, Place, moved, placed, settled
from ..runs.progress import Progress
from ..runs.start import mixed_starting_points, starting_points
from .origin import continued_seed, origin_of, require_same
from .starts import Init, given_starts, identity, require_init, starts_by_climbs


@dataclass(frozen=True)
class MCMC:
    """Run a kernel from some starts: warm-up, then draws.

    ``MCMC`` is a driver, which runs a method on real work; ``nuts``, ``hmc`` and the like make
    kernels, which are programs.

    Args:
        kernel: ``nuts()``, ``hmc(leapfrogs)`` or ``mala()``, for programs whose latents are
            continuous; ``with_gibbs(nuts())``, where some are finite; or one of
            ``inference.kernels`` for any program, whose chains run one by one, unadapted.
        chains: run together, one row each of the tensors that the kernel moves.
        draws: of each chain after warm-up.
        warmup: transitions that adapt step size and diagonal metric, and are thrown away.
        target: the mean acceptance that warm-up aims at.  None: the kernel's own, which is 0.85
            for NUTS; compiled, it aims at 0.95 once warm-up meets more than a few divergences.
        metric: "auto": what warm-up learns for compiled NUTS stretches up to 16 directions that a
            diagonal leaves long or short; "diagonal": none; "dense": all, where a window has ten
            draws for each coordinate.
        thin: each so many-th transition is a draw.  None: each, but where NUTS is compiled each
            2nd, 4th or 8th, if with fewer R-hat or an effective size says that 1 600 or more draws
            of all chains are not enough.
        rewrite: "auto": sum finite latents out, integrate those out in which the density is
            quadratic, and write sites with a random location or scale by standard ones where a
            short run says that it helps (see ``rewriting``).  The fit is one of the program itself
            all the same, and its method says what was done.
        init: where chains start.  "random": uniformly within 2 of the origin, in unconstrained
            coordinates.  "pathfinder": each at a draw of a path of its own (see ``Pathfinder``),
            which takes some tens to hundreds of gradients a chain, one after the other.
            "laplace": each at a draw of the normal law at a peak that it climbs to (see
            ``Laplace``); "map": at the peak itself, which may be the same for all.  Values by
            site, in the program's own space: one for all chains, or [chains, *shape]; sites that
            are left out start at random.  An earlier fit: each at one of its draws, chosen by
            chance.
        cores: threads over which the chains of the compiled NUTS are spread, with the same draws
            whatever they are; as many as this process may use, and can have as many chains each
            as a vector of the machine holds numbers, unless given.  With an executor:
            tasks over which they are spread, each of a vector of chains unless given.
        compiled: compile the log density, and NUTS: an engine makes the transitions of the kernel,
            in machine code where the density is lane code (see ``Potential``), or else as tensors.
        device: where to compute, and where the data are moved; torch's default unless given.
        dtype: the precision of what the program makes, and of the data.  Unless given, double on
            the CPU, and torch's default elsewhere, or where the program holds tensors of its own
            that keep it from running in double, which the fit then says.
        progress: show a progress bar.
    """

    kernel: Kernel | TraceKernel = field(default_factory=nuts)
    chains: int = 4
    draws: int = 1000
    warmup: int = 1000
    target: float | None = None
    metric: Form = "auto"
    thin: int | None = None
    rewrite: Literal["auto"] | None = None
    init: Init = "random"
    cores: int | None = None
    compiled: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.chains < 1 or self.draws < 1 or self.warmup < 0:
            raise ValueError("MCMC needs at least one chain and one draw, and warmup >= 0")
        if self.rewrite not in (None, "auto"):
            raise ValueError(f"rewrite is None or 'auto', not {self.rewrite!r}")
        if self.metric not in get_args(Form):
            raise ValueError(f"metric is one of {get_args(Form)}, not {self.metric!r}")
        require_init(self.init)
        for name in ("thin", "cores"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"MCMC: {name} is a natural number or None, not {value!r}")

    def run(
        self,
        p: Callback,
        *args: Any,
        seed: int = 0,
        resume: Fit | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
        executor: Executor | Client | None = None,
    ) -> Fit:
        """Draw from the posterior of ``p(*args)``.

        Args:
            seed: of all randomness; equal seeds give equal fits on one machine.
            resume: an earlier fit of the same program, data and arguments, to go on from its last
                states, with its step size and metric and no warm-up; the result holds the draws of
                both.  The randomness is new, whatever the seed.
            checkpoint: a file where the run is kept, and from which it goes on if it was killed.
            executor: whose workers move the chains: a ``ProcessPoolExecutor``, a client of Dask, or
                any other whose workers are processes.  For NUTS in lane code, which meets between
                the windows of warm-up, and for kernels on traces.  The result is the same.

        Errors:
            ProgramError: an executor is given, and the run is neither of these.
            DataError: the fit to resume is of another program, other data or arguments; or
                ``init`` does not fit the program, or rewriting has made it another.
            SupportError: a value of ``init`` lies outside its support.
            InitializationError: no start, or not the one that ``init`` gives, has a finite log
                density and gradient.
            UnsupportedDistributionError: a latent is discrete, and the kernel has no Gibbs sampling
                (``with_gibbs``), or it is not finite.
            BranchError: Python control flow depends on a random value.
        """
        dtype = resume.dtype if self.dtype is None and resume else self.dtype
        place = settled(p, args, self.device, dtype, self.kernel)
        driver = replace(self, dtype=place.dtype)
        with placed(self.device, place.dtype):
            if isinstance(self.kernel, TraceKernel):
                fit = driver._run_traces(self.kernel, place, seed, resume, checkpoint, executor)
            elif self.kernel.gibbs and (self.rewrite is not None or self.init != "random"):
                what = f"{self.kernel.name} takes programs as they are, and starts at random"
                raise ValueError(f"{what}: leave rewrite and init out")
            else:
                fit = driver._run(self.kernel, place, seed, resume, checkpoint, executor)
        return replace(fit, notes=(*place.notes, *fit.notes))

    def _run(
        self,
        kernel: Kernel,
        place: Place,
        seed: int,
        resume: Fit | None,
        checkpoint: Checkpoint | str | Path | None,
        executor: Executor | Client | None,
    ) -> Fit:
        p, args = place.program, place.args
        start = time.perf_counter()
        warmup = 0 if resume else self.warmup
        about = {
            name: getattr(self, name)
            for name in ("chains", "draws", "target", "metric", "thin", "compiled")
        }
        about |= {"device": str(self.device), "dtype": str(self.dtype)}
        about |= {"method": kernel.name, "warmup": warmup, "seed": seed}
        about |= {"init": identity(self.init)}
        earlier = resume.state if resume else {}
        data = {"program, data or kernel": fingerprint((p, args, earlier, kernel))}
        store = Store(checkpoint, {**about, **data})
        origin = origin_of(p, args)
        if resume:
            if self.rewrite is not None:
                what = "a fit of a program that is rewritten anew cannot be resumed"
                raise DataError(located(what, hint="run longer, or rewrite the program yourself"))
            if self.init != "random":
                what = "a run that resumes a fit starts where that ended, and takes no init"
                raise DataError(located(what, hint="leave init out, or run anew without resume"))
            _require_resumable(resume, origin)
        own = continued_seed(seed, earlier) if resume else seed
        with seeded(own), Progress(warmup + self.draws, "MCMC", self.progress) as progress:
            rewriting = Rewriting(p)
            if self.rewrite is not None:
                rewriting = rewritten(p, args, progress.say)
            density: LogDensity | MixedDensity
            sizes: tuple[int, ...] = ()
            if kernel.gibbs:
                density = MixedDensity(p, *args, turning=True)
                sizes = tuple(density.sizes)
                if not sizes:
                    what = f"{kernel.name} meets a program without finite latents"
                    raise ProgramError(located(what, hint="give its kernel without with_gibbs"))
                kernel = of_sizes(kernel, sizes)
            else:
                density = LogDensity(rewriting.program, *args, turning=True)
            u0, parameters = self._start(density, resume, rewriting.done)
            potential = Potential(density, u0, compiled=self.compiled, notify=progress.say)
            notes: tuple[str, ...] = ()
            to = self.init
            if isinstance(to, str) and to != "random" and isinstance(density, LogDensity):
                progress.say(to)
                u0, notes = starts_by_climbs(density, potential, u0, to)
                u0 = by_columns(u0)

            shown = diverged = 0

            def report(done: int, total: int, info: Any, parameters: Parameters) -> None:
                nonlocal shown, diverged
                warming = done <= warmup
                if shown <= warmup and not warming:
                    diverged = 0  # from here on, those among draws
                diverging = getattr(info, "diverging", None)
                diverged += 0 if diverging is None else int(diverging.sum())
                figures = {"phase": "warmup" if warming else "draws", "divergences": diverged}
                progress.lengthen(total)
                progress.advance(
                    done - shown, **figures, step=parameters.step_size.flatten().tolist()
                )
                shown = done

            engine: AnyEngine | None = self._engine(kernel, potential, sizes)
            if executor is not None:
                engine = self._spread(engine, executor)
            about = {"parameters": parameters, "progress": report, "store": store}
            samples = self._sampled(kernel, engine, potential, u0, warmup, sizes, about)
            drawn: Drawn = density
            if rewriting.done and isinstance(density, LogDensity):
                drawn = Restored(density, rewriting, p, args)
            fit = fit_from_vectors(
                drawn,
                samples.draws,
                draws_anew=bool(rewriting.done),
                method=f"MCMC ({', '.join((kernel.name, *rewriting.done))})",
                stats=samples.stats,
                state=_state(samples),
                origin=origin,
                seed=seed,
                seconds=time.perf_counter() - start,
                interrupted=samples.interrupted,
                report=samples.report,
                notes=(
                    *notes,
                    *_cut_off(samples, kernel.max_depth),
                    *_moved(samples.rescued),
                    *_ended_early(samples, shown, warmup),
                    *samples.notes,
                ),
            )
        return joined(resume, fit) if resume else fit

    def _sampled(
        self,
        kernel: Kernel,
        engine: AnyEngine | None,
        potential: Potential,
        u0: Tensor,
        warmup: int,
        sizes: tuple[int, ...],
        about: dict[str, Any],
    ) -> Samples:
        """By the engine where kernel and density allow, or else by the kernel as a program.

        ``sizes`` are those of the finite values behind the coordinates, see ``MixedDensity``.
        """
        if engine is not None:
            about |= {"target": self.target, "metric": self.metric, "thin": self.thin}
            about |= {"own_steps": kernel.own_steps}
            return sample_lanes(engine, potential, u0, warmup, self.draws, **about)
        if self.metric == "dense":
            what = "metric='dense' is learnt by compiled NUTS alone"
            raise ValueError(f"{what}, and this is {kernel.name}, or not compiled")
        if sizes and about["parameters"] is None:
            about["parameters"] = first_parameters(u0, sizes)
        with OF_BATCHES.collected() as failed:
            besides = partial(_counted, failed)
            target = kernel.target if self.target is None else self.target
            about |= {"besides": besides, "thin": self.thin or 1, "target": target}
            run = kernel.sample or sample
            return run(kernel, potential, u0, warmup, self.draws, **about)

    def _engine(
        self, kernel: Kernel, potential: Potential, sizes: tuple[int, ...]
    ) -> Engine | TensorEngine | None:
        """What makes the transitions of NUTS where it is compiled."""
        if kernel.max_depth is None or not self.compiled:
            return None
        if potential.lanes is None:
            return None if sizes else TensorEngine(potential, kernel.max_depth, kernel.jitter)
        cores = self.cores or cores_for(self.chains, potential.lanes.lanes)
        about: dict[str, Any] = {"cores": cores, "sizes": sizes, "jitter": kernel.jitter}
        return Engine(potential.lanes, kernel.max_depth, **about)

    def _spread(self, engine: AnyEngine | None, executor: Executor | Client) -> Spread:
        """The engine with its chains at the workers of an executor."""
        if not isinstance(engine, Engine):
            what = "chains go to an executor if NUTS moves them in lane code, and here it does not"
            hint = "compile them on a CPU, or let each worker run an MCMC(chains=1) of its own seed"
            raise ProgramError(located(what, hint=hint))
        parts = self.cores or math.ceil(self.chains / engine.density.lanes)
        return spread(replace(engine, cores=1), executor, parts)

    def _run_traces(
        self,
        kernel: TraceKernel,
        place: Place,
        seed: int,
        resume: Fit | None,
        checkpoint: Checkpoint | str | Path | None,
        executor: Executor | Client | None,
    ) -> Fit:
        if resume is not None:
            what = "chains of kernels on traces cannot be resumed"
            raise DataError(located(what, hint="run longer ones, with another seed"))
        if self.rewrite is not None:
            raise ValueError("kernels on traces take programs as they are: leave rewrite out")
        if self.thin not in (None, 1):
            raise ValueError("chains of kernels on traces are not thinned")
        if self.init != "random":
            raise ValueError("chains of kernels on traces start from the prior: leave init out")
        return run_chains(
            kernel,
            place.program,
            place.args,
            chains=self.chains,
            draws=self.draws,
            warmup=self.warmup,
            seed=seed,
            progress=self.progress,
            checkpoint=checkpoint,
            executor=executor,
        )

    def _start(
        self, density: LogDensity | MixedDensity, resume: Fit | None, rewritten: tuple[str, ...]
    ) -> tuple[Tensor, Parameters | None]:
        if resume is None:
            return by_columns(self._fresh_start(density, rewritten)), None
        state, size = resume.state, density.size
        if isinstance(density, MixedDensity):
            size += len(density.sizes)
        if state["position"].shape[1:] != (size,):
            raise DataError(located("the fit to resume is not of this program", hint="run anew"))
        position = by_columns(state["position"])
        names = [name for name in Parameters._fields if name in state]
        return position, Parameters(**{name: state[name] for name in names})

    def _fresh_start(
        self, density: LogDensity | MixedDensity, rewritten: tuple[str, ...]
    ) -> Tensor:
        if isinstance(density, MixedDensity):
            at, p, args = density, density.continuous.program, density.continuous.args
            return mixed_starting_points(at, lambda: prior_run(p, *args).choices, self.chains)
        if isinstance(self.init, str):
            return starting_points(density, self.chains)
        init = self.init if isinstance(self.init, Fit) else dict(self.init)
        init = moved(init, self.device, self.dtype)
        return given_starts(density, init, self.chains, rewritten)


def _require_resumable(fit: Fit, origin: dict[str, str]) -> None:
    """Raise unless the chains of a fit can go on with the posterior of this origin."""
    if "position" not in fit.state:
        raise DataError(located("the fit to resume is not by MCMC", hint="run anew"))
    if fit.origin:
        require_same(fit.origin, origin)


def _cut_off(samples: Samples, max_depth: int | None) -> tuple[str, ...]:
    """What is to be said of trajectories that ended before they turned."""
    if max_depth is None or not samples.stats:
        return ()
    depths = samples.stats["tree_depth"]
    share = float((depths >= max_depth).double().mean())
    if share <= 0.01:
        return ()
    what = f"{share:.0%} of the trajectories were cut off at max_depth={max_depth}"
    return (f"{what}: chains move slowly; write the program in other coordinates, or allow more",)


def _moved(rescued: tuple[int, ...]) -> tuple[str, ...]:
    """What is to be said of chains that warm-up moved."""
    if not rescued:
        return ()
    chains = f"chain{'s' if len(rescued) > 1 else ''} {', '.join(map(str, rescued))}"
    what = f"warm-up moved {chains} to where others were"
    return (f"{what}: about them there seemed to be next to no mass, less by a factor of exp(-20)",)


def _ended_early(samples: Samples, done: int, warmup: int) -> tuple[str, ...]:
    """What is to be said of a run that was interrupted before its first draw."""
    if not samples.interrupted or samples.draws.shape[1]:
        return ()
    what = f"Ctrl-C came in warm-up, after {done} of {warmup} transitions"
    if done >= warmup:
        what = "Ctrl-C came before the first draw"
    return (f"{what}: there are no draws, and the step size and metric are those so far",)


def _counted(failed: list[Tensor]) -> dict[str, Tensor]:
    """How often each chain met a matrix without decomposition since this was last asked."""
    if not failed:
        return {}
    count = torch.stack(failed).sum(0).long()
    failed.clear()
    return {NO_DECOMPOSITION: count}


def _state(samples: Samples) -> dict[str, Tensor]:
    learnt = {k: x for k, x in samples.parameters._asdict().items() if x is not None}
    return {"position": samples.state.position, **learnt}


def joined(first: Fit, second: Fit) -> Fit:
    """Two fits of the same chains, one after the other; of one that has no draws, the second."""
    if not first.size:
        return replace(second, seconds=first.seconds + second.seconds)

    def append(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([a[name], b[name]], 1) for name in b if name in a}

    return replace(
        second,
        draws=append(first.draws, second.draws),
        stats=append(first.stats, second.stats),
        log_likelihood=append(first.log_likelihood, second.log_likelihood),
        seconds=first.seconds + second.seconds,
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )
