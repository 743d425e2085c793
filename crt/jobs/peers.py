"""The processes of one launched job, on one machine or several: they take chunks of work as they get free, and end
together.

A launcher (torchrun, ``accelerate launch``, or Slurm with the same variables) sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT.  All talk to torch's key-value store there, and never wait for one another except in ``finish``: as long as
the others give signs of life, and no longer.
"""

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch.distributed as dist

__all__ = ["Peers"]

_BEAT = 2.0  # seconds between two signs of life
_RESUMES = "What was written is kept: the same command goes on from there."


class Peers:
    """This process and the others of its job, for one piece of shared work.

    Args:
        rank, world: this is process ``rank`` of ``world``.
        store: shared by all, or None for a process alone.
        patience: seconds without a sign of life after which a process, or the store, counts as dead.
    """

    _uses: ClassVar[Iterator[int]] = itertools.count()  # all processes share the same pieces of work, in this order

    def __init__(self, rank: int = 0, world: int = 1, store: dist.Store | None = None, patience: float = 45) -> None:
        self.rank, self.world, self.store, self.patience = rank, world, store, patience
        self._ended = threading.Event()
        if store is not None:
            threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def from_environment(cls, patience: float = 45) -> "Peers":
        """Those that a launcher started with this process; without a launcher it is alone.

        Every process of the job has to call this equally often.

        Raises:
            ConnectionError: the others cannot be reached.
        """
        rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        if world < 2 or "MASTER_ADDR" not in os.environ:
            return cls(rank, world, None, patience)
        launcher_has_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        try:
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                world,
                rank == 0 and not launcher_has_it,
                timedelta(seconds=max(300, patience)),
                wait_for_workers=False,
                multi_tenant=True,  # torch's process group keeps one at the same place
            )
        except RuntimeError as error:
            raise ConnectionError(f"the other processes of this job cannot be reached at {address}.") from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(rank, world, dist.PrefixStore(f"crt/{attempt}/{next(cls._uses)}", store), patience)

    def claim(self) -> int:
        """The number of the next chunk of work, from 0, which no other process gets.

        Raises:
            ConnectionError: the process that keeps the store has died.
        """
        if self.store is None:
            raise ValueError("a process without a store cannot claim work; share it by rank and world.")
        return self._add("chunk", 1) - 1

    def finish(self, counts: Sequence[int] = ()) -> list[int]:
        """Waits until all processes are done; the counts summed over them.

        Raises:
            TimeoutError: a process has died; the message says which.
            ConnectionError: the process that keeps the store has died.
        """
        if self.store is None:
            return list(counts)
        for i, count in enumerate(counts):
            self._add(f"count/{i}", count)
        self._add(f"done/{self.rank}", 1)
        self._wait_for("done")
        totals = [self._add(f"count/{i}", 0) for i in range(len(counts))]
        self._add(f"left/{self.rank}", 1)
        if self.rank == 0:  # it may be the one that keeps the store
            self._wait_for("left")
        self._ended.set()
        return totals

    def _wait_for(self, state: str) -> None:
        beats = dict.fromkeys(range(self.world), (-1, time.monotonic()))
        missing = set(beats)
        while missing := {rank for rank in missing if not self._add(f"{state}/{rank}", 0)}:
            for rank in missing:
                count, now = self._add(f"beat/{rank}", 0), time.monotonic()
                if count != beats[rank][0]:
                    beats[rank] = (count, now)
                elif now - beats[rank][1] > self.patience:
                    raise TimeoutError(
                        f"process {rank} of {self.world} has given no sign of life for {self.patience:g} seconds; it "
                        f"must have died. {_RESUMES}"
                    )
            time.sleep(0.2)

    def _add(self, key: str, value: int) -> int:
        """Adds to a number that all processes share; what it is then."""
        store = self.store
        if store is None:
            return value
        found: list[Any] = []

        def ask() -> None:
            try:
                found.append(store.add(key, value))
            except RuntimeError as error:
                found.append(error)

        # The connection to a machine that has vanished may stay open, and the answer never come.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(self.patience)
        if found and isinstance(found[0], int):
            return found[0]
        why = "has ended" if found else f"has not answered for {self.patience:g} seconds"
        raise ConnectionError(
            f"the process that the others of this job talk through (at MASTER_ADDR) {why}. {_RESUMES}"
        ) from (found[0] if found else None)

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            try:
                self._add(f"beat/{self.rank}", 1)
            except ConnectionError:
                return  # the store is gone: claim and finish will say so
