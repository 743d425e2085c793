"""Two machines on one: `crt pseudo` as two nodes of two processes each, joined over the loopback address."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crt.models import CRT

from .conftest import TINY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
COUNT = 12


@pytest.fixture
def command(tmp_path):
    """The command after the launcher, on photos of noise."""
    CRT("vit_tiny_patch16_224", num_classes=2, class_names=["a", "b"], **TINY).save_pretrained(tmp_path / "model")
    random, rows = np.random.default_rng(0), ["file,labels"]
    (tmp_path / "photos").mkdir()
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    options = {"images": "photos", "labels": "labels.csv", "out": "out", "model": f"local-dir:{tmp_path / 'model'}"}
    places = {key: value if key == "model" else str(tmp_path / value) for key, value in options.items()}
    return ["-m", "crt.cli", "pseudo", *(part for k, v in places.items() for part in (f"--{k}", v)), "--refine", "none"]


def start(command, node, port, tmp_path):
    """One node, its output in a file."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)]
    where = ["--master-addr", "127.0.0.1", "--master-port", str(port), "--nproc-per-node", "2"]
    with (tmp_path / f"node{node}.log").open("w") as log:
        return subprocess.Popen(
            [*launch, *where, *command],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def nodes(command, tmp_path):
    """Both nodes, ended whatever happens."""
    port = free_port()
    started = [start(command, node, port, tmp_path) for node in (0, 1)]
    yield started
    for node in started:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def log_of(tmp_path):
    return "\n".join((tmp_path / f"node{node}.log").read_text() for node in (0, 1))


def test_two_nodes_share_one_job(nodes, tmp_path):
    codes = [node.wait(timeout=240) for node in nodes]
    assert codes == [0, 0], log_of(tmp_path)
    assert f"{COUNT} masks written, 0 already there, 0 failed" in log_of(tmp_path)
    assert len(list((tmp_path / "out").glob("*.png"))) == COUNT
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert len(lines) == COUNT


@pytest.mark.skipif("CRT_SLOW" not in os.environ, reason="takes a minute: CRT_SLOW=1")
def test_a_node_that_dies_ends_the_job_and_the_same_command_resumes(nodes, command, tmp_path):
    workers = []
    until = time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < until:
        path = f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children"
        workers = [int(pid) for pid in Path(path).read_text().split()]
        time.sleep(0.1)
    os.kill(workers[0], signal.SIGKILL)
    killed = time.time()
    codes = [node.wait(timeout=300) for node in nodes]
    last = max([killed, *(mask.stat().st_mtime for mask in (tmp_path / "out").glob("*.png"))])
    assert any(codes) and time.time() - last < 75, log_of(tmp_path)
    text = log_of(tmp_path)
    assert "SIGKILL" in text or "no sign of life" in text or "has ended" in text
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == COUNT
