"""A prompt made of the results of earlier stages: columns looked up or computed, laid out as lines or a table, with words around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mloc.core.language.data_spec import GraphTemplateData, Template, TemplateColumn
from mloc.core.language.errors import LanguageError, Problem, did_you_mean, dotted, shown
from mloc.core.language.expressions import ExpressionError, evaluate, names_in
from mloc.core.language.findings import Findings
from mloc.core.language.value_paths import PathError, look_up, parse_path

LAYOUTS = ("lines", "table", "text")
MAX_PROMPT_CHARACTERS = 1_000_000
_MAX_ROWS = 10_000


def check_template(template: Template, findings: Findings) -> None:
    """Note what can be seen to be wrong before any result is there."""
    place = ("data", "template")
    if template.name is not None and template.name not in LAYOUTS:
        hint = did_you_mean(template.name, LAYOUTS)
        findings.wrong((*place, "name"), "is not known", found=shown(template.name), accepted=", ".join(LAYOUTS), hint=hint)
    if template.text is None and not template.columns:
        findings.wrong(place, "is empty", accepted="text, columns, or both")
    for at, column in enumerate(template.columns):
        where = (*place, "columns", at)
        if (column.expr is None) == (column.node is None and column.path is None):
            findings.wrong(where, "needs either node and path, or expr", accepted="{label, node, path, default} or {label, expr, default}")
            continue
        try:
            if column.expr is not None:
                names_in(column.expr)
            elif column.path is not None:
                parse_path(column.path)
        except ExpressionError as error:
            findings.wrong((*where, "expr"), str(error))
        except PathError as error:
            findings.wrong((*where, "path"), str(error))


def nodes_of(template: Template) -> tuple[tuple[int, str], ...]:
    """The stages that the columns look at, each with the index of its column."""
    found: list[tuple[int, str]] = []
    for at, column in enumerate(template.columns):
        if column.node is not None:
            found.append((at, column.node))
        if column.expr is not None:
            try:
                found += [(at, name) for name in names_in(column.expr)]
            except ExpressionError:
                continue  # `check_template` says what is wrong with it
    return tuple(found)


def render_graph_template(data: GraphTemplateData, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The rows that the template gives: one, `{"prompt": …}`, with `"system"` where options name a role.

    `inputs`: stage name → {"result": …}. Raises LanguageError with every column that has neither value nor default."""
    template = data.template
    problems: list[Problem] = []
    values: list[tuple[str, Any]] = []
    for at, column in enumerate(template.columns):
        label = column.label or column.path or column.expr or f"column {at + 1}"
        try:
            values.append((label, _value(column, inputs)))
        except (PathError, ExpressionError) as error:
            place = dotted(("spec", "data", "template", "columns", at))
            problems.append(Problem(str(error), path=place, hint="give the column a default if it may be missing"))
    if problems:
        raise LanguageError(problems)
    options = template.options
    body = _body(template, values)
    prompt = "\n\n".join(part for part in (options.intro, body, options.closing) if part)
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise LanguageError([Problem("the prompt is too long", path="spec.data.template", found=f"{len(prompt):,} characters",
                                     accepted=f"at most {MAX_PROMPT_CHARACTERS:,}")])  # fmt: skip
    return ({"prompt": prompt, **({"system": options.role} if options.role else {})},)


def _value(column: TemplateColumn, inputs: Mapping[str, Any]) -> Any:
    """The column's value, or its default. Raises PathError or ExpressionError when there is neither."""
    try:
        if column.expr is not None:
            found = evaluate(column.expr, {name: one.get("result") for name, one in inputs.items()})
        else:
            found = _looked_up(column, inputs)
    except (PathError, ExpressionError):
        if column.default is None:
            raise
        return column.default
    return column.default if found is None and column.default is not None else found


def _looked_up(column: TemplateColumn, inputs: Mapping[str, Any]) -> Any:
    steps = parse_path(column.path) if column.path else ()
    node = column.node
    if node is None:
        node, steps = (str(steps[0]), steps[1:]) if steps else ("", ())
    if node not in inputs:
        raise PathError(f"there is no stage {shown(node)}; there is {', '.join(sorted(inputs)) or 'none'}")
    result = inputs[node].get("result")
    if steps and steps[0] == "result" and not (isinstance(result, dict) and "result" in result):
        steps = steps[1:]
    try:
        return look_up(result, steps)
    except PathError as error:
        raise PathError(f"in the result of {shown(node)}, {error}") from None


def _body(template: Template, values: list[tuple[str, Any]]) -> str:
    layout = template.name if template.name in LAYOUTS else "table" if any(isinstance(value, list) for _, value in values) else "lines"
    if template.text is None:
        return _laid_out(layout, values)
    text = template.text
    for label, value in values:
        text = text.replace("{" + label + "}", _written(value))
    return text.replace("{columns}", _laid_out(layout, values)) if "{columns}" in text else text


def _laid_out(layout: str, values: list[tuple[str, Any]]) -> str:
    if layout != "table":
        return "\n".join(f"{label}: {_written(value)}" for label, value in values)
    count = max((len(value) for _, value in values if isinstance(value, list)), default=1)
    rows = [[label for label, _ in values], ["---"] * len(values)]
    for at in range(min(count, _MAX_ROWS)):
        rows.append([_cell(value[at] if at < len(value) else "") if isinstance(value, list) else _cell(value) for _, value in values])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: Any) -> str:
    return " ".join(_written(value).split()).replace("|", "\\|")


def _written(value: Any) -> str:
    match value:
        case str():
            return value
        case float():
            return f"{value:.6g}"
        case list() if all(isinstance(one, str | int | float) for one in value):
            return "\n".join(_written(one) for one in value)
        case _:
            return msgspec.json.encode(value).decode()
