"""OpenAI Agents SDK: an ordinary agent. Its model is where OPENAI_BASE_URL says."""

from agents import Agent, set_tracing_disabled

set_tracing_disabled(True)  # it would send traces to OpenAI

agent = Agent(name="reviewer", instructions="You review git repositories.", model="scripted")
