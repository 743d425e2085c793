"""Lists and tables of data sets as text in UTF-8, with or without a BOM; errors name the file and the line."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crt._files import require_regular
from crt._messages import printable

__all__ = ["read_json", "read_text", "table_rows", "text_lines"]

DELIMITERS = (",", ";", "\t")


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        OSError: no such file, or not a regular file.
        ValueError: bytes that are not UTF-8.
    """
    data = require_regular(file).read_bytes()
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's "Unicode text"
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(file)}: not a text in UTF-8 ({error.reason} at byte {error.start}).") from error


def text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """("FILE, line N", line) of each line that is not empty."""
    shown = printable(file)
    for number, line in enumerate(re.split("\r\n|\r|\n", read_text(file)), 1):
        if line.strip():
            yield f"{shown}, line {number}", line


def table_rows(table: Path, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """("FILE, line N", cells without spaces around them) of each row that is not empty, the header first.

    Raises:
        ValueError: no CSV, or bytes that are not UTF-8.
    """
    text, shown = read_text(table), printable(table)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield f"{shown}, line {reader.line_num}", [cell.strip() for cell in row]
    except csv.Error as error:
        raise ValueError(
            f"{shown}, line {reader.line_num}: cannot be read as a CSV in UTF-8: {printable(error)} (in quotes, a "
            "quote is written twice)."
        ) from error


def read_json(table: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: no such file, or not a regular file.
        ValueError: not JSON, with the line.
    """
    text, shown = read_text(table), printable(table)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{shown}, line {error.lineno}: not JSON: {error.msg}.") from error
    except RecursionError as error:
        raise ValueError(f"{shown}: JSON nested too deeply.") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{shown}: not JSON that can be read: {printable(error)}.") from error
