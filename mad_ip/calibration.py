"""From trained designs of a spec to the objective that ranks such designs best (docs/calibration.md).

``mad-ip calibrate`` reads a table of runs, fits several kinds of objectives to the accuracies, chooses among them by
nested cross-validation (``mad_ip.statistics``), says whether any is of use, and writes the spec with the one chosen.

Candidates, of which each is what the solver takes, with every setting found by cross-validation:

- the objective of the spec as it is;
- entropy with weights ``alpha_t >= 0``, ``beta >= 0`` and a limit ``rho_0``: designs above it are ranked behind;
- utilities of the choices, smooth (ln c, ln m, L, L^2, a table over kernels) or a table over every domain;
- entropy times a factor of at least 0 and such utilities.

MACs and parameters alone are beside them for comparison, and a random pick where all designs have about equal MACs.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mad_ip import entropy, statistics
from mad_ip.design import Design, violations
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.errors import InputError, InternalError
from mad_ip.runs import PERCENT, Runs
from mad_ip.spec import LEAST_FACTOR, LEAST_WEIGHT, Budget, Objective, Spec, Term, Utility
from mad_ip.spec import Path as Choices
from mad_ip.statistics import FUNCTIONS, SHAPES, Candidate, Columns, Fit, Floats, HeldOut, Integers, Position, Prior

__all__ = ["Calibration", "Estimate", "Promise", "Row", "UtilityTable", "calibrate"]

_EQUAL = 1.1
"""Designs whose MACs differ by at most this factor cost about the same."""

_SURE = 0.995
"""Share of the bootstrap samples in which what beats another does so.

Folds depend on each other and the best of several candidates is judged: of accuracies that were all noise, this share
was reached in 2 % of calibrations against a random pick and in none of 120 against MACs, 0.95 in 12 % and 3 %.
"""

_LIMITS = 19
"""Values of rho_0 that are tried, besides none."""

_WITHIN = 5
"""Designs that a limit must leave."""

_LARGEST_Q = 1e12
"""No Q counts as larger: its other values would not be seen beside it."""

_RESAMPLED = 200
_GENERATIONS = 400

# ---- Candidates


class _Leading(NamedTuple):
    """A column before those of the utilities, divided by its ``scale``.

    ``meaning`` is ``H``, the entropy as weighted in the spec; ``level``, what a weight of 1 gives at one of the levels;
    ``-Q``; ``within``, whether a design keeps the limit on rho; or ``score`` and ``rank``, those of the spec's score.
    """

    meaning: str
    scale: float
    level: int = 0

    @property
    def name(self) -> str:
        """As it is shown."""
        if self.meaning == "level":
            return f"entropy of stage {self.level}" if self.level else "entropy of the stem"
        return {"H": "entropy", "within": "within rho_0", "score": AS_GIVEN, "rank": AS_GIVEN}.get(
            self.meaning, self.meaning
        )


@dataclass(frozen=True)
class _Way:
    """Columns of a candidate and what their coefficients mean in a spec; utilities follow the leading columns."""

    columns: Columns
    leading: tuple[_Leading, ...] = ()
    prior: Prior | None = None
    limit: float | None = None


@dataclass(frozen=True)
class _Features:
    """What is known of the designs of runs without training them."""

    spec: Spec
    paths: tuple[Choices, ...]

    @cached_property
    def designs(self) -> tuple[Design, ...]:
        return tuple(Design.chosen(self.spec, path) for path in self.paths)

    def metric(self, key: str) -> Floats:
        """A metric of every design."""
        return np.array([getattr(design.metrics, key) for design in self.designs], float)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The choices that the spec leaves, and the values that some design has."""
        return tuple(
            Position(f"{part.name} {axis}", axis, domain, tuple(sorted({getattr(p[n], axis) for p in self.paths})))
            for n, part, axis, domain in self._free()
        )

    @cached_property
    def choices(self) -> Integers:
        """Indices (n, positions) into the domains."""
        own = [[domain.index(getattr(p[n], axis)) for p in self.paths] for n, _, axis, domain in self._free()]
        return np.array(own, np.int64).reshape(len(own), len(self.paths)).T

    @property
    def keys(self) -> list[tuple[int | str, str]]:
        """The segment and the axis of every position."""
        return [(part.key, axis) for _, part, axis, _ in self._free()]

    def raw(self, meaning: str, level: int = 0) -> Floats:
        """What a leading column is made of, but for a constant; every design keeps the limit."""
        match meaning:
            case "H":
                return self.metric("entropy")
            case "level":
                return self.levels[level]
            case "-Q":
                parts = ([s.depth[0] for s in d.segments if s.penalised] for d in self.designs)
                own = [entropy.uniformity(depths, self.spec.convention) for depths in parts]
                return np.asarray(-np.minimum(own, _LARGEST_Q), float)
            case "within":
                return np.ones(len(self.paths))
            case _:
                return self.metric("score")

    def _free(self) -> Iterator[tuple[int, Any, str, tuple[int, ...]]]:
        for number, part in enumerate(self.spec.segments):
            for axis, domain in part.domains.items():
                if len(domain) > 1:
                    yield number, part, axis, domain

    @cached_property
    def levels(self) -> dict[int, Floats]:
        """What a weight of 1 gives to the entropy at every level whose weight is not 0: the stem (0) and the stages."""
        unit = dataclasses.replace(
            self.spec,
            stem=dataclasses.replace(self.spec.stem, weight=1.0),
            stages=tuple(dataclasses.replace(stage, weight=1.0) for stage in self.spec.stages),
        )
        factor = entropy.entropy_factor(self.spec.convention)
        gains = np.array(
            [[factor * one.gain * one.log_width for one in Design.chosen(unit, path).levels()] for path in self.paths]
        )
        weights = _weights(self.spec)
        return {level: gains[:, level] for level in range(len(weights)) if weights[level] > 0}


