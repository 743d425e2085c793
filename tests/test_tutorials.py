"""The notebooks of the tutorials run from top to bottom, without Jupyter."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_tutorial(file, tmp_path, monkeypatch):
    from crt.models import registry

    for table in ("_entrypoints", "_tags"):  # a tutorial registers a model
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "examples" / "photos")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(file.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            torch.manual_seed(0)
            exec(compile("".join(cell["source"]), f"{file.name}, cell {number}", "exec"), namespace)


@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_notebooks_are_stored_without_outputs_and_show_pictures_that_exist(file):
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        for link in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert (file.parent / link).exists(), link
