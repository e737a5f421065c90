"""Implements `corral models`: the declared models, whether they answer, and what was measured of them today."""

from ..context import Session, command
from ..render import Columns, number


@command("models")
def models(session: Session) -> None:
    """List models, their agents, and today's tokens and cost."""
    found = session.call("models.list", {})
    nothing = "there are no models; declare one with [models.NAME] in the configuration"
    columns: Columns = {
        "NAME": "name",
        "KIND": "kind",
        "STATE": "state",
        "CALLS": "calls_today",
        "FAILED": "calls_failed_today",
        "ESTIMATED": "calls_estimated_today",
        "TOKENS": "tokens_today",
        "CENTS": lambda record: f"{number(record, 'cost_cents_today'):.2f}",
        "USED BY": "used_by",
        "URL": "url",
        "REASON": "reason",
    }
    session.print_list(found, "models", nothing, columns, droppable=("URL", "FAILED", "ESTIMATED"))
