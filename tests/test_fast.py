"""What makes extraction fast changes nothing: stride, presets, compilation, the thread that reads ahead."""

import importlib.util
import itertools
import shutil
import threading
from pathlib import Path

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crt.cam import PRESETS, CAMExtractor
from crt.cam.functional import snapped_size
from crt.cam.tiling import cut, merge
from crt.cam.views import MAX_TOKENS, whole_tile
from crt.images import normalize, resize
from crt.models import CRT

from .conftest import TINY


@pytest.mark.parametrize("stride", [16, 48, 64])
def test_tiles_at_another_stride(tiny, photo, stride):
    """Against tiles cut, computed and merged by hand; 64 is the tile."""
    x = resize(normalize(photo, tiny.mean, tiny.std), snapped_size(100, 150, 1.0, 16), antialias=True)[None]
    maps, attention, *_ = tiny.tile_maps(cut(x, 64, stride))
    expected = merge(maps * attention, (7, 10), 4, stride // 16).relu()[0]
    cam = tiny.cam(photo, [0, 3], flip=False, stride=stride, normalize=False, size=(7, 10))[0]
    wanted = resize(expected[[0, 3]], (7, 10))
    torch.testing.assert_close(cam[[0, 3]], wanted, rtol=1e-4, atol=1e-5)


def test_without_a_stride_it_is_the_models(tiny, photo):
    assert CAMExtractor(tiny).stride == tiny.stride == 32
    assert torch.equal(tiny.cam(photo, [0]), tiny.cam(photo, [0], stride=32))
    assert not torch.allclose(tiny.cam(photo, [0]), tiny.cam(photo, [0], stride=64))
    assert CAMExtractor(tiny, stride=224).stride == 64


def test_presets_are_arguments(tiny, photo):
    assert PRESETS["paper"]["scales"] == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    for name, settings in PRESETS.items():
        (result,) = CAMExtractor(tiny, **settings)(photo, [1])
        assert torch.equal(result.maps[0], tiny.cam(photo, [1], **settings)[0, 1]), name


def test_fast_costs_less_than_the_papers_setting(tiny, photo):
    tiles = []
    original = tiny.tile_maps
    tiny.tile_maps = lambda batch: (tiles.append(len(batch)), original(batch))[1]
    counts = []
    for name in PRESETS:
        tiles.clear()
        tiny.cam(photo, [1], **PRESETS[name])
        counts.append(sum(tiles))
    assert counts[0] > 8 * counts[1]


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (64, 64), (100, 150), (130, 61)])
def test_a_photo_seen_whole_is_one_tile(tiny, size):
    """Maps and attention of a grid of its own size; the plain transformer's at the size of a tile."""
    photo = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    snapped = snapped_size(*size, 1.0, 16)
    x = resize(normalize(photo, tiny.mean, tiny.std), snapped, antialias=True)[None]
    maps, attention, *_ = tiny.tile_maps(x)
    assert maps.shape[-2:] == attention.shape[-2:] == (snapped[0] // 16, snapped[1] // 16)
    seen = tiny.cam(photo, [0, 3], flip=False, tile="whole", normalize=False, size=maps.shape[-2:])[0]
    torch.testing.assert_close(seen[[0, 3]], (maps * attention).relu()[0, [0, 3]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tiny.forward_maps(x, whole=True).detach(), maps, rtol=1e-4, atol=1e-5)
    if size == (64, 64):
        torch.testing.assert_close(tiny.cam(photo, [0], tile="whole"), tiny.cam(photo, [0]), rtol=0, atol=1e-5)


def test_whole_photos_of_many_sizes_come_in_order_and_as_if_alone(tiny):
    sizes = [(40, 90), (70, 30), (40, 90), (64, 64), (200, 210), (40, 90), (16, 16)]
    photos = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    labels = [[i % 5] for i in range(len(photos))]
    expected = [tiny.cam(photo, [label], tile="whole")[0, label] for photo, label in zip(photos, labels, strict=True)]
    for batch_size in (1, 3, 64):
        settings = {"tile": "whole", "batch_size": batch_size}
        results = list(CAMExtractor(tiny, **settings).stream(zip(photos, labels, strict=True)))
        for result, wanted, label in zip(results, expected, labels, strict=True):
            assert result.labels == label
            torch.testing.assert_close(result.maps, wanted, rtol=1e-4, atol=1e-5)


def test_equal_views_share_a_batch(tiny, monkeypatch):
    batches, original = [], tiny.tile_maps
    monkeypatch.setattr(tiny, "tile_maps", lambda tiles: (batches.append(tuple(tiles.shape)), original(tiles))[1])
    photos = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in [(64, 64), (64, 128), (64, 64), (64, 128)]
    ]
    CAMExtractor(tiny, tile="whole", batch_size=4)(photos, [[0]] * 4)
    assert batches == [(2, 3, 64, 128), (4, 3, 64, 64), (2, 3, 64, 128)]


def test_a_photo_too_large_to_be_seen_whole_becomes_large_tiles(tiny, monkeypatch):
    tiles, original = [], tiny.tile_maps
    monkeypatch.setattr(tiny, "tile_maps", lambda batch: (tiles.append(tuple(batch.shape)), original(batch))[1])
    large = torch.randint(0, 256, (3, 3000, 4000), dtype=torch.uint8)
    cam = tiny.cam(large, [1], tile="whole", max_side=None, flip=False, size=(30, 40))
    assert cam.shape == (1, 5, 30, 40) and cam[0, 1].max() > 0.99
    assert {(h // 16) * (w // 16) for _, _, h, w in tiles} == {MAX_TOKENS}
    assert sum(shape[0] for shape in tiles) == 5 * 7
    for rows, columns in [(1, 5000), (5000, 1), (64, 64), (65, 64), (400, 11)]:
        height, width = whole_tile(rows, columns)
        assert height <= rows and width <= columns and MAX_TOKENS / 2 < height * width <= MAX_TOKENS


def test_any_tile_of_whole_patches(tiny, photo):
    assert CAMExtractor(tiny, tile=128).stride == 64
    assert CAMExtractor(tiny, tile=64).stride == tiny.stride
    whole, tile = tiny.cam(photo, [0], tile="whole"), tiny.cam(photo, [0], tile=160)
    assert whole.shape == tile.shape and not torch.allclose(whole, tile)
    for wrong in ({"tile": 24}, {"tile": 0}, {"tile": "all"}, {"tile": 64.0}, {"tile": "whole", "stride": 16}):
        with pytest.raises(ValueError, match="multiple of the model's patch|leave stride out"):
            CAMExtractor(tiny, **wrong)


@pytest.mark.parametrize("more", [{}, {"reg_tokens": 3}, {"reg_tokens": 2, "no_embed_class": True}])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_positions_follow_the_grid(backbone, more):
    """Against timm's own transformer of that size, its positions resampled as DINOv2 does."""
    if more and "distilled" in backbone:
        pytest.skip("timm's distilled DeiT has no registers")
    arguments = {**TINY["backbone_args"], **more}
    model = CRT(backbone, num_classes=5, num_passes=0, tile=64, stride=32, backbone_args=arguments).eval()
    vit = timm.create_model(backbone, num_classes=0, img_size=(96, 48), **arguments).eval()
    state, prefix = model.backbone.state_dict(), 0 if more.get("no_embed_class") else model.prefix
    first, grid = state["pos_embed"][:, :prefix], state["pos_embed"][:, prefix:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (6, 3), mode="bicubic", align_corners=False)
    vit.load_state_dict({**state, "pos_embed": torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)})
    x = torch.randn(2, 3, 96, 48)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), vit.forward_features(x), rtol=1e-4, atol=1e-5)
    logits = model.forward_maps(x, whole=True).mean()
    logits.backward()
    assert model.backbone.pos_embed.grad[:, prefix:].abs().min() > 0


