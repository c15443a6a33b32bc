"""Whether the package installs and works: ``python -m tools.package_check``.

Builds the sdist, and from it the wheel; installs the wheel alone in a new virtual environment, which borrows the
dependencies of this one; and uses it from an empty folder, where nothing of the checkout can be found by chance.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("LICENSE", "README.md", "pyproject.toml", "models/toy/spec.toml", "solvers/highs.toml", "mad_ip/py.typed")
"""Files that the sdist must hold, among others."""
COMPLETION = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""Has ``--show-completion`` take the shell from its argument, since a build has none."""


def build(folder: Path) -> Path:
    """Build both archives in a folder and return the wheel; the sdist must hold what is needed."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in NEEDED if name not in held]
    if missing:
        sys.exit(f"{source.name}: lacks {', '.join(missing)}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, place: Path) -> Path:
    """Install a wheel in a new environment without pip and return the folder of its scripts."""
    venv.create(place)
    scripts = place / "bin"
    run([sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel])
    (packages,) = place.glob("lib/python*/site-packages")
    # A plain line adds a folder behind this one, and none of the .pth files there: no editable mad_ip.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([scripts / "python", "-c", "import mad_ip.lagrangian.kernels"], cwd=place)
    lend_machine_code(packages / "mad_ip")
    return scripts


def lend_machine_code(installed: Path) -> None:
    """Copy what numba compiled here for the same sources, which else takes minutes; what differs is compiled anew."""
    for place in installed.glob("lagrangian/__pycache__/*/*"):
        for file in (ROOT / "mad_ip" / place.parent.relative_to(installed)).glob("*/*.nb?"):
            shutil.copy(file, place)


def check(scripts: Path, folder: Path) -> None:
    """Use the installed package from an empty folder."""
    python, command = scripts / "python", scripts / "mad-ip"
    where = run([python, "-c", "import mad_ip; print(mad_ip.__file__)"], cwd=folder)
    if not Path(where.strip()).is_relative_to(scripts.parent):
        sys.exit(f"mad_ip is imported from {where.strip()}, not from the wheel")
    for start in ([command], [python, "-m", "mad_ip"]):
        print(run([*start, "--version"], cwd=folder), end="")
    run([command, "show", "models/mobile/spec.toml"], cwd=folder)
    run([command, "solve", "models/toy/spec.toml", "--solver", "highs", "--out", "design.json"], cwd=folder)
    run([command, "show", "design.json"], cwd=folder)
    if "mad-ip" not in run([command, "--show-completion", "bash"], cwd=folder, **COMPLETION):
        sys.exit("mad-ip --show-completion bash: prints no script")


def run(words: list[str | Path], cwd: Path | None = None, **environment: str) -> str:
    """The output of a command that must succeed, without what would lead Python to the checkout."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(words, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Build, install and use the package; exit with a sentence where something fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        check(install(build(folder / "dist"), folder / "environment"), folder / "empty")
        print("the package installs and works")


if __name__ == "__main__":
    main()
