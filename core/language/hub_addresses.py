"""The address of a dataset's page on the hub, as a browser shows it: it names a dataset, and is no file to fetch."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/(?P<name>[\w.-]+(?:/(?!tree\b|viewer\b)[\w.-]+)?)"
    r"(?:/tree/(?P<revision>[^/?#]+)|/viewer(?:/[^?#]*)?)?/?(?:[?#].*)?"
)
_WRITTEN_IN = ("url", "identifier", "dataset_name", "dataset")


class HubDataset(NamedTuple):
    """A dataset by the hub's name of it; `written_in` is the key that holds its address."""

    written_in: str
    identifier: str
    revision: str


def named_by_address(data: dict[str, Any]) -> HubDataset | None:
    """The dataset whose page's address stands where `data` names one. A file's own address (`…/resolve/…`) is none."""
    for key in _WRITTEN_IN:
        address = data.get(key)
        if isinstance(address, str) and (found := _PAGE.fullmatch(address.strip())):
            return HubDataset(key, found["name"], re.sub("%2f", "/", found["revision"] or "", flags=re.IGNORECASE))
    return None


def with_name(data: dict[str, Any], found: HubDataset) -> dict[str, Any]:
    """The same `data` with the dataset's name in place of its address; a revision that it states stays."""
    taken = {name: value for name, value in data.items() if name not in _WRITTEN_IN} | {"identifier": found.identifier}
    if found.revision and data.get("revision") is None:
        taken["revision"] = found.revision
    return taken
