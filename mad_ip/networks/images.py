"""Labelled images to train on: CIFAR-10's batches, folders of classes, or an .npz of JPEGs (docs/training.md)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mad_ip.errors import InputError
from mad_ip.files import named, read_bytes

try:
    from PIL import Image
    from timm.data import create_transform
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
except ImportError:
    raise InputError("training needs pillow and timm, which are not installed; pip install 'mad-ip[train]'") from None

__all__ = ["SMALL", "Batches", "Dataset", "FileBatches", "MemoryBatches", "Split", "batches", "load", "stream"]

SMALL = 64
"""Images of at most this many pixels a side are held in memory, decoded, where the network takes such too."""

ORDER, LIMIT, AUGMENTATION = range(1, 4)
"""What a :func:`stream` of random numbers is for."""

_CIFAR = "cifar-10-batches-py"
_CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_TEST = ("test_batch",)
_CIFAR_SIDE = 32
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
_TESTS = ("val", "test")
_MODES = {1: "L", 3: "RGB"}
"""Pillow's name of an image of so many channels."""


def stream(purpose: int, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on nothing but the arguments, so that a resumed run draws what it would have drawn."""
    return np.random.default_rng((purpose, *numbers))


class Pictures(Protocol):
    """Encoded images, opened one at a time."""

    def open(self, index: int) -> Image.Image:
        """Image ``index``; raises whatever its decoder raises."""

    def name(self, index: int) -> str:
        """Where image ``index`` stands, for a message."""


@dataclass(frozen=True)
class Split:
    """The training or the test images: picture ``chosen[n]`` has the label ``labels[n]``, a class from 0."""

    pictures: Pictures
    labels: np.ndarray
    chosen: np.ndarray

    @classmethod
    def whole(cls, pictures: Pictures, labels: Sequence[int] | np.ndarray) -> Split:
        """All the ``pictures``."""
        return cls(pictures, np.asarray(labels, dtype=np.int64), np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int, channels: int) -> Image.Image:
        """Image ``index`` decoded, with 1 or 3 ``channels``; raise :class:`InputError` when it is corrupt."""
        number = int(self.chosen[index])
        try:
            return self.pictures.open(number).convert(_MODES[channels])
        except Exception as error:  # a broken image can raise any
            reason = "not an image of a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
            raise InputError(
                f"{self.pictures.name(number)}: cannot be decoded ({reason}); must be an image that Pillow reads"
            ) from None

    def limited(self, number: int, seed: int) -> Split:
        """``number`` of the images, as many of each class as there are, drawn by ``seed``."""
        drawn = stream(LIMIT, seed).permutation(len(self))
        seen: dict[int, itertools.count[int]] = {}
        turns = [(next(seen.setdefault(label, itertools.count())), label) for label in self.labels[drawn].tolist()]
        first = sorted(range(len(turns)), key=turns.__getitem__)[:number]
        kept = np.sort(drawn[first])
        return Split(self.pictures, self.labels[kept], self.chosen[kept])


@dataclass(frozen=True)
class Dataset:
    """Training and test images of ``classes`` classes; ``sha256`` is that of their files.

    Of folders it is that of the images' names, classes and sizes: their contents may be too much to read.
    """

    source: str
    train: Split
    test: Split
    sha256: str

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return 1 + int(max(self.train.labels.max(), self.test.labels.max()))


def load(path: Path | str) -> Dataset:
    """Find the images at ``path``; none is decoded yet.

    Raises:
        InputError: ``path`` is not one of the three formats, or what it holds contradicts itself.
    """
    place = Path(path)
    if place.suffix == ".npz" and not place.is_dir():
        return _packed(place)
    for folder in (place / _CIFAR, place):
        if any((folder / name).is_file() for name in (*_CIFAR_TRAIN, *_CIFAR_TEST)):
            return _cifar(folder, str(path))
    if (place / "train").is_dir():
        return _folders(place)
    said = "holds no images to train on" if place.exists() else "does not exist"
    raise InputError(f"{path}: {said}; must be a folder with {_CIFAR}, a folder with train and val, or an .npz")


@dataclass(frozen=True)
class _Packed:
    """JPEGs one after the other in ``content``; number n ends before ``ends[n]``."""

    place: str
    content: np.ndarray
    ends: np.ndarray

    def open(self, index: int) -> Image.Image:
        begin = int(self.ends[index - 1]) if index else 0
        return Image.open(io.BytesIO(self.content[begin : int(self.ends[index])].tobytes()))

    def name(self, index: int) -> str:
        return f"{self.place}: image {index}"


@dataclass(frozen=True)
class _Pixels:
    """CIFAR's own: ``content`` is (n, 3 * 32 * 32), red, green and blue planes."""

    place: str
    content: np.ndarray

    def open(self, index: int) -> Image.Image:
        planes = self.content[index].reshape(3, _CIFAR_SIDE, _CIFAR_SIDE)
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))

    def name(self, index: int) -> str:
        return f"{self.place}: image {index}"


