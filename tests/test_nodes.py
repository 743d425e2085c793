"""Two machines on one: jobs and training as two nodes of two processes each, joined over the loopback address."""

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
import torch
from PIL import Image
from safetensors.torch import load_file

from crt.models import CRT

from .conftest import TINY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
COUNT = 64
END = 600  # seconds for a launch on a busy machine
STAGES = """
from crt.cli import app

def run(*arguments):
    try:
        app([*arguments])
    except SystemExit as end:
        if end.code:
            raise

data = ["--images", "photos", "--labels", "labels.csv"]
short = [part for change in ("epochs=1", "crop=64", "batch_size=16") for part in ("--set", change)]
run("pseudo", *data, "--model", "local-dir:model", "--refine", "none", "--out", "masks")
run("segment", "photos", "--model", "local-dir:model", "--out", "segmented")
run("train", "cam", *data, "--start", "model", "--freeze-backbone", "--out", "frozen")
run("train", "cam", *data, "--start", "model", "--set", "cnn=null", *short, "--out", "cam")
run("train", "segment", *data, "--masks", "masks", "--start", "model", *short, "--out", "net")
run("train", "refine", *data, "--masks", "masks", "--no-pretrained", *short, "--out", "boundary")
"""


@pytest.fixture
def place(tmp_path):
    """A folder with photos of noise, their labels and a model."""
    CRT("vit_tiny_patch16_224", num_classes=2, class_names=["a", "b"], **TINY).save_pretrained(tmp_path / "model")
    random, rows = np.random.default_rng(0), ["file,labels"]
    (tmp_path / "photos").mkdir()
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


class Nodes:
    """Two launchers of two processes each, and all that they started."""

    def __init__(self, place, *command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.place, self.logs = place, [place / f"node{node}.log" for node in (0, 1)]
        where = ["--master-addr", "127.0.0.1", "--master-port", str(port), "--nproc-per-node", "2"]
        self.agents = []
        for node, file in enumerate(self.logs):
            launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), *where]
            with file.open("w") as log:
                started = subprocess.Popen([*launch, *command], stdout=log, stderr=log, cwd=place, env=environment())
            self.agents.append(started)

    def workers(self, node):
        path = f"/proc/{self.agents[node].pid}/task/{self.agents[node].pid}/children"
        return [int(pid) for pid in Path(path).read_text().split()] if self.agents[node].poll() is None else []

    def kill(self, node):
        """As if the power had gone."""
        workers = self.workers(node)
        self.agents[node].kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    def wait(self, timeout=END):
        return [agent.wait(timeout) for agent in self.agents]

    def log(self):
        return "\n".join(file.read_text() for file in self.logs)


def environment():
    root = str(Path(__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}


@pytest.fixture
def launch(place):
    """Starts nodes, which end with the test whatever happens."""
    started = []

    def start(*command):
        started.append(Nodes(place, *command))
        return started[-1]

    yield start
    for nodes in started:
        for node in (0, 1):
            if nodes.agents[node].poll() is None:
                nodes.kill(node)
                nodes.agents[node].wait()


def alone(place, *command):
    """The same in a single process."""
    done = subprocess.run([sys.executable, *command], cwd=place, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pseudo(out):
    data = ["--images", "photos", "--labels", "labels.csv", "--out", out]
    return ["-m", "crt.cli", "pseudo", *data, "--model", "local-dir:model", "--refine", "none", "--scales", "1,2,4"]


def until(condition, nodes):
    end = time.monotonic() + END
    while not condition() and any(agent.poll() is None for agent in nodes.agents):
        assert time.monotonic() < end, nodes.log()
        time.sleep(0.01)


def masks_in(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


def test_every_stage_runs_on_two_nodes(place, launch):
    (place / "stages.py").write_text(STAGES)
    nodes = launch("stages.py")
    assert nodes.wait() == [0, 0], nodes.log()
    assert nodes.log().count(f"{COUNT} masks written, 0 already there, 0 failed") == 2
    names = [json.loads(line)["file"] for line in (place / "masks/manifest.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted(map(str, range(COUNT)))
    assert len(list((place / "segmented").glob("*.mask.png"))) == COUNT
    for run in ("frozen", "cam", "net", "boundary"):
        assert all(value.isfinite().all() for value in load_file(place / run / "model/model.safetensors").values())
    command = ["--images", "photos", "--labels", "labels.csv", "--start", "model", "--freeze-backbone", "--out", "one"]
    alone(place, "-m", "crt.cli", "train", "cam", *command)
    together, one = (load_file(place / run / "model/model.safetensors") for run in ("frozen", "one"))
    assert all(torch.equal(together[name], value) for name, value in one.items())


slow = pytest.mark.skipif("CRT_SLOW" not in os.environ, reason="takes a minute: CRT_SLOW=1")


@pytest.mark.parametrize("node", [0, pytest.param(1, marks=slow)])
def test_a_node_that_dies_ends_the_job_and_the_same_command_resumes(place, launch, node):
    nodes = launch(*pseudo("masks"))
    until(lambda: len(masks_in(place / "masks")) > 3, nodes)
    killed = nodes.kill(node)
    code = nodes.agents[1 - node].wait(END)
    assert code and time.monotonic() - killed < 100, nodes.log()
    assert ("no sign of life" if node else "has ended") in nodes.log()
    assert "the same command goes on from there" in nodes.log()
    assert len(masks_in(place / "masks")) > 3  # and all, if the dead node had claimed none
    nodes = launch(*pseudo("masks"))
    assert nodes.wait() == [0, 0], nodes.log()
    lines = [json.loads(line)["file"] for line in (place / "masks/manifest.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(map(str, range(COUNT)))
    alone(place, *pseudo("one"))
    assert masks_in(place / "masks") == masks_in(place / "one")


def test_training_ends_when_a_node_dies_and_resumes(place, launch):
    changes = [f"--set={change}" for change in ("cnn=null", "epochs=40", "crop=64", "batch_size=16")]
    data = ["--images", "photos", "--labels", "labels.csv", "--start", "model", "--out", "run"]
    command = ["-m", "--", "crt.cli", "--verbose", "train", "cam", *data, *changes, "--save-every", "4"]
    nodes = launch(*command)
    until((place / "run/checkpoint.previous.safetensors").exists, nodes)
    killed = nodes.kill(1)
    assert nodes.agents[0].wait(END) and time.monotonic() - killed < 100, nodes.log()
    assert "another process of this run has ended" in nodes.log()
    nodes = launch(*command)
    assert nodes.wait() == [0, 0], nodes.log()
    assert "resumes at step" in nodes.log() and (place / "run/model/model.safetensors").exists()
