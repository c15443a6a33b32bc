"""Images per second of the zoo's networks against timm's ResNets of the same budget, on a GPU, all in one run.

    python -m tools.throughput

Inference in bfloat16, channels last, through ``torch.compile``. The networks take turns, round by round, and the
median round counts: what else happens on the machine meets all of them alike. Prints a Markdown table. Needs the extra
``timm``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mad_ip.errors import InputError, MadIpError

__all__ = ["PAIRS", "main", "throughputs"]

PAIRS = (("deepmad_r18", "resnet18"), ("deepmad_r50", "resnet50"))
"""Zoo models, by timm's names without ``madip_``, and the ResNets whose budgets they have."""


def throughputs(
    names: Sequence[str], device: str, batch: int, resolution: int, rounds: int, iterations: int, compiled: bool
) -> dict[str, float]:
    """Images per second of timm's models ``names``: the median of ``rounds`` of ``iterations`` batches each.

    Raises :class:`InputError` without timm, or where ``device`` is a GPU that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is at hand; must be cuda on a machine with a GPU, or cpu for a dry run")
    # First ours, which registers the zoo and names the extra where timm is missing.
    from mad_ip.networks.timm import timm

    images = torch.randn(batch, 3, resolution, resolution, device=device, dtype=torch.bfloat16)
    images = images.to(memory_format=torch.channels_last)
    models = {}
    for name in names:
        model = timm.create_model(name).eval().to(device, torch.bfloat16, memory_format=torch.channels_last)
        models[name] = torch.compile(model) if compiled else model
    rates: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for model in models.values():
            _seconds(model, images, 3)
        for _ in range(rounds):
            for name, model in models.items():
                rates[name].append(batch * iterations / _seconds(model, images, iterations))
    return {name: statistics.median(values) for name, values in rates.items()}


def _seconds(model: Callable[[Tensor], Any], images: Tensor, iterations: int) -> float:
    _wait(images)
    began = time.perf_counter()
    for _ in range(iterations):
        model(images)
    _wait(images)
    return time.perf_counter() - began


def _wait(images: Tensor) -> None:
    """Until the GPU has done what it was given."""
    if images.is_cuda:
        torch.cuda.synchronize()


def _table(rates: dict[str, float]) -> str:
    lines = ["| network | images/s | against | images/s | ratio |", "| --- | ---: | --- | ---: | ---: |"]
    for ours, theirs in PAIRS:
        own, other = rates[f"madip_{ours}"], rates[theirs]
        lines.append(f"| {ours.replace('_', '-')} | {own:,.1f} | {theirs} | {other:,.1f} | {own / other:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table; exit code 2 with one sentence where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m tools.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20, help="batches of a round")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args(arguments)
    for name in ("batch", "resolution", "rounds", "iterations"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: must be an integer of at least 1")
    names = [name for ours, theirs in PAIRS for name in (f"madip_{ours}", theirs)]
    try:
        rates = throughputs(
            names,
            options.device,
            options.batch,
            options.resolution,
            options.rounds,
            options.iterations,
            not options.eager,
        )
    except MadIpError as error:
        print(f"throughput: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    how = "eager" if options.eager else "torch.compile"
    print(f"{device}, bf16, channels_last, {how}, batch {options.batch}, {options.resolution} pixels:\n")
    print(_table(rates))


if __name__ == "__main__":
    main()
