"""Checkpoints of several state dicts: which one a network gets, and what is said of the others."""

from __future__ import annotations

import re
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.ingest.state_dicts import find_state_dicts
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.recipe.sections import ModelSection
from edgepress.progress import Silent
from safetensors.torch import save_file
from torch import Tensor, nn


def linear() -> nn.Linear:
    """The factory of these tests: weight (3, 2), bias (3,)."""
    return nn.Linear(2, 3)


def filled(value: float, prefix: str = "", **others: Any) -> dict[str, Any]:
    tensors = {"weight": torch.full((3, 2), value), "bias": torch.full((3,), value)}
    return {prefix + name: tensor for name, tensor in tensors.items()} | others


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def loaded(tmp_path: Path, saved: Any, key: str | None = None, name: str = "c.pth") -> tuple[float, str]:
    """The value that the network's weights have, and what was said."""
    torch.save(saved, tmp_path / name)
    notes = Notes()
    section = ModelSection(source=f"{__name__}:linear", weights=Path(name), weights_key=key, input_shape=(2,))
    model = ingest(section, folder=tmp_path, progress=notes)
    weights = {float(v) for t in model.module.state_dict().values() for v in t.flatten()}
    assert len(weights) == 1
    text = "; ".join(notes.said)
    assert text.removeprefix(f"{name}: ") in model.source
    return weights.pop(), text


RAW, EMA = 1.0, 2.0
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3, 2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
AVERAGED = ", the averaged weights, which are kept to be deployed"
EMAS = {
    "timm": {"state_dict": filled(RAW), "state_dict_ema": filled(EMA), "epoch": 3, "optimizer": OPTIMIZER},
    "torchvision": {"model": filled(RAW), "model_ema": filled(EMA, "module.", n_averaged=torch.tensor(9))},
    "esrgan": {"params": filled(RAW), "params_ema": filled(EMA)},
    "gan": {"g": filled(RAW), "g_ema": filled(EMA), "d": {"a.weight": torch.ones(7)}},
    "only": {"ema": filled(EMA), "updates": 10},
    "other": {"net": filled(RAW), "ema_state_dict": filled(EMA)},
    "inside": {"state_dict": {**filled(RAW, "model."), **filled(EMA, "ema_model.")}},
    "callback": {"state_dict": filled(RAW), "callbacks": {"EMACallback": {"state": filled(EMA)}}},
}


@pytest.mark.parametrize("trainer", EMAS)
def test_averaged_weights_are_taken(tmp_path: Path, trainer: str) -> None:
    value, said = loaded(tmp_path, EMAS[trainer])
    assert value == EMA
    assert (AVERAGED in said) == (trainer != "only")


def test_what_was_taken_and_what_was_not_is_said(tmp_path: Path) -> None:
    _, said = loaded(tmp_path, EMAS["timm"])
    assert said == (
        f"c.pth: the weights are those of 'state_dict_ema'{AVERAGED}; state_dict would fit too and was not taken"
        " (`weights_key` chooses)"
    )
    _, said = loaded(tmp_path, EMAS["torchvision"])
    assert said == (
        f"c.pth: the weights are those of 'model_ema'{AVERAGED}; model would fit too and was not taken (`weights_key`"
        " chooses); the prefix 'module.' was taken off the network's names; not the network's, and left out: n_averaged"
    )


CHOICES = [
    ("timm", "state_dict", RAW),
    ("timm", "state_dict_ema", EMA),
    ("torchvision", "model", RAW),
    ("torchvision", "model_ema.module", EMA),
    ("inside", "state_dict.model", RAW),
    ("inside", "state_dict.ema_model", EMA),
    ("callback", "callbacks.EMACallback.state", EMA),
]


@pytest.mark.parametrize(("trainer", "key", "expected"), CHOICES)
def test_weights_key_chooses(tmp_path: Path, trainer: str, key: str, expected: float) -> None:
    assert loaded(tmp_path, EMAS[trainer], key)[0] == expected


def test_an_unknown_key_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    expected = "holds no state dict 'state_dic'; did you mean 'state_dict' or 'state_dict_ema'?; it holds"
    with pytest.raises(CompressError, match=re.escape(expected)):
        loaded(tmp_path, EMAS["timm"], "state_dic")


def test_the_raw_weights_are_taken_where_the_average_does_not_fit(tmp_path: Path) -> None:
    value, said = loaded(
        tmp_path, {"state_dict": filled(RAW), "state_dict_ema": {"weight": torch.ones(4, 2)}}
    )
    assert value == RAW
    assert said == "c.pth: the weights are those of 'state_dict'; not of this network: state_dict_ema"


