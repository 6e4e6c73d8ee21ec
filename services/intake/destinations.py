"""Says at intake what the aggregator would only log: a result's destination that leads out of the folders that results may go to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mloc.core.language.errors import shown
from mloc.core.language.plan import Plan
from mloc.services.results.destination import Refused, resolve


def destination_warnings(plans: Sequence[Plan], results_dir: Path, allowed_roots: tuple[str, ...]) -> list[str]:
    """A warning for each destination that would not be used. `results_dir` and `allowed_roots` are the aggregator's."""
    warnings: dict[str, None] = {}
    for plan in plans:
        for task in plan.tasks:
            destination = task.spec.output.destination
            if destination is None or not destination.path or "${" in destination.path:
                continue
            try:
                resolve(results_dir, destination.path, allowed_roots, task="")
            except Refused as error:
                warnings[f"spec.output.destination.path: {shown(destination.path)} will not be used, because {error}; "
                         "the result goes to the default folder"] = None  # fmt: skip
    return list(warnings)
