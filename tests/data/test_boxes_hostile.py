"""Labels with faults, named with file and line; and files that were made to harm."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from box_files import WRITERS, coco, picture, voc, yolo
from secateur.core.errors import DataError, SecateurError
from secateur.data.boxes import load_boxes


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def voc_edit(old: str, new: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        edit(voc(root) / "Annotations/a.xml", old, new)
        return root

    return change


def coco_edit(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> Callable[[Path], Path]:
    def changed(root: Path) -> Path:
        path = coco(root) / "annotations/instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return root

    return changed


def yolo_line(text: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        path = yolo(root) / "labels/train/b.txt"
        path.write_text(path.read_text() + text + "\n")
        return root

    return change


def yaml_edit(old: str, new: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        edit(yolo(root) / "data.yaml", old, new)
        return root

    return change


def without(root: Path, name: str) -> Path:
    (root / name).unlink()
    return root


XMIN = "<xmin>8</xmin>"
MENDABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "voc outside": (voc_edit("<xmax>64", "<xmax>70"), r"a\.xml, line 4: the box of 'cat' reaches outside.* 64 × 40"),
    "voc far outside": (voc_edit(XMIN, "<xmin>-90</xmin>"), r"a\.xml, line 5: .*from -90, 4 to 24, 12"),
    "voc no area": (voc_edit(XMIN, "<xmin>24</xmin>"), r"a\.xml, line 5: the box of 'owl' has no area"),
    "voc turned": (voc_edit(XMIN, "<xmin>30</xmin>"), r"a\.xml, line 5: the box of 'owl' has no area"),
    "voc NaN": (voc_edit(XMIN, "<xmin>nan</xmin>"), r"a\.xml, line 5: .* no finite numbers"),
    "voc without labels": (
        lambda r: without(voc(r), "Annotations/b.xml"), r"train\.txt, line 2: the image 'b' has no file 'b\.xml'"
    ),
    "voc without image": (lambda r: without(voc(r), "JPEGImages/b.png"), r"b\.xml, line 1: there is no image .*'b'"),
    "coco outside": (
        coco_edit(lambda c: c["annotations"][1].update(bbox=[60, 0, 10, 10])), r"\[1\]: .* outside .* 64 × 40"
    ),
    "coco no area": (coco_edit(lambda c: c["annotations"][1].update(bbox=[6, 0, 0, 10])), r"\[1\]: .* no area"),
    "coco huge": (coco_edit(lambda c: c["annotations"][1].update(bbox=[10**400, 0, 1, 1])), r"\[1\]: .* no finite"),
    "coco category": (coco_edit(lambda c: c["annotations"][0].update(category_id=99)), r"\[0\]: .*no category .* 99"),
    "coco stray": (coco_edit(lambda c: c["annotations"][0].update(image_id=99)), r"\[0\]: there is no image .* 99"),
    "coco without image": (lambda r: without(coco(r), "train2017/b.png"), r"images\[1\]: there is no image 'b\.png'"),
    "yolo outside": (yolo_line("0 0.9 0.5 0.4 0.2"), r"b\.txt, line 2: the box of 'cat' reaches outside .* 32 × 32"),
    "yolo pixels": (yolo_line("0 12 20 9 8"), r"b\.txt, line 2: 20 is no share"),
    "yolo no area": (yolo_line("0 0.5 0.5 0 0.2"), r"b\.txt, line 2: .* no area"),
    "yolo class": (yolo_line("3 0.5 0.5 0.1 0.2"), r"b\.txt, line 2: there is no class number 3; known are 0 to 2"),
    "yolo negative class": (yolo_line("-1 0.5 0.5 0.1 0.2"), "no class number -1"),
    "yolo infinite": (yolo_line("0 inf 0.5 0.1 0.2"), "inf is no share"),
    "yolo NaN": (yolo_line("0 nan 0.5 0.1 0.2"), "no finite numbers"),
    "yolo without image": (lambda r: without(yolo(r), "images/train/b.png"), r"b\.txt: these labels have no image"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), MENDABLE.values(), ids=MENDABLE)
def test_faults_are_named_and_mended_if_asked(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    root = make(tmp_path / "set")
    with pytest.raises(DataError, match=words) as error:
        load_boxes(root)
    assert "1 fault." in str(error.value)
    assert 'faulty="mend"' in str(error.value)
    assert str(tmp_path) not in str(error.value)
    data = load_boxes(root, faulty="mend")
    assert len(data.mended) == 1
    for split in (data.train, data.validation, data.test):
        for boxes, (height, width) in zip(split.boxes, split.sizes, strict=True):
            assert boxes.corners.ge(0).all()
            assert boxes.corners[:, 2].le(width).all()
            assert boxes.corners[:, 3].le(height).all()
            assert boxes.areas.gt(0).all()


def test_classes_that_a_format_does_not_list(tmp_path: Path) -> None:
    root = voc(tmp_path / "set")
    edit(root / "Annotations/d.xml", "owl", "owls")
    with pytest.raises(DataError, match=r"d\.xml, line 4: there is no class 'owls'; did you mean 'owl'"):
        load_boxes(root)
    with pytest.raises(DataError, match="no class 'dog'"):
        load_boxes(root, classes=["cat", "owl", "owls"])
    assert load_boxes(root, classes=["cat", "owl", "owls", "dog"]).test.boxes[0].labels.tolist() == [2]


def test_many_faults_are_counted(tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    (root / "labels/train/b.txt").write_text("7 0.5 0.5 0.1 0.1\n" * 50)
    with pytest.raises(DataError, match=r"50 faults\. .*line 1: .*line 3: .* And 47 more\."):
        load_boxes(root)


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object>&x;</object></annotation>'


def with_xml(text: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        (voc(root) / "Annotations/a.xml").write_text(text)
        return root

    return change


def piped(root: Path, name: str) -> Path:
    (root / name).unlink()
    os.mkfifo(root / name)
    return root


def listing(text: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        (voc(root) / "ImageSets/Main/train.txt").write_text(text)
        return root

    return change


def first_image(**values: object) -> Callable[[Path], Path]:
    return coco_edit(lambda c: c["images"][0].update(values))


def names_file(root: Path, names: str) -> Path:
    """A data set whose classes lie in a list without YAML."""
    (without(yolo(root), "data.yaml") / "classes.txt").write_text(names)
    return root


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "entities": (with_xml(BOMB), r"a\.xml, line 1: a document type"),
    "a file as entity": (with_xml(FILE), "a document type"),
    "deep XML": (with_xml("<annotation>" + "<a>" * 10_000), r"line 1: elements lie more than 50 deep"),
    "cut off XML": (with_xml("<annotation>\n<object>"), r"a\.xml, line 2: no well-formed XML"),
    "an odd encoding": (with_xml('<?xml version="1.0" encoding="nonsense"?><annotation/>'), "no well-formed XML"),
    "other XML": (with_xml("<html/>"), r"line 1: wanted <annotation>; got <html>"),
    "no corners": (voc_edit("<bndbox>", "<box>"), r"a\.xml, line \d: no well-formed|no <bndbox>"),
    "words for numbers": (voc_edit(XMIN, "<xmin>eight</xmin>"), r"a\.xml, line 5: <xmin> wants a number; got 'eight'"),
    "another size": (voc_edit("<width>64", "<width>63"), r"a\.xml: it describes an image of 63 × 40 .* has 64 × 40"),
    "a list that leads out": (listing("../../../etc/passwd\n"), r"train\.txt, line 1: .*does not lie in the data set"),
    "an absolute list": (listing("/etc/passwd\n"), "does not lie in"),
    "an image twice": (listing("a\na\n"), "described 2 times"),
    "a pipe as XML": (lambda r: piped(voc(r), "Annotations/a.xml"), "has no file"),
    "a pipe as image": (lambda r: piped(voc(r), "JPEGImages/a.png"), "no image"),
    "a pipe as labels": (lambda r: piped(yolo(r), "labels/train/a.txt"), "named pipe"),
    "a pipe as JSON": (lambda r: piped(coco(r), "annotations/instances_val2017.json"), "named pipe"),
    "no JSON": (lambda r: (coco(r) / "annotations/instances_val2017.json").write_text("{") and r, "is not JSON"),
    "other JSON": (lambda r: (coco(r) / "annotations/instances_val2017.json").write_text("[1]") and r, "no COCO file"),
    "crowded JSON": (
        lambda r: (coco(r) / "annotations/instances_val2017.json").write_text("[" * 600_000) and r, "lists and objects"
    ),
    "no list": (coco_edit(lambda c: c.update(images=3)), "wants lists of objects"),
    "coco leads out": (first_image(file_name="../../../etc/passwd"), r"images\[0\]: .*does not lie in"),
    "coco name": (first_image(file_name=7), r"images\[0\]: its 'file_name' is '7'"),
    "coco size": (first_image(width=63), r"images\[0\]: it describes an image of 63 × 40"),
    "coco id twice": (first_image(id=11), r"images\[1\]: the id 11 is given twice"),
    "coco box": (coco_edit(lambda c: c["annotations"][0].update(bbox=[1, 2])), r"annotations\[0\]: its 'bbox' wants"),
    "coco no box": (coco_edit(lambda c: c["annotations"][0].pop("bbox")), r"annotations\[0\]: its 'bbox' is 'None'"),
    "coco categories": (coco_edit(lambda c: c["categories"].append(c["categories"][0])), "is there twice"),
    "yolo fields": (yolo_line("0 0.5 0.5 0.1"), r"b\.txt, line 2: wanted a class .*; got 4 fields"),
    "yolo words": (yolo_line("cat 0.5 0.5 0.1 0.1"), r"b\.txt, line 2: wanted a class's number"),
    "yaml leads out": (yaml_edit("train: images/train", "train: /etc"), r"data\.yaml, line \d: .*does not lie in"),
    "yaml leads nowhere": (yaml_edit("train: images/train", "train: ../x/y"), "no folder and no list '../x/y'"),
    "yaml of numbers": (yaml_edit("train: images/train", "train: 3"), "wanted a folder"),
    "yaml names": (yaml_edit("  0: cat", "  5: cat"), "wants the numbers from 0 to 2"),
    "yaml of code": (yaml_edit("path: ", "path: !!python/object/apply:os.system "), "constructor"),
    "yaml of anchors": (yaml_edit("path: ", "a: &a [x]\nb: [*a, *a]\npath: "), "anchors"),
    "no yaml": (yaml_edit("names:", "names: [:"), "cannot be read"),
    "damaged image": (lambda r: (yolo(r) / "images/train/a.png").write_bytes(b"x" * 99) and r, "damaged or no image"),
    "coco long name": (first_image(file_name="a" * 300), r"images\[0\]: no file can have the name 'a+'….* 300 char"),
    "coco long path": (first_image(file_name="a/" * 5000 + "b"), "no file can have the name"),
    "coco wide": (first_image(width=10**4000), r"images\[0\]: its 'width' is '10+'"),
    "voc long name": (listing("a" * 300 + "\n"), r"train\.txt, line 1: no file can have the name"),
    "yaml long name": (yaml_edit("train: images/train", "train: " + "a" * 300), r"data\.yaml, .*no file can have"),
    "yolo digits": (yolo_line("9" * 4000 + " 0.5 0.5 0.1 0.1"), "no class number 9{20};"),
    "yaml names twice": (yaml_edit("1: dog", "1: cat"), "two classes with the name 'cat'"),
    "an empty name": (lambda r: names_file(r, "cat\n\ndog\n"), r"classes\.txt, line 2: there is no name for the class"),
    "names twice": (lambda r: names_file(r, "cat\ndog\ncat\n"), "two classes with the name 'cat'"),
    "crowded XML": (with_xml("<annotation>" + "<a/>" * 100_001 + "</annotation>"), "more than 100,000 elements"),
    "nothing": (lambda r: r.mkdir() or r, "no images with boxes in a format that is known"),
    "no images": (listing(""), "0 images to train"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_or_unsafe_is_refused(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        load_boxes(make(tmp_path / "set"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200


TOKENS = [b"-1", b"1e999", b"nan", b"\0", b"null", b"{", b"[", b"<", b"&x;", b"9" * 30, b"..", b"/", b"\xff\xfe", b"'",
          b": ", b"\n", b"0.5", b'"a"', b"[]"]  # fmt: skip


def changed(rng: random.Random, content: bytes) -> bytes:
    """Some bytes gone, others there."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        piece = rng.choice([b"", rng.choice(TOKENS), rng.randbytes(1)])
        content = content[:start] + piece + content[start + rng.choice([0, 1, 4, 12]) :]
    return content


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_any_bytes_are_read_or_refused(tmp_path: Path, name: str) -> None:
    root, said = WRITERS[name](tmp_path / "set"), list[str]()
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".png")
    for seed in range(120):
        rng = random.Random(seed)
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(changed(rng, content))
        try:
            load_boxes(root, faulty=rng.choice(["refuse", "mend"]))
        except SecateurError as error:
            said.append(str(error))
        path.write_bytes(content)
    assert 30 < len(said) < 120
    assert all("\n" not in words and len(words) < 1500 for words in said)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        load_boxes(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="neither a folder nor an archive"):
        load_boxes(tmp_path / "file")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    assert len(load_boxes(yaml_edit("path: ../somewhere", "path: " + "b" * 300)(tmp_path / "yaml")).train)
    assert load_boxes(names_file(tmp_path / "set", "cat\ndog\nowl\n\n")).classes == ("cat", "dog", "owl")


def test_links_in_the_users_own_folder_are_followed(tmp_path: Path) -> None:
    """Archives hold none: they are refused when they are unpacked."""
    root = voc(tmp_path / "set")
    (root / "JPEGImages/a.png").unlink()
    (root / "JPEGImages/a.png").symlink_to(picture(tmp_path / "elsewhere/a.png", "a"))
    assert tuple(load_boxes(root).train[0].pixels.shape) == (3, 40, 64)


def test_an_image_that_changes_after_it_was_read(tmp_path: Path) -> None:
    root = voc(tmp_path / "set")
    data = load_boxes(root)
    Image.new("RGB", (9, 9)).save(root / "JPEGImages/a.png")
    with pytest.raises(DataError, match=r"had 64 × 40 pixels .* now has 9 × 9"):
        data.train[0]
