"""From a path in a document back to its line and column: a second pass over the text, made only when there is something to say."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import yaml

from mloc.core.language.errors import Path, Problem, dotted, excerpt_of
from mloc.core.language.yaml_source import Parser

_NO_KEY: Any = object()
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what libyaml takes for one


class Position(NamedTuple):
    """Where a value starts, and where its key does. Lines and columns count from 1."""

    line: int
    column: int
    key_line: int
    key_column: int


class YamlPositions:
    """Places of one file, looked up on first use. `text` must be one that `load_documents` has read to its end."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._text = text
        self._lines: list[str] | None = None
        self._documents: list[dict[Path, Position]] | None = None

    def located(self, problem: Problem, document: int, path: Path, at_key: bool = False) -> Problem:
        """The problem with source, line and column; a path that the text does not write gives its nearest ancestor's place."""
        problem = msgspec.structs.replace(problem, path=problem.path or dotted(path), source=self.source)
        places = self._places(document)
        while path and path not in places:
            path, at_key = path[:-1], True
        place = places.get(path)
        if place is None:
            return problem
        return self.at_line(problem, *((place.key_line, place.key_column) if at_key else (place.line, place.column)))

    def at_line(self, problem: Problem, line: int, column: int) -> Problem:
        """The problem at a known place, with what is written there."""
        if self._lines is None:
            self._lines = _LINE_BREAK.split(self._text)
        excerpt, caret = excerpt_of(self._lines[line - 1] if 0 < line <= len(self._lines) else "", column)
        return msgspec.structs.replace(problem, source=self.source, line=line, column=column, excerpt=excerpt, caret=caret)

    def writes(self, document: int, path: Path) -> bool:
        """Whether the text itself writes this path."""
        return path in self._places(document)

    def _places(self, document: int) -> dict[Path, Position]:
        if self._documents is None:
            self._documents = _documents(self._text)
        return self._documents[document] if document < len(self._documents) else {}


class _Open:
    """A container that is being read: where it is, and the index or key of its next value."""

    __slots__ = ("following", "key_column", "key_line", "path")

    def __init__(self, path: Path, following: Any) -> None:
        self.path, self.following = path, following
        self.key_line = self.key_column = 0


def _documents(text: str) -> list[dict[Path, Position]]:
    """For each document, where the value at each path starts; of a repeated key, its first place.

    A little JSON is none for YAML (a colon on a line of its own, a key of over 1,024 characters): what stands before that has places."""
    documents: list[dict[Path, Position]] = []
    with contextlib.suppress(yaml.YAMLError):
        _note(Parser(text).get_event, documents)
    return documents


def _note(get_event: Callable[[], Any], documents: list[dict[Path, Position]]) -> None:
    places: dict[Path, Position] = {}
    stack: list[_Open] = []
    for event in iter(get_event, None):
        if isinstance(event, yaml.DocumentStartEvent):
            places = {}
            documents.append(places)
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            path = _place(event, stack, places)
            if path is None:
                continue
            if isinstance(event, yaml.SequenceStartEvent):
                stack.append(_Open(path, 0))
            elif isinstance(event, yaml.MappingStartEvent):
                stack.append(_Open(path, _NO_KEY))


def _place(event: Any, stack: list[_Open], places: dict[Path, Position]) -> Path | None:
    """Note where a value starts and give its path; None when it is a mapping's key."""
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    if not stack:
        places[()] = Position(line, column, line, column)
        return ()
    parent = stack[-1]
    if parent.following is _NO_KEY:
        parent.following, parent.key_line, parent.key_column = event.value, line, column
        return None
    path = (*parent.path, parent.following)
    if isinstance(parent.following, int):
        parent.following += 1
        places[path] = Position(line, column, line, column)
    else:
        places.setdefault(path, Position(line, column, parent.key_line, parent.key_column))
        parent.following = _NO_KEY
    return path
