"""Fetching pages and searching: what is fetched, and above all what is not."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')

from mloc.core.language.agent_rules import TOOLS
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools import http_get, web_page, web_search
from mloc.executors.agents.tools.toolbox import Kind, Place, kind_of
from mloc.executors.agents.tools.web_page import Refused, Rules, fetch
from mloc.executors.contract import ExecutorError

pytestmark = pytest.mark.extras

PAGE = "<html><head><title>t</title><script>var x</script></head><body><h1>Lima</h1><p>is  the <b>capital</b></p></body></html>"
SPEC = TaskSpec(task_type="agent")


class Site(BaseHTTPRequestHandler):
    seen: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("X-Key", "")))
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        found = {"results": [{"title": "Peru", "url": "http://x/peru", "content": "Lima is its capital."}, {"title": "Two", "url": "http://x/2"}]}
        bodies = {"/page": PAGE.encode(), "/big": b"x" * 100_000, "/search?q=capital+of+Peru": json.dumps(found).encode()}
        body = bodies.get(self.path, b"not here")
        self.send_response(200 if self.path in bodies else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/page" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def use(tmp_path: Path) -> Callable[..., str]:
    def run(kind: Kind, options: Any, **given: Any) -> str:
        place = Place(tmp_path, lambda: 100.0, lambda: False, print, None)  # type: ignore[arg-type]
        (tool,) = kind.make(options, place, ExitStack())
        return str(tool.invoke(given))

    return run


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://10.0.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
        "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/", "http://2130706433/", "http://0x7f.1/", "http://100.64.0.1/", "http://224.0.0.1/",
        "http://[fd00::1]/", "http://[fe80::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    ],
)  # fmt: skip
def test_no_address_of_a_private_network_is_fetched(url: str) -> None:
    with pytest.raises(Refused, match=r"not a public address|cannot be found"):
        fetch(url, Rules(timeout=5))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", "not an http or https address"), ("ftp://example.org/", "not an http"), ("example.org", "not an http"),
        ("http://user:pw@example.org/", "a user or a password"), ("http://example.org:22/", "port 22"), ("http://example.org/a b", "blanks"),
        ("http://example.org:x/", "is no address"), ("http://[::1/", "is no address"), ("http://example.org/\r\nX: 1", "no blanks|is no address|not"),
    ],
)  # fmt: skip
def test_what_is_no_plain_address_of_the_web_is_refused(url: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        fetch(url, Rules(timeout=5))


def test_only_allowed_hosts_are_fetched_also_after_a_redirect(site: str) -> None:
    rules = Rules(hosts=(site,), private=True)
    assert fetch(f"http://{site}/to?/page", rules).status == 200
    for away in ("http://example.org/", "http://127.0.0.1:1/", "file:///etc/passwd", "//localhost:9/"):
        with pytest.raises(Refused, match=r"not among the allowed hosts|not an http"):
            fetch(f"http://{site}/to?{away}", rules)
    with pytest.raises(Refused, match="not among the allowed hosts"):
        fetch("http://evil-example.org/", Rules(hosts=("example.org", "*.example.org")))


def test_an_allowed_host_is_still_not_fetched_from_a_private_address(site: str) -> None:
    with pytest.raises(Refused, match="not a public address"):
        fetch(f"http://{site}/page", Rules(hosts=(site,)))


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(web_page.socket, "getaddrinfo", lambda *_, **__: told)
    with pytest.raises(Refused, match=r"10\.0\.0\.7"):
        fetch("http://two-faced.example/", Rules())


def test_a_loop_of_redirects_ends(site: str) -> None:
    with pytest.raises(Refused, match="more than 2 redirects"):
        fetch(f"http://{site}/to?/to?/to?/to?/page", Rules(hosts=(site,), private=True, redirects=2))


def test_a_page_is_text_without_marks_and_a_large_one_is_cut(site: str, use: Callable[..., str]) -> None:
    options = http_get.Options(hosts=(site,), private=True, output=50, max_bytes=1000)
    assert use(http_get.KIND, options, url=f"http://{site}/page") == "Lima\nis the capital"
    assert use(http_get.KIND, options, url=f"http://{site}/big") == "x" * 50 + "\n(cut: 1000 characters)"
    assert use(http_get.KIND, options, url=f"http://{site}/none") == "status 404\nnot here"
    assert use(http_get.KIND, options, url="http://example.org/").startswith("refused: example.org is not among the allowed hosts")


def test_headers_go_to_the_host_that_was_asked_and_to_no_other(site: str) -> None:
    Site.seen.clear()
    port = site.partition(":")[2]
    rules = Rules(hosts=(site, f"localhost:{port}"), private=True, headers={"X-Key": "secret"})
    fetch(f"http://{site}/to?http://localhost:{port}/page", rules)
    assert [key for _, key in Site.seen] == ["secret", ""]


def test_a_search_shows_what_the_service_found(site: str, use: Callable[..., str]) -> None:
    options = web_search.Options(url=f"http://{site}/search?q={{query}}", headers={"X-Key": "k"}, max_results=1)
    assert use(web_search.KIND, options, query="capital of Peru") == "Peru\nhttp://x/peru\nLima is its capital."
    assert "status 404 and no JSON" in use(web_search.KIND, options, query="other")


def test_a_search_without_a_service_is_refused_with_how_to_name_one() -> None:
    with pytest.raises(ExecutorError, match="needs to know the search service that it asks"):
        web_search.KIND.check(web_search.Options(), SPEC)
    with pytest.raises(ExecutorError, match=r"with \{query\} in it"):
        web_search.KIND.check(web_search.Options(url="http://search/"), SPEC)
    with pytest.raises(ExecutorError, match="which private hosts are meant"):
        http_get.KIND.check(http_get.Options(private=True), SPEC)


def test_the_tools_that_a_file_may_name_are_those_that_there_are() -> None:
    assert all(isinstance(kind_of(name), Kind) for name in TOOLS)
    with pytest.raises(ExecutorError, match=re.escape(f"there are {', '.join(TOOLS)}")):
        kind_of("none of them")
