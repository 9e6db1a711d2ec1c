"""Random choices of chains as tensors: of each from a stream that counts, or from a table."""

from __future__ import annotations

import torch
from torch import Tensor


class Choices:
    """The random choices of each chain, from a stream of its own.

    ``random`` [chains, 4] are the states of their generators, of which the first number is a key
    and the second counts.  Chains that are not ``awake`` choose nothing.
    """

    def __init__(self, random: Tensor) -> None:
        self.key, self.at, self._random = _mixed(random[:, 0]), random[:, 1], random
        self.awake = torch.ones_like(self.at, dtype=torch.bool)

    def normals(self, like: Tensor, asked: Tensor) -> Tensor:
        """Standard normals [chains, d], which count for the chains that ask."""
        d = like.shape[1]
        places = self.at[:, None] + torch.arange(d, device=self.at.device)
        self.at = self.at + d * (asked & self.awake)
        found: Tensor = torch.special.ndtri(_uniform(self.key[:, None], places))
        return found.to(like.dtype)

    def coin(self, probability: Tensor, asked: Tensor) -> Tensor:
        """Heads with these probabilities [chains], for the chains that ask."""
        return asked & self.awake & (self.share(asked) < probability)

    def share(self, asked: Tensor) -> Tensor:
        """Numbers within (0, 1), [chains], which count for the chains that ask."""
        found = self.uniform()
        self.at = self.at + (asked & self.awake)
        return found

    def uniform(self) -> Tensor:
        """The next number within (0, 1) of each chain."""
        return _uniform(self.key, self.at)

    @property
    def random(self) -> Tensor:
        """The states to go on from."""
        return self._random.index_copy(
            1, torch.tensor([1], device=self.at.device), self.at[:, None]
        )


class Given(Choices):
    """Those of a table [chains, n]: d normals, then uniform numbers for the step size and coins.

    A coin for which none is left shows tails.  ``asked`` are the probabilities of heads so far.
    """

    def __init__(self, choices: Tensor, random: Tensor, d: int) -> None:
        super().__init__(random)
        self.choices, self.d, self.at = choices, d, torch.full((len(choices),), d)
        self.asked: list[list[float]] = [[] for _ in choices]

    def normals(self, like: Tensor, asked: Tensor) -> Tensor:
        return self.choices[:, : self.d].to(like.dtype)

    def coin(self, probability: Tensor, asked: Tensor) -> Tensor:
        for chain in torch.nonzero(asked & self.awake).flatten().tolist():
            self.asked[chain].append(float(probability[chain]))
        return super().coin(probability, asked)

    def uniform(self) -> Tensor:
        last = self.choices.shape[1] - 1
        found = self.choices.gather(1, self.at.clamp(max=last)[:, None])[:, 0]
        return torch.where(self.at <= last, found, 1.0)


def _mixed(z: Tensor) -> Tensor:
    """The bits of whole numbers spread over all 64 (splitmix64; Steele, Lea and Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ _shifted(z, shift)) * (factor - 2**64)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    shifted: Tensor = (z >> by) & (2 ** (64 - by) - 1)
    return shifted


def _uniform(key: Tensor, at: Tensor) -> Tensor:
    """Numbers within (0, 1), of the place ``at`` in the stream of a key; none is 1."""
    bits = _shifted(_mixed(key + at * (0x9E3779B97F4A7C15 - 2**64)), 11)
    found: Tensor = ((bits.double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)
    return found
