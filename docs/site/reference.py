"""The public names of the library, read from its source: what the reference of the site holds.

Nothing is imported, so that the site is built without torch.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Modules that users import from, in the order of the reference.
MODULES = (
    "pushforward",
    "pushforward.spaces",
    "pushforward.laws",
    "pushforward.errors",
    "pushforward.inference",
    "pushforward.inference.mcmc",
    "pushforward.inference.kernels",
    "pushforward.inference.smc",
    "pushforward.inference.vi",
    "pushforward.inference.formula",
    "pushforward.inference.rewriting",
    "pushforward.ppl.markov",
    "pushforward.semantics",
    "pushforward.semantics.check",
    "pushforward.semantics.reference",
    "pushforward.validation",
    "pushforward.validation.foreign",
    "pushforward.testing",
    "pushforward.kernels",
)


def modules() -> list[str]:
    """Those above, the packages of layers, and the systems."""
    layers = [f"pushforward.nn.{path.parent.name}" for path in ROOT.glob("nn/*/__init__.py")]
    found = [
        p for p in (ROOT / "models").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    ]
    systems = [f"pushforward.models.{p.stem}" for p in found if not p.name.startswith("_")]
    return [*MODULES, *sorted(layers), *sorted(systems)]


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def names(module: str) -> dict[str, str]:
    """The public names of a module, and where they are found.

    They are its ``__all__``; without one, the classes and functions it defines.  A line
    ``from .other import *`` stands for the names of the other module, which are found there.

    Errors:
        ValueError: ``__all__`` is not written as a list of strings.
    """
    found: dict[str, str] = {}
    for node in ast.parse(source(module).read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=value):
                return {name: f"{module}.{name}" for name in ast.literal_eval(value)}
            case ast.ImportFrom(module=str(other), names=[ast.alias("*")], level=1):
                found |= names(f"{module.rpartition('.')[0]}.{other}")
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) if name[0] != "_":
                found[name] = f"{module}.{name}"
    return found


def imported(module: str) -> dict[str, str]:
    """The names that a module imports from others, and what they are called there."""
    path = source(module)
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            place = ".".join(filter(None, (above, node.module)))
            found |= {alias.asname or alias.name: f"{place}.{alias.name}" for alias in node.names}
    return found


def page(module: str) -> str:
    """The page of a module: what it says of itself, and each of its names.

    A name that has its place on another page is a link to it, and one of another library is told.
    """
    silent = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}"
    parts, known, origins = [f"# {module}", f"::: {module}\n{silent}"], modules(), imported(module)
    for name, place in names(module).items():
        origin = origins.get(name, "")
        home, _, called = origin.rpartition(".")
        if origin in known:
            parts += [f"## {name}\n\nThe module [`{origin}`]({origin}.md)."]
        elif home != module and home in known and called in names(home):
            parts += [f"## {name}\n\nStands at [`{origin}`][{origin}]."]
        elif origin and not origin.startswith("pushforward."):
            parts += [f"## {name}\n\nThe module `{origin}`."]
        else:
            parts += [f"::: {place}"]
    return "\n\n".join(parts) + "\n"
