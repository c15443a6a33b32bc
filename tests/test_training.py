"""Training: data of all formats, what a run leaves, runs that are cut anywhere, and every refusal."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mad_ip.cli import main
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError
from mad_ip.networks import Network, images, training
from mad_ip.networks.training import Interrupted, Recipe, Report, Result, train
from mad_ip.networks.weights import load_weights
from mad_ip.reports.training import line

MODELS = Path(__file__).parent.parent / "models"
CLASSES = ("across", "down", "plain")
SHORT = Recipe(epochs=2, batch=16, limit=96)
"""Six steps an epoch."""


def design_of(resolution: int = 32, **changes: Any) -> Design:
    """A network small enough to be trained here."""
    structure: dict[str, Any] = {
        "name": "small",
        "spec_sha256": "",
        "convention": "paper",
        "resolution": resolution,
        "image_channels": 3,
        "stem": StemChoice(3, 2, 8, 1),
        "stages": (StageChoice("basic", 2, 16, 16, 3, 1, 1), StageChoice("bottleneck", 2, 32, 16, 3, 2, 1)),
        "tail": None,
        "classes": len(CLASSES),
    }
    return Design.create(beta=10.0, **{**structure, **changes})


SMALL = design_of()


def picture(kind: int, draw: np.random.Generator, side: int = 32) -> bytes:
    """A JPEG: stripes across, stripes down, or none, in noise, at any brightness and phase."""
    wave = 40 * np.sin(np.arange(side) * 2 * np.pi / 8 + draw.uniform(0, 7))
    stripes = (wave[:, None], wave[None, :], np.zeros((1, 1)))[kind][..., None]
    pixels = draw.normal(draw.uniform(80, 170), 25, (side, side, 3)) + stripes
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def pictures(number: int, seed: int, side: int = 32) -> list[bytes]:
    """``number`` of each class, class after class."""
    draw = np.random.default_rng(seed)
    return [picture(kind, draw, side) for kind in range(len(CLASSES)) for _ in range(number)]


def labels_of(encoded: list[bytes]) -> np.ndarray:
    return np.repeat(np.arange(len(CLASSES)), len(encoded) // len(CLASSES))


def packed(path: Path, splits: dict[str, list[bytes]], **changes: np.ndarray) -> Path:
    arrays: dict[str, np.ndarray] = {}
    for name, encoded in splits.items():
        arrays[f"{name}_jpeg"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[f"{name}_end"] = np.cumsum([len(content) for content in encoded])
        arrays[f"{name}_label"] = labels_of(encoded).astype(np.uint8)
    np.savez(path, **{**arrays, **changes})
    return path


def in_folders(place: Path, splits: dict[str, list[bytes]]) -> Path:
    for name, encoded in splits.items():
        for number, (content, label) in enumerate(zip(encoded, labels_of(encoded), strict=True)):
            path = place / name / CLASSES[label] / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place


def in_batches(place: Path, splits: dict[str, list[bytes]]) -> Path:
    """As CIFAR-10: five batches of training images and one of test images."""
    place.mkdir()
    for split, encoded in splits.items():
        names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
        pixels = [np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1).reshape(-1) for content in encoded]
        for name, part in zip(names, np.array_split(np.arange(len(encoded)), len(names)), strict=True):
            batch = {"data": np.array(pixels)[part], "labels": labels_of(encoded)[part].tolist()}
            (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    return place


@pytest.fixture(scope="session")
def splits() -> dict[str, list[bytes]]:
    return {"train": pictures(50, 1), "test": pictures(16, 2)}


@pytest.fixture(scope="session")
def data(splits: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("data") / "images.npz", splits)


@pytest.fixture(scope="session")
def design_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("design") / "design.json"
    SMALL.save(path)
    return path


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in log(folder)]


def memory(path: Path, design: Design = SMALL, seed: int = 0) -> images.Batches:
    return images.batches(images.load(path), design.resolution, design.image_channels, seed, torch.device("cpu"))


# What a run leaves ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result, list[Report]]:
    """One epoch of 2,001 images: folder, data, result and what was reported."""
    folder = tmp_path_factory.mktemp("epoch")
    path = packed(folder / "images.npz", {"train": pictures(667, 3), "test": pictures(100, 4)})
    reports: list[Report] = []
    recipe = Recipe(epochs=1, batch=32)
    result = train(SMALL, path, folder / "run", recipe, threads=1, watch=reports.append)
    return folder / "run", path, result, reports


def test_an_epoch_learns(epoch: tuple[Path, Path, Result, list[Report]]) -> None:
    folder, _, result, reports = epoch
    assert reports[0].loss == pytest.approx(np.log(3), abs=0.1)
    assert result.loss < reports[0].loss - 0.1
    assert result.accuracy > 2 / 3
    (row,) = log(folder)
    assert (row["epoch"], float(row["test_accuracy"])) == ("1", result.accuracy)
    assert float(row["train_loss"]) == result.loss
    assert 0 < float(row["learning_rate"]) < 0.001
    assert float(row["seconds"]) <= result.seconds
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "log.csv", "result.json", "weights.safetensors"]


def test_the_result_says_what_was_done(epoch: tuple[Path, Path, Result, list[Report]]) -> None:
    folder, path, result, _ = epoch
    assert Result.load(folder / "result.json") == result
    content = json.loads((folder / "result.json").read_text())
    assert content["format"] == "mad-ip/training/1"
    assert content["versions"].keys() == {"mad-ip", "torch", "timm", "pillow", "python"}
    assert (result.design, result.macs, result.params) == ("small", SMALL.metrics.macs, SMALL.metrics.params)
    assert (result.classes, result.train_images, result.test_images) == (3, 2001, 300)
    assert (result.device, result.threads, result.recipe["lr"]) == ("cpu", 1, 0.05)
    assert result.data_sha256 == images.load(path).sha256


def test_the_weights_have_the_accuracy_by_hand(epoch: tuple[Path, Path, Result, list[Report]]) -> None:
    """Decoded, normalised and classified without what the training uses."""
    folder, path, result, _ = epoch
    network = Network(SMALL).eval()
    load_weights(network, folder / "weights.safetensors")
    arrays = np.load(path)
    begins = [0, *arrays["test_end"][:-1]]
    jpegs = [arrays["test_jpeg"][begin:end].tobytes() for begin, end in zip(begins, arrays["test_end"], strict=True)]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]) / 255
    normalised = (pixels - np.array(result.mean)) / np.array(result.std)
    with torch.no_grad():
        found = network(torch.from_numpy(normalised).float().permute(0, 3, 1, 2)).argmax(1).numpy()
    assert (found == arrays["test_label"]).mean() == result.accuracy


def test_mean_and_deviation_are_those_of_the_training_pixels(data: Path, splits: dict[str, list[bytes]]) -> None:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in splits["train"]]) / 255
    batches = memory(data)
    assert batches.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert batches.std == pytest.approx(pixels.std((0, 1, 2)))


def test_a_finished_run_is_only_read(data: Path, tmp_path: Path) -> None:
    result = train(SMALL, data, tmp_path / "run", SHORT)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name != ".lock"}

    def asked() -> bool:
        raise AssertionError

    assert train(SMALL, data, tmp_path / "run", SHORT, interrupted=asked) == result
    assert before == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name in before
    }


def test_epochs_without_a_test_have_no_accuracy_and_the_last_has_one(data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, epochs=3)
    train(SMALL, data, tmp_path / "every", recipe, checkpoint_minutes=0)
    train(SMALL, data, tmp_path / "second", recipe, evaluate_every=2)
    every, second = without_seconds(tmp_path / "every"), without_seconds(tmp_path / "second")
    assert all(row["test_accuracy"] for row in every)
    every[0]["test_accuracy"] = ""
    assert every == second
    assert weights(tmp_path / "every") == weights(tmp_path / "second")


def test_the_seed_matters_and_the_global_generators_do_not(data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, epochs=1, mixup=0.2)
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(len(list(tmp_path.iterdir())))
        states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
        train(SMALL, data, tmp_path / name, dataclasses.replace(recipe, seed=seed))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (random.getstate(), str(np.random.get_state())) == states[1:]  # noqa: NPY002
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_the_settings_of_torch_stay(data: Path, tmp_path: Path) -> None:
    train(SMALL, data, tmp_path / "run", dataclasses.replace(SHORT, epochs=1), threads=2)
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


# The recipe -----------------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_and_falls_to_nearly_nothing(data: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=4, batch=16, limit=96, warmup=1)
    run = training._Run(SMALL, images.load(data), recipe, torch.device("cpu"), tmp_path, {})
    rates = []
    for step in range(4 * run.steps):
        run.schedule.step_update(step)
        rates.append(run.optimiser.param_groups[0]["lr"])
    peak = 0.2 * 16 / 128
    assert rates[0] == pytest.approx(peak / 100)
    assert max(rates) == rates[run.steps] == pytest.approx(peak)
    assert rates[: run.steps] == sorted(rates[: run.steps])
    assert rates[run.steps :] == sorted(rates[run.steps :], reverse=True)
    assert rates[-1] < peak / 100


def test_only_weights_of_convolutions_and_the_head_decay() -> None:
    network = Network(SMALL)
    optimiser = training._optimiser(network, Recipe())
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kept = name == "weight" and isinstance(module, nn.Conv2d | nn.Linear)
            assert decays.pop(id(parameter)) == (5e-4 if kept else 0)
    assert decays == {}
    assert optimiser.defaults["nesterov"]


def test_the_defaults_of_rate_and_warm_up() -> None:
    assert (Recipe().peak, Recipe(batch=256).peak, Recipe(optimiser="adamw").peak) == (0.2, 0.4, 0.001)
    assert (Recipe().warm, Recipe(epochs=1).warm, Recipe(warmup=0).warm) == (1, 0.5, 0)
    assert Recipe(lr=0.2, warmup=1).content() == Recipe().content()


BAD_RECIPES: dict[str, Any] = {
    "epochs": 0,
    "batch": 1,
    "lr": 0.0,
    "optimiser": "sgdd",
    "momentum": 1.0,
    "weight_decay": -1e-4,
    "warmup": 30,
    "smoothing": 1.0,
    "mixup": -0.1,
    "cutmix": float("nan"),
    "seed": 2**32,
    "limit": 0,
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_a_bad_recipe_names_the_option(name: str) -> None:
    value = BAD_RECIPES[name]
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} = '?{value}'?: must be [^\n]+$"):
        Recipe(**{name: value})


def test_the_recipes_table_of_bad_values_is_complete() -> None:
    assert BAD_RECIPES.keys() == {item.name for item in dataclasses.fields(Recipe)}


def test_mixtures_need_pairs() -> None:
    with pytest.raises(InputError, match=r"^--batch = 127: must be even"):
        Recipe(batch=127, mixup=0.1)


@pytest.mark.parametrize(
    ("optimiser", "reason"), [("adahessian", "second derivatives"), ("fusedlamb", "cannot make it")]
)
def test_an_optimiser_that_cannot_serve_is_refused(optimiser: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^--optimiser = {optimiser}: [^\n]*{reason}"):
        training._optimiser(Network(SMALL), Recipe(optimiser=optimiser))


# The data -------------------------------------------------------------------------------------------------------------


def test_all_formats_give_the_same_images(data: Path, splits: dict[str, list[bytes]], tmp_path: Path) -> None:
    folders = in_folders(tmp_path / "folders", splits)
    renamed = in_folders(tmp_path / "renamed", {"train": splits["train"], "val": splits["test"]})
    batches = in_batches(tmp_path / "cifar-10-batches-py", splits)
    expected = memory(data)
    for path in (folders, renamed, batches, batches.parent):
        found = memory(path)
        assert (found.mean, found.std) == (expected.mean, expected.std)
        for one, other in ((found.train(3, 32), expected.train(3, 32)), (found.test(32), expected.test(32))):
            for (x, y), (x_expected, y_expected) in zip(one, other, strict=True):
                assert torch.equal(x, x_expected)
                assert torch.equal(y, y_expected)


def test_an_epoch_is_every_image_once_and_can_be_entered_anywhere(data: Path) -> None:
    batches = memory(data)
    whole = list(batches.train(1, 10))
    assert len(whole) == 15
    x, y = (torch.cat(parts) for parts in zip(*whole, strict=True))
    assert x.shape == (150, 3, 32, 32)
    assert x[:10].is_contiguous(memory_format=torch.channels_last)
    assert y.bincount().tolist() == [50, 50, 50]
    rest = list(batches.train(1, 10, 7))
    assert len(rest) == 8
    assert all(torch.equal(one[0], other[0]) for one, other in zip(rest, whole[7:], strict=True))
    assert not torch.equal(next(batches.train(2, 10))[0], whole[0][0])
    # Images that fill no batch are left out of this epoch.
    assert [len(x) for x, _ in batches.train(1, 40)] == [40] * 3
    assert [len(x) for x, _ in batches.test(40)] == [40, 8]


def test_augmentation_is_crops_of_the_reflected_image_and_flips(data: Path) -> None:
    """Against numpy's own padding: every augmented image is one of the 81 crops of one image, or the mirror of one."""
    batches = memory(data)
    assert isinstance(batches, images.MemoryBatches)
    padded = np.pad(batches._normalised(batches._train).numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(2, 3))
    crops = {
        crop.tobytes(): (label, top, left, mirrored)
        for number, label in enumerate(images.load(data).train.labels.tolist())
        for top in range(9)
        for left in range(9)
        for mirrored in (False, True)
        for crop in [windows[number, 0, top, left, 16, :: -1 if mirrored else 1]]
    }
    x, y = next(batches.train(1, 150))
    places = [crops[image[0, 16].numpy().tobytes()] for image in x]
    assert [label for label, *_ in places] == y.tolist()
    for part, values in zip(list(zip(*places, strict=True))[1:], (range(9), range(9), (False, True)), strict=True):
        assert set(part) == set(values)


