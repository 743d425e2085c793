"""What a run has done so far: a file ``run.json``, written whole after each change."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crt import __version__
from crt._files import require_regular, whole_file
from crt._messages import printable
from crt.jobs.fingerprint import differences
from crt.train.loop import Progress

__all__ = ["Journal"]

FORMAT = 1
TICK = 5.0  # seconds between writes of the time that a stage has taken


class Journal:
    """The stages of a run: settings, seconds, whether each is finished, and facts for the report.

    Args:
        folder: of the run.

    Raises:
        ValueError: ``run.json`` is not one of ours.
        OSError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.json"
        self.stages: dict[str, dict[str, Any]] = {}
        self.name, self.since = "", 0.0
        if self.path.exists():
            try:
                found = json.loads(require_regular(self.path).read_text(encoding="utf-8"))
                stages = found["stages"]
                if found["format"] != FORMAT or not all(
                    isinstance(stage["settings"], dict) for stage in stages.values()
                ):
                    raise ValueError("another format")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ValueError(
                    f"{printable(self.path)} is not the journal of a run ({printable(error)}); choose another folder."
                ) from error
            self.stages = stages

    def finished(self, name: str) -> bool:
        """Whether a stage is done."""
        return bool(self.stages.get(name, {}).get("finished"))

    def facts(self, name: str) -> dict[str, Any]:
        """What a stage has noted; changes are written with the next ``save``."""
        facts: dict[str, Any] = self.stages[name].setdefault("facts", {})
        return facts

    def seconds(self, name: str) -> float:
        """How long a stage has taken, over all attempts."""
        return float(self.stages.get(name, {}).get("seconds", 0.0))

    def save(self) -> None:
        """Writes the file.

        Raises:
            OSError: it cannot be written.
        """
        with whole_file(self.path) as temporary:
            text = json.dumps({"format": FORMAT, "crt": __version__, "stages": self.stages}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")

    @contextmanager
    def stage(self, name: str, settings: dict[str, Any]) -> Iterator[bool]:
        """Opens a stage, and marks it finished if the block ends well; yields whether there is work to do.

        Raises:
            ValueError: the folder holds this stage with other settings.
        """
        settings = json.loads(json.dumps(settings))
        known = self.stages.get(name)
        if known is not None and known["settings"] != settings:
            listed = "; ".join(differences(known["settings"], settings)[:4])
            raise ValueError(
                f"{printable(self.path.parent)} holds a run whose stage {name!r} had other settings "
                f"({printable(listed)}): choose another --out, or remove that folder."
            )
        if self.finished(name):
            yield False
            return
        self.stages.setdefault(name, {"settings": settings, "seconds": 0.0, "finished": False})
        self.name, self.since = name, time.monotonic()
        self.save()
        try:
            yield True
            self.stages[name]["finished"] = True
        finally:
            self._count()
            self.name = ""
            self.save()

    def watch(self, progress: Progress) -> Progress:
        """A progress that also writes down the time, for a process that is killed."""

        def watched(items: Iterable[Any], first: int, total: int, status: Callable[[], str]) -> Iterator[Any]:
            for item in progress(items, first, total, status):
                yield item
                if self.name and time.monotonic() - self.since > TICK:
                    self._count()
                    self.save()

        return watched

    def _count(self) -> None:
        now = time.monotonic()
        self.stages[self.name]["seconds"] = round(self.stages[self.name]["seconds"] + now - self.since, 2)
        self.since = now
