"""Where a training is told of besides our own curves: TensorBoard, Weights & Biases, MLflow (`training.report_to`, or `log_with`).

What they write lies with the task's artifacts, so nothing need be reachable. Where the worker's environment says more (WANDB_API_KEY,
MLFLOW_TRACKING_URI), they report there; keys belong into that environment and nowhere else, never into a task's file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mloc.core.needs.parts import trackers_named
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.ranks import rank

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}  # module → what installs it


def trackers_of(training: Mapping[str, Any]) -> list[str]:
    """The trackers that are asked for. Raises ExecutorError for one that is unknown or not installed."""
    names = trackers_named(training)
    if names == ["all"]:
        return [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    for name in names:
        if name not in PACKAGES:
            raise ExecutorError("BadSetting", f"training.report_to: {name!r} is none of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(name) is None:
            remedy = f"pip install {PACKAGES[name]} (on the worker), or leave it out: the curves are in the result anyway"
            raise ExecutorError("MissingDependency", f"training.report_to: {name} is not installed; {remedy}")
    return names


@contextlib.contextmanager
def tracked(names: list[str], task: str, context: Context) -> Iterator[None]:
    """Their surroundings while a training runs; the environment is as before afterwards, for the next task of this host."""
    wanted = {name: text for tracker in names for name, text in _surroundings(tracker, task, context).items() if name not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        _end(names)
        for name in wanted:
            os.environ.pop(name, None)
        if "MLFLOW_TRACKING_URI" in wanted:
            (context.folder / "mlflow").rename(context.artifacts / "mlflow")


def of_accelerate(training: Mapping[str, Any]) -> dict[str, Any]:
    """The same trackers for an Accelerator; within `tracked`. Other ranks than the first tell nobody."""
    names = trackers_of(training) if rank() == 0 else []
    return {"log_with": names, "project_dir": os.environ.get("TENSORBOARD_LOGGING_DIR")} if names else {}


def _surroundings(tracker: str, task: str, context: Context) -> dict[str, str]:
    # MLflow takes no run whose path has a folder `artifacts` in it for one of its own: its files are moved there afterwards.
    folder = (context.folder if tracker == "mlflow" else context.artifacts) / tracker
    context.artifacts.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    match tracker:
        case "tensorboard":
            return {"TENSORBOARD_LOGGING_DIR": str(folder)}
        case "wandb":
            offline = {} if os.environ.get("WANDB_API_KEY") else {"WANDB_MODE": "offline"}
            return {"WANDB_DIR": str(folder), "WANDB_PROJECT": "mloc", "WANDB_NAME": task, "WANDB_SILENT": "true", **offline}
        case _:
            return {"MLFLOW_TRACKING_URI": folder.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_EXPERIMENT_NAME": "mloc"}


def _end(names: list[str]) -> None:
    """End what a training that failed left open: the next one is a run of its own."""
    if "wandb" in names:
        import wandb

        wandb.teardown()  # also forgets the environment, which it read only once
    if "mlflow" in names:
        import mlflow

        mlflow.end_run()
