"""What is right before it is spoilt: specs, designs, certificates, weights, checkpoints, tables, all of them small."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import math
import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from tools.fuzz.mcunet import network
from tools.fuzz.values import json_bytes, toml_bytes

__all__ = ["DEVICES", "LARGEST", "MCUNET", "ROOT", "SPECS", "make", "oracle", "small_table"]

ROOT = Path(__file__).parents[2]

LARGEST = 3000
"""Architectures of a drawn space, at most: so many are enumerated in 50 ms."""

_WIDTHS = (8, 16, 24, 32, 48, 64)


def oracle() -> ModuleType:
    """The exhaustive enumeration of the tests, which shares no code with mad_ip."""
    if "oracle" not in sys.modules:
        specification = importlib.util.spec_from_file_location("oracle", ROOT / "tests" / "oracle.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules["oracle"] = module
        specification.loader.exec_module(module)
    return sys.modules["oracle"]


def small_table(draw: Random, largest: int = LARGEST) -> dict[str, Any]:
    """A valid spec as a table, of at most so many architectures."""
    room = largest

    def domain(values: tuple[int, ...], most: int) -> Any:
        nonlocal room
        number = draw.randint(1, max(1, min(most, room, len(values))))
        room //= number
        found = sorted(draw.sample(values, number))
        return found[0] if number == 1 and draw.random() < 0.5 else found

    def depth() -> Any:
        nonlocal room
        low, number = draw.randint(1, 3), draw.randint(1, max(1, min(4, room)))
        room //= number
        return {"min": low, "max": low + number - 1} if draw.random() < 0.5 else list(range(low, low + number))

    strides = [draw.choice([1, 2, 2]) for _ in range(draw.choice([1, 2, 2, 3]))]
    table: dict[str, Any] = {"name": draw.choice(["net", "größer", 'odd "name"', "[b]old[/b]"])}
    if draw.random() < 0.5:
        table["convention"] = draw.choice(["paper", "tinynas"])
    table["input"] = {"resolution": 2 * math.prod(strides) * draw.choice([2, 4, 7])}
    table["stem"] = {"kernel": 3, "stride": draw.choice([1, 2]), "channels": domain(_WIDTHS[:3], 2)}
    table["stage"] = [
        {
            "block": draw.choice(["basic", "bottleneck", "inverted", "inverted_se"]),
            "stride": stride,
            "channels": domain(_WIDTHS, 3),
            "mid": domain(_WIDTHS, 2),
            "kernel": domain((1, 3), 2),
            "depth": depth(),
        }
        for stride in strides
    ]
    if draw.random() < 0.3:
        table["input"]["classes"] = draw.choice([0, 1, 10])
    if draw.random() < 0.3:
        table["tail"] = {"channels": domain((64, 100, 128), 2)}
    if draw.random() < 0.3:
        table["space"] = {"monotone": False, "mid_ratio": [0.25, 4]}
    if draw.random() < 0.3:
        table["objective"] = {"depth_penalty": draw.choice([0, 0.1, 10, 200])}
    if draw.random() < 0.2:
        table["input"]["frames"] = draw.choice([1, 4, 7])
        table["stage"][0] |= {"temporal_kernel": 1, "temporal_stride": draw.choice([1, 2])}
    if draw.random() < 0.2:
        for level in table["stage"]:
            level["weight"] = draw.choice([0.5, 1, 3])
    return table


def _stage(**changes: Any) -> dict[str, Any]:
    stage = {
        "block": "bottleneck",
        "stride": 2,
        "channels": [16, 32],
        "mid": [8, 16],
        "kernel": [3, 5],
        "depth": [1, 2],
    }
    return {**stage, **changes}


SPECS: dict[str, dict[str, Any]] = {
    "small": {
        "name": "small",
        "input": {"resolution": 32, "classes": 3},
        "budget": {"macs": 4e6, "params": 50e3, "effectiveness": 0.5},
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
        "stage": [_stage(), _stage(channels=[32, 64], mid=[16, 32], kernel=3, depth={"min": 1, "max": 3})],
    },
    "inverted": {
        "name": "inverted",
        "convention": "tinynas",
        "input": {"resolution": 48, "classes": 10},
        "budget": {"macs": 2e6, "layers": 20},
        "space": {"growth": 4, "mid_ratio": [0.5, 6]},
        "objective": {"depth_penalty": 1.5},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [_stage(block="inverted"), _stage(block="inverted_se", channels=[24, 32], mid=[32, 48])],
        "tail": {"channels": [64, 128]},
    },
    "clip": {
        "name": "clip",
        "input": {"resolution": 32, "frames": 16},
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16], "temporal_kernel": 3, "temporal_stride": 2},
        "stage": [_stage(temporal_kernel=1, temporal_stride=2), _stage(channels=[32, 48], temporal_kernel=3)],
    },
    "board": {
        "name": "board",
        "device": "stm32f412",
        "input": {"resolution": 48, "classes": 10},
        "budget": {"macs": 2e6, "activation": "24 kB", "flash": 40000},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [_stage(block="inverted"), _stage(block="inverted", channels=[24, 32])],
    },
    "timed": {
        "name": "timed",
        "device": {"latency": "device.toml", "activation_bytes": 4, "weight_bytes": 4},
        "input": {"resolution": 32},
        "budget": {"latency": "1 ms"},
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
        "stage": [_stage(), _stage(channels=[32, 64])],
    },
    "valued": {
        "name": "valued",
        "input": {"resolution": 32},
        "budget": {"macs": 4e6},
        "objective": {
            "entropy": 0.5,
            "utility": [
                {"stage": 1, "channels": {"log": 12.5, "linear": -0.01}, "kernel": {"3": 0.0, "5": 1.5}},
                {"stage": "stem", "channels": {"8": 0.0, "16": 2.0}},
            ],
        },
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
        "stage": [_stage(), _stage(channels=[32, 64])],
    },
    "mlp": {
        "kind": "mlp",
        "name": "mlp",
        "input": {"features": 64, "classes": 10},
        "budget": {"params": 1e5, "effectiveness": 0.05},
        "space": {"widths": {"min": 16, "max": 128, "step": 16}, "depth": {"min": 2, "max": 6}},
    },
}

DEVICES: dict[str, dict[str, Any]] = {
    "affine": {
        "format": "mad-ip/device/1",
        "name": "affine",
        "activation_bytes": 4,
        "weight_bytes": 4,
        "latency": {
            "model": "affine",
            "overhead": 20000.0,
            "unmodelled": ["pool", "add"],
            "kinds": {
                kind: {"base": 1500.0, "macs": 0.021, "bytes": 0.05, "weights": 0.01}
                for kind in ("pointwise", "dense", "head")
            },
        },
    },
    "table": {
        "format": "mad-ip/device/1",
        "name": "table",
        "latency": {
            "model": "table",
            "unmodelled": ["add", "pool", "head"],
            "interpolate": True,
            "table": "kind c_in c_out kernel stride size nanoseconds\n"
            + "".join(
                f"{kind} {c_in} {c_out} {kernel} {stride} {size} {c_in * c_out * kernel + size}\n"
                for kind, kernel in (("dense", 3), ("dense", 5), ("pointwise", 1))
                for c_in in (3, 8, 64)
                for c_out in (8, 64)
                for stride in (1, 2)
                for size in (8, 16, 32)
            ),
        },
    },
}

STRUCTURE = """{'best_structures': [[
  {'class': 'ConvKXBNRELU', 'in': 3, 'k': 3, 'out': 32, 's': 2},
  {'L': 1, 'btn': 40, 'class': 'SuperResK1KXK1', 'in': 32, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 96, 's': 2},
  {'L': 6, 'btn': 40, 'class': 'SuperResK1KXK1', 'in': 96, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 384, 's': 2},
  {'L': 2, 'btn': 104, 'class': 'SuperResK1DWSEK1', 'in': 384, 'k': 3, 'out': 128, 's': 1},
  {'class': 'ConvKXBNRELU', 'in': 128, 'k': 1, 'out': 256, 's': 1}]],
 'space_arch': 'CnnNet'}
