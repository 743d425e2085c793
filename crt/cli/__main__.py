"""``python -m crt.cli``, for launchers of several processes."""

from crt.cli import app

app()
