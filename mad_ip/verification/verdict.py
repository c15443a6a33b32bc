"""Verification from end to end: audit, then exhaustion or the bound, then the attack; one :class:`Verdict`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mad_ip import __version__
from mad_ip.design import Design, Verification, negligible, relative_gap
from mad_ip.errors import InputError
from mad_ip.spec import Spec
from mad_ip.verification.attack import EVALUATIONS, Attack, attack
from mad_ip.verification.audit import OPTIMAL_GAP, audit
from mad_ip.verification.bound import Bounded, bound, replay
from mad_ip.verification.exhaustion import LIMIT, architectures, better, describe, prove, score_slack

__all__ = ["GAP", "METHODS", "Report", "Verdict", "Watch", "check_settings", "verify"]

METHODS = ("auto", "audit", "exhaustion", "bound", "attack")
"""``auto`` is audit, exhaustion or bound, and attack; every other one is the audit and itself."""

GAP = 1e-4
"""Relative gap of the bound within which a design counts as proven optimal."""

_EXIT_CODES = {"proven": 0, "audited": 0, "failed": 1, "open": 1, "stopped": 3}

_INTERVAL = 0.1
"""Seconds between two reports."""


@dataclass(frozen=True)
class Report:
    """How far a verification is: the method at work, in ``phase``, and what it tells of itself.

    ``share`` of the work that is done (exhaustion, attack); ``upper`` bound so far, ``gap`` and ``nodes`` (bound);
    ``None`` elsewhere. ``seconds`` since the start.
    """

    phase: str
    seconds: float
    share: float | None = None
    upper: float | None = None
    gap: float | None = None
    nodes: int | None = None


Watch = Callable[[Report], bool]
"""Called now and then; returning True stops the verification."""


@dataclass(frozen=True)
class Verdict:
    """What was proven about a design, and ``reasons``, one sentence each: why no more was, and what better designs were
    found that are within what its certificate claims.

    ``verdict`` is one of

    - ``proven``: feasible, and no feasible design is better by more than ``gap`` relative;
    - ``audited``: nothing contradicts the design, optimality was not looked into;
    - ``failed``: something contradicts it, such as a design that is better by more than its certificate's gap;
    - ``open``: the bound leaves a larger gap than asked;
    - ``stopped``: the time limit or the user came before any of these.

    The other fields are those of :class:`mad_ip.design.Verification`; ``certificate`` is the bound's, empty without.
    """

    verdict: str
    methods: tuple[str, ...]
    bound: float | None
    gap: float | None
    architectures: int | None
    nodes: int | None
    evaluations: int | None
    seconds: float
    reasons: tuple[str, ...]
    certificate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 proven or audited, 1 failed or open, 3 stopped."""
        return _EXIT_CODES[self.verdict]

    def content(self) -> dict[str, Any]:
        """What is printed as JSON: all but the certificate, and ``None`` for what is not finite."""
        shown = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "certificate"}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in shown.items()
        }

    @property
    def verification(self) -> Verification:
        """What design.json stores of it."""
        stored = {item.name: getattr(self, item.name) for item in fields(Verification) if item.name != "version"}
        return Verification(__version__, **{**stored, "seconds": round(self.seconds, 3)})


def verify(
    spec: Spec,
    design: Design,
    *,
    method: str = "auto",
    gap: float = GAP,
    seconds: float = math.inf,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    certificate: Mapping[str, Any] | None = None,
    certify: bool = False,
    threads: int = 1,
    watch: Watch | None = None,
) -> Verdict:
    """Prove or refute that ``design`` is the best feasible one of ``spec``, without the solver.

    ``method`` is one of ``METHODS``. Every method begins with the audit and ends there if that fails; ``auto``
    goes on with exhaustion where the space holds at most ``LIMIT`` architectures, with the bound elsewhere and
    where ``certify`` wants its certificate or ``certificate`` replaces its search by a replay; then follows the attack
    of ``evaluations`` architectures with ``seed``. ``gap`` is what the bound may leave, ``seconds`` the limit on all;
    ``threads`` share the bound and the replay.

    Raises :class:`InputError` on an unknown method and where exhaustion is asked for a space that is too large,
    :class:`mad_ip.errors.InternalError` where a method contradicts itself.
    """
    check_settings(gap, seconds, evaluations)
    if method not in METHODS:
        raise InputError(f"method = {method!r}: must be one of {', '.join(METHODS)}")
    if (certificate is not None or certify) and method not in ("auto", "bound"):
        raise InputError(f"a certificate is the bound's: method = {method!r} must be auto or bound")
    run = _Run(spec, design, gap, seconds, threads, watch)
    return run.verdict(method, evaluations, seed, certificate, certify)


