"""The program's loops, compiled: the best option of a pair for a slope, envelopes of lines, and bounds by value.

Every function works on whole arrays and holds no lock of the interpreter, so that threads share the boxes.
Results do not depend on the order of the rows, nor on which thread computes them.

Axes: S sources, N nodes, K kernels, E kernels that matter to what enters (K or 1), W inner widths, D lines in the
depth, J lines (or slopes) at the nodes, in ascending slope.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

# numba also takes it from a file of the working folder, and runs what it finds there.
os.environ.setdefault("NUMBA_CACHE_DIR", "")

import numba
import numpy as np
from numba.misc.appdirs import AppDirs

# What numba loads with the first function looks for SciPy's linear algebra, a fifth of a second and 11 MB; whatever
# needs that finds it later.
_LINALG = sys.modules.get("scipy.linalg", numba)
sys.modules["scipy.linalg"] = None  # type: ignore[assignment]
try:
    import numba.np.arraymath
finally:
    del sys.modules["scipy.linalg"]
    if _LINALG is not numba:
        sys.modules["scipy.linalg"] = _LINALG

__all__ = [
    *("CAPACITY", "Ahead", "Prefixes", "Prices", "Rows"),
    *(
        "Values",
        "best_choice",
        "compiled",
        "depth_lines",
        "envelopes",
        "option_bounds",
        "summed",
        "through",
        "value_bounds",
    ),
]

CAPACITY = 16
"""Lines kept at a node; more are replaced by as many chords, which are nowhere below them."""

_WIDE = 128
"""Inner widths from which on bisection is faster than trying all, several at once."""

_F = TypeVar("_F", bound=Callable[..., Any])

_FAST = {"nnan", "nsz"}
"""What lets a maximum use the processor's vectors; nothing here is not a number, and no sum is reordered."""


@functools.cache
def _folder() -> str | None:
    """Where machine code is kept, a place of its own for every state of these sources; ``None`` where none can be.

    numba compiles a function anew when its own file has changed, whatever became of those that it calls.
    """
    here = Path(__file__).parent
    names = "annealing", "dual", "groups", "kernels", "packed", "passes", "simplex"
    sources = b"".join((here / name).with_suffix(".py").read_bytes() for name in names)
    config: Any = numba.config
    users: str = AppDirs("mad-ip", appauthor=False).user_cache_dir  # type: ignore[no-untyped-call]
    state = hashlib.sha256(sources).hexdigest()[:16]
    own = here / "__pycache__"
    for place in filter(None, (config.CACHE_DIR, own, users, _temporary())):
        folder = Path(place) / state
        with suppress(OSError):
            if not folder.exists() and place not in (own, config.CACHE_DIR) and (own / state).is_dir():
                # Compiled when it was installed, where numba can only read. It also writes to what it reads from.
                _copy(own / state, folder)
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return str(folder)
    return None


def _temporary() -> Path | None:
    """A folder of temporary files that is this user's alone; ``None`` where it is somebody else's, or cannot be made.

    Whoever writes to it decides what is run.
    """
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"mad-ip-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return None


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, but for its permissions, so that nobody sees a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        for path in (source, *sorted(source.rglob("*"))):
            copy = Path(place) / "copy" / path.relative_to(source)
            if path.is_dir():
                copy.mkdir()
            else:
                shutil.copyfile(path, copy)
        # Another process may have been faster.
        with suppress(OSError):
            (Path(place) / "copy").rename(target)


def compiled(function: _F, **options: bool) -> _F:
    """Compile on the first call; the machine code is kept on disk where there is a place for it."""
    options |= {"nogil": True, "no_cfunc_wrapper": True}
    settings: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", **options}
    config: Any = numba.config
    given, config.CACHE_DIR = config.CACHE_DIR, _folder() or ""
    try:
        return cast("_F", numba.njit(cache=bool(_folder()), **settings)(function))
    finally:
        config.CACHE_DIR = given


def inner(function: _F) -> _F:
    """Compile what only compiled code calls, in less time."""
    return compiled(function, no_cpython_wrapper=True)


