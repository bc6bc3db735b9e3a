"""Data sources: what they give, how they are split, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edgepress.calibration.data import DataParts
from edgepress.calibration.images import image_parts
from edgepress.calibration.sources import load_data
from edgepress.errors import CompressError, UnsafeInputError
from edgepress.pipeline.recipe.sections import ImagePreprocessing
from PIL import Image

TINY = ImagePreprocessing(size=8, channels=1, mean=(0.5,), std=(0.5,))


def load(source: str, folder: Path, **changes) -> DataParts:
    options = {
        "args": {},
        "split": None,
        "preprocess": TINY,
        "calibration_samples": 256,
        "seed": 0,
        **changes,
    }
    return load_data(source, folder=folder, **options)


def save_npz(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(folder / "data.npz", x=x, y=y)
    return "data.npz"


def numbered(n: int) -> np.ndarray:
    """n different samples, each recognisable by its one value."""
    return np.arange(n, dtype=np.float32).reshape(n, 1)


def ids(part) -> list[int]:
    return [int(part.samples[i][0][0]) for i in range(len(part))]


def write_factory(folder: Path, module: str, body: str) -> str:
    (folder / f"{module}.py").write_text(f"import numpy as np\nimport torch\n\ndef make(**kwargs):\n{body}\n")
    return f"{module}:make"


def test_split_is_disjoint_complete_seeded(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(50), np.arange(50) % 2)
    data = load(source, tmp_path)
    parts = [ids(p) for p in (data.train, data.calibration, data.validation, data.test)]
    assert [len(p) for p in parts] == [30, 5, 5, 10]
    assert sorted(i for part in parts for i in part) == list(range(50))
    assert ids(load(source, tmp_path).test) == parts[3]
    assert ids(load(source, tmp_path, seed=1).test) != parts[3]


def test_split_may_leave_test_and_train_out(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(10), np.zeros(10, dtype=int))
    data = load(source, tmp_path, split={"calibration": 0.5, "validation": 0.5})
    assert (len(data.train), len(data.calibration), len(data.validation)) == (0, 5, 5)
    assert data.test is None
    assert data.judge is data.validation


def test_calibration_is_cut_to_its_limit(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(50), np.zeros(50, dtype=int))
    assert len(load(source, tmp_path, calibration_samples=3).calibration) == 3


def test_a_part_joined_to_another_has_the_samples_of_both_in_order(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(40), np.zeros(40, np.int64))
    data = load(source, tmp_path, calibration_samples=3)
    both = data.train.joined(data.calibration)
    assert both.name == "train and calibration"
    assert ids(both) == ids(data.train) + ids(data.calibration)
    assert ids(both.head(2).joined(both.between(0, 1))) == [*ids(data.train)[:2], ids(data.train)[0]]
    with pytest.raises(IndexError):
        both.samples[len(both)]


def test_samples_can_be_picked_in_any_order(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(40), np.zeros(40, np.int64))
    part = load(source, tmp_path).train
    assert ids(part.picked([3, 0, 3])) == [ids(part)[3], ids(part)[0], ids(part)[3]]


def test_manifest_is_of_the_content(tmp_path: Path) -> None:
    x = numbered(20)
    first = load(save_npz(tmp_path, x, np.zeros(20, dtype=int)), tmp_path).manifest
    assert (
        first
        == load(save_npz(tmp_path, x.astype(np.float64), np.zeros(20, dtype=np.int32)), tmp_path).manifest
    )
    assert len(first) == 64
    x[7] += 0.5
    assert first != load(save_npz(tmp_path, x, np.zeros(20, dtype=int)), tmp_path).manifest
    assert first != load(save_npz(tmp_path, numbered(20), np.eye(20, dtype=int)[3]), tmp_path).manifest


def test_equal_samples_in_two_parts_are_noted(tmp_path: Path) -> None:
    name = write_factory(
        tmp_path,
        "doubled_data",
        "    x = np.arange(6, dtype=np.float32).reshape(6, 1)\n    y = np.zeros(6, dtype=int)\n"
        "    return {'train': (x[:4], y[:4]), 'calibration': (x[4:5], y[4:5]), 'validation': (x[5:], y[5:]),"
        " 'test': (x[2:4], y[2:4] + 1)}",
    )
    notes = load(name, tmp_path).notes
    assert notes == ("2 test samples also occur in train", "class 1 occurs in test and not in train")


def test_a_factory_may_give_datasets_with_several_inputs(tmp_path: Path) -> None:
    name = write_factory(
        tmp_path,
        "pairs_data",
        "    class Pairs(torch.utils.data.Dataset):\n        def __len__(self):\n            return 20\n"
        "        def __getitem__(self, i):\n"
        "            return (torch.full((2,), float(i)), np.full(3, kwargs['value'], dtype=np.int64)), i %"
        " 2\n"
        "    return Pairs()",
    )
    data = load(name, tmp_path, args={"value": 7})
    inputs, labels = next(data.train.batches(4))
    assert [tuple(x.shape) for x in inputs] == [(4, 2), (4, 3)]
    assert inputs[1].dtype == torch.int64
    assert labels.shape == (4,)
    assert [tuple(x.shape) for x in data.train.example()] == [(1, 2), (1, 3)]


def write_images(folder: Path, per_class: int = 10) -> None:
    for label, name in enumerate(("cracked", "whole")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("L", (16, 12), color=100 * label + i).save(folder / name / f"{i:02}.png")


def test_image_folder_resizes_and_normalizes(tmp_path: Path) -> None:
    write_images(tmp_path / "cells")
    (tmp_path / "cells" / "whole" / "notes.txt").write_text("no image")
    data = load("cells", tmp_path)
    (x,), y = data.train.samples[0]
    assert tuple(x.shape) == (1, 8, 8)
    assert y.dtype == torch.int64
    values = {
        round((float(s[0][0].mean()) * 0.5 + 0.5) * 255): int(s[1])
        for part in (data.train, data.calibration, data.validation, data.test)
        for s in part.samples
    }
    assert values == {100 * label + i: label for label in (0, 1) for i in range(10)}
    assert data.notes[0] == "entries of cells that are no images, and were ignored: 1"


def test_any_first_images_of_a_folder_are_of_all_classes(tmp_path: Path) -> None:
    for part, name, count in (("train", "a", 4), ("train", "b", 2), ("val", "a", 3), ("val", "b", 3)):
        (tmp_path / "c" / part / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), 10 * i).save(tmp_path / "c" / part / name / f"{i}.png")
    parts = image_parts(tmp_path / "c", ImagePreprocessing(size=8, channels=1, mean=(0,), std=(1,)))
    assert parts is not None
    assert [int(label) for _, label in parts["train"]] == [0, 1, 0, 0, 1, 0]
    assert [int(label) for _, label in parts["validation"]] == [0, 1, 0, 1, 0, 1]


def test_colour_images_have_three_channels(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "c" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (255, i, 0)).save(tmp_path / "c" / name / f"{i}.png")
    data = load("c", tmp_path, preprocess=ImagePreprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1)))
    (x,), _ = data.train.samples[0]
    assert tuple(x.shape) == (3, 8, 8)
    assert float(x[0].min()) == 1.0
    assert float(x[2].max()) == 0.0


def nan_data(x: np.ndarray) -> np.ndarray:
    x[3] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        pytest.param(
            nan_data(numbered(20)), np.zeros(20, int), "holds NaN or infinite values", id="NaN input"
        ),
        pytest.param(
            np.full((20, 1), np.inf, np.float32),
            np.zeros(20, int),
            "holds NaN or infinite values",
            id="infinite input",
        ),
        pytest.param(
            numbered(20), np.zeros(20), "has the label 0; classification labels are whole", id="float label"
        ),
        pytest.param(
            numbered(20), -np.ones(20, int), "has the label -1; classification", id="negative label"
        ),
        pytest.param(
            numbered(20), np.zeros((20, 2), int), r"has the label of shape \(2,\)", id="label vector"
        ),
        pytest.param(
            numbered(20), np.zeros(19, int), r"x has shape \(20, 1\) and y \(19,\)", id="lengths differ"
        ),
        pytest.param(numbered(3), np.zeros(3, int), "has 3 samples, too few for a", id="too few to split"),
        pytest.param(
            numbered(20).astype(np.complex64),
            np.zeros(20, int),
            "x is complex64; inputs are floats",
            id="complex",
        ),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(CompressError, match=message) as caught:
        load(save_npz(tmp_path, x, y), tmp_path)
    assert caught.value.exit_code == 2


def test_labels_of_any_kind_pass_for_metrics_of_the_user(tmp_path: Path) -> None:
    source = save_npz(tmp_path, numbered(20), np.linspace(-1, 1, 20))
    assert load(source, tmp_path, integer_labels=False).train.samples[0][1].dtype == torch.float32


def test_samples_of_unequal_shape(tmp_path: Path) -> None:
    name = write_factory(
        tmp_path,
        "ragged_data",
        "    return [(np.zeros(3 if i == 4 else 2, dtype=np.float32), 0) for i in range(20)]",
    )
    with pytest.raises(
        CompressError, match=r"float32 \[[23]\], the first sample float32 \[[23]\]; all must be alike"
    ):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise RuntimeError('disk on fire')", "data factory f:make failed: RuntimeError: disk on fire"),
        ("    return 5", "returned int; expected a pair of arrays"),
        (
            "    return {'train': (np.zeros((2, 1)), np.zeros(2))}",
            "returned no calibration and no validation part",
        ),
        ("    return {'trian': 1}", "returned an unknown part 'trian'; did you mean 'train'?"),
    ],
)
def test_factories_that_do_not_deliver(tmp_path: Path, body: str, message: str, request) -> None:
    module = f"bad_data_{abs(hash(body)) % 10**8}"
    name = write_factory(tmp_path, module, body)
    with pytest.raises(CompressError) as caught:
        load(name, tmp_path)
    assert message.replace("f:make", name) in str(caught.value)


def test_a_misspelt_factory_is_guessed(tmp_path: Path) -> None:
    write_factory(tmp_path, "spelled_data", "    return 1")
    with pytest.raises(
        CompressError, match="module spelled_data has no function 'maek'; did you mean 'make'"
    ):
        load("spelled_data:maek", tmp_path)
    with pytest.raises(CompressError, match="there is no module 'speled_data'; did you mean 'spelled_data'"):
        load("speled_data:make", tmp_path)


def test_parts_and_split_exclude_each_other(tmp_path: Path) -> None:
    body = "    z = np.zeros((2, 1)), np.zeros(2, int)\n    return dict(train=z, calibration=z, validation=z)"
    name = write_factory(tmp_path, "parted_data", body)
    with pytest.raises(
        CompressError, match="already comes in the parts train, calibration, validation; remove `split`"
    ):
        load(name, tmp_path, split={"calibration": 0.5, "validation": 0.5})


def test_broken_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "cells", 10)
    (tmp_path / "cells" / "whole" / "03.png").write_bytes(b"not a png")
    with pytest.raises(CompressError, match=r"cannot read the image .*whole/03\.png"):
        load("cells", tmp_path)


def test_sixteen_bit_image_is_not_clipped_silently(tmp_path: Path) -> None:
    write_images(tmp_path / "cells", 10)
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(tmp_path / "cells" / "whole" / "03.png")
    with pytest.raises(CompressError, match="more than 8 bits a channel"):
        load("cells", tmp_path)


def test_empty_class_and_no_class(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    with pytest.raises(CompressError, match="has no sub-folders"):
        load("flat", tmp_path)
    (tmp_path / "flat" / "empty").mkdir()
    with pytest.raises(CompressError, match=r"the class folder .*empty holds no image"):
        load("flat", tmp_path)


def test_mean_must_fit_the_channels(tmp_path: Path) -> None:
    write_images(tmp_path / "cells", 2)
    with pytest.raises(CompressError, match=r"data\.preprocess\.mean: has 3 values for 1 channel"):
        load("cells", tmp_path, preprocess=ImagePreprocessing.model_construct(size=8, channels=1))


def test_npz_with_objects_is_unsafe(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", x=np.array([{}, {}], dtype=object), y=np.zeros(2))
    with pytest.raises(
        UnsafeInputError, match=r"o\.npz holds Python objects, and reading those runs code"
    ) as caught:
        load("o.npz", tmp_path)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable .npz file"),
        (b"<html>not found</html>", "is not a readable .npz file"),
        (None, "does not exist"),
    ],
)
def test_files_that_are_no_npz(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CompressError, match=message):
        load("x.npz", tmp_path)


def test_npz_without_y(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbered(4), labels=np.zeros(4))
    with pytest.raises(CompressError, match="has no array 'y'; it holds x, labels"):
        load("d.npz", tmp_path)
