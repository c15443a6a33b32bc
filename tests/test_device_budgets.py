"""Budgets of devices on random specs: every solver and every proof says what plain enumeration says."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import device_oracle
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import specs

from mad_ip.backends import Profile
from mad_ip.design import Design, violations
from mad_ip.device import FEMTOSECONDS, Affine, Device, Lookup, Rate, Row
from mad_ip.solve import InfeasibleError, solve
from mad_ip.spec import Budget, Spec
from mad_ip.verification import exhaust
from mad_ip.verification.attack import evaluate
from mad_ip.verification.bound import bound

V100 = Path(__file__).parent / "data" / "v100_fp32.csv"

NUMBER = int(os.environ.get("MAD_IP_RANDOM_SPECS", "10"))
"""Of specs of either kind; more for those who have minutes."""

QUICK = settings(
    max_examples=NUMBER,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

KINDS = ("pointwise", "pointwise+silu", "dense", "depthwise", "squeeze-excite", "pool", "add", "head")


def rates(random: Random) -> dict[str, tuple[float, ...]]:
    return {
        kind: (
            random.choice([0.0, 12.5, 1000.0]),
            random.choice([0.0, 0.0123, 0.25]),
            random.choice([0.0, 0.004]),
            random.choice([0.0, 0.5]),
        )
        for kind in KINDS
    }


def affine(random: Random, overhead: float) -> tuple[dict[Any, Any], Affine]:
    found = rates(random)
    return found, Affine(tuple((kind, Rate(*rate)) for kind, rate in found.items()), overhead)


def measured() -> dict[Any, int]:
    """The published table: wider layers are faster now and then."""
    found = {}
    with V100.open() as file:
        for kind, c_in, size, c, kernel, stride, time in csv.reader(line for line in file if line[0] != "#"):
            name = "depthwise" if kind == "Depthwise" else "pointwise" if kernel == "1" else "dense"
            shape = tuple(map(int, (c_in, c, kernel, stride, size)))
            found[name, *shape] = math.ceil(Decimal(time) * 10**6)
    return found


TABLE = measured()
LOOKUP = Lookup(
    tuple(Row(kind, a, 0, b, k, s, size, time) for (kind, a, b, k, s, size), time in TABLE.items()),
    overhead=500.0,
    unmodelled=("add", "pool", "head", "squeeze-excite"),
)


def test_the_published_table_is_not_monotone() -> None:
    wider = [
        (time, other)
        for (kind, a, b, *rest), time in TABLE.items()
        if (other := TABLE.get((kind, a, 2 * b, *rest))) is not None
    ]
    assert sum(other < time for time, other in wider) > 10


def table_spec(random: Random) -> Spec:
    """Widths and sizes that the published table holds."""
    families = [random.choice(["basic", "bottleneck", "inverted", "inverted_se"]) for _ in range(2)]
    widths = {"basic": [32, 64], "bottleneck": [16, 32], "inverted": [32, 64, 128], "inverted_se": [64, 128]}
    stage = {"kernel": [1, 3, 5], "depth": random.choice([1, [1, 2], [1, 2, 3], [2, 3]]), "stride": 2}
    channels = [random.sample([16, 32, 64], 2), random.sample([32, 64, 128], 2)]
    return Spec.from_table(
        {
            "name": "table",
            "convention": random.choice(["paper", "tinynas"]),
            "input": {"resolution": 16, "channels": 3, "classes": 10},
            "space": {"growth": 4.0, "monotone": random.choice([True, False])},
            "stem": {"kernel": 3, "stride": 1, "channels": [16, 32]},
            "stage": [
                {**stage, "block": family, "channels": c, "mid": m, **({"kernel": [1, 3]} if n else {})}
                for n, (family, c) in enumerate(zip(families, channels, strict=True))
                for m in [random.sample(widths[family], 2)]
            ],
        }
    )


def admissible(spec: Spec, times: dict[Any, Any]) -> bool:
    """Whether the table holds all layers of all architectures."""
    try:
        for x in oracle.architectures(spec):
            device_oracle.latency(spec, x.structure, times)
    except KeyError:
        return False
    return True


def tightened(spec: Spec, device: Device, of_latency: Callable[[Spec, Any], int], random: Random) -> Any:
    """The spec with some device budgets at or just below what a random architecture takes, and the feasible ones."""
    spec = dataclasses.replace(spec, device=device, sha256="")
    everything = oracle.architectures(spec)
    amounts = {
        "activation": [device_oracle.activation(spec, x.structure) for x in everything],
        "flash": [device_oracle.flash(spec, x.structure) for x in everything],
        "latency": [of_latency(spec, x.structure) for x in everything],
    }
    chosen = random.sample(sorted(amounts), random.randint(1, 3)) if random.random() < 0.7 else sorted(amounts)
    limits = {}
    for key in chosen:
        value = random.choice(amounts[key])
        limits[key] = float(
            max(1, value if random.random() < 0.6 else value - (FEMTOSECONDS if key == "latency" else 1))
        )
    budget = Budget(**{**spec.budget.given, **limits})
    spec = dataclasses.replace(spec, budget=budget, sha256="")
    keeps = [
        oracle.fits(spec.budget, x) and all(amounts[key][n] <= limit for key, limit in limits.items())
        for n, x in enumerate(everything)
    ]
    return spec, everything, amounts, keeps


ROADS = (Profile("highs"), Profile("highs", reduction=False), Profile("enumerate"), Profile("decomposition"))


def check(spec: Spec, everything: Any, amounts: Any, keeps: list[bool]) -> None:
    """Modelled amounts, feasibility and the optimum of every road."""
    for n in range(0, len(everything), 1 + len(everything) // 12):
        design = Design.chosen(spec, everything[n].path)
        assert {key: design.spent(key) for key in amounts} == {key: amounts[key][n] for key in amounts}
        assert design.metrics.latency == -(-amounts["latency"][n] // FEMTOSECONDS)
        assert (violations(spec, design) == []) == keeps[n]
        again = Design.from_content(json.loads(design.to_json()))
        again.check()
        assert again.metrics == design.metrics
    _, violation = evaluate(spec, list(np.array([np.ravel(x.path) for x in everything]).T))
    assert list(violation == 0) == keeps
    best = max((x for x, ok in zip(everything, keeps, strict=True) if ok), key=lambda x: x.score, default=None)
    found = exhaust(spec)
    assert found.score == pytest.approx(-math.inf if best is None else best.score, rel=1e-9)
    for profile in ROADS:
        if best is None:
            with pytest.raises(InfeasibleError):
                solve(spec, profile=profile)
            continue
        design = solve(spec, profile=profile, gap=1e-9)
        assert violations(spec, design) == []
        assert design.metrics.score == pytest.approx(best.score, rel=1e-9, abs=1e-9)
    if best is not None:
        searched = bound(spec, Design.chosen(spec, best.path), gap=1e-6)
        assert best.score - 1e-9 * abs(best.score) <= searched.upper <= best.score + 1e-6 * abs(best.score) + 1e-9


@pytest.mark.usefixtures("in_this_process")
@QUICK
@given(spec=specs(limit=400), seed=st.integers(0, 10**6))
def test_affine_latency_and_memory(spec: Spec, seed: int) -> None:
    random = Random(seed)
    overhead = random.choice([0.0, 1234.5])
    times, model = affine(random, overhead)
    device = Device(
        activation_bytes=random.choice([1, 2, 4]),
        weight_bytes=random.choice([1, 4]),
        channel_bytes=random.choice([0, 4, 8]),
        memory=random.choice(["plain", "in-place"]),
        latency=model,
    )
    check(*tightened(spec, device, lambda s, x: device_oracle.latency(s, x, times, overhead), random))


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("seed", range(NUMBER))
def test_a_table_that_is_not_monotone(seed: int) -> None:
    random = Random(seed)
    spec = table_spec(random)
    device = Device(memory=random.choice(["plain", "in-place"]), latency=LOOKUP)
    while not admissible(dataclasses.replace(spec, device=device, sha256=""), TABLE):
        spec = table_spec(random)
    check(*tightened(spec, device, lambda s, x: device_oracle.latency(s, x, TABLE, 500.0), random))
