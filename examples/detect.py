"""Train an FCOS detector over the network of a design on two images with a bright square each, then predict.

python examples/detect.py models/mobile/design.json
"""

import sys

import torch

from mad_ip.design import Design
from mad_ip.networks import Network
from mad_ip.networks.vision import fcos

STEPS = 6
SIZE = 96
BOXES = torch.tensor([[16.0, 16.0, 56.0, 56.0], [32.0, 24.0, 80.0, 72.0]])


def main() -> None:
    """Train the detector on a fixed batch and predict it."""
    torch.manual_seed(0)
    path = sys.argv[1] if len(sys.argv) > 1 else "models/mobile/design.json"
    network = Network(Design.load(path), num_classes=0)
    detector = fcos(network, num_classes=2, out_channels=64, min_size=SIZE, max_size=SIZE)

    images, targets = [], []
    for box in BOXES:
        image = 0.2 * torch.rand(3, SIZE, SIZE)
        left, top, right, bottom = box.int().tolist()
        image[:, top:bottom, left:right] += 0.7
        images.append(image)
        targets.append({"boxes": box[None], "labels": torch.tensor([1])})

    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4)
    for step in range(STEPS):
        loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")

    detector.eval()
    with torch.no_grad():
        predictions = detector(images)
    for number, prediction in enumerate(predictions):
        print(f"image {number}: {len(prediction['boxes'])} boxes predicted")


if __name__ == "__main__":
    main()
