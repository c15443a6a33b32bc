"""Scores fitted to the accuracies of trained networks, and how well scores rank networks they were not fitted to.

Symbols: ``n`` networks with measured ``accuracy`` in [0, 1] and a weight each, ``q`` columns, ``e`` error, which is
1 - accuracy.

A score is linear in its columns, and fitted by ridge regression to a power of the error (Box and Cox, J. R. Stat. Soc.
B 26, 1964): ``t = (1 - (e / e_0)^p) / p``, ``-ln(e / e_0)`` for p = 0, with the median error ``e_0``. Near it,
``e_0 t`` is accuracy up to a constant. The scale of a column is the standard deviation of its coefficient, as believed
before. What is not fitted by least squares (the power, the strength of the ridge, one of several matrices of columns)
is what makes networks left out one at a time most likely. That sees no other network than those fitted to, so that
:func:`held_out` may leave out others around it: nested cross-validation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FUNCTIONS",
    "GROUP",
    "LEAST",
    "SHAPES",
    "UTILITIES",
    "Candidate",
    "Columns",
    "Fit",
    "HeldOut",
    "Position",
    "Prior",
    "added",
    "expected_regret",
    "fit",
    "folds",
    "free",
    "held_out",
    "interval",
    "partial_correlation",
    "precision",
    "ranked",
    "resampled",
    "select",
    "spearman",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

GROUP = 10
"""Networks among which one is picked in :func:`expected_regret`."""

_POWERS = (2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -4.0)
_RIDGES = np.logspace(-5, 2, 22)
"""In units of the mean squared norm of the rows."""

_FENCE = 3
"""Interquartile ranges of the logarithm above its upper quartile beyond which errors count as equal.

Trainings fail now and then; what is left of their designs' accuracy says nothing.
"""

_LEAST_ERROR = 1e-4
"""No error counts as smaller, as its power may be infinite."""

LEAST = 10
"""Parts of the cross-validation, and so networks that it needs."""


# ---- What is fitted


@dataclass(frozen=True)
class Columns:
    """One way to fit a candidate.

    ``values`` (n, q) are scaled by the prior standard deviations of their coefficients; ``positive`` (q) coefficients
    must not be negative. ``behind`` (n) networks are ranked behind all others.
    """

    values: Floats
    positive: Booleans
    behind: Booleans | None = None


@dataclass(frozen=True)
class Candidate:
    """A kind of score: the best of several ways to fit it is found with it."""

    name: str
    ways: tuple[Columns, ...]


@dataclass(frozen=True)
class Fit:
    """``t = intercept + values @ coefficients`` of the columns ``ways[way]``; ``reference`` is the median error e_0.

    Errors above ``largest`` count as that. ``centre`` is the mean t of the networks fitted to, ``noise`` the standard
    deviation of the t of a network left out about its prediction, ``likelihood`` the logarithm, up to a constant, of
    the density of the accuracies of all networks left out one at a time. ``lowest`` is the least t that is
    predicted for a network fitted to, if it is not ranked behind; no network behind is predicted to have more.
    """

    way: int
    power: float
    ridge: float
    reference: float
    largest: float
    intercept: float
    centre: float
    coefficients: Floats
    noise: float
    likelihood: float
    lowest: float

    @property
    def points(self) -> Floats:
        """The coefficients in points of accuracy (percent), as they are at the median error."""
        return np.asarray(100 * self.reference * self.coefficients)

    def predict(self, columns: Columns, rows: Integers) -> Floats:
        """The predicted accuracies of some networks."""
        return np.asarray(self.accuracy(self._t(columns, rows)))

    def accuracy(self, t: Any) -> Any:
        """What t says, a number or an array."""
        error = np.exp(-t) if self.power == 0 else np.maximum(1 - self.power * t, 1e-12) ** (1 / self.power)
        return 1 - self.reference * error

    def log_density(self, columns: Columns, rows: Integers, accuracy: Floats, weights: Floats) -> Floats:
        """The logarithm of the density of the accuracies measured for some networks.

        It is Student's with five degrees of freedom and the standard deviation ``noise``, so that no network that is
        far off decides alone.
        """
        ratio = _error(accuracy[rows], self.largest) / self.reference
        off = (_transformed(ratio, self.power) - self._t(columns, rows)) * np.sqrt(weights[rows]) / self.noise
        # 8 / (3 pi sqrt(3)) at the centre, 3 = 5 - 2 for the unit variance.
        tail = math.log(8 / (3 * math.pi * math.sqrt(3))) - 3 * np.log1p(off**2 / 3)
        return np.asarray(
            _scale_of_t(ratio, self.reference, self.power) + tail + np.log(weights[rows]) / 2 - math.log(self.noise)
        )

    def _t(self, columns: Columns, rows: Integers) -> Floats:
        t = self.intercept + columns.values[rows] @ self.coefficients
        return t if columns.behind is None else np.where(columns.behind[rows], np.minimum(t, self.lowest), t)


def ranked(score: Floats) -> Columns:
    """The ranks of a score, of which more is better: any score that increases with it is as good."""
    return Columns(_standardised(_ranks(score))[:, None], np.array([True]))


def fit(candidate: Candidate, accuracy: Floats, weights: Floats, rows: Integers | None = None) -> Fit:
    """Fit to some networks (all by default), in the most likely of the candidate's ways."""
    chosen = np.arange(len(accuracy)) if rows is None else rows
    targets = _Targets.of(accuracy[chosen], weights[chosen])
    found = [_fit(columns, chosen, targets) for columns in candidate.ways]
    way = int(np.argmax([one.likelihood for one in found]))
    return dataclasses.replace(found[way], way=way)


