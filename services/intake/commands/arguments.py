"""The command line of `mloc-intake`: every command with its options, its help and an example."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mloc.core.language.errors import did_you_mean
from mloc.services.intake.commands import results, schema, submit, tasks, templates
from mloc.services.intake.task_file import templates as known_templates
from mloc.services.intake.task_query import MAX_PAGE_SIZE, SORTS
from mloc.services.intake.watching import watch
from mloc.services.settings import Settings
from mloc.services.shell_completion import add_completion, shell_words

EPILOG = """examples:
  mloc-intake pipeline.yaml                         submit a file (the same as `mloc-intake submit pipeline.yaml`)
  mloc-intake submit jobs/ --wait                   every task file of a folder; wait until all have ended
  mloc-intake submit --template echo --set spec.data.items='[hello]' --wait
  cat task.yaml | mloc-intake submit - --idempotency-key nightly-2031-05-01
  mloc-intake list --state running,dead_lettered
  mloc-intake explain my-task                       why it waits, worker by worker
  mloc-intake result my-task --json | jq .items
  mloc-intake list --url https://mloc.example       an MLOC elsewhere, over its API

exit codes:
  0  done                      1  the task that was waited for failed, or has no result
  2  the command line, a setting or a file is wrong; nothing was submitted of that file
  3  no event log or API, or it cannot be reached
  4  refused: the idempotency key was used with another body, the backlog is full, the task is in another state

