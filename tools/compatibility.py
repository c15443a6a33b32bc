"""Whether each extra works by itself, at its lowest and at its newest versions: ``python -m tools.compatibility``.

The wheel of this tree is installed with one extra in a clean virtual environment, and the commands that the extra is
for are run from an empty folder. The lowest versions are those of pyproject.toml's lower bounds, all else is as new as
they allow. torch and torchvision are always those of constraints.txt: torch is installed once, and lent to every
environment with what it needs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from tools import markdown, package_check

__all__ = ["LEVELS", "SMOKE", "main"]

ROOT = package_check.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LEVELS = ("lowest", "newest")
GIVEN = ("torch", "torchvision")
"""What has the versions of constraints.txt at either level: a pair, of which few releases are to be had quickly."""

WORKS = "works"
UNLICENSED = "a licence is needed"
"""What mad-ip says of a solver whose own licence is over, as that of an old release is."""

TOY = "models/toy/spec.toml"
SOLVE = ("mad-ip", "solve", TOY, "--quiet", "--out", "design.json")
CLUSTER = """
import logging
from dask.distributed import LocalCluster
from mad_ip.backends import Profile
from mad_ip.solve import solve
from mad_ip.spec import Spec

class Refusal(logging.Handler):
    def emit(self, record):
        raise SystemExit(record.getMessage())

# It is said there when the cluster does not do its part.
logging.getLogger("mad_ip").addHandler(Refusal())
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as local:
    solve(Spec.load("models/toy/spec.toml"), profile=Profile("decomposition", {"cluster": local.scheduler_address}))
"""
FRAME = """
from mad_ip.spec import Spec
from mad_ip.sweep import sweep

print(sweep(Spec.load("models/toy/spec.toml"), {"macs": [14e6, 20e6]}).to_pandas())
"""
REGISTERED = """
import timm
import mad_ip.networks.timm

print(timm.create_model("madip_toy").num_features)
"""
DETECTOR = """
from mad_ip.design import Design
from mad_ip.networks import Network
from mad_ip.networks.vision import fcos

fcos(Network(Design.load("design.json")), num_classes=2, out_channels=64)
"""
IMAGES = """
import io
import numpy as np
from PIL import Image