@dataclass(frozen=True)
class _Targets:
    """Accuracies to fit to: t (n, powers), the logarithm of dt / d accuracy (powers) summed over the networks."""

    t: Floats
    scale: Floats
    reference: float
    largest: float
    weights: Floats

    @classmethod
    def of(cls, accuracy: Floats, weights: Floats) -> _Targets:
        quartile, reference, other = np.quantile(_error(accuracy), (0.25, 0.5, 0.75)).tolist()
        largest = other * (other / quartile) ** _FENCE if other > quartile else 1.0
        error = _error(accuracy, largest)
        ratio = error / reference
        t = np.stack([_transformed(ratio, power) for power in _POWERS], axis=1)
        scale = np.array([_scale_of_t(ratio, reference, power).sum() for power in _POWERS])
        return cls(t, scale, reference, largest, weights)


def _fit(columns: Columns, rows: Integers, targets: _Targets) -> Fit:
    """Columns whose coefficient would be negative are left out one at a time, the most negative first."""
    values = columns.values[rows]
    behind = None if columns.behind is None else columns.behind[rows]
    kept = np.ones(values.shape[1], bool)
    while True:
        found = _most_likely(values[:, kept], behind, targets)
        wrong = np.where(columns.positive[kept], found.coefficients, 0.0)
        if not (wrong < 0).any():
            break
        kept[np.flatnonzero(kept)[wrong.argmin()]] = False
    coefficients = np.zeros(len(kept))
    coefficients[kept] = found.coefficients
    return dataclasses.replace(found, coefficients=coefficients)


def _most_likely(values: Floats, behind: Booleans | None, targets: _Targets) -> Fit:
    """The power and the ridge that make left-out networks most likely, and the coefficients for them."""
    weights = targets.weights
    problem = _Ridge.of(values, targets.t, weights)
    residuals = problem.left_out()
    if behind is not None:
        predicted = targets.t - residuals
        lowest = predicted[:, ~behind].min(axis=1, keepdims=True, initial=math.inf)
        residuals = np.where(behind[:, None], targets.t - np.minimum(predicted, lowest), residuals)
    noise = np.sqrt((weights[:, None] * residuals**2).mean(axis=1) + 1e-24)  # (ridges, powers)
    # Of normal densities; the terms that are the same for all ways to fit are left out.
    likelihood = targets.scale - len(values) * np.log(noise)
    ridge, power = (int(place) for place in np.unravel_index(likelihood.argmax(), likelihood.shape))
    coefficients = problem.coefficients(ridge, power)
    intercept = problem.intercept(coefficients, power)
    within = values if behind is None else values[~behind]
    return Fit(
        way=0,
        power=_POWERS[power],
        ridge=float(_RIDGES[ridge]),
        reference=targets.reference,
        largest=targets.largest,
        intercept=intercept,
        centre=float(problem.mean_target[power]),
        coefficients=coefficients,
        noise=float(noise[ridge, power]),
        likelihood=float(likelihood[ridge, power]),
        lowest=float((intercept + within @ coefficients).min(initial=math.inf)),
    )


