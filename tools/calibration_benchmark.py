"""How well calibration on few networks ranks a tabular benchmark: ``python tools/calibration_benchmark.py TABLE``.

TABLE is a .json (an object of networks by their digits, or a list of networks) or a .csv. Every network has digits,
one for each of its choices, accuracies of some runs or their mean, MACs (or FLOPs) and parameters; :data:`NAMES` has
what they may be called. Channel-Bench-Macro and NAS-Bench-Macro (Su et al.) are such tables. A network may be written
in digits in several ways; which of them serves is found with the rest.

For each of 20 seeds, 100 random networks are calibrated on by the code of ``mad-ip calibrate``: the kind of score, its
priors and all other settings are chosen by cross-validation within the 100. The fitted score, a sum of utilities of the
digits, is judged on all networks of the table, the 100 among them: by its partial rank correlation with accuracy given
MACs and parameters (:func:`mad_ip.statistics.partial_correlation`), and by regret, the best accuracy within the median
of all MACs less that of the network with the largest score within it (the mean of equals). Beside it stand the regret
of the network with the most MACs within that budget and of the most accurate of the 100 within it. The last line has
the means over the seeds.

Whoever picks by measured accuracy picks noise, too, and is judged by the same noise. Where all networks have several
runs, the line before the last has the same figures for picking by the first run and judging by the mean of the others.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mad_ip import statistics
from mad_ip.errors import InputError
from mad_ip.files import finite, named, read_bytes
from mad_ip.statistics import Candidate, Position

__all__ = ["DRAWS", "SAMPLE", "Encoding", "Figures", "Result", "Table", "evaluate", "main", "read"]

DRAWS, SAMPLE = 20, 100

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NAMES = {
    "digits": ("arch", "architecture", "digits", "key", "encoding", "config", "code", "network"),
    "mean": ("mean", "mean_acc", "mean_accuracy", "mean_test_acc", "mean_test_accuracy", "acc_mean", "avg_acc"),
    "runs": ("test_acc", "test_accs", "test_accuracy", "acc", "accs", "accuracy", "accuracies", "val_acc", "valid_acc"),
    "macs": ("macs", "mac", "flops", "flop", "madds", "mult_adds", "num_macs", "mmacs", "gmacs", "mflops", "gflops"),
    "params": ("params", "param", "parameters", "num_params", "n_params", "params_m"),
}
"""What a quantity may be called, the best first, in capitals or not, with any separators.

