"""Tables of labels as tools and people write them: what is read of each, and what is refused with which words."""

import csv
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crt.data import VOC_CLASSES, ImageDataset, Sample, load_dataset
from crt.data._content import digest_files
from crt.data._names import natural, split_cells
from crt.data._photos import unique_names

FILES = ("a.jpg", "b.jpg", "c.jpg", "sub/d.JPG", "e f.png")


@pytest.fixture
def root(tmp_path):
    """A folder of photos that nobody opens."""
    for file in FILES:
        (tmp_path / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / file).touch()
    return tmp_path


def read(root, text, name="labels.csv", **options):
    """{name: names of the classes}, and the class names, of a table with these contents."""
    content = text if isinstance(text, str | bytes) else json.dumps(text)
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    data = load_dataset(images=root / "photos", labels=root / name, **options)
    return {s.name: [data.class_names[i] for i in s.labels] for s in data}, data.class_names


AB = {"a": ["cat", "dog"], "b": ["cat"], "c": []}


@pytest.mark.parametrize(
    "text",
    [
        "file,labels\na.jpg,cat;dog\nb.jpg,cat\nc.jpg,\n",
        "file,labels\na.jpg,cat dog\nb.jpg,cat\nc.jpg,\n",
        "file,labels\r\na.jpg,cat;dog\r\nb.jpg,cat\r\nc.jpg,\r\n",
        "\ufefffile,labels\na.jpg,cat;dog\nb.jpg,cat\nc.jpg,\n",
        "File, Labels\n a.jpg , cat; dog \nb.jpg,cat;\n\nc.jpg,\n",
        'file,labels\na.jpg,"cat,dog"\nb.jpg,cat\nc.jpg,""\n',
        "file,labels\na.jpg,cat|dog\nb.jpg,cat\nc.jpg,\n",
        "file;labels\na.jpg;cat,dog\nb.jpg;cat\nc.jpg;\n",
        "sep=;\nfile;labels\na.jpg;cat,dog\nb.jpg;cat\nc.jpg;\n",
        "IMAGE PATH\tTags\na.jpg\tcat, dog\nb.jpg\tcat\nc.jpg\t\n",
        "image_id,category,score\na,cat dog,1\nb,cat,2\nc,,3\n",
        "filename,class\n./a.jpg,cat;dog\nphotos/b.jpg,cat\nphotos\\c.jpg,\n",
        'file,labels\na.jpg,"[""cat"", ""dog""]"\nb.jpg,"[\'cat\']"\nc.jpg,[]\n',
        "filename, cat, dog\na.jpg, 1, 1\nb.jpg, 1, 0\nc.jpg, 0, 0\n",
        "id,width,cat,dog,Unlabeled\na,90,True,1.0,0\nb,90,1,false,0\nc,90,0,0,1\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        "a.jpg,9,9,cat,0,0,1,1\na.jpg,9,9,dog,0,0,1,1\na.jpg,9,9,cat,1,1,2,2\nb.jpg,9,9,cat,0,0,1,1\nc.jpg,9,9,,,,,\n",
        'image,id,choice,annotator\n/data/upload/1/0a1b2c3d-a.jpg,1,"{""choices"": [""cat"", ""dog""]}",1\n'
        "/data/upload/1/0a1b2c3d-b.jpg,2,cat,1\nhttps://x.org/photos/c.jpg?k=1,3,,1\n",
    ],
)
def test_csv_in_every_dress(root, text):
    found, names = read(root, text)
    assert found == AB
    assert names == ["cat", "dog"]
    found, names = read(root, text, class_names=["dog", "owl", "cat"])
    assert {name: sorted(labels) for name, labels in found.items()} == AB
    assert names == ["dog", "owl", "cat"]


def test_names_in_lists_may_have_spaces(root):
    rows = "".join(f'{file},"[""polar bear"", ""cat""]"\n' for file in ("a.jpg", "b.jpg"))
    assert read(root, f"file,labels\n{rows}")[1] == ["cat", "polar bear"]


def test_a_message_of_a_broken_csv_is_printable(root):
    with pytest.raises(ValueError, match="line 2: cannot be read as a CSV") as caught:
        read(root, 'file\tlabels\na.jpg\t"cat"x\t\n')
    assert str(caught.value).isprintable()