def _error(accuracy: Floats, largest: float = 1.0) -> Floats:
    return np.clip(1 - accuracy, _LEAST_ERROR, largest)


def _transformed(ratio: Floats, power: float) -> Floats:
    """The t of errors in units of the median error."""
    return np.asarray(-np.log(ratio) if power == 0 else (1 - ratio**power) / power)


def _scale_of_t(ratio: Floats, reference: float, power: float) -> Floats:
    """``ln(dt / d accuracy)``, without which densities of different powers could not be compared."""
    return np.asarray((power - 1) * np.log(ratio) - math.log(reference))


@dataclass(frozen=True)
class _Ridge:
    """Weighted ridge regressions of several targets (n, p) on columns (n, q), all centred, by one decomposition.

    ``U diag(s) V^T`` is that of the columns times the square ``root`` of the weights, ``shrunk`` (ridges, s) what the
    ridge leaves of every direction; ``centred`` are the targets times the root.
    """

    u: Floats
    s: Floats
    v: Floats
    shrunk: Floats
    root: Floats
    mean: Floats
    mean_target: Floats
    centred: Floats

    @classmethod
    def of(cls, values: Floats, targets: Floats, weights: Floats, ridges: Floats = _RIDGES) -> _Ridge:
        root = np.sqrt(weights)
        mean, mean_target = (weights @ matrix / weights.sum() for matrix in (values, targets))
        u, s, vt = np.linalg.svd(root[:, None] * (values - mean), full_matrices=False)
        # Columns that do not vary have no direction.
        known = s > 1e-9 * s.max(initial=0.0)
        u, s, vt = u[:, known], s[known], vt[known]
        shrunk = s**2 / (s**2 + ridges[:, None] * (s**2).sum() / len(values))
        return cls(u, s, vt.T, shrunk, root, mean, mean_target, root[:, None] * (targets - mean_target))

    def left_out(self) -> Floats:
        """Residuals (ridges, n, p) of each network where it alone is not fitted to: of the fit, over 1 - leverage."""
        fitted = self.u @ (self.shrunk[:, :, None] * (self.u.T @ self.centred))
        leverage = self.shrunk @ (self.u**2).T + self.root**2 / (self.root**2).sum()
        return np.asarray((self.centred - fitted) / (np.maximum(1 - leverage, 1e-9) * self.root)[:, :, None])

    def intercept(self, coefficients: Floats, target: int) -> float:
        """That which goes with coefficients of one target."""
        return float(self.mean_target[target] - self.mean @ coefficients)

    def coefficients(self, ridge: int, target: int) -> Floats:
        """Those (q) of one target."""
        return np.asarray(self.v @ (self.shrunk[ridge] / self.s * (self.u.T @ self.centred[:, target])))


def resampled(
    columns: Columns, found: Fit, accuracy: Floats, weights: Floats, generator: np.random.Generator, number: int
) -> tuple[Floats, Floats]:
    """Of fits to bootstrap samples of the networks, with the power and ridge of a fit: intercepts and coefficients.

    They are (number) and (number, q).
    """
    target = _transformed(_error(accuracy, found.largest) / found.reference, found.power)[:, None]
    kept = (found.coefficients != 0) | ~columns.positive
    intercepts, coefficients = np.zeros(number), np.zeros((number, len(kept)))
    for n, sample in enumerate(coefficients):
        rows = generator.integers(0, len(accuracy), len(accuracy))
        problem = _Ridge.of(columns.values[np.ix_(rows, kept)], target[rows], weights[rows], np.array([found.ridge]))
        sample[kept] = problem.coefficients(0, 0)
        intercepts[n] = problem.intercept(sample[kept], 0)
    return intercepts, coefficients


