"""The systems of this room, with what each is for: one table for the command and the page.

``pushforward models`` prints it, and ``pushforward models --markdown`` that of
``docs/models/README.md``.
"""

from __future__ import annotations

from typing import NamedTuple


class System(NamedTuple):
    """Modules of ``pushforward.models``, what they are for, and their page from ``docs/models/``.

    ``page`` is empty where there is none.
    """

    modules: tuple[str, ...]
    purpose: str
    page: str = ""


SYSTEMS = (
    System(("fairness",), "predictions that do not depend on protected attributes", "fairness.md"),
    System(
        ("gp",), "Gaussian processes: kernels, exact, sparse, by waves, on grids; splines", "gp.md"
    ),
    System(("funbat",), "tensors whose modes are real coordinates, with bands", "funbat.md"),
    System(
        ("niw_meta",),
        "few-shot learning by one prior over the parameters of episodes",
        "niw_meta.md",
    ),
    System(
        ("functional_priors",),
        "networks whose prior resembles a Gaussian process, and their posteriors",
        "functional_priors.md",
    ),
    System(
        ("alignment",),
        "sequence models fitted to targets known up to a factor, by any f-divergence",
        "f_dpg.md",
    ),
    System(("f_distill",), "one-step students of diffusion models", "f_distill.md"),
    System(
        ("diffumatch",),
        "maps between shapes, with a diffusion model of good maps as prior",
        "diffumatch.md",
    ),
    System(
        ("root",),
        "designs that are better than any observed, by a bridge from low to high values",
        "root.md",
    ),
    System(
        ("stable_normal",),
        "surface normals from images, by a guess and a refinement that scatter little",
        "stable_normal.md",
    ),
    System(("distillation",), "sparse students of teachers that are known by their probabilities"),
    System(
        ("decoding", "uscd_processor"),
        "contrastive decoding where the next token is uncertain",
        "../layers.md",
    ),
    System(("determinantal",), "determinantal point processes, and least squares on their points"),
    System(
        ("elliptic",),
        "elliptic equations of a variational kind, with an account of their Barron norm",
    ),
    System(
        ("shrinkage",),
        "regression coefficients of which few are large: the horseshoe, and R2D2",
        "../distributions.md",
    ),
    System(("energy",), "unnormalised models, by maximum likelihood without a Markov chain"),
    System(("multiplicative",), "a diffusion model of positive data, whose noise multiplies"),
    System(
        ("logistic", "newton_logistic"),
        "linear classifiers by large steps, and by gradient-normalised Newton steps",
        "../optimisers.md",
    ),
    System(("bilevel",), "tasks of two levels for the optimiser BOREP", "../optimisers.md"),
    System(("posteriordb",), "nineteen posteriors with reference draws", "../posteriordb.md"),
)
SHARED = ("language", "systems")  # modules that are no systems


def as_markdown() -> str:
    """The table as the page has it."""
    rows = ["| of | what it is for |", "|---|---|"]
    for system in SYSTEMS:
        first, *others = (f"`models.{name}`" for name in system.modules)
        linked = f"[{first}]({system.page})" if system.page else first
        rows.append(f"| {', '.join([linked, *others])} | {system.purpose} |")
    return "\n".join(rows)
