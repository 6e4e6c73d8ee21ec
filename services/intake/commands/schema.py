"""`mloc-intake schema`: the task language for editors and for programs that write task files."""

from __future__ import annotations

import argparse
from pathlib import Path

from mloc.core.language.json_schema import schema_text
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.output import print_json
from mloc.services.settings import Settings

EXAMPLE = """mloc-intake schema --output task.schema.json

  and as the first line of a task file, for the YAML extension of VS Code and all that uses yaml-language-server:

  # yaml-language-server: $schema=task.schema.json

  or for all task files of a project, in .vscode/settings.json:

  {"yaml.schemas": {"./task.schema.json": "jobs/*.yaml"}}"""


def schema(settings: Settings, asked: argparse.Namespace) -> int:
    """Print the schema, or write it to a file. Raises OSError where that cannot be written."""
    text = schema_text()
    if not asked.output:
        print(text, end="")
        return codes.OK
    Path(asked.output).write_text(text)
    if asked.json:
        print_json({"ok": True, "path": asked.output})
    else:
        print(f"wrote {asked.output}; as the first line of a task file: # yaml-language-server: $schema={asked.output}")
    return codes.OK
