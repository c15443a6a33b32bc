"""The published DeepMAD networks measure as known, and designs of the same costs score higher."""

import dataclasses
from pathlib import Path

import pytest

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.solve import solve
from tools import published
from tools.markdown import insert
from tools.published import NETWORKS, SETTINGS, compare, published_table

FOLDER = Path(__file__).parent.parent / "models" / "published"

SECONDS = 300.0
"""Time limit of a comparison, which no machine should need."""

# name, MACs, parameters, effectiveness (None: not known), entropy: given with the task, not computed by this code.
KNOWN = [
    ("deepmad-r18", 1_811_574_016, 11_826_088, 0.2991, 64240.41),
    ("deepmad-r34", 3_634_913_856, 21_690_160, None, 86285.35),
    ("deepmad-r50", 4_042_761_408, 25_441_144, None, 97838.55),
    ("deepmad-29m-224", 4_324_042_160, 28_913_612, None, 38271.86),
]


def test_all_seven_networks_load():
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert names == {f"deepmad-{key}" for key in ("r18", "r34", "r50", "29m-224", "29m-288", "50m", "89m")}
    for name in names:
        design = Design.load(FOLDER / f"{name}.json")
        assert (design.name, design.spec_sha256, design.certificate) == (name, "", None)


@pytest.mark.parametrize(("name", "macs", "params", "effectiveness", "entropy"), KNOWN)
def test_published_numbers(name, macs, params, effectiveness, entropy):
    metrics = Design.load(FOLDER / f"{name}.json").metrics
    assert (metrics.macs, metrics.params) == (macs, params)
    if effectiveness is not None:
        assert metrics.effectiveness == pytest.approx(effectiveness, abs=5e-5)
    assert metrics.entropy == pytest.approx(entropy, abs=5e-3)


@pytest.mark.parametrize(("convention", "beta"), SETTINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_ours_is_better_at_the_same_costs(name, convention, beta, monkeypatch):
    """A feasible design that is better suffices here, its proof is in models/README.md."""
    theirs = dataclasses.replace(Design.load(FOLDER / f"{name}.json"), convention=convention).measure(beta)
    scores = []

    def until_better(spec, **options):
        return solve(
            spec,
            **options,
            watch=lambda report: scores.append(report.score),
            interrupted=lambda: bool(scores) and scores[-1] > theirs.score,
        )

    monkeypatch.setattr(published, "solve", until_better)
    comparison = compare(name, convention, beta, time_limit=SECONDS)
    assert comparison.theirs == theirs
    ours = comparison.ours.metrics
    assert ours.score > theirs.score
    if beta == 0:
        assert ours.entropy > theirs.entropy
    assert ours.macs <= theirs.macs
    assert ours.params <= theirs.params
    assert ours.effectiveness <= theirs.effectiveness * (1 + 1e-12)
    channels = [comparison.ours.stem.channels, *(stage.channels for stage in comparison.ours.stages)]
    assert channels == sorted(channels)
    assert len(published_table([comparison]).splitlines()) == 3


def test_published_r18_goes_back_in_channels():
    assert [stage.channels for stage in Design.load(FOLDER / "deepmad-r18.json").stages][-2:] == [1024, 672]


def test_tinynas_halves_the_entropy_of_a_published_network():
    design = Design.load(FOLDER / "deepmad-r18.json")
    halved = dataclasses.replace(design, convention="tinynas").measure(10.0)
    assert halved.entropy == pytest.approx(design.metrics.entropy / 2)


def test_insert_replaces_only_what_is_between_the_markers():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    once = insert(text, "x", "| new |")
    assert once == "a\n<!-- x:begin -->\n| new |\n<!-- x:end -->\nb\n"
    assert insert(once, "x", "| new |") == once


@pytest.mark.parametrize("text", ["", "<!-- x:end --> <!-- x:begin -->", "<!-- x:begin -->"])
def test_insert_needs_both_markers(text):
    with pytest.raises(InputError, match="markers"):
        insert(text, "x", "", "README.md")


def test_a_missing_model_is_named(monkeypatch):
    monkeypatch.setattr(published, "resource", lambda name: None)
    with pytest.raises(InputError, match="models/published/none"):
        compare("none", "paper", 10.0)
