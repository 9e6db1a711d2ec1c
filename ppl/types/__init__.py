"""The types of programs: spaces, values, traces, and which guides fit which models."""

from .compatible import Direction, compatible
from .inclusion import included
from .patterns import Either, Kind, Pattern, Size, unify
from .spaces import Parameter, Space, space_of
from .traces import ProgramType, Site, TraceType
from .values import Function, ListOf, M, P, Product, Record, Sum, Value, space_of_value

__all__ = [
    "Direction",
    "Either",
    "Function",
    "Kind",
    "ListOf",
    "M",
    "P",
    "Parameter",
    "Pattern",
    "Product",
    "ProgramType",
    "Record",
    "Site",
    "Size",
    "Space",
    "Sum",
    "TraceType",
    "Value",
    "compatible",
    "included",
    "space_of",
    "space_of_value",
    "unify",
]
