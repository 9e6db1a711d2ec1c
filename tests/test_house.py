"""The rules of the house: who imports whom, where randomness comes from, how files begin."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.house import (
    FRONT_DOOR,
    GREAT,
    HOUSE,
    PAGE,
    ROOT,
    circles,
    files,
    import_graph,
    library,
    renewed,
    room_of,
    upward,
    wrong_imports,
)


def broken(rule: Callable[[str, str], Iterator[str]], rooms: list[str]) -> list[str]:
    """What ``rule(path, source)`` finds in the rooms' files."""
    paths = [path for room in rooms for path in files(room)]
    assert paths, f"no files in {rooms}"
    return [fault for path in paths for fault in rule(path, (ROOT / path).read_text())]


# --- imports ------------------------------------------------------------------------------------


def test_the_table_of_rooms_only_goes_down() -> None:
    assert upward() == []


def test_rooms_import_only_what_they_may() -> None:
    assert broken(wrong_imports, [*GREAT, FRONT_DOOR]) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        (
            "semantics/check.py",
            "from ..inference import MCMC",
            "semantics may not import inference",
        ),
        ("inference/mcmc/hmc.py", "from ...semantics import check", "may not import semantics"),
        (
            "inference/exact.py",
            "def f():\n    from .. import semantics",
            "may not import semantics",
        ),
        ("inference/exact.py", "from ..errors import DataError", "may not import pushforward"),
        ("inference/exact.py", "from .. import sample", "may not import pushforward"),
        (
            "ppl/types/x.py",
            "from ...semantics.judging.report import Report",
            "not import semantics",
        ),
        ("ppl/__init__.py", "from ..nn import Linear", "may not import nn"),
        ("kernels/scan.py", "from ..ppl import draw", "may not import ppl"),
        ("nn/norm.py", "from ..ppl import draw", "may not import ppl"),
        ("models/lda.py", "from ..semantics import denote", "may not import semantics"),
        ("inference/exact.py", "from pushforward.ppl import draw", "import it relatively"),
        ("pushforward/demo.py", "import pushforward.ppl", "import it relatively"),
        ("inference/exact.py", "import ppl", "import it relatively"),
        ("inference/exact.py", "from ppl.effects import draw", "import it relatively"),
        (
            "semantics/reference/eval.py",
            "from ...ppl.language.effects import draw",
            "semantics.reference may not import ppl.language",
        ),
        ("semantics/reference/eval.py", "from ...ppl import draw", "may not import ppl"),
        ("ppl/tensors/keys.py", "from ..language import effects", "may not import ppl.language"),
        ("ppl/language/program.py", "from .. import simulate", "ppl.language may not import ppl"),
        ("inference/smc/smc.py", "from ..drivers.mcmc import MCMC", "may not import inference.dri"),
        ("inference/vi/language/traces.py", "from ..svi import SVI", "may not import inference.vi"),
    ],
)
def test_a_forbidden_import_is_reported(path: str, source: str, said: str) -> None:
    (fault,) = wrong_imports(path, source)
    assert said in fault and f"{path}:{source.count(chr(10)) + 1}" in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "inference/exact.py",
            "import torch\nfrom ..ppl import draw\nfrom .. import ppl\nfrom .results import fit",
        ),
        (
            "inference/kernels/x.py",
            "from ...ppl.language.effects import draw\nfrom ..results.fit import Fit",
        ),
        ("inference/__init__.py", "from .vi.svi import SVI\nfrom .smc import resampling"),
        (
            "models/lda.py",
            "from ..inference import SVI\nfrom ..nn import Linear\nfrom ..ppl import draw",
        ),
        ("pushforward/__main__.py", "from .semantics import check\nfrom .demo import run"),
        (
            "semantics/reference/eval.py",
            "from ...ppl.calculus.syntax import Term\nfrom . import rules",
        ),
        ("semantics/reference/eval.py", "from ...ppl import calculus"),
        ("ppl/language/x.py", "from ..types.spaces import Space\nfrom . import effects"),
    ],
)
def test_a_permitted_import_is_not_reported(path: str, source: str) -> None:
    assert list(wrong_imports(path, source)) == []


def test_no_files_import_each_other() -> None:
    assert circles(import_graph(library())) == []


def test_a_circle_is_reported() -> None:
    sources = {
        "ppl/a.py": "from .b import x",
        "ppl/b.py": "def f():\n    from . import c",
        "ppl/c.py": "from ..ppl.a import y",
        "ppl/d.py": "from . import a",
    }
    assert circles(import_graph(sources)) == [["ppl/a.py", "ppl/b.py", "ppl/c.py"]]


def test_every_file_stands_in_a_room_of_the_table() -> None:
    assert all(room_of(path.removesuffix(".py").replace("/", ".")) in HOUSE for path in library())


def test_the_page_shows_the_house_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert renewed(page) == page, "run: python tests/support/house.py --write"
    assert renewed(page.replace("`ppl/tensors`", "`ppl/tensor`")) == page


def answers(page: str) -> list[tuple[str, str, str]]:
    """The rows of the page's list of questions: question, file, and the name to look for there."""
    row = re.compile(r"^\| (.+?) \| \[(.+?)\]\(\.\./.+?\) \| `(.+?)` \|$", re.MULTILINE)
    return row.findall(page)


def defined(path: str) -> set[str]:
    """The names that a file defines, of methods with their class."""
    found = set[str]()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{n.name}" for n in inner if isinstance(n, ast.FunctionDef)}
    return found


def test_a_stranger_finds_what_the_page_says() -> None:
    rows = answers(PAGE.read_text(encoding="utf-8"))
    assert len(rows) >= 12
    assert [q for q, path, name in rows if name not in defined(path)] == []
    assert "particle_filter" not in defined("inference/smc/smc.py")