def precision(candidates: Sequence[Candidate], accuracy: Floats, number: Integers, noise: float | None) -> Floats:
    """Weights, 1 on average, of networks whose accuracy is a mean over a ``number`` of runs.

    They are 1 / (tau^2 + noise^2 / number), ``noise`` the standard deviation of a run: a score misses every network by
    some tau, too, however often it was trained. It is what runs leave unexplained of the residuals of the likeliest of
    the fits with equal weights.
    """
    weights = np.ones(len(accuracy))
    if not noise or np.ptp(number) == 0:
        return weights
    first = max((fit(candidate, accuracy, weights) for candidate in candidates), key=lambda one: one.likelihood)
    own = noise**2 / number
    weights = 1 / (max(0.0, (first.reference * first.noise) ** 2 - float(own.mean())) + own)
    return np.asarray(weights / weights.mean())


# ---- Utilities of choices


@dataclass(frozen=True)
class Position:
    """A choice that is worth something by itself.

    ``domain`` are its values, ascending, and ``seen`` those that some network fitted to has (all of them by default).
    Positions of one ``kind``, a key of :data:`SHAPES`, may be worth about the same.
    """

    name: str
    kind: str
    domain: tuple[int, ...]
    seen: tuple[int, ...] = ()

    @property
    def knots(self) -> tuple[int, ...]:
        """The values between which a utility is interpolated."""
        return self.seen or self.domain


SHAPES: dict[str, tuple[str, ...]] = {
    "channels": ("log",),
    "mid": ("log",),
    "kernel": ("table",),
    "depth": ("linear", "square"),
    "digit": ("log", "linear"),
}
"""The functions that a smooth utility of each kind is made of; a table has one value for each of the domain."""

FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "log": np.log,
    "linear": lambda x: x,
    "square": lambda x: x**2,
    "reciprocal": lambda x: -1 / x,
}

_Part = dict[int, Floats]
"""By the number of a position, what it adds to some columns (values of its domain, columns)."""


@dataclass(frozen=True)
class Prior:
    """What is believed of utilities before any accuracy is known: standard deviations of coefficients.

    A utility is a sum of a slope and steps on the scale of values ``coordinate``, in which the widest domain of a kind
    is 1 long: steps from value to value are independent, with variances proportional to their lengths (a Brownian
    motion). Positions of a kind share the slope and the steps in part. ``coordinate`` is ``smooth`` for the functions
    of :data:`SHAPES` in the place of slopes, ``none`` for values that have nothing to do with each other.
    """

    coordinate: str
    shared_slope: float = 0.0
    own_slope: float = 1.0
    shared_step: float = 0.0
    own_step: float = 0.0

    def bases(self, positions: Sequence[Position]) -> tuple[Floats, ...]:
        """For every position its columns (values of its domain, q), of which those of the choices made are the sum."""
        kinds: dict[str, list[int]] = {}
        for number, position in enumerate(positions):
            kinds.setdefault(position.kind, []).append(number)
        parts: list[_Part] = []
        for kind, members in kinds.items():
            if self.coordinate == "none":
                parts += [{n: _indicators(positions[n])} for n in members]
            elif self.coordinate == "smooth":
                for function in SHAPES[kind]:
                    build = _slopes if function != "table" else _steps
                    coordinate = function if function != "table" else "linear"
                    parts += build(positions, members, coordinate, self.shared_slope, self.own_slope)
            else:
                parts += _slopes(positions, members, self.coordinate, self.shared_slope, self.own_slope)
                parts += _steps(positions, members, self.coordinate, self.shared_step, self.own_step)
        widths = [next(iter(part.values())).shape[1] for part in parts]
        bases = tuple(np.zeros((len(position.domain), sum(widths))) for position in positions)
        for part, width, end in zip(parts, widths, np.cumsum(widths), strict=True):
            for number, base in part.items():
                bases[number][:, end - width : end] = base
        return bases


