"""The dependence graph of a program: which site looks at which choice, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx

from ..distributions.data import as_arguments
from ..errors import ProgramError, located
from ..language.program import Callback, answers, program_name
from ..pages import text
from .abstract_run import abstract_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["latent", "observed", "factor", "derived"]


@dataclass(frozen=True)
class DependenceGraph:
    """The sites of a program, with an edge from each choice to the sites that look at its value.

    Every path of a ``cond`` counts, so an edge says that a site may depend on a choice; where there
    is no edge it does not.  A deterministic site is shown as a leaf: what is computed from it
    depends on the choices that it is made of.  Observed sites and factors always count as given.
    """

    name: str
    graph: nx.DiGraph

    # ----------------------------------------------------------------------------------- relations

    def names(self, *kinds: Kind) -> list[str]:
        """The sites, in the order of the program; of these kinds if any are given."""
        return [n for n, k in self.graph.nodes(data="kind") if not kinds or k in kinds]

    def parents(self, name: str) -> set[str]:
        """The choices that a site looks at."""
        return set(self.graph.predecessors(self._known(name)))

    def children(self, name: str) -> set[str]:
        """The sites that look at a choice."""
        return set(self.graph.successors(self._known(name)))

    def order(self) -> list[str]:
        """The sites, each after what it depends on."""
        return list(nx.lexicographical_topological_sort(self.graph, key=self._place))

    def markov_blanket(self, name: str) -> set[str]:
        """The least set of sites given which a site is independent of all others.

        Its parents, its children and their other parents; deterministic sites add nothing.
        """
        random = self._random()
        children = set(random.successors(self._known(name)))
        others = {p for child in children for p in random.predecessors(child)}
        return (set(self.graph.predecessors(name)) | children | others) - {name}

    def d_separated(
        self, xs: str | Iterable[str], ys: str | Iterable[str], given: str | Iterable[str] = ()
    ) -> bool:
        """Whether the graph makes ``xs`` and ``ys`` independent, given the data and ``given``.

        Errors:
            ProgramError: there is no such site, or a site is on two sides.
        """
        first, second, third = (
            {self._known(n) for n in ([side] if isinstance(side, str) else side)}
            for side in (xs, ys, given)
        )
        if twice := (first & second) | (first & third) | (second & third):
            raise ProgramError(located(f"{sorted(twice)} on two sides of a d-separation"))
        seen = set(self.names("observed", "factor")) - first - second
        return bool(nx.is_d_separator(self.graph, first, second, third | seen))

    def components(self) -> list[set[str]]:
        """The latents in blocks that are independent of each other, given the data."""
        moral = nx.moral_graph(self._random())
        moral.remove_nodes_from(self.names("observed"))
        blocks = [set(b) & set(self.names("latent")) for b in nx.connected_components(moral)]
        return sorted(filter(None, blocks), key=lambda block: min(map(self._place, block)))

    def _random(self) -> nx.DiGraph:
        """The graph without deterministic sites."""
        return self.graph.subgraph(self.names("latent", "observed", "factor")).copy()

    def _place(self, name: str) -> int:
        return int(self.graph.nodes[name]["place"])

    def _known(self, name: str) -> str:
        if name not in self.graph:
            near = get_close_matches(name, list(self.graph), 1)
            raise ProgramError(
                located(
                    f"{self.name} has no site {name!r}",
                    hint=f"did you mean {near[0]!r}?"
                    if near
                    else f"its sites are {', '.join(self.graph) or 'none'}",
                )
            )
        return name

    # ------------------------------------------------------------------------------------ pictures

    def __repr__(self) -> str:
        rows = []
        for name, at in self.graph.nodes(data=True):
            shown = " ".join(filter(None, [name, {"latent": ""}.get(at["kind"], at["kind"])]))
            before = ", ".join(sorted(self.parents(name), key=self._place))
            plates = f"  in {', '.join(at['plates'])}" if at["plates"] else ""
            rows.append(f"  {shown}{f' <- {before}' if before else ''}{plates}")
        return "\n".join([f"dependence of {self.name}", *rows])

    def _repr_html_(self) -> str:
        return text(self)

    def to_dot(self) -> str:
        """The graph as text for Graphviz: plates are clusters, observed sites are grey."""
        lines = ["digraph {", *self._dot_nodes((), 1)]
        edges = sorted(self.graph.edges, key=lambda edge: tuple(map(self._place, edge)))
        return "\n".join([*lines, *(f"  {_quoted(a)} -> {_quoted(b)};" for a, b in edges), "}"])

    def _dot_nodes(self, inside: tuple[str, ...], depth: int) -> list[str]:
        """The sites in a plate, and the plates within it."""
        indent, lines, within = "  " * depth, [], dict[str, None]()
        for name, at in self.graph.nodes(data=True):
            if at["plates"] == inside:
                lines.append(f"{indent}{_quoted(name)} [{_DOT[at['kind']]}];")
            elif at["plates"][: len(inside)] == inside:
                within[at["plates"][len(inside)]] = None
        for plate in within:
            cluster = "/".join((*inside, plate))
            lines.append(f"{indent}subgraph {_quoted(f'cluster_{cluster}')} {{")
            lines.append(f"{indent}  label={_quoted(plate)};")
            lines += self._dot_nodes((*inside, plate), depth + 1)
            lines.append(f"{indent}}}")
        return lines

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the graph, parents above children, with plates as frames."""
        from matplotlib import pyplot
        from matplotlib.patches import Rectangle

        layers = list(nx.topological_generations(self.graph))
        at = self._positions(layers)
        widest = max((x for x, _ in at.values()), default=0.0) + 1
        if ax is None:
            ax = pyplot.subplots(figsize=(1.5 * widest + 0.5, 1.2 * len(layers) + 0.5))[1]
        for a, b in self.graph.edges:
            arrow = {"arrowstyle": "->", "shrinkA": 14, "shrinkB": 14, "color": "0.4"}
            ax.annotate("", at[b], at[a], arrowprops=arrow)
        for name, kind in self.graph.nodes(data="kind"):
            box = {"boxstyle": _BOXES[kind], "facecolor": _FILLS[kind], "edgecolor": "0.2"}
            box["linestyle"] = "--" if kind == "derived" else "-"
            ax.text(*at[name], name, ha="center", va="center", bbox=box)
        nests = [inside for _, inside in self.graph.nodes(data="plates")]
        for plate in dict.fromkeys(p for inside in nests for p in inside):
            members = [at[n] for n, inside in self.graph.nodes(data="plates") if plate in inside]
            (left, right), (low, high) = ((min(c), max(c)) for c in zip(*members, strict=True))
            within = max(len(i) - i.index(plate) for i in nests if plate in i)
            edge = 0.36 + 0.06 * within
            width, height = right - left + 2 * edge, high - low + 2 * edge
            corner = left - edge, low - edge
            ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="0.6", zorder=0))
            ax.text(left - edge + 0.03, high + edge - 0.03, plate, va="top", fontsize="small")
        ax.set(xlim=(-0.7, widest - 0.3), ylim=(-len(layers) + 0.4, 0.6))
        ax.set_axis_off()
        return ax

    def _positions(self, layers: list[list[str]]) -> dict[str, tuple[float, float]]:
        """A row for each layer, and in it a column for each plate, so that no frame has guests."""
        plates = self.graph.nodes(data="plates")
        at: dict[str, tuple[float, float]] = {}
        left = 0.0
        for nest in sorted({inside for _, inside in plates}):
            rows = [[n for n in layer if plates[n] == nest] for layer in layers]
            width = max(map(len, rows))
            for depth, row in enumerate(rows):
                start = left + (width - len(row)) / 2
                for i, name in enumerate(sorted(row, key=self._place)):
                    at[name] = start + i, -float(depth)
            left += width
        return at


