"""The process that compiles a graph for another: ``python worker.py JOB``; it imports torch alone.

A job is a graph, Inductor's options, and what the inputs are like.  What comes of it is a file of
Python in Inductor's cache, whose path is written beside the job.
"""

from __future__ import annotations

import operator
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

Packed = list[tuple[str, str, str, Any, Any]]


def packed(graph: GraphModule) -> Packed:
    """The nodes of a graph, in words; in arguments, the name of a node is in bytes.

    (torch sends graphs as source text, and runs that anew, so that operations without inputs, draws
    among them, become constants.)

    Errors:
        ValueError: a node is no operation of torch.
    """
    return [
        (node.op, node.name, _named(node), _worded(node.args), _worded(node.kwargs))
        for node in graph.graph.nodes
    ]


def _worded(x: Any) -> Any:
    if isinstance(x, Node):
        return x.name.encode()
    if isinstance(x, tuple | list):
        return (tuple if isinstance(x, tuple) else list)(map(_worded, x))
    return {k: _worded(v) for k, v in x.items()} if isinstance(x, dict) else x


def _named(node: Node) -> str:
    target: Any = node.target
    if isinstance(target, str):
        return target
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    raise ValueError(f"{target} is no operation of torch")


def unpacked(nodes: Packed, constants: dict[str, torch.Tensor]) -> GraphModule:
    """The graph of these nodes."""
    graph, made = Graph(), dict[str, Node]()

    def found(x: Any) -> Any:
        if isinstance(x, bytes):
            return made[x.decode()]
        if isinstance(x, tuple | list):
            return type(x)(map(found, x))
        return {k: found(v) for k, v in x.items()} if isinstance(x, dict) else x

    for op, name, target, args, kwargs in nodes:
        goal: Any = _operation(target) if op == "call_function" else target
        made[name] = graph.create_node(op, goal, found(args), found(kwargs), name)
    return GraphModule(constants, graph)


def _operation(name: str) -> Any:
    if name == "getitem":
        return operator.getitem
    space, rest = name.split("::")
    packet, overload = rest.split(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload)


def compile_job(job: Path) -> None:
    """Compile a job, and write where the code is to ``job`` with the ending ``.done``."""
    import torch._inductor as inductor

    about: dict[str, Any] = pickle.loads(job.read_bytes())
    torch.set_num_threads(about["threads"])
    torch.set_default_dtype(about["dtype"])
    example: list[Any] = [
        torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in about["inputs"]
    ]
    graph = unpacked(about["nodes"], about["constants"])
    compiled = inductor.compile(graph, example, about["options"])  # type: ignore[no-untyped-call]
    code: Any = getattr(compiled, "current_callable", None)
    written = job.with_suffix(".part")
    written.write_text(str(sys.modules[code.__module__].__file__))
    os.replace(written, job.with_suffix(".done"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    compile_job(Path(sys.argv[1]))
