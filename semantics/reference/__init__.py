"""The reference semantics: what a term of the calculus means, written to be obviously right.

Nothing here knows how programs are run: the only thing that it shares with the language is the
syntax of the calculus.
"""

from .denote import denote, value
from .measure import Finite
from .spaces import space
from .tree import Omega, integrate, random_element

__all__ = ["Finite", "Omega", "denote", "integrate", "random_element", "space", "value"]
