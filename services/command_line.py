"""The command `mloc`: starts services, checks the machine, runs the demo. What each command needs is imported only when it is asked for."""

import argparse
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from msgspec import structs

from mloc.services.check import command as check
from mloc.services.exit_codes import FAILED, MISCONFIGURED, UNAVAILABLE, USAGE
from mloc.services.exports.arguments import add_commands as add_exports
from mloc.services.piped_output import ends_with_its_reader
from mloc.services.settings import Settings, SettingsError, load_settings, read_environment
from mloc.services.shell_completion import add_completion, script

# command → module with run(settings) -> exit code, and what the command does
SERVICES = {
    "worker": ("mloc.services.worker.service", "run tasks on this machine; registers with the event log and reports to it"),
    "scheduler": ("mloc.services.scheduler", "decide which worker does what: dispatch, retry, time-outs, lost workers"),
    "aggregator": ("mloc.services.aggregator", "publish results, merge shards; the only writer of the result tree"),
    "metrics": ("mloc.services.metrics.projector", "count what happens: Prometheus text, metrics.json, events.log"),
    "mirror": ("mloc.services.mirror.service", "copy published results to object storage (RESULTS_MIRROR)"),
    "intake-api": ("mloc.services.intake.http.api", "accept tasks over HTTP and tell what became of them"),
}
EXAMPLES = """examples:
  mloc up                          everything on this machine: event log, services, one worker
  mloc up --workers 2 --fast       two workers; the event log is synced once a second
  REDIS_URL=redis://host mloc worker   one more worker for an event log elsewhere
  mloc start --node-type orchestrator  API, scheduler, aggregator, metrics, without a worker
  mloc doctor                      what this machine can run and what it lacks
  mloc check                       small tasks through a running deployment: does it do what it is for?
  mloc demo                        the whole way once, on tiny models
  mloc export results --format csv     results as tables, in a new folder below ./exports
  mloc report --since 7d               what tasks did, as Markdown

settings come from the environment and .env; docs/settings.md lists them
"""


