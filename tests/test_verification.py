"""The independent proofs: enumeration against the oracle, tampered designs, imports, and the command line."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs

import mad_ip
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.spec import Budget, Spec
from mad_ip.verification import Exhaustion, architectures, audit, exhaust, exhaustion, prove
from mad_ip.verification.__main__ import main

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
"""Drawing a spec enumerates its architectures, which takes up to half a second."""

ALLOWED = {"spec", "blocks", "entropy", "cost", "design", "errors", "files", "verification"}


def small_table() -> dict[str, Any]:
    """2 * (3 * 2 * 2 * 3) * (3 * 2 * 2 * 3) = 2,592 architectures without rules on channels."""
    stage = {"block": "bottleneck", "stride": 2, "mid": [16, 32], "kernel": [3, 5], "depth": [1, 2, 3]}
    return {
        "name": "small",
        "input": {"resolution": 32, "classes": 10},
        "budget": {"macs": 5e6, "params": 60e3, "effectiveness": 0.2},
        "space": {"mid_ratio": [0.0, 1.0]},
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
        "stage": [{**stage, "channels": [32, 48, 64]}, {**stage, "channels": [64, 80, 96]}],
    }


def solved(spec: Spec) -> Design:
    from mad_ip.solve import solve

    return solve(spec)


@pytest.fixture(scope="module")
def spec() -> Spec:
    return Spec.from_table(small_table())


@pytest.fixture(scope="module")
def design(spec: Spec) -> Design:
    return solved(spec)


def agree(spec: Spec) -> Exhaustion:
    """Enumerate ``spec`` and compare with the oracle: score, count, and that the structure found is that good."""
    expected = oracle.enumerate_best(spec)
    found = exhaust(spec)
    story = f"\n{spec.to_toml()}\noracle: {expected}\nexhaustion: {found}"
    assert found.architectures == found.evaluated + found.dropped == oracle.count(spec), story
    assert found.architectures == len(oracle.architectures(spec)), story
    if expected is None:
        assert found.structure is None, story
        assert found.score == -math.inf, story
        return found
    assert math.isclose(found.score, expected.score, rel_tol=1e-9), story
    (own,) = (other for other in oracle.architectures(spec) if other.structure == found.structure)
    assert oracle.fits(spec.budget, own), story
    assert math.isclose(own.score, expected.score, rel_tol=1e-9), story
    return found


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(spec=specs(limit=5_000))
def test_exhaustion_finds_what_the_oracle_finds(spec: Spec) -> None:
    agree(spec)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(spec=specs(limit=1_000))
def test_chunks_and_splits_change_nothing(spec: Spec) -> None:
    """Tables and chunks of a few rows: long prefixes, pieces of options, blocks of pairs in both orientations."""
    whole = exhaust(spec)
    for suffixes, chunk, piece in [(1, 16, 3), (20, 32, 5), (200, 64, 2**15)]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exhaustion, "_SUFFIXES", suffixes)
            patch.setattr(exhaustion, "_CHUNK", chunk)
            patch.setattr(exhaustion, "_PIECE", min(piece, chunk))
            found = agree(spec)
        assert found.score == pytest.approx(whole.score, rel=1e-12) or whole.structure is None


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
@pytest.mark.parametrize("key", ["macs", "params", "layers", "effectiveness"])
def test_budget_is_inclusive(key: str, convention: str) -> None:
    """The best architecture's own value as the budget keeps it; a little less does not."""
    spec = Spec.from_table({**small_table(), "convention": convention, "budget": {}})
    best = exhaust(spec).design
    assert best is not None
    value = getattr(best.metrics, key)
    assert exhaust(replace(spec, budget=Budget(**{key: value}))).score == best.metrics.score
    less = value * (1 - 1e-9) if key == "effectiveness" else value - 1
    found = agree(replace(spec, budget=Budget(**{key: less})))
    assert found.design is None or getattr(found.design.metrics, key) <= less


def test_progress_reaches_the_total(spec: Spec) -> None:
    reports: list[tuple[int, int]] = []
    found = exhaust(spec, lambda done, total: reports.append((done, total)))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (found.architectures, found.architectures)


def test_too_large_a_space_is_refused() -> None:
    table = small_table()
    for stage in table["stage"]:
        stage["depth"] = {"min": 1, "max": 10_000}
    spec = Spec.from_table(table)
    assert architectures(spec) == oracle.count(spec) > exhaustion.LIMIT
    with pytest.raises(InputError, match=r"architectures; exhaustion takes at most 1000000000$"):
        exhaust(spec)


