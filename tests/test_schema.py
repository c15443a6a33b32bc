"""The JSON Schema and docs/spec.md against the reader, the zoo, and specs that are wrong."""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mad_ip.cli import main
from mad_ip.errors import InputError
from mad_ip.keys import json_schema
from mad_ip.kinds import KINDS, spec_kind
from mad_ip.mlp.spec import KEYS as MLP_KEYS
from mad_ip.mlp.spec import MlpSpec
from mad_ip.spec import KEYS, Spec
from tools import reference
from tools.markdown import insert

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / reference.DOCUMENT).read_text(encoding="utf-8")
SCHEMA = json_schema("spec.toml", KEYS)
SPECS = [
    path
    for folder in ("models", "examples", "tests/data")
    for path in sorted((ROOT / folder).rglob("*.toml"))
    if "stage" in (content := tomllib.loads(path.read_text(encoding="utf-8"))) or content.get("kind") == "mlp"
]

FULL: dict[str, Any] = tomllib.loads("""
name = "full"
convention = "tinynas"
input = {resolution = 64, channels = 1, classes = 0, frames = 4}
budget = {macs = 1e9, params = 100_000, effectiveness = 0.5, layers = 50, activation = "256 kB", flash = 1e6}
space = {monotone = false, growth = 4, mid_ratio = [0.5, 6]}
stem = {kernel = 3, stride = 2, channels = 8, weight = 1, temporal_kernel = 3, temporal_stride = 2}
stage = [
    {block = "inverted", stride = 2, channels = [8, 16], mid = {min = 8, max = 64}, kernel = [3, 5], depth = 2},
    {block = "inverted_se", stride = 1, channels = 24, mid = [24], kernel = 3, depth = {min = 1, max = 4, step = 3}},
]
tail = {channels = [64]}
device = {name = "d", activation_bytes = 2, weight_bytes = 4, channel_bytes = 4, memory = "in-place"}
[objective]
depth_penalty = 0
entropy = 0.5
[[objective.utility]]
stage = 1
channels = {8 = 0.0, 16 = -1}
depth = {linear = 2}
[[objective.utility]]
stage = "tail"
channels = {log = 1.5, square = 0}
""")

MISSING = object()

WRONG = [
    ("name", 3),
    ("name", " "),
    ("nme", "a"),
    ("convention", "deepmad"),
    ("input", 3),
    ("input.resolution", MISSING),
    ("input.resolution", 64.5),
    ("input.resolution", "64"),
    ("input.resolution", True),
    ("input.classes", -1),
    ("input.frames", 0),
    ("input.size", 3),
    ("budget.macs", -1),
    ("budget.macs", "1 GMACs"),
    ("budget.macs", math.inf),
    ("budget.flops", 1),
    ("budget.effectiveness", 0),
    ("budget.activation", "256 kb"),
    ("budget.flash", "1"),
    ("budget.latency", 8),
    ("budget.latency", "8 minutes"),
    ("device", "stm32"),
    ("device.memory", "flat"),
    ("device.weight_bytes", 9),
    ("device.interpolate", 1),
    ("device.latency", {"model": "cubic"}),
    ("device.latency", {"model": "affine", "kinds": {"dense": {"mac": 1.0}}}),
    ("device.latency", {"model": "affine", "kinds": {"conv": {"macs": 1.0}}}),
    ("objective.depth_penalty", -1),
    ("objective.utility", []),
    ("objective.utility.0.stage", 0),
    ("objective.utility.0.stage", "head"),
    ("objective.utility.0.width", {"log": 1.0}),
    ("objective.utility.0.channels", {"8": "a"}),
    ("objective.utility.0.channels", {"8": 1.0, "log": 1.0}),
    ("objective.utility.0.channels", {}),
    ("objective.utility.0", {"stage": 1}),
    ("space.monotone", "yes"),
    ("space.growth", 0),
    ("space.mid_ratio", [1]),
    ("space.mid_ratio", [-1, 1]),
    ("stem", MISSING),
    ("stem.kernel", 4),
    ("stem.kernel", [3]),
    ("stem.weight", -1),
    ("stem.temporal_kernel", 2),
    ("stage", []),
    ("stage.0.block", "resnet"),
    ("stage.0.block", MISSING),
    ("stage.0.stride", 3),
    ("stage.0.channels", []),
    ("stage.0.channels", 0),
    ("stage.0.channels", "8"),
    ("stage.0.channels", {"min": 8}),
    ("stage.0.channels", {"min": 8, "max": 16, "by": 8}),
    ("stage.0.channels", {"min": 8, "max": 16, "step": 0}),
    ("stage.0.kernel", [3, 4]),
    ("stage.0.depth", [1.5]),
    ("tail.channels", MISSING),
    ("tail.kernel", 1),
]


