"""Writes the tables of keys in the reference of the configuration, from the definitions of the keys.

The page has a line `<!-- keys of TABLE -->` where a table belongs. `corral man corral.toml` and the site of the
documentation show the page with the tables in it.
"""

import json
import re
from collections.abc import Mapping

from msgspec import NODEFAULT, Struct

from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.declared.oauth import Oauth
from corral.supervisor.config.declared.pools import DeclaredPool
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.decoding.keys import Field, fields_of, sentences_of
from corral.supervisor.config.decoding.values import duration, duration_text, size, size_text
from corral.supervisor.config.spec.probe_spec import Check
from corral.supervisor.config.spec.spec import DAEMON_TABLES, SECTIONS, Spec
from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Step, Workflow

TABLES: Mapping[str, type[Struct]] = {
    **DAEMON_TABLES,
    **SECTIONS,
    "agents": Spec,
    "checks": Check,
    "cluster": ClusterSettings,
    "models": DeclaredModel,
    "oauth": Oauth,
    "pools": DeclaredPool,
    "steps": Step,
    "stores": DeclaredStore,
    "teams": Team,
    "tenants": Tenant,
    "workflows": Workflow,
}
"""The tables that a page can name."""

_MARK = re.compile(r"^<!-- keys of (\w+) -->$", re.MULTILINE)
_WHOSE = {"": "both", "agent": "agents", "mcp": "servers"}


def with_tables(page: str) -> str:
    """Returns a page of Markdown with the tables that it names."""
    return _MARK.sub(lambda mark: "\n".join(_rows(TABLES[mark[1]])), page)


def _rows(struct: type[Struct]) -> list[str]:
    keys, sentences = fields_of(struct), sentences_of(struct)
    is_shared = any(field.key.of for field in keys.values())
    heads = ["key", "default", "unit", "meaning", *(["of"] if is_shared else []), "change"]
    found = [heads, ["---"] * len(heads)]
    for key, field in keys.items():
        whose = [_WHOSE[field.key.of]] if is_shared else []
        found.append([f"`{key}`", _default(field), field.unit, sentences[key].removesuffix("."), *whose, field.change])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in found]


def _default(field: Field) -> str:
    value = field.default
    if field.key.default or value is NODEFAULT:
        return field.key.default or "has to be written"
    if value is None:
        return "`-`"
    if isinstance(value, int | float) and value and duration in field.rules:
        value = duration_text(value)
    elif isinstance(value, int) and value and size in field.rules:
        value = size_text(value)
    elif isinstance(value, float):
        value = int(value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"
