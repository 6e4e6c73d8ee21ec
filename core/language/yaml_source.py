"""YAML text into plain values, guarded and fast.

Values are built from libyaml's events, one at a time and without recursion, so that no file can exhaust the stack, and every limit stops
the reading where it is passed. Equal aliases share one value: nothing that is read here may be changed in place.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from mloc.core.language.errors import MAX_PROBLEMS, LanguageError, Problem, did_you_mean, shown
from mloc.core.language.json_source import NONE, load_json
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

_OTHER_FORMATS = {
    b"\xff\xfe": "UTF-16: save it as UTF-8", b"\xfe\xff": "UTF-16: save it as UTF-8", b"\x1f\x8b": "compressed: unpack it first",
    b"PK\x03\x04": "an archive: unpack it first",
}  # fmt: skip
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_NO_BLANK = re.compile(r"\s*(- )?[\w.-]+:\S.*")
_HAS_VALUE = re.compile(r"\s*(- )?[\w.-]+: +[^\s#|>]")
_HINTS = (
    ("mapping values are not allowed", 'put quotes around a value that holds ": "'),
    ("tab character", "indent with spaces, not tabs"),
    ("cannot start any token", "indent with spaces, not tabs; put quotes around a value that starts with @, ` or %"),
    ("did not find expected key", "check the indentation of this line and of those above"),
    ("did not find expected '-' indicator", "the items of a list start in one column"),
    ("could not find expected ':'", "a key needs a colon and a space after it"),
    ("unexpected end of stream", "a quote or bracket is not closed"),
    ("did not find expected ',' or", "a bracket is not closed, or a comma is missing"),
    ("<document start>", "something stands after the end of the document; documents are parted by ---"),
    ("incompatible YAML document", "remove the %YAML line"),
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
        decoded = (raw := raw.removeprefix(codecs.BOM_UTF8)).decode()
        return _PAIR.sub(_one_character, decoded) if "\\u" in decoded and decoded.lstrip()[:1] in ("{", "[") else decoded
    except UnicodeDecodeError as error:
        raise LanguageError([_not_utf8(raw, error.start, source)]) from error


def _not_utf8(raw: bytes, at: int, source: str) -> Problem:
    before = raw[:at].decode()
    what = next((what for start, what in _OTHER_FORMATS.items() if raw.startswith(start)), "")
    return Problem(
        "the file is not UTF-8 text", line=before.count("\n") + 1, column=len(before) - before.rfind("\n"), source=source,
        found=f"the byte 0x{raw[at]:02x}", hint=f"it is {what}" if what else "save it as UTF-8",
    )  # fmt: skip


def _one_character(pair: re.Match[str]) -> str:
    """JSON writes a character beyond U+FFFF as two escapes, which YAML does not know; both know one of eight digits."""
    return f"{pair[1]}\\U{0x10000 + ((int(pair[2], 16) & 0x3FF) << 10) + (int(pair[3], 16) & 0x3FF):08x}"


def load_documents(text: str) -> tuple[list[Any], list[Problem]]:
    """All documents as plain values, and what is wrong in them but does not stop the reading (repeated keys, tags).

    Raises LanguageError for broken YAML and for a file beyond the limits. Problems have line and column, and no source yet."""
    problems: list[Problem] = []
    if (value := load_json(text, MAX_WEIGHT, _WEIGHT, MAX_DEPTH)) is not NONE:
        return [value], problems
    if text.count("%TAG") > 16:  # libyaml compares each declaration with all others
        raise LanguageError([Problem("the file declares tags", hint="remove the %TAG lines")])
    try:
        return list(_documents(Parser(text).get_event, problems)), problems
    except LanguageError as error:
        raise LanguageError([*problems, *error.problems]) from None
    except yaml.MarkedYAMLError as error:
        raise LanguageError([*problems, _broken(error, text)]) from None
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
        _note(problems, _tag_problem(event))


def _key(event: Any, text: str, current: dict[str, Any], has_merge: bool, problems: list[Problem]) -> Any:
    """The key as it is written, the merge key, or `_DROPPED` for a key that is there already."""
    if text == "<<" and event.implicit[0]:
        if has_merge:
            raise _at(event, "the key << appears twice", hint="merge several with <<: [*first, *second]")
        return _MERGE
    if text in current:
        _note(problems, _at(event, f"the key {shown(text)} appears twice in one mapping", hint="remove one of them"))
        return _DROPPED
    return text


def _tagged(event: Any, text: str, problems: list[Problem]) -> Any:
    """A quoted scalar, or one with a tag."""
    if event.tag is None or event.tag in _TEXT_TAGS:
        return text
    if event.tag in _SCALAR_TAGS:
        return scalar(text)
    _note(problems, _tag_problem(event))
    return text


def _merged(value: Any, event: Any) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in values):
        raise _at(event, "<< merges mappings only", found=shown(value))
    return values


def _tag_problem(event: Any) -> LanguageError:
    return _at(event, f"the tag {shown(event.tag.replace(_TAG, '!!'))} is not supported", hint="remove it")


def _note(problems: list[Problem], error: LanguageError) -> None:
    """Keep a problem that does not stop the reading, unless there are enough of them."""
    problems.extend(error.problems)
    if len(problems) >= MAX_PROBLEMS:
        raise LanguageError(())


def _at(event: Any, message: str, found: str = "", accepted: str = "", hint: str = "") -> LanguageError:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    return LanguageError([Problem(message, line=line, column=column, found=found, accepted=accepted, hint=hint)])


def _broken(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = error.problem or error.context or "the YAML is broken"
    hint = (_hint_by_lines(said, text, mark.line) if mark else "") or next((hint for part, hint in _HINTS if part in said), "")
    since = f" ({error.context} that starts in line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    return Problem(f"broken YAML: {said}{since}", line=mark.line + 1 if mark else 0, column=mark.column + 1 if mark else 0, hint=hint)


def _hint_by_lines(said: str, text: str, at: int) -> str:
    """What the line itself and the one above give away."""
    lines = text.splitlines()[: at + 1]
    line = lines[at] if at < len(lines) else ""
    above = next((one for one in reversed(lines[:at]) if one.strip() and not one.lstrip().startswith("#")), "")
    if "mapping values" in said:
        if _NO_BLANK.fullmatch(above):
            return "a blank is missing after the colon of the line above"
        if _indent(line) > _indent(above) and _HAS_VALUE.match(above) and not line.lstrip().startswith("-"):
            return "this line is indented deeper than the one above, which has a value already"
    if "${" in line and "did not find expected" in said:
        return "put quotes around a value with ${…} inside of brackets"
    if "cannot start any token" in said or "alphabetic or numeric" in said:
        if "\t" in line[: _indent(line)]:
            return "indent with spaces, not tabs"
        return 'put quotes around a value that starts with @, `, %, * or &'
    return ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _unreadable(error: Any, text: str) -> Problem:
    """libyaml refuses control characters and gives their place in bytes."""
    before = text.encode()[: error.position].decode(errors="ignore") if isinstance(error.position, int) else ""
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    found = f"character U+{ord(text[len(before)]):04X}" if len(before) < len(text) else ""
    return Problem("the file holds a character that YAML does not allow", line=line, column=column, found=found,
                   hint='write it as an escape such as "\\u0000" inside of double quotes')
