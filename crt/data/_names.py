"""Class names: their order, and signs that a reader is about to invent one."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from crt._messages import did_you_mean, printable

__all__ = ["NEGATIVES", "check_names", "clean_name", "natural", "split_cells", "unknown_class"]

LONGEST = 200
SEPARATORS = (";", "|", ",")
NEGATIVES = {"background", "negative", "negatives", "none"}  # folders of photos that show none of the classes
_NOT_NAMES = {*NEGATIVES, "nan", "null", "n/a", "unlabeled", "unlabelled", "and", "or", "with", "&", "+", "-", "/", ""}
_SUSPECT = re.compile(r"""[,;|\\/\[\]{}<>"=*]|^['`(]|['`]$""")
_PARTS = re.compile(r"[\s,;|/\\&+]+")
_DIGITS = re.compile(r"(\d+)")


def clean_name(text: str) -> str:
    """The name without spaces around it, in the usual (composed) form of its characters."""
    return unicodedata.normalize("NFC", text).strip()


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: 2, 9, 10 and class2, class10."""
    parts: list[str | int] = list(_DIGITS.split(name[:LONGEST]))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def unknown_class(name: str, known: Iterable[str]) -> str:
    """The error message for a name that is not among the classes."""
    known = list(known)
    hint = did_you_mean(name[:LONGEST], known)
    same = [other for other in known if other.casefold() == name.casefold()]
    hint = f" Did you mean {same[0]!r}?" if same else hint
    hint = hint or f" Classes: {printable(', '.join(known))}."
    return f"unknown class '{printable(name)}'.{hint}"


def check_names(names: Sequence[str], place: str, *, written: bool = False) -> None:
    """Refuses classes that look like an accident of reading, which nobody meant.

    Args:
        names: the classes as they were read.
        place: where, for the message.
        written: they were written by hand into cells, where separators are an accident; folders and tools' lists of
            classes may have them.

    Raises:
        ValueError: what was read, and what would be right.
    """
    known = set(names)
    folded: dict[str, str] = {}
    for name in names:
        shown = f"'{printable(name)}'"
        if len(name) > LONGEST or any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
            raise ValueError(f"{place}: the class {shown} is longer than {LONGEST} characters or has control ones.")
        if name.casefold() in _NOT_NAMES:
            raise ValueError(
                f"{place}: {shown} was read as a class; for a photo that shows none of the classes leave its labels "
                f"empty. {_WAY_OUT}"
            )
        if written and _SUSPECT.search(name):
            raise ValueError(
                f"{place}: {shown} was read as one class; separate labels by ';', as in cat;dog. {_WAY_OUT}"
            )
        if (same := folded.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"{place}: the classes '{printable(same)}' and {shown} differ in case alone. {_WAY_OUT}")
        parts = [part for part in _PARTS.split(name) if part]
        if len(parts) > 1 and known.issuperset(parts):
            raise ValueError(
                f"{place}: {shown} was read as a class beside {' and '.join(map(repr, parts))}; if it means these, "
                f"give the photo several labels, as in cat;dog. {_WAY_OUT}"
            )


_WAY_OUT = "If it is a class, say so by naming the classes (class_names, or --classes)."


def split_cells(cells: Sequence[tuple[str, str]], known: Sequence[str] | None = None) -> list[list[str]]:
    """The labels of each cell of a table, by one rule for all of them.

    A cell may be a JSON list.  Of ";", "|" and "," one may separate labels, the same in the whole table.  Where none
    of these occurs, spaces do, unless the words are those of a known class.

    Args:
        cells: (place, text).
        known: the classes, if they are known.

    Raises:
        ValueError: several separators, or a table of spaces alone in which words might be parts of names.
    """
    names = set(known or ())
    seen: dict[str, str] = {}
    for place, text in cells:
        if text and text not in names and not text.startswith(("[", "{")):
            for mark in SEPARATORS:
                if mark in text:
                    seen.setdefault(mark, f"{place}: '{printable(text)}'")
    if len(seen) > 1:
        first, second = list(seen.items())[:2]
        raise ValueError(f"{first[1]} separates labels by '{first[0]}', {second[1]} by '{second[0]}'; use one of them.")
    separator: str | None = next(iter(seen), None)
    if separator is None and not names:
        _check_spaces([(place, text) for place, text in cells if not text.startswith(("[", "{"))])
    return [_labels(place, text, separator, names) for place, text in cells]


def _labels(place: str, text: str, separator: str | None, names: set[str]) -> list[str]:
    if text in names:
        return [text]
    if text.startswith(("[", "{")):
        return _listed(place, text)
    if separator is not None:
        return [part for part in map(clean_name, text.split(separator)) if part]
    words, found = text.split(), []
    while words:
        lengths = range(len(words), 1, -1) if names else ()
        count = next((n for n in lengths if " ".join(words[:n]) in names), 1)
        found.append(clean_name(" ".join(words[:count])))
        words = words[count:]
    return found


def _listed(place: str, text: str) -> list[str]:
    """Labels of a cell that is a list, in JSON or as Python prints it; or Label Studio's {"choices": [...]}."""
    for candidate in (text, text.replace("'", '"')):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        value = value.get("choices") if isinstance(value, dict) else value
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return [name for name in map(clean_name, value) if name]
    raise ValueError(f"{place}: '{printable(text)}' is not a list of labels; separate labels by ';', as in cat;dog.")


