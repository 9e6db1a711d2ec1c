"""What the text of a formula says of groups, by the scanner of formulae."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...ppl.errors import DataError, located


@dataclass(frozen=True)
class Piece:
    """One ``(terms | factor)`` of a formula; ``(terms || factor)`` is not correlated.

    names: of its terms, as formulae calls them: ``1|g``, ``x|g``.
    """

    names: tuple[str, ...]
    correlated: bool


def read(text: str) -> tuple[str, list[Piece]]:
    """A formula as formulae reads it, where no ``||`` is, and its pieces of groups.

    formulae stops at the first word that it does not expect, and says nothing of the rest; that is
    refused here.

    Errors:
        DataError: formulae cannot read it, or not to its end.
    """
    from formulae.parser import Parser
    from formulae.scanner import Scanner

    with said(text):
        tokens = Scanner(text).scan()
        words, doubled = _without_doubles(tokens)
        clean = " ".join(word.lexeme for word in words).strip()
        again = Scanner(clean).scan()
        parser = Parser(again)
        parser.parse()
    if not parser.at_end():
        rest = " ".join(word.lexeme for word in again[parser.current :]).strip()
        pipe = "write groups in parentheses: (x | g)" if rest.startswith("|") else "join terms by +"
        raise DataError(located(f"formula '{text}': '{rest}' follows nothing", hint=pipe))
    return clean, [_piece(words, at, at in doubled) for at in _pipes(words)]


def _without_doubles(tokens: list[Any]) -> tuple[list[Any], set[int]]:
    """The words of a formula, ``||`` as ``|``, and where those stand."""
    words: list[Any] = []
    doubled = set()
    for token in tokens:
        if token.kind == "PIPE" and words and words[-1].kind == "PIPE":
            doubled.add(len(words) - 1)
        else:
            words.append(token)
    return words, doubled


def _pipes(words: list[Any]) -> Iterator[int]:
    """Where ``|`` stands."""
    return (i for i, word in enumerate(words) if word.kind == "PIPE")


def _piece(words: list[Any], at: int, doubled: bool) -> Piece:
    """The terms between the parentheses about the ``|`` at a place."""
    from formulae import model_description

    first = _end(words, at, -1, ("LEFT_PAREN", "RIGHT_PAREN"))
    last = _end(words, at, 1, ("RIGHT_PAREN", "LEFT_PAREN"))
    inner = " ".join(word.lexeme for word in words[first : last + 1])
    with said(inner):
        terms = model_description(f"0 + {inner}").group_terms
    return Piece(tuple(term.name for term in terms), not doubled)


def _end(words: list[Any], at: int, step: int, kinds: tuple[str, str]) -> int:
    """Where the parentheses about a place end, on the side that a step goes to."""
    end, within = kinds
    depth = 0
    while depth or words[at].kind != end:
        depth += (words[at].kind == within) - (words[at].kind == end)
        at += step
    return at


@contextmanager
def said(text: str) -> Iterator[None]:
    """Within, what formulae says of a formula and its data is an error of ours."""
    from formulae.parser import ParseError
    from formulae.resolver import ResolverError
    from formulae.scanner import ScanError
    from formulae.terms.call_resolver import CallResolverError

    refusals = (ParseError, ResolverError, ScanError, CallResolverError, ValueError, TypeError)
    try:
        yield
    except KeyError as error:
        what = f"formula '{text}': there is no column or name {error}"
        raise DataError(located(what, hint="check how it is written")) from error
    except DataError:
        raise
    except refusals as error:
        raise DataError(located(f"formula '{text}': {error}")) from error
