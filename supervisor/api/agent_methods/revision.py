"""Serves the methods `revision.*` and `agent.rollback`: the history of tables, and the way back."""

from collections.abc import Mapping
from typing import NamedTuple

from corral.supervisor.agents.kept.overrides import in_file_form
from corral.supervisor.agents.kept.record import Cause, Revision
from corral.supervisor.agents.kept.revision_rows import MAX_REVISIONS
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events.bus import rfc3339
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound
from corral.worker.contract.records import copied
from corral.worker.control import revisions as shapes
from corral.worker.methods.agent import AGENT_ROLLBACK, REVISION_DIFF, REVISION_LIST, REVISION_SHOW

from ..table.handlers import Caller, made_by, serve
from .agent import masked_table


class Difference(NamedTuple):
    """Represents a key that differs, such as `tasks.max_attempts`; a value is None where the table has no such key."""

    key: str
    before: object
    after: object


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[Difference]:
    """Returns the keys that differ, in the order of their names; a table within a table is compared by its own keys."""
    one, other = _flat(before, ""), _flat(after, "")
    return [
        Difference(key, one.get(key), other.get(key))
        for key in sorted({*one, *other})
        if key not in one or key not in other or one[key] != other[key]
    ]


def _flat(table: Mapping[str, object], above: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in table.items():
        inner = codec.as_object(value)
        if inner:
            found |= _flat(inner, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


class RevisionMethods:
    """Serves the methods `revision.*` and `agent.rollback`."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    @serve(REVISION_LIST)
    async def _list(self, params: shapes.RevisionListParams, _caller: Caller) -> shapes.Revisions:
        found = await self._agents.revisions.list(params.name, params.limit)
        return shapes.Revisions(revisions=[_shape(each) for each in found])

    @serve(REVISION_SHOW)
    async def _show(self, params: shapes.RevisionShowParams, _caller: Caller) -> shapes.RevisionShown:
        found = await self._chosen(params.name, params.revision)
        return shapes.RevisionShown(revision=_shape(found), spec=masked_table(found.table))

    @serve(REVISION_DIFF)
    async def _diff(self, params: shapes.RevisionDiffParams, _caller: Caller) -> shapes.RevisionDiff:
        after = await self._chosen(params.name, params.after)
        if params.before is None:
            before = await self._agents.revisions.before(params.name, after.number)
        else:
            before = await self._agents.revisions.find(params.name, params.before)
        table: Mapping[str, object] = {} if before is None else before.table
        found = differences(table, after.table)
        shown = differences(masked_table(table), {}), differences(masked_table(after.table), {})
        one, other = ({each.key: each.before for each in flat} for flat in shown)
        return shapes.RevisionDiff(
            name=params.name,
            before=None if before is None else before.number,
            after=after.number,
            changes=[
                shapes.KeyChange(key=each.key, before=one.get(each.key), after=other.get(each.key)) for each in found
            ],
        )

    @serve(AGENT_ROLLBACK)
    async def _rollback(self, params: shapes.RollbackParams, caller: Caller) -> shapes.RolledBack:
        tables, revisions = self._agents.tables, self._agents.revisions
        tables.etag(params.name)  # refuses a name that is not there
        chosen = await self._of_rollback(params)
        kind = tables.kind_of(params.name)
        if chosen.kind != kind:
            words = (
                f'cannot roll back "{params.name}": revision {chosen.number} was of kind {chosen.kind}, it is {kind}'
            )
            raise Conflict(words, name=params.name, revision=chosen.number, kind=chosen.kind)
        cause = Cause("rollback", made_by(caller), params.why, chosen.cause.package, chosen.number)
        table = in_file_form(chosen) if tables.is_of_file(params.name) else chosen.table
        changed = await tables.replace(params.name, table, cause, expected=params.expected, dry_run=params.dry_run)
        number = revisions.head(params.name).last
        if params.wait and not params.dry_run:
            await revisions.until_settled({params.name: number}, params.timeout_s)
        return shapes.RolledBack(
            name=params.name,
            revision=number if changed and not params.dry_run else None,
            of=chosen.number,
            changed=changed,
            etag=tables.etag(params.name),
            rolling=revisions.head(params.name).rolling == number,
        )

    async def _of_rollback(self, params: shapes.RollbackParams) -> Revision:
        """Returns the revision that is to be in force again: by its number, by the version of its package, or the last one before."""
        revisions, name = self._agents.revisions, params.name
        if params.version is not None and params.revision is not None:
            words = f'cannot roll back "{name}": give a revision or a version, not both'
            raise InvalidParams(words, key="version", value=params.version)
        if params.revision is not None:
            return await revisions.find(name, params.revision)
        if params.version is None:
            return await revisions.former(name)
        found = await revisions.list(name, MAX_REVISIONS)
        good = [each for each in found if each.cause.package and each.state in ("current", "superseded")]
        versions = [(each.cause.package or "").rpartition("@")[2] for each in good]
        chosen = next((n for n, each in enumerate(versions) if _is_same(each, params.version)), None)
        if chosen is None:
            known = ", ".join(dict.fromkeys(versions)) or "none"
            words = f'cannot roll back "{name}" to version "{params.version}": it had {known}'
            raise NotFound(words, name=name, version=params.version, versions=[*dict.fromkeys(versions)])
        return good[chosen]

    async def _chosen(self, name: str, number: int | None) -> Revision:
        revisions = self._agents.revisions
        if number is None:
            number = revisions.head(name).current
        if number is None:
            return (await revisions.list(name, 1))[0]
        return await revisions.find(name, number)


def _is_same(version: str, asked: str) -> bool:
    """Returns whether two versions are equal as PEP 440 has it: 1.0 is 1.0.0."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415  # only who has packages pays

    try:
        return Version(version) == Version(asked)
    except InvalidVersion:
        return False


def _shape(found: Revision) -> shapes.Revision:
    return shapes.Revision(
        **copied(found, "name kind state reason"),
        **copied(found.cause, "how by why package of"),
        revision=found.number,
        at=rfc3339(found.at),
        settled_at=None if found.settled_at is None else rfc3339(found.settled_at),
    )
