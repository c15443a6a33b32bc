"""Layers and what they cost and are worth: by hand, by the oracle, and against the published networks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import architecture_and_spec

from mad_ip import blocks, cost, entropy
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.spec import FAMILIES, Spec

# By hand -------------------------------------------------------------------------------------------------------------


def test_stem_by_hand() -> None:
    (layer,) = blocks.stem(3, 64, 7, 2, 224)
    assert layer.out_size == 112
    assert layer.width == 3 * 7 * 7  # c_in k^2 = 147
    assert cost.macs([layer]) == 112 * 112 * 64 * 3 * 49  # 112*112 pixels * 64 channels * 147 = 118,013,952 MACs
    assert cost.params([layer]) == 64 * 3 * 49 + 2 * 64  # kernel + BN scale and shift = 9,536
    assert entropy.count([layer]) == 1


def test_basic_by_hand() -> None:
    layers = blocks.block("basic", 64, 128, 96, 3, 2, 56)
    assert cost.macs(layers) == (
        28 * 28 * 96 * 64 * 9  # 3x3 64->96 at stride 2
        + 28 * 28 * 128 * 96 * 9  # 3x3 96->128
        + 28 * 28 * 128 * 64  # 1x1 shortcut on the pooled map
    )
    assert cost.params(layers) == (96 * 64 * 9 + 2 * 96) + (128 * 96 * 9 + 2 * 128) + (128 * 64 + 2 * 128)
    assert entropy.count(layers) == 2
    assert entropy.log_width(layers) == pytest.approx(math.log(64 * 9) + math.log(96 * 9), rel=1e-14)


def test_basic_with_identity_by_hand() -> None:
    layers = blocks.block("basic", 64, 64, 64, 3, 1, 56)
    assert cost.macs(layers) == 2 * 56 * 56 * 64 * 64 * 9  # 2 convs of 56*56*64*64*9 MACs, no projection
    assert cost.params(layers) == 2 * (64 * 64 * 9 + 2 * 64)


def test_bottleneck_by_hand() -> None:
    layers = blocks.block("bottleneck", 256, 512, 128, 3, 2, 56)
    assert cost.macs(layers) == (
        56 * 56 * 128 * 256  # 1x1 256->128 at full resolution
        + 28 * 28 * 128 * 128 * 9  # 3x3 128->128 at stride 2
        + 28 * 28 * 512 * 128  # 1x1 128->512
        + 28 * 28 * 512 * 256  # 1x1 shortcut on the pooled map
    )
    assert cost.params(layers) == (
        (128 * 256 + 2 * 128) + (128 * 128 * 9 + 2 * 128) + (512 * 128 + 2 * 512) + (512 * 256 + 2 * 512)
    )
    assert entropy.count(layers) == 3
    assert entropy.log_width(layers) == pytest.approx(math.log(256 * 128 * 9 * 128), rel=1e-14)


@pytest.mark.parametrize(("stride", "c", "projects"), [(1, 256, False), (1, 264, True), (2, 256, True)])
def test_bottleneck_projects_where_identity_does_not_fit(stride: int, c: int, projects: bool) -> None:
    layers = blocks.block("bottleneck", 256, c, 64, 3, stride, 56)
    main = [layer for layer in layers if layer.counted]
    size = 56 // stride
    assert cost.macs(layers) - cost.macs(main) == projects * size * size * c * 256
    assert cost.params(layers) - cost.params(main) == projects * (c * 256 + 2 * c)


def test_inverted_by_hand() -> None:
    layers = blocks.block("inverted", 24, 40, 144, 5, 2, 28)
    assert cost.macs(layers) == (
        28 * 28 * 144 * 24  # 1x1 24->144 at full resolution
        + 14 * 14 * 144 * 25  # depthwise 5x5: one input channel each
        + 14 * 14 * 40 * 144  # 1x1 144->40; no shortcut
    )
    assert cost.params(layers) == (144 * 24 + 2 * 144) + (144 * 25 + 2 * 144) + (40 * 144 + 2 * 40)
    assert entropy.count(layers) == 3
    assert entropy.log_width(layers) == pytest.approx(math.log(24 * 25 * 144), rel=1e-14)  # depthwise: w = 25


def test_inverted_has_no_projection_at_all() -> None:
    for c, stride in itertools.product((24, 40), (1, 2)):
        assert all(layer.counted for layer in blocks.block("inverted", 24, c, 144, 3, stride, 28))


def test_inverted_se_by_hand() -> None:
    plain = blocks.block("inverted", 40, 40, 240, 5, 1, 112)
    layers = blocks.block("inverted_se", 40, 40, 240, 5, 1, 112)
    hidden = 64  # 8 * floor(240/32 + 1/2) = 8 * 8
    assert cost.macs(layers) - cost.macs(plain) == 2 * 240 * hidden  # two 1x1 convs on 1x1 pixels
    assert cost.params(layers) - cost.params(plain) == (240 * hidden + hidden) + (hidden * 240 + 240)  # biases, no BN
    assert entropy.count(layers) == 3
    assert entropy.log_width(layers) == entropy.log_width(plain)


@pytest.mark.parametrize(
    ("m", "hidden"),
    [(1, 8), (8, 8), (15, 8), (16, 8), (47, 8), (48, 16), (79, 16), (80, 24), (96, 24), (240, 64), (1872, 472)],
)
def test_squeeze_width(m: int, hidden: int) -> None:
    """``max(8, 8 floor(m/32 + 1/2))``: 48/32 + 1/2 = 2, 80/32 + 1/2 = 3, 1872/32 + 1/2 = 59."""
    assert blocks.hidden_width(m) == hidden
    assert list(blocks.hidden_width(np.array([m, m]))) == [hidden, hidden]


def test_tail_and_head_by_hand() -> None:
    tail = blocks.tail(312, 1792, 7)
    assert cost.macs(tail) == 7 * 7 * 1792 * 312
    assert cost.params(tail) == 1792 * 312 + 2 * 1792
    assert entropy.count(tail) == 1
    head = blocks.head(1792, 1000)
    assert cost.macs(head) == 1792 * 1000
    assert cost.params(head) == 1792 * 1000 + 1000  # a bias per class
    assert entropy.count(head) == 0
    assert entropy.log_width(head) == 0
    assert blocks.head(1792, 0) == ()


def test_only_the_named_families_exist() -> None:
    assert tuple(blocks.FAMILIES) == FAMILIES
    assert {name: family.activation for name, family in blocks.FAMILIES.items()} == {
        "basic": "ReLU",
        "bottleneck": "ReLU",
        "inverted": "SiLU",
        "inverted_se": "SiLU",
    }


# Formulas of entropy.py ----------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    """One basic block of depth 1 behind a stem, 3 -> 16 -> 32 channels, 32 -> 16 -> 8 pixels, weights 2 and 8."""
    S_0 = math.log(3 * 9)
    S_1 = S_0 + math.log(16 * 9) + math.log(24 * 9)
    expected = 2 * math.log(16 * 16 * 16) * S_0 + 8 * math.log(8 * 8 * 32) * S_1
    paper = small(convention="paper", beta=10.0).metrics
    assert paper.entropy == pytest.approx(expected, rel=1e-14)
    assert paper.depth_penalty == 10.0  # Var of one depth is 0, exp(0) = 1
    assert paper.score == pytest.approx(expected - 10, rel=1e-14)
    assert paper.effectiveness == pytest.approx(3 / math.exp(S_1 / 3), rel=1e-14)
    assert paper.layers == 3
    tinynas = small(convention="tinynas", beta=10.0).metrics
    assert tinynas.entropy == pytest.approx(expected / 2, rel=1e-14)
    assert tinynas.effectiveness == pytest.approx(max(1 / 27, 3 / math.exp(S_1 / 3)), rel=1e-14)


def small(convention: str, beta: float, weight: float = 8) -> Design:
    return Design.create(
        beta=beta,
        name="small",
        spec_sha256="",
        convention=convention,
        resolution=32,
        image_channels=3,
        stem=StemChoice(3, 2, 16, 2),
        stages=(StageChoice("basic", 2, 32, 24, 3, 1, weight),),
        tail=None,
        classes=0,
    )


def test_effectiveness_of_tinynas_is_the_largest_over_the_weighted_levels() -> None:
    """Depths 1 and 3: rho of the stem is 1/27, of the whole 3 / (27*144*216)^(1/3) = 0.032; the stem's is larger."""
    assert small("tinynas", 0.0).metrics.effectiveness == pytest.approx(1 / 27, rel=1e-14)
    assert 1 / 27 > 3 / (27 * 144 * 216) ** (1 / 3)
    assert small("paper", 0.0).metrics.effectiveness == pytest.approx(3 / (27 * 144 * 216) ** (1 / 3), rel=1e-13)
    assert small("tinynas", 0.0, weight=0).metrics.effectiveness == pytest.approx(1 / 27, rel=1e-14)


