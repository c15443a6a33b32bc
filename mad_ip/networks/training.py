"""Training a design on labelled images, so that a run that is killed and repeated ends in the same weights.

Whatever is random is drawn from the seed and the epoch alone, and a checkpoint holds the rest: a run is a sequence of
steps that can be cut anywhere (docs/training.md).
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mad_ip import __version__
from mad_ip.design import Design
from mad_ip.errors import InputError, MadIpError
from mad_ip.files import (
    finite,
    locked,
    make_folder,
    read_bytes,
    read_json,
    require_new,
    require_place,
    write_atomically,
)
from mad_ip.networks import images
from mad_ip.networks.measure import evaluating
from mad_ip.networks.network import Network
from mad_ip.networks.weights import save_weights, unpickled
from mad_ip.reader import Reader

try:
    import PIL
    import timm
    from timm.data import Mixup
    from timm.optim import create_optimizer_v2, list_optimizers
    from timm.scheduler import CosineLRScheduler
except ImportError:
    raise InputError("training needs pillow and timm, which are not installed; pip install 'mad-ip[train]'") from None

__all__ = ["Interrupted", "Recipe", "Report", "Result", "record", "require_runs", "train"]

FORMAT = "mad-ip/training/1"

WEIGHTS, RESULT, LOG = "weights.safetensors", "result.json", "log.csv"
_CHECKPOINT = "checkpoint.pt"
RUN_COLUMNS = (
    "design",
    "accuracy",
    "seed",
    "epochs",
    "macs",
    "params",
    "seconds",
    "recipe",
    "design_sha256",
    "data_sha256",
)
"""Of the table that :func:`record` adds to."""
_MEASURED = {"accuracy", "seconds"}
"""What tells no run from another."""
_LOG_COLUMNS = ("epoch", "learning_rate", "train_loss", "test_accuracy", "seconds")


class Interrupted(MadIpError):  # noqa: N818 - no error
    """A training was stopped from outside; its checkpoint is written."""

    exit_code = 3


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch: images of a step; those that fill none are left out of an epoch.
        lr: highest learning rate, reached after the warm-up; by default 0.2 for sgd and 0.001 for any other, times
            ``batch`` / 128.
        optimiser: a name that timm knows; ``sgd`` has Nesterov's momentum.
        momentum: for the optimisers that have one.
        weight_decay: of all weights but biases and those of normalisations.
        warmup: epochs, or a part of one, of linear growth before the rate falls as a cosine to 0; by default one, of a
            single epoch its half.
        smoothing: share of a label that is spread over all classes.
        mixup, cutmix: alpha of timm's mixtures of two images, 0 for none; where both are given, each has half of the
            batches.
        seed: of the initial weights, the order of the images and their augmentation.
        limit: how many training images are used, as many of each class; all by default.

    Raises :class:`InputError` that names the command's option when a value is out of range.
    """

    epochs: int = 30
    batch: int = 128
    lr: float | None = None
    optimiser: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float | None = None
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("epochs", 1, None), ("batch", 2, None), ("seed", 0, 2**32 - 1), ("limit", 1, None)):
            value = getattr(self, name)
            if value is None and name == "limit":
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < least or (most is not None and value > most):
                limit = f"of at least {least}" if most is None else f"from {least} to {most}"
                raise InputError(f"--{name} = {value!r}: must be an integer {limit}")
        numbers: tuple[tuple[str, Callable[[float], bool], str], ...] = (
            ("lr", lambda value: value > 0, "greater than 0"),
            ("momentum", lambda value: 0 <= value < 1, "of at least 0 and less than 1"),
            ("weight_decay", lambda value: value >= 0, "of at least 0"),
            ("warmup", lambda value: 0 <= value < self.epochs, f"of at least 0 and less than the {self.epochs} epochs"),
            ("smoothing", lambda value: 0 <= value < 1, "of at least 0 and less than 1"),
            ("mixup", lambda value: value >= 0, "of at least 0"),
            ("cutmix", lambda value: value >= 0, "of at least 0"),
        )
        for name, allowed, sentence in numbers:
            value = getattr(self, name)
            if value is None and name in ("lr", "warmup"):
                continue
            if not finite(value) or not allowed(value):
                raise InputError(f"--{name.replace('_', '-')} = {value!r}: must be a number {sentence}")
        if self.mixes and self.batch % 2:
            raise InputError(f"--batch = {self.batch}: must be even, for mixup and cutmix take images in pairs")
        if self.optimiser not in list_optimizers():
            raise InputError(f"--optimiser = {self.optimiser}: must be a name of timm.optim.list_optimizers()")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return (0.2 if self.optimiser == "sgd" else 0.001) * self.batch / 128 if self.lr is None else self.lr

    @property
    def warm(self) -> float:
        """Epochs of the warm-up."""
        return min(1.0, self.epochs / 2) if self.warmup is None else self.warmup

    def content(self) -> dict[str, Any]:
        """As it is written, with the values that the defaults stand for."""
        return {**dataclasses.asdict(self), "lr": self.peak, "warmup": self.warm}

    def __str__(self) -> str:
        parts = [f"{self.optimiser} lr {self.peak:g} wd {self.weight_decay:g} batch {self.batch} warmup {self.warm:g}"]
        if self.momentum != Recipe.momentum:
            parts.append(f"momentum {self.momentum:g}")
        parts += [f"{name} {getattr(self, name):g}" for name in ("smoothing", "mixup", "cutmix") if getattr(self, name)]
        if self.limit is not None:
            parts.append(f"limit {self.limit}")
        return " ".join(parts)


