"""Functions in processes of their own: messages, wishes, ends, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mad_ip.errors import InputError
from mad_ip.processes import Parent, Process, ready, started

SECONDS = 20.0
"""More than anything here takes; what waits as long has failed."""


def runs(pid: int) -> bool:
    """Whether a process still runs; one that ended may stay listed as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(runs(pid) for pid in pids)


def everything(process: Process) -> list[Any]:
    found = []
    try:
        while process.poll(SECONDS):
            found.append(process.receive())
    except EOFError:
        return found
    raise AssertionError("no end of messages")


# What the processes do ------------------------------------------------------------------------------------------------


def double(numbers: list[int], parent: Parent) -> None:
    print("this goes nowhere", flush=True)  # noqa: T201
    os.write(1, b"nor does this")
    for number in numbers:
        parent.send(2 * number)


def double_what_is_given(_: None, parent: Parent) -> None:
    while not parent.asked():
        parent.send(2 * parent.given())


def work_until_asked(_: None, parent: Parent) -> None:
    parent.send(os.getsid(0))
    while not parent.asked():
        time.sleep(0.01)
    parent.send("stopped")


def sleep_with_a_child(_: None, parent: Parent) -> None:
    parent.send(subprocess.Popen(["sleep", "60"]).pid)
    time.sleep(60)


def sleep_with_one_like_itself(_: None, parent: Parent) -> None:
    with started(sleep_with_a_child, None) as process:
        parent.send([os.getpid(), process.pid, process.receive()])
        time.sleep(60)


def wait_for_a_busy_child(_: None, parent: Parent) -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            parent.send("worked")
            time.sleep(60)
        finally:
            child.kill()


def ignore_sigterm(_: None, parent: Parent) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent.send("deaf")
    time.sleep(60)


def refuse(key: str, _: Parent) -> None:
    raise InputError(f"{key}: must be another")


def fail(_: None, parent: Parent) -> None:
    parent.send("so far")
    raise ValueError("a defect")


def kill_itself(number: int, _: Parent) -> None:
    os.kill(os.getpid(), number)


# ----------------------------------------------------------------------------------------------------------------------


def test_messages_come_in_order_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    numbers = list(range(100_000))
    with started(double, numbers) as process:
        assert everything(process) == [2 * number for number in numbers]
        usage = process.end(SECONDS)
    assert usage.status == 0
    assert 0 < usage.cpu < SECONDS
    assert usage.memory > 5e6
    assert process.end() == usage
    assert capfd.readouterr() == ("", "")


def test_what_is_given_comes_in_order() -> None:
    with started(double_what_is_given, None) as process:
        for number in range(3):
            process.give(number)
        assert [process.receive() for _ in range(3)] == [0, 2, 4]
        # More than a pipe holds.
        process.give("x" * 10**6)
        assert len(process.receive()) == 2 * 10**6
        process.ask()
        process.give(4)
        assert everything(process) in ([8], [])
    process.give(5)


def test_it_stops_when_asked_in_a_session_of_its_own() -> None:
    with started(work_until_asked, None) as process:
        # The wish may come before the process is ready for it, but is not lost.
        process.ask()
        assert everything(process) == [process.pid, "stopped"]
        assert process.end(SECONDS).status == 0
        process.ask()


def test_those_with_news_are_told_from_the_others() -> None:
    with started(work_until_asked, None) as slow, started(double, [1]) as quick:
        assert slow.receive() == slow.pid
        assert not slow.poll(0.01)
        assert ready([slow, quick]) == [quick]
        assert everything(quick) == [2]
        assert ready([slow, quick]) == [quick]


def test_the_end_of_the_context_kills_the_whole_group() -> None:
    with started(sleep_with_a_child, None) as process:
        child = process.receive()
        assert runs(child)
    assert process.end().status == -signal.SIGKILL
    assert gone(child, process.pid)


def test_patience_counts_the_children_and_ends_with_a_kill() -> None:
    with started(wait_for_a_busy_child, None) as process:
        assert process.receive() == "worked"
        usage = process.end(SECONDS)
    assert usage.status == 1
    assert usage.cpu > 0.5
    with started(ignore_sigterm, None) as process:
        assert process.receive() == "deaf"
        began = time.monotonic()
        assert process.end(0.5).status == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < SECONDS


def test_errors_arrive() -> None:
    with started(refuse, "key") as process, pytest.raises(InputError, match=r"^key: must be another$"):
        process.receive()
    with tempfile.TemporaryFile() as errors:
        with started(fail, None, errors=errors) as process:
            assert everything(process) == ["so far"]
            assert process.end(SECONDS).status == 1
        errors.seek(0)
        assert errors.read().endswith(b"ValueError: a defect\n")
    with started(kill_itself, signal.SIGKILL) as process:
        assert everything(process) == []
        assert process.end(SECONDS).status == -signal.SIGKILL
    # A process that ends before it has read its argument, which is more than a pipe holds.
    with started(double, list(range(1_000_000))) as process:
        os.kill(process.pid, signal.SIGKILL)
        everything(process)


def test_ctrl_c_does_not_reach_it() -> None:
    with started(work_until_asked, None) as process:
        for _ in range(20):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02)
        process.ask()
        assert everything(process) == [process.pid, "stopped"]


def test_ctrl_c_while_one_starts_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def interrupted(*arguments: Any, **settings: Any) -> subprocess.Popen[bytes]:
        signal.raise_signal(signal.SIGINT)
        children.append(start(*arguments, **settings))
        return children[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), started(work_until_asked, None):
        raise AssertionError("the interrupt is lost")
    assert len(children) == 1
    assert gone(children[0].pid)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


SCRIPT = """
from test_processes import sleep_with_one_like_itself
from mad_ip.processes import started
with started(sleep_with_one_like_itself, None) as process:
    print(*process.receive(), flush=True)
    process.receive()
"""


@pytest.mark.parametrize("end", [subprocess.Popen.kill, subprocess.Popen.terminate])
def test_none_outlives_the_first(end: Callable[[subprocess.Popen[str]], None]) -> None:
    command = [sys.executable, "-c", SCRIPT]
    folder = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.parent), str(folder)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(runs(pid) for pid in pids)
        end(process)
    assert gone(*pids)


def test_the_module_loads_no_solver() -> None:
    check = (
        "import sys, mad_ip.processes\n"
        "sys.exit(bool({'torch', 'pyomo', 'scipy', 'numpy', 'highspy'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
