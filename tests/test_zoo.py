"""The zoo: every design is feasible, measured as stored, certified for the spec beside it, and reproducible."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mad_ip.design import Design
from mad_ip.solve import solve
from mad_ip.spec import Spec
from mad_ip.verification.audit import audit

MODELS = Path(__file__).parent.parent / "models"
NAMES = (
    "deepmad-29m",
    "deepmad-b0",
    "deepmad-r18",
    "deepmad-r34",
    "deepmad-r50",
    "e3d-s",
    "mcu-f412",
    "mcu-f746",
    "mcu-h743",
    "mobile",
    "r18-latency",
    "resnet-basic",
    "toy",
)


def test_the_zoo_is_complete() -> None:
    assert sorted(path.parent.name for path in MODELS.glob("*/spec.toml")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_design_is_what_its_certificate_says(name: str) -> None:
    spec = Spec.load(MODELS / name / "spec.toml")
    design = Design.load(MODELS / name / "design.json")
    assert audit(spec, design) == []
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert design.certificate.gap <= 1e-6


def test_the_toy_is_solved_to_the_same_design_again() -> None:
    again = solve(Spec.load(MODELS / "toy" / "spec.toml"))
    stored = Design.load(MODELS / "toy" / "design.json")
    assert again.certificate is not None
    assert stored.certificate is not None
    # The road to a proof may change, and with it its last digits; what is proven may not.
    assert dataclasses.replace(again, certificate=None) == dataclasses.replace(stored, certificate=None)
    assert again.certificate.status == stored.certificate.status
    assert again.certificate.architectures == stored.certificate.architectures
    assert again.certificate.bound == pytest.approx(stored.certificate.bound, rel=1e-6)