def _weights(spec: Spec) -> tuple[float, ...]:
    return (spec.stem.weight, *(stage.weight for stage in spec.stages))


def _candidates(features: _Features) -> dict[str, list[_Way]]:
    """All ways to fit each kind of objective, the simplest first."""
    score = features.metric("score")
    # A depth penalty may be so large that nothing is linear in the score, which may still rank.
    found = {
        AS_GIVEN: [
            _Way(
                Columns(_unit(score, slice(None))[:, None], np.array([True])),
                (_Leading("score", float(score.std() or 1.0)),),
            ),
            _Way(statistics.ranked(score), (_Leading("rank", 1.0),)),
        ]
    }
    has_entropy = bool(features.levels) and np.ptp(features.metric("entropy")) > 0
    if has_entropy:
        found["entropy, fitted"] = _entropy_ways(features)
    for name, priors in statistics.UTILITIES.items():
        ways = []
        for prior in priors:
            values = statistics.added(prior.bases(features.positions), features.choices)
            ways.append(_Way(statistics.free(values), prior=prior))
        found[name] = ways
    if has_entropy:
        column = _Leading("H", float(features.metric("entropy").std()))
        scaled = (features.metric("entropy") / column.scale)[:, None]
        for name in statistics.UTILITIES:
            found[_BOTH + name] = [
                _Way(
                    Columns(np.hstack([scaled, way.columns.values]), np.append(True, way.columns.positive)),
                    (column,),
                    way.prior,
                )
                for way in found[name]
            ]
    return found


