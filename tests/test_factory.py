"""Names to models: what is found where, and what is said if it is not."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import crt
from crt.data import VOC_CLASSES
from crt.models.factory import BUNDLED

from .conftest import TINY

BUNDLED_NAMES = crt.list_models(pretrained=True)


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_lists_and_patterns():
    assert crt.list_models() == ["crt_vit_b16", "crt_vit_s16", "crt_vit_t16"]
    assert crt.list_models("t16") == crt.list_models("*_t16") == ["crt_vit_t16"]
    assert crt.list_models(pretrained=True) == ["crt_vit_s16.voc9k", "crt_vit_t16.cub50", "crt_vit_t16.voc9k"]
    assert crt.is_model("crt_vit_t16")
    assert crt.is_model("crt_vit_t16.voc9k")
    assert not crt.is_model("crt_vit_t16.voc")
    assert not crt.is_model("vit")
    assert crt.get_pretrained_cfg("crt_vit_t16") == crt.get_pretrained_cfg("crt_vit_t16.voc9k")
    assert crt.get_pretrained_cfg("crt_vit_b16") is None


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_bundled_weights_load_offline(name):
    model = crt.create_model(name, pretrained=True)
    assert not model.training
    assert (BUNDLED / name / "README.md").read_text().startswith("---\n")
    assert (BUNDLED / name / "model.safetensors").stat().st_size < 50e6
    assert crt.create_model(name).class_names == model.class_names


def test_the_first_tag_is_the_default():
    model, named = (crt.create_model(name, pretrained=True) for name in ("crt_vit_t16", "crt_vit_t16.voc9k"))
    assert model.class_names == list(VOC_CLASSES)
    assert torch.equal(model.head.weight, named.head.weight)


def test_birds_are_found_whatever_they_are_called():
    """Single-label weights: one map of the bird for all 50 classes, absent ones 0."""
    model = crt.create_model("crt_vit_t16.cub50", pretrained=True)
    assert (model.num_classes, model.activation) == (50, "object")
    photo = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    cams = model.cam(photo, ["Gray_Catbird", "Bobolink"])
    kept = cams.amax(dim=(2, 3))[0].nonzero().flatten().tolist()
    assert [model.class_names[i] for i in kept] == sorted(["Gray_Catbird", "Bobolink"])
    torch.testing.assert_close(cams[0, kept[0]], cams[0, kept[1]])


@pytest.mark.parametrize(
    ("name", "arguments", "error", "parts"),
    [
        ("crt_vit_t61", {}, ValueError, ["crt_vit_t16", "list_models"]),
        ("crt_vit_t16.voc", {}, ValueError, ["crt_vit_t16.voc9k"]),
        ("org/name", {}, ValueError, ["hf-hub:org/name", "local-dir:org/name"]),
        ("crt_vit_b16", {"pretrained": True}, ValueError, ["crt_vit_t16.voc9k", "checkpoint_path"]),
        ("local-dir:/nowhere", {"pretrained": True}, FileNotFoundError, ["/nowhere"]),
        ("crt_vit_t16", {"checkpoint_path": "/nowhere.safetensors"}, FileNotFoundError, ["/nowhere.safetensors"]),
        ("crt_vit_t16", {"num_classes": 0}, ValueError, ["at least 1"]),
        ("crt_vit_t16", {"num_passes": -1}, ValueError, ["num_passes"]),
        ("crt_vit_t16", {"stride": 100}, ValueError, ["multiples of the patch"]),
        ("crt_vit_t16", {"num_classes": 2, "class_names": ["a", "a"]}, ValueError, ["different names"]),
        ("crt_vit_t16", {"pretrained": True, "pretrained_backbone": True}, ValueError, ["only one"]),
        ("crt_vit_t16", {"class_names": "cat"}, TypeError, ["list of names", "cat"]),
        ("crt_vit_t16", {"num_classes": 3, "class_names": ["a", "b"]}, ValueError, ["3 names, got 2"]),
        ("crt_vit_t16", {"backbone": "vit_tinny_patch16_224"}, ValueError, ["vit_tiny_patch16_224"]),
        ("crt_vit_t16", {"backbone": "resnet18"}, ValueError, ["resnet18", "plain ViT"]),
        (None, {}, TypeError, ["name is text"]),
        ("crt_vit_t16", {"pretrained_backbone": True}, OSError, ["vit_tiny_patch16_224", "backbone_checkpoint"]),
    ],
)
def test_errors_say_what_to_do(name, arguments, error, parts):
    with pytest.raises(error) as caught:
        crt.create_model(name, **arguments)
    for part in parts:
        assert part in str(caught.value)


def test_plain_arguments():
    model = crt.create_model("crt_vit_t16", num_passes=0, class_names=["a", "b"], tile=160, stride=80)
    assert (model.num_passes, model.num_classes, model.tile, model.stride) == (0, 2, 160, 80)
    deit = crt.create_model("crt_vit_t16", backbone="deit_tiny_patch16_224", num_classes=1)
    assert deit.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert crt.create_model("crt_vit_t16").pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("as_folder", [True, False])
def test_checkpoint_path(saved, tiny, as_folder):
    path = saved if as_folder else saved / "model.safetensors"
    model = crt.create_model("crt_vit_t16", checkpoint_path=path)
    assert model.class_names == tiny.class_names
    assert torch.equal(model.head.weight, tiny.head.weight)


def test_a_lone_weights_file_tells_its_classes(tmp_path):
    model = crt.create_model("crt_vit_t16", num_classes=7)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    again = crt.create_model("crt_vit_t16", checkpoint_path=tmp_path / "w.safetensors")
    assert again.num_classes == 7
    assert torch.equal(again.head.bias, model.head.bias)


def test_other_classes_get_a_new_head_and_it_is_said(saved, tiny, caplog):
    with caplog.at_level(logging.WARNING):
        model = crt.create_model(f"local-dir:{saved}", pretrained=True, class_names=["a", "b"])
    assert "new, untrained head for 2 classes (was 5)" in caplog.text
    assert model.num_classes == 2
    assert model.class_names == ["a", "b"]
    assert torch.equal(model.backbone.cls_token, tiny.backbone.cls_token)
    model.save_pretrained(saved)
    config = json.loads((saved / "config.json").read_text())
    assert (config["num_classes"], config["class_names"]) == (2, ["a", "b"])
    assert crt.create_model(f"local-dir:{saved}", pretrained=True).num_classes == 2


def test_weights_of_another_architecture_are_refused(saved, tiny):
    with pytest.raises(ValueError, match="trained with the backbone vit_tiny_patch16_224"):
        crt.create_model("crt_vit_s16", checkpoint_path=saved)
    model = crt.create_model("crt_vit_s16", checkpoint_path=saved, backbone="vit_tiny_patch16_224")
    assert torch.equal(model.head.weight, tiny.head.weight)


def test_renamed_classes_keep_the_head_and_it_is_said(saved, tiny, caplog):
    with caplog.at_level(logging.WARNING):
        model = crt.create_model(f"local-dir:{saved}", pretrained=True, class_names=list("vwxyz"))
    assert "head is kept" in caplog.text
    assert model.class_names == list("vwxyz")
    assert torch.equal(model.head.weight, tiny.head.weight)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("file", ["deit_tiny_patch16_224.fp16", "vit_tiny_patch16_224", "mine"])
def test_mean_and_std_do_not_follow_the_name_of_a_file(file, tmp_path, caplog):
    save_file(crt.create_model("crt_vit_t16").backbone.state_dict(), tmp_path / f"{file}.safetensors")
    model = crt.create_model("crt_vit_t16", backbone_checkpoint=tmp_path / f"{file}.safetensors")
    assert (model.config["mean"], model.config["std"]) == ([0.5] * 3, [0.5] * 3)
    assert "taken are those of vit_tiny_patch16_224, mean [0.5, 0.5, 0.5]" in caplog.text
    assert crt.create_model("crt_vit_t16", mean=(0.1, 0.2, 0.3)).config["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("way", ["metadata", "timm's config", "our config"])
def test_mean_and_std_that_a_file_states_are_taken(way, tmp_path, caplog):
    stated = dict(zip(("mean", "std"), IMAGENET, strict=True))
    metadata = {key: json.dumps(value) for key, value in stated.items()} if way == "metadata" else None
    save_file(crt.create_model("crt_vit_t16").backbone.state_dict(), tmp_path / "w.safetensors", metadata)
    if way != "metadata":
        config = {"architecture": "deit_tiny_patch16_224", "pretrained_cfg": stated} if way[0] == "t" else stated
        (tmp_path / "config.json").write_text(json.dumps(config))
    model = crt.create_model("crt_vit_t16", backbone_checkpoint=tmp_path / "w.safetensors")
    assert (model.config["mean"], model.config["std"]) == IMAGENET
    assert not caplog.text
    model = crt.create_model("crt_vit_t16", backbone_checkpoint=tmp_path / "w.safetensors", std=[1, 1, 1])
    assert (model.config["mean"], model.config["std"]) == (IMAGENET[0], [1, 1, 1])


@pytest.mark.parametrize("stated", ["[0.5, 0.5]", "[0, 0, NaN]", "x", "[" * 10**5])
def test_a_mean_that_is_none_is_refused(stated, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"mean": stated})
    with pytest.raises(ValueError, match=r"w\.safetensors.*mean"):
        crt.create_model("crt_vit_t16", backbone_checkpoint=tmp_path / "w.safetensors")


def test_a_pickle_called_safetensors_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    for option in ("checkpoint_path", "backbone_checkpoint"):
        with pytest.raises(ValueError, match="truncated or not a safetensors file"):
            crt.create_model("crt_vit_t16", **{option: tmp_path / "w.safetensors"})


def test_a_setting_that_there_is_not():
    with pytest.raises(TypeError, match=r"no argument 'num_clases'. Did you mean 'num_classes'.*seed_threshold"):
        crt.create_model("crt_vit_t16", num_clases=3)
    with pytest.raises(TypeError, match="Did you mean 'pretrained_backbone'"):
        crt.create_model("crt_vit_t16", pretrain_backbone=True)
    assert crt.create_model("crt_vit_t16", seed_threshold=0.4, num_passes=None).config["seed_threshold"] == 0.4


def test_normalisation_is_not_rounded_with_the_weights(saved):
    model = crt.create_model("crt_vit_s16", num_classes=1).bfloat16()
    assert model.config["mean"] == [0.485, 0.456, 0.406]
    assert model.mean.dtype == torch.float32


def test_an_address_without_pretrained_is_random_and_says_so(saved, tiny, caplog):
    with caplog.at_level(logging.WARNING):
        model = crt.create_model(f"local-dir:{saved}")
    assert "pretrained=True" in caplog.text
    assert model.config == tiny.config
    assert not torch.equal(model.head.weight, tiny.head.weight)


def test_backbone_checkpoint(tiny, tmp_path):
    state = {**tiny.backbone.state_dict(), "head.weight": torch.zeros(1000, 32), "head.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "imagenet.safetensors")
    model = crt.CRT("vit_tiny_patch16_224", num_classes=2, **TINY)
    head = model.head.weight.clone()
    model.load_backbone(load_file(tmp_path / "imagenet.safetensors"), "imagenet")
    assert torch.equal(model.backbone.pos_embed, tiny.backbone.pos_embed)
    assert torch.equal(model.head.weight, head)
    with pytest.raises(ValueError, match=r"imagenet.*do not fit"):
        crt.create_model("crt_vit_t16", backbone_checkpoint=tmp_path / "imagenet.safetensors")


def damage_cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_key(folder):
    state = load_file(folder / "model.safetensors")
    del state["backbone.norm.bias"]
    save_file(state, folder / "model.safetensors")


def damage_json(folder):
    (folder / "config.json").write_text("{")


def damage_config(folder):
    (folder / "config.json").write_text('{"hidden_size": 3}')


def damage_pickle(folder):
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (damage_cut, ValueError, "truncated"),
        (damage_key, ValueError, "backbone.norm.bias"),
        (damage_json, ValueError, "not valid JSON"),
        (damage_config, ValueError, "hidden_size"),
        (damage_pickle, FileNotFoundError, "model.safetensors"),
    ],
)
def test_damaged_folders(saved, damage, error, message):
    damage(saved)
    with pytest.raises(error) as caught:
        crt.CRT.from_pretrained(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)


def test_pickles_are_refused(tmp_path):
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"not a \.safetensors file"):
        crt.create_model("crt_vit_t16", checkpoint_path=tmp_path / "weights.pth")


def test_saving_that_fails_keeps_the_old_files(saved, tiny, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crt.models.hub_mixin.write_tensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        tiny.save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_a_written_model_card_is_kept(saved, tiny):
    (saved / "README.md").write_text("my card")
    tiny.save_pretrained(saved)
    assert (saved / "README.md").read_text() == "my card"
    assert sorted(file.name for file in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
