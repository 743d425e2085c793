"""Parts of error messages that several rooms need."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "placed"]


def did_you_mean(name: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str:
    """A sentence, " Did you mean 'a' or 'b'?" with the ``n`` nearest known names, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def placed(error: TypeError | ValueError | OSError, place: str) -> Exception:
    """The same kind of error, saying where it happened."""
    kind = next(kind for kind in (FileNotFoundError, TypeError, ValueError, OSError) if isinstance(error, kind))
    return kind(f"{place}: {error}")