@dataclass(frozen=True)
class _Files:
    """One file for each image."""

    paths: tuple[Path, ...]

    def open(self, index: int) -> Image.Image:
        return Image.open(self.paths[index])

    def name(self, index: int) -> str:
        return str(self.paths[index])


def _packed(path: Path) -> Dataset:
    """An .npz of JPEGs: ``{train,test}_jpeg`` their bytes, ``_end`` where each ends, ``_label`` its class."""
    content = read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a broken archive can raise any
        raise InputError(f"{path}: not an .npz file of plain arrays ({error})") from None

    def array(key: str, kind: type[Any], allowed: str) -> np.ndarray:
        if key not in arrays:
            raise InputError(f"{path}: {key} is missing: must be {allowed}")
        found: np.ndarray = arrays[key]
        if found.ndim != 1 or not np.issubdtype(found.dtype, kind) or not len(found):
            raise InputError(f"{path}: {key} of type {found.dtype} and shape {found.shape}: must be {allowed}")
        return found

    def split(name: str) -> Split:
        data = array(f"{name}_jpeg", np.uint8, "the bytes of all JPEGs, a vector of uint8")
        ends = array(f"{name}_end", np.integer, "where each JPEG ends, a vector of integers").astype(np.int64)
        labels = array(f"{name}_label", np.integer, "the class of each image, a vector of integers").astype(np.int64)
        if len(labels) != len(ends):
            raise InputError(
                f"{path}: {name}_label of {len(labels)} and {name}_end of {len(ends)} images: must be as many"
            )
        if ends[-1] != len(data) or (np.diff(ends, prepend=0) <= 0).any():
            raise InputError(f"{path}: {name}_end: must increase up to the {len(data)} bytes of {name}_jpeg")
        if labels.min() < 0:
            raise InputError(f"{path}: {name}_label = {labels.min()}: must be classes from 0")
        return Split.whole(_Packed(f"{path}: {name}_jpeg", data, ends), labels)

    return Dataset(str(path), split("train"), split("test"), hashlib.sha256(content).hexdigest())


