"""Branch and bound on the Lagrangian program, coarse to fine: no MILP, no catalogue (mad_ip.decomposition)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mad_ip import __version__
from mad_ip.backends.base import Limits, Outcome, Progress, Takes, Watch, proven, unknown_option
from mad_ip.decomposition import Found, Path, optimise
from mad_ip.decomposition.workers import cluster, processes, serial
from mad_ip.errors import InputError
from mad_ip.spec import Spec

__all__ = ["Decomposition"]


class Decomposition:
    """``threads`` processes share the boxes; the option ``cluster`` is the address of a Dask scheduler instead."""

    name = "decomposition"
    takes: Takes = "spec"
    proves = True

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        self.cluster: str | None = None
        for key, value in options.items():
            where = f"{source}: options.{key} = {value!r}"
            if key != "cluster":
                raise unknown_option(where, "decomposition", key, ["cluster"])
            if not isinstance(value, str):
                raise InputError(f"{where}: must be the address of a Dask scheduler, such as 'tcp://127.0.0.1:8786'")
            self.cluster = value
        self.version = __version__

    def solve(self, spec: Spec, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Backend`.

        ``values`` are the choices of every segment of the ``limits.top`` best paths, flattened, the best path first;
        ``bound`` holds for all designs but those.
        """
        shown: tuple[Path, ...] = ()

        def follow(found: Found) -> bool:
            nonlocal shown
            new, shown = found.paths != shown, found.paths
            return watch(Progress(found.bound, found.nodes, np.array(shown, float).ravel() if new else None))

        if self.cluster is not None:
            crew = cluster(self.cluster)
        else:
            crew = processes(limits.threads) if limits.threads > 1 else serial()
        with crew as workers:
            found = optimise(
                spec,
                workers,
                gap=limits.gap,
                seconds=limits.seconds,
                seed=limits.seed,
                top=limits.top,
                watch=follow,
            )
        if not found.paths:
            infeasible = found.bound == -math.inf
            return Outcome("infeasible" if infeasible else "stopped", found.bound, None, found.nodes)
        values = np.array(found.paths, float).ravel()
        closed = proven(found.last, found.bound, limits.gap)
        return Outcome("optimal" if closed else "stopped", found.bound, values, found.nodes)
