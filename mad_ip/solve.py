"""From a spec to a certified design: catalogue, first incumbent, reduction, MILP, decoding, exact checks.

Nothing a solver says is taken on trust: the design is decoded and re-measured from its layers, budgets are checked in
exact integers, and ``optimal`` is said only when bound and recomputed score are within the asked gap.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip import catalogue as catalogues
from mad_ip import depths, entropy, paths, search
from mad_ip.backends import Limits, Profile, Progress, compile_model, load_backend, solve_apart
from mad_ip.catalogue import Catalogue, Floats, raw_options
from mad_ip.depths import Window
from mad_ip.design import Certificate, Design, relative_gap, violations
from mad_ip.errors import InputError, InternalError, MadIpError
from mad_ip.reduction import reduce
from mad_ip.spec import Budget, Spec

__all__ = ["InfeasibleError", "NoDesignError", "Report", "choices", "decode", "rank", "solve"]

_SCORE_TOLERANCE = 1e-6
"""Largest relative difference between a solver's objective and the recomputed score."""

_PRECISION = 1e-8
"""A solver's tolerance of 1e-6 lets it prove no smaller gap than this (1e-6 in score); it counts as zero."""

_CUTOFF = 1e-9
"""How far below the incumbent, relatively, options are still kept."""

_SOLVER_GAP = 1e-3
"""The solver's gap as a share of the asked one: designs closer than that would be picked arbitrarily."""

_REDUCE_ABOVE = 100
"""Options up to which the MILP alone is as fast as with a reduction before it."""

_CATALOGUE_LIMIT = 5_000_000
"""Options before dominance up to which a catalogue is made: some 400 MB."""

_EXACT = 1e-6
"""A gap up to which the decomposition, like a solver, is asked for a smaller one."""

_FEASIBILITY_BOXES = 40
"""Boxes of depths looked at before the MILP decides whether a spec is feasible."""

_EXPLANATION = 60.0
"""Seconds spent on naming the fewest budgets that conflict, once a spec is known to be infeasible."""

Path = tuple[int, ...]


class InfeasibleError(MadIpError):
    """No design of the space meets the budgets; the text names the conflict and what is reachable."""

    exit_code = 4


class NoDesignError(MadIpError):
    """The time limit or Ctrl-C came before any design was found."""

    exit_code = 3


