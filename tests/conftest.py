"""What all tests share: one thread in each process, the same random numbers, and solves that start no process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Before torch is loaded, here and in what the tests start: two workers on two cores, and sums in one order.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what it leaves in the background with Ctrl-C ignored, and so would be all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Instead of :func:`mad_ip.backends.solve_apart`: a small solve takes less time than the start of its process."""
    from mad_ip import solve
    from tools.fuzz.work import solve_here

    monkeypatch.setattr(solve, "solve_apart", solve_here)
    return solve_here


def _browser() -> tuple[str, str]:
    found = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if None in found:
        reason = "chromium and chromedriver are needed to open a page; `make browser` installs them"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found[0], found[1]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a log of its console, for pages that tests write."""
    chromium, chromedriver = _browser()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1280,1000",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=chromedriver))
    try:
        yield opened
    finally:
        opened.quit()
