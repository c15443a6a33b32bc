"""What is allowed of a case: success, or an exit code with one sentence, and no false claim."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.fuzz.cases import Case
from tools.fuzz.material import LARGEST, oracle

__all__ = ["LONGEST", "MEMORY", "PATIENCE", "Outcome", "judge", "where"]

PATIENCE = 5.0
"""Seconds that a case may take."""

MEMORY = 10**9
"""Bytes by which a case may grow its process, or a process that it starts may be large."""

LONGEST = 2000
"""Characters of a sentence."""

_CODES = (0, 2, 3, 4)
_TOLERANCE = 2e-6
_FRAME = re.compile(r'File "(.*)", line \d+(?:, in|  in| in) (\S+)')


@dataclass(frozen=True)
class Outcome:
    """What came of a command: ``code`` is ``None`` where an exception left it, whose ``trace`` is then there, too."""

    code: int | None
    output: str
    errors: str
    trace: str
    seconds: float
    memory: int
    left: tuple[str, ...] = ()
    """Files in its folder that it made."""


def judge(case: Case, outcome: Outcome, folder: Path) -> str:
    """The kind of what is wrong, the same for what has the same cause; empty where nothing is."""
    return next(filter(None, (check(case, outcome, folder) for check in _CHECKS)), "")


def where(trace: str) -> str:
    """The innermost function of mad_ip in a traceback, by file and name."""
    frames = [(path, name) for path, name in _FRAME.findall(trace) if "mad_ip/" in path]
    if not frames:
        return "outside of mad_ip"
    # A dump of faulthandler has the innermost frame first.
    path, name = frames[0] if "most recent call first" in trace else frames[-1]
    return f"mad_ip/{path.rpartition('mad_ip/')[2]}:{name}"


def _exception(case: Case, outcome: Outcome, folder: Path) -> str:
    if not outcome.trace:
        return ""
    raised = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b")
    names = [line.partition(":")[0] for line in outcome.trace.splitlines() if raised.match(line)]
    return f"{names[-1] if names else 'exception'} in {where(outcome.trace)}"


def _memory(case: Case, outcome: Outcome, folder: Path) -> str:
    return f"memory of {case.words[0]}" if outcome.memory > MEMORY else ""


def _slow(case: Case, outcome: Outcome, folder: Path) -> str:
    return f"time of {case.words[0]}" if outcome.seconds > PATIENCE else ""


def _code(case: Case, outcome: Outcome, folder: Path) -> str:
    failed = case.words[0] == "verify" and outcome.code == 1 and re.search(r"failed|not proven|open", outcome.output)
    if outcome.code in _CODES or failed:
        return ""
    return f"exit {outcome.code} of {case.words[0]}: {_digest(outcome.errors or outcome.output)}"


def _digest(text: str) -> str:
    """The beginning of a sentence without what differs from case to case."""
    words = re.sub(r"mad-ip: |'[^']*'|\"[^\"]*\"|\S*\.(toml|json|txt|csv)\S*|[-+]?\d[\d.,e+-]*", "", text[:1000])
    return " ".join(word for word in re.findall(r"[A-Za-z]+", words) if len(word) < 20 and "xxx" not in word)[:60]


_SURVIVED = re.compile(
    r"^mad-ip: (out of memory: what was found|the process of \w+ ended without)[^\n]*\n", re.MULTILINE
)


def _sentence(case: Case, outcome: Outcome, folder: Path) -> str:
    # Warnings of what a result survives are none of it.
    errors = _SURVIVED.sub("", outcome.errors)
    if "Traceback" in errors:
        return f"traceback on standard error in {where(errors)}"
    if outcome.code in (0, 1) or (outcome.code == 3 and outcome.output and not errors):
        return f"{case.words[0]} succeeds with noise on standard error: {_digest(errors)}" if errors else ""
    if errors.startswith("Usage: "):
        return _text("a message on usage", case, errors)
    lines = errors.removesuffix("\n").split("\n")
    if len(lines) != 1 or not errors.endswith("\n"):
        number = "several" if errors else "no"
        return f"{number} lines on standard error with exit {outcome.code}"
    if not errors.startswith("mad-ip: ") or len(errors) < 20:
        return f"no sentence of mad-ip: {_digest(errors)}"
    if any(word in errors for word in ("Error:", "Exception", "object at 0x", "<class ")):
        return f"the sentence has Python in it: {_digest(errors)}"
    return _text("the sentence", case, errors)


def _text(noun: str, case: Case, text: str) -> str:
    """Whether a text can be shown: nothing that a terminal obeys, and not endless."""
    if len(text) > LONGEST:
        return f"{noun} has more than {LONGEST} characters"
    unprintable = {character for character in text if not character.isprintable()} - {"\n"}
    if not unprintable:
        return ""
    source = "the command line" if unprintable <= set("".join(case.words)) else "a file"
    return f"{noun} has characters that are not printable, from {source}"


def _output(case: Case, outcome: Outcome, folder: Path) -> str:
    wrong = [character for character in outcome.output if ord(character) < 32 or 127 <= ord(character) < 160]
    if set(wrong) - {"\n"}:
        return f"control characters on standard output of {case.words[0]}"
    if "--json" in case.words and outcome.output and outcome.code in (0, 1, 3):
        try:
            json.loads(outcome.output, parse_constant=_no_json)
        except ValueError:
            return f"standard output of {case.words[0]} --json is not JSON"
    return ""


def _no_json(name: str) -> Any:
    raise ValueError(name)


def _files(case: Case, outcome: Outcome, folder: Path) -> str:
    temporary = [name for name in outcome.left if name.endswith(".tmp")]
    if temporary:
        return f"{case.words[0]} leaves a temporary file"
    if "--out" not in case.words or case.words[0] in ("train", "sweep", "sample"):
        return ""
    out = case.words[case.words.index("--out") + 1]
    if outcome.code == 0 and out not in outcome.left:
        return f"{case.words[0]} succeeds without its file"
    if outcome.code in (2, 4) and out in outcome.left:
        return f"{case.words[0]} fails and leaves its file"
    return ""


def _claim(case: Case, outcome: Outcome, folder: Path) -> str:
    """What the oracle of the tests says."""
    return _CLAIMS[case.check](case, outcome, folder) if case.check else ""


def _problem(folder: Path) -> Any:
    """The spec of a case where it is one that the oracle can enumerate in a moment."""
    from mad_ip.errors import MadIpError
    from mad_ip.spec import Spec

    try:
        spec = Spec.load(folder / "spec.toml")
    except MadIpError:
        return None
    known = {"basic", "bottleneck", "inverted", "inverted_se"}
    plain = spec.device is None and spec.objective.is_plain and all(stage.block in known for stage in spec.stages)
    if not plain or set(spec.budget.given) - {"macs", "params", "layers", "effectiveness"}:
        return None
    sizes = [len(spec.stem.channels)]
    sizes += [len(getattr(stage, key)) for stage in spec.stages for key in ("channels", "mid", "kernel", "depth")]
    sizes += [len(spec.tail.channels)] if spec.tail else []
    return spec if math.prod(sizes) <= LARGEST and sum(max(stage.depth) for stage in spec.stages) <= 200 else None


def _optimum(case: Case, outcome: Outcome, folder: Path) -> str:
    """``solve`` says what enumeration says."""
    spec = _problem(folder) if outcome.code in (0, 3, 4) else None
    if spec is None:
        return ""
    try:
        best = oracle().enumerate_best(spec)
        relevant = best is None or all(map(math.isfinite, best[:4]))
    except (OverflowError, ValueError, ZeroDivisionError):
        return ""
    if not relevant:
        return ""
    if outcome.code == 4:
        return "infeasible is said of a spec that has designs" if best is not None else ""
    if not (folder / "out.json").exists():
        return ""
    if best is None:
        return "a design is found where there is none"
    design = json.loads((folder / "out.json").read_text())
    size = max(1.0, abs(best.entropy), abs(best.penalty))
    score, bound = design["metrics"]["score"], design["certificate"]["bound"]
    if score > best.score + _TOLERANCE * size:
        return "the score is above the best that there is"
    if bound < best.score - _TOLERANCE * size:
        return "the bound is below the best that there is"
    asked = _asked_gap(case.words)
    if outcome.code == 0 and score < best.score - (_TOLERANCE + asked) * size:
        return "optimal is said of a design that is not"
    return ""


def _asked_gap(words: tuple[str, ...]) -> float:
    """The largest gap among the words; all else is the command line's to judge."""
    found = [1e-6]
    for at, word in enumerate(words):
        text = word.partition("=")[2] if word.startswith("--gap=") else words[at + 1] if word == "--gap" else ""
        try:
            found.append(float(text))
        except ValueError:
            continue
    return max(value for value in found if not math.isnan(value))


