"""Files of weights that cannot be read: cut off by a full disk or a copy that was broken off."""

from __future__ import annotations

from pathlib import Path


def unreadable() -> tuple[type[Exception], ...]:
    """What libraries raise where they cannot load a model: no settings or memory are to blame, so trying again does not help."""
    from safetensors import SafetensorError

    return (OSError, ValueError, SafetensorError)


def damaged_file(folder: str) -> Path | None:
    """The first file of weights in the folder that is not what its own header says; None where all are, or where it is no folder."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else ():
        try:
            with safe_open(file, "np"):
                pass
        except (SafetensorError, OSError):
            return file
    return None
