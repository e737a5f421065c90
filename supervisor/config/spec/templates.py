"""Decodes `[templates.NAME]`, and expands a template into the table of an agent or server.

A template has keys of an agent, in whose strings `${param.NAME}` stands for a parameter. Each parameter is declared by
a JSON Schema; one without a default has to be given. A template may begin with the keys and parameters of another. The
agent's own keys win over those of its template, merged as RFC 7396 says.

Guarantees that a reference to a parameter that is not declared is refused where the template is read, that a value of a
parameter is never expanded itself, and that an expansion is bounded: it ends, with a table of a bounded size.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from corral.mcp.pool.validation import Schema
from corral.worker.contract.errors import CorralError
from corral.worker.contract.toml_text import literal

from ..decoding.decoder import SECRET, STORE, Document, Expanded, KeyPath, Stopped, as_text, as_value, as_written
from ..decoding.keys import Field, fields_of
from ..decoding.values import Refused, is_list, is_table, json_schema, quoted
from .references import why_unknown, why_unknown_in_spec
from .sections import PROGRAM_KEYS, check_daemon_wide, table_at, table_in
from .sources import Variables, expanded
from .spec import SECTIONS, Defaults, Spec
from .team import a_name
from .template_spec import BUILT_IN_TEMPLATES, Layer, Reference, Template, Templates, Text, merge

DEPTH_MAX = 8
"""Number of templates that may begin with one another in a row."""

VALUES_MAX = 10_000
"""Number of values of an expanded table."""

CHARACTERS_MAX = 1 << 20
"""Characters of all texts of an expanded table."""

PARAMS_MAX = 100
"""Number of parameters of a template."""

LEVELS_MAX = 32
"""Number of levels of an expanded table."""

TEXT_KEYS = frozenset({"command", "environment", "headers", "labels"})
"""Keys that have texts alone: a parameter that is a number or a boolean is written as text there."""

_PARAM = re.compile(r"\$\$|\$\{param\.([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,47}")
_KEYS: Mapping[str, Field] = {key: fields_of(Spec)[key] for key in ("template", "params")}


# --- reading --------------------------------------------------------------------------------------


def decode_templates(document: Document, top: Mapping[str, object], variables: Variables) -> dict[str, Template]:
    """Returns the templates of a file, and the built-in ones; mistakes are noted, and their templates left out."""
    tables = table_in(document, ("templates",), top)
    found: dict[str, Template] = {}
    for name in tables:
        _decode(document, name, tables, variables, found, ())
    return {**BUILT_IN_TEMPLATES, **found}


def _decode(
    document: Document,
    name: str,
    tables: Mapping[str, object],
    variables: Variables,
    found: dict[str, Template],
    chain: tuple[str, ...],
) -> None:
    if name in found:
        return
    path = ("templates", name)
    with document.collecting():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,47}", name):
            raise document.error(path, name, "a name has 1 to 48 letters, digits, _ and -, and starts with a letter")
        table = table_at(document, path, tables[name])
        base = _base(document, path, table, (*chain, name), [*tables, *BUILT_IN_TEMPLATES])
        if base is not None and base in tables:
            before = document.failures
            _decode(document, base, tables, variables, found, (*chain, name))
            if base not in found:
                document.stop_after(before)
                raise Stopped  # its mistake was told before
        above = {**BUILT_IN_TEMPLATES, **found}.get(base) if base is not None else None
        params = _declared(document, path, table, above.params if above else {}, variables)
        raw = {k: v for k, v in table.items() if k not in ("template", "params")}
        body = _Compiling(document, variables, name, params).table(path, raw)
        _check_keys(document, path, body)
        part = document.part_of(path)
        layer = Layer(name, part.directory, body)
        found[name] = Template(
            name=name,
            source=part.source,
            directory=part.directory,
            base=base,
            params=params,
            layers=(*(above.layers if above else ()), layer),
        )


def _base(
    document: Document, path: KeyPath, table: Mapping[str, object], chain: tuple[str, ...], known: list[str]
) -> str | None:
    if "template" not in table:
        return None
    here = (*path, "template")
    base = str(document.decode_key(here, table["template"], {"template": Field((a_name,))}))
    if base in chain:
        circle = " begins with ".join([*chain[chain.index(base) :], base])
        raise document.error(here, base, f"it closes a circle: {circle}")
    if base not in known:
        raise document.error(here, base, _unknown(base, known, "template"))
    if len(chain) >= DEPTH_MAX:
        raise document.error(here, base, f"write at most {DEPTH_MAX} templates in a row")
    return base


def _declared(
    document: Document,
    path: KeyPath,
    table: Mapping[str, object],
    above: Mapping[str, Mapping[str, object]],
    variables: Variables,
) -> dict[str, dict[str, object]]:
    """Returns the parameters that a template declares, those of the one it begins with included."""
    found: dict[str, dict[str, object]] = {name: dict(each) for name, each in above.items()}
    here = (*path, "params")
    own = table_at(document, here, table.get("params", {}))
    if len({*found, *own}) > PARAMS_MAX:
        raise document.error(here, len({*found, *own}), f"write at most {PARAMS_MAX} parameters")
    before = document.failures
    for name, raw in own.items():
        with document.collecting():
            if not _NAME.fullmatch(name):
                words = "a name has 1 to 48 letters, digits, _ and -, and starts with a letter or _"
                raise document.error((*here, name), name, words)
            if not is_table(raw):
                words = f'write a JSON Schema: {name} = {{ type = "string", default = "x" }}'
                raise document.error((*here, name), raw, words)
            plain = as_text(expanded(document, (*here, name), raw, variables))
            rule = {name: Field((json_schema,))}
            merged = merge(found.get(name, {}), plain if is_table(plain) else {})
            schema: dict[str, object] = document.decode_key((*here, name), merged, rule)
            if "default" in schema and (why := _fault(schema, schema["default"])):
                raise document.error((*here, name), schema["default"], f"its default does not fit it: {why}")
            found[name] = schema
    document.stop_after(before)
    return found


class _Compiling:
    """Turns the strings of a template into texts with references, with variables expanded."""

    def __init__(
        self, document: Document, variables: Variables, name: str, params: Mapping[str, Mapping[str, object]]
    ) -> None:
        self._document = document
        self._variables = variables
        self._name = name
        self._params = params

    def table(self, path: KeyPath, raw: Mapping[str, object]) -> dict[str, object]:
        """Returns the keys of a template; mistakes are noted."""
        return {key: self._value((*path, key), each) for key, each in raw.items()}

    def _value(self, path: KeyPath, raw: object) -> object:
        if isinstance(raw, str):
            with self._document.collecting():
                return self._text(path, raw)
            return raw
        if is_table(raw):
            return self.table(path, raw)
        if is_list(raw):
            return [self._value(path, each) for each in raw]
        return raw

    def _text(self, path: KeyPath, raw: str) -> object:
        parts: list[str | Reference] = []
        literal, end = "", 0
        for match in _PARAM.finditer(raw):
            literal += raw[end : match.start()]
            end = match.end()
            if match[0] == "$$":
                literal += "$$"
                continue
            name = match[1]
            if not match[0].endswith("}"):
                raise self._document.error(path, match[0], "this is no reference to a parameter: write ${param.NAME}")
            if name not in self._params:
                raise self._document.error(path, match[0], _unknown(name, self._params, "parameter"))
            parts += [self._plain(path, literal), Reference(match[1])]
            literal = ""
        last = literal + raw[end:]
        if not parts:
            return expanded(self._document, path, raw, self._variables)
        parts.append(self._plain(path, last))
        return Text(tuple(part for part in parts if part != ""), raw)

    def _plain(self, path: KeyPath, literal: str) -> str:
        return str(expanded(self._document, path, literal, self._variables))


def _unknown(name: str, known: Iterable[str], noun: str) -> str:
    names = sorted(known)
    near = get_close_matches(name, names, 1)
    if near:
        return f'there is no {noun} of this name; did you mean "{near[0]}"?'
    return f"there is no {noun} of this name; known are {quoted(names) or 'none'}"


def _check_keys(document: Document, path: KeyPath, body: Mapping[str, object]) -> None:
    """Notes keys that no agent and no server has, and values that would be refused whatever the parameters are."""
    for key, value in body.items():
        here = (*path, key)
        with document.collecting():
            if key in SECTIONS:
                section = table_at(document, here, value)
                check_daemon_wide(document, here, section)
                fields = fields_of(SECTIONS[key])
                for inner, each in section.items():
                    _check_value(document, (*here, inner), each, fields, why_unknown)
                continue
            _check_value(document, here, value, fields_of(Spec), why_unknown_in_spec)


def _check_value(
    document: Document, path: KeyPath, value: object, fields: Mapping[str, Field], unknown: Callable[..., str]
) -> None:
    with document.collecting():
        if path[-1] not in fields or not _refers(value):
            document.decode_key(path, value, fields, unknown=unknown)


def _refers(value: object) -> bool:
    if is_table(value):
        return any(map(_refers, value.values()))
    return any(map(_refers, value)) if is_list(value) else isinstance(value, Text)


# --- expanding ------------------------------------------------------------------------------------


def template_table(template: Template) -> dict[str, object]:
    """Returns the table from which a file in any folder makes an equal template, with its texts as they are written."""
    layer = template.layers[-1]
    params = {name: dict(schema) for name, schema in template.params.items()}
    head: dict[str, object] = {} if template.base is None else {"template": template.base}
    if params:
        head["params"] = params
    table = head | _as_read(_anchored(layer.body, layer.directory))
    process = table.get("process", {})
    if template.base is None and is_table(process):  # else the one that it begins with has it
        table["process"] = {"working_directory": literal(template.directory), **process}
    return table


def _as_read(table: Mapping[str, object]) -> dict[str, object]:
    def text(value: object) -> object:
        if isinstance(value, Text):
            return value.written
        if is_table(value):
            return _as_read(value)
        return [text(each) for each in value] if is_list(value) else as_written(value)

    return {key: text(value) for key, value in table.items()}


class Derived(NamedTuple):
    """Represents the table of an agent that has a template: the whole, and what of it is its own."""

    table: dict[str, object]
    template: str
    params: dict[str, object]
    own: dict[str, object]


def derived(
    document: Document, path: KeyPath, table: Mapping[str, object], templates: Templates, defaults: Defaults
) -> Derived | None:
    """Returns the table of an agent or server with the keys of its template; None if it has none."""
    if "template" not in table:
        if table.get("params"):
            raise document.error((*path, "params"), None, "it goes with template only")
        return None
    here = (*path, "template")
    name = str(document.decode_key(here, table["template"], _KEYS))
    template = templates.get(name)
    if template is None:
        raise document.error(here, name, _unknown(name, list(templates), "template"), agent=path[-1], template=name)
    given = _params(document, path, table.get("params", {}), template)
    own = _anchored({k: v for k, v in table.items() if k not in _KEYS}, document.part_of(path).directory)
    _check_null(document, path, own)
    try:
        whole = _layers(template, template.values(given), _Budget())
    except Refused as refused:
        raise document.error(here, name, refused.reason, agent=path[-1], template=name) from refused
    if not PROGRAM_KEYS.isdisjoint(own):  # its own program is instead of the template's
        dropped = PROGRAM_KEYS | {"python"}
        whole = {key: value for key, value in whole.items() if key not in dropped}
    _note_origins(document, path, template, own)
    merged = merge(whole, own)
    if not defaults.process.working_directory:
        process = merged.get("process", {})
        if is_table(process):
            merged["process"] = {"working_directory": template.directory, **process}
    is_file = document.source != STORE
    kept = table.get("params", {})
    return Derived(
        table=merged,
        template=name,
        params={k: as_written(v) if is_file else as_text(v) for k, v in kept.items()} if is_table(kept) else {},
        own={key: _kept(key, value, is_file=is_file) for key, value in own.items()},
    )


def _kept(key: str, value: object, *, is_file: bool) -> object:
    """Returns an own key as tables of the agent show it: as it was written, but for values that may be secret."""
    if key == "process" and is_table(value):
        return {inner: _kept(inner, each, is_file=is_file) for inner, each in value.items()}
    return as_written(value) if is_file and key not in SECRET else as_text(value)


def _params(document: Document, path: KeyPath, raw: object, template: Template) -> dict[str, object]:
    here = (*path, "params")
    given = document.decode_key(here, raw, _KEYS)
    typed = as_value(raw)
    facts: dict[str, Any] = {"agent": path[-1], "template": template.name}  # passed by name
    before = document.failures
    found: dict[str, object] = {}
    for name, value in given.items():
        with document.collecting():
            if name not in template.params:
                words = _unknown(name, template.params, "parameter")
                words = f'{words} (of template "{template.name}")'
                raise document.error((*here, name), value, words, param=name, **facts)
            why = _fault(template.params[name], value)
            other = typed[name] if is_table(typed) else value
            if why and other != value and not _fault(template.params[name], other):
                value, why = other, ""  # "2" from a variable is a number where one is wanted
            if why:
                words = f'it does not fit parameter "{name}" of template "{template.name}": {why}'
                raise document.error((*here, name), value, words, param=name, **facts)
            found[name] = value
    missing = [name for name in template.params if name not in template.values(given)]
    for name in missing if document.failures == before else ():
        words = f'parameter "{name}" of template "{template.name}" is missing, and has no default'
        document.note(document.error((*here, name), None, words, param=name, **facts))
    document.stop_after(before)
    return found


def _fault(schema: Mapping[str, object], value: object) -> str:
    try:
        faults = Schema(schema).faults(value)
    except CorralError as error:
        return error.message
    return faults[0]["reason"] if faults else ""


def _check_null(document: Document, path: KeyPath, value: object) -> None:
    if is_table(value):
        for key, each in value.items():
            if each is None:
                words = "TOML has no null: write the value that counts in place of the template's"
                raise document.error((*path, key), None, words)
            _check_null(document, (*path, key), each)


def _note_origins(document: Document, path: KeyPath, template: Template, own: Mapping[str, object]) -> None:
    """Notes the template of each key that an agent does not have itself, for errors about it."""
    for layer in template.layers:
        for key, value in layer.body.items():
            origin = ("templates", layer.template, key)
            if key not in own:
                document.inherit((*path, key), origin)
            elif is_table(value) and is_table(mine := own[key]):
                for inner in value.keys() - mine.keys():
                    document.inherit((*path, key, inner), (*origin, inner))


@dataclass
class _Budget:
    """Counts the values and characters of an expansion."""

    values: int = field(default=VALUES_MAX)
    characters: int = field(default=CHARACTERS_MAX)

    def take(self, value: object) -> None:
        self.values -= 1
        self.characters -= len(value) if isinstance(value, str) else 0
        if self.values < 0 or self.characters < 0:
            raise Refused(f"it makes more than {VALUES_MAX} values or {CHARACTERS_MAX} characters")


def _layers(template: Template, values: Mapping[str, object], budget: _Budget) -> dict[str, object]:
    """Returns the keys that a template gives, with all parameters put in."""
    found: dict[str, object] = {}
    for layer in template.layers:
        body = {key: _filled(value, values, budget, 1, as_words=key in TEXT_KEYS) for key, value in layer.body.items()}
        found = merge(found, _anchored(body, layer.directory))
    return found


def _filled(
    value: object, values: Mapping[str, object], budget: _Budget, level: int, *, as_words: bool = False
) -> object:
    budget.take(value)
    if level > LEVELS_MAX:
        raise Refused(f"it makes more than {LEVELS_MAX} levels")
    if isinstance(value, Text):
        return _text_of(value, values, budget, level, as_words=as_words)
    if is_table(value):
        return {
            k: _filled(each, values, budget, level + 1, as_words=as_words or k == "environment")
            for k, each in value.items()
        }
    if is_list(value):
        return [_filled(each, values, budget, level + 1, as_words=as_words) for each in value]
    return value


def _text_of(text: Text, values: Mapping[str, object], budget: _Budget, level: int, *, as_words: bool) -> object:
    first = text.parts[0]
    if len(text.parts) == 1 and isinstance(first, Reference):
        found = values[first.name]
        if not as_words or is_table(found) or is_list(found):
            return _filled(found, {}, budget, level, as_words=as_words)
    whole = "".join(part if isinstance(part, str) else _word(part, values[part.name], text) for part in text.parts)
    budget.take(whole)
    return Expanded(whole, text.written)


def _word(reference: Reference, value: object, text: Text) -> str:
    if isinstance(value, str):
        return value
    if is_table(value) or is_list(value):
        words = f"${{param.{reference.name}}} is a {'table' if is_table(value) else 'list'}"
        raise Refused(f"{words}, which cannot stand inside the text {text.written[:80]!r}")
    return msgspec.json.encode(value).decode()


def _anchored(table: Mapping[str, object], directory: str) -> dict[str, object]:
    """Returns a table with absolute paths: relative ones are in `directory`."""

    def anchored(key: str, value: object, fields: Mapping[str, Field]) -> object:
        declared = fields.get(key)
        if declared is None or not declared.is_path:
            return value
        if is_list(value):
            return [_absolute(each, directory) for each in value]
        if key == "python" and isinstance(value, str) and "/" not in value:
            return value  # found in PATH
        return _absolute(value, directory)

    found: dict[str, object] = {}
    for key, value in table.items():
        if key in SECTIONS and is_table(value):
            fields = fields_of(SECTIONS[key])
            found[key] = {k: anchored(k, each, fields) for k, each in value.items()}
        else:
            found[key] = anchored(key, value, fields_of(Spec))
    return found


def _absolute(value: object, directory: str) -> object:
    if not isinstance(value, str) or value.startswith("/") or not value:
        return value
    whole = f"{directory.rstrip('/')}/{value}"
    if isinstance(value, Expanded):
        return Expanded(whole, whole if value.written.startswith("$") else f"{directory.rstrip('/')}/{value.written}")
    return whole
