"""Folders of images: upright, in parts, with sub-folders; and what is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edgepress.calibration.data import DataParts
from edgepress.calibration.sources import load_data
from edgepress.errors import CompressError
from edgepress.pipeline.recipe.sections import ImagePreprocessing
from PIL import Image

GREY = ImagePreprocessing(size=8, channels=1, mean=(0,), std=(1,))
COLOUR = ImagePreprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1))


def load(folder: Path, preprocess: ImagePreprocessing = GREY, **options: object) -> DataParts:
    return load_data(folder.name, {}, None, preprocess, 64, 0, folder=folder.parent, **options)  # type: ignore[arg-type]


def write(folder: Path, count: int = 10, first: int = 0) -> Path:
    """Images that are all unlike."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("L", (16, 12), color=i).save(folder / f"{i:03}.png")
    return folder


def only_image(tmp_path: Path, path: Path, preprocess: ImagePreprocessing = COLOUR) -> torch.Tensor:
    """The tensor of the image at `path`, among others."""
    write(path.parent)
    data = load(tmp_path, preprocess)
    parts = (data.train, data.calibration, data.validation, data.test)
    files = [s for part in parts if part for s in part.samples if s[1] == 1]
    assert len(files) == 11
    return max((s[0][0] for s in files), key=lambda x: float(x.max()))


