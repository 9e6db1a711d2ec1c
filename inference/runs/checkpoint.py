"""The names of checkpoints, which stand in ``ppl.tasks``, for files that import them from here."""

from ...ppl.tasks.checkpoint import Checkpoint as Checkpoint
from ...ppl.tasks.checkpoint import Store as Store
from ...ppl.tasks.checkpoint import random_state as random_state
from ...ppl.tasks.checkpoint import restore_random_state as restore_random_state
from ...ppl.tasks.checkpoint import stream as stream
