"""Lists and tables of data sets as text in UTF-8, a mark of byte order or none; errors name the file and the line."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["name_of", "table_rows", "text_lines"]


def text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """("FILE, line N", line) of each line that is not empty.

    Raises:
        ValueError: bytes that are not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text in UTF-8 ({error.reason} at byte {error.start}).") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{file}, line {number}", line


def table_rows(table: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", cells by column) of each row of a CSV; surplus cells are under None.

    Args:
        table: the file.
        columns: those that it must have.

    Raises:
        ValueError: no CSV, bytes that are not UTF-8, or missing columns.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := set(columns) - set(reader.fieldnames or ()):
                wanted = ",".join(columns)
                raise ValueError(f"{table}, line 1: missing columns {', '.join(sorted(missing))}; expected {wanted}.")
            for row in reader:
                yield f"{table}, line {reader.line_num}", row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a CSV in UTF-8: {error}.") from error


def name_of(file: str) -> str:
    """A photo's path in its data set, without suffix; a mask is called so, and must not land elsewhere.

    Raises:
        ValueError: a path that leaves the data set.
    """
    path = Path(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file!r} leaves the folder of the photos; give a path below it.")
    return path.with_suffix("").as_posix()
