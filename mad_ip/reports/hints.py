"""What holds a proven optimum back, in sentences: choices at the ends of their domains, budgets left unused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mad_ip.design import Design
from mad_ip.front import BINDING
from mad_ip.mlp.design import MlpDesign
from mad_ip.mlp.spec import MlpSpec
from mad_ip.spec import Budget, Domain, Spec

__all__ = ["PROXY", "UNUSED", "hints", "mlp_hints"]

PROXY = "this certifies the score; entropy is only a proxy of accuracy: docs/evidence.md"
"""What a certificate is about."""

UNUSED = 0.05
"""A budget of which a larger share is left deserves a hint."""

_LEAST_KERNEL = 3
"""A smaller one has no neighbours to see."""


@dataclass(frozen=True)
class _End:
    """A choice at an end of its domain, what the next step ``beyond`` it would be, and the segment, if any."""

    axis: str
    value: int
    beyond: int
    segment: str = ""

    @property
    def largest(self) -> bool:
        return self.beyond > self.value


def hints(design: Design, spec: Spec) -> list[str]:
    """One sentence each; none of a design that is not the proven optimum of ``spec``."""
    if not _is_optimum(design, spec):
        return []
    return _sentences(list(_ends(design, spec)), spec.budget, design.spendings(spec.budget))


def mlp_hints(design: MlpDesign, spec: MlpSpec) -> list[str]:
    """As :func:`hints`, of a multilayer perceptron."""
    if not _is_optimum(design, spec):
        return []
    ends = [*_end("depth", design.metrics.layers, spec.space.depth)]
    for width in sorted(set(design.widths)):
        ends += _end("widths", width, spec.space.widths)
    return _sentences(ends, spec.budget, {key: getattr(design.metrics, key) for key in spec.budget.given})


def _is_optimum(design: Design | MlpDesign, spec: Spec | MlpSpec) -> bool:
    certificate = design.certificate
    return certificate is not None and certificate.status == "optimal" and design.spec_sha256 == spec.sha256


def _ends(design: Design, spec: Spec) -> Iterator[_End]:
    """The choices at an end whose next step the rules would allow, all other choices as they are."""
    before = 0
    for segment, choice in zip(spec.segments, design.path, strict=True):
        for axis, domain in segment.domains.items():
            for end in _end(axis, getattr(choice, axis), domain, segment.name):
                c, m, k, _ = choice._replace(**{axis: end.beyond})
                ruled = segment.ruled and not (spec.space.follows(before, c) and spec.space.carries(m, c))
                if not ruled and (axis != "kernel" or _LEAST_KERNEL <= k <= segment.out_size):
                    yield end
        before = choice.channels


def _end(axis: str, value: int, domain: Domain, segment: str = "") -> Iterator[_End]:
    """The value, where it is an end of a domain that leaves a choice and goes on in steps above 0."""
    if len(domain) < 2:
        return
    if value == domain[-1]:
        yield _End(axis, value, 2 * domain[-1] - domain[-2], segment)
    elif value == domain[0] and 2 * domain[0] > domain[1]:
        yield _End(axis, value, 2 * domain[0] - domain[1], segment)


def _sentences(ends: Sequence[_End], budget: Budget, spent: Mapping[str, float]) -> list[str]:
    largest = [end for end in ends if end.largest]
    smallest = [end for end in ends if not end.largest]
    found = [
        f"the {name} that the spec allows: {_named(some)} (a wider domain may give more)"
        for name, some in (("largest", largest), ("smallest", smallest))
        if some
    ]
    left = {key: (limit - spent[key]) / limit for key, limit in budget.given.items()}
    reasons = [f"{key} is at {1 - share:.1%} of its limit" for key, share in left.items() if share <= BINDING]
    axes = dict.fromkeys(end.axis for end in largest)
    if axes:
        reasons.append(f"domains end for {', '.join(axes)}")
    because = (
        ", ".join(reasons) or "no other budget binds and no domain ends, only steps, rules or depth penalty are left"
    )
    # Of peak memory and effectiveness nothing is to be used up.
    unused = (key for key in budget.sums if left[key] > UNUSED)
    return found + [f"{left[key]:.1%} of {key} is left unused: {because}" for key in unused]


def _named(ends: Sequence[_End]) -> str:
    """``channels 2048 of stage 3; kernel 5 of stages 1, 3``: every axis and value with its segments."""
    segments: dict[tuple[str, int], list[str]] = {}
    for end in ends:
        segments.setdefault((end.axis, end.value), []).append(end.segment)
    return "; ".join(f"{axis} {value}{_of(where)}" for (axis, value), where in segments.items())


def _of(segments: Sequence[str]) -> str:
    stages = [name.removeprefix("stage ") for name in segments if name.startswith("stage ")]
    others = [name for name in segments if name and not name.startswith("stage ")]
    counted = [f"stage{'s' * (len(stages) > 1)} {', '.join(stages)}"] if stages else []
    return f" of {' and '.join([*others, *counted])}" if others or counted else ""
