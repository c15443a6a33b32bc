"""Detectors and segmenters of torchvision over designs, the examples, the throughput report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.networks import Network
from mad_ip.networks.vision import backbone, deeplabv3, fcos, pyramid, retinanet

ROOT = Path(__file__).parents[1]
MOBILE = Design.load(ROOT / "models" / "mobile" / "design.json")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_backbone_gives_the_features_of_the_network() -> None:
    network = Network(MOBILE).eval()
    x = torch.randn(1, 3, 65, 96)
    expected = network.features(x)
    for indices, levels in (((-3, -2, -1), [2, 3, 4]), ((0, 2), [0, 2]), ((-1, 1, 1), [1, 4])):
        features = backbone(network, indices)(x)
        assert list(features) == [str(number) for number in range(len(levels))]
        for feature, level in zip(features.values(), levels, strict=True):
            assert torch.equal(feature, expected[level])


def test_layers_are_shared_with_the_network() -> None:
    network = Network(MOBILE)
    shared = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in pyramid(network).body.parameters()} <= shared
    # All of the network but its tail and head.
    beyond = [name for name, p in network.named_parameters() if not name.startswith(("tail", "head"))]
    assert len(list(backbone(network).parameters())) == len(beyond)


def test_pyramid_levels_halve() -> None:
    levels = pyramid(Network(MOBILE).eval(), out_channels=16)(torch.randn(1, 3, 128, 64))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (1, 16, 16, 8),
        "1": (1, 16, 8, 4),
        "2": (1, 16, 4, 2),
        "p6": (1, 16, 2, 1),
        "p7": (1, 16, 1, 1),
    }


@pytest.mark.parametrize(("detector", "indices"), [(fcos, (-3, -2, -1)), (fcos, (2, 4)), (retinanet, (2, 4))])
def test_a_detector_trains_and_predicts(detector: object, indices: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert callable(detector)
    model = detector(Network(MOBILE, num_classes=0), 3, indices, 32, min_size=64, max_size=64)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    loss = sum(model(images, targets).values())
    loss.backward()
    assert loss.isfinite()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    predictions = model.eval()(images)
    assert [sorted(prediction) for prediction in predictions] == [["boxes", "labels", "scores"]] * 2
    # An anchor at every place of every level has the size that belongs to its reduction.
    reductions = [2 ** (1 + index % 5) for index in indices]
    widths = [float((cell[:, 2] - cell[:, 0]).min()) for cell in model.anchor_generator.cell_anchors]
    expected = [*reductions, 2 * reductions[-1], 4 * reductions[-1]]
    if detector is fcos:
        assert widths == expected
    else:
        assert_close(torch.tensor(widths), torch.tensor(expected) * 4 / 2**0.5, rtol=0.1, atol=1)


@pytest.mark.parametrize("detector", [fcos, retinanet])
def test_a_detector_takes_the_channels_of_its_network(detector: object) -> None:
    assert callable(detector)
    network = Network(MOBILE, in_chans=1, num_classes=0)
    model = detector(network, 2, out_channels=64, min_size=64, max_size=64).eval()
    (prediction,) = model([torch.rand(1, 64, 64)])
    assert prediction["boxes"].shape[1] == 4
    # As the network's own configuration says, unless one is given.
    assert tuple(model.transform.image_mean) == network.default_cfg["mean"]
    other = detector(network, 2, out_channels=64, image_mean=[0.1], image_std=[0.2])
    assert (other.transform.image_mean, other.transform.image_std) == ([0.1], [0.2])


def test_a_segmenter_gives_every_pixel_its_classes() -> None:
    network = Network(MOBILE, num_classes=0)
    segmenter = deeplabv3(network, 5)
    out = segmenter(torch.randn(2, 3, 65, 96))["out"]
    assert out.shape == (2, 5, 65, 96)
    out.square().mean().backward()
    assert all(p.grad is not None for p in network.stages.parameters())


@pytest.mark.parametrize("indices", [(5,), (-6,), ()])
def test_a_resolution_that_is_not_there_is_named(indices: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"out_indices = \(.*must"):
        backbone(Network(MOBILE), indices)


# The examples and the page --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("classify", []), ("detect", []), ("segment", []), ("segment", ["models/toy/design.json"])],
)
def test_an_example_learns_and_predicts(name: str, arguments: list[str]) -> None:
    script = f"examples/{name}.py"
    assert len((ROOT / script).read_text().splitlines()) <= 60
    done = run(script, *arguments)
    assert done.returncode == 0, done.stderr
    losses = [float(found) for found in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) >= 2
    assert all(0 < loss < 100 for loss in losses)
    assert losses[-1] == min(losses) < 0.8 * losses[0], "the loss of a fixed batch does not fall"
    assert "predicted" in done.stdout


# Throughput -----------------------------------------------------------------------------------------------------------


def test_throughput_prints_a_table_of_ratios() -> None:
    options = ["--device", "cpu", "--batch", "2", "--resolution", "32", "--rounds", "1", "--iterations", "1", "--eager"]
    done = run("-m", "tools.throughput", *options)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (deepmad-r\d+) \| ([\d.,]+) \| (resnet\d+) \| ([\d.,]+) \| ([\d.]+) \|$", done.stdout, re.M)
    assert [(row[0], row[2]) for row in rows] == [("deepmad-r18", "resnet18"), ("deepmad-r50", "resnet50")]
    for _, own, _, other, ratio in rows:
        assert_close(float(own.replace(",", "")) / float(other.replace(",", "")), float(ratio), rtol=0.05, atol=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_throughput_without_a_gpu_is_one_sentence() -> None:
    done = run("-m", "tools.throughput")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no GPU is at hand" in done.stderr
