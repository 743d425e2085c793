"""Features of a frozen backbone: what the network sees, computed once, and heads that learn from them."""

import dataclasses

import pytest
import torch
from PIL import Image, ImageOps

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

from crt.cli import app
from crt.data import ImageDataset
from crt.images import open_image, resize
from crt.models import CRT
from crt.train import make_recipe, train_cam
from crt.train.features import FeatureCache, whole_features
from crt.train.head import HeadRecipe, install_head, patch_masks, train_head
from crt.train.objectness import fit_objectness
from crt.train.recipe import CAMRecipe

from .test_train import folder, photos_of, tiny_model  # noqa: F401 (fixtures)
from .test_train_masks import masked  # noqa: F401


@pytest.fixture
def cache(folder):  # noqa: F811
    photos = photos_of(folder)
    return FeatureCache(tiny_model(photos.class_names).vit, photos, folder / "features", shard=10)


def test_a_photo_of_one_tile_is_that_tile(tiny):
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = tiny.forward_features(x)[0]
    found = whole_features(tiny, x)
    assert torch.allclose(found.class_token, tokens[0], atol=1e-5)
    assert torch.allclose(found.patches.flatten(1).T, tokens[tiny.prefix :], atol=1e-5)
    rows, last = [], []
    tiny.forward_features(x, rows)
    tiny.forward_features(x, last, last=True)
    assert len(rows) == len(tiny.backbone.blocks) * max(tiny.num_passes, 1) and len(last) == 1
    assert torch.equal(last[0], rows[-1])
    assert torch.allclose(found.attention.flatten(), rows[-1][0], atol=1e-6)
    assert whole_features(tiny, torch.randn(1, 3, 48, 112)).patches.shape == (32, 3, 7)


def test_the_cache_holds_what_the_network_sees(cache, folder):  # noqa: F811
    assert sorted(path.name for path in (folder / "features").glob("*.safetensors")) == [
        f"{i:05}.safetensors" for i in range(3)
    ]
    assert len(cache) == 24 and cache.targets.sum(dim=1).tolist() == [len(s.labels) for s in cache.dataset]
    model = cache.model
    for index in (0, 9, 10, 23):
        pixels = resize(open_image(cache.dataset[index].image).float() / 255, (80, 96))
        mean, std = (torch.tensor(model.config[name]).view(3, 1, 1) for name in ("mean", "std"))
        expected = whole_features(model, ((pixels - mean) / std)[None])
        assert cache[index].patches.shape == (32, 5, 6) == (32, *cache.grids()[index])
        assert torch.allclose(cache[index].patches, expected.patches, atol=2e-3, rtol=2e-3)
        assert torch.allclose(cache[index].attention, expected.attention, atol=1e-5)
        assert torch.allclose(cache[index].class_token, expected.class_token, atol=2e-3, rtol=2e-3)
        assert torch.allclose(cache.means()[index], expected.patches.mean(dim=(1, 2)), atol=1e-4)
    with pytest.raises(IndexError):
        cache[24]


def test_a_mirrored_view_is_mirrored_back(cache, folder):  # noqa: F811
    """Mirrored photos seen mirrored are the photos."""
    ImageOps.mirror(Image.open(cache.dataset[0].image)).save(folder / "photos/1.png")
    photos = ImageDataset(cache.dataset.samples[:2], cache.dataset.class_names)
    assert photos[1].image.name == "1.png"
    seen = FeatureCache(cache.model, photos, folder / "mirrored", flip=True)[1]
    assert torch.allclose(seen.patches.flip(-1), cache[0].patches, atol=1e-2)
    assert torch.allclose(seen.class_token, cache[0].class_token, atol=1e-2)


def test_only_what_has_changed_is_computed_again(cache, folder):  # noqa: F811
    def computed(model=cache.model, photos=cache.dataset, **settings):
        seen = []

        def watched(steps, first, total, status):
            for step in steps:
                seen.append(step)
                yield step

        settings = {"shard": 10, **settings}
        FeatureCache(model, photos, folder / "features", progress=watched, **settings)
        return seen

    assert computed() == []
    (folder / "features/00001.safetensors").write_bytes(b"half")
    assert computed() == list(range(10, 20))
    photo = cache.dataset[23].image
    photo.write_bytes(cache.dataset[0].image.read_bytes())
    assert computed() == list(range(20, 24))
    cache.model.head.weight.data.add_(1)  # the head is not part of it
    assert computed() == []
    for change in (lambda: computed(scale=0.5), lambda: computed(cache.model, scale=1.0)):
        assert change() == list(range(24))
    cache.model.backbone.norm.weight.data.mul_(2)
    assert computed() == list(range(24))


def test_an_interrupted_cache_resumes_at_the_next_shard(folder):  # noqa: F811
    photos = photos_of(folder)
    seen = []

    def watched(steps, first, total, status):
        for step in steps:
            if step == stop:
                raise KeyboardInterrupt
            seen.append(step)
            yield step

    model, stop = tiny_model(photos.class_names).vit, 17
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(model, photos, folder / "features", shard=10, progress=watched)
    stop = None
    FeatureCache(model, photos, folder / "features", shard=10, progress=watched)
    assert seen == [*range(17), *range(10, 24)]