@pytest.mark.parametrize(
    ("depths", "variance"),
    [([3], 0), ([4, 4, 4], 0), ([1, 3], 1), ([1, 2, 3], 2 / 3), ([1, 6, 9, 10, 12], 14.64), ([2, 2, 2, 6], 3)],
)
def test_uniformity_by_hand(depths: list[int], variance: float) -> None:
    """Published depths 1,6,9,10,12: mean 7.6, squares 1+36+81+100+144 = 362, 362/5 - 7.6^2 = 14.64."""
    assert entropy.spread(depths) == pytest.approx(variance * len(depths) ** 2, rel=1e-14)
    assert entropy.spread(depths) == sum((a - b) ** 2 for a, b in itertools.combinations(depths, 2))
    assert entropy.uniformity(depths, "paper") == pytest.approx(math.exp(variance), rel=1e-13)
    assert entropy.uniformity(depths, "tinynas") == pytest.approx(math.exp(math.sqrt(variance)), rel=1e-13)
    assert entropy.depth_penalty(depths, 10.0, "paper") == pytest.approx(10 * math.exp(variance), rel=1e-13)


def test_a_depth_penalty_beyond_all_floats_saturates() -> None:
    assert entropy.depth_penalty([1, 100], 10.0, "paper") > 1e300  # exp(2450.25) has no float
    assert math.isfinite(entropy.depth_penalty([1, 100], 10.0, "paper"))
    assert entropy.depth_penalty([1, 100], 0.0, "paper") == 0


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
@pytest.mark.parametrize("depths", [[1, 2], [1, 5, 2], [1, 6, 9, 10], [1, 6, 9, 10, 12]])
def test_which_depths_are_penalised(convention: str, depths: list[int]) -> None:
    """All of them; in ``tinynas`` L_3..L_M where M >= 4."""
    design = Design.create(
        beta=7.0,
        name="depths",
        spec_sha256="",
        convention=convention,
        resolution=64,
        image_channels=3,
        stem=StemChoice(3, 2, 8, 1),
        stages=tuple(StageChoice("basic", 1, 8, 8, 3, depth, 1) for depth in depths),
        tail=None,
        classes=0,
    )
    penalised = depths[2:] if convention == "tinynas" and len(depths) >= 4 else depths
    mean = sum(penalised) / len(penalised)
    variance = sum((depth - mean) ** 2 for depth in penalised) / len(penalised)
    exponent = math.sqrt(variance) if convention == "tinynas" else variance
    assert design.metrics.depth_penalty == pytest.approx(7 * math.exp(exponent), rel=1e-12)


