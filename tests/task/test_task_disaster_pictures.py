"""Reading images with their masks: what comes out, and what broken files say."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from disaster_support import Pixels, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from semantic_net.errors import DataError
from semantic_net.task.disaster.classes import IGNORE, ClassSet
from semantic_net.task.disaster.pictures import FilePair, PictureCache, open_pair

ABC = ClassSet(("a", "b", "c"))


def pair(
    folder: Path,
    image: Pixels | None = None,
    mask: Pixels | None = None,
    *,
    classes: ClassSet = ABC,
    max_side: int | None = None,
) -> FilePair:
    default_image, default_mask = picture()
    Image.fromarray(default_image if image is None else image).save(folder / "x.png")
    Image.fromarray(default_mask if mask is None else mask).save(folder / "x_mask.png")
    return open_pair(folder / "x.png", folder / "x_mask.png", "g", classes, max_side)


def test_a_pair_is_read_as_it_was_written(tmp_path: Path) -> None:
    image, mask = picture()
    found = pair(tmp_path, image, mask)
    assert found.size == (20, 24)
    read_image, read_mask = found.read()
    assert np.array_equal(read_image, image)
    assert np.array_equal(read_mask, mask)
    assert read_image.dtype == read_mask.dtype == np.uint8


def test_the_ignore_index_becomes_ignore_wherever_it_lies(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 200]], dtype=np.uint8)
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    _, read = pair(tmp_path, image, mask, classes=ClassSet(("a", "b", "c"), 200)).read()
    assert read.tolist() == [[0, 1], [2, IGNORE]]
    mask[1, 1] = 1
    _, read = pair(tmp_path, image, mask, classes=ClassSet(("a", "b", "c"), 2)).read()
    assert read.tolist() == [[0, 1], [IGNORE, 1]]


def test_index_masks_of_every_kind_are_read(tmp_path: Path) -> None:
    found = pair(tmp_path)
    indices = np.random.default_rng(1).integers(0, 2, (20, 24)).astype(np.uint8)
    coloured = Image.fromarray(indices)
    coloured.putpalette([9, 9, 9, 200, 0, 0])
    for mask in (
        coloured,
        Image.fromarray(indices.astype(bool)),
        Image.fromarray(indices.astype(np.uint16)),
    ):
        mask.save(tmp_path / "x_mask.png")
        assert np.array_equal(found.read()[1], indices), mask.mode


def test_max_side_shrinks_images_smoothly_and_masks_by_picking(tmp_path: Path) -> None:
    mask = np.zeros((40, 80), dtype=np.uint8)
    mask[:, 40:] = 2
    image = np.repeat(mask[..., None] * 100, 3, axis=2)
    small_image, small_mask = pair(tmp_path, image, mask, max_side=20).read()
    assert small_mask.shape == (10, 20)
    assert np.unique(small_mask).tolist() == [0, 2]
    assert np.array_equal(small_image[..., 0], 100 * small_mask)
    assert pair(tmp_path, image, mask, max_side=80).size == (40, 80), "nothing is enlarged"


def test_a_large_jpeg_is_shrunk_too(tmp_path: Path) -> None:
    found = pair(tmp_path, mask=np.zeros((160, 200), dtype=np.uint8))
    Image.new("RGB", (200, 160), (10, 200, 30)).save(tmp_path / "x.jpg")
    found = open_pair(tmp_path / "x.jpg", found.mask, "", ABC, 25)
    image, mask = found.read()
    assert image.shape == (20, 25, 3)
    assert mask.shape == (20, 25)
    assert abs(image.astype(int) - [10, 200, 30]).max() <= 3


def test_grey_and_transparent_images_are_read_as_rgb(tmp_path: Path) -> None:
    found = pair(tmp_path)
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (24, 20)).save(tmp_path / "x.png")
        assert found.read()[0].shape == (20, 24, 3)


@pytest.mark.parametrize("name", ["x.png", "x_mask.png"])
def test_broken_files_are_named(tmp_path: Path, name: str) -> None:
    found = pair(tmp_path)
    file = tmp_path / name
    content = file.read_bytes()
    for broken in (b"", b"no image", content[: len(content) // 2]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=rf"{name}: cannot be read as an image"):
            found.read()
    file.unlink()
    with pytest.raises(DataError, match=rf"{name}: cannot be read as an image: No such file"):
        found.read()


def test_a_broken_header_shows_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.jpg: cannot be read .*: no known image format"):
        open_pair(tmp_path / "x.jpg", tmp_path / "x.png", "", ABC, None)


def test_a_mask_must_fit_its_image(tmp_path: Path) -> None:
    found = pair(tmp_path, mask=np.zeros((20, 23), dtype=np.uint8))
    with pytest.raises(DataError, match=r"x_mask\.png: 23 x 20 pixels, but .*x\.png has 24 x 20"):
        found.read()


def test_a_mask_index_outside_the_classes_is_named(tmp_path: Path) -> None:
    mask = picture()[1]
    mask[3, 4] = 7
    with pytest.raises(DataError, match=r"x_mask\.png: class index 7 is outside the 3 classes"):
        pair(tmp_path, mask=mask).read()
    found = pair(tmp_path)
    Image.fromarray(mask.astype(np.uint16) * 100).save(tmp_path / "x_mask.png")
    with pytest.raises(DataError, match="class index 100, 200, 700 is outside"):
        found.read()


def test_a_colour_mask_and_a_deep_image_are_refused(tmp_path: Path) -> None:
    found = pair(tmp_path)
    Image.new("RGB", (24, 20)).save(tmp_path / "x_mask.png")
    with pytest.raises(DataError, match=r"x_mask\.png: a mask has one channel .* RGB"):
        found.read()
    Image.fromarray(np.zeros((20, 24), dtype=np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png: images of mode I;16"):
        found.read()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 5000), byte=st.integers(0, 255), end=st.integers(0, 5000))
def test_damaged_bytes_give_pixels_or_the_documented_error(
    tmp_path: Path, at: int, byte: int, end: int
) -> None:
    found = pair(tmp_path)
    file = io.BytesIO()
    Image.fromarray(picture()[0]).save(file, "JPEG")
    content = bytearray(file.getvalue())
    content[at % len(content)] = byte
    (tmp_path / "x.png").write_bytes(content[: max(end, at + 1)])
    with contextlib.suppress(DataError):
        assert found.read()[0].shape == (20, 24, 3)


def test_the_cache_keeps_what_fits_and_reads_the_rest_anew(tmp_path: Path) -> None:
    found = pair(tmp_path)
    cache = PictureCache([found, found, found], budget_bytes=2 * 20 * 24 * 4)
    first = [cache.read(number) for number in range(3)]
    again = [cache.read(number) for number in range(3)]
    assert [a[0] is b[0] for a, b in zip(first, again, strict=True)] == [True, True, False]
    assert np.array_equal(first[2][0], again[2][0])
