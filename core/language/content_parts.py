"""Text, images, audio and video inside of a row or a chat turn, in the shape of OpenAI's API: `{type: image_url, image_url: {url: …}}`.

A place of media is a URL, a data URI (`data:image/png;base64,…`), or a file's path. The shorter form of transformers,
`{type: image, image: …}` with `url`, `path` or `base64` in place of `image`, is taken too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings

MEDIA = ("image", "audio", "video")
_BY_URL = {f"{medium}_url": medium for medium in MEDIA}
PART_TYPES = ("text", *_BY_URL, "input_audio", *MEDIA)
_DATA_URI = re.compile(r"data:(?P<medium>[a-z]+)/[A-Za-z0-9.+-]+(;[a-z]+=[^;,]+)*;base64,[A-Za-z0-9+/=_-]+")
_OPENED = (*_BY_URL, *MEDIA)  # types of parts that say where their media is
_CONTENT_KEYS = ("content", "prompt")


def is_parts(value: Any) -> bool:
    """Whether a value is meant as parts: a list of mappings that say their type and are no chat turns."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, dict) and "type" in one and "role" not in one for one in value)


def parts_in(item: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each part of a row or a chat turn, with its place."""
    match item:
        case list() | tuple():
            for at, turn in enumerate(item):
                yield from parts_in(turn, (*path, at))
        case dict():
            for key in _CONTENT_KEYS:
                if is_parts(item.get(key)):
                    yield from (((*path, key, at), part) for at, part in enumerate(item[key]))
            if isinstance(item.get("messages"), list | tuple):
                yield from parts_in(item["messages"], (*path, "messages"))
        case _:
            return


def medium_of(part: Mapping[str, Any]) -> str:
    """What a part that is no text holds: image, audio, video; its type, where that is none of ours."""
    return str(part["type"]).removeprefix("input_").removesuffix("_url")


def images_in(item: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where each image of a row or a turn is: a URL, a data URI or a path."""
    for place, part in parts_in(item, path):
        if part["type"] in ("image", "image_url") and (image := image_place(part)):
            yield place, image


def image_place(part: Mapping[str, Any]) -> str:
    """A URL, a data URI, or a file's path; "" where the part names none."""
    for path, text in _places(part):
        return f"data:image/any;base64,{text}" if path == ("base64",) and not text.startswith("data:") else text
    return ""


def check_parts(item: Any, path: Path, findings: Findings) -> None:
    """Note what is wrong with the parts of a row or a turn."""
    for place, part in parts_in(item, path):
        kind = part["type"]
        if kind not in PART_TYPES:
            hint = did_you_mean(kind, PART_TYPES) if isinstance(kind, str) else ""
            findings.wrong((*place, "type"), "is no kind of content", found=shown(kind), accepted=", ".join(PART_TYPES), hint=hint)
        elif kind == "text":
            if not isinstance(part.get("text"), str):
                findings.wrong(place, '"text" is missing', found=shown(part), accepted="{type: text, text: …}")
        elif kind == "input_audio":
            audio = part.get("input_audio")
            if not (isinstance(audio, dict) and isinstance(audio.get("data"), str)):
                findings.wrong(place, "holds no audio", found=shown(part), accepted="{type: input_audio, input_audio: {data: base64, format: wav}}")
        else:
            _check_place(kind, part, place, findings)


def with_media_paths(item: Any, replaced: Callable[[str], str]) -> Any:
    """The row or turn with every file's path replaced; itself where it names none."""
    match item:
        case list() | tuple():
            made = [with_media_paths(turn, replaced) for turn in item]
            return item if all(new is old for new, old in zip(made, item, strict=True)) else made
        case dict():
            changes: dict[str, Any] = {}
            for key in _CONTENT_KEYS:
                if is_parts(item.get(key)):
                    changes[key] = [_with_path(part, replaced) for part in item[key]]
            if isinstance(item.get("messages"), list | tuple):
                changes["messages"] = with_media_paths(item["messages"], replaced)
            changed = {key: value for key, value in changes.items() if value != item[key]}
            return {**item, **changed} if changed else item
        case _:
            return item


def _check_place(kind: str, part: dict[str, Any], place: Path, findings: Findings) -> None:
    medium = _BY_URL.get(kind, kind)
    found = list(_places(part))
    if not found:
        accepted = f"{{type: {kind}, {kind}: {{url: …}}}}" if kind in _BY_URL else f"{{type: {kind}, {kind}: a URL, a data URI or a path}}"
        findings.wrong(place, f"does not say where the {medium} is", found=shown(part), accepted=accepted)
    for path, text in found:
        if not text.startswith("data:"):
            continue
        uri = _DATA_URI.fullmatch(text)
        if uri is None:
            findings.wrong((*place, *path), "is no data URI", found=shown(text), accepted=f"data:{medium}/…;base64,…")
        elif uri["medium"] != medium:
            findings.wrong((*place, *path), f"holds no {medium}", found=shown(f"data:{uri['medium']}/…"), accepted=f"data:{medium}/…;base64,…")


def _places(part: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where a part says that its media is."""
    kind = part["type"]
    value = part.get(kind)
    if isinstance(value, dict) and isinstance(value.get("url"), str) and value["url"]:
        yield (kind, "url"), value["url"]
    elif isinstance(value, str) and value:
        yield (kind,), value
    elif kind in MEDIA:
        yield from (((key,), part[key]) for key in ("url", "path", "base64") if isinstance(part.get(key), str) and part[key])


def _with_path(part: dict[str, Any], replaced: Callable[[str], str]) -> dict[str, Any]:
    for path, text in _places(part) if part["type"] in _OPENED else ():
        if path != ("base64",) and "://" not in text and not text.startswith("data:") and "${" not in text:
            new = replaced(text)
            return {**part, path[0]: {**part[path[0]], "url": new} if len(path) > 1 else new}
    return part
