"""Train an action recogniser for a few steps on clips of moving bars, then ask it which way each bar moves.

    python examples/video.py models/e3d-s/design.json

A network takes clips of any size, (B, channels, frames, height, width); small ones keep this short on a CPU.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.nn import functional

from mad_ip.design import Design
from mad_ip.networks import Network

FRAMES, SIZE = 8, 32


def moving_bars(channels: int) -> tuple[Tensor, Tensor]:
    """Clips (B, channels, frames, height, width) and their classes: 0, the bar moves to the left; 1, to the right."""
    clips = torch.zeros(8, channels, FRAMES, SIZE, SIZE)
    classes = torch.arange(8) % 2
    for clip, rightwards in zip(clips, classes, strict=True):
        start = int(torch.randint(SIZE, ()))
        for frame in range(FRAMES):
            column = start + 3 * (frame if rightwards else -frame)
            clip[:, frame, :, [column % SIZE, (column + 1) % SIZE]] = 1.0
    return clips, classes


def main(path: str, steps: int = 8) -> list[float]:
    """The loss at every step of training the network of a design.json, its head replaced, on one batch."""
    torch.manual_seed(0)
    design = Design.load(path)
    network = Network(design, num_classes=2)
    clips, classes = moving_bars(design.image_channels)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4)
    losses = []
    for step in range(steps):
        loss = functional.cross_entropy(network(clips), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.4f}")
    # Still in training mode: the running statistics of the normalisations lag behind after so few steps.
    with torch.no_grad():
        predicted = network(clips).argmax(1)
    print(f"{int((predicted == classes).sum())} of {len(classes)} clips are recognised")
    return losses


if __name__ == "__main__":
    main(sys.argv[1])