def test_positions_change_with_the_weights(tiny, photo):
    before = tiny.cam(photo, [0], tile="whole", normalize=False)
    with torch.no_grad():
        tiny.backbone.pos_embed.mul_(3)
    after = tiny.cam(photo, [0], tile="whole", normalize=False)
    assert not torch.allclose(before, after)
    tiny.backbone.pos_embed.data = tiny.backbone.pos_embed.data / 3
    torch.testing.assert_close(tiny.cam(photo, [0], tile="whole", normalize=False), before, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(tiny.cam(photo, [0], tile="whole", normalize=False), before, rtol=1e-4, atol=1e-5)


class Copies(TorchDispatchMode):
    """Counts what brings Python values to a device, or a device's values to Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("lift_fresh", "_local_scalar_dense", "nonzero")
        return function(*args, **(kwargs or {}))


def test_more_tiles_need_no_more_copies(tiny, photo):
    counts = []
    for scales in [(1.0,), (0.5, 1.0, 2.0, 3.0)]:
        with Copies() as copies:
            CAMExtractor(tiny, scales=scales, batch_size=4)(photo, [[1, 2]])
        counts.append(copies.count)
    assert counts[0] == counts[1] > 0


def test_stream_reads_in_a_thread_and_in_order(tiny):
    threads, photos = [], [torch.randint(0, 256, (3, 64, 64 + i), dtype=torch.uint8) for i in range(6)]

    def pairs():
        for photo in photos:
            threads.append(threading.current_thread())
            yield photo, [1]

    results = list(CAMExtractor(tiny, batch_size=4).stream(pairs()))
    assert [result.maps.shape[-1] for result in results] == [64, 65, 66, 67, 68, 69]
    assert len(set(threads)) == 1 and threads[0] is not threading.current_thread()
    for photo, result in zip(photos, results, strict=True):
        torch.testing.assert_close(result.maps[0], tiny.cam(photo, [1])[0, 1], rtol=1e-4, atol=1e-5)


def test_a_stream_that_is_left_ends_its_thread(tiny):
    before, asked = threading.active_count(), itertools.count()
    endless = ((torch.zeros(3, 64, 64, dtype=torch.uint8), [next(asked) * 0]) for _ in itertools.count())
    results = CAMExtractor(tiny, batch_size=2).stream(endless)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before
    assert next(asked) <= 5


@pytest.mark.parametrize("num_passes", [0, 3])
@pytest.mark.parametrize("attention_power", [0.0, 1.0])
def test_equals_the_plain_baseline(photo, num_passes, attention_power):
    """Of the benchmarks: one scale and one view at a time, full attention matrices."""
    file = Path(__file__).parents[1] / "benchmarks" / "_baseline.py"
    spec = importlib.util.spec_from_file_location("baseline", file)
    baseline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(baseline)
    settings = {"num_passes": num_passes, "attention_power": attention_power, **TINY}
    model = CRT("vit_tiny_patch16_224", num_classes=5, **settings).eval()
    expected = baseline.plain_cam(model, normalize(photo, model.mean, model.std), [0, 3], (0.3, 1.0, 1.7))
    (result,) = CAMExtractor(model, scales=(0.3, 1.0, 1.7), batch_size=7)(photo, [[0, 3]])
    torch.testing.assert_close(result.maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
def test_the_compiled_model_has_the_same_cams(tiny, photo):
    """Also when the blocks were first compiled for ``forward``, which asks for no attention."""
    torch.compiler.reset()
    x, keys = normalize(photo, tiny.mean, tiny.std)[None], list(tiny.state_dict())
    logits, expected = tiny(x).detach(), tiny.cam(photo, [0, 3])
    torch._dynamo.utils.counters.clear()
    tiny.compile()
    torch.testing.assert_close(tiny(x).detach(), logits, rtol=1e-4, atol=1e-4)
    for batch_size in (16, 3):
        torch.testing.assert_close(tiny.cam(photo, [0, 3], batch_size=batch_size), expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(tiny.state_dict()) == keys
