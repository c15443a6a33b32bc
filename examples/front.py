"""The exact front of a spec from Python; its arguments are a spec.toml and the folder for the front."""

from __future__ import annotations

import sys
from pathlib import Path

import mad_ip
from mad_ip.reports.front import save
from mad_ip.reports.sweep import front_table
from mad_ip.reports.terminal import show


def main(spec: str = "models/toy/spec.toml", out: str = "front") -> None:
    """Sweep a spec's own budget of MACs from a half of it to all of it, and explain the optimum at the end."""
    problem = mad_ip.Spec.load(spec)
    most = problem.budget.given["macs"]
    front = mad_ip.sweep(problem, {"macs": [share * most for share in (0.5, 0.75, 1.0)]}, out=out)
    show(front_table(front))
    save(front, Path(out) / "index.html")
    best = front.points[-1]
    assert best.design is not None
    explanation = mad_ip.explain(best.spec, best.design, neighbours=False)
    print("binding:", ", ".join(each.budget for each in explanation.spendings if each.binds) or "nothing")
    for price in best.prices:
        print(f"one more unit of {price.budget} is worth {price.multiplier:.3g} of score by the multipliers")


if __name__ == "__main__":
    main(*sys.argv[1:])
