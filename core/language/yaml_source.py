"""YAML text into plain values, guarded and fast.

Values are built from libyaml's events, one at a time and without recursion, so that no file can exhaust the stack, and every limit stops
the reading where it is passed. Equal aliases share one value: nothing that is read here may be changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from mloc.core.language.errors import LanguageError, Problem, did_you_mean, shown
from mloc.core.language.yaml_scalars import scalar

Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Gives events from text. Without libyaml PyYAML's own parser gives the same ones, about ten times slower."""

MAX_TEXT_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 1_000
MAX_DOCUMENTS = 256
MAX_WEIGHT = 8 << 20
"""Of one file: 80 for each value and its length for each text, counted as if every alias were written out."""

_WEIGHT = 80

_NO_KEY: Any = object()
_DROPPED: Any = object()
_MERGE: Any = object()
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("int", "float", "bool", "null"))
_TEXT_TAGS = frozenset(("!", _TAG + "str"))
_CONTAINER_TAGS = frozenset(("!", _TAG + "map", _TAG + "seq"))

_HINTS = (
    ("mapping values are not allowed", 'put quotes around a value that holds ": "'),
    ("tab character", "indent with spaces, not tabs"),
    ("cannot start any token", "indent with spaces, not tabs; put quotes around a value that starts with @, ` or %"),
    ("did not find expected key", "check the indentation of this line and of those above"),
    ("did not find expected '-' indicator", "the items of a list start in one column"),
    ("could not find expected ':'", "a key needs a colon and a space after it"),
    ("unexpected end of stream", "a quote or bracket is not closed"),
    ("did not find expected ',' or", "a bracket is not closed, or a comma is missing"),
)


_Scalar, _Alias, _Document = yaml.ScalarEvent, yaml.AliasEvent, yaml.DocumentStartEvent
_Mapping, _MappingEnd = yaml.MappingStartEvent, yaml.MappingEndEvent
_Sequence, _SequenceEnd = yaml.SequenceStartEvent, yaml.SequenceEndEvent


class _Anchored(NamedTuple):
    value: Any
    weight: int
    depth: int


def decode_text(text: bytes | str, source: str = "") -> str:
    """The text of a file. Raises LanguageError when it is too large or not UTF-8."""
    try:
        raw = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise LanguageError([Problem("the text holds half of a surrogate pair", found=f"character {error.start}", source=source)]) from error
    if len(raw) > MAX_TEXT_BYTES:
        raise LanguageError([Problem(
            "the file is too large", found=f"{len(raw):,} bytes", accepted=f"at most {MAX_TEXT_BYTES:,} bytes", source=source,
            hint="put the data into a jsonl file and name it under data.jsonl",
        )])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LanguageError([Problem(
            "the file is not UTF-8 text", found=f"byte {error.start} cannot be read", hint="save it as UTF-8", source=source,
        )]) from error


def load_documents(text: str) -> tuple[list[Any], list[Problem]]:
    """All documents as plain values, and what is wrong in them but does not stop the reading (repeated keys, tags).

    Raises LanguageError for broken YAML and for a file beyond the limits. Problems have line and column, and no source yet."""
    problems: list[Problem] = []
    if text.count("%TAG") > 16:  # libyaml compares each declaration with all others
        raise LanguageError([Problem("the file declares tags", hint="remove the %TAG lines")])
    try:
        return list(_documents(Parser(text).get_event, problems)), problems
    except LanguageError as error:
        raise LanguageError([*problems, *error.problems]) from None
    except yaml.MarkedYAMLError as error:
        raise LanguageError([*problems, _broken(error)]) from None
    except yaml.reader.ReaderError as error:
        raise LanguageError([*problems, _unreadable(error, text)]) from None


