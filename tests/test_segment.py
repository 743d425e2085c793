"""The segmentation stage: its loss, networks of both kinds, exact resuming, and masks without labels."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

import crt
from crt.cli import app
from crt.losses.segmentation import segmentation_loss
from crt.masks import load_mask
from crt.models import CRT, SegmentationNet
from crt.train import RECIPES, build_segmenter, make_recipe, train_segment
from crt.train.crops import Crops
from crt.train.recipe import SegmentRecipe

from .test_train import TINY, folder, photos_of, tiny_model  # noqa: F401 (fixtures)
from .test_train_masks import masked  # noqa: F401

QUICK = SegmentRecipe(
    epochs=2, batch_size=4, crop=64, area=(0.4, 1.0), jitter=0.1, warmup=0, lr=1e-3, arch="fpn",
    encoder="tu-mobilenetv3_small_050", clamp_window=16, ema=0.9,
)  # fmt: skip


def small_net(names, arch="fpn"):
    pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `segment`")
    torch.manual_seed(0)
    return SegmentationNet(arch, "tu-mobilenetv3_small_050", num_classes=len(names), class_names=names)


def test_loss_is_the_mean_over_sure_pixels():
    logits, masks = torch.randn(2, 4, 6, 8), torch.randint(0, 4, (2, 6, 8))
    masks[0, :3] = 255
    plain = F.cross_entropy(logits, masks, ignore_index=255)
    assert torch.allclose(segmentation_loss(logits, masks.to(torch.uint8)), plain)
    assert torch.allclose(segmentation_loss(logits, masks, clamp_from=float(plain) - 0.01, window=3), plain)
    assert segmentation_loss(logits, torch.full((2, 6, 8), 255)) == 0
    assert segmentation_loss(logits[..., :3, :4], masks).isfinite()


def test_clamp_leaves_out_what_is_above_both_means():
    logits, masks = torch.randn(2, 3, 10, 14), torch.randint(0, 3, (2, 10, 14))
    masks[1, 2:5, 3:9] = 255
    losses = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    mean = losses[masks != 255].mean()
    kept = []
    for b in range(2):
        for y in range(10):
            for x in range(14):
                place = (slice(y // 4 * 4, y // 4 * 4 + 4), slice(x // 4 * 4, x // 4 * 4 + 4))
                local = losses[b][place][masks[b][place] != 255].mean()
                if masks[b, y, x] != 255 and losses[b, y, x] <= max(mean, local):
                    kept.append(losses[b, y, x])
    assert 0 < len(kept) < (masks != 255).sum()
    logits.requires_grad_()
    found = segmentation_loss(logits, masks, clamp_from=5.0, window=4)
    assert torch.allclose(found, torch.stack(kept).mean())
    found.backward()
    assert int((logits.grad.abs().sum(dim=1) > 0).sum()) == len(kept)


def test_it_learns_to_segment_without_labels(masked, folder):  # noqa: F811
    recipe = dataclasses.replace(QUICK, arch="crt", epochs=16, batch_size=8, lr=3e-3, area=(0.6, 1.0), ema=0.5)
    model = train_segment(tiny_model(masked.class_names).vit, masked, folder / "run", recipe, workers=0)
    assert not model.training
    right = total = 0
    for sample in masked:
        found = model.segment(sample.image)[0].numpy()
        truth = load_mask(sample.mask)
        sure = (truth > 0) & (truth < 255)
        right += int((found == truth)[sure].sum())
        total += int(sure.sum())
    assert right / total > 0.7
    lines = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 48 and lines[-1]["total"] < 1


def test_a_network_of_smp_is_loaded_by_the_folder(masked, folder):  # noqa: F811
    recipe = dataclasses.replace(QUICK, epochs=1, batch_size=12)
    model = train_segment(small_net(masked.class_names), masked, folder / "run", recipe, workers=0)
    again = crt.create_model(f"local-dir:{folder / 'run/model'}", pretrained=True)
    assert isinstance(again, SegmentationNet) and again.class_names == masked.class_names
    image = masked[0].image
    assert again.segment(image).shape == (1, 80, 100)
    assert torch.equal(again.segment(image), model.segment(image))
    assert torch.equal(SegmentationNet.from_pretrained(folder / "run/model").segment(image), model.segment(image))


def test_a_crt_of_any_kind_is_read_as_it_was_trained(masked, folder):  # noqa: F811
    settings = {**TINY, "classifier": "tokens", "spread": 4.0, "tile": 32, "stride": 16}
    model = CRT("vit_tiny_patch16_224", class_names=masked.class_names, num_classes=3, num_passes=0, **settings)
    shapes = []
    model.backbone.blocks[0].register_forward_hook(lambda _, args, __: shapes.append(args[0].shape[1]))
    train_segment(model, masked, folder / "run", dataclasses.replace(QUICK, arch="crt", epochs=1), workers=0)
    assert set(shapes) == {1 + (QUICK.crop // 16) ** 2}  # whole crops, not tiles
    again = crt.create_model(f"local-dir:{folder / 'run/model'}", pretrained=True)
    assert again.activation == "softmax" and again.attention_power == 0 and again.whole and again.spread == 4
    assert again.classifier is None and again(torch.zeros(1, 3, 48, 64)).shape == (1, 3)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["crt", "fpn"])
def test_stopped_and_resumed_equals_never_stopped(masked, folder, kind):  # noqa: F811
    def run(out, stop=None):
        def watched(steps, first, total, status):
            firsts.append(first)
            for number, step in enumerate(steps, first):
                if number == stop:
                    raise _Stop
                yield step

        names = masked.class_names
        model = tiny_model(names).vit if kind == "crt" else small_net(names)
        recipe = dataclasses.replace(QUICK, arch=kind, epochs=1)
        train_segment(model, masked, folder / out, recipe, seed=3, save_every=2, workers=0, progress=watched)

    firsts = []
    run("whole")
    with pytest.raises(_Stop):
        run("stopped", stop=5)
    assert not (folder / "stopped/model").exists()
    run("stopped")
    assert firsts == [0, 0, 4]
    one, other = (load_file(folder / run / "model/model.safetensors") for run in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_result_is_the_moving_average(masked, folder):  # noqa: F811
    results = []
    for ema in (0.0, 0.9):
        model = tiny_model(masked.class_names).vit
        recipe = dataclasses.replace(QUICK, arch="crt", epochs=1, ema=ema)
        trained = train_segment(model, masked, folder / f"run{ema}", recipe, workers=0)
        assert (trained is model) == (ema == 0)
        assert all(parameter.requires_grad for parameter in trained.parameters())
        results.append((model.head.weight.detach(), trained.head.weight.detach()))
    assert torch.equal(results[0][0], results[1][0])  # the average changes no step
    assert not torch.equal(*results[1]) and torch.allclose(*results[1], atol=0.1)
    assert torch.equal(CRT.from_pretrained(folder / "run0.9/model").head.weight, results[1][1])


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (400, 30), (65, 64)])
def test_odd_sizes(size):
    net = small_net(["a", "b"], "deeplabv3plus").train()
    image = Image.new("L", size[::-1], 90)
    mask = net.segment(image, scales=(0.5, 1.0), max_side=100)
    assert mask.shape == (1, *size) and mask.dtype == torch.uint8 and int(mask.max()) <= 2
    assert net.training and all(module.training for module in net.modules())
    both = net.segment([image, Image.new("RGB", (20, 10))])
    assert both.shape == (2, max(size[0], 10), max(size[1], 20))
    assert (both[1, 10:] == 255).all() and (both[1, :, 20:] == 255).all() and (both[1, :10, :20] < 255).all()


def test_a_mask_is_the_argmax_of_the_mean_probabilities():
    net = small_net(["a", "b"]).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    x = (image.float() / 255 - torch.tensor(net.config["mean"]).view(3, 1, 1)) / torch.tensor(net.config["std"]).view(
        3, 1, 1
    )
    with torch.no_grad():
        scores = net(x[None]).softmax(1) + net(x.flip(-1)[None]).softmax(1).flip(-1)
    assert net(x[None]).shape == (1, 3, 64, 96)
    assert torch.equal(net.segment(image), scores.argmax(1).to(torch.uint8))
    assert torch.equal(net.segment(x, flip=False), net(x[None]).argmax(1).to(torch.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "deeplab"}, "Did you mean 'deeplabv3'"),
        ({"arch": ["fpn"]}, "unknown architecture"),
        ({"encoder": "tu-resnet5"}, "timm has no model 'resnet5'. Did you mean"),
        ({"encoder": "tu-hf-hub:x/y"}, "encoder must be a name"),
        ({"encoder": "../../x"}, "encoder must be a name"),
        ({"encoder": 7}, "encoder must be a name"),
        ({"encoder": "tu-vit_tiny_patch16_224"}, "cannot be built"),
        ({"encoder": "resnet999"}, "cannot be built"),
        ({"num_classes": 255}, "num_classes must be"),
        ({"num_classes": 2, "class_names": ["a"]}, "must be 2 names"),
        ({"std": [0, 1, 1]}, "std"),
        ({"library": "mmseg"}, "library must be"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `segment`")
    with pytest.raises(ValueError) as caught:
        SegmentationNet(**{"arch": "fpn", "encoder": "tu-mobilenetv3_small_050", **changes})
    assert message in str(caught.value) and len(str(caught.value)) < 600


def test_a_config_of_a_folder_is_checked(folder):  # noqa: F811
    small_net(["a", "b"]).save_pretrained(folder / "net")
    file = folder / "net/config.json"
    config = json.loads(file.read_text())
    for changes, message in [
        ({"encoder": "tu-../x"}, "encoder must be a name"),
        ({"checkpoint_path": "x.pth"}, "checkpoint_path"),
        ({"encoder": "tu-convnext_xxlarge"}, "its weights hold"),
        ({"encoder": "tu-resnet10t"}, "do not fit"),
    ]:
        file.write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=message):
            crt.create_model(f"local-dir:{folder / 'net'}", pretrained=True)
    file.write_text(json.dumps(config))
    other = crt.create_model(f"local-dir:{folder / 'net'}", pretrained=True, class_names=["x", "y", "z"])
    assert other.num_classes == 3 and other(torch.zeros(1, 3, 32, 32)).shape[1] == 4


def test_encoder_weights_are_loaded(folder):  # noqa: F811
    import timm
    from safetensors.torch import save_file

    whole = timm.create_model("mobilenetv3_small_050")
    save_file(whole.state_dict(), folder / "w.safetensors")
    net = build_segmenter(QUICK, ["a"], backbone_checkpoint=folder / "w.safetensors")
    assert torch.equal(net.network.encoder.model.conv_stem.weight, whole.conv_stem.weight)
    with pytest.raises(ValueError, match="need a timm encoder"):
        SegmentationNet("fpn", "resnet18").load_encoder(whole.state_dict(), "w")


def test_networks_of_recipes(masked, folder):  # noqa: F811
    tiny_model(masked.class_names).vit.save_pretrained(folder / "start")
    recipe = dataclasses.replace(QUICK, arch="crt")
    model = build_segmenter(recipe, masked.class_names, start=folder / "start")
    assert torch.equal(model.head.weight, tiny_model(masked.class_names).vit.head.weight)
    with pytest.raises(ValueError, match="knows other classes"):
        build_segmenter(recipe, ["a"], start=folder / "start")
    with pytest.raises(ValueError, match="start is for arch=crt"):
        build_segmenter(QUICK, masked.class_names, start=folder / "start")
    with pytest.raises(ValueError, match="not both"):
        build_segmenter(recipe, ["a"], start=folder / "start", backbone_checkpoint="w.safetensors")
    assert RECIPES["segment"].arch == "crt" and RECIPES["segment-deeplab"].arch == "deeplabv3plus"
    with pytest.raises(ValueError, match="clamp_from must be a number above 0"):
        make_recipe("segment", ["clamp_from=0"])


def test_mistakes_are_named(masked, folder):  # noqa: F811
    net = small_net(masked.class_names)
    with pytest.raises(ValueError, match="24 of 24 images have no mask"):
        train_segment(net, photos_of(folder), folder / "run", QUICK)
    with pytest.raises(ValueError, match="the network has 1 classes, the images 3"):
        train_segment(small_net(["a"]), masked, folder / "run", QUICK)
    with pytest.raises(ValueError, match="raise batch_size"):
        train_segment(net, masked, folder / "run", dataclasses.replace(QUICK, batch_size=1))
    with pytest.raises(TypeError, match="takes a SegmentRecipe, got CAMRecipe"):
        train_segment(net, masked, folder / "run", make_recipe("t16-voc9k"))


def test_command(masked, folder):  # noqa: F811
    small_net(masked.class_names)
    (folder / "masks").mkdir()
    for sample in masked:
        sample.mask.rename(folder / "masks" / sample.mask.name)
    places = ["--images", folder / "photos", "--labels", folder / "labels.csv", "--masks", folder / "masks"]
    changes = [f"--set={change}" for change in ("epochs=1", "batch_size=12", "crop=32")]
    network = ["--arch", "fpn", "--encoder", "tu-mobilenetv3_small_050", "--no-pretrained", "--workers", "0"]
    command = [str(part) for part in ["train", "segment", "--out", folder / "run", *places, *network, *changes]]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    net = crt.create_model(f"local-dir:{folder / 'run/model'}", pretrained=True)
    assert net.config["encoder"] == "tu-mobilenetv3_small_050" and net.class_names == masked.class_names
    done = CliRunner().invoke(app, [*command, "--arch", "fnp"])
    assert done.exit_code == 2 and "Did you mean 'fpn'" in " ".join(done.output.split())


def test_jitter_changes_colors_and_not_masks(masked):  # noqa: F811
    plain, jittered = (
        Crops(masked, dataclasses.replace(QUICK, area=(1.0, 1.0), jitter=jitter), [0.0] * 3, [1.0] * 3, seed=0)
        for jitter in (0.0, 0.8)
    )
    for index in range(3):
        one, _, mask = plain[0, index]
        other, _, same = jittered[0, index]
        assert not torch.equal(one, other) and mask.shape == same.shape
        assert torch.equal(jittered[0, index][0], other)
