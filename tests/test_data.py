"""VOC folders and palette masks."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from crt.data import VOC_CLASSES, ImageDataset
from crt.masks import load_mask, palette, save_mask


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of two photos."""
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb 1\n\n")
    (tmp_path / "labels.csv").write_text("id,labels,difficult\na,person cat,\nb,dog,chair\nc,car,\n")
    return tmp_path


def indices(*names):
    return [VOC_CLASSES.index(name) for name in names]


def test_list_with_labels(voc):
    data = ImageDataset.from_voc(voc, "train", masks=True)
    assert len(data) == 2
    assert data[0] == (
        voc / "JPEGImages/a.jpg",
        "a",
        indices("cat", "person"),
        voc / "SegmentationClassAug/a.png",
        None,
    )
    assert ImageDataset.from_voc(voc, "train")[0].mask is None
    assert data[1].labels == indices("chair", "dog")
    assert ImageDataset.from_voc(voc, "train", difficult=False)[1].labels == indices("dog")
    assert len(VOC_CLASSES) == 20


@pytest.mark.parametrize(
    ("file", "text", "error", "parts"),
    [
        ("labels.csv", "id,labels\na,kat\nb,dog\n", ValueError, ["labels.csv, line 2", "'kat'", "'cat'"]),
        ("labels.csv", "id,labels\na,cat\n", ValueError, ["train.txt, line 2", "'b'"]),
        ("labels.csv", "name,classes\na,cat\n", ValueError, ["labels.csv, line 2", "id,labels"]),
        ("labels.csv", "id,labels\n\n\na,kat\n", ValueError, ["labels.csv, line 4", "'kat'"]),
        ("labels.csv", "id,labels\na,cat,person\n", ValueError, ["labels.csv, line 2", "a,cat"]),
        ("labels.csv", "id,labels\na,cat\na,dog\n", ValueError, ["labels.csv, line 3", "twice"]),
        ("labels.csv", 'id,labels\na,"cat\nb,dog\n', ValueError, ["labels.csv", "CSV in UTF-8"]),
        ("ImageSets/Segmentation/train.txt", "a\n\nb\na\n", ValueError, ["train.txt, line 4", "'a'", "twice"]),
        ("ImageSets/Segmentation/train.txt", "\n", ValueError, ["train.txt names no photos"]),
        ("labels.csv", None, FileNotFoundError, ["labels.csv", "id,labels,difficult"]),
        ("ImageSets/Segmentation/train.txt", None, FileNotFoundError, ["train.txt", "Lists in that folder: none"]),
    ],
)
def test_mistakes_are_named_with_file_and_line(voc, file, text, error, parts):
    (voc / file).unlink() if text is None else (voc / file).write_text(text)
    with pytest.raises(error) as caught:
        ImageDataset.from_voc(voc, "train", masks=True)
    for part in parts:
        assert part in str(caught.value)


def test_palette_is_vocs():
    colours = palette()
    assert colours[[0, 1, 2, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip
    assert len(np.unique(colours, axis=0)) == 256


def test_masks_survive_the_file(tmp_path):
    mask = np.array([[0, 1, 255], [20, 7, 3]], dtype=np.int64)
    save_mask(mask, tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png").tolist() == mask.tolist()
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, int), np.full((2, 2), 256), np.full((2, 2), -1)])
def test_what_is_no_mask_is_refused(mask, tmp_path):
    with pytest.raises(ValueError, match="mask is|0 to 255"):
        save_mask(mask, tmp_path / "mask.png")


def test_a_colour_picture_is_no_mask(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png.*RGB"):
        load_mask(tmp_path / "photo.png")


def test_a_mark_of_byte_order_is_no_part_of_a_table(voc):
    for file in ("labels.csv", "ImageSets/Segmentation/train.txt"):
        (voc / file).write_text((voc / file).read_text(), encoding="utf-8-sig")
    assert ImageDataset.from_voc(voc, "train")[0].labels == indices("cat", "person")


def test_masks_that_cannot_be_read_as_stored_are_named(tmp_path):
    mask, file = np.arange(4, dtype=np.uint8)[None].repeat(8, 0), tmp_path / "mask.png"
    grey = zlib.compress(b"".join(b"\0" + bytes([0x01, 0x23]) for _ in range(8)))
    header = struct.pack(">IIBBBBB", 4, 8, 4, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", grey), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(ValueError, match=r"mask\.png.*L;4"):
        load_mask(file)
    Image.fromarray(mask).save(file, "jpeg")
    with pytest.raises(ValueError, match=r"mask\.png.*JPEG"):
        load_mask(file)
    save_mask(np.random.default_rng(0).integers(0, 255, (80, 80)), file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"mask\.png cannot be read as a mask"):
        load_mask(file)
    with pytest.raises(FileNotFoundError):
        load_mask(tmp_path / "none.png")