@pytest.mark.parametrize("number", [3, 50, 97, 150])
def test_a_limit_is_balanced_and_seeded(data: Path, number: int) -> None:
    whole = images.load(data).train
    split = whole.limited(number, 0)
    counts = np.bincount(split.labels, minlength=3)
    assert counts.sum() == number
    assert counts.max() - counts.min() <= 1
    assert (whole.labels[split.chosen] == split.labels).all()
    assert len(set(split.chosen.tolist())) == number
    assert (split.chosen == whole.limited(number, 0).chosen).all()
    assert number == 150 or (split.chosen != whole.limited(number, 1).chosen).any()


def test_images_are_resized_and_of_the_networks_channels(data: Path) -> None:
    for resolution, channels in ((16, 3), (48, 1)):
        x, _ = next(memory(data, design_of(resolution, image_channels=channels)).train(1, 4))
        assert x.shape == (4, channels, resolution, resolution)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return in_folders(tmp_path / "large", {"train": pictures(8, 5, side=80), "val": pictures(2, 6, side=72)})


def test_large_images_depend_on_seed_epoch_and_index_alone(large: Path) -> None:
    batches = memory(large, design_of(64))
    assert isinstance(batches, images.FileBatches)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    whole = list(batches.train(1, 5))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]  # noqa: NPY002
    assert [x.shape for x, _ in whole] == [(5, 3, 64, 64)] * 4
    random.seed(1)
    torch.manual_seed(1)
    for (x, y), (x_expected, y_expected) in zip(batches.train(1, 5, 2), whole[2:], strict=True):
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)
    assert not torch.equal(next(batches.train(2, 5))[0], whole[0][0])
    assert not torch.equal(next(memory(large, design_of(64), seed=1).train(1, 5))[0], whole[0][0])
    assert [y.tolist() for _, y in batches.test(4)] == [[0, 0, 1, 1], [2, 2]]


