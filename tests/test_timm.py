"""timm's conventions on every zoo and published network: what timm asks of its own models, and its helpers on ours.

Networks are large and this must stay fast: images are small (any size passes) and shapes are taken on the meta device.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import checkpoint_seq, group_parameters
from timm.models._features import FeatureGetterNet, FeatureHookNet, FeatureListNet
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.testing import assert_close

import mad_ip.networks.timm
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.mlp import MlpDesign, MlpSpec
from mad_ip.mlp.spec import Input, Space
from mad_ip.networks import Network, verify_cost
from mad_ip.networks.modules import DropPath, Residual

MODELS = Path(__file__).parents[1] / "models"
ZOO = timm.list_models("madip_*")
PUBLISHED = sorted(path.stem for path in (MODELS / "published").glob("*.json"))
SMALL = ["madip_toy", "madip_mobile", "madip_deepmad_r18"]
"""One of each kind: a tail and squeeze-excite among them."""

BUILT = [*ZOO, "deepmad-r18", "deepmad-29m-224"]
"""Weights and all: the other published networks are wider and deeper ones of the same two kinds."""

every = pytest.mark.parametrize("name", [*ZOO, *PUBLISHED])
built = pytest.mark.parametrize("name", BUILT)
small = pytest.mark.parametrize("name", SMALL)


def create(name: str, **options: Any) -> Any:
    if name in PUBLISHED:
        return timm.create_model("madip", design=MODELS / "published" / f"{name}.json", **options)
    return timm.create_model(name, **options)


def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return create(name, **options)


def image(size: int = 32, device: str = "cpu", batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, device=device)


def design_of(name: str) -> Design:
    folder = name.removeprefix("madip_").replace("_", "-")
    return Design.load(MODELS / "published" / f"{name}.json" if name in PUBLISHED else MODELS / folder / "design.json")


def stir(module: nn.Module) -> None:
    """Give every normalisation a weight, so that no branch is hidden by the 0 that it starts with."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1)


@functools.cache
def reference(name: str) -> Any:
    """A network with weights, shared by the tests that leave it as it is."""
    torch.manual_seed(1)
    network = create(name).eval()
    stir(network)
    return network


@functools.cache
def shapes(name: str) -> Any:
    """A network without numbers, shared by the tests that leave it as it is."""
    return on_meta(name).eval()


def test_the_whole_zoo_of_images_is_registered() -> None:
    folders = [path.parent.name for path in MODELS.glob("*/design.json") if '"frames"' not in path.read_text()]
    folders = [folder for folder in folders if "mlp" not in (MODELS / folder / "design.json").read_text()]
    assert sorted(ZOO) == sorted(f"madip_{folder.replace('-', '_')}" for folder in folders)
    assert set(SMALL) <= set(ZOO)
    for name in ZOO:
        assert timm.get_pretrained_cfg_value(name, "num_classes") == design_of(name).classes


@built
def test_forward_and_backward(name: str) -> None:
    network = reference(name).train()
    output = network(image())
    assert output.shape == (2, design_of(name).classes)
    output.square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    network.zero_grad()
    network.eval()


@every
def test_default_cfg_describes_the_model(name: str) -> None:
    network = shapes(name)
    cfg, keys = network.default_cfg, network.state_dict()
    assert cfg is network.pretrained_cfg
    assert keys[cfg["first_conv"] + ".weight"].shape[1] == cfg["input_size"][0]
    assert keys[cfg["classifier"] + ".weight"].shape == (cfg["num_classes"], network.num_features)
    x = torch.empty(1, *cfg["input_size"], device="meta")
    features = network.forward_features(x)
    assert features.shape == (1, network.num_features, *cfg["pool_size"])
    assert network.forward_head(features, pre_logits=True).shape == (1, network.head_hidden_size)
    config = resolve_data_config(model=network)
    assert config["input_size"] == cfg["input_size"]
    assert create_transform(**config) is not None


