"""Data as R's ``dump`` writes them, which Stan reads: names with numbers and arrays of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .saying import UsageError

TOKEN = re.compile(
    r"""(?P<blank>[ \t\r;]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?L?(?![\w.]))
    |(?P<name>[A-Za-z.][\w.]*|"[^"\n]*"|'[^'\n]*'|`[^`\n]*`)
    |(?P<sign><-|[-+=(),:])""",
    re.VERBOSE,
)
SPECIAL = {"Inf": np.inf, "Infinity": np.inf, "inf": np.inf, "NaN": np.nan, "nan": np.nan}
SPECIAL |= {"TRUE": 1, "FALSE": 0, "T": 1, "F": 0}
EMPTY = {"integer": np.int64, "double": np.float64, "numeric": np.float64}
BEGIN = re.compile(r"""\s*(?:\#[^\n]*\s*)*[A-Za-z."'`][^\n<=({\[]*(?:<-|=)""")


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def looks_like(text: str) -> bool:
    """Whether a text begins as a dump does: ``name <- ...``."""
    return BEGIN.match(text) is not None


def read(text: str, file: str) -> dict[str, Any]:
    """The values of a dump by name: numbers, or lists of them, row by row.

    Arrays stand there column by column.  A whole number without a point is an integer.

    Errors:
        UsageError: with the line, of what is no dump of numbers.
    """
    return _Reader(list(_tokens(text, file)), file).read()


def _tokens(text: str, file: str) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            word = text[at:].split(None, 1)[0][:20]
            raise UsageError(f"{file}:{line}: {word!r} has no place in a dump of R")
        kind = match.lastgroup or ""
        if kind == "line":
            line += 1
        elif kind != "blank":
            yield Token(kind, match[0], line)
        at = match.end()
    yield Token("end", "the end", line)


class _Reader:
    """Reads ``name <- value`` one after the other, by recursive descent."""

    def __init__(self, tokens: list[Token], file: str) -> None:
        self.tokens, self.file, self.at = tokens, file, 0

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def fail(self, wanted: str) -> UsageError:
        return UsageError(
            f"{self.file}:{self.next.line}: {wanted} is expected, not {self.next.text!r}"
        )

    def take(self, *texts: str) -> Token:
        if self.next.text not in texts:
            raise self.fail(" or ".join(map(repr, texts)))
        self.at += 1
        return self.tokens[self.at - 1]

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.next.kind != "end":
            if self.next.kind != "name":
                raise self.fail("a name")
            name, line = self.next.text.strip("\"'`"), self.next.line
            self.at += 1
            self.take("<-", "=")
            if name in found:
                raise UsageError(f"{self.file}:{line}: {name!r} is given twice")
            value = self.value()
            found[name] = value.tolist()
        return found

    def value(self) -> Any:
        """A number, ``c(...)``, a range, or any of them with dimensions, as an array."""
        word = self.next.text
        if word == "structure":
            return self.structure()
        if word == "c":
            return self.listed()
        if word in EMPTY:
            return self.zeros()
        first = self.scalar()
        if self.next.text != ":":
            return np.asarray(first)
        self.at += 1
        last = self.scalar()
        step = 1 if last >= first else -1
        return np.arange(int(first), int(last) + step, step)

    def zeros(self) -> Any:
        """``integer(n)`` or ``double(n)``."""
        kind = EMPTY[self.next.text]
        self.at += 1
        self.take("(")
        if self.next.text == "-":
            raise self.fail("a size")
        size = 0 if self.next.text == ")" else int(self.scalar())
        self.take(")")
        return np.zeros(size, kind)

    def listed(self) -> Any:
        self.take("c")
        self.take("(")
        parts: list[Any] = []
        while self.next.text != ")":
            parts.append(np.atleast_1d(self.value()))
            if self.next.text != ")":
                self.take(",")
        self.take(")")
        return np.concatenate(parts) if parts else np.zeros(0)

    def structure(self) -> Any:
        """``structure(values, .Dim = c(...))``: the first index runs fastest."""
        self.take("structure")
        self.take("(")
        values = np.atleast_1d(self.value())
        self.take(",")
        self.take(".Dim", "dim")
        self.take("=")
        line, shape = self.next.line, tuple(int(n) for n in np.atleast_1d(self.value()))
        self.take(")")
        if int(np.prod(shape)) != values.size:
            what = f"{values.size} numbers do not fill .Dim = {shape}"
            raise UsageError(f"{self.file}:{line}: {what}")
        return values.reshape(shape, order="F")

    def scalar(self) -> Any:
        sign = 1
        while self.next.text in ("-", "+"):
            sign = -sign if self.next.text == "-" else sign
            self.at += 1
        token = self.next
        if token.text in SPECIAL:
            self.at += 1
            return sign * SPECIAL[token.text]
        if token.kind != "number":
            raise self.fail("a number")
        self.at += 1
        text = token.text
        if text.endswith("L"):
            return sign * int(float(text[:-1]))
        return sign * int(text) if text.isdigit() else sign * float(text)