def test_where_nothing_tells_which_is_meant_both_are_named(tmp_path: Path) -> None:
    saved = {"teacher": filled(RAW), "student": filled(EMA)}
    with pytest.raises(CompressError, match=r"nothing tells which is meant: teacher, student; name one with"):
        loaded(tmp_path, saved)
    assert loaded(tmp_path, saved, "student")[0] == EMA
    assert loaded(tmp_path, {"teacher": filled(RAW), "student": filled(RAW)})[0] == RAW  # alike: no choice


PREFIXED = {
    "module.": "the prefix 'module.' was taken off all names",
    "model.": "the prefix 'model.' was taken off all names",
    "_orig_mod.": "the prefix '_orig_mod.' was taken off all names",
    "module._orig_mod.": (
        "the prefix 'module.' was taken off all names; the prefix '_orig_mod.' was taken off all names"
    ),
    "backbone.": "the prefix 'backbone.' was taken off all names",
}


@pytest.mark.parametrize("prefix", PREFIXED)
def test_prefixes_are_taken_off(tmp_path: Path, prefix: str) -> None:
    assert loaded(tmp_path, filled(RAW, prefix)) == (RAW, f"c.pth: {PREFIXED[prefix]}")


def test_what_is_not_the_networks_is_named_and_left_out(tmp_path: Path) -> None:
    saved = {"state_dict": filled(RAW, "model.", **{"criterion.weight": torch.ones(5)}), "global_step": 7}
    assert loaded(tmp_path, saved) == (
        RAW,
        "c.pth: the prefix 'model.' was taken off the network's names; not the network's, and left out:"
        " criterion.weight",
    )


def test_a_part_of_a_larger_network_is_no_fit(tmp_path: Path) -> None:
    larger = {**filled(RAW, "fc."), "conv.weight": torch.ones(4), "conv.bias": torch.ones(4)}
    with pytest.raises(
        CompressError, match=r"does not fit the network \(a part of it would fit: weights_key: fc\)"
    ):
        loaded(tmp_path, larger)
    assert loaded(tmp_path, larger, "fc")[0] == RAW
    with pytest.raises(CompressError, match=r"unexpected \[fc.weight, fc.bias\]"):
        loaded(tmp_path, {**filled(RAW), **filled(EMA, "fc.")})


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_pth_tar_is_a_checkpoint(tmp_path: Path, options: dict[str, bool]) -> None:
    torch.save(EMAS["timm"], tmp_path / "best.pth.tar", **options)
    found = inspect_model("best.pth.tar", folder=tmp_path)
    assert [row.name for row in found.tensors] == ["weight", "bias"]
    assert found.notes[:2] == [
        "2 state dicts: state_dict (2 entries), state_dict_ema (2 entries); listed here: state_dict_ema",
        "beside tensors: epoch (int), optimizer (dict)",
    ]


def test_a_plain_tar_is_none(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        archive.add(__file__, "weights.py")
    with pytest.raises(CompressError, match="is a plain tar archive"):
        inspect_model("a.pth.tar", folder=tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_read_and_said(tmp_path: Path, dtype: torch.dtype) -> None:
    stored: dict[str, Tensor] = {name: tensor.to(dtype) for name, tensor in filled(1.5).items()}
    save_file(stored, tmp_path / "c.safetensors")
    assert inspect_model("c.safetensors", folder=tmp_path).tensors[0].dtype == str(dtype).removeprefix(
        "torch."
    )
    notes = Notes()
    section = ModelSection(source=f"{__name__}:linear", weights=Path("c.safetensors"), input_shape=(2,))
    model = ingest(section, folder=tmp_path, progress=notes)
    assert notes.said == [
        f"c.safetensors: 2 tensors of {str(dtype).removeprefix('torch.')} turned into float32"
    ]
    assert model.run(torch.ones(1, 2))[0].tolist() == [[4.5, 4.5, 4.5]]


def test_nan_in_float8_is_found(tmp_path: Path) -> None:
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in filled(float("nan")).items()}
    save_file(stored, tmp_path / "c.safetensors")
    section = ModelSection(source=f"{__name__}:linear", weights=Path("c.safetensors"), input_shape=(2,))
    with pytest.raises(CompressError, match=r"'(weight|bias)' holds NaN"):
        ingest(section, folder=tmp_path)


def test_a_dict_that_many_keys_share_is_gone_through_once(tmp_path: Path) -> None:
    """60 keys on each of 4 levels are 13 million ways to one state dict."""
    shared: dict[str, object] = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    for _ in range(4):
        shared = {f"k{i}": shared for i in range(60)}
    started = time.process_time()
    found = find_state_dicts(shared, tmp_path / "c.pt")
    assert time.process_time() - started < 2
    assert len(found.sets) == 64
    assert next(iter(found.sets)) == "k0.k0.k0.k0"


def test_two_names_of_one_state_dict_are_both_kept(tmp_path: Path) -> None:
    own = {"weight": torch.ones(3, 2)}
    assert list(find_state_dicts({"model": own, "net": own}, tmp_path / "c.pt").sets) == ["model", "net"]
