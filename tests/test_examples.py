"""Every example runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARGUMENTS = {
    "quickstart.py": ["--out", "{tmp}/cat.png"],
    "readme_pictures.py": ["--refine", "pamr", "--out", "{tmp}/readme.png"],
    "share.py": ["--out", "{tmp}/my-model"],
    "train_own_photos.py": ["--out", "{tmp}/run", "--epochs", "1"],
}
EXAMPLES = sorted(file.name for file in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    arguments = [part.format(tmp=tmp_path) for part in ARGUMENTS.get(name, [])]
    subprocess.run([sys.executable, ROOT / "examples" / name, *arguments], check=True, cwd=tmp_path, timeout=300)
    for part in arguments:
        if part.startswith(str(tmp_path)):
            assert Path(part).exists()
