"""Everything in which a design differs from what its spec and its own structure say."""

from __future__ import annotations

import math

from mad_ip.design import STATUSES, Design, negligible, relative_gap, violations
from mad_ip.spec import Spec
from mad_ip.verification.exhaustion import architectures, score_slack

__all__ = ["OPTIMAL_GAP", "audit"]

OPTIMAL_GAP = 1e-6
"""Largest relative gap of a design that may call itself optimal if none was asked (docs/verification.md section 8)."""

_TOLERANCE = 1e-9
"""Relative slack on scores, bounds and gaps, for rounding alone."""


def audit(spec: Spec, design: Design, optimal_gap: float = OPTIMAL_GAP) -> list[str]:
    """One sentence for everything that differs, each beginning with or naming what; empty when nothing does.

    Checked are the structure, the budgets and every metric (:func:`mad_ip.design.violations`), the name, the hash of
    the spec, and that the certificate agrees with itself and with the spec: the number of architectures counted anew
    in Python integers, ``bound >= score``, ``gap = (bound - score) / |score|`` with the score measured anew, and
    ``optimal`` said only of a gap of at most ``optimal_gap``, which the solve was asked for. A stored verification is
    held to the same. Whether a bound is true is not checked here: see :func:`mad_ip.verification.verdict.verify`.
    """
    found = violations(spec, design)
    if design.name != spec.name:
        found.append(f"name {design.name!r}: the spec says {spec.name!r}")
    if design.spec_sha256 != spec.sha256:
        found.append(f"spec_sha256 {design.spec_sha256}: the hash of the spec is {spec.sha256}")
    return found + _certificate(spec, design, optimal_gap) + _verification(spec, design)


def _certificate(spec: Spec, design: Design, optimal_gap: float) -> list[str]:
    certificate = design.certificate
    if certificate is None:
        return ["certificate: there is none"]
    found = _counted("certificate", certificate.architectures, spec)
    gap, differences = _bounded("certificate", certificate.bound, certificate.gap, spec, design)
    found += differences
    if certificate.status not in STATUSES:
        found.append(f"certificate.status {certificate.status!r}: must be one of {', '.join(STATUSES)}")
    elif certificate.status == "optimal" and not (gap <= optimal_gap or _negligible(certificate.bound, spec, design)):
        found.append(f"certificate.status 'optimal': bound and score leave a gap of {gap!r}, above {optimal_gap}")
    if not certificate.seconds >= 0:
        found.append(f"certificate.seconds {certificate.seconds!r}: must be at least 0")
    return found


def _negligible(bound: float, spec: Spec, design: Design) -> bool:
    """Whether a bound exceeds the score by nothing that counts."""
    metrics = design.measure(spec.objective)
    return bound - metrics.score <= negligible(spec, metrics)


def _verification(spec: Spec, design: Design) -> list[str]:
    verification = design.verification
    if verification is None:
        return []
    found = []
    if verification.architectures is not None:
        found += _counted("verification", verification.architectures, spec)
    if verification.bound is not None and verification.gap is not None:
        found += _bounded("verification", verification.bound, verification.gap, spec, design)[1]
    elif verification.verdict == "proven":
        found.append("verification.verdict 'proven': a bound and a gap belong to it")
    return found


def _counted(where: str, stored: int, spec: Spec) -> list[str]:
    counted = architectures(spec)
    return [] if stored == counted else [f"{where}.architectures {stored}: the space of the spec holds {counted}"]


def _bounded(where: str, bound: float, stored: float, spec: Spec, design: Design) -> tuple[float, list[str]]:
    """The gap that a bound leaves, and what contradicts it."""
    found = []
    score = design.measure(spec.objective).score
    if not bound >= score - score_slack(spec, design.measure(spec.objective)):
        found.append(f"{where}.bound {bound!r}: below the score {score!r} of the design itself")
    gap = relative_gap(score, bound)
    if not math.isclose(stored, gap, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        found.append(f"{where}.gap {stored!r}: bound and score give {gap!r}")
    return gap, found
