"""The MLP of largest entropy within the budgets, proven, by labels set layer by layer (docs/mlp.md).

For a number ``L`` of layers, entropy and effectiveness depend on ``S = sum ln w_i`` alone: the entropy grows with S and
the effectiveness falls. So the largest S within the budgets decides both, and the bound on the effectiveness is a
floor under S. The largest S is a longest path through the columns of widths with one or two budgets on its edges.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mad_ip import __version__, cost, entropy
from mad_ip.design import relative_gap
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.mlp.design import Certificate, MlpDesign, linear, violations
from mad_ip.mlp.spec import MlpSpec
from mad_ip.solve import InfeasibleError, NoDesignError, Report
from mad_ip.spec import Budget

__all__ = ["solve"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MARGIN = 1e-10
"""Relative slack before a bound drops a label, for the rounding of sums."""

_DUAL_GAP = 1e-9
"""Relative gap at which the multipliers are good enough; any multipliers are valid."""

_FIRST_SLACK = 1e-8
"""How far below its bound, relatively, the optimum is looked for first."""

_LARGEST_PRICE = 1e3
"""Of a budget, in units of the largest S: beyond it, only budgets missed by less than a thousandth matter."""

_WIDENING = 2
"""Factor by which the next search looks further below the bound."""

_MOST_PLANES = 200
"""Prices tried for one number of layers; one or two budgets need some ten."""

_PAIRS_AT_ONCE = 2**22
"""Extensions of labels looked at together: some 100 MB."""

_UNLIMITED = 2**62
"""No network costs as much (see the limits in :mod:`mad_ip.mlp.spec`)."""

_COSTS = {"params": cost.params, "macs": cost.macs}


class _StoppedError(Exception):
    """The time limit or the user ended a search."""


def solve(
    spec: MlpSpec,
    *,
    time_limit: float = math.inf,
    gap: float = 1e-6,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> MlpDesign:
    """The MLP of largest entropy within the budgets of ``spec``, with its certificate.

    The search goes to the exact optimum, whatever ``gap``; where ``time_limit`` (seconds) or ``interrupted`` ends it
    before, the status is ``optimal`` if bound and entropy are within the relative ``gap``, ``feasible`` otherwise.

    Raises :class:`InfeasibleError` when no network meets the budgets, :class:`NoDesignError` when it had to stop
    before one was found.
    """
    search = _Search(spec, time_limit, watch, interrupted)
    search.run()
    design, bound = search.design, search.bound
    if design is None:
        if search.open:
            raise NoDesignError("stopped before any design that meets the budgets was found")
        raise InfeasibleError(_explain(spec, search.stopped))
    left = relative_gap(design.metrics.entropy, bound)
    certificate = Certificate(
        backend="labels",
        version=__version__,
        status="optimal" if left <= gap else "feasible",
        bound=bound,
        gap=left,
        seconds=round(search.elapsed, 3),
        architectures=spec.architectures,
    )
    return dataclasses.replace(design, certificate=certificate)


class _Search:
    """The best network so far, and for every number of layers still ``open`` a bound on S."""

    def __init__(
        self, spec: MlpSpec, time_limit: float, watch: Callable[[Report], None] | None, interrupted: Callable[[], bool]
    ) -> None:
        self.spec, self.time_limit, self.watch, self.interrupted = spec, time_limit, watch, interrupted
        self.began = time.perf_counter()
        most = math.inf if spec.budget.layers is None else spec.budget.layers
        low, step = math.log(spec.input.features), math.log(max(spec.space.widths))
        self.open = {depth: low + (depth - 1) * step for depth in spec.space.depth if depth <= most}
        self.design: MlpDesign | None = None
        self.phase = "bounds"

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def stopped(self) -> bool:
        """Whether the time limit is passed or the user wants to stop."""
        return self.interrupted() or self.elapsed > self.time_limit

    @property
    def log_width(self) -> float:
        """S of the best network so far."""
        return -math.inf if self.design is None else entropy.log_width(self.design.layers())

    @property
    def bound(self) -> float:
        """An upper bound on the entropy."""
        best = -math.inf if self.design is None else self.design.metrics.entropy
        return max(best, self.spec.input.classes * max(self.open.values(), default=-math.inf))

    def run(self) -> None:
        """Search every number of layers to its end, the most promising first, or until stopped."""
        grid = _Grid(self.spec)
        chains = {depth: _Chain(grid, depth) for depth in self.open}
        floors = {depth: _floor(self.spec, depth) for depth in self.open}
        try:
            for depth, chain in chains.items():
                # The paths met on the way to the bound are the first incumbents.
                for path in chain.tighten(self.stopped):
                    self._accept(path)
                self.open[depth] = chain.bound
                if not chain.may_reach(floors[depth]):
                    del self.open[depth]
                self._report()
            self.phase = "labels"
            for depth in sorted(self.open, key=lambda depth: -chains[depth].bound):
                found = chains[depth].widest(max(self.log_width, floors[depth]), self.stopped)
                if found is not None:
                    self._accept(found)
                del self.open[depth]
                self._report()
        except _StoppedError:
            return

    def _accept(self, path: _Path) -> None:
        """Take a path as the incumbent if it is better and feasible, in exact integers."""
        design = MlpDesign.chosen(self.spec, tuple(self.spec.space.widths[node] for node in path.nodes[1:-1]))
        if entropy.log_width(design.layers()) > self.log_width and not violations(self.spec, design):
            self.design = design

    def _report(self) -> None:
        if self.watch is not None:
            score = -math.inf if self.design is None else self.design.metrics.entropy
            self.watch(Report(self.phase, score, self.bound, self.elapsed))


def _floor(spec: MlpSpec, depth: int) -> float:
    """The least S that the effectiveness allows at a number of layers."""
    ratio = spec.budget.effectiveness
    if ratio is None:
        return 0.0
    return float(entropy.effectiveness_floor(depth, ratio * (1 + EFFECTIVENESS_TOLERANCE)))


@dataclass(frozen=True)
class _Path:
    """The node taken in every column (features, hidden widths, classes), its costs and its S."""

    nodes: tuple[int, ...]
    costs: Integers
    log_width: float


class _Grid:
    """Columns of nodes and the costs of the layers between them, exact: one matrix for every budget on a sum."""

    def __init__(self, spec: MlpSpec) -> None:
        limits = {key: getattr(spec.budget, key) for key in _COSTS}
        self.budgets = tuple(key for key, limit in limits.items() if limit is not None)
        self.limits = np.array([math.floor(min(limits[key], _UNLIMITED)) for key in self.budgets], np.int64)
        widths = np.array(spec.space.widths, np.int64)
        self.features, self.classes = np.array([spec.input.features]), np.array([spec.input.classes])
        self.log_features = math.log(spec.input.features)
        self.log_widths: Floats = np.log(widths)
        pairs = {
            "direct": (self.features, self.classes),
            "first": (self.features, widths),
            "inner": (widths, widths),
            "last": (widths, self.classes),
        }
        self.costs: dict[str, Integers] = {}
        for name, (w_in, w_out) in pairs.items():
            layers = (linear(w_in[:, None], w_out[None, :]),)
            matrices = [_COSTS[key](layers) for key in self.budgets]
            self.costs[name] = np.array(matrices, np.int64).reshape(-1, len(w_in), len(w_out))

    def cheapest(self, depth: int) -> list[Integers]:
        """For every column, the least cost by budget (rows) of the layers after each of its nodes."""
        least = [np.zeros((len(self.budgets), 1), np.int64)]
        for name in reversed(_layers(depth)):
            least.append((self.costs[name] + least[-1][:, None, :]).min(axis=2))
        return least[::-1]


def _layers(depth: int) -> list[str]:
    """The keys of the grid's costs for a network of ``depth`` layers, in forward order."""
    return ["direct"] if depth == 1 else ["first", *["inner"] * (depth - 2), "last"]


