"""The spaces by which programs are annotated: ``Real``, ``Simplex``, ``P`` and the others."""

from .ppl.types.annotations import *  # noqa: F403
