"""Scores of networks that others made, against torch's counter, formulas written out by hand, and our own designs."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from typer.testing import CliRunner

from mad_ip import scoring
from mad_ip.cli import app
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError
from mad_ip.networks import Network
from mad_ip.networks.score import load, score
from mad_ip.solve import solve
from mad_ip.spec import Spec, default_weights
from tools import scores

ROOT = Path(__file__).parent.parent
DESIGNS = sorted({*ROOT.glob("models/*/design.json"), *ROOT.glob("models/published/*.json")})
TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v2",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "efficientnet_b0",
)


@functools.cache
def traced(name: str, resolution: int = 224) -> scoring.Score:
    """A library's network is traced once, whatever is asked of it."""
    return score(load(name)[0], name=name, resolution=resolution)


# Cost -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHVISION)
def test_cost_is_what_torch_counts(name: str) -> None:
    with torch.device("meta"):
        module = models.get_model(name, weights=None) if "regnet" not in name else None
    module = module or models.get_model(name, weights=None).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    measured = traced(f"torchvision:{name}")
    assert 2 * measured.macs == counter.get_total_flops()
    assert measured.params == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("row", random.Random(0).sample(scores.published(), 4), ids=lambda row: row.network)
def test_cost_is_the_published_one(row: scores.Published) -> None:
    measured = traced(row.network, row.resolution)
    assert measured.params == row.params
    assert measured.macs / 1e9 == pytest.approx(row.gmacs, abs=5.1e-4)


# Entropy --------------------------------------------------------------------------------------------------------------


def by_hand(levels: list[tuple[int, int, list[int]]]) -> tuple[float, float]:
    """Entropy and effectiveness of (resolution, channels, widths) per resolution."""
    logs: list[float] = []
    entropy = 0.0
    for number, (resolution, channels, widths) in enumerate(levels, start=1):
        logs += [math.log(width) for width in widths]
        entropy += (8 if number == len(levels) else 1) * math.log(resolution**2 * channels) * sum(logs)
    return entropy, len(logs) / math.exp(sum(logs) / len(logs))


def resnet50() -> list[tuple[int, int, list[int]]]:
    levels = [(112, 64, [3 * 49])]
    c_in = 64
    for resolution, m, depth in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        first = [c_in, 9 * m, m]
        levels.append((resolution, 4 * m, first + [4 * m, 9 * m, m] * (depth - 1)))
        c_in = 4 * m
    return levels


def mobilenet_v2() -> list[tuple[int, int, list[int]]]:
    levels: list[tuple[int, int, list[int]]] = [(112, 16, [27, 9, 32])]
    c_in = 16
    for resolution, stages in (
        (56, [(24, 2)]),
        (28, [(32, 3)]),
        (14, [(64, 4), (96, 3)]),
        (7, [(160, 3), (320, 1)]),
    ):
        widths = []
        for c, depth in stages:
            for _ in range(depth):
                widths += [c_in, 9, 6 * c_in]
                c_in = c
        levels.append((resolution, c_in, widths))
    levels[-1] = (7, 1280, [*levels[-1][2], 320])
    return levels


@pytest.mark.parametrize("make", [resnet50, mobilenet_v2])
def test_entropy_is_the_one_written_by_hand(make) -> None:
    measured = traced(f"torchvision:{make.__name__}")
    entropy, effectiveness = by_hand(make())
    assert measured.entropy == pytest.approx(entropy, rel=1e-12)
    assert measured.effectiveness == pytest.approx(effectiveness, rel=1e-12)
    assert [(level.resolution, level.channels) for level in measured.levels] == [level[:2] for level in make()]
    assert sum(level.entropy for level in measured.levels) == pytest.approx(entropy, rel=1e-12)


def test_torchvision_and_timm_build_the_same_network() -> None:
    one, other = traced("torchvision:mobilenet_v3_small"), traced("timm:mobilenetv3_small_100")
    assert (one.entropy, one.layers, one.macs) == (other.entropy, other.layers, other.macs)


