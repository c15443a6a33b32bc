"""Branch and bound on the Lagrangian program: no MILP, no catalogue (mad_ip.decomposition)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mad_ip.backends.base import Findings, Limits, Search, proven
from mad_ip.decomposition import Earlier, Found, optimise
from mad_ip.lagrangian.cluster import cluster
from mad_ip.lagrangian.workers import Workers, threads
from mad_ip.spec import Path, Spec

__all__ = ["Decomposition"]


class Decomposition(Search):
    """``threads`` share the boxes; the option ``cluster`` is the address of a Dask scheduler whose workers do."""

    name = "decomposition"

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        super().__init__(options, source)
        reader = self.option("cluster")
        self.cluster: str | None = reader.values.get("cluster")
        if not isinstance(self.cluster, str | None):
            raise reader.fail("cluster", "the address of a Dask scheduler, such as 'tcp://127.0.0.1:8786'")
        self.earlier: Earlier | None = None
        """What is known by larger limits; after a solve, what the next one may take over."""
        self.starts: Sequence[Path] = ()

    def solve(self, spec: Spec, limits: Limits, watch: Callable[[Findings], bool]) -> Findings:
        """Solve; see :class:`mad_ip.backends.base.Search`. Gives the ``limits.top`` best paths."""
        began = time.perf_counter()
        with self._workers(limits, watch) as workers:
            found = optimise(
                spec,
                workers,
                gap=limits.gap,
                seconds=limits.seconds - (time.perf_counter() - began),
                seed=limits.seed,
                threads=limits.threads,
                top=limits.top,
                starts=self.starts,
                earlier=self.earlier,
                watch=lambda found: watch(_findings(found)),
            )
        if self.earlier is not None:
            best = found.paths[0] if found.paths else None
            self.earlier = Earlier(self.earlier.largest, spec, found.root, best)
        if not found.paths and found.bound == -math.inf:
            return Findings("infeasible", found.bound, (), found.nodes)
        closed = bool(found.paths) and proven(found.last, found.bound, limits.gap)
        return Findings("optimal" if closed else "stopped", found.bound, found.paths, found.nodes)

    def _workers(self, limits: Limits, watch: Callable[[Findings], bool]) -> AbstractContextManager[Workers]:
        if self.cluster is None:
            return threads(limits.threads)
        nothing_new = Findings("stopped", math.inf, (), 0)
        return cluster(self.cluster, limits.threads, limits.seconds, lambda: watch(nothing_new))


def _findings(found: Found) -> Findings:
    return Findings("stopped", found.bound, found.paths, found.nodes)
