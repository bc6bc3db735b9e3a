"""What a weight file says was removed of a network: a hostile file is refused by name, and nothing of it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.ingest.removals import KEY, MAX_BYTES
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.l2z.codec import pack_tensors
from edgepress.pipeline.recipe.sections import ModelSection
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

USAGE = 2
EVEN = [0, 2, 4, 6]


class Pooled(nn.Module):
    """Of a user's own, with whole numbers that say a size (`width`), and others that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.every, self.shape, self.fast, self.kind = 8, 8, (8, 3), True, "mean"
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), scale_factor=float(8 // self.every) ** 4)[:, : self.width]


def network() -> nn.Module:
    """The factory of these tests: (n, 3, 16, 16) -> (n, 2)."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    return nn.Sequential(stem, Pooled(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def halved() -> dict[str, Any]:
    """A removal that fits: half of the channels, and what says how many there are."""
    tensors: dict[str, Any] = {name: {"0": 0} for name in ("0.0.weight", "0.0.bias")}
    tensors |= {f"0.1.{name}": {"0": 0} for name in ("weight", "bias", "running_mean", "running_var")}
    tensors |= {"1.conv.weight": {"0": 0, "1": 0}, "1.conv.bias": {"0": 0}, "4.weight": {"1": 0}}
    attributes: dict[str, Any] = {"0.0": {"out_channels": 4}, "0.1": {"num_features": 4}, "1": {"width": 4}}
    attributes |= {"1.conv": {"in_channels": 4, "out_channels": 4}, "4": {"in_features": 4}}
    return {
        "cut": {"indices": [list(EVEN)], "tensors": tensors, "attributes": attributes},
        "skipped": [],
        "children": {},
    }


def whole(**changes: Any) -> dict[str, Any]:
    return {"version": 1, "removals": [halved()], **changes}


def changed(*place: Any, to: Any) -> str:
    """The text of a removal that fits but for what stands at a place in it."""
    removal = halved()
    inside: Any = removal
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = to
    return json.dumps(whole(removals=[removal]))


def small_weights() -> dict[str, Tensor]:
    weights = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    for name, dims in halved()["cut"]["tensors"].items():
        for dim in dims:
            weights[name] = weights[name].index_select(int(dim), torch.tensor(EVEN))
    return weights


def load(path: Path) -> nn.Module:
    section = ModelSection(source=f"{__name__}:network", weights=path, input_shape=(3, 16, 16))
    return ingest(section).module


def file_of(folder: Path, text: str) -> Path:
    save_file(small_weights(), folder / "hostile.safetensors", {KEY: text})
    return folder / "hostile.safetensors"


def refused(path: Path, message: str, read: Callable[[Path], Any] = load) -> str:
    """Reading the file fails with one line that names it and says this."""
    with pytest.raises(CompressError) as caught:
        read(path)
    text = str(caught.value)
    assert path.name in text and message in text, text
    assert "\n" not in text and len(text) < 900
    assert int(caught.value.exit_code) == USAGE
    return text


def test_what_fits_is_loaded(tmp_path: Path) -> None:
    loaded = load(file_of(tmp_path, json.dumps(whole())))
    assert loaded[0][0].weight.shape == (4, 3, 3, 3) and loaded[1].width == 4
    assert loaded[0][0].stride == (2, 2) and loaded[1].every == 8


ENDLESS = "9" * 5000
UNREADABLE = {
    "nothing": ("", "not valid JSON"),
    "no JSON": ("{'a': 1}", "not valid JSON"),
    "nested without end": ("[" * 100_000, "not valid JSON"),
    "nested deeply": ("[" * 100 + "]" * 100, "nested too deeply"),
    "a number": ("3", "is not what edgepress writes"),
    "another version": (json.dumps(whole(version=2)), "a newer edgepress wrote it"),
    "no removal": (json.dumps(whole(removals=[])), "removals"),
    "very many": (json.dumps(whole(removals=[halved()] * 17)), "removals"),
    "a key of its own": (json.dumps(whole(code="os.system")), "code: Extra inputs are not permitted"),
    "factors": (changed("factors", to={"4.weight": 0.0}), "factors: Extra inputs"),
    "a part that is missing": (json.dumps(whole(removals=[{"skipped": []}])), "cut: Field required"),
    "an endless number": (json.dumps(whole()).replace("[0, 2", f"[{ENDLESS}, 2"), "a whole number of 5000 digits"),
    "a truth for an index": (changed("cut", "indices", to=[[True]]), "valid integer"),
    "a fraction for an index": (changed("cut", "indices", to=[[0.5]]), "valid integer"),
    "infinity": (changed("cut", "indices", to=[[float("inf")]]), "integer"),
    "a negative index": (changed("cut", "indices", to=[[-1]]), "greater than or equal to 0"),
    "a dimension by a word": (changed("cut", "tensors", "4.weight", to={"one": 0}), "match pattern"),
    "a size of nothing": (changed("cut", "attributes", "1", to={"width": 0}), "greater than or equal to 1"),
    "a text for a size": (changed("cut", "attributes", "1", to={"width": "4"}), "valid integer"),
    "a size by a mapping": (changed("cut", "attributes", "1", to={"width": {}}), "valid integer"),
    "half a character": (changed("skipped", to=["\ud800"]), "half a character"),
    "escapes for a terminal": (changed("cut", "attributes", to={"\u001b[2J": 3}), "valid dictionary"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_edgepress_does_not_write_is_refused(case: str, tmp_path: Path) -> None:
    text, message = UNREADABLE[case]
    path = file_of(tmp_path, text)
    assert KEY in refused(path, message)
    assert "\u001b" not in refused(path, message, lambda path: inspect_model(str(path)))


LONG = list(range(1000))
MISFITS = {
    "a container that is not there": (changed("children", to={"stages": ["0"]}), "it has no layer 'stages'"),
    "a child that is not there": (changed("children", to={"0": ["7"]}), "'0' has no child '7'"),
    "a child twice": (changed("children", to={"0": ["0", "0"]}), "children of '0' are named twice"),
    "a class's own": (changed("children", to={"0.__class__": []}), "it has no layer '0.__class__'"),
    "a block that is not there": (changed("skipped", to=["block"]), "it has no layer 'block'"),
    "the whole network": (changed("skipped", to=[""]), "it has no layer ''"),
    "a block twice": (changed("skipped", to=["1", "1"]), "a block is passed over twice"),
    "a block in a block": (changed("skipped", to=["1", "1.conv"]), "'1.conv' lies in '1', and both are passed over"),
    "a tensor that is not there": (changed("cut", "tensors", "4.weigth", to={"1": 0}), "did you mean '4.weight'"),
    "a module for a tensor": (changed("cut", "tensors", "4", to={"1": 0}), "it has no tensor '4'"),
    "a dimension that is not there": (changed("cut", "tensors", "4.bias", to={"1": 0}), "'4.bias' has no dimension 1"),
    "a scalar's dimension": (
        changed("cut", "tensors", "0.1.num_batches_tracked", to={"0": 0}),
        "'0.1.num_batches_tracked' has no dimension 0",
    ),
    "a list that is not there": (changed("cut", "tensors", "4.weight", to={"1": 9}), "there is no list 9 of indices"),
    "an index too large": (changed("cut", "indices", 0, to=[0, 2, 4, 8]), "not some of its 8, ascending"),
    "an index twice": (changed("cut", "indices", 0, to=[0, 2, 2, 6]), "not some of its 8, ascending"),
    "indices in another order": (changed("cut", "indices", 0, to=[2, 0, 4, 6]), "not some of its 8, ascending"),
    "no index": (changed("cut", "indices", 0, to=[]), "not some of its 8, ascending"),
    "more indices than there are": (changed("cut", "indices", 0, to=LONG), "not some of its 8, ascending"),
    "a layer that is not there": (changed("cut", "attributes", "9", to={"groups": 1}), "it has no layer '9'"),
    "an attribute that is not there": (changed("cut", "attributes", "4", to={"rank": 1}), "'rank' of '4' is no size"),
    "a stride": (changed("cut", "attributes", "0.0", to={"stride": [1, 1]}), "'stride' of '0.0' is no size"),
    "a kernel": (changed("cut", "attributes", "0.0", to={"kernel_size": [1, 1]}), "'kernel_size' of '0.0' is no size"),
    "a pooled size": (changed("cut", "attributes", "2", to={"output_size": 1}), "'output_size' of '2' is no size"),
    "a truth": (changed("cut", "attributes", "1", to={"fast": 1}), "'fast' of '1' is no size"),
    "training mode": (changed("cut", "attributes", "1", to={"training": 1}), "'training' of '1' is no size"),
    "a text": (changed("cut", "attributes", "1", to={"kind": 1}), "'kind' of '1' is no size"),
    "a method": (changed("cut", "attributes", "1", to={"forward": 1}), "'forward' of '1' is no size"),
    "a module's inside": (changed("cut", "attributes", "1", to={"_modules": 1}), "'_modules' of '1' is no size"),
    "a module": (changed("cut", "attributes", "1", to={"conv": 1}), "'conv' of '1' is no size"),
    "a fraction": (changed("cut", "attributes", "0.1", to={"eps": 1}), "'eps' of '0.1' is no size"),
    "a size that grows": (changed("cut", "attributes", "1", to={"width": 9}), "could become 9"),
    "a size in another ratio": (
        changed("cut", "attributes", "1", to={"width": 3}), "no tensor of '1' becomes smaller as 'width' would",
    ),
    "a size of what stays": (
        changed("cut", "attributes", "4", to={"in_features": 4, "out_features": 1}),
        "'out_features' of '4' would be 1, where its weight has 2",
    ),
    "a number for a tuple": (changed("cut", "attributes", "1", to={"shape": 4}), "'shape' of '1' is no size"),
    "a tuple of another length": (changed("cut", "attributes", "1", to={"shape": [4]}), "'shape' of '1' is no size"),
    "a tuple for a number": (changed("cut", "attributes", "1", to={"width": [4]}), "'width' of '1' is no size"),
    "a size with nothing smaller": (
        changed("cut", to={"indices": [], "tensors": {}, "attributes": {"1": {"width": 4}}}),
        "no tensor of '1' becomes smaller",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_the_network_is_refused(case: str, tmp_path: Path) -> None:
    text, message = MISFITS[case]
    found = refused(file_of(tmp_path, text), message)
    assert "removal 1 of 1 does not fit the network" in found and "name the factory" in found


def test_a_second_removal_is_of_what_the_first_left(tmp_path: Path) -> None:
    text = json.dumps(whole(removals=[halved(), halved()]))
    refused(
        file_of(tmp_path, text), "removal 2 of 2 does not fit the network: tensor '0.0.weight', dimension 0"
    )


def test_a_size_that_makes_the_network_compute_more_is_refused(tmp_path: Path) -> None:
    """That `every` is no number of channels, nobody can tell of a class of the user's own."""
    text = changed("cut", "attributes", "1", to={"width": 4, "every": 4})
    refused(file_of(tmp_path, text), "computes more than 4 times what it does whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"children": {"0": ["1"]}}, "without what was removed the network does not run"),
        ({"skipped": ["4"]}, "unexpected [4."),
        ({"cut": {"indices": [], "tensors": {}, "attributes": {}}}, "wrong shape [0.0.weight: [4, 3, 3, 3]"),
    ],
    ids=["a layer that forward needs", "a layer with weights", "nothing at all"],
)
def test_weights_of_another_network_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    weights = small_weights()
    if "children" in change:  # the layer that is left takes the place, and the weights, of the one before
        weights = {
            name.replace("0.1.", "0.0."): t for name, t in weights.items() if not name.startswith("0.0.")
        }
        change["cut"] = {"indices": [EVEN], "tensors": {}, "attributes": {}}
        change["cut"]["tensors"] = {
            f"0.0.{n}": {"0": 0} for n in ("weight", "bias", "running_mean", "running_var")
        }
        change["cut"]["tensors"] |= {
            "1.conv.weight": {"0": 0, "1": 0},
            "1.conv.bias": {"0": 0},
            "4.weight": {"1": 0},
        }
    save_file(weights, path, {KEY: json.dumps(whole(removals=[halved() | change]))})
    refused(path, message)


def test_what_would_take_all_memory_is_refused_at_once(tmp_path: Path) -> None:
    """One list of a million indices, named for a hundred thousand tensors: nothing of it is made."""
    removal = halved()
    removal["cut"]["indices"] = [list(range(1_000_000))]
    removal["cut"]["tensors"] = {f"t{index}": {"0": 0} for index in range(100_000)}
    path = file_of(tmp_path, json.dumps(whole(removals=[removal])))
    started = time.monotonic()
    refused(path, "it has no tensor 't0'")
    assert time.monotonic() - started < 60  # some seconds; all of it would be 800 GB of lists


def test_a_text_longer_than_any_is_refused(tmp_path: Path) -> None:
    refused(file_of(tmp_path, " " * (MAX_BYTES + 1)), "no network needs more than")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(4), f"the tensor {KEY} is no text"),
        (torch.full((4,), 255, dtype=torch.uint8), f"the tensor {KEY} is no text"),
        (torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8), "is not what edgepress writes"),
    ],
    ids=["numbers", "bytes", "another text"],
)
def test_a_packed_file_is_trusted_no_more(tensor: Tensor, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.l2z"
    path.write_bytes(pack_tensors({**small_weights(), KEY: tensor}, None, {}))
    refused(path, message)
