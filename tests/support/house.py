"""The rooms of the house: the table of allowed imports, what the code imports, and its drawing.

``python tests/support/house.py`` prints circles between files and arrows that the table forbids,
and exits with 1 if there are any; ``--write`` renews the table and the drawing in
``docs/architecture.md``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import networkx as nx


class Room(NamedTuple):
    """What lives in a room, and the rooms that it may import."""

    holds: str
    may: str = ""


# Lowest first.  A room may import those named, and nothing above it.
HOUSE: dict[str, Room] = {
    "kernels": Room("passes behind layers, in torch and in Triton, and a dispatcher"),
    "nn": Room("layers, quantisation and optimisers for torch", "kernels"),
    "ppl.errors": Room("errors of user programs: what, where, what to do"),
    "ppl.pages": Room("pieces of HTML: text, tables, pictures, pages; escaped"),
    "ppl.tensors": Room(
        "tensors that are abstract, captured or hidden; keys of states; seeds", "ppl.errors"
    ),
    "ppl.types": Room(
        "spaces, their bijections, trace types, annotations", "ppl.errors ppl.pages ppl.tensors"
    ),
    "ppl.distributions": Room(
        "densities, supports, checks of data, distributions as pytrees, strategies",
        "ppl.errors ppl.tensors ppl.types",
    ),
    "ppl.language": Room(
        "effects, handlers, programs, combinators",
        "ppl.errors ppl.tensors ppl.types ppl.distributions",
    ),
    "ppl.interpretations": Room(
        "simulate, assess, generate; the abstract run; log densities; factors",
        "ppl.errors ppl.pages ppl.tensors ppl.types ppl.distributions ppl.language",
    ),
    "ppl.compile": Room(
        "captured graphs and loops as machine code",
        "ppl.errors ppl.tensors ppl.distributions ppl.language",
    ),
    "ppl.markov": Room(
        "Gaussian Markov laws: kernels in time as state spaces, filters and smoothers",
        "ppl.errors ppl.tensors ppl.language",
    ),
    "ppl.calculus": Room(
        "the language on paper: syntax, types, elaboration to programs",
        "ppl.errors ppl.tensors ppl.language",
    ),
    "ppl.tasks": Room(
        "independent tasks for the workers of an executor; checkpoints of what was done",
        "ppl.errors ppl.language",
    ),
    "ppl": Room(
        "the names that the other rooms and users import",
        "ppl.tensors ppl.language ppl.interpretations ppl.compile",
    ),
    "semantics.reference": Room("the reference, in exact rationals", "ppl.calculus"),
    "semantics.evaluation": Room(
        "measures, and what evaluates programs to them: enumeration, lanes, quadrature",
        "ppl.errors ppl.pages ppl.tensors ppl.types ppl.distributions ppl.language"
        " ppl.interpretations",
    ),
    "semantics.judging": Room(
        "what checks are made of: candidates under watch, comparisons, bets, reports",
        "semantics.evaluation ppl.errors ppl.pages ppl.tensors ppl.types ppl.distributions"
        " ppl.interpretations",
    ),
    "semantics.checks": Room(
        "the checks, a file each",
        "semantics.reference semantics.evaluation semantics.judging ppl ppl.errors ppl.tensors"
        " ppl.types ppl.distributions ppl.language ppl.interpretations ppl.calculus ppl.tasks",
    ),
    "semantics": Room(
        "the names of semantics that users import",
        "semantics.reference semantics.evaluation semantics.judging semantics.checks",
    ),
    "inference.runs": Room(
        "what a run on real work needs: progress, devices, starts and paths to them",
        "ppl ppl.errors ppl.tensors ppl.distributions ppl.language ppl.interpretations ppl.tasks",
    ),
    "inference.results": Room(
        "fits, summaries, predictions",
        "inference.runs ppl ppl.errors ppl.pages ppl.tensors ppl.distributions ppl.language"
        " ppl.interpretations",
    ),
    "inference.mcmc": Room(
        "HMC and NUTS on vectors, adaptation; the compiled engine of NUTS",
        "inference.runs ppl ppl.errors ppl.tensors ppl.language ppl.compile ppl.tasks",
    ),
    "inference.rewriting": Room(
        "programs in other forms for NUTS: latents summed or integrated out, sites non-centred",
        "inference.runs inference.mcmc ppl ppl.errors ppl.distributions ppl.language"
        " ppl.interpretations ppl.compile",
    ),
    "inference.kernels": Room(
        "Markov kernels on traces, chains of them",
        "inference.runs inference.results ppl ppl.errors ppl.tensors ppl.types"
        " ppl.distributions ppl.language ppl.interpretations ppl.tasks",
    ),
    "inference.smc": Room(
        "populations, resampling, filters, tempering, particle MCMC",
        "inference.mcmc inference.kernels ppl ppl.errors ppl.tensors ppl.distributions"
        " ppl.language ppl.interpretations ppl.compile",
    ),
    "inference.exact": Room(
        "exact elimination as a method: the driver Exact",
        "inference.runs inference.results ppl ppl.errors ppl.tensors ppl.types ppl.distributions"
        " ppl.language ppl.interpretations",
    ),
    "inference.vi.gradients": Room(
        "estimators of single choices, replay, dependence of costs",
        "ppl.errors ppl.tensors ppl.types ppl.distributions ppl.language ppl.interpretations",
    ),
    "inference.vi.language": Room(
        "what objectives are written in: traces, expectations, marginals",
        "inference.vi.gradients ppl.errors ppl.tensors ppl.types ppl.distributions"
        " ppl.language ppl.interpretations",
    ),
    "inference.vi": Room(
        "objectives, guides, the drivers SVI, ADVI and Pathfinder",
        "inference.runs inference.results inference.vi.gradients inference.vi.language ppl"
        " ppl.errors ppl.tensors ppl.types ppl.distributions ppl.language ppl.interpretations"
        " ppl.compile ppl.tasks",
    ),
    "inference.drivers": Room(
        "the drivers MCMC, SMC and Consensus, a file each",
        "inference.runs inference.results inference.mcmc inference.rewriting inference.kernels"
        " inference.smc ppl"
        " ppl.errors ppl.tensors ppl.distributions ppl.language ppl.interpretations ppl.compile"
        " ppl.tasks",
    ),
    "inference.formula": Room(
        "programs from formulas, and predictions for new frames",
        "inference.runs inference.results inference.drivers ppl ppl.errors ppl.tensors",
    ),
    "inference": Room(
        "the names of inference that users import",
        "inference.runs inference.results inference.mcmc inference.kernels inference.smc"
        " inference.exact inference.vi inference.drivers inference.formula ppl.tasks",
    ),
    "validation": Room(
        "one front door to the checks: what a thing is, and which of them fit it",
        "ppl ppl.errors ppl.pages ppl.tensors ppl.types ppl.language ppl.interpretations"
        " ppl.compile semantics.evaluation semantics.judging semantics.checks semantics"
        " inference.kernels inference.smc ppl.tasks",
    ),
    "models": Room(
        "ready models and estimators",
        "kernels nn ppl ppl.errors ppl.distributions ppl.markov inference.runs inference.results"
        " inference.vi inference",
    ),
}
FRONT_DOOR = "pushforward"  # the command line, the demo, public names: it may import all
GREAT = tuple(dict.fromkeys(name.split(".")[0] for name in HOUSE))

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"


def files(room: str) -> list[str]:
    """The Python files of a great room, as paths from the root; links are not followed."""
    found = (path for path in (ROOT / room).rglob("*.py") if path.is_file())
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def room_of(module: str) -> str:
    """The smallest room that holds a module, by its dotted name from the root of the library."""
    parts = module.split(".")
    inner = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in inner if name in HOUSE), FRONT_DOOR)


def module_of(path: str) -> str:
    """``ppl/tensors/keys.py`` -> ``ppl.tensors.keys``; of a package, its own name."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(path: str, tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, full dotted name and relativity of each import in the file at ``path``."""
    folder = path.rpartition("/")[0].replace("/", ".")
    package = folder if folder.split(".")[0] == FRONT_DOOR else f"{FRONT_DOOR}.{folder}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom):
            relative = node.level > 0
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}".replace("..", "."), relative