@dataclass(frozen=True)
class Report:
    """A training at work; ``loss`` is the mean of the epoch so far, ``accuracy`` the last one, nan before the first."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float

    @property
    def phase(self) -> str:
        """What a terminal shows at least once."""
        return f"epoch {self.epoch}"


@dataclass(frozen=True)
class Result:
    """A finished training: ``accuracy`` is the fraction of the test images that are classified correctly at its end.

    ``loss`` is the mean over the last epoch's training images, ``mean`` and ``std`` normalise the images of a network
    with these weights (pixels from 0 to 1), ``seconds`` is the time of all its parts. The hashes are those of the
    network's structure and of the data's files.
    """

    design: str
    design_sha256: str
    data_sha256: str
    macs: int
    params: int
    accuracy: float
    loss: float
    recipe: dict[str, Any]
    classes: int
    train_images: int
    test_images: int
    mean: list[float]
    std: list[float]
    device: str
    threads: int
    versions: dict[str, str]
    seconds: float

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read a result.json; raise :class:`InputError` when it is not one."""
        names = [item.name for item in dataclasses.fields(cls)]
        reader = Reader(str(path), read_json(path), ("format", *names), noun="JSON object")
        reader.choice("format", (FORMAT,))
        for item in dataclasses.fields(cls):
            if item.type == "str":
                reader.text(item.name)
            elif item.type == "int":
                reader.integer(item.name, least=0)
            elif item.type == "float":
                reader.number(item.name)
            elif item.type == "list[float]" and not isinstance(reader.values.get(item.name), list):
                raise reader.fail(item.name, "a list of numbers")
            elif item.type.startswith("dict"):
                reader.table(item.name, None)
        return cls(**{name: reader.values[name] for name in names})

    def save(self, path: Path | str) -> None:
        """Write it atomically; raise :class:`InputError` when it cannot be."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def train(
    design: Design,
    data: Path | str,
    out: Path | str,
    recipe: Recipe,
    *,
    device: str = "cpu",
    threads: int | None = None,
    evaluate_every: int = 1,
    checkpoint_minutes: float = 5.0,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Result:
    """Train the network of ``design`` on the images at ``data``; leave weights, log and result in the folder ``out``.

    A run of the same design, data and recipe that was cut goes on from its checkpoint in ``out``, and a finished one is
    only read. On the CPU the weights depend on nothing but these three, the number of threads and the machine.

    Arguments:
        design: of images, with classes.
        data: see ``mad_ip.networks.images.load``.
        out: the folder, made if it is not there.
        recipe: how to train.
        device: ``cpu`` or ``cuda``; on the latter in half precision where that is safe.
        threads: of torch on the CPU; what torch has by default.
        evaluate_every: epochs from one test to the next; the last is always followed by one.
        checkpoint_minutes: between the checkpoints within an epoch; each epoch ends with one, too.
        watch: gets a :class:`Report` at the beginning of each epoch and twice a second.
        interrupted: whether to stop, asked at every step.

    Raises:
        InputError: an argument, a file of the data or the folder is not as it must be, or the loss is not finite.
        Interrupted: it was stopped; the checkpoint is written.
    """
    if design.frames is not None:
        raise InputError(f"{design.name}: takes clips of {design.frames} frames; must be a design of images")
    if not design.classes:
        raise InputError(f"{design.name}: classes = 0: must have a head to be trained")
    for option, value, fits in (
        ("--threads", threads, threads is None or threads >= 1),
        ("--evaluate-every", evaluate_every, evaluate_every >= 1),
        ("--checkpoint-minutes", checkpoint_minutes, checkpoint_minutes >= 0),
    ):
        if not fits:
            raise InputError(f"{option} = {value}: must be at least {0 if option == '--checkpoint-minutes' else 1}")
    place = _device(device)
    folder = Path(out)
    require_place("--out", folder)
    dataset = images.load(data)
    if dataset.classes != design.classes:
        raise InputError(f"{data}: holds {dataset.classes} classes; the design {design.name} has {design.classes}")
    if recipe.limit is not None:
        if recipe.limit > len(dataset.train):
            raise InputError(f"--limit = {recipe.limit}: {data} holds only {len(dataset.train)} training images")
        dataset = dataclasses.replace(dataset, train=dataset.train.limited(recipe.limit, recipe.seed))
    if recipe.batch > len(dataset.train):
        raise InputError(f"--batch = {recipe.batch}: must be at most {len(dataset.train)}, the training images")
    identity = {"design": design.structure_sha256, "data": dataset.sha256, "recipe": recipe.content()}
    make_folder("--out", folder)
    with locked(folder / ".lock") as free, _settings(place, threads):
        if not free:
            raise InputError(f"{folder}: another training is at work there; --out must be another folder")
        if (folder / RESULT).exists():
            result = Result.load(folder / RESULT)
            found = {"design": result.design_sha256, "data": result.data_sha256, "recipe": result.recipe}
            _require_same(folder, found, identity)
            return result
        run = _Run(design, dataset, recipe, place, folder, identity)
        return run.finish(evaluate_every, checkpoint_minutes * 60, watch, interrupted)


class _Run:
    """A training and all that changes in it; it can be saved after any step.

    ``steps`` is the number of steps of an epoch; ``epoch`` counts from 1 and ``step``, the steps taken in it, from 0.
    """

    def __init__(
        self,
        design: Design,
        dataset: images.Dataset,
        recipe: Recipe,
        device: torch.device,
        folder: Path,
        identity: dict[str, Any],
    ) -> None:
        self.recipe, self.device, self.folder, self.identity = recipe, device, folder, identity
        checkpoint = self._checkpoint()
        self.data = images.batches(dataset, design.resolution, design.image_channels, recipe.seed, device)
        self.dataset = dataset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = Network(design)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimiser = _optimiser(self.network, recipe)
        self.steps = len(dataset.train) // recipe.batch
        warm = int(recipe.warm * self.steps)
        self.schedule = CosineLRScheduler(
            self.optimiser,
            t_initial=recipe.epochs * self.steps - warm,
            warmup_t=warm,
            warmup_lr_init=recipe.peak / 100,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.mix: Any = None
        if recipe.mixes:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=design.classes)
        half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        self.precision = torch.autocast(device.type, dtype=half, enabled=device.type == "cuda")
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and half is torch.float16)
        self.epoch, self.step = 1, 0
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.rows: list[list[Any]] = []
        self.seconds = 0.0
        if checkpoint is not None:
            self._restore(checkpoint)

    def finish(
        self,
        evaluate_every: int,
        checkpoint_seconds: float,
        watch: Callable[[Report], None] | None,
        interrupted: Callable[[], bool],
    ) -> Result:
        """Take all steps that are left, and write log, weights and result."""
        recipe = self.recipe
        self._write_log()
        clock = _Clock(self.seconds)
        saved = reported = time.perf_counter()
        steps_before = self._steps_taken()

        def keep() -> None:
            nonlocal saved
            self.seconds = clock.seconds()
            self._save()
            saved = time.perf_counter()

        def stop() -> None:
            keep()
            raise Interrupted(
                f"{self.folder}: stopped in epoch {self.epoch} of {recipe.epochs}; the same command again goes on there"
            )

        while self.epoch <= recipe.epochs:
            for batch, labels in self.data.train(self.epoch, recipe.batch, self.step):
                if interrupted():
                    stop()
                self._take_step(batch, labels)
                now = time.perf_counter()
                if watch is not None and (self.step == 1 or now - reported > 0.5):
                    reported = now
                    taken = self._steps_taken()
                    rate = (taken - steps_before) / (clock.seconds() - clock.before)
                    watch(
                        Report(
                            self.epoch,
                            recipe.epochs,
                            float(self.loss) / self.step,
                            self._accuracy(),
                            rate * recipe.batch,
                            (recipe.epochs * self.steps - taken) / rate,
                        )
                    )
                if now - saved > checkpoint_seconds:
                    keep()
            loss = self._mean_loss()
            accuracy = None
            if self.epoch % evaluate_every == 0 or self.epoch == recipe.epochs:
                accuracy = self._tested(interrupted)
                if accuracy is None:
                    stop()
            learning_rate = self.optimiser.param_groups[0]["lr"]
            self.rows.append([self.epoch, learning_rate, loss, accuracy, round(clock.seconds(), 3)])
            self.loss.zero_()
            self.epoch, self.step = self.epoch + 1, 0
            keep()
            self._write_log()
        return self._written()

    def _take_step(self, batch: Tensor, labels: Tensor) -> None:
        self.schedule.step_update(self._steps_taken())
        smoothing = self.recipe.smoothing
        targets = labels
        if self.mix is not None:
            # Soft labels, which are smoothed already.
            batch, targets = self._mixed(batch, labels)
            smoothing = 0.0
        self.network.train()
        with self.precision:
            outputs = self.network(batch)
        loss = functional.cross_entropy(outputs.float(), targets, label_smoothing=smoothing)
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.loss += loss.detach()
        self.step += 1

    def _mixed(self, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch as timm does, which draws from numpy's own generator: it gets a seed, and then what it had."""
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed([self.recipe.seed, self.epoch, self.step])  # noqa: NPY002
        try:
            mixed: tuple[Tensor, Tensor] = self.mix(batch, labels)
            return mixed
        finally:
            np.random.set_state(before)  # noqa: NPY002

    def _steps_taken(self) -> int:
        return (self.epoch - 1) * self.steps + self.step

    def _accuracy(self) -> float:
        """The last one that was measured."""
        return next((row[3] for row in reversed(self.rows) if row[3] is not None), math.nan)

    def _mean_loss(self) -> float:
        loss = float(self.loss) / max(self.step, 1)
        if not math.isfinite(loss):
            raise InputError(
                f"--lr = {self.recipe.peak:g}: the loss is {loss} in epoch {self.epoch}; "
                "must be smaller, with another --out"
            )
        return loss

    def _tested(self, interrupted: Callable[[], bool]) -> float | None:
        """The fraction of the test images that are classified correctly; ``None`` when interrupted."""
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with evaluating(self.network), torch.inference_mode(), self.precision:
            for batch, labels in self.data.test(self.recipe.batch):
                if interrupted():
                    return None
                correct += (self.network(batch).argmax(1) == labels).sum()
        return int(correct) / len(self.dataset.test)

    def _save(self) -> None:
        """Write the checkpoint so that a crash at any moment leaves the old one or the new one whole."""
        self._mean_loss()
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss,
            "rows": self.rows,
            "seconds": self.seconds,
        }
        path = self.folder / _CHECKPOINT
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as stream:
                torch.save(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"{path}: cannot be written ({error.strerror}); a writable folder is needed") from None

    def _checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint of this run, if there is one; raise :class:`InputError` when it is that of another."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return None
        content = unpickled(read_bytes(path))
        named = isinstance(content, dict) and content.get("format") == FORMAT
        identity = content.get("identity") if named else None
        if not isinstance(identity, dict) or not isinstance(identity.get("recipe"), dict) or "data" not in identity:
            raise self._no_checkpoint()
        _require_same(self.folder, identity, self.identity)
        return content  # type: ignore[no-any-return]

    def _no_checkpoint(self) -> InputError:
        path = self.folder / _CHECKPOINT
        return InputError(f"{path}: not a checkpoint of this version; must be removed to train from the beginning")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint; raise :class:`InputError` for one that is none in spite of its name."""
        try:
            self.network.load_state_dict(checkpoint["network"])
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            self.scaler.load_state_dict(checkpoint["scaler"])
            self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
            self.loss.copy_(checkpoint["loss"])
            self.rows, self.seconds = checkpoint["rows"], checkpoint["seconds"]
            whole = self._is_whole()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # what is none can raise any
            whole = False
        if not whole:
            raise self._no_checkpoint()

    def _is_whole(self) -> bool:
        """Whether where it is and its log, as restored, are those of a training."""
        counted = all(type(number) is int for number in (self.epoch, self.step))
        placed = counted and 1 <= self.epoch <= self.recipe.epochs + 1 and 0 <= self.step <= self.steps
        logged = len(self.rows) == self.epoch - 1 and all(len(row) == len(_LOG_COLUMNS) for row in self.rows)
        return bool(placed and logged and finite(self.seconds) and self.seconds >= 0)

    def _write_log(self) -> None:
        """Write all rows anew, from the run's own: none is doubled or lost, wherever a run before was cut."""
        write_atomically(self.folder / LOG, _table(_LOG_COLUMNS, self.rows))

    def _written(self) -> Result:
        design = self.network.design
        *_, (_, _, loss, accuracy, _) = self.rows
        result = Result(
            design=design.name,
            design_sha256=self.identity["design"],
            data_sha256=self.identity["data"],
            macs=design.metrics.macs,
            params=design.metrics.params,
            accuracy=accuracy,
            loss=loss,
            recipe=self.identity["recipe"],
            classes=design.classes,
            train_images=len(self.dataset.train),
            test_images=len(self.dataset.test),
            mean=list(self.data.mean),
            std=list(self.data.std),
            device=self.device.type,
            threads=torch.get_num_threads(),
            versions={
                "mad-ip": __version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "pillow": PIL.__version__,
                "python": platform.python_version(),
            },
            seconds=round(self.seconds, 3),
        )
        save_weights(self.network, self.folder / WEIGHTS)
        result.save(self.folder / RESULT)
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return result


