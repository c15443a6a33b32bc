"""The independent proofs: enumeration against the oracle, tampered designs, imports, and the command line."""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console
from strategies import specs

import mad_ip
from mad_ip import cli
from mad_ip.design import Design, Verification
from mad_ip.errors import InputError
from mad_ip.reports.verification import Model, display, line, sentences
from mad_ip.spec import Budget, Spec
from mad_ip.verification import Exhaustion, Report, architectures, audit, exhaust, exhaustion, prove, verify
from mad_ip.verification.__main__ import main
from mad_ip.verification.bound import Bounded
from mad_ip.verification.parallel import Job, verify_all
from tools import bench

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
"""Drawing a spec enumerates its architectures, which takes up to half a second."""

ALLOWED = {
    "spec",
    "utility",
    "blocks",
    "device",
    "entropy",
    "cost",
    "design",
    "errors",
    "files",
    "processes",
    "stopping",
    "reader",
    "keys",
    "lagrangian",
    "reports",
    "verification",
    "__version__",
}


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
        assert found.design is None, story
        assert found.score == -math.inf, story
        return found
    assert math.isclose(found.score, expected.score, rel_tol=1e-9), story
    assert found.design is not None, story
    (own,) = (other for other in oracle.architectures(spec) if other.path == found.design.path)
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
        assert found.score == pytest.approx(whole.score, rel=1e-12) or whole.design is None


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
        stage["depth"] = {"min": 1, "max": 1_000}
        stage["mid"] = {"min": 16, "max": 48}
    spec = Spec.from_table(table)
    assert architectures(spec) == oracle.count(spec) > exhaustion.LIMIT
    with pytest.raises(InputError, match=r"architectures; exhaustion takes at most 1000000000$"):
        exhaust(spec)


def test_costs_beyond_64_bits_are_refused() -> None:
    table = small_table()
    for stage in table["stage"]:
        stage.update(channels=[1 << 20], mid=[1 << 20], depth=[1_000])
    table["input"]["resolution"] = 1 << 14
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
    changed = Design.chosen(spec, other.path)
    assert design.certificate is not None
    return replace(changed, certificate=replace(design.certificate, bound=changed.metrics.score, gap=0.0))


def test_the_better_architecture_is_named(spec: Spec, design: Design) -> None:
    """A sub-optimal design with a false bound passes the audit; only the enumeration can tell."""
    worse = second_best(spec, design)
    assert audit(spec, worse) == []
    proof = prove(spec, worse)
    assert not proof.holds
    (reason,) = proof.reasons
    assert proof.exhaustion.design is not None
    assert exhaustion.describe(proof.exhaustion.design) in reason
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


def verification(**changes: Any) -> Callable[[Design], Design]:
    """A stored proof by exhaustion, changed."""

    def change(design: Design) -> Design:
        methods = ("audit", "exhaustion")
        proof = Verification("0.1.0", "proven", methods, design.metrics.score, 0.0, None, None, None, 1.0)
        return replace(design, verification=replace(proof, **changes))

    return change


def lower_bound(design: Design) -> Design:
    score = design.metrics.score
    return certificate(bound=0.99 * score, gap=0.0)(design)


def wide_gap(design: Design) -> Design:
    score = design.metrics.score
    return certificate(bound=1.01 * score, gap=(1.01 * score - score) / score)(design)