def wrong_imports(path: str, source: str) -> Iterator[str]:
    """The imports in the file at ``path`` that the table forbids."""
    here = room_of(module_of(path))
    for line, name, relative in imports(path, ast.parse(source)):
        first, _, rest = name.partition(".")
        if first in GREAT:
            yield f"{path}:{line}: {first} is a room: import it relatively, from ..{first}"
        if first != FRONT_DOOR:
            continue
        if not relative:
            yield f"{path}:{line}: {name} is of this library: import it relatively"
        room = room_of(rest)
        if here not in (room, FRONT_DOOR) and room not in HOUSE[here].may.split():
            yield f"{path}:{line}: {here} may not import {room}"


def upward() -> list[str]:
    """The arrows of the table itself that go up."""
    place = {name: i for i, name in enumerate(HOUSE)}
    return [
        f"{name} -> {other}"
        for name, room in HOUSE.items()
        for other in room.may.split()
        if place[other] >= place[name]
    ]


def import_graph(sources: dict[str, str]) -> nx.DiGraph:
    """Which file imports which, from path to source; names of a package count as its own file."""
    modules = {module_of(path): path for path in sources}
    graph = nx.DiGraph()
    graph.add_nodes_from(sources)
    for path, source in sources.items():
        for _, name, _ in imports(path, ast.parse(source)):
            dotted = name.removeprefix(f"{FRONT_DOOR}.")
            found = modules.get(dotted, modules.get(dotted.rpartition(".")[0]))
            if found not in (None, path):
                graph.add_edge(path, found)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """The files that import each other, directly or not."""
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


