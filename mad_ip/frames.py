"""Frames: the time axis that clips have and images lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Time", "times"]


@dataclass(frozen=True)
class Time:
    """The time axis of a convolution: ``frames`` in, ``kernel``, ``stride``; ``frames = None`` is an image's."""

    frames: int | None = None
    kernel: int = 1
    stride: int = 1

    @property
    def out_frames(self) -> int | None:
        """Output frames with padding ``kernel // 2``, rounded up; ``None`` for an image."""
        return None if self.frames is None else -(-self.frames // self.stride)

    @property
    def after(self) -> Time:
        """The axis of a convolution that follows with the same kernel and no stride."""
        return Time(self.out_frames, self.kernel)


class _Level(Protocol):
    """A stem or a stage, to be decided or decided."""

    @property
    def temporal_kernel(self) -> int: ...

    @property
    def temporal_stride(self) -> int: ...


def times(frames: int | None, levels: Iterable[_Level]) -> tuple[Time, ...]:
    """The time axes of the stem and of the first block of every stage, for a clip of ``frames`` frames."""
    found = []
    for level in levels:
        found.append(Time(frames, level.temporal_kernel, level.temporal_stride))
        frames = found[-1].out_frames
    return tuple(found)