def agree(design: Design) -> None:
    """The traced network, and the design as it stands, are worth what the design says, in both conventions."""
    with torch.device("meta"):
        network = Network(design)
    paper = score(network, name="x", resolution=design.resolution, image_channels=design.image_channels)
    given = ("name", "resolution", "image_channels", "macs", "params")
    tinynas = scoring.of_path(path=paper.path, convention="tinynas", **{key: getattr(paper, key) for key in given})
    for traced in (paper, tinynas):
        design = dataclasses.replace(design, convention=traced.convention)
        metrics = design.measure(0.0)
        for measured in (traced, scoring.of_design(design)):
            assert measured.entropy == pytest.approx(metrics.entropy, rel=1e-9)
            assert measured.effectiveness == pytest.approx(metrics.effectiveness, rel=1e-9)
            assert (measured.macs, measured.params, measured.layers) == (metrics.macs, metrics.params, metrics.layers)


@pytest.mark.parametrize("path", DESIGNS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_traced_design_is_worth_what_it_says(path: Path) -> None:
    design = Design.load(path)
    if design.frames is not None:
        pytest.skip("clips")
    # Blocks of one kind: of the longest stages the first few tell as much.
    stages = (dataclasses.replace(stage, depth=min(stage.depth, 3)) for stage in design.stages)
    agree(dataclasses.replace(design, stages=tuple(stages)))


@pytest.mark.parametrize("seed", range(20))
def test_a_traced_random_design_is_worth_what_it_says(seed: int) -> None:
    rng = random.Random(seed)
    families = rng.sample(("basic", "bottleneck", "inverted", "inverted_se"), 2)
    strides = [rng.choice((1, 2)) for _ in range(rng.randint(1, 5))]
    weights = default_weights(strides)
    design = Design.create(
        beta=10.0,
        name="random",
        spec_sha256="",
        convention="paper",
        resolution=rng.choice((64, 65, 97, 128)),
        image_channels=rng.choice((1, 3)),
        stem=StemChoice(rng.choice((3, 5)), 2, rng.choice((8, 16)), weights[0]),
        stages=tuple(
            StageChoice(
                rng.choice(families), stride, rng.choice((8, 16)), rng.choice((8, 12)), rng.choice((3, 5)),
                rng.randint(1, 2), weight,
            )
            for stride, weight in zip(strides, weights[1:], strict=True)
        ),
        tail=rng.choice((None, 40)),
        classes=rng.choice((0, 10)),
    )  # fmt: skip
    agree(design)


def test_a_score_leaves_the_module_as_it_was() -> None:
    module = Network(Design.load(ROOT / "models/toy/design.json")).train()
    module.stages[0].eval()
    modes = {name: part.training for name, part in module.named_modules()}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    score(module, name="x", resolution=64)
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


# What is not understood -----------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two convolutions of the same image, combined."""

    def __init__(self, first: nn.Module, second: nn.Module, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = first, second, how

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        one, other = self.first(x), self.second(x)
        if self.how == "both":
            return one, other
        return (one + other if self.how == "sum" else one * other).mean((2, 3))


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Branches(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1), "sum"), "sums features of first and"),
        (Branches(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), "product"), "combines features of first and of second"),
        (Branches(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), "both"), "returns 2 tensors"),
        (nn.Sequential(nn.Conv2d(3, 8, (1, 3)), nn.Flatten()), "0 has a kernel of 1 x 3"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), "has no convolution"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ConvTranspose2d(8, 8, 3, 2)), "1 has a kernel|transposed"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2)), "pixel_shuffle|turns features"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 8, 3)), "cannot be traced at 32 pixels"),
    ],
)
def test_what_is_not_understood_is_said(module: nn.Module, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        score(module, name="net", resolution=32)
    assert str(caught.value).startswith("net: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"), [("densenet121", "aten.cat"), ("vit_b_16", "aten.bmm"), ("convnext_tiny", "aten.permute")]
)
def test_other_kinds_of_networks_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        score(load(f"torchvision:{name}")[0], name=name, resolution=64 if name != "vit_b_16" else 224)


