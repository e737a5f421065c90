"""Implements `corral models`: the declared models, whether they answer, and what was measured of them today."""

from ..context import Session, command
from ..render import items, number, word


@command("models")
def models(session: Session) -> None:
    """List models, their agents, and today's tokens and cost."""
    found = session.call("models.list", {})
    nothing = "there are no models; declare one with [models.NAME] in the configuration"
    records = session.records(found, "models", nothing)
    if not records:
        return
    session.print_table(
        ("NAME", "KIND", "STATE", "CALLS", "FAILED", "ESTIMATED", "TOKENS", "CENTS", "USED BY", "URL", "REASON"),
        [
            [
                word(record, "name"),
                word(record, "kind"),
                word(record, "state"),
                word(record, "calls_today"),
                word(record, "calls_failed_today"),
                word(record, "calls_estimated_today"),
                word(record, "tokens_today"),
                f"{number(record, 'cost_cents_today'):.2f}",
                " ".join(map(str, items(record, "used_by"))),
                word(record, "url"),
                word(record, "reason"),
            ]
            for record in records
        ],
        droppable=("URL", "FAILED", "ESTIMATED"),
    )
