"""Boxes examined by the workers of a Dask cluster, and by this process wherever the cluster does not.

A cluster only ever helps: its scheduler may vanish, its workers may die or never come, and the solve goes on here to
the same result, which does not depend on who examined a box. One sentence in the log says why it does.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import math
import platform
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import Any

from mad_ip import __version__
from mad_ip.errors import InputError, MadIpWarning
from mad_ip.lagrangian.tree import Examined, Task
from mad_ip.lagrangian.workers import Problem, Workers, examined, threads

__all__ = ["cluster"]

_POLL = 0.01
"""Seconds between two looks at whether to stop, while others work."""

_PATIENCE = 10.0
"""Seconds that a Dask scheduler has to answer, and that boxes wait for a worker where there is none."""

_PAUSE = 1.0
"""Seconds between two roll calls, and that a client has to say goodbye."""

_TLS = "distributed.comm.tls.ca-file, client.cert and client.key of Dask's configuration must be those of the cluster"

_GONE = "the scheduler is gone"

Versions = dict[str, str]


@contextmanager
def cluster(
    address: str, number: int = 1, seconds: float = math.inf, wished: Callable[[], bool] = lambda: False
) -> Iterator[Workers]:
    """The workers of the Dask scheduler at ``address``, which have the same mad-ip installed.

    Dask examines the boxes of lost workers again; what it does not examine, so many threads of this process do. It has
    at most ``seconds`` to connect. ``wished`` is asked by this thread, while it waits, whether to stop.

    Raises :class:`InputError` without the extra ``cluster``, when no scheduler answers or its TLS is not that of Dask's
    configuration, and when a worker has other versions.
    """
    seconds = max(0.0, min(_PATIENCE, seconds))
    end = time.monotonic() + seconds
    try:
        import dask.distributed  # noqa: F401
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed, which is not installed; pip install 'mad-ip[cluster]'"
        ) from None
    client = _connected(address, seconds, end, wished)
    with threads(number) as here, _quiet():
        if client is None:
            yield here
            return
        try:
            _require_versions(client, address, end, wished)
            yield _Shared(client, address, here, wished).begin
        finally:
            # A scheduler that does not answer any more is not waited for.
            with suppress(TimeoutError):
                client.close(timeout=_PAUSE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracebacks of Dask's client to itself: what it loses is said in one sentence."""
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _connected(address: str, seconds: float, end: float, wished: Callable[[], bool]) -> Any:
    """The client of a scheduler; ``None`` when told to stop before it answers."""
    from dask.distributed import Client, Security
    from distributed.comm import connect
    from distributed.comm.core import FatalCommClosedError

    silent = InputError(
        f"--cluster {address}: no Dask scheduler answers there within {seconds:.2g} s; "
        "must be an address such as tcp://127.0.0.1:8786"
    )
    try:
        arguments = Security().get_connection_args("client")
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: Dask's TLS cannot be set up ({error}); {_TLS}") from None
    if address.startswith("tls://") and arguments["ssl_context"] is None:
        raise InputError(f"--cluster {address}: TLS is not set up; {_TLS}")

    async def knock() -> None:
        comm = await asyncio.wait_for(connect(address, timeout=seconds, **arguments), seconds)
        await comm.close()

    def connect_client() -> Any:
        # A client that fails to connect would take seconds to be rid of.
        asyncio.run(knock())
        return Client(address, timeout=_PATIENCE, set_as_default=False)

    answer = _apart(connect_client)
    try:
        if _done(answer, end, wished):
            return answer.result()
    except FatalCommClosedError as error:
        raise InputError(f"--cluster {address}: TLS fails ({error.__cause__ or error}); {_TLS}") from None
    except RuntimeError as error:
        # Dask's configuration may require encryption.
        raise InputError(f"--cluster {address}: {error}; must be an address that begins with tls://") from None
    except (OSError, ValueError):
        raise silent from None
    answer.add_done_callback(lambda late: late.exception() or late.result().close(timeout=_PAUSE))
    # A time limit makes one wish to stop as well, just before the end.
    if time.monotonic() > end - _PAUSE:
        raise silent
    return None


