"""Images with boxes: one data set in three formats, read the same; real data against a reading of their own."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from box_files import ALL, CLASSES, ROWS, SIZES, WRITERS, coco, voc, yolo
from secateur.core.errors import DataError, InputError, UnknownNameError
from secateur.data.boxes import Boxes, BoxSet, BoxSplit, load_boxes


def check(data: BoxSet) -> None:
    assert data.classes == CLASSES
    for split, rows in ((data.train, ROWS["train"]), (data.validation, ROWS["val"]), (data.test, ROWS["test"])):
        assert split.sizes == tuple(SIZES[name] for name in rows)
        for boxes, wanted in zip(split.boxes, rows.values(), strict=True):
            assert [CLASSES[i] for i in boxes.labels] == [name for name, _ in wanted]
            corners = torch.tensor([corners for _, corners in wanted], dtype=torch.float32).reshape(-1, 4)
            torch.testing.assert_close(boxes.corners, corners, rtol=0, atol=1e-4)
            assert not boxes.ignored.any()
    pixels, _ = data.train[1]
    assert pixels.dtype == torch.uint8
    assert tuple(pixels.shape) == (3, 32, 32)


@pytest.mark.parametrize("name", WRITERS)
def test_one_data_set_in_three_formats(tmp_path: Path, name: str) -> None:
    check(load_boxes(WRITERS[name](tmp_path / "set")))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_archives(tmp_path: Path, name: str, ending: str) -> None:
    root = WRITERS[name](tmp_path / "inner" / "set")
    path = tmp_path / f"packed{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for file in sorted(root.rglob("*")):
                out.write(file, file.relative_to(tmp_path / "inner"))
    else:
        with tarfile.open(path, f"w:{ending[5:]}") as out:
            out.add(root, "set")
    data = load_boxes(path, cache_dir=tmp_path / "cache")
    check(data)
    assert data.name == "packed"


def test_a_file_can_be_named_itself(tmp_path: Path) -> None:
    check(load_boxes(yolo(tmp_path / "yolo") / "data.yaml"))
    data = load_boxes(coco(tmp_path / "coco", ALL) / "annotations/instances_train2017.json", validation=0)
    assert list(map(len, (data.train, data.validation, data.test))) == [3, 0, 1]


def test_roboflows_folders(tmp_path: Path) -> None:
    """``train: ../train/images`` beside the YAML file, and JSON files among the images."""
    root = yolo(tmp_path / "yolo")
    for part in ROWS:
        (root / part).mkdir()
        for kind in ("images", "labels"):
            (root / kind / part).rename(root / part / kind)
    text = (root / "data.yaml").read_text()
    for part in ROWS:
        text = text.replace(f"images/{part}", f"../{part}/images")
    (root / "data.yaml").write_text(text)
    check(load_boxes(root))
    other = coco(tmp_path / "coco")
    for part, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        (other / f"{part}2017").rename(other / folder)
        (other / f"annotations/instances_{part}2017.json").rename(other / folder / "_annotations.coco.json")
    shutil.rmtree(other / "annotations")
    check(load_boxes(other))


def test_yolo_lists_outlines_and_a_file_of_classes(tmp_path: Path) -> None:
    root = yolo(tmp_path / "yolo")
    (root / "some.txt").write_text("images/train/b.png\n\n./images/train/a.png\n")
    (root / "data.yaml").write_text(
        "path: .\ntrain: some.txt\ntest: [images/test, images/val]\nnames: [cat, dog, owl]\n"
    )
    (root / "labels/train/b.txt").write_text("1 0.1 0.2 0.9 0.2 0.5 0.75\n")
    data = load_boxes(root, validation=0)
    assert [path.name for path in data.train.images if isinstance(path, Path)] == ["b.png", "a.png"]
    torch.testing.assert_close(data.train.boxes[0].corners, 32 * torch.tensor([[0.1, 0.2, 0.9, 0.75]]))
    assert [len(boxes) for boxes in data.test.boxes] == [1, 0]
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (*root.glob("images/*/*"), *root.glob("labels/*/*")):
        path.rename(flat / path.name)
    (flat / "classes.txt").write_text("cat\ndog\nowl\n")
    data = load_boxes(flat, validation=0)
    assert sum(len(boxes) for split in (data.train, data.test) for boxes in split.boxes) == 4


def test_a_stray_json_file_makes_no_coco(tmp_path: Path) -> None:
    root = yolo(tmp_path / "packed" / "set")
    (root / "package.json").write_text("{}")
    check(load_boxes(tmp_path / "packed"))
    other = coco(tmp_path / "coco", ALL)
    (other / "annotations/instances_train2017.json").rename(other / "labels.json")
    shutil.rmtree(other / "annotations")
    assert len(load_boxes(other, validation=0).train) == 3


def test_parts_that_are_missing(tmp_path: Path) -> None:
    rows = {"train": {"a": ROWS["train"]["a"], "b": ROWS["train"]["b"], "d": ROWS["test"]["d"]}, "val": ROWS["val"]}
    data = load_boxes(yolo(tmp_path / "two", rows), validation=0.34)
    assert list(map(len, (data.train, data.validation, data.test))) == [2, 1, 1]
    assert data.test.sizes == (SIZES["c"],), "the validation part is all that was held out"
    again = load_boxes(tmp_path / "two", validation=0.34)
    assert again.train.sizes == data.train.sizes
    root = voc(tmp_path / "one", {"trainval": ALL["train"]})
    assert list(map(len, (load_boxes(root, validation=0).train, load_boxes(root).test))) == [3, 1]
    shutil.rmtree(root / "ImageSets")
    assert len(load_boxes(root, validation=0).train) == 3
    assert len(load_boxes(root, validation=0, limit=2).train) == 2


def test_crowds_and_difficult_objects_are_ignored(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert load_boxes(root).train.boxes[0].ignored.tolist() == [True, False]
    root = voc(tmp_path / "voc")
    path = root / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<name>owl</name>", "<name>owl</name><difficult>1</difficult>"))
    (boxes, _) = load_boxes(root).train.boxes
    assert boxes.ignored.tolist() == [False, True]
    assert boxes.counted.labels.tolist() == [0]


def test_one_pixel_over_the_edge_is_rounding(tmp_path: Path) -> None:
    rows = {"train": {"a": [("cat", (-1, -0.5, 65, 41))]}, "test": ROWS["val"]}
    data = load_boxes(voc(tmp_path / "voc", rows), validation=0)
    assert data.train.boxes[0].corners.tolist() == [[0, 0, 64, 40]]
    assert data.mended == ()


def test_grey_images_and_those_in_memory(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    Image.new("L", (32, 32), 7).save(root / "JPEGImages/b.png")
    pixels, _ = load_boxes(root).train[1]
    assert pixels.shape == (3, 32, 32)
    assert pixels.eq(7).all()
    split = BoxSplit.of([pixels, pixels], [Boxes.of([]), Boxes.of([((0, 0, 2, 2), 1)])])
    assert [len(boxes) for _, boxes in split.subset([1, 0, 1])] == [1, 0, 1]


def test_arguments_are_checked(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    with pytest.raises(UnknownNameError, match=r"format of boxes named 'cocoa'.*'coco'"):
        load_boxes(root, format="cocoa")
    with pytest.raises(UnknownNameError, match=r"faulty=…: .*'mendd'.*'mend'"):
        load_boxes(root, faulty="mendd")
    with pytest.raises(InputError, match="validation"):
        load_boxes(root, validation=1.0)
    with pytest.raises(InputError, match=r"Boxes\(labels=…\) wants torch.int64"):
        Boxes(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(InputError, match=r"Boxes\(corners=…\).*\(N, 4\)"):
        Boxes(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(InputError, match=r"image 1 is torch.float32 \(3, 4, 4\)"):
        BoxSplit.of([torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)], [Boxes.of([]), Boxes.of([])])
    with pytest.raises(InputError, match="2 images, 1 lists"):
        BoxSplit.of([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 2, [Boxes.of([])])


# ------------------------------------------------------------------------------------------------------- real data


def test_bccd(shared: Path, tmp_path: Path) -> None:
    """All 4,886 boxes with an area, in the repository's own parts; the two without are named."""
    path = shared / "data/bccd-voc.tar"
    with pytest.raises(DataError, match=r"2 faults\. Annotations/BloodImage_00343\.xml, line \d+: .*'RBC' has no area"):
        load_boxes(path, cache_dir=tmp_path)
    data = load_boxes(path, cache_dir=tmp_path, faulty="mend")
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert list(map(len, (data.train, data.validation, data.test))) == [205, 87, 72]
    assert len(data.mended) == 2
    count = 0
    for split in (data.train, data.validation, data.test):
        for image, boxes in zip(split.images, split.boxes, strict=True):
            assert isinstance(image, Path)
            tree = ElementTree.parse(image.parents[1] / f"Annotations/{image.stem}.xml")
            wanted = []
            for thing in tree.getroot().iter("object"):
                x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
                if x2 > x1 and y2 > y1:
                    wanted.append([x1, y1, x2, y2, data.classes.index(thing.findtext("name", ""))])
            got = torch.cat([boxes.corners, boxes.labels[:, None]], 1)
            assert got.tolist() == wanted
            count += len(wanted)
    assert count == 4886
    assert tuple(data.train[0].pixels.shape) == (3, 480, 640)


