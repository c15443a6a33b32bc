"""Utilities of any sign on random specs: every solver and every proof says what plain enumeration says."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import specs

from mad_ip.backends import Profile
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.solve import InfeasibleError, rank, solve
from mad_ip.spec import Objective, Spec, Term, Utility
from mad_ip.verification import exhaust, verify
from mad_ip.verification.attack import attack, evaluate
from mad_ip.verification.bound import bound, replay

NUMBER = int(os.environ.get("MAD_IP_RANDOM_SPECS", "12"))
"""Of specs; more for those who have minutes."""

ROADS = (
    *(Profile("highs"), Profile("highs", reduction=False), Profile("enumerate"), Profile("decomposition")),
    *(Profile("scip"), Profile("cpsat"), Profile("glpk")),
)

AXES = ("channels", "mid", "kernel", "depth")


def random_term(random: Random, domain: tuple[int, ...], size: float) -> tuple[Term, dict[int, float]]:
    """A term, and its values as the formula of docs/formulation.md gives them."""
    if random.random() < 0.5:
        table = {x: random.choice([0.0, 1.0, random.uniform(-1, 1)]) * size for x in domain}
        return Term(tuple(table.items())), table
    log, linear, square = (random.choice([0.0, random.uniform(-1, 1)]) * size / d for d in (1, 10, 100))
    values = {x: log * math.log(x) + linear * x + square * x * x for x in domain}
    return Term(log=log, linear=linear, square=square), values


def valued(spec: Spec, random: Random) -> tuple[Spec, list[tuple[float, oracle.Best]]]:
    """The spec with a random objective, and every feasible architecture with its score, the best first."""
    size = random.choice([1e-2, 1.0, 100.0, 1e4])
    utilities, values = [], []
    stages: list[Any] = [spec.stem, *spec.stages, *([] if spec.tail is None else [spec.tail])]
    names: list[int | str] = ["stem", *range(1, len(spec.stages) + 1), *([] if spec.tail is None else ["tail"])]
    for name, stage in zip(names, stages, strict=True):
        axes = [axis for axis in (AXES if isinstance(name, int) else AXES[:1]) if random.random() < 0.6]
        terms = {axis: random_term(random, getattr(stage, axis), size) for axis in axes}
        values.append({axis: known for axis, (_, known) in terms.items()})
        if terms:
            utilities.append(Utility(name, **{axis: term for axis, (term, _) in terms.items()}))
    share = random.choice([0.0, 0.0, 1.0, 0.37])
    beta = random.choice([0.0, spec.objective.depth_penalty])
    random.shuffle(utilities)
    spec = dataclasses.replace(spec, objective=Objective(beta, share, tuple(utilities)), sha256="")
    scored = []
    for x in oracle.architectures(spec):
        if oracle.fits(spec.budget, x):
            worth = math.fsum(
                known[choice]
                for part, choices in zip(values, x.path, strict=True)
                for axis, choice in zip(AXES, choices, strict=True)
                if (known := part.get(axis)) is not None
            )
            scored.append((share * x.entropy - x.penalty + worth, x))
    return spec, sorted(scored, key=lambda entry: -entry[0])


@pytest.mark.usefixtures("in_this_process")
@settings(
    max_examples=NUMBER,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(spec=specs(limit=400), seed=st.integers(0, 10**6))
def test_every_road_finds_the_best(spec: Spec, seed: int) -> None:
    spec, scored = valued(spec, Random(seed))
    tolerance = 1e-9 * spec.magnitude
    if not scored:
        for profile in ROADS[:3]:
            with pytest.raises(InfeasibleError):
                solve(spec, profile=profile)
        return
    best, top = scored[0][0], [score for score, _ in scored[:3]]
    for score, x in scored[:: 1 + len(scored) // 8]:
        design = Design.chosen(spec, x.path)
        assert design.metrics.score == pytest.approx(score, rel=1e-9, abs=tolerance)
        again = Design.from_content(json.loads(design.to_json()))
        again.check()
        assert again.metrics == design.metrics
    assert exhaust(spec).score == pytest.approx(best, rel=1e-9, abs=tolerance)
    genes = list(np.array([np.ravel(x.path) for _, x in scored]).T)
    assert evaluate(spec, genes)[0] == pytest.approx([score for score, _ in scored], rel=1e-9, abs=tolerance)
    for profile in ROADS:
        design = solve(spec, profile=profile, gap=1e-9)
        assert violations(spec, design) == []
        assert design.metrics.score == pytest.approx(best, rel=1e-9, abs=tolerance), profile.backend
        assert design.certificate is not None
        assert design.certificate.status == "optimal"
    ranked = [design.metrics.score for design in rank(spec, 3, gap=1e-9)]
    assert ranked == pytest.approx(top, rel=1e-9, abs=tolerance)
    proof = bound(spec, design, gap=1e-6)
    assert best - tolerance <= proof.upper <= best + 1e-6 * abs(best) + tolerance
    assert replay(spec, proof.certificate).upper == pytest.approx(proof.upper, rel=1e-9, abs=tolerance)
    assert attack(spec, design, evaluations=2000).reasons == ()


TOY = """
name = "toy"
[input]
resolution = 32
[objective]
{}
[stem]
kernel = 3
stride = 1
channels = [16, 24]
[[stage]]
block = "basic"
stride = 2
channels = [16, 32]
mid = [16, 32]
kernel = [3, 5]
depth = {{min = 1, max = 3}}
[tail]
channels = [64]
"""


def toy(objective: str) -> Spec:
    return Spec.from_table(tomllib.loads(TOY.format(objective)), source="toy.toml")


GIVEN = """
entropy = 0.5
[[objective.utility]]
stage = "stem"
channels = {16 = 1.0, 24 = -2}
[[objective.utility]]
stage = 1
channels = {log = 1.5, square = -1e-4}
depth = {linear = 3}
"""


def test_a_spec_says_what_choices_are_worth() -> None:
    spec = toy(GIVEN)
    stem, stage = spec.objective.utilities
    assert spec.objective.entropy == 0.5
    assert stem == Utility("stem", channels=Term(((16, 1.0), (24, -2.0))))
    assert stage == Utility(1, channels=Term(log=1.5, square=-1e-4), depth=Term(linear=3.0))
    assert Spec.from_table(tomllib.loads(spec.to_toml())) == spec
    (row,) = [x for x in oracle.architectures(spec) if x.structure == (24, ((32, 16, 5, 2),), 64)]
    metrics = Design.chosen(spec, row.path).metrics
    assert metrics.utility == pytest.approx(-2 + 1.5 * math.log(32) - 1e-4 * 1024 + 6, rel=1e-12)
    assert (metrics.share, metrics.entropy) == (0.5, pytest.approx(row.entropy))
    assert metrics.score == pytest.approx(0.5 * row.entropy - row.penalty + (metrics.utility or 0), rel=1e-12)


def test_a_plain_objective_leaves_no_trace() -> None:
    spec = toy("entropy = 1.0")
    assert "entropy" not in spec.to_toml()
    assert set(Design.chosen(spec, oracle.architectures(spec)[0].path).metrics.content()).isdisjoint(
        {"share", "utility"}
    )


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ("entropy = -1", "objective.entropy = -1: must be a finite number of at least 0"),
        (
            "entropy = 1e13",
            "objective.entropy = 10000000000000.0: must be a finite number of at least 0: 0, or from 1e-12 to 1e[+]12",
        ),
        ("entropi = 1", "objective.entropi = 1: unknown key; allowed are depth_penalty, entropy, utility"),
        ("utility = 3", r"objective.utility = 3: must be one or more tables \[\[utility\]\]"),
        (
            "[[objective.utility]]\nstage = 2\nmid = {log = 1}",
            r"utility\[1\].stage = 2: must be one of 'stem', 1, 'tail'",
        ),
        ("[[objective.utility]]\nstage = 'head'\nmid = {log = 1}", "stage = 'head': must be one of stem, tail"),
        ("[[objective.utility]]\nstage = 1", r"objective.utility\[1\]: must have one of channels, mid, kernel, depth"),
        ("[[objective.utility]]\nstage = 1\nmid = 3", r"utility\[1\].mid = 3: must be a table"),
        (
            "[[objective.utility]]\nstage = 1\nmid = {}",
            "mid = {}: must be a table of its values, or of log, linear, square",
        ),
        ("[[objective.utility]]\nstage = 1\nmid = {16 = 1.0}", "has no value for 32; must have one for every value"),
        ("[[objective.utility]]\nstage = 1\nmid = {16 = 1, 32 = 1, 48 = 2}", "48 is no value of its domain"),
        (
            "[[objective.utility]]\nstage = 1\nmid = {16 = 1, 32 = 1, log = 2}",
            "log = 2: must be one of the choices or one of",
        ),
        ("[[objective.utility]]\nstage = 1\nmid = {016 = 1, 32 = 1}", "016 = 1: must be one of the choices or one of"),
        ("[[objective.utility]]\nstage = 1\nmid = {16 = nan, 32 = 1}", "16 = nan: must be a finite number"),
        (
            "[[objective.utility]]\nstage = 1\nmid = {square = 1e12}",
            "must be finite, and of at most 1e[+]12 in magnitude",
        ),
        (
            "[[objective.utility]]\nstage = 'tail'\nmid = {log = 1}",
            "mid: the tail decides on channels only; must be left out",
        ),
        (
            "[[objective.utility]]\nstage = 1\nmid = {log = 1}\n[[objective.utility]]\nstage = 1\ndepth = {log = 1}",
            r"utility\[2\].stage = 1: must be another than those before it",
        ),
    ],
)
def test_what_is_no_utility(objective: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^toy.toml: .*{sentence}"):
        toy(objective)


def test_a_changed_share_is_found() -> None:
    spec = toy(GIVEN)
    content = json.loads(Design.chosen(spec, oracle.architectures(spec)[0].path).to_json())
    for key, value in (("share", 0.6), ("utility", 1e3), ("share", None), ("share", -1.0)):
        wrong = {**content, "metrics": {**content["metrics"], key: value}}
        with pytest.raises(InputError, match=r"metrics\.(score|share)"):
            Design.from_content(wrong).check()


@pytest.mark.usefixtures("in_this_process")
def test_a_real_spec_by_its_utilities_alone() -> None:
    """Of more architectures than anybody enumerates: proven, and proven again by the bound and its replay."""
    spec = Spec.load(Path(__file__).parents[1] / "models/deepmad-r18/spec.toml")
    utilities = tuple(
        Utility(
            t,
            channels=Term(log=3.0 * t),
            mid=Term(log=1.0),
            kernel=Term(linear=-0.3),
            depth=Term(linear=2.0, square=-0.1),
        )
        for t in range(1, len(spec.stages) + 1)
    )
    spec = dataclasses.replace(spec, objective=Objective(0.0, 0.0, utilities), sha256="")
    design = solve(spec)
    assert design.certificate is not None
    assert (design.certificate.status, violations(spec, design)) == ("optimal", [])
    assert design.metrics.score == pytest.approx(design.metrics.utility)
    proof = bound(spec, design, gap=1e-6)
    assert design.metrics.score <= proof.upper <= design.metrics.score * (1 + 1e-6)
    assert proof.better is None


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("name", "profile"),
    [
        # The first design comes of the model valued by entropy alone, whose bound is none on this score.
        ("free", Profile("highs", reduction=False)),
        # Parts of thousands cancel to a score of 0.
        ("highs-crash", Profile("highs")),
        # CP-SAT 9.15 lost the optimum where large constants were among the coefficients of 60 bits.
        ("cpsat-false", Profile("cpsat", reduction=False)),
        ("cpsat-crash", Profile("cpsat", reduction=False)),
    ],
)
def test_specs_that_were_hard(name: str, profile: Profile) -> None:
    spec = Spec.load(Path(__file__).parent / f"data/utilities/{name}.toml")
    design = solve(spec, profile=profile)
    assert design.certificate is not None
    # CP-SAT's objective has as many bits as it can be trusted with, too few to prove a score of 0.
    assert design.certificate.status == "optimal" or (profile.backend == "cpsat" and design.certificate.bound < 1e-3)
    assert exhaust(spec).score == pytest.approx(design.metrics.score, abs=1e-9 * spec.magnitude)
    verdict = verify(spec, design, evaluations=1000)
    assert (verdict.verdict, verdict.reasons) == ("proven", ())


@pytest.mark.usefixtures("in_this_process")
def test_a_best_score_of_nothing_is_proven_on_a_fine_grid() -> None:
    """Only the depth of one stage counts, and the best is worth 0: all designs with it are ties."""
    spec = Spec.load(Path(__file__).parents[1] / "models/deepmad-r18/spec.toml")
    depth = Term(tuple((x, -float(abs(x - 4))) for x in spec.stages[0].depth))
    spec = dataclasses.replace(spec, objective=Objective(0.0, 0.0, (Utility(1, depth=depth),)), sha256="")
    design = solve(spec, time_limit=60)
    assert design.certificate is not None
    assert (design.certificate.status, design.metrics.score, design.stages[0].depth) == ("optimal", 0.0, 4)
    assert verify(spec, design, method="bound", evaluations=1000).verdict == "proven"


def test_a_design_off_the_table_is_refused_in_words() -> None:
    spec = toy(GIVEN)
    other = Spec.from_table(tomllib.loads(TOY.format("").replace("[16, 24]", "[20]")))
    design = solve(other)
    verdict = verify(spec, design, evaluations=1000)
    assert verdict.verdict == "failed"
    assert any("stem channels 20" in reason for reason in verdict.reasons)