"""


MCUNET = network(((16, None, 1, 8, 3, 1), (8, None, 6, 16, 3, 2), (16, None, 6, 16, 3, 1)), 64, classes=10)

TINYNAS_TABLE = "".join(
    f"{{{kind},1,{c},{side},{side},{c},3,{stride},0}}  {c * side / 1000}\n"
    for kind in ("Regular", "Depthwise")
    for c in (8, 16)
    for side in (16, 32)
    for stride in (1, 2)
)

ONCE_FOR_ALL = "".join(
    f"{name}:\n  count: 50\n  mean: {time}\n"
    for name, time in (
        ("Conv-input:160x160x3-output:80x80x24", 1.5),
        ("expanded_conv-input:80x80x24-output:40x40x32-expand:4-kernel:3-stride:2-idskip:0-se:0-hs:0", 2.25),
        ("Conv_1-input:5x5x160-output:5x5x960", 0.5),
    )
)


def make(folder: Path) -> dict[str, bytes]:
    """Everything, by name; made in a folder."""
    files: dict[str, bytes] = {f"{name}.toml": toml_bytes(table) for name, table in SPECS.items()}
    files |= {f"device-{name}.toml": toml_bytes(table) for name, table in DEVICES.items()}
    files |= {"structure.txt": STRUCTURE.encode(), "mcunet.json": json_bytes(MCUNET)}
    files |= {"latencies.txt": TINYNAS_TABLE.encode(), "latencies.yaml": ONCE_FOR_ALL.encode()}
    for name in ("toy", "mobile"):
        for file in ("spec.toml", "design.json"):
            files[f"zoo-{name}-{file}"] = (ROOT / "models" / name / file).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name in SPECS:
        (folder / f"{name}.toml").write_bytes(files[f"{name}.toml"])
    (folder / "device.toml").write_bytes(files["device-affine.toml"])
    _designs(folder, files)
    _trained(folder, files)
    return files


def _designs(folder: Path, files: dict[str, bytes]) -> None:
    """The best design of each spec, another with a true certificate, the certificates of both bounds, and runs."""
    from mad_ip.backends import Profile
    from mad_ip.design import Design, relative_gap
    from mad_ip.kinds import spec_kind
    from mad_ip.solve import solve
    from mad_ip.spec import Spec
    from mad_ip.verification.bound import bound

    mlp = folder / "mlp.toml"
    files["mlp.json"] = spec_kind(mlp).solve(spec_kind(mlp).load_spec(mlp))[0][0].to_json().encode()
    for name in SPECS:
        if name == "mlp":
            continue
        spec = Spec.load(folder / f"{name}.toml")
        best = solve(spec, profile=Profile("decomposition"))
        files[f"{name}.json"] = best.to_json().encode()
        (folder / f"{name}.json").write_bytes(files[f"{name}.json"])
        if name not in ("small", "inverted"):
            continue
        fitting = [found for found in oracle().architectures(spec) if oracle().fits(spec.budget, found)]
        fitting.sort(key=lambda found: found.score)
        worse = Design.chosen(spec, fitting[len(fitting) // 2].path)
        top, assured = best.metrics.score, best.certificate
        assert assured is not None
        claim = dataclasses.replace(
            assured, status="feasible", bound=assured.bound, gap=relative_gap(worse.metrics.score, assured.bound)
        )
        assert worse.metrics.score < top
        worse = dataclasses.replace(worse, certificate=claim)
        files[f"{name}-worse.json"] = worse.to_json().encode()
        files[f"{name}-bound.json"] = json_bytes(bound(spec, best).certificate)
        files[f"{name}-worse-bound.json"] = json_bytes(bound(spec, worse).certificate)
    draw = Random(0)  # noqa: S311 (no secrets)
    chosen = draw.sample(oracle().architectures(Spec.load(folder / "small.toml")), 12)
    rows = ["design,accuracy,seed,recipe"]
    for number, architecture in enumerate(chosen):
        design = Design.chosen(Spec.load(folder / "small.toml"), architecture.path)
        files[f"run-{number}.json"] = design.to_json().encode()
        rows.append(f"run-{number}.json,{0.5 + architecture.score / 1e5 + number % 3 / 100:.4f},0,sgd")
    files["runs.csv"] = ("\n".join(rows) + "\n").encode()


def _trained(folder: Path, files: dict[str, bytes]) -> None:
    """Images, a training that was cut and one that was not, and weights in both formats."""
    import numpy as np
    import torch
    from PIL import Image

    from mad_ip.design import Design
    from mad_ip.networks import save_weights, training
    from mad_ip.networks.network import Network

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        encoded = []
        for _ in range(12):
            stream = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG")
            encoded.append(stream.getvalue())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[f"{split}_end"] = np.cumsum([len(content) for content in encoded])
        arrays[f"{split}_label"] = np.arange(12, dtype=np.uint8) % 3
    np.savez(folder / "images.npz", **arrays)
    files["images.npz"] = (folder / "images.npz").read_bytes()
    design = Design.load(folder / "small.json")
    recipe = training.Recipe(epochs=2, batch=6)
    asked = iter([False, True])
    cut = folder / "cut"
    with contextlib.suppress(training.Interrupted):
        training.train(design, folder / "images.npz", cut, recipe, threads=1, interrupted=lambda: next(asked, True))
    files["checkpoint.pt"] = (cut / "checkpoint.pt").read_bytes()
    training.train(design, folder / "images.npz", cut, recipe, threads=1)
    files["result.json"] = (cut / "result.json").read_bytes()
    for suffix in ("safetensors", "pt"):
        save_weights(Network(design), folder / f"weights.{suffix}")
        files[f"weights.{suffix}"] = (folder / f"weights.{suffix}").read_bytes()