def test_the_shortcut_may_come_first_or_last() -> None:
    main = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1))
    for branches in ((main, nn.Conv2d(3, 8, 1)), (nn.Conv2d(3, 8, 1), main)):
        assert score(Branches(*branches, "sum"), name="x", resolution=32).layers == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet50", "must be a design.json, torchvision:NAME"),
        ("torchvision:none", "no model of that name"),
        ("torchvision:fcos_resnet50_fpn", "no model of that name that classifies images"),
        ("torchvision:deeplabv3_resnet50", "no model of that name that classifies images"),
        ("timm:none", "no model of that name"),
        ("timm:resnet18.none", r"timm:resnet18\.none: cannot be built .*none"),
        ("none.py:make", "cannot be read"),
        ("net.py:none", "cannot be loaded"),
        ("net.py:number", "must be a function"),
        ("net.py:text", "must return a torch.nn.Module"),
        ("net.py:fails", r"net\.py:fails: cannot be built \(ValueError: first line\)$"),
        ("net.py:asks", "net.py:asks: cannot be built .*width"),
        ("net.py:leaves", "net.py:leaves: cannot be built .*SystemExit"),
        ("leaves.py:make", "leaves.py:make: cannot be loaded .*SystemExit"),
    ],
)
def test_a_name_that_does_not_exist(name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    functions = "def text(): return 'x'\ndef asks(width): return width\ndef leaves(): sys.exit(0)\n"
    fails = "def fails(): raise ValueError('first line\\nsecond line')\n"
    Path("net.py").write_text(f"import sys\nnumber = 3\n{functions}{fails}")
    Path("leaves.py").write_text("import sys\nsys.exit(0)\n")
    # Nothing is downloaded, and this sees to it that the test would not either.
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    with pytest.raises(InputError, match=sentence) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_file_is_loaded_as_python_would(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Config:\n    width: int = 8\n"
        "def make():\n    return nn.Conv2d(3, Config().width, 3)\n"
    )
    module, resolution = load(f"{path}:make")
    assert (module.out_channels, resolution) == (8, 224)


@pytest.mark.parametrize(
    ("settings", "channels", "resolution"),
    [
        (..., 1, 224),
        (None, 1, 224),
        ({}, 1, 224),
        ({"input_size": (1, 48, 48)}, 1, 48),
        (scores, 1, 224),
    ],
    ids=["missing", "none", "empty", "given", "strange"],
)
def test_a_module_says_what_it_takes(
    settings: object, channels: int, resolution: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)).bfloat16()
    if settings is not ...:
        module.default_cfg = settings
    monkeypatch.setattr("mad_ip.networks.score._factory", lambda path, name: lambda: module)
    loaded, found = load("net.py:make")
    measured = score(loaded, name="net", resolution=found)
    assert (measured.image_channels, found) == (channels, resolution)
    assert measured.macs == (9 * 8 * channels * 4 + 9 * 8 * 8) * (resolution // 4) ** 2


def test_lazy_layers_are_one_sentence() -> None:
    with pytest.raises(InputError, match="net: cannot be traced at 224 pixels"):
        score(nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(8, 3)), name="net")


def test_an_average_of_all_pixels_ends_the_main_path() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
    expected = score(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 99, 1)), name="net", resolution=28)
    found = score(nn.Sequential(body, nn.AvgPool2d(7), nn.Conv2d(16, 99, 1)), name="net", resolution=28)
    assert expected.layers == 2
    assert found == expected


# Against the optimum --------------------------------------------------------------------------------------------------


def test_an_optimum_reaches_itself_and_a_worse_network_less() -> None:
    spec = Spec.load(ROOT / "models/toy/spec.toml")
    design = Design.load(ROOT / "models/toy/design.json")
    best = scoring.against(scoring.of_design(design), spec).design
    again = scoring.against(scoring.of_design(best), spec)
    assert again.proven
    assert again.share == pytest.approx(1.0, abs=1e-12)
    # Depth where the entropy weighs least.
    depths = zip(best.stages, (4, 1, 1), strict=True)
    shallow = dataclasses.replace(best, stages=tuple(dataclasses.replace(s, depth=depth) for s, depth in depths))
    worse = scoring.of_design(shallow)
    optimum = scoring.against(worse, spec)
    assert optimum.share < 1
    assert optimum.design.metrics.macs <= worse.macs
    assert optimum.share == pytest.approx(worse.entropy / optimum.design.metrics.entropy)