def added(bases: tuple[Floats, ...], choices: Integers) -> Floats:
    """The columns (n, q) of networks whose ``choices`` (n, positions) are indices into the domains."""
    return np.asarray(sum(base[chosen] for base, chosen in zip(bases, choices.T, strict=True)), float)


UTILITIES: dict[str, tuple[Prior, ...]] = {
    "utilities, smooth": tuple(Prior("smooth", *scales) for scales in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.3))),
    "utilities, one-hot": (
        Prior("none"),
        *(
            Prior(coordinate, *scales)
            for coordinate in ("linear", "log", "reciprocal")
            for scales in (
                (0.0, 0.0, 0.0, 1.0),
                (0.0, 1.0, 0.0, 0.2),
                (1.0, 0.3, 0.5, 0.5),
                (1.0, 0.3, 0.5, 0.2),
                (1.0, 0.3, 0.3, 0.1),
            )
        ),
    ),
}
"""The candidates that are sums of utilities, each with the priors of which the most likely is taken."""


def free(values: Floats) -> Columns:
    """Columns whose coefficients may have any sign."""
    return Columns(values, np.zeros(values.shape[1], bool))


def _indicators(position: Position) -> Floats:
    return np.asarray(np.array(position.domain)[:, None] == np.array(position.knots), float)


def _place(positions: Sequence[Position], members: list[int], coordinate: str) -> Callable[[Sequence[int]], Floats]:
    function = FUNCTIONS[coordinate]
    length = max(float(np.ptp(function(np.array(positions[number].domain, float)))) for number in members)
    return lambda values: np.asarray(function(np.array(values, float)) / (length or 1.0))


def _slopes(
    positions: Sequence[Position], members: list[int], coordinate: str, shared: float, own: float
) -> list[_Part]:
    place = _place(positions, members, coordinate)
    slopes = {number: place(positions[number].domain)[:, None] for number in members}
    return _shared_and_own(slopes, slopes, shared, own)


def _steps(
    positions: Sequence[Position], members: list[int], coordinate: str, shared: float, own: float
) -> list[_Part]:
    place = _place(positions, members, coordinate)

    def steps(number: int, knots: Sequence[int]) -> Floats:
        """A column for every step between knots: what a value has made of it, in units of its standard deviation."""
        z, edges = place(positions[number].domain), place(knots)
        lengths = np.diff(edges)
        return np.asarray(np.clip((z[:, None] - edges[:-1]) / lengths, 0, 1) * np.sqrt(lengths))

    union = sorted({value for number in members for value in positions[number].knots})
    common = {number: steps(number, union) for number in members}
    separate = {number: steps(number, positions[number].knots) for number in members}
    return _shared_and_own(common, separate, shared, own)


def _shared_and_own(common: _Part, separate: _Part, shared: float, own: float) -> list[_Part]:
    parts: list[_Part] = []
    if shared > 0 and len(common) > 1:
        parts.append({number: shared / math.sqrt(len(common)) * base for number, base in common.items()})
    if own > 0:
        parts += [{number: own * base} for number, base in separate.items()]
    return parts


# ---- Networks not fitted to


def folds(number: int, seed: int) -> list[Integers]:
    """Random parts of so many networks, about equal in size, to be held out in turn."""
    return np.array_split(np.random.default_rng(seed).permutation(number), LEAST)


@dataclass(frozen=True)
class HeldOut:
    """What fits said of networks that they were not fitted to: predicted accuracy, and log density of the measured.

    Predictions are about the mean accuracy of all networks: about that of the networks fitted to, the best of those
    held out would be predicted to be worse, as they are missing there.
    """

    predicted: Floats
    log_density: Floats


def held_out(candidate: Candidate, accuracy: Floats, weights: Floats, parts: Sequence[Integers]) -> HeldOut:
    """Every network by a fit to all networks outside its part."""
    found = HeldOut(np.full(len(accuracy), math.nan), np.full(len(accuracy), math.nan))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(accuracy)), part)
        one = fit(candidate, accuracy, weights, rest)
        columns = candidate.ways[one.way]
        found.predicted[part] = one.predict(columns, part) - one.accuracy(one.centre) + accuracy.mean()
        found.log_density[part] = one.log_density(columns, part, accuracy, weights)
    return found


