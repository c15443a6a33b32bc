"""Independent proofs: audits of certified designs, and exhaustive enumeration of small spaces.

Nothing here is shared with the solver: this package imports only spec, blocks, entropy, cost, design, errors and
files, never the catalogue, the formulation, the reduction, a backend or solve (a test walks the imports).
"""

from __future__ import annotations

from mad_ip.verification.audit import audit
from mad_ip.verification.exhaustion import LIMIT, Exhaustion, Proof, architectures, exhaust, prove

__all__ = ["LIMIT", "Exhaustion", "Proof", "architectures", "audit", "exhaust", "prove"]
