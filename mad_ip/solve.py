"""From a spec to a certified design: branch and bound, the MILP of what survives, decoding, exact checks.

Nothing a solver says is taken on trust: the design is decoded and re-measured from its layers, budgets are checked in
exact integers, and ``optimal`` is said only when bound and recomputed score are within the asked gap.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip import _called, decomposition, paths
from mad_ip import catalogue as catalogues
from mad_ip.backends import Findings, Limits, Profile, Progress, Search, compile_model, load_backend, solve_apart
from mad_ip.catalogue import Catalogue, Floats, raw_options
from mad_ip.cost import COSTS
from mad_ip.decomposition import Found
from mad_ip.decomposition.least import least
from mad_ip.design import Certificate, Design, negligible, relative_gap, violations
from mad_ip.errors import InputError, InternalError, MadIpError, MadIpWarning
from mad_ip.files import write_atomically
from mad_ip.formulation import Formulation, Window, attainable_spreads
from mad_ip.keys import THREADS
from mad_ip.lagrangian.workers import threads as thread_pool
from mad_ip.spec import Budget, Objective, Spec

__all__ = [
    "InfeasibleError",
    "Model",
    "NoDesignError",
    "Program",
    "Report",
    "amount",
    "choices",
    "program",
    "rank",
    "search",
    "solve",
]

_SCORE_TOLERANCE = 1e-6
"""Largest difference between a solver's objective and the recomputed score, relative to that or to its parts."""

_SCORES = 2.0**13
"""Scores that a solver's tolerances suit."""

_ROUNDING = 1e-9
"""Relative slack on a bound that is computed in floating point."""

_SOLVER_GAP = 1e-3
"""The solver's gap as a share of the asked one: designs closer than that would be picked arbitrarily."""

_EXACT = 1e-6
"""A gap up to which branch and bound, like a solver, is asked for a smaller one."""

_BOXES = 20_000
"""Boxes after which the solver takes over those that are left."""

_LISTED = 100_000
"""Options that survive, up to which a solver is given them."""

_EXPLANATION = 60.0
"""Seconds spent on naming the fewest budgets that conflict, once a spec is known to be infeasible."""


class InfeasibleError(MadIpError):
    """No design of the space meets the budgets; the text names the conflict and what is reachable."""

    exit_code = 4


class NoDesignError(MadIpError):
    """The time limit or Ctrl-C came before any design was found."""

    exit_code = 3


@dataclass(frozen=True)
class Model:
    """What was left for the solver: options before dominance and surviving, rows and columns, and the bound without it.

    ``bound`` holds for all designs that are not among the options that survive.
    """

    options: int
    surviving: int
    rows: int
    columns: int
    bound: float


@dataclass(frozen=True)
class Report:
    """How far a solve is: ``phase`` in words, the best score, the upper bound on it, seconds since the start.

    ``model`` is what the solver is given, once it is known.
    """

    phase: str
    score: float
    bound: float
    seconds: float
    model: Model | None = None

    @property
    def gap(self) -> float:
        """Relative to the magnitude of the score."""
        return relative_gap(self.score, self.bound)


@dataclass(frozen=True)
class Program:
    """The MILP of a spec as a solver is given it, its variables at the values of the design ``start``.

    Its catalogue was taken from so many ``options``; no design with one of the others scores above ``bound``, which is
    minus infinity where no design with one of them is within the budgets.
    """

    formulation: Formulation
    start: Design
    options: int
    bound: float


