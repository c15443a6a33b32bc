"""The machine and the versions that a comparison was made with, without anything that identifies the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from mad_ip.device import processor

__all__ = ["machine", "versions"]

_PACKAGES = (
    "mad-ip",
    "highspy",
    "pyscipopt",
    "ortools",
    "gurobipy",
    "swiglpk",
    "numba",
    "numpy",
    "pyomo",
    "scipy",
    "matplotlib",
)


def machine() -> dict[str, str]:
    """Processor, usable cores, memory, present load, operating system and Python, each in words."""
    return {
        "processor": processor(),
        "cores": str(_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load before the first run": f"{os.getloadavg()[0]:.1f} (average of a minute)",
        "operating system": _operating_system(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """The installed versions of mad-ip, the solvers that it knows, and what they are called through."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _cores() -> int:
    # Where a process is confined to some cores, those count.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _operating_system() -> str:
    try:
        return f"{platform.system()}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):
        return platform.system()
