"""Design: one decoded architecture, its metrics recomputed from its layers, and design.json (docs/formulation.md)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mad_ip import cost, entropy
from mad_ip.blocks import KNOWN, Layer, closing, opening, repeated
from mad_ip.cost import COSTS, Cost
from mad_ip.device import Device, Operation
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.errors import InputError
from mad_ip.files import read_json, shown, write_atomically
from mad_ip.keys import DEPTHS, SIDES, STAGES, WIDTHS
from mad_ip.reader import Reader
from mad_ip.spec import (
    CONVENTIONS,
    TEMPORAL,
    WEIGHT,
    Budget,
    Choice,
    Objective,
    Path,
    Segment,
    Spec,
    Time,
    segments,
    temporal,
    times,
)

__all__ = [
    "EFFECTIVENESS_TOLERANCE",
    "FORMAT",
    "STATUSES",
    "VERDICTS",
    "Certificate",
    "Design",
    "DeviceMetrics",
    "Metrics",
    "StageChoice",
    "StemChoice",
    "Verification",
    "check_certificate",
    "compare",
    "relative_gap",
    "violations",
]

FORMAT = "mad-ip/design/1"

_METRIC_TOLERANCE = 1e-9

_SCORE_SLACK = 1e-6
"""How far a bound may be below the score, relatively, for what cancels in a score of large parts."""


@dataclass(frozen=True)
class StemChoice:
    """The stem as decided. A stem of images has the temporal kernel and stride 1, and its design.json neither."""

    kernel: int
    stride: int
    channels: int
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class StageChoice:
    """One stage as decided: ``depth`` blocks of ``block``, ``mid`` inner width.

    ``temporal_kernel`` and ``temporal_stride`` are the spec's, 1 for images.
    """

    block: str
    stride: int
    channels: int
    mid: int
    kernel: int
    depth: int
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Metrics:
    """What a design is worth and costs: ``score = entropy - depth_penalty``, of which the latter is beta Q.

    Where the objective has utilities or another share of the entropy: ``share * entropy - depth_penalty + utility``.
    """

    score: float
    entropy: float
    depth_penalty: float
    effectiveness: float
    macs: int
    params: int
    layers: int
    share: float | None = None
    utility: float | None = None

    def content(self) -> dict[str, float]:
        """As it is written."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class DeviceMetrics(Metrics):
    """On a device also bytes of ``activation`` and ``flash``, and nanoseconds of ``latency`` where times are known."""

    activation: int
    flash: int
    latency: int | None = None


def relative_gap(score: float, bound: float) -> float:
    """``(bound - score) / |score|``, at least 0; infinite without a score or a bound."""
    if not (math.isfinite(score) and math.isfinite(bound)):
        return math.inf
    return max(0.0, bound - score) / max(abs(score), 1e-9)


def parts(spec: Spec, metrics: Metrics) -> float:
    """What the parts of a score add up to without their signs, which rounding is in proportion to."""
    return spec.objective.entropy * metrics.entropy + metrics.depth_penalty + spec.magnitude


def negligible(spec: Spec, metrics: Metrics) -> float:
    """Difference between a score and a bound on it that counts as none (docs/formulation.md, equation 6.1).

    A solver's tolerance of 1e-6 lets it prove no smaller one; scores of few units, which it is given times a power of
    two, have a smaller tolerance, and sums of large parts that cancel have the rounding of those.
    """
    magnitude = parts(spec, metrics)
    least = 100.0 if spec.objective.is_plain else min(100.0, magnitude / 82)
    return max(1e-8 * max(least, abs(metrics.score)), 0.0 if spec.objective.is_plain else 2e-11 * magnitude)


@dataclass(frozen=True)
class Certificate:
    """What a solver proved: ``bound`` is an upper bound on the score, ``gap`` relative to the score's magnitude.

    ``options`` is the size of the catalogue that was solved, ``architectures`` the exact number of architectures in
    the space of the spec, before budgets and dominance.
    """

    backend: str
    version: str
    status: str
    bound: float
    gap: float
    seconds: float
    options: int
    architectures: int


