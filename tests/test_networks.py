"""The built network: forward pass, gradients, initialisation, memory formats, compilation, weights on disk."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import mad_ip
from mad_ip import blocks, cost
from mad_ip.blocks import FAMILIES
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError
from mad_ip.networks import Network, save_weights
from mad_ip.networks.modules import Residual


def small_design(*families: str, tail: int | None = 20, classes: int = 7) -> Design:
    """Per family a stage at stride 2 that changes channels and one at stride 1 that keeps them."""
    stages = []
    for number, family in enumerate(families, start=1):
        stages.append(StageChoice(family, 2, 8 * number, 12, 3, 2, 1))
        stages.append(StageChoice(family, 1, 8 * number, 12, 5, 1, 1))
    return Design.create(
        beta=10.0,
        name="small",
        spec_sha256="",
        convention="paper",
        resolution=64,
        image_channels=3,
        stem=StemChoice(3, 2, 6, 1),
        stages=tuple(stages),
        tail=tail,
        classes=classes,
    )


MIXED = small_design(*FAMILIES)


def residuals(network: Network) -> list[Residual]:
    return [module for module in network.modules() if isinstance(module, Residual)]


def last_norm(block: Residual) -> nn.BatchNorm2d:
    norm = block.main[-1].norm
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def stir(module: nn.Module) -> None:
    """Give every normalisation arbitrary weights and statistics, so that nothing is hidden by a 0 or a 1."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.normal_(tensor, std=0.1)


# Forward pass ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [None, 20])
@pytest.mark.parametrize("classes", [0, 7])
def test_forward_shapes(tail: int | None, classes: int) -> None:
    design = small_design(*FAMILIES, tail=tail, classes=classes)
    network = Network(design)
    channels = 32 if tail is None else tail
    assert (network.num_classes, network.num_features, network.design) == (classes, channels, design)
    x = torch.randn(2, 3, 64, 64)
    features = network.forward_features(x)
    assert features.shape == (2, channels, 2, 2)
    assert network.forward_head(features, pre_logits=True).shape == (2, channels)
    assert network(x).shape == (2, classes or channels)
    if classes == 0:
        assert isinstance(network.head, nn.Identity)
        assert_close(network.eval()(x), network.forward_features(x).mean((2, 3)))


@pytest.mark.parametrize("frames", [None, 4])
def test_default_cfg_has_the_shape_that_the_network_takes(frames: int | None) -> None:
    network = Network(dataclasses.replace(MIXED, frames=frames)).eval()
    shape = network.default_cfg["input_size"]
    assert shape == ((3, 64, 64) if frames is None else (3, 4, 64, 64))
    assert network(torch.randn(1, *shape)).shape == (1, 7)


def test_features_are_what_feature_info_says() -> None:
    network = Network(MIXED).eval()
    x = torch.randn(2, 3, 64, 64)
    features = network.features(x)
    # One for every resolution, the last stage of it.
    assert [info["num_chs"] for info in network.feature_info] == [6, 8, 16, 24, 32]
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]
    assert [info["module"] for info in network.feature_info] == ["stem.0", *(f"stages.{t}" for t in (1, 3, 5, 7))]
    caught: list[Tensor] = []
    for feature, info, size in zip(features, network.feature_info, MIXED.resolutions[::2], strict=True):
        assert feature.shape == (2, info["num_chs"], size, size)
        assert size == 64 // info["reduction"]
        network.get_submodule(info["module"]).register_forward_hook(lambda *call: caught.append(call[-1]))
    output = network(x)
    for feature, seen in zip(features, caught, strict=True):
        assert torch.equal(feature, seen)
    assert torch.equal(output, network.forward_head(network.tail(features[-1])))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (31, 64), (97, 50), (1, 3)])
