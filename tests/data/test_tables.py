"""Tables of numbers, series and tables of labels: what readers find, and what they refuse with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from secateur.core.errors import DataError, InputError, SecateurError, UnknownNameError
from secateur.data.labelled import LabelSplit, digits_with_labels, load_labels
from secateur.data.numbers import read_numbers
from secateur.data.rows import RowSplit, load_rows, rows_of
from secateur.data.series import load_series, synthetic_series
from secateur.data.texts import cut_text, held_out, load_pairs, load_texts


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_rows_with_any_of_three_marks(tmp_path: Path, mark: str) -> None:
    lines = ["a,b,y"] + [f"{i},{i / 4},{-i}e1" for i in range(20)]
    path = written(tmp_path, "\ufeff" + "\r\n".join(lines).replace(",", mark) + "\r\n")
    data = load_rows(path, validation=0.25)
    assert (data.columns, data.targets, data.name) == (("a", "b"), ("y",), "table")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [12, 4, 4]
    seen = torch.cat([s.inputs[:, 0] for s in (data.train, data.validation, data.test)]).sort().values
    assert seen.tolist() == list(range(20))
    assert torch.equal(data.train.targets[:, 0], -10 * data.train.inputs[:, 0])
    other = load_rows(path, target="a", seed=1)
    assert other.columns == ("b", "y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3,x\n", r"line 3, column b: wanted a number; got 'x'"),
        ("a,b\n1,2\n\n3,\n", r"line 4, column b: the value is missing"),
        ("a,b\n1,2\n3\n", r"line 3: 1 fields, where the header has 2"),
        ("a,b\n1,2,3\n", r"line 2: 3 fields, where the header has 2"),
        ("a,b\n1,nan\n", r"line 2, column b: wanted a finite number; got 'nan'"),
        ("a,b\n1,-1e999\n", r"line 2, column b: wanted a finite number"),
        ("1,2\n3,4\n", r"line 1: these are numbers; wanted a header"),
        ("a,a\n3,4\n", r"line 1: the column name 'a' is there twice"),
        ("a,\n3,4\n", r"line 1: the column name '' is empty"),
        ('a,b\n"3,4\n', r"unexpected end of data"),
        ("a,b\n", r"has a header and no rows"),
        ("", r"is empty: wanted a header"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=said) as caught:
        read_numbers(path)
    assert str(path) in str(caught.value)


def test_other_broken_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_numbers(tmp_path / "none.csv")
    (tmp_path / "raw.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not a text file"):
        read_numbers(tmp_path / "raw.csv")
    path = written(tmp_path, "age,price\n" + "1,2\n" * 9)
    with pytest.raises(UnknownNameError, match="Did you mean 'price'"):
        load_rows(path, target="prize")
    with pytest.raises(DataError, match="nothing is left of one"):
        load_rows(path, target=["age", "price"])
    with pytest.raises(DataError, match="rows to train and"):
        load_rows(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(InputError, match="row 1 has NaN"):
        rows_of([[1.0], [float("nan")], [1.0]], [1, 2, 3])
    with pytest.raises(InputError, match=r"RowSplit\(targets"):
        RowSplit(torch.zeros(3, 1).double(), torch.zeros(2, 1).double())


def test_series_are_cut_in_time(tmp_path: Path) -> None:
    path = written(tmp_path, "t,u\n" + "".join(f"{i},{-i}\n" for i in range(100)))
    data = load_series(path, validation=0.25)
    assert torch.cat([data.train, data.validation, data.test])[:, 0].tolist() == list(range(100))
    assert [len(p) for p in (data.train, data.validation, data.test)] == [60, 20, 20]
    assert len(load_series(path, limit=50).test) == 10
    with pytest.raises(DataError, match="has 3 steps"):
        load_series(written(tmp_path, "t\n1\n2\n3\n"))
    with pytest.raises(InputError, match="share in"):
        load_series(path, validation=2.0)


def test_the_synthetic_series_is_its_formula() -> None:
    data = synthetic_series(300, seed=4, validation=0.0)
    values = torch.cat([data.train, data.test])
    a, b, c = values.T
    t = torch.arange(300, dtype=torch.float64)
    noise = (
        a - (2 * torch.pi * t / 24).sin() - 0.5 * (2 * torch.pi * t / 168).sin(),
        b[3:] - 0.8 * b[2:-1] - 0.5 * a[:-3],
        c[2:] - a[1:-1] * b[:-2],
    )
    assert all(0.08 < float(e.std()) < 0.12 for e in noise)
    assert torch.equal(values, torch.cat([synthetic_series(300, seed=4).train, synthetic_series(300, seed=4).validation,
                                          synthetic_series(300, seed=4).test]))  # fmt: skip


def test_tables_of_labels(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{i % 2},{i // 5}" for i in range(10)]
    path = written(tmp_path, "image,odd,large\n" + "\n".join(rows), "labels.csv")
    data = load_labels(tmp_path, validation=0.25)
    assert (data.classes, [len(s) for s in (data.train, data.validation, data.test)]) == (("odd", "large"), [6, 2, 2])
    for split in (data.train, data.validation, data.test):
        for index in range(len(split)):
            number = int(split.pixels(index)[0, 0, 0])
            assert split.labels[index].tolist() == [number % 2, number // 5]
    (tmp_path / "x.png").write_bytes((tmp_path / "1.png").read_bytes())
    for line, said in (("x.png,1,2", "column large: wanted 0 or 1; got '2'"), ("11.png,1,1", "there is no image"),
                       ("../3.png,1,1", "there is no image"), ("3.png,1,1", "was in line 5 already")):  # fmt: skip
        path.write_text("image,odd,large\n" + "\n".join([*rows, line]))
        with pytest.raises(DataError, match=said) as caught:
            load_labels(tmp_path)
        assert "line 12" in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"has no labels\.csv"):
        load_labels(tmp_path)
    with pytest.raises(InputError, match="1 for the labels"):
        LabelSplit((torch.zeros(3, 2, 2).byte(),), torch.tensor([[2]]))
    assert digits_with_labels(3, 1, 2).train.labels.shape == (3, 10)


def test_texts_and_pairs(tmp_path: Path) -> None:
    rows = "".join(f'"text {i}, yes",{"ab"[i % 2]}\n' for i in range(10))
    texts = load_texts(written(tmp_path, "text,label\n" + rows), validation=0.25)
    assert [len(p) for p in (texts.train, texts.validation, texts.test)] == [6, 2, 2]
    assert all(("ab"[int(t[5]) % 2]) == label for t, label in texts.train + texts.test)
    with pytest.raises(DataError, match="line 12, column label: it is empty"):
        load_texts(written(tmp_path, "text,label\n" + rows + "more, \n"))
    with pytest.raises(UnknownNameError, match="label"):
        load_texts(written(tmp_path, "text,labels\n" + rows))
    pairs = load_pairs(written(tmp_path, "text1,text2,score\n" + "".join(f"a{i},b{i},{i / 2}\n" for i in range(11))))
    assert all(score == int(a[1:]) / 10 for a, _, score in pairs.train + pairs.validation + pairs.test)
    for body, said in (("a,b,x\n", "line 2, column score: wanted a number"), ("a,b,1\nc,d,1\n", "all scores are")):
        with pytest.raises(DataError, match=said):
            load_pairs(written(tmp_path, "text1,text2,score\n" + body))


def test_text_is_cut_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(chr(97 + i % 26) for i in range(100)), "some.txt")
    parts = cut_text(path, validation=0.25)
    assert "".join((*parts.train, *parts.validation, *parts.test)) == path.read_text()
    assert [len(p[0]) for p in (parts.train, parts.validation, parts.test)] == [60, 20, 20]
    with pytest.raises(DataError, match="too few"):
        cut_text(written(tmp_path, "short", "short.txt"))
    with pytest.raises(SecateurError, match="at least 3"):
        held_out([1], "one")