class Ahead(NamedTuple):
    """Lines of the value-to-go at the nodes of a segment, in ascending slope, and the lines behind them (J each)."""

    node: Any
    slope: Any
    intercept: Any
    origin: Any


class Rows(NamedTuple):
    """Lines by node in ascending slope, and those behind them (N, CAPACITY); ``number`` (N) of each row are real."""

    slope: Any
    intercept: Any
    origin: Any
    number: Any


class Prices(NamedTuple):
    """Prices and log-widths of a segment's options, and the widths left between every source and node.

    The blocks of an option cost ``entering[s, e, w] + pair[s, n] + opening[n, k, w] + (L - 1) again[n, k, w]``, and
    ``per_depth[L]`` more. ``lines`` (2, D) are slopes and intercepts of ``(L - 1) y - per_depth[L]`` in y, the worth of
    one more block, but for those that are nowhere above the others.
    """

    pair: Any
    entering: Any
    opening: Any
    again: Any
    log_source: Any
    log_opening: Any
    log_again: Any
    first_mid: Any
    end_mid: Any
    depth: Any
    per_depth: Any
    lines: Any


class Prefixes(NamedTuple):
    """The best prefixes by source, known at slopes: ``own`` (S) is the slope at the source, ``grid`` (S, G) ascends.

    ``number`` (S) of the slopes are real.
    """

    own: Any
    grid: Any
    known: Any
    number: Any


class Values(NamedTuple):
    """Bounds by the values of the axes of a segment, in the order of :data:`mad_ip.lagrangian.box.AXES`."""

    channels: Any
    mid: Any
    kernel: Any
    depth: Any


@compiled
def summed(costs: Any, prices: Any) -> Any:
    """``sum_b prices[b] costs[b]``."""
    total = np.zeros(costs.shape[1:])
    flat = total.ravel()
    for b in range(len(costs)):
        price, row = prices[b], costs[b].ravel()
        if price != 0:
            for x in range(len(flat)):
                flat[x] += price * row[x]
    return total


@compiled
def depth_lines(depth: Any, per_depth: Any) -> Any:
    """Slopes and intercepts (2, D) of ``(L - 1) y - per_depth[L]``, without those that are nowhere above the others."""
    kept = np.empty(len(depth), np.int64)
    top = 0
    for j in range(len(depth)):
        while top > 1:
            i, h = kept[top - 1], kept[top - 2]
            if (per_depth[j] - per_depth[i]) * (depth[i] - depth[h]) > (per_depth[i] - per_depth[h]) * (
                depth[j] - depth[i]
            ):
                break
            top -= 1
        kept[top] = j
        top += 1
    lines = np.empty((2, top))
    for i in range(top):
        lines[0, i], lines[1, i] = depth[kept[i]] - 1, -per_depth[kept[i]]
    return lines


@inner
def _options(n: int, slope: float, prices: Prices, best: Any) -> None:
    """The largest ``slope sigma - price`` of node n's blocks over the depths, by kernel and width: ``best`` (K, W)."""
    opening, again, lines = prices.opening, prices.again, prices.lines
    log_opening, log_again = prices.log_opening, prices.log_again
    kernels, widths = best.shape
    for k in range(kernels):
        for w in range(widths):
            worth = slope * log_again[n, k, w] - again[n, k, w]
            top = lines[0, 0] * worth + lines[1, 0]
            for d in range(1, lines.shape[1]):
                top = max(top, lines[0, d] * worth + lines[1, d])
            best[k, w] = slope * log_opening[n, k, w] - opening[n, k, w] + top


