"""XML with expat, which knows lines: no entities, no long texts, no deep nesting."""

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from crt._files import require_regular
from crt._messages import printable

__all__ = ["parse_xml"]

LONGEST, DEEPEST = 1000, 64


def parse_xml(
    file: Path,
    opened: Callable[[list[str], dict[str, str], int], None],
    closed: Callable[[list[str], str], None],
) -> None:
    """Calls ``opened(path of tags, attributes, line)`` and ``closed(path of tags, text)`` for each element.

    Texts of more than 1000 characters are cut after the first 1001, so that they can be told.

    Raises:
        OSError: no such file, or not a regular file.
        ValueError: not XML, entities, nesting deeper than 64, an unknown encoding, or what the functions raise; with
            file and line.
    """
    parser, path = expat.ParserCreate(), list[str]()
    texts: list[list[str]] = []
    lengths: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(path) >= DEEPEST:
            raise ValueError("elements nested too deeply")
        path.append(tag)
        texts.append([])
        lengths.append(0)
        opened(path, attributes, parser.CurrentLineNumber)

    def characters(text: str) -> None:
        if texts and lengths[-1] <= LONGEST:
            texts[-1].append(text)
            lengths[-1] += len(text)

    def end(_: str) -> None:
        lengths.pop()
        closed(path, "".join(texts.pop())[: LONGEST + 1].strip())
        path.pop()

    def entity(*_: object) -> None:
        raise ValueError("entities are not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = characters, entity
    shown = printable(file)
    with open(require_regular(file), "rb") as stream:
        try:
            parser.ParseFile(stream)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code]
            raise ValueError(f"{shown}, line {error.lineno}: not XML: {reason}.") from error
        except (ValueError, LookupError) as error:  # a LookupError: of an encoding
            text = str(error).rstrip(".")
            raise ValueError(f"{shown}, line {parser.CurrentLineNumber}: {text}.") from error
