"""The dense CRF: edges of the photo move into the maps and labels."""

import sys

import pytest
import torch

from crt.refine import DenseCRF, create_refiner
from crt.refine.crf import CRFSettings, crf_labels


@pytest.fixture
def installed():
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed (extra crf)")


@pytest.fixture
def square():
    """A bright square on a dark photo (3, 60, 80) uint8, with noise; where it is (60, 80); and a map beside it."""
    place = torch.zeros(60, 80, dtype=torch.bool)
    place[20:45, 25:60] = True
    photo = (place * 180 + torch.randint(0, 20, (3, 60, 80))).to(torch.uint8)
    blurred = torch.zeros(60, 80)
    blurred[14:40, 20:55] = 0.8
    return photo, place, blurred


@pytest.mark.usefixtures("installed")
def test_labels_move_to_the_edges(square):
    photo, place, blurred = square
    labels = (blurred > 0.5).to(torch.uint8)
    cleaned = crf_labels(photo, labels, 2)
    assert cleaned.dtype == torch.uint8 and torch.equal(cleaned.bool(), place)
    assert torch.equal(crf_labels(photo / 255, labels.long(), 2), cleaned.long())
    assert torch.equal(crf_labels(photo, torch.zeros_like(labels), 1), torch.zeros_like(labels))


@pytest.mark.usefixtures("installed")
def test_maps_move_to_the_edges(square):
    photo, place, blurred = square
    cam = torch.stack([blurred * 0.9 + 0.05, torch.zeros(60, 80)])[None]
    refined = DenseCRF()(photo[None], cam)
    assert refined.shape == cam.shape and refined.min() >= 0 and refined.max() <= 1
    assert torch.equal(refined[0, 1], torch.zeros(60, 80))

    def overlap(mask):
        return float((mask & place).sum() / (mask | place).sum())

    assert overlap(refined[0, 0] > 0.5) > 0.95 > overlap(cam[0, 0] > 0.25)


@pytest.mark.usefixtures("installed")
def test_no_iteration_gives_the_scores():
    cam = torch.rand(2, 3, 20, 30)
    start = DenseCRF(background=0.2, settings=CRFSettings(iterations=0))
    refined = start(torch.zeros(2, 3, 20, 30, dtype=torch.uint8), cam)
    torch.testing.assert_close(refined, cam / (0.2 + cam.sum(dim=1, keepdim=True)), atol=2e-5, rtol=0)


@pytest.mark.usefixtures("installed")
def test_the_background_is_that_of_the_model_that_made_the_maps(tiny):
    assert create_refiner("crf", model=tiny).background == tiny.seed_threshold != DenseCRF().background


@pytest.mark.usefixtures("installed")
def test_any_size_dtype_and_batch(square):
    photo, _, _ = square
    cam, crf = torch.rand(2, 2, 15, 20).bfloat16(), DenseCRF()
    images = torch.stack([photo, photo.flip(-1)])
    refined = crf(images, cam)
    assert refined.shape == cam.shape and refined.dtype == torch.bfloat16
    for b in range(2):
        assert torch.equal(crf(images[b : b + 1], cam[b : b + 1])[0], refined[b])
    assert torch.equal(create_refiner("crf")(images, cam), refined)
    assert crf(images, cam[:, :0]).shape == (2, 0, 15, 20)


def test_without_pydensecrf_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.delitem(sys.modules, "pydensecrf.densecrf", raising=False)
    for call in (DenseCRF, lambda: crf_labels(torch.zeros(3, 4, 4), torch.zeros(4, 4).long(), 2)):
        with pytest.raises(ImportError, match=r"pip install 'crt-wsss\[crf\]'"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenseCRF(background=0), "background must be above 0"),
        (lambda: crf_labels(torch.zeros(3, 4, 4), torch.zeros(4, 5).long(), 2), "labels of shape (H, W)"),
        (lambda: crf_labels(torch.zeros(3, 4, 4), torch.zeros(4, 4), 2), "torch.float32 (4, 4)"),
        (lambda: crf_labels(torch.zeros(3, 4, 4), torch.full((4, 4), 255), 2), "0 to 1 for 2 labels, got 255"),
        (lambda: crf_labels(torch.zeros(3, 4, 4), torch.zeros(4, 4).long(), 2, gt_prob=1), "gt_prob"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