@given(st.integers(1, 400), st.floats(0.01, 2000, allow_nan=False), st.floats(0.05, 5, allow_nan=False))
@settings(derandomize=True, deadline=None)
def test_effectiveness_floor_is_where_rho_meets_its_budget(D: int, S: float, rho_0: float) -> None:  # noqa: N803
    """``S >= phi(D)`` exactly when ``D / exp(S/D) <= rho_0``; at ``S = phi(D)`` they are equal."""
    phi = float(entropy.effectiveness_floor(D, rho_0))
    assert float(entropy.ratio(D, phi)) == pytest.approx(rho_0, rel=1e-11)
    if abs(S - phi) > 1e-9 * max(1.0, abs(phi)):
        assert (D / math.exp(min(S / D, 700)) <= rho_0) == (phi <= S)


@pytest.mark.parametrize("rho_0", [0.1, 0.3, 2.0])
def test_effectiveness_floor_is_convex(rho_0: float) -> None:
    phi = entropy.effectiveness_floor(np.arange(1, 200), rho_0)
    assert (np.diff(phi, 2) > 0).all()


# Arrays are scalars, element by element ------------------------------------------------------------------------------

amounts = st.lists(st.tuples(*[st.integers(1, 300)] * 3, st.sampled_from([1, 3, 5, 7])), min_size=1, max_size=12)


