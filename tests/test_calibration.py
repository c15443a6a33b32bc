"""Calibration: the statistics against independent formulas, known objectives found again, bad tables refused."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from mad_ip import calibration, statistics
from mad_ip.calibration import AS_GIVEN, Calibration, Promise, calibrate
from mad_ip.cli import main
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.runs import Runs, read_runs
from mad_ip.search import Population
from mad_ip.solve import solve
from mad_ip.spec import Budget, Objective, Spec, Tail, Term, Utility
from mad_ip.statistics import Candidate, Columns, Position, Prior
from tools import calibration_benchmark

TEXT = """
name = "small"
[input]
resolution = 32
classes = 10
[budget]
macs = 8e6
[stem]
kernel = 3
stride = 1
channels = [8, 16]
[[stage]]
block = "bottleneck"
stride = 1
channels = [16, 32, 48]
mid = [8, 16]
kernel = [3, 5]
depth = {min = 1, max = 4}
[[stage]]
block = "bottleneck"
stride = 2
channels = [32, 64, 96]
mid = [16, 32]
kernel = [3, 5]
depth = {min = 1, max = 4}
"""

TRUE = (
    Utility("stem", channels=Term(table=((8, 0.0), (16, 1.0)))),
    Utility(1, channels=Term(log=1.0), kernel=Term(table=((3, 0.0), (5, -0.8))), depth=Term(linear=2.0, square=-0.4)),
    Utility(2, channels=Term(log=0.5), mid=Term(log=1.5), depth=Term(linear=0.4)),
)
"""What the choices are worth in points."""


@pytest.fixture(autouse=True, scope="module")
def _short_search() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_GENERATIONS", 20)
        patch.setattr(calibration, "_LIMITS", 9)
        patch.setattr(calibration, "_RESAMPLED", 60)
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    path = tmp_path_factory.mktemp("spec") / "spec.toml"
    path.write_text(TEXT)
    return Spec.load(path)


def rows_of(spec: Spec, number: int, seed: int = 0) -> Any:
    """Different random architectures that keep the rules, as rows of genes."""
    population = Population(dataclasses.replace(spec, budget=Budget(), sha256=""))
    rows = np.unique(
        np.random.default_rng(seed).integers(0, population.sizes, (50 * number, len(population.sizes))), axis=0
    )
    rows = rows[population.evaluate(rows)[1] == 0]
    return np.random.default_rng(seed).permutation(rows)[:number]


def runs_of(spec: Spec, worth: Any, noise: float, number: int = 60, repeats: int = 1) -> Runs:
    """Runs whose accuracy is 70 % and what a design is worth, in points about the mean, with noise in points."""
    population = Population(spec)
    paths = tuple(population.path(row) for row in rows_of(spec, number))
    points = np.array([worth(Design.chosen(spec, path)) for path in paths])
    generator = np.random.default_rng(1)
    measured = points - points.mean() + generator.normal(0, noise, (repeats, number)).mean(axis=0)
    return Runs("runs.csv", (), paths, 0.7 + measured / 100, np.full(number, repeats), None)


def utility(design: Design) -> float:
    objective = Objective(0.0, 0.0, TRUE)
    return float(design.measure(objective).score)


@pytest.fixture(scope="module")
def found(spec: Spec) -> Calibration:
    return calibrate(spec, runs_of(spec, utility, noise=0.3))


# ---- Statistics


def test_partial_correlation_is_that_of_residuals_of_ranks() -> None:
    generator = np.random.default_rng(0)
    macs = generator.integers(0, 30, 200)
    params = macs + generator.normal(size=200)
    accuracy = np.round(macs + generator.normal(size=200) * 5)
    score = accuracy + params + generator.normal(size=200) * 5
    design = np.column_stack([np.ones(200), stats.rankdata(macs), stats.rankdata(params)])
    residuals = []
    for values in (score, accuracy):
        ranks = stats.rankdata(values)
        residuals.append(ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0])
    expected = stats.pearsonr(*residuals).statistic
    assert statistics.partial_correlation(score, accuracy, (macs * 1.0, params)) == pytest.approx(expected, abs=1e-12)


def test_partial_correlation_given_what_does_not_vary() -> None:
    generator = np.random.default_rng(0)
    score, accuracy = generator.normal(size=(2, 50))
    constant = np.full(50, 3.0)
    expected = stats.spearmanr(score, accuracy).statistic
    assert statistics.partial_correlation(score, accuracy, (constant, constant)) == pytest.approx(expected, abs=1e-12)
    twice = statistics.partial_correlation(score, accuracy, (np.arange(50.0), np.arange(50.0)))
    assert twice == pytest.approx(
        statistics.partial_correlation(score, accuracy, (np.arange(50.0), constant)), abs=1e-12
    )
    assert math.isnan(statistics.partial_correlation(score, accuracy, (score, constant)))
    assert math.isnan(statistics.spearman(constant, accuracy))


def test_spearman_with_ties_row_by_row() -> None:
    values = np.random.default_rng(0).integers(0, 6, (2, 5, 40)) * 1.0
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(*values, strict=True)]
    np.testing.assert_allclose(statistics.spearman(*values), expected, atol=1e-12)


@pytest.mark.parametrize("levels", [5, 1000, 1])
def test_expected_regret_is_the_mean_over_all_groups(levels: int) -> None:
    generator = np.random.default_rng(0)
    score, accuracy = generator.integers(0, levels, 13) * 1.0, generator.normal(size=13)
    regrets = []
    for group in itertools.combinations(range(13), statistics.GROUP):
        own, scores = accuracy[list(group)], score[list(group)]
        regrets.append(own.max() - own[scores == scores.max()].mean())
    assert statistics.expected_regret(score, accuracy) == pytest.approx(np.mean(regrets), abs=1e-12)


def test_left_out_residuals_are_those_of_explicit_fits() -> None:
    generator = np.random.default_rng(0)
    values, targets, weights = (
        generator.normal(size=(20, 30)),
        generator.normal(size=(20, 2)),
        generator.uniform(1, 3, 20),
    )
    ridges = np.array([0.01, 1.0])
    problem = statistics._Ridge.of(values, targets, weights, ridges)
    centred = values - weights @ values / weights.sum()
    strength = (weights @ centred**2).sum() / 20
    found = problem.left_out()
    for n, (place, ridge) in itertools.product(range(20), enumerate(ridges)):
        rest = np.delete(np.arange(20), n)
        mean, mean_target = (weights[rest] @ m[rest] / weights[rest].sum() for m in (values, targets))
        root = np.sqrt(weights[rest])[:, None]
        system = np.vstack([root * (values[rest] - mean), math.sqrt(ridge * strength) * np.eye(30)])
        answer = np.vstack([root * (targets[rest] - mean_target), np.zeros((30, 2))])
        coefficients = np.linalg.lstsq(system, answer, rcond=None)[0]
        np.testing.assert_allclose(
            found[place, n], targets[n] - mean_target - (values[n] - mean) @ coefficients, atol=1e-9
        )


def test_the_power_of_the_error_is_found_and_densities_integrate_to_one() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    accuracy = 1 - 0.2 * np.exp(-values @ [0.5, -0.3, 0.1] + 0.05 * np.random.default_rng(1).normal(size=200))
    candidate = Candidate("linear", (statistics.free(values),))
    fit = statistics.fit(candidate, accuracy, np.ones(200))
    assert fit.power == 0
    np.testing.assert_allclose(fit.coefficients, [0.5, -0.3, 0.1], atol=0.02)
    np.testing.assert_allclose(fit.predict(candidate.ways[0], np.arange(200)), accuracy, atol=0.1)
    grid = np.linspace(0, 0.9999, 20_001)
    columns = statistics.free(np.repeat(values[:1], len(grid), axis=0))
    density = np.exp(fit.log_density(columns, np.arange(len(grid)), grid, np.full(len(grid), 2.0)))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)


def test_coefficients_that_must_not_be_negative() -> None:
    values = np.random.default_rng(0).normal(size=(80, 3))
    accuracy = 0.7 + 0.01 * values @ [1.0, -1.0, 0.5] + 0.002 * np.random.default_rng(1).normal(size=80)
    columns = Columns(values, np.array([True, True, False]))
    fit = statistics.fit(Candidate("mixed", (columns,)), accuracy, np.ones(80))
    target = statistics._transformed((1 - accuracy) / fit.reference, fit.power)
    # Column 1 is at its bound, so that its scale is not in the strength of the ridge.
    centred = (values - values.mean(axis=0))[:, [0, 2]]
    strength = math.sqrt(fit.ridge * (centred**2).sum() / 80)
    system = np.vstack([values - values.mean(axis=0), strength * np.eye(3)])
    answer = np.concatenate([target - target.mean(), np.zeros(3)])
    bounded = optimize.lsq_linear(system, answer, ([0, 0, -np.inf], np.inf), tol=1e-12)
    np.testing.assert_allclose(fit.coefficients, bounded.x, atol=1e-8)
    assert fit.coefficients[1] == 0


def test_no_network_tells_on_itself() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(40, 4))
    accuracy = 0.7 + 0.02 * values[:, 0] + 0.01 * generator.normal(size=40)
    candidate = Candidate("either", (statistics.free(values), statistics.free(values[:, :1])))
    parts = statistics.folds(40, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(40))
    changed = accuracy.copy()
    changed[parts[3]] = 0.2
    before, after = (statistics.held_out(candidate, one, np.ones(40), parts) for one in (accuracy, changed))
    own = parts[3]
    np.testing.assert_allclose(
        before.predicted[own] - accuracy.mean(), after.predicted[own] - changed.mean(), atol=1e-12
    )


def test_noise_alone_is_not_ranked() -> None:
    accuracy = np.random.default_rng(0).normal(0.7, 0.01, 60)
    constant = Candidate("constant", (statistics.free(np.zeros((60, 1))),))
    held = statistics.held_out(constant, accuracy, np.ones(60), statistics.folds(60, 0))
    assert np.ptp(held.predicted) < 1e-12


def test_bootstrap_intervals_cover() -> None:
    generator = np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(0.6 / 2)
    covered = 0
    for _ in range(200):
        score = generator.normal(size=80)
        accuracy = 0.6 * score + 0.8 * generator.normal(size=80)
        samples = generator.integers(0, 80, (300, 80))
        low, high = statistics.interval(statistics.spearman(score[samples], accuracy[samples]))
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_many_runs_of_a_network_do_not_outweigh_what_its_score_misses() -> None:
    generator = np.random.default_rng(0)
    values, number = generator.normal(size=(60, 3)), np.where(np.arange(60) < 3, 100, 1)
    candidates = [Candidate("linear", (statistics.free(values),))]
    for missed, low, high in ((0.01, 1.0, 1.1), (0.0, 20.0, 100.0)):
        noise = generator.normal(0, 0.002 / np.sqrt(number)) + generator.normal(0, missed, 60)
        weights = statistics.precision(candidates, 0.7 + 0.01 * values[:, 0] + noise, number, 0.002)
        assert weights.mean() == pytest.approx(1)
        assert low < weights[0] / weights[-1] <= high * (1 + 1e-9)
    np.testing.assert_array_equal(statistics.precision(candidates, noise, number, None), np.ones(60))
    np.testing.assert_array_equal(statistics.precision(candidates, noise, np.full(60, 2), 0.1), np.ones(60))


def test_prior_steps_are_a_brownian_motion_and_are_interpolated() -> None:
    position = Position("c", "channels", (16, 24, 32, 64), seen=(16, 32, 64))
    (base,) = Prior("log", own_slope=0.0, own_step=1.0).bases([position])
    z = np.log(position.domain) / math.log(4)
    variance = ((base[:, None] - base[None, :]) ** 2).sum(axis=-1)
    known = [0, 2, 3]
    np.testing.assert_allclose(variance[np.ix_(known, known)], np.abs(z[:, None] - z[None, :])[np.ix_(known, known)])
    worth = base @ np.random.default_rng(0).normal(size=base.shape[1])
    assert worth[1] == pytest.approx(np.interp(z[1], z[known], worth[known]))


def test_positions_of_a_kind_share_what_the_prior_says() -> None:
    positions = [Position("1", "depth", (1, 2, 3)), Position("2", "depth", (1, 2, 3)), Position("3", "kernel", (3, 5))]
    one, two, kernel = Prior("linear", 1.0, 0.5, 0.3, 0.1).bases(positions)
    covariance = (one[2] - one[0]) @ (two[2] - two[0])
    assert covariance == pytest.approx((1.0**2 + 0.3**2) / 2)
    assert ((one[2] - one[0]) ** 2).sum() == pytest.approx(covariance + 0.5**2 + 0.1**2)
    assert (kernel[1] - kernel[0]) @ (one[2] - one[0]) == 0


def test_a_training_that_failed_counts_little() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    accuracy = 0.7 + 0.01 * values[:, 0] + 0.002 * np.random.default_rng(1).normal(size=40)
    candidate = Candidate("linear", (statistics.free(values),))
    accuracy[values[:, 0].argmax()] = 0.1
    held = statistics.held_out(candidate, accuracy, np.ones(40), statistics.folds(40, 0))
    assert statistics.spearman(held.predicted, values[:, 0]) > 0.9


# ---- Known objectives


def test_utilities_are_recovered(spec: Spec, found: Calibration) -> None:
    assert "utilities" in found.row.name
    assert found.verdict.startswith("Better than MACs: ")
    assert found.promises
    assert found.row.spearman.value > 0.9
    true = {(u.stage, axis): term for u in TRUE for axis, term in u.terms}
    for table in found.utilities:
        term = true.get((table.stage, table.axis))
        worth = np.zeros(len(table.domain)) if term is None else term(table.domain)
        error = table.worth - (worth - worth.mean())
        assert np.abs(error).max() < 0.6, (table.stage, table.axis)
        assert (table.low <= table.worth + 1e-9).all()
    # Scored in points of accuracy.
    generator = np.random.default_rng(7)
    population = Population(spec)
    rows = rows_of(spec, 200, seed=int(generator.integers(100, 200)))
    designs = [Design.chosen(spec, population.path(row)) for row in rows]
    scores = [design.measure(found.spec.objective).score for design in designs]
    slope, *_ = np.polyfit(scores, [utility(design) for design in designs], 1)
    assert slope == pytest.approx(1, abs=0.15)


def test_what_is_not_fitted_is_shown_as_it_ranks(found: Calibration, spec: Spec) -> None:
    designs = [Design.chosen(spec, path) for path in found.runs.paths]
    macs, params, score = (
        np.asarray([getattr(d.metrics, key) for d in designs], float) for key in ("macs", "params", "score")
    )
    accuracy: Any = found.runs.accuracy
    rows = {row.name: row for row in (*found.candidates, *found.baselines)}
    for name, own in (("MACs", macs), ("parameters", params), (AS_GIVEN, score)):
        assert rows[name].spearman.value == pytest.approx(stats.spearmanr(own, accuracy).statistic, abs=1e-12)
        assert rows[name].regret.value == pytest.approx(100 * statistics.expected_regret(own, accuracy))
        assert math.isfinite(rows[name].log_density)
    partial = statistics.partial_correlation(score, accuracy, (macs, params))
    assert rows[AS_GIVEN].partial.value == pytest.approx(partial)
    assert found.against == rows["MACs"]


def test_columns_of_any_design_are_those_of_the_runs(spec: Spec) -> None:
    features = calibration._Features(spec, runs_of(spec, utility, noise=0.3, number=20).paths)
    for ways in calibration._candidates(features).values():
        for way in ways[:4]:
            for n in (0, 7, 19):
                if way.columns.behind is None or not way.columns.behind[n]:
                    row = calibration._columns_of(features, way, features.paths[n])
                    np.testing.assert_allclose(row, way.columns.values[n], atol=1e-9)


def test_a_gain_is_promised_only_beyond_chance(found: Calibration) -> None:
    predicted, measured, trained = found.promise
    assert found.promises
    assert predicted is not None
    assert measured is not None
    assert predicted.low < predicted.value < predicted.high
    assert not trained
    assert f"; the optimum is expected to be better at {100 * predicted.value:.2f} % (" in found.verdict
    assert found.verdict.endswith(f", the best trained design has {100 * measured:.2f} %")
    unsure = Promise(predicted._replace(low=measured - 0.01), measured, trained=False)
    for other in (
        dataclasses.replace(found, promise=unsure),
        dataclasses.replace(found, surer=0.9),
        dataclasses.replace(found, promise=found.promise._replace(trained=True)),
    ):
        assert not other.promises
        assert "; no gain is promised: the optimum" in other.verdict
        assert other.content()["promises"] is False
    for promise, said in (
        (found.promise._replace(measured=None), "no trained design is within the budgets"),
        (found.promise._replace(predicted=None), "no design within the budgets was found"),
    ):
        other = dataclasses.replace(found, promise=promise)
        assert not other.promises
        assert other.verdict.endswith(said)
        json.dumps(other.content(), allow_nan=False)


@pytest.mark.parametrize(
    ("likeliest", "chosen", "constant"),
    [("entropy and utilities, smooth", "utilities, smooth", False), (AS_GIVEN, "utilities, smooth", True)],
)
def test_what_has_nothing_of_its_own_is_not_chosen(
    likeliest: str, chosen: str, constant: bool, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = [likeliest, "utilities, smooth"]

    def select(candidates: list[Candidate], accuracy: Any, weights: Any, seed: int) -> Any:
        names = [candidate.name for candidate in candidates]
        density = [-order.index(name) if name in order else -9.0 for name in names]
        predicted = np.random.default_rng(seed).normal(size=len(accuracy))
        return names.index(likeliest), [
            statistics.HeldOut(predicted, np.full(len(accuracy), float(own))) for own in density
        ]

    monkeypatch.setattr(statistics, "select", select)
    found = calibrate(spec, runs_of(spec, lambda design: -design.metrics.entropy / 1000, noise=0.1, number=30))
    assert found.row.name == chosen
    assert found.constant == constant
    assert ("; designs held out prefer a constant; " in found.verdict) == constant


def test_a_limit_of_the_spec_is_kept(spec: Spec) -> None:
    own = dataclasses.replace(spec, budget=Budget(effectiveness=0.2), sha256="")

    def worth(design: Design) -> float:
        return design.metrics.entropy / 1000 - 4 * (design.metrics.effectiveness > 0.35)

    found = calibrate(own, runs_of(own, worth, noise=0.1, number=40))
    assert found.limit == pytest.approx(0.35, abs=0.08)
    assert found.spec.budget.effectiveness == 0.2
    assert f"entropy, fitted with rho_0 = {found.limit:g} (the spec's own 0.2 is kept) has " in found.verdict
    assert found.content()["rho_0"] == found.limit


def test_fewer_designs_than_coefficients_are_refused(tmp_path: Path) -> None:
    text, _, stage = TEXT.rpartition("[[stage]]")
    stage = f"[[stage]]{stage}weight = 1.0\n".replace("stride = 2", "stride = 1")
    path = tmp_path / "spec.toml"
    path.write_text(text + 10 * stage)
    own = Spec.load(path)
    population = Population(own)
    paths = (population.path(np.zeros(len(population.sizes), np.int64)),) * 10
    runs = Runs("runs.csv", (), paths, np.linspace(0.6, 0.7, 10), np.ones(10, np.int64), None)
    with pytest.raises(
        InputError, match=r"has 10 designs; must have at least 11, as many as .* has coefficients \(entropy"
    ):
        calibrate(own, runs)


def test_the_optimum_of_the_calibrated_spec_is_near_the_true_one(
    spec: Spec, found: Calibration, in_this_process: Callable[..., Any]
) -> None:
    true = dataclasses.replace(spec, objective=Objective(0.0, 0.0, TRUE), sha256="")
    population = Population(true)
    rows = np.stack(np.unravel_index(np.arange(math.prod(population.sizes)), population.sizes), axis=1)
    score, violation = population.evaluate(rows)
    best = score[violation == 0].max()
    design = solve(found.spec)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    own = Design.chosen(true, design.path).metrics.score
    assert best - own < 0.5
    assert np.mean(score[violation == 0] < own) > 0.99


def test_a_calibrated_spec_is_read_back(found: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibrated.toml"
    path.write_text(found.to_toml())
    assert Spec.load(path) == found.spec
    assert found.verdict in path.read_text()


def test_equal_seeds_give_equal_calibrations(spec: Spec) -> None:
    runs = runs_of(spec, utility, noise=0.3, number=20)
    first, again = (calibrate(spec, runs, seed=3) for _ in range(2))
    assert first.to_toml() == again.to_toml()
    assert first.content() == again.content()


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
def test_the_limit_on_effectiveness_is_found(spec: Spec, convention: str) -> None:
    spec = dataclasses.replace(spec, convention=convention, sha256="")

    def worth(design: Design) -> float:
        return design.metrics.entropy / 1000 - 4 * (design.metrics.effectiveness > 0.35)

    runs = runs_of(spec, worth, noise=0.1)
    designs = [Design.chosen(spec, path) for path in runs.paths]
    (lucky, *_) = (n for n, d in enumerate(designs) if d.metrics.effectiveness > 0.4 and d.metrics.macs < 8e6)
    runs.accuracy[lucky] = runs.accuracy.max() + 0.01
    found = calibrate(spec, runs)
    assert found.row.name == "entropy, fitted"
    assert f" with rho_0 = {found.spec.budget.effectiveness:g} has " in found.verdict
    # The budgets are those of the spec as given.
    assert found.promise.measured == runs.accuracy[lucky]
    assert found.spec.objective.utilities == ()
    assert found.spec.objective.entropy > 0
    assert found.spec.budget.effectiveness == pytest.approx(0.35, abs=0.05)
    assert dict(found.coefficients)["within rho_0"].value > 0


def test_no_limit_that_puts_good_designs_behind(spec: Spec) -> None:
    found = calibrate(spec, runs_of(spec, lambda design: design.metrics.entropy / 1000, noise=0.5))
    (fitted,) = (row for row in found.candidates if row.name == "entropy, fitted")
    assert fitted.spearman.value > 0.85
    assert found.row.name == AS_GIVEN


def test_weights_of_the_levels_are_found(spec: Spec) -> None:
    spec = dataclasses.replace(spec, stages=tuple(dataclasses.replace(s, weight=1.0) for s in spec.stages), sha256="")
    other = dataclasses.replace(
        spec, stages=(dataclasses.replace(spec.stages[0], weight=8.0), spec.stages[1]), sha256=""
    )

    def worth(design: Design) -> float:
        return Design.chosen(other, design.path).metrics.entropy / 500

    found = calibrate(spec, runs_of(spec, worth, noise=0.02))
    assert found.row.name == "entropy, fitted"
    first, second = (stage.weight for stage in found.spec.stages)
    assert first == pytest.approx(8 * second, rel=0.2)
    assert first + second == pytest.approx(2)


def test_nothing_beats_macs_where_macs_are_all(spec: Spec) -> None:
    found = calibrate(spec, runs_of(spec, lambda design: 5 * math.log(design.metrics.macs), noise=0.05))
    assert found.verdict.startswith("Nothing beats MACs: ")
    assert not found.beats


def test_nothing_beats_a_random_pick_of_noise(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if all designs had about equal MACs.
    monkeypatch.setattr(calibration, "_EQUAL", math.inf)
    found = calibrate(spec, runs_of(spec, lambda design: 0.0, noise=1.0, number=40))
    assert found.against.name == "a random pick"
    assert found.verdict.startswith("Nothing beats a random pick: ")
    assert "; no gain is promised: the optimum" in found.verdict
    assert found.to_toml()


def test_the_objective_as_given_stays(spec: Spec) -> None:
    own = dataclasses.replace(spec, objective=Objective(0.0, 0.001, TRUE), sha256="")
    found = calibrate(own, runs_of(own, lambda design: design.metrics.score, noise=0.2))
    assert found.row.name == AS_GIVEN
    assert found.spec == own
    scores = [Design.chosen(own, path).metrics.score for path in found.runs.paths]
    assert found.row.spearman.value == pytest.approx(stats.spearmanr(scores, found.runs.accuracy).statistic)
    predicted, measured, _ = found.promise
    assert predicted is not None
    assert measured is not None
    assert predicted.value > measured - 0.01
    assert found.verdict.endswith(f"the best trained design has {100 * measured:.2f} %")
    content = found.content()
    assert content["promise"] == {"predicted": predicted, "measured": measured, "trained": found.promise.trained}
    assert list(content["coefficients"]) == [AS_GIVEN]


def test_a_tail_and_values_that_no_design_has(spec: Spec) -> None:
    stages = (dataclasses.replace(spec.stages[0], channels=tuple(range(16, 49, 4))), spec.stages[1])
    own = dataclasses.replace(spec, stages=stages, tail=Tail((64, 128)), sha256="")
    few = dataclasses.replace(own, stages=(dataclasses.replace(stages[0], channels=(16, 32, 48)), stages[1]), sha256="")

    def worth(design: Design) -> float:
        step = {16: -1.0, 32: 1.0, 48: 0.0}[design.stages[0].channels]
        return step + (design.tail == 128) + 0.3 * design.stages[1].depth

    found = calibrate(own, runs_of(few, worth, noise=0.05))
    assert found.row.name.endswith("utilities, one-hot")
    tables = {(table.stage, table.axis): table for table in found.utilities}
    assert tables["tail", "channels"].worth[1] - tables["tail", "channels"].worth[0] == pytest.approx(1, abs=0.2)
    own_table = tables[1, "channels"]
    assert own_table.seen[own_table.domain.index(24)] == 0
    low, between, high = (own_table.worth[own_table.domain.index(c)] for c in (16, 24, 32))
    assert low < between < high
    assert {utility.stage for utility in found.spec.objective.utilities} == {"stem", 1, 2, "tail"}


# ---- Tables of runs, and the command line


def table(folder: Path, rows: list[list[object]]) -> Path:
    path = folder / "runs.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


@pytest.fixture(scope="module")
def fourteen(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[object]]]:
    """A folder with spec.toml and designs, and a table of two runs of each."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "spec.toml").write_text(TEXT)
    (folder / "designs").mkdir()
    runs = runs_of(spec, utility, noise=0.2, number=14)
    rows: list[list[object]] = [["seed", "design", "accuracy", "epochs"]]
    for number, (path, accuracy) in enumerate(zip(runs.paths, runs.accuracy, strict=True)):
        Design.chosen(spec, path).save(folder / "designs" / f"{number}.json")
        name = f"designs/{number}.json"
        rows += [[seed, name, round(float(accuracy) + 0.002 * seed, 4), 5] for seed in (0, 1)]
    return folder, rows


