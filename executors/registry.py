"""Which executor runs which task type, and what this machine lacks for it. Imports none of them: a worker asks before it starts a host.

Plug-ins name themselves in the entry-point group `mloc.executors` (`plugins`); one that cannot be used is an offer with a problem.
`python -m mloc.executors.registry --json` prints what this machine offers, for programs that must not import this room.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import signal
import sys
from functools import cache

import msgspec
from msgspec import Struct

from mloc.core.needs.parts import VLLM_ON_GPU
from mloc.executors.contract import ExecutorError, IdentitiesFunction, LightFunction, LoadFunction, RunFunction
from mloc.executors.parts import FOUR_BITS, HARNESS, OF_AGENTS, OF_ENGINES, OF_TRAINING, SHARDED, Part, PartHere, is_for_here
from mloc.executors.plugins import problems, usable_names

_RETRIEVAL = ("torch", "transformers", "langchain_core", "langchain_text_splitters", "chromadb", "qdrant_client", "faiss", "pypdf")
_TRAINING = ("torch", "transformers", "trl", "peft", "datasets")
_ANSWERING = "answering"  # the family of those that one warm model answers


class Executor(Struct, frozen=True):
    """How a task type is run."""

    module: str
    function: str = "run"
    extra: str = ""  # what to install: pip install "mloc[extra]"
    requires: tuple[str, ...] = ()  # importable modules that it cannot do without
    light: bool = False  # its module also has `run_light`, for tasks of milliseconds
    family: str = ""  # executors of one family share a warm host and its engines; the module's own where there is none
    package: str = ""  # that a plug-in comes from
    parts: tuple[Part, ...] = ()

    def parts_here(self) -> list[PartHere]:
        """Its parts, and what this machine lacks of them."""
        return [PartHere(part.name, part.what, _lack_of(part), part.asked) for part in self.parts if is_for_here(part)]

    def missing(self) -> list[str]:
        """The modules that this machine lacks for it."""
        return [name for name in (self.module.partition(".")[0], *self.requires) if not _is_installed(name)]


class Offer(Struct, frozen=True):
    """Whether this machine runs a task type, and if not, what would help."""

    task_type: str
    runs: bool
    missing: list[str] = []
    extra: str = ""
    light: bool = False
    family: str = ""  # task types of one family share their libraries, and so a warm host
    package: str = ""  # that a plug-in comes from
    problem: str = ""  # why a plug-in cannot be used
    remark: str = ""  # what it cannot do here though it runs, and how to get that
    parts: list[PartHere] = []
    lacking_parts: dict[str, str] = {}  # those that a task may ask for: name → what to do

    @property
    def remedy(self) -> str:
        """What to do where it does not run."""
        if self.problem:
            return f"the plug-in {self.task_type} of {self.package} cannot be used: {self.problem}"
        lacks = f"{self.task_type} needs {', '.join(self.missing)}"
        return f'{lacks}: pip install "mloc[{self.extra}]"' if self.extra else lacks


def _training(module: str, *more: str) -> Executor:
    parts = (*OF_TRAINING, SHARDED, *(() if FOUR_BITS.module in more else (FOUR_BITS,)))
    return Executor(f"mloc.executors.training.{module}", extra="training", requires=(*_TRAINING, *more), family="training", parts=parts)


def _pooling(module: str) -> Executor:
    return Executor(f"mloc.executors.pooling.{module}", extra="inference", requires=("torch", "transformers"), parts=OF_ENGINES)


_SFT = _training("sft_executor")

BUILT_IN: dict[str, Executor] = {
    "echo": Executor("mloc.executors.echo_executor", light=True),
    "inference": Executor(
        "mloc.executors.inference.inference_executor", extra="inference", requires=("torch", "transformers"), family=_ANSWERING,
        parts=OF_ENGINES,
    ),
    "embed": _pooling("embed_executor"),
    "score": _pooling("score_executor"),
    "rerank": _pooling("rerank_executor"),
    "rag": Executor("mloc.executors.retrieval.rag_executor", extra="rag", requires=_RETRIEVAL, parts=OF_ENGINES),
    "sft": _SFT,
    "lora_sft": _SFT,
    "qlora": _training("sft_executor", "bitsandbytes"),
    "dpo": _training("dpo_executor"),
    "kto": _training("kto_executor"),
    "reward": _training("reward_executor"),
    "grpo": _training("group_executor"),
    "rloo": _training("group_executor"),
    "agent": Executor(
        "mloc.executors.agents.agent_executor", extra="agent", requires=("torch", "transformers", "langchain", "langchain_core", "langgraph"),
        family=_ANSWERING, parts=(*OF_AGENTS, *OF_ENGINES),
    ),
    "eval": Executor(
        "mloc.executors.evaluation.eval_executor", extra="inference", requires=("torch", "transformers"), family=_ANSWERING,
        parts=(HARNESS, *OF_ENGINES),
    ),
    "ppo": Executor(
        "mloc.executors.training.ppo.ppo_executor", extra="training", requires=("torch", "transformers", "accelerate", "peft"), family="training",
        parts=(*OF_TRAINING, FOUR_BITS),
    ),
}


def executors() -> dict[str, Executor]:
    """Task type → executor, built-in ones first: a plug-in cannot take a built-in name."""
    return {**_plugins(), **BUILT_IN}


def executor_of(task_type: str) -> Executor:
    """The executor of a task type. Raises ExecutorError for one that is unknown or cannot run here."""
    executor = BUILT_IN.get(task_type) or _plugins().get(task_type)
    if executor is None:
        raise ExecutorError("UnknownTaskType", f"no executor is registered for the task type {task_type!r}; there are: {', '.join(executors())}")
    if lacking := executor.missing():
        raise ExecutorError("MissingDependency", Offer(task_type, False, lacking, executor.extra).remedy + " (on the worker)")
    return executor


def available() -> list[Offer]:
    """Every task type and whether this machine can run it."""
    cannot = problems(BUILT_IN)
    broken = [Offer(plugin.task_type, False, package=plugin.package, problem=words) for plugin, words in cannot.items()]
    unusable = {plugin.task_type for plugin in cannot if plugin.task_type not in BUILT_IN and usable_names(BUILT_IN).get(plugin.task_type) == plugin}
    return [_offer(task_type, executor) for task_type, executor in executors().items() if task_type not in unusable] + broken


def _offer(task_type: str, executor: Executor) -> Offer:
    missing = executor.missing()
    parts = executor.parts_here()
    lacking = {} if missing else {part.name: part.lack for part in parts if part.lack and part.asked}
    return Offer(
        task_type, not missing, missing, executor.extra, executor.light, executor.family or executor.module, executor.package,
        remark="" if missing else _without_vllm(executor), parts=parts, lacking_parts=lacking,
    )  # fmt: skip


def run_function(executor: Executor) -> RunFunction:
    """Import the executor and give its `run`."""
    return getattr(importlib.import_module(executor.module), executor.function)  # type: ignore[no-any-return]


def load_function(executor: Executor) -> LoadFunction | None:
    """Import the executor and give its `load`; None where it keeps nothing warm."""
    return getattr(importlib.import_module(executor.module), "load", None)


def identities_function(executor: Executor) -> IdentitiesFunction | None:
    """Import the executor and give its `identities`; None where an engine's key says all."""
    return getattr(importlib.import_module(executor.module), "identities", None)


