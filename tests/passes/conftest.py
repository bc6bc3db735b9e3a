"""The nets of these tests are random: the same ones in every run."""

import pytest
import torch

torch.manual_seed(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
