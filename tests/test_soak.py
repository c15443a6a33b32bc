"""The soak: solves of one process leave nothing behind, and what does is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tools.soak import growths, main, measured, random_solve, table

NOISE = 2000.0
"""Kilobytes a solve: over so few, memory says little."""


def test_a_few_solves_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    random_solve(0)
    assert main(["--solves", "25", "--memory", str(NOISE)]) == 0
    assert "25 solves: nothing grows" in capsys.readouterr().out


def descriptors(kept: list[Any], _: int) -> None:
    kept.append(open(os.devnull))  # noqa: SIM115


def threads(kept: list[Any], _: int) -> None:
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, daemon=True).start()


def processes(kept: list[Any], _: int) -> None:
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))


def memory(kept: list[Any], _: int) -> None:
    kept.append(b"\1" * 10_000_000)


def release(kept: list[Any]) -> None:
    for each in kept:
        if isinstance(each, threading.Event):
            each.set()
        elif isinstance(each, subprocess.Popen):
            each.communicate()
        elif not isinstance(each, bytes):
            each.close()


@pytest.mark.parametrize("leak", [descriptors, threads, processes, memory])
def test_what_is_left_is_seen(leak: Callable[[list[Any], int], None]) -> None:
    kept: list[Any] = []
    try:
        found = growths(measured(lambda number: leak(kept, number), 10))
    finally:
        release(kept)
    assert leak.__name__ in [growth.quantity for growth in found if growth.grows]
    assert table(found).row_count == 4