@ends_with_its_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code (see `exit_codes`)."""
    parsed = _parser().parse_args(arguments)
    try:
        return cast(Callable[[argparse.Namespace], int], parsed.go)(parsed)
    except SettingsError as error:
        return _failed(parsed, error, MISCONFIGURED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if (code := _clear_failure(error)) is None:
            raise
        return _failed(parsed, error, code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mloc", description="Run LLM work, written in YAML, on a fleet of workers.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"mloc {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")

    about = "Start the event log (unless REDIS_URL is set), all services, workers."
    up = commands.add_parser("up", help="everything on this machine", description=about)
    up.add_argument("--workers", type=_count, default=1, metavar="N", help="worker processes (default 1)")
    up.add_argument("--fast", action="store_true", help="sync the embedded event log once a second, not at each write (MLOC_DURABILITY=fast)")
    up.set_defaults(go=_up)

    for name, (_, about) in SERVICES.items():
        commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.").set_defaults(go=_service)

    start = commands.add_parser("start", help="the services of one node of a cluster", description="Start what a node of this type runs.")
    start.add_argument("--node-type", choices=("orchestrator", "worker"), help="default: MLOC_NODE_TYPE")
    start.set_defaults(go=_start)

    doctor = commands.add_parser("doctor", help="what this machine can run, and what it lacks", description="Check this machine and its event log.")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(go=_doctor)

    about = "The list of all tasks on disk, made from the log."
    read_model = commands.add_parser("read-model", help="build the list of all tasks on disk anew", description=about)
    read_model.add_argument("what", choices=("rebuild",), help="empty it and make it from the log again; services may go on")
    read_model.set_defaults(go=_read_model)

    about = "Remove what the attempts of ended tasks left in the folder of results."
    cleanup = commands.add_parser("gc", help="remove what ended tasks left on disk", description=about)
    cleanup.add_argument("--dry-run", action="store_true", help="only say what would go")
    cleanup.add_argument("--json", action="store_true", help="for programs")
    cleanup.set_defaults(go=_gc)

    about = "Train, tune, infer on two workers, survive kills, verify."
    demo = commands.add_parser("demo", help="the main job once, on tiny models", description=about)
    demo.add_argument("--dir", type=Path, metavar="FOLDER", help="a new folder for everything that it makes (default ./demo/<time>)")
    demo.add_argument("--port", type=_port, metavar="N", help="of its API (default: a free one)")
    demo.set_defaults(go=_demo)

    add_exports(commands, _export, _report)
    check.add_to(commands).set_defaults(go=_check)
    add_completion(commands).set_defaults(go=_completion)
    return parser


def _completion(parsed: argparse.Namespace) -> int:
    print(script(_parser(), parsed.shell))
    return 0


def _up(parsed: argparse.Namespace) -> int:
    return _run_up(parsed.workers, parsed.fast)


def _service(parsed: argparse.Namespace) -> int:
    return _run_service(parsed.command)


def _start(parsed: argparse.Namespace) -> int:
    settings = load_settings()
    node_type = parsed.node_type or settings.mloc_node_type
    if node_type is None:
        print("mloc start: say --node-type orchestrator or --node-type worker, or set MLOC_NODE_TYPE", file=sys.stderr)
        return USAGE
    return _run_service("worker") if node_type == "worker" else _run_up(workers=0, fast=False)


def _doctor(parsed: argparse.Namespace) -> int:
    from mloc.services import doctor

    return doctor.run(load_settings(), as_json=parsed.json)


def _read_model(parsed: argparse.Namespace) -> int:
    from mloc.services.read_model import command

    settings = load_settings()
    _logs(structs.replace(settings, log_format="console", log_level="WARNING", notes=()), "read-model", to_file=False)
    return command.rebuild(settings)


def _gc(parsed: argparse.Namespace) -> int:
    from mloc.services.retention import cleanup

    settings = load_settings()
    _logs(structs.replace(settings, notes=()), "gc", to_file=False)
    return cleanup.run(settings, dry_run=parsed.dry_run, as_json=parsed.json)


def _demo(parsed: argparse.Namespace) -> int:
    from mloc.services.demo import course

    settings = load_settings()
    _logs(structs.replace(settings, log_format="console", log_level="WARNING", notes=()), "demo", to_file=False)
    return course.run(settings, parsed.dir, parsed.port)


def _export(parsed: argparse.Namespace) -> int:
    from mloc.services.exports.commands import run_export

    return run_export(load_settings(), parsed)


def _report(parsed: argparse.Namespace) -> int:
    from mloc.services.exports.commands import run_report

    return run_report(load_settings(), parsed)


def _check(parsed: argparse.Namespace) -> int:
    settings = load_settings()
    _logs(structs.replace(settings, log_format="console", log_level="WARNING", notes=()), "check", to_file=False)
    return check.run(settings, parsed)


def _run_up(workers: int, fast: bool) -> int:
    from mloc.services.up import supervision

    environ = read_environment()
    settings = load_settings({**supervision.ONE_MACHINE_DEFAULTS, **environ})
    if fast:
        settings = supervision.with_fast_durability(settings)
    _logs(settings, "up")
    return supervision.run(settings, environ, workers)


def _run_service(name: str) -> int:
    settings = load_settings()
    _logs(settings, name)
    return _module_run(SERVICES[name][0])(settings)


def _module_run(module: str) -> Callable[[Settings], int]:
    return cast(Callable[[Settings], int], importlib.import_module(module).run)


def _logs(settings: Settings, service: str, to_file: bool = True) -> None:
    from mloc.services.service_logs import configure_logs

    configure_logs(settings, service, to_file)


def _clear_failure(error: Exception) -> int | None:
    """The exit code for what a person can cause and mend; None for a mistake of ours, which deserves its traceback."""
    from mloc.services.log.event_log import LogUnavailable
    from mloc.services.server.address import NoServerError
    from mloc.services.server.failures import EmbeddedServerError

    match error:
        case NoServerError() | LogUnavailable():
            return UNAVAILABLE
        case EmbeddedServerError():
            return MISCONFIGURED
        case OSError(errno=errno.EADDRINUSE):
            return MISCONFIGURED
        case OSError(errno=errno.ENOSPC | errno.EACCES | errno.EROFS | errno.EPERM):
            return FAILED
        case _:
            return _failure_of_exports(error)


def _failure_of_exports(error: Exception) -> int | None:
    """Of the commands that read the event log or an API; these are loaded when one of them was asked for."""
    if "mloc.services.exports.commands" not in sys.modules:
        return None
    from mloc.services.exports.tables import ExportFailed
    from mloc.services.intake.commands.source import Unreachable
    from mloc.services.intake.task_query import QueryError

    match error:
        case Unreachable():
            return UNAVAILABLE
        case QueryError():
            return USAGE
        case ExportFailed() | OSError():
            return FAILED
    return None


def _failed(parsed: argparse.Namespace, error: Exception, code: int) -> int:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)
    for line in text.splitlines():
        print(f"mloc {parsed.command}: {line}", file=sys.stderr)
    return code


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 256:
        raise argparse.ArgumentTypeError("a number from 0 to 256")
    return number


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError("a number from 1 to 65535")
    return number


def _version() -> str:
    try:
        return version("mloc")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