def _entropy_ways(features: _Features) -> list[_Way]:
    """Without and with each limit on rho, entropy as weighted, or with weights and a depth penalty of its own."""
    rho = features.metric("effectiveness")
    quantiles = np.quantile(rho, np.linspace(0, 1, _LIMITS + 2)[1:-1], method="lower")
    rounded = sorted({float(f"{value:.3g}") for value in quantiles})
    limits = [limit for limit in rounded if _WITHIN <= (rho <= limit).sum() < len(rho)]
    score = [("H", 0, features.raw("H"))]
    fitted = [*score, *(("level", level, values) for level, values in features.levels.items())]
    fitted.append(("-Q", 0, features.raw("-Q")))
    ways = []
    for limit in [None, *limits]:
        within = np.ones(len(rho), bool) if limit is None else rho <= limit * (1 + EFFECTIVENESS_TOLERANCE)
        for given in (score, fitted):
            known = [(meaning, level, own) for meaning, level, own in given if np.ptp(own[within]) > 0]
            leading = [_Leading(meaning, float(own[within].std()), level) for meaning, level, own in known]
            values = [np.where(within, _unit(own, within), 0.0) for _, _, own in known]
            positive = [True] * len(values)
            if limit is not None:
                leading.append(_Leading("within", 1.0))
                # Designs behind have a line of their own, which may fall, and no say about the one of those within.
                behind = np.where(within, 0.0, _unit(score[0][2], ~within))
                values += [within.astype(float), behind]
                positive += [True, False]
            matrix = np.reshape(values, (len(values), len(rho))).T
            columns = Columns(matrix, np.array(positive), None if limit is None else ~within)
            ways.append(_Way(columns, tuple(leading), limit=limit))
    return ways


def _unit(values: Floats, among: Any) -> Floats:
    """Values with mean 0 and standard deviation 1 among some, a mask or a slice."""
    return np.asarray((values - values[among].mean()) / (values[among].std() or 1.0))


# ---- From a fit to a spec


@dataclass(frozen=True)
class UtilityTable:
    """What the values of one choice are worth, in points of accuracy about their mean, with 95 % intervals.

    ``stage`` and ``axis`` are where; ``seen`` are the numbers of designs that have each value.
    """

    stage: int | str
    axis: str
    domain: tuple[int, ...]
    worth: Floats
    low: Floats
    high: Floats
    seen: Integers


def _fitted_spec(features: _Features, way: _Way, fit: Fit) -> Spec:
    """The spec with the objective of a fit, the score in points of accuracy up to a constant."""
    spec, points = features.spec, fit.points
    weights = np.zeros(len(_weights(spec)))
    beta = 0.0
    for column, value in zip(way.leading, points[: len(way.leading)], strict=True):
        share = value / column.scale
        if column.meaning == "-Q":
            beta += share
        elif column.meaning == "H":
            weights += share * np.array(_weights(spec))
        elif column.meaning == "level":
            weights[column.level] += share
    factor = float(weights.sum() / max(sum(_weights(spec)), 1e-300))
    objective = Objective(_factor(beta), _factor(factor), _utilities(features, way, points))
    changed: dict[str, Any] = {"objective": objective}
    if factor > 0 and any(column.meaning == "level" for column in way.leading):
        # A level of weight 0 would count for the effectiveness no longer, in the convention tinynas.
        own = [
            _rounded(max(w / factor, LEAST_WEIGHT)) if was > 0 else was
            for w, was in zip(weights, _weights(spec), strict=True)
        ]
        changed["stem"] = dataclasses.replace(spec.stem, weight=own[0])
        changed["stages"] = tuple(
            dataclasses.replace(stage, weight=weight) for stage, weight in zip(spec.stages, own[1:], strict=True)
        )
    if way.limit is not None:
        # What the user does not want is not made up for by accuracy.
        own_limit = math.inf if spec.budget.effectiveness is None else spec.budget.effectiveness
        changed["budget"] = Budget(effectiveness=min(way.limit, own_limit), **dict(spec.budget.limits))
    return dataclasses.replace(spec, **changed, sha256="")


def _utilities(features: _Features, way: _Way, points: Floats) -> tuple[Utility, ...]:
    if way.prior is None:
        return ()
    terms: dict[int | str, dict[str, Term]] = {}
    bases = way.prior.bases(features.positions)
    for position, base, (stage, axis) in zip(features.positions, bases, features.keys, strict=True):
        worth = base @ points[len(way.leading) :]
        worth -= worth.mean()
        shapes = SHAPES[axis]
        if way.prior.coordinate == "smooth" and shapes != ("table",):
            x = np.array(position.domain, float)
            basis = np.stack([FUNCTIONS[shape](x) for shape in shapes], axis=1)
            solution = np.linalg.lstsq(basis - basis.mean(axis=0), worth, rcond=None)[0]
            smooth: Any = {shape: _rounded(float(value)) for shape, value in zip(shapes, solution, strict=True)}
            term = Term(**smooth)
        else:
            term = Term(table=tuple((v, _rounded(float(w))) for v, w in zip(position.domain, worth, strict=True)))
        terms.setdefault(stage, {})[axis] = term
    return tuple(Utility(stage, **own) for stage, own in terms.items())


