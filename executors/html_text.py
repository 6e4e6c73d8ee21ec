"""The text of an HTML page as its reader sees it: documents that are indexed, and pages that an agent fetches."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

_BLOCKS = frozenset((
    "p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol", "pre", "blockquote",
))  # fmt: skip
_UNSEEN = frozenset(("script", "style", "title", "template", "noscript", "svg"))  # of a head only the title has text; its end may be left out


def html_text(page: str) -> str:
    """A block a line, without empty ones."""
    seen = _Seen()
    seen.feed(page)
    seen.close()
    lines = (" ".join(line.split()) for line in "".join(seen.parts).splitlines())
    return "\n".join(line for line in lines if line)


class _Seen(HTMLParser):
    """Collects what a reader of the page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._unseen += tag in _UNSEEN
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in _UNSEEN))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)