def _check_spaces(cells: Sequence[tuple[str, str]]) -> None:
    """ValueError if names of several words were split at their spaces, as far as a table can tell.

    The signs, all of them rare among several labels a photo: two words that only occur one after the other ("polar
    bear"); a word in eight cells or more, all of them the same ("hot dog" beside "dog"); words that only share cells
    with one another, few cells that repeat, none of which has one word alone ("ripe fruit", "unripe fruit").
    """
    counts = Counter(tuple(text.split()) for _, text in cells if text)
    after: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}
    cells_of: dict[str, list[tuple[str, ...]]] = {}
    for words in counts:
        for left, right in zip(("", *words), (*words, ""), strict=True):
            after.setdefault(left, set()).add(right)
            before.setdefault(right, set()).add(left)
        for word in words:
            cells_of.setdefault(word, []).append(words)
    suspect = _groups(counts)
    for word, found in cells_of.items():
        (follows, *others), number = after[word], sum(counts[words] for words in found)
        if not others and follows and before[follows] == {word} and number > 1:
            suspect |= {word, follows}
        if len(found) == 1 and len(found[0]) > 1 and number >= 8:
            suspect.add(word)
    for place, text in cells:
        if not suspect.isdisjoint(text.split()):
            raise ValueError(
                f"{place}: '{printable(text)}' may be one class or several; separate labels by ';', as in cat;dog (in "
                "one row, if it is one class: the whole table is read by one rule), or name the classes (class_names, "
                "or --classes)."
            )


def _groups(counts: Mapping[tuple[str, ...], int]) -> set[str]:
    """Words that share cells only with one another: cells of two words or more, fewer than words, that repeat."""
    leader: dict[str, str] = {}

    def lead(word: str) -> str:
        while leader.setdefault(word, word) != word:
            leader[word] = word = leader[leader[word]]
        return word

    for words in counts:
        for word in words:
            leader[lead(word)] = lead(words[0])
    groups: dict[str, list[tuple[str, ...]]] = {}
    for words in counts:
        groups.setdefault(lead(words[0]), []).append(words)
    found: set[str] = set()
    for members in groups.values():
        together = {word for words in members for word in words}
        repeated = sum(counts[words] for words in members) >= 1.5 * len(members)
        if repeated and min(map(len, members)) > 1 and len(members) < len(together):
            found |= together
    return found