def _rounded(value: float) -> float:
    """To eight digits, many more than are known."""
    return float(f"{value:.8g}")


def _factor(value: float) -> float:
    """Rounded; nothing where it is less than a spec may say."""
    return _rounded(value) if value >= LEAST_FACTOR else 0.0


# ---- Calibration


class Estimate(NamedTuple):
    """A measure with its 95 % bootstrap interval over designs; nan where it is not defined."""

    value: float
    low: float
    high: float


_NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Row:
    """How a kind of score ranks designs that it was not fitted to; ``regret`` is in points of accuracy.

    ``log_density`` is the mean over designs of the logarithm of the density that it gave to the accuracy measured.
    """

    name: str
    spearman: Estimate
    partial: Estimate
    regret: Estimate
    log_density: float


class Promise(NamedTuple):
    """Accuracies ``predicted`` for the optimum and ``measured`` of the best trained design in the given spec's budgets.

    The optimum is the best design that a search of the calibrated spec finds; ``trained`` says whether it is one of the
    runs'. The interval is that of fits to bootstrap samples. Either is ``None`` where there is no such design.
    """

    predicted: Estimate | None
    measured: float | None
    trained: bool


@dataclass(frozen=True)
class Calibration:
    """What runs say about objectives: ``candidates`` and ``baselines``, and the ``spec`` with the one ``chosen``.

    ``predicted`` are the accuracies of the chosen candidate for designs that it was not fitted to, ``utilities`` what
    its choices are worth, ``coefficients`` what a standard deviation of everything else in it is worth among the
    designs, in points of accuracy. ``limit`` is the rho_0 that was fitted, if any; that of the spec is not above its
    own. ``constant`` says whether another candidate was likelier for designs held out, fitted without any coefficient.
    ``against`` is what it is compared with, ``surer`` the share of the bootstrap samples in which it ranks better.
    """

    runs: Runs
    candidates: tuple[Row, ...]
    baselines: tuple[Row, ...]
    chosen: int
    spec: Spec
    predicted: Floats
    utilities: tuple[UtilityTable, ...]
    coefficients: tuple[tuple[str, Estimate], ...]
    limit: float | None
    constant: bool
    against: Row
    surer: float
    promise: Promise

    @property
    def row(self) -> Row:
        """That of the candidate chosen."""
        return self.candidates[self.chosen]

    @property
    def beats(self) -> bool:
        """Whether it ranks better than what it is compared ``against``, in nearly all bootstrap samples."""
        return self.surer >= _SURE

    @property
    def promises(self) -> bool:
        """Whether the optimum is expected to be better than the best trained design, beyond what may be chance."""
        predicted, measured, trained = self.promise
        return (
            self.beats and predicted is not None and measured is not None and predicted.low > measured and not trained
        )

    @property
    def verdict(self) -> str:
        """One sentence, whether any candidate is of use, and what its optimum promises."""
        own, other = self.row, self.against
        limit = "" if self.limit is None else f" with rho_0 = {self.limit:g}"
        kept = self.spec.budget.effectiveness
        if self.limit is not None and kept is not None and kept < self.limit:
            limit += f" (the spec's own {kept:g} is kept)"
        ranks = f"{own.name}{limit} has rank correlation {_shown(own.spearman)} with accuracies it was not fitted to"
        if other.name != RANDOM:
            ranks += f", {other.name} {_shown(other.spearman)}"
        sentence = f"Better than {other.name}: {ranks}" if self.beats else f"Nothing beats {other.name}: {ranks}"
        if self.constant:
            sentence += "; designs held out prefer a constant"
        return f"{sentence}; {self._promised()}"

    def _promised(self) -> str:
        predicted, measured, trained = self.promise
        if predicted is None:
            return "no design within the budgets was found"
        own = f"{PERCENT * predicted.value:.2f} % ({PERCENT * predicted.low:.2f} to {PERCENT * predicted.high:.2f})"
        if measured is None:
            return f"the optimum is predicted at {own}, no trained design is within the budgets"
        best = f"the best trained design has {PERCENT * measured:.2f} %"
        if self.promises:
            return f"the optimum is expected to be better at {own}, {best}"
        which = "the optimum, trained already," if trained else "the optimum"
        return f"no gain is promised: {which} is predicted at {own}, {best}"

    def to_toml(self) -> str:
        """The calibrated spec.toml, with where it comes from."""
        runs = self.runs
        lines = [
            f"{self.row.name}: fitted to {len(runs.paths)} designs in {int(runs.number.sum())} runs of {runs.source}",
            self.verdict,
            f"of {statistics.GROUP} designs the best-scored one is {self.row.regret.value:.2f} points of accuracy "
            f"below the best one, a random one {self.baselines[-1].regret.value:.2f}",
        ]
        if self.row.name != AS_GIVEN:
            lines.append("the score is accuracy in percent, as it is near the median, up to a constant")
        text = "".join(f"# {' '.join(line.split())}\n" for line in lines) + self.spec.to_toml()
        if Spec.from_table(tomllib.loads(text)) != self.spec:
            raise InternalError(f"{self.spec.source}: the calibrated spec is not what is read back; nothing is written")
        return text

    def content(self) -> dict[str, Any]:
        """As a JSON object, with null for what is not defined."""
        rows = [dataclasses.asdict(row) for row in (*self.candidates, *self.baselines)]
        for row in rows:
            for key in ("spearman", "partial", "regret"):
                row[key] = [value if math.isfinite(value) else None for value in row[key]]
            row["log_density"] = row["log_density"] if math.isfinite(row["log_density"]) else None
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "beats": self.beats,
            "promises": self.promises,
            "chosen": self.row.name,
            "against": self.against.name,
            "designs": len(self.runs.paths),
            "runs": int(self.runs.number.sum()),
            "noise": self.runs.noise,
            "rho_0": self.limit,
            "constant": self.constant,
            "promise": self.promise._asdict(),
            "candidates": rows,
            "coefficients": {name: list(estimate) for name, estimate in self.coefficients},
            "utilities": [
                {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(table).items()}
                for table in self.utilities
            ],
        }


