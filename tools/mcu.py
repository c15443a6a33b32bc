"""Published networks for microcontrollers against the proven optimum: ``python -m tools.mcu``.

The networks are MCUNet's (github.com/mit-han-lab/tinyml, MIT), imported by ``mad-ip import --format mcunet``. Each is
compared at its own MACs and input size, within the memory and flash of its board, on the grid of the zoo's spec for
that board. Its effectiveness is allowed where it is above the spec's. Its depth penalty is that of equal depths.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mad_ip.design import Design, DeviceMetrics
from mad_ip.device import BOARDS, Device
from mad_ip.errors import InputError
from mad_ip.files import resource
from mad_ip.memory import tinyengine_memory
from mad_ip.solve import solve
from mad_ip.spec import Budget, Spec
from tools.markdown import rewrite, table

__all__ = ["NETWORKS", "Comparison", "compare", "mcu_table"]

NETWORKS = {
    "mcunet-256kb-1mb": "stm32f412",
    "mcunet-5fps": "stm32f746",
    "mcunet-512kb-2mb": "stm32h743",
}
"""Published networks and the boards that they are published for; strides must divide their input sizes."""


class Comparison(NamedTuple):
    """A published network on its board, and the best design at its MACs there."""

    network: Design
    ours: Design


def compare(name: str, *, gap: float = 1e-6, threads: int = 1) -> Comparison:
    """Solve at the MACs of the published network ``name``; raise :class:`InputError` for an unknown one."""
    path = resource(f"models/mcunet/{name}.json")
    if path is None:
        raise InputError(f"models/mcunet/{name}.json: does not exist; must be one of {', '.join(NETWORKS)}")
    board = NETWORKS[name]
    network = Design.load(path).on(BOARDS[board].device)
    spec = Spec.load(path.parent.parent / f"mcu-{board.removeprefix('stm32')}" / "spec.toml")
    ratio = max(network.metrics.effectiveness, spec.budget.effectiveness or 0.0)
    budget = Budget(**spec.budget.given | {"macs": network.metrics.macs, "effectiveness": ratio})
    size = network.resolution // spec.stem.stride
    stages = []
    for stage in spec.stages:
        size //= stage.stride
        stages.append(dataclasses.replace(stage, kernel=tuple(kernel for kernel in stage.kernel if kernel <= size)))
    problem = dataclasses.replace(
        spec,
        name=f"{name}-optimum",
        input=dataclasses.replace(spec.input, resolution=network.resolution),
        stages=tuple(stages),
        budget=budget,
        sha256="",
    )
    return Comparison(network, solve(problem, gap=gap, threads=threads))


def _taken(design: Design) -> DeviceMetrics:
    assert isinstance(design.metrics, DeviceMetrics)
    return design.metrics


def mcu_table(comparisons: Iterable[Comparison]) -> str:
    """One row for each comparison, in Markdown."""
    rows = []
    for network, ours in comparisons:
        certificate, device = ours.certificate, ours.device
        assert certificate is not None
        assert device is not None
        plain, theirs = network.on(Device()), _taken(network)
        own = _taken(ours)
        rows.append(
            [
                network.name,
                device.name,
                str(network.resolution),
                f"{network.metrics.macs:,}",
                f"{_taken(plain).activation / 1024:,.1f}",
                f"{tinyengine_memory(network) / 1024:,.1f}",
                *(f"{theirs.activation:,}", f"{theirs.flash:,}", f"{theirs.score:,.1f}"),
                *(f"{own.activation:,}", f"{own.flash:,}", f"{own.score:,.1f}"),
                f"{certificate.gap:.0e}",
                f"{network.metrics.score / ours.metrics.score:.1%}",
            ]
        )
    header = ["network", "board", "pixels", "MACs", "plain KiB", "TinyEngine KiB"]
    both = ["activation", "flash", "score"]
    return table([*header, *both, *(f"our {key}" for key in both), "gap", "share"], rows)


def main() -> None:
    """Write the table into docs/devices.md."""
    parser = argparse.ArgumentParser(prog="python -m tools.mcu", description=main.__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of one solve (default 2)")
    arguments = parser.parse_args()
    rewrite(Path("docs/devices.md"), mcu=mcu_table(compare(name, threads=arguments.threads) for name in NETWORKS))


if __name__ == "__main__":
    main()
