"""agno: an ordinary agent. Its model is where OPENAI_BASE_URL says."""

import os

os.environ.setdefault("AGNO_TELEMETRY", "false")  # before the import: it would call home

from agno.agent import Agent
from agno.models.openai import OpenAIChat

agent = Agent(model=OpenAIChat(id="scripted"), telemetry=False)