@pytest.fixture
def trained(fourteen: tuple[Path, list[list[object]]], tmp_path: Path) -> tuple[Path, Path, list[list[object]]]:
    """A copy with the table written."""
    folder, rows = fourteen
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    own = [list(row) for row in rows]
    return tmp_path, table(tmp_path, own), own


def test_runs_of_a_design_are_averaged(spec: Spec, trained: tuple[Path, Path, list[list[object]]]) -> None:
    folder, path, rows = trained
    runs = read_runs(path, spec)
    assert len(runs.paths) == 14
    assert runs.number.tolist() == [2] * 14
    assert runs.accuracy[0] == pytest.approx((float(str(rows[1][2])) + float(str(rows[2][2]))) / 2)
    assert runs.noise == pytest.approx(0.002 / math.sqrt(2))
    hashes = {row[1]: Design.load(folder / str(row[1])).structure_sha256 for row in rows[1:]}
    hashed = [[*rows[0], "design_sha256"], *([*row, hashes[row[1]]] for row in rows[1:])]
    assert read_runs(table(folder, hashed), spec).number.tolist() == [2] * 14
    percent = [rows[0], *([seed, name, 100 * float(str(value)), epochs] for seed, name, value, epochs in rows[1:])]
    again = read_runs(table(folder, percent), spec)
    np.testing.assert_allclose(again.accuracy, runs.accuracy)


