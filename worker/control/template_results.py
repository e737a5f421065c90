"""Defines the results of `template.list`, and the part of `agent.show` about the template of an agent."""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Table: TypeAlias = Annotated[
    dict[str, object], Meta(description="A table of the configuration, as the file has it")
]


class TemplateParam(Struct, frozen=True, kw_only=True):
    """Represents a parameter of a template: its JSON Schema, and whether it has to be given."""

    name: str
    schema: Table
    required: bool


class Template(Struct, frozen=True, kw_only=True):
    """Represents a template: its file, the template that it begins with, its parameters, and the agents that have it."""

    name: str
    source: str
    base: str | None
    description: str
    params: list[TemplateParam]
    used_by: list[str]


class Templates(Struct, frozen=True, kw_only=True):
    """Represents the result of `template.list`."""

    templates: list[Template]


class TemplateUse(Struct, frozen=True, kw_only=True):
    """Represents the template of an agent: `params` with their defaults, and `spec`, what both make together."""

    name: str
    source: str | None
    params: Table
    spec: Table
