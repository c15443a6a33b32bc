"""Explanations say what enumeration says: what one changed choice scores and breaks, what binds, what more is worth."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import oracle
import pytest
from rich.console import Console
from typer.testing import CliRunner

import mad_ip
from mad_ip.cli import app
from mad_ip.cost import COSTS
from mad_ip.errors import InputError
from mad_ip.explanation import Change, explain
from mad_ip.front import limited
from mad_ip.reports.explanation import explanation_table, sentences
from mad_ip.spec import Spec
from mad_ip.utility import AXES

TOY = Path(__file__).parents[1] / "models" / "toy" / "spec.toml"


@pytest.fixture(scope="module")
def spec() -> Spec:
    return Spec.load(TOY)


@pytest.fixture(scope="module")
def design(spec: Spec) -> mad_ip.Design:
    return mad_ip.solve(spec)


def test_changes_are_those_of_enumeration(spec: Spec, design: mad_ip.Design) -> None:
    known = {x.path: x for x in oracle.architectures(spec)}
    best = known[design.path]
    found = explain(spec, design, neighbours=False)
    expected: dict[tuple[str, str], list[tuple[float, bool, int]]] = {}
    for s, segment in enumerate(spec.segments):
        for position, axis in enumerate(AXES):
            for value in getattr(segment, axis):
                path = list(design.path)
                path[s] = path[s]._replace(**{axis: value})
                other = known.get(tuple(path))
                if other is not None and value != design.path[s][position]:
                    fits = oracle.fits(spec.budget, other)
                    expected.setdefault((segment.name, axis), []).append((other.score - best.score, fits, value))
    said: dict[tuple[str, str], list[Change]] = {}
    for change in found.changes:
        said.setdefault((change.segment, change.axis), []).append(change)
    for key, others in expected.items():
        fitting = max((entry for entry in others if entry[1]), default=None)
        mine = [change for change in said.get(key, []) if change.fits]
        assert len(mine) == (fitting is not None)
        if fitting is not None:
            assert mine[0].difference == pytest.approx(fitting[0], abs=1e-8)
            assert mine[0].difference <= 1e-9
        wanted = [entry for entry in others if not entry[1] and entry[0] > 0]
        mine = [change for change in said.get(key, []) if not change.fits]
        assert len(mine) == bool(wanted)
        for change in mine:
            (score,) = (entry[0] for entry in wanted if entry[2] == change.other)
            assert change.difference == pytest.approx(score, abs=1e-8)
            assert change.breaks
    assert found.runner_up is not None
    assert found.runner_up.difference == pytest.approx(
        max(entry[0] for entry in itertools.chain(*expected.values()) if entry[1]), abs=1e-8
    )


def test_what_is_spent_adds_up(spec: Spec, design: mad_ip.Design) -> None:
    found = explain(spec, design, neighbours=False)
    assert [each.budget for each in found.spendings] == list(spec.budget.given)
    for each in found.spendings:
        if each.budget in COSTS:
            assert sum(amount for _, amount in each.segments) == each.spent == getattr(design.metrics, each.budget)
        assert each.binds == (each.left < 0.01)
    assert [each.budget for each in found.spendings if each.binds] == ["params", "effectiveness"]


def test_neighbours_are_proven_optima(spec: Spec, design: mad_ip.Design) -> None:
    def best(key: str, limit: float) -> float:
        smaller = limited(spec, {key: limit})
        return max(x.score for x in oracle.architectures(smaller) if oracle.fits(smaller.budget, x))

    for each in explain(spec, design).spendings:
        if not each.binds:
            assert each.price.smaller is None
            continue
        step = each.limit / 100
        here = best(each.budget, each.limit)
        assert each.price.smaller == pytest.approx((here - best(each.budget, each.limit - step)) / step, rel=1e-6)
        assert each.price.larger == pytest.approx((best(each.budget, each.limit + step) - here) / step, abs=1e-6 / step)


def test_neighbours_of_few_layers_are_a_layer_away(spec: Spec) -> None:
    few = limited(spec, {"layers": 22})
    (price,) = (each.price for each in explain(few, mad_ip.solve(few)).spendings if each.budget == "layers")

    def best(layers: int) -> float:
        budget = limited(spec, {"layers": layers}).budget
        return max(x.score for x in oracle.architectures(spec) if oracle.fits(budget, x))

    assert price.smaller == pytest.approx(best(22) - best(21), abs=1e-6)
    assert price.larger == pytest.approx(best(23) - best(22), abs=1e-6)


def test_content_and_table(spec: Spec, design: mad_ip.Design) -> None:
    found = explain(spec, design, neighbours=False)
    content = json.loads(json.dumps(found.content(), allow_nan=False))
    assert content["budgets"]["params"]["spent"] == design.metrics.params
    assert len(content["changes"]) == len(found.changes)
    console = Console(file=io.StringIO(), width=80)
    console.print(explanation_table(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "binding: params, effectiveness" in text
    assert any(sentence.startswith("the best design with one choice changed") for sentence in sentences(found))
    assert "binding" in found._repr_html_()


def test_a_design_of_another_spec(spec: Spec, design: mad_ip.Design) -> None:
    with pytest.raises(InputError, match=r"is no feasible design of .*macs .* exceeds the budget"):
        explain(limited(spec, {"macs": 10e6}), design)


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["solve", str(TOY), "--explain", "--quiet"])
    assert done.exit_code == 0
    assert "1 % more" in done.output
    assert "params passed by" in done.output
    for words in (
        ["solve", str(TOY), "--explain", "--json"],
        ["solve", str(TOY.parents[2] / "examples/mlp.toml"), "--explain"],
    ):
        with pytest.raises(InputError, match="--explain"):
            CliRunner().invoke(app, words, catch_exceptions=False)
