"""From photos to maps: properties of ``CRT.cam``, ``CRT.raw_cam`` and ``CAMExtractor``."""

import copy
import dataclasses
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

from crt.cam import CAMExtractor, mask_from_cam
from crt.cam.attention import class_attention
from crt.cam.functional import merge_scales, min_max, normalize_cam
from crt.images import normalize
from crt.metrics.boxes import component_boxes, largest_boxes
from crt.models import CRT

from .conftest import TINY


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    names = ["cat", "dog", "cow", "bird", "person"]
    return CRT("vit_tiny_patch16_224", num_classes=5, class_names=names, **TINY).eval()


def random_image(batch: int, height: int, width: int) -> torch.Tensor:
    """Normalized, that is with values beyond [0, 1]."""
    x = torch.randn(batch, 3, height, width)
    x[:, 0, 0, 0] = -1
    return x


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)), scale=st.sampled_from([0.5, 1.0, 1.3]))
def test_the_mirrored_photo_has_the_mirrored_cam(model, size, scale):
    photo = random_image(1, *size)
    cam = model.cam(photo, [[0, 3]], scales=(scale,), normalize=False)
    mirrored = model.cam(photo.flip(-1), [[0, 3]], scales=(scale,), normalize=False)
    torch.testing.assert_close(mirrored.flip(-1), cam, rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)))
def test_raw_cam_is_aligned(model, size):
    """In the exact alignment image and mirror see the same patches: the sum is the sum of two maps of one grid."""
    x = random_image(2, *size)
    both = model.raw_cam(x)
    assert both.shape == (2, 5, -(-size[0] // 16), -(-size[1] // 16))
    apart = model.raw_cam(x, mirror=False) + model.raw_cam(x.flip(-1), mirror=False).flip(-1)
    torch.testing.assert_close(both, apart, rtol=1e-4, atol=1e-4)


def test_a_bright_spot_does_not_move_when_mirrored():
    """The reference's fault: with 15 odd pixels its mirrored map lies almost a patch beside the other."""

    class Brightness(CRT):
        def tile_maps(self, tiles):
            maps = torch.nn.functional.avg_pool2d(tiles.mean(dim=1, keepdim=True), 16)
            return maps, torch.ones_like(maps)

    model = Brightness("vit_tiny_patch16_224", num_classes=1, **TINY).eval()
    photo = torch.zeros(1, 3, 64, 95)
    photo[..., 40:56] = 1.5
    centre = {}
    for align in ("exact", "reference"):
        for x, mirrored in ((photo, False), (photo.flip(-1), True)):
            cam = model.raw_cam(x, mirror=False, align=align)[0, 0].sum(dim=0)
            cam = cam.flip(-1) if mirrored else cam
            centre[align, mirrored] = float((cam * torch.arange(6)).sum() / cam.sum())
    assert abs(centre["exact", True] - centre["exact", False]) < 1e-4
    assert abs(centre["reference", True] - centre["reference", False]) > 0.05


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.7)])
def test_batched_equals_one_by_one(model, scales):
    photos = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in [(70, 90), (130, 64), (20, 33)]]
    labels = [["cat"], ["dog", "person"], [2]]
    together = CAMExtractor(model, scales=scales, batch_size=5)(photos, labels)
    for photo, label, result in zip(photos, labels, together, strict=True):
        for batch_size in (1, 64):
            (alone,) = CAMExtractor(model, scales=scales, batch_size=batch_size)(photo, [label])
            torch.testing.assert_close(alone.maps, result.maps, rtol=1e-4, atol=1e-5)
            assert alone.labels == result.labels


def test_scales_and_mirror_are_summed(model, photo):
    x = (photo.float() / 255 - model.mean) / model.std
    whole = model.cam(x, [1], scales=(0.5, 1.0), normalize=False)
    parts = [model.cam(x, [1], scales=(s,), flip=False, normalize=False) for s in (0.5, 1.0)]
    parts += [model.cam(x.flip(-1), [1], scales=(s,), flip=False, normalize=False).flip(-1) for s in (0.5, 1.0)]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.cam(x, [1], scales=(0.5, 1.0)), normalize_cam(whole))


