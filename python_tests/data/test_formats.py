"""A format is its declaration: nothing else knows which formats there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medad_fast.data import formats as package
from medad_fast.data import load_dataset, read, read_mask
from medad_fast.data.formats import all_suffixes, formats, is_image_file, stem
from medad_fast.errors import InputError
from python_tests.data.files import grey_png

ROOT = Path(__file__).parents[2]

TOY = """
import numpy as np

from medad_fast.data.formats import Format
from medad_fast.data.image import Image, Provenance


def read(path, options):
    _, columns, rows, _, values = path.read_bytes().split(maxsplit=4)
    pixels = np.frombuffer(values, np.uint8).reshape(1, int(rows), int(columns))
    return Image(pixels, "OT", None, None, Provenance(path, "toy", 8))


FORMAT = Format(
    name="toy",
    kinds=("TOY",),
    suffixes=(".toy",),
    sniff=lambda path, start: start.startswith(b"TOY"),
    read=read,
)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The format TOY, added as a module is that lies in the folder."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy.py").write_text(TOY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "code")])
    formats.cache_clear()
    all_suffixes.cache_clear()
    yield
    formats.cache_clear()
    all_suffixes.cache_clear()
    sys.modules.pop("medad_fast.data.formats.toy", None)


def test_every_format_is_whole_and_stands_in_the_documentation():
    page = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    found = formats().values()
    assert {each.name for each in found} >= {"dicom", "nifti", "picture"}
    assert len(set(all_suffixes())) == len(all_suffixes())
    for each in found:
        assert each.suffixes == tuple(suffix.lower() for suffix in each.suffixes)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{each.name}` |"))
        assert all(f"`{suffix}`" in row for suffix in each.suffixes)


def test_a_module_is_all_that_a_format_needs(tmp_path, toy):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    path = tmp_path / "data" / "train" / "normal" / "A.TOY"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"TOY 3 2 255\n" + pixels.tobytes())
    image = read(path)
    np.testing.assert_array_equal(image.pixels, pixels[None])
    np.testing.assert_array_equal(read_mask(path, image), pixels[None] > 0)
    assert stem("a/B.Toy") == "a/B"
    (case,) = load_dataset(tmp_path / "data").cases
    assert case.files == (path,)
    path.write_bytes(b"TOY 3 2 255\n")
    with pytest.raises(InputError, match=r"A\.TOY: cannot be read as a TOY file \(ValueError"):
        read(path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match=r"is not a DICOM, .*, JPEG or TOY file"):
        read(tmp_path / "a.txt")


def test_no_decoder_is_loaded_before_a_file_is_read():
    code = (
        "import sys, medad_fast.data\n"
        "medad_fast.data.formats.formats()\n"
        "print(sorted({'pydicom', 'nibabel', 'PIL'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_several_pictures_are_no_series(tmp_path):
    files = [grey_png(tmp_path / f"{k}.png", k) for k in range(2)]
    with pytest.raises(InputError, match=r"0\.png: is an image by itself"):
        read(files)
    with pytest.raises(InputError, match="got no file"):
        read([])


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "IM0001")
    assert not is_image_file(tmp_path / "IM0001")
    (tmp_path / "manifest.csv").write_text("path,label,split\nIM0001,normal,train\n")
    (case,) = load_dataset(tmp_path).cases
    with pytest.raises(InputError, match="not a regular file"):
        read(case.files)
