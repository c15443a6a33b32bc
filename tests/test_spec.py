"""spec.toml: what it accepts, what it means, and the one clear sentence for everything else."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import spec_tables

from mad_ip.errors import InputError, MadIpError
from mad_ip.spec import Budget, Input, Objective, Space, Spec, Stage, Stem, Tail, default_weights

VALID = """\
name = "deepmad-r18"
convention = "tinynas"

[input]
resolution = 224
channels = 1
classes = 10

[budget]
macs = 1.82e9
params = 11_690_000
effectiveness = 0.3
layers = 150

[objective]
depth_penalty = 5

[space]
monotone = false
growth = 4.0
mid_ratio = [0.1, 1.0]

[stem]
kernel = 3
stride = 2
channels = [32, 16, 24, 16]
weight = 0.5

[[stage]]
block = "bottleneck"
stride = 2
weight = 2
channels = {min = 32, max = 128, step = 32}
mid = [16, 24]
kernel = [3, 5]
depth = {min = 1, max = 4}

[[stage]]
block = "inverted_se"
stride = 1
channels = 96
mid = 64
kernel = 7
depth = [1, 2, 5]

[tail]
channels = [1280]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


def with_line(text: str, old: str, new: str) -> str:
    """``text`` with one line (the first of several equal ones) replaced by ``new``, nothing to remove it."""
    lines = text.splitlines()
    lines[lines.index(old)] = new
    return "\n".join(lines) + "\n"


def rejection(path: Path) -> str:
    """The one sentence that says why the file is rejected; it names the file."""
    with pytest.raises(InputError) as caught:
        Spec.load(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path}: ")
    assert len(sentence) < len(str(path)) + 400
    assert isinstance(caught.value, MadIpError)
    assert caught.value.exit_code != 0
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no chain of tracebacks
    return sentence.removeprefix(f"{path}: ")


# What it means -------------------------------------------------------------------------------------------------------


def test_every_key_arrives(tmp_path: Path) -> None:
    path = write(tmp_path, VALID)
    spec = Spec.load(path)
    assert spec == Spec(
        name="deepmad-r18",
        convention="tinynas",
        input=Input(resolution=224, channels=1, classes=10),
        budget=Budget(macs=1.82e9, params=11_690_000, effectiveness=0.3, layers=150),
        objective=Objective(depth_penalty=5),
        space=Space(monotone=False, growth=4.0, mid_ratio=(0.1, 1.0)),
        stem=Stem(kernel=3, stride=2, channels=(16, 24, 32), weight=0.5),
        stages=(
            Stage("bottleneck", 2, (32, 64, 96, 128), (16, 24), (3, 5), (1, 2, 3, 4), 2),
            Stage("inverted_se", 1, (96,), (64,), (7,), (1, 2, 5), 8),
        ),
        tail=Tail((1280,)),
    )
    assert spec.sha256 == hashlib.sha256(VALID.encode()).hexdigest()
    assert spec.source == str(path)


def test_defaults(tmp_path: Path) -> None:
    text = """
        name = "small"
        input.resolution = 32
        stem = {kernel = 3, stride = 2, channels = [8]}
        [[stage]]
        block = "basic"
        stride = 2
        channels = [8]
        mid = [8]
        kernel = [3]
        depth = [1]
    """
    spec = Spec.load(write(tmp_path, text))
    assert spec.convention == "paper"
    assert spec.input == Input(resolution=32, channels=3, classes=1000)
    assert spec.budget == Budget(macs=None, params=None, effectiveness=None, layers=None)
    assert spec.objective.depth_penalty == 10
    assert spec.space == Space(monotone=True, growth=None, mid_ratio=None)
    assert spec.tail is None
    assert spec.stem.weight == 1
    assert spec.stages[0].weight == 8


def test_a_spec_of_a_table_has_the_hash_of_its_text() -> None:
    spec = Spec.from_table(tomllib.loads(VALID))
    assert spec.sha256 == hashlib.sha256(spec.to_toml().encode()).hexdigest()