def test_coco128(shared: Path, tmp_path: Path) -> None:
    """1,827 boxes of 80 classes; two label files have no image, and one plain file the name of a folder."""
    path = shared / "data/coco128-yolo-416.tar"
    with pytest.raises(DataError, match=r"labels/train2017/000000000656\.txt: these labels have no image"):
        load_boxes(path, cache_dir=tmp_path)
    data = load_boxes(path, cache_dir=tmp_path, faulty="mend", validation=0)
    assert (len(data.classes), len(data.train), len(data.test), len(data.mended)) == (80, 128, 128, 2)
    count = 0
    for split in (data.train, data.test):
        for image, boxes, (height, width) in zip(split.images, split.boxes, split.sizes, strict=True):
            assert isinstance(image, Path)
            labels = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
            lines = labels.read_text().split("\n") if labels.is_file() else []
            rows = torch.tensor([[float(v) for v in line.split()] for line in lines if line], dtype=torch.float64)
            assert boxes.labels.tolist() == rows.reshape(-1, 5)[:, 0].tolist()
            centres, sizes = rows.reshape(-1, 5)[:, 1:3], rows.reshape(-1, 5)[:, 3:]
            scale = torch.tensor([width, height] * 2, dtype=torch.float64)
            wanted = torch.cat([centres - sizes / 2, centres + sizes / 2], 1) * scale
            torch.testing.assert_close(boxes.corners.double(), wanted, rtol=0, atol=1e-3)
            count += len(boxes)
    assert count == 1827
