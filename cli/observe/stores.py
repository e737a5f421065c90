"""Implements `corral stores`: the declared databases and knowledge, and whether they can be reached."""

from ..context import Session, command
from ..render import items, word


@command("stores")
def stores(session: Session) -> None:
    """List stores and the agents that use them."""
    found = session.call("store.list", {})
    nothing = "there are no stores; declare one with [stores.NAME] in the configuration"
    records = session.records(found, "stores", nothing)
    if not records:
        return
    session.print_table(
        ("NAME", "KIND", "STATE", "URL", "USED BY", "REASON"),
        [
            [
                word(record, "name"),
                word(record, "kind"),
                word(record, "state"),
                word(record, "url"),
                " ".join(map(str, items(record, "used_by"))),
                word(record, "reason"),
            ]
            for record in records
        ],
        droppable=("URL",),
    )
