"""The same finding with less input: options left out, tables pruned, lines and bytes cut, as far as time allows."""

from __future__ import annotations

import copy
import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from tools.fuzz.cases import Case
from tools.fuzz.values import json_bytes, places, toml_bytes

__all__ = ["shrunk", "size"]


def size(case: Case) -> int:
    """Bytes of a case."""
    return sum(len(word.encode("utf-8", "replace")) for word in case.words) + sum(map(len, case.files.values()))


def shrunk(case: Case, wanted: Callable[[Case], bool], stop: Callable[[], bool]) -> Case:
    """The smallest case found that is still ``wanted``; ``stop`` is asked before every try."""
    better = True
    while better:
        better = False
        for candidate in _smaller(case):
            if stop():
                return case
            if size(candidate) < size(case) and wanted(candidate):
                case, better = candidate, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    for name in case.files:
        yield dataclasses.replace(case, files={key: value for key, value in case.files.items() if key != name})
    words = case.words
    for at in range(1, len(words)):
        for length in (2, 1):
            rest = (*words[:at], *words[at + length :])
            if words[at].startswith("-"):
                yield dataclasses.replace(case, words=rest)
    # The largest files first.
    for name in sorted(case.files, key=lambda name: -len(case.files[name])):
        for content in _smaller_contents(case.files[name]):
            yield dataclasses.replace(case, files={**case.files, name: content})


def _smaller_contents(content: bytes) -> Iterator[bytes]:
    length = len(content)
    # Halves, quarters, ... of a large file; then what it consists of.
    for parts in (2, 4, 8):
        for part in range(parts):
            yield content[: part * length // parts] + content[(part + 1) * length // parts :]
    tree, write = _parsed(content)
    if tree is not None:
        for container, key in list(places(tree)):
            yield write(_without(tree, container, key))
        return
    lines = content.splitlines(keepends=True)
    for number in range(len(lines) if len(lines) < 200 else 0):
        yield b"".join([*lines[:number], *lines[number + 1 :]])
    for at in range(length if length < 200 else 0):
        yield content[:at] + content[at + 1 :]


def _without(tree: Any, container: Any, key: Any) -> Any:
    """A copy of a tree without one place."""
    held = container[key]
    del container[key]
    pruned = copy.deepcopy(tree)
    if isinstance(container, list):
        container.insert(key, held)
    else:
        # At the end: the order of keys means nothing.
        container[key] = held
    return pruned


def _parsed(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """A file as a tree, and what writes it; ``None`` where it is none."""
    for read, write in ((json.loads, json_bytes), (tomllib.loads, toml_bytes)):
        try:
            tree = copy.deepcopy(read(content.decode("utf-8")))
        except (ValueError, RecursionError):
            # Too deep to be copied is too deep to be pruned.
            continue
        if isinstance(tree, dict | list):
            return tree, write
    return None, json_bytes