@pytest.mark.parametrize("family", FAMILIES)
@given(rows=amounts, stride=st.sampled_from([1, 2]), half=st.integers(4, 112), same=st.booleans())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_arrays_are_scalars_elementwise(
    family: str, rows: list[tuple[int, int, int, int]], stride: int, half: int, same: bool
) -> None:
    size = 2 * half
    if same:
        rows = [(c, c, m, k) for c, _, m, k in rows]
    c_in, c, m, k = np.array(rows, dtype=np.int64).T
    layers = blocks.block(family, c_in, c, m, k, stride, size)
    macs, params, widths = cost.macs(layers), cost.params(layers), entropy.log_width_product(layers)
    assert macs.dtype == np.int64
    assert params.dtype == np.int64
    for row, numbers in enumerate(rows):
        scalar = blocks.block(family, *numbers, stride, size)
        assert macs[row] == cost.macs(scalar)
        assert params[row] == cost.params(scalar)
        assert entropy.count(layers) == entropy.count(scalar)
        assert widths[row] == pytest.approx(entropy.log_width(scalar), rel=1e-13, abs=1e-13)
        own = oracle.total(oracle.block_convs(family, *numbers, stride, size))
        assert (cost.macs(scalar), cost.params(scalar), entropy.count(scalar)) == (own.macs, own.params, own.layers)
        assert entropy.log_width(scalar) == pytest.approx(own.log_width, rel=1e-14, abs=1e-14)


def test_arrays_broadcast_against_each_other() -> None:
    c_in, m = np.array([[16], [24], [32]]), np.array([[8, 16]])
    layers = blocks.block("bottleneck", c_in, 24, m, 3, 1, 28)
    assert cost.macs(layers).shape == (3, 2)
    for row, column in itertools.product(range(3), range(2)):
        scalar = blocks.block("bottleneck", int(c_in[row, 0]), 24, int(m[0, column]), 3, 1, 28)
        assert cost.macs(layers)[row, column] == cost.macs(scalar)


def test_array_formulas_are_scalar_formulas() -> None:
    for convention in ("paper", "tinynas"):
        values = entropy.uniformity_of(np.array([0, 1, 16, 90]), 4, convention)
        for spread, value in zip([0, 1, 16, 90], values, strict=True):
            variance = spread / 16
            exponent = math.sqrt(variance) if convention == "tinynas" else variance
            assert value == pytest.approx(math.exp(exponent), rel=1e-14)
    gains = entropy.entropy_gain(8.0, 7, np.array([1, 512]))
    assert list(gains) == pytest.approx([8 * math.log(49), 8 * math.log(49 * 512)], rel=1e-14)
    ratios = entropy.ratio(np.array([3, 50]), np.array([10.0, 300.0]))
    assert list(ratios) == pytest.approx([3 / math.exp(10 / 3), 50 / math.exp(6)], rel=1e-14)


