"""The estimator: training of both stages, normals of images, and one answer for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...ppl import Program, program
from .normals import checked
from .sampler import estimate
from .schedule import heuristic_steps
from .stages import YOSO, SGRefiner, descend


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state from a seed, within."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class StableNormal:
    """Surface normals of images: a repeatable guess, refined by a diffusion that varies little.

    Args:
        yoso, refiner: the two stages.
        n_steps: calls of the refiner.
        quirk: the public code's level at step n_steps // 2 (see :func:`heuristic_steps`).
        renoise: fresh noise in the first half of the steps.

    Errors:
        ValueError: n_steps is not from 4 to T, or the guess is made at no time of the schedule.
    """

    def __init__(
        self,
        yoso: YOSO,
        refiner: SGRefiner,
        n_steps: int = 10,
        quirk: bool = False,
        renoise: bool = True,
    ) -> None:
        self.yoso, self.refiner = yoso, refiner
        self.steps = heuristic_steps(refiner.schedule, n_steps, quirk, renoise)
        if yoso.t_start >= refiner.schedule.T:
            raise ValueError(f"t_start is {yoso.t_start}, and T is {refiner.schedule.T}")
        self._trained: tuple[torch.Size, bool] | None = None  # of an image; with semantics?
        self.losses: dict[str, list[float]] = {}

    def fit(
        self,
        images: Tensor,
        normals: Tensor,
        semantics: Tensor | None = None,
        n_iter: int = 500,
        batch: int = 32,
        lr: float = 2e-3,
        seed: int = 0,
    ) -> StableNormal:
        """Train both stages, each on its own.

        Args:
            images: [B, C, H, W].
            normals: [B, 3, H, W], of unit length.
            semantics: descriptors [B, K, h, w], unless the refiner has a function for them.

        Errors:
            ValueError: a shape is wrong, or there are NaN, or normals of no length.
            UserWarning: normals are not of unit length; they are normalised.
        """
        self._trained = None
        images = self._images(images)
        if normals.shape != (len(images), 3, *images.shape[2:]):
            raise ValueError(f"normals are [B, 3, H, W], not {list(normals.shape)}")
        normals = checked(normals)
        with torch.no_grad():
            known = self._semantics(images, semantics)

        def refiner_loss(rows: Tensor) -> Tensor:
            given = None if known is None else known[rows]
            return self.refiner.loss(images[rows], normals[rows], given)

        losses: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
            "yoso": (self.yoso, lambda rows: self.yoso.loss(images[rows], normals[rows])),
            "refiner": (self.refiner, refiner_loss),
        }
        with seeded(seed, images.device):
            for name, (stage, loss) in losses.items():
                self.losses[name] = descend(stage, loss, len(images), n_iter, batch, lr)
        self._trained = images.shape[1:], known is not None
        return self

    @property
    def normals(self) -> Program:
        """The estimate as a program: of images, descriptors or None, and noise or None.

        Its latents are the noise of the guess [B, 3, H, W], unless that is given, and the states
        after steps with noise; its result is [B, 3, H, W].  It raises the errors of
        :meth:`predict`.
        """

        @program
        def normals(
            images: Tensor, semantics: Tensor | None = None, noise: Tensor | None = None
        ) -> Tensor:
            known = self._semantics(self._images(images), semantics)

            def guess(e: Tensor) -> Tensor:
                return self.yoso(images, e)  # type: ignore[no-any-return]

            def denoise(x: Tensor, t: Tensor) -> Tensor:
                return self.refiner(x, t, images, known)  # type: ignore[no-any-return]

            like = images.new_empty(len(images), 3, *images.shape[2:])
            found: Tensor = estimate(guess, denoise, self.steps, noise)(like)
            return found

        return normals

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        semantics: Tensor | None = None,
    ) -> Tensor:
        """Unit normals [B, 3, H, W] of images [B, C, H, W].

        Args:
            generator: of all randomness; torch's own unless given.

        Errors:
            ValueError: images are not [B, C, H, W] as in training, or not finite, or
                descriptors are missing that the refiner was trained with.
        """
        device = None if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with seeded(seed, images.device):
            found: Tensor = self.normals(images, semantics)
        return found

    @torch.no_grad()
    def predict_many(
        self, images: Tensor, seeds: list[int], semantics: Tensor | None = None
    ) -> Tensor:
        """Unit normals [seeds, B, 3, H, W]: each as :meth:`predict` by a generator of that seed.

        Errors:
            ValueError: as those of :meth:`predict`, or there is no seed.
        """
        if not seeds:
            raise ValueError("there is no seed")
        return torch.stack(
            [self.predict(images, torch.Generator().manual_seed(s), semantics) for s in seeds]
        )

    def _images(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images are [B, C, H, W], and these have shape {list(images.shape)}")
        if missing := int((~images.isfinite()).sum()):
            raise ValueError(f"{missing} of the pixels are not finite")
        if self._trained is not None:
            size = self._trained[0]
            nets = self.yoso.net, self.refiner.net
            bound = any(getattr(net, "size_bound", False) for net in nets)
            if images.shape[1] != size[0] or (bound and images.shape[1:] != size):
                what = f"training was on images {list(size)}"
                raise ValueError(f"{what}, and these are {list(images.shape[1:])}")
        return images

    def _semantics(self, images: Tensor, semantics: Tensor | None) -> Tensor | None:
        known = self.refiner.descriptors(images, semantics)
        if known is None:
            if self._trained is not None and self._trained[1]:
                raise ValueError("the refiner was trained with semantics: give them")
        elif known.ndim != 4 or len(known) != len(images):
            raise ValueError(f"semantics are [B, K, h, w], not {list(known.shape)}")
        elif missing := int((~known.isfinite()).sum()):
            raise ValueError(f"{missing} of the semantics are not finite")
        elif self._trained is not None and not self._trained[1]:
            raise ValueError("the refiner was trained without semantics")
        return known
