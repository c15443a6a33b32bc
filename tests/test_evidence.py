"""The study's tables come from its runs: intervals and tests as SciPy has them, the document as the tool writes it."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mad_ip.calibration import AS_GIVEN, calibrate
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.runs import listed, read_runs
from mad_ip.solve import solve
from mad_ip.spec import Spec
from tools import evidence
from tools.evidence import CALIBRATED, Entry, against, entries, interval, paired

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/evidence"


def entry(name: str, accuracies: dict[int, float]) -> Entry:
    return Entry(name, Design.load(FOLDER / "designs/resnet.json"), accuracies)


def test_intervals_are_students() -> None:
    values = [0.781, 0.774, 0.79, 0.786]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (np.mean(values) - interval(values), np.mean(values) + interval(values)) == pytest.approx((low, high))
    assert math.isnan(interval([0.5]))


def test_designs_are_compared_seed_by_seed() -> None:
    one = entry("calibrated", {0: 0.79, 1: 0.77, 2: 0.80, 7: 0.1})
    other = entry("random-01", {2: 0.78, 0: 0.785, 1: 0.75, 5: 0.9})
    number, mean, half, p = paired(one, other)
    expected = stats.ttest_rel([0.79, 0.77, 0.80], [0.785, 0.75, 0.78])
    low, high = expected.confidence_interval(0.95)
    assert (number, p) == (3, pytest.approx(expected.pvalue))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_holm_never_lets_a_larger_p_be_smaller() -> None:
    best = entry(CALIBRATED, {0: 0.79, 1: 0.78, 2: 0.80})
    generator = np.random.default_rng(0)
    others = [entry(f"random-{n:02}", {s: float(generator.uniform(0.7, 0.79)) for s in range(3)}) for n in range(8)]
    ordered = sorted((test[3], adjusted) for _, test, adjusted in against(best, [*others, best]))
    assert len(ordered) == 8
    assert ordered[0][1] == pytest.approx(min(1, 8 * ordered[0][0]))
    assert ordered[1][1] == pytest.approx(max(ordered[0][1], min(1, 7 * ordered[1][0])))
    assert [adjusted for _, adjusted in ordered] == sorted(adjusted for _, adjusted in ordered)


def test_every_design_was_trained_with_the_same_three_seeds() -> None:
    found = entries(FOLDER / "runs.csv")
    assert {one.name for one in found} == {path.stem for path in (FOLDER / "designs").glob("*.json")}
    assert {one.name: one.accuracies.keys() for one in found} == {one.name: {0, 1, 2} for one in found}


def test_a_row_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    header = "design,accuracy,seed"
    for rows, sentence in (
        ("a.json,high,0", r"row 2: accuracy = "),
        ("a.json,0.7,", r"row 2: must have a seed, and an accuracy from 0 to 1"),
        ("a.json,79.1,0", r"row 2: must have a seed, and an accuracy from 0 to 1"),
        ("a.json,0.7,0\na.json,0.7,0", r"row 3: design a.json with seed 0 is there twice"),
    ):
        path.write_text(f"{header}\n{rows}\n")
        with pytest.raises(InputError, match=rf"runs.csv: {sentence}"):
            entries(path)


def test_all_designs_are_of_the_spec_and_spend_its_budgets() -> None:
    spec = Spec.load(FOLDER / "spec.toml")
    found = sorted((FOLDER / "designs").glob("*.json"))
    assert len(found) >= 26
    for path in found:
        design = Design.load(path)
        assert design.name == path.stem
        assert [text for text in violations(spec, design) if "does not match" not in text] == []
        assert design.metrics.macs >= 0.95 * (spec.budget.macs or 0)
        assert design.metrics.params >= 0.95 * (spec.budget.params or 0) or design.name == CALIBRATED


def test_the_calibrated_optimum_is_that_of_the_first_runs() -> None:
    rows = (FOLDER / "calibration.csv").read_text().splitlines()
    assert set(rows) <= set((FOLDER / "runs.csv").read_text().splitlines())
    assert {run.seed for run in listed(FOLDER / "calibration.csv")} == {0}
    designs = {path.stem for path in (FOLDER / "designs").glob("*.json")} - {CALIBRATED}
    assert {Path(run.design).stem for run in listed(FOLDER / "calibration.csv")} == designs
    spec, fitted = Spec.load(FOLDER / "spec.toml"), Spec.load(FOLDER / "calibrated.toml")
    found = calibrate(spec, read_runs(FOLDER / "calibration.csv", spec))
    assert found.row.name == "utilities, smooth"
    text = (ROOT / "docs/evidence.md").read_text()
    for row in (found.row, next(row for row in found.candidates if row.name == AS_GIVEN)):
        said = rf"{row.spearman.value:.2f} \({row.spearman.low:.2f} to\s{row.spearman.high:.2f}\)"
        assert re.search(said, text), said
    # To as many digits as are written; the last may differ between processors.
    ours, theirs = (re.findall(r"[^\d.\-]+|[\d.\-]+", one.to_toml()) for one in (fitted, found.spec))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        try:
            assert float(one) == pytest.approx(float(other), rel=1e-5)
        except ValueError:
            assert one.replace(CALIBRATED, spec.name) == other
    design = Design.load(FOLDER / f"designs/{CALIBRATED}.json")
    assert design.path == solve(fitted).path
    assert violations(fitted, design) == []


def test_the_document_is_what_the_runs_say(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "evidence")
    for name in ("docs/evidence.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    evidence.main(tmp_path / "evidence", tmp_path / "evidence.md", tmp_path / "README.md")
    assert (tmp_path / "evidence.md").read_text() == (ROOT / "docs/evidence.md").read_text()
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    assert (tmp_path / "evidence/accuracy.svg").stat().st_size > 5000
