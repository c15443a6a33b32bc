"""No network at import or run time: processes that are refused every connection do what they do otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Loaded by every Python that is started, solvers among them. A refusal that a library shrugs off is told, too.
GUARD = """
import os, socket, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family == socket.AF_UNIX:
        return
    if event in REFUSED:
        with open(os.environ["REFUSED"], "a") as log:
            log.write(f"{event} {arguments[1:]}\\n")
        raise PermissionError(f"no network: {event}")

REFUSED = {
    *("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"),
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request"),
}
sys.addaudithook(guard)
"""
RUN = """
import json, sys, warnings
from typer.testing import CliRunner
from mad_ip.cli import app

# Of other packages.
warnings.simplefilter("ignore")
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.output, done.exception)
"""


def refused(folder: Path, *command: str) -> str:
    """Run a command without network; what it tried to reach."""
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    log = folder / "refused.txt"
    log.unlink(missing_ok=True)
    path = os.pathsep.join([str(folder / "guard"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "REFUSED": str(log)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text() if log.exists() else ""


@pytest.mark.parametrize(
    "statement",
    [
        "socket.socket().connect(('127.0.0.1', 9))",
        "socket.getaddrinfo('localhost', 80)",
        "urllib.request.urlopen('http://localhost/')",
    ],
)
def test_the_guard_tells_what_is_shrugged_off(statement: str, tmp_path: Path) -> None:
    program = f"import contextlib, socket, urllib.request\nwith contextlib.suppress(OSError): {statement}"
    assert refused(tmp_path, "-c", program)


def test_pipes_of_this_machine_are_let_through(tmp_path: Path) -> None:
    program = "import socket\na, b = socket.socketpair()\na.sendall(b'x')\nassert b.recv(1) == b'x'"
    assert refused(tmp_path, "-c", program) == ""


def test_commands_need_no_network(tmp_path: Path) -> None:
    spec = str(ROOT / "models" / "toy" / "spec.toml")
    commands = [
        ["init", "--macs", "20e6", "--params", "1e6", "--resolution", "32", "--out", "first.toml"],
        ["show", "first.toml"],
        ["solve", spec, "--out", "design.json", "--quiet"],
        ["verify", "design.json", "--spec", spec, "--quiet"],
        ["show", "design.json", "--spec", spec, "--html", "page.html"],
        ["score", "torchvision:resnet18", "timm:resnet18"],
        ["build", "design.json"],
        ["export", "design.json", "--format", "onnx"],
    ]
    assert refused(tmp_path, "-c", RUN, json.dumps(commands)) == ""
    assert {"page.html", "design.safetensors", "design.onnx"} <= {path.name for path in tmp_path.iterdir()}
