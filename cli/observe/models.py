"""Implements `corral models`: the declared models, whether they answer, and what was measured of them today."""

from ..context import Session, command
from ..render import Table, number

MODELS = Table(
    "NAME KIND STATE CALLS=calls_today FAILED=calls_failed_today ESTIMATED=calls_estimated_today TOKENS=tokens_today "
    "CENTS=cost_cents_today USED_BY URL REASON",
    drop="URL FAILED ESTIMATED",
    cost_cents_today=lambda record: f"{number(record, 'cost_cents_today'):.2f}",
)


@command("models")
def models(session: Session) -> None:
    """List models, their agents, and today's tokens and cost."""
    found = session.call("models.list", {})
    nothing = "there are no models; declare one with [models.NAME] in the configuration"
    session.print_list(found, "models", nothing, MODELS)