def test_one_tile_is_attention_times_class_map(model):
    tile = torch.randn(1, 3, 64, 64)
    maps, attention, *_ = model.tile_maps(tile)
    expected = (maps * attention).relu()
    torch.testing.assert_close(model.raw_cam(tile, mirror=False), expected)
    torch.testing.assert_close(maps, model.forward_maps(tile).detach())


def test_attention_has_an_exponent_and_maps_an_activation():
    """The same weights under other settings: what becomes of class map and attention."""
    x = torch.randn(1, 3, 64, 64)
    state, made = CRT("vit_tiny_patch16_224", num_classes=5, **TINY).state_dict(), {}
    for power, activation in [(1.0, "relu"), (0.5, "relu"), (0.0, "relu"), (0.0, "sigmoid")]:
        model = CRT("vit_tiny_patch16_224", num_classes=5, attention_power=power, activation=activation, **TINY).eval()
        model.load_state_dict(state)
        made[power, activation] = model.raw_cam(x, mirror=False)
    maps = model.forward_maps(x).detach()
    model.attention_power = 1.0
    attention = model.tile_maps(x)[1]
    torch.testing.assert_close(made[1.0, "relu"], (maps * attention).relu())
    torch.testing.assert_close(made[0.5, "relu"], (maps * attention.sqrt()).relu())
    torch.testing.assert_close(made[0.0, "relu"], maps.relu())
    torch.testing.assert_close(made[0.0, "sigmoid"], maps.sigmoid())


def test_the_map_of_an_object_is_that_of_any_class():
    """Background is a logit of 0 (``mask_loss``): how much likelier the classes together are is one map for all."""
    model = CRT("vit_tiny_patch16_224", num_classes=5, attention_power=0.0, activation="object", **TINY).eval()
    x = torch.randn(1, 3, 64, 64)
    maps = model.forward_maps(x).detach()
    background = torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1).softmax(dim=1)[:, :1]
    likelier = (1 - 2 * background).clamp(min=0)
    torch.testing.assert_close(model.raw_cam(x, mirror=False), likelier.expand(-1, 5, -1, -1))
    model.activation = "sigmoid"
    likeliest = CAMExtractor(model, flip=False)(x[0])[0].labels
    model.activation = "object"
    for labels in (None, [[3]]):
        found = CAMExtractor(model, flip=False, normalize=False)(x, labels, size=(4, 4))[0]
        assert found.labels == (likeliest if labels is None else [3])
        torch.testing.assert_close(found.maps, likelier[0].expand(len(found.labels), -1, -1))


def test_logits_are_the_mean_of_the_highest_cells():
    model = CRT("vit_tiny_patch16_224", num_classes=5, pool=0.25, **TINY).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        highest = model.forward_maps(x).flatten(2).sort(dim=-1).values[..., -4:].mean(dim=-1)
        torch.testing.assert_close(model(x), highest)
    seen = CAMExtractor(model)(x[0])[0].labels
    both = (model(x)[0] + model(x.flip(-1))[0]) / 2
    assert seen == ((both > 0).nonzero().flatten().tolist() or [int(both.argmax())])


