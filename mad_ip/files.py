"""Reading and writing files so that a failure leaves one clear sentence and nothing half-written."""

from __future__ import annotations

import io
import json
import math
import os
import re
import select
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mad_ip.errors import InputError

__all__ = [
    "STANDARD_OUTPUT",
    "finite",
    "locked",
    "make_folder",
    "named",
    "printable",
    "read_bytes",
    "read_json",
    "read_toml",
    "require_folder",
    "require_new",
    "require_place",
    "resource",
    "resources",
    "shown",
    "write_atomically",
    "write_output",
]

STANDARD_OUTPUT = Path("-")
"""What stands for standard output in the place of a file."""

LARGEST = 1 << 30
"""Bytes that are read of a file, where its kind has no limit of its own."""

_LARGEST_TEXT = 1 << 25
"""Of JSON and of TOML."""

_MOST_VALUES, _MOST_PROVEN = 100_000, 1_000_000
"""Keys and values of a file, and those of a proof: what parsers need time and memory for."""

_SHOWN = 240
"""Characters of a value in a message."""

_DEEPEST = 64
"""Parts of a dotted key: TOML's parser takes the square of their number, and each is a table in a table."""

_PART = rb"""(?>[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_TOO_DEEP = re.compile(rb"(?<![A-Za-z0-9_-])%s(?:[ \t]*+\.[ \t]*+%s){%d}" % (_PART, _PART, _DEEPEST))


def printable(text: str) -> str:
    """A text with all that a terminal would obey as escapes; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def named(key: str) -> str:
    """A key as it stands in a message, which must stay one line, and short."""
    return key if key.isprintable() and len(key) <= _SHOWN else shown(key)


def shown(value: object) -> str:
    """A value as it stands in a message, which must stay one line, and short."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # ValueError: an integer of more digits than Python writes.
        return f"a {type(value).__name__} too long or too deep to show"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 4 :]}"


def finite(value: object) -> bool:
    """Whether a parsed value is a number (no boolean) that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def require_new(option: str, path: Path | str, *others: Path | str | None) -> None:
    """Raise :class:`InputError` naming ``option`` unless a file can be put at ``path`` that is none of the ``others``.

    For what takes minutes before it writes. What it makes in trying it takes away again. A pipe or a device, which
    :func:`write_atomically` writes to as it is, and standard output are not tried.
    """
    if Path(path) == STANDARD_OUTPUT:
        return
    with _refused(option, path):
        require_folder(option, path)
        place = _place(option, path)
        if place.is_dir():
            raise InputError(f"{option} = {path}: is a folder; must be a file in one")
        if any(other is not None and place == Path(os.path.realpath(other)) for other in others):
            raise InputError(
                f"{option} = {path}: would take the place of another file of this command; must be another"
            )
        if _is_stream(place):
            return
        # A name that is too long is found out here: that of a temporary file is not.
        with suppress(FileNotFoundError):
            place.lstat()
        with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, suffix=".tmp", dir=place.parent):
            pass


def require_folder(option: str, path: Path | str) -> None:
    """Raise :class:`InputError` naming ``option`` unless the folder of ``path`` exists."""
    with _refused(option, path):
        if not Path(path).absolute().parent.is_dir():
            raise InputError(f"{option} = {path}: its folder does not exist; an existing folder is needed")


def require_place(option: str, folder: Path | str) -> None:
    """Raise :class:`InputError` naming ``option`` unless files can be put into a folder, which may have to be made.

    For what takes minutes before it writes. What it makes in trying it takes away again.
    """
    with _refused(option, folder):
        place = Path(folder).absolute()
        missing = [path for path in (place, *place.parents) if not os.path.lexists(path)]
        make_folder(option, folder)
        for path in missing:
            path.rmdir()
        if not missing:
            with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, suffix=".tmp", dir=place):
                pass


def make_folder(option: str, folder: Path | str) -> None:
    """Make a folder and those above it where they are missing; raise :class:`InputError` naming ``option``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{option} = {folder}: cannot be made ({_reason(error)}); must be a folder, or a new one in a writable one"
        ) from None


@contextmanager
def _refused(option: str, path: Path | str) -> Iterator[None]:
    """Raise :class:`InputError` naming ``option`` for what the system says of a place that cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"{option} = {named(str(path))}: cannot be written ({_reason(error)}); a writable folder is needed"
        ) from None


def _reason(error: Exception) -> str:
    """What the system says; the text itself of what Python says, as of a name with a null in it."""
    return getattr(error, "strerror", None) or str(error)


_streams: dict[str, bytearray] = {}
"""What was read of pipes."""


