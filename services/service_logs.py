"""Log lines of a service: structlog and the standard library's loggers in one stream, coloured or JSON, without secrets.

    configure_logs(settings, "scheduler")
    structlog.get_logger().info("dispatched", task=task_id)
"""

import logging
import re
import sys
from collections.abc import Collection, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mloc.services.settings import Settings, SettingsError

HIDDEN = "***"
_SECRET_KEY = re.compile(r"(?:^|_)(?:token|password|passwd|secret|authorization|api_?key|credentials?)$")
_URL_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/@]+@")
_BEARER = re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{4,}", re.IGNORECASE)
_TALKATIVE = ("aiohttp.access", "asyncio", "urllib3", "filelock")


def configure_logs(settings: Settings, service: str, to_file: bool = True) -> None:
    """Set up the process's logging. `service` names its lines and its file. Raises SettingsError where the file cannot be written.

    A short command passes `to_file=False` and writes to stderr only.
    """
    scrub = _scrubber(_known_secrets(settings))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        scrub,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handlers: list[logging.Handler] = [_formatted(logging.StreamHandler(sys.stderr), _renderer(settings), shared, service)]
    path = log_path(settings, service) if to_file else None
    if path is not None:
        handlers.append(_formatted(_log_file(path, settings), structlog.processors.JSONRenderer(), shared, service))
    _route_standard_logging(handlers, settings.log_level)
    for note in settings.notes:
        structlog.get_logger("settings").warning(note)


def log_path(settings: Settings, service: str) -> Path | None:
    """Where this service's log file is; None for LOG_FILE=off."""
    if settings.log_file is None:
        return settings.state_dir / "logs" / f"{service}.log"
    if settings.log_file.lower() in ("off", "none", "0"):
        return None
    text = settings.log_file.replace("{service}", service)
    return Path(text) / f"{service}.log" if text.endswith("/") or Path(text).is_dir() else Path(text)


def scrubbed(value: Any, known: Collection[str] = ()) -> Any:
    """The value without URL passwords, bearer tokens, values under secret-sounding keys and the `known` secrets; same shape."""
    match value:
        case str():
            for secret in known:
                value = value.replace(secret, HIDDEN)
            if "://" in value:
                value = _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", value)
            return _BEARER.sub(rf"\1 {HIDDEN}", value) if " " in value else value
        case Mapping():
            return {key: HIDDEN if _is_secret(key, item) else scrubbed(item, known) for key, item in value.items()}
        case list() | tuple():
            return [scrubbed(item, known) for item in value]
        case BaseException():
            return scrubbed(f"{type(value).__name__}: {value}", known)
        case _:
            return value


def _is_secret(key: object, value: object) -> bool:
    """`prompt_tokens=12` is a count, `orchestrator_token="abc"` a secret."""
    return isinstance(key, str) and not isinstance(value, int | float | None) and bool(_SECRET_KEY.search(key.lower().replace("-", "_")))


def _known_secrets(settings: Settings) -> tuple[str, ...]:
    password = urlsplit(settings.redis_url).password if settings.redis_url else None
    return tuple(secret for secret in (settings.orchestrator_token, password) if secret and len(secret) >= 4)


def _scrubber(known: tuple[str, ...]) -> Processor:
    def scrub(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
        return {key: HIDDEN if _is_secret(key, value) else scrubbed(value, known) for key, value in fields.items()}

    return scrub


def _renderer(settings: Settings) -> Processor:
    terminal = sys.stderr.isatty()
    if settings.log_format == "json" or (settings.log_format == "auto" and not terminal):
        return structlog.processors.JSONRenderer()
    colors = settings.log_color == "always" or (settings.log_color == "auto" and terminal)
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0, pad_level=False)


def _formatted(handler: logging.Handler, renderer: Processor, shared: list[Processor], service: str) -> logging.Handler:
    def name_service(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
        fields["service"] = service
        return fields

    console = isinstance(renderer, structlog.dev.ConsoleRenderer)  # there the service's name would repeat on every line
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if console else [name_service]),
                renderer,
            ],
        )
    )
    return handler


def _log_file(path: Path, settings: Settings) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(path, maxBytes=settings.log_max_bytes, backupCount=settings.log_backup_count, encoding="utf-8")
    except OSError as error:
        if settings.log_file is None:  # it is the folder, not the log file, that is wrong
            raise SettingsError(
                f"the state folder {settings.state_dir.resolve()} cannot be written ({path}: {error.strerror}): "
                "set ORCHESTRATOR_STATE_DIR to another folder"
            ) from error
        raise SettingsError(f"LOG_FILE: {path} cannot be written ({error.strerror}); name another file, or LOG_FILE=off") from error


def _route_standard_logging(handlers: list[logging.Handler], level: str) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = False  # a full disk or a closed pipe must not end a service
    logging.captureWarnings(True)
    if level != "DEBUG":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