TAMPERED: dict[str, tuple[Callable[[Design], Design], str]] = {
    "macs": (metrics(macs=1), "metrics.macs = 1: does not match the structure"),
    "params": (metrics(params=2), "metrics.params = 2: does not match the structure"),
    "layers": (metrics(layers=3), "metrics.layers = 3: does not match the structure"),
    "score": (metrics(score=1e6), "metrics.score = 1000000.0: does not match the structure"),
    "entropy": (metrics(entropy=1e6), "metrics.entropy = 1000000.0: does not match the structure"),
    "penalty": (metrics(depth_penalty=0.5), "metrics.depth_penalty = 0.5: does not match the structure"),
    "effectiveness": (metrics(effectiveness=0.1), "metrics.effectiveness = 0.1: does not match the structure"),
    "channels": (stage(channels=40), "stage 1: channels 40 is not in the spec's domain"),
    "mid": (stage(mid=24), "stage 1: mid 24 is not in the spec's domain"),
    "kernel": (stage(kernel=7), "stage 1: kernel 7 is not in the spec's domain"),
    "depth": (stage(depth=4), "stage 1: depth 4 is not in the spec's domain"),
    "stem": (
        lambda design: replace(design, stem=replace(design.stem, channels=24)),
        "stem channels 24: not in the spec's domain",
    ),
    "monotone": (stage(channels=128, mid=16), "stage 2: channels 96 may not follow 128"),
    "stages": (lambda design: replace(design, stages=design.stages[:1]), "the number of stages or the presence of a"),
    "tail": (lambda design: replace(design, tail=64), "the number of stages or the presence of a tail differs"),
    "resolution": (lambda design: replace(design, resolution=64), "input resolution, channels or classes differ"),
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
    "verified bound": (verification(bound=1.0), "verification.bound 1.0: below the score"),
    "verified gap": (verification(gap=0.25), "verification.gap 0.25: bound and score give 0.0"),
    "enumerated": (verification(architectures=3), "verification.architectures 3: the space of the spec holds"),
    "unbounded": (verification(bound=None), "verification.verdict 'proven': a bound and a gap belong to it"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_designs_are_rejected(spec: Spec, design: Design, case: str) -> None:
    tamper, reason = TAMPERED[case]
    found = audit(spec, tamper(design))
    assert any(sentence.startswith(reason) or reason in sentence for sentence in found), found


def test_a_wide_gap_is_no_fault_of_a_feasible_design(spec: Spec, design: Design) -> None:
    assert audit(spec, certificate(status="feasible")(wide_gap(design))) == []


def test_a_design_solved_to_a_wider_gap_is_verified_to_that_gap(spec: Spec, design: Design) -> None:
    score = design.metrics.score
    bound = score * (1 + 5e-5)
    wider = certificate(bound=bound, gap=(bound - score) / score)(design)
    assert verify(spec, wider, gap=1e-4, evaluations=1000).verdict == "proven"
    narrow = verify(spec, wider, gap=1e-5, evaluations=1000)
    assert narrow.verdict == "failed"
    assert "certificate.status 'optimal'" in narrow.reasons[0]


def test_proofs_import_nothing_of_the_solver() -> None:
    """Everything imported from mad_ip is allowed, and what that imports in turn is allowed too."""
    package = Path(mad_ip.__file__).parent
    pending = list((package / "verification").glob("*.py"))
    assert {"__main__.py", "attack.py", "audit.py", "bound.py", "exhaustion.py"} <= {path.name for path in pending}
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
                    for depth in range(1, len(rest) + 1):
                        module = package.joinpath(*rest[:depth])
                        files = (module.with_suffix(".py"), module / "__init__.py")
                        pending += [file for file in files if file.exists() and file not in visited]
    assert package / "lagrangian" / "dual.py" in visited


def saved(folder: Path, table: dict[str, Any]) -> Design:
    """A model folder with spec.toml and the solved design.json."""
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text(Spec.from_table(table).to_toml(), encoding="utf-8")
    design = solved(Spec.load(folder / "spec.toml"))
    design.save(folder / "design.json")
    return design


METHODS = {
    "auto": ("audit", "exhaustion", "attack"),
    "audit": ("audit",),
    "exhaustion": ("audit", "exhaustion"),
    "bound": ("audit", "bound"),
    "attack": ("audit", "attack"),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods(spec: Spec, design: Design, method: str) -> None:
    verdict = verify(spec, design, method=method, evaluations=5_000)
    proves = method not in ("audit", "attack")
    assert verdict.methods == METHODS[method]
    assert verdict.verdict == ("proven" if proves else "audited")
    assert (verdict.exit_code, verdict.reasons) == (0, ())
    assert verdict.evaluations == (5_000 if "attack" in verdict.methods else None)
    assert verdict.architectures == (oracle.count(spec) if "exhaustion" in verdict.methods else None)
    assert (verdict.nodes is not None) == ("bound" in verdict.methods)
    if proves:
        assert verdict.bound is not None
        assert verdict.gap is not None
        assert design.metrics.score <= verdict.bound <= design.metrics.score * (1 + 1e-4)
        assert verdict.gap == pytest.approx(verdict.bound / design.metrics.score - 1, abs=1e-12)
    assert audit(spec, replace(design, verification=verdict.verification)) == []


def test_auto_bounds_what_is_too_large_to_enumerate(
    spec: Spec, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mad_ip.verification.verdict.LIMIT", 100)
    verdict = verify(spec, design, evaluations=5_000)
    assert (verdict.verdict, verdict.methods) == ("proven", ("audit", "bound", "attack"))


@pytest.mark.parametrize("method", ["auto", "exhaustion", "bound", "attack"])
def test_a_better_design_within_the_certificates_gap_is_no_failure(spec: Spec, design: Design, method: str) -> None:
    worse = second_best(spec, design)
    score, best = worse.metrics.score, design.metrics.score
    left = (best - score) / score
    claimed = certificate(status="feasible", bound=best, gap=left)(worse)
    verdict = verify(spec, claimed, method=method, gap=2 * left, evaluations=20_000)
    assert verdict.verdict == ("audited" if method == "attack" else "proven")
    assert verdict.exit_code == 0
    notes = [
        reason for reason in verdict.reasons if f"scores {best!r}, better by {left:.1e}, within the gap of" in reason
    ]
    # What a search comes across on its way, and whether at all, is its own affair.
    assert notes == list(verdict.reasons)
    assert notes or method == "bound"
    shown = " ".join(sentences(Model("m", spec, claimed, verdict)))
    assert all(note in shown for note in notes)
    assert "nothing better" not in shown
    assert "none is better" not in shown
    narrow = verify(spec, claimed, method=method, gap=left / 2, evaluations=20_000)
    assert narrow.verdict == ("audited" if method == "attack" else "open")
    beyond = certificate(bound=score + 0.9 * (best - score), gap=0.9 * left)(claimed)
    assert verify(spec, beyond, method=method, gap=2 * left, evaluations=20_000).verdict in (
        ("failed", "proven") if method == "bound" else ("failed",)
    )


@pytest.mark.parametrize("method", ["auto", "exhaustion", "bound", "attack"])
def test_no_method_proves_a_design_that_is_not_the_best(spec: Spec, design: Design, method: str) -> None:
    """A feasible, honestly measured design with a false bound: the audit has nothing against it."""
    worse = second_best(spec, design)
    assert verify(spec, worse, method="audit").verdict == "audited"
    verdict = verify(spec, worse, method=method)
    assert (verdict.verdict, verdict.exit_code) == ("failed", 1)
    assert any("better than the design's" in reason for reason in verdict.reasons)


def test_a_wide_bound_is_no_proof(spec: Spec, design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    score = design.metrics.score
    monkeypatch.setattr(
        "mad_ip.verification.verdict.bound", lambda *_, **__: Bounded(score * 1.01, score, nodes=5, open=0, seconds=0.0)
    )
    verdict = verify(spec, design, method="bound")
    assert (verdict.verdict, verdict.exit_code) == ("open", 1)
    (reason,) = verdict.reasons
    assert reason == f"not proven: the bound {score * 1.01!r} leaves a gap of 1.00e-02, above the asked 0.0001"


def test_a_failed_audit_ends_it(spec: Spec, design: Design) -> None:
    verdict = verify(spec, metrics(macs=1)(design))
    assert (verdict.verdict, verdict.methods) == ("failed", ("audit",))
    assert "metrics.macs = 1" in verdict.reasons[0]


@pytest.fixture(scope="module")
def mobile() -> tuple[Spec, Design]:
    folder = Path(__file__).parent.parent / "models" / "mobile"
    return Spec.load(folder / "spec.toml"), Design.load(folder / "design.json")


@pytest.mark.parametrize("method", ["exhaustion", "bound", "attack"])
def test_it_stops_when_asked_and_when_time_is_up(
    spec: Spec, design: Design, mobile: tuple[Spec, Design], method: str
) -> None:
    problem = mobile if method == "bound" else (spec, design)
    reports: list[Report] = []

    def watch(report: Report) -> bool:
        reports.append(report)
        return True

    for verdict in (verify(*problem, method=method, watch=watch), verify(*problem, method=method, seconds=0.0)):
        assert (verdict.verdict, verdict.exit_code) == ("stopped", 3)
        assert verdict.reasons[0].startswith("stopped before it was proven")
        # The bound holds from its first round on.
        assert (verdict.bound is not None) == (method == "bound")
    assert [report.phase for report in reports] == [method]
    assert method in line(reports[0])


def test_a_certificate_is_replayed(spec: Spec, design: Design) -> None:
    searched = verify(spec, design, method="bound", certify=True)
    text = json.dumps(dict(searched.certificate))
    replayed = verify(spec, design, certificate=json.loads(text), evaluations=1_000)
    assert (replayed.verdict, replayed.methods) == ("proven", ("audit", "certificate", "attack"))
    assert searched.bound is not None
    assert replayed.bound is not None
    assert design.metrics.score <= replayed.bound <= searched.bound * (1 + 1e-9)
    assert replayed.nodes == len(searched.certificate["nodes"])
    incomplete = json.loads(text)
    del incomplete["nodes"][-1]
    verdict = verify(spec, design, certificate=incomplete)
    assert verdict.verdict == "failed"
    assert "not covered" in verdict.reasons[0]
    other = Spec.from_table({**small_table(), "name": "other"})
    renamed = replace(design, name="other", spec_sha256=other.sha256)
    assert verify(other, renamed, method="bound").verdict == "proven"
    verdict = verify(other, renamed, certificate=json.loads(text))
    assert verdict.verdict == "failed"
    assert "spec_sha256" in verdict.reasons[0]
    with pytest.raises(InputError, match=r"^certificate: format = None: must be 'mad-ip/bound-certificate/1'$"):
        verify(spec, design, certificate={})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "guess"}, "method = 'guess': must be one of auto, audit, exhaustion, bound, attack"),
        ({"gap": math.nan}, "gap = nan: must be a number of at least 0"),
        ({"seconds": -1.0}, "time limit = -1.0: must be a number of at least 0"),
        ({"evaluations": 0}, "evaluations = 0: must be an integer of at least 1"),
        (
            {"method": "attack", "certify": True},
            "a certificate is the bound's: method = 'attack' must be auto or bound",
        ),
    ],
)
def test_bad_settings(spec: Spec, design: Design, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(reason)}"):
        verify(spec, design, **settings)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": "certain"}, "verification.verdict = 'certain': must be one of proven, audited"),
        ({"methods": []}, "verification.methods = []: must be a list of at least one text"),
        ({"methods": [1]}, "verification.methods = [1]: must be a list of at least one text"),
        ({"version": 1}, "verification.version = 1: must be a text"),
        ({"bound": "high"}, "verification.bound = 'high': must be a finite number"),
        ({"gap": -1}, "verification.gap = -1: must be a finite number of at least 0"),
        ({"nodes": 1.5}, "verification.nodes = 1.5: must be an integer of at least 0"),
        ({"architectures": 0}, "verification.architectures = 0: must be an integer of at least 1"),
        ({"evaluations": True}, "verification.evaluations = True: must be an integer of at least 1"),
        ({"seconds": None}, "verification.seconds = None: must be a finite number of at least 0"),
        ({"solver": "highs"}, "verification.solver = 'highs': unknown key; allowed are version, verdict,"),
    ],
)
def test_a_bad_verification_is_named(design: Design, changes: dict[str, Any], reason: str) -> None:
    content = json.loads(verification()(design).to_json())
    content["verification"] |= changes
    with pytest.raises(InputError, match=re.escape(f"design: {reason}")):
        Design.from_content(content)