@pytest.mark.parametrize(
    ("strides", "weights"),
    [
        ([2, 2, 2, 1, 2], [1, 1, 1, 0, 1, 8]),  # the paper's: 1, 1, 1, 1, 8 over five resolutions
        ([1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 8]),  # DeepMAD-29M: the stem does not end its resolution
        ([2], [1, 8]),
        ([1], [0, 8]),
        ([1, 1, 1], [0, 0, 0, 8]),
        ([2, 1], [1, 0, 8]),
    ],
)
def test_default_weights(strides: list[int], weights: list[float]) -> None:
    assert list(default_weights(strides)) == weights
    table = tomllib.loads(with_line(VALID, "weight = 0.5", ""))
    stage = {key: value for key, value in table["stage"][1].items() if key != "stride"}
    table["stage"] = [{**stage, "stride": stride, "kernel": 1} for stride in strides]
    spec = Spec.from_table(table)
    assert [spec.stem.weight, *(stage.weight for stage in spec.stages)] == weights


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("{min = 8, max = 24, step = 8}", (8, 16, 24)),  # inclusive
        ("{min = 8, max = 23, step = 8}", (8, 16)),
        ("{min = 8, max = 10}", (8, 9, 10)),
        ("{min = 8, max = 8, step = 100}", (8,)),
        ("[24, 8, 8, 16]", (8, 16, 24)),
        ("12", (12,)),
    ],
)
def test_domains(tmp_path: Path, written: str, values: tuple[int, ...]) -> None:
    spec = Spec.load(write(tmp_path, with_line(VALID, "channels = [32, 16, 24, 16]", f"channels = {written}")))
    assert spec.stem.channels == values


def test_resolutions(tmp_path: Path) -> None:
    assert Spec.load(write(tmp_path, VALID)).resolutions == (112, 56, 56)


@pytest.mark.parametrize("number", [1, 3, 4, 5])
@pytest.mark.parametrize("convention", ["paper", "tinynas"])
def test_penalised_stages(number: int, convention: str) -> None:
    """All stages; the third to the last in ``tinynas`` with four or more."""
    table = tomllib.loads(VALID)
    table["convention"] = convention
    table["stage"] = [table["stage"][1]] * number
    spec = Spec.from_table(table)
    stages = list(range(1, number + 1))
    expected = stages[2:] if convention == "tinynas" and number >= 4 else stages
    assert stages[spec.penalised] == expected


def test_growth_and_mid_ratio_are_inclusive_decimals() -> None:
    """In floats 1.15 * 100 is 114.99999999999999 and 0.07 * 100 is 7.000000000000001: bounds must keep their own."""
    assert 1.15 * 100 < 115
    assert Space(growth=1.15).follows(100, 115)
    assert not Space(growth=1.15).follows(100, 116)
    assert 0.07 * 100 > 7
    assert Space(mid_ratio=(0.07, 1.0)).carries(7, 100)
    assert not Space(mid_ratio=(0.07, 1.0)).carries(6, 100)
    assert 0.29 * 100 < 29
    assert Space(mid_ratio=(0.0, 0.29)).carries(29, 100)
    assert not Space(mid_ratio=(0.0, 0.29)).carries(30, 100)
    assert Space().follows(8, 8)
    assert not Space().follows(8, 7)
    assert Space(monotone=False).follows(8, 7)


@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.integers(1, 400),
    st.integers(0, 100),
    st.integers(0, 100),
    st.booleans(),
)
@settings(derandomize=True, deadline=None)
def test_rules_are_those_of_exact_arithmetic(
    one: int, other: int, growth: int, low: int, width: int, monotone: bool
) -> None:
    space = Space(monotone=monotone, growth=growth / 100, mid_ratio=(low / 100, (low + width) / 100))
    follows = (not monotone or one <= other) and 100 * other <= growth * one
    carries = low * other <= 100 * one <= (low + width) * other
    assert space.follows(one, other) == follows
    assert space.carries(one, other) == carries
    assert oracle.follows(space, one, other) == follows
    assert oracle.carries(space, one, other) == carries


# Round trips ---------------------------------------------------------------------------------------------------------


def test_round_trip_of_every_key() -> None:
    spec = Spec.from_table(tomllib.loads(VALID))
    assert Spec.from_table(tomllib.loads(spec.to_toml())) == spec


budgets = st.none() | st.floats(1e-6, 1e15) | st.integers(1, 10**15)


@given(
    table=spec_tables(),
    budget=st.fixed_dictionaries({}, optional=dict.fromkeys(("macs", "params", "effectiveness", "layers"), budgets)),
)
@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(table: dict[str, Any], budget: dict[str, float | None]) -> None:
    limits = {key: value for key, value in budget.items() if value is not None}
    spec = Spec.from_table({**table, "budget": limits})
    text = spec.to_toml()
    again = Spec.from_table(tomllib.loads(text))
    assert again == spec
    assert again.to_toml() == text
    assert again.sha256 == spec.sha256


