"""The tool `web_search`: asks a search service that the task names. There is none by default: each wants an account or a server of one's own.

    {web_search: {url: "https://search.example.org/search?format=json&q={query}", headers: {X-Key: "${env.SEARCH_KEY}"}}}

The service answers with JSON; its results are found where SearXNG (`results`), Brave (`web.results`), Google (`items`), Serper (`organic`) and
Bing (`webPages.value`) have them.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote_plus, urlsplit

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.core.language.value_paths import PathError, look_up, parse_path
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.agents.tools.web_page import Refused, Rules, fetch
from mloc.executors.contract import ExecutorError

LISTS = ("results", "web.results", "items", "organic", "webPages.value", "data")
SAID = "Searches the web and gives title, address and a few words of each result."


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: of the service, with {query} in it; `results`: path of the list in its answer, where it is not found by itself."""

    url: str = ""
    headers: dict[str, str] = {}
    results: str = ""
    max_results: int = 5
    timeout: float = 15.0


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    at = urlsplit(options.url)
    host = str(at.hostname) if at.port is None else f"{at.hostname}:{at.port}"

    def web_search(query: str) -> str:
        rules = Rules(hosts=(host,), private=True, timeout=min(options.timeout, max(0.1, place.left_sec())), headers=options.headers)
        try:
            page = fetch(options.url.replace("{query}", quote_plus(query)), rules)
            found = _results(json.loads(page.text), options.results)
        except Refused as refused:
            return f"refused: {refused}"
        except (OSError, http.client.HTTPException) as error:
            return f"error: the search service does not answer: {type(error).__name__}: {error}"
        except ValueError:
            return f"error: the search service answered with status {page.status} and no JSON"
        if found is None:
            return f"error: the search service answered with status {page.status} and no list of results"
        return "\n\n".join(_shown(one) for one in found[: options.max_results]) or "(nothing was found)"

    return [StructuredTool.from_function(web_search, description=SAID)]


def _results(answer: Any, where: str) -> list[dict[str, Any]] | None:
    if isinstance(answer, list):
        return [one for one in answer if isinstance(one, dict)]
    for path in (where,) if where else LISTS:
        try:
            found = look_up(answer, parse_path(path))
        except (PathError, LookupError, TypeError):  # this service calls its list otherwise; where none is found the caller says so
            continue
        if isinstance(found, list):
            return [one for one in found if isinstance(one, dict)]
    return None


def _shown(result: dict[str, Any]) -> str:
    address = result.get("url") or result.get("link") or ""
    words = next((result[name] for name in ("content", "snippet", "description", "body", "text") if isinstance(result.get(name), str)), "")
    return "\n".join(line for line in (str(result.get("title") or result.get("name") or ""), str(address), words[:500]) if line)


def _check(options: Options, _: TaskSpec) -> None:
    how = '{web_search: {url: "https://…?q={query}&format=json", headers: {…}}}'
    if not options.url:
        raise ExecutorError("NoSearchService", f"agent.tools: web_search needs to know the search service that it asks: {how}")
    if "{query}" not in options.url or urlsplit(options.url).scheme not in ("http", "https"):
        raise ExecutorError("BadSetting", f"agent.tools: web_search: url is an http address with {{query}} in it: {how}")


KIND = Kind(Options, _make, _check)
