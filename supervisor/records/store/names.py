"""Reads the names in a column of a table: one step in its index for each name, however many rows have it."""

from collections.abc import Callable

from .store import Store


async def names_in(store: Store, table: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """Returns the wanted ones of the agents that a table has rows of, in order; an index of it begins with `agent`."""
    rows = await store.read(
        f"WITH RECURSIVE each(agent) AS (SELECT MIN(agent) FROM {table} UNION ALL"
        f" SELECT (SELECT MIN(agent) FROM {table} WHERE agent > each.agent) FROM each"
        " WHERE each.agent IS NOT NULL) SELECT agent FROM each WHERE agent IS NOT NULL"
    )
    return [str(agent) for (agent,) in rows if is_wanted(str(agent))]


def one_of(column: str, names: list[str]) -> str:
    """Returns the condition that a column has one of these names, each a mark; of no name it is false."""
    return f"{column} IN ({', '.join('?' * len(names))})"