@pytest.mark.parametrize("arguments", [{"attention_power": -1.0}, {"pool": 0.0}, {"pool": 1.5}, {"activation": "tanh"}])
def test_settings_of_the_map_have_ranges(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CRT("vit_tiny_patch16_224", **arguments, **TINY)


def test_all_kinds_of_images_give_the_same_map(model, photo):
    array = photo.permute(1, 2, 0).numpy()
    normalised = (photo.float() / 255 - model.mean) / model.std
    expected = model.cam(photo, ["cat"])
    kinds = [
        Image.fromarray(array),
        array,
        np.asfortranarray(array),
        array.astype(np.uint16) * 257,
        photo[None],
        [photo],
        normalised,
        normalised[None],
        normalised.double(),
        normalised.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ]
    for kind in kinds:
        torch.testing.assert_close(model.cam(kind, [["cat"]]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.cam(normalised.half(), ["cat"]), expected, rtol=0, atol=0.05)


def test_all_kinds_of_labels_give_the_same_map(model, photo):
    hot = torch.tensor([[0, 1, 0, 0, 1]])
    expected = model.cam(photo, hot)
    kinds = [
        hot.bool(), hot.float(), hot[0], hot.numpy(), ["dog", "person"], ("person", "dog"), [1, 4], [np.int64(1), 4],
        [["dog", "person"]], [[4, "dog"]], {"dog", "person"}, [["dog", "dog", "person"]],
    ]  # fmt: skip
    for kind in kinds:
        assert torch.equal(model.cam(photo, kind), expected)
    assert torch.equal(model.cam(photo, "dog"), model.cam(photo, [1]))
    assert torch.equal(model.cam(photo, 1), model.cam(photo, [1]))


def test_absent_classes_are_exactly_zero(model, photo):
    cams = model.cam([photo, photo], [["cat"], []])
    assert cams[0, 0].max() > 0.99
    assert not cams[0, 1:].any()
    assert not cams[1].any()
    assert not model.cam(photo, torch.zeros(1, 5)).any()
    assert not model.cam(photo, []).any()


def test_without_labels_the_predicted_classes_are_shown(model, photo):
    model = copy.deepcopy(model)
    for bias, expected in [((9, -9, 9, -9, -9), [0, 2]), ((-9, -9, -8, -9, -9), [2])]:
        with torch.no_grad():
            model.head.weight.mul_(0.01)
            model.head.bias.copy_(torch.tensor(bias))
        assert CAMExtractor(model)(photo)[0].labels == expected


def test_photos_of_different_sizes_lie_in_the_corner(model):
    photos = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in [(40, 90), (70, 30)]]
    cams = model.cam(photos, [["cat"], ["dog"]])
    assert cams.shape == (2, 5, 70, 90)
    torch.testing.assert_close(cams[0, :, :40], model.cam(photos[0], "cat")[0], rtol=1e-4, atol=1e-5)
    assert not cams[0, :, 40:].any()
    assert not cams[1, :, :, 30:].any()
    assert model.cam(photos, [["cat"], ["dog"]], size=(24, 36)).shape == (2, 5, 24, 36)


def test_a_large_photo_is_seen_reduced(model):
    photo = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    seen = []
    original = model.tile_maps
    model.tile_maps = lambda tiles: (seen.append(len(tiles)), original(tiles))[1]
    try:
        reduced = model.cam(photo, "cat", max_side=100)
        few = sum(seen)
        model.cam(photo, "cat", max_side=None)
    finally:
        del model.tile_maps
    assert reduced.shape == (1, 5, 300, 400)
    assert sum(seen) - few > 4 * few


@pytest.mark.parametrize("classes", [1, 1000])
def test_few_and_many_classes(classes, photo):
    model = CRT("vit_tiny_patch16_224", num_classes=classes, **TINY).eval()
    cams = model.cam(photo, [classes - 1])
    assert cams.shape == (1, classes, 100, 150)
    assert cams[0, -1].max() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (15, 17), (3000, 4000)])
def test_any_size(model, size):
    photo = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    cams = model.cam(photo, "cat")
    assert cams.shape == (1, 5, *size)
    assert torch.isfinite(cams).all()