@dataclass(frozen=True)
class Report:
    """How far a solve is: ``phase`` in words, the best score, the upper bound on it, seconds since the start."""

    phase: str
    score: float
    bound: float
    seconds: float

    @property
    def gap(self) -> float:
        """Relative to the magnitude of the score."""
        return relative_gap(self.score, self.bound)


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

    Without a ``profile`` HiGHS solves, or the decomposition where the options are too many to list.
    ``gap`` is relative to the score, ``time_limit`` in seconds; ``interrupted`` is asked now and then whether to stop.
    The certificate's status is ``optimal`` when the bound is within ``gap`` of the recomputed score, ``feasible``
    otherwise.

    Raises :class:`InfeasibleError` when no design meets the budgets, :class:`NoDesignError` when it had to stop before
    one was found, :class:`mad_ip.errors.InputError` on a bad profile, :class:`InternalError` when a solver's claim
    does not hold.
    """
    if profile is None:
        profile = Profile("decomposition" if raw_options(spec) > _CATALOGUE_LIMIT else "highs")
    return _Solve(spec, profile, time_limit, gap, threads, seed, watch, interrupted).run()


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
    if load_backend(profile).takes != "spec":
        raise InputError(f"--top: only the decomposition ranks designs, which the backend {profile.backend!r} is not")
    found = _Solve(spec, profile, time_limit, gap, threads, seed, watch, interrupted, top)
    found.run()
    return found.ranking()


def decode(catalogue: Catalogue, path: Sequence[int]) -> Design:
    """The design that takes option ``path[s]`` of every segment s, measured from its layers."""
    chosen = []
    for segment, option in zip(catalogue.segments, path, strict=True):
        c, mid, kernel, depth = (int(getattr(segment, key)[option]) for key in ("c", "mid", "kernel", "depth"))
        chosen.append((c, mid, kernel, depth))
    return Design.chosen(catalogue.spec, chosen)


class _Solve:
    """One solve: what is known so far, and the steps that improve it."""

    def __init__(
        self,
        spec: Spec,
        profile: Profile,
        time_limit: float,
        gap: float,
        threads: int,
        seed: int,
        watch: Callable[[Report], None] | None,
        interrupted: Callable[[], bool],
        top: int = 1,
    ) -> None:
        self.spec, self.profile, self.gap, self.threads, self.seed = spec, profile, gap, threads, seed
        self.began = time.perf_counter()
        self.time_limit = time_limit
        self.watch, self.interrupted, self.top = watch, interrupted, top
        self.backend = load_backend(profile)
        self.design: Design | None = None
        self.others: list[Design] = []
        self.bound = math.inf
        self.options = 0
        self.phase = "catalogue"

    def run(self) -> Design:
        self._report()
        if self.backend.takes == "spec":
            return self._decompose()
        everything = catalogues.build(self.spec)
        self.options = len(everything)
        catalogue = paths.within_budgets(everything)
        if catalogue.is_empty:
            raise InfeasibleError(explain(self.spec, self.profile, self.stopped))
        if self.backend.takes == "catalogue":
            self._search(everything, catalogue)
            return self._certified()
        self.phase = "first incumbent"
        self._report()
        path = search.first_incumbent(catalogue, self.seed, self.stopped)
        if path is None:
            found = self._least_spread(catalogue)
            if found is None and self.stopped():
                raise NoDesignError("stopped before any design that meets the budgets was found")
            if found is None:
                raise InfeasibleError(explain(self.spec, self.profile, self.stopped))
            path = found[0]
        self._accept(decode(catalogue, path))
        self._improve(catalogue, path)
        return self._certified()

    def _decompose(self) -> Design:
        """Let the decomposition solve the spec by itself; no catalogue is made.

        ``self.bound`` holds for all designs but the ranked ones.
        """
        spec = self.spec
        self.phase = self.backend.name
        self._report()
        self.options = raw_options(spec)
        segments = 1 + len(spec.stages) + (spec.tail is not None)

        def take(values: Floats) -> None:
            paths = values.astype(int).reshape(-1, segments, 4).tolist()
            best, *others = [Design.chosen(spec, [(c, m, k, depth) for c, m, k, depth in path]) for path in paths]
            self._accept(best)
            for design in others:
                self._check(design)
            self.others = others

        def follow(progress: Progress) -> bool:
            self.bound = min(self.bound, progress.bound)
            if progress.values is not None:
                take(progress.values)
            self._report()
            return self.stopped()

        gap = self.gap * _SOLVER_GAP if self.gap <= _EXACT else self.gap
        limits = Limits(gap, self.time_limit - self._elapsed(), self.threads, self.seed, self.top)
        outcome = solve_apart(self.profile, spec, limits, follow)
        if outcome.status == "infeasible":
            raise InfeasibleError(explain(spec, Profile(), self.stopped))
        if outcome.values is not None:
            take(outcome.values)
        if self.design is None:
            raise NoDesignError("stopped before any design that meets the budgets was found")
        last = [self.design, *self.others][-1].metrics.score
        # With fewer designs than asked for, there is none but those.
        full = len(self.others) + 1 == self.top
        if full:
            self._contradict(outcome.bound, last)
        self.bound = min(self.bound, max(outcome.bound, last) if full else outcome.bound)
        return self._certified()

    def ranking(self) -> tuple[Design, ...]:
        """The designs found, the best first, after :meth:`run`."""
        assert self.design is not None
        return tuple(self._certified(design) for design in (self.design, *self.others))

    def _search(self, everything: Catalogue, catalogue: Catalogue) -> None:
        """Let a backend that knows the catalogue find designs by itself, with no help but a bound."""
        self.phase = self.backend.name
        self.bound = _entropy_bound(catalogue) - self.spec.objective.depth_penalty
        self._report()

        def follow(progress: Progress) -> bool:
            if progress.values is not None:
                self._accept(decode(catalogue, progress.values.astype(int).tolist()))
            return self.stopped()

        limits = Limits(self.gap * _SOLVER_GAP, self.time_limit - self._elapsed(), self.threads, self.seed)
        outcome = solve_apart(self.profile, catalogue, limits, follow)
        if outcome.status == "infeasible":
            raise InfeasibleError(explain(self.spec, self.profile, self.stopped))
        if outcome.values is not None:
            self._accept(decode(catalogue, outcome.values.astype(int).tolist()))
        if self.design is None:
            raise NoDesignError("stopped before any design that meets the budgets was found")
        self._contradict(outcome.bound)
        self.bound = min(self.bound, max(outcome.bound, self._score))

    def stopped(self) -> bool:
        """Whether the time limit is passed or the user wants to stop."""
        return self.interrupted() or self._elapsed() > self.time_limit

    def _elapsed(self) -> float:
        return time.perf_counter() - self.began

    @property
    def _score(self) -> float:
        return -math.inf if self.design is None else self.design.metrics.score

    def _report(self) -> None:
        if self.watch is not None:
            self.watch(Report(self.phase, self._score, max(self.bound, self._score), self._elapsed()))

    def _check(self, design: Design) -> None:
        """Raise :class:`InternalError` unless a decoded design is feasible in exact integers."""
        broken = violations(self.spec, design)
        if broken:
            raise InternalError(f"a decoded design is not feasible: {'; '.join(broken)}")

    def _accept(self, design: Design) -> None:
        """Take a design as the incumbent if it is better."""
        self._check(design)
        if design.metrics.score > self._score:
            self.design = design
        self._report()

    def _certified(self, design: Design | None = None) -> Design:
        """A design, by default the best, with its certificate."""
        design = design or self.design
        assert design is not None
        score = design.metrics.score
        # The reduction computes with NumPy numbers.
        bound = float(max(self.bound, score))
        gap = relative_gap(score, bound)
        proven = gap <= self.gap or bound - score <= _PRECISION * max(100.0, abs(score))
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

    def _improve(self, catalogue: Catalogue, path: Path) -> None:
        """Reduce the catalogue to what may beat the incumbent and solve the rest exactly."""
        assert self.design is not None
        self.phase = "reduction"
        whole = _entropy_bound(catalogue)
        least = 0
        if self.design.metrics.depth_penalty > whole:
            # Coefficients of exp(V) would dwarf the entropy: start the window at the least spread there is.
            path, least = self._least_spread(catalogue) or (path, 0)
            self._accept(decode(catalogue, path))
        self.bound = whole - self.spec.objective.depth_penalty
        self._report()
        window = self._window(whole, least)
        cutoff = self._score - _CUTOFF * abs(self._score)

        def follow(bound: float) -> bool:
            self.bound = min(self.bound, max(bound, self._score))
            self._report()
            return self.stopped()

        if self.profile.reduction and len(catalogue) > _REDUCE_ABOVE:
            reduction = reduce(catalogue, window, cutoff, watch=follow)
            self.bound = min(self.bound, max(reduction.bound, self._score))
            # The incumbent's own options pass the cutoff up to rounding; they are the start, whatever their bound says.
            for mask, option in zip(reduction.masks, path, strict=True):
                mask[option] = True
            masks = catalogue.linked(reduction.masks)
            catalogue = catalogue.keep(masks)
            path = tuple(int(np.count_nonzero(mask[:option])) for mask, option in zip(masks, path, strict=True))
        if not self.stopped():
            self._branch_and_cut(catalogue, window, path)

    def _window(self, entropy_bound: float, least: int) -> Window | None:
        """The spreads of depths that a design at least as good as the incumbent can have.

        ``H - beta Q >= score`` and ``H <= entropy_bound`` bound Q; no design has a spread below ``least``.
        """
        spec = self.spec
        beta = spec.objective.depth_penalty
        if beta == 0:
            return None
        domains = [stage.depth for stage in spec.stages][spec.penalised]
        most = (entropy_bound - self._score) / beta * (1 + _CUTOFF)
        spreads = depths.attainable_spreads(domains)
        window = Window(spreads, len(domains), spec.convention)
        kept = [s for s, q in zip(spreads, window.uniformities, strict=True) if s >= least and q <= most]
        return Window(tuple(kept), len(domains), spec.convention)

    def _branch_and_cut(self, catalogue: Catalogue, window: Window | None, start: Path) -> None:
        """Solve the MILP; what it returns is decoded and checked, and excluded when it misses a budget."""
        from mad_ip.formulation import Formulation

        self.phase = self.backend.name
        formulation = Formulation(catalogue, window)
        floor = self._score
        while True:
            formulation.assign(start)
            problem, columns = compile_model(formulation.model, start=True)
            problem = dataclasses.replace(problem, choices=choices(formulation.model, columns))

            def follow(progress: Progress, columns: list[Any] = columns) -> bool:
                self.bound = min(self.bound, max(progress.bound, floor))
                self._report()
                if progress.values is not None:
                    design = decode(catalogue, formulation.path(columns, progress.values.tolist()))
                    # A solver's tolerance may let a design pass that misses a budget; the end of the solve excludes it.
                    if not violations(self.spec, design):
                        self._accept(design)
                return self.stopped()

            limits = Limits(self.gap * _SOLVER_GAP, self.time_limit - self._elapsed(), self.threads, self.seed)
            outcome = solve_apart(self.profile, problem, limits, follow)
            # The bound of an infeasible problem is -inf; every incumbent is a path of the formulation.
            self._contradict(outcome.bound)
            self.bound = min(self.bound, max(outcome.bound, floor))
            if outcome.values is None:
                # Nothing was found: the incumbent stands.
                return
            path = formulation.path(columns, outcome.values.tolist())
            design = decode(catalogue, path)
            if not violations(self.spec, design):
                _compare(problem.objective(outcome.values), design)
                self._accept(design)
                self._contradict(outcome.bound)
                return
            if outcome.status == "stopped":
                return
            formulation.exclude(path)

    def _contradict(self, bound: float, score: float | None = None) -> None:
        """Raise :class:`InternalError` when a claimed bound is below the score of a design at hand, the best's."""
        score = self._score if score is None else score
        if bound < score - _SCORE_TOLERANCE * max(1.0, abs(score)):
            raise InternalError(f"the solver's bound {bound!r} is below the score {score!r} of a design")

    def _least_spread(self, catalogue: Catalogue) -> tuple[Path, int] | None:
        """A feasible path with the least spread of depths and that spread (0 if unproven); ``None`` without one."""
        self.phase = "feasibility"
        self._report()
        try:
            return least_spread(catalogue, self.profile, self.stopped)
        except NoDesignError:
            if self.design is None:
                raise
            return None


