"""How well a profile of this machine predicts 30 networks that it has not seen: ``python -m tools.profile_benchmark``.

One space for every family of blocks, wide enough for networks of 0.1 to 12 billion multiply-accumulates at 224 pixels,
is profiled with ONNX Runtime. Then 10 networks of models/ and 20 of torchvision and timm, with random weights, are
measured twice and predicted from the list of their operations: the difference between the two measurements is the
noise, below which no prediction can be judged. A measurement is the faster of two passes over all networks, minutes
apart: neighbours that use the same caches slow everything for a while. Prints a Markdown table, errors last; ``--out``
also writes it, and ``--device`` the device.toml. Needs the extras ``export``, ``vision`` and ``timm``; takes about ten
minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mad_ip.design import Design
from mad_ip.device import Operation
from mad_ip.errors import InputError, MadIpError
from mad_ip.files import require_folder, write_atomically
from mad_ip.networks.score import load
from mad_ip.networks.timing import RUNTIMES, Run, Runtime, in_turn, run_of_design, run_of_module
from mad_ip.networks.trace_operations import operations_of
from mad_ip.profiling import DEVICE, Errors, Measured, Progress, errors, predicted, profile
from mad_ip.reports.device import line
from mad_ip.spec import Spec
from tools.markdown import table

__all__ = ["FOREIGN", "OURS", "main", "network_table", "spaces"]

OURS = (
    "models/deepmad-b0/design.json",
    "models/deepmad-r18/design.json",
    "models/deepmad-r34/design.json",
    "models/deepmad-r50/design.json",
    "models/deepmad-29m/design.json",
    "models/mobile/design.json",
    "models/resnet-basic/design.json",
    "models/published/deepmad-r18.json",
    "models/published/deepmad-r34.json",
    "models/published/deepmad-29m-224.json",
)

FOREIGN = (
    "torchvision:resnet18",
    "torchvision:resnet34",
    "torchvision:resnet50",
    "torchvision:resnet101",
    "torchvision:wide_resnet50_2",
    "torchvision:mobilenet_v2",
    "torchvision:mnasnet0_5",
    "torchvision:mnasnet0_75",
    "torchvision:mnasnet1_0",
    "torchvision:mnasnet1_3",
    "torchvision:efficientnet_b0",
    "torchvision:efficientnet_b1",
    "timm:resnet14t",
    "timm:resnet26",
    "timm:resnet26d",
    "timm:resnet50d",
    "timm:mobilenetv2_050",
    "timm:mobilenetv2_140",
    "timm:efficientnet_lite0",
    "timm:tinynet_a",
)


def spaces() -> list[Spec]:
    """What is profiled: a space for every family."""
    wide = {"min": 8, "max": 2048, "step": 8}
    residual = {"channels": wide, "mid": {"min": 8, "max": 1024, "step": 8}, "kernel": [3, 5]}
    inverted = {
        "channels": {"min": 8, "max": 512, "step": 8},
        "mid": {"min": 8, "max": 2048, "step": 8},
        "kernel": [3, 5, 7],
    }
    return [
        _space("basic", 7, (2, 1, 2, 2, 2), residual, 8e9, (0.25, 2)),
        _space("bottleneck", 3, (2, 1, 2, 2, 2), residual, 12e9, (0.125, 2)),
        _space("inverted", 3, (1, 2, 2, 2, 1, 2), inverted, 5e9, (1, 6)),
        _space("inverted_se", 3, (1, 2, 2, 2, 1, 2), inverted, 5e9, (1, 6)),
    ]


def _space(
    family: str, kernel: int, strides: Sequence[int], stage: dict[str, Any], macs: float, ratio: tuple[float, float]
) -> Spec:
    table: dict[str, Any] = {
        "name": family,
        "input": {"resolution": 224},
        "budget": {"macs": macs},
        "space": {"mid_ratio": list(ratio)},
        "stem": {"kernel": kernel, "stride": 2, "channels": {"min": 8, "max": 128, "step": 8}},
        "stage": [{"block": family, "stride": s, "depth": {"min": 1, "max": 8}, **stage} for s in strides],
    }
    if family.startswith("inverted"):
        table["tail"] = {"channels": {"min": 256, "max": 2048, "step": 64}}
    return Spec.from_table(table, source=family)


def network_table(measured: Sequence[Measured], again: Sequence[float], foretold: Sequence[float]) -> str:
    """One row for every network, in milliseconds, in Markdown."""
    rows = [
        [
            item.name,
            f"{sum(operation.macs for operation in item.operations) / 1e9:.3f}",
            f"{item.nanoseconds / 1e6:.2f}",
            f"{100 * (second / item.nanoseconds - 1):+.1f} %",
            f"{value / 1e6:.2f}",
            f"{100 * (value / item.nanoseconds - 1):+.1f} %",
        ]
        for item, second, value in zip(measured, again, foretold, strict=True)
    ]
    return table(["network", "GMACs", "measured", "again", "predicted", "off"], rows)


def main() -> int:
    """Run the tool; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.profile_benchmark", description=__doc__)
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=240, help="of every space")
    parser.add_argument("--networks", type=int, default=16, help="of every space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", type=Path)
    given = parser.parse_args()
    try:
        for option, path in (("--out", given.out), ("--device", given.device)):
            if path is not None:
                require_folder(option, path)
        runtime = Runtime(given.runtime, given.threads)
        shown = 0.0

        def watch(report: Progress) -> None:
            nonlocal shown
            if report.done == report.total or time.perf_counter() - shown > 10:
                shown = time.perf_counter()
                print(line(report), file=sys.stderr)

        found = profile(spaces(), runtime, number=given.layers, whole=given.networks, seed=given.seed, watch=watch)
        if given.device is not None:
            found.save(given.device)
        items, again = [], []
        for item, second in _measured(runtime):
            items.append(item)
            again.append(second)
    except MadIpError as error:
        print(f"profile_benchmark: {error}", file=sys.stderr)
        return error.exit_code
    foretold = predicted(found.device, items)
    first = [item.nanoseconds for item in items]
    sentences = [
        *(
            f"{noun}: {_text(found.errors_of(item for item in part if item.held))}"
            for noun, part in (("layers held out", found.layers), ("networks of the spaces held out", found.networks))
        ),
        f"the {len(items)} networks: {_text(errors(first, foretold))}",
        f"noise: {_text(errors(first, again))}",
        f"{runtime.name} {runtime.version}, threads {runtime.threads}, {found.measured['processor']}, "
        f"{found.measured['date']}",
    ]
    text = "\n".join([network_table(items, again, foretold), "", *sentences]) + "\n"
    print(text)
    if given.out is not None:
        write_atomically(given.out, text.encode())
    return 0