def test_equal_products_of_widths_are_equal_to_the_last_bit() -> None:
    """4 * (6*9) * 6 = 16 * (3*9) * 3 = 1296, though the sums of logarithms differ in the last bits."""
    assert math.log(4) + math.log(6 * 9) + math.log(6) != math.log(16) + math.log(3 * 9) + math.log(3)
    layers = blocks.block("bottleneck", np.array([4, 16]), 5, np.array([6, 3]), 3, 1, 28)
    one, two = entropy.log_width_product(layers)
    assert one == two == pytest.approx(math.log(1296), rel=1e-15)


# The oracle itself, by hand, and the whole network against it --------------------------------------------------------


def test_oracle_by_hand() -> None:
    """One architecture: stem 3x3/2 3->8, one bottleneck 8->16 through 4, tail to 32, 10 classes, on 16x16 pixels."""
    table = {
        "name": "hand",
        "input": {"resolution": 16, "classes": 10},
        "stem": {"kernel": 3, "stride": 2, "channels": 8},
        "stage": [{"block": "bottleneck", "stride": 2, "channels": 16, "mid": 4, "kernel": 3, "depth": 2}],
        "tail": {"channels": 32},
    }
    (only,) = oracle.architectures(Spec.from_table(table))
    macs = 8 * 8 * 8 * 27  # stem
    macs += 8 * 8 * 4 * 8 + 4 * 4 * 4 * 36 + 4 * 4 * 16 * 4 + 4 * 4 * 16 * 8  # first block, projection last
    macs += 4 * 4 * 4 * 16 + 4 * 4 * 4 * 36 + 4 * 4 * 16 * 4  # second block
    macs += 4 * 4 * 32 * 16 + 32 * 10  # tail, head
    assert only.macs == macs
    params = 8 * 27 + 16 + (4 * 8 + 8 + 4 * 36 + 8 + 16 * 4 + 32 + 16 * 8 + 32)
    params += (4 * 16 + 8 + 4 * 36 + 8 + 16 * 4 + 32) + (32 * 16 + 64) + (32 * 10 + 10)
    assert only.params == params
    assert only.layers == 1 + 6 + 1
    S_0 = math.log(27)
    S_1 = S_0 + math.log(8 * 36 * 4) + math.log(16 * 36 * 4) + math.log(16)
    assert only.entropy == pytest.approx(math.log(64 * 8) * S_0 + 8 * math.log(16 * 32) * S_1, rel=1e-14)
    assert only.effectiveness == pytest.approx(8 / math.exp(S_1 / 8), rel=1e-14)
    assert only.penalty == 10
    assert only.structure == (8, ((16, 4, 3, 2),), 32)


def test_oracle_counts_by_hand() -> None:
    """c_0 in 8, 16; c_1 in 8, 12, 20; monotone with growth 1.5, m/c >= 0.5.

    8 -> 8 (m = 4, 8), 8 -> 12 (m = 8); 16 -> 20 (no m reaches 10): 2 + 1, times 2 kernels, 3 depths, 2 tails.
    """
    table = {
        "name": "count",
        "input": {"resolution": 16},
        "space": {"growth": 1.5, "mid_ratio": [0.5, 1.0]},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [
            {
                "block": "basic",
                "stride": 2,
                "channels": [8, 12, 20],
                "mid": [4, 8],
                "kernel": [1, 3],
                "depth": [1, 2, 4],
            }
        ],
        "tail": {"channels": [8, 64]},
    }
    spec = Spec.from_table(table)
    assert oracle.count(spec) == 36
    assert len(oracle.architectures(spec)) == 36


