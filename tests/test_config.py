"""Configurations and weights that a stranger hands in: nothing in them runs code, takes memory or is believed."""

import json
import os
import pickle
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import crt
from crt.models import CRT, BoundaryNet
from crt.models.cnn import CNNBranch
from crt.models.config import ARCHITECTURE, SETTINGS, check_config

from .conftest import TINY


class Marker:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refusal(call, *arguments, error=ValueError, seconds=5.0):
    """The message of a refusal, which is short, on one line, printable and given at once."""
    started = time.process_time()
    with pytest.raises(error) as caught:
        call(*arguments)
    message = str(caught.value)
    assert time.process_time() - started < seconds
    assert len(message) < 800 and "\n" not in message and "\x1b" not in message
    return message


@pytest.mark.parametrize(
    "key", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained"]
)
def test_no_configuration_makes_timm_open_a_file(folder, tmp_path, key):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    value = {"file": str(tmp_path / "evil.pth")} if key.startswith("pretrained_cfg") else str(tmp_path / "evil.pth")
    change(folder, backbone_args={**TINY["backbone_args"], key: value})
    message = refusal(CRT.from_pretrained, folder)
    assert key in message and "embed_dim" in message and "config.json" in message
    with pytest.raises(ValueError, match=key):
        CRT(backbone_args={key: value})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_passes": 10**9},
        {"num_passes": 10**400},
        {"tile": 16000, "stride": 16000},
        {"tile": 4096},
        {"backbone": 7},
        {"backbone": ["a"]},
        {"backbone": "x" * 10**6},
        {"backbone": "hf-hub:acme/evil"},
        {"backbone": "vit_tiny_patch16_224.\x1b[31m"},
        {"backbone": "vit_giant_patch14_dinov2", "tile": 56, "stride": 28, "backbone_args": {}},
        {"num_classes": 10**8, "class_names": None},
        {"num_classes": 100_000, "class_names": None, "backbone_args": {"embed_dim": 4096, "num_heads": 1, "depth": 1}},
        {"class_names": [str(i) * 200 for i in range(1000)]},
        {"class_names": ["a\x1b[31m", "b", "c", "d", "e"]},
        {"class_names": {"0": "a", "2": "b"}},
        {"mean": [float("nan")] * 3},
        {"std": [0.0, 0.5, 0.5]},
        {"std": [float("inf")] * 3},
        *({"backbone_args": {"depth": depth}} for depth in (200_000, 0, -1, 2.5, True, None, "2", [2])),
        *({"backbone_args": {key: 0}} for key in ("num_heads", "patch_size", "embed_dim", "mlp_ratio", "init_values")),
        *({"backbone_args": {key: "x"}} for key in ("norm_layer", "act_layer", "attn_layer", "block_fn", "mlp_layer")),
        *({"backbone_args": {"global_pool": pool}} for pool in ("avg", "map", "", "token")),
        {"backbone_args": {"dynamic_img_size": True}},
        {"backbone_args": {"class_token": False}},
        {"backbone_args": {"embed_dim": 30, "num_heads": 4}},
        {"backbone_args": {"embed_dim": 4096, "depth": 128, "num_heads": 64}},
        {"backbone_args": {"img_size": 10**6}},
        {"backbone_args": {"depth": {"depth": {"depth": [1] * 10**5}}}},
        {"backbone_args": [1]},
        {"backbone_args": "depth"},
        {"a" * 10**6: 1},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_damaging_configurations_are_refused_at_once(folder, changes):
    change(folder, **changes)
    refusal(CRT.from_pretrained, folder)


BAD = [None, True, "x", "", -1, 0.5, 10**12, float("inf"), [], [1], {}, {"a": 1}, [[1, 2, 3]], "\x1b[31m" * 999]


@pytest.mark.parametrize("what", SETTINGS)
def test_every_setting_refuses_what_it_cannot_be(what):
    """None of the damaged values is taken where it does not belong, and nothing but a ValueError is raised."""
    for key, setting in SETTINGS[what].items():
        taken, messages = [], []
        for value in BAD:
            try:
                taken.append(check_config({key: value}, what)[key])
            except ValueError as error:
                messages.append(str(error))
        assert all(len(text) < 500 and key in text and "\x1b" not in text for text in messages)
        kinds = {"text": str, "number": float, "integer": int, "names": list, "architecture": dict, "bool": bool}
        kind = kinds.get(setting.kind, list)
        assert all((value is None and setting.optional) or type(value) is kind for value in taken), (key, taken)
    with pytest.raises(ValueError, match=r"no setting numclasses.*Did you mean 'num_classes'|no setting numclasses"):
        check_config({"numclasses": 1}, what)