which MLOC: --url; else the event log of REDIS_URL, or of the `mloc up` in this folder (ORCHESTRATOR_STATE_DIR); else ORCHESTRATOR_URL.
An API's token is taken from ORCHESTRATOR_TOKEN.
"""
Command = Callable[[Settings, argparse.Namespace], int]
_TASK = "its id, the start of its id, or its name"
_UNKNOWN = re.compile(r"unrecognized arguments: (--[\w-]+)")


class Parser(argparse.ArgumentParser):
    """Says the nearest name for an option or a command that does not exist."""

    def error(self, message: str) -> NoReturn:
        if found := _UNKNOWN.search(message):
            hint = did_you_mean(found[1], [name for name in _options(self) if name.startswith("--")])
            message += f"; {hint}" if hint else ""
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if rest and self.prog.count(" "):  # a command's own parser knows its options best
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def parser() -> Parser:
    """The parser of `mloc-intake`; `commands_of` names its commands."""
    made = Parser(
        prog="mloc-intake", description="Submit tasks, written in YAML, and see what becomes of them.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = made.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=Parser)

    def command(name: str, go: Command, about: str, example: str, *, is_remote: bool = True) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        added.set_defaults(go=go, url=None)
        added.add_argument("--json", action="store_true", help="for programs")
        if is_remote:
            added.add_argument("--url", metavar="URL", help="of the API of an MLOC elsewhere; its token is in ORCHESTRATOR_TOKEN")
        return added

    _add_submit(command("submit", submit.submit, "submit task files, each whole or not at all", "mloc-intake submit task.yaml --wait"))
    _add_files(command("validate", submit.validate, "check task files without submitting them", "mloc-intake validate jobs/", is_remote=False))
    described = command("schema", schema.schema, "print the task language as JSON Schema, for editors", schema.EXAMPLE, is_remote=False)
    described.add_argument("--output", metavar="FILE", help="write it there")

    _add_list(command("list", tasks.list_tasks, "list tasks, the newest first", "mloc-intake list --state failed --since 2h"))
    show = command("show", tasks.show, "show a task, its parts and its spec", "mloc-intake show my-task")
    logs = command("logs", tasks.show_logs, "print a task's log lines and metrics", "mloc-intake logs my-task --follow")
    logs.add_argument("--follow", action="store_true", help="go on until the task has ended")
    explained = command("explain", tasks.show_explanation, "say why a task waits, worker by worker", "mloc-intake explain my-task")
    result = command("result", results.show_result, "print a task's result", "mloc-intake result my-task --wait | jq .items")
    _add_result(result)
    for waits in (logs, result):
        waits.add_argument("--quiet", action="store_true", help="no progress while it waits")
    for one in (show, logs, explained, result):
        one.add_argument("task", help=_TASK)

    cancel = command("cancel", tasks.cancel, "cancel tasks; what runs is stopped", "mloc-intake cancel my-task --reason typo")
    cancel.add_argument("--reason", default="", help="for those who ask later")
    retry = command("retry", tasks.retry, "try again what was given up", "mloc-intake retry my-task")
    for one in (cancel, retry):
        one.add_argument("tasks", nargs="+", metavar="task", help=_TASK)

    about = "submit each task file that is put into a folder, exactly once"
    watching = command("watch", watch.watch, about, "mloc-intake watch inbox/ --move-to inbox/done")
    watching.add_argument("folder", metavar="DIR", help="write files elsewhere and rename them into it, or just write them there")
    watching.add_argument("--move-to", metavar="FOLDER", help="move what was submitted there (default: it stays)")
    _add_no_upload(watching)
    watching.add_argument("--once", action="store_true", help="end when each file that is there now was dealt with")

    about = "list the pipelines that come with MLOC, or print one"
    known = command("templates", templates.templates, about, "mloc-intake templates show echo", is_remote=False)
    known.add_argument("name", nargs="*", metavar="show NAME", help="print this one").complete = shell_words(("show", *known_templates()))  # type: ignore[attr-defined]
    add_completion(commands)
    return made


def commands_of(made: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name → parser of each command."""
    action = next(action for action in made._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def looks_like_command(word: str, names: Sequence[str]) -> str:
    """`did you mean "list"?` for a first word that is no file's name and near a command's; else ""."""
    return "" if re.search(r"[./\\]", word) else did_you_mean(word, names)


def _add_submit(added: argparse.ArgumentParser) -> None:
    _add_files(added)
    added.add_argument("--wait", action="store_true", help="show what happens until all have ended and their results are there")
    added.add_argument("--follow", action="store_true", help="the same, with the tasks' log lines")
    added.add_argument("--quiet", action="store_true", help="no progress and no warnings")
    added.add_argument("--idempotency-key", metavar="K", type=_key, help="submitting again under this key gives the first tasks")
    _add_no_upload(added)
    added.add_argument("--dry-run", action="store_true", help="check, and say where each task would go; submit nothing")


def _add_no_upload(added: argparse.ArgumentParser) -> None:
    about = "with --url: send relative paths as they are here, for workers that see this disk, and not the files"
    added.add_argument("--no-upload", action="store_true", help=about)


def _add_files(added: argparse.ArgumentParser) -> None:
    added.add_argument("files", nargs="*", metavar="FILE", help="a task file, a folder of them, or - for standard input")
    template = added.add_argument("--template", action="append", default=[], metavar="NAME", help="a pipeline that comes with MLOC")
    template.complete = shell_words(known_templates())  # type: ignore[attr-defined]
    added.add_argument(
        "--set", action=_Overrides, default={}, metavar="PATH=VALUE",
        help="put a value, in YAML, over the file's: spec.inference.seed=7, spec.data.prompts='[a, b]', spec.stages[0].name=x, metadata.name='\"7\"'",
    )  # fmt: skip


def _add_list(added: argparse.ArgumentParser) -> None:
    added.add_argument("--state", default="", help="states or statuses, with commas: running,PENDING")
    for name in ("kind", "owner", "project"):
        added.add_argument(f"--{name}", default="")
    added.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    added.add_argument("--since", default="", help="an age (15m, 2h, 1d) or an ISO 8601 time")
    added.add_argument("--sort", choices=SORTS, default="newest")
    added.add_argument("-n", "--limit", type=_page_size, default=50, help="at most so many (default 50)")
    added.add_argument("--all", action="store_true", help="stages and shards too")


def _add_result(added: argparse.ArgumentParser) -> None:
    added.add_argument("--wait", action="store_true", help="wait until there is one")
    added.add_argument("--output", metavar="PATH", help="write responses.json there")
    added.add_argument("--files", action="store_true", help="list the files of the result")
    added.add_argument("--file", metavar="NAME", help="fetch this file of the result, artifacts/… for instance")
    added.add_argument("--to", metavar="PATH", help="where --file is written: a file or a folder (default: here)")


def _options(made: argparse.ArgumentParser) -> list[str]:
    return [option for action in made._actions for option in action.option_strings]


class _Overrides(argparse.Action):
    """`--set path=value`, repeated, into a dict."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option_string: str | None = None) -> None:
        path, separator, value = str(values).partition("=")
        if not separator or not path:
            parser.error(f"--set takes PATH=VALUE, not {values!r}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), path: value})


def _page_size(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_PAGE_SIZE:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MAX_PAGE_SIZE}")
    return number


def _key(text: str) -> str:
    if not text or len(text) > 200 or not text.isprintable() or set(text) & set(" {}"):
        raise argparse.ArgumentTypeError("1 to 200 characters without blanks and braces")
    return text