def test_any_input_size_gives_finite_output(size: tuple[int, int], training: bool) -> None:
    network = Network(MIXED).train(training)
    stir(network)
    height, width = size
    x = torch.randn(2, 3, height, width)
    for feature, info in zip(network.features(x), network.feature_info, strict=True):
        assert feature.shape[2:] == (-(-height // info["reduction"]), -(-width // info["reduction"]))
    output = network(x)
    assert output.shape == (2, 7)
    assert output.isfinite().all()


def test_channels_last_gives_the_same_result() -> None:
    network = Network(MIXED).eval().double()
    stir(network)
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    features = network.forward_features(x.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert_close(network.forward_head(features), expected)


@pytest.mark.parametrize(
    ("families", "stem", "tail"), [(FAMILIES, nn.ReLU, nn.SiLU), (["inverted", "basic"], nn.SiLU, nn.ReLU)]
)
def test_stem_and_tail_are_activated_like_their_neighbours(
    families: list[str], stem: type[nn.Module], tail: type[nn.Module]
) -> None:
    network = Network(small_design(*families))
    assert isinstance(network.stem[-1].activation, stem)
    assert isinstance(network.tail[-1].activation, tail)


def test_copies_compute_the_same() -> None:
    network = Network(MIXED).eval()
    stir(network)
    x = torch.randn(2, 3, 64, 64)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.design == MIXED
        assert torch.equal(twin(x), network(x))


# One block of each family, written out by hand ------------------------------------------------------------------------


def conv(
    c_in: int, c: int, k: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(c_in, c, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(c))
    return layers if act is None else layers.append(act())


class Literal(nn.Module):
    """``gated(x)`` is ``head(x) * gate(head(x))``; the output is ``tail(gated(x)) + shortcut(x)``, then ``after``."""

    def __init__(
        self,
        head: nn.Module,
        tail: nn.Module,
        *,
        gate: nn.Module | None = None,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.head, self.gate, self.tail, self.shortcut, self.after = head, gate, tail, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        if self.gate is not None:
            y = y * self.gate(y)
        y = self.tail(y)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return y if self.after is None else self.after(y)


def pooled(c_in: int, c: int) -> nn.Sequential:
    """The 2x2 pooling at an odd border averages the pixels that are there, as if the border were repeated."""
    return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2), conv(c_in, c, 1))


def gate(m: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(m, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, m, 1), nn.Sigmoid()
    )


def literal_blocks() -> dict[str, tuple[tuple[str, int, int, int, int, int], Literal, int, int]]:
    """(family, c_in, c, m, k, stride), the block by hand, and its MACs and parameters on 9x9 pixels by hand."""
    relu, silu = nn.ReLU, nn.SiLU
    return {
        "basic-projected": (
            ("basic", 8, 16, 12, 3, 2),
            Literal(conv(8, 12, 3, 2, act=relu), conv(12, 16, 3), shortcut=pooled(8, 16), after=relu()),
            25 * (12 * 8 * 9 + 16 * 12 * 9 + 16 * 8),
            12 * 8 * 9 + 16 * 12 * 9 + 16 * 8 + 2 * (12 + 16 + 16),
        ),
        "basic-identity": (
            ("basic", 8, 8, 12, 5, 1),
            Literal(conv(8, 12, 5, act=relu), conv(12, 8, 5), shortcut=nn.Identity(), after=relu()),
            81 * (12 * 8 * 25 + 8 * 12 * 25),
            12 * 8 * 25 + 8 * 12 * 25 + 2 * (12 + 8),
        ),
        "bottleneck-projected": (
            ("bottleneck", 8, 16, 4, 5, 2),
            Literal(
                nn.Sequential(conv(8, 4, 1, act=relu), conv(4, 4, 5, 2, act=relu)),
                conv(4, 16, 1),
                shortcut=pooled(8, 16),
                after=relu(),
            ),
            81 * 4 * 8 + 25 * (4 * 4 * 25 + 16 * 4 + 16 * 8),
            4 * 8 + 4 * 4 * 25 + 16 * 4 + 16 * 8 + 2 * (4 + 4 + 16 + 16),
        ),
        "bottleneck-projected-at-stride-1": (
            ("bottleneck", 8, 16, 4, 3, 1),
            Literal(
                nn.Sequential(conv(8, 4, 1, act=relu), conv(4, 4, 3, act=relu)),
                conv(4, 16, 1),
                shortcut=conv(8, 16, 1),
                after=relu(),
            ),
            81 * (4 * 8 + 4 * 4 * 9 + 16 * 4 + 16 * 8),
            4 * 8 + 4 * 4 * 9 + 16 * 4 + 16 * 8 + 2 * (4 + 4 + 16 + 16),
        ),
        "inverted-identity": (
            ("inverted", 8, 8, 24, 3, 1),
            Literal(
                nn.Sequential(conv(8, 24, 1, act=silu), conv(24, 24, 3, groups=24, act=silu)),
                conv(24, 8, 1),
                shortcut=nn.Identity(),
            ),
            81 * (24 * 8 + 24 * 9 + 8 * 24),
            24 * 8 + 24 * 9 + 8 * 24 + 2 * (24 + 24 + 8),
        ),
        "inverted-plain": (
            ("inverted", 8, 8, 24, 3, 2),
            Literal(nn.Sequential(conv(8, 24, 1, act=silu), conv(24, 24, 3, 2, groups=24, act=silu)), conv(24, 8, 1)),
            81 * 24 * 8 + 25 * (24 * 9 + 8 * 24),
            24 * 8 + 24 * 9 + 8 * 24 + 2 * (24 + 24 + 8),
        ),
        "inverted_se": (
            ("inverted_se", 8, 16, 48, 7, 2),
            Literal(
                nn.Sequential(conv(8, 48, 1, act=silu), conv(48, 48, 7, 2, groups=48, act=silu)),
                conv(48, 16, 1),
                gate=gate(48, 16),
            ),
            81 * 48 * 8 + 25 * (48 * 49 + 16 * 48) + 16 * 48 + 48 * 16,
            48 * 8 + 48 * 49 + 16 * 48 + 2 * (48 + 48 + 16) + (16 * 48 + 16) + (48 * 16 + 48),
        ),
    }


@pytest.mark.parametrize("name", literal_blocks())
def test_block_is_the_one_written_by_hand(name: str) -> None:
    (family, *numbers), literal, macs, params = literal_blocks()[name]
    c_in, c, m, k, stride = numbers
    layers = blocks.block(family, c_in, c, m, k, stride, 9)
    block = Residual(layers, FAMILIES[family])
    stir(literal)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        literal.eval()(torch.zeros(1, c_in, 9, 9))
    assert counter.get_total_flops() == 2 * macs == 2 * cost.macs(layers)
    assert sum(p.numel() for p in literal.parameters()) == params == cost.params(layers)

    written = list(literal.head.state_dict().values())
    if literal.gate is not None:
        written += literal.gate.state_dict().values()
    written += literal.tail.state_dict().values()
    if literal.shortcut is not None:
        written += literal.shortcut.state_dict().values()
    block.load_state_dict(dict(zip(block.state_dict(), written, strict=True)))
    # The pooling is summed in another order: in float64 that leaves nothing to see.
    block, literal = block.double(), literal.double()
    x = torch.randn(2, c_in, 9, 9, dtype=torch.double)
    before = x.clone()
    for training in (False, True):
        assert_close(block.train(training)(x), literal.train(training)(x))
    assert torch.equal(x, before), "an in-place activation reached the block's input"


# Gradients and initialisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [MIXED, *(small_design(f, tail=None, classes=0) for f in FAMILIES)])
def test_every_parameter_receives_a_gradient(design: Design) -> None:
    network = Network(design)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("design", [MIXED, *(small_design(f, tail=None, classes=0) for f in FAMILIES)])
def test_no_gradient_is_always_zero(design: Design) -> None:
    # With normalisation by fixed statistics: by those of the batch, a shift that a linear bottleneck adds to its output
    # is taken away again by the next normalisation, in every network of this kind.
    network = Network(design).eval()
    for block in residuals(network):
        nn.init.ones_(last_norm(block).weight)
    network(torch.randn(4, 3, 64, 64)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_in_place_activations_do_not_change_gradients() -> None:
    network = Network(MIXED).double()
    stir(network)
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, nn.ReLU | nn.SiLU):
            module.inplace = False
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    for net in (network, twin):
        torch.cat([feature.flatten() for feature in net.features(x)]).square().mean().backward()
        net(x).square().mean().backward()
    for (name, parameter), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_blocks_start_as_their_shortcut() -> None:
    network = Network(MIXED).train()
    without = [block for block in residuals(network) if block.shortcut is None]
    assert len(without) == 2  # the first blocks of the two inverted stages at stride 2
    x = torch.randn(4, 3, 64, 64)
    entering = network.stem(x)
    for stage in network.stages:
        for block in stage:
            leaving = block(entering)
            if block.shortcut is None:
                assert (last_norm(block).weight == 1).all()
                assert leaving.abs().mean() > 0.1
            else:
                assert (last_norm(block).weight == 0).all()
                assert torch.equal(leaving, block.activation(block.shortcut(entering)))
            entering = leaving


def test_signal_keeps_its_size_through_every_convolution() -> None:
    # Kaiming, fan-out of one group: in eval mode, with fresh statistics, a depthwise layer must not shrink the signal.
    network = Network(small_design("inverted_se", tail=None, classes=0)).eval()
    deviations = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] ** 2 * layer.out_channels / layer.groups
            deviations.append(float(layer.weight.detach().square().mean() * fan_out / 2))
    assert 0.8 < sum(deviations) / len(deviations) < 1.2


def test_linear_head_starts_small_and_unbiased() -> None:
    head = Network(small_design("basic", tail=640, classes=50)).head
    assert isinstance(head, nn.Linear)
    assert_close(head.weight.detach().std().item(), 0.01, rtol=0.05, atol=0)
    assert not head.bias.any()


def test_init_weights_starts_anew() -> None:
    with torch.device("meta"):
        network = Network(MIXED)
    network.to_empty(device="cpu")
    twin = Network(MIXED)
    stir(twin)
    for net in (network, twin):
        torch.manual_seed(1)
        net.init_weights()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


# Compilation ----------------------------------------------------------------------------------------------------------


def shortened(*families: str) -> Network:
    """Every family's stage of one changing and one keeping block: fewer kernels to compile.

    In float64: compiled kernels sum in an order of their own, which in float32 would leave a difference.
    """
    design = small_design(*families)
    network = Network(dataclasses.replace(design, stages=design.stages[::2])).double()
    stir(network)
    return network


NO_CACHE = {"fx_graph_cache": False}
"""Its keys are looked for in all loaded modules, and those whose import Pyomo defers raise when they are asked."""


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_equals_eager(family: str) -> None:
    network = shortened(family).eval()
    x = torch.randn(2, 3, 33, 33, dtype=torch.double)
    with torch.no_grad():
        assert_close(torch.compile(network, fullgraph=True, options=NO_CACHE)(x), network(x))


def test_compiled_training_equals_eager() -> None:
    network = shortened("basic", "inverted_se")
    twin = copy.deepcopy(network)
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    torch.compile(network, fullgraph=True, backend="aot_eager")(x).square().mean().backward()
    twin(x).square().mean().backward()
    for (name, parameter), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


# Weights on disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_survive_the_disk(suffix: str, tmp_path: Path) -> None:
    network = Network(MIXED).eval().to(memory_format=torch.channels_last)
    stir(network)
    path = tmp_path / f"weights{suffix}"
    save_weights(network, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    state = safetensors.torch.load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert state.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(state[name], tensor), name
    # In the same memory format: another one is summed in another order.
    twin = Network(MIXED).eval().to(memory_format=torch.channels_last)
    twin.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(twin(x), network(x))

    again = tmp_path / f"again{suffix}"
    save_weights(network, str(again))
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["weights.bin", "weights", "weights.safetensors.tmp"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be one of \.safetensors, \.pt, \.pth"):
        save_weights(Network(small_design("basic")), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/weights\.pt: cannot be written"):
        save_weights(Network(small_design("basic")), tmp_path / "missing" / "weights.pt")


# The house ------------------------------------------------------------------------------------------------------------


def test_load_builds_the_network_of_a_design_file(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "design.json")
    network = mad_ip.load(tmp_path / "design.json")
    assert isinstance(network, Network)
    assert network.design == MIXED


def test_a_design_needs_no_torch() -> None:
    check = "import sys, mad_ip.design; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
