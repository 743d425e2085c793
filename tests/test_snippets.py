"""The README and the documentation say what works: Python blocks run, and command lines are understood.

A block after the comment ``<!-- not run -->`` needs a network or hours; its syntax is still checked.  The blocks of a
page share their names, as they do for a reader who runs them one after another.
"""

import ast
import contextlib
import csv
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from crt.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run -->\s+)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    """(whether it is run, text) of each block of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(not skip, text) for skip, name, text in found if name == language]


def pages_with(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with what the pages speak of: the example images, and a data set of ripe and unripe things."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "examples" / "photos")
    (tmp_path / "photos").mkdir()
    rows = [("file", "labels")]
    for number, labels in enumerate(("ripe", "unripe", "ripe;unripe", "")):
        shutil.copy(ROOT / "examples" / "photos" / "chelsea.jpg", tmp_path / "photos" / f"{number}.jpg")
        rows.append((f"{number}.jpg", labels))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pages_with("python")
def test_python_runs(page, desk):
    namespace: dict[str, object] = {}
    torch.manual_seed(0)
    for number, (run, text) in enumerate(blocks(page, "python")):
        code = compile(text, f"{page.name}, block {number}", "exec")
        if run:
            exec(code, namespace)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each ``crt ...`` line, comments and line breaks taken out."""
    found = []
    for _, text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\|?|;(?=\s)", line):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:  # a quote that spans the separators
                    continue
                if words and Path(words[0]).name == "crt":
                    found.append(words[1:])
    return found


def silence(command: Any) -> Any:
    """The command, doing nothing: its verbs parse their arguments and return."""
    for verb in getattr(command, "commands", {}).values():
        silence(verb)
    command.callback = None if hasattr(command, "commands") else lambda **_: None
    return command


def complaint(arguments: list[str]) -> str:
    """What the command line is refused with; "" if it is understood.  Nothing runs, and no file is looked for."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as end:
        silence(typer.main.get_command(app)).main(list(arguments), prog_name="crt")
    return "" if end.value.code in (0, None) else errors.getvalue() or f"exit code {end.value.code}"


@pages_with("bash")
def test_commands_are_understood(page):
    for arguments in commands(page):
        assert not (said := complaint(arguments)), f"crt {' '.join(arguments)}: {said}"


def test_commands_that_are_not_understood_are_found():
    for line in ("cam photo.jpg --out out --labls cat", "camm photo.jpg", "eval masks --truth t --root r", "cam a.jpg"):
        assert complaint(line.split()), line
    assert not complaint(["cam", "photo.jpg", "--labels", "cat", "--out", "out"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_valid(page):
    for _, text in blocks(page, "python"):
        ast.parse(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_exist(page):
    """``python benchmarks/x.py`` and the like name files of the repository."""
    for _, text in blocks(page, "bash"):
        for script in re.findall(r"python3? ((?:benchmarks|docs|examples)/\S+\.py)", text):
            assert (ROOT / script).exists(), script