def test_costs_beyond_64_bits_are_refused() -> None:
    table = small_table()
    table["stage"][1].update(channels=[10**10], mid=[10**10])
    table["space"] = {}
    with pytest.raises(InputError, match="pass 64-bit integers"):
        exhaust(Spec.from_table(table))


def test_a_solved_design_is_proven(spec: Spec, design: Design) -> None:
    assert audit(spec, design) == []
    proof = prove(spec, design)
    assert proof.holds
    assert proof.exhaustion.score == pytest.approx(design.metrics.score, rel=1e-9)


def second_best(spec: Spec, design: Design) -> Design:
    """A feasible design, honestly measured, that is not the best."""
    best = oracle.enumerate_best(spec)
    assert best is not None
    other = max(
        (item for item in oracle.architectures(spec) if oracle.fits(spec.budget, item) and item.score < best.score - 1),
        key=lambda item: item.score,
    )
    stem, stages, tail = other.structure
    changed = replace(
        design,
        stem=replace(design.stem, channels=stem),
        stages=tuple(
            replace(stage, channels=c, mid=m, kernel=k, depth=depth)
            for stage, (c, m, k, depth) in zip(design.stages, stages, strict=True)
        ),
        tail=tail,
    )
    changed = replace(changed, metrics=changed.measure(spec.objective.depth_penalty))
    score = changed.metrics.score
    assert changed.certificate is not None
    return replace(changed, certificate=replace(changed.certificate, bound=score, gap=0.0))


def test_the_better_architecture_is_named(spec: Spec, design: Design) -> None:
    """A sub-optimal design with a false bound passes the audit; only the enumeration can tell."""
    worse = second_best(spec, design)
    assert audit(spec, worse) == []
    proof = prove(spec, worse)
    assert not proof.holds
    (reason,) = proof.reasons
    assert proof.exhaustion.structure is not None
    assert exhaustion.describe(proof.exhaustion.structure) in reason
    assert "better than the design's" in reason


def test_a_design_better_than_the_best_is_no_feasible_one(spec: Spec, design: Design) -> None:
    deeper = replace(design, stages=tuple(replace(stage, depth=stage.depth + 5) for stage in design.stages))
    (reason,) = prove(spec, deeper).reasons
    assert "no feasible design has" in reason


def test_a_design_of_an_infeasible_spec_is_not_proven(spec: Spec, design: Design) -> None:
    assert prove(replace(spec, budget=Budget(layers=2)), design).reasons == (
        "exhaustion: no architecture of the space meets the budgets",
    )


def metrics(**changes: Any) -> Callable[[Design], Design]:
    return lambda design: replace(design, metrics=replace(design.metrics, **changes))


def certificate(**changes: Any) -> Callable[[Design], Design]:
    def change(design: Design) -> Design:
        assert design.certificate is not None
        return replace(design, certificate=replace(design.certificate, **changes))

    return change


def stage(**changes: Any) -> Callable[[Design], Design]:
    """The first stage changed, and the metrics measured anew: only the spec can tell."""

    def change(design: Design) -> Design:
        first, *rest = design.stages
        changed = replace(design, stages=(replace(first, **changes), *rest))
        return replace(changed, metrics=changed.measure(10.0))

    return change


def lower_bound(design: Design) -> Design:
    score = design.metrics.score
    return certificate(bound=0.99 * score, gap=0.0)(design)


def wide_gap(design: Design) -> Design:
    score = design.metrics.score
    return certificate(bound=1.01 * score, gap=(1.01 * score - score) / score)(design)


