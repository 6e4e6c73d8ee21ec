"""The tool `http_get`: a page's text, from hosts that the task allows (`web_page`)."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from contextlib import ExitStack

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.agents.tools.web_page import Refused, Rules, fetch, readable
from mloc.executors.contract import ExecutorError


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """As `web_page.Rules`; `output`: characters that the model is shown."""

    hosts: tuple[str, ...] = ()
    private: bool = False
    timeout: float = 15.0
    max_bytes: int = 1 << 20
    redirects: int = 5
    headers: dict[str, str] = {}
    output: int = 8000


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    def http_get(url: str) -> str:
        rules = Rules(
            hosts=options.hosts, private=options.private, timeout=min(options.timeout, max(0.1, place.left_sec())), max_bytes=options.max_bytes,
            redirects=options.redirects, headers=options.headers,
        )  # fmt: skip
        try:
            page = fetch(url, rules)
        except Refused as refused:
            return f"refused: {refused}"
        except (OSError, http.client.HTTPException) as error:
            return f"error: {type(error).__name__}: {error}"
        text = readable(page)
        cut = f"\n(cut: {len(text)} characters)" if len(text) > options.output or page.is_cut else ""
        return (f"status {page.status}\n" if page.status != 200 else "") + text[: options.output] + cut

    where = f"of {', '.join(options.hosts)}" if options.hosts else "of a public host"
    return [StructuredTool.from_function(http_get, description=f"Fetches a page {where} and gives its text.")]


def _check(options: Options, _: TaskSpec) -> None:
    if options.private and not options.hosts:
        raise ExecutorError("BadSetting", "agent.tools: http_get: private is true, and hosts does not say which private hosts are meant")


KIND = Kind(Options, _make, _check)
