"""The table of templates is fresh, and its links lead to files."""

from __future__ import annotations

import re
from pathlib import Path

from mloc.services.intake.task_file import templates
from mloc.services.intake.templates_page import templates_page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_in_docs_is_fresh() -> None:
    assert (DOCS / "templates.md").read_text() == templates_page(), "run `make docs`"


def test_each_template_has_a_row_that_leads_to_it() -> None:
    links = re.findall(r"\]\((\.\./templates/[^)]*)\)", templates_page())
    assert len(links) == len(templates())
    assert all((DOCS / link).is_file() for link in links)