FORMAT = "mad-ip/calibration/1"
AS_GIVEN = "objective as given"
RANDOM = "a random pick"
_BOTH = "entropy and "


def calibrate(spec: Spec, runs: Runs, seed: int = 0) -> Calibration:
    """Choose and fit the objective of a spec by the accuracies of trained designs.

    Equal seeds, which decide on the parts of the cross-validation and the bootstrap samples, give equal calibrations.
    """
    features = _Features(spec, runs.paths)
    accuracy = runs.accuracy
    least, smallest = _smallest(features)
    if len(accuracy) < least:
        raise InputError(
            f"{runs.source}: has {len(accuracy)} designs; must have at least {least}, as many as the smallest "
            f"candidate has coefficients ({smallest})"
        )
    ways = _candidates(features)
    candidates = [Candidate(name, tuple(way.columns for way in own)) for name, own in ways.items()]
    scores = {"MACs": features.metric("macs"), "parameters": features.metric("params")}
    alone = [Candidate(name, (statistics.ranked(score),)) for name, score in scores.items()]
    weights = statistics.precision(candidates, accuracy, runs.number, runs.noise)
    likeliest, held = statistics.select([*candidates, *alone], accuracy, weights, seed)
    fits = [statistics.fit(candidate, accuracy, weights) for candidate in [*candidates, *alone]]
    # A fit without a coefficient would leave nothing to maximise.
    chosen = min(range(len(candidates)), key=lambda n: (not fits[n].coefficients.any(), -held[n].log_density.sum()))
    if candidates[chosen].name.startswith(_BOTH) and fits[chosen].coefficients[0] == 0:
        # Without a share of the entropy these are the utilities alone.
        chosen = list(ways).index(candidates[chosen].name.removeprefix(_BOTH))

    generator = np.random.default_rng(seed)
    samples = generator.integers(0, len(accuracy), (1000, len(accuracy)))
    measure = _Measure(accuracy, tuple(scores.values()), samples)
    # Nothing is fitted in these, so that nothing need be held out; a fit may not even rank them as they do.
    scores[AS_GIVEN] = features.metric("score")
    shown = [scores.get(one.name, own.predicted) for one, own in zip([*candidates, *alone], held, strict=True)]
    rows = [
        measure.row(one.name, score, own) for one, score, own in zip([*candidates, *alone], shown, held, strict=True)
    ]
    # Given themselves, MACs and parameters say nothing.
    baselines = (*(dataclasses.replace(row, partial=_NOTHING) for row in rows[len(candidates) :]), measure.random())
    equal = scores["MACs"].max() <= _EQUAL * scores["MACs"].min()
    other = np.zeros(len(samples)) if equal else np.nan_to_num(measure.ranks(scores["MACs"]))
    # What ranks worse than a random pick is of no use, even if MACs rank worse still.
    surer = measure.ranks(shown[chosen]) > np.maximum(other, 0)

    name, fit = candidates[chosen].name, fits[chosen]
    way = ways[name][fit.way]
    fitted = spec if name == AS_GIVEN else _fitted_spec(features, way, fit)
    refits = statistics.resampled(way.columns, fit, accuracy, weights, generator, _RESAMPLED)
    return Calibration(
        runs=runs,
        candidates=tuple(rows[: len(candidates)]),
        baselines=baselines,
        chosen=chosen,
        spec=fitted,
        predicted=held[chosen].predicted,
        **_worth(features, way, fit, refits[1]),
        limit=way.limit,
        constant=not fits[likeliest].coefficients.any(),
        against=baselines[-1] if equal else baselines[0],
        surer=float(surer.mean()),
        promise=_promise(features, fitted, way, fit, refits, accuracy),
    )