def _compare(objective: float, design: Design) -> None:
    score = design.metrics.score
    if abs(objective - score) > _SCORE_TOLERANCE * max(1.0, abs(score)):
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


def _entropy_bound(catalogue: Catalogue) -> float:
    """An upper bound on the entropy: at every segment's end the largest gain times the largest log-width."""
    _, high = paths.carried_bounds(catalogue)
    total = 0.0
    for s, segment in enumerate(catalogue.segments):
        after = high[s][segment.pair] + segment.log_width
        total += float(np.max(segment.gain[segment.pair_node][segment.pair] * after))
    return total


def least_spread(
    catalogue: Catalogue, profile: Profile, stopped: Callable[[], bool] = lambda: False
) -> tuple[Path, int] | None:
    """A path that meets all budgets with the least ``n^2 Var`` of depths, and that spread; ``None`` without one.

    The spread is 0 when it is not proven to be the least.
    """
    from mad_ip.formulation import Formulation

    if catalogue.is_empty:
        return None
    if load_backend(profile).takes != "matrix":
        profile = Profile()
    spec = catalogue.spec
    masks = [np.ones(len(segment), bool) for segment in catalogue.segments]
    if len(catalogue) > _REDUCE_ABOVE:
        # Entropies are not negative: what cannot pass -1 cannot be feasible.
        reduction = reduce(catalogue, None, -1.0, boxes=_FEASIBILITY_BOXES, watch=lambda _: stopped())
        masks = catalogue.linked(reduction.masks)
    reduced = catalogue.keep(masks)
    if reduced.is_empty or stopped():
        return None
    domains = [stage.depth for stage in spec.stages][spec.penalised]
    window = Window(depths.attainable_spreads(domains), len(domains), "tinynas")
    formulation = Formulation(reduced, window, least_spread=True)
    while True:
        problem, columns = compile_model(formulation.model, start=False)
        outcome = solve_apart(profile, problem, Limits(0.0), lambda _: stopped())
        if outcome.values is None:
            if outcome.status != "infeasible" and not stopped():
                raise NoDesignError("the solver stopped before it found a design or proved that there is none")
            return None
        path = formulation.path(columns, outcome.values.tolist())
        if not violations(spec, decode(reduced, path)):
            kept = [np.flatnonzero(mask) for mask in masks]
            spread = entropy.spread(
                [int(s.depth[o]) for s, o in zip(reduced.stages, path[1:], strict=False)][spec.penalised]
            )
            original = tuple(int(index[option]) for index, option in zip(kept, path, strict=True))
            return original, spread if outcome.status == "optimal" else 0
        formulation.exclude(path)