def command(*arguments: object) -> int:
    """The exit code of ``mad-ip``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mad-ip", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_verify_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    design = saved(tmp_path / "small", small_table())
    path = tmp_path / "small" / "design.json"
    assert command("verify", path, "--evaluations", 5_000, "--write", "--quiet") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith(f"small: proven, score {design.metrics.score:,.6f} within 0.0e+00 of the best of 2,")
    assert "attack: 5,000 evaluations found nothing better" in output.out
    stored = Design.load(path)
    assert replace(stored, verification=None) == design
    assert stored.verification is not None
    assert stored.verification.methods == ("audit", "exhaustion", "attack")
    assert command("show", path) == 0

    boxes = tmp_path / "boxes.json"
    assert command("verify", path, "--method", "bound", "--threads", 2, "--write-certificate", boxes) == 0
    assert "bound" in capsys.readouterr().err
    assert command("verify", path, "--method", "bound", "--certificate", boxes, "--quiet") == 0
    assert "which cover the space" in capsys.readouterr().out

    elsewhere = tmp_path / "elsewhere.toml"
    (tmp_path / "small" / "spec.toml").rename(elsewhere)
    assert command("verify", path) == 2
    assert "design.json: its spec is neither beside it nor in the zoo; --spec must name" in capsys.readouterr().err
    assert command("verify", path, "--spec", elsewhere, "--method", "audit") == 0
    assert "small: audited" in capsys.readouterr().out
    assert command("verify", path, "--spec", elsewhere, "--time-limit", 0) == 3

    before = path.read_text()
    second_best(Spec.load(elsewhere), design).save(path)
    worse = path.read_text()
    assert worse != before
    assert command("verify", path, "--spec", elsewhere, "--write", "--quiet") == 1
    output = capsys.readouterr()
    assert "small: failed" in output.out
    assert "failed: exhaustion: stem " in output.out
    assert path.read_text() == worse


def test_verify_command_with_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "small", small_table())
    path = tmp_path / "small" / "design.json"
    (tmp_path / "list.json").write_text("[]")
    for arguments, reason in (
        (["--method", "guess"], "method = 'guess': must be one of auto"),
        (["--gap", "-1"], "--gap = -1.0: must be a number of at least 0 and at most 1"),
        (["--time-limit", "nan"], "--time-limit = nan: must be a number of at least 0"),
        (["--evaluations", "0"], "evaluations = 0: must be an integer of at least 1"),
        (["--method", "audit", "--certificate", path], "--certificate: a certificate is the bound's"),
        (["--certificate", tmp_path / "list.json"], "list.json: must be a JSON object"),
        (["--certificate", tmp_path / "none.json"], "none.json: cannot be read"),
        (["--certificate", path], "certificate: format = 'mad-ip/design/1': must be"),
        (["--certificate", path, "--write-certificate", path], "name one of them"),
        (["--write-certificate", tmp_path / "none" / "boxes.json"], "its folder does not exist"),
    ):
        assert command("verify", path, *arguments) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_the_zoo_is_verified_in_parallel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    for name in ("one", "two"):
        saved(tmp_path / "models" / name, {**small_table(), "name": name})
    (tmp_path / "models" / "unsolved").mkdir()
    (tmp_path / "models" / "unsolved" / "spec.toml").write_text("")
    quick = ["--evaluations", "2000"]
    assert main([*quick, "--write"]) == 0
    output = capsys.readouterr()
    rows = [row.split() for row in output.out.splitlines() if row.split()[:1] in (["one"], ["two"])]
    assert [row[0] for row in rows] == ["one", "two"]
    assert all(row[1:2] + row[5:7] == ["2,592", "0.0e+00", "proven"] for row in rows)
    assert "no design.json, not verified: unsolved" in output.out
    assert sorted(row.split(", ")[0] for row in output.err.splitlines()) == ["one: proven", "two: proven"]
    assert Design.load(Path("models/one/design.json")).verification is not None

    content = json.loads(Path("models/two/design.json").read_text())
    content["metrics"]["macs"] += 1
    Path("models/two/design.json").write_text(json.dumps(content))
    assert main([*quick, "two", "one", "two"]) == 1
    output = capsys.readouterr().out
    assert "failed: two: design: metrics.macs = " in output
    assert output.count("proven") >= 2
    assert main([*quick, "one", "--time-limit", "0"]) == 3
    assert "stopped: the time limit came before a proof." in capsys.readouterr().out


def test_a_process_that_dies_is_a_failure(spec: Spec, design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("broken", spec, replace(design, stages=None)), Job("whole", spec, design)]  # type: ignore[arg-type]
    shown = io.StringIO()
    with display([job.name for job in jobs], Console(file=shown)) as watch:
        broken, whole = verify_all(jobs, {"evaluations": 1_000}, 2, watch)
    assert broken.reasons == ("its process ended without a verdict",)
    assert whole.verdict == "proven"
    assert broken.verdict == "failed"
    assert "broken: failed" in shown.getvalue()


def runs(pid: str) -> bool:
    """Whether a process still runs; one that ended stays listed as a zombie until its parent asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