def light_function(executor: Executor) -> LightFunction:
    """Import a light executor and give its `run_light`."""
    return importlib.import_module(executor.module).run_light  # type: ignore[no-any-return]


def _without_vllm(executor: Executor) -> str:
    if executor.family != _ANSWERING:
        return ""
    from mloc.executors.inference.engine_choice import vllm_missing

    missing = vllm_missing(on_device=shutil.which("nvidia-smi") is not None)
    return f"with transformers only; {missing}" if missing else ""


def _lack_of(part: Part) -> str:
    if part.module == "vllm":
        from mloc.executors.inference.engine_choice import vllm_missing

        return vllm_missing(on_device=part.name == VLLM_ON_GPU)
    return "" if _is_installed(part.module) else f"{part.what} needs {part.module}: {part.remedy}"


def _plugins() -> dict[str, Executor]:
    return {name: Executor(plugin.module, plugin.function, package=plugin.package) for name, plugin in usable_names(BUILT_IN).items()}


@cache
def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def main(arguments: list[str]) -> int:
    """Print what this machine offers: a line each, or one JSON list."""
    if arguments == ["--json"]:
        print(msgspec.json.encode(available()).decode())
        return 0
    offers = available()
    for offer in offers:
        shown = offer.remedy if not offer.runs else f"runs here; {offer.remark}" if offer.remark else "runs here"
        print(f"{offer.task_type:12} {shown}")
    parts = {part.name: part.lack for offer in offers for part in offer.parts if part.lack}
    for name, lack in parts.items():
        print(f"{name:12} {lack}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads it may have seen enough: `… | head`
    sys.exit(main(sys.argv[1:]))