def test_every_architecture_argument_is_taken_by_timm(tiny):
    values = {"mlp_ratio": 2.0, "init_values": 0.1, "patch_size": 8, "reg_tokens": 2, **TINY["backbone_args"]}
    flags = {key: True for key, setting in ARCHITECTURE.items() if setting.kind == "bool"}
    model = CRT("vit_tiny_patch16_224", num_classes=2, tile=64, stride=32, backbone_args={**flags, **values}).eval()
    assert set(flags) | set(values) == set(ARCHITECTURE)
    assert model.cam(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8), [[1]]).shape == (1, 2, 40, 50)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" * 10**6, "nested too deeply"),
        ('{"a":' * 10**5, "nested too deeply"),
        ("9" * 5000, "JSON"),
        ("\x00\x1b[31m", "not valid JSON"),
        (" " * 5_000_000, "larger than"),
        ("null", "JSON object"),
    ],
    ids=["list", "object", "digits", "binary", "large", "null"],
)
def test_files_that_are_not_a_configuration(folder, text, part):
    (folder / "config.json").write_text(text)
    assert part in refusal(CRT.from_pretrained, folder)


def test_not_utf_8(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not valid JSON" in refusal(CRT.from_pretrained, folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert "not a regular file" in refusal(CRT.from_pretrained, folder, error=OSError)
    if file != "config.json":
        with pytest.raises(OSError, match="not a regular file"):
            crt.create_model("crt_vit_t16", checkpoint_path=folder / file)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, bad):
    state = load_file(folder / "model.safetensors")
    state["backbone.norm.bias"][3] = bad
    save_file(state, folder / "model.safetensors")
    assert "backbone.norm.bias has NaN or infinite" in refusal(CRT.from_pretrained, folder)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn, torch.complex64], ids=str
)
def test_weights_of_other_types_are_refused(folder, dtype):
    state = load_file(folder / "model.safetensors")
    state["head.bias"] = torch.ones(5).to(dtype)
    save_file(state, folder / "model.safetensors")
    assert "head.bias" in refusal(CRT.from_pretrained, folder)


def test_a_weights_file_that_claims_too_much_is_not_read(folder):
    count = 4 * 10**9
    header = json.dumps({"x": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)  # sparse
    assert "at most" in refusal(CRT.from_pretrained, folder)


def test_messages_about_weights_stay_short(folder):
    save_file(
        {f"backbone.blocks.{i}.\x1b[31m{'x' * 300}": torch.zeros(1) for i in range(999)}, folder / "model.safetensors"
    )
    message = refusal(CRT.from_pretrained, folder)
    assert "996 more" in message


def test_values_of_numpy_are_converted(tmp_path):
    model = CRT(
        "vit_tiny_patch16_224",
        num_classes=np.int64(2),
        class_names={0: "a", 1: np.str_("b")},
        num_passes=np.array(1),
        attention_power=np.float32(0.5),
        seed_threshold=torch.tensor(0.25),
        mean=np.array([0.1, 0.2, 0.3]),
        std=torch.full((3,), 0.5),
        **{**TINY, "backbone_args": {name: np.int32(value) for name, value in TINY["backbone_args"].items()}},
    )
    model.save_pretrained(tmp_path)
    again = CRT.from_pretrained(tmp_path)
    assert again.config == model.config
    assert (again.num_classes, again.class_names, again.num_passes) == (2, ["a", "b"], 1)
    assert (again.attention_power, again.seed_threshold, again.config["mean"]) == (0.5, 0.25, [0.1, 0.2, 0.3])


def test_class_names_from_json_indices(folder):
    change(folder, class_names={str(i): name for i, name in enumerate("abcde")})
    assert CRT.from_pretrained(folder).class_names == list("abcde")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_small_patch16_dinov3", "RoPE"),
        ("eva02_tiny_patch14_224", "RoPE"),
        ("beit_base_patch16_224", "relative position bias"),
        ("vit_relpos_small_patch16_224", "relative position bias"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
        ("vit_tiny_r_s16_p8_224", "hybrid"),
        ("vit_base_patch16_siglip_224", "no class token"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
    ],
)
def test_what_is_not_supported_and_why(name, reason):
    message = refusal(CRT, name, seconds=20)
    assert reason in message and name in message


def test_other_networks_are_checked_too(tmp_path):
    for network in (BoundaryNet, CNNBranch):
        for arguments in ({"backbone": 3}, {"output_stride": 0}, {"output_stride": 10**9}):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                network(**arguments)
    config = {"backbone": "tf_efficientnet_lite0", "boundary_width": 10**9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "boundary_width" in refusal(BoundaryNet.from_pretrained, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"backbone": "resnet50", "checkpoint_path": "evil.pth"}))
    assert "checkpoint_path" in refusal(BoundaryNet.from_pretrained, tmp_path)


def test_building_draws_the_same_random_numbers_whether_its_size_is_known_or_not():
    from crt.models.backbones import outline_of

    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(CRT("vit_tiny_patch16_224", **TINY).state_dict())
    outline_of.cache_clear()
    torch.manual_seed(3)
    states.append(CRT("vit_tiny_patch16_224", **TINY).state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