@given(name=st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
@settings(derandomize=True, deadline=None)
def test_round_trip_of_any_name(name: str) -> None:
    spec = Spec.from_table({**tomllib.loads(VALID), "name": name})
    assert tomllib.loads(spec.to_toml())["name"] == name


# One sentence for everything else ------------------------------------------------------------------------------------

STEM = "channels = [32, 16, 24, 16]"
RANGE = "channels = {min = 32, max = 128, step = 32}"
NO_LINE = ""

BAD_LINES = [
    # (line of VALID, what replaces it, parts of the sentence: key, value, what is allowed)
    # unknown keys, at the top and nested
    ('name = "deepmad-r18"', 'nme = "a"\nname = "b"', ["nme", "'a'", "unknown", "name, convention, input"]),
    ('name = "deepmad-r18"', "name = 'b'\nlatency = {ms = 3}", ["latency", "unknown", "budget"]),
    ("resolution = 224", "resolution = 224\nsize = 3", ["input.size", "3", "unknown", "resolution"]),
    ("macs = 1.82e9", "macs = 1.82e9\nflops = 7", ["budget.flops", "7", "unknown", "macs"]),
    ("depth_penalty = 5", "depth_penalty = 5\nbeta = 5", ["objective.beta", "5", "unknown", "depth_penalty"]),
    ("monotone = false", "monotone = false\nmono = true", ["space.mono ", "True", "unknown", "monotone"]),
    ("weight = 0.5", "weight = 0.5\nmid = 3", ["stem.mid", "3", "unknown", "kernel"]),
    ('block = "inverted_se"', 'block = "inverted_se"\nse = 4', ["stage[2].se", "4", "unknown", "depth"]),
    ("channels = [1280]", "channels = [1280]\nkernel = 1", ["tail.kernel", "1", "unknown", "channels"]),
    (RANGE, "channels = {min = 32, max = 64, by = 2}", ["stage[1].channels.by", "2", "unknown", "step"]),
    # missing keys and tables
    ('name = "deepmad-r18"', NO_LINE, ["name", "missing", "text"]),
    ("resolution = 224", NO_LINE, ["input.resolution", "missing", "integer of at least 1"]),
    ('block = "bottleneck"', NO_LINE, ["stage[1].block", "missing", "basic, bottleneck, inverted, inverted_se"]),
    ("stride = 1", NO_LINE, ["stage[2].stride", "missing", "1 or 2"]),
    ("mid = 64", NO_LINE, ["stage[2].mid", "missing", "list"]),
    ("kernel = 7", NO_LINE, ["stage[2].kernel", "missing"]),
    ("depth = [1, 2, 5]", NO_LINE, ["stage[2].depth", "missing"]),
    (STEM, NO_LINE, ["stem.channels", "missing"]),
    ("channels = [1280]", NO_LINE, ["tail.channels", "missing"]),
    (RANGE, "channels = {max = 64}", ["stage[1].channels.min", "missing"]),
    # empty domains
    (STEM, "channels = []", ["stem.channels", "[]", "at least one integer"]),
    (RANGE, "channels = {min = 64, max = 32}", ["stage[1].channels", "64", "32", "min <= max"]),
    ("mid = [16, 24]", "mid = []", ["stage[1].mid", "[]", "at least one integer"]),
    ("depth = [1, 2, 5]", "depth = {}", ["stage[2].depth.min", "missing"]),
    ("channels = [1280]", "channels = []", ["tail.channels", "[]", "at least one integer"]),
    # even kernels, and kernels that are larger than the feature map
    ("kernel = 3", "kernel = 4", ["stem.kernel", "4", "odd integer"]),
    ("kernel = 7", "kernel = 6", ["stage[2].kernel", "6", "odd integers"]),
    ("kernel = [3, 5]", "kernel = [3, 4, 5]", ["stage[1].kernel", "4", "odd integers"]),
    ("kernel = [3, 5]", "kernel = {min = 3, max = 5}", ["stage[1].kernel", "4", "odd integers"]),
    ("kernel = 3", "kernel = 225", ["stem.kernel", "225", "224 x 224", "at most 224"]),
    ("kernel = 7", "kernel = 57", ["stage[2].kernel", "57", "56 x 56", "at most 56"]),
    ("kernel = [3, 5]", "kernel = [3, 57]", ["stage[1].kernel", "57", "56 x 56", "at most 56"]),
    # strides that do not divide the resolution, or that are no strides
    ("resolution = 224", "resolution = 225", ["stem.stride", "2", "225", "multiple"]),
    ("resolution = 224", "resolution = 226", ["stage[1].stride", "2", "113", "input.resolution = 226", "multiple"]),
    ("stride = 1", "stride = 3", ["stage[2].stride", "3", "1 or 2"]),
    ("stride = 1", "stride = 0", ["stage[2].stride", "0", "1 or 2"]),
    # numbers out of bounds
    ("resolution = 224", "resolution = 0", ["input.resolution", "0", "at least 1"]),
    ("channels = 1", "channels = 0", ["input.channels", "0", "at least 1"]),
    ("classes = 10", "classes = -1", ["input.classes", "-1", "at least 0"]),
    ("macs = 1.82e9", "macs = -1", ["budget.macs", "-1", "greater than 0"]),
    ("params = 11_690_000", "params = 0", ["budget.params", "0", "greater than 0"]),
    ("effectiveness = 0.3", "effectiveness = -0.3", ["budget.effectiveness", "-0.3", "greater than 0"]),
    ("layers = 150", "layers = -5", ["budget.layers", "-5", "greater than 0"]),
    ("depth_penalty = 5", "depth_penalty = -1", ["objective.depth_penalty", "-1", "at least 0"]),
    ("growth = 4.0", "growth = 0", ["space.growth", "0", "greater than 0"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [0.5, 0.2]", ["space.mid_ratio", "0.5", "0.2", "low <= high"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [-0.5, 0.2]", ["space.mid_ratio", "-0.5", "0 <= low"]),
    ("weight = 0.5", "weight = -0.5", ["stem.weight", "-0.5", "at least 0"]),
    ("weight = 2", "weight = -2", ["stage[1].weight", "-2", "at least 0"]),
    ("mid = [16, 24]", "mid = [0, 24]", ["stage[1].mid", "0", "at least 1"]),
    ("depth = [1, 2, 5]", "depth = [0, 1]", ["stage[2].depth", "0", "at least 1"]),
    ("depth = [1, 2, 5]", "depth = {min = 0, max = 3}", ["stage[2].depth.min", "0", "at least 1"]),
    (RANGE, "channels = {min = 32, max = 64, step = 0}", ["stage[1].channels.step", "0", "at least 1"]),
    (RANGE, "channels = {min = 1, max = 9_000_000_000}", ["stage[1].channels", "9000000000", "at most"]),
    # NaN and infinities
    ("macs = 1.82e9", "macs = nan", ["budget.macs", "nan", "finite"]),
    ("macs = 1.82e9", "macs = inf", ["budget.macs", "inf", "finite"]),
    ("effectiveness = 0.3", "effectiveness = nan", ["budget.effectiveness", "nan", "finite"]),
    ("depth_penalty = 5", "depth_penalty = inf", ["objective.depth_penalty", "inf", "finite"]),
    ("depth_penalty = 5", "depth_penalty = -inf", ["objective.depth_penalty", "-inf", "finite"]),
    ("growth = 4.0", "growth = nan", ["space.growth", "nan", "finite"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [0.1, inf]", ["space.mid_ratio", "inf", "finite"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [nan, 1.0]", ["space.mid_ratio", "nan", "finite"]),
    ("weight = 2", "weight = nan", ["stage[1].weight", "nan", "finite"]),
    # types
    ('name = "deepmad-r18"', "name = 18", ["name", "18", "text"]),
    ('name = "deepmad-r18"', 'name = "  "', ["name", "'  '", "not empty"]),
    ('convention = "tinynas"', 'convention = "deepmad"', ["convention", "'deepmad'", "paper, tinynas"]),
    ('convention = "tinynas"', "convention = ['paper']", ["convention", "['paper']", "paper, tinynas"]),
    ('block = "bottleneck"', 'block = "resnet"', ["stage[1].block", "'resnet'", "basic, bottleneck"]),
    ("resolution = 224", "resolution = true", ["input.resolution", "True", "integer"]),
    ("resolution = 224", "resolution = 224.0", ["input.resolution", "224.0", "integer"]),
    ("classes = 10", "classes = false", ["input.classes", "False", "integer"]),
    ("stride = 1", "stride = true", ["stage[2].stride", "True", "1 or 2"]),
    ("kernel = 7", "kernel = true", ["stage[2].kernel", "True"]),
    ("macs = 1.82e9", "macs = true", ["budget.macs", "True", "number"]),
    ("macs = 1.82e9", "macs = '1.82e9'", ["budget.macs", "'1.82e9'", "number"]),
    ("layers = 150", "layers = [150]", ["budget.layers", "[150]", "number"]),
    ("monotone = false", "monotone = 0", ["space.monotone", "0", "true or false"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = 0.5", ["space.mid_ratio", "0.5", "two finite numbers"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [0.1]", ["space.mid_ratio", "[0.1]", "two finite numbers"]),
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [false, true]", ["space.mid_ratio", "False", "two finite numbers"]),
    (STEM, "channels = [16, true]", ["stem.channels", "True", "integers"]),
    (STEM, "channels = [16, 24.0]", ["stem.channels", "24.0", "integers"]),
    (STEM, "channels = '16'", ["stem.channels", "'16'", "integer"]),
    (RANGE, "channels = {min = 32, max = 64.0}", ["stage[1].channels.max", "64.0", "integer"]),
    # rules that leave no choice
    ("mid_ratio = [0.1, 1.0]", "mid_ratio = [0.9, 1.0]", ["space.mid_ratio", "0.9", "stage[1]", "at least one"]),
    ("growth = 4.0", "growth = 0.9", ["space.growth", "0.9", "stage[1].channels", "[32, 64, 96, 128]", "at least one"]),
    ("channels = 96", "channels = 600", ["space.growth", "4.0", "stage[2]", "600", "at least one"]),
]


@pytest.mark.parametrize(("line", "replacement", "parts"), BAD_LINES)
def test_bad_line(tmp_path: Path, line: str, replacement: str, parts: list[str]) -> None:
    sentence = rejection(write(tmp_path, with_line(VALID, line, replacement)))
    key, *others = parts
    assert sentence.startswith(key) or f" {key}" in sentence
    for part in others:
        assert part in sentence


def test_monotone_that_empties_the_path(tmp_path: Path) -> None:
    text = with_line(VALID, "monotone = false", "monotone = true").replace("channels = 96", "channels = 24")
    text = with_line(text, "mid_ratio = [0.1, 1.0]", "")
    sentence = rejection(write(tmp_path, text))
    for part in ("space.monotone = true", "stage[2].channels", "24", "[32, 64, 96, 128]", "at least one"):
        assert part in sentence


def test_monotone_that_leaves_one_path(tmp_path: Path) -> None:
    """The stem's 32 and the stage's 32 alone go on to 32."""
    text = with_line(VALID, "monotone = false", "monotone = true").replace("channels = 96", "channels = 32")
    text = with_line(with_line(text, "mid_ratio = [0.1, 1.0]", ""), STEM, "channels = [32, 40]")
    assert oracle.count(Spec.load(write(tmp_path, text))) == 2 * 2 * 4 * 3  # mids, kernels, depths of 1 and of 2


@pytest.mark.parametrize("size", [16, 15])
def test_a_kernel_as_large_as_the_map(tmp_path: Path, size: int) -> None:
    """15 fits on 16 x 16 and on 15 x 15 pixels, 17 on neither."""
    text = with_line(VALID, "resolution = 224", f"resolution = {4 * size}")
    Spec.load(write(tmp_path, with_line(text, "kernel = 7", "kernel = 15")))
    sentence = rejection(write(tmp_path, with_line(text, "kernel = 7", "kernel = 17")))
    assert f"at most {size}" in sentence


@pytest.mark.parametrize("header", ["[input]", "[stem]"])
def test_missing_table(tmp_path: Path, header: str) -> None:
    table = tomllib.loads(VALID)
    del table[header.strip("[]")]
    with pytest.raises(InputError, match=f"^file.toml: {header.strip('[]')} is missing: must be a table ") as caught:
        Spec.from_table(table, source="file.toml")
    assert header in str(caught.value)


@pytest.mark.parametrize("stage", ["", "stage = []", "[stage]\nstride = 1", "stage = 3"])
def test_missing_stage(tmp_path: Path, stage: str) -> None:
    head = VALID[: VALID.index("[input]")]
    rest = VALID[VALID.index("[input]") : VALID.index("[[stage]]")]
    text = head + rest + stage if stage.startswith("[") else head + stage + "\n" + rest
    sentence = rejection(write(tmp_path, text))
    assert sentence.startswith("stage")
    assert "one or more tables [[stage]]" in sentence


def test_a_stage_that_is_no_table() -> None:
    table = tomllib.loads(VALID)
    with pytest.raises(InputError) as caught:
        Spec.from_table({**table, "stage": [*table["stage"], 3]}, source="file.toml")
    assert str(caught.value) == "file.toml: stage[3] = 3: must be a table"


@pytest.mark.parametrize("key", ["input", "stem", "budget", "objective", "space", "tail"])
@pytest.mark.parametrize("value", [3, [], "x", True])
def test_a_value_instead_of_a_table(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Spec.from_table({**tomllib.loads(VALID), key: value}, source="file.toml")
    assert str(caught.value) == f"file.toml: {key} = {value!r}: must be a table [{key}]"


def test_a_long_domain_is_not_listed_in_full(tmp_path: Path) -> None:
    text = with_line(VALID, STEM, "channels = {min = 4000, max = 8000}")
    text = with_line(text, "growth = 4.0", "growth = 0.001")
    assert "[4000, ..., 8000]" in rejection(write(tmp_path, text))


# Files that are none -------------------------------------------------------------------------------------------------


def test_not_toml(tmp_path: Path) -> None:
    assert "not a TOML file" in rejection(write(tmp_path, "name = \n[input"))
    assert "not a TOML file" in rejection(write(tmp_path, VALID + "[input]\n"))  # a table twice
    assert "not a TOML file" in rejection(write(tmp_path, '{"name": "json"}'))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(VALID.replace("deepmad", "größer").encode("latin-1"))
    assert "not a TOML file" in rejection(path)


def test_empty_file(tmp_path: Path) -> None:
    assert "missing" in rejection(write(tmp_path, ""))


def test_no_file(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in rejection(tmp_path / "none.toml")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in rejection(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests run as root every file may be read, so the system's answer is imitated."""
    path = write(tmp_path, VALID)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mad_ip.files.os.open", refuse)
    assert "cannot be read (Permission denied)" in rejection(path)


@pytest.mark.parametrize("zeros", [350, 5000])
@pytest.mark.parametrize(
    ("line", "replacement", "key"),
    [
        ("macs = 1.82e9", "macs = {}", "budget.macs"),
        ("growth = 4.0", "growth = {}.0", "space.growth"),
        ("mid_ratio = [0.1, 1.0]", "mid_ratio = [0, {}]", "space.mid_ratio"),
        ("weight = 2", "weight = {}", "stage[1].weight"),
    ],
)
def test_numbers_beyond_all_floats(tmp_path: Path, line: str, replacement: str, key: str, zeros: int) -> None:
    """10^350 is larger than every float; 10^5000 has more digits than Python's tomllib reads as an integer."""
    path = write(tmp_path, with_line(VALID, line, replacement.format("1" + "0" * zeros)))
    with pytest.raises(InputError) as caught:
        Spec.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert zeros == 5000 or key in str(caught.value)


def test_a_file_nested_beyond_reason(tmp_path: Path) -> None:
    assert "not a TOML file" in rejection(write(tmp_path, "x = " + "[" * 5000 + "]" * 5000 + "\n" + VALID))


def test_a_key_with_a_line_break(tmp_path: Path) -> None:
    assert "unknown key" in rejection(write(tmp_path, '"la\\ntency" = 1\n' + VALID))


@given(table=spec_tables(), data=st.data())
@settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_a_value_of_any_other_type_is_rejected_by_its_key(table: dict[str, Any], data: st.DataObject) -> None:
    """Whatever key is given a nonsensical value, the sentence names that key."""
    places = [(table["input"], "input.resolution", "resolution"), (table["stem"], "stem.kernel", "kernel")]
    for number, stage in enumerate(table["stage"], start=1):
        places += [(stage, f"stage[{number}].{key}", key) for key in ("block", "stride", "mid", "kernel", "depth")]
    where, name, key = data.draw(st.sampled_from(places))
    where[key] = data.draw(st.sampled_from([None, "", -1, 0, 2.5, True, [], [[]], {}, float("nan"), "x\ny"]))
    with pytest.raises(InputError) as caught:
        Spec.from_table(table, source="file.toml")
    assert str(caught.value).startswith(f"file.toml: {name}")
    assert "\n" not in str(caught.value)