def test_a_network_is_trained_on_large_images_until_one_is_corrupt(large: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch=4)
    result = train(design_of(64), large, tmp_path / "run", recipe)
    assert (result.train_images, result.test_images) == (24, 6)
    broken = large / "train" / "down" / "0010.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(
        InputError, match=rf"^{broken}: cannot be decoded \([^\n]+\); must be an image that Pillow reads$"
    ):
        train(design_of(64), large, tmp_path / "other", recipe)


# Runs that are cut ----------------------------------------------------------------------------------------------------


class Cut(BaseException):
    """What no code expects: as little is written after it as after a kill."""


def after(number: int, action: Callable[[], bool]) -> Callable[[], bool]:
    """An ``interrupted`` that is not until it was asked ``number`` times."""
    questions = iter(range(number))
    return lambda: action() if next(questions, None) is None else False


def cut() -> bool:
    raise Cut


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [(SHORT, range(18)), (dataclasses.replace(SHORT, optimiser="adamw", mixup=0.2, cutmix=1.0), (3, 14))],
    ids=["default", "adamw with mixtures"],
)
def test_a_run_cut_anywhere_ends_in_the_same_weights(
    recipe: Recipe, numbers: Sequence[int], data: Path, tmp_path: Path
) -> None:
    """Twice six steps, followed by three batches of the test; checkpoints after every step."""
    train(SMALL, data, tmp_path / "whole", recipe)
    for number in numbers:
        folder = tmp_path / str(number)
        with pytest.raises(Cut):
            train(SMALL, data, folder, recipe, interrupted=after(number, cut), checkpoint_minutes=0)
        if number % 4 == 3:
            with pytest.raises(Interrupted, match=rf"^{folder}: stopped in epoch [12] of 2; the same command again"):
                train(SMALL, data, folder, recipe, interrupted=after(2, lambda: True))
        train(SMALL, data, folder, recipe)
        assert weights(folder) == weights(tmp_path / "whole"), number
        assert without_seconds(folder) == without_seconds(tmp_path / "whole"), number


