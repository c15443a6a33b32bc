"""Exhaustive enumeration, written from docs/formulation.md alone (sections 1 and 2): slow, plain, no code of mad_ip.

It reads the fields of a :class:`mad_ip.spec.Spec` and nothing else of the package, so that it can contradict it.

Symbols: ``r_t`` output resolution; ``f_t`` output frames, 1 for images; ``c_t`` output channels; ``m_t`` inner width;
``k``, ``k_t`` kernel in space and in time; ``L_t`` depth in blocks; ``D_t``, ``S_t`` counted layers and sum of their
``ln w`` up to the end of stage t (the stem is t = 0; a tail belongs to stage M); ``alpha_t`` entropy weight; ``rho``
effectiveness; ``Q`` uniformity of depths; ``beta`` its weight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

from mad_ip.spec import Budget, Choice, Input, Path, Space, Spec, Stage, Stem, Tail

RHO_SLACK = 1e-12
"""``rho <= rho_0`` is decided within this relative slack; every other budget has none."""

Structure = tuple[int, tuple[tuple[int, int, int, int], ...], int | None]
"""Stem channels; (channels, mid, kernel, depth) of every stage; tail channels or None."""


class Best(NamedTuple):
    """One architecture with its values; ``penalty`` is beta Q and ``score = entropy - penalty``."""

    score: float
    entropy: float
    penalty: float
    effectiveness: float
    macs: int
    params: int
    layers: int
    structure: Structure
    path: Path


class Minima(NamedTuple):
    """The smallest value of each budgeted quantity over the whole space, each on its own, budgets ignored."""

    macs: int
    params: int
    layers: int
    effectiveness: float


class Conv(NamedTuple):
    """A convolution (or a linear layer: 1x1 on one pixel) with ``f * out * out`` output positions."""

    c_in: int
    c_out: int
    kernel: int
    out: int
    groups: int = 1
    counted: bool = True
    norm: bool = True
    bias: bool = False
    k_t: int = 1
    f: int = 1

    @property
    def w(self) -> int:
        """``w_l = c_in k_t k^2 / groups``."""
        quotient, remainder = divmod(self.c_in * self.k_t * self.kernel**2, self.groups)
        assert remainder == 0
        return quotient

    @property
    def macs(self) -> int:
        """Each of the ``f * out * out * c_out`` outputs sums ``w_l`` products."""
        return self.f * self.out * self.out * self.c_out * self.w

    @property
    def params(self) -> int:
        """``c_out * w_l`` kernel weights, a bias per channel, scale and shift of BN per channel."""
        return self.c_out * self.w + self.c_out * self.bias + 2 * self.c_out * self.norm


class Piece(NamedTuple):
    """What a list of convolutions adds up to."""

    layers: int
    log_width: float
    macs: int
    params: int


def total(convs: Sequence[Conv]) -> Piece:
    counted = [conv for conv in convs if conv.counted]
    return Piece(
        layers=len(counted),
        log_width=math.fsum(math.log(conv.w) for conv in counted),
        macs=sum(conv.macs for conv in convs),
        params=sum(conv.params for conv in convs),
    )


def frames_out(frames: int, k_t: int, stride: int) -> int:
    """Output length of a convolution with padding ``k_t // 2``, by the formula that PyTorch documents."""
    return (frames + 2 * (k_t // 2) - k_t) // stride + 1


def block_convs(
    block: str, c_in: int, c: int, m: int, k: int, stride: int, r_in: int, k_t: int = 1, s_t: int = 1, f_in: int = 1
) -> list[Conv]:
    """The convolutions of one block: the table of families and the shortcut rules, row by row."""
    assert r_in % stride == 0
    r, f = r_in // stride, frames_out(f_in, k_t, s_t)
    if block == "basic":
        convs = [Conv(c_in, m, k, r, k_t=k_t, f=f), Conv(m, c, k, r, k_t=k_t, f=f)]
    elif block == "bottleneck":
        convs = [Conv(c_in, m, 1, r_in, f=f_in), Conv(m, m, k, r, k_t=k_t, f=f), Conv(m, c, 1, r, f=f)]
    else:
        assert block in ("inverted", "inverted_se")
        convs = [Conv(c_in, m, 1, r_in, f=f_in), Conv(m, m, k, r, groups=m, k_t=k_t, f=f), Conv(m, c, 1, r, f=f)]
    if block == "inverted_se":
        hidden = max(8, 8 * math.floor(m / 32 + 1 / 2))
        convs.append(Conv(m, hidden, 1, 1, counted=False, norm=False, bias=True))
        convs.append(Conv(hidden, m, 1, 1, counted=False, norm=False, bias=True))
    identity = c_in == c and stride == 1 and s_t == 1
    if block in ("basic", "bottleneck") and not identity:
        convs.append(Conv(c_in, c, 1, r, counted=False, f=f))
    return convs


@lru_cache(maxsize=100_000)
def block_total(
    block: str, c_in: int, c: int, m: int, k: int, stride: int, r_in: int, k_t: int, s_t: int, f_in: int
) -> Piece:
    return total(block_convs(block, c_in, c, m, k, stride, r_in, k_t, s_t, f_in))


def stage_total(stage: Stage, c_in: int, c: int, m: int, k: int, depth: int, r_in: int, f_in: int = 1) -> Piece:
    """``depth`` blocks, the first with the stage's strides and ``c_in`` channels in."""
    k_t, s_t = stage.temporal_kernel, stage.temporal_stride
    blocks = [block_total(stage.block, c_in, c, m, k, stage.stride, r_in, k_t, s_t, f_in)]
    f = frames_out(f_in, k_t, s_t)
    blocks += [block_total(stage.block, c, c, m, k, 1, r_in // stage.stride, k_t, 1, f)] * (depth - 1)
    return Piece(
        layers=sum(block.layers for block in blocks),
        log_width=math.fsum(block.log_width for block in blocks),
        macs=sum(block.macs for block in blocks),
        params=sum(block.params for block in blocks),
    )


def follows(space: Space, c_in: int, c: int) -> bool:
    """``monotone``: c_in <= c; ``growth``: c / c_in <= growth, the bound read as the decimal number that it is."""
    if space.monotone and c < c_in:
        return False
    return space.growth is None or Fraction(c, c_in) <= Fraction(str(space.growth))


def carries(space: Space, m: int, c: int) -> bool:
    """``mid_ratio``: low <= m / c <= high, the bounds read as the decimal numbers that they are."""
    if space.mid_ratio is None:
        return True
    low, high = space.mid_ratio
    return Fraction(str(low)) <= Fraction(m, c) <= Fraction(str(high))


def uniformity(depths: Sequence[int], convention: str) -> float:
    """``Q = exp(Var(L_1..L_M))``; ``tinynas``: ``exp(std(L_3..L_M))``, over all stages when M < 4."""
    if convention == "tinynas" and len(depths) >= 4:
        depths = depths[2:]
    mean = Fraction(sum(depths), len(depths))
    variance = sum((depth - mean) ** 2 for depth in depths) / len(depths)
    return math.exp(math.sqrt(variance) if convention == "tinynas" else variance)


def architectures(spec: Spec) -> tuple[Best, ...]:
    """Every architecture of the space, budgets ignored."""
    problem = Problem(
        spec.convention, spec.input, spec.stem, spec.stages, spec.tail, spec.space, spec.objective.depth_penalty
    )
    return _architectures(problem)


class Problem(NamedTuple):
    """What the list of architectures depends on: a spec without its budgets."""

    convention: str
    image: Input
    stem: Stem
    stages: tuple[Stage, ...]
    tail: Tail | None
    space: Space
    beta: float


class Prefix(NamedTuple):
    """A network up to the end of a level: D_t, S_t, the entropy summed so far (unscaled), rho so far, the costs."""

    D: int
    S: float
    H: float
    rho: float
    macs: int
    params: int


@lru_cache(maxsize=4)
def _architectures(problem: Problem) -> tuple[Best, ...]:
    convention, image, stem, stages, tail, space, beta = problem
    M = len(stages)
    r = [image.resolution // stem.stride]
    for stage in stages:
        r.append(r[-1] // stage.stride)
    f = [image.frames or 1]
    for level in (stem, *stages):
        f.append(frames_out(f[-1], level.temporal_kernel, level.temporal_stride))
    f = f[1:]
    alpha = [stem.weight, *(stage.weight for stage in stages)]
    found: list[Best] = []

    @cache
    def stage_piece(t: int, c_in: int, c: int, m: int, k: int, depth: int) -> Piece:
        return stage_total(stages[t - 1], c_in, c, m, k, depth, r[t - 1], f[t - 1])

    @cache
    def tail_piece(c_in: int, c: int) -> Piece:
        return total([Conv(c_in, c, 1, r[M], f=f[M])])

    @cache
    def head_piece(c: int) -> Piece:
        linear = Conv(c, image.classes, 1, 1, counted=False, norm=False, bias=True)
        return total([linear] if image.classes > 0 else [])

    @cache
    def penalty_of(depths: tuple[int, ...]) -> float:
        return 0.0 if beta == 0 else beta * uniformity(depths, convention)

    @cache
    def log_volume(t: int, c: int) -> float:
        return math.log(f[t] * r[t] ** 2 * c)

    def end_level(t: int, before: Prefix, pieces: Sequence[Piece], c: int) -> Prefix:
        """Level t ends with ``c`` channels: ``H += alpha_t ln(f_t r_t^2 c_t) S_t``.

        ``rho = D_M / exp(S_M / D_M)``; ``tinynas``: the largest D_t / exp(S_t / D_t) of the levels of weight > 0.
        """
        D = before.D + sum(piece.layers for piece in pieces)
        S = before.S + sum(piece.log_width for piece in pieces)
        rho = D / math.exp(S / D)
        if convention == "tinynas":
            rho = max(before.rho, rho) if alpha[t] > 0 else before.rho
        return Prefix(
            D,
            S,
            before.H + alpha[t] * log_volume(t, c) * S,
            rho,
            before.macs + sum(piece.macs for piece in pieces),
            before.params + sum(piece.params for piece in pieces),
        )

    def extend(t: int, c_in: int, before: Prefix, chosen: tuple[tuple[int, int, int, int], ...]) -> None:
        """Every choice of stage t for a network that leaves stage t - 1 with ``c_in`` channels."""
        stage = stages[t - 1]
        for c, m in itertools.product(stage.channels, stage.mid):
            if not (follows(space, c_in, c) and carries(space, m, c)):
                continue
            for k, depth in itertools.product(stage.kernel, stage.depth):
                path = (*chosen, (c, m, k, depth))
                piece = stage_piece(t, c_in, c, m, k, depth)
                if t < M:
                    extend(t + 1, c, end_level(t, before, [piece], c), path)
                elif tail is None:
                    close(end_level(M, before, [piece], c), c, path, None)
                else:
                    for c_tail in tail.channels:
                        pieces = [piece, tail_piece(c, c_tail)]
                        close(end_level(M, before, pieces, c_tail), c_tail, path, c_tail)

    def close(network: Prefix, c: int, path: tuple[tuple[int, int, int, int], ...], c_tail: int | None) -> None:
        head = head_piece(c)
        entropy = network.H / 2 if convention == "tinynas" else network.H
        penalty = penalty_of(tuple(depth for _, _, _, depth in path))
        structure = (stem_channels, path, c_tail)
        choices = [(stem_channels, 1, stem.kernel, 1), *path, *([] if c_tail is None else [(c_tail, 1, 1, 1)])]
        found.append(
            Best(
                entropy - penalty,
                entropy,
                penalty,
                network.rho,
                network.macs + head.macs,
                network.params + head.params,
                network.D,
                structure,
                tuple(Choice(*choice) for choice in choices),
            )
        )

    for stem_channels in stem.channels:
        piece = total([Conv(image.channels, stem_channels, stem.kernel, r[0], k_t=stem.temporal_kernel, f=f[0])])
        extend(1, stem_channels, end_level(0, Prefix(0, 0.0, 0.0, 0.0, 0, 0), [piece], stem_channels), ())
    return tuple(found)


def fits(budget: Budget, architecture: Best) -> bool:
    """Whether an architecture keeps every budget given."""
    return (
        (budget.macs is None or architecture.macs <= budget.macs)
        and (budget.params is None or architecture.params <= budget.params)
        and (budget.layers is None or architecture.layers <= budget.layers)
        and (budget.effectiveness is None or architecture.effectiveness <= budget.effectiveness * (1 + RHO_SLACK))
    )


def enumerate_best(spec: Spec) -> Best | None:
    """The architecture of the highest score within the budgets; None when there is none."""
    feasible = (architecture for architecture in architectures(spec) if fits(spec.budget, architecture))
    return max(feasible, key=lambda architecture: architecture.score, default=None)


def minima(spec: Spec) -> Minima:
    """The smallest MACs, parameters, layers and effectiveness, each on its own, budgets ignored."""
    everything = architectures(spec)
    return Minima(
        macs=min(architecture.macs for architecture in everything),
        params=min(architecture.params for architecture in everything),
        layers=min(architecture.layers for architecture in everything),
        effectiveness=min(architecture.effectiveness for architecture in everything),
    )


def channel_paths(spec: Spec) -> Iterator[tuple[int, ...]]:
    """All ``(c_0, .., c_M)`` that the rules on neighbouring channels allow."""
    for path in itertools.product(spec.stem.channels, *(stage.channels for stage in spec.stages)):
        if all(follows(spec.space, c_in, c) for c_in, c in itertools.pairwise(path)):
            yield path


def count(spec: Spec) -> int:
    """The number of architectures: tuples of all choices that satisfy domains and [space] rules, budgets ignored."""
    number = 0
    for _, *channels in channel_paths(spec):
        choices = 1 if spec.tail is None else len(spec.tail.channels)
        for stage, c in zip(spec.stages, channels, strict=True):
            choices *= sum(carries(spec.space, m, c) for m in stage.mid) * len(stage.kernel) * len(stage.depth)
        number += choices
    return number
