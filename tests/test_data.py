"""VOC folders and palette masks."""

import numpy as np
import pytest
from PIL import Image

from crt.data import VOC_CLASSES, VOCSegmentation, load_mask, palette, save_mask


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of two photos."""
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb 1\n\n")
    (tmp_path / "labels.csv").write_text("id,labels,difficult\na,person cat,\nb,dog,chair\nc,car,\n")
    return tmp_path


def test_list_with_labels(voc):
    data = VOCSegmentation(voc, "train")
    assert len(data) == 2
    assert data[0] == ("a", voc / "JPEGImages/a.jpg", voc / "SegmentationClassAug/a.png", ["cat", "person"])
    assert data[1].labels == ["chair", "dog"]
    assert VOCSegmentation(voc, "train", difficult=False)[1].labels == ["dog"]
    assert len(VOC_CLASSES) == 20


@pytest.mark.parametrize(
    ("file", "text", "error", "parts"),
    [
        ("labels.csv", "id,labels\na,kat\nb,dog\n", ValueError, ["labels.csv, line 2", "'kat'", "'cat'"]),
        ("labels.csv", "id,labels\na,cat\n", ValueError, ["train.txt, line 2", "'b'"]),
        ("labels.csv", "name,classes\na,cat\n", ValueError, ["labels.csv, line 2", "id,labels"]),
        ("labels.csv", None, FileNotFoundError, ["labels.csv", "id,labels,difficult"]),
        ("ImageSets/Segmentation/train.txt", None, FileNotFoundError, ["train.txt", "Lists in that folder: none"]),
    ],
)
def test_mistakes_are_named_with_file_and_line(voc, file, text, error, parts):
    (voc / file).unlink() if text is None else (voc / file).write_text(text)
    with pytest.raises(error) as caught:
        VOCSegmentation(voc, "train")
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
