"""Masks without labels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crt
from crt.cam import Segmenter
from crt.cam.functional import activate
from crt.images import normalize

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


def test_maps_of_competing_classes_say_whether_each_beats_the_background(model):
    """A map exceeds one half exactly where its class is likelier than background; refining nothing changes nothing."""
    image = photo(48, 64)
    (result,) = crt.CAMExtractor(model, flip=False)(image, [["ant", "cat"]])
    (raw,) = crt.CAMExtractor(model, flip=False, normalize=False)(image, [["ant", "cat"]])
    whole = torch.cat([1 - raw.maps.sum(dim=0, keepdim=True), raw.maps])
    assert torch.equal(result.maps > 0.5, raw.maps > whole[:1])
    values = torch.tensor([0, 1, 3], dtype=torch.uint8)  # background, ant, cat
    assert torch.equal(result.mask(0.5), values[whole.argmax(dim=0)])
    assert torch.allclose(result.refined(_Same()).maps, result.maps, atol=1e-4)


class _Same(nn.Module):
    def forward(self, image, cam):
        assert torch.allclose(cam.sum(dim=1), torch.ones(()))  # the background comes first, and all sum to one
        return cam


def test_spreading_follows_the_features():
    from crt.cam.spread import spread

    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(2, 30, generator=torch.Generator().manual_seed(1))
    cos = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    affinity = cos.clamp(min=0) ** 8
    affinity = affinity / affinity.sum(dim=1, keepdim=True)
    assert torch.allclose(spread(maps, features, power=8), maps @ affinity.T, atol=1e-6)


def test_models_that_spread_do_so_in_every_view(model):
    image = photo(32, 32)
    model.spread = 4.0
    (result,) = crt.CAMExtractor(model, flip=False, normalize=False)(image, [["ant", "bee", "cat"]], size=(2, 2))
    x = (image.float() / 255 - model.mean) / model.std
    with torch.no_grad():
        tokens = model.forward_features(x[None])
        from crt.cam.spread import spread

        expected = spread(activate(model.forward_maps(x[None]), "softmax")[0].flatten(1), tokens[0, 1:], power=4.0)
    assert torch.allclose(result.maps.flatten(1), expected, atol=1e-5)


def test_a_classifier_beside_the_maps_predicts_the_classes(tmp_path):
    torch.manual_seed(1)
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    model = crt.CRT(
        "vit_tiny_patch16_224",
        num_classes=3,
        class_names=NAMES,
        num_passes=0,
        tile=32,
        stride=16,
        activation="softmax",
        classifier="tokens",
        whole=True,
        spread=2.0,
        attention_power=0.0,
        backbone_args=small,
    ).eval()
    image = photo(48, 80)
    x = ((image.float() / 255 - model.mean) / model.std)[None]
    with torch.no_grad():
        tokens = model.forward_features(x)
        logits = model.classifier(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))
        assert torch.allclose(model(x), logits, atol=1e-6)
        model.classifier.bias.copy_(torch.tensor([5.0, -5.0, 5.0]))
    (result,) = crt.CAMExtractor(model, flip=False)(image)
    assert result.names == ["ant", "cat"]
    model.save_pretrained(tmp_path)
    again = crt.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.config == model.config and again.whole and again.spread == 2.0
    assert torch.equal(again.segment(image), model.segment(image))
    new = crt.create_model(f"local-dir:{tmp_path}", pretrained=True, class_names=["x", "y"])
    assert new.classifier.out_features == 2


def test_models_that_prefer_the_whole_photo_see_it_so(model):
    image = photo(48, 80)
    model.whole = True
    whole = model.cam(image, ["ant"], tile="whole")
    assert torch.equal(model.cam(image, ["ant"]), whole)
    tiles = model.cam(image, ["ant"], tile="own")
    assert not torch.equal(tiles, whole)
    model.whole = False
    assert torch.equal(model.cam(image, ["ant"]), tiles)


def test_positions_may_be_stored_for_another_size_than_the_tile(tmp_path):
    """Tiles and whole photos interpolate the same stored positions, so a photo of one tile is seen alike both ways."""
    torch.manual_seed(2)
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    model = crt.CRT(
        "vit_tiny_patch16_224", num_classes=3, num_passes=0, tile=64, stride=32, image_size=112, backbone_args=small
    ).eval()
    assert model.backbone.pos_embed.shape[1] == 1 + 7 * 7
    image = photo(64, 64)
    whole, tile = (model.cam(image, [[0, 2]], tile=way) for way in ("whole", "own"))
    assert torch.allclose(whole, tile, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = crt.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.config == model.config and again.image_size == 112 and again.tile == 64
    assert torch.equal(again.cam(image, [[0]]), model.cam(image, [[0]]))
    with pytest.raises(ValueError, match="image_size"):
        crt.CRT("vit_tiny_patch16_224", tile=64, stride=32, image_size=100, backbone_args=small)


def test_photos_far_larger_than_they_are_seen_are_reduced_as_bytes(model, monkeypatch):
    """The maps stay those of the photo seen at once, and no float copy of it is made."""
    from crt.cam import extractor

    torch.manual_seed(0)
    small = torch.rand(3, 24, 32)
    image = (255 * nn.functional.interpolate(small[None], (480, 640), mode="bilinear")[0]).round().to(torch.uint8)
    sizes = []
    monkeypatch.setattr(extractor, "normalize", lambda x, *how: sizes.append(x.shape) or normalize(x, *how))
    (seen,) = crt.CAMExtractor(model, max_side=64)(image, [["ant"]], size=(48, 64))
    assert sizes == [(3, 96, 128)]  # twice the largest view
    monkeypatch.setattr(extractor, "LARGE", 100)
    (whole,) = crt.CAMExtractor(model, max_side=64)(image, [["ant"]], size=(48, 64))
    assert sizes[-1] == (3, 480, 640)
    assert (seen.maps - whole.maps).abs().max() < 0.05