# --- randomness ---------------------------------------------------------------------------------

# Functions of torch that draw, by dotted name.
TORCH_DRAWS = {
    f"torch.{name}"
    for name in (
        *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"),
        *("multinomial", "bernoulli", "normal", "poisson", "binomial", "dropout", "rrelu"),
        *("_standard_gamma", "_sample_dirichlet", "pca_lowrank", "svd_lowrank"),
    )
} | {
    f"torch.nn.functional.{name}"
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "rrelu")
    + ("feature_alpha_dropout", "gumbel_softmax", "fractional_max_pool2d", "fractional_max_pool3d")
}
# Modules all of whose functions draw.
RANDOM_MODULES = ("random", "secrets", "numpy.random", "torch.random", "torch.nn.init")
# Methods that draw, of tensors and of distributions.
METHOD_DRAWS = {"sample", "rsample", "sample_n", "rvs", "multinomial", "bernoulli"} | {
    f"{name}_"
    for name in ("random", "uniform", "normal", "bernoulli", "exponential", "geometric")
    + ("cauchy", "log_normal")
}


def bindings(path: str, tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name of what an import statement binds to it."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                bound[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            prefix = "pushforward." if node.level else ""
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{prefix}{node.module or ''}.{alias.name}"
    return bound


def dotted(node: ast.expr, bound: dict[str, str]) -> str | None:
    """The dotted name of an expression such as ``np.random.rand``, if an import gives it one."""
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, bound)):
        return f"{base}.{node.attr}"
    return None


def direct_randomness(path: str, source: str) -> Iterator[str]:
    """Uses of random functions other than through the effects ``draw`` and ``sample``.

    A name that an import resolves is judged by its dotted name, used or only mentioned; a method
    of anything else (a tensor, a distribution) by its own name, where it is called.
    """
    tree = ast.parse(source)
    bound = bindings(path, tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in inside:
            continue
        name = dotted(node, bound)
        if name is None:
            draws = (
                isinstance(node, ast.Attribute) and node.attr in METHOD_DRAWS and id(node) in called
            )
        else:
            draws = name in TORCH_DRAWS or any(
                name == module or name.startswith(f"{module}.") for module in RANDOM_MODULES
            )
        if draws:
            yield f"{path}:{node.lineno}: {ast.unparse(node)} draws behind the evaluator's back"


def test_inference_draws_only_through_the_effects() -> None:
    assert broken(direct_randomness, ["inference"]) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.rand(3)",
        "import torch as t\nt.randn_like(x)",
        "from torch import randn\nrandn(3)",
        "import torch\nnoise = torch.randn",
        "import torch\ntorch.multinomial(w, 1)",
        "import torch\ntorch.bernoulli(p)",
        "import torch\ntorch.normal(0.0, 1.0, (3,))",
        "import torch.nn.functional as F\nF.dropout(x)",
        "from torch.nn import functional as F\nF.gumbel_softmax(x)",
        "import numpy as np\nnp.random.default_rng(0)",
        "from numpy import random\nrandom.normal()",
        "from numpy.random import default_rng\ndefault_rng(0)",
        "import random\nrandom.random()",
        "from random import shuffle\nshuffle(x)",
        "x.normal_()",
        "f(x).uniform_(0, 1)",
        "p.bernoulli()",
        "import pyro.distributions as dist\ndist.Normal(0.0, 1.0).sample()",
        "d.rsample((3,))",
        "self.law.sample()",
        "from scipy import stats\nstats.norm(0, 1).rvs(3)",
    ],
)
def test_a_direct_random_call_is_reported(source: str) -> None:
    (fault,) = direct_randomness("inference/mine.py", source)
    assert f"inference/mine.py:{source.count(chr(10)) + 1}" in fault


@pytest.mark.parametrize(
    "source",
    [
        "from ..ppl import draw, sample\nsample('x', d)\ndraw(d)",
        "import pyro\npyro.sample('x', d)",
        "from . import resampling\nresampling.multinomial(w)",
        "from .resampling import multinomial\nmultinomial(w)",
        "import torch\ntorch.zeros(3).normal\ntorch.distributions.Normal(0.0, 1.0)",
        "random = [1]\nrandom.append(2)",
        "class Law:\n    def sample(self): ...",
    ],
)
def test_an_effect_is_not_reported(source: str) -> None:
    assert list(direct_randomness("inference/mine.py", source)) == []


# --- files --------------------------------------------------------------------------------------


def poor_beginning(path: str, source: str) -> Iterator[str]:
    """A file begins by saying, in one line of words, what it is for."""
    first = (ast.get_docstring(ast.parse(source), clean=False) or "").split("\n")[0]
    if len(first.split()) < 3:
        yield f"{path}: the docstring's first line, {first!r}, does not say what the file is for"
    if Path(path).name == "utils.py":
        yield f"{path}: a name that says nothing; name the file after what it does"


def test_files_say_what_they_are() -> None:
    assert broken(poor_beginning, [*GREAT, FRONT_DOOR, "tests"]) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ppl/types.py", "x = 1"),
        ("ppl/types.py", ""),
        ("ppl/types.py", '"""Types."""'),
        ("ppl/types.py", '"""\nThe spaces of the language.\n"""'),
        ("ppl/utils.py", '"""The spaces of the language."""'),
    ],
)
def test_a_poor_beginning_is_reported(path: str, source: str) -> None:
    assert len(list(poor_beginning(path, source))) == 1


@pytest.mark.parametrize("room", GREAT)
def test_the_front_door_links_to_every_room(room: str) -> None:
    link = ROOT / FRONT_DOOR / room
    assert link.is_symlink() and link.readlink() == Path("..") / room
    assert f"{room}/__init__.py" in files(room)