def _smallest(features: _Features) -> tuple[int, str]:
    """The coefficients of the smallest candidate in which anything is fitted, and its name."""
    numbers = []
    if features.levels:
        numbers.append((len(features.levels) + 1, "entropy, fitted: weights of the levels and depth penalty"))
    shapes = [(SHAPES[position.kind], len(position.domain) - 1) for position in features.positions]
    smooth = sum(steps if "table" in shape else min(len(shape), steps) for shape, steps in shapes)
    numbers.append((smooth, "utilities, smooth"))
    return min(numbers)


@dataclass(frozen=True)
class _Measure:
    """Measures of scores of designs not fitted to, with intervals from the same ``samples`` (1000, n)."""

    accuracy: Floats
    costs: tuple[Floats, ...]
    samples: Integers

    def ranks(self, score: Floats) -> Floats:
        """The rank correlation in every sample."""
        return statistics.spearman(score[self.samples], self.accuracy[self.samples])

    def row(self, name: str, score: Floats, held: HeldOut) -> Row:
        return Row(
            name,
            self._estimate(score, statistics.spearman),
            self._estimate(score, statistics.partial_correlation, *self.costs),
            self._estimate(score, lambda one, own: PERCENT * statistics.expected_regret(one, own)),
            float(held.log_density.mean()),
        )

    def random(self) -> Row:
        """Equal scores: each design is as likely to be picked."""
        regret = self._estimate(
            np.zeros(len(self.accuracy)), lambda score, own: PERCENT * statistics.expected_regret(score, own)
        )
        return Row(RANDOM, _NOTHING, _NOTHING, regret, math.nan)

    def _estimate(self, score: Floats, measure: Callable[..., Floats], *costs: Floats) -> Estimate:
        given = [costs] if costs else []
        resampled = [tuple(cost[self.samples] for cost in costs)] if costs else []
        values = measure(score[self.samples], self.accuracy[self.samples], *resampled)
        return Estimate(float(measure(score, self.accuracy, *given)), *statistics.interval(values))