def corners(height: int = 8, width: int = 8) -> np.ndarray:
    """Red above left, green above right, blue below left, white below right: (height, width, 3)."""
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2, : width // 2, 0] = array[: height // 2, width // 2 :, 1] = 255
    array[height // 2 :, : width // 2, 2] = 255
    array[height // 2 :, width // 2 :] = 255
    return array


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    write(tmp_path / "a")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(UPRIGHT[orientation](corners()))
    (tmp_path / "b").mkdir()
    Image.fromarray(stored).save(tmp_path / "b" / "photo.png", exif=exif)
    found = only_image(tmp_path, tmp_path / "b" / "photo.png")
    assert (found.permute(1, 2, 0) * 255).round().byte().numpy().tolist() == corners().tolist()


MODES = {
    "CMYK": ("CMYK", (0, 255, 255, 0), "jpg", [254, 0, 0]),
    "palette": ("P", None, "png", [255, 0, 0]),
    "one bit": ("1", 1, "png", [255, 255, 255]),
    "grey and alpha": ("LA", (200, 255), "png", [200, 200, 200]),
    "RGBA": ("RGBA", (10, 250, 30, 255), "png", [10, 250, 30]),
    "upper case": ("RGB", (10, 250, 30), "BMP", [10, 250, 30]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str) -> None:
    mode, colour, suffix, expected = MODES[name]
    write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    image = (
        Image.new("RGB", (8, 8), (255, 0, 0)).quantize(4) if mode == "P" else Image.new(mode, (8, 8), colour)
    )
    image.save(tmp_path / "b" / f"odd.{suffix}")
    found = only_image(tmp_path, tmp_path / "b" / f"odd.{suffix}")
    assert (found.mean((1, 2)) * 255).tolist() == pytest.approx(expected, abs=3)


def test_sub_folders_of_a_class_are_read_and_said(tmp_path: Path) -> None:
    write(tmp_path / "ds" / "a")
    write(tmp_path / "ds" / "b" / "more" / "deep", 10, 20)
    (tmp_path / "ds" / "b" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "ds" / "b" / ".hidden").mkdir()
    write(tmp_path / "ds" / "__MACOSX", 1, 90)
    data = load(tmp_path / "ds")
    assert sum(map(len, (data.train, data.calibration, data.validation, data.test or ()))) == 20
    assert data.notes[:2] == (
        "entries of ds that are no images, and were ignored: 1",
        "images of ds in sub-folders of their class, and read: 10",
    )


def test_a_folder_too_high_is_no_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write(tmp_path / "top" / "pets" / name)
    with pytest.raises(
        CompressError, match=r"has one sub-folder, pets, and images only deeper .* is it .*pets that"
    ):
        load(tmp_path / "top")


def parts_of(folder: Path, names: dict[str, tuple[str, ...]], each: int = 14) -> Path:
    for i, (part, classes) in enumerate(names.items()):
        for j, name in enumerate(classes):
            write(folder / part / name, each, first=each * (2 * i + j))
    return folder


def labels(data: DataParts, part: str) -> set[int]:
    return {int(y) for _, y in getattr(data, part).samples}


LAYOUTS = [
    ("train", "val", "test"),
    ("train", "valid", "test"),
    ("Train", "Validation", "Test"),
    ("training", "val"),
]


@pytest.mark.parametrize("names", LAYOUTS)
def test_folders_of_parts_are_the_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = load(parts_of(tmp_path / "ds", dict.fromkeys(names, ("a", "b"))))
    assert [len(data.train), len(data.calibration), len(data.validation)] == [24, 4, 28]
    assert (len(data.test) if data.test else 0) == (28 if len(names) == 3 else 0)
    assert data.notes[0] == "no calibration part: 4 of the 28 train samples are it, and train lacks them"
    assert not any("also occur" in note for note in data.notes)


def test_a_class_has_one_label_in_all_parts(tmp_path: Path) -> None:
    data = load(parts_of(tmp_path / "ds", {"train": ("b", "c"), "val": ("b",), "test": ("a", "c")}))
    assert [labels(data, part) for part in ("train", "validation", "test")] == [{1, 2}, {1}, {0, 2}]
    assert "class 0 occurs in test and not in train" in data.notes


def test_what_is_missing_is_taken_out_of_train_and_the_rest_named(tmp_path: Path) -> None:
    folder = parts_of(tmp_path / "ds", {"train": ("a", "b"), "test": ("a", "b")})
    write(folder / "val", 3)  # images without classes
    (folder / "annotations").mkdir()
    data = load(folder)
    assert [len(data.train), len(data.calibration), len(data.validation)] == [21, 4, 3]
    assert data.notes[0] == "left out, since there are no class folders of a part in them: annotations, val"


def test_only_a_test_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="has no part to take calibration samples from; it has test"):
        load(parts_of(tmp_path / "ds", {"test": ("a", "b")}))


def test_a_split_of_parts_is_refused(tmp_path: Path) -> None:
    folder = parts_of(tmp_path / "ds", {"train": ("a", "b"), "val": ("a", "b")})
    split = {"calibration": 0.5, "validation": 0.5}
    with pytest.raises(CompressError, match=r"already comes in the parts train, validation; remove `split`"):
        load_data(folder.name, {}, split, GREY, 8, 0, folder=tmp_path)


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    for i, name in enumerate(("train", "plane", "test")):
        write(tmp_path / "ds" / name, 10, 10 * i)
    assert labels(load(tmp_path / "ds"), "train") == {0, 1, 2}


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch attack_ran) (w) file\nshowpage\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_postscript_is_never_handed_to_ghostscript(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ds" / "a")
    write(tmp_path / "ds" / "b")
    (tmp_path / "ds" / "b" / name).write_bytes(POSTSCRIPT)
    with pytest.raises(
        CompressError, match=rf"cannot read the image .*{name}: cannot identify .*read are JPEG, PNG"
    ):
        load(tmp_path / "ds")
    assert not (tmp_path / "attack_ran").exists()


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "ds" / "a")
    (tmp_path / "ds" / "b").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "ds" / "b" / "cut.jpg")
    content = (tmp_path / "ds" / "b" / "cut.jpg").read_bytes()
    (tmp_path / "ds" / "b" / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CompressError, match=r"cut\.jpg: image file is truncated .*; replace it or take it out"
    ):
        load(tmp_path / "ds", COLOUR)


def test_a_compressed_npz_that_explodes_is_unsafe(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((64, 64, 512), np.float32), y=np.arange(64))
    with pytest.raises(
        CompressError, match=r"bomb\.npz: \d[\d,]* bytes would unpack to 8,\d{3},\d{3}, over 20"
    ) as caught:
        load(tmp_path / "bomb.npz")
    assert caught.value.exit_code == 6