def test_ctrl_c_ends_the_children(tmp_path: Path, send: Callable[[int, int], None]) -> None:
    """As early as can be; a terminal sends it to the whole group."""
    shutil.copytree(Path(__file__).parent.parent / "models" / "deepmad-r50", tmp_path / "models" / "deepmad-r50")
    arguments = [sys.executable, "-m", "mad_ip.verification", "--evaluations", "100000000", "--gap", "1e-7"]
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children: list[str] = []
        while not children:
            assert process.poll() is None
            time.sleep(0.01)
            children = listed.read_text().split()
        send(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert errors.decode().strip() == "stopped by SIGINT"
    deadline = time.monotonic() + 5
    while any(runs(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("content", [bench.BOTTLENECK, bench.INVERTED], ids=["bottleneck", "inverted"])
def test_large_spaces_are_proven_by_exhaustion(content: dict[str, Any]) -> None:
    spec = Spec.from_table(content)
    assert architectures(spec) > 10**8
    design = solved(spec)
    verdict = verify(spec, design, method="exhaustion")
    assert (verdict.verdict, verdict.reasons) == ("proven", ())
    assert verdict.architectures == oracle.count(spec)


@pytest.mark.parametrize("arguments", [[], ["toy"]])
def test_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "models: no such folder here" in capsys.readouterr().err


def test_bad_models(
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
    assert main(["broken", "--gap", "nan"]) == 2
    assert "gap = nan" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["broken", "--quick"])
    assert stop.value.code == 2