def test_utf16_and_ends_of_lines(root):
    text = "file\tlabels\ra.jpg\tcat;dog\rb.jpg\tcat\rc.jpg\t\r"
    assert read(root, text.encode("utf-16")) == (AB, ["cat", "dog"])


def test_several_labels_separated_by_spaces_are_not_taken_for_names(root):
    cells = ["person", "person bicycle", "person bicycle", "horse person", "horse person", "cat chair", "chair"]
    text = "file,labels\n" + "".join(f"{letter}.jpg,{cell}\n" for letter, cell in zip("abcdefg", cells, strict=True))
    for letter in "abcdefg":
        (root / "photos" / f"{letter}.jpg").touch()
    assert read(root, text)[1] == ["bicycle", "cat", "chair", "horse", "person"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('file,labels\na.jpg,ripe fruit\nb.jpg,"ripe fruit,x"\nc.jpg,x;y\n', ["line 3", "','", "line 4", "';'"]),
        ("file,labels\na.jpg,ripe fruit\nb.jpg,unripe fruit\nc.jpg,ripe fruit\n", ["line 2", "'ripe fruit'", "';'"]),
        ("file,labels\nb.jpg,dog\n" + "".join(f"{i}.jpg,hot dog\n" for i in range(8)), ["'hot dog'", "or several"]),
        ("file,labels\na.jpg,cat/dog\nb.jpg,cat\n", ["'cat/dog'", "';'", "--classes"]),
        ("file,labels\na.jpg,cat & dog\nb.jpg,cat\n", ["'&'"]),
        ("file,labels\na.jpg,cat and dog\nb.jpg,cat\n", ["'and'"]),
        ("file,labels\na.jpg,{cat dog}\nb.jpg,cat\n", ["line 2", "not a list of labels"]),
        ("file,labels\na.jpg,\"'cat'\"\n", ["\"'cat'\"".strip('"')]),
        ("file,labels\na.jpg,cat\nb.jpg,Cat\n", ["'Cat'", "'cat'", "case"]),
        ("file,labels\na.jpg,ripe fruit;x\nb.jpg,ripe;fruit\n", ["'ripe fruit'", "'ripe' and 'fruit'"]),
        ("file,labels\na.jpg,background\nb.jpg,cat\n", ["'background'", "leave its labels empty"]),
        ("file,labels\na.jpg,nan\nb.jpg,cat\n", ["'nan'"]),
        ("a.jpg,cat\nb.jpg,dog\n", ["line 1", "'a.jpg,cat'", "file,labels"]),
        ("name,labels\na.jpg,cat\n", ["line 1", "'name,labels'", "file,labels"]),
        ("file,file,labels\na.jpg,a.jpg,cat\n", ["line 1", "2 columns", "'file'"]),
        ("file\na.jpg\n", ["line 1", "file,labels"]),
        ("", ["line 1", "file,labels"]),
        ("file,cat\na.jpg,0.7\n", ["line 2", "0 or 1", "'cat'", "'0.7'"]),
        ("file,cat,cat\na.jpg,0,1\n", ["line 1", "same name"]),
        ("file,labels\na.jpg,cat,dog\n", ["line 2", "more cells"]),
        ("file,labels\na.jpg\n", ["line 2", "1 of 2 cells"]),
        ("file,labels\n,cat\n", ["line 2", "needs a file"]),
        ("file,labels\na.jpg,cat\na.jpg,dog\n", ["line 3", "twice", "one row"]),
        ("file,labels\na.jpg,cat\n./a.jpg,dog\n", ["line 3", "twice"]),
        ('file,labels\na.jpg,"cat\n', ["CSV"]),
        ("file,labels\nA.jpg,cat\n", ["line 2", "Did you mean 'a.jpg'"]),
        ("file,labels\na.jpeg,cat\n", ["line 2", "Did you mean 'a.jpg'"]),
        ("file,labels\nC:\\photos\\a.jpg,cat\n", ["line 2", "leaves the folder"]),
        ("file,labels\nsub\\..\\..\\a.jpg,cat\n", ["line 2", "leaves the folder"]),
        ("file,labels\n~/a.jpg,cat\n", ["line 2", "leaves the folder"]),
        ("file,labels\na\0.jpg,cat\n", ["line 2"]),
        ("file,labels\n\x1b[31mx.jpg,cat\n", ["line 2", "\\x1b[31m"]),
        ("file,labels\na.jpg,\x1b[31m\n", ["\\x1b[31m", "control"]),
        (f"file,labels\na.jpg,cat\n{'x' * 300}.jpg,cat\n", ["line 3", "no photo"]),
        (f"file,labels\na.jpg,{'x' * 5000}\n", ["longer than 200"]),
        (b"file,labels\n\xff.jpg,cat\n", ["UTF-8"]),
    ],
)
def test_mistakes_in_csvs(root, text, parts):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(root, text)
    message = str(caught.value)
    for part in ["labels.csv", *parts]:
        assert part in message
    assert len(message) < 1500 and message.isprintable()


