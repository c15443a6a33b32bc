"""What layers cost: the registry of budgets, for single integers and arrays alike (docs/formulation.md section 1).

A budget of the key ``macs`` limits what :data:`COSTS` says of ``macs``. Whatever lists, prices, searches, enumerates or
checks designs loops over this registry: a new budget is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mad_ip.blocks import Amount, Layer

__all__ = ["COSTS", "Cost", "macs", "params"]


@dataclass(frozen=True)
class Cost:
    """A quantity that a budget limits, an exact integer.

    ``terms`` gives what a block's layers cost, of which the stem, the tail and the head are one each: amounts that
    ``combine`` to the block's own, as the blocks' do to the network's. Each is that of one layer or of two neighbours,
    so that it depends on at most two of the block's three widths. ``terms`` is also told whether the block opens its
    segment. No amount is negative.
    """

    key: str
    unit: str
    terms: Callable[[Sequence[Layer], bool], Iterable[Amount]]
    combine: Literal["sum", "max"] = "sum"

    def of_segment(
        self, before: Amount, first: Sequence[Layer], rest: Sequence[Layer], head: Sequence[Layer], depth: Amount
    ) -> Amount:
        """What a network costs up to the end of a segment: ``before`` it, its first block, ``depth - 1`` further ones
        of the layers ``rest``, and the head where it follows.
        """
        parts = [*self.terms(first, True), *self.terms(head, True)]
        more = depth - 1
        if self.combine == "sum":
            return before + sum(parts) + more * sum(self.terms(rest, False))
        for amount in (*parts, *((more > 0) * amount for amount in self.terms(rest, False))):
            before = before + (amount - before) * (amount > before)
        return before


def _macs(layer: Layer) -> Amount:
    return layer.positions * layer.out_channels * layer.width * layer.present


def _params(layer: Layer) -> Amount:
    return layer.out_channels * (layer.width + layer.bias + 2 * layer.norm) * layer.present


COSTS: dict[str, Cost] = {
    "macs": Cost("macs", "MACs", lambda layers, opens: map(_macs, layers)),
    "params": Cost("params", "parameters", lambda layers, opens: map(_params, layers)),
    "layers": Cost("layers", "counted layers", lambda layers, opens: (layer.counted * 1 for layer in layers)),
}
"""Multiply-accumulates at batch 1, what ``torch.utils.flop_counter`` reports divided by 2; learnable numbers: kernels,
biases, and the scale and shift of every batch normalisation; counted layers.
"""


def macs(layers: Iterable[Layer]) -> Any:
    """Multiply-accumulates of a list of layers."""
    return sum(map(_macs, layers))


def params(layers: Iterable[Layer]) -> Any:
    """Learnable numbers of a list of layers."""
    return sum(map(_params, layers))
