"""Amounts as people write them: cores (`2`, `500m`) and sizes (`32Gi`, `32GiB`, `32GB`, `512M`)."""

from __future__ import annotations

import re
from decimal import Decimal

CORES_ACCEPTED = "cores as 2, 0.5 or 500m"
BYTES_ACCEPTED = "a size as 32Gi, 32GiB, 32GB, 512M or a number of bytes"

_QUANTITY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]{0,3})\s*", re.ASCII)
_BINARY = {prefix: 1024**power for power, prefix in enumerate(("k", "m", "g", "t", "p"), 1)}
_DECIMAL = {prefix: 1000**power for power, prefix in enumerate(("k", "m", "g", "t", "p"), 1)}


class QuantityError(ValueError):
    """The text is no quantity. Its message says what is accepted."""


def cores(value: str | int | float) -> float:
    """Cores as a number. Raises QuantityError. `500m` is half a core, as in Kubernetes."""
    number, unit = _split(value, CORES_ACCEPTED)
    match unit:
        case "":
            return float(number)
        case "m":
            return float(number / 1000)
        case _:
            raise QuantityError(CORES_ACCEPTED)


def size_bytes(value: str | int | float) -> int:
    """A size in bytes, rounded up. Raises QuantityError. `Gi` and `GiB` are powers of 1024, `G` and `GB` powers of 1000."""
    number, unit = _split(value, BYTES_ACCEPTED)
    unit = unit.lower()
    if unit in ("", "b"):
        factor = 1
    elif unit in ("ki", "kib", "mi", "mib", "gi", "gib", "ti", "tib", "pi", "pib"):
        factor = _BINARY[unit[0]]
    elif unit in ("k", "kb", "m", "mb", "g", "gb", "t", "tb", "p", "pb"):
        if unit == "m" and isinstance(value, str) and "m" in value:  # Kubernetes' milli: a thousandth of a byte is never meant
            raise QuantityError(BYTES_ACCEPTED)
        factor = _DECIMAL[unit[0]]
    else:
        raise QuantityError(BYTES_ACCEPTED)
    whole = number * factor
    return int(whole) + (whole != int(whole))


def _split(value: str | int | float, accepted: str) -> tuple[Decimal, str]:
    if isinstance(value, bool):
        raise QuantityError(accepted)
    if isinstance(value, int | float):
        if not 0 <= value < 1e18:
            raise QuantityError(accepted)
        return Decimal(str(value)), ""
    matched = _QUANTITY.fullmatch(value)
    if matched is None:
        raise QuantityError(accepted)
    return Decimal(matched[1]), matched[2]
