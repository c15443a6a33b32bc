"""examples/loop.py: from a sample to the trained optimum of a fitted objective, going on where it was stopped."""

from __future__ import annotations

import csv
import importlib.util
import io
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mad_ip.cli import app
from mad_ip.design import Design, violations
from mad_ip.spec import Spec

pytest.importorskip("PIL.Image")
pytest.importorskip("timm")

LOOP = Path(__file__).parents[1] / "examples/loop.py"

SPEC = """
name = "tiny"
[input]
resolution = 16
classes = 2
[budget]
macs = 3e5
params = 2e4
effectiveness = 0.5
[stem]
kernel = 3
stride = 1
channels = [4, 8]
[[stage]]
block = "basic"
stride = 2
channels = [8, 12, 16]
mid = [4, 8, 12]
kernel = 3
depth = {min = 1, max = 3}
[[stage]]
block = "basic"
stride = 2
channels = [16, 24, 32]
mid = [8, 16, 24]
kernel = 3
depth = {min = 1, max = 3}
"""


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, list[tuple[Any, ...]]]:
    """The script with its commands run in this process, and those that it ran."""
    specification = importlib.util.spec_from_file_location("loop", LOOP)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    commands: list[tuple[Any, ...]] = []

    def run(*words: Any) -> None:
        commands.append(words)
        assert app([str(word) for word in words], standalone_mode=False) in (None, 0)

    monkeypatch.setattr(module, "run", run)
    return module, commands


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark images of class 0 and bright ones of class 1."""
    from PIL import Image

    random, arrays = np.random.default_rng(0), {}
    for part, number in (("train", 32), ("test", 16)):
        label = np.arange(number) % 2
        files = []
        for bright in label:
            pixels = random.integers(0, 128, (16, 16, 3)) + 127 * bright
            file = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
            files.append(file.getvalue())
        arrays |= {
            f"{part}_jpeg": np.frombuffer(b"".join(files), np.uint8),
            f"{part}_end": np.cumsum([len(file) for file in files]),
            f"{part}_label": label,
        }
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.usefixtures("in_this_process")
def test_from_a_sample_to_the_trained_optimum(
    loop: tuple[ModuleType, list[tuple[Any, ...]]], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, commands = loop
    spec, out = tmp_path / "spec.toml", tmp_path / "loop"
    spec.write_text(SPEC)
    words = [spec, "--data", images, "--out", out, "--number", 12, "--fill", 0.6, "--epochs", 1, "--seeds", 1]
    words += ["--recipe", "--batch 8 --quiet"]

    def call(*more: Any) -> list[str]:
        before = len(commands)
        monkeypatch.setattr("sys.argv", ["loop.py", *map(str, (*words, *more))])
        module.main()
        return [command[0] for command in commands[before:]]

    monkeypatch.setattr(module, "STEPS", ("sample", "train"))
    first = call()
    assert first == ["sample"] + ["train"] * 12
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert len({row["design"] for row in rows}) == 12

    # Tiny networks after a few steps are all as good: what a calibration could learn is put there.
    for row in rows:
        design = Design.load(out / row["design"])
        row["accuracy"] = str(0.5 + 0.05 * design.stages[0].depth + 0.004 * design.stages[1].channels)
    with (out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    # Half of the runs were another machine's.
    lines = (out / "runs.csv").read_text().splitlines()
    (out / "runs-2.csv").write_text("\n".join([lines[0], *lines[7:]]) + "\n")
    (out / "runs.csv").write_text("\n".join(lines[:7]) + "\n")

    monkeypatch.setattr(module, "STEPS", ("calibrate", "solve", "finish"))
    assert call() == ["calibrate", "solve", "train"]
    assert call() == ["train"]
    calibrated = Spec.load(out / "calibrated.toml")
    best = Design.load(out / "designs/calibrated.json")
    assert violations(calibrated, best) == []
    assert best.certificate is not None
    assert best.certificate.status == "optimal"
    assert (best.stages[0].depth, best.stages[1].channels) == (3, 32)
    assert (out / "calibration.html").exists()
    assert (out / "runs.csv").read_text().splitlines()[-1].startswith("designs/calibrated.json,")


def test_machines_share_the_runs(
    loop: tuple[ModuleType, list[tuple[Any, ...]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = loop
    commands: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "run", lambda *words: commands.append(words))
    (tmp_path / "designs").mkdir()
    for name in "abc":
        shutil.copy(LOOP.parents[1] / "models/toy/design.json", tmp_path / f"designs/{name}.json")
    for part in ("1/2", "2/2"):
        words = ["spec.toml", "--data", "x", "--out", tmp_path, "--seeds", 3, "--only", "train", "--part", part]
        monkeypatch.setattr("sys.argv", ["loop.py", *map(str, words)])
        module.main()
    trained = [(words[1].stem, words[words.index("--seed") + 1], words[-1].name) for words in commands]
    assert len(set(trained)) == 9
    assert {name for *_, name in trained} == {"runs-1.csv", "runs-2.csv"}
    assert sorted(trained)[:3] == [("a", 0, "runs-1.csv"), ("a", 1, "runs-2.csv"), ("a", 2, "runs-1.csv")]