def test_features_that_are_not_finite_are_refused(folder):  # noqa: F811
    photos = photos_of(folder)
    model = tiny_model(photos.class_names).vit
    model.backbone.norm.bias.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"0\.png are not finite in float16"):
        FeatureCache(model, photos, folder / "features")


def test_a_head_learns_the_labels(cache):
    recipe = HeadRecipe(epochs=200, lr=0.02, weight_decay=0.0, standardize=True)
    head = train_head(cache, recipe)
    logits = head(cache.means()[:, :, None, None])[:, :, 0, 0]
    assert ((logits > 0) == (cache.targets > 0)).float().mean() > 0.85
    assert torch.equal(head.weight, train_head(cache, recipe).weight)
    patches = cache[3].patches
    assert torch.allclose(
        head(patches[None]).mean(dim=(2, 3)), head(patches.mean(dim=(1, 2))[None, :, None, None])[..., 0, 0], atol=1e-4
    )
    few = train_head(cache, dataclasses.replace(recipe, epochs=5, pool=0.2, ema=0.9))
    assert few.weight.shape == (3, 32, 1, 1) and few.weight.isfinite().all()


def test_a_head_learns_masks(cache, masked):  # noqa: F811
    shares = patch_masks(cache, masked)
    assert torch.allclose(shares(0).sum(dim=0), torch.ones(5, 6), atol=1e-5)
    head = train_head(cache, HeadRecipe(epochs=30, lr=0.05, batch_patches=256), targets=shares)
    assert head.weight.shape == (4, 32, 1, 1)
    right = total = 0
    for index in range(24):
        truth = shares(index)
        sure = truth.amax(dim=0) > 0.9
        right += int((head(cache[index].patches[None])[0].argmax(0) == truth.argmax(0))[sure].sum())
        total += int(sure.sum())
    assert right / total > 0.9
    hard = train_head(
        cache,
        HeadRecipe(epochs=1, clamp=0.8, label_smoothing=0.1),
        targets=lambda i: torch.full((5, 6), 255 if i else 2),
    )
    assert hard(cache[0].patches[None])[0].mean(dim=(1, 2)).argmax() == 2
    for target, message in [
        (torch.full((5, 6), 255), "no patch has a target"),
        (torch.zeros(5, 7), "must be .5, 6. integers below 4"),
        (torch.full((5, 6), 4), "integers below 4"),
        (torch.zeros(3, 5, 6), "expected .4, 5, 6."),
    ]:
        with pytest.raises(ValueError, match=message):
            train_head(cache, HeadRecipe(epochs=1), targets=lambda _, target=target: target)
    with pytest.raises(ValueError, match="each with a mask"):
        patch_masks(cache, cache.dataset)


def test_objectness_is_the_regression_of_the_attention(cache):
    objectness = fit_objectness(cache)
    wanted, found, alone = [], [], []
    for index in range(24):
        features = cache[index]
        y = features.attention.flatten()
        y = y.clamp_max(y.quantile(0.9))
        wanted.append((y - y.min()) / (y.max() - y.min()))
        found.append(objectness(features.patches.flatten(1).T)[:, 0])
    wanted, found = torch.cat(wanted), torch.cat(found)
    alone = wanted.var()
    assert (wanted - found).square().mean() < 0.9 * alone


def test_a_head_becomes_that_of_the_model(cache):
    model = cache.model.eval()
    head = train_head(cache, HeadRecipe(epochs=3))
    install_head(model, head)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.forward_maps(x)[0], head(whole_features(model, x).patches[None])[0], atol=1e-4)
    with pytest.raises(ValueError, match="does not fit"):
        install_head(model, torch.nn.Conv2d(32, 5, 1))


def test_command(folder):  # noqa: F811
    photos = photos_of(folder)
    tiny_model(photos.class_names).vit.save_pretrained(folder / "start")
    places = ["--images", folder / "photos", "--labels", folder / "labels.csv", "--start", folder / "start"]
    command = ["train", "cam", "--freeze-backbone", "--out", folder / "run", *places, "--set", "epochs=5"]
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    assert CRT.from_pretrained(folder / "run/model").class_names == photos.class_names
    assert (folder / "run/features/00000.safetensors").is_file()


def test_the_cam_stage_with_a_frozen_backbone(folder):  # noqa: F811
    photos = photos_of(folder)
    recipe = make_recipe("frozen", {"epochs": 100, "lr": 2e-3, "weight_decay": 0.0}, stage=CAMRecipe)
    branches = tiny_model(photos.class_names)
    before = {name: value.clone() for name, value in branches.vit.backbone.state_dict().items()}
    model = train_cam(branches, photos, folder / "run", recipe, workers=0)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    again = CRT.from_pretrained(folder / "run/model")
    assert torch.equal(again.head.weight, model.head.weight) and model.head.weight[:, :, 1, 1].any()
    with pytest.raises(ValueError, match="set cnn=null and mask=0"):
        make_recipe("t16-voc9k", ["freeze_backbone=true"])