_DOT: dict[Kind, str] = {
    "latent": "shape=ellipse",
    "observed": "shape=ellipse, style=filled, fillcolor=lightgrey",
    "derived": "shape=ellipse, style=dashed",
    "factor": 'shape=square, style=filled, fillcolor=black, label="", width=0.15',
}
_BOXES = {"latent": "ellipse", "observed": "ellipse", "derived": "ellipse", "factor": "square"}
_FILLS = {"latent": "white", "observed": "0.85", "derived": "white", "factor": "0.6"}


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@answers("graph")
def dependence_graph(p: Callback, *args: Any, **kwargs: Any) -> DependenceGraph:
    """The graph of ``p(*args)``, found without sampling.

    Errors:
        BranchError: Python control flow depends on a random value.
    """
    run, _ = abstract_run(p, *as_arguments(args), **kwargs)
    graph = nx.DiGraph()
    for place, name in enumerate(run.parents):
        site = run.sites.get(name)
        kind: Kind = "latent"
        if site is None:
            kind = "derived" if name in run.derived else "factor"
        elif site.observed:
            kind = "observed"
        space = str(site.space) if site is not None else ""
        line = site.line if site is not None else run.derived.get(name, run.scores.get(name))
        graph.add_node(
            name, kind=kind, plates=run.plates[name], space=space, line=line, place=place
        )
    for name, parents in run.parents.items():
        # anonymous draws are no sites
        graph.add_edges_from((parent, name) for parent in sorted(parents) if parent in graph)
    return DependenceGraph(program_name(p), graph)
