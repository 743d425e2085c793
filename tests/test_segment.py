"""Masks without labels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crt
from crt.cam import Segmenter
from crt.cam.functional import activate

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    return crt.CRT(
        "vit_tiny_patch16_224",
        class_names=NAMES,
        num_classes=3,
        num_passes=0,
        tile=32,
        stride=16,
        attention_power=0.0,
        activation="softmax",
        backbone_args=small,
    ).eval()


def photo(height=40, width=56, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_softmax_lets_classes_and_background_compete():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([torch.zeros(2, 1, 4, 5), maps], dim=1)
    expected = whole.exp() / whole.exp().sum(dim=1, keepdim=True)
    assert torch.allclose(activate(maps, "softmax"), expected[:, 1:])
    assert torch.allclose(activate(maps[0], "softmax"), expected[0, 1:])
    assert activate(maps[0, :0], "softmax").shape == (0, 4, 5)


def test_masks_are_the_argmax_of_class_maps_against_zero(model):
    image = photo(32, 32)
    (mask,) = model.segment(image, flip=False)
    x = (image.float() / 255 - model.mean) / model.std
    with torch.no_grad():
        logits = nn.functional.interpolate(activate(model.forward_maps(x[None]), "softmax"), (32, 32), mode="bilinear")
    expected = torch.cat([1 - logits.sum(dim=1, keepdim=True), logits], dim=1).argmax(dim=1)[0]
    assert mask.shape == (32, 32) and mask.dtype == torch.uint8
    assert (mask == expected).float().mean() > 0.999
    assert len(mask.unique()) > 1


def test_the_same_photo_in_every_form_gives_the_same_mask(model):
    image = photo()
    expected = model.segment(image)
    array = image.permute(1, 2, 0).numpy()
    for form in (image[None], array, Image.fromarray(array), [array]):
        assert torch.equal(model.segment(form), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (17, 3), (33, 95)])
def test_masks_have_the_size_of_the_photo(model, size):
    assert model.segment(photo(*size), scales=(0.5, 1.0)).shape == (1, *size)


def test_photos_of_several_sizes_are_stacked(model):
    small, large = photo(20, 30), photo(40, 25)
    masks = model.segment([small, large])
    assert masks.shape == (2, 40, 30)
    assert torch.equal(masks[0, :20, :30], model.segment(small)[0])
    assert (masks[0, 20:] == 255).all() and (masks[1, :, 25:] == 255).all()


def test_mirrored_photos_have_mirrored_masks(model):
    image = photo(48, 64)
    agreement = model.segment(image.flip(-1)).flip(-1) == model.segment(image)
    assert agreement.float().mean() > 0.99


def test_refiners_see_background_and_classes(model):
    seen = {}

    class Keep(nn.Module):
        def forward(self, image, cam):
            seen["image"], seen["cam"] = image, cam
            return cam

    image = photo()
    assert torch.equal(model.segment(image, refiner=Keep()), model.segment(image))
    assert seen["image"].shape == (1, 3, 40, 56) and seen["image"].dtype == torch.uint8
    assert seen["cam"].min() >= 0 and seen["cam"].max() <= 1

    class First(nn.Module):
        def forward(self, image, cam):
            return torch.cat([torch.ones_like(cam[:, :1]), torch.zeros_like(cam[:, 1:])], dim=1)

    assert not model.segment(image, refiner=First()).any()


def test_other_models_predict_their_classes_and_cut_their_maps():
    model = crt.create_model("crt_vit_t16", pretrained=True)
    image = Image.open("examples/photos/chelsea.jpg").resize((150, 100))
    (result,) = Segmenter(model)(image)
    (cam,) = crt.CAMExtractor(model)(image)
    assert result.names == cam.names == ["cat"]
    assert torch.equal(result.mask, cam.mask())
    assert result.labels == [model.class_names.index("cat")]
    assert not model.segment(image, threshold=1.0).any()


def test_results_show_themselves(model):
    (result,) = Segmenter(model)(photo(60, 90))
    assert result.panel().width == 1000
    assert result._repr_png_().startswith(b"\x89PNG")
    assert set(result.names) <= set(NAMES)
    (cam,) = crt.CAMExtractor(model)(photo(60, 90), ["ant"])
    assert cam.panel().size[0] == 1000 and cam._repr_png_().startswith(b"\x89PNG")
    assert np.asarray(cam.panel()).std() > 0
