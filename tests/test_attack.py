"""The attack: what it finds is real, it finds what there is, and the same seed finds the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs

from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.solve import solve
from mad_ip.spec import Domain, Spec
from mad_ip.verification import Attack, attack

MODELS = Path(__file__).parent.parent / "models"

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(spec=specs(limit=5_000))
def test_the_attack_finds_the_best_of_a_small_space(spec: Spec) -> None:
    """From the worst design there is: every better one is a failure of that design, and the best is found."""
    everything = oracle.architectures(spec)
    best = oracle.enumerate_best(spec)
    worst = min(everything, key=lambda architecture: architecture.score)
    found = attack(spec, Design.chosen(spec, worst.path), evaluations=20_000)
    assert found.finished
    assert found.evaluations == 20_000
    if best is None:
        assert (found.design, found.score, found.reasons) == (None, -math.inf, ())
        return
    assert found.design is not None
    assert violations(spec, found.design) == []
    assert found.design.metrics.score == found.score
    assert found.score == pytest.approx(best.score, rel=1e-9)
    slack = 1e-9 * abs(worst.score) + 1e-12 * worst.entropy
    assert bool(found.reasons) == (best.score > worst.score + slack)
    assert attack(spec, Design.chosen(spec, best.path), evaluations=20_000).reasons == ()


@pytest.fixture(scope="module")
def r18() -> tuple[Spec, Design]:
    spec = Spec.load(MODELS / "coarse" / "deepmad-r18.toml")
    return spec, solve(spec)


def test_a_slightly_worse_design_of_a_huge_space_falls(r18: tuple[Spec, Design]) -> None:
    """One block less in one stage, everything else as proven: the climb from the design itself puts it back."""
    spec, design = r18
    for t in range(len(design.stages)):
        stages = tuple(replace(stage, depth=stage.depth - (s == t)) for s, stage in enumerate(design.stages))
        worse = replace(design, stages=stages)
        worse = replace(worse, metrics=worse.measure(spec.objective.depth_penalty))
        assert violations(spec, worse) == []
        found = attack(spec, worse, evaluations=20_000)
        assert found.design is not None
        assert found.score >= design.metrics.score
        (reason,) = found.reasons
        assert reason.startswith("attack: stem 32, c256 m24 k5 L4, ")
        assert reason.endswith(f"better than the design's {worse.metrics.score!r}")


def test_random_starts_alone_come_close(r18: tuple[Spec, Design]) -> None:
    """From a design outside the space, so that nothing of the answer is given away."""
    spec, design = r18
    outside = replace(design, stem=replace(design.stem, channels=1))
    found = attack(spec, outside)
    assert 0.999 * design.metrics.score < found.score <= design.metrics.score * (1 + 1e-9)


def test_a_seed_repeats_and_another_differs(r18: tuple[Spec, Design]) -> None:
    spec, design = r18
    outside = replace(design, stem=replace(design.stem, channels=1))
    runs = [attack(spec, outside, evaluations=5_000, seed=seed) for seed in (0, 0, 1)]
    assert replace(runs[0], seconds=0.0) == replace(runs[1], seconds=0.0)
    assert runs[0].score != runs[2].score


def test_it_stops_when_asked(r18: tuple[Spec, Design]) -> None:
    states: list[Attack] = []

    def watch(state: Attack) -> bool:
        states.append(state)
        return len(states) == 3

    stopped = attack(*r18, watch=watch)
    assert len(states) == 3
    assert not stopped.finished
    assert stopped.evaluations == states[-1].evaluations < 1_000_000
    assert stopped.design is not None
    late = attack(*r18, seconds=0.0)
    assert not late.finished
    assert 0 < late.evaluations < 100_000


def test_bad_input(r18: tuple[Spec, Design]) -> None:
    spec, design = r18
    with pytest.raises(InputError, match=r"^evaluations = 0: must be an integer of at least 1$"):
        attack(spec, design, evaluations=0)
    wide: Domain = (1 << 20,)
    stages = tuple(replace(stage, channels=wide, mid=wide, depth=(1_000,)) for stage in spec.stages)
    with pytest.raises(InputError, match="pass 64-bit integers"):
        attack(replace(spec, stages=stages), design)