def test_a_run_cut_while_it_writes_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two renames of files: half a checkpoint, no log, weights without a result."""
    train(SMALL, data, tmp_path / "whole", SHORT)
    replace = Path.replace
    for number in range(7):
        folder = tmp_path / str(number)
        renames = iter(range(number))

        def limited(path: Path, target: Path) -> Path:
            if next(renames, None) is None:  # noqa: B023 - called within this turn
                raise Cut
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", limited)
            with pytest.raises(Cut):
                train(SMALL, data, folder, SHORT)
        train(SMALL, data, folder, SHORT)
        assert weights(folder) == weights(tmp_path / "whole"), number
        assert without_seconds(folder) == without_seconds(tmp_path / "whole"), number
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def command(design: Path, data: Path, folder: Path, *options: object) -> list[str]:
    words = ["train", design, "--data", data, "--out", folder, "--batch", 4, "--threads", 1, *options]
    return [sys.executable, "-c", "from mad_ip.cli import main; main()", *map(str, words)]


def stopped(words: list[str], number: int) -> tuple[int, str]:
    """Send signal ``number`` at the first sign of an epoch; the exit status and the last line of standard error."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert re.match(r"epoch \d of 6  loss ", process.stderr.readline())
        process.send_signal(number)
        *_, last = process.communicate(timeout=60)[1].splitlines() or [""]
    return process.returncode, last