class _Unpickler(pickle.Unpickler):
    """Loads what CIFAR's batches are made of, and runs nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        arrays = module.startswith(("numpy.core.", "numpy._core.")) and name in ("_reconstruct", "_frombuffer")
        if arrays or (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}")


def _cifar(folder: Path, source: str) -> Dataset:
    """CIFAR-10 as its authors and torchvision lay it out."""
    digest = hashlib.sha256()

    def split(names: Sequence[str]) -> Split:
        pixels, labels = [], []
        for name in names:
            content = read_bytes(folder / name)
            digest.update(content)
            found, classes = _batch(folder / name, content)
            pixels.append(found)
            labels.append(classes)
        return Split.whole(_Pixels(str(folder), np.concatenate(pixels)), np.concatenate(labels))

    train, test = split(_CIFAR_TRAIN), split(_CIFAR_TEST)
    return Dataset(source, train, test, digest.hexdigest())


def _batch(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (n, 3072) and the labels (n,) of one batch."""
    try:
        batch: Any = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise any
        raise InputError(f"{path}: not a batch of CIFAR-10 ({error})") from None
    columns = 3 * _CIFAR_SIDE**2
    pixels = batch.get("data") if isinstance(batch, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != columns:
        raise InputError(f"{path}: data: must be an array of uint8 with {columns:,} columns")
    labels = batch.get("labels")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not len(labels):
        raise InputError(f"{path}: labels: must be a list of one class for each of the {len(pixels)} images")
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise InputError(f"{path}: labels: must be integers of at least 0")
    return pixels, np.array(labels, dtype=np.int64)


def _folders(place: Path) -> Dataset:
    """A folder for each class under ``train`` and under ``val`` or ``test``; the classes are in the order of names."""
    tests = [name for name in _TESTS if (place / name).is_dir()]
    if len(tests) != 1:
        found = " and ".join(tests) or "neither"
        raise InputError(f"{place}: beside train there is {found}; must be one of {', '.join(_TESTS)}")
    digest = hashlib.sha256()
    names = {
        split: sorted(folder.name for folder in (place / split).iterdir() if folder.is_dir())
        for split in ("train", *tests)
    }
    if names["train"] != names[tests[0]]:
        odd = sorted(set(names["train"]) ^ set(names[tests[0]]))[0]
        raise InputError(f"{place}: class {named(odd)} is in only one of train and {tests[0]}; must be in both")

    def split(name: str) -> Split:
        paths: list[Path] = []
        labels: list[int] = []
        for label, class_name in enumerate(names[name]):
            folder = place / name / class_name
            files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
            if not files:
                raise InputError(f"{folder}: holds no image; must hold files of {', '.join(_SUFFIXES)}")
            paths += files
            labels += [label] * len(files)
        for path in paths:
            digest.update(f"{path.relative_to(place).as_posix()}\0{path.stat().st_size}\n".encode())
        return Split.whole(_Files(tuple(paths)), labels)

    if not names["train"]:
        raise InputError(f"{place / 'train'}: holds no folder; must hold one for each class")
    train, test = split("train"), split(tests[0])
    return Dataset(str(place), train, test, digest.hexdigest())


class Batches(Protocol):
    """What a network is trained and tested on: images (B, channels, resolution, resolution), normalised by ``mean``
    and ``std`` of each channel (of pixels from 0 to 1) and channels last, with their labels (B,).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def train(self, epoch: int, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, counted from 1, beginning with number ``first``; images that fill none are left."""

    def test(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images in their order; the last batch may be smaller."""


def batches(dataset: Dataset, resolution: int, channels: int, seed: int, device: torch.device) -> Batches:
    """The images of ``dataset`` for a network that takes ``resolution`` and ``channels``, augmented by ``seed``.

    Raises:
        InputError: ``channels`` is neither 1 nor 3, or an image is corrupt.
    """
    if channels not in _MODES:
        raise InputError(f"{dataset.source}: holds images of 1 or 3 channels; the design takes {channels}")
    first = dataset.train.picture(0, channels)
    kind = MemoryBatches if max(resolution, *first.size) <= SMALL else FileBatches
    return kind(dataset, resolution, channels, seed, device)


class MemoryBatches:
    """Small images, decoded once: crops after a padding by reflection of an eighth of the side, and flips."""

    def __init__(self, dataset: Dataset, resolution: int, channels: int, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        (self._train, self._train_labels), (self._test, self._test_labels) = (
            _decoded(split, resolution, channels, device) for split in (dataset.train, dataset.test)
        )
        self.mean, self.std = _statistics(self._train)

    def train(self, epoch: int, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Batches`."""
        number, side = self._train.shape[:2]
        padding = side // 8
        draw = stream(ORDER, self.seed, epoch)
        order, shifts, flips = (
            torch.from_numpy(drawn).to(self.device)
            for drawn in (
                draw.permutation(number),
                draw.integers(-padding, padding + 1, (2, number)),
                draw.integers(0, 2, number, dtype=np.bool_),
            )
        )
        last = side - 1
        pixels = torch.arange(side, device=self.device)
        for begin in range(first * size, number - size + 1, size):
            part = slice(begin, begin + size)
            chosen = order[part]
            # The padding by reflection is no more than where a pixel is looked up: -1 is 1, and last + 1 is last - 1.
            rows, columns = last - (last - (shifts[:, part, None] + pixels).abs()).abs()
            columns = torch.where(flips[part, None], columns.flip(1), columns)
            images = self._train[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield self._normalised(images), self._train_labels[chosen]

    def test(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Batches`."""
        for begin in range(0, len(self._test), size):
            part = slice(begin, begin + size)
            yield self._normalised(self._test[part]), self._test_labels[part]

    def _normalised(self, images: Tensor) -> Tensor:
        """(B, side, side, channels) of uint8 -> (B, channels, side, side), which is channels last."""
        mean, std = (torch.tensor(values, device=self.device) * 255 for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std).permute(0, 3, 1, 2)


def _decoded(split: Split, resolution: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images (n, resolution, resolution, channels) of uint8, and their labels (n,)."""
    images = np.empty((len(split), resolution, resolution, channels), dtype=np.uint8)
    for index in range(len(split)):
        picture = split.picture(index, channels)
        if picture.size != (resolution, resolution):
            picture = picture.resize((resolution, resolution), Image.Resampling.BICUBIC)
        images[index] = np.asarray(picture).reshape(images.shape[1:])
    return torch.from_numpy(images).to(device), torch.from_numpy(split.labels).to(device)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of images of uint8, in units of 255."""
    means: list[float] = []
    deviations: list[float] = []
    values = torch.arange(256, dtype=torch.float64)
    for channel in images.unbind(3):
        counts = torch.zeros(256, dtype=torch.int64)
        # In parts, for bincount makes integers of eight bytes.
        for begin in range(0, len(channel), 4096):
            counts += torch.bincount(channel[begin : begin + 4096].flatten(), minlength=256).cpu()
        share = counts.double() / counts.sum()
        mean = (share * values).sum()
        deviation = (share * (values - mean) ** 2).sum().sqrt()
        means.append(float(mean) / 255)
        # A channel of one value alone stays as it is.
        deviations.append(float(deviation) / 255 or 1.0)
    return tuple(means), tuple(deviations)


@dataclass(frozen=True)
class _Decoder(torch.utils.data.Dataset[Any]):
    """Images as a loader's workers decode and transform them, asked for by (epoch, index): each with its label.

    In the place of a corrupt one stands the error: raised in a worker, it would come with that process's traceback.
    """

    split: Split
    channels: int
    seed: int
    transform: Any = field(repr=False)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | InputError:
        epoch, index = key
        try:
            picture = self.split.picture(index, self.channels)
        except InputError as error:
            return error
        with _seeded(stream(AUGMENTATION, self.seed, epoch, index)):
            return self.transform(picture), int(self.split.labels[index])


def _collated(items: list[Any]) -> Any:
    """Images (B, ...) and labels (B,), or the first error among the items."""
    errors = [item for item in items if isinstance(item, InputError)]
    return errors[0] if errors else torch.utils.data.default_collate(items)


@contextlib.contextmanager
def _seeded(draw: np.random.Generator) -> Iterator[None]:
    """Give the three generators that timm's transforms draw from a seed each, and then what they had."""
    before = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 - what timm draws from
    with torch.random.fork_rng(devices=[]):
        seeds = draw.integers(0, 2**32, 3).tolist()
        random.seed(seeds[0])
        np.random.seed(seeds[1])  # noqa: NPY002
        torch.manual_seed(seeds[2])
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(legacy)  # noqa: NPY002


class FileBatches:
    """Larger images, decoded when they are needed: timm's random crops and flips, and its centre crop for the test."""

    def __init__(self, dataset: Dataset, resolution: int, channels: int, seed: int, device: torch.device) -> None:
        self.mean, self.std = (
            tuple(values) if channels == 3 else (sum(values) / 3,)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        self.seed, self.device = seed, device
        self._train, self._test = (
            _Decoder(
                split,
                channels,
                seed,
                create_transform(
                    (channels, resolution, resolution), is_training=training, mean=self.mean, std=self.std
                ),
            )
            for split, training in ((dataset.train, True), (dataset.test, False))
        )

    def train(self, epoch: int, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Batches`."""
        order = stream(ORDER, self.seed, epoch).permutation(len(self._train.split)).tolist()
        return self._loaded(self._train, epoch, order[first * size : len(order) - len(order) % size], size)

    def test(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Batches`."""
        return self._loaded(self._test, 0, range(len(self._test.split)), size)

    def _loaded(
        self, decoder: _Decoder, epoch: int, order: Sequence[int], size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        cuda = self.device.type == "cuda"
        parts = (order[begin : begin + size] for begin in range(0, len(order), size))
        loader = torch.utils.data.DataLoader(
            decoder,
            batch_sampler=([(epoch, index) for index in part] for part in parts),
            collate_fn=_collated,
            num_workers=torch.get_num_threads() if cuda else 0,
            pin_memory=cuda,
            # Its own draws leave torch's generator alone.
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            images, labels = batch
            yield (
                images.to(self.device, non_blocking=cuda, memory_format=torch.channels_last),
                labels.to(self.device, non_blocking=cuda),
            )