def test_an_optimum_needs_the_same_input() -> None:
    spec = Spec.load(ROOT / "models/deepmad-r18/spec.toml")
    with pytest.raises(InputError, match="must be 3 x 32 x 32"):
        scoring.against(scoring.of_design(Design.load(ROOT / "models/toy/design.json")), spec)


@pytest.mark.parametrize(
    ("name", "family", "strides", "tail"),
    [
        ("resnet18", "basic", [2, 2, 2, 2], False),
        ("resnet50", "bottleneck", [2, 2, 2, 2], False),
        ("regnet_x_400mf", "bottleneck", [2, 2, 2, 2], False),
        ("mobilenet_v2", "inverted", [1, 2, 2, 2, 2], True),
        ("efficientnet_b0", "inverted_se", [1, 2, 2, 2, 2], True),
    ],
)
def test_the_default_space_holds_the_network_itself(name: str, family: str, strides: list[int], tail: bool) -> None:
    measured = traced(f"torchvision:{name}")
    spec = scoring.default_spec(measured)
    assert {stage.block for stage in spec.stages} == {family}
    assert [stage.stride for stage in spec.stages] == strides
    assert (spec.tail is not None) == tail
    assert sorted(set(spec.resolutions), reverse=True) == [level.resolution for level in measured.levels]
    for stage, level in zip(spec.stages[::-1], measured.levels[::-1], strict=False):
        if not tail or level is not measured.levels[-1]:
            assert level.channels in stage.channels


def test_a_resolution_that_no_space_divides_is_named() -> None:
    measured = traced("torchvision:efficientnet_b0", 240)
    with pytest.raises(InputError, match=r"from 15 to 8 pixels: .*another --resolution is needed"):
        scoring.default_spec(measured)


def test_a_design_has_no_default_space() -> None:
    with pytest.raises(InputError, match="has its own spec"):
        scoring.default_spec(scoring.of_design(Design.load(ROOT / "models/toy/design.json")))


# The command line and the document ------------------------------------------------------------------------------------


def test_the_command_line_scores_and_compares(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8, 2))\n"
    )
    design = str(ROOT / "models/toy/design.json")
    result = CliRunner().invoke(app, ["score", design, "--json", "--against", str(ROOT / "models/toy/spec.toml")])
    assert result.exit_code == 0, result.output
    (content,) = json.loads(result.stdout)
    assert content["entropy"] == pytest.approx(Design.load(design).metrics.entropy)
    assert 0 < content["optimum"]["share"] <= 1 + 1e-9
    assert Design.from_content(content["optimum"]["design"]).certificate is not None

    result = CliRunner().invoke(app, ["score", f"{net}:make", "--resolution", "4", "--json", "--convention", "tinynas"])
    assert result.exit_code == 0, result.output
    (content,) = json.loads(result.stdout)
    entropy, _ = by_hand([(2, 8, [27]), (1, 8, [72])])
    assert content["entropy"] == pytest.approx(entropy / 2)
    result = CliRunner().invoke(app, ["score", f"{net}:make", "--resolution", "4"])
    assert "2 counted layers" in result.stdout


def test_several_networks_are_one_table_unless_levels_are_wanted() -> None:
    designs = [str(ROOT / "models" / name / "design.json") for name in ("toy", "mobile")]
    spec = ["--against", str(ROOT / "models/toy/spec.toml")]
    result = CliRunner().invoke(app, ["score", *designs])
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" entropy ") == 1
    assert " share" not in result.stdout
    each = CliRunner().invoke(app, ["score", *designs, "--levels"])
    assert each.stdout.count(" share") == 2
    assert each.stdout == "".join(CliRunner().invoke(app, ["score", design]).stdout for design in designs)
    same = CliRunner().invoke(app, ["score", *designs[:1] * 2, *spec])
    assert same.exit_code == 0, same.output
    assert same.stdout.count("toy reaches ") == 2


def document(name: str) -> list[dict[str, str]]:
    text = (ROOT / "docs" / "scores.md").read_text().partition(f"<!-- {name}:begin -->")[2].partition("<!--")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.strip().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_the_document_has_every_published_network() -> None:
    assert [(row["network"], row["recipe"], row["top-1 error"]) for row in document("networks")] == [
        (row.network, row.recipe, f"{row.error:.2f}") for row in scores.published()
    ]


