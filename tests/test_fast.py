"""What makes extraction fast changes nothing: stride, presets, compilation, the thread that reads ahead."""

import importlib.util
import itertools
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crt.cam import PRESETS, CAMExtractor, cut, merge, snapped_size
from crt.images import normalize, resize
from crt.models import CRT

from .conftest import TINY


@pytest.mark.parametrize("stride", [16, 48, 64])
def test_tiles_at_another_stride(tiny, photo, stride):
    """Against tiles cut, computed and merged by hand; 64 is the tile."""
    x = resize(normalize(photo, tiny.mean, tiny.std), snapped_size(100, 150, 1.0, 16), antialias=True)[None]
    maps, attention = tiny.tile_maps(cut(x, 64, stride))
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
