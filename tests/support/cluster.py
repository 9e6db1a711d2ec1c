"""A Dask cluster of two small workers on this machine, and what kills them at random."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster


@contextmanager
def two_workers(folder: str) -> Iterator[Client]:
    """A client of a cluster of two processes, one thread each, that keeps its files in a folder.

    A task may lose twenty workers, since they are killed more often here than a worker takes to
    begin.
    """
    about: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 20}),
        LocalCluster(**about, memory_limit=None, local_directory=folder) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def killing(client: Client, kills: int, seed: int) -> Iterator[list[str]]:
    """Within, so many workers are killed, each at a random time at which it has a task to do.

    The list tells of whom.  A worker that was killed is begun again by its nanny.
    """
    chance, killed, over = random.Random(seed), list[str](), threading.Event()

    def kill() -> None:
        while len(killed) < kills and not over.wait(chance.uniform(0.2, 0.6)):
            busy = sorted(name for name, tasks in client.processing().items() if tasks)
            nannies = {nanny.worker_address: nanny for nanny in client.cluster.workers.values()}
            if busy and (name := chance.choice(busy)) in nannies:
                os.kill(nannies[name].pid, signal.SIGKILL)
                killed.append(name)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