def solve(
    spec: Spec,
    *,
    profile: Profile | None = None,
    time_limit: float = math.inf,
    gap: float = 1e-6,
    threads: int = 1,
    seed: int = 0,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Design:
    """The best design of a spec with its certificate.

    Without a ``profile`` HiGHS solves what survives branch and bound. ``gap`` is relative to the score, ``time_limit``
    in seconds; ``interrupted`` is asked now and then, by any thread, whether to stop. The certificate's status is
    ``optimal`` when the bound is within ``gap`` of the recomputed score, ``feasible`` otherwise.

    Raises :class:`InfeasibleError` when no design meets the budgets, :class:`NoDesignError` when it had to stop before
    one was found, :class:`mad_ip.errors.InputError` on a bad profile, :class:`InternalError` when a solver's claim
    does not hold.
    """
    return _Solve(spec, profile or Profile(), time_limit, gap, threads, seed, watch, interrupted).run()[0]


def rank(
    spec: Spec,
    top: int,
    *,
    profile: Profile | None = None,
    time_limit: float = math.inf,
    gap: float = 1e-6,
    threads: int = 1,
    seed: int = 0,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Design, ...]:
    """The ``top`` best designs of a spec, the best first, each with a certificate of its rank; fewer if no more exist.

    A design's bound holds for all designs that do not rank before it. The decomposition finds them, with the options
    of ``profile``; everything else is as in :func:`solve`. Raise :class:`mad_ip.errors.InputError` when ``profile`` is
    of another backend.
    """
    profile = profile or Profile("decomposition")
    if profile.backend != "decomposition":
        raise InputError(f"--top: only the decomposition ranks designs, which the backend {profile.backend!r} is not")
    return _Solve(spec, profile, time_limit, gap, threads, seed, watch, interrupted, top).run()


def search(
    spec: Spec,
    backend: Search,
    *,
    bound: float = math.inf,
    time_limit: float = math.inf,
    gap: float = 1e-6,
    threads: int = 1,
    seed: int = 0,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Design:
    """The best design that a ``backend`` finds by itself, with a ``bound`` that is known; all else as in :func:`solve`.

    No time is spent on saying why a spec is infeasible.
    """
    options: dict[str, Any] = {"search": backend, "explains": False, "bound": bound}
    run = _Solve(spec, Profile(backend.name), time_limit, gap, threads, seed, watch, interrupted, **options)
    return run.run()[0]


def program(
    spec: Spec,
    *,
    reduced: bool = False,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Program:
    """The MILP of all undominated options of a spec, or, ``reduced``, of those that branch and bound leaves.

    The same for the same spec and version. ``watch`` and ``interrupted`` are those of :func:`solve`.

    Raises :class:`InfeasibleError` when no design meets the budgets, :class:`NoDesignError` when interrupted,
    :class:`mad_ip.errors.InputError` when there are too many options to list.
    """
    return _Solve(spec, Profile(reduction=reduced), math.inf, _EXACT, 1, 0, watch, interrupted).program()


@dataclass
class _Solve:
    """One solve: what is known so far, and the steps that improve it."""

    spec: Spec
    profile: Profile
    time_limit: float
    gap: float
    threads: int
    seed: int
    watch: Callable[[Report], None] | None
    interrupted: Callable[[], bool]
    top: int = 1
    search: Search | None = None
    explains: bool = True
    ranked: tuple[Design, ...] = ()
    bound: float = math.inf
    model: Model | None = None
    phase: str = "branch and bound"

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        if not 1 <= self.threads <= THREADS:
            raise InputError(f"threads = {self.threads}: must be from 1 to {THREADS}")
        if not 0 <= self.gap <= 1:
            raise InputError(f"gap = {self.gap}: must be a number of at least 0 and at most 1")
        self.backend = self.search or load_backend(self.profile)
        if self.profile.log is not None:
            # Solvers append: a solve may take several of their runs.
            write_atomically(self.profile.log, b"")
        self.options = raw_options(self.spec)

    def run(self) -> tuple[Design, ...]:
        catalogues.check_range(self.spec)
        self._report()
        try:
            self._improve()
        except MemoryError:
            if not self.ranked:
                raise
            warnings.warn("out of memory: what was found and proven until then stands", MadIpWarning, stacklevel=3)
        except InternalError as error:
            if not self.profile.options or isinstance(self.backend, Search):
                raise
            # A solver may be told to take anything for a solution.
            raise InputError(f"{self.profile.source}: options: {error}; others are needed, or none") from None
        return tuple(map(self._certified, self.ranked))

    def _improve(self) -> None:
        """Find designs and prove bounds, until the gap is closed or the solve has to stop."""
        if isinstance(self.backend, Search):
            self._search(self.backend)
            return
        given = self._given()
        if given is not None:
            self._branch_and_cut(*given)

    def program(self) -> Program:
        """What a solver would be given."""
        catalogues.check_range(self.spec)
        self._report()
        given = self._given()
        if self.stopped():
            raise NoDesignError("stopped before the model was complete")
        if given is None:
            raise InputError(
                f"{self.spec.source}: more than {_LISTED:,} options survive branch and bound, too many for a solver; "
                "a coarser grid or a smaller budget is needed"
            )
        catalogue = given[0].linked()
        bound = max(given[1], self._score) if self.profile.reduction else -math.inf
        formulation = Formulation(catalogue, self._window(catalogue), self.unit)
        formulation.assign(catalogue.chosen(self.ranked[0].path))
        return Program(formulation, self.ranked[0], self.options, bound)

    def _given(self) -> tuple[Catalogue, float] | None:
        """What a solver is given and a bound on all else; ``None`` if that is too much, or the solve has to stop."""
        return self._survivors() if self.profile.reduction else self._everything()

    def _search(self, backend: Search) -> None:
        """Let a backend find designs by itself; ``self.bound`` holds for all but the ranked ones."""
        self.phase = backend.name
        if self.search is None:
            self.bound = decomposition.crude_bound(self.spec) - self.spec.objective.depth_penalty
        gap = self._tree_gap
        seconds = self.time_limit - self._elapsed()
        findings = backend.solve(self.spec, Limits(gap, seconds, self.threads, self.seed, self.top), self._follow)
        if findings.status == "infeasible":
            raise InfeasibleError(explain(self.spec, self.stopped) if self.explains else "infeasible")
        self._follow(findings)
        self._require_design()
        # With fewer designs than asked for, there is none but those.
        if len(self.ranked) == self.top:
            last = self.ranked[-1].metrics.score
            self._contradict(findings.bound, last)
            self.bound = max(self.bound, last)

    def _survivors(self) -> tuple[Catalogue, float] | None:
        """Branch until little survives, on which a solver has the last word."""
        found = self._branch(self._tree_gap, _BOXES)
        if not self.ranked:
            left = found.survivors
            self._begin(found, None if left is None else catalogues.listed(self.spec, left.options))
            found = self._branch(self._tree_gap, _BOXES)
        left = found.survivors
        if left is None or len(left) > _LISTED or self.stopped():
            return None
        return catalogues.listed(self.spec, left.options), found.dropped

    def _everything(self) -> tuple[Catalogue, float] | None:
        """All undominated options, once there is the start that a solver would have otherwise."""
        self.phase = "catalogue"
        self._report()
        everything = catalogues.build(self.spec)
        self.options = len(everything)
        catalogue = paths.within_budgets(everything)
        if catalogue.is_empty:
            raise InfeasibleError(explain(self.spec, self.stopped))
        found = self._branch(0.0, 0)
        if not self.ranked:
            self._begin(dataclasses.replace(found, dropped=-math.inf), catalogue)
            self._branch(0.0, 0)
        return None if self.stopped() else (catalogue, -math.inf)

    def _begin(self, found: Found, left: Catalogue | None) -> None:
        """Let the solver look for a design, any will do, where branch and bound has not found one.

        Raises :class:`InfeasibleError` where either has proven that there is none, :class:`NoDesignError` where neither
        has.
        """
        proven = found.bound == -math.inf
        if not proven and left is not None and not self.stopped():
            spec = dataclasses.replace(self.spec, objective=Objective(0.0), sha256="")
            proven = self._branch_and_cut(left.valued(spec), math.inf)
        if proven and not self.ranked:
            raise InfeasibleError(explain(self.spec, self.stopped))
        self._require_design()

    def _branch(self, gap: float, most: float) -> Found:
        """Branch and bound without a solver, from the best design known."""
        self.phase = "branch and bound"
        with thread_pool(self.threads) as workers:
            found = decomposition.optimise(
                self.spec,
                workers,
                gap=gap,
                seconds=self.time_limit - self._elapsed(),
                seed=self.seed,
                threads=self.threads,
                most=most,
                starts=[design.path for design in self.ranked],
                watch=self._follow,
                stop=self.stopped,
            )
        self._follow(found)
        return found

    def _branch_and_cut(self, catalogue: Catalogue, dropped: float) -> bool:
        """Solve the MILP of a catalogue; ``dropped`` bounds what is not in it. Whether it is solved to its end.

        What it returns is decoded and checked, and excluded when it misses a budget. Bounds of a catalogue that is
        valued by another objective than the spec's say nothing about its scores.
        """
        other = catalogue.spec.objective != self.spec.objective

        def bound_of(claimed: float) -> float:
            return math.inf if other else claimed * self.unit

        self.phase = self.backend.name
        catalogue = catalogue.linked()
        if catalogue.is_empty:
            return True
        formulation = Formulation(catalogue, self._window(catalogue), self.unit)
        while True:
            if self.ranked:
                formulation.assign(catalogue.chosen(self.ranked[0].path))
            problem, columns = compile_model(formulation.model, start=bool(self.ranked))
            problem = dataclasses.replace(problem.scaled(1 / self.unit), choices=choices(formulation.model, columns))
            self.model = Model(self.options, len(catalogue), *problem.shape, max(dropped, self._score))
            self._report()

            def decoded(values: Floats, columns: list[Any] = columns) -> Design:
                return Design.chosen(self.spec, catalogue.path(formulation.path(columns, values.tolist())))

            def follow(progress: Progress) -> bool:
                self._lower(max(bound_of(progress.bound), dropped))
                if progress.values is not None:
                    design = decoded(progress.values)
                    # A solver's tolerance may let a design pass that misses a budget; the end of the solve excludes it.
                    if not violations(self.spec, design):
                        self._accept(design)
                return self.stopped()

            limits = Limits(self.gap * _SOLVER_GAP, self.time_limit - self._elapsed(), self.threads, self.seed)
            outcome = solve_apart(self.profile, problem, limits, follow)
            # The bound of an infeasible problem is -inf; every incumbent is a path of the formulation.
            proven = bound_of(outcome.bound)
            self._contradict(proven, self._score)
            self._lower(max(proven, dropped))
            if outcome.values is None:
                # Nothing was found: the incumbent stands.
                return outcome.status == "infeasible"
            design = decoded(outcome.values)
            if not violations(self.spec, design):
                tolerance = self._tolerance(design.metrics.score) + outcome.rounding * self.unit
                objective = problem.objective(outcome.values) * self.unit
                _compare(objective, design.measure(catalogue.spec.objective).score, tolerance)
                self._accept(design)
                self._contradict(proven, self._score)
                return outcome.status == "optimal"
            if outcome.status == "stopped":
                return False
            formulation.exclude(formulation.path(columns, outcome.values.tolist()))

    def _window(self, catalogue: Catalogue) -> Window | None:
        """The spreads of depths that a design at least as good as the incumbent can have.

        ``H - beta Q >= score`` and a bound on ``H``, with what choices are worth by themselves in it, bound Q.
        """
        spec = catalogue.spec
        beta = spec.objective.depth_penalty
        if beta == 0:
            return None
        penalised = [options for options in catalogue.segments if options.segment.penalised]
        spreads = attainable_spreads([tuple(np.unique(options.depth).tolist()) for options in penalised])
        window = Window(spreads, len(penalised), spec.convention)
        score = self._score
        most = (_worth_bound(catalogue) - score) / beta * (1 + _ROUNDING) + _ROUNDING
        kept = tuple(s for s, q in zip(spreads, window.uniformities, strict=True) if q <= most)
        return Window(kept, len(penalised), spec.convention)

    @cached_property
    def unit(self) -> float:
        """What a solver, whose tolerances are absolute, takes for 1: less where utilities make scores of few units."""
        largest = self._largest
        return 2.0 ** math.floor(math.log2(largest / _SCORES)) if 0 < largest < _SCORES else 1.0

    @cached_property
    def _largest(self) -> float:
        """About what the parts of a score add up to without their signs; 0 where that is the score."""
        if self.spec.objective.is_plain:
            return 0.0
        return decomposition.magnitude(self.spec)

    def _tolerance(self, score: float) -> float:
        """Difference between a score and what a solver says of it that its own tolerances explain."""
        return _SCORE_TOLERANCE * max(self.unit, abs(score), self._largest)

    def stopped(self) -> bool:
        """Whether the time limit is passed or the user wants to stop."""
        return self.interrupted() or self._elapsed() > self.time_limit

    def _elapsed(self) -> float:
        return time.perf_counter() - self.began

    @property
    def _tree_gap(self) -> float:
        return self.gap * _SOLVER_GAP if self.gap <= _EXACT else self.gap

    @property
    def _score(self) -> float:
        return self.ranked[0].metrics.score if self.ranked else -math.inf

    def _report(self) -> None:
        if self.watch is not None:
            bound = max(self.bound, self._score)
            self.watch(Report(self.phase, self._score, bound, self._elapsed(), self.model))

    def _lower(self, bound: float) -> None:
        self.bound = min(self.bound, max(bound, self._score))
        self._report()

    def _follow(self, found: Found | Findings) -> bool:
        """Take what a search knows by now; whether it is to stop."""
        known = {design.path: design for design in self.ranked}
        designs = tuple(known.get(path) or Design.chosen(self.spec, path) for path in found.paths)
        for design in designs:
            if design.path not in known:
                self._check(design)
        self.ranked = designs or self.ranked
        self.bound = min(self.bound, found.bound)
        self._report()
        return self.stopped()

    def _check(self, design: Design) -> None:
        """Raise :class:`InternalError` unless a decoded design is feasible in exact integers."""
        broken = violations(self.spec, design)
        if broken:
            raise InternalError(f"a decoded design is not feasible: {'; '.join(broken)}")

    def _accept(self, design: Design) -> None:
        """Take a design of the solver as the incumbent if it is better, which it is not by more than what is proven."""
        self._check(design)
        self._contradict(self.bound, design.metrics.score)
        if design.metrics.score > self._score:
            self.ranked = (design,)
        self._report()

    def _require_design(self) -> None:
        if not self.ranked:
            raise NoDesignError("stopped before any design that meets the budgets was found")

    def _certified(self, design: Design) -> Design:
        """A design with its certificate."""
        score = design.metrics.score
        bound = float(max(self.bound, score))
        gap = relative_gap(score, bound)
        proven = gap <= self.gap or bound - score <= negligible(self.spec, design.metrics)
        certificate = Certificate(
            backend=self.backend.name,
            version=self.backend.version,
            status="optimal" if proven and self.backend.proves else "feasible",
            bound=bound,
            gap=gap,
            seconds=round(self._elapsed(), 3),
            options=self.options,
            architectures=catalogues.architectures(self.spec),
        )
        return dataclasses.replace(design, certificate=certificate)

    def _contradict(self, bound: float, score: float) -> None:
        """Raise :class:`InternalError` when a claimed bound is below the score of a design at hand."""
        if bound < score - self._tolerance(score):
            raise InternalError(f"the bound {bound!r} is below the score {score!r} of a design")


def _compare(objective: float, score: float, tolerance: float) -> None:
    if abs(objective - score) > tolerance:
        raise InternalError(
            f"the solver's objective {objective!r} is not the score {score!r} recomputed from the decoded network"
        )


def choices(model: Any, columns: Sequence[Any]) -> tuple[NDArray[np.int64], ...]:
    """The columns of which a path takes exactly one: options, pairs and depths of every segment, the spread."""
    chosen: dict[tuple[str, int], list[int]] = {}
    for column, variable in enumerate(columns):
        container = variable.parent_component()
        if container.local_name in ("x", "y", "z", "v"):
            segment = 0 if container is model.component("v") else variable.index()[0]
            chosen.setdefault((container.local_name, segment), []).append(column)
    return tuple(np.array(group) for group in chosen.values())


def _worth_bound(catalogue: Catalogue) -> float:
    """An upper bound on the entropy in the score and the utility: at every segment's end the largest gain times the
    largest log-width, and what the options are worth by themselves.
    """
    _, high = paths.carried_bounds(catalogue)
    total = 0.0
    for s, options in enumerate(catalogue.segments):
        after = high[s][options.pair] + options.log_width
        total += float(np.max(options.gain[options.pair_node][options.pair] * after + options.utility))
    return total + _ROUNDING * catalogue.spec.magnitude


def explain(spec: Spec, stopped: Callable[[], bool] = lambda: False) -> str:
    """Which budgets conflict, and the smallest reachable value of each on its own, in one sentence.

    The conflict is made as small as :data:`_EXPLANATION` seconds allow.
    """
    end = time.perf_counter() + _EXPLANATION

    def tired() -> bool:
        return stopped() or time.perf_counter() > end

    limits = spec.budget.given
    reachable = {key: least(spec, key) for key in limits}
    conflict = [key for key, limit in limits.items() if reachable[key] > limit]
    if not conflict:
        conflict = list(limits)
        for key in limits:
            fewer = [other for other in conflict if other != key]
            # One budget alone is reachable, as its smallest value shows.
            if len(fewer) > 1 and not tired():
                budget = Budget(**{other: limits[other] for other in fewer})
                relaxed = dataclasses.replace(spec, budget=budget, sha256="")
                if decomposition.unreachable(relaxed, end - time.perf_counter(), tired):
                    conflict = fewer
    values = ", ".join(f"{key} {amount(key, reachable[key])} (budget {amount(key, limits[key])})" for key in limits)
    which = " and ".join(f"budget.{key}" for key in conflict)
    verb = "cannot be met" if len(conflict) == 1 else "cannot be met together"
    return f"{spec.source}: infeasible: {which} {verb}; the smallest reachable value of each alone is {values}"


def amount(key: str, value: float) -> str:
    """A value of a budget as it stands in a message, with its unit where it has one of its own."""
    unit = ""
    if key in COSTS and COSTS[key].units:
        # What is reached is a whole number, a budget may be any.
        value = COSTS[key].reported(int(value) if float(value).is_integer() else value)
        unit = f" {COSTS[key].unit}"
    return (f"{value:,.0f}" if float(value).is_integer() and value < 2**53 else f"{value:.12g}") + unit


_called(__name__)
