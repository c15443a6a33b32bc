"""Train a DeepLabV3 segmenter over the network of a design on images with a bright square each, then predict.

python examples/segment.py models/mobile/design.json
"""

import sys

import torch
from torch.nn import functional

from mad_ip.design import Design
from mad_ip.networks import Network
from mad_ip.networks.vision import deeplabv3

STEPS = 6
SIZE = 96


def main() -> None:
    """Train the segmenter on a fixed batch and predict it."""
    torch.manual_seed(0)
    path = sys.argv[1] if len(sys.argv) > 1 else "models/mobile/design.json"
    segmenter = deeplabv3(Network(Design.load(path), num_classes=0), num_classes=2)

    masks = torch.zeros(4, SIZE, SIZE, dtype=torch.long)
    for number, mask in enumerate(masks):
        mask[8 * number : 8 * number + 48, 16:80] = 1
    images = 0.7 * masks[:, None] + 0.2 * torch.rand(4, 3, SIZE, SIZE)

    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    for step in range(STEPS):
        loss = functional.cross_entropy(segmenter(images)["out"], masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")

    # A few steps are too short for running statistics to settle; those of this very batch serve.
    with torch.no_grad():
        predicted = segmenter(images)["out"].argmax(1)
    print(f"pixels predicted as they are: {(predicted == masks).float().mean():.0%}")


if __name__ == "__main__":
    main()
