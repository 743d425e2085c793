"""Photos and labels of every kind that people have, and the message for those that cannot be."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from crt.images import to_tensors
from crt.labels import to_multi_hot

NAMES = ["cat", "dog", "cow"]


def picture(mode: str, colour) -> Image.Image:
    return Image.new(mode, (5, 4), colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (picture("RGB", (10, 20, 30)), (10, 20, 30)),
        (picture("L", 77), (77, 77, 77)),
        (picture("LA", (77, 255)), (77, 77, 77)),
        (picture("1", 1), (255, 255, 255)),
        (picture("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (picture("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (picture("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
        (picture("YCbCr", (255, 128, 128)), (255, 255, 255)),
        (picture("I;16", 257 * 99), (99, 99, 99)),
        (picture("I", 257 * 99), (99, 99, 99)),
        (picture("I", 200), (200, 200, 200)),
        (picture("I;16", 257), (1, 1, 1)),
        (picture("F", 12.4), (12, 12, 12)),
        (picture("F", 0.2), (51, 51, 51)),
        (torch.full((1, 4, 5), 9, dtype=torch.uint8), (9, 9, 9)),
        (picture("RGB", (1, 2, 3)).quantize(4), (1, 2, 3)),
        (np.full((4, 5), 9, np.uint8), (9, 9, 9)),
        (np.full((4, 5, 1), 9, np.uint8), (9, 9, 9)),
        (np.full((4, 5, 4), (7, 8, 9, 255), np.uint8), (7, 8, 9)),
    ],
)
def test_every_mode_becomes_rgb(image, expected):
    (photo,) = to_tensors(image)
    assert photo.shape == (3, 4, 5)
    assert photo.dtype == torch.uint8
    assert photo[:, 0, 0].tolist() == list(expected)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (3, 4)), (6, (0, 3)), (8, (4, 0))])
def test_photos_are_turned_as_exif_says(orientation, corner):
    image = picture("RGB", 0)
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    (photo,) = to_tensors(Image.open(file))
    assert photo[0][corner] == 255
    assert photo.sum() == 255


def test_a_truncated_file_is_an_error_even_in_a_list():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    broken = Image.open(io.BytesIO(file.getvalue()[:800]))
    with pytest.raises(OSError, match="truncated"):
        to_tensors(broken)
    with pytest.raises(OSError, match=r"image 1 of the list.*truncated"):
        to_tensors([picture("L", 0), Image.open(io.BytesIO(file.getvalue()[:800]))])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("no photo.jpg", FileNotFoundError, "no such file"),
        (7, TypeError, "PIL image"),
        (None, TypeError, "PIL image"),
        ([], ValueError, "empty list"),
        (torch.zeros(0, 3, 4, 4), ValueError, "batch of no images"),
        (torch.zeros(4, 4), ValueError, "(3, H, W)"),
        (torch.zeros(4, 4, 3), ValueError, "permute(2, 0, 1)"),
        (torch.zeros(2, 4, 4), ValueError, "(3, H, W)"),
        (torch.zeros(3, 0, 4), ValueError, "(3, H, W)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "uint8"),
        (torch.full((3, 4, 4), 200.0), ValueError, "to(torch.uint8)"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "NaN"),
        (torch.full((3, 4, 4), float("inf")), ValueError, "infinite"),
        (np.zeros((4, 5, 3)), TypeError, "astype('uint8')"),
        (np.zeros((4, 5, 2), np.uint8), ValueError, "(H, W, 3)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "(H, W, 3)"),
        (np.zeros(5, np.uint8), ValueError, "(H, W, 3)"),
        (picture("F", float("nan")), ValueError, "NaN"),
        ([torch.zeros(3, 4, 4), 7], TypeError, "image 1 of the list"),
    ],
)
def test_what_is_no_photo_is_refused(image, error, message):
    with pytest.raises(error) as caught:
        to_tensors(image)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "count", "error", "message"),
    [
        ("kat", 1, ValueError, "Did you mean 'cat'"),
        ("Cat", 1, ValueError, "Did you mean 'cat'"),
        ("zebra", 1, ValueError, "cat, dog, cow"),
        ([3], 1, ValueError, "0 to 2"),
        ([-1], 1, ValueError, "0 to 2"),
        ([True], 1, TypeError, "name or index"),
        ([1.0], 1, TypeError, "name or index"),
        (["cat", "dog"], 3, ValueError, "each of 3 images"),
        ([["cat"], ["dog"]], 1, ValueError, "each of 1 images"),
        (torch.zeros(2, 4), 2, ValueError, "(2, 3)"),
        (torch.tensor([0, 2]), 2, ValueError, "[[0, 2], [5]]"),
        ([[0, 1, 1]], 1, ValueError, "looks like multi-hot"),
        ({"cat", "dog"}, 2, ValueError, "each of 2 images"),
        (torch.tensor([[0.0, 0.5, 1.0]]), 1, ValueError, "0 or 1"),
        (torch.tensor([[0.0, float("nan"), 1.0]]), 1, ValueError, "0 or 1"),
        ({"cat": 1}, 1, TypeError, "multi-hot"),
        (2.5, 1, TypeError, "multi-hot"),
    ],
)
def test_what_is_no_label_is_refused(labels, count, error, message):
    with pytest.raises(error) as caught:
        to_multi_hot(labels, count, 3, NAMES)
    assert message in str(caught.value)


def test_arrays_of_indices_in_a_list():
    hot = to_multi_hot([np.array([0, 2]), torch.tensor([1])], 2, 3, NAMES)
    assert hot.tolist() == [[True, False, True], [False, True, False]]


def test_names_need_a_model_with_names():
    with pytest.raises(ValueError, match="no class names"):
        to_multi_hot("cat", 1, 3, None)
    assert to_multi_hot([2], 1, 3, None).tolist() == [[False, False, True]]
    assert to_multi_hot(None, 5, 3, None) is None