def read_bytes(path: Path | str, largest: int = LARGEST) -> bytes:
    """Return the content of ``path``; raise :class:`InputError` when it cannot be read or has too many bytes.

    A path under ``models/`` or ``solvers/`` that is not there is the installed file of that name.
    """
    try:
        place = Path(path)
        if place.parts[:1] in (("models",), ("solvers",)) and not place.exists():
            place = resource(str(path)) or place
        # A pipe that nobody writes to is empty; opening it otherwise waits for somebody who may never come.
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            content = bytearray()
            while (part := stream.read(1 << 20)) != b"":
                if part is None:
                    select.select([stream], [], [])
                    continue
                content += part
                if len(content) > largest:
                    raise InputError(f"{path}: is too large to read; at most {largest:,} bytes are allowed")
        if not regular:
            # Commands look at a file twice, for its kind and for what it says; a pipe gives what it has once.
            content = content or _streams.get(str(path), content)
            _streams[str(path)] = content
        return bytes(content)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); a readable file is needed") from None


def _require_values(path: Path | str, raw: bytes, most: int) -> None:
    """Raise :class:`InputError` where there are more keys and values than ``most``, roughly, before they are parsed."""
    found = sum(map(raw.count, (b",", b"=", b"[", b"{")))
    if found > most:
        raise InputError(f"{path}: has some {found:,} values; at most {most:,} are allowed")


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether the lock at ``path`` could be had; a process that is killed gives it back."""
    import fcntl

    try:
        stream = path.open("w")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); a writable folder is needed") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def read_json(path: Path | str, *, proof: bool = False) -> Any:
    """Return the parsed content of a JSON file, or of a ``proof``, which may be long; raise :class:`InputError`."""
    raw = read_bytes(path, _LARGEST_TEXT)
    _require_values(path, raw, _MOST_PROVEN if proof else _MOST_VALUES)
    try:
        # Some editors begin files with a mark of their encoding.
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


def read_toml(path: Path | str) -> tuple[dict[str, Any], bytes]:
    """Return the parsed table and the raw bytes of a TOML file; raise :class:`InputError` otherwise."""
    raw = read_bytes(path, _LARGEST_TEXT)
    _require_values(path, raw, _MOST_VALUES)
    deep = _TOO_DEEP.search(raw)
    if deep is not None:
        raise InputError(
            f"{path}: {shown(deep[0].decode(errors='replace'))}: must be a key of at most {_DEEPEST} parts"
        )
    try:
        return tomllib.loads(raw.decode("utf-8-sig")), raw
    except (ValueError, RecursionError) as error:
        # ValueError: bad UTF-8, bad TOML, and integers beyond Python's limit of digits.
        raise InputError(f"{path}: not a TOML file ({error})") from None


def resource(name: str) -> Path | None:
    """The path of a file of the project (``models/...``, ``solvers/...``), in the installed package or in a checkout;
    ``None`` when there is none.
    """
    # Unlike a path's own method this takes names that no file can have.
    return next((folder / name for folder in _folders() if os.path.isfile(folder / name)), None)


def resources(pattern: str) -> Iterator[Path]:
    """The paths that match a pattern (``models/*/spec.toml``) in the places of :func:`resource`, one after another."""
    for folder in _folders():
        yield from sorted(folder.glob(pattern))


def _folders() -> tuple[Path, ...]:
    """Where the files of the project are; never the working folder, which may be somebody else's."""
    package = Path(__file__).parent
    checkout = package.parent
    return (package, checkout) if (checkout / "pyproject.toml").is_file() else (package,)


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write ``content`` to a temporary file beside ``path`` and rename it onto ``path``.

    A link at ``path`` stays, what it points to is written. A pipe or a device is written to as it is, ``-`` is standard
    output. Raises :class:`InputError` when the place cannot be written; the temporary file is removed on any failure.
    """
    if Path(path) == STANDARD_OUTPUT:
        write_output(content)
        return
    try:
        place = _place("", path)
        if _is_stream(place):
            # A pipe that nobody reads is an error rather than a wait.
            descriptor = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(descriptor, True)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            return
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=".tmp", dir=place.parent)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); a writable folder is needed") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        # mkstemp makes files private; a result file gets the permissions of any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(place)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); a writable file is needed") from None
    finally:
        temporary.unlink(missing_ok=True)


_TEMPORARY = ".mad-ip."
"""What the names of temporary files begin with."""


def _place(option: str, path: Path | str) -> Path:
    """Where a file at ``path`` is in the end, links followed.

    Raises :class:`InputError` for what no file may replace.
    """
    place = Path(path)
    if _is_stream(place):
        return place
    end = Path(os.path.realpath(place))
    # What is still a link leads to itself.
    if end.is_symlink() or (end.exists() and not end.is_file() and not end.is_dir()):
        raise InputError(f"{f'{option} = ' if option else ''}{path}: must be a file, a pipe or a character device")
    return end


def _is_stream(place: Path) -> bool:
    """Whether there is a pipe or a character device."""
    return place.is_fifo() or place.is_char_device()


def write_output(content: str | bytes) -> None:
    """Write to standard output. Where nobody reads on, what is left to write is dropped.

    Raises :class:`InputError` when it cannot be written otherwise.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        if isinstance(content, str):
            stream.write(content)
        else:
            stream.flush()
            stream.buffer.write(content)
        stream.flush()
    except OSError as error:
        # What is left in the buffer would fail again at the end.
        with suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise InputError(f"standard output: cannot be written ({_reason(error)})") from None
