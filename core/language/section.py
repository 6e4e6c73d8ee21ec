"""What every section of the task language has in common: frozen, strict, and with its older names declared beside its fields."""

from typing import Annotated, Any

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One mapping of the language. Fields that are unset keep their default and are left out of the encoded form."""


def also(*names: str) -> msgspec.Meta:
    """Declare further names that a YAML file may use for a field; the reader rewrites them to the field's own name."""
    return msgspec.Meta(extra={"also": names})


def instead_of(*names: str) -> msgspec.Meta:
    """Declare names that other programs have for the same in another form: who writes one is told of the field."""
    return msgspec.Meta(extra={"instead_of": names})


def settings_of(section: str) -> msgspec.Meta:
    """Mark a pass-through mapping: known names are typed, aliases mapped, unknown names are warnings (see `passthrough`)."""
    return msgspec.Meta(extra={"settings": section})


def about(text: str) -> msgspec.Meta:
    """Say in a few words what a field is, for the reference page and for editors."""
    return msgspec.Meta(description=text)


def planned(text: str) -> msgspec.Meta:
    """The same for a field that is read and checked, and that nothing follows yet."""
    return msgspec.Meta(description=f"{text} (no effect yet)")


def for_vllm(text: str) -> msgspec.Meta:
    """The same for a sampling parameter that only vLLM can follow: with another engine it fails the task."""
    return msgspec.Meta(description=f"{text} (vLLM)", extra={"engine": "vllm"})


AT_INTAKE = msgspec.Meta(extra={"at_intake": True})
"""Marks a field that the scheduler reads before any stage has run: it may not hold a reference."""

Cores = Annotated[float, msgspec.Meta(gt=0, le=1_000_000, extra={"quantity": "cores"})]
"""CPU cores; a file may write `2`, `"2"`, `0.5` or `500m`."""

ByteSize = Annotated[int, msgspec.Meta(ge=0, le=1 << 60, extra={"quantity": "bytes"})]
"""A size in bytes; a file may write `32Gi`, `32GiB`, `32GB` or a plain number of bytes."""

Count = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Names = tuple[str, ...]
Settings = dict[str, Any]
