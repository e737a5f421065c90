"""A clerk who looks things up: pydantic-ai with its test model, which needs no key and no network
(and no sense: it asks the tool about a city "a", and answers with what it was told).

For a real one, name a model in place of TestModel(): `Thinker("anthropic:claude-sonnet-4-5", ...)`.
"""

from pydantic_ai import Agent as Thinker
from pydantic_ai.models.test import TestModel

from corral.worker import Agent

agent = Agent("clerk")
thinker = Thinker(TestModel(), system_prompt="Say how many people live in the city, and nothing else.")


@thinker.tool_plain
def population(city: str) -> int:
    """How many people live in a city."""
    return {"Vienna": 2_005_760, "Graz": 302_660}.get(city, 1)


@agent.task
async def run(task):
    found = await thinker.run(task.objective)
    return {"answer": found.output, "messages": len(found.all_messages())}
