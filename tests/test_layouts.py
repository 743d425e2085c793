"""Data sets in the layouts they come in, and what is said of mistakes in them."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from crt.data import VOC_CLASSES, ImageDataset


def write(root, **files):
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)


@pytest.fixture
def cub(tmp_path):
    """Three photos of two classes; the second has two boxes."""
    write(
        tmp_path,
        classes="1 001.Wren\n5 005.Tree_Swallow\n",
        images="1 001.Wren/a.jpg\n2 001.Wren/b c.jpg\n7 005.Tree_Swallow/a.jpg\n",
        image_class_labels="1 1\n2 1\n7 5\n",
        train_test_split="1 1\n2 0\n7 0\n",
        bounding_boxes="1 0 1.5 10 20\n2 3.0 4.0 5.0 6.5\n2 0.0 0.0 1.0 1.0\n7 1.0 2.0 3.0 4.0\n",
    )
    for file in ("001.Wren/a", "001.Wren/b c", "005.Tree_Swallow/a"):
        (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"{file}.jpg").touch()
    return tmp_path


def test_cub(cub):
    data = ImageDataset.from_cub(cub, "test")
    assert data.class_names == ["Wren", "Tree_Swallow"]
    assert [(photo.name, photo.labels, photo.boxes) for photo in data] == [
        ("001.Wren/b c", [0], [(3.0, 4.0, 8.0, 10.5), (0.0, 0.0, 1.0, 1.0)]),
        ("005.Tree_Swallow/a", [1], [(1.0, 2.0, 4.0, 6.0)]),
    ]
    assert data[1].image == cub / "images/005.Tree_Swallow/a.jpg"
    photos = ImageDataset.from_cub(cub, "train")
    assert photos.class_names == ["Wren", "Tree_Swallow"]
    assert [(photo.image, photo.labels) for photo in photos] == [(cub / "images/001.Wren/a.jpg", [0])]


@pytest.mark.parametrize(
    ("table", "text", "parts"),
    [
        ("classes", "1 001.Wren\n1 002.Owl\n", ["classes.txt, line 2", "twice"]),
        ("classes", "1 001.Wren\n2\n", ["classes.txt, line 2", "a class id and a name"]),
        ("classes", "", ["classes.txt has no rows"]),
        ("images", "1 a.jpg\n1 b.jpg\n", ["images.txt, line 2", "twice"]),
        ("image_class_labels", "1 1\n2 1\n7 6\n", ["image_class_labels.txt, line 3", "unknown class 6"]),
        ("image_class_labels", "1 1\n\n2 1\n9 5\n", ["image_class_labels.txt, line 4", "image 9 is not in images.txt"]),
        ("image_class_labels", "1 1\n7 5\n", ["images.txt, line 2", "image_class_labels.txt"]),
        ("train_test_split", "1 1\n2 0\n7 x\n", ["train_test_split.txt, line 3", "'x'"]),
        ("train_test_split", "1 1\n2 1\n7 1\n", ["no photo of the list 'test'"]),
        ("bounding_boxes", "1 0 0 1 1\n2 0 0 1\n", ["bounding_boxes.txt, line 2", "width and height"]),
        ("bounding_boxes", "1 0 0 1 1\n2 0 0 one 1\n", ["bounding_boxes.txt, line 2", "'0 0 one 1'"]),
        ("bounding_boxes", "1 0 0 1 1\n2 0 0 1 0\n", ["bounding_boxes.txt, line 2", "above 0"]),
        ("bounding_boxes", "1 0 0 1 1\n2 nan 0 1 1\n", ["bounding_boxes.txt, line 2"]),
        ("bounding_boxes", "1 0 0 1 1\n2 0 0 1 1\n", ["images.txt, line 3", "bounding_boxes.txt"]),
        ("images", "1 001.Wren/a.jpg\n2 001.Wren/gone.jpg\n7 005.Tree_Swallow/a.jpg\n", ["images.txt, line 2", "gone"]),
        ("images", "1 001.Wren/a.jpg\n2 001.Wren/a.jpg\n7 a.jpg\n", ["images.txt, line 2", "twice"]),
        ("images", "1 /a.jpg\n2 b.jpg\n7 c.jpg\n", ["images.txt, line 1", "leaves the folder"]),
        ("images", None, ["images.txt does not exist"]),
    ],
)
def test_mistakes_in_cub_are_named_with_file_and_line(cub, table, text, parts):
    (cub / f"{table}.txt").unlink() if text is None else write(cub, **{table: text})
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ImageDataset.from_cub(cub, "test")
    for part in parts:
        assert part in str(caught.value)


def test_cub_lists_and_bytes(cub):
    with pytest.raises(ValueError, match="'train' and 'test', got 'val'"):
        ImageDataset.from_cub(cub, "val")
    (cub / "images.txt").write_bytes(b"1 \xff.jpg\n")
    with pytest.raises(ValueError, match=r"images\.txt.*UTF-8"):
        ImageDataset.from_cub(cub, "test")


# A folder for each class


@pytest.fixture
def folders(tmp_path):
    for file in (
        "wren/b.JPG",
        "wren/deep/a.png",
        "owl/a.webp",
        "owl/notes.txt",
        ".cache/x.jpg",
        "owl/._a.webp",
        "owl/.ck/x.jpg",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


def test_folder(folders):
    photos = ImageDataset.from_folder(folders)
    assert photos.class_names == ["owl", "wren"]
    found = [(photo.image.relative_to(folders).as_posix(), photo.labels) for photo in photos]
    assert found == [("owl/a.webp", [0]), ("wren/b.JPG", [1]), ("wren/deep/a.png", [1])]
    assert ImageDataset.from_folder(folders, class_names=["wren", "lark", "owl"])[0].labels == [2]


def test_mistakes_in_folders_are_named(folders):
    with pytest.raises(ValueError, match=r"wren: unknown class 'wren'\. Did you mean 'wrens'"):
        ImageDataset.from_folder(folders, class_names=["wrens", "owl"])
    (folders / "owl/a.webp").unlink()
    with pytest.raises(ValueError, match="owl has no photos"):
        ImageDataset.from_folder(folders)
    with pytest.raises(ValueError, match="no subfolders"):
        ImageDataset.from_folder(folders / "owl")
    with pytest.raises(FileNotFoundError, match="gone"):
        ImageDataset.from_folder(folders / "gone")


# COCO


@pytest.fixture
def coco():
    """Categories with a gap, out of order; photo 3 shows nothing."""
    return {
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 4, "height": 4} for i in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 9, "bbox": [0, 0, 1, 1], "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 2, "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 2},
            {"id": 4, "image_id": 1, "category_id": 9},
        ],
    }


def test_coco(coco, tmp_path):
    for i in (1, 2):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "a.json").write_text(json.dumps(coco))
    photos = ImageDataset.from_coco(tmp_path, tmp_path / "a.json")
    assert photos.class_names == ["cat", "dog"]
    assert [(photo.image.name, photo.labels) for photo in photos] == [("1.jpg", [1]), ("2.jpg", [0, 1])]
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.json, images\[1\]: there is no photo at .*2\.jpg"):
        ImageDataset.from_coco(tmp_path, tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        ImageDataset.from_coco(tmp_path, tmp_path / "gone.json")


def test_coco_as_pycocotools_reads_it(coco, tmp_path):
    tools = pytest.importorskip("pycocotools.coco", reason="an independent reader")
    (tmp_path / "a.json").write_text(json.dumps(coco))
    for i in (1, 2, 3):
        (tmp_path / f"{i}.jpg").touch()
    photos, index = ImageDataset.from_coco(tmp_path, tmp_path / "a.json"), tools.COCO(tmp_path / "a.json")
    for photo in photos:
        entries = index.loadAnns(index.getAnnIds(imgIds=int(photo.image.stem)))
        names = {index.loadCats(entry["category_id"])[0]["name"] for entry in entries}
        assert {photos.class_names[label] for label in photo.labels} == names


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: c.pop("images"), ["expected a list 'images' beside categories, annotations"]),
        (lambda c: c["images"][1].pop("file_name"), ["images[1]", "'file_name'"]),
        (lambda c: c["images"][1].update(id=1), ["images[1]", "the id 1 stands there twice"]),
        (lambda c: c["images"][1].update(file_name="1.jpg"), ["images", "'1.jpg' has two ids, 1 and 2"]),
        (lambda c: c["images"][1].update(id="2"), ["images[1]", "'id', a number"]),
        (lambda c: c["annotations"][2].update(image_id=8), ["annotations[2]", "no image with the id 8"]),
        (lambda c: c["annotations"][2].update(category_id=3), ["annotations[2]", "no category with the id 3"]),
        (lambda c: c["annotations"].__setitem__(3, 7), ["annotations[3]", "'image_id'", "got 7"]),
        (lambda c: c["categories"][1].update(name="dog"), ["categories", "same name"]),
        (lambda c: c.update(annotations=[]), ["no image with an annotation"]),
    ],
)
def test_mistakes_in_coco_are_named_with_list_and_place(coco, tmp_path, change, parts):
    change(coco)
    (tmp_path / "a.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError) as caught:
        ImageDataset.from_coco(tmp_path, tmp_path / "a.json")
    for part in ("a.json", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{\n"images": [,]}', "line 2"),
        ("[1]", "an object"),
        pytest.param("[" * 200_000, "", id="deep"),
        pytest.param("1" * 5000, "", id="long"),
        ("\udcff", "UTF-8"),
    ],
)
def test_what_is_not_coco_is_named(tmp_path, text, part):
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"a.json.*{part}"):
        ImageDataset.from_coco(tmp_path, tmp_path / "a.json")


# VOC's labels


XML = """<annotation>
  <filename>a.jpg</filename>
  <object>
    <name>person</name><difficult>0</difficult>
    <part><name>head</name></part>
  </object>
  <object>
    <name>{name}</name><difficult>1</difficult>
  </object>
