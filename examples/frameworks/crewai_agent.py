"""CrewAI: an ordinary crew, which knows nothing of corral; its task names what it takes of each request.

`OfflineModel` stands for a real one, such as `LLM(model="anthropic/claude-sonnet-4-5")`: it needs no key.
"""

import os

for name in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED"):
    os.environ.setdefault(name, "true")  # before the import: it would call home

from crewai import Agent, BaseLLM, Crew, Task  # noqa: E402


class OfflineModel(BaseLLM):
    """Stores each request in the memory server, then says so."""

    def call(self, messages, tools=None, callbacks=None, available_functions=None, **kwargs):
        said = "\n".join(str(each["content"]) for each in messages if each["role"] != "system")
        if "Observation:" not in said:
            wanted = said.partition("Remember: ")[2].partition("\n")[0]
            return (
                "Thought: store it\nAction: cortex_cortex_store\n"  # its spelling of cortex__cortex_store
                f'Action Input: {{"content": "{wanted}"}}\nObservation:'
            )
        return f"Thought: done\nFinal Answer: stored, in turn {said.count('user: ') + 1}"

    def supports_function_calling(self):
        return False


librarian = Agent(
    role="Librarian", goal="Keep what people tell", backstory="Reliable.", llm=OfflineModel(model="offline")
)
keep = Task(description="{history}\nRemember: {objective}", expected_output="a confirmation", agent=librarian)
crew = Crew(agents=[librarian], tasks=[keep])