def test_the_model_is_left_as_found(model, photo):
    model.train()
    model.backbone.eval()
    before = [module.training for module in model.modules()]
    model.cam(normalize(photo, model.mean, model.std), "cat")
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="64, 64"):
        model.tile_maps(torch.zeros(1, 3, 65, 64))
    assert [module.training for module in model.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()


def test_no_gradients_and_the_images_device(model, photo):
    x = normalize(photo, model.mean, model.std).requires_grad_()
    cams = model.cam(x, "cat")
    assert not cams.requires_grad
    assert cams.device == x.device
    assert not model.raw_cam(x[None]).requires_grad


def test_a_model_in_half_precision(model, photo):
    half = CRT(**model.config).eval()
    half.load_state_dict(model.state_dict())
    cams = half.bfloat16().cam(photo, "cat")
    assert cams.dtype == torch.float32
    torch.testing.assert_close(cams, model.cam(photo, "cat"), rtol=0, atol=0.15)


def test_stream_holds_few_photos(model):
    """Memory is flat: in flight are the photos that share a batch of tiles, and two that are read ahead."""
    asked = []

    def pairs():
        for i in range(40):
            asked.append(i)
            yield torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "cat"

    for done, result in enumerate(CAMExtractor(model, batch_size=4).stream(pairs())):
        assert result.names == ["cat"]
        assert len(asked) - done <= 6
    assert len(asked) == 40


@pytest.mark.parametrize("pair", [7, "cat", (torch.zeros(3, 9, 9), "cat", 1)])
def test_what_is_no_pair_is_refused(model, pair):
    with pytest.raises(TypeError, match=r"photo 0 of the stream: expected \(image, labels\)"):
        list(CAMExtractor(model).stream([pair]))


def test_a_bad_photo_in_a_stream_comes_after_the_good_ones(model, photo):
    def pairs():
        yield from [(photo, "cat")] * 3
        yield torch.full((3, 9, 9), float("nan")), "cat"
        raise AssertionError("not asked for")

    results, error = [], None
    try:
        for result in CAMExtractor(model, batch_size=64).stream(pairs()):
            results.append(result)
    except ValueError as caught:
        error = str(caught)
    assert len(results) == 3
    assert error.startswith("photo 3 of the stream: ")
    assert "NaN" in error


def test_threads_do_not_see_each_others_attention(model):
    tiles = [torch.randn(1 + i, 3, 64, 64) for i in range(4)]
    expected = [model.tile_maps(t)[1] for t in tiles]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(lambda t: model.tile_maps(t)[1], tiles), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_peak_memory_of_many_scales_is_that_of_one(photo):
    """Scales are summed as they come: the arrays of full size do not pile up."""
    maps = [torch.rand(4, 8 * n, 8 * n) for n in range(1, 8)]
    made = []
    original = torch.nn.functional.interpolate

    def counted(*arguments, **options):
        made.append(weakref.ref(result := original(*arguments, **options)))
        assert sum(ref() is not None for ref in made) <= 2
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "interpolate", counted)
        merge_scales(maps, (300, 300))
    assert len(made) == 7