def check_settings(gap: float, seconds: float, evaluations: int) -> None:
    """Raise :class:`InputError` when one of these is no setting of :func:`verify`."""
    for name, value in (("gap", gap), ("time limit", seconds)):
        if math.isnan(value) or value < 0:
            raise InputError(f"{name} = {value}: must be a number of at least 0")
    if evaluations < 1:
        raise InputError(f"evaluations = {evaluations}: must be an integer of at least 1")


class _Stopped(Exception):  # noqa: N818 (no error: a wish)
    """The time limit is passed or the user wants to stop."""


class _Run:
    """One verification: what the methods so far have proven."""

    def __init__(
        self, spec: Spec, design: Design, gap: float, seconds: float, threads: int, watch: Watch | None
    ) -> None:
        self.spec, self.design, self.gap, self.threads, self.watch = spec, design, gap, threads, watch
        self.began = time.perf_counter()
        self.limit = seconds
        self.reported = -math.inf
        self.metrics = design.measure(spec.objective)
        self.methods: list[str] = []
        self.failures: list[str] = []
        self.notes: dict[str, str] = {}
        self.proven = self.stopped = False
        self.bound: float | None = None
        self.left: float | None = None
        self.enumerated: int | None = None
        self.nodes: int | None = None
        self.evaluations: int | None = None
        self.certificate: Mapping[str, Any] = {}

    def verdict(
        self, method: str, evaluations: int, seed: int, certificate: Mapping[str, Any] | None, certify: bool
    ) -> Verdict:
        self.failures += audit(self.spec, self.design, max(self.gap, OPTIMAL_GAP))
        self.methods.append("audit")
        try:
            if not self.failures and method in ("auto", "exhaustion", "bound"):
                by_bound = method == "bound" or certificate is not None or certify
                if method == "exhaustion" or (not by_bound and architectures(self.spec) <= LIMIT):
                    self._exhaust()
                elif certificate is not None:
                    self._replay(certificate)
                else:
                    self._bound()
            if not self.failures and method in ("auto", "attack"):
                self._attack(evaluations, seed)
        except _Stopped:
            self.stopped = True
        reasons = tuple(self.failures)
        if reasons:
            verdict = "failed"
        elif self.proven:
            verdict = "proven"
        elif self.stopped:
            verdict, reasons = "stopped", ("stopped before it was proven" + self._rest(),)
        elif self.left is not None:
            verdict, reasons = "open", (f"not proven{self._rest()}, above the asked {self.gap:g}",)
        else:
            verdict = "audited"
        if verdict != "failed":
            reasons += tuple(self.notes.values())
        return Verdict(
            verdict,
            tuple(self.methods),
            self.bound,
            self.left,
            self.enumerated,
            self.nodes,
            self.evaluations,
            self._seconds(),
            reasons,
            self.certificate,
        )

    def _rest(self) -> str:
        return "" if self.left is None else f": the bound {self.bound!r} leaves a gap of {self.left:.2e}"

    def _seconds(self) -> float:
        return time.perf_counter() - self.began

    def _report(self, report: Report) -> bool:
        """Pass a report on, not too often; whether to stop."""
        if self.watch is not None and report.seconds - self.reported >= _INTERVAL:
            self.reported = report.seconds
            self.stopped |= self.watch(report)
        return self.stopped or report.seconds > self.limit

    def _exhaust(self) -> None:
        def follow(done: int, total: int) -> None:
            if self._report(Report("exhaustion", self._seconds(), share=done / total)):
                raise _Stopped

        proof = prove(self.spec, self.design, follow)
        self.methods.append("exhaustion")
        self.enumerated = proof.exhaustion.architectures
        best = proof.exhaustion
        if best.design is not None and best.score > self.metrics.score + score_slack(self.spec, self.metrics):
            self._better("exhaustion", best.design)
        else:
            self.failures += proof.reasons
        if not self.failures:
            self._prove(best.score)

    def _bound(self) -> None:
        def follow(state: Bounded) -> bool:
            gap = relative_gap(self.metrics.score, state.upper)
            report = Report("bound", self._seconds(), upper=state.upper, gap=gap, nodes=state.nodes)
            # A better design refutes this one; how good the best is then does not matter.
            return self._report(report) or (state.better is not None and self._refutes(state.better))

        outcome = bound(
            self.spec,
            self.design,
            gap=self.gap,
            seconds=self.limit - self._seconds(),
            threads=self.threads,
            watch=follow,
        )
        self.methods.append("bound")
        self.nodes, self.certificate = outcome.nodes, outcome.certificate
        if outcome.better is not None:
            self._better("bound", outcome.better)
        self._prove(outcome.upper)

    def _replay(self, certificate: Mapping[str, Any]) -> None:
        def follow(done: int, total: int) -> None:
            if self._report(Report("certificate", self._seconds(), share=done / total)):
                raise _Stopped

        try:
            outcome = replay(self.spec, certificate, threads=self.threads, watch=follow)
        except InputError as error:
            raise InputError(f"certificate: {error}") from None
        self.methods.append("certificate")
        self.nodes = outcome.nodes
        self.failures += outcome.reasons
        if not outcome.reasons:
            self._prove(outcome.upper)

    def _refutes(self, found: Design) -> bool:
        """Whether a design is better than this one by more than its certificate leaves open."""
        certificate = self.design.certificate
        return certificate is None or found.metrics.score > certificate.bound + score_slack(self.spec, self.metrics)

    def _better(self, method: str, found: Design) -> None:
        """Take note of a design that is better than this one."""
        score, certificate = self.metrics.score, self.design.certificate
        if certificate is None or self._refutes(found):
            self.failures.append(better(method, found, score))
            return
        more, claimed = (relative_gap(score, value) for value in (found.metrics.score, certificate.bound))
        self.notes[method] = (
            f"{method}: {describe(found)} scores {found.metrics.score!r}, better by {more:.1e}, "
            f"within the gap of {claimed:.1e} that the certificate claims"
        )

    def _prove(self, upper: float) -> None:
        """Compare an upper bound on every feasible design with the score of this one."""
        score = self.metrics.score
        if not upper >= score - score_slack(self.spec, self.metrics):
            self.failures.append(f"bound {upper!r}: no feasible design scores more, yet the design scores {score!r}")
            return
        self.bound, self.left = float(max(upper, score)), float(relative_gap(self.metrics.score, upper))
        # Of a score that is small beside its parts no gap can be proven that is smaller than their rounding.
        cancels = not self.spec.objective.is_plain and upper - score <= negligible(self.spec, self.metrics)
        self.proven = self.left <= self.gap or cancels
        if not self.proven and (self.stopped or self._seconds() > self.limit):
            raise _Stopped

    def _attack(self, evaluations: int, seed: int) -> None:
        def follow(state: Attack) -> bool:
            return self._report(Report("attack", self._seconds(), share=state.evaluations / evaluations))

        outcome = attack(
            self.spec,
            self.design,
            evaluations=evaluations,
            seed=seed,
            seconds=self.limit - self._seconds(),
            watch=follow,
        )
        if outcome.reasons and outcome.design is not None:
            self._better("attack", outcome.design)
        if not outcome.finished:
            raise _Stopped
        self.methods.append("attack")
        self.evaluations = outcome.evaluations
