"""Profiles of devices: what is measured, the fit, its errors, device.toml and its use."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mad_ip import profiling
from mad_ip.cost import COSTS
from mad_ip.design import Design
from mad_ip.device import BOARDS, Affine, Device, Lookup, Operation, Rate
from mad_ip.errors import InputError
from mad_ip.networks import Network, timing
from mad_ip.networks.score import load
from mad_ip.networks.timing import Runtime
from mad_ip.networks.trace_operations import live_numbers, operations_of
from mad_ip.profiling import DEVICE, Measured, Progress
from mad_ip.reports import device as reports
from mad_ip.solve import solve
from mad_ip.spec import Spec

needs_onnxruntime = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="needs the extra export"
)

TOY = """
name = "toy"

[input]
resolution = 32
classes = 10

[budget]
macs = 3e6

[stem]
kernel = 3
stride = 2
channels = [8, 16]

[[stage]]
block = "inverted_se"
stride = 2
channels = [8, 16, 24]
mid = [16, 32, 48]
kernel = [3, 5]
depth = [1, 2]

[[stage]]
block = "bottleneck"
stride = 2
channels = [16, 32]
mid = [8, 16]
kernel = 3
depth = [1, 2]
"""

TRUE = {
    "add": Rate(300.0, 0.0, 0.02),
    "dense": Rate(5000.0, 0.02, 0.05, 0.07),
    "depthwise": Rate(4000.0, 0.05, 0.02, 0.3),
    "depthwise+silu": Rate(9000.0, 0.05, 0.06, 0.3),
    "head": Rate(9000.0, 0.01, 0.0, 0.05),
    "pointwise": Rate(3000.0, 0.022, 0.02, 0.06),
    "pointwise+silu": Rate(6000.0, 0.022, 0.1, 0.06),
    "pool": Rate(7000.0, 0.0, 0.02),
    "squeeze-excite": Rate(20000.0, 0.0, 0.06, 0.1),
}


def toy(tmp_path: Path, text: str = TOY) -> Spec:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return profiling.load_spec(path)


def synthetic(noise: float, overhead: float = 20_000.0) -> tuple[Affine, list[Measured]]:
    truth = Affine(tuple(TRUE.items()), overhead)
    device = dataclasses.replace(DEVICE, latency=truth)
    generator = np.random.default_rng(0)
    items = []
    for name in ("mobile", "deepmad-r18", "deepmad-b0", "resnet-basic"):
        spec = profiling.load_spec(f"models/{name}/spec.toml")
        designs = profiling.networks(spec, 12, generator)
        drawn = [(str(operation), (operation,)) for operation in profiling.layers(spec, 150, generator)]
        drawn += [(design.name, tuple(o for o in design.operations() if o.present)) for design in designs]
        for label, operations in drawn:
            (exact,) = profiling.predicted(device, [Measured(label, operations, 0.0)])
            items.append(Measured(label, operations, exact * float(np.exp(noise * generator.standard_normal()))))
    return truth, items


def test_fit_recovers_what_made_the_times() -> None:
    truth, items = synthetic(0.0)
    found = profiling.fit(items)
    device = dataclasses.replace(DEVICE, latency=found)
    times = [item.nanoseconds for item in items]
    assert profiling.errors(times, profiling.predicted(device, items)).worst < 0.01
    assert found.overhead == pytest.approx(truth.overhead, rel=0.02)
    rates = dict(found.kinds)
    for kind in ("pointwise", "depthwise", "pointwise+silu"):
        for key in ("base", "macs", "bytes", "weights"):
            assert getattr(rates[kind], key) == pytest.approx(getattr(TRUE[kind], key), rel=0.01), (kind, key)


def test_fit_with_noise_stays_near_and_never_negative() -> None:
    _, items = synthetic(0.1)
    found = profiling.fit([item for number, item in enumerate(items) if number % 4])
    rates = dict(found.kinds)
    assert all(value >= 0 for rate in rates.values() for value in dataclasses.astuple(rate))
    assert rates["pointwise"].macs == pytest.approx(TRUE["pointwise"].macs, rel=0.15)
    assert rates["dense"].macs == pytest.approx(TRUE["dense"].macs, rel=0.15)
    device = dataclasses.replace(DEVICE, latency=found)
    held = [item for number, item in enumerate(items) if number % 4 == 0]
    off = profiling.errors([item.nanoseconds for item in held], profiling.predicted(device, held))
    assert off.mape < 15
    assert off.spearman > 0.95


def test_fit_of_layers_alone_has_no_overhead() -> None:
    _, items = synthetic(0.0)
    found = profiling.fit([item for item in items if len(item.operations) == 1])
    assert found.overhead == 0
    assert dict(found.kinds)["dense"].macs == pytest.approx(TRUE["dense"].macs, rel=0.01)


def test_errors_are_those_by_hand() -> None:
    measured, predictions = [1.0, 2.0, 4.0, 8.0], [1.1, 1.8, 4.4, 6.0]
    found = profiling.errors(measured, predictions)
    y, f = np.array(measured), np.array(predictions)
    assert found.mape == pytest.approx((10 + 10 + 10 + 25) / 4)
    assert found.worst == pytest.approx(25)
    assert found.r2 == pytest.approx(1 - ((y - f) ** 2).sum() / (len(y) * y.var()))
    assert found.spearman == pytest.approx(1)
    assert profiling.errors([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).spearman == pytest.approx(-1)
    empty = profiling.errors([], [])
    assert (empty.number, math.isnan(empty.mape)) == (0, True)
    assert math.isnan(profiling.errors([2.0], [1.0]).r2)


def test_networks_are_within_budgets_and_spread() -> None:
    spec = profiling.load_spec("models/deepmad-r18/spec.toml")
    designs = profiling.networks(spec, 10, np.random.default_rng(0))
    macs = [design.metrics.macs for design in designs]
    assert len(designs) == 10
    assert macs == sorted(macs)
    assert all(design.metrics.macs <= 1.82e9 and design.metrics.params <= 11.69e6 for design in designs)
    assert macs[-1] > 4 * macs[0]
    assert designs == profiling.networks(spec, 10, np.random.default_rng(0))


def test_spaces_whose_budgets_nothing_meets(tmp_path: Path) -> None:
    spec = toy(tmp_path, TOY.replace("3e6", "1e3"))
    with pytest.raises(InputError, match="no random architecture of the space is within the budgets"):
        profiling.networks(spec, 4, np.random.default_rng(0))


def test_clips_are_not_timed(tmp_path: Path) -> None:
    spec = toy(tmp_path, TOY.replace("classes = 10", "classes = 10\nframes = 8"))
    with pytest.raises(InputError, match=r"input\.frames = 8: only images are timed; must be left out"):
        profiling.profile([spec], Runtime("torch"))


def test_layers_are_of_all_kinds_and_different(tmp_path: Path) -> None:
    found = profiling.layers(toy(tmp_path), 500, np.random.default_rng(0))
    assert len(set(found)) == len(found)
    kinds = {operation.kind for operation in found}
    assert kinds >= {"dense", "pointwise", "pointwise+silu", "depthwise+silu", "depthwise", "squeeze-excite", "head"}
    assert kinds <= set(TRUE) | {"dense+silu"}
    assert len(profiling.layers(toy(tmp_path), 20, np.random.default_rng(0))) == 20


def test_grid_holds_whatever_the_space_needs(tmp_path: Path) -> None:
    spec = toy(tmp_path)
    points = profiling.grid(spec, points=4)
    table = Lookup(tuple(profiling._row(point, 1000.0) for point in points), interpolate=True)
    for design in profiling.networks(spec, 12, np.random.default_rng(1)):
        for operation in design.operations():
            if operation.present:
                assert not table.missing(operation), operation


def test_spec_is_read_without_its_device(tmp_path: Path) -> None:
    text = TOY.replace("macs = 3e6", 'macs = 3e6\nlatency = "5 ms"\neffectiveness = 0.1')
    path = tmp_path / "spec.toml"
    path.write_text(f'{text}\n[device]\nlatency = "not-there.toml"\n')
    spec = profiling.load_spec(path)
    assert spec.device is None
    assert list(spec.budget.given) == ["macs"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tvm", 1), "--runtime = tvm: must be one of onnxruntime, torch, cuda"),
        (("torch", 0), "--threads = 0: must be an integer from 1 to 1024"),
        (("onnxruntime", -2), "--threads = -2: must be an integer from 1 to 1024"),
    ],
)
def test_bad_runtimes(arguments: tuple[str, int], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Runtime(*arguments)
    assert str(caught.value) == sentence


def test_cuda_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        Runtime("cuda")
    assert str(caught.value) == "--runtime = cuda: torch finds no CUDA device here; must be onnxruntime or torch"


def test_importing_needs_no_torch() -> None:
    code = "import sys, mad_ip.profiling, mad_ip.reports.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_onnxruntime
@pytest.mark.parametrize("table", [False, True])
def test_profile_writes_a_device_that_designs_can_be_solved_for(tmp_path: Path, table: bool) -> None:
    spec = toy(tmp_path)
    heard: list[Progress] = []
    found = profiling.profile([spec], Runtime(), number=30, whole=8, table=table, watch=heard.append)
    assert {report.phase for report in heard} >= {"layers", "networks"}
    assert all(report.done <= report.total for report in heard)
    held = [item.operations[0] for item in found.layers if item.held]
    if table:
        # No row of the table is a test of it.
        assert not {operation[:7] for operation in held} & {row[:-1] for row in found.device.latency.rows}
    else:
        assert len(held) == len(found.layers) // 5
    assert sum(item.held for item in found.networks) == 2

    path = tmp_path / "device.toml"
    found.save(path)
    device = Device.load(path)
    assert device == found.device
    assert (device.activation_bytes, device.weight_bytes, device.channel_bytes) == (4, 4, 4)
    said = tomllib.loads(path.read_text())["measured"]
    assert said["runtime"] == "onnxruntime"
    assert said["threads"] == 1
    assert said["layers"] == len(found.layers)
    assert {"version", "processor", "date", "torch", "numpy", "held_networks", "network_mape"} <= set(said)

    longest = max(profiling.predicted(device, found.networks)) / 1e6
    limit = f'macs = 3e6\nlatency = "{longest} ms"'
    wanted = tmp_path / "wanted.toml"
    wanted.write_text(TOY.replace("macs = 3e6", limit) + '\n[device]\nlatency = "device.toml"\n')
    design = solve(Spec.load(wanted))
    assert design.certificate is not None
    assert COSTS["latency"].reported(design.spent("latency")) <= math.ceil(longest * 1e6)

    comparison = profiling.compared(design, device, Runtime("torch" if table else "onnxruntime"))
    assert comparison.predicted == COSTS["latency"].reported(design.spent("latency"))
    assert comparison.measured > 0
    assert comparison.noise >= 0
    profile_text, comparison_text = (
        _text(reports.profile_table(found)),
        _text(reports.comparison_table(comparison)),
    )
    assert "networks held out" in profile_text
    assert "toy" in comparison_text
    for suffix in reports.PLOTS:
        reports.plot(found, tmp_path / f"plot{suffix}")
        assert (tmp_path / f"plot{suffix}").stat().st_size > 1000


def _text(content: object) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def test_plots_need_a_known_suffix(tmp_path: Path) -> None:
    empty = profiling.Profile(DEVICE, (), (), {})
    with pytest.raises(InputError, match=r"--plot = .*plot\.pdf: must end in \.svg or \.png"):
        reports.plot(empty, tmp_path / "plot.pdf")


def test_comparison_by_hand() -> None:
    found = profiling.Comparison("x", (90.0, 110.0), 120.0)
    assert (found.measured, found.noise, found.off) == (100.0, 20.0, pytest.approx(20.0))
    assert profiling.Comparison("x", (90.0, 110.0), None).off is None


def test_device_without_times_predicts_nothing() -> None:
    design = Design.load("models/toy/design.json")
    with pytest.raises(InputError, match=r"has no table \[latency\]"):
        profiling.compared(design, Device("board"), Runtime("torch"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_every_kind_of_layer_can_be_timed(runtime: str) -> None:
    operations = [
        Operation("dense", 3, 0, 8, 3, 2, 16),
        Operation("dense+silu", 8, 0, 16, 3, 1, 16),
        Operation("pointwise", 8, 0, 12, 1, 1, 8),
        Operation("depthwise+silu", 16, 0, 16, 5, 2, 8),
        Operation("squeeze-excite", 16, 0, 16, 1, 1, 8),
        Operation("grouped", 16, 0, 16, 3, 1, 8, 16 * 8 * 9 * 64),
        Operation("pool", 8, 0, 8, 2, 2, 8),
        Operation("pool", 8, 0, 8, 7, 7, 7),
        Operation("add", 8, 0, 8, 1, 1, 8),
        Operation("head", 16, 0, 10, 1, 1, 1),
    ]
    if runtime == "onnxruntime" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("needs the extra export")
    times = timing.time_operations(operations, Runtime(runtime), rounds=2, group=4)
    assert len(times) == len(operations)
    assert all(math.isfinite(time) and time >= 0 for time in times)


_FLOATS = """
import sys
from mad_ip.device import Operation
from mad_ip.networks import timing

