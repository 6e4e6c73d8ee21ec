"""The command `mloc check`."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, cast

import msgspec

from mloc.core.language.errors import did_you_mean
from mloc.services.check.scenarios import SCENARIOS
from mloc.services.exit_codes import CLEAN, FAILED, UNAVAILABLE
from mloc.services.settings import Settings

TIMEOUT_SEC = 300.0
EXAMPLES = """scenarios:
""" + "".join(f"  {scenario.name:<18} {scenario.about}\n" for scenario in SCENARIOS.values()) + """
examples:
  mloc check                                        all of them, on this folder's deployment
  mloc check --scenario echo-http,upload --url http://cluster:8000
  mloc check --scenario training --device gpu

The tasks stay in the list, with the label purpose=check. Exit code: 0 where every scenario ended as it should, 1 where
one did not, 69 where there was no event log and no API to ask.
"""  # fmt: skip


def add_to(commands: Any) -> argparse.ArgumentParser:
    """Put the command among the others of `mloc`; gives its parser."""
    about = "Run small tasks through a deployment and look at what comes back."
    parser = commands.add_parser(
        "check", help="a self-test of a deployment", description=about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", type=_scenarios, default=list(SCENARIOS), metavar="NAME,…", help="which ones (default: all)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where inference and training run (default cpu)")
    parser.add_argument("--url", help="of an API elsewhere (default: the event log and the API of this folder's deployment)")
    parser.add_argument("--timeout", type=_seconds, default=TIMEOUT_SEC, metavar="SEC", help=f"for each scenario (default {TIMEOUT_SEC:.0f})")
    parser.add_argument("--json", action="store_true", help="for programs")
    return cast(argparse.ArgumentParser, parser)


def run(settings: Settings, parsed: argparse.Namespace) -> int:
    """Gives the exit code."""
    from mloc.services.check.checking import Verdict, check  # what it imports takes longer than other commands do

    verdicts: list[Verdict] = []
    reasons: dict[str, str] = {}  # why nobody was there to ask → the scenario that said it first

    def tell(verdict: Verdict) -> None:
        verdicts.append(verdict)
        if not parsed.json:
            mark = "–" if verdict.skipped else "✓" if verdict.ok else "✗"
            first = reasons.setdefault(verdict.said, verdict.scenario) if verdict.unreachable else verdict.scenario
            said = verdict.said if first == verdict.scenario else f"nobody to ask, as for {first}"
            print(f"{mark} {verdict.scenario:<18} {verdict.seconds:6.1f} s  {said}", flush=True)

    asyncio.run(check(settings, parsed.scenario, parsed.device, parsed.url, parsed.timeout, tell))
    wrong = [verdict for verdict in verdicts if not verdict.ok]
    if parsed.json:
        print(msgspec.json.format(msgspec.json.encode({"ok": not wrong, "scenarios": verdicts}), indent=2).decode())
    if not wrong:
        return CLEAN
    return UNAVAILABLE if all(verdict.unreachable for verdict in wrong) else FAILED


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError("a number of seconds, more than 0 and at most 86400")
    return seconds


def _scenarios(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SCENARIOS:
            hint = did_you_mean(name, list(SCENARIOS)) or f"there are: {', '.join(SCENARIOS)}"
            raise argparse.ArgumentTypeError(f"there is no scenario {name!r}; {hint}")
    return names or list(SCENARIOS)
