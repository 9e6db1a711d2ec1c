"""What lies underneath is not used where it is known to be wrong, and the page about it is whole.

docs/underneath.md says why; these names would bring it back.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from support.house import GREAT, ROOT, files

PAGE = ROOT / "docs" / "underneath.md"
# Name -> the files that may use it, and how.
WRONG: dict[str, tuple[str, ...]] = {
    "logcumsumexp": ("inference/mcmc/within_gibbs.py",),  # of finite weights, without a slope
    "kl_divergence": (),
    # asks whether it is right; and asks laws without a table of their own, and Gamma
    "icdf": ("validation/laws.py", "ppl/distributions/laws/tails.py"),
    "SobolEngine": ("ppl/distributions/nets.py",),  # whose direction numbers alone are read
    "_standard_gamma_grad": (),
    "_dirichlet_grad": (),
    "effective_sample_size": (),  # Pyro's
    "InterventionMessenger": (),
    "TraceEnum_ELBO": (),
    "infer_discrete": (),
    "funsor": (),
}


def uses(path: str, source: str) -> Iterator[str]:
    """Where a file names what it may not, as a name, an attribute or an import."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = [part for a in node.names for part in (*a.name.split("."), *module.split("."))]
        for name in {name for name in names if name in WRONG and path not in WRONG[name]}:
            yield f"{path}:{node.lineno}: {name}"  # type: ignore[attr-defined]


def test_the_library_does_not_use_what_is_wrong() -> None:
    paths = [path for room in GREAT for path in files(room)]
    assert [use for path in paths for use in uses(path, (ROOT / path).read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nx.logcumsumexp(0)",
        "from torch.distributions import kl_divergence",
        "import torch.distributions as d\nd.kl_divergence(p, q)",
        "law.icdf(u)",
        "from torch.quasirandom import SobolEngine",
        "import funsor.torch.distributions as f",
        "from funsor.sum_product import sum_product",
        "import torch\nslope = torch._standard_gamma_grad",
    ],
)
def test_a_use_is_reported(source: str) -> None:
    assert list(uses("inference/mine.py", source))


def test_exemptions_are_needed() -> None:
    for name, paths in WRONG.items():
        for path in paths:
            assert name in (ROOT / path).read_text(), f"{path} does not use {name} any more"


def test_every_row_of_the_page_is_whole_and_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert len(rows) > 15 and all(len(row) == 5 and all(row) for row in cells), cells
    for *_, tests in cells:
        for path in tests.replace("`", "").split(", "):
            assert tests == "tests" or (ROOT / "tests" / path).is_file(), path