def test_named_classes_may_look_odd(root):
    """What would be an accident is a class if it was named as one."""
    text = 'file,labels\na.jpg,"tench, Tinca"\nb.jpg,hot dog\nc.jpg,background\n'
    names = ["tench, Tinca", "hot dog", "background", "dog"]
    assert read(root, text, class_names=names)[0] == {"a": [names[0]], "b": ["hot dog"], "c": ["background"]}
    text = "file,labels\na.jpg,hot dog dog\nb.jpg,hot dog\nc.jpg,\n"
    assert read(root, text, class_names=["dog", "hot dog"])[0] == {"a": ["dog", "hot dog"], "b": ["hot dog"], "c": []}
    with pytest.raises(ValueError, match=r"line 2: unknown class 'Cat'\. Did you mean 'cat'"):
        read(root, "file,labels\na.jpg,Cat\n", class_names=["cat", "dog"])


def test_phrases_beside_a_separator_stay_whole(root):
    text = "file,labels\na.jpg,ripe fruit\nb.jpg,ripe fruit;x\nc.jpg,x\n"
    assert read(root, text) == ({"a": ["ripe fruit"], "b": ["ripe fruit", "x"], "c": ["x"]}, ["ripe fruit", "x"])


def test_numbers_sort_as_numbers(root):
    assert read(root, "file,labels\na.jpg,10\nb.jpg,9;2\n")[1] == ["2", "9", "10"]
    assert sorted(["class10", "class2", "b", "a1b", "a"], key=natural) == ["a", "a1b", "b", "class2", "class10"]


def test_one_bad_row_is_one_failure(root):
    rows = ["a.jpg,cat", f"{'x' * 300}.jpg,cat", "b.jpg,cta", "a.jpg,cat", "c.jpg,cat,dog", "../x.jpg,cat", "c.jpg,dog"]
    failures = []
    found, _ = read(root, "\n".join(["file,labels", *rows]), class_names=["cat", "dog"], unusable=failures)
    assert found == {"a": ["cat"], "c": ["dog"]}
    assert [int(failure.partition("line ")[2].partition(":")[0]) for failure in failures] == [3, 4, 5, 6, 7]
    assert all(len(failure) < 700 for failure in failures)


