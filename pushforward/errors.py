"""The errors that this library raises about programs and their data."""

from .ppl.errors import *  # noqa: F403