def test_a_process_that_is_killed_or_interrupted_goes_on(data: Path, design_file: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=6, batch=4)
    train(SMALL, data, tmp_path / "whole", recipe, threads=1)
    folder = tmp_path / "cut"
    words = command(design_file, data, folder, "--epochs", 6, "--checkpoint-minutes", 0)
    status, line = stopped(words, signal.SIGINT)
    assert status == 3
    assert re.fullmatch(rf"mad-ip: {folder}: stopped in epoch \d of 6; the same command again goes on there", line)
    status, _ = stopped(words, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "result.json").exists()
    train(SMALL, data, folder, recipe, threads=1)
    assert weights(folder) == weights(tmp_path / "whole")
    assert without_seconds(folder) == without_seconds(tmp_path / "whole")


def test_a_folder_of_another_run_is_refused_and_stays(data: Path, tmp_path: Path) -> None:
    other_data = packed(tmp_path / "other.npz", {"train": pictures(40, 7), "test": pictures(5, 8)})
    train(SMALL, data, tmp_path / "finished", SHORT)
    with pytest.raises(Interrupted):
        train(SMALL, data, tmp_path / "begun", SHORT, interrupted=after(3, lambda: True))
    others: tuple[tuple[str, Design, Path, Recipe], ...] = (
        ("design", design_of(stem=StemChoice(3, 2, 16, 1)), data, SHORT),
        ("data", SMALL, other_data, SHORT),
        ("recipe, seed = 0 and not 1", SMALL, data, dataclasses.replace(SHORT, seed=1)),
        ("recipe, lr = 0.025 and not 0.02", SMALL, data, dataclasses.replace(SHORT, lr=0.02)),
    )
    for name in ("finished", "begun"):
        folder = tmp_path / name
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for what, design, path, recipe in others:
            with pytest.raises(InputError, match=rf"^{folder}: holds a run of another {what}; --out must be another"):
                train(design, path, folder, recipe)
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_design_that_was_only_renamed_or_proven_is_the_same(data: Path, tmp_path: Path) -> None:
    result = train(SMALL, data, tmp_path / "run", SHORT)
    assert train(dataclasses.replace(SMALL, name="other"), data, tmp_path / "run", SHORT) == result