def explain(spec: Spec, profile: Profile, stopped: Callable[[], bool] = lambda: False) -> str:
    """Which budgets conflict, and the smallest reachable value of each on its own, in one sentence.

    The conflict is made as small as :data:`_EXPLANATION` seconds allow.
    """
    end = time.perf_counter() + _EXPLANATION
    if raw_options(spec) <= _CATALOGUE_LIMIT:
        everything = catalogues.build(spec)

        def smallest(budget: str) -> float:
            if budget == "effectiveness":
                return paths.smallest_effectiveness(everything)
            return paths.least(everything, budget)

        def unreachable(relaxed: Spec) -> bool:
            return _unreachable(dataclasses.replace(everything, spec=relaxed), profile, tired)
    else:
        from mad_ip import decomposition
        from mad_ip.decomposition.least import least as least_of

        def smallest(budget: str) -> float:
            return least_of(spec, budget)

        def unreachable(relaxed: Spec) -> bool:
            return decomposition.unreachable(relaxed, end - time.perf_counter(), tired)

    def tired() -> bool:
        return stopped() or time.perf_counter() > end

    limits = {key: value for key, value in dataclasses.asdict(spec.budget).items() if value is not None}
    least = {key: smallest(key) for key in limits}
    conflict = [key for key, limit in limits.items() if least[key] > limit]
    if not conflict:
        conflict = list(limits)
        for key in limits:
            fewer = [other for other in conflict if other != key]
            # One budget alone is reachable, as its smallest value shows.
            if len(fewer) > 1 and not tired():
                budget = Budget(**{other: limits[other] for other in fewer})
                if unreachable(dataclasses.replace(spec, budget=budget)):
                    conflict = fewer
    reachable = ", ".join(f"{key} {_number(least[key])} (budget {_number(limits[key])})" for key in limits)
    which = " and ".join(f"budget.{key}" for key in conflict)
    verb = "cannot be met" if len(conflict) == 1 else "cannot be met together"
    return f"{spec.source}: infeasible: {which} {verb}; the smallest reachable value of each alone is {reachable}"


def _unreachable(everything: Catalogue, profile: Profile, stopped: Callable[[], bool]) -> bool:
    """Whether it is proven that no design of a catalogue meets the budgets of its spec."""
    catalogue = paths.within_budgets(everything)
    if catalogue.is_empty:
        return True
    if search.first_incumbent(catalogue, 0, stopped) is not None:
        return False
    try:
        return least_spread(catalogue, profile, stopped) is None and not stopped()
    except NoDesignError:
        return False


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.12g}"
