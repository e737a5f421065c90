"""Implements `corral stores`: the declared databases and knowledge, and whether they can be reached."""

from ..context import Session, command
from ..render import Table


@command("stores")
def stores(session: Session) -> None:
    """List stores and the agents that use them."""
    found = session.call("store.list", {})
    nothing = "there are no stores; declare one with [stores.NAME] in the configuration"
    session.print_list(found, "stores", nothing, Table("NAME KIND STATE URL USED_BY REASON", drop="URL"))