@every
def test_reset_classifier(name: str) -> None:
    network = on_meta(name)
    features = network.forward_features(image(device="meta"))
    assert network.get_classifier().weight.shape == (network.num_classes, network.num_features)
    network.reset_classifier(5)
    assert network(image(device="meta")).shape == (2, 5)
    assert network.get_classifier().weight.device.type == "meta"
    for pool in ("max", "avgmax"):
        network.reset_classifier(5, pool)
        assert network.head_hidden_size == network.num_features
        assert network.forward_head(features).shape == (2, 5)
    verify_cost(network)
    network.reset_classifier(0, "avg")
    assert network.forward_head(features).shape == (2, network.num_features)
    network.reset_classifier(0, "")
    assert network.forward_head(features).shape == features.shape
    assert network.head_hidden_size == network.num_features


@every
def test_features_only_has_the_strides_and_channels_of_the_design(name: str) -> None:
    design = design_of(name)
    # The last level of each resolution, by the design's own resolutions.
    last = dict(
        zip(design.resolutions, [design.stem.channels, *(stage.channels for stage in design.stages)], strict=True)
    )
    strides = [design.resolution // size for size in last]
    network = on_meta(name, features_only=True)
    assert network.feature_info.channels() == list(last.values())
    assert network.feature_info.reduction() == strides
    outputs = network(image(64, device="meta"))
    assert [output.shape[1:] for output in outputs] == [
        (c, 64 // s, 64 // s) for c, s in zip(last.values(), strides, strict=True)
    ]
    # What comes after the last feature is not carried along.
    assert not [key for key in network.state_dict() if key.startswith(("head", "tail"))]
    if name in SMALL:
        picked = on_meta(name, features_only=True, out_indices=(0, 1))
        assert [output.shape for output in picked(image(64, device="meta"))] == [output.shape for output in outputs[:2]]
        after = picked.feature_info.module_name(-1).split(".")
        assert not [key for key in picked.state_dict() if key.startswith(f"{after[0]}_{int(after[1]) + 1}")]


@built
def test_every_extractor_gives_the_same_features(name: str) -> None:
    network = reference(name)
    x = image()
    indices = (0, 1, -1)
    with torch.no_grad():
        final, intermediates = network.forward_intermediates(x)
        assert torch.equal(final, network.forward_features(x))
        chosen = [intermediates[index] for index in indices]
        extractors = [
            FeatureListNet(network, out_indices=(0, 1, len(intermediates) - 1), flatten_sequential=True),
            FeatureGetterNet(network, out_indices=list(indices)),
        ]
        if name in SMALL:  # it resets the classifier of its model
            extractors.append(FeatureHookNet(copy.deepcopy(network), out_indices=(0, 1, len(intermediates) - 1)))
        for extractor in extractors:
            for found, expected in zip(extractor.eval()(x), chosen, strict=True):
                assert torch.equal(found, expected)
        early, one = network.forward_intermediates(x, [1], stop_early=True)
        assert torch.equal(early, one[0])
        assert torch.equal(one[0], intermediates[1])
        (last,) = network.forward_intermediates(x, 1, intermediates_only=True)
        assert torch.equal(last, intermediates[-1])


@small
@pytest.mark.parametrize("kind", ["list", "hook", "getter", "fx", "dict"])
def test_features_only_in_every_kind(name: str, kind: str) -> None:
    network = create(name, features_only=True, feature_cls=kind, out_indices=(1, 2)).eval()
    outputs = network(image(64))
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    assert [output.shape[1] for output in outputs] == network.feature_info.channels()


@built
def test_checkpointing_changes_nothing(name: str) -> None:
    # Its running statistics move on: no test depends on their values.
    plain = reference(name).train()
    x = image(batch=2)
    gradients, outputs = [], []
    for enable in (False, True):
        plain.set_grad_checkpointing(enable)
        plain.zero_grad()
        torch.manual_seed(2)
        output = plain(x)
        output.square().mean().backward()
        outputs.append(output.detach())
        gradients.append([parameter.grad.clone() for parameter in plain.parameters()])
    plain.set_grad_checkpointing(False)
    plain.zero_grad()
    plain.eval()
    assert torch.equal(*outputs)
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@small
def test_checkpointing_keeps_less(name: str) -> None:
    network = create(name).train()
    kept = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            network(image())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


@every
def test_drop_path_is_active_only_in_training(name: str) -> None:
    network = on_meta(name, drop_path_rate=0.5)
    blocks = [module for module in network.modules() if isinstance(module, Residual)]
    for number, block in enumerate(blocks):
        rate = block.drop_path.rate if isinstance(block.drop_path, DropPath) else 0.0
        expected = 0.5 * number / (len(blocks) - 1) if block.shortcut is not None else 0.0
        assert rate == pytest.approx(expected)
    assert network.state_dict().keys() == shapes(name).state_dict().keys()
    if name in SMALL:
        network = create(name, drop_path_rate=0.5)
        stir(network)
        plain = create(name)
        plain.load_state_dict(network.state_dict())
        x = image()
        assert torch.equal(network.eval()(x), plain.eval()(x))
        assert not torch.equal(network.train()(x), plain.train()(x))


def test_drop_path_drops_samples_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    x = torch.ones(4000, 3, 2, 2)
    y = drop(x)
    per_sample = y.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert_close(per_sample.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert_close(y.mean(), torch.tensor(1.0), rtol=0.05, atol=0)
    assert torch.equal(drop.eval()(x), x)


def test_dropout_is_active_only_in_training() -> None:
    network = create("madip_toy", drop_rate=0.5)
    features = torch.randn(2, network.num_features, 2, 2).abs()
    assert (network.forward_head(features, pre_logits=True) == 0).any()
    assert torch.equal(network.eval().forward_head(features, pre_logits=True), features.flatten(2).mean(2))


@built
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript(name: str) -> None:
    network = reference(name)
    x, other = image(), image(40)
    with torch.no_grad():
        compiled = torch.jit.script(network) if name in SMALL else torch.jit.trace(network, x, check_trace=False)
        assert torch.equal(compiled(other), network(other))


@built
def test_export(name: str) -> None:
    network = shapes(name)
    exported = torch.export.export(network, (image(device="meta"),))
    convolutions = [node for node in exported.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    if name in SMALL:
        network, x = reference(name), image()
        exported = torch.export.export(network, (x,))
        assert torch.equal(exported.module()(x), network(x))


# timm's helpers -------------------------------------------------------------------------------------------------------


@every
def test_parameters_are_grouped_by_depth(name: str) -> None:
    network = shapes(name)
    depths = [len(stage) for stage in network.stages]
    for coarse, groups in ((False, 1 + sum(depths) + 1), (True, 1 + len(depths) + 1)):
        matched = group_parameters(network, network.group_matcher(coarse), reverse=True)
        assert matched.keys() == dict(network.named_parameters()).keys()
        assert set(matched.values()) == set(range(groups))
        # In the order of the forward pass, the tail with the last block, the head behind all.
        order = [matched[key] for key, _ in network.named_parameters()]
        assert order == sorted(order)
        assert {matched[key] for key in matched if key.startswith("head")} == {groups - 1}


@small
def test_layer_decay(name: str) -> None:
    network = create(name)
    groups = param_groups_layer_decay(network, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(network.head.weight)] == 1
    assert scales[id(network.stages[-1][-1].main[-1].conv.weight)] == 0.5
    optimizer = create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    before = copy.deepcopy(network.state_dict())
    network(image()).square().mean().backward()
    optimizer.step()
    assert not torch.equal(network.head.weight, before["head.weight"])
    assert network.no_weight_decay() == set()


@small
def test_checkpoint_seq_and_averaged_weights(name: str) -> None:
    network = create(name).eval()
    stir(network)
    x = image()
    y = checkpoint_seq(network.stages, network.stem(x), flatten=True)
    assert torch.equal(network.tail(y), network.forward_features(x))
    averaged = ModelEmaV3(network, decay=0.5)
    weight = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight.add_(1)
    averaged.update(network, step=10)
    assert_close(averaged.module.head.weight, weight + 0.5)
    assert averaged.module(x).shape == network(x).shape


def test_other_channels_and_classes_are_measured_anew() -> None:
    network = create("madip_mobile", in_chans=1, num_classes=3, drop_rate=0.1)
    verify_cost(network)
    assert (network.in_chans, network.design.image_channels, network.design.classes) == (1, 1, 3)
    assert network.design.certificate is None
    network.design.check()
    same = create("madip_mobile")
    assert same.design == design_of("madip_mobile")
    assert network(torch.randn(2, 1, 33, 47)).shape == (2, 3)


def test_a_checkpoint_of_timm_is_loaded(tmp_path: Path) -> None:
    network = create("madip_toy", num_classes=10)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "checkpoint.pth")
    again = create("madip_toy", num_classes=10, checkpoint_path=str(tmp_path / "checkpoint.pth"))
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    # Other classes and channels: the head starts anew, the stem is adapted.
    overlay = {"file": str(tmp_path / "checkpoint.pth"), "num_classes": 10}
    other = create("madip_toy", pretrained=True, num_classes=3, in_chans=1, pretrained_cfg_overlay=overlay)
    assert_close(other.stem[0].conv.weight, network.stem[0].conv.weight.sum(1, keepdim=True))
    assert torch.equal(other.stages[0][0].main[0].conv.weight, network.stages[0][0].main[0].conv.weight)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_classes": -1}, "num_classes = -1: must be an integer of at least 0"),
        ({"num_classes": 1.5}, r"num_classes = 1\.5: must be an integer of at least 0"),
        ({"num_classes": "3"}, "num_classes = '3': must be an integer of at least 0"),
        ({"in_chans": 0}, "in_chans = 0: must be an integer of at least 1"),
        ({"in_chans": True}, "in_chans = True: must be an integer of at least 1"),
        ({"global_pool": "fast"}, "global_pool = 'fast': must be one of 'avg'"),
        # The classifier of such a network is twice as wide as its design says: it would not measure as modelled.
        ({"global_pool": "catavgmax"}, "global_pool = 'catavgmax': must be one of 'avg'"),
        ({"global_pool": ""}, "num_classes = 1.*: must be 0 where global_pool is ''"),
        ({"drop_rate": 1.0}, "drop_rate = 1.0: must be a number"),
        ({"drop_rate": "much"}, "drop_rate = 'much': must be a number"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate = nan: must be a number"),
        ({"drop_path_rate": -0.1}, "drop_path_rate = -0.1: must be a number"),
    ],
)
def test_an_argument_out_of_range_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        create("madip_toy", **options)


def test_what_timm_cannot_take_is_named(tmp_path: Path) -> None:
    network = reference("madip_toy")
    with pytest.raises(InputError, match="indices = 3: must be from -3 to 2"):
        network.forward_intermediates(image(), [3])
    with pytest.raises(InputError, match="output_fmt = 'NHWC': must be 'NCHW'"):
        network.forward_intermediates(image(), output_fmt="NHWC")
    with pytest.raises(InputError, match=r"missing\.json: cannot be read"):
        timm.create_model("madip", design=tmp_path / "missing.json")
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        create("madip_toy", pretrained=True)
    mlp = MlpDesign.chosen(MlpSpec("x", Input(12, 3), Space((4,), (2,))), (4,))
    mlp.save(tmp_path / "mlp.json")
    with pytest.raises(InputError, match=r"mlp\.json: is the design of an MLP"):
        timm.create_model("madip", design=tmp_path / "mlp.json")
    clips = dataclasses.replace(design_of("madip_toy"), frames=8)
    with pytest.raises(InputError, match="takes clips of 8 frames"):
        timm.create_model("madip", design=clips)


@pytest.mark.parametrize(("module", "needed"), [("timm", "timm"), ("vision", "torchvision")])
def test_a_missing_extra_is_named(module: str, needed: str) -> None:
    program = f"import sys; sys.modules[{needed!r}] = None\nimport mad_ip.networks\n"
    program += f"try:\n    import mad_ip.networks.{module}\nexcept mad_ip.errors.InputError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'mad-ip[{module}]'" in done.stdout


def test_the_zoo_is_found_from_another_folder(tmp_path: Path) -> None:
    program = "import timm, mad_ip.networks.timm; print(len(timm.list_models('madip_*')))\n"
    program += "print(timm.create_model('madip_toy').num_features)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(len(ZOO)), str(design_of("madip_toy").feature_channels)]
    assert mad_ip.networks.timm.default_cfgs.keys() == set(ZOO)
    assert isinstance(reference("madip_toy"), Network)