@pytest.mark.parametrize("position", random.Random(1).sample(range(len(scores.published())), 3))
def test_the_document_says_what_is_computed(position: int) -> None:
    row = scores.published()[position]
    measured = traced(row.network, row.resolution)
    written = document("networks")[position]
    assert list(written.values()) == [
        cell.strip() for cell in scores.network_table([(row, measured)]).splitlines()[-1].strip("| ").split(" | ")
    ]


@pytest.mark.parametrize("group", ["all", "torchvision V1", "torchvision V2", "pycls", "RegNet", "ResNet"])
def test_the_correlations_are_those_of_the_rows(group: str) -> None:
    rows = [row for row in document("networks") if group in ("all", row["recipe"], row["family"])]
    entropy = [float(row["entropy"].replace(",", "")) for row in rows]
    macs = [float(row["GMACs"]) for row in rows]
    accuracy = [100 - float(row["top-1 error"]) for row in rows]
    (written,) = (row for row in document("correlations") if row["networks"] == group)
    assert int(written["number"]) == len(rows)
    assert float(written["entropy: Spearman"]) == pytest.approx(stats.spearmanr(entropy, accuracy)[0], abs=0.006)
    assert float(written["MACs: Kendall"]) == pytest.approx(stats.kendalltau(macs, accuracy)[0], abs=0.006)
    signs = [
        (entropy[i] > entropy[j]) * 2 - 1 if accuracy[i] > accuracy[j] else (entropy[j] > entropy[i]) * 2 - 1
        for i in range(len(rows))
        for j in range(i)
        if rows[i]["recipe"] == rows[j]["recipe"] and entropy[i] != entropy[j] and accuracy[i] != accuracy[j]
        and max(macs[i], macs[j]) <= 1.3 * min(macs[i], macs[j])
    ]  # fmt: skip
    assert int(written["pairs at equal MACs"]) == len(signs)
    assert float(written["entropy: Kendall at equal MACs"]) == pytest.approx(sum(signs) / len(signs), abs=0.006)


def test_a_clip_is_not_compared_with_images() -> None:
    folder = ROOT / "models/e3d-s"
    spec = Spec.load(folder / "spec.toml")
    stages = tuple(dataclasses.replace(stage, temporal_kernel=1, temporal_stride=1) for stage in spec.stages)
    stem = dataclasses.replace(spec.stem, temporal_kernel=1, temporal_stride=1)
    images = dataclasses.replace(
        spec, input=dataclasses.replace(spec.input, frames=None), stem=stem, stages=stages, sha256=""
    )
    with pytest.raises(InputError, match="input of 3 x 160 x 160: must be 3 x 13 x 160 x 160"):
        scoring.against(scoring.of_design(Design.load(folder / "design.json")), images)


def test_a_spec_with_weights_of_its_own_measures_the_network_by_them() -> None:
    spec = Spec.load(ROOT / "models/toy/spec.toml")
    heavy = dataclasses.replace(
        spec,
        sha256="",
        stages=tuple(
            dataclasses.replace(stage, weight=weight) for stage, weight in zip(spec.stages, (5, 3, 2), strict=True)
        ),
    )
    design = solve(heavy, gap=1e-9)
    stored = scoring.of_design(design)
    # By default weights the design is worth something else, and its share of an optimum by other weights means nothing.
    plain = dataclasses.replace(
        design,
        stages=tuple(
            dataclasses.replace(stage, weight=weight) for stage, weight in zip(design.stages, (1, 1, 8), strict=True)
        ),
    )
    found = scoring.against(scoring.of_design(plain), heavy)
    assert found.share == scoring.against(stored, heavy).share
    # The design was chosen with a depth penalty: without one there may be better, never worse.
    assert 0.9 < found.share <= 1 + 1e-9
    expected = dataclasses.replace(design, convention="paper").measure(0.0).entropy / found.design.metrics.entropy
    assert found.share == pytest.approx(expected, rel=1e-12)
