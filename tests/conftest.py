"""What all tests share: one thread in each process, those that tests start included, and the same random numbers."""

from __future__ import annotations

import os
import sys

import pytest

# Before torch and NumPy are loaded: two workers on two cores, and sums in one order wherever results are compared.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _seed() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