def changed(place: str, value: Any) -> dict[str, Any]:
    """FULL with another value at a place, or without it."""
    content = copy.deepcopy(FULL)
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    at: Any = content
    for part in path:
        at = at[part]
    if value is MISSING:
        del at[last]
    else:
        at[last] = value
    return content


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All keys of a schema at any depth, with what it says of each."""
    yield from schema.get("properties", {}).items()
    for value in schema.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from properties(part)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.noun)
def test_it_is_a_schema(kind: Any) -> None:
    jsonschema.Draft7Validator.check_schema(json_schema("spec.toml", kind.keys))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_specs_are_valid(path: Path) -> None:
    schema = json_schema("spec.toml", spec_kind(path).keys)
    jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), schema, jsonschema.Draft7Validator)


def test_the_zoo_is_among_them() -> None:
    assert len(SPECS) > 15
    assert any(spec_kind(path).noun == "an MLP" for path in SPECS)


def test_every_key_is_accepted_by_both() -> None:
    jsonschema.validate(FULL, SCHEMA, jsonschema.Draft7Validator)
    Spec.from_table(FULL)


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_what_is_wrong_is_rejected_by_both(place: str, value: Any) -> None:
    content = changed(place, value)
    with pytest.raises(InputError):
        Spec.from_table(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    "change", [{"kind": "cnn"}, {"space": {"widths": [], "depth": 1}}, {"input": {}}, {"budget": {"flash": 1}}]
)
def test_a_wrong_mlp_is_rejected_by_both(change: dict[str, Any]) -> None:
    right = {"kind": "mlp", "name": "m", "input": {"features": 4, "classes": 2}, "space": {"widths": [8], "depth": 2}}
    schema = json_schema("spec.toml", MLP_KEYS)
    jsonschema.validate(right, schema, jsonschema.Draft7Validator)
    MlpSpec.from_table(right)
    with pytest.raises(InputError):
        MlpSpec.from_table({**right, **change})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**right, **change}, schema, jsonschema.Draft7Validator)


def test_its_defaults_are_those_of_a_spec_that_gives_none() -> None:
    content = {key: FULL[key] for key in ("name", "stem", "stage")} | {"input": {"resolution": 64}}
    content["stem"] = {key: value for key, value in FULL["stem"].items() if "temporal" not in key}
    spec = Spec.from_table(content)
    assert SCHEMA["properties"]["convention"]["default"] == spec.convention
    number = 0
    for section in ("input", "objective", "space"):
        for key, said in SCHEMA["properties"][section]["properties"].items():
            if "default" in said:
                assert said["default"] == getattr(getattr(spec, section), key)
                number += 1
    assert number == 5  # channels, classes, depth_penalty, entropy, monotone


# Keys that are missing or unknown -------------------------------------------------------------------------------------


def test_all_missing_and_unknown_keys_are_told_at_once() -> None:
    content = changed("input.resolution", MISSING)
    content["stage"][1]["blok"] = content["stage"][1].pop("block")
    content["stem"]["channels"] = {"min": 8, "by": 8}
    content["laetncy"] = 3
    with pytest.raises(InputError) as caught:
        Spec.from_table(content, source="file.toml")
    sentence = str(caught.value)
    assert sentence.startswith("file.toml: laetncy = 3: unknown key; allowed are name, convention, ")
    for part in (
        "; input.resolution is missing: must be an integer of at least 1 and at most 65536; ",
        "; stem.channels.by = 8: unknown key; allowed are min, max, step; ",
        "; stem.channels.max is missing: must be an integer of at least 1; ",
        "; stage[2].blok = 'inverted_se': unknown key; allowed are block, ",
    ):
        assert part in sentence
    assert sentence.endswith("; stage[2].block is missing: must be one of basic, bottleneck, inverted, inverted_se")
    assert "\n" not in sentence


def test_an_empty_file_names_all_that_it_needs() -> None:
    with pytest.raises(InputError) as caught:
        Spec.from_table({}, source="file.toml")
    assert re.findall(r"(\w+) is missing", str(caught.value)) == ["name", "input", "stem", "stage"]
    with pytest.raises(InputError) as caught:
        MlpSpec.from_table({"kind": "mlp"}, source="file.toml")
    assert re.findall(r"(\w+) is missing", str(caught.value)) == ["name", "input", "space"]


# The document and the command -----------------------------------------------------------------------------------------


def test_the_document_has_the_tables_of_the_declarations() -> None:
    text = DOCUMENT
    for name, content in reference.contents().items():
        text = insert(text, name, content)
    assert text == DOCUMENT, "python -m tools.reference writes them"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.noun)
def test_the_document_has_every_key_of_the_schema(kind: Any) -> None:
    rows = {(name, line) for line in DOCUMENT.splitlines() for name in re.findall(r"^\| `(\w+)` \|", line)}
    found = list(properties(json_schema("spec.toml", kind.keys)))
    assert len(found) > 5
    for name, said in found:
        lines = [line for known, line in rows if known == name]
        meaning, _, _ = said["description"].partition(", ")
        assert any(meaning in line for line in lines), name
        if isinstance(said.get("default"), int | float):
            assert any(f"`{json.dumps(said['default'])}`" in line for line in lines), name


def test_the_examples_of_the_document_are_read() -> None:
    whole, *parts = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    Spec.from_table(tomllib.loads(whole))
    assert len(parts) > 3
    for part in parts:
        tomllib.loads(part)
    for family in SCHEMA["properties"]["stage"]["items"]["properties"]["block"]["enum"]:
        assert f"| `{family}` |" in DOCUMENT


def test_the_command_prints_or_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["mad-ip", "schema", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    assert run() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["properties"] == SCHEMA["properties"]
    assert run("--kind", "mlp", "--out", tmp_path / "schema.json") == 0
    written = json.loads((tmp_path / "schema.json").read_text())
    assert written["properties"]["kind"]["enum"] == ["mlp"]
    assert run("--kind", "rnn") == 2
    assert "--kind = rnn: must be one of cnn, mlp" in capsys.readouterr().err
