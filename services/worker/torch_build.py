"""Whether the torch that is installed can use NVIDIA's GPUs, read off its files: importing it takes seconds and hundreds of MiB."""

import importlib.util
import re
from pathlib import Path

_VERSION = re.compile(r"""^__version__\s*=\s*['"](?P<version>[^'"]+)""", re.MULTILINE)
_NO_CUDA = re.compile(r"^cuda\b[^=\n]*=\s*None\s*$", re.MULTILINE)


def version_without_cuda() -> str:
    """The version of a torch that was built without CUDA; "" for one that was built with it, and where none is installed or it does not say."""
    try:
        spec = importlib.util.find_spec("torch")
        said = Path(spec.origin).with_name("version.py").read_text() if spec is not None and spec.origin else ""
    except (OSError, ValueError):
        return ""
    version = _VERSION.search(said)
    return version["version"] if version and _NO_CUDA.search(said) else ""


def how_to_get_cuda(version: str) -> str:
    """The command in place of a build for CPUs: pip takes that one where a folder of wheels or a further index offers it."""
    return f"pip uninstall -y torch && PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= pip install torch=={version.partition('+')[0]}"
