"""design.json: its exact content, what is refused, and every way in which a design may violate its spec."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import architecture_and_spec

from mad_ip.design import Certificate, Design, Metrics, StageChoice, StemChoice, Verification, violations
from mad_ip.errors import InputError
from mad_ip.spec import Budget, Space, Spec

SPEC = """\
name = "two-stage"
input = {resolution = 64, classes = 10}
objective.depth_penalty = 10.0
space = {growth = 4.0, mid_ratio = [0.1, 1.0]}
stem = {kernel = 3, stride = 2, channels = [16, 32]}
tail = {channels = [64, 128]}

[[stage]]
block = "bottleneck"
stride = 2
channels = [16, 24, 32, 96]
mid = [2, 8, 24, 32]
kernel = [3, 5]
depth = [1, 2, 3]

[[stage]]
block = "inverted_se"
stride = 1
channels = [48, 64]
mid = [48]
kernel = 3
depth = [2, 4]
"""

CERTIFICATE = Certificate("highs", "1.16.0", "optimal", 0.0, 0.0, 1.25, 300, 4000)
"""Of a design whose score is its bound."""


def build(**changes: Any) -> Design:
    """A feasible design of SPEC; ``changes`` are fields of the design, with stage_1 and stage_2 for single stages."""
    spec = Spec.from_table(tomllib.loads(SPEC))
    one = StageChoice("bottleneck", 2, 32, 8, 3, 1, 0)
    two = StageChoice("inverted_se", 1, 64, 48, 3, 2, 8)
    if "stage_1" in changes:
        one = dataclasses.replace(one, **changes.pop("stage_1"))
    if "stage_2" in changes:
        two = dataclasses.replace(two, **changes.pop("stage_2"))
    stem = dataclasses.replace(StemChoice(3, 2, 16, 1), **changes.pop("stem", {}))
    structure = {
        "name": spec.name,
        "spec_sha256": spec.sha256,
        "convention": "paper",
        "resolution": 64,
        "image_channels": 3,
        "stem": stem,
        "stages": (one, two),
        "tail": 128,
        "classes": 10,
        "certificate": CERTIFICATE,
    }
    design = Design.create(beta=changes.pop("beta", 10.0), **{**structure, **changes})
    if design.certificate is not CERTIFICATE:
        return design
    return dataclasses.replace(design, certificate=dataclasses.replace(CERTIFICATE, bound=design.metrics.score))


# design.json ---------------------------------------------------------------------------------------------------------

# To be met key by key in this order.
SAMPLE = """\
{"format": "mad-ip/design/1", "name": "...", "spec_sha256": "...", "convention": "paper",
 "input": {"resolution": 224, "channels": 3},
 "stem": {"kernel": 3, "stride": 2, "channels": 32, "weight": 1},
 "stages": [{"block": "bottleneck", "stride": 2, "channels": 96, "mid": 24, "kernel": 5, "depth": 3, "weight": 1}],
 "tail": null, "classes": 1000,
 "metrics": {"score": 0.0, "entropy": 0.0, "depth_penalty": 0.0, "effectiveness": 0.0, "macs": 0, "params": 0,
             "layers": 0},
 "certificate": {"backend": "highs", "version": "1.16.0", "status": "optimal", "bound": 0.0, "gap": 0.0,
                 "seconds": 0.0, "options": 0, "architectures": 0}}