@compiled
def _descending(best: Any, entering: Any, first_mid: Any, end_mid: Any, top: Any, at: Any) -> None:
    """``max_w best[w] - entering[s, w]`` for every source, where the best width does not grow with the source.

    The sources in the middle first: the widths of those on both sides of another bound its own.
    """
    sources = len(top)
    stride = 1
    while stride < sources:
        stride *= 2
    top[:] = -np.inf
    at[:] = -1
    while stride > 0:
        for s in range(stride - 1, sources, 2 * stride):
            low, high = first_mid[s], end_mid[s]
            if s - stride >= 0 and at[s - stride] >= 0:
                high = min(high, at[s - stride] + 1)
            if s + stride < sources and at[s + stride] >= 0:
                low = max(low, at[s + stride])
            for w in range(low, high):
                value = best[w] - entering[s, w]
                if value > top[s]:
                    top[s], at[s] = value, w
        stride //= 2


@inner
def _best(n: int, slope: float, prices: Prices, descending: bool, best: Any, tops: Any, places: Any) -> None:
    """The largest ``slope sigma - price`` of node n's blocks, but for what the pair of channels adds: ``tops`` (S).

    ``descending``: the more channels enter, the narrower is the best width inside. ``best`` (K, W) and ``places`` (S)
    are overwritten.
    """
    entering, first_mid, end_mid = prices.entering, prices.first_mid, prices.end_mid
    sources, rows, widths = entering.shape
    _options(n, slope, prices, best)
    if rows == 1:
        for k in range(1, len(best)):
            for w in range(widths):
                best[0, w] = max(best[0, w], best[k, w])
    if descending and widths >= _WIDE:
        _descending(best[0], entering[:, 0], first_mid[:, n], end_mid[:, n], tops, places)
        return
    for s in range(sources):
        top = -np.inf
        for e in range(rows):
            for w in range(first_mid[s, n], end_mid[s, n]):
                top = max(top, best[e, w] - entering[s, e, w])
        tops[s] = top


@compiled
def through(ahead: Ahead, prices: Prices, descending: bool) -> Any:
    """Of the lines ahead of a segment, the intercepts before it (S, J)."""
    pair, log_source = prices.pair, prices.log_source
    sources = len(log_source)
    values = np.empty((sources, len(ahead.node)))
    best = np.empty(prices.opening.shape[1:])
    tops, places = np.empty(sources), np.empty(sources, np.int64)
    for j in range(len(ahead.node)):
        n, a = ahead.node[j], ahead.slope[j]
        _best(n, a, prices, descending, best, tops, places)
        for s in range(sources):
            values[s, j] = tops[s] + (a * log_source[s] - pair[s, n] + ahead.intercept[j])
    return values


