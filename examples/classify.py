"""Train the network of a design to tell four colours apart, then predict.

python examples/classify.py models/toy/design.json
"""

import sys

import torch
from torch.nn import functional

from mad_ip.design import Design
from mad_ip.networks import Network

STEPS = 8
COLOURS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def main() -> None:
    """Train the classifier on a fixed batch and predict it."""
    torch.manual_seed(0)
    path = sys.argv[1] if len(sys.argv) > 1 else "models/toy/design.json"
    network = Network(Design.load(path), num_classes=len(COLOURS))

    labels = torch.arange(16) % len(COLOURS)
    images = COLOURS[labels][:, :, None, None] + 0.3 * torch.randn(16, 3, 32, 32)

    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(STEPS):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")

    # A few steps are too short for running statistics to settle; those of this very batch serve.
    with torch.no_grad():
        predicted = network(images).argmax(1)
    print(f"predicted: {predicted.tolist()}")


if __name__ == "__main__":
    main()