class _Clock:
    """Seconds of a run: those ``before`` its checkpoint and those since."""

    def __init__(self, before: float) -> None:
        self.before, self._began = before, time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._began


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device = {name}: must be one of cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device = cuda: torch finds no such device here; must be cpu")
    return torch.device(name)


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    try:
        optimiser: torch.optim.Optimizer = create_optimizer_v2(
            network, recipe.optimiser, lr=recipe.peak, weight_decay=recipe.weight_decay, momentum=recipe.momentum
        )
    except Exception as error:  # of a package that is missing, or whatever it raises
        raise InputError(f"--optimiser = {recipe.optimiser}: timm cannot make it here ({error})") from None
    if getattr(optimiser, "is_second_order", False):
        raise InputError(f"--optimiser = {recipe.optimiser}: takes second derivatives; must be one of the first order")
    return optimiser


def _require_same(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise :class:`InputError` where ``folder`` holds a run of another design, data or recipe."""
    for key in ("design", "data"):
        if found.get(key) != expected[key]:
            raise InputError(f"{folder}: holds a run of another {key}; --out must be another folder")
    for key, value in expected["recipe"].items():
        if found["recipe"].get(key) != value:
            raise InputError(
                f"{folder}: holds a run of another recipe, {key} = {found['recipe'].get(key)} and not {value}; "
                "--out must be another folder"
            )


@contextlib.contextmanager
def _settings(device: torch.device, threads: int | None) -> Iterator[None]:
    """Torch's threads and, on the CPU, its deterministic algorithms; afterwards as they were."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filling: Any = torch.utils.deterministic
    filled = filling.fill_uninitialized_memory
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # It costs time, and nothing reads what it fills.
        filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        filling.fill_uninitialized_memory = filled


def require_runs(path: Path | str) -> None:
    """Raise :class:`InputError` unless :func:`record` can add a row to the table at ``path``."""
    require_new("--runs", path)
    _runs(Path(path))


def record(runs: Path | str, design: Path | str, result: Result) -> None:
    """Add the row of a finished run to the table ``runs``, unless it is there: all columns but accuracy and seconds.

    ``design`` is the path of its design.json, written relative to the table's folder. Other columns of the table stay.
    Several processes may do so at once.

    Raises:
        InputError: the table cannot be read or written, or lacks a column.
    """
    path = Path(runs)
    recipe = Recipe(**result.recipe)
    values = {
        "design": Path(os.path.relpath(design, path.parent)).as_posix(),
        "accuracy": result.accuracy,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "macs": result.macs,
        "params": result.params,
        "seconds": result.seconds,
        "recipe": recipe,
        "design_sha256": result.design_sha256,
        "data_sha256": result.data_sha256,
    }
    row = {key: str(value) for key, value in values.items()}
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        columns, rows = _runs(path)
        if any(all(row[key] == other[key] for key in row.keys() - _MEASURED) for other in rows):
            return
        content = [[other.get(column, "") for column in columns] for other in [*rows, row]]
        write_atomically(path, _table(columns, content))


def _runs(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a table of runs; no rows where there is none yet."""
    if not path.exists():
        return list(RUN_COLUMNS), []
    try:
        found = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig")), strict=True))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a table of runs ({error}); must be a CSV file with a header") from None
    columns, rows = (found[0], found[1:]) if found else ([], [])
    missing = [column for column in RUN_COLUMNS if column not in columns]
    if missing:
        raise InputError(f"{path}: column {missing[0]} is missing; must have {', '.join(RUN_COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise InputError(f"{path}: line {number} has {len(row)} values; must have {len(columns)}, as the header")
    return columns, [dict(zip(columns, row, strict=True)) for row in rows]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
