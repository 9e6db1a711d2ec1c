"""Capture: the log density and gradient of a program as one tensor graph over many chains.

The program is typed by an abstract run, which refuses Python control flow on random values with the
line; then it is traced by ``make_fx`` through Pyro's handlers into a ``torch.fx`` graph, and
compiled by Inductor where there is a compiler.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from .abstract import abstract_run, dependence
from .data import as_arguments
from .errors import DataError, ProgramError, located
from .handlers import Sealed
from .interpret import Recorder, no_validation
from .program import Callback, program_name
from .unconstrain import Layout

Notify = Callable[[str], None]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pushforward"


class LogDensity:
    """The joint log density of a program in unconstrained coordinates.

    ``layout`` maps vectors [d] to the continuous latents; discrete latents, if any, are fixed by
    ``discrete``.  Calling it with one vector [d] gives a scalar, Jacobian included.
    """

    def __init__(
        self, p: Callback, *args: Any, discrete: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        args = as_arguments(args)
        run, _ = abstract_run(p, *args, **kwargs)
        if run.draws:
            from .errors import NoDensityError

            raise NoDensityError(
                located(
                    f"{program_name(p)} draws anonymously and has no exact density",
                    hint="name the choices with sample(...)",
                )
            )
        self.program, self.args, self.kwargs = p, args, kwargs
        self.discrete = discrete or {}
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        unknown = self.discrete.keys() - latents.keys()
        if unknown:
            raise DataError(located(f"no latent site called {sorted(unknown)}"))
        continuous = {name: site for name, site in latents.items() if name not in self.discrete}
        for name, site in continuous.items():
            moving = dependence(list(vars(site.space.constraint).values()))
            if moving:
                raise ProgramError(
                    located(
                        f"the support of the site depends on the choices {sorted(moving)}",
                        site=name,
                        line=site.line,
                        hint="write it as an affine function of a site with a fixed support",
                    )
                )
        self.layout = Layout(
            {n: (s.space.constraint, s.space.shape, run.dtypes[n]) for n, s in continuous.items()}
        )

    def __call__(self, u: Tensor) -> Tensor:
        values, log_det = self.layout.unpack(u)
        return torch.as_tensor(self._run(values).log_density) + log_det

    def _run(self, values: dict[str, Tensor]) -> Recorder:
        return self._run_for_value(values)[0]

    def _run_for_value(self, values: dict[str, Tensor]) -> tuple[Recorder, Any]:
        given = {**values, **self.discrete}
        recording = Recorder(given, density=True, validate=False)
        with no_validation(), Sealed(), recording as recorder:
            value = self.program(*self.args, **self.kwargs)
        return recorder, value

    def outcome(self, u: Tensor, of: str) -> Any:
        """The result of the program at ``u`` (``of="value"``), or its latents (``"trace"``)."""
        values, _ = self.layout.unpack(u)
        return values if of == "trace" else self._run_for_value(values)[1]

    def results(self, u: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Latents, deterministic sites, and log densities of observations, at one vector [d]."""
        values, _ = self.layout.unpack(u)
        recorder = self._run(values)
        observed = {
            n: lp for n, lp in recorder.log_probs.items() if recorder.sites[n] == "observed"
        }
        return values, recorder.of("derived"), observed

    def record(self, u: Tensor) -> Recorder:
        """One run of the program at ``u`` [d]: its sites, their values and dimensions."""
        return self._run(self.layout.unpack(u)[0])

    def prior_and_likelihood(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log density of the latents (Jacobian included) and that of the data, at [d]."""
        values, log_det = self.layout.unpack(u)
        recorder = self._run(values)
        likelihood = torch.as_tensor(recorder.log_density) - torch.as_tensor(recorder.log_latents)
        return torch.as_tensor(recorder.log_latents) + log_det, likelihood

    def blame(self, u: Tensor) -> str:
        """Which sites have a log density that is NaN or infinite at ``u``."""
        values, _ = self.layout.unpack(u)
        log_probs = self._run(values).log_probs
        bad = [n for n, lp in log_probs.items() if not bool(torch.isfinite(lp).all())]
        return f"not finite at {', '.join(map(repr, bad))}" if bad else "no single site is at fault"

    def tempered(self, u: Tensor, beta: Tensor) -> Tensor:
        """log prior + beta log likelihood, at one vector [d]."""
        prior, likelihood = self.prior_and_likelihood(u)
        return prior + beta * likelihood


def capture(density: Callable[..., Tensor], *example: Tensor) -> GraphModule:
    """Trace ``u [chains, d], *rest -> (log density [chains], gradient [chains, d])`` into a graph.

    ``density`` maps one vector [d], and further tensors that all chains share, to a scalar.
    """

    def batched(u: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        shared = (0, *(None for _ in rest))
        gradient, value = torch.func.vmap(torch.func.grad_and_value(density), shared)(u, *rest)
        return value, gradient

    graph: GraphModule = make_fx(batched)(*example)
    return graph


def compile_graph(
    graph: GraphModule, *example: Tensor, notify: Notify | None = None
) -> Callable[..., Any]:
    """Compile a captured graph with Inductor, or return it as it is where that is impossible.

    Inductor keeps its results on disk (in ``~/.cache/pushforward``, unless the environment's
    ``TORCHINDUCTOR_CACHE_DIR`` says otherwise), so that a model compiles once per machine.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        if notify:
            notify("no C++ compiler found: running the uncompiled graph")
        return graph
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))
    import torch._inductor as inductor

    start = time.perf_counter()
    if notify:
        notify("compiling the log density (seconds the first time, then from the disk cache)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = inductor.compile(graph, list(example))  # type: ignore[no-untyped-call]
            expected, found = graph(*example), compiled(*example)
    except Exception as error:  # Inductor's failures have no common class
        warnings.warn(f"running the uncompiled graph: {error}", RuntimeWarning, stacklevel=2)
        return graph
    if not all(
        torch.allclose(a, b, rtol=1e-3, equal_nan=True)
        for a, b in zip(expected, found, strict=True)
    ):
        warnings.warn(
            "the compiled graph disagrees with the traced one; running the latter",
            RuntimeWarning,
            stacklevel=2,
        )
        return graph
    if notify:
        notify(f"compiled in {time.perf_counter() - start:.1f} s")
    return compiled  # type: ignore[no-any-return]


class Potential:
    """A compiled log density and gradient: ``u [chains, d], *rest -> ([chains], [chains, d])``."""

    def __init__(
        self,
        density: Callable[..., Tensor],
        *example: Tensor,
        compiled: bool = True,
        notify: Notify | None = None,
    ) -> None:
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            self.graph = capture(density, *example)
        self._call = compile_graph(self.graph, *example, notify=notify) if compiled else self.graph

    def __call__(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self._call(u, *rest)
        return value, gradient