def _measured(runtime: Runtime) -> Iterator[tuple[Measured, float]]:
    """The 30 networks in four passes: the faster of the odd ones, and again of the even ones."""
    named: list[tuple[str, tuple[Operation, ...], Run]] = []
    for name in OURS:
        design = dataclasses.replace(Design.load(name), device=DEVICE)
        operations = tuple(operation for operation in design.operations() if operation.present)
        named.append((name.removeprefix("models/"), operations, run_of_design(design, runtime)))
    # What exporters say of their own work.
    logging.disable(logging.WARNING)
    for name in FOREIGN:
        module, resolution = load(name)
        operations = tuple(operations_of(module, resolution, DEVICE))
        if any(parameter.is_meta for parameter in module.parameters()):
            module = module.to_empty(device="cpu")
            module.apply(_initialise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            named.append((name, operations, run_of_module(module, (3, resolution, resolution), runtime)))
        print(f"{name}: exported", file=sys.stderr)
    passes = []
    for number in range(4):
        passes.append([in_turn([run], runtime)[0] for _, _, run in named])
        print(f"pass {number + 1} of 4", file=sys.stderr)
    for (name, operations, _), (one, two, three, four) in zip(named, zip(*passes, strict=True), strict=True):
        yield Measured(name, operations, min(one, three)), min(two, four)


def _initialise(module: nn.Module) -> None:
    """Weights of any kind: memory that was only reserved may hold numbers with which processors are slow."""
    reset = getattr(module, "reset_parameters", None)
    if reset is None and list(module.parameters(recurse=False)):
        raise InputError(f"{type(module).__name__}: has weights of its own, which are not understood")
    if reset is not None:
        with torch.no_grad():
            reset()


def _text(found: Errors) -> str:
    return (
        f"mean error {found.mape:.1f} %, largest {found.worst:.1f} %, R2 {found.r2:.4f}, rank correlation "
        f"{found.spearman:.4f}, {found.number} of them"
    )


if __name__ == "__main__":
    sys.exit(main())