arrays = {}
for part in ("train", "test"):
    files = []
    for _ in range(20):
        file = io.BytesIO()
        Image.fromarray(np.random.randint(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
    arrays[f"{part}_end"] = np.cumsum([len(file) for file in files])
    arrays[f"{part}_label"] = np.arange(20) % 10
np.savez("images.npz", **arrays)
"""
BASE = "none"
SMOKE: Mapping[str, Sequence[Sequence[str]]] = {
    BASE: [
        ["mad-ip", "show", "design.json"],
        ["mad-ip", "verify", "design.json", "--quiet"],
        ["mad-ip", "build", "design.json"],
        ["mad-ip", "export", "design.json", "--format", "torch-export"],
        ["mad-ip", "sweep", TOY, "--over", "macs=14e6,20e6", "--quiet", "--out", "front"],
    ],
    "cluster": [["python", "-c", CLUSTER]],
    **{name: [[*SOLVE, "--solver", name]] for name in ("cpsat", "glpk", "gurobi", "scip")},
    "export": [["mad-ip", "export", "design.json", "--format", form] for form in ("onnx", "python")],
    "pandas": [["python", "-c", FRAME]],
    "report": [
        ["mad-ip", "show", "design.json", "--html", "page.html"],
        ["mad-ip", "compare", TOY, "--solver", "highs", "--seeds", "1", "--time-limit", "60", "--out", "report"],
    ],
    "tflite": [["mad-ip", "export", "design.json", "--format", "tflite"]],
    "timm": [["mad-ip", "score", "timm:resnet18"], ["python", "-c", REGISTERED]],
    "train": [
        ["python", "-c", IMAGES],
        [
            *("mad-ip", "train", "design.json", "--data", "images.npz", "--out", "run", "--quiet"),
            *("--epochs", "1", "--batch", "8", "--optimiser", "adamw"),
        ],
    ],
    "vision": [["mad-ip", "score", "torchvision:resnet18"], ["python", "-c", DETECTOR]],
}
"""What is run for every extra, after a solve with HiGHS."""


class FailureError(Exception):
    """A command that failed, in a line."""


def run(words: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """The output of a command, without what would lead Python to the checkout; raise :class:`FailureError`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NUMBA"))}
    done = subprocess.run(
        words, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        command = " ".join(map(str, words[:4])).partition("\n")[0]
        raise FailureError(f"{command}: exit code {done.returncode}: {said[-1] if said else 'nothing said'}")
    return done.stdout


def pip(place: Path, *words: str | Path) -> None:
    """Run pip in a virtual environment."""
    run([sys.executable, "-m", "pip", "--python", place / "bin" / "python", *words], place)


def requirements(extra: str) -> list[Requirement]:
    """What the package needs, or an extra by itself."""
    given = PROJECT["dependencies"] if extra == BASE else PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in given]


def lowest(extra: str) -> str:
    """Constraints: the lowest releases that the bounds of the package and of an extra allow."""
    needed = [*requirements(BASE), *(requirements(extra) if extra != BASE else ())]
    lines = "\n".join(str(each) for each in needed if each.name not in GIVEN)
    resolver = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-deps"]
    options = ["--resolution", "lowest-direct", "--python-version", platform.python_version(), "-"]
    done = subprocess.run(
        [sys.executable, "-m", *resolver, *options], input=lines, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FailureError(f"no lowest versions: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


@dataclass(frozen=True)
class Workplace:
    """Where environments come and go: the wheel, the versions of what is always given, and the lent torch."""

    folder: Path
    wheel: Path
    given: str
    lent: Path

    @classmethod
    def made(cls, folder: Path) -> Workplace:
        """Build the wheel and install torch."""
        constraints = (ROOT / "constraints.txt").read_text().splitlines()
        given = "\n".join(line for line in constraints if line.partition("==")[0] in GIVEN)
        place = folder / "lent"
        venv.create(place)
        pip(place, "install", "--quiet", *(line for line in given.splitlines() if line.startswith("torch==")))
        (packages,) = place.glob("lib/python*/site-packages")
        return cls(folder, package_check.build(folder / "dist"), given, packages)

    def tried(self, extra: str, level: str) -> tuple[str, str]:
        """The versions of what an extra is about, and how its commands went."""
        # Always the same place, which numba's machine code of the environment before is for.
        place, empty = self.folder / "environment", self.folder / "empty"
        for folder in (place, empty):
            shutil.rmtree(folder, ignore_errors=True)
        empty.mkdir()
        venv.create(place)
        try:
            self._install(place, extra, level)
            versions = self._versions(place, extra)
        except FailureError as error:
            return "", str(error)
        try:
            for words in (SOLVE, *SMOKE[extra]):
                run([place / "bin" / words[0], *words[1:]], empty, NUMBA_CACHE_DIR=str(self.folder / level))
        except FailureError as error:
            return versions, f"not tried: {UNLICENSED}" if UNLICENSED in str(error) else str(error)
        return versions, WORKS

    def _install(self, place: Path, extra: str, level: str) -> None:
        constraints = self.folder / "constraints.txt"
        constraints.write_text(self.given + "\n" + (lowest(extra) if level == "lowest" else ""))
        (packages,) = place.glob("lib/python*/site-packages")
        (packages / "lent.pth").write_text(f"{self.lent}\n")
        name = str(self.wheel) if extra == BASE else f"{self.wheel}[{extra}]"
        pip(place, "install", "--quiet", "--constraint", constraints, name)
        for source in packages.glob("mad_ip/**/*.py"):
            # numba compiles anew what has another time.
            os.utime(source, (0, 0))

    def _versions(self, place: Path, extra: str) -> str:
        names = [each.name for each in requirements(extra)]
        program = "import sys\nfrom importlib.metadata import version\nfor n in sys.argv[1:]: print(n, version(n))"
        lines = run([place / "bin" / "python", "-c", program, *names], place).splitlines()
        return ", ".join(line for line in lines)


def main() -> None:
    """Try the extras that are named, all by default; print a table; exit with 1 where one does not work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", choices=[[], *SMOKE], metavar="EXTRA", help=", ".join(SMOKE))
    parser.add_argument("--level", choices=LEVELS, help="Only one of the two.")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        workplace = Workplace.made(Path(name))
        print(f"always {workplace.given.replace(chr(10), ', ')}, on Python {platform.python_version()}")
        for level in [given.level] if given.level else LEVELS:
            for extra in given.extras or SMOKE:
                began = time.perf_counter()
                rows.append((extra, level, *workplace.tried(extra, level)))
                print(f"{time.perf_counter() - began:5.0f} s  {'  '.join(rows[-1])}", flush=True)
    print(markdown.table(("extra", "level", "versions", "outcome"), rows, texts=4))
    sys.exit(any(outcome != WORKS and UNLICENSED not in outcome for *_, outcome in rows))


if __name__ == "__main__":
    main()