def test_attention_is_not_rounded_by_autocast(model):
    block, x = model.backbone.blocks[0], torch.randn(2, 17, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = class_attention(block, x)
    torch.testing.assert_close(found, class_attention(block, x).detach(), rtol=1e-6, atol=1e-7)


def test_result(model, photo, tmp_path):
    (result,) = CAMExtractor(model)(photo, [["dog", "person"]])
    assert result.names == ["dog", "person"]
    mask = result.mask(0.5)
    assert mask.shape == (100, 150)
    assert set(mask.unique().tolist()) <= {0, 2, 5}
    assert result.overlay().size == (150, 100)
    assert torch.equal(result.pixels, photo)
    (raw,) = CAMExtractor(model, normalize=False)(photo, [["dog", "person"]])
    assert raw.maps.max() < 0.9 * result.maps.max()
    assert (raw.mask(0.5) != mask).float().mean() < 0.01
    for name, (x0, y0, x1, y1) in result.boxes(0.5).items():
        cam = result.maps[result.names.index(name)]
        assert 0 <= x0 < x1 <= 150
        assert 0 <= y0 < y1 <= 100
        inside = cam[y0:y1, x0:x1] >= 0.5 * cam.max()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    result.save(tmp_path / "maps.safetensors")
    with safe_open(tmp_path / "maps.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("maps"), result.maps)
        assert file.get_tensor("labels").tolist() == [1, 4]
        assert file.metadata()["names"] == '["dog", "person"]'
    with pytest.raises(OSError):
        result.save(tmp_path / "no folder" / "maps.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["maps.safetensors"]


def test_boxes_are_cut_as_the_metric_cuts_them(photo):
    """Also where a map's lowest value is not zero: that of a probability."""
    for activation in ("relu", "sigmoid"):
        model = CRT("vit_tiny_patch16_224", num_classes=5, activation=activation, **TINY).eval()
        (result,) = CAMExtractor(model)(photo, [0, 1, 2, 3, 4])
        for threshold in (0.05, 0.3, 0.6, 0.95):
            level = torch.tensor([threshold])
            for cam, box in zip(result.maps, result.boxes(threshold).values(), strict=True):
                assert list(box) == largest_boxes(component_boxes(min_max(cam), level), 1)[0].tolist()
    flat = dataclasses.replace(result, maps=torch.full((5, 4, 4), 0.7))
    assert flat.boxes(0.5) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(model, photo, value, tmp_path):
    (result,) = CAMExtractor(model)(photo, [0])
    maps = result.maps.clone()
    maps[0, 3, 3] = value
    broken = dataclasses.replace(result, maps=maps)
    for use in (broken.mask, broken.boxes, lambda: broken.save(tmp_path / "x"), lambda: mask_from_cam(maps, [0], 0.5)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            use()
    assert not list(tmp_path.iterdir())
    for name, labels in [("head.bias", [0]), ("head.bias", None), ("backbone.norm.weight", [1])]:
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            damaged.get_parameter(name)[0] = value
        for normalized in (True, False):
            with pytest.raises(ValueError, match="NaN or infinite values: check the model's weights"):
                CAMExtractor(damaged, normalize=normalized)(photo, labels)


def test_refined_result(model, photo):
    def smooth(image, cam):
        assert image.shape == (1, 3, 100, 150) and cam.shape == (1, 2, 100, 150) and cam.max() <= 1
        return 0.5 * F.avg_pool2d(cam, 9, stride=1, padding=4)

    (raw,) = CAMExtractor(model, normalize=False)(photo, [["dog", "person"]])
    refined = raw.refined(smooth)
    assert refined.labels == raw.labels and refined.normalized and torch.equal(refined.pixels, photo)
    expected = F.avg_pool2d(raw.cam[None], 9, stride=1, padding=4)[0]
    torch.testing.assert_close(refined.maps, expected / expected.amax(dim=(1, 2), keepdim=True), rtol=1e-3, atol=1e-4)
    (empty,) = CAMExtractor(model)(photo, [[]])
    assert empty.refined(smooth) is empty


@pytest.mark.parametrize(
    "arguments",
    [
        {"scales": ()},
        {"scales": (0,)},
        {"scales": (-1,)},
        {"scales": 1.0},
        {"scales": "1"},
        {"scales": ("1",)},
        {"scales": (99,)},
        {"batch_size": 0},
        {"max_side": 0},
        {"stride": 0},
        {"stride": 24},
    ],
)
def test_wrong_settings(model, arguments):
    with pytest.raises(ValueError, match="scales|at least 1|stride"):
        CAMExtractor(model, **arguments)


def test_wrong_size(model, photo):
    for size in [(0, 5), (1, 2, 3)]:
        with pytest.raises(ValueError, match="size must be"):
            model.cam(photo, "cat", size=size)


def test_wrong_raw_input(model):
    for x, message in [(torch.full((1, 3, 64, 64), float("nan")), "NaN"), (torch.zeros(0, 3, 64, 64), "no images")]:
        with pytest.raises(ValueError, match=message):
            model.raw_cam(x)
    for x in (torch.zeros(3, 64, 64), torch.zeros(1, 4, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            model.raw_cam(x)
    with pytest.raises(ValueError, match="'exact' or 'reference'"):
        model.raw_cam(torch.randn(1, 3, 64, 64), align="left")
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model.forward_maps(torch.zeros(1, 1, 64, 64))
