"""What all tests share: one thread in each process, the same random numbers, and solves that start no process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

# Before torch is loaded, here and in what the tests start: two workers on two cores, and sums in one order.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _seed() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Instead of :func:`mad_ip.backends.solve_apart`: a small solve takes less time than the start of its process."""
    from mad_ip import backends, solve

    def here(profile: Any, instance: Any, limits: Any, watch: Any) -> Any:
        raised: list[Exception] = []

        def guarded(progress: Any) -> bool:
            # A solver that calls from C would lose it.
            try:
                return bool(watch(progress))
            except Exception as error:
                raised.append(error)
                return True

        outcome = backends.load_backend(profile).solve(instance, limits, guarded)
        if raised:
            raise raised[0]
        return outcome

    monkeypatch.setattr(solve, "solve_apart", here)
    return here
