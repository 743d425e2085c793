"""Parts of error messages that several rooms need."""

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = ["did_you_mean", "placed", "printable"]


def printable(text: object, limit: int = 200) -> str:
    r"""The text on one line, safe for a terminal: control, escape and direction characters made visible.

    Args:
        text: usually a file name or a label that somebody else wrote; taken as ``str(text)``.
        limit: longest result in characters; the middle of a longer one is left out.

    >>> printable("a\x1b[31m.png")
    'a\\x1b[31m.png'
    >>> printable("x" * 300, limit=11)
    'xxxx...xxxx'
    """
    whole = str(text)
    if len(whole) > 2 * limit:  # before the work of escaping: names of megabytes occur
        whole = f"{whole[:limit]}...{whole[-limit:]}"
    shown = "".join(c if _shown(c) else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in whole)
    if len(shown) <= limit:
        return shown
    half = max(limit - 3, 2) // 2
    return f"{shown[:half]}...{shown[-half:]}"


def _shown(character: str) -> bool:
    """Whether a terminal shows a character as it is: no controls, surrogates, line separators or direction marks."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def did_you_mean(name: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str:
    """A sentence, " Did you mean 'a' or 'b'?" with the ``n`` nearest known names, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def placed(error: TypeError | ValueError | OSError, place: str) -> Exception:
    """The same kind of error, saying where it happened."""
    kind = next(kind for kind in (FileNotFoundError, TypeError, ValueError, OSError) if isinstance(error, kind))
    return kind(f"{place}: {error}")
