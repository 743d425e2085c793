"""The plan of the house: who imports whom, and that `import crt` is light."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import crt

PACKAGE = Path(crt.__file__).parent

# The ground floor, on which every room stands.
GROUND = {"_files", "_messages", "images", "labels", "masks"}
TENSORS = {"torch", "einops", "numpy"}

# Each part of the package, and the parts and third-party packages that it may import: never upward, no circles.
ALLOWED = {
    "_messages": set(),
    "_files": {"_messages", "safetensors", "torch"},
    "images": {"_files", "_messages", "numpy", "PIL", "torch"},
    "labels": {"_messages", "numpy", "torch"},
    "masks": {"_files", "_messages", "images", "numpy", "PIL", "torch"},
    # Drawing knows no room above the ground, so a result can show itself.
    "_draw": {"PIL", "torch"},
    "viz": {"_draw", *GROUND, "numpy", "PIL", "torch"},
    # Floor 1: arithmetic on tensors.
    "cam": {*GROUND, *TENSORS, "viz", "PIL"},
    "cam.functional": {"images", *TENSORS},
    "cam.tiling": {"torch", "einops"},
    "cam.attention": {"torch", "einops"},
    "cam.paths": {"torch", "einops"},
    "losses": {"cam.functional", "cam.paths", *TENSORS},
    "metrics": {"cam.functional", *TENSORS, "torchmetrics"},
    # Floor 2: networks, and photos with their labels.
    "models": {
        *GROUND,
        *TENSORS,
        "cam",
        "losses",
        "timm",
        "segmentation_models_pytorch",
        "onnx",
        "onnxscript",
        "huggingface_hub",
        "safetensors",
        "PIL",
    },
    "data": {*GROUND, *TENSORS, "PIL"},
    # Floor 3: what a user does.
    "refine": {*GROUND, *TENSORS, "cam", "losses", "pydensecrf"},
    # The list of refiners stands above both rooms: a refiner's network is a model, and models know nothing of refine.
    "refine.registry": {*GROUND, "refine", "models", "torch"},
    "evaluate": {*GROUND, *TENSORS, "cam", "data", "metrics", "viz", "matplotlib", "PIL", "safetensors"},
    "train": {
        *GROUND,
        *TENSORS,
        "cam",
        "data",
        "jobs",
        "losses",
        "metrics",
        "models",
        "refine",
        "torchvision",
        "accelerate",
        "safetensors",
        "typing_extensions",
        "PIL",
    },
    # Jobs write masks, however they are made; pseudo masks and segmentation say how.
    "jobs": {"", *GROUND, *TENSORS, "data"},
    "pseudo": {*GROUND, *TENSORS, "cam", "data", "jobs"},
    "segmenting": {*GROUND, *TENSORS, "cam", "data", "jobs", "PIL"},
    "demo": {*GROUND, *TENSORS, "cam", "models", "refine", "viz", "PIL", "gradio"},
    # All stages in a row stand above the rooms of each.
    "pipeline": {
        "",
        *GROUND,
        *TENSORS,
        "cam",
        "data",
        "evaluate",
        "jobs",
        "models",
        "pseudo",
        "refine",
        "train",
        "viz",
        "PIL",
    },
    "cli": {
        "",
        "pipeline",
        *GROUND,
        *TENSORS,
        "cam",
        "data",
        "evaluate",
        "metrics",
        "models",
        "jobs",
        "pseudo",
        "refine",
        "segmenting",
        "train",
        "viz",
        "typer",
        "rich",
        "PIL",
        "matplotlib",
        "demo",
    },
    "": {"cam", "models", "pipeline", "refine"},
}


def part_of(module: str) -> str:
    """The longest entry of ALLOWED that names the module or its package."""
    names = module.split(".")
    return next(name for n in range(len(names), -1, -1) if (name := ".".join(names[:n])) in ALLOWED)


def may_import(own: str, used: str) -> bool:
    """Whether one part may import another: listed by its own name, or by that of a package around it."""
    return used in ALLOWED[own] or any(room and used.startswith(f"{room}.") for room in ALLOWED[own])


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))


@FILES
def test_imports_go_one_way(file):
    module = module_of(file)
    own = part_of(module)
    for name in imported(ast.parse(file.read_text())):
        top, _, rest = name.partition(".")
        if top in sys.stdlib_module_names:
            continue
        used = part_of(rest) if top == "crt" else top
        inside = used.split(".")[0] == own.split(".")[0] and "." not in own
        assert inside or may_import(own, used), f"{module} imports {name}"


@FILES
def test_private_modules_and_names_stay_in_their_room(file):
    """``crt.ROOM._x`` and ``crt.ROOM.x._y`` are for ROOM alone; ``crt._x`` is shared, ``crt.x._y`` is for ``crt.x``."""
    module = module_of(file)
    for name in imported(ast.parse(file.read_text())):
        top, *parts = name.split(".")
        if top == "crt" and any(part.startswith("_") and not part.startswith("__") for part in parts[1:]):
            assert module.split(".")[0] == parts[0], f"{module} imports {name}"


def test_no_room_needs_another_that_needs_it():
    """Rooms, by what their files import, have no circles."""
    needs: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        own = part_of(module_of(file))
        if own != "refine.registry":
            names = {name.partition(".")[2] for name in imported(ast.parse(file.read_text())) if name[:4] == "crt."}
            rooms = {part_of(name).split(".")[0] for name in names}
            needs.setdefault(own.split(".")[0], set()).update(rooms - {own.split(".")[0], ""})
    while done := [room for room in needs if not needs[room] & needs.keys()]:
        for room in done:
            del needs[room]
    assert not needs


@FILES
def test_files_and_functions_stay_small(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            assert node.end_lineno - first.lineno < 60, node.name


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light_and_touches_no_network():
    out = run(
        "import socket, sys\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = refuse\n"
        "import crt\n"
        "heavy = {'timm', 'huggingface_hub', 'typer', 'rich', 'torchvision', 'accelerate'} & set(sys.modules)\n"
        "print(sorted(heavy), crt.__version__)\n"
        "import timm\n"
        "brought = set(sys.modules)\n"  # timm's httpx may load rich
        "crt.CRT, crt.create_model, crt.CAMExtractor, crt.cam.tiling.merge\n"
        "print({'typer', 'rich', 'accelerate'} & set(sys.modules) - brought)\n"
    )
    assert out.splitlines() == [f"[] {crt.__version__}", "set()"]


def test_public_names_exist():
    for name in crt.__all__:
        assert getattr(crt, name) is not None
    assert set(crt.__all__) <= set(dir(crt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crt.nothing


ROOMS = ("", ".cam", ".data", ".evaluate", ".losses", ".metrics", ".models", ".pseudo", ".refine", ".train")


def test_public_names_are_few_and_documented():
    """What a user needs is in the rooms' ``__all__`` and in docs/api.md; the rest is found in its module."""
    rooms = {f"crt{room}": importlib.import_module(f"crt{room}").__all__ for room in ROOMS}
    names = {name for room in rooms.values() for name in room}
    assert len(names) <= 52
    shown = re.findall(r"^::: (crt[.\w]*)\.(\w+)$", (PACKAGE.parent / "docs/api.md").read_text(), re.MULTILINE)
    assert {name for room, name in shown if room in rooms} == names
    assert all(name in rooms[room] for room, name in shown if room in rooms)


BENCHMARKS = sorted((PACKAGE.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.name)
def test_benchmarks_stand_on_the_library_alone(file):
    """Not on the command line; every ``crt`` name that they import exists."""
    for name in imported(ast.parse(file.read_text())):
        top, *parts = name.split(".")
        if top == "crt":
            assert parts[:1] != ["cli"]
            module = importlib.import_module(name.rpartition(".")[0] if parts else "crt")
            assert not parts or hasattr(module, parts[-1]) or importlib.util.find_spec(name), name