def subnormal():
    return sys.float_info.min / 2 > 0.0

seen = []
runtime = timing.Runtime("onnxruntime")
timing.time_operations([Operation("pointwise", 8, 0, 12, 1, 1, 8)], runtime, rounds=1)
seen.append(subnormal())
run = timing.run_of_module(timing.nn.Conv2d(3, 8, 3), (3, 8, 8), runtime)
seen.append(subnormal())

def looked():
    seen.append(subnormal())
    return run()

timing.in_turn([looked], runtime, rounds=1, burst=1)
seen.append(subnormal())
print(seen)
"""


@needs_onnxruntime
def test_what_is_computed_after_a_profile_has_all_floats() -> None:
    # In a process of its own: ONNX Runtime takes the option for subnormal numbers from the first session only.
    done = subprocess.run([sys.executable, "-c", _FLOATS], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "[True, True, False, False, True]"


@needs_onnxruntime
@pytest.mark.parametrize("name", ["toy"])
def test_graphs_of_designs_are_those_that_are_exported(name: str) -> None:
    import onnx

    from mad_ip.networks.export.programs import onnx_model

    def nodes(content: bytes) -> Counter[str]:
        found = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
        # An identity, and how a mean over pixels is written.
        del found["Reshape"], found["Identity"]
        return found

    design = Design.load(f"models/{name}/design.json")
    assert nodes(timing._onnx_of_design(design)) == nodes(onnx_model(Network(design).eval()))


@pytest.mark.parametrize("name", ["toy", "mcu-f412", "deepmad-b0"])
def test_traced_operations_are_those_of_the_design(name: str) -> None:
    design = dataclasses.replace(Design.load(f"models/{name}/design.json"), device=DEVICE)
    network = Network(design)
    own = Counter(operation._replace(present=1) for operation in design.operations() if operation.present)
    assert Counter(operations_of(network, design.resolution, DEVICE)) == own
    peak, where = live_numbers(network, design.resolution)
    assert 4 * peak == design.spent("activation")
    assert where
    peak, _ = live_numbers(network, design.resolution, memory="in-place")
    assert peak == design.on(BOARDS["stm32h743"].device).spent("activation")


def test_one_pixel_is_no_head_and_a_stride_is_what_is_given() -> None:
    """Of a network whose last features are of one pixel, and of a convolution without padding."""
    module, _ = load("torchvision:mobilenet_v2")
    kinds = Counter(operation.kind for operation in operations_of(module, 32, DEVICE))
    assert kinds == {"dense": 1, "depthwise": 17, "pointwise": 34, "add": 10, "pool": 1, "head": 1}
    (alone,) = operations_of(nn.Sequential(nn.Conv2d(3, 8, 7)), 9, DEVICE)
    assert (alone.kind, alone.stride, alone.macs) == ("dense", 1, 9 * 8 * 3 * 49)


def test_a_space_of_one_cost_has_networks(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    one = (
        TOY.partition("[[stage]]")[0]
        + '[[stage]]\nblock = "basic"\nstride = 2\nchannels = 8\nmid = 8\nkernel = 3\ndepth = 1\n'
    )
    path.write_text(re.sub(r"^channels = \[.*\]$", "channels = 8", one, flags=re.M))
    spec = profiling.load_spec(path)
    for number in (4, 5, 16, 59):
        assert len(profiling.networks(spec, number, np.random.default_rng(0))) == 1


def test_a_place_is_refused_before_minutes_are_spent(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(TOY)
    profile = ["device", "profile", str(spec), "--quiet", "--out"]
    measure = ["device", "measure", "models/toy/design.json"]
    for arguments, sentence in (
        ([*profile, str(tmp_path)], "is a folder; must be a file in one"),
        ([*profile, str(spec)], "would take the place of another file of this command"),
        ([*profile, str(tmp_path / "none" / "device.toml")], "its folder does not exist"),
        (
            [*profile, str(tmp_path / "a.svg"), "--plot", str(tmp_path / "a.svg")],
            "would take the place of another file",
        ),
        ([*profile, str(tmp_path / "a.toml"), "--runtime", "tvm"], "--runtime = tvm: must be one of"),
        ([*measure, "--threads", "99999999999"], "--threads = 99999999999: must be an integer from 1 to 1024"),
        ([*measure, "--device", "none.toml"], "none.toml: cannot be read"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from mad_ip.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert sentence in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["spec.toml"]
    assert spec.read_text() == TOY


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("torchvision:resnet18", {"dense": 17, "pointwise": 3, "pool": 2, "add": 8, "head": 1}),
        (
            "torchvision:mobilenet_v2",
            {"dense": 1, "depthwise": 17, "pointwise": 34, "add": 10, "pool": 1, "head": 1},
        ),
        (
            "torchvision:efficientnet_b0",
            {
                "dense+silu": 1,
                "depthwise+silu": 16,
                "pointwise+silu": 16,
                "pointwise": 16,
                "squeeze-excite": 16,
                "add": 9,
                "pool": 1,
                "head": 1,
            },
        ),
    ],
)
def test_operations_of_networks_that_others_made(name: str, kinds: dict[str, int]) -> None:
    pytest.importorskip("torchvision")
    module, resolution = load(name)
    assert Counter(operation.kind for operation in operations_of(module, resolution, DEVICE)) == kinds


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.two(x)], 1)


class Swish(nn.Module):
    """SiLU by hand, and hard swish; a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.one(x))
        x = nn.functional.hardswish(self.two(x * x.sigmoid()))
        return self.head(x.mean((2, 3)))


