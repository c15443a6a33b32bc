"""Networks for clips: every road to the optimum against enumeration, the built 3D networks, the keys of a spec."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console, RenderableType
from strategies import architecture_and_spec, specs
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mad_ip import blocks, cost, search, solve
from mad_ip.backends import Profile
from mad_ip.blocks import FAMILIES
from mad_ip.catalogue import build
from mad_ip.decomposition import optimise
from mad_ip.design import Design, StageChoice, StemChoice, violations
from mad_ip.errors import InputError
from mad_ip.lagrangian.workers import threads
from mad_ip.networks import Network, measure
from mad_ip.networks.modules import Residual
from mad_ip.reports.table import design_table, space_table
from mad_ip.spec import Budget, Spec, Stage, Stem, Time
from mad_ip.verification import exhaust, verify
from mad_ip.verification.attack import evaluate
from mad_ip.verification.bound import bound, replay

ROOT = Path(__file__).parents[1]
E3D = ROOT / "models" / "e3d-s"

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


# The optimum ----------------------------------------------------------------------------------------------------------


def solved(spec: Spec, profile: Profile) -> Design | None:
    try:
        design = solve.solve(spec, gap=1e-9, profile=profile)
    except solve.InfeasibleError:
        return None
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert violations(spec, design) == []
    return design


# A failing spec is small and printed as it is: shrinking it would take thousands of solves.
@settings(
    max_examples=50, derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(spec=specs(limit=1000, clips=True))
@pytest.mark.usefixtures("in_this_process")
def test_every_road_leads_to_the_enumerated_optimum(spec: Spec) -> None:
    expected = oracle.enumerate_best(spec)
    designs = {
        name: solved(spec, profile)
        for name, profile in (
            ("highs", Profile("highs")),
            ("highs-monolithic", Profile("highs", reduction=False)),
            ("enumerate", Profile("enumerate")),
        )
    }
    with threads(1) as workers:
        found = optimise(spec, workers, gap=1e-9)
    exhausted = exhaust(spec)
    story = f"\n{spec.to_toml()}\noracle: {expected}"
    assert exhausted.architectures == oracle.count(spec), story
    if expected is None:
        assert set(designs.values()) == {None}, story
        assert found.paths == (), story
        assert exhausted.design is None, story
        return
    magnitude = expected.entropy + expected.penalty
    for name, design in designs.items():
        assert design is not None, f"{name}{story}"
        assert design.metrics.score == pytest.approx(expected.score, rel=1e-9, abs=1e-9 * magnitude), f"{name}{story}"
    assert found.paths != (), story
    assert found.bound >= expected.score - 1e-9 * magnitude, story
    assert found.score == pytest.approx(expected.score, rel=1e-9, abs=1e-9 * magnitude), story
    assert exhausted.score == pytest.approx(expected.score, rel=1e-9, abs=1e-9 * magnitude), story

    best = designs["highs"]
    assert best is not None
    bounded = bound(spec, best, gap=1e-6)
    assert bounded.better is None, story
    assert -1e-9 * magnitude <= bounded.upper - expected.score <= 1.1e-6 * magnitude, story
    assert bounded.certificate is not None
    assert replay(spec, bounded.certificate).reasons == (), story
    assert verify(spec, best, evaluations=2000).verdict == "proven", story


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(spec=specs(limit=500, clips=True))
def test_both_searches_evaluate_as_the_oracle_says(spec: Spec) -> None:
    """Scores, what fits, and by how much every architecture exceeds budgets that none keeps."""
    everything = oracle.architectures(spec)
    values = list(np.array([np.ravel(architecture.path) for architecture in everything]).T)
    fits = [oracle.fits(spec.budget, architecture) for architecture in everything]
    expected = [architecture.score for architecture in everything]
    population = search.Population(spec)
    rows = np.array([np.searchsorted(domain, column) for domain, column in zip(population.genes, values, strict=True)])
    for score, violation in (evaluate(spec, values), population.evaluate(rows.T)):
        assert score == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert list(violation == 0) == fits
    for key in ("macs", "params", "layers"):
        costs = [getattr(architecture, key) for architecture in everything]
        broken = dataclasses.replace(spec, budget=Budget(**{key: min(costs) / 2}), sha256="")
        excess = [2 * cost / min(costs) - 1 for cost in costs]
        for _, violation in (evaluate(broken, values), search.Population(broken).evaluate(rows.T)):
            assert violation == pytest.approx(excess, rel=1e-12)


# What is counted ------------------------------------------------------------------------------------------------------


def design_of(stem: StemChoice, *stages: StageChoice, frames: int | None, **others: Any) -> Design:
    structure = {"resolution": 32, "image_channels": 3, "tail": 20, "classes": 7, **others}
    return Design.create(
        beta=10.0,
        name="small",
        spec_sha256="",
        convention="paper",
        stem=stem,
        stages=stages,
        frames=frames,
        **structure,
    )


ODD = design_of(
    StemChoice(3, 2, 6, 1, 3, 2),
    *(StageChoice(family, 2, 8, 12, 3, 2, 1, 3, 1 + number % 2) for number, family in enumerate(FAMILIES)),
    StageChoice("basic", 1, 8, 12, 1, 2, 8, 1, 2),
    frames=13,
    resolution=48,
)
"""13 frames, then 7 after the stem, 7, 4, 4, 2, and 1."""


def test_frames_are_rounded_up_where_strides_do_not_divide_them() -> None:
    assert [time.out_frames for time in ODD.times] == [7, 7, 4, 4, 2, 1]
    assert Time(None, 1, 1).out_frames is None
    for frames in range(1, 20):
        for kernel, stride in ((1, 1), (1, 2), (3, 1), (3, 2)):
            conv = nn.Conv1d(1, 1, kernel, stride, padding=kernel // 2)
            assert Time(frames, kernel, stride).out_frames == conv(torch.zeros(1, 1, frames)).shape[-1]


def test_entropy_is_the_formula_written_by_hand() -> None:
    """13 frames at 32 pixels: 7 frames at 16 after the stem, then 4 at 8."""
    design = design_of(
        StemChoice(3, 2, 6, 1.0, 3, 2), StageChoice("inverted", 2, 8, 12, 5, 2, 8.0, 3, 2), frames=13, tail=None
    )
    stem = math.log(3 * 3 * 9)
    stage = math.log(6) + math.log(3 * 25) + math.log(12) + math.log(8) + math.log(3 * 25) + math.log(12)
    entropy = math.log(7 * 16**2 * 6) * stem + 8 * math.log(4 * 8**2 * 8) * (stem + stage)
    assert design.metrics.entropy == pytest.approx(entropy, rel=1e-13)
    assert design.metrics.score == pytest.approx(entropy - 10, rel=1e-13)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(pair=architecture_and_spec(limit=200, clips=True))
def test_modelled_is_what_the_oracle_says_and_what_the_built_network_measures(pair: tuple[oracle.Best, Spec]) -> None:
    expected, spec = pair
    design = Design.chosen(spec, expected.path)
    metrics = design.metrics
    assert (metrics.macs, metrics.params, metrics.layers) == (expected.macs, expected.params, expected.layers)
    assert metrics.score == pytest.approx(expected.score, rel=1e-12, abs=1e-12)
    assert metrics.effectiveness == pytest.approx(expected.effectiveness, rel=1e-12)
    with torch.device("meta"):
        network = Network(design)
    assert measure(network) == (metrics.macs, metrics.params)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frames", [1, 2, 5, 13])
def test_every_family_measures_as_modelled_and_gives_what_it_says(family: str, frames: int) -> None:
    stages = [StageChoice(family, 2, 8, 12, 3, 2, 1, 3, 2), StageChoice(family, 1, 8, 12, 5, 2, 1, 1, 2)]
    design = design_of(StemChoice(3, 2, 6, 1, 3, 1), *stages, frames=frames)
    network = Network(design)
    assert measure(network) == (design.metrics.macs, design.metrics.params)
    clips = torch.randn(2, *design.input_shape)
    y = clips
    for part, time, size in zip([network.stem, *network.stages], design.times, design.resolutions, strict=True):
        y = part(y)
        assert y.shape[2:] == (time.out_frames, size, size)
    assert network(clips).shape == (2, 7)
    network(clips).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_e3d_measures_as_modelled() -> None:
    design = Design.load(E3D / "design.json")
    assert measure(Network(design)) == (design.metrics.macs, design.metrics.params)
    budget = Spec.load(E3D / "spec.toml").budget
    assert budget.macs is not None
    assert 0.99 * budget.macs < design.metrics.macs <= budget.macs


def test_e3d_is_solved_to_the_same_design_again_and_proven() -> None:
    spec, stored = Spec.load(E3D / "spec.toml"), Design.load(E3D / "design.json")
    assert verify(spec, stored, evaluations=10_000).verdict == "proven"
    with threads(1) as workers:
        found = optimise(spec, workers, gap=1e-6)
    assert found.score == pytest.approx(stored.metrics.score, rel=1e-6)
    worse = dataclasses.replace(spec, input=dataclasses.replace(spec.input, frames=11), sha256="")
    assert violations(worse, stored) != []


# The built network ----------------------------------------------------------------------------------------------------


def conv(
    c_in: int, c: int, k: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    """Temporal kernel 3 where the spatial one is larger than 1; the same stride in time and space."""
    k_t = min(k, 3)
    layers = nn.Sequential(
        nn.Conv3d(c_in, c, (k_t, k, k), stride, (k_t // 2, k // 2, k // 2), groups=groups, bias=False),
        nn.BatchNorm3d(c),
    )
    return layers if act is None else layers.append(act())


def pooled(c_in: int, c: int) -> nn.Sequential:
    """At an odd border the pooling averages the frames and pixels that are there, as if the border were repeated."""
    return nn.Sequential(nn.ReplicationPad3d((0, 1, 0, 1, 0, 1)), nn.AvgPool3d(2), conv(c_in, c, 1))


class Literal(nn.Module):
    """``tail(head(x) * gate(head(x))) + shortcut(x)``, then ``after``; what is ``None`` is left out."""

    def __init__(
        self,
        head: nn.Module,
        tail: nn.Module,
        gate: nn.Module | None = None,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.head, self.gate, self.tail, self.shortcut, self.after = head, gate, tail, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = self.tail(y if self.gate is None else y * self.gate(y))
        y = y if self.shortcut is None else y + self.shortcut(x)
        return y if self.after is None else self.after(y)


def literal_blocks() -> dict[str, tuple[tuple[str, int, int, int, int, int], Literal, int, int]]:
    """(family, c_in, c, m, k, both strides), the block by hand, its MACs and parameters on 5 frames of 9x9 by hand."""
    relu, silu = nn.ReLU, nn.SiLU
    before, after = 5 * 81, 3 * 25
    gate = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(48, 16, 1), nn.SiLU(), nn.Conv3d(16, 48, 1), nn.Sigmoid())
    return {
        "basic": (
            ("basic", 8, 16, 12, 3, 2),
            Literal(conv(8, 12, 3, 2, act=relu), conv(12, 16, 3), shortcut=pooled(8, 16), after=relu()),
            after * (12 * 8 * 27 + 16 * 12 * 27 + 16 * 8),
            12 * 8 * 27 + 16 * 12 * 27 + 16 * 8 + 2 * (12 + 16 + 16),
        ),
        "bottleneck": (
            ("bottleneck", 8, 16, 4, 5, 2),
            Literal(
                nn.Sequential(conv(8, 4, 1, act=relu), conv(4, 4, 5, 2, act=relu)),
                conv(4, 16, 1),
                shortcut=pooled(8, 16),
                after=relu(),
            ),
            before * 4 * 8 + after * (4 * 4 * 75 + 16 * 4 + 16 * 8),
            4 * 8 + 4 * 4 * 75 + 16 * 4 + 16 * 8 + 2 * (4 + 4 + 16 + 16),
        ),
        "inverted": (
            ("inverted", 8, 8, 24, 3, 1),
            Literal(
                nn.Sequential(conv(8, 24, 1, act=silu), conv(24, 24, 3, groups=24, act=silu)),
                conv(24, 8, 1),
                shortcut=nn.Identity(),
            ),
            before * (24 * 8 + 24 * 27 + 8 * 24),
            24 * 8 + 24 * 27 + 8 * 24 + 2 * (24 + 24 + 8),
        ),
        "inverted_se": (
            ("inverted_se", 8, 16, 48, 7, 2),
            Literal(
                nn.Sequential(conv(8, 48, 1, act=silu), conv(48, 48, 7, 2, groups=48, act=silu)),
                conv(48, 16, 1),
                gate=gate,
            ),
            before * 48 * 8 + after * (48 * 147 + 16 * 48) + 16 * 48 + 48 * 16,
            48 * 8 + 48 * 147 + 16 * 48 + 2 * (48 + 48 + 16) + (16 * 48 + 16) + (48 * 16 + 48),
        ),
    }


@pytest.mark.parametrize("name", literal_blocks())
def test_a_block_is_the_one_written_by_hand(name: str) -> None:
    (family, c_in, c, m, k, stride), literal, macs, params = literal_blocks()[name]
    layers = blocks.block(family, c_in, c, m, k, stride, 9, Time(5, 3, stride))
    block = Residual(layers, FAMILIES[family])
    # The pooling is summed in another order: in float64 that leaves nothing to see.
    block, literal = block.double(), literal.double()
    x = torch.randn(2, c_in, 5, 9, 9, dtype=torch.double)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        literal.eval()(x[:1])
    assert counter.get_total_flops() == 2 * macs == 2 * cost.macs(layers)
    assert sum(p.numel() for p in literal.parameters()) == params == cost.params(layers)
    written = list(literal.head.state_dict().values())
    for part in (literal.gate, literal.tail, literal.shortcut):
        written += [] if part is None else part.state_dict().values()
    block.load_state_dict(dict(zip(block.state_dict(), written, strict=True)))
    for training in (False, True):
        assert_close(block.train(training)(x), literal.train(training)(x))


@pytest.mark.parametrize("family", ["basic", "bottleneck"])
def test_a_stride_in_time_alone_is_pooled_over_time_alone(family: str) -> None:
    block = Residual(blocks.block(family, 8, 8, 4, 3, 1, 8, Time(5, 1, 2)), FAMILIES[family])
    assert isinstance(block.shortcut, nn.Sequential)
    x = torch.randn(2, 8, 5, 8, 8)
    expected = torch.stack([x[:, :, 0:2].mean(2), x[:, :, 2:4].mean(2), x[:, :, 4]], 2)
    assert_close(block.shortcut[0](x), expected)
    assert block(x).shape == (2, 8, 3, 8, 8)
    inverted = Residual(blocks.block("inverted", 8, 8, 16, 3, 1, 8, Time(5, 1, 2)), FAMILIES["inverted"])
    assert inverted.shortcut is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(13, 48, 48), (2, 33, 47), (1, 1, 3), (31, 8, 1)])
def test_any_clip_gives_finite_output(size: tuple[int, int, int], training: bool) -> None:
    network = Network(ODD).train(training)
    y = clips = torch.randn(2, 3, *size)
    frames, height, width = size
    for part, level in zip([network.stem, *network.stages], [ODD.stem, *ODD.stages], strict=True):
        frames = math.ceil(frames / level.temporal_stride)
        height, width = math.ceil(height / level.stride), math.ceil(width / level.stride)
        y = part(y)
        assert y.shape[2:] == (frames, height, width)
    output = network(clips)
    assert output.shape == (2, 7)
    assert output.isfinite().all()


def clips(design: Design, frames: int, temporal_stride: int = 1) -> Design:
    stages = [dataclasses.replace(stage, temporal_stride=temporal_stride) for stage in design.stages]
    return design_of(design.stem, *stages, frames=frames)


FLAT = design_of(
    StemChoice(3, 2, 6, 1),
    *(StageChoice(family, 2, 8, 12, 3, 2, 1) for family in FAMILIES),
    frames=None,
)


def test_one_frame_and_a_temporal_kernel_of_one_is_the_image_network() -> None:
    assert clips(FLAT, 1).metrics == FLAT.metrics
    assert clips(FLAT, 2).metrics.macs > FLAT.metrics.macs
    assert clips(FLAT, 2).metrics.entropy > FLAT.metrics.entropy
    assert clips(FLAT, 2).metrics.params == FLAT.metrics.params


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (5, 2)])
def test_a_clip_that_stands_still_is_seen_as_its_image(frames: int, stride: int) -> None:
    # Two and three dimensions are summed in different orders: in float64 that leaves nothing to see.
    flat, deep = (Network(design).eval().double() for design in (FLAT, clips(FLAT, frames, stride)))
    for norm in flat.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.normal_(tensor, std=0.1)
    deep.load_state_dict(
        {key: tensor.unsqueeze(2) if tensor.ndim == 4 else tensor for key, tensor in flat.state_dict().items()}
    )
    image = torch.randn(2, 3, 32, 32, dtype=torch.double)
    assert_close(deep(image.unsqueeze(2).expand(-1, -1, frames, -1, -1)), flat(image))


def test_weights_start_as_in_two_dimensions() -> None:
    network = Network(ODD)
    deviations = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
            deviations.append(float(module.weight.detach().square().mean() * fan_out / 2))
        if isinstance(module, Residual) and module.shortcut is not None:
            assert not module.main[-1].norm.weight.any()
    assert 0.8 < sum(deviations) / len(deviations) < 1.2


# The keys -------------------------------------------------------------------------------------------------------------


def table(**image: Any) -> dict[str, Any]:
    stage = {"block": "inverted", "stride": 2, "channels": [16], "mid": [32], "kernel": [3], "depth": [1, 2]}
    return {
        "name": "v",
        "input": {"resolution": 32, **image},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [stage],
    }


@pytest.mark.parametrize(
    ("where", "key", "value", "frames", "message"),
    [
        ("stem", "temporal_kernel", 3, None, r"stem\.temporal_kernel = 3: needs input\.frames; must be left out"),
        ("stem", "temporal_stride", 1, None, r"stem\.temporal_stride = 1: needs input\.frames; must be left out"),
        ("stage", "temporal_kernel", 1, None, r"stage\[1\]\.temporal_kernel = 1: needs input\.frames"),
        ("stage", "temporal_kernel", 5, 13, r"stage\[1\]\.temporal_kernel = 5: must be 1 or 3"),
        ("stage", "temporal_kernel", [1, 3], 13, r"stage\[1\]\.temporal_kernel = \[1, 3\]: must be 1 or 3"),
        ("stage", "temporal_stride", 3, 13, r"stage\[1\]\.temporal_stride = 3: must be 1 or 2"),
        (
            "stage",
            "temporal_kernel",
            3,
            2,
            r"stage\[1\]\.temporal_kernel = 3: longer than its clip of 2 frames; must be",
        ),
        ("stem", "temporal_kernel", 3, 1, r"stem\.temporal_kernel = 3: longer than its clip of 1 frames; must be 1"),
        ("input", "frames", 0, None, r"input\.frames = 0: must be an integer of at least 1"),
        ("input", "frames", 13.0, None, r"input\.frames = 13\.0: must be an integer of at least 1"),
    ],
)
def test_a_bad_key_is_named(where: str, key: str, value: Any, frames: int | None, message: str) -> None:
    content = table() if frames is None else table(frames=frames)
    (content["stage"][0] if where == "stage" else content[where])[key] = value
    with pytest.raises(InputError, match=rf"^spec: {message}"):
        Spec.from_table(content)


@pytest.mark.parametrize(
    ("where", "change", "refused"),
    [
        ("stem", {}, False),
        ("stage", {"depth": [1, 2]}, True),
        ("stage", {"depth": [1]}, False),
        ("stage", {"depth": [1], "block": "bottleneck"}, False),
        ("stage", {"depth": [1], "block": "basic"}, True),
    ],
)
def test_a_kernel_that_reads_what_is_left_after_a_stride_may_not_be_longer(
    where: str, change: dict[str, Any], refused: bool
) -> None:
    """Of four frames a stride leaves two: only a sole strided convolution reads all four."""
    content = table(frames=4)
    level = content["stem"] if where == "stem" else content["stage"][0]
    level |= {"temporal_kernel": 3, "temporal_stride": 2, **change}
    if not refused:
        assert Spec.from_table(content).times[0 if where == "stem" else 1] == Time(4, 3, 2)
        return
    with pytest.raises(
        InputError, match=r"stage\[1\]\.temporal_kernel = 3: longer than its clip of 2 frames; must be 1"
    ):
        Spec.from_table(content)


def test_a_clip_too_long_for_64_bits_is_named() -> None:
    content = table(frames=1 << 16)
    content["input"]["resolution"] = 1 << 16
    content["stage"][0].update(channels=[1 << 12], mid=[1 << 12])
    spec = Spec.from_table(content)
    with pytest.raises(InputError, match=r"^spec: input\.resolution, input\.frames, stage\.channels and .* MACs"):
        build(spec)
    with pytest.raises(InputError, match="pass 64-bit integers"):
        exhaust(spec)


def test_a_spec_of_images_has_no_temporal_kernel() -> None:
    spec = Spec.from_table(table())
    assert (spec.stem.temporal_kernel, spec.stages[0].temporal_stride, spec.input.frames) == (1, 1, None)
    assert "temporal" not in spec.to_toml()
    assert "frames" not in spec.to_toml()
    stages: tuple[Stage, ...] = (dataclasses.replace(spec.stages[0], temporal_stride=2),)
    with pytest.raises(InputError, match=r"stage\[1\]\.temporal_stride = 2: needs input\.frames"):
        dataclasses.replace(spec, stages=stages)
    stem: Stem = dataclasses.replace(spec.stem, temporal_kernel=3)
    with pytest.raises(InputError, match=r"stem\.temporal_kernel = 3: needs input\.frames"):
        dataclasses.replace(spec, stem=stem)


def test_a_spec_survives_its_text(tmp_path: Path) -> None:
    spec = Spec.load(E3D / "spec.toml")
    path = tmp_path / "spec.toml"
    path.write_text(spec.to_toml())
    assert Spec.load(path) == spec
    assert [time.out_frames for time in spec.times] == [13] * 5
    assert {stage.temporal_kernel for stage in spec.stages} == {3}


def test_design_json_has_the_keys_of_clips_only_for_clips(tmp_path: Path) -> None:
    for design in (FLAT, ODD):
        design.save(tmp_path / "design.json")
        assert Design.load(tmp_path / "design.json") == design
    assert "temporal" not in FLAT.to_json()
    assert "frames" not in FLAT.to_json()
    content = ODD.to_json()
    assert content.count('"frames": 13') == 1
    assert content.count("temporal_kernel") == content.count("temporal_stride") == 1 + len(ODD.stages)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"frames": 13', '"channels": 3', r"stem\.temporal_kernel = 3: needs input\.frames; must be left out"),
        ('"frames": 13', '"frames": 0', r"input\.frames = 0: must be an integer of at least 1"),
        ('"temporal_kernel": 3', '"temporal_kernel": 5', r"temporal_kernel = 5: must be 1 or 3"),
        ('"temporal_stride": 2', '"temporal_stride": 3', r"temporal_stride = 3: must be 1 or 2"),
        ('"temporal_stride": 2', '"temporal_stride": 1', r"metrics\.\w+ = .*: does not match the structure"),
        ('"frames": 13', '"frames": 15', r"metrics\.\w+ = .*: does not match the structure"),
    ],
)
def test_a_bad_design_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = ODD.to_json()
    assert old in text
    path = tmp_path / "design.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        Design.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 12}, "frames 12: the spec says 13"),
        ({"stem": {"temporal_stride": 2}}, "stem temporal kernel or stride differ from the spec's"),
        ({"stage": {"temporal_kernel": 1}}, "stage 1: temporal kernel or stride differ from the spec's"),
    ],
)
def test_a_design_of_another_time_axis_is_no_design_of_the_spec(change: dict[str, Any], message: str) -> None:
    spec, design = Spec.load(E3D / "spec.toml"), Design.load(E3D / "design.json")
    assert violations(spec, design) == []
    first, *others = design.stages
    other = dataclasses.replace(
        design,
        frames=change.get("frames", design.frames),
        stem=dataclasses.replace(design.stem, **change.get("stem", {})),
        stages=(dataclasses.replace(first, **change.get("stage", {})), *others),
    )
    other = dataclasses.replace(other, metrics=other.measure(spec.objective.depth_penalty))
    assert message in violations(spec, other)


# What is shown --------------------------------------------------------------------------------------------------------


def shown(renderable: RenderableType) -> list[list[str]]:
    """The rows of the first table, cell by cell; two or more spaces part the cells that are not empty."""
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(renderable)
    title, _, header, _, *rows = (re.split(r" {2,}", line.strip()) for line in console.export_text().splitlines())
    assert len(title) == 1
    return [header, *itertools.takewhile(lambda row: row != [""], rows)]


def test_tables_show_frames_and_temporal_kernels_of_clips_alone() -> None:
    header, *rows = shown(design_table(ODD))
    assert header[:5] == ["part", "frames", "resolution", "channels", "inner"]
    assert [row[1] for row in rows] == ["7", "7", "4", "4", "2", "1", "1", "1"]
    assert rows[0][:5] == ["stem", "7", "24", "6", "3x3x3"]
    assert rows[1][:6] == ["1 basic", "7", "12", "8", "12", "3x3x3"]
    assert rows[5][:6] == ["5 basic", "1", "2", "8", "12", "1x1x1"]
    assert rows[6][:5] == ["tail", "1", "2", "20", "1x1x1"]
    assert "frames" not in shown(design_table(FLAT))[0]
    content = table(frames=13)
    content["stage"][0] |= {"kernel": [3, 5], "temporal_kernel": 3, "temporal_stride": 2}
    spec = Spec.from_table({**content, "tail": {"channels": [20]}})
    header, *rows = shown(space_table(spec, build(spec)))
    assert header[:3] == ["part", "frames", "resolution"]
    assert rows[0][:5] == ["stem", "13", "16", "8", "1x3x3"]
    assert rows[1][:6] == ["1 inverted", "7", "8", "16", "32", "3x3x3, 3x5x5"]
    assert rows[2][:5] == ["tail", "7", "8", "20", "1x1x1"]


# The example ----------------------------------------------------------------------------------------------------------


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    losses = runpy.run_path(str(ROOT / "examples" / "video.py"))["main"](str(E3D / "design.json"))
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]
    assert "8 of 8 clips are recognised" in capsys.readouterr().out
