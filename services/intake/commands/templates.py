"""`mloc-intake templates`: the pipelines that come with MLOC."""

from __future__ import annotations

import argparse
import sys

from mloc.core.language.errors import did_you_mean
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.output import print_json, say, table
from mloc.services.intake.task_file import layer_of, title_of
from mloc.services.intake.task_file import templates as known_templates
from mloc.services.settings import Settings


def templates(settings: Settings, asked: argparse.Namespace) -> int:
    """The names with their titles, or the text of one: `templates NAME` or `templates show NAME`."""
    known = known_templates()
    names = asked.name[1:] if asked.name[:1] == ["show"] and "show" not in known else asked.name
    if len(names) > 1 or (asked.name and not names):
        say("mloc-intake templates: name one template, or none for the list")
        return codes.INVALID
    if names:
        if names[0] not in known:
            hint = did_you_mean(names[0], known) or f"the templates are: {', '.join(known) or 'none'}"
            say(f"there is no template {names[0]!r}; {hint}")
            return codes.INVALID
        text = known[names[0]].read_text(encoding="utf-8")
        if asked.json:
            print_json({"ok": True, "name": names[0], "title": title_of(known[names[0]]), "text": text})
        else:
            sys.stdout.write(text)
        return codes.OK
    if asked.json:
        shown = [{"name": name, "layer": layer_of(path), "title": title_of(path), "path": str(path)} for name, path in known.items()]
        print_json({"ok": True, "templates": shown})
        return codes.OK
    print(table(("NAME", "LAYER", "WHAT"), [(name, layer_of(path), title_of(path)) for name, path in known.items()]))
    return codes.OK
