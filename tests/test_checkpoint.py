"""Checkpoints: the one before the last is kept, and nothing that a file says is believed without a look."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("accelerate", reason="needs the extra `train`")

from crt._files import lock_folder
from crt.train import make_recipe, train_cam, train_refine
from crt.train.checkpoint import _digest, load_checkpoint, previous_of, save_checkpoint
from crt.train.crops import batch_plan, mix_seed
from crt.train.recipe import CAMRecipe, RefineRecipe

from .test_train import QUICK, folder, photos_of, tiny_model  # noqa: F401 (fixtures)

SETTINGS = {"lr": 0.1, "area": (0.3, 1.0)}


def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.rand(8, 3)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def path(tmp_path):
    """Checkpoints of steps 1 and 2."""
    model, optimizer = network()
    for done in (1, 2):
        step(model, optimizer)
        save_checkpoint(tmp_path / "checkpoint.safetensors", model, optimizer, done, SETTINGS)
    return tmp_path / "checkpoint.safetensors"


def resumed(path, upto=4):
    model, optimizer = network()
    for _ in range(load_checkpoint(path, model, optimizer, SETTINGS, upto), upto):
        step(model, optimizer)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), truncated, flipped, pipe, os.unlink])
def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(path, damage, caplog):
    want = resumed(path)
    damage(path)
    assert torch.equal(resumed(path), want)
    assert [str(path) in message for message in caplog.messages] == [True] * (damage is not os.unlink)
    damage(previous_of(path))
    if damage is os.unlink:
        assert torch.equal(resumed(path), want)  # from the start
    else:
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged.*previous\.safetensors is damaged"):
            resumed(path)


def test_no_moment_without_a_checkpoint(path, monkeypatch):
    """A full disk leaves both files."""
    before = path.read_bytes()
    monkeypatch.setattr(
        "crt._files.save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match=f"{path} cannot be written: No space left on device"):
        save_checkpoint(path, *network(), 3, SETTINGS)
    assert path.read_bytes() == before
    assert load_file(previous_of(path)).keys() == load_file(path).keys()


def rewritten(path, tensors=None, **texts):
    """Writes a checkpoint whose digest is right, as an attacker would."""
    model, optimizer = network()
    step(model, optimizer)
    save_checkpoint(path, model, optimizer, 1, SETTINGS)
    previous_of(path).unlink()
    tensors = {**load_file(path), **(tensors or {})}
    texts = {"step": "1", "settings": json.dumps(SETTINGS), **texts}
    save_file(tensors, path, {**texts, "sha256": _digest(tensors, texts)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": "[" * 100_000},
        {"settings": "nonsense"},
        {"settings": "[1]"},
        {"settings": json.dumps({"x" * 10_000: "\x1b[31m" * 10_000})},
        {"settings": json.dumps({**SETTINGS, "lr": {"a": list(range(10_000))}})},
        {"step": "-1"},
        {"step": "1" * 5000},
        {"step": "9"},
        {"step": "x"},
        {"tensors": {"optimizer.0.exp_avg": torch.zeros(7)}},
        {"tensors": {"optimizer.99.exp_avg": torch.zeros(7)}},
        {"tensors": {"optimizer.x": torch.zeros(7)}},
        {"tensors": {"model.0.weight": torch.zeros(7)}},
        {"tensors": {"rng": torch.zeros(7)}},
    ],
)
def test_what_a_checkpoint_says_is_not_believed(path, wrong):
    rewritten(path, **wrong)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors") as caught:
        resumed(path)
    assert len(str(caught.value)) < 800 and "\x1b" not in str(caught.value)


def test_one_run_a_folder(folder):  # noqa: F811
    (folder / "run").mkdir()
    photos = photos_of(folder)
    with lock_folder(folder / "run"), pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0)
    assert not (folder / "run/log.jsonl").exists()


def test_an_interruption_says_what_is_saved(folder):  # noqa: F811
    photos = photos_of(folder)
    for stop, message in [
        (1, "before the first checkpoint"),
        (5, r"holds 4 of 12 steps, and the same command resumes"),
    ]:

        def watched(steps, first, total, status, stop=stop):
            for number, each in enumerate(steps, first):
                if number == stop:
                    raise KeyboardInterrupt
                yield each

        with pytest.raises(KeyboardInterrupt, match=message):
            train_cam(
                tiny_model(photos.class_names), photos, folder / "run", QUICK, workers=0, save_every=2, progress=watched
            )


def test_neighbouring_seeds_and_epochs_share_nothing():
    orders = [
        tuple(index for batch in batch_plan(40, 4, 3, seed)[10 * epoch : 10 * epoch + 10] for _, index in batch)
        for seed in range(5)
        for epoch in range(3)
    ]
    assert len(set(orders)) == len(orders)
    assert orders == [tuple(order) for order in orders] and sorted(orders[0]) == list(range(40))
    assert orders[0][:8] == (32, 23, 31, 21, 3, 11, 27, 33)  # the same on every machine and in every version
    assert len({mix_seed("crop", s, e, i) for s in range(9) for e in range(9) for i in range(99)}) == 9 * 9 * 99
    assert mix_seed("crop", 0, 1000, 0) != mix_seed("crop", 1, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["lr=" + "[" * 100_000], "lr: the value is nested too deeply"),
        (["lr=1" + "0" * 400], "lr must be a number"),
        (["lr=" + "1" * 10_000], "lr must be a number"),
        (["epochs=1e3"], "got 1000.0"),
        (["cnn=" + "x" * 5000], "cnn must be a name"),
        (["cnn=a\x1b[31m"], "cnn must be a name"),
        (["y" * 5000 + "=1"], "unknown setting"),
        (["lr"], "a change is NAME=VALUE, got 'lr'"),
        (["area=[[1],[2]]"], "area must be two values"),
        (["coupling=Infinity"], "got inf"),
        (["coupling=-NaN"], "coupling must be a number"),
        ({"single_label": 1}, "single_label must be true or false, got 1"),
        ({"lr": None, 7: 1}, "unknown setting '7'"),
    ],
)
def test_damaged_settings_are_named_shortly(changes, message):
    with pytest.raises(ValueError) as caught:
        make_recipe("paper", changes)
    assert message in str(caught.value) and len(str(caught.value)) < 500


def test_numbers_of_numpy_become_plain(folder):  # noqa: F811
    recipe = CAMRecipe(epochs=np.int64(2), lr=np.float32(0.5), area=[np.float64(0.5), 1], single_label=np.bool_(True))
    plain = (2, 0.5, (0.5, 1.0), True)
    assert (recipe.epochs, recipe.lr, recipe.area, recipe.single_label) == plain
    json.dumps(dataclasses.asdict(recipe))


def test_a_recipe_of_another_stage_is_refused(folder):  # noqa: F811
    photos = photos_of(folder)
    with pytest.raises(TypeError, match="takes a CAMRecipe, got RefineRecipe"):
        train_cam(tiny_model(photos.class_names), photos, folder / "run", RefineRecipe())
    with pytest.raises(TypeError, match="takes a RefineRecipe, got CAMRecipe"):
        train_refine(None, photos, folder / "run", CAMRecipe())
