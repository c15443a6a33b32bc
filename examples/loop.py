"""Let trained networks say what a good one is: sample, train, calibrate, solve, train the optimum.

    python examples/loop.py spec.toml --data images/ --out loop/ --number 24 --epochs 8 --seeds 3

Every step is a mad-ip command, printed before it runs; what is done is not done again, so that the same command goes on
after a kill. The folder holds

    designs/          what is trained: the sample, anything put there by hand, and calibrated.json, the optimum
    training/         for every run its log, weights and result
    runs.csv          a row for every finished run
    calibrated.toml   the spec with the objective that the runs speak for; calibration.html shows why

What is there is kept: another --number adds designs, and a calibration is made again once calibrated.toml and
designs/calibrated.json are removed. Any step runs on another machine that has the folder: --only train --part 2/3
trains every third run there, into runs-2.csv; bring that file back, and calibrate takes all of them.
"""

import argparse
import csv
import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

STEPS = ("sample", "train", "calibrate", "solve", "finish")
OPTIMUM = "calibrated"


def run(*words: object) -> None:
    """Run a mad-ip command; end as it does where it fails."""
    command = ["mad-ip", *map(str, words)]
    print("$", " ".join(command), flush=True)
    code = subprocess.run([sys.executable, "-m", "mad_ip", *command[1:]], check=False).returncode
    if code != 0:
        if words[0] == "train":
            print(f"to go on without it: remove {words[1]}", file=sys.stderr)
        sys.exit(code)


def fail(sentence: str) -> NoReturn:
    """End with a sentence, as mad-ip does with bad input."""
    print(f"loop.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def part(text: str) -> tuple[int, int]:
    """I and N of ``I/N``."""
    own, parts = map(int, text.split("/"))
    if not 1 <= own <= parts:
        raise ValueError(text)
    return own, parts


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table of runs."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    if any(not (row.get("design") and row.get("seed")) for row in rows):
        fail(f"{path}: must have the columns design and seed, as mad-ip train --runs writes it")
    return rows


def train(designs: list[Path], given: argparse.Namespace) -> None:
    """Train every design with every seed, all designs with one seed first; only this machine's part of the runs."""
    if not designs:
        fail(f"{given.out / 'designs'}: has no design.json; --only sample makes some")
    own, parts = given.part
    runs = given.out / ("runs.csv" if parts == 1 else f"runs-{own}.csv")
    todo = [(seed, design) for seed in range(given.seeds) for design in designs]
    for seed, design in todo[own - 1 :: parts]:
        out = given.out / "training" / f"{design.stem}-{seed}"
        options = ["--epochs", given.epochs, "--seed", seed, "--device", given.device, "--threads", given.threads]
        run("train", design, "--data", given.data, "--out", out, *options, *shlex.split(given.recipe), "--runs", runs)


def gathered(folder: Path) -> Path:
    """A file of the runs of all machines, without those of the optimum: it is judged by what it was not fitted to."""
    rows = {tuple(row.items()): row for path in sorted(folder.glob("runs*.csv")) for row in rows_of(path)}
    kept = [row for row in rows.values() if Path(row["design"]).stem != OPTIMUM]
    if not kept:
        fail(f"{folder}: has no finished run; --only train makes them")
    target = folder / "fitted.csv"
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in kept for key in row)))
        writer.writeheader()
        writer.writerows(kept)
    return target


def compare(folder: Path) -> None:
    """Print the mean accuracies of the optimum and of the best other design, which the objective was fitted to."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("runs*.csv")):
        for row in rows_of(path):
            found.setdefault(Path(row["design"]).stem, []).append(float(row["accuracy"]))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    own = means.pop(OPTIMUM, None)
    if own is not None and means:
        best = max(means, key=means.__getitem__)
        print(f"calibrated optimum {own:.2%}; best of the {len(means)} others {best}, {means[best]:.2%}")


def main() -> None:
    """Do the steps that are asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--number", type=int, default=24, help="designs to sample")
    parser.add_argument("--fill", type=float, default=0.95, help="least share of every budget that they spend")
    parser.add_argument("--effectiveness", type=float, nargs="*", default=[], help="rho_0 whose optima are among them")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", default="", help='further options of mad-ip train, as "--lr 0.4 --batch 256"')
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help="train every Nth run, from the Ith on")
    parser.add_argument("--only", choices=STEPS, help="one step instead of all")
    given = parser.parse_args()
    steps = STEPS if given.only is None else (given.only,)
    designs, calibrated = given.out / "designs", given.out / "calibrated.toml"
    optimum = designs / f"{OPTIMUM}.json"
    if given.out.exists() and not given.out.is_dir():
        fail(f"--out = {given.out}: is a file; must be a folder")
    index = designs / "index.csv"
    if "sample" in steps and not (index.exists() and len(index.read_text().splitlines()) > given.number):
        ratios = [word for ratio in given.effectiveness for word in ("--effectiveness", ratio)]
        run("sample", given.spec, "--number", given.number, "--fill", given.fill, *ratios, "--out", designs)
    if "train" in steps:
        train([path for path in sorted(designs.glob("*.json")) if path != optimum], given)
    if "calibrate" in steps and not calibrated.exists():
        page = given.out / "calibration.html"
        run("calibrate", given.spec, "--runs", gathered(given.out), "--out", calibrated, "--page", page)
    if "solve" in steps and not optimum.exists():
        run("solve", calibrated, "--out", optimum)
    if "finish" in steps:
        train([optimum], given)
        compare(given.out)


if __name__ == "__main__":
    main()
