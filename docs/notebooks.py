"""A hook of MkDocs: each notebook of the tutorials becomes a page, without Jupyter.

The notebooks are stored without outputs; their pictures are files that docs/make_figures.py writes.
"""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def to_markdown(notebook: Path) -> str:
    """The cells as a page, with a link to the notebook below the title."""
    parts: list[str] = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        if len(parts) == 1:
            parts.append(f"[Download this page as a notebook]({notebook.name})")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook; the notebook itself is copied as it is."""
    for notebook in sorted(Path(config.docs_dir, "tutorials").glob("*.ipynb")):
        page = f"tutorials/{notebook.stem}.md"
        files.append(File.generated(config, page, content=to_markdown(notebook)))
    return files