TAMPERED: dict[str, tuple[Callable[[Design], Design], str]] = {
    "macs": (metrics(macs=1), "metrics.macs = 1: does not match the structure"),
    "score": (metrics(score=1e6), "metrics.score = 1000000.0: does not match the structure"),
    "domain": (stage(mid=24), "stage 1: mid 24 is not in the spec's domain"),
    "rule": (stage(channels=8, mid=16), "stage 1: mid 16 is outside mid_ratio for 8 channels"),
    "budget": (stage(depth=60), "macs "),
    "weight": (stage(weight=3), "stage 1: block, stride or weight differ from the spec's"),
    "convention": (lambda design: replace(design, convention="tinynas"), "convention tinynas: the spec says paper"),
    "hash": (lambda design: replace(design, spec_sha256="0" * 64), f"spec_sha256 {'0' * 64}: the hash of the spec"),
    "name": (lambda design: replace(design, name="other"), "name 'other': the spec says 'small'"),
    "no certificate": (lambda design: replace(design, certificate=None), "certificate: there is none"),
    "architectures": (certificate(architectures=7), "certificate.architectures 7: the space of the spec holds"),
    "bound": (lower_bound, "certificate.bound "),
    "gap": (certificate(gap=0.5), "certificate.gap 0.5: bound and score give"),
    "optimal": (wide_gap, "certificate.status 'optimal': bound and score leave a gap of"),
    "status": (certificate(status="proven"), "certificate.status 'proven': must be one of optimal, feasible"),
    "seconds": (certificate(seconds=-1.0), "certificate.seconds -1.0: must be at least 0"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_designs_are_rejected(spec: Spec, design: Design, case: str) -> None:
    tamper, reason = TAMPERED[case]
    found = audit(spec, tamper(design))
    assert any(sentence.startswith(reason) or reason in sentence for sentence in found), found


def test_a_wide_gap_is_no_fault_of_a_feasible_design(spec: Spec, design: Design) -> None:
    assert audit(spec, certificate(status="feasible")(wide_gap(design))) == []


def test_proofs_import_nothing_of_the_solver() -> None:
    """Everything imported from mad_ip is allowed, and what that imports in turn is allowed too."""
    package = Path(mad_ip.__file__).parent
    pending = list((package / "verification").glob("*.py"))
    assert {path.name for path in pending} == {"__init__.py", "__main__.py", "audit.py", "exhaustion.py"}
    visited = set()
    while pending:
        path = pending.pop()
        visited.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                top, *rest = name.split(".")
                assert top not in {"pyomo", "highspy", "scipy", "torch", "importlib"}, f"{path}: imports {name}"
                if top == "mad_ip":
                    assert rest, f"{path}: imports the whole package"
                    assert rest[0] in ALLOWED, f"{path}: imports {name}"
                    module = package / f"{rest[0]}.py"
                    if module.exists() and module not in visited:
                        pending.append(module)


def saved(folder: Path, table: dict[str, Any]) -> Design:
    """A model folder with spec.toml and the solved design.json."""
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text(Spec.from_table(table).to_toml(), encoding="utf-8")
    design = solved(Spec.load(folder / "spec.toml"))
    design.save(folder / "design.json")
    return design


def test_command_line_proves_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    design = saved(tmp_path / "models" / "toy", small_table())
    (tmp_path / "models" / "unsolved").mkdir()
    (tmp_path / "models" / "unsolved" / "spec.toml").write_text(design.name)
    for arguments in ([], ["toy"], ["--quick"], ["toy", "toy"]):
        assert main(arguments) == 0
        output = capsys.readouterr()
        assert output.out.count("proven") >= 1, output
        assert "failed" not in output.out
        assert "audited:" not in output.out
        assert output.err == ""
        assert ("no design.json, not verified: unsolved" in output.out) == (arguments == [])

    content = json.loads((tmp_path / "models" / "toy" / "design.json").read_text())
    content["metrics"]["macs"] += 1
    (tmp_path / "models" / "toy" / "design.json").write_text(json.dumps(content))
    assert main([]) == 1
    output = capsys.readouterr()
    assert f"failed: toy: design: metrics.macs = {design.metrics.macs + 1}" in output.out
    assert "proven" not in output.out


def test_command_line_says_what_it_does_not_prove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A space beyond the limit is audited only; here the limit is lowered instead of the space made large."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("mad_ip.verification.__main__.LIMIT", 100)
    saved(tmp_path / "models" / "wide", small_table())
    assert main([]) == 0
    output = capsys.readouterr().out
    assert "audited" in output
    assert "not re-proven here" in " ".join(output.split())
    assert "proven:" not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "models: no such folder here"),
        (["toy"], "models: no such folder here"),
    ],
)
def test_command_line_without_models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err


def test_command_line_with_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spec: Spec
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "broken"
    folder.mkdir(parents=True)
    assert main([]) == 2
    assert "nothing to verify" in capsys.readouterr().err
    assert main(["missing"]) == 2
    assert "models/missing: no such folder" in capsys.readouterr().err
    assert main(["broken"]) == 2
    assert "models/broken/spec.toml: cannot be read" in capsys.readouterr().err
    (folder / "spec.toml").write_text(spec.to_toml())
    assert main(["broken"]) == 2
    assert "models/broken/design.json: cannot be read" in capsys.readouterr().err
    (folder / "design.json").write_text("{")
    assert main(["broken"]) == 2
    assert "not a JSON file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["broken", "--quick"])
    assert stop.value.code == 2