@given(st.lists(st.lists(st.sampled_from(["cat", "ripe fruit", "a-b", "owl"]), unique=True), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_is_joined_by_a_separator_is_split_by_it(rows):
    for separator in (";", "|", ",", " ; "):
        cells = [("here", separator.join([*row, ""])) for row in rows]
        assert split_cells(cells) == rows


def test_photos_of_one_stem_have_names_of_their_own(root):
    assert unique_names(["a.jpg", "b.jpg"]) == ["a", "b"]
    assert unique_names(["a.jpg", "a.png", "b.jpg"]) == ["a.jpg", "a.png", "b"]
    assert unique_names(["a.jpg", "a.png", "a.jpg.png"]) == ["a.jpg", "a.png", "a.jpg.png"]
    (root / "photos/a.png").touch()
    assert read(root, "file,labels\na.jpg,cat\na.png,dog\nb.jpg,cat\n")[0].keys() == {"a.jpg", "a.png", "b"}


# COCO


def coco(categories, annotations, images=("a.jpg", "b.jpg", "c.jpg")):
    return {
        "categories": [{"id": i, "name": n, **({"supercategory": s} if s else {})} for i, n, s in categories],
        "images": [{"id": i, "file_name": file} for i, file in enumerate(images)],
        "annotations": [{"id": i, "image_id": im, "category_id": c} for i, (im, c) in enumerate(annotations)],
    }


@pytest.mark.parametrize(
    "categories",
    [
        [(1, "cat", ""), (2, "dog", "")],
        [(0, "animals", "none"), (1, "cat", "animals"), (2, "dog", "animals")],
        [(0, "background", ""), (1, "cat", ""), (2, "dog", "")],
        [(0, "animals", "animals"), (1, "cat", "animals"), (2, "dog", "animals")],
    ],
)
def test_coco_without_what_is_no_class(root, categories):
    found = coco(categories, [(0, 1), (0, 2), (1, 1)])
    assert read(root, found, "labels.json") == (AB, ["cat", "dog"])


def test_coco_maps_by_name(root):
    found = coco([(7, "dog", ""), (3, "cat", ""), (4, "yak", "")], [(0, 3), (0, 7), (1, 3)])
    assert read(root, found, "labels.json") == (AB, ["cat", "yak", "dog"])
    assert read(root, found, "labels.json", class_names=["dog", "owl", "cat"])[0] == {**AB, "a": ["dog", "cat"]}
    with pytest.raises(ValueError, match=r"images\[0\]: unknown class 'dog'\. Did you mean 'dogs'"):
        read(root, found, "labels.json", class_names=["dogs", "cat"])


def test_coco_negatives_that_are_not_there_are_left_out(root, caplog):
    found = coco([(1, "cat", ""), (2, "dog", "")], [(0, 1), (0, 2), (1, 1)], ("a.jpg", "b.jpg", "c.jpg", "gone.jpg"))
    assert read(root, found, "labels.json")[0] == AB
    assert "1 photos without annotations" in caplog.text


# Label Studio, FiftyOne, CVAT


def task(photo, *labels, kind="choices", **more):
    results = [{"type": kind, "value": {kind: list(labels)}}] if labels else []
    return {"id": 1, "data": {"image": photo}, "annotations": [{"result": results, "was_cancelled": False}], **more}


def region(name):
    return {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1, "y": 2, "rectanglelabels": [name]}}


LABEL_STUDIO = [
    [
        task("/data/upload/3/0a1b2c3d-a.jpg", "cat", "dog"),
        task("s3://bucket/set/b.jpg", "cat", kind="rectanglelabels"),
        task("/data/local-files/?d=set%2Fc.jpg"),
    ],
    [
        {"image": "/data/upload/3/0a1b2c3d-a.jpg", "id": 1, "choice": {"choices": ["cat", "dog"]}, "annotator": 1},
        {"image": "/data/upload/3/0a1b2c3d-b.jpg", "id": 2, "choice": "cat", "annotator": 1},
        {"image": "c.jpg", "id": 3, "annotator": 1},
    ],
    [
        {"image": "a.jpg", "id": 1, "label": [{"x": 1, "rectanglelabels": ["cat"]}, {"polygonlabels": ["dog"]}]},
        {"image": "b.jpg", "id": 2, "label": [{"brushlabels": ["cat"]}]},
        {"image": "c.jpg", "id": 3, "annotation_id": 5},
    ],
    [  # two annotators of one photo; a choice about a region; a skipped task, and one that nobody has annotated
        task("a.jpg", "cat", annotations=[{"result": [region("cat")]}, {"result": [region("dog"), region("cat")]}]),
        task("b.jpg", annotations=[{"result": [region("cat"), {"value": {"x": 1, "y": 2, "choices": ["wet"]}}]}]),
        task("http://localhost:8080/data/upload/7/0a1b2c3d-c.jpg"),
        task("sub/d.JPG", annotations=[{"result": [region("owl")], "was_cancelled": True}]),
        task("e f.png", annotations=[]),
    ],
    [  # JSON-MIN of controls with names of one's own: a record for each annotation
        {"img": "a.jpg", "id": 1, "animal": "cat", "note": "far away", "annotation_id": 7},
        {"img": "a.jpg", "id": 1, "animal": {"choices": ["cat", "dog"]}, "note": "far away", "annotation_id": 8},
        {"img": "b.jpg", "id": 2, "kind": [{"taxonomy": [["pet", "cat"]]}], "note": "indoors", "annotation_id": 9},
        {"img": "c.jpg", "id": 3, "note": "indoors", "annotation_id": 10},
        {"img": "sub/d.JPG", "id": 4, "note": "indoors", "annotation_id": None},
    ],
]
ANIMALS = [{"_cls": "Classification", "label": name, "confidence": None} for name in ("cat", "dog")]
FIFTYONE = [
    {"classes": ["cat", "dog"], "labels": {"a": [0, 1], "b": 0, "c": [], "sub/d": None}},
    {"classes": ["cat", "dog"], "labels": {"/far/data/a.jpg": [0, 1], "C:\\far\\b.jpg": 0, "/far/c.jpg": []}},
    {"classes": None, "labels": {"a.jpg": ["cat", "dog"], "b": {"label": "cat", "confidence": 0.5}, "c": []}},
    {
        "samples": [
            {
                "filepath": "data/a.jpg",
                "metadata": {"_cls": "ImageMetadata"},
                "ground_truth": {"_cls": "Detections", "detections": [{"label": "cat"}, {"label": "dog"}]},
            },
            {"filepath": "/far/b.jpg", "ground_truth": {"_cls": "Classification", "label": "cat"}},
            {"filepath": "c.jpg", "ground_truth": {"_cls": "Detections", "detections": []}},
            {"filepath": "sub/d.JPG", "ground_truth": None},
        ]
    },
    {
        "samples": [
            {"filepath": "data/e f.png", "animals": None, "where": {"_cls": "GeoLocation", "point": [1, 2]}},
            {"filepath": "data/a.jpg", "animals": {"_cls": "Classifications", "classifications": ANIMALS}},
            {"filepath": "data/b.jpg", "animals": {"_cls": "Polylines", "polylines": ANIMALS[:1]}},
            {"filepath": "data/c.jpg", "animals": {"_cls": "Keypoints", "keypoints": []}},
        ]
    },
]
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>cat</name><attributes><attribute><name>fur</name></attribute></attributes></label>
    <label><name>dog</name><type>skeleton</type></label>
    <label><name>nose</name><type>points</type><parent>dog</parent></label>
  </labels></task></meta>
  <image id="0" name="a.jpg" width="9" height="9">
    <skeleton label="dog"><points label="nose" points="1,1"></points></skeleton><tag label="cat" source="manual"></tag>
  </image>
  <image id="1" name="set/b.jpg"><polygon label="cat" points="0,0;1,1;0,1"><attribute name="fur">x</attribute></polygon>
  </image>
  <image id="2" name="far/c.jpg" subset="train"/>
</annotations>
"""


LABEL_STUDIO_CSV = """\
annotation_id,annotator,created_at,id,image,lead_time,things,updated_at
1,me@x.org,2024-01-30T02:40:43Z,11,/data/upload/3/0a1b2c3d-a.jpg,8.6,"[{""x"":1.5,""rectanglelabels"":[""cat""]}]",x
2,you@x.org,2024-01-30T02:41:43Z,11,/data/upload/3/0a1b2c3d-a.jpg,1.6,"[{""rle"":[0],""brushlabels"":[""dog""]}]",x
3,me@x.org,2024-01-30T02:42:43Z,12,s3://bucket/set/b.jpg,1.6,"[{""points"":[[1,2]],""polygonlabels"":[""cat""]}]",x
4,me@x.org,2024-01-30T02:43:43Z,13,c.jpg,1.6,,x
,{},,14,sub/d.JPG,,,
"""


@pytest.mark.parametrize("mark", [",", "\t"])
def test_label_studio_csv(root, mark):
    """A row for each annotation, with what was marked as JSON; the last task has no annotation."""
    rows = io.StringIO(newline="")
    csv.writer(rows, delimiter=mark).writerows(csv.reader(io.StringIO(LABEL_STUDIO_CSV)))
    assert read(root, rows.getvalue()) == (AB, ["cat", "dog"])
    with pytest.raises(ValueError, match="line 7: 2 cells in 8 columns"):
        read(root, rows.getvalue() + mark.join(["5", "me"]) + "\n")


@pytest.mark.parametrize("content", [*LABEL_STUDIO, *FIFTYONE, CVAT])
def test_tools(root, content):
    name = "labels.xml" if isinstance(content, str) else "labels.json"
    assert read(root, content, name) == (AB, ["cat", "dog"])
    found, names = read(root, content, name, class_names=["dog", "owl", "cat"])
    assert {key: sorted(labels) for key, labels in found.items()} == AB and names == ["dog", "owl", "cat"]
    with pytest.raises(ValueError, match="unknown class 'dog'"):
        read(root, content, name, class_names=["cat", "owl"])


TWICE = {"x": ANIMALS[0], "y": ANIMALS[1]}


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("labels.json", [task("a.jpg", "cat", annotations=[])], ["nobody has annotated any of 1 tasks"]),
        (
            "labels.json",
            [{"image": "a.jpg", "animal": "cat", "annotator": 1, "annotation_id": 2}],
            ["no labels that can be told", "'animal'", "'cat'", "export as JSON"],
        ),
        ("labels.json", [{"data": {"image": "a.jpg"}}], ["task [0]", "annotations"]),
        ("labels.json", [task("a.jpg", 7)], ["task [0]", "choices are texts", "int"]),
        ("labels.json", [task("a.jpg", "cat"), 7], ["task [1]", "int"]),
        ("labels.json", [{"image": "a.jpg", "split": "train"}], ["task [0]", "no labels"]),
        ("labels.json", {"classes": ["cat"], "labels": {"a": 1}}, ["labels['a']", "no class 1"]),
        ("labels.json", {"classes": ["cat"], "labels": {"a": 0.5}}, ["labels['a']", "float"]),
        ("labels.json", {"samples": [{"filepath": 1}]}, ["samples[0]", "filepath"]),
        ("labels.json", {"samples": [{"filepath": "a.jpg", **TWICE}]}, ["fields x, y", "one of"]),
        ("labels.json", {"samples": [{"filepath": "a.jpg", "x": None}]}, ["no field"]),
        ("labels.json", {"version": 1, "items": []}, ["an object with version, items", "COCO"]),
        ("labels.json", [[1]], ["a list of 1, first a list of 1, first a int", "COCO"]),
        ("labels.json", "[" * 100_000, ["labels.json"]),
        ("labels.json", "1" * 6000, ["labels.json"]),
        ("labels.xml", "<annotation/>", ["line 1", "<annotation>", "--voc"]),
        ("labels.xml", "<annotations><track/></annotations>", ["line 1", "CVAT for images"]),
        (
            "labels.xml",
            "<annotations>\n<image name='a.jpg'><box/></image></annotations>",
            ["line 2", "no label"],
        ),
        ("labels.xml", "<annotations/>", ["no <image>"]),
        ("labels.xml", "<a>" * 500, ["line 1"]),
        ("labels.xml", "<annotations><image name='a.jpg'>", ["line 1", "not XML"]),
    ],
)
def test_mistakes_in_tools_tables(root, name, content, parts):
    with pytest.raises(ValueError) as caught:
        read(root, content, name)
    for part in [name, *parts]:
        assert part in str(caught.value)


def test_a_table_is_a_regular_file(root):
    os.mkfifo(root / "labels.csv")
    with pytest.raises(OSError, match="not a regular file"):
        load_dataset(images=root / "photos", labels=root / "labels.csv")
    with pytest.raises(FileNotFoundError, match=r"no table at .*gone\.csv"):
        load_dataset(images=root / "photos", labels=root / "gone.csv")
    grow(root, "empty.csv")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_dataset(images=root / "none", labels=root / "empty.csv")


# Folders


def grow(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_folders_pass_over_what_is_no_class(tmp_path):
    grow(tmp_path, "2/a.jpg", "10/b.JPEG", "9/c.png", "__MACOSX/2/._a.jpg", ".ipynb_checkpoints/a.jpg", "2/.x/a.jpg")
    data = ImageDataset.from_folder(tmp_path)
    assert data.class_names == ["2", "9", "10"]
    assert [(s.name, s.labels) for s in data] == [("2/a", [0]), ("9/c", [1]), ("10/b", [2])]


def test_folder_of_negatives(tmp_path):
    grow(tmp_path, "cat/a.jpg", "negatives/b.jpg")
    data = ImageDataset.from_folder(tmp_path)
    assert data.class_names == ["cat"]
    assert [(s.name, s.labels) for s in data] == [("cat/a", [0]), ("negatives/b", [])]
    data.check_trainable()
    assert ImageDataset.from_folder(tmp_path, class_names=["cat", "negatives"])[1].labels == [1]


def test_split_folders(tmp_path):
    grow(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "valid/cat/c.jpg")
    with pytest.raises(ValueError, match=r"the splits train, valid.*--list train"):
        load_dataset(images=tmp_path)
    data = load_dataset(images=tmp_path, split="train")
    assert data.class_names == ["cat", "dog"]
    assert [(s.name, s.labels) for s in data] == [("cat/a", [0]), ("dog/b", [1])]
    data = load_dataset(images=tmp_path, split="valid", class_names=["cat", "dog"])
    assert [(s.name, s.labels) for s in data] == [("cat/c", [0])]
    with pytest.raises(ValueError, match="no split 'test'; there are train, valid"):
        load_dataset(images=tmp_path, split="test")
    grow(tmp_path, "extra/e.jpg")
    with pytest.raises(ValueError, match="beside extra"):
        load_dataset(images=tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    grow(tmp_path, "train/a.jpg", "car/b.jpg")
    assert ImageDataset.from_folder(tmp_path).class_names == ["car", "train"]


def test_folders_that_look_like_lists(tmp_path):
    grow(tmp_path, "cat/a.jpg", "dog/b.jpg", "cat,dog/c.jpg")
    with pytest.raises(ValueError, match=r"'cat,dog' was read as a class beside 'cat' and 'dog'"):
        ImageDataset.from_folder(tmp_path)


# VOC


@pytest.fixture
def voc(tmp_path):
    grow(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.JPEG", "JPEGImages/c.png", "ImageSets/Segmentation/train.txt")
    (tmp_path / "labels.csv").write_text("id,labels\na,cat\nb,cat dog\nc,dog\n")
    return tmp_path


@pytest.mark.parametrize(
    "lines",
    [
        "a\nb\nc\n",
        " a \r\nb\t1\r\nc\r\n",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\nc.png\n",
        "JPEGImages/a.jpg\nC:\\VOC2012\\JPEGImages\\b.jpg\n/data/VOC2012/JPEGImages/c.jpg\n",
        "/far/a.jpg\nb.jpeg\nc.JPG\n",
    ],
)
def test_voc_lists(voc, lines):
    (voc / "ImageSets/Segmentation/train.txt").write_text(lines)
    data = ImageDataset.from_voc(voc, "train", masks=True)
    assert [(s.name, s.image.name, s.mask.name) for s in data] == [
        ("a", "a.jpg", "a.png"),
        ("b", "b.JPEG", "b.png"),
        ("c", "c.png", "c.png"),
    ]


@pytest.mark.parametrize("line", ["../../secret", "JPEGImages/../../x.jpg x", "..", "a/../../b", "..\\..\\x"])
def test_voc_names_stay_in_the_folder(voc, line):
    (voc / "ImageSets/Segmentation/train.txt").write_text(f"a\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2: .*leaves the folder"):
        ImageDataset.from_voc(voc, "train")
    with pytest.raises(ValueError, match="not the name of a list"):
        ImageDataset.from_voc(voc, "../Segmentation/train")


def test_voc_of_other_classes(voc):
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    (voc / "labels.csv").write_text("id,labels\na,ripe fruit\nb,unripe;ripe fruit\n")
    data = load_dataset(voc=voc, split="train", class_names=["unripe", "ripe fruit"])
    assert [s.labels for s in data] == [[1], [0, 1]]
    with pytest.raises(ValueError, match="unknown class 'fruit'|unknown class 'ripe'"):
        load_dataset(voc=voc, split="train")


def test_voc_xml_is_bounded(voc):
    (voc / "labels.csv").unlink()
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\n")
    grow(voc, "Annotations/a.xml")
    (voc / "Annotations/a.xml").write_text(f"<annotation><object><name>{'x' * 5_000_000}</name></object></annotation>")
    with pytest.raises(ValueError, match=r"a\.xml, line 1: unknown class 'xxx") as caught:
        ImageDataset.from_voc(voc, "train")
    assert len(str(caught.value)) < 1000
    (voc / "Annotations/a.xml").unlink()
    os.mkfifo(voc / "Annotations/a.xml")
    with pytest.raises(OSError, match="not a regular file"):
        ImageDataset.from_voc(voc, "train")


# The data set


def samples(root, *labels):
    return [Sample(root / "photos" / f"{n}.jpg", n, list(x)) for n, x in zip("abc", labels, strict=False)]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([[0], [0], [0]], ["cat"], "all 3 photos show 'cat'.*negatives.*--force"),
        ([[0], [0, 1], [0]], ["cat", "dog"], "all 3 photos show 'cat'"),
        ([[0], [1], []], ["cat", "dog", "owl"], "no photo shows 'owl'"),
        ([], ["cat"], "no photos"),
    ],
)
def test_labels_that_teach_nothing(root, caplog, labels, classes, message):
    data = ImageDataset(samples(root, *labels), classes)
    with pytest.raises(ValueError, match=message):
        data.check_trainable()
    if labels:
        data.check_trainable(force=True)
        assert "show" in caplog.text


def test_labels_that_teach(root):
    ImageDataset(samples(root, [0], [], [0]), ["cat"]).check_trainable()
    ImageDataset(samples(root, [0], [1], []), ["cat", "dog"]).check_trainable()


def test_classes_are_mapped_by_name(root):
    data = ImageDataset(samples(root, [0, 2], [1], []), ["cat", "dog", "owl"])
    assert [s.labels for s in data.with_classes(["owl", "dog", "yak", "cat"])] == [[0, 3], [1], []]
    with pytest.raises(ValueError, match=r"unknown class 'dog'\. Did you mean 'dogs'"):
        data.with_classes(["owl", "dogs", "cat"])
    unused = ImageDataset(samples(root, [0], [0], []), ["cat", "dog"])
    assert [s.labels for s in unused.with_classes(["yak", "cat"])] == [[1], [1], []]
    masked = ImageDataset([s._replace(mask=root / "m.png") for s in data], data.class_names)
    assert masked.with_classes(["cat", "dog", "owl", "yak"]).class_names[-1] == "yak"
    with pytest.raises(ValueError, match="attach masks afterwards"):
        masked.with_classes(["owl", "dog", "cat"])


def test_digest_notices_what_changed(root):
    random = np.random.default_rng(0)
    data = ImageDataset(samples(root, [0], [], [0]), ["cat"])
    for sample in data:
        sample.image.write_bytes(random.bytes(300_000))
    before = data.digest()
    stamp = data[1].image.stat()
    content = bytearray(data[1].image.read_bytes())
    content[150_000] ^= 1
    data[1].image.write_bytes(content)
    os.utime(data[1].image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert data.digest() != before
    content[150_000] ^= 1
    data[1].image.write_bytes(content)
    assert data.digest() == before
    relabelled = ImageDataset([data[0], data[1]._replace(labels=[0]), data[2]], ["cat"])
    masked = ImageDataset([data[0]._replace(mask=data[1].image), *data.samples[1:]], ["cat"])
    assert len({before, relabelled.digest(), masked.digest()}) == 3


def test_large_sets_are_told_apart_by_the_ends_of_their_files(root):
    file = root / "photos/a.jpg"
    file.write_bytes(bytes(300_000))
    (before,) = digest_files([file], whole=1000)
    for place, noticed in ((0, True), (299_999, True), (150_000, False)):
        content = bytearray(300_000)
        content[place] = 1
        file.write_bytes(content)
        assert (list(digest_files([file], whole=1000)) != [before]) == noticed


def test_masks_and_tilde(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    (root / "labels.csv").write_text("file,labels\na.jpg,cat\nsub/d.JPG,\n")
    grow(root, "truth/a.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 photos have no mask, the first would be .*sub/d\.png"):
        load_dataset(images="~/photos", labels="~/labels.csv", truth="~/truth")
    grow(root, "truth/sub/d.png")
    data = load_dataset(images="~/photos", labels="~/labels.csv", truth="~/truth")
    assert [s.mask for s in data] == [root / "truth/a.png", root / "truth/sub/d.png"]


def test_voc_classes_may_be_a_part_of_a_models(voc):
    (voc / "ImageSets/Segmentation/train.txt").write_text("b\n")
    names = ["yak", *reversed(VOC_CLASSES)]
    data = load_dataset(voc=voc, split="train", class_names=names)
    assert [names[i] for i in data[0].labels] == ["dog", "cat"]
