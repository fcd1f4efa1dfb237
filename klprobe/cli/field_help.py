"""Help texts of a dataclass's fields: the string below each field, as one paragraph, and its default in words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from functools import cache
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo


def registry() -> ConstructorRegistry:
    """Make tyro's rules, by which dataclasses are built as usual, and described by this file."""
    rules = ConstructorRegistry()
    rules.struct_rule(describe)
    return rules


def describe(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describe the fields of a dataclass with their help; None for other types, for which tyro has rules of its own."""
    kind = info.type
    if not dataclasses.is_dataclass(kind):
        return None
    hints, said = get_type_hints(kind, include_extras=True), field_docs(kind)
    specs = []
    for field in dataclasses.fields(kind):
        if field.init:
            default = _default(field, info.default)
            hint = _default_in_words(default)
            asked: Any = hints[field.name] if hint is None else Annotated[hints[field.name], hint]
            specs.append(StructFieldSpec(field.name, asked, default, said.get(field.name) or _group_text(hints[field.name])))
    return StructConstructorSpec(kind, tuple(specs))


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Read the string below each field, as one line; from a base class where the class itself has none."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # the class was made by a program, or is built in
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                    found[name] = " ".join(text.split())
    return found


def _default(field: dataclasses.Field[Any], given: object) -> Any:
    """Find the field's value in the given default instance, otherwise the field's own default."""
    if given is tyro.MISSING:
        return given
    if dataclasses.is_dataclass(given):
        return getattr(given, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    return tyro.MISSING_NONPROP if field.default_factory is dataclasses.MISSING else field.default_factory()


def _default_in_words(default: object) -> Any:
    """Write the default in words: nothing for None, since the help says what happens without it; on or off for switches."""
    if isinstance(default, bool):
        return tyro.conf.arg(help_behavior_hint="(on by default; this flag turns it off)" if default else "(off by default)")
    return tyro.conf.arg(help_behavior_hint="(optional)") if default is None or default == () else None


def _group_text(kind: object) -> str | None:
    """Describe a group of flags by the docstring of its class, without the line breaks of the source."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__doc__):
        return None
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(kind.__doc__)))