def test_a_folder_in_use_is_refused(data: Path, tmp_path: Path) -> None:
    def second() -> bool:
        train(SMALL, data, tmp_path / "run", SHORT)
        return False

    with pytest.raises(
        InputError, match=r"^[^\n]*run: another training is at work there; --out must be another folder$"
    ):
        train(SMALL, data, tmp_path / "run", SHORT, interrupted=second)


def test_a_broken_checkpoint_or_result_is_named(data: Path, tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "result.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"{}")
        with pytest.raises(InputError, match=f"^{folder / name}: "):
            train(SMALL, data, folder, SHORT)
        assert (folder / name).read_bytes() == b"{}"


def test_a_loss_that_is_not_finite_ends_the_run_without_a_checkpoint_of_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--lr = 1e\+30: the loss is (nan|inf) in epoch 1; must be smaller"):
        train(SMALL, data, tmp_path / "run", dataclasses.replace(SHORT, lr=1e30))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


# Refusals -------------------------------------------------------------------------------------------------------------


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[object]) -> str:
    """The one line that ``mad-ip train`` leaves on standard error with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["mad-ip", "train", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("mad-ip: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("mad-ip: ")


def bad_packed(path: Path, splits: dict[str, list[bytes]]) -> Iterator[tuple[Path, str]]:
    def made(name: str, **changes: np.ndarray) -> Path:
        return packed(path / f"{name}.npz", splits, **changes)

    ends = np.cumsum([len(content) for content in splits["train"]])
    garbled = [*splits["train"][:17], b"no image at all", *splits["train"][18:]]
    truncated = [*splits["train"][:17], splits["train"][17][:400], *splits["train"][18:]]
    yield (packed(path / "garbled.npz", {**splits, "train": garbled}), "train_jpeg: image 17: cannot be decoded (not")
    yield (packed(path / "cut.npz", {**splits, "train": truncated}), "train_jpeg: image 17: cannot be decoded (")
    yield made("ends", train_end=ends[::-1]), "train_end: must increase up to the"
    yield made("short", train_end=ends[:-1]), "train_label of 150 and train_end of 149 images"
    yield made("floats", test_label=np.zeros(48)), "test_label of type float64 and shape (48,): must be the class"
    yield made("words", train_jpeg=np.zeros(9, dtype=np.uint16)), "train_jpeg of type uint16"
    yield made("negative", test_label=np.full(48, -1)), "test_label = -1: must be classes from 0"
    yield made("pickled", test_label=np.array([None])), "not an .npz file of plain arrays"
    yield made("more", test_label=np.full(48, 3)), "holds 4 classes; the design small has 3"
    yield made("fewer", train_label=np.zeros(150, int), test_label=np.zeros(48, int)), "holds 1 classes"
    yield packed(path / "half.npz", {"train": splits["train"]}), "test_jpeg is missing: must be the bytes"
    (path / "text.npz").write_text("text")
    yield path / "text.npz", "not an .npz file"
    yield path / "none.npz", "cannot be read"


def bad_folders(path: Path, splits: dict[str, list[bytes]]) -> Iterator[tuple[Path, str]]:
    few = {name: encoded[:: len(encoded) // 6] for name, encoded in splits.items()}
    yield path, "holds no images to train on; must be a folder with cifar-10-batches-py"
    lone = in_folders(path / "lone", {"train": few["train"]})
    yield lone, "beside train there is neither; must be one of val, test"
    both = in_folders(path / "both", {**few, "val": few["test"]})
    yield both, "beside train there is val and test; must be one of"
    odd = in_folders(path / "odd", few)
    (odd / "test" / "zigzag").mkdir()
    yield odd, "class zigzag is in only one of train and test; must be in both"
    (path / "empty" / "train").mkdir(parents=True)
    (path / "empty" / "test").mkdir()
    yield path / "empty", "train: holds no folder; must hold one for each class"
    bare = in_folders(path / "bare", few)
    for file in (bare / "test" / "down").iterdir():
        file.unlink()
    yield bare, "test/down: holds no image; must hold files of"
    text = in_folders(path / "text", few)
    (text / "test" / "down" / "0003.jpg").write_text("text")
    yield text, "test/down/0003.jpg: cannot be decoded (not an image of a known format); must be"
    more = in_folders(path / "more", few)
    for name in ("train", "test"):
        (more / name / "zigzag").mkdir()
        (more / name / "zigzag" / "0.jpg").write_bytes(few["train"][0])
    yield more, "holds 4 classes; the design small has 3"


def bad_batches(path: Path, splits: dict[str, list[bytes]]) -> Iterator[tuple[Path, str]]:
    good = in_batches(path / "good", splits)
    batch = pickle.loads((good / "data_batch_3").read_bytes())
    contents: dict[str, tuple[bytes, str]] = {
        "text": (b"text", "not a batch of CIFAR-10"),
        "harmful": (pickle.dumps(os.getcwd), "not a batch of CIFAR-10 (names posix.getcwd)"),
        "list": (pickle.dumps([]), "data: must be an array of uint8 with 3,072 columns"),
        "narrow": (pickle.dumps({**batch, "data": batch["data"][:, :9]}), "data: must be an array of uint8"),
        "short": (pickle.dumps({**batch, "labels": [0]}), "labels: must be a list of one class for each of the 30"),
        "worded": (pickle.dumps({**batch, "labels": ["a"] * 30}), "labels: must be integers of at least 0"),
    }
    for name, (content, sentence) in contents.items():
        folder = in_batches(path / name, splits)
        (folder / "data_batch_3").write_bytes(content)
        yield folder, f"data_batch_3: {sentence}"
    (good / "test_batch").unlink()
    yield good, "test_batch: cannot be read"


@pytest.mark.parametrize("bad", [bad_packed, bad_folders, bad_batches])
def test_bad_data_is_one_sentence_that_names_it(
    bad: Callable[[Path, dict[str, list[bytes]]], Iterator[tuple[Path, str]]],
    splits: dict[str, list[bytes]],
    design_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").mkdir()
    for path, sentence in bad(tmp_path / "data", splits):
        line = refused(monkeypatch, capsys, [design_file, "--data", path, "--out", tmp_path / "run", "--batch", 4])
        assert line.startswith(str(path)), line
        assert sentence in line
        assert not [file for file in tmp_path.glob("run/*") if file.name != ".lock"]


def test_bad_arguments_are_named(
    data: Path, design_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    headless, clips = tmp_path / "headless.json", MODELS / "e3d-s" / "design.json"
    design_of(classes=0).save(headless)
    gray = tmp_path / "two.json"
    design_of(image_channels=2).save(gray)
    (tmp_path / "file").write_text("")
    (tmp_path / "runs.csv").write_text("design,accuracy\n")
    cases: tuple[tuple[Path, list[object], str], ...] = (
        (headless, [], "small: classes = 0: must have a head to be trained"),
        (clips, [], "e3d-s: takes clips of 13 frames; must be a design of images"),
        (gray, [], f"{data}: holds images of 1 or 3 channels; the design takes 2"),
        (design_file, ["--device", "tpu"], "--device = tpu: must be one of cpu, cuda"),
        (design_file, ["--threads", "0"], "--threads = 0: must be at least 1"),
        (design_file, ["--evaluate-every", "0"], "--evaluate-every = 0: must be at least 1"),
        (design_file, ["--checkpoint-minutes", "-1"], "--checkpoint-minutes = -1.0: must be at least 0"),
        (design_file, ["--epochs", "0"], "--epochs = 0: must be an integer of at least 1"),
        (design_file, ["--limit", "151"], f"--limit = 151: {data} holds only 150 training images"),
        (design_file, ["--batch", "151"], "--batch = 151: must be at most 150, the training images"),
        (
            design_file,
            ["--out", tmp_path / "file" / "run"],
            f"--out = {tmp_path}/file/run: cannot be made (Not a directory)",
        ),
        (design_file, ["--out", tmp_path / "file"], f"--out = {tmp_path}/file: cannot be made (File exists)"),
        (design_file, ["--runs", tmp_path], f"--runs = {tmp_path}: is a folder"),
        (design_file, ["--runs", tmp_path / "runs.csv"], f"{tmp_path}/runs.csv: column seed is missing"),
    )
    before = sorted(tmp_path.iterdir())
    for design, options, sentence in cases:
        words = [design, "--data", data, "--batch", 16, "--quiet", "--out", tmp_path / "run", *options]
        assert refused(monkeypatch, capsys, words).startswith(sentence)
        assert not [file for file in tmp_path.glob("run/*") if file.name != ".lock"]
    assert sorted(path for path in tmp_path.iterdir() if path.name != "run") == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--device = cuda: torch finds no such device here"):
        train(SMALL, data, tmp_path / "run", SHORT, device="cuda")


@pytest.mark.parametrize("missing", ["timm", "PIL"])
@pytest.mark.parametrize("module", [images, training])
def test_without_an_extra_it_is_named(module: Any, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, images.__name__)
    assert module.__file__ is not None
    specification = importlib.util.spec_from_file_location("fresh", module.__file__)
    assert specification is not None
    assert specification.loader is not None
    with pytest.raises(InputError, match=r"^training needs pillow and timm, [^\n]*; pip install 'mad-ip\[train\]'$"):
        specification.loader.exec_module(importlib.util.module_from_spec(specification))


# The table of runs ----------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_finished_run_is_one_row(
    data: Path, design_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs.csv"
    words = ["train", design_file, "--data", data, "--out", tmp_path / "run", "--runs", runs, "--quiet"]
    words += ["--epochs", 1, "--batch", 16, "--limit", 48]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["mad-ip", *map(str, words)])
        main_returns(capsys)
    (row,) = rows(runs)
    result = Result.load(tmp_path / "run" / "result.json")
    assert (tmp_path / row["design"]).resolve() == design_file.resolve()
    assert float(row["accuracy"]) == result.accuracy
    assert (row["seed"], row["epochs"]) == ("0", "1")
    assert (int(row["macs"]), int(row["params"])) == (SMALL.metrics.macs, SMALL.metrics.params)
    assert float(row["seconds"]) == result.seconds
    assert row["recipe"] == "sgd lr 0.025 wd 0.0005 batch 16 warmup 0.5 smoothing 0.1 limit 48"


def main_returns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "accuracy" in capsys.readouterr().out


def test_rows_of_many_at_once_are_all_kept_and_none_twice(
    epoch: tuple[Path, Path, Result, list[Report]], design_file: Path, tmp_path: Path
) -> None:
    runs, result = tmp_path / "runs.csv", epoch[2]
    runs.write_text("note," + ",".join(training.RUN_COLUMNS) + "\n" + '"a, ""b""",x' + ",1" * 9 + "\n")
    results = [dataclasses.replace(result, recipe={**result.recipe, "seed": seed % 20}) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: training.record(runs, design_file, item), results))
    first, *rest = rows(runs)
    assert (first["note"], first["design"]) == ('a, "b"', "x")
    assert sorted(int(row["seed"]) for row in rest) == list(range(20))
    assert {row["note"] for row in rest} == {""}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff", "not a table of runs"),
        (b"", "column design is missing; must have design, accuracy"),
        (",".join(training.RUN_COLUMNS).encode() + b"\na\n", "line 2 has 1 values; must have 10, as the header"),
    ],
)
def test_a_table_that_is_none_is_refused_and_stays(content: bytes, sentence: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_bytes(content)
    with pytest.raises(InputError, match=f"^{runs}: {sentence}"):
        training.require_runs(runs)
    assert runs.read_bytes() == content


def test_a_line_of_progress() -> None:
    report = Report(epoch=3, epochs=30, loss=1.25, accuracy=0.5, images_per_second=1234.5, seconds_left=3725)
    assert line(report) == "epoch 3 of 30  loss 1.2500  accuracy 50.00%  1,234 images/s  1:02:05 left"
    first = dataclasses.replace(report, accuracy=float("nan"))
    assert "accuracy -  " in line(first)
