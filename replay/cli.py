"""The command `mloc-replay`: what the log says, computed anew.

Exit codes: 0 it is so; 1 it differs, or is not there; 2 the command line or a setting is wrong; 3 the log cannot be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from mloc.core import log_ids, moment
from mloc.core.decisions.dispatch_policy import POLICIES
from mloc.core.moment import AtOrdinal
from mloc.replay import again, service_claims, shown
from mloc.replay.as_of import TaskUnknown, as_of, history, task_at, task_whole
from mloc.replay.difference import difference
from mloc.replay.exporting import STANDARD_OUTPUT, export
from mloc.replay.progress import progress
from mloc.replay.rebuild import LogDamaged, OnProgress, rebuild
from mloc.replay.verify import verify
from mloc.replay.what_if import Variant, what_if
from mloc.services.intake.commands.log_session import results_dir
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import EventLog, LogError
from mloc.services.piped_output import ends_with_its_reader
from mloc.services.server.address import NoServerError
from mloc.services.settings import Settings, SettingsError, load_settings
from mloc.services.shell_completion import add_completion, script

AGO = re.compile(r"-\d[\d.]*(ms|s|m|h|d)")
OK, DIFFERS, USAGE, UNREACHABLE = 0, 1, 2, 3
ABOUT = "Compute from the event log what was, and prove that the services hold the same."
EXAMPLES = """examples:
  mloc-replay rebuild                    fold the whole log: counts, events/s, digest
  mloc-replay verify                     compare with what each service says of itself
  mloc-replay verify --require scheduler,aggregator
  mloc-replay at -5m                     the cluster five minutes ago
  mloc-replay at '#1234' --task train    one task after the first 1,234 events
  mloc-replay at 2026-01-31T14:05 --json
  mloc-replay diff -10m now              what changed in the last ten minutes
  mloc-replay what-if --workers 4        how long all of it would have taken on four workers
  mloc-replay export today.jsonl.zst --since 2026-01-31   a part of the log, for mloc-console --archive
  mloc-replay task train-1f8k2p0d        submit once more what the log holds of a task
  mloc-replay task train-1f8k2p0d --output   show again what it gave