"""


def sample_design() -> Design:
    return Design.create(
        beta=10.0,
        name="...",
        spec_sha256="...",
        convention="paper",
        resolution=224,
        image_channels=3,
        stem=StemChoice(3, 2, 32, 1.0),
        stages=(StageChoice("bottleneck", 2, 96, 24, 5, 3, 1.0),),
        tail=None,
        classes=1000,
        certificate=Certificate("highs", "1.16.0", "optimal", 0.0, 0.0, 0.0, 0, 0),
    )


def test_content_and_order_of_the_sample() -> None:
    design = sample_design()
    wanted = json.loads(SAMPLE)
    wanted["metrics"] = design.metrics.content()
    written = json.loads(design.to_json())
    assert ordered(written) == ordered(wanted)
    assert list(written["metrics"]) == list(json.loads(SAMPLE)["metrics"])
    # 3*3 * 112*112*32 in the stem and so on: the metrics are not the zeros of the sample
    assert written["metrics"]["layers"] == 1 + 3 * 3
    assert isinstance(written["stem"]["weight"], int)


def ordered(value: Any) -> Any:
    """Objects as lists of pairs, so that a comparison sees their order, and values with their type."""
    if isinstance(value, dict):
        return [(key, ordered(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [ordered(item) for item in value]
    return type(value).__name__, value


def test_weights_that_are_not_whole_stay() -> None:
    text = build(stem={"weight": 0.5}, stage_1={"weight": 2.0}).to_json()
    assert json.loads(text)["stem"]["weight"] == 0.5
    assert '"weight": 2\n' in text


def test_metrics_are_a_score_and_its_parts() -> None:
    metrics = build().metrics
    assert metrics.score == metrics.entropy - metrics.depth_penalty
    assert metrics.depth_penalty == pytest.approx(10 * math.exp(0.25), rel=1e-14)  # depths 1, 2: Var = 1/4
    assert metrics.layers == 1 + 3 + 2 * 3 + 1  # stem, bottleneck, two inverted blocks, tail


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tail": None},
        {"classes": 0},
        {"convention": "tinynas"},
        {"certificate": None},
        {"beta": 0.0},
        {"beta": 0.1},
        {"stem": {"weight": 0.25}},
        {"name": 'größer "net"\n\\'},
        {"verification": Verification("0.1", "proven", ("audit", "bound"), 1.5, 1e-4, None, 3, None, 0.25)},
    ],
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    design = build(**changes)
    path = tmp_path / "design.json"
    design.save(path)
    assert Design.load(path) == design
    assert path.read_text(encoding="utf-8") == design.to_json()
    assert Design.load(path).to_json() == design.to_json()
    assert [entry.name for entry in tmp_path.iterdir()] == ["design.json"]


@given(pair=architecture_and_spec())
@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip_of_any_design(pair: tuple[oracle.Best, Spec]) -> None:
    design = decoded(*pair)
    again = Design.from_content(json.loads(design.to_json()))
    again.check()
    assert again == design
    assert violations(pair[1], again) == []


def decoded(architecture: oracle.Best, spec: Spec) -> Design:
    stem_channels, rows, tail = architecture.structure
    return Design.create(
        beta=spec.objective.depth_penalty,
        name=spec.name,
        spec_sha256=spec.sha256,
        convention=spec.convention,
        resolution=spec.input.resolution,
        image_channels=spec.input.channels,
        stem=StemChoice(spec.stem.kernel, spec.stem.stride, stem_channels, spec.stem.weight),
        stages=tuple(
            StageChoice(stage.block, stage.stride, c, m, k, depth, stage.weight)
            for stage, (c, m, k, depth) in zip(spec.stages, rows, strict=True)
        ),
        tail=tail,
        classes=spec.input.classes,
    )


# What is refused -----------------------------------------------------------------------------------------------------


def content() -> dict[str, Any]:
    return json.loads(build().to_json())


def rejection(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Design.load(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path}: ")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no chain of tracebacks
    return sentence.removeprefix(f"{path}: ")


def rejected(folder: Path, changed: Any) -> str:
    path = folder / "design.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    return rejection(path)


def put(target: Any, where: tuple[str | int, ...], value: object) -> Any:
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    return target


def test_the_unchanged_content_loads(tmp_path: Path) -> None:
    """Otherwise the tests of what is refused below would prove nothing."""
    path = tmp_path / "design.json"
    path.write_text(json.dumps(content()), encoding="utf-8")
    assert Design.load(path) == build()


@pytest.mark.parametrize("value", ["mad-ip/design/2", "timm/1", 1, None])
def test_another_format(tmp_path: Path, value: object) -> None:
    sentence = rejected(tmp_path, {**content(), "format": value})
    assert sentence == f"format = {value!r}: must be 'mad-ip/design/1'"


def test_no_format(tmp_path: Path) -> None:
    changed = content()
    del changed["format"]
    assert rejected(tmp_path, changed) == "format is missing: must be 'mad-ip/design/1'"


@pytest.mark.parametrize("key", ["macs", "params", "layers"])
@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_cost_that_does_not_match_its_structure(tmp_path: Path, key: str, change: int) -> None:
    changed = content()
    right = changed["metrics"][key]
    changed["metrics"][key] = right + change
    sentence = rejected(tmp_path, changed)
    assert sentence == f"metrics.{key} = {right + change}: does not match the structure, which gives {right}"


@pytest.mark.parametrize("key", ["macs", "params"])
def test_one_unit_in_a_billion_matters(tmp_path: Path, key: str) -> None:
    """Costs are exact integers: 1 in 1e10 is far below the tolerance of the metrics that are floats."""
    wide = build(resolution=1024, stage_2={"channels": 50_000, "mid": 50_000}, tail=None)
    right = getattr(wide.metrics, key)
    assert right > 5e9
    changed = json.loads(wide.to_json())
    changed["metrics"][key] = right + 1
    sentence = rejected(tmp_path, changed)
    assert sentence == f"metrics.{key} = {right + 1}: does not match the structure, which gives {right}"


@pytest.mark.parametrize("key", ["score", "entropy", "effectiveness"])
@pytest.mark.parametrize("factor", [1 - 1e-6, 1 + 1e-6, 2, -1])
def test_a_value_that_does_not_match_its_structure(tmp_path: Path, key: str, factor: float) -> None:
    changed = content()
    right = changed["metrics"][key]
    changed["metrics"][key] = right * factor
    sentence = rejected(tmp_path, changed)
    assert sentence.startswith(f"metrics.{key} = {right * factor!r}: does not match the structure, which gives ")
    assert float(sentence.rsplit(" ", 1)[1]) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1.001, 100, -1])
def test_a_depth_penalty_that_does_not_match(tmp_path: Path, factor: float) -> None:
    """beta is not in the file, so a changed penalty shows as a score that is not entropy - penalty."""
    changed = content()
    changed["metrics"]["depth_penalty"] *= factor
    sentence = rejected(tmp_path, changed)
    assert sentence.startswith(("metrics.depth_penalty = ", "metrics.score = "))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("stages", 0, "depth"), 2),
        (("stages", 1, "mid"), 40),
        (("stages", 0, "channels"), 24),
        (("stages", 1, "kernel"), 5),
        (("stages", 1, "block"), "inverted"),
        (("stages", 0, "stride"), 1),
        (("stages", 1, "weight"), 7),
        (("stem", "channels"), 32),
        (("stem", "kernel"), 5),
        (("stem", "weight"), 2),
        (("input", "resolution"), 128),
        (("input", "channels"), 1),
        (("tail",), {"channels": 64}),
        (("tail",), None),
        (("classes",), 11),
        (("classes",), 0),
        (("convention",), "tinynas"),
    ],
)
def test_a_structure_that_does_not_match_its_metrics(
    tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    changed = content()
    put(changed, where, value)
    sentence = rejected(tmp_path, changed)
    assert sentence.startswith("metrics.")
    assert "does not match the structure" in sentence


BAD_VALUES: list[tuple[tuple[str | int, ...], object, str]] = [
    (("name",), 3, "name = 3: must be a text"),
    (("spec_sha256",), None, "spec_sha256 = None: must be a text"),
    (("convention",), "deepmad", "convention = 'deepmad': must be one of paper, tinynas"),
    (("input",), 224, "input = 224: must be a JSON object"),
    (("input", "resolution"), 0, "input.resolution = 0: must be an integer of at least 1"),
    (("input", "resolution"), 64.0, "input.resolution = 64.0: must be an integer of at least 1"),
    (("input", "channels"), True, "input.channels = True: must be an integer of at least 1"),
    (("stem",), None, "stem = None: must be a JSON object"),
    (("stem", "kernel"), 4, "stem.kernel = 4: must be an odd integer of at least 1"),
    (("stem", "weight"), -1, "stem.weight = -1: must be a finite number of at least 0"),
    (("stem", "weight"), math.nan, "stem.weight = nan: must be a finite number of at least 0"),
    (("stages",), [], "stages = []: must be a list of at least one JSON object"),
    (("stages",), {}, "stages = {}: must be a list of at least one JSON object"),
    (("stages", 0), 3, "stages[1] = 3: must be a JSON object"),
    (("stages", 0, "block"), "resnet", "stages[1].block = 'resnet': must be one of basic, bottleneck, inverted, "),
    (("stages", 1, "stride"), 3, "stages[2].stride = 3: must be 1 or 2"),
    (("stages", 1, "kernel"), 2, "stages[2].kernel = 2: must be an odd integer of at least 1"),
    (("stages", 1, "depth"), 0, "stages[2].depth = 0: must be an integer of at least 1"),
    (("stages", 1, "mid"), "48", "stages[2].mid = '48': must be an integer of at least 1"),
    (("stages", 1, "weight"), math.inf, "stages[2].weight = inf: must be a finite number of at least 0"),
    (("tail",), 64, "tail = 64: must be a JSON object"),
    (("tail", "channels"), 0, "tail.channels = 0: must be an integer of at least 1"),
    (("classes",), -1, "classes = -1: must be an integer of at least 0"),
    (("metrics",), [], "metrics = []: must be a JSON object"),
    (("metrics", "macs"), 1.5, "metrics.macs = 1.5: must be an integer of at least 0"),
    (("metrics", "score"), math.nan, "metrics.score = nan: must be a finite number"),
    (("metrics", "score"), "high", "metrics.score = 'high': must be a finite number"),
    (("metrics", "entropy"), True, "metrics.entropy = True: must be a finite number"),
    (("metrics", "effectiveness"), math.inf, "metrics.effectiveness = inf: must be a finite number"),
    (("certificate",), "highs", "certificate = 'highs': must be a JSON object"),
    (("certificate", "bound"), math.inf, "certificate.bound = inf: must be a finite number"),
    (("certificate", "backend"), 3, "certificate.backend = 3: must be a text"),
    (("certificate", "options"), -1, "certificate.options = -1: must be an integer of at least 0"),
    (("latency",), 3, "latency = 3: unknown key; allowed are format, name, "),
]


@pytest.mark.parametrize(("where", "value", "sentence"), BAD_VALUES)
def test_bad_value(tmp_path: Path, where: tuple[str | int, ...], value: object, sentence: str) -> None:
    changed = content()
    put(changed, where, value)
    assert rejected(tmp_path, changed).startswith(sentence)


@pytest.mark.parametrize(
    "where",
    [
        *((key,) for key in ("name", "spec_sha256", "convention", "input", "stem", "stages", "classes", "metrics")),
        *(("input", key) for key in ("resolution", "channels")),
        *(("stem", key) for key in ("kernel", "stride", "channels", "weight")),
        *(("stages", 1, key) for key in ("block", "stride", "channels", "mid", "kernel", "depth", "weight")),
        ("tail", "channels"),
        *(("metrics", field.name) for field in dataclasses.fields(Metrics) if field.default is dataclasses.MISSING),
        *(("certificate", field.name) for field in dataclasses.fields(Certificate)),
    ],
)
def test_a_missing_key(tmp_path: Path, where: tuple[str | int, ...]) -> None:
    changed = content()
    target = put(changed, where, None)
    del target[where[-1]]
    name = ".".join(str(part) for part in where).replace("stages.1", "stages[2]")
    assert rejected(tmp_path, changed).startswith(f"{name} is missing: must be ")


@pytest.mark.parametrize("where", [("input",), ("stem",), ("stages", 1), ("tail",), ("metrics",), ("certificate",)])
def test_an_unknown_key_inside(tmp_path: Path, where: tuple[str | int, ...]) -> None:
    changed = content()
    put(changed, (*where, "groups"), 4)
    sentence = rejected(tmp_path, changed)
    assert "groups" in sentence
    assert "unknown key" in sentence


@pytest.mark.parametrize("value", [[], 3, None, "design", True])
def test_json_that_is_no_object(tmp_path: Path, value: object) -> None:
    assert "must be a JSON object" in rejected(tmp_path, value)


def test_not_json(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    for text in ("", "{", SPEC, build().to_json()[:-10]):
        path.write_text(text, encoding="utf-8")
        assert "not a JSON file" in rejection(path)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    path.write_bytes(json.dumps({**content(), "name": "größer"}, ensure_ascii=False).encode("latin-1"))
    assert "not a JSON file" in rejection(path)


def test_a_key_with_a_line_break(tmp_path: Path) -> None:
    assert "unknown key" in rejected(tmp_path, {**content(), "la\ntency": 1})


def test_nested_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    path.write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")
    assert "not a JSON file" in rejection(path)


def test_numbers_beyond_all_floats(tmp_path: Path) -> None:
    for key in ("score", "depth_penalty", "effectiveness"):
        changed = content()
        changed["metrics"][key] = 10**350
        assert rejected(tmp_path, changed).startswith(f"metrics.{key} = 1000")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in rejection(tmp_path / "none.json")
    assert "cannot be read (Is a directory)" in rejection(tmp_path)


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "design.json", tmp_path / "folder"):
        with pytest.raises(InputError) as caught:
            build().save(path)
        assert str(caught.value).startswith(f"{path}: cannot be written (")
        assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_saving_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(build(), metrics=dataclasses.replace(build().metrics, score=math.nan)).save(path)
    assert path.read_text(encoding="utf-8") == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["design.json"]
    build().save(path)
    assert Design.load(path) == build()


# violations ----------------------------------------------------------------------------------------------------------


def spec_of(**budget: float) -> Spec:
    return dataclasses.replace(Spec.from_table(tomllib.loads(SPEC)), budget=Budget(**budget))


def test_a_feasible_design_violates_nothing() -> None:
    metrics = build().metrics
    assert violations(spec_of(), build()) == []
    exact = {key: getattr(metrics, key) for key in ("macs", "params", "layers", "effectiveness")}
    assert violations(spec_of(**exact), build()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"convention": "tinynas"}, ["convention", "tinynas", "paper"]),
        ({"resolution": 128}, ["resolution", "differ"]),
        ({"image_channels": 1}, ["channels", "differ"]),
        ({"classes": 11}, ["classes", "differ"]),
        ({"stem": {"kernel": 5}}, ["stem", "kernel", "differ"]),
        ({"stem": {"stride": 1}}, ["stem", "stride", "differ"]),
        ({"stem": {"weight": 2}}, ["stem", "weight", "differ"]),
        ({"stem": {"channels": 24}}, ["stem", "channels", "24", "domain"]),
        ({"tail": 96}, ["tail", "96", "domain"]),
        ({"tail": None}, ["tail", "differs"]),
        ({"stages": (StageChoice("bottleneck", 2, 32, 8, 3, 1, 0),)}, ["number of stages", "differs"]),
        ({"stage_2": {"block": "inverted"}}, ["stage 2", "block", "differ"]),
        ({"stage_2": {"stride": 2}}, ["stage 2", "stride", "differ"]),
        ({"stage_2": {"weight": 1}}, ["stage 2", "weight", "differ"]),
        ({"stage_1": {"channels": 40}}, ["stage 1", "channels", "40", "domain"]),
        ({"stage_1": {"mid": 16}}, ["stage 1", "mid", "16", "domain"]),
        ({"stage_1": {"kernel": 7}}, ["stage 1", "kernel", "7", "domain"]),
        ({"stage_1": {"depth": 4}}, ["stage 1", "depth", "4", "domain"]),
        ({"stem": {"channels": 32}, "stage_1": {"channels": 16}}, ["stage 1", "channels", "16", "follow", "32"]),
        ({"stage_1": {"channels": 96, "mid": 24}, "stage_2": {"channels": 48}}, ["stage 2", "48", "follow", "96"]),
        ({"stage_1": {"mid": 2}}, ["stage 1", "mid", "2", "mid_ratio", "32"]),
        ({"stage_1": {"channels": 24, "mid": 32}}, ["stage 1", "mid", "32", "mid_ratio", "24"]),
    ],
)
def test_a_structure_outside_the_spec(changes: dict[str, Any], words: list[str]) -> None:
    """Two values in the domains that do not go together are one violation, too."""
    found = violations(spec_of(), build(**changes))
    assert any(all(word in sentence for word in words) for sentence in found), found
    if "stages" not in changes:
        # 16 -> 96 also grows by more than 4; nothing else brings a second violation.
        expected = 2 if changes.get("stage_1", {}).get("channels") == 96 else 1
        assert len(found) == expected, found
    assert not any("\n" in sentence for sentence in found)


def test_growth() -> None:
    """16 -> 64 is growth by 4 and allowed, 16 -> 96 is not; without the rule it is."""
    design = build(stage_1={"channels": 96, "mid": 24}, stage_2={"channels": 64})
    (sentence, _) = violations(spec_of(), design)  # the second: 64 after 96
    assert "stage 1" in sentence
    assert "96 may not follow 16" in sentence
    free = dataclasses.replace(spec_of(), space=Space(monotone=False))
    assert violations(free, design) == []
    assert violations(spec_of(), build(stage_1={"channels": 16}, stage_2={"channels": 64})) == []


@pytest.mark.parametrize("key", ["macs", "params", "layers"])
def test_an_exact_budget(key: str) -> None:
    """To the last unit, in integers and in floats."""
    value = getattr(build().metrics, key)
    for enough in (value, float(value), value + 0.5, math.nextafter(value, math.inf)):
        assert violations(spec_of(**{key: enough}), build()) == []
    for short in (value - 1, value - 0.5, math.nextafter(value, 0)):
        (sentence,) = violations(spec_of(**{key: short}), build())
        assert sentence == f"{key} {value} exceeds the budget {short}"


def test_the_effectiveness_budget() -> None:
    """Within 1e-12, relative, and no more."""
    value = build().metrics.effectiveness
    for enough in (value, value * (1 + 1e-9), value * (1 - 0.9e-12)):
        assert violations(spec_of(effectiveness=enough), build()) == []
    for short in (value * (1 - 1.1e-12), value * (1 - 1e-9), value / 2):
        (sentence,) = violations(spec_of(effectiveness=short), build())
        assert sentence.startswith(f"effectiveness {value} exceeds the budget {short}")


def test_every_budget_at_once() -> None:
    found = violations(spec_of(macs=1, params=1, layers=1, effectiveness=1e-6), build())
    assert [sentence.split()[0] for sentence in found] == ["macs", "params", "effectiveness", "layers"]


@pytest.mark.parametrize("key", build().metrics.content())
def test_a_tampered_metric(key: str) -> None:
    design = build()
    value = getattr(design.metrics, key)
    for wrong in (value + 1, value - 1):
        tampered = dataclasses.replace(design, metrics=dataclasses.replace(design.metrics, **{key: wrong}))
        (sentence,) = violations(spec_of(), tampered)
        assert f"metrics.{key}" in sentence
        assert repr(wrong) in sentence


def test_a_penalty_and_score_for_another_beta() -> None:
    """Consistent in itself, which loading accepts, but not the spec's objective."""
    design = build(beta=1.0)
    design.check()
    found = violations(spec_of(), design)
    assert found
    assert "metrics." in found[0]


def test_budgets_are_checked_on_what_is_measured_not_on_what_is_stored() -> None:
    design = build()
    tampered = dataclasses.replace(design, metrics=dataclasses.replace(design.metrics, macs=1))
    found = violations(spec_of(macs=2), tampered)
    assert any(f"macs {design.metrics.macs} exceeds the budget 2" in sentence for sentence in found)


@given(pair=architecture_and_spec(), shares=st.tuples(*[st.floats(0.5, 1.5)] * 4))
@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_budgets_are_kept_exactly_when_the_oracle_says(
    pair: tuple[oracle.Best, Spec], shares: tuple[float, ...]
) -> None:
    architecture, spec = pair
    keys = ("macs", "params", "effectiveness", "layers")
    budget = Budget(**{key: getattr(architecture, key) * share for key, share in zip(keys, shares, strict=True)})
    found = violations(dataclasses.replace(spec, budget=budget), decoded(architecture, spec))
    assert (found == []) == oracle.fits(budget, architecture)