def test_more_runs_weigh_more(spec: Spec) -> None:
    values = np.zeros((30, 1))
    accuracy = np.r_[np.full(15, 0.6), np.full(15, 0.8)] + 1e-6 * np.arange(30)
    weights = np.r_[np.full(15, 9.0), np.full(15, 1.0)]
    fit = statistics.fit(Candidate("mean", (statistics.free(values),)), accuracy, weights)
    assert fit.accuracy(fit.centre) < 0.65


def test_the_command_writes_spec_and_page(
    trained: tuple[Path, Path, list[list[object]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path, _ = trained
    out, page = folder / "calibrated.toml", folder / "page.html"
    options = ["--runs", str(path), "--out", str(out)]
    lines = run(monkeypatch, capsys, 0, str(folder / "spec.toml"), *options, "--page", str(page)).splitlines()
    assert lines[0].startswith(("Better than MACs: ", "Nothing beats MACs: "))
    Spec.load(out)
    text = page.read_text()
    assert lines[0].rstrip() in text
    assert "<svg" not in text
    assert "http" not in text
    content = json.loads(run(monkeypatch, capsys, 0, str(folder / "spec.toml"), *options, "--json"))
    assert content["verdict"] == lines[0].rstrip()
    assert content["designs"] == 14
    assert text.count("<h3>") == len({one["stage"] for one in content["utilities"]})
    assert text.count("data:image/svg+xml;base64,") == 1 + bool(content["utilities"])


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What the command prints, or the one sentence with which it refuses."""
    monkeypatch.setattr("sys.argv", ["mad-ip", "calibrate", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    captured = capsys.readouterr()
    if code:
        assert captured.out == ""
        assert captured.err.startswith("mad-ip: ")
        assert captured.err.count("\n") == 1
        return captured.err
    return captured.out


def _set(row: int, column: int, value: object) -> Callable[[Path, list[list[object]]], None]:
    def change(folder: Path, rows: list[list[object]]) -> None:
        rows[row][column] = value

    return change


def _column(name: str, row: int, value: object) -> Callable[[Path, list[list[object]]], None]:
    def change(folder: Path, rows: list[list[object]]) -> None:
        for own in rows:
            own.append(name if own is rows[0] else value if own is rows[row] else "same")

    return change


def _again(design: str, seed: object, epochs: int) -> Callable[[Path, list[list[object]]], None]:
    """The first run in the place of the second one, too, or one more of its design."""
    return lambda folder, rows: rows.__setitem__(2, [seed, design, rows[1][2], epochs])


def _structure(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, list[list[object]]], None]:
    """Another design in the place of the first one, measured again."""

    def changed(folder: Path, rows: list[list[object]]) -> None:
        path = folder / "designs" / "0.json"
        content = json.loads(path.read_text())
        change(content)
        design = Design.from_content(content)
        dataclasses.replace(design, metrics=design.measure(10.0)).save(path)

    return changed


BAD: dict[str, tuple[Callable[[Path, list[list[object]]], None], str]] = {
    "missing design": (_set(3, 1, "designs/none.json"), "row 4: .*none.json: cannot be read"),
    "no design": (_set(3, 1, ""), "row 4: design is empty"),
    "null": (_set(3, 1, "a\0b"), "row 4: design has a null character; must be the path"),
    "not a design": (_set(3, 1, "spec.toml"), "row 4: .*spec.toml: not a JSON file"),
    "above one": (_set(1, 2, 101), "row 2: accuracy = 101: must be a number from 0 to 1"),
    "negative": (_set(1, 2, -0.1), "row 2: accuracy = -0.1: must be"),
    "nan": (_set(1, 2, "nan"), "row 2: accuracy = nan: must be"),
    "text": (_set(1, 2, "good"), "row 2: accuracy = good: must be"),
    "mixed": (_set(1, 2, 71.5), "row 3: accuracy = .* is at most 1, and 71.5 in row 2 is not.*; write fractions"),
    "twice": (_set(2, 0, 0), "row 3: design = 'designs/0.json': is in row 2, too, with seed 0"),
    "twice by another path": (
        _again("./designs/../designs/0.json", 0, 5),
        "row 3: design = './designs/../designs/0.json': is in row 2, too, with seed 0",
    ),
    "twice by another seed": (_again("designs/0.json", "00", 5), "is in row 2, too, with seed 0"),
    "one without a seed": (
        _again("designs/0.json", "", 5),
        "row 3: .* is in row 2, too, and one of the two has no seed",
    ),
    "seed": (_set(2, 0, "1st"), "row 3: seed = 1st: must be an integer, or empty"),
    "twice with other epochs": (
        _again("designs/0.json", 0, 300),
        "epochs = 5 in row 2 and 300 in row 3; runs must be trained alike",
    ),
    "recipe": (_column("recipe", 4, "other"), "recipe = same in row 2 and other in row 5; runs must be trained alike"),
    "data": (_column("data_sha256", 4, ""), "data_sha256 = same in row 2 and nothing in row 5"),
    "hash": (
        _column("design_sha256", 4, "other"),
        "row 2: design = 'designs/0.json': is not the network that was trained, design_sha256 = same; must be that",
    ),
    "no column": (_set(0, 2, "top1"), "column accuracy is missing among seed, design, top1, epochs"),
    "column twice": (_set(0, 3, "accuracy"), "column accuracy is there twice"),
    "short row": (lambda folder, rows: rows[5].pop(), "row 6 has 3 cells; must have 4"),
    "empty": (lambda folder, rows: rows.clear(), "is empty"),
    "no rows": (lambda folder, rows: rows.__delitem__(slice(1, None)), "has no rows"),
    "few": (lambda folder, rows: rows.__delitem__(slice(19, None)), "has 9 designs; must have at least 10"),
    "constant": (lambda folder, rows: [row.__setitem__(2, 0.7) for row in rows[1:]], "accuracy = 0.7 of every design"),
    "channels": (
        _structure(lambda content: content["stages"][0].update(channels=40)),
        "row 2: design = 'designs/0.json': stage 1: channels = 40: must be one of 16, 32, 48 in .*spec.toml",
    ),
    "order": (
        _structure(lambda content: [content["stages"][n].update(channels=c) for n, c in ((0, 48), (1, 32))]),
        "stage 2: channels = 32: must be at least the 48 before it",
    ),
    "block": (
        _structure(lambda content: content["stages"][1].update(block="basic")),
        "stage 2: block = basic: must be",
    ),
    "kernel": (_structure(lambda content: content["stem"].update(kernel=5)), "stem: kernel = 5: must be 3"),
    "stages": (_structure(lambda content: content["stages"].pop()), "number of stages = 1: must be 2"),
    "classes": (_structure(lambda content: content.update(classes=100)), "classes = 100: must be 10"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused(
    case: str,
    trained: tuple[Path, Path, list[list[object]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, path, rows = trained
    change, pattern = BAD[case]
    change(folder, rows)
    table(folder, rows)
    out = folder / "calibrated.toml"
    out.write_text("kept")
    sentence = run(monkeypatch, capsys, 2, str(folder / "spec.toml"), "--runs", str(path), "--out", str(out))
    assert str(path) in sentence
    assert re.search(pattern, sentence), sentence
    assert out.read_text() == "kept"


@pytest.mark.parametrize("name", ["spec.toml", "runs.csv", "designs/3.json", "designs", "none/out.toml"])
@pytest.mark.parametrize("option", ["--out", "--page"])
def test_nothing_is_overwritten(
    name: str,
    option: str,
    trained: tuple[Path, Path, list[list[object]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, path, _ = trained
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    places = {"--out": str(folder / "calibrated.toml"), "--page": str(folder / "page.html"), option: str(folder / name)}
    options = [text for pair in places.items() for text in pair]
    sentence = run(monkeypatch, capsys, 2, str(folder / "spec.toml"), "--runs", str(path), *options)
    assert option in sentence
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---- The benchmark


def networks(number: int = 400) -> list[dict[str, Any]]:
    """Networks of a table, whose accuracy is a sum of utilities of five digits."""
    generator = np.random.default_rng(0)
    every = np.array(list(itertools.product(range(4), repeat=5)))
    digits = generator.permutation(every)[:number]
    worth = np.sqrt(digits) @ np.array([2.0, 1.0, 0.5, 1.5, 0.2])
    runs = 80 + worth[:, None] + generator.normal(0, 0.2, (number, 2))
    return [
        {
            "arch": "".join(map(str, own)),
            "acc": [float(value) for value in accuracies],
            "flops": int(1000 + 100 * (own**2).sum()),
            "params": int(50 + 10 * own.sum()),
        }
        for own, accuracies in zip(digits, runs, strict=True)
    ]


def benchmark(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert calibration_benchmark.main([str(path)]) == code
    captured = capsys.readouterr()
    if code:
        assert captured.err.count("\n") == 1
        return captured.err
    return captured.out.splitlines()[-1]


def test_the_benchmark_says_the_same_of_a_table_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration_benchmark, "DRAWS", 1)
    rows = networks()
    (tmp_path / "object.json").write_text(
        json.dumps({row["arch"]: {key: value for key, value in row.items() if key != "arch"} for row in rows})
    )
    (tmp_path / "list.json").write_text(
        json.dumps(
            [
                {
                    "test_acc": [a / 100 for a in r["acc"]],
                    "MACs": r["flops"],
                    "Params": r["params"],
                    "digits": [*r["arch"]],
                }
                for r in rows
            ]
        )
    )
    cells = [[r["arch"], *r["acc"], r["flops"], r["params"]] for r in reversed(rows)]
    with (tmp_path / "table.csv").open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([["Arch", "Acc1", "Acc2", "FLOPs", "params"], *cells])
    first, second, third = (benchmark(tmp_path / name, capsys) for name in ("object.json", "list.json", "table.csv"))
    assert first == second == third
    words = first.split()
    assert words[::2] == ["partial", "regret", "most-macs", "best-of-sample"]
    partial, regret, most, _ = map(float, words[1::2])
    assert partial > 0.95
    assert 0 <= regret < most


def test_an_encoding_that_tells_more_is_found(tmp_path: Path) -> None:
    rows = networks(300)
    order = np.random.default_rng(0).permutation(300)
    for row, other in zip(rows, order, strict=True):
        row["real_arch"], row["arch"] = row["arch"], rows[other].get("real_arch", rows[other]["arch"])
    names = [row["arch"] for row in rows]
    assert len(set(names)) == 300
    path = tmp_path / "table.json"
    path.write_text(json.dumps(rows))
    read = calibration_benchmark.read(path)
    assert len(read.encodings) == 2
    result = calibration_benchmark.evaluate(read, read.accuracy, read.accuracy, draws=1)
    assert result.figures["utilities, one-hot"][0].spearman > 0.9


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda rows: rows[3].update(arch="123"), "network 4: arch = '123': has 3 digits; must have 5"),
        (lambda rows: rows[3].update(arch=rows[4]["arch"]), "times; every network must be there once"),
        (lambda rows: rows[3].update(acc=[float("nan"), 80.0]), "network 4: acc = nan: must be a finite number"),
        (lambda rows: rows[3].update(acc=[180.0, 80.0]), "has an accuracy of 180; must be from 0 to 1"),
        (lambda rows: rows[3].update(acc=[0.8, 0.81]), "has accuracies of 0.8 and of 8.*; must all be from 0 to 1, or"),
        (lambda rows: [row.update(acc=[80.0]) for row in rows], "has the accuracy 80 for all networks; must differ"),
        (lambda rows: rows[0].update(arch="0"), "network 1: arch = '0': has 1 digits; must have 5"),
        (lambda rows: rows[3].update(acc=[]), "network 4: acc = .*: must have at least one accuracy"),
        (lambda rows: rows[3].pop("flops"), "network 4 has no flops"),
        (
            lambda rows: [row.pop("params") for row in rows],
            "has arch, acc, flops; every network must have its parameters",
        ),
        (lambda rows: [row.pop("acc") for row in rows], "every network must have measured accuracies"),
        (lambda rows: rows.__delitem__(slice(100, None)), "has 100 networks; must have more than the 100"),
        (lambda rows: rows.__setitem__(3, 7), "network 4 = 7: must be a JSON object"),
    ],
)
def test_a_bad_benchmark_is_refused(
    change: Callable[[list[Any]], None], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = networks(120)
    change(rows)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(rows))
    assert re.search(pattern, benchmark(path, capsys, code=2))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "is empty"),
        ("arch,acc,macs,params\n12,1\n", "row 2 has 2 cells; must have 4"),
        ('{"12": {"acc": 1}, "12": {"acc": 2}}', "has 12 twice"),
        ("{", "not a JSON file"),
    ],
)
def test_a_file_that_is_no_benchmark(
    text: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert pattern in benchmark(path, capsys, code=2)
