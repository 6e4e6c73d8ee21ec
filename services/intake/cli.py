"""The command `mloc-intake`: submit task files and see what becomes of them, over the event log of this machine or an API elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from msgspec import structs

from mloc.core.language.errors import LanguageError
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.arguments import Command, commands_of, looks_like_command, parser
from mloc.services.intake.commands.output import print_json, say
from mloc.services.intake.commands.source import MaybeTaken, Unreachable
from mloc.services.intake.published_results import UnsafePath
from mloc.services.intake.task_file import TaskFileError
from mloc.services.intake.task_names import UnknownTask
from mloc.services.intake.task_query import QueryError
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.log.event_log import BacklogFull, KeyConflict, LogUnavailable
from mloc.services.piped_output import end_output, ends_with_its_reader
from mloc.services.server.address import NoServerError
from mloc.services.service_logs import configure_logs
from mloc.services.settings import Settings, SettingsError, load_settings
from mloc.services.shell_completion import script


@ends_with_its_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code (see `commands.exit_codes`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = _read_arguments(given)
    if asked.command == "completion":
        print(script(parser(), asked.shell))
        return codes.OK
    try:
        settings = load_settings()
        configure_logs(_for_people(settings), "intake", to_file=False)
        code = cast(Command, asked.go)(settings, asked)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return codes.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if (code_and_text := _clear_failure(error)) is None:
            raise
        return _failed(asked, *code_and_text)


def _read_arguments(given: list[str]) -> argparse.Namespace:
    """`submit` may be left out; a word that is no file and nearly a command is not taken for a file."""
    made = parser()
    names = list(commands_of(made))
    word = _first_word(given)
    if given and given[0] not in ("-h", "--help") and word not in names:
        if not Path(word).exists() and (hint := looks_like_command(word, names)):
            made.error(f"there is no command {word!r}, and no file of that name; {hint}")
        given.insert(0, "submit")
    asked = made.parse_args(given)
    if asked.command in ("submit", "validate") and not asked.files and not asked.template:
        made.error(f"{asked.command}: name a FILE, - for standard input, or --template NAME")
    return asked


def _first_word(given: Sequence[str]) -> str:
    """The first argument that is no option; "" where there is none."""
    return next((word for word in given if word == "-" or not word.startswith("-")), "")


def _for_people(settings: Settings) -> Settings:
    """What the parts below have to say goes to standard error, as lines; standard output is for answers."""
    return structs.replace(settings, log_format="console", log_level="DEBUG" if settings.log_level == "DEBUG" else "WARNING", notes=())


def _clear_failure(error: Exception) -> tuple[int, str] | None:
    """Exit code and text for what a person can cause and mend; None for a mistake of ours, which deserves its traceback."""
    match error:
        case LanguageError():
            return codes.INVALID, "\n".join(str(problem) for problem in error.problems)
        case SettingsError() | TaskFileError() | QueryError() | UnknownTask() | UnsafePath():
            return codes.INVALID, str(error)
        case NoServerError() | LogUnavailable() | Unreachable() | MaybeTaken():
            return codes.UNREACHABLE, str(error)
        case KeyConflict() | BacklogFull() | RequestRefused():
            return codes.REFUSED, str(error)
        case OSError():
            return codes.FAILED, f"{error.filename or 'the system'}: {error.strerror or error}"
        case _:
            return None


def _failed(asked: argparse.Namespace, code: int, text: str) -> int:
    try:
        if asked.json:
            print_json({"ok": False, "error": {"message": text}})
        sys.stdout.flush()
    except OSError:  # it is the output itself that failed
        end_output()
    for line in text.splitlines():
        say(f"mloc-intake {asked.command}: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