def _worth(features: _Features, way: _Way, fit: Fit, refitted: Floats) -> dict[str, Any]:
    """Utilities and coefficients, with intervals from those ``refitted`` to bootstrap samples, settings unchanged."""
    points = PERCENT * fit.reference * np.vstack([fit.coefficients, refitted])
    first = len(way.leading)
    coefficients = tuple(
        (column.name, Estimate(float(own[0]), *statistics.interval(own[1:])))
        for column, own in zip(way.leading, points.T[:first], strict=True)
    )
    tables = []
    bases = () if way.prior is None else way.prior.bases(features.positions)
    for n, base in enumerate(bases):
        worth = points[:, first:] @ base.T
        worth -= worth.mean(axis=1, keepdims=True)
        low, high = np.percentile(worth[1:], (2.5, 97.5), axis=0)
        domain = features.positions[n].domain
        seen = np.bincount(features.choices[:, n], minlength=len(domain))
        tables.append(UtilityTable(*features.keys[n], domain, worth[0], low, high, seen))
    return {"utilities": tuple(tables), "coefficients": coefficients}


def _promise(
    features: _Features, spec: Spec, way: _Way, fit: Fit, refits: tuple[Floats, Floats], accuracy: Floats
) -> Promise:
    """What a search of the calibrated ``spec`` finds, and the best design trained within the budgets of the given one.

    ``refits`` are intercepts and coefficients of fits to bootstrap samples.
    """
    from mad_ip.backends.base import Limits
    from mad_ip.backends.evolution import Evolution

    if spec is not features.spec:
        _require_as_fitted(features, spec, way, fit)
    within = [n for n, design in enumerate(features.designs) if not violations(features.spec, design)]
    measured = float(accuracy[within].max()) if within else None
    found = Evolution({"generations": _GENERATIONS}).solve(spec, Limits(gap=0.0), lambda _: False)
    if not found.paths:
        return Promise(None, measured, trained=False)
    path = found.paths[0]
    row = _columns_of(features, way, path)
    intercepts, coefficients = refits
    predicted = Estimate(
        float(fit.accuracy(fit.intercept + row @ fit.coefficients)),
        *statistics.interval(fit.accuracy(intercepts + coefficients @ row)),
    )
    return Promise(predicted, measured, path in features.paths)


def _columns_of(features: _Features, way: _Way, path: Choices) -> Floats:
    """The columns of any design that keeps the limit, by how it differs from one of the runs that keeps it, too."""
    known = 0 if way.columns.behind is None else int(way.columns.behind.argmin())
    pair = _Features(features.spec, (features.paths[known], path))
    row = way.columns.values[known].copy()
    for n, column in enumerate(way.leading):
        old, new = pair.raw(column.meaning, column.level)
        if column.meaning == "rank":
            # Between the ranks of those known, not beyond.
            scores = features.metric("score")
            order = scores.argsort()
            row[n] = np.interp(new, scores[order], way.columns.values[order, n])
        else:
            row[n] += (new - old) / column.scale
    if way.prior is not None:
        old, new = statistics.added(way.prior.bases(features.positions), pair.choices)
        row[len(way.leading) :] += new - old
    return np.asarray(row)


def _require_as_fitted(features: _Features, spec: Spec, way: _Way, fit: Fit) -> None:
    """Raise :class:`InternalError` where a calibrated spec does not score the designs of the runs as it was fitted."""
    designs = [Design.chosen(spec, path) for path in features.paths]
    t = fit.intercept + way.columns.values @ fit.coefficients
    free = np.array([design.metrics.depth_penalty <= _LARGEST_Q * spec.objective.depth_penalty for design in designs])
    if way.columns.behind is not None:
        free &= ~way.columns.behind
    offsets = t - np.array([design.metrics.score for design in designs]) / (PERCENT * fit.reference)
    if np.ptp(offsets[free]) > 1e-4 * max(1.0, float(np.ptp(t[free]))):
        raise InternalError(f"{spec.source}: the calibrated spec does not score as it was fitted; nothing is written")


def _shown(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