@dataclass(frozen=True)
class Verification:
    """What ``mad-ip verify`` proved about a design without the solver, by which ``methods`` of version ``version``.

    ``bound`` is the independent upper bound on the score and ``gap`` what it leaves, relative to the score's
    magnitude; ``architectures`` were enumerated, ``nodes`` bounded, ``evaluations`` made by the attack; each ``None``
    where no method gives it. ``seconds`` is the time that all of it took.
    """

    version: str
    verdict: str
    methods: tuple[str, ...]
    bound: float | None
    gap: float | None
    architectures: int | None
    nodes: int | None
    evaluations: int | None
    seconds: float


STATUSES = ("optimal", "feasible")
"""What a certificate may say of a design."""

VERDICTS = ("proven", "audited")
"""Verdicts that a design may carry, proven optimal within ``gap``, or free of contradictions only."""


@dataclass(frozen=True)
class Design:
    """One architecture. ``tail`` is the tail's channels, ``None`` without a tail; ``classes = 0`` has no head.

    ``frames`` is the length of the clips that it takes, ``None`` for one that takes images. Only a design of clips has
    ``input.frames``, ``temporal_kernel`` and ``temporal_stride`` in its design.json (docs/video.md), only one for a
    ``device`` says so there, with the times of its own layers where they come from a table (docs/devices.md).
    """

    name: str
    spec_sha256: str
    convention: str
    resolution: int
    image_channels: int
    stem: StemChoice
    stages: tuple[StageChoice, ...]
    tail: int | None
    classes: int
    metrics: Metrics
    certificate: Certificate | None = None
    verification: Verification | None = None
    frames: int | None = None
    device: Device | None = None

    @classmethod
    def create(cls, *, beta: float = 10.0, objective: Objective | None = None, **structure: Any) -> Design:
        """Build a design from its structure and measure it by an objective, the paper's with ``beta`` by default."""
        unmeasured = Metrics(0.0, 0.0, 0.0, 0.0, 0, 0, 0)
        design = cls(metrics=unmeasured, **structure)
        _check_sizes(design, design.name)
        return dataclasses.replace(design, metrics=design.measure(beta if objective is None else objective))

    @classmethod
    def chosen(cls, spec: Spec, path: Path) -> Design:
        """The design of a path of a spec, measured from its layers."""
        stem = spec.stem
        return cls.create(
            objective=spec.objective,
            name=spec.name,
            spec_sha256=spec.sha256,
            convention=spec.convention,
            resolution=spec.input.resolution,
            image_channels=spec.input.channels,
            frames=spec.input.frames,
            stem=StemChoice(stem.kernel, stem.stride, path[0][0], stem.weight, *_temporal(stem)),
            stages=tuple(
                StageChoice(stage.block, stage.stride, *choice, stage.weight, *_temporal(stage))
                for stage, choice in zip(spec.stages, path[1:], strict=False)
            ),
            tail=None if spec.tail is None else path[-1][0],
            classes=spec.input.classes,
            device=spec.device,
        )

    @property
    def structure_sha256(self) -> str:
        """Of all that the network is made of, and of nothing that a spec or a proof says about it."""
        keys = ("block", "stride", "channels", "mid", "kernel", "depth")
        stages = [[getattr(stage, key) for key in keys] for stage in self.stages]
        stem = [self.stem.kernel, self.stem.stride, self.stem.channels]
        content = [self.input_shape, stem, stages, self.tail, self.classes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """What was chosen, segment by segment."""
        return tuple(Choice(s.channels[0], s.mid[0], s.kernel[0], s.depth[0]) for s in self.segments)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Stem, stages and tail in forward order, at the design's own resolution; every domain has one value."""
        tail = None if self.tail is None else (self.tail,)
        return segments(self, tail, self.image_channels, (self.resolution, *self.resolutions))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Output resolutions of stem and stages at the design's own input resolution, in pixels."""
        sizes = [-(-self.resolution // self.stem.stride)]
        for stage in self.stages:
            sizes.append(-(-sizes[-1] // stage.stride))
        return tuple(sizes)

    @property
    def times(self) -> tuple[Time, ...]:
        """The time axes of the stem and of the first block of every stage."""
        return times(self.frames, (self.stem, *self.stages))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, (channels, frames, height, width) of a clip."""
        clip = () if self.frames is None else (self.frames,)
        return (self.image_channels, *clip, self.resolution, self.resolution)

    @property
    def feature_channels(self) -> int:
        """Channels that enter the head."""
        return self.stages[-1].channels if self.tail is None else self.tail

    def blocks(self) -> Iterator[tuple[tuple[Layer, ...], ...]]:
        """For every segment, its blocks, each the tuple of its layers in forward order; stem and tail have one."""
        for segment, choice in zip(self.segments, self.path, strict=True):
            first = opening(segment, segment.sources[0], choice.channels, choice.mid, choice.kernel)
            rest = repeated(segment, choice.channels, choice.mid, choice.kernel)
            yield (first,) + (rest,) * (choice.depth - 1)

    def head_layers(self) -> tuple[Layer, ...]:
        """The classifier, none when ``classes`` is 0."""
        return closing(self.segments[-1], self.feature_channels)

    def levels(self) -> list[entropy.Level]:
        """The cumulated levels of the stem and the stages, the tail belonging to the last stage."""
        passed: list[Layer] = []
        levels: list[entropy.Level] = []
        for segment, blocks in zip(self.segments, self.blocks(), strict=True):
            passed += [layer for block in blocks for layer in block]
            gain = float(
                entropy.entropy_gain(segment.weight, segment.out_size, segment.channels[0], segment.time.out_frames)
            )
            level = entropy.Level(entropy.count(passed), entropy.log_width(passed), gain, segment.weight)
            if segment.kind == "tail":
                levels.pop()
            levels.append(level)
        return levels

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed on demand, which cannot be pickled."""
        return {key: value for key, value in self.__dict__.items() if key != "costs"}

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What budgets may limit, on the design's device."""
        return cost.costs(self.device)

    def spent(self, key: str) -> int:
        """What the network costs of a budget, a key of :data:`mad_ip.cost.COSTS`, in the cost's own unit."""
        return self.running(key)[-1]

    def spendings(self, budget: Budget) -> dict[str, float]:
        """What it takes of every budget that is given, in the unit of its cost."""
        return {key: self.metrics.effectiveness if key == "effectiveness" else self.spent(key) for key in budget.given}

    def running(self, key: str) -> tuple[int, ...]:
        """What it costs of a budget up to the end of each segment; the head belongs to the last."""
        totals = [0]
        for segment, choice, (first, *_) in zip(self.segments, self.path, self.blocks(), strict=True):
            rest = repeated(segment, choice.channels, choice.mid, choice.kernel) if choice.depth > 1 else ()
            head = closing(segment, choice.channels)
            totals.append(int(self.costs[key].of_segment(totals[-1], first, rest, head, choice.depth)))
        return tuple(totals[1:])

    def on(self, device: Device | None) -> Design:
        """The design measured for a device, without a certificate; raise :class:`InputError` where it has no time."""
        if self.frames is not None and device is not None and device.latency is not None:
            raise InputError(f"{self.name}: is a design for clips; the times of {device.name} are of layers of images")
        moved = dataclasses.replace(self, device=device, certificate=None, verification=None)
        own = {item.name: getattr(self.metrics, item.name) for item in dataclasses.fields(Metrics)}
        return dataclasses.replace(moved, metrics=moved._metrics(**own))

    def operations(self) -> Iterator[Operation]:
        """What a runtime does, block by block; empty without a device."""
        if self.device is not None:
            for block in (*itertools.chain.from_iterable(self.blocks()), self.head_layers()):
                yield from cost.operations(block, self.device)

    def _metrics(self, **own: Any) -> Metrics:
        """With what the network takes on the design's device, if any."""
        if self.device is None:
            return Metrics(**own)
        bound = [key for key in self.costs if COSTS[key].of_device is not None]
        return DeviceMetrics(**own, **{key: int(COSTS[key].reported(self.spent(key))) for key in bound})

    def measure(self, objective: Objective | float) -> Metrics:
        """Recompute every metric from the layers, costs in exact integers, by an objective or the paper's beta."""
        if not isinstance(objective, Objective):
            objective = Objective(objective)
        levels = self.levels()
        h = entropy.entropy(levels, self.convention)
        depths = [segment.depth[0] for segment in self.segments if segment.penalised]
        penalty = entropy.depth_penalty(depths, objective.depth_penalty, self.convention)
        share, utility = (None, None) if objective.is_plain else (objective.entropy, self._utility(objective))
        return self._metrics(
            score=_score(h, penalty, share, utility),
            entropy=h,
            depth_penalty=penalty,
            effectiveness=entropy.effectiveness(levels, self.convention),
            **{key: self.spent(key) for key in ("macs", "params", "layers")},
            share=share,
            utility=utility,
        )

    def _utility(self, objective: Objective) -> float:
        """What the choices are worth by themselves; not a number where a table does not value one."""
        known = {utility.stage: utility for utility in objective.utilities}
        try:
            return math.fsum(
                float(term(segment.domains[axis])[0])
                for segment in self.segments
                if segment.key in known
                for axis, term in known[segment.key].terms
            )
        except KeyError:
            return math.nan

    def check(self, source: str = "design") -> None:
        """Raise :class:`InputError` when a stored metric differs from the one recomputed from the structure.

        design.json does not hold the objective: beta is taken from the stored penalty, the share of the entropy and the
        utility as they are stored, so that only those and a score changed together pass here; :func:`violations` checks
        them against a spec.
        """
        stored = self.metrics
        unit = self.measure(1.0)
        beta = stored.depth_penalty / unit.depth_penalty
        if not (math.isfinite(beta) and beta >= 0):
            raise InputError(
                f"{source}: metrics.depth_penalty = {stored.depth_penalty!r}: must be finite and at least 0"
            )
        if (stored.share is None) != (stored.utility is None) or (stored.share is not None and stored.share < 0):
            raise InputError(
                f"{source}: metrics.share = {stored.share!r}: must be at least 0, and there where metrics.utility is"
            )
        self._compare(self.rescored(unit), source)
        check_certificate(self.certificate, self.metrics.score, source)

    def rescored(self, metrics: Metrics) -> Metrics:
        """Metrics with this design's depth penalty, share and utility, which do not follow from a structure alone."""
        own = self.metrics
        score = _score(metrics.entropy, own.depth_penalty, own.share, own.utility)
        return dataclasses.replace(
            metrics, score=score, depth_penalty=own.depth_penalty, share=own.share, utility=own.utility
        )

    def _compare(self, measured: Metrics, source: str) -> None:
        compare(self.metrics, measured, source, "does not match the structure, which gives", _METRIC_TOLERANCE)

    def to_json(self) -> str:
        """The design.json text."""
        certificate = None if self.certificate is None else dataclasses.asdict(self.certificate)
        image = {"resolution": self.resolution, "channels": self.image_channels}
        content: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "spec_sha256": self.spec_sha256,
            "convention": self.convention,
            "input": image if self.frames is None else {**image, "frames": self.frames},
            "stem": self._level(self.stem),
            "stages": [self._level(stage) for stage in self.stages],
            "tail": None if self.tail is None else {"channels": self.tail},
            "classes": self.classes,
            "metrics": self.metrics.content(),
            "certificate": certificate,
        }
        if self.device is not None:
            content["device"] = self._own_device().content()
        if self.verification is not None:
            content["verification"] = dataclasses.asdict(self.verification)
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def _own_device(self) -> Device:
        """The device with no more times than the network's own layers have."""
        assert self.device is not None
        latency = self.device.latency
        own = None if latency is None else latency.of_operations(self.operations())
        return dataclasses.replace(self.device, latency=own)

    def _level(self, choice: StemChoice | StageChoice) -> dict[str, Any]:
        """The stem or a stage as it is written, without a temporal kernel and stride where there are no frames."""
        record = _whole(dataclasses.asdict(choice))
        return record if self.frames is not None else {key: record[key] for key in record if key not in TEMPORAL}

    def save(self, path: pathlib.Path | str) -> None:
        """Write design.json atomically; raise :class:`InputError` when the place cannot be written."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: pathlib.Path | str) -> Design:
        """Read, validate and re-measure a design.json; raise :class:`InputError` naming what is wrong."""
        design = cls.read(path)
        design.check(str(path))
        return design

    @classmethod
    def read(cls, path: pathlib.Path | str) -> Design:
        """Read and validate a design.json as it stands, its metrics unchecked; raise :class:`InputError`."""
        return cls.from_content(read_json(path), str(path))

    @classmethod
    def from_content(cls, content: Any, source: str = "design") -> Design:
        """Build a design from parsed JSON without re-measuring it; raise :class:`InputError`."""
        reader = Reader(source, content, _KEYS, noun="JSON object")
        reader.choice("format", (FORMAT,))
        image = reader.table("input", ("resolution", "channels", "frames"))
        frames = image.integer("frames") if "frames" in image.values else None
        tail = reader.values.get("tail")
        certificate = reader.values.get("certificate")
        verification = reader.values.get("verification")
        stem = reader.table("stem", StemChoice)
        device = None
        if "device" in reader.values:
            device = Device.read(reader.table("device", [item.name for item in dataclasses.fields(Device)]))
            if frames is not None and device.latency is not None:
                raise reader.error("device", "has times, which are of layers of images; must have none for clips")
        design = cls(
            device=device,
            name=reader.text("name", empty=True),
            spec_sha256=reader.text("spec_sha256", empty=True),
            convention=reader.choice("convention", CONVENTIONS),
            resolution=image.integer("resolution"),
            image_channels=image.integer("channels"),
            frames=frames,
            stem=StemChoice(
                stem.integer("kernel", odd=True),
                stem.integer("stride"),
                stem.integer("channels"),
                stem.value("weight", WEIGHT),
                **temporal(stem, frames),
            ),
            stages=tuple(
                StageChoice(
                    stage.choice("block", KNOWN),
                    stage.integer("stride", allowed=(1, 2)),
                    stage.integer("channels"),
                    stage.integer("mid"),
                    stage.integer("kernel", odd=True),
                    stage.integer("depth"),
                    stage.value("weight", WEIGHT),
                    **temporal(stage, frames),
                )
                for stage in reader.tables("stages", StageChoice)
            ),
            tail=None if tail is None else reader.table("tail", ("channels",)).integer("channels"),
            classes=reader.integer("classes", least=0),
            metrics=reader.record("metrics", Metrics if device is None else DeviceMetrics),
            certificate=None if certificate is None else reader.record("certificate", Certificate),
            verification=None if verification is None else _verification(reader),
        )
        _check_sizes(design, source)
        _check_separable(design, source)
        return design


def _score(h: float, penalty: float, share: float | None, utility: float | None) -> float:
    """``share H - beta Q + utility``, the entropy and no utility by default."""
    return (1.0 if share is None else share) * h - penalty + (utility or 0.0)


def compare(stored: Any, measured: Any, source: str, verdict: str, absolute: float = 0.0) -> None:
    """Raise :class:`InputError` with ``verdict`` unless metrics are as measured: integers exactly, others to 1e-9.

    That is relative, and ``absolute`` another tolerance.
    """
    for key, value in dataclasses.asdict(measured).items():
        here = getattr(stored, key, None)
        exact = isinstance(value, int) or value is None or here is None
        if here != value and (
            exact or here is None or not math.isclose(here, value, rel_tol=_METRIC_TOLERANCE, abs_tol=absolute)
        ):
            raise InputError(f"{source}: metrics.{key} = {here!r}: {verdict} {value!r}")


def check_certificate(certificate: Any, score: float, source: str) -> None:
    """Raise :class:`InputError` for a certificate that contradicts itself or the score that it is about."""
    if certificate is None:
        return
    if certificate.status not in STATUSES:
        raise InputError(
            f"{source}: certificate.status = {shown(certificate.status)}: must be one of {', '.join(STATUSES)}"
        )
    gap = relative_gap(score, certificate.bound)
    if not math.isclose(certificate.gap, gap, rel_tol=_METRIC_TOLERANCE, abs_tol=_METRIC_TOLERANCE):
        raise InputError(f"{source}: certificate.gap = {certificate.gap!r}: bound and score give {gap!r}")
    if certificate.bound < score - max(1.0, abs(score)) * _SCORE_SLACK:
        raise InputError(f"{source}: certificate.bound = {certificate.bound!r}: must be at least the score, {score!r}")


def violations(spec: Spec, design: Design) -> list[str]:
    """Every way in which ``design`` is no feasible design of ``spec``, one sentence each; empty when it is one.

    MACs, parameters and layers are compared as exact integers, effectiveness within 1e-12 relative.
    """
    found: list[str] = []

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            found.append(sentence)

    require(design.convention == spec.convention, f"convention {design.convention}: the spec says {spec.convention}")
    require(
        (design.resolution, design.image_channels, design.classes)
        == (spec.input.resolution, spec.input.channels, spec.input.classes),
        "input resolution, channels or classes differ from the spec's",
    )
    require(design.frames == spec.input.frames, f"frames {design.frames}: the spec says {spec.input.frames}")
    stem = design.stem
    require(
        (stem.kernel, stem.stride, stem.weight) == (spec.stem.kernel, spec.stem.stride, spec.stem.weight),
        "stem kernel, stride or weight differ from the spec's",
    )
    require(_temporal(stem) == _temporal(spec.stem), "stem temporal kernel or stride differ from the spec's")
    require(stem.channels in spec.stem.channels, f"stem channels {stem.channels}: not in the spec's domain")
    if len(design.stages) != len(spec.stages) or (design.tail is None) != (spec.tail is None):
        return [*found, "the number of stages or the presence of a tail differs from the spec's"]
    if spec.tail is not None:
        require(design.tail in spec.tail.channels, f"tail channels {design.tail}: not in the spec's domain")
    c_in = stem.channels
    for number, (choice, stage) in enumerate(zip(design.stages, spec.stages, strict=True), start=1):
        require(
            (choice.block, choice.stride, choice.weight) == (stage.block, stage.stride, stage.weight),
            f"stage {number}: block, stride or weight differ from the spec's",
        )
        require(
            _temporal(choice) == _temporal(stage), f"stage {number}: temporal kernel or stride differ from the spec's"
        )
        for key in ("channels", "mid", "kernel", "depth"):
            value = getattr(choice, key)
            require(value in getattr(stage, key), f"stage {number}: {key} {value} is not in the spec's domain")
        require(
            bool(spec.space.follows(c_in, choice.channels)),
            f"stage {number}: channels {choice.channels} may not follow {c_in}",
        )
        require(
            bool(spec.space.carries(choice.mid, choice.channels)),
            f"stage {number}: mid {choice.mid} is outside mid_ratio for {choice.channels} channels",
        )
        c_in = choice.channels
    there = dataclasses.replace(design, device=spec.device)
    same = design.device is spec.device or _told(design) == _told(there)
    require(same, "the device, or its times of the network's layers, differ from the spec's")
    if found and spec.objective.utilities:
        # Tables value the choices of the spec's own domains.
        return found
    measured = there.measure(spec.objective)
    for key, limit in spec.budget.given.items():
        if key == "effectiveness":
            ratio = measured.effectiveness
            require(ratio <= limit * (1 + EFFECTIVENESS_TOLERANCE), f"{key} {ratio} exceeds the budget {limit}")
            continue
        spent, reported = there.spent(key), COSTS[key].reported
        require(spent <= limit, f"{key} {reported(spent)} exceeds the budget {reported(limit)}")
    try:
        design._compare(measured, "design")
    except InputError as error:
        found.append(str(error))
    return found


def _check_sizes(design: Design, source: str) -> None:
    """Raise :class:`InputError` for a network larger than any spec may ask for, before anything of its size is made."""
    stem = design.stem
    sizes = [("input.resolution", design.resolution, SIDES), ("input.frames", design.frames or 1, SIDES)]
    sizes += [("input.channels", design.image_channels, WIDTHS), ("classes", design.classes, WIDTHS)]
    sizes += [("tail.channels", design.tail or 1, WIDTHS), ("stages", len(design.stages), STAGES)]
    levels: list[tuple[str, Any]] = [("stem", stem)]
    levels += [(f"stages[{number}]", stage) for number, stage in enumerate(design.stages, start=1)]
    limits = {"kernel": SIDES, "stride": SIDES, "channels": WIDTHS, "mid": WIDTHS, "depth": DEPTHS}
    sizes += [(f"{name}.{key}", getattr(level, key, 1), limits[key]) for name, level in levels for key in limits]
    for name, value, most in sizes:
        if value > most:
            raise InputError(f"{source}: {name} = {shown(value)}: must be at most {most:,}")


def _check_separable(design: Design, source: str) -> None:
    """A separable block has no width of its own inside: raise :class:`InputError` for another one."""
    channels = design.stem.channels
    for number, stage in enumerate(design.stages, start=1):
        if stage.block == "separable" and stage.mid != channels:
            raise InputError(
                f"{source}: stages[{number}].mid = {stage.mid}: must be {channels}, the channels before it, where the "
                "block is separable"
            )
        if stage.block == "separable" and stage.depth > 1 and stage.channels != channels:
            raise InputError(
                f"{source}: stages[{number}].depth = {stage.depth}: must be 1 where a separable block has {channels} "
                f"channels before it and {stage.channels} after it"
            )
        channels = stage.channels


def _told(design: Design) -> dict[str, Any] | None:
    """What is written of a design's device."""
    return None if design.device is None else design._own_device().content()


def _temporal(level: Any) -> tuple[int, ...]:
    return tuple(getattr(level, key) for key in TEMPORAL)


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """Weights are numbers of any kind; whole ones are written as integers."""
    weight = record["weight"]
    return {**record, "weight": int(weight) if weight == int(weight) else weight}


_KEYS = (
    "format",
    "name",
    "spec_sha256",
    "convention",
    "input",
    "stem",
    "stages",
    "tail",
    "classes",
    "metrics",
    "certificate",
    "device",
    "verification",
)


def _verification(reader: Reader) -> Verification:
    inner = reader.table("verification", Verification)
    return Verification(
        version=inner.text("version", empty=True),
        verdict=inner.choice("verdict", VERDICTS),
        methods=inner.texts("methods"),
        bound=inner.optional("bound", inner.number),
        gap=inner.optional("gap", functools.partial(inner.number, least=0)),
        architectures=inner.optional("architectures", inner.integer),
        nodes=inner.optional("nodes", functools.partial(inner.integer, least=0)),
        evaluations=inner.optional("evaluations", inner.integer),
        seconds=inner.number("seconds", least=0),
    )