def select(candidates: Sequence[Candidate], accuracy: Floats, weights: Floats, seed: int) -> tuple[int, list[HeldOut]]:
    """The number of the candidate that makes the accuracies of networks held out most likely; what each says.

    Of equals it is the first. Every network is held out once; the rest alone decides on all settings of the candidates.
    """
    parts = folds(len(accuracy), seed)
    found = [held_out(candidate, accuracy, weights, parts) for candidate in candidates]
    return int(np.argmax([one.log_density.sum() for one in found])), found


def spearman(score: Floats, accuracy: Floats) -> Floats:
    """Rank correlation along the last axis; nan where one does not vary."""
    return _correlation(_standardised(_ranks(score)), _standardised(_ranks(accuracy)))


def partial_correlation(score: Floats, accuracy: Floats, given: Sequence[Floats]) -> Floats:
    """Rank correlation given other quantities, along the last axis.

    All are replaced by their ranks; the ranks of score and accuracy are regressed on those of the others with a
    constant, and the residuals correlated. nan where the others leave nothing.
    """
    others = np.stack([_standardised(_ranks(one)) for one in given], axis=-1)
    # Equal MACs leave a column of zeros, MACs and parameters in the same order two equal ones.
    inverse = np.linalg.pinv(others, rcond=1e-9)
    residuals = []
    for ranks in (_standardised(_ranks(score)), _standardised(_ranks(accuracy))):
        rest = ranks - (others @ (inverse @ ranks[..., None]))[..., 0]
        residuals.append(np.where(np.abs(rest) < 1e-9, 0.0, rest))
    return _correlation(*residuals)


def expected_regret(score: Floats, accuracy: Floats) -> Floats:
    """What is lost by the best-scored of :data:`GROUP` random networks against the best, along the last axis.

    In the unit of accuracy, exactly over all such groups; all networks where they are fewer.
    """
    number = accuracy.shape[-1]
    size = min(GROUP, number)
    # The chance that the best of a group is the network at place i of the ranking: C(n-1-i, k-1) / C(n, k).
    chance = np.array([math.comb(number - 1 - place, size - 1) for place in range(number)], float)
    chance /= chance.sum()
    best = -np.sort(-accuracy, axis=-1)
    order = np.argsort(-score, axis=-1, kind="stable")
    picked = np.take_along_axis(accuracy, order, axis=-1)
    level = np.take_along_axis(score, order, axis=-1)
    return np.asarray((best @ chance) - _tied(picked, level) @ chance)


def _tied(values: Floats, level: Floats) -> Floats:
    """Every value replaced by the mean of those of its level, which are neighbours."""
    flat = level.reshape(-1, level.shape[-1])
    new = np.concatenate([np.ones((len(flat), 1), bool), np.diff(flat, axis=-1) != 0], axis=-1)
    group = np.cumsum(new.reshape(-1)) - 1
    means = np.bincount(group, values.reshape(-1)) / np.bincount(group)
    return np.asarray(means[group].reshape(values.shape))


def interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval by percentiles of a measure's ``values`` for bootstrap samples; nan where none is defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0 along the last axis, ties at their mean."""
    order = np.argsort(values, axis=-1)
    places = np.broadcast_to(np.arange(values.shape[-1], dtype=float), values.shape)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, _tied(places, np.take_along_axis(values, order, axis=-1)), axis=-1)
    return ranks


def _standardised(values: Floats) -> Floats:
    """With mean 0 and standard deviation 1 along the last axis, zeros where nothing varies."""
    centred = values - values.mean(axis=-1, keepdims=True)
    deviation = centred.std(axis=-1, keepdims=True)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0))


def _correlation(a: Floats, b: Floats) -> Floats:
    """Of centred values along the last axis."""
    length = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.asarray(np.where(length > 0, (a * b).sum(axis=-1) / np.where(length > 0, length, 1.0), math.nan))
