"""The process of one run: a job in JSON from standard input, one JSON line to standard output for each report.

``python -m mad_ip.reports.comparison.worker``, started by :mod:`mad_ip.reports.comparison.runs` only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import threading
import traceback
from typing import IO, Any

from mad_ip.backends import Profile
from mad_ip.errors import InputError, MadIpError
from mad_ip.reports.comparison.records import without_folders
from mad_ip.solve import InfeasibleError, NoDesignError, Report, solve
from mad_ip.spec import Spec

__all__ = ["main"]


def main() -> None:
    """Run the job; whatever happens ends with one line that holds the status."""
    wished = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: wished.set())
    # An exception, and not the signal's default, so that the solver's own process is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Whatever a solver prints must not mix with the reports.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    job = json.load(sys.stdin)

    def watch(report: Report) -> None:
        _send(output, seconds=report.seconds, phase=report.phase, score=report.score, bound=report.bound)

    try:
        # The report names specs and profiles by name: the folders that they lie in are nobody's business.
        spec = dataclasses.replace(Spec.load(job["spec"]), source=f"{job['name']}.toml")
        profile = dataclasses.replace(Profile.load(job["profile"]), source=f"{job['solver']}.toml")
        design = solve(
            spec,
            profile=profile,
            time_limit=math.inf if job["time_limit"] is None else job["time_limit"],
            gap=job["gap"],
            threads=job["threads"],
            seed=job["seed"],
            watch=watch,
            interrupted=wished.is_set,
        )
    except InfeasibleError as error:
        _send(output, status="infeasible", message=str(error))
    except NoDesignError as error:
        _send(output, status="no design", message=str(error))
    except InputError as error:
        _send(output, status="refused", message=str(error))
    except MadIpError as error:
        _send(output, status="failed", message=str(error))
    except Exception as error:  # whatever a solver's own code raises becomes a row
        traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        _send(output, status="failed", message=without_folders(line))
    else:
        certificate = design.certificate
        assert certificate is not None
        _send(output, seconds=certificate.seconds, phase="end", score=design.metrics.score, bound=certificate.bound)
        _send(
            output,
            status=certificate.status,
            message="",
            version=certificate.version,
            options=certificate.options,
            architectures=certificate.architectures,
        )


def _send(output: IO[str], **message: Any) -> None:
    # JSON knows no infinity.
    plain = {key: _plain(value) for key, value in message.items()}
    output.write(json.dumps(plain, allow_nan=False) + "\n")
    output.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    main()