class _Chain:
    """The networks of one number of layers as paths, with an upper bound on their S."""

    def __init__(self, grid: _Grid, depth: int) -> None:
        self.grid, self.layers = grid, _layers(depth)
        self.gains: list[Floats] = [grid.log_widths] * (depth - 1) + [np.zeros(1)]
        self.bound = math.inf
        self.prices = np.zeros(len(grid.budgets))
        self.values: list[Floats] = []

    def tighten(self, stopped: Callable[[], bool]) -> list[_Path]:
        """Minimise the Lagrangian bound over the prices of the budgets, by cutting planes; return the paths met."""
        limits = self.grid.limits
        unit = np.maximum(limits, 1)
        prices = np.zeros(len(limits))
        paths: list[_Path] = []
        while True:
            if stopped():
                raise _StoppedError
            path, values = self._longest(prices)
            bound = self.grid.log_features + float(values[0][0] + prices @ limits)
            if bound < self.bound:
                self.bound, self.prices, self.values = bound, prices, values
            paths.append(path)
            slack = np.array([(limits - path.costs) / unit for path in paths])
            # Least t with t >= S + slack prices for every path; t is the last variable.
            master = linprog(
                np.append(np.zeros(len(limits)), 1.0),
                A_ub=np.column_stack([slack, np.full(len(paths), -1.0)]),
                b_ub=[-path.log_width for path in paths],
                bounds=[(0, _LARGEST_PRICE * max(1.0, paths[0].log_width))] * len(limits) + [(None, None)],
            )
            closed = not len(limits) or self.bound - master.fun <= _DUAL_GAP * max(1.0, abs(self.bound))
            if closed or len(paths) == _MOST_PLANES:
                return paths
            prices = np.maximum(master.x[:-1], 0) / unit

    def _longest(self, prices: Floats) -> tuple[_Path, list[Floats]]:
        """The path of largest ``S - prices costs``, and for every column the largest such sum after each node."""
        priced = {name: np.tensordot(prices, costs, 1) for name, costs in self.grid.costs.items()}
        values = [np.zeros(1)]
        for name, gain in zip(reversed(self.layers), reversed(self.gains), strict=True):
            values.append((gain + values[-1] - priced[name]).max(axis=1))
        values.reverse()
        nodes, log_width = [0], self.grid.log_features
        costs = np.zeros(len(prices), np.int64)
        for name, gain, after in zip(self.layers, self.gains, values[1:], strict=True):
            node = int(np.argmax(gain + after - priced[name][nodes[-1]]))
            costs = costs + self.grid.costs[name][:, nodes[-1], node]
            log_width += float(gain[node])
            nodes.append(node)
        return _Path(tuple(nodes), costs, log_width), values

    def may_reach(self, floor: float) -> bool:
        """Whether the bound, up to rounding, allows an S of ``floor``."""
        return self.bound >= floor - _MARGIN * max(1.0, abs(floor))

    def widest(self, floor: float, stopped: Callable[[], bool]) -> _Path | None:
        """The path of largest S within the budgets, ``None`` when it is proven that none reaches ``floor``.

        Labels are few where little is allowed below the bound: the target starts near it and sinks to ``floor``.
        """
        slack = _FIRST_SLACK * max(1.0, abs(self.bound))
        while self.may_reach(floor):
            target = max(floor, self.bound - slack)
            path = self._label(target - _MARGIN * max(1.0, abs(target)), stopped)
            if path is not None or target == floor:
                return path
            slack *= _WIDENING
        return None

    def _label(self, target: float, stopped: Callable[[], bool]) -> _Path | None:
        """The path of largest S within the budgets, ``None`` when none reaches ``target``.

        A label is a partial path: its node, costs and S, and the label that it extends. It is dropped when no
        completion can meet a budget or the target, or when another label at its node has no less S at no more costs.
        """
        limits, prices = self.grid.limits, self.prices
        cheapest = self.grid.cheapest(len(self.layers))
        priced = {name: np.tensordot(prices, costs, 1) for name, costs in self.grid.costs.items()}
        nodes = np.zeros(1, np.int64)
        costs = np.zeros((len(limits), 1), np.int64)
        sums = np.array([self.grid.log_features])
        steps: list[tuple[Integers, Integers]] = []
        for column, (name, gain) in enumerate(zip(self.layers, self.gains, strict=True), start=1):
            edges = self.grid.costs[name]
            promise = gain + self.values[column] - priced[name]
            start = sums + prices @ (limits[:, None] - costs)
            rest = limits[:, None] - cheapest[column]
            at_once = max(1, _PAIRS_AT_ONCE // len(gain))
            pieces = []
            for first in range(0, len(nodes), at_once):
                if stopped():
                    raise _StoppedError
                piece = slice(first, first + at_once)
                origin, node = np.nonzero(start[piece, None] + promise[nodes[piece]] >= target)
                origin += first
                spent = costs[:, origin] + edges[:, nodes[origin], node]
                kept = np.all(spent <= rest[:, node], axis=0)
                pieces.append((origin[kept], node[kept], spent[:, kept]))
            origin, node = (np.concatenate([piece[k] for piece in pieces]) for k in (0, 1))
            spent = np.concatenate([piece[2] for piece in pieces], axis=1)
            if not len(node):
                return None
            total = sums[origin] + gain[node]
            kept = _undominated(node, spent, total)
            nodes, costs, sums = node[kept], spent[:, kept], total[kept]
            steps.append((origin[kept], nodes))
        # One node is left, the classes: its first label has the largest S, which its unspent budget may have flattered.
        if sums[0] < target:
            return None
        label, taken = 0, []
        for origin, node in reversed(steps):
            taken.append(int(node[label]))
            label = int(origin[label])
        return _Path((0, *reversed(taken)), costs[:, 0], float(sums[0]))


def _undominated(nodes: Integers, costs: Integers, sums: Floats) -> Integers:
    """Indices of the labels that no other at the same node beats, by node and falling sum; ``costs`` has 0 to 2 rows.

    Labels come by falling sum, so one is beaten when an earlier one has no more of either cost: a staircase of
    rising first and falling second costs tells by bisection.
    """
    first, second = np.concatenate([costs, np.zeros((2 - len(costs), len(nodes)), np.int64)])
    order = np.lexsort((second, first, -sums, nodes))
    kept: list[int] = []
    at = -1
    rising: list[int] = []
    falling: list[int] = []
    columns = (order, nodes[order], first[order], second[order])
    for index, node, x, y in zip(*(column.tolist() for column in columns), strict=True):
        if node != at:
            at, rising, falling = node, [], []
        step = bisect.bisect_right(rising, x)
        if step and falling[step - 1] <= y:
            continue
        end = step
        while end < len(rising) and falling[end] >= y:
            end += 1
        rising[step:end], falling[step:end] = [x], [y]
        kept.append(index)
    return np.array(kept, np.int64)


def _explain(spec: MlpSpec, stopped: Callable[[], bool]) -> str:
    """The sentence for a spec without a feasible network: the fewest budgets that conflict, what each can reach."""
    limits = spec.budget.given
    least = {key: _smallest(spec, key) for key in limits}
    conflict = [key for key in limits if least[key] > limits[key]]
    if not conflict:
        conflict = list(limits)
        for key in limits:
            fewer = {other: limits[other] for other in conflict if other != key}
            search = _Search(dataclasses.replace(spec, budget=Budget(**fewer)), math.inf, None, stopped)
            search.run()
            if search.design is None and not search.open:
                conflict = list(fewer)
    which = " and ".join(f"budget.{key}" for key in conflict)
    verb = "cannot be met" if len(conflict) == 1 else "cannot be met together"
    reachable = ", ".join(f"{key} {_number(least[key])} (budget {_number(limits[key])})" for key in limits)
    return f"{spec.source}: infeasible: {which} {verb}; the smallest reachable value of each alone is {reachable}"


def _smallest(spec: MlpSpec, budget: str) -> float:
    """The smallest value of a budget's quantity over the whole space."""
    if budget == "layers":
        return min(spec.space.depth)
    if budget == "effectiveness":
        widest = max(spec.space.widths)
        networks = [MlpDesign.chosen(spec, (widest,) * (depth - 1)) for depth in spec.space.depth]
        return min(network.metrics.effectiveness for network in networks)
    grid = _Grid(dataclasses.replace(spec, budget=Budget(**{budget: math.inf})))
    return min(int(grid.cheapest(depth)[0][0, 0]) for depth in spec.space.depth)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.12g}"
