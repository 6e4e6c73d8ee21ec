"""The command `mloc-intake`: submit task files and see what becomes of them. Talks to the event log directly, so no API need run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from msgspec import structs

from mloc.core.language.errors import LanguageError, render
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands import schema, submit, tasks
from mloc.services.intake.commands.log_session import UnknownTask
from mloc.services.intake.commands.output import print_json, say
from mloc.services.intake.published_results import UnsafePath
from mloc.services.intake.task_file import TaskFileError
from mloc.services.intake.task_query import MAX_PAGE_SIZE, SORTS, QueryError
from mloc.services.log.event_log import BacklogFull, KeyConflict, LogUnavailable
from mloc.services.server.address import NoServerError
from mloc.services.service_logs import configure_logs
from mloc.services.settings import Settings, SettingsError, load_settings

EPILOG = """examples:
  mloc-intake pipeline.yaml                         submit a file (the same as `mloc-intake submit pipeline.yaml`)
  mloc-intake submit jobs/ --wait                   every task file of a folder; wait until all have ended
  mloc-intake submit --template echo --set spec.data.items='[hello]' --wait
  cat task.yaml | mloc-intake submit - --idempotency-key nightly-2031-05-01
  mloc-intake list --state running,dead_lettered
  mloc-intake explain my-task                       why it waits, worker by worker
  mloc-intake result my-task --json | jq .items

exit codes:
  0  done                      1  the task that was waited for failed, or has no result
  2  the command line, a setting or a file is wrong; nothing was submitted of that file
  3  no event log, or it cannot be reached
  4  refused: the idempotency key was used with another body, the backlog is full, the task is in another state

REDIS_URL names the event log; without it the one of the `mloc up` in this folder (ORCHESTRATOR_STATE_DIR) is used
"""
Command = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code (see `commands.exit_codes`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, names = _parser()
    if given and given[0] not in ("-h", "--help") and _first_word(given) not in names:
        given.insert(0, "submit")
    asked = parser.parse_args(given)
    if asked.command in ("submit", "validate") and not asked.files and not asked.template:
        parser.error(f"{asked.command}: name a FILE, - for standard input, or --template NAME")
    try:
        settings = load_settings()
        configure_logs(_for_people(settings), "intake", to_file=False)
        code = cast(Command, asked.go)(settings, asked)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return codes.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.OK
    except Exception as error:
        if (code_and_text := _clear_failure(error)) is None:
            raise
        return _failed(asked, *code_and_text)


def _first_word(given: Sequence[str]) -> str:
    """The first argument that is no option; "" where there is none."""
    return next((word for word in given if word == "-" or not word.startswith("-")), "")


def _parser() -> tuple[argparse.ArgumentParser, set[str]]:
    parser = argparse.ArgumentParser(
        prog="mloc-intake", description="Submit tasks, written in YAML, and see what becomes of them.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def command(name: str, go: Command, about: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(go=go)
        added.add_argument("--json", action="store_true", help="for programs")
        return added

    submitting = command("submit", submit.submit, "submit task files, each whole or not at all", "mloc-intake submit task.yaml --wait")
    _add_files(submitting)
    submitting.add_argument("--wait", action="store_true", help="show what happens until all have ended and their results are on disk")
    submitting.add_argument("--follow", action="store_true", help="the same, with the tasks' log lines")
    submitting.add_argument("--idempotency-key", metavar="K", type=_key, help="submitting again under this key gives the first tasks")
    submitting.add_argument("--dry-run", action="store_true", help="check, and say where each task would go; submit nothing")

    validate = command("validate", submit.validate, "check task files without submitting them", "mloc-intake validate jobs/*.yaml")
    _add_files(validate)

    described = command("schema", schema.schema, "print the task language as JSON Schema, for editors", schema.EXAMPLE)
    described.add_argument("--output", metavar="FILE", help="write it there")

    _add_list(command("list", tasks.list_tasks, "list tasks, the newest first", "mloc-intake list --state failed --since 2h"))
    show = command("show", tasks.show, "show a task, its parts and its spec", "mloc-intake show my-task")
    logs = command("logs", tasks.show_logs, "print a task's log lines and metrics", "mloc-intake logs my-task --follow")
    logs.add_argument("--follow", action="store_true", help="go on until the task has ended")
    explained = command("explain", tasks.show_explanation, "say why a task waits, worker by worker", "mloc-intake explain my-task")
    result = command("result", tasks.show_result, "print a task's result", "mloc-intake result my-task --wait | jq .items")
    result.add_argument("--wait", action="store_true", help="wait until there is one")
    for one in (show, logs, explained, result):
        one.add_argument("task", help="its id, the start of its id, or its name")

    cancel = command("cancel", tasks.cancel, "cancel tasks; what runs is stopped", "mloc-intake cancel my-task --reason typo")
    cancel.add_argument("--reason", default="", help="for those who ask later")
    retry = command("retry", tasks.retry, "try again what was given up", "mloc-intake retry my-task")
    for one in (cancel, retry):
        one.add_argument("tasks", nargs="+", metavar="task", help="its id, the start of its id, or its name")

    known = command("templates", tasks.templates, "list the pipelines that come with MLOC, or print one", "mloc-intake templates echo")
    known.add_argument("name", nargs="?", help="print this one")
    return parser, set(commands.choices)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="a task file, a folder of them, or - for standard input")
    parser.add_argument("--template", action="append", default=[], metavar="NAME", help="a pipeline that comes with MLOC")
    parser.add_argument("--set", action=_Overrides, default={}, metavar="PATH=VALUE", help="put a value over the file's: spec.inference.seed=7")


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", default="", help="states or statuses, with commas: running,PENDING")
    for name in ("kind", "owner", "project"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--since", default="", help="an age (15m, 2h, 1d) or an ISO 8601 time")
    parser.add_argument("--sort", choices=SORTS, default="newest")
    parser.add_argument("-n", "--limit", type=_page_size, default=50, help="at most so many (default 50)")
    parser.add_argument("--all", action="store_true", help="stages and shards too")


class _Overrides(argparse.Action):
    """`--set path=value`, repeated, into a dict."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option_string: str | None = None
    ) -> None:
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


def _for_people(settings: Settings) -> Settings:
    """What the parts below have to say goes to standard error, as lines; standard output is for answers."""
    return structs.replace(settings, log_format="console", log_level="DEBUG" if settings.log_level == "DEBUG" else "WARNING", notes=())


def _clear_failure(error: Exception) -> tuple[int, str] | None:
    """Exit code and text for what a person can cause and mend; None for a mistake of ours, which deserves its traceback."""
    match error:
        case LanguageError():
            return codes.INVALID, render(error.problems)
        case SettingsError() | TaskFileError() | QueryError() | UnknownTask() | UnsafePath():
            return codes.INVALID, str(error)
        case NoServerError() | LogUnavailable():
            return codes.UNREACHABLE, str(error)
        case KeyConflict() | BacklogFull():
            return codes.REFUSED, str(error)
        case OSError():
            return codes.FAILED, f"{error.filename or 'the system'}: {error.strerror or error}"
        case _:
            return None


def _failed(asked: argparse.Namespace, code: int, text: str) -> int:
    if asked.json:
        print_json({"ok": False, "error": {"message": text}})
    for line in text.splitlines():
        say(f"mloc-intake {asked.command}: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
