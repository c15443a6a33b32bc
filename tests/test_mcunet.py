"""Networks of MCUNet's zoo: what a file says is what the design has, and its published figures are ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mad_ip import mcunet
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.device import Device
from mad_ip.errors import InputError
from mad_ip.memory import tinyengine_memory
from tools.fuzz.mcunet import IDENTITY, Block, block, network

FIVE_FPS: tuple[Block, ...] = (
    (16, None, 1, 8, 3, 1),
    (8, 32, 4, 16, 3, 2),
    (16, 48, 3, 16, 3, 1),
    (16, 48, 3, 24, 7, 2),
    (24, 120, 5, 24, 3, 1),
    (24, 120, 5, 40, 3, 2),
    (40, 160, 4, 40, 7, 1),
    (40, 160, 4, 48, 5, 1),
    (48, 144, 3, 48, 3, 1),
    (48, 192, 4, 48, 3, 1),
    (48, 240, 5, 96, 7, 2),
    (96, 384, 4, 96, 5, 1),
    (96, 384, 4, 96, 5, 1),
    (96, 576, 6, 160, 3, 1),
)

MOBILENET: tuple[Block, ...] = (
    (16, None, 1, 8, 3, 1),
    (8, None, 6, 8, 3, 2),
    (8, None, 6, 8, 3, 1),
    (8, None, 6, 16, 3, 2),
    *[(16, None, 6, 16, 3, 1)] * 2,
    (16, None, 6, 24, 3, 2),
    *[(24, None, 6, 24, 3, 1)] * 3,
    (24, None, 6, 32, 3, 1),
    *[(32, None, 6, 32, 3, 1)] * 2,
    (32, None, 6, 56, 3, 2),
    *[(56, None, 6, 56, 3, 1)] * 2,
    (56, None, 6, 112, 3, 1),
)

LARGE: tuple[Block, ...] = (
    (16, None, 1, 8, 3, 1),
    (8, 24, 3, 16, 7, 2),
    (16, 80, 5, 16, 3, 1),
    (16, 80, 5, 16, 7, 1),
    (16, 64, 4, 16, 5, 1),
    (16, 80, 5, 24, 5, 2),
    *[(24, 120, 5, 24, 5, 1)] * 2,
    (24, 120, 5, 40, 3, 2),
    (40, 240, 6, 40, 7, 1),
    (40, 160, 4, 40, 5, 1),
    (40, 200, 5, 48, 5, 1),
    (48, 240, 5, 48, 7, 1),
    (48, 240, 5, 48, 3, 1),
    (48, 288, 6, 96, 3, 2),
    (96, 480, 5, 96, 7, 1),
    (96, 384, 4, 96, 3, 1),
    (96, 480, 5, 160, 7, 1),
)


@pytest.mark.parametrize(
    ("content", "macs", "params", "activation", "sram"),
    [
        (network(FIVE_FPS, 96), 12.8, 0.6, 90, 107),
        (network(MOBILENET, 144, tail=448), 23.5, 0.75, 303, 308),
        (network(LARGE, 176), 81.8, 0.74, None, 293),
    ],
    ids=["mcunet-5fps", "mbv2-w0.35-r144", "mcunet-320kb"],
)
def test_published_figures_are_ours(
    content: Any, macs: float, params: float, activation: float | None, sram: float
) -> None:
    design = mcunet.to_design(content, name="x").on(Device())
    assert design.metrics.macs / 1e6 == pytest.approx(macs, abs=0.05)
    assert design.metrics.params / 1e6 == pytest.approx(params, abs=0.05)
    if activation is not None:
        assert design.spent("activation") / 1024 == pytest.approx(activation, abs=1)
    assert tinyengine_memory(design) / 1024 == pytest.approx(sram, abs=2)


def test_a_file_is_its_design(tmp_path: Path) -> None:
    path = tmp_path / "little.json"
    squeezed = block(40, 256, 6.4, 48, 5, 2)
    squeezed["mobile_inverted_conv"]["use_se"] = True
    content = network(((24, None, 1, 24, 3, 1), (24, None, 2.5, 40, 7, 2), (40, 256, 6.4, 48, 5, 2)), 64, 96, 2)
    content["blocks"][2] = squeezed
    path.write_text(json.dumps(content))
    design = mcunet.load(path, convention="tinynas")
    assert (design.name, design.convention, design.image_channels) == ("little", "tinynas", 3)
    assert (design.resolution, design.classes, design.tail) == (64, 2, 96)
    assert design.stem == StemChoice(3, 2, 24, 0.0)
    assert design.stages == (
        StageChoice("separable", 1, 24, 24, 3, 1, 1.0),
        StageChoice("inverted", 2, 40, 60, 7, 1, 1.0),
        StageChoice("inverted_se", 2, 48, 256, 5, 1, 8.0),
    )
    design.save(tmp_path / "design.json")
    assert Design.load(tmp_path / "design.json") == design
    other = mcunet.load(path, resolution=80, classes=0)
    assert (other.resolution, other.classes) == (80, 0)


def test_a_width_is_rounded_as_in_the_zoo() -> None:
    content = network(((5, None, 1, 5, 3, 1), (5, None, 2.5, 6, 3, 2), (6, None, 2.75, 7, 3, 1)), 32)
    assert [stage.mid for stage in mcunet.to_design(content, name="x").stages] == [5, 12, 16]


def test_what_the_zoo_leaves_out_is_no_stage_and_what_is_not_said_has_its_default() -> None:
    content = network(FIVE_FPS, 96)
    design = mcunet.to_design(content, name="x")
    for item in content["blocks"]:
        if item["mobile_inverted_conv"]["mid_channels"] is None:
            del item["mobile_inverted_conv"]["mid_channels"]
        del item["mobile_inverted_conv"]["use_se"], item["mobile_inverted_conv"]["act_func"], item["name"]
        item["shortcut"] = item["shortcut"] or {"name": "ZeroLayer", "stride": 1}
    left_out = {"mobile_inverted_conv": {"name": "ZeroLayer", "stride": 1}, "shortcut": IDENTITY}
    content["blocks"][3:3] = [left_out, {"mobile_inverted_conv": None, "shortcut": IDENTITY}]
    del content["bn"], content["feature_mix_layer"]
    content["comment"] = "kept elsewhere"
    assert mcunet.to_design(content, name="x") == design
    del content["classifier"], content["resolution"]
    bare = mcunet.to_design(content, name="x")
    assert (bare.classes, bare.resolution) == (0, 224)


def at(content: Any, *keys: Any, **values: Any) -> Any:
    target = content
    for key in keys:
        target = target[key]
    target.update({key: value for key, value in values.items() if value is not ...})
    for key in [key for key, value in values.items() if value is ...]:
        del target[key]
    return content


def changed(*keys: Any, **values: Any) -> Any:
    return at(network(FIVE_FPS, 96, tail=320), *keys, **values)


CONV = "mobile_inverted_conv"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (3, "must be a JSON object"),
        (changed(first_conv=None), "first_conv = None: must be a ConvLayer"),
        (changed(first_conv=[1]), r"first_conv = \[1\]: must be a JSON object"),
        (changed(blocks=[]), "blocks = .*: must be a list of at least one"),
        (changed(blocks=[{CONV: None, "shortcut": IDENTITY}]), "blocks: every one is left out"),
        (changed(final_expand_layer={"name": "ConvLayer"}), "final_expand_layer = .* has no counterpart"),
        (changed(resolution="96"), "resolution = '96': must be an integer"),
        (changed("first_conv", name="DepthConvLayer"), "first_conv.name = 'DepthConvLayer': must be 'ConvLayer'"),
        (changed("first_conv", kernel_size=4), "first_conv.kernel_size = 4: must be an odd integer"),
        (changed("first_conv", groups=3), "first_conv.groups = 3: must be 1"),
        (changed("first_conv", dilation=2), "first_conv.dilation = 2: must be 1"),
        (changed("first_conv", use_bn=False), "first_conv.use_bn = False: must be true"),
        (changed("first_conv", bias=True), "first_conv.bias = True: must be false"),
        (changed("first_conv", has_shuffle=True), "first_conv.has_shuffle = True: must be false"),
        (changed("first_conv", out_channels=24), r"blocks\[1\].mobile_inverted_conv.in_channels = 16: must be 24"),
        (changed("blocks", 2, name="ResNetBlock"), r"blocks\[3\].name = 'ResNetBlock': must be"),
        (changed("blocks", 2, CONV, name="ConvLayer"), r"blocks\[3\].mobile_inverted_conv.name = 'ConvLayer': must"),
        (changed("blocks", 2, CONV, kernel_size=...), r"blocks\[3\].*kernel_size is missing: must be an odd integer"),
        (changed("blocks", 1, CONV, stride=3), r"blocks\[2\].*stride = 3: must be 1 or 2"),
        (changed("blocks", 1, CONV, out_channels=True), "out_channels = True: must be an integer"),
        (changed("blocks", 1, CONV, out_channels=[16, 24]), r"out_channels = \[16, 24\]: must be an integer"),
        (changed("blocks", 1, CONV, out_channels=10**9), "out_channels = 1000000000: must be an integer"),
        (changed("blocks", 1, CONV, expand_ratio=0), "expand_ratio = 0: must be a finite number greater than 0"),
        (changed("blocks", 1, CONV, expand_ratio=float("nan")), "expand_ratio = nan: must be a finite number"),
        (changed("blocks", 1, CONV, expand_ratio=1e-9, mid_channels=None), "expand_ratio = 1e-09: must be a number"),
        (changed("blocks", 1, CONV, expand_ratio=1e300, mid_channels=None), r"expand_ratio = 1e\+300: must be a"),
        (changed("blocks", 1, CONV, mid_channels=0), "mid_channels = 0: must be an integer"),
        (changed("blocks", 0, CONV, mid_channels=32), "mid_channels = 32: must be null or 16"),
        (changed("blocks", 0, CONV, use_se=True), "use_se = True: must be false at expand_ratio 1"),
        (changed("blocks", 1, CONV, use_se=True, mid_channels=44), "use_se = True: squeezes 44 channels to 16"),
        (changed("blocks", 1, CONV, use_se=1), "use_se = 1: must be true or false"),
        (changed("blocks", 2, shortcut=None), r"blocks\[3\].shortcut = None: must be an IdentityLayer"),
        (changed("blocks", 1, shortcut=IDENTITY), r"blocks\[2\].shortcut = .*: must be null between 8 and 16"),
        (changed("blocks", 2, shortcut={"name": "ConvLayer"}), "shortcut.name = 'ConvLayer': must be one of"),
        (changed("blocks", 1, **{CONV: None}), r"blocks\[2\].shortcut = None: must be an IdentityLayer at stride 1"),
        (changed("blocks", 2, **{CONV: {"name": "ZeroLayer", "stride": 2}}), r"blocks\[3\].shortcut = .*at stride 1"),
        (changed("feature_mix_layer", kernel_size=3), "feature_mix_layer.kernel_size = 3: must be 1"),
        (changed("feature_mix_layer", stride=2), "feature_mix_layer.stride = 2: must be 1"),
        (changed("feature_mix_layer", in_channels=96), "feature_mix_layer.in_channels = 96: must be 160"),
        (changed("classifier", in_features=160), "classifier.in_features = 160: must be 320"),
        (changed("classifier", out_features=...), "classifier.out_features is missing"),
        (changed("classifier", bias=False), "classifier.bias = False: must be true"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        mcunet.to_design(content, name="x", source="net.json")
    assert str(caught.value).startswith("net.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "nul"])
def test_a_file_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"net.json: (not a JSON file|must be a JSON object)"):
        mcunet.load(path)


@pytest.mark.parametrize(
    ("number", "changes", "sentence"),
    [
        (0, {"mid": 8}, r"stages\[1\].mid = 8: must be 16, the channels before it"),
        (0, {"depth": 2}, r"stages\[1\].depth = 2: must be 1"),
        (1, {"block": "separable"}, r"stages\[2\].mid = 32: must be 8"),
    ],
)
def test_a_design_has_no_other_separable_blocks(
    number: int, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    content = json.loads(mcunet.to_design(network(FIVE_FPS, 96), name="x").to_json())
    content["stages"][number].update(changes)
    (tmp_path / "design.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        Design.read(tmp_path / "design.json")


def test_separable_blocks_of_the_same_channels_may_repeat(tmp_path: Path) -> None:
    design = mcunet.to_design(network(((16, None, 1, 16, 3, 1), (16, None, 6, 24, 3, 2)), 32), name="x")
    deep = dataclasses.replace(design.stages[0], depth=3)
    design = dataclasses.replace(design, stages=(deep, *design.stages[1:]))
    design = dataclasses.replace(design, metrics=design.measure(10.0))
    design.save(tmp_path / "design.json")
    assert Design.load(tmp_path / "design.json") == design