exit codes: 0 it is so; 1 it differs or is not there; 2 wrong command line or setting; 3 the log cannot be reached
"""


@ends_with_its_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # argparse takes `-5m` for an option, but not what holds a space
    parsed = _parser().parse_args([f" {word}" if AGO.fullmatch(word) else word for word in given])
    if parsed.command == "completion":
        print(script(_parser(), parsed.shell))
        return OK
    try:
        return asyncio.run(_run(parsed))
    except BrokenPipeError:
        raise
    except SettingsError as error:
        return _failed(error, USAGE)
    except (NoServerError, LogError) as error:
        return _failed(error, UNREACHABLE)
    except (LogDamaged, TaskUnknown, again.NotAgain, again.NoOutput) as error:
        return _failed(error, DIFFERS)
    except ValueError as error:  # a moment that is none
        return _failed(error, USAGE)
    except OSError as error:
        return _failed(error, DIFFERS)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mloc-replay", description=ABOUT, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    rebuilding = commands.add_parser("rebuild", help="fold the whole log and tell what it gives")
    rebuilding.set_defaults(go=_rebuild)

    about = "Fold the log to where each service stood when it wrote its newest snapshot, and compare the digests."
    verifying = commands.add_parser("verify", help="compare the log's state with the services' own", description=about)
    needed = "services that must have a snapshot: scheduler,aggregator or all"
    verifying.add_argument("--require", type=_names, default=(), metavar="NAMES", help=needed)
    verifying.set_defaults(go=_verify)

    about = f"The state as of a point of history: {moment.ACCEPTED}."
    looking = commands.add_parser("at", help="the state at a point of history", description=about)
    looking.add_argument("moment", metavar="ID|TIME", help="for example -5m, '#1234', 14:05:30, 2026-01-31T14:05, 1700000000000-0")
    looking.add_argument("--task", metavar="ID", help="one task whole, and the events that made it")
    looking.add_argument("--limit", type=int, default=20, metavar="N", help="tasks shown (default 20; --json has all)")
    looking.set_defaults(go=_at)
    others = [add(commands) for add in (_diff_parser, _what_if_parser, _export_parser, _task_parser)]
    for command in (rebuilding, verifying, looking, *others):
        command.add_argument("--json", action="store_true", help="for programs")
    add_completion(commands)
    return parser


def _diff_parser(commands: Any) -> argparse.ArgumentParser:
    about = f"Tasks, workers and events that differ between two points of history: each is {moment.ACCEPTED}."
    comparing: argparse.ArgumentParser = commands.add_parser("diff", help="what changed between two points of history", description=about)
    comparing.add_argument("first", metavar="ID|TIME", help="for example -10m")
    comparing.add_argument("second", metavar="ID|TIME", nargs="?", default="now", help="default: now")
    comparing.add_argument("--limit", type=int, default=40, metavar="N", help="changes shown (default 40; --json has all)")
    comparing.set_defaults(go=_diff)
    return comparing


def _what_if_parser(commands: Any) -> argparse.ArgumentParser:
    about = (
        "Run history again on a virtual clock, with the real decisions, under other conditions. Tasks take as long and fail as often as they did; "
        "workers are never lost."
    )
    trying: argparse.ArgumentParser = commands.add_parser("what-if", help="history with another policy, fleet or retry limit", description=about)
    trying.add_argument("--policy", choices=POLICIES, default="", help="how a worker is chosen, as DISPATCH_POLICY names it")
    trying.add_argument("--workers", type=int, metavar="N", help="so many workers, like those that were there")
    trying.add_argument("--max-attempts", type=int, metavar="N", help="attempts of each task")
    trying.add_argument("--backoff-sec", type=float, metavar="S", help="the step of the pause between attempts")
    trying.add_argument("--until", metavar="ID|TIME", help="history up to this point (default: the end)")
    trying.set_defaults(go=_what_if)
    return trying


def _export_parser(commands: Any) -> argparse.ArgumentParser:
    about = """Write the log, or a part of it, a line ["<id>", {event}] each. Secrets are not in the log, so they are not in the file."""
    exporting: argparse.ArgumentParser = commands.add_parser("export", help="the log as a file, for mloc-console --archive", description=about)
    exporting.add_argument("file", type=Path, metavar="FILE", help="compressed where it ends in .zst; - for standard output")
    exporting.add_argument("--since", metavar="ID|TIME", help="after this point (default: the beginning; a console needs that)")
    exporting.add_argument("--until", metavar="ID|TIME", help="up to this point (default: the end)")
    exporting.add_argument("--task", default="", metavar="ID", help="only events that name this task")
    exporting.add_argument("--force", action="store_true", help="write over a file that is there")
    exporting.set_defaults(go=_export)
    return exporting


def _task_parser(commands: Any) -> argparse.ArgumentParser:
    about = "Submit once more what the log holds of a task, a pipeline with all its stages, under new ids; or show again what it gave."
    repeating: argparse.ArgumentParser = commands.add_parser("task", help="submit a task of the log again, or show its output", description=about)
    repeating.add_argument("task", metavar="ID", help="id or name of any task that the log ever took")
    repeating.add_argument("--output", action="store_true", help="print the result that it gave, as JSON")
    repeating.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    repeating.set_defaults(go=_task)
    return repeating


async def _run(parsed: argparse.Namespace) -> int:
    settings = load_settings()
    async with _log(settings) as log:
        return await cast(Callable[[argparse.Namespace, EventLog, Settings], Coroutine[Any, Any, int]], parsed.go)(parsed, log, settings)


@contextlib.asynccontextmanager
async def _log(settings: Settings) -> AsyncIterator[EventLog]:
    log = open_log(settings, "replay")
    try:
        yield log
    finally:
        await log.close()


async def _rebuild(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    found = await rebuild(log, on_progress=await _progress(log))
    _show(parsed, shown.rebuilt_json(found) if parsed.json else shown.rebuilt_text(found))
    return OK


async def _verify(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    claims = service_claims.newest(settings)
    found = await verify(log, claims, service_claims.REQUIRABLE if parsed.require == ("all",) else parsed.require, await _progress(log))
    _show(parsed, shown.verified_json(found) if parsed.json else shown.verified_text(found))
    return OK if found.holds else DIFFERS


async def _at(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    at = moment.parse(parsed.moment, await log.now_ms())
    found, rebuilt = await as_of(log, at, await _progress(log))
    if not rebuilt.events:
        raise LogDamaged(f"nothing had happened yet at {parsed.moment.strip()}: the log begins at {(await log.ends())[0]}")
    if parsed.task is None:
        _show(parsed, shown.as_of_json(found) if parsed.json else shown.as_of_text(found, parsed.limit))
        return OK
    events = await history(log, parsed.task, found.position)
    whole = task_whole(rebuilt.cluster, task_at(rebuilt.cluster, parsed.task))
    position = {"position": found.position, "events": found.events}
    _show(parsed, {**position, "task": whole, "history": events} if parsed.json else shown.task_text(whole, events))
    return OK


async def _diff(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    now = await log.now_ms()
    found = await difference(log, moment.parse(parsed.first, now), moment.parse(parsed.second, now), await _progress(log))
    _show(parsed, msgspec.to_builtins(found) if parsed.json else shown.difference_text(found, parsed.limit))
    return OK


async def _what_if(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    tried = (("--workers", parsed.workers, 1), ("--max-attempts", parsed.max_attempts, 1), ("--backoff-sec", parsed.backoff_sec, 0))
    for option, value, least in tried:
        if value is not None and not value >= least:
            raise ValueError(f"{option} is {least} or more")
    as_it_was = Variant()
    variant = Variant(
        parsed.policy, parsed.workers or as_it_was.workers, parsed.max_attempts or as_it_was.max_attempts,
        as_it_was.backoff_sec if parsed.backoff_sec is None else parsed.backoff_sec,
    )  # fmt: skip
    until = moment.parse(parsed.until, await log.now_ms()) if parsed.until else None
    found = await what_if(log, variant, until, await _progress(log))
    _show(parsed, {"variant": variant, **msgspec.to_builtins(found)} if parsed.json else shown.what_if_text(found))
    return OK


async def _export(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    if parsed.file != STANDARD_OUTPUT and os.path.lexists(parsed.file) and not parsed.force:
        raise ValueError(f"{parsed.file} is there already: name another file, or write over it with --force")
    after = await _id(log, parsed.since) if parsed.since else log_ids.START
    until = await _id(log, parsed.until) if parsed.until else None
    written = await export(log, parsed.file, sys.stdout.buffer, after=after, until=until, task=parsed.task, on_progress=await _progress(log))
    if parsed.file != STANDARD_OUTPUT:
        _show(parsed, msgspec.to_builtins(written) if parsed.json else shown.exported_text(written))
    return OK


async def _task(parsed: argparse.Namespace, log: EventLog, settings: Settings) -> int:
    family = await again.family_of(log, parsed.task, await _progress(log))
    results = results_dir(settings)
    if parsed.output:
        found = await again.output_of(log, family[0].task, results)
        if isinstance(found, Path):
            with found.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        else:
            sys.stdout.buffer.write(found + b"\n")
        sys.stdout.buffer.flush()
        return OK
    anew = await again.again(log, family, results)
    if not parsed.dry_run:
        await again.submit(log, anew.submission, settings.backlog_limit)
    _show(parsed, shown.again_json(anew, parsed.dry_run) if parsed.json else shown.again_text(anew, parsed.dry_run))
    return OK


async def _id(log: EventLog, text: str) -> str:
    """The id up to which a point of history reaches. Raises ValueError."""
    at = moment.parse(text, await log.now_ms())
    if isinstance(at, AtOrdinal):
        raise ValueError(f"{text}: export takes a time or an event id")
    return moment.last_id(at)


async def _progress(log: EventLog) -> OnProgress:
    return progress(*await log.ends())


def _show(parsed: argparse.Namespace, found: dict[str, Any] | str) -> None:
    text = found if isinstance(found, str) else msgspec.json.format(msgspec.json.encode(found)).decode()
    print(text, flush=True)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := sorted(set(names) - {*service_claims.REQUIRABLE, "all"}):
        raise argparse.ArgumentTypeError(f"no service {unknown[0]!r}; it takes {', '.join(service_claims.REQUIRABLE)} or all")
    return names


def _failed(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"mloc-replay: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