def _documents(get_event: Callable[[], Any], problems: list[Problem]) -> Iterator[Any]:
    """Build the documents. `current` is the open container, `key` the mapping key whose value comes next, `deepest` the deepest level
    below the open container."""
    aliases = documents = weight = 0
    anchors: dict[str, _Anchored | None] = {}
    merges: dict[int, list[Any]] = {}
    stack: list[tuple[Any, Any, str | None, int, int]] = []
    current: Any = None
    key, deepest = _NO_KEY, 0
    for event in iter(get_event, None):
        kind = type(event)
        if weight > MAX_WEIGHT:
            raise _at(event, "the file holds too much", hint="put the data into a jsonl file; every use of an alias counts in full")
        if kind is _Scalar:
            text = event.value
            weight += len(text) + _WEIGHT
            if key is _NO_KEY and type(current) is dict:
                key = _key(event, text, current, id(current) in merges, problems)
                continue
            value = scalar(text) if event.implicit[0] and event.tag is None else _tagged(event, text, problems)
            if event.anchor is not None:
                anchors[event.anchor] = _Anchored(value, len(text) + _WEIGHT, 0)
        elif kind is _Mapping or kind is _Sequence:
            _check_container(event, key is _NO_KEY and type(current) is dict, len(stack), problems)
            weight += _WEIGHT
            if event.anchor is not None:
                anchors[event.anchor] = None
            stack.append((current, key, event.anchor, weight, deepest))
            current, key, deepest = ({} if kind is _Mapping else []), _NO_KEY, len(stack)
            continue
        elif kind is _MappingEnd or kind is _SequenceEnd:
            value = current
            if merges:
                for merged in merges.pop(id(value), ()):
                    for name, inherited in merged.items():
                        value.setdefault(name, inherited)
            level = len(stack)
            current, key, anchor, before, outer = stack.pop()
            if anchor is not None:
                anchors[anchor] = _Anchored(value, weight - before + _WEIGHT, deepest - level + 1)
            if outer > deepest:
                deepest = outer
        elif kind is _Alias:
            aliases += 1
            anchored = _anchored(event, anchors, aliases, len(stack), key is _NO_KEY and type(current) is dict)
            weight += anchored.weight
            value, deepest = anchored.value, max(deepest, len(stack) + anchored.depth)
        elif kind is _Document:
            documents += 1
            if documents > MAX_DOCUMENTS:
                raise _at(event, "the file holds too many documents", accepted=f"at most {MAX_DOCUMENTS}")
            anchors, current, key, deepest = {}, None, _NO_KEY, 0
            continue
        else:
            continue
        if current is None:
            yield value
        elif type(current) is list:
            current.append(value)
        else:
            if key is _MERGE:
                merges.setdefault(id(current), []).extend(_merged(value, event))
            elif key is not _DROPPED:
                current[key] = value
            key = _NO_KEY


def _anchored(event: Any, anchors: dict[str, _Anchored | None], aliases: int, level: int, is_key: bool) -> _Anchored:
    """What an alias stands for."""
    if is_key:
        raise _at(event, "an alias stands in the place of a mapping key")
    if aliases > MAX_ALIASES:
        raise _at(event, "the file holds too many aliases", accepted=f"at most {MAX_ALIASES:,}")
    if event.anchor not in anchors:
        raise _at(event, f"the alias *{event.anchor} names no anchor", hint=did_you_mean(event.anchor, anchors, "*"))
    anchored = anchors[event.anchor]
    if anchored is None:
        raise _at(event, f"the alias *{event.anchor} stands inside of its own anchor")
    if level + anchored.depth > MAX_DEPTH:
        raise _at(event, "the file is nested too deeply", accepted=f"at most {MAX_DEPTH} levels")
    return anchored


def _check_container(event: Any, is_key: bool, level: int, problems: list[Problem]) -> None:
    if is_key:
        raise _at(event, "a mapping key is not a text", hint="put quotes around a value with { or [ in it")
    if level >= MAX_DEPTH:
        raise _at(event, "the file is nested too deeply", accepted=f"at most {MAX_DEPTH} levels")
    if event.tag is not None and event.tag not in _CONTAINER_TAGS:
        problems.extend(_tag_problem(event).problems)


def _key(event: Any, text: str, current: dict[str, Any], has_merge: bool, problems: list[Problem]) -> Any:
    """The key as it is written, the merge key, or `_DROPPED` for a key that is there already."""
    if text == "<<" and event.implicit[0]:
        if has_merge:
            raise _at(event, "the key << appears twice", hint="merge several with <<: [*first, *second]")
        return _MERGE
    if text in current:
        problems.extend(_at(event, f"the key {shown(text)} appears twice in one mapping", hint="remove one of them").problems)
        return _DROPPED
    return text


def _tagged(event: Any, text: str, problems: list[Problem]) -> Any:
    """A quoted scalar, or one with a tag."""
    if event.tag is None or event.tag in _TEXT_TAGS:
        return text
    if event.tag in _SCALAR_TAGS:
        return scalar(text)
    problems.extend(_tag_problem(event).problems)
    return text


def _merged(value: Any, event: Any) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in values):
        raise _at(event, "<< merges mappings only", found=shown(value))
    return values


def _tag_problem(event: Any) -> LanguageError:
    return _at(event, f"the tag {shown(event.tag.replace(_TAG, '!!'))} is not supported", hint="remove it")


def _at(event: Any, message: str, found: str = "", accepted: str = "", hint: str = "") -> LanguageError:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    return LanguageError([Problem(message, line=line, column=column, found=found, accepted=accepted, hint=hint)])


def _broken(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    text = error.problem or error.context or "the YAML is broken"
    hint = next((hint for part, hint in _HINTS if part in text), "")
    since = f" ({error.context} that starts in line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    return Problem(f"broken YAML: {text}{since}", line=mark.line + 1 if mark else 0, column=mark.column + 1 if mark else 0, hint=hint)


def _unreadable(error: Any, text: str) -> Problem:
    """libyaml refuses control characters and gives their place in bytes."""
    before = text.encode()[: error.position].decode(errors="ignore") if isinstance(error.position, int) else ""
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    found = f"character U+{ord(text[len(before)]):04X}" if len(before) < len(text) else ""
    return Problem("the file holds a character that YAML does not allow", line=line, column=column, found=found,
                   hint='write it as an escape such as "\\u0000" inside of double quotes')