def test_operations_by_hand() -> None:
    found = operations_of(Swish(), 8, DEVICE)
    assert found == [
        Operation("dense+silu", 3, 0, 8, 3, 1, 8, 27 * 8 * 64, 4 * 11 * 64, 8 * 28 * 4),
        Operation("grouped+hardswish", 8, 0, 16, 3, 2, 8, 18 * 16 * 16, 4 * (8 * 64 + 16 * 16), 16 * 19 * 4),
        Operation("pool", 16, 0, 16, 4, 4, 4, 0, 4 * 16 * 17),
        Operation("head", 16, 0, 4, 1, 1, 1, 64, 4 * 20, 4 * 17 * 4),
    ]
    # The second convolution has 8 x 8 x 8 numbers before it and 16 x 4 x 4 after; the first 3 x 8 x 8 and 8 x 8 x 8.
    assert live_numbers(Swish(), 8) == (8 * 64 + 16 * 16, "two")


def test_what_devices_know_nothing_of() -> None:
    with pytest.raises(InputError, match="is no operation that devices have times of"):
        operations_of(Joined(), 8, DEVICE)
    with pytest.raises(InputError, match="cannot be traced at 8 pixels"):
        operations_of(nn.Sequential(nn.Conv2d(4, 8, 1)), 8, DEVICE)
