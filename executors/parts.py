"""Parts of executors that are installed apart. A task that uses one goes only to workers that have it: `core/needs/parts.py` reads that off
its spec."""

from __future__ import annotations

import shutil

from msgspec import Struct

from mloc.core.needs.parts import BITSANDBYTES, DEEPSPEED, TRACKERS, VLLM, VLLM_ON_GPU


class Part(Struct, frozen=True):
    """Something of an executor that needs a module of its own. Placement knows it by `name`, people by `what`."""

    name: str
    what: str
    module: str
    extra: str = ""  # that brings it; "": the package has the module's name
    command: str = ""  # that gets it, where pip needs to be told more
    asked: bool = True  # a task can ask for it; what nobody asks for is there or not

    @property
    def remedy(self) -> str:
        return self.command or (f'pip install "mloc[{self.extra}]"' if self.extra else f"pip install {self.module}")


class PartHere(Struct, frozen=True):
    """A part on this machine: `lack` says why it is not there, and what to do; "" where it is."""

    name: str
    what: str
    lack: str = ""
    asked: bool = True


FOUR_BITS = Part(BITSANDBYTES, "weights of four or eight bits", "bitsandbytes")
HARNESS = Part("lm-eval", "the harness lm-eval", "lm_eval", "eval")
OF_TRAINING = (
    *(Part(name, f"training.report_to {name}", name, "trackers") for name in TRACKERS),
    Part("energy", "the energy of a training on NVIDIA devices", "pynvml", "energy", asked=False),
)
SHARDED = Part(DEEPSPEED, "training.deepspeed or zero_stage", "deepspeed", command="DS_BUILD_OPS=0 pip install deepspeed")  # it is built
OF_AGENTS = (
    Part("mcp", "MCP servers", "mcp", "agent"),
    *(Part("retrieval", "the tool retrieval", name, "agent") for name in ("rank_bm25", "langchain_text_splitters")),
)
OF_ENGINES = (
    Part(VLLM, "inference.engine vllm on the CPU", "vllm", "vllm"),
    Part(VLLM_ON_GPU, "inference.engine vllm on a GPU", "vllm", "vllm-cuda"),
    FOUR_BITS,
)


def is_for_here(part: Part) -> bool:
    """Whether it could be of use on this machine: without a GPU nothing is gained by what a GPU needs."""
    return part.name != VLLM_ON_GPU or shutil.which("nvidia-smi") is not None
