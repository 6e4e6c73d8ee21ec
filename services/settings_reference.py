"""Writes docs/settings.md and .env.example from the declarations in `settings`: `python -m mloc.services.settings_reference`."""

from pathlib import Path

from msgspec import structs

from mloc.services.setting_variables import GROUPS, Variable
from mloc.services.settings import Settings

_INTRO = """# Settings

Read from the environment and from `.env` in the working folder (the environment wins). A value that cannot be used stops the
start with a message that says what is accepted; an empty value counts as unset; an older name works and is noted in the log.

This page and `.env.example` are written from the declarations in `services/setting_variables.py`: `make docs`.
"""


_DEFAULTS = structs.asdict(Settings())


def settings_page() -> str:
    """docs/settings.md: a table a group."""
    lines = [_INTRO]
    for group, declared in GROUPS.items():
        lines += [f"\n## {group}\n", "| setting | default | accepts | what |", "| --- | --- | --- | --- |"]
        for field, variable in declared.items():
            cells = (_names(field, variable), _default(field, variable), variable.kind.accepts, _about(variable))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """.env.example: every setting, commented out, at its default."""
    lines = ["# Copy to .env and remove the # before what you set. docs/settings.md tells more."]
    for group, declared in GROUPS.items():
        lines += ["", f"## {group}"]
        for field, variable in declared.items():
            value = _value(_DEFAULTS[field])
            unset = f" [unset: {variable.default_text}]" if variable.default_text and not value else ""
            lines += [f"# {_about(variable)}{unset}", f"# {field.upper()}={value}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    for path, text in ((root / "docs" / "settings.md", settings_page()), (root / ".env.example", env_example())):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"wrote {path}")
    return 0


def _names(field: str, variable: Variable) -> str:
    older = ", ".join(f"`{name}`" for name in variable.older)
    return f"`{field.upper()}`" + (f" (older: {older})" if older else "")


def _default(field: str, variable: Variable) -> str:
    value = _value(_DEFAULTS[field])
    return variable.default_text.replace("<", "&lt;") or (f"`{value}`" if value else "unset")


def _about(variable: Variable) -> str:
    return variable.about + (" *(read and checked; no effect yet)*" if variable.planned else "")


def _value(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case tuple():
            return ",".join(value)
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else f"{value:_}" if value >= 10_000 else str(value)
        case _:
            return str(value)


if __name__ == "__main__":
    raise SystemExit(main())