@compiled
def envelopes(slopes: Any, values: Any, own: Any, low: Any, high: Any) -> Rows:
    """Upper envelopes on ``[low, high]`` of the lines ``(slopes[j] + own[s], values[s, j])`` of all sources s.

    ``slopes`` ascend. Where a source has more lines than there is place for, as many chords at least as high as they
    are.
    """
    sources, size = values.shape
    slope, intercept = np.empty((sources, CAPACITY)), np.empty((sources, CAPACITY))
    origin, number = np.empty((sources, CAPACITY), np.int64), np.empty(sources, np.int64)
    stack = np.empty(size, np.int64)
    corner = np.empty(CAPACITY + 1)
    height = np.empty(CAPACITY + 1)
    for s in range(sources):
        top = 0
        for j in range(size):
            if values[s, j] == -np.inf:
                continue
            if top > 0 and slopes[stack[top - 1]] == slopes[j]:
                if values[s, j] <= values[s, stack[top - 1]]:
                    continue
                top -= 1
            while top > 1:
                i, h = stack[top - 1], stack[top - 2]
                # The last line is nowhere above the two around it.
                if (values[s, h] - values[s, j]) * (slopes[i] - slopes[h]) > (values[s, h] - values[s, i]) * (
                    slopes[j] - slopes[h]
                ):
                    break
                top -= 1
            stack[top] = j
            top += 1
        start = 0
        while start + 1 < top:
            i, j = stack[start], stack[start + 1]
            if (values[s, i] - values[s, j]) / (slopes[j] - slopes[i]) > low[s]:
                break
            start += 1
        while start + 1 < top:
            i, j = stack[top - 2], stack[top - 1]
            if (values[s, i] - values[s, j]) / (slopes[j] - slopes[i]) < high[s]:
                break
            top -= 1
        # What rounding has taken from the envelope is given back to all of it: a line is highest above it where the
        # envelope's slope passes its own.
        lift, place = 0.0, start
        for j in range(size):
            if values[s, j] == -np.inf:
                continue
            while place + 1 < top and slopes[stack[place + 1]] <= slopes[j]:
                place += 1
            left, right = stack[place], stack[min(place + 1, top - 1)]
            at = low[s] if slopes[j] < slopes[left] else high[s]
            if slopes[left] <= slopes[j] and slopes[right] > slopes[left]:
                at = (values[s, left] - values[s, right]) / (slopes[right] - slopes[left])
            at = min(max(at, low[s]), high[s])
            envelope = max(slopes[left] * at + values[s, left], slopes[right] * at + values[s, right])
            lift = max(lift, slopes[j] * at + values[s, j] - envelope)
        found = top - start
        if found <= CAPACITY:
            number[s] = found
            for i in range(found):
                j = stack[start + i]
                slope[s, i], intercept[s, i], origin[s, i] = slopes[j] + own[s], values[s, j] + lift, j
            continue
        # Corners of the envelope: the ends of the range, and where consecutive lines meet.
        number[s] = CAPACITY
        for i in range(CAPACITY + 1):
            picked = start + i * found // CAPACITY
            left, right = stack[max(picked - 1, start)], stack[min(picked, top - 1)]
            if i == 0:
                at = low[s]
            elif i == CAPACITY:
                at = high[s]
            else:
                at = (values[s, left] - values[s, right]) / (slopes[right] - slopes[left])
            at = min(max(at, low[s]), high[s])
            corner[i] = at
            height[i] = max(slopes[left] * at + values[s, left], slopes[right] * at + values[s, right])
        for i in range(CAPACITY):
            first, last = stack[start + i * found // CAPACITY], stack[start + (i + 1) * found // CAPACITY - 1]
            run = corner[i + 1] - corner[i]
            chord = (height[i + 1] - height[i]) / run if run > 0 else slopes[first]
            chord = min(max(chord, slopes[first]), slopes[last])
            slope[s, i] = chord + own[s]
            intercept[s, i] = max(height[i] - chord * corner[i], height[i + 1] - chord * corner[i + 1]) + lift
            origin[s, i] = stack[start + i * found // CAPACITY + (found // CAPACITY) // 2]
    return Rows(slope, intercept, origin, number)


@compiled
def best_choice(s: int, n: int, slope: float, prices: Prices) -> tuple[int, int, int]:
    """Kernel, width and depth, as positions, of the best option of a pair for the slope ahead."""
    found, top = (0, 0, 0), -np.inf
    entering, depth = prices.entering, prices.depth
    for k in range(prices.opening.shape[1]):
        e = min(k, entering.shape[1] - 1)
        for w in range(prices.first_mid[s, n], prices.end_mid[s, n]):
            worth = slope * prices.log_again[n, k, w] - prices.again[n, k, w]
            plain = slope * prices.log_opening[n, k, w] - prices.opening[n, k, w] - entering[s, e, w]
            for d in range(len(depth)):
                value = plain + (depth[d] - 1) * worth - prices.per_depth[d]
                if value > top:
                    found, top = (k, w, d), value
    return found


@inner
def _before(s: int, slope: float, prefixes: Prefixes) -> float:
    """The best prefix to a source: the chord of a convex function of the slope, which is never below it."""
    at, grid, known, number = slope + prefixes.own[s], prefixes.grid[s], prefixes.known[s], prefixes.number[s]
    if number == 1:
        return known[0]  # type: ignore[no-any-return]
    low, high = 1, number - 1
    while low < high:
        middle = (low + high) // 2
        if grid[middle] < at:
            low = middle + 1
        else:
            high = middle
    left, right = grid[low - 1], grid[low]
    if right <= left or at >= right:
        return known[low]  # type: ignore[no-any-return]
    if at <= left:
        return known[low - 1]  # type: ignore[no-any-return]
    share = (at - left) / (right - left)
    return (1 - share) * known[low - 1] + share * known[low]  # type: ignore[no-any-return]


@compiled
def value_bounds(
    ahead: Ahead, prices: Prices, descending: bool, prefixes: Prefixes, target: float, values: Values
) -> tuple[Any, float]:
    """The best prefix through a segment for every slope at its nodes (J), and the best path that misses ``target``.

    Where a slope is that of a line ahead, with its ``intercept`` (not minus infinity) and all constants, ``values`` are
    raised to the best path through each, if it passes the target.
    """
    pair, entering, opening, again, log_source, log_opening, log_again, first_mid, end_mid, depth, per_depth, _ = prices
    node, slope, intercept, _ = ahead
    by_node, by_mid, by_kernel, by_depth = values
    sources, rows, _ = entering.shape
    _, kernels, widths = opening.shape
    reached = np.empty(len(node))
    best, before = np.empty((kernels, widths)), np.empty((rows, widths))
    tops, places, rest = np.empty(sources), np.empty(sources, np.int64), np.empty(sources)
    below = -np.inf
    for j in range(len(node)):
        n, a = node[j], slope[j]
        _best(n, a, prices, descending, best, tops, places)
        top = -np.inf
        for s in range(sources):
            if tops[s] > -np.inf:
                rest[s] = _before(s, a, prefixes) + (a * log_source[s] - pair[s, n])
                top = max(top, rest[s] + tops[s])
        reached[j] = top
        if intercept[j] == -np.inf:
            continue
        if top + intercept[j] <= target:
            below = max(below, top + intercept[j])
            continue
        before[:] = -np.inf
        for s in range(sources):
            for e in range(rows):
                for w in range(first_mid[s, n], end_mid[s, n]):
                    before[e, w] = max(before[e, w], rest[s] - entering[s, e, w])
        _options(n, a, prices, best)
        by_node[n] = max(by_node[n], top + intercept[j])
        for k in range(kernels):
            e = min(k, rows - 1)
            for w in range(widths):
                total = before[e, w] + best[k, w] + intercept[j]
                if total <= target:
                    below = max(below, total)
                    continue
                by_kernel[k] = max(by_kernel[k], total)
                by_mid[w] = max(by_mid[w], total)
                worth = a * log_again[n, k, w] - again[n, k, w]
                plain = before[e, w] + (a * log_opening[n, k, w] - opening[n, k, w]) + intercept[j]
                for d in range(len(depth)):
                    value = plain + (depth[d] - 1) * worth - per_depth[d]
                    if value > target:
                        by_depth[d] = max(by_depth[d], value)
                    else:
                        below = max(below, value)
    return reached, below


@compiled
def option_bounds(ahead: Ahead, prices: Prices, prefixes: Prefixes, bounds: Any) -> None:
    """The best path through every option, ``bounds`` (S, N, K, W, L), over the lines ahead, with all constants."""
    pair, entering, opening, again, log_source, log_opening, log_again, first_mid, end_mid, depth, per_depth, _ = prices
    sources, rows, _ = entering.shape
    for j in range(len(ahead.node)):
        n, a = ahead.node[j], ahead.slope[j]
        if ahead.intercept[j] == -np.inf:
            continue
        for s in range(sources):
            low, high = first_mid[s, n], end_mid[s, n]
            if low >= high:
                continue
            rest = _before(s, a, prefixes) + (a * log_source[s] - pair[s, n])
            rest += ahead.intercept[j]
            for k in range(opening.shape[1]):
                e = min(k, rows - 1)
                for w in range(low, high):
                    worth = a * log_again[n, k, w] - again[n, k, w]
                    plain = rest - entering[s, e, w] + (a * log_opening[n, k, w] - opening[n, k, w])
                    for d in range(len(depth)):
                        value = plain + (depth[d] - 1) * worth - per_depth[d]
                        bounds[s, n, k, w, d] = max(bounds[s, n, k, w, d], value)
