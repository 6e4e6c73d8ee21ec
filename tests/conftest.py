"""What all tests share: the processes that they start import this checkout's rooms, as the tests themselves do."""

import os
from pathlib import Path

_TYPINGS = str(Path(__file__).parents[1] / "typings")
os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (_TYPINGS, os.environ.get("PYTHONPATH", "")) if part)
