"""Reading and writing files so that a failure leaves one clear sentence and nothing half-written."""

from __future__ import annotations

import json
import math
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mad_ip.errors import InputError

__all__ = [
    "finite",
    "make_folder",
    "named",
    "read_bytes",
    "read_json",
    "read_toml",
    "require_folder",
    "require_new",
    "require_place",
    "resource",
    "resources",
    "write_atomically",
]


def named(key: str) -> str:
    """A key as it stands in a message, which must stay one line."""
    return key if key.isprintable() else repr(key)


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

    For what takes minutes before it writes.
    """
    require_folder(option, path)
    place = Path(path)
    if place.is_dir():
        raise InputError(f"{option} = {path}: is a folder; must be a file in one")
    if any(other is not None and place.absolute() == Path(other).absolute() for other in others):
        raise InputError(f"{option} = {path}: would take the place of another file of this command; must be another")
    if not os.access(place.absolute().parent, os.W_OK):
        raise InputError(f"{option} = {path}: cannot be written; a writable folder is needed")


def require_folder(option: str, path: Path | str) -> None:
    """Raise :class:`InputError` naming ``option`` unless the folder of ``path`` exists."""
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"{option} = {path}: its folder does not exist; an existing folder is needed")


def require_place(option: str, folder: Path | str) -> None:
    """Raise :class:`InputError` naming ``option`` unless files can be put into a folder, which may have to be made.

    For what takes minutes before it writes. What it makes in trying it takes away again.
    """
    place = Path(folder).absolute()
    missing = [path for path in (place, *place.parents) if not os.path.lexists(path)]
    make_folder(option, folder)
    for path in missing:
        path.rmdir()
    if not missing and not os.access(place, os.W_OK):
        raise InputError(f"{option} = {folder}: cannot be written; a writable folder is needed")


def make_folder(option: str, folder: Path | str) -> None:
    """Make a folder and those above it where they are missing; raise :class:`InputError` naming ``option``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} = {folder}: cannot be made ({error.strerror}); must be a folder, or a new one in a writable one"
        ) from None


def read_bytes(path: Path | str) -> bytes:
    """Return the content of ``path``; raise :class:`InputError` when it cannot be read.

    A path under ``models/`` or ``solvers/`` that is not there is the installed file of that name.
    """
    try:
        place = Path(path)
        if place.parts[:1] in (("models",), ("solvers",)) and not place.exists():
            place = resource(str(path)) or place
        return place.read_bytes()
    except (OSError, ValueError) as error:
        # ValueError: a name with a null in it.
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); a readable file is needed") from None


def read_json(path: Path | str) -> Any:
    """Return the parsed content of a JSON file; raise :class:`InputError` otherwise."""
    raw = read_bytes(path)
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


def read_toml(path: Path | str) -> tuple[dict[str, Any], bytes]:
    """Return the parsed table and the raw bytes of a TOML file; raise :class:`InputError` otherwise."""
    raw = read_bytes(path)
    try:
        return tomllib.loads(raw.decode("utf-8")), raw
    except (ValueError, RecursionError) as error:
        # ValueError: bad UTF-8, bad TOML, and integers beyond Python's limit of digits.
        raise InputError(f"{path}: not a TOML file ({error})") from None


def resource(name: str) -> Path | None:
    """The path of a file of the project (``models/...``, ``solvers/...``): under the working folder, in the installed
    package, or beside it in a checkout; ``None`` when there is none.
    """
    return next((folder / name for folder in _folders() if (folder / name).is_file()), None)


def resources(pattern: str) -> Iterator[Path]:
    """The paths that match a pattern (``models/*/spec.toml``) in the places of :func:`resource`, one after another."""
    for folder in _folders():
        yield from sorted(folder.glob(pattern))


def _folders() -> tuple[Path, ...]:
    package = Path(__file__).parent
    return Path(), package, package.parent


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write ``content`` to a temporary file beside ``path`` and rename it onto ``path``.

    Raises :class:`InputError` when the place cannot be written; the temporary file is removed on any failure.
    """
    target = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); a writable folder is needed") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        # mkstemp makes files private; a result file gets the permissions of any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); a writable file is needed") from None
    finally:
        temporary.unlink(missing_ok=True)
