"""Modelled = measured: what cost.py says of a design is what torch counts on the built network, to the last unit."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InternalError
from mad_ip.networks import Network, measure, verify_cost

RANDOM_DESIGNS = 160
MODELS = Path(__file__).parents[1] / "models"
PUBLISHED = sorted({*MODELS.glob("**/design.json"), *MODELS.glob("published/*.json")})
FAMILIES = ("basic", "bottleneck", "inverted", "inverted_se")


def random_design(seed: int) -> Design:
    """Any structure that design.json allows, odd resolutions and decreasing channels included."""
    rng = random.Random(seed)
    widths = (1, 5, 8, 16, 24, 24, 24, 96, 320)  # 24 often, so that neighbours repeat
    kernels = (1, 3, 5, 7)
    return Design.create(
        beta=10.0,
        name=f"random-{seed}",
        spec_sha256="",
        convention=rng.choice(("paper", "tinynas")),
        resolution=rng.choice((32, 33, 47, 64, 97, 224)),
        image_channels=rng.choice((1, 3)),
        stem=StemChoice(rng.choice(kernels), rng.choice((1, 2, 4)), rng.choice(widths), 1),
        stages=tuple(
            StageChoice(
                block=rng.choice(FAMILIES),
                stride=rng.choice((1, 2)),
                channels=rng.choice(widths),
                mid=rng.choice((1, 8, 12, 48, 200)),
                kernel=rng.choice(kernels),
                depth=rng.randint(1, 3),
                weight=rng.choice((0, 1, 8)),
            )
            for _ in range(rng.randint(1, 5))
        ),
        tail=rng.choice((None, 40, 1280)),
        classes=rng.choice((0, 10, 1000)),
    )


@pytest.mark.parametrize(
    "case",
    [*range(RANDOM_DESIGNS), *PUBLISHED],
    ids=lambda case: f"random-{case}" if isinstance(case, int) else str(case),
)
def test_modelled_is_measured(case: int | Path) -> None:
    design = random_design(case) if isinstance(case, int) else Design.load(case)
    with torch.device("meta"):
        network = Network(design)
    assert measure(network) == (design.metrics.macs, design.metrics.params)


def test_random_designs_cover_every_choice() -> None:
    designs = [random_design(seed) for seed in range(RANDOM_DESIGNS)]
    stages = [stage for design in designs for stage in design.stages]
    combinations = {(stage.block, stage.stride, stage.kernel) for stage in stages}
    assert len(combinations) == len(FAMILIES) * 2 * 4
    assert {design.convention for design in designs} == {"paper", "tinynas"}
    assert {(design.tail is None, design.classes == 0) for design in designs} == {
        (tail, head) for tail in (False, True) for head in (False, True)
    }
    same = {(d.stem.channels == d.stages[0].channels, d.stages[0].block, d.stages[0].stride) for d in designs}
    assert len(same) == 2 * len(FAMILIES) * 2


@pytest.mark.parametrize("seed", range(5))
def test_meta_counts_what_a_real_forward_pass_counts(seed: int) -> None:
    design = random_design(seed)
    network = Network(design).eval()
    image = torch.zeros(1, design.image_channels, design.resolution, design.resolution)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() == 2 * design.metrics.macs
    assert measure(network) == (design.metrics.macs, sum(p.numel() for p in network.parameters() if p.requires_grad))


def test_measure_leaves_the_network_as_it_was() -> None:
    network = Network(random_design(0)).train()
    network.stem.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure(network)
    assert {name: module.training for name, module in network.named_modules()} == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_measure_of_a_half_precision_network() -> None:
    design = random_design(1)
    assert measure(Network(design).half()) == (design.metrics.macs, design.metrics.params)


@pytest.mark.parametrize("key", ["macs", "params"])
def test_verify_cost_names_both_values(key: str) -> None:
    design = random_design(2)
    verify_cost(Network(design))
    measured = getattr(design.metrics, key)
    wrong = dataclasses.replace(design, metrics=dataclasses.replace(design.metrics, **{key: measured + 1}))
    with pytest.raises(InternalError, match=rf"measures .*\b{measured}\b.*modelled .*\b{measured + 1}\b") as caught:
        verify_cost(Network(wrong))
    assert re.match(r"random-2: ", str(caught.value))
