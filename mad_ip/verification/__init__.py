"""Independent proofs of designs: audit, exhaustion of small spaces, a Lagrangian bound for large ones, and an attack.

Nothing here is shared with the MILP: this package imports only spec, blocks, entropy, cost, design, errors, files,
processes, lagrangian and the reports on verifications, never the catalogue, the formulation, the decomposition, a
backend, search or solve (a test walks the imports).
"""

from __future__ import annotations

from mad_ip.verification.attack import Attack, attack
from mad_ip.verification.audit import audit
from mad_ip.verification.exhaustion import LIMIT, Exhaustion, Proof, architectures, exhaust, prove
from mad_ip.verification.verdict import Report, Verdict, verify

__all__ = [
    "LIMIT",
    "Attack",
    "Exhaustion",
    "Proof",
    "Report",
    "Verdict",
    "architectures",
    "attack",
    "audit",
    "exhaust",
    "prove",
    "verify",
]
