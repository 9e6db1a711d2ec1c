"""Examine a built wheel and import every module of it, away from the checkout.

Usage: python -I -S import_all.py CHECKOUT WHEEL SITE PACKAGES, where SITE holds the installed wheel
and PACKAGES its dependencies.
"""

from __future__ import annotations

import importlib
import pkgutil
import stat
import sys
from pathlib import Path
from zipfile import ZipFile

PLUGIN = "pushforward_pytest"  # a package of its own, which pytest imports and nothing else


def examine(wheel: Path, checkout: Path) -> None:
    """Each source file is in the wheel once, under its package, and nothing is a link."""
    with ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert not [e.filename for e in entries if stat.S_ISLNK(e.external_attr >> 16)], "links"
    assert len(names) == len(set(names)), "an entry stands twice"
    info = wheel.name.split("-py3")[0] + ".dist-info"
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pushforward", PLUGIN, info}, f"top level holds {sorted(tops)}"

    front = checkout / "pushforward"
    links = {f"pushforward/{path.name}": path for path in front.iterdir() if path.is_symlink()}
    sources = {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for prefix, link in {"pushforward": front, **links}.items()
        for folder in [link.resolve()]
        for path in folder.rglob("*.py")
    } | {f"{PLUGIN}/{path.name}" for path in (checkout / PLUGIN).glob("*.py")}
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == sources, f"wheel and checkout differ in {sorted(shipped ^ sources)}"
    assert "pushforward/py.typed" in names, "py.typed is missing"


def import_all(site: Path) -> int:
    """Import every module of the package; each must come from ``site``."""
    package = importlib.import_module("pushforward")
    names = [package.__name__]
    names += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        found = importlib.import_module(name).__file__
        assert found and Path(found).resolve().is_relative_to(site), f"{name} came from {found}"
    return len(names)


if __name__ == "__main__":
    checkout, wheel, site, packages = (Path(argument).resolve() for argument in sys.argv[1:])
    examine(wheel, checkout)
    sys.path[:] = [str(site), *sys.path, str(packages)]
    print(f"{wheel.name}: {import_all(site)} modules imported, all from the wheel")