def library() -> dict[str, str]:
    """The sources of the library, by path from the root."""
    return {path: (ROOT / path).read_text() for room in GREAT for path in files(room)}


# ---------------------------------------------------------------------------------------- the page


def table() -> str:
    """The table of rooms as Markdown, lowest first."""
    rows = [f"| `{n.replace('.', '/')}` | {r.holds} | {_named(r.may)} |" for n, r in HOUSE.items()]
    return "\n".join(["| room | what lives there | may import |", "|---|---|---|", *rows])


def _named(rooms: str) -> str:
    return ", ".join(f"`{name.replace('.', '/')}`" for name in rooms.split()) or "no other room"


def drawing(graph: nx.DiGraph) -> str:
    """The rooms and the arrows between them as Mermaid, without what follows from other arrows."""
    rooms = nx.DiGraph()
    rooms.add_nodes_from(HOUSE)
    for path, other in graph.edges:
        here, there = room_of(module_of(path)), room_of(module_of(other))
        if here != there:
            rooms.add_edge(here, there)
    lines = ["flowchart TD"]
    for great in GREAT:
        inner = [name for name in HOUSE if name.split(".")[0] == great]
        if inner == [great]:
            lines.append(f"  {great}[{great}/]")
            continue
        lines.append(f"  subgraph {great}_[{great}/]")
        lines += [f"    {_node(n)}[{n.partition('.')[2] or 'public names'}]" for n in inner]
        lines.append("  end")
    least = nx.transitive_reduction(rooms)
    place = {name: i for i, name in enumerate(HOUSE)}
    edges = sorted(least.edges, key=lambda edge: (place[edge[0]], place[edge[1]]))
    return "\n".join([*lines, *(f"  {_node(a)} --> {_node(b)}" for a, b in edges)])


def _node(room: str) -> str:
    return room.replace(".", "_")


def renewed(page: str) -> str:
    """The page with the table and the drawing as they are now."""
    parts = {"table": table(), "drawing": f"```mermaid\n{drawing(import_graph(library()))}\n```"}
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        assert found and closed, f"the page has no place for the {name}"
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


def main() -> int:
    sources = library()
    found = [
        *(f"circle: {', '.join(circle)}" for circle in circles(import_graph(sources))),
        *(fault for path, source in sources.items() for fault in wrong_imports(path, source)),
        *(f"the table has an arrow upward: {arrow}" for arrow in upward()),
    ]
    if "--write" in sys.argv[1:]:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n".join(found or [f"{len(sources)} files: no circle, no forbidden arrow"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
