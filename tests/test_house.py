"""The plan of the house: who imports whom, and that `import crt` is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import crt

PACKAGE = Path(crt.__file__).parent

# Each part of the package, and the parts and third-party packages that it may import.
ALLOWED = {
    "_files": {"_messages", "safetensors", "torch"},
    "_messages": set(),
    "data": {"_messages", "numpy", "PIL"},
    "_draw": {"PIL", "torch"},
    "viz": {"_draw", "data", "numpy", "PIL", "torch"},
    "cam.functional": {"torch", "einops"},
    "cam.tiling": {"torch", "einops"},
    "cam.attention": {"torch", "einops"},
    "cam": {"_files", "_messages", "viz", "torch", "einops", "PIL"},
    "losses": {"cam.functional", "torch"},
    "metrics": {"cam.functional", "torch", "torchmetrics"},
    "evaluate": {
        "_files",
        "_messages",
        "cam",
        "data",
        "metrics",
        "viz",
        "matplotlib",
        "numpy",
        "PIL",
        "safetensors",
        "torch",
    },
    "models": {
        "_files",
        "_messages",
        "cam",
        "losses",
        "torch",
        "einops",
        "timm",
        "huggingface_hub",
        "safetensors",
        "numpy",
        "PIL",
    },
    "refine": {
        "_messages",
        "cam.functional",
        "cam.tiling",
        "cam.attention",
        "torch",
        "einops",
        "numpy",
        "pydensecrf",
    },
    # The list of refiners stands above both rooms: a refiner's network is a model, and models know nothing of refine.
    "refine.registry": {"_messages", "refine", "models", "torch"},
    "pseudo": {"_files", "cam", "data", "torch", "PIL"},
    "train": {
        "_files",
        "_messages",
        "cam",
        "data",
        "losses",
        "models",
        "refine",
        "torch",
        "torchvision",
        "accelerate",
        "safetensors",
        "typing_extensions",
        "PIL",
    },
    "cli": {
        "",
        "_files",
        "cam",
        "data",
        "evaluate",
        "metrics",
        "models",
        "pseudo",
        "refine",
        "train",
        "viz",
        "torch",
        "typer",
        "rich",
        "PIL",
        "matplotlib",
    },
    "": {"cam", "models", "refine"},
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


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    own = part_of(module)
    for name in imported(ast.parse(file.read_text())):
        top, _, rest = name.partition(".")
        if top in sys.stdlib_module_names:
            continue
        used = part_of(rest) if top == "crt" else top
        inside = used.split(".")[0] == own.split(".")[0] and "." not in own
        assert inside or may_import(own, used), f"{module} imports {name}"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 320
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
        "crt.CRT, crt.create_model, crt.CAMExtractor, crt.cam.merge\n"
        "print({'typer', 'rich', 'accelerate'} & set(sys.modules))\n"
    )
    assert out.splitlines() == [f"[] {crt.__version__}", "set()"]


def test_public_names_exist():
    for name in crt.__all__:
        assert getattr(crt, name) is not None
    assert set(crt.__all__) <= set(dir(crt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crt.nothing