def _require_versions(client: Any, address: str, end: float, wished: Callable[[], bool]) -> None:
    """Raise :class:`InputError` where a worker that is there, and says so until ``end``, has other versions."""
    answer = _apart(lambda: client.run(_versions, on_error="return"))
    if not _done(answer, end, wished) or answer.exception() is not None:
        return
    for worker, found in answer.result().items():
        # One that is lost just now is Dask's to deal with.
        if isinstance(found, Exception) and not isinstance(found, OSError):
            raise InputError(
                f"--cluster {address}: the worker {worker} cannot run mad-ip ({found}); must have mad-ip {__version__}"
            )
        if isinstance(found, dict) and found != _versions():
            raise InputError(f"--cluster {address}: the worker {worker} {_difference(found)}; must have the same")


def _versions() -> Versions:
    """What workers must have in common with who asks them."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"mad-ip": __version__, "Python": python, "numba": importlib.metadata.version("numba")}


def _difference(found: Versions) -> str:
    own = _versions()
    return ", ".join(f"has {key} {found[key]}, here it is {own[key]}" for key in own if found[key] != own[key])


def _examined_alike(versions: Versions, problem: Problem, task: Task) -> Examined | Versions:
    """For a worker: what a task finds, or the versions there where they are others."""
    own = _versions()
    return examined(problem, task) if own == versions else own


def _apart(function: Callable[[], Any]) -> Future[Any]:
    """The result of a function that may block for long, by a thread that nobody waits for."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def _done(result: Future[Any], end: float, stopped: Callable[[], bool]) -> bool:
    """Whether there is a result before ``end``, and before one wishes to stop."""
    while not result.done():
        if time.monotonic() > end or stopped():
            return False
        time.sleep(_POLL)
    return True


class _Shared:
    """A cluster at work, and the threads ``here`` for what it does not do."""

    def __init__(self, client: Any, address: str, here: Workers, wished: Callable[[], bool]) -> None:
        self._client, self._address, self._here, self._wished = client, address, here, wished
        self._said: set[str] = set()
        self._heard = self._called = time.monotonic()
        self._roll = self._asked(client.nthreads(asynchronous=True))

    def begin(self, problem: Problem, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        """Take on a task, as :data:`mad_ip.lagrangian.workers.Workers` do."""
        if not self._works():
            return self._here(problem, task, stop)
        future = self._client.submit(_examined_alike, _versions(), problem, task, pure=False)
        return functools.partial(self._result, future, problem, task, lambda: stop() or self._wished())

    def _result(self, future: Any, problem: Problem, task: Task, stop: Callable[[], bool]) -> Examined:
        # Whatever else may block is Dask's own to wait for.
        answer = self._asked(self._client.gather(future, asynchronous=True))
        reason = ""
        if _done(answer, math.inf, lambda: stop() or not self._works()):
            try:
                found = answer.result()
            except (Exception, CancelledError) as error:
                reason = _reason(error)
            else:
                if isinstance(found, Examined):
                    self._heard = time.monotonic()
                    return found
                reason = f"a worker {_difference(found)}"
        future.release()
        # An exception that is the task's own comes here, too.
        examined_here = examined(problem, task, stop=stop)
        if reason:
            self._say(reason)
        return examined_here

    def _works(self) -> bool:
        """Whether there is a scheduler, and was a worker of late."""
        if self._client.status != "running":
            self._say(_GONE)
            return False
        now = time.monotonic()
        if self._roll.done() and now > self._called + _PAUSE:
            if not self._roll.cancelled() and self._roll.exception() is None and self._roll.result():
                self._heard = now
            self._called, self._roll = now, self._asked(self._client.nthreads(asynchronous=True))
        if now > self._heard + _PATIENCE:
            self._say(f"no worker has been there for {_PATIENCE:g} s")
            return False
        return True

    def _asked(self, question: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(question, self._client.loop.asyncio_loop)

    def _say(self, reason: str) -> None:
        """Say once why this process does what the cluster was to do."""
        if reason not in self._said:
            self._said.add(reason)
            said = f"--cluster {self._address}: {reason}; this process goes on with what is left to it"
            warnings.warn(said, MadIpWarning, stacklevel=2)


def _reason(error: BaseException) -> str:
    from dask.distributed import KilledWorker
    from distributed.comm import CommClosedError

    if isinstance(error, KilledWorker):
        return "several workers died over the same box"
    lost = isinstance(error, CancelledError | CommClosedError)
    return _GONE if lost else f"a worker failed where this process does not ({error})"
