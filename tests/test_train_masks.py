"""Training on pseudo masks: the loss against an obvious loop, crops of photo and mask together, a round that learns."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="needs the extra `train`")

from crt.cam import CAMExtractor
from crt.images import normalize, open_image
from crt.losses.masks import STRIDE, mask_loss
from crt.masks import save_mask
from crt.metrics import SeedCurve
from crt.train import build_branches, make_recipe, train_cam
from crt.train.crops import Crops
from crt.train.recipe import CAMRecipe

from .test_train import COLOURS, QUICK, folder, photos_of, tiny_model  # noqa: F401 (a fixture)

MASKED = dataclasses.replace(QUICK, mask=1.0, pool=0.2, attention_power=0.0)


@pytest.fixture
def masked(folder):  # noqa: F811
    """The photos with masks of their squares, the squares' borders unsure."""
    photos = photos_of(folder)
    for photo in photos.samples:
        pixels = np.asarray(Image.open(photo.image))
        mask = np.zeros(pixels.shape[:2], np.uint8)
        for index, name in enumerate(photos.class_names):
            mask[(pixels == COLOURS[name]).all(axis=-1)] = index + 1
        mask[20:22][mask[20:22] > 0] = 255
        save_mask(mask, folder / f"{photo.name}.png")
    return photos.with_masks(folder)


def test_loss_equals_the_obvious_loop():
    maps, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 4, (2, 16, 16), dtype=torch.uint8)
    masks[:, :7] = 255
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    terms = []
    for b in range(2):
        for y in range(4):
            for x in range(4):
                scores = torch.softmax(torch.cat([torch.zeros(1), maps[b, :, y, x]]), dim=0)
                value = int(masks[b, STRIDE * y + 2, STRIDE * x + 2])
                possible = [0, *(i + 1 for i in range(3) if targets[b, i])]
                terms.append(-(scores[possible].sum() if value == 255 else scores[value]).log())
    assert torch.allclose(mask_loss(maps, masks, targets), torch.stack(terms).mean(), atol=1e-6)


def test_loss_is_least_where_map_and_mask_agree_and_has_gradients():
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 16:48, 16:48] = 2
    maps = torch.full((1, 3, 16, 16), -8.0)
    maps[:, 1, 4:12, 4:12] = 8.0
    targets = torch.tensor([[0.0, 1, 0]])
    moved = maps.roll(4, dims=-1).requires_grad_()
    assert mask_loss(maps, masks, targets) < 0.6 < 1.5 < mask_loss(moved, masks, targets)
    mask_loss(moved, masks, targets).backward()
    assert moved.grad.isfinite().all() and moved.grad.abs().sum() > 0


@pytest.mark.parametrize("area", [(0.3, 0.8), None])
def test_mask_and_photo_are_cropped_alike(masked, area):
    crops = Crops(masked, dataclasses.replace(MASKED, area=area, long_side=(80, 140)), [0.5] * 3, [0.5] * 3, seed=0)
    agreed = 0
    for index in range(len(masked)):
        crop, _, mask = crops[0, index]
        assert mask.shape == (64, 64) and mask.dtype == torch.uint8
        for i, name in enumerate(masked.class_names):
            colour = (torch.tensor(COLOURS[name]) / 255 - 0.5) / 0.5
            painted = (crop - colour.view(3, 1, 1)).abs().amax(dim=0) < 0.05
            agreed += int((painted & (mask == i + 1)).sum())
            assert (painted & (mask != i + 1) & (mask != 255)).float().mean() < 0.03
    assert agreed > 1000


def test_a_crop_without_masks_is_the_same(masked, folder):  # noqa: F811
    plain = Crops(photos_of(folder), QUICK, [0.5] * 3, [0.5] * 3, seed=0)
    both = Crops(masked, QUICK, [0.5] * 3, [0.5] * 3, seed=0)
    assert len(plain[1, 5]) == 2
    assert torch.equal(plain[1, 5][0], both[1, 5][0])


def test_a_round_on_masks_finds_the_squares(masked, folder):  # noqa: F811
    recipe = dataclasses.replace(MASKED, epochs=25, batch_size=8, lr=2e-3, warmup=5)
    model = build_branches(recipe, masked.class_names, start=_started(masked, folder))
    trained = train_cam(model, masked, folder / "run", recipe, workers=0)
    assert (trained.attention_power, trained.pool) == (0.0, 0.2)
    curve = SeedCurve(3, [0.2, 0.4])
    results = CAMExtractor(trained).stream((Image.open(photo.image), photo.labels) for photo in masked)
    for photo, result in zip(masked, results, strict=True):
        curve.update(result.maps, result.labels, torch.from_numpy(np.array(Image.open(photo.mask))))
    assert curve.best()[1] > 0.6
    logits = torch.stack([trained(normalize(open_image(p.image), trained.mean, trained.std)[None])[0] for p in masked])
    truth = torch.tensor([[i in p.labels for i in range(3)] for p in masked])
    assert ((logits > 0) == truth).float().mean() > 0.85


def _started(photos, folder):  # noqa: F811
    tiny_model(photos.class_names).vit.save_pretrained(folder / "start")
    return folder / "start"


def test_it_starts_from_a_trained_model(masked, folder):  # noqa: F811
    start = _started(masked, folder)
    model = build_branches(MASKED, masked.class_names, start=start)
    assert torch.equal(model.vit.head.weight, tiny_model(masked.class_names).vit.head.weight)
    assert model.vit.pool == 0.2
    with pytest.raises(ValueError, match="knows the classes"):
        build_branches(MASKED, ["a", "b", "c"], start=start)
    with pytest.raises(ValueError, match="not both"):
        build_branches(MASKED, masked.class_names, start=start, backbone_checkpoint="vit.safetensors")


def test_recipe_and_masks_belong_together(masked, folder):  # noqa: F811
    for photos, recipe in [(masked, QUICK), (photos_of(folder), MASKED)]:
        with pytest.raises(ValueError, match="weight of masks"):
            train_cam(tiny_model(photos.class_names), photos, folder / "run", recipe)
    assert make_recipe("t16-voc9k-masks").mask == 1.0
    with pytest.raises(ValueError, match="from 0 to"):
        CAMRecipe(mask=-1.0)


def test_other_masks_are_another_run(masked, folder):  # noqa: F811
    recipe = dataclasses.replace(MASKED, epochs=1)
    train_cam(tiny_model(masked.class_names), masked, folder / "run", recipe, workers=0)
    save_mask(np.zeros((80, 100), np.uint8), masked[0].mask)
    with pytest.raises(ValueError, match="data"):
        train_cam(tiny_model(masked.class_names), masked, folder / "run", recipe, workers=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: save_mask(np.zeros((9, 9), np.uint8), file), "its image"),
        (lambda file: save_mask(np.full((80, 100), 7, np.uint8), file), "values beyond 3"),
        (lambda file: file.write_bytes(b""), "cannot be read as a mask"),
    ],
)
def test_masks_that_do_not_fit_are_named(masked, spoil, message):
    spoil(masked[2].mask)
    with pytest.raises(OSError, match=message) as caught:
        Crops(masked, MASKED, [0.5] * 3, [0.5] * 3, seed=0)[0, 2]
    assert str(masked[2].mask) in str(caught.value)


def test_missing_masks_are_counted(masked, folder):  # noqa: F811
    masked[4].mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 24 photos have no mask.*4\.png"):
        photos_of(folder).with_masks(folder)