@given(pair=architecture_and_spec())
@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_network_measures_as_the_oracle_says(pair: tuple[oracle.Best, Spec]) -> None:
    expected, spec = pair
    stem_channels, rows, tail = expected.structure
    design = Design.create(
        beta=spec.objective.depth_penalty,
        name=spec.name,
        spec_sha256=spec.sha256,
        convention=spec.convention,
        resolution=spec.input.resolution,
        image_channels=spec.input.channels,
        stem=StemChoice(spec.stem.kernel, spec.stem.stride, stem_channels, spec.stem.weight),
        stages=tuple(
            StageChoice(stage.block, stage.stride, c, m, k, depth, stage.weight)
            for stage, (c, m, k, depth) in zip(spec.stages, rows, strict=True)
        ),
        tail=tail,
        classes=spec.input.classes,
    )
    measured = design.metrics
    assert (measured.macs, measured.params, measured.layers) == (expected.macs, expected.params, expected.layers)
    assert measured.entropy == pytest.approx(expected.entropy, rel=1e-12, abs=1e-12)
    assert measured.depth_penalty == pytest.approx(expected.penalty, rel=1e-12)
    assert measured.score == measured.entropy - measured.depth_penalty
    assert measured.effectiveness == pytest.approx(expected.effectiveness, rel=1e-12)
    assert len(oracle.architectures(spec)) == oracle.count(spec)


# The published networks ----------------------------------------------------------------------------------------------

# (channels, mid, kernel, depth, stride, weight) of every stage: alibaba/lightweight-neural-architecture-search,
# configs/classification/models; weights 1, 1, 1, 1, 8 over the five resolutions.
PUBLISHED = {
    "deepmad-R18": (
        ("bottleneck", 32, 1, None),
        [
            (96, 40, 5, 1, 2, 1),
            (384, 40, 5, 6, 2, 1),
            (384, 64, 5, 9, 2, 0),
            (1024, 104, 3, 10, 1, 1),
            (672, 104, 5, 12, 2, 8),
        ],
        (1_811_574_016, 11_826_088, 64240.41),
    ),
    "deepmad-R34": (
        ("bottleneck", 24, 1, None),
        [
            (128, 24, 5, 1, 2, 1),
            (512, 48, 5, 10, 2, 1),
            (896, 88, 5, 13, 2, 0),
            (1024, 104, 5, 11, 1, 1),
            (616, 128, 5, 14, 2, 8),
        ],
        (3_634_913_856, 21_690_160, 86285.35),
    ),
    "deepmad-R50": (
        ("bottleneck", 32, 1, None),
        [
            (128, 40, 5, 1, 2, 1),
            (512, 48, 5, 11, 2, 1),
            (872, 88, 5, 12, 2, 0),
            (1024, 104, 5, 13, 1, 1),
            (1232, 120, 5, 15, 2, 8),
        ],
        (4_042_761_408, 25_441_144, 97838.55),
    ),
    "deepmad-29M-224": (
        ("inverted_se", 40, 0, 1792),
        [
            (40, 240, 5, 2, 1, 1),
            (85, 512, 5, 4, 2, 1),
            (134, 800, 5, 6, 2, 1),
            (201, 1208, 5, 6, 2, 1),
            (312, 1872, 5, 5, 2, 8),
        ],
        (4_324_042_160, 28_913_612, 38271.86),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    (block, stem_channels, stem_weight, tail), rows, (macs, params, score) = PUBLISHED[name]
    design = Design.create(
        beta=10.0,
        name=name,
        spec_sha256="",
        convention="paper",
        resolution=224,
        image_channels=3,
        stem=StemChoice(3, 2, stem_channels, stem_weight),
        stages=tuple(StageChoice(block, stride, c, m, k, depth, weight) for c, m, k, depth, stride, weight in rows),
        tail=tail,
        classes=1000,
    )
    assert design.metrics.macs == macs
    assert design.metrics.params == params
    assert design.metrics.entropy == pytest.approx(score, abs=0.005)
    if name == "deepmad-R18":
        assert design.metrics.effectiveness == pytest.approx(0.2991, abs=0.00005)
        # stem, then 3 convs in each of 1 + 6 + 9 + 10 + 12 blocks
        assert design.metrics.layers == 1 + 3 * 38
