"""pydantic-ai: an ordinary agent. Its model is where OPENAI_BASE_URL says."""

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

agent = Agent(OpenAIChatModel("scripted"), instructions="You review git repositories.")