A run may have a number behind it; digits may be called anything that ends in arch, else they come first.
"""

_NEEDED = {
    "digits": "its digits, as arch or in the first place",
    "mean": "measured accuracies, as acc1, acc2, ... or mean",
    "macs": "its cost, as macs or flops",
    "params": "its parameters, as params",
}


# ---- A table


@dataclass(frozen=True)
class Encoding:
    """Networks as ``choices`` (networks, positions), indices into the digits that there are at each position."""

    positions: tuple[Position, ...]
    choices: Integers


@dataclass(frozen=True)
class Table:
    """A benchmark in the order of its digits; accuracies in [0, 1], those of ``runs`` (networks, runs) if known."""

    encodings: tuple[Encoding, ...]
    accuracy: Floats
    runs: Floats | None
    macs: Floats
    params: Floats


def read(path: Path) -> Table:
    """Read a table; raise :class:`InputError` naming what is wrong with it."""
    text = _text(path)
    rows = (
        _json_rows(path, text) if path.suffix == ".json" or text.lstrip()[:1] in ("{", "[") else _csv_rows(path, text)
    )
    if len(rows) <= SAMPLE:
        raise InputError(f"{path}: has {len(rows)} networks; must have more than the {SAMPLE} that are calibrated on")
    keys = _keys(path, rows)
    own, *_ = keys["digits"]
    digits = {where: _digits(_value(path, where, row, own)) for where, row in rows.items()}
    twice, number = Counter(digits.values()).most_common(1)[0]
    if number > 1:
        raise InputError(f"{path}: has {own} = {''.join(twice)} {number} times; every network must be there once")
    rows = {where: rows[where] for where in sorted(digits, key=digits.__getitem__)}
    encodings = [_encoding(path, rows, key) for key in keys["digits"]]
    runs = _runs(path, rows, keys["runs"])
    mean = _column(path, rows, keys["mean"][0]) if keys["mean"] else np.asarray(runs).mean(axis=1)
    values = mean if runs is None else np.column_stack([mean, runs])
    for value in (values.min(), values.max()):
        if not 0 <= value <= 100:
            raise InputError(f"{path}: has an accuracy of {value:g}; must be from 0 to 1, or from 0 to 100 in percent")
    unit = 100.0 if values.max() > 1 else 1.0
    if unit > 1 and values.min() <= 1:
        raise InputError(
            f"{path}: has accuracies of {values.min():g} and of {values.max():g}; must all be from 0 to 1, or all "
            "above 1 and in percent; write fractions"
        )
    if np.ptp(mean) == 0:
        raise InputError(f"{path}: has the accuracy {mean[0]:g} for all networks; must differ")
    macs, params = (_column(path, rows, keys[key][0]) for key in ("macs", "params"))
    return Table(tuple(encodings), mean / unit, None if runs is None else runs / unit, macs, params)


_Rows = dict[str, dict[str, Any]]
"""Networks as they are written, by where they are in the file."""


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 ({error})") from None


def _json_rows(path: Path, text: str) -> _Rows:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, number in Counter(key for key, _ in pairs).items() if number > 1]
        if twice:
            raise InputError(f"{path}: has {named(twice[0])} twice; every key must be there once")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if isinstance(content, list):
        content = {f"network {number}": row for number, row in enumerate(content, start=1)}
        digits = {}
    elif isinstance(content, dict):
        digits = {key: {NAMES["digits"][0]: key} for key in content}
    else:
        raise InputError(f"{path}: must be a JSON object of networks by their digits, or a list of networks")
    for key, row in content.items():
        if not isinstance(row, Mapping):
            raise InputError(f"{path}: {named(key)} = {row!r}: must be a JSON object with what is known of a network")
    return {key: {**row, **digits.get(key, {})} for key, row in content.items()}


def _csv_rows(path: Path, text: str) -> _Rows:
    try:
        separator = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    if not lines:
        raise InputError(f"{path}: is empty; must be a table of networks, .json or .csv")
    header = [cell.strip() for cell in lines[0]]
    rows: _Rows = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number} has {len(line)} cells; must have {len(header)} like the header")
        rows[f"row {number}"] = dict(zip(header, (cell.strip() for cell in line), strict=True))
    return rows


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _keys(path: Path, rows: _Rows) -> dict[str, list[str]]:
    """The keys of each quantity of :data:`NAMES` that the first network has, the best first."""
    first = list(next(iter(rows.values())))
    names = {key: _plain(key) for key in first}
    stems = {key: name.rstrip("0123456789") or name for key, name in names.items()}
    found: dict[str, list[str]] = {}
    for quantity, known in NAMES.items():
        places = {_plain(name): place for place, name in enumerate(known)}
        called = stems if quantity == "runs" else names
        own = sorted((places[called[key]], place, key) for place, key in enumerate(first) if called[key] in places)
        found[quantity] = [key for rank, _, key in own if rank == own[0][0]]
    others = [key for key in first if names[key].endswith("arch") and key not in found["digits"]]
    taken = itertools.chain.from_iterable(found.values())
    found["digits"] = [*found["digits"], *others] or [key for key in first[:1] if key not in taken]
    # The column of one accuracy for each network is a mean, of one run or of more.
    for quantity, needed in _NEEDED.items():
        if not found[quantity] and not (quantity == "mean" and found["runs"]):
            raise InputError(f"{path}: has {', '.join(map(named, first))}; every network must have {needed}")
    return found


def _value(path: Path, where: str, row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise InputError(f"{path}: {named(where)} has no {named(key)}; every network must have one")
    return row[key]


def _number(path: Path, where: str, key: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = math.nan
    if not finite(number) or number < 0:
        raise InputError(f"{path}: {named(where)}: {named(key)} = {value!r}: must be a finite number of at least 0")
    return float(number)


def _column(path: Path, rows: _Rows, key: str) -> Floats:
    return np.array([_number(path, where, key, _value(path, where, row, key)) for where, row in rows.items()])


def _runs(path: Path, rows: _Rows, keys: Sequence[str]) -> Floats | None:
    """The accuracies (networks, runs) of the keys, each a number or a list; where their numbers differ, the means."""
    if not keys:
        return None
    found = []
    for where, row in rows.items():
        own: list[float] = []
        for key in keys:
            value = _value(path, where, row, key)
            several = value if isinstance(value, list) else [value]
            own += [_number(path, where, key, item) for item in several]
        if not own:
            raise InputError(f"{path}: {named(where)}: {named(keys[0])} = []: must have at least one accuracy")
        found.append(own)
    least = min(map(len, found))
    if least != max(map(len, found)):
        return np.array([[float(np.mean(own))] for own in found])
    return np.array(found)


def _digits(value: Any) -> tuple[str, ...]:
    """The digits of a network: the items of a list, what separators part, else the single characters."""
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    text = str(value).strip()
    parts = re.findall(r"[A-Za-z0-9]+", text)
    return tuple(parts) if len(parts) > 1 else tuple(text)


def _encoding(path: Path, rows: _Rows, key: str) -> Encoding:
    values = {where: _value(path, where, row, key) for where, row in rows.items()}
    texts = {where: _digits(value) for where, value in values.items()}
    ((length, _),) = Counter(map(len, texts.values())).most_common(1)
    for where, text in texts.items():
        if not text or len(text) != length:
            raise InputError(
                f"{path}: {named(where)}: {named(key)} = {values[where]!r}: has {len(text)} digits; must have "
                f"{length} like the others, with leading zeros"
            )
    table = np.array(list(texts.values()))
    positions, choices = [], []
    for number, column in enumerate(table.T, start=1):
        alphabet = sorted(set(column.tolist()), key=lambda digit: (not digit.isdecimal(), len(digit), digit))
        if len(alphabet) > 1:
            order = {digit: place for place, digit in enumerate(alphabet)}
            positions.append(Position(f"{key} {number}", "digit", tuple(range(1, len(alphabet) + 1))))
            choices.append([order[digit] for digit in column.tolist()])
    if not positions:
        raise InputError(f"{path}: {named(key)} is the same for all networks; must differ")
    return Encoding(tuple(positions), np.array(choices).T)


# ---- What calibration makes of it


class Figures(NamedTuple):
    """Of a score of all networks; regret is in points of accuracy."""

    partial: float
    regret: float
    spearman: float


@dataclass(frozen=True)
class Result:
    """Draw by draw: figures by candidate, the name of the one chosen, and the regret of the best of the sample."""

    figures: dict[str, list[Figures]]
    chosen: list[str]
    best_of_sample: list[float]

    def line(self) -> str:
        """The means over the draws of what was chosen."""
        partial, regret, _ = _means(self.figures[name][draw] for draw, name in enumerate(self.chosen))
        most, best = _means(self.figures["MACs"]).regret, float(np.mean(self.best_of_sample))
        return f"partial {partial:.4f} regret {regret:.4f} most-macs {most:.4f} best-of-sample {best:.4f}"

    def lines(self) -> list[str]:
        """The means over the draws of every candidate, and how often it was chosen."""
        lines = [f"{'candidate':<20}{'partial':>9}{'regret':>9}{'Spearman':>10}{'chosen':>8}"]
        for name, figures in self.figures.items():
            partial, regret, rank = _means(figures)
            shown = "-" if math.isnan(partial) else f"{partial:.4f}"
            lines.append(f"{name:<20}{shown:>9}{regret:>9.4f}{rank:>10.4f}{self.chosen.count(name):>8}")
        return lines


def _means(figures: Iterable[Figures]) -> Figures:
    return Figures(*(float(value) for value in np.mean(list(figures), axis=0)))


def evaluate(table: Table, known: Floats, judged: Floats, draws: int) -> Result:
    """Calibrate on accuracies ``known`` of random networks, and judge by those ``judged`` of all networks."""
    within = np.flatnonzero(table.macs <= np.median(table.macs))
    best = judged[within].max()
    result = Result({}, [], [])
    ways = {
        name: [(encoding, prior.bases(encoding.positions)) for encoding in table.encodings for prior in priors]
        for name, priors in statistics.UTILITIES.items()
    }
    for seed in range(draws):
        rows = np.random.default_rng(seed).choice(len(known), SAMPLE, replace=False)
        weights = np.ones(SAMPLE)
        candidates = [
            Candidate(name, tuple(statistics.free(statistics.added(bases, one.choices[rows])) for one, bases in own))
            for name, own in ways.items()
        ]
        scores = {"MACs": table.macs, "parameters": table.params}
        for candidate in candidates:
            fit = statistics.fit(candidate, known[rows], weights)
            encoding, bases = ways[candidate.name][fit.way]
            scores[candidate.name] = statistics.added(bases, encoding.choices) @ fit.coefficients
        for name, score in scores.items():
            figures = Figures(
                float(statistics.partial_correlation(score, judged, (table.macs, table.params))),
                100 * float(best - judged[within[score[within] == score[within].max()]].mean()),
                float(statistics.spearman(score, judged)),
            )
            result.figures.setdefault(name, []).append(figures)
        result.chosen.append(candidates[statistics.select(candidates, known[rows], weights, seed)[0]].name)
        own = rows[np.isin(rows, within)]
        result.best_of_sample.append(100 * float(best - judged[own[known[own].argmax()]]))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures of a table; exit code 2 and one sentence for a file that is none."""
    parser = argparse.ArgumentParser(description="Calibrate on 100 random networks of a table, and judge on all of it.")
    parser.add_argument("table", type=Path, metavar="TABLE", help="a tabular benchmark, .json or .csv")
    path = parser.parse_args(arguments).table
    try:
        table = read(path)
    except InputError as error:
        print(f"calibration_benchmark: {error}", file=sys.stderr)
        return error.exit_code
    digits = " or ".join(str(len(encoding.positions)) for encoding in table.encodings)
    print(f"{path.name}: {len(table.accuracy):,} networks of {digits} choices, {DRAWS} draws of {SAMPLE} of them")
    result = evaluate(table, table.accuracy, table.accuracy, DRAWS)
    print("\n".join(result.lines()))
    if table.runs is not None and table.runs.shape[1] > 1:
        apart = evaluate(table, table.runs[:, 0], table.runs[:, 1:].mean(axis=1), DRAWS)
        print(f"picked by the first run, judged by the others: {apart.line()}")
    print(result.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
