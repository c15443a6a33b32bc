"""MlpDesign: one decoded MLP, its metrics recomputed from its layers, and its design.json."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad_ip import cost, entropy
from mad_ip.blocks import Amount, Layer
from mad_ip.design import check_certificate, compare
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.files import read_json, write_atomically
from mad_ip.mlp.spec import DEEPEST, WIDEST, MlpSpec
from mad_ip.reader import Reader

__all__ = ["FORMAT", "Certificate", "Metrics", "MlpDesign", "linear", "violations"]

FORMAT = "mad-ip/mlp-design/1"


def linear(w_in: Amount, w_out: Amount) -> Layer:
    """A linear layer with bias, which is a 1x1 convolution on one pixel; its width is ``w_in``."""
    return Layer("main", w_in, w_out, kernel=1, in_size=1, bias=True, norm=False, counted=True)


@dataclass(frozen=True)
class Metrics:
    """What a network is worth and costs; the entropy is the score."""

    entropy: float
    effectiveness: float
    macs: int
    params: int
    layers: int


@dataclass(frozen=True)
class Certificate:
    """What was proven: ``bound`` is an upper bound on the entropy, ``gap`` relative to it, as in a CNN's design.

    ``architectures`` is the exact number of networks in the space of the spec, before budgets.
    """

    backend: str
    version: str
    status: str
    bound: float
    gap: float
    seconds: float
    architectures: int


@dataclass(frozen=True)
class MlpDesign:
    """One MLP: ``features -> widths[0] -> ... -> classes``; ``widths`` are those of the hidden layers."""

    name: str
    spec_sha256: str
    features: int
    widths: tuple[int, ...]
    classes: int
    metrics: Metrics
    certificate: Certificate | None = None

    @classmethod
    def chosen(cls, spec: MlpSpec, widths: tuple[int, ...]) -> MlpDesign:
        """The network of a spec with these hidden widths, measured from its layers."""
        unmeasured = Metrics(0.0, 0.0, 0, 0, 0)
        ends = spec.input
        design = cls(spec.name, spec.sha256, ends.features, widths, ends.classes, unmeasured)
        return dataclasses.replace(design, metrics=design.measure())

    @property
    def input_shape(self) -> tuple[int]:
        """(features,) of a sample."""
        return (self.features,)

    def layers(self) -> tuple[Layer, ...]:
        """The linear layers in forward order."""
        return tuple(itertools.starmap(linear, itertools.pairwise((self.features, *self.widths, self.classes))))

    def measure(self) -> Metrics:
        """Recompute every metric from the layers, costs in exact integers."""
        layers = self.layers()
        depth, log_width = entropy.count(layers), entropy.log_width(layers)
        return Metrics(
            entropy=self.classes * log_width,
            effectiveness=float(entropy.ratio(depth, log_width)),
            macs=int(cost.macs(layers)),
            params=int(cost.params(layers)),
            layers=depth,
        )

    def check(self, source: str = "design") -> None:
        """Raise :class:`InputError` when a stored metric differs from the one recomputed from the widths."""
        compare(self.metrics, self.measure(), source, "does not match the widths, which give")
        check_certificate(self.certificate, self.metrics.entropy, source)

    def to_json(self) -> str:
        """The design.json text."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def save(self, path: Path | str) -> None:
        """Write design.json atomically; raise :class:`InputError` when the place cannot be written."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path | str) -> MlpDesign:
        """Read, validate and re-measure a design.json; raise :class:`InputError` naming what is wrong."""
        design = cls.from_content(read_json(path), str(path))
        design.check(str(path))
        return design

    @classmethod
    def from_content(cls, content: Any, source: str = "design") -> MlpDesign:
        """Build a design from parsed JSON without re-measuring it; raise :class:`InputError`."""
        reader = Reader(source, content, ("format", *(key.name for key in dataclasses.fields(cls))), noun="JSON object")
        reader.choice("format", (FORMAT,))
        certificate = reader.values.get("certificate")
        return cls(
            name=reader.text("name", empty=True),
            spec_sha256=reader.text("spec_sha256", empty=True),
            features=reader.integer("features", most=WIDEST),
            widths=reader.integers("widths", most=WIDEST, longest=DEEPEST - 1),
            classes=reader.integer("classes", most=WIDEST),
            metrics=reader.record("metrics", Metrics),
            certificate=None if certificate is None else reader.record("certificate", Certificate),
        )


def violations(spec: MlpSpec, design: MlpDesign) -> list[str]:
    """Every way in which ``design`` is no feasible network of ``spec``, one sentence each; empty when it is one.

    MACs, parameters and layers are compared as exact integers, effectiveness within 1e-12 relative.
    """
    found = []
    if (design.features, design.classes) != (spec.input.features, spec.input.classes):
        found.append("features or classes differ from the spec's")
    found += [f"width {width}: not in the spec's domain" for width in design.widths if width not in spec.space.widths]
    measured = design.measure()
    if measured.layers not in spec.space.depth:
        found.append(f"{measured.layers} layers: not in the spec's domain")
    for key, limit in spec.budget.given.items():
        slack = 1 + EFFECTIVENESS_TOLERANCE if key == "effectiveness" else 1
        value = getattr(measured, key)
        if value > limit * slack:
            found.append(f"{key} {value} exceeds the budget {limit}")
    return found