</annotation>
"""


@pytest.fixture
def voc(tmp_path):
    """A VOC folder with a list of one photo, and no labels yet."""
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    return tmp_path


def shown(*names):
    return np.array([name in names for name in VOC_CLASSES], dtype=np.float32)


def indices(*names):
    return [VOC_CLASSES.index(name) for name in names]


def structured(*rows):
    return np.array(list(rows), dtype=[("id", "U20"), ("labels", "u1", (20,))])


def test_xml(voc):
    (voc / "Annotations").mkdir()
    (voc / "Annotations/a.xml").write_text(XML.format(name="cat"))
    assert ImageDataset.from_voc(voc, "train")[0].labels == indices("cat", "person")
    assert ImageDataset.from_voc(voc, "train", difficult=False)[0].labels == indices("person")
    assert ImageDataset.from_voc(voc, "train")[0].labels == [7, 14]
    (voc / "labels.csv").write_text("id,labels\na,dog\n")
    assert ImageDataset.from_voc(voc, "train")[0].labels == indices("dog")
    assert ImageDataset.from_voc(voc, "train", labels=voc / "Annotations")[0].labels == indices("cat", "person")


def test_arrays(voc):
    np.savez(voc / "cls_labels.npz", a=shown("cat", "tvmonitor"), b=shown("dog"))
    assert ImageDataset.from_voc(voc, "train")[0].labels == indices("cat", "tvmonitor")
    np.save(voc / "other.npy", structured(("b", shown("dog")), ("a", shown("aeroplane"))))
    assert ImageDataset.from_voc(voc, "train", labels=voc / "other.npy")[0].labels == indices("aeroplane")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (XML.format(name="kat"), ["a.xml, line 8", "'kat'", "'cat'"]),
        (XML.format(name="cat").replace("</object>", "", 1), ["a.xml, line", "not XML"]),
        ("", ["a.xml, line 1", "not XML"]),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n' + XML.format(name="cat"), ["a.xml", "entities"]),
        ("<html><annotation/></html>", ["a.xml", "line 1", "<html>"]),
        ('<?xml version="1.0" encoding="rot13"?><annotation/>', ["a.xml", "rot13"]),
        (None, ["no annotation", "a.xml"]),
    ],
)
def test_mistakes_in_xml_are_named_with_file_and_line(voc, text, parts):
    (voc / "Annotations").mkdir()
    if text is not None:
        (voc / "Annotations/a.xml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ImageDataset.from_voc(voc, "train")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("save", "parts"),
    [
        (lambda f: np.savez(f, b=shown("cat")), ["train.txt, line 1", "'a'", "labels.npz"]),
        (lambda f: np.savez(f, a=np.zeros(21)), ["labels.npz, 'a'", "20 zeros and ones", "(21,)"]),
        (lambda f: np.savez(f, a=np.full(20, 2)), ["labels.npz, 'a'", "20 zeros and ones"]),
        (lambda f: np.savez(f, a=np.array([None] * 20)), ["labels.npz", "pickle", "never opened"]),
        (lambda f: np.save(f.with_suffix(".npy"), {"a": shown("cat")}), ["labels.npy", "pickle", "numpy.savez"]),
        (lambda f: np.save(f.with_suffix(".npy"), np.zeros((1, 20))), ["labels.npy", "'id' and 'labels'"]),
        (lambda f: np.save(f.with_suffix(".npy"), structured(("a", shown("cat")), ("a", shown("dog")))), ["twice"]),
        (lambda f: zipfile.ZipFile(f, "w").writestr("README.txt", "no array"), ["labels.npz"]),
        (lambda f: f.write_bytes(b"PK\x03\x04 no archive"), ["labels.npz"]),
        (lambda f: f.with_suffix(".npy").write_bytes(b""), ["labels.npy"]),
        (lambda f: f.with_suffix(".txt").write_text("a cat"), ["labels.txt", ".csv, .npz or .npy"]),
    ],
)
def test_mistakes_in_arrays_are_named(voc, save, parts):
    save(voc / "labels.npz")
    (file,) = voc.glob("labels.*")
    with pytest.raises(ValueError) as caught:
        ImageDataset.from_voc(voc, "train", labels=file)
    for part in parts:
        assert part in str(caught.value)


def test_labels_that_are_not_there(voc):
    with pytest.raises(FileNotFoundError, match=r"labels\.csv does not exist.*cls_labels\.npz.*Annotations/"):
        ImageDataset.from_voc(voc, "train")
    with pytest.raises(FileNotFoundError, match=r"no labels at .*gone\.csv"):
        ImageDataset.from_voc(voc, "train", labels=voc / "gone.csv")


def test_photos_of_every_layout_can_be_opened(cub):
    for file in (cub / "images").rglob("*.jpg"):
        Image.new("RGB", (4, 4)).save(file)
    for photos in (ImageDataset.from_cub(cub, "test"), ImageDataset.from_folder(cub / "images")):
        assert all(Image.open(photo.image).size == (4, 4) for photo in photos)
