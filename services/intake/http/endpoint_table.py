"""Writes the table of endpoints in docs/api.md from their declarations: `python -m mloc.services.intake.http.endpoint_table`."""

from __future__ import annotations

from pathlib import Path

from mloc.services.intake.http.endpoint import Endpoint, Media, NoParameters, fields_of, parameters_of, plain_path
from mloc.services.intake.http.endpoints import ENDPOINTS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "api.md"
START = "<!-- written by `make docs` from the declarations in services/intake/http -->"
END = "<!-- end of what `make docs` writes -->"


def endpoint_table() -> str:
    """One row an endpoint."""
    rows = ["| request | what | takes | answers |", "| --- | --- | --- | --- |"]
    rows += [f"| {_request(one)} | {one.summary} | {_takes(one)} | {', '.join(str(status) for status in one.answers)} |" for one in ENDPOINTS]
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with a fresh table between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{endpoint_table()}\n\n{END}{after}"


def main() -> int:
    PAGE.write_text(with_table(PAGE.read_text()))
    print(f"wrote {PAGE}")
    return 0


def _request(endpoint: Endpoint) -> str:
    also = "".join(f", `{plain_path(path)}`" for path in endpoint.also)
    return f"`{endpoint.method} {plain_path(endpoint.path)}`{also}"


def _takes(endpoint: Endpoint) -> str:
    given = [] if endpoint.parameters is NoParameters else [one for one in parameters_of(endpoint.parameters, endpoint.path) if one.place != "path"]
    parts = [", ".join(f"`{one.name}`" for one in given)] if given else []
    match endpoint.body:
        case None:
            pass
        case Media():
            parts.append(f"a body of {', '.join(endpoint.body.kinds)}")
        case struct:
            parts.append(f"JSON with {', '.join(f'`{field.encode_name}`' for field in fields_of(struct))}")
    return "; ".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
