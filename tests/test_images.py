"""Photos and labels of every kind that people have, and the message for those that cannot be."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from crt.images import denormalize, normalize, open_image, resize, to_tensor, to_tensors
from crt.labels import to_multi_hot
from crt.masks import load_mask

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


def test_files_are_read_by_their_content_and_the_photo_formats_only(tmp_path):
    pixels = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        picture.save(tmp_path / "photo.jpg", kind)
        assert torch.equal(open_image(tmp_path / "photo.jpg"), pixels)
        assert torch.equal(to_tensors(str(tmp_path / "photo.jpg"))[0], pixels)
    for kind in ("JPEG", "WEBP", "GIF"):
        picture.save(tmp_path / "photo", kind)
        assert open_image(tmp_path / "photo").shape == (3, 8, 9)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "TGA"])
def test_other_formats_are_refused_unread(tmp_path, kind, monkeypatch):
    """Pillow would start Ghostscript for an EPS, whatever its name."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg", kind)
    for read, what in ((open_image, "photo"), (load_mask, "mask")):
        with pytest.raises(OSError, match=f"photo.jpg cannot be read as a {what}: it is not"):
            read(tmp_path / "photo.jpg")
    if kind == "EPS":
        with pytest.raises(ValueError, match="not a photo"):
            to_tensor(Image.open(tmp_path / "photo.jpg"))


def test_what_is_not_a_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    for path in (tmp_path / "photo.jpg", tmp_path, "/dev/zero"):
        for read in (open_image, to_tensors, load_mask):
            with pytest.raises(OSError, match="not a regular file"):
                read(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_image(tmp_path / "\x1b[31m.jpg")


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("L", (400, 400)).save(tmp_path / "\x1b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    for read in (open_image, load_mask):
        with pytest.raises(OSError, match=r"\\x1b\.png cannot be read as a .*160000"):
            read(tmp_path / "\x1b.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_shrunk_when_read(tmp_path, kind, orientation):
    ramp = np.broadcast_to(np.linspace(0, 255, 600, dtype=np.uint8)[:, None, None], (600, 300, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).save(tmp_path / "photo", kind, exif=exif, quality=95)
    whole, small = open_image(tmp_path / "photo"), open_image(tmp_path / "photo", max_side=60)
    assert small.shape == ((3, 60, 30) if orientation == 1 else (3, 30, 60))
    expected = resize(whole.float(), small.shape[-2:], antialias=True)
    assert (small.float() - expected).abs().max() < 4
    assert torch.equal(open_image(tmp_path / "photo", max_side=600), whole)


def test_a_small_file_of_very_many_pixels_is_refused_unread(tmp_path):
    """A TIFF of a few pixels whose head claims 143 million of them."""
    Image.new("RGB", (24, 30)).save(tmp_path / "photo.tif")
    data = (tmp_path / "photo.tif").read_bytes()
    height = b"\x01\x01\x04\x00\x01\x00\x00\x00"
    assert data.count(height + b"\x1e\x00\x00\x00") == 1
    (tmp_path / "photo.tif").write_bytes(data.replace(height + b"\x1e\x00\x00\x00", height + b"\x1e\x00\x5b\x00"))
    for read in (open_image, load_mask):
        with pytest.raises((OSError, ValueError), match="claims 24 x 5963806 pixels in"):
            read(tmp_path / "photo.tif")


def test_normalize_and_its_inverse():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    x = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    y = normalize(x, mean, std)
    torch.testing.assert_close(y[:, 1], (x[:, 1] / 255 - 0.5) / 0.3)
    torch.testing.assert_close(normalize(x / 255, mean, std), y)
    assert torch.equal(denormalize(y, torch.tensor(mean), torch.tensor(std).view(3, 1, 1)), x)
    with pytest.raises(ValueError, match="floating-point images are in"):
        normalize(y, mean, std)


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
        (torch.rand(3, 4, 4), ValueError, "(255 * image).round().to(torch.uint8)"),
        (torch.rand(2, 3, 4, 4, dtype=torch.float16), ValueError, "crt.images.normalize"),
        (1.01 * torch.rand(3, 4, 4) - 0.005, ValueError, "[0, 1]"),
        (torch.rand(3, 4, 4).to(torch.float8_e4m3fn), TypeError, "float8"),
        (torch.rand(3, 4, 4).to_sparse(), TypeError, "dense tensor"),
        (torch.rand(3, 4, 4, device="meta"), TypeError, "no values"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "NaN"),
        (torch.full((3, 4, 4), float("inf")), ValueError, "infinite"),
        (np.zeros((4, 5, 3)), TypeError, "astype('uint8')"),
        (np.zeros((4, 5, 2), np.uint8), ValueError, "(H, W, 3)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "(H, W, 3)"),
        (np.zeros(5, np.uint8), ValueError, "(H, W, 3)"),
        (picture("F", float("nan")), ValueError, "NaN"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8), 7], TypeError, "image 1 of the list"),
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
        (["cat", "dog"], 3, ValueError, "[['cat'], ['dog'], ...]"),
        (["cat", "dog"], 2, ValueError, "[['cat'], ['dog']]"),
        (["cat", "dog"], 2, ValueError, "[labels] * 2"),
        ([0, 1], 2, ValueError, "[[0], [1]]"),
        ("cat", 2, ValueError, "each of 2 images"),
        ([], 2, ValueError, "each of 2 images"),
        (["cat", ["dog"]], 2, TypeError, "mix lists and single labels"),
        (["cat", ["dog"]], 1, TypeError, "mix lists and single labels"),
        (np.array(["cat", "dog"]), 2, ValueError, "[['cat'], ['dog']]"),
        ("\x1b[31m" + "x" * 10**6, 1, ValueError, "\\x1b"),
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
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("rows", [[[1, 0], [0, 1]], [torch.tensor([1, 1]), torch.tensor([0, 0])], [[True, False], []]])
def test_multi_hot_lists_of_two_classes_are_not_taken_for_indices(rows):
    with pytest.raises(ValueError, match="looks like multi-hot"):
        to_multi_hot(rows, 2, 2, ["cat", "dog"])
    assert to_multi_hot([[0, 1], [1]], 2, 2).tolist() == [[True, True], [False, True]]


def test_a_flat_list_is_the_labels_of_one_image():
    """Whatever the batch size: the labels of several images are lists."""
    one = [[True, True, False]]
    for labels in (
        ["cat", "dog"],
        ("dog", 0),
        {"cat", "dog"},
        [["cat", "dog"]],
        np.array(["cat", "dog"]),
        [np.int64(0), np.uint8(1)],
    ):
        assert to_multi_hot(labels, 1, 3, NAMES).tolist() == one
    assert to_multi_hot([["cat", "dog"]] * 2, 2, 3, NAMES).tolist() == one * 2
    assert to_multi_hot([("cat",), {1}], 2, 3, NAMES).tolist() == [[True, False, False], [False, True, False]]


def test_arrays_of_indices_in_a_list():
    hot = to_multi_hot([np.array([0, 2]), torch.tensor([1])], 2, 3, NAMES)
    assert hot.tolist() == [[True, False, True], [False, True, False]]


def test_names_need_a_model_with_names():
    with pytest.raises(ValueError, match="no class names"):
        to_multi_hot("cat", 1, 3, None)
    assert to_multi_hot([2], 1, 3, None).tolist() == [[False, False, True]]
    assert to_multi_hot(None, 5, 3, None) is None