def _claims(case: Case, outcome: Outcome, folder: Path) -> str:
    """What ``verify`` calls proven is true: its score is the best, and metrics and certificate are what they say."""
    method = case.words[case.words.index("--method") + 1]
    spec = _problem(folder) if outcome.code == 0 and method in ("auto", "exhaustion", "bound") else None
    if spec is None:
        return ""
    design = json.loads((folder / "design.json").read_text())
    structure = (
        design["stem"]["channels"],
        tuple((stage["channels"], stage["mid"], stage["kernel"], stage["depth"]) for stage in design["stages"]),
        None if design.get("tail") is None else design["tail"]["channels"],
    )
    found = next((one for one in oracle().architectures(spec) if one.structure == structure), None)
    best = oracle().enumerate_best(spec)
    if found is None or not oracle().fits(spec.budget, found):
        return "proven is said of a design that is not feasible"
    size = max(1.0, abs(best.entropy), abs(best.penalty))
    gap = max(1e-4, _asked_gap(case.words))
    if found.score < best.score - (gap + _TOLERANCE) * size:
        return "proven is said of a design that is not the best"
    metrics = design["metrics"]
    true = {
        "score": found.score,
        "entropy": found.entropy,
        "depth_penalty": found.penalty,
        "effectiveness": found.effectiveness,
    }
    for key in true.keys() & metrics.keys():
        if not _close(metrics[key], true[key], size if key != "effectiveness" else 1.0):
            return f"proven is said of a design with a false {key}"
    for key in ("macs", "params", "layers"):
        if metrics.get(key) != getattr(found, key):
            return f"proven is said of a design with a false {key}"
    return _false_certificate(design.get("certificate"), found.score, best.score, size)


def _false_certificate(certificate: Any, score: float, best: float, size: float) -> str:
    if certificate is None:
        return ""
    status, bound, gap = (certificate.get(key) for key in ("status", "bound", "gap"))
    if status not in ("optimal", "feasible"):
        return "proven is said of a certificate of an unknown status"
    if not _number(bound) or bound < best - _TOLERANCE * size:
        return "proven is said of a certificate with a false bound"
    if not _number(gap) or gap < 0 or abs(gap - (bound - score) / max(abs(score), 1e-9)) > 1e-5:
        return "proven is said of a certificate with a false gap"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _close(value: Any, true: float, size: float) -> bool:
    return _number(value) and abs(value - true) <= _TOLERANCE * max(size, abs(true))


_CLAIMS: dict[str, Callable[[Case, Outcome, Path], str]] = {"optimum": _optimum, "claims": _claims}

_CHECKS = (_exception, _memory, _slow, _code, _sentence, _output, _files, _claim)
