"""CrewAI: corral's tools as CrewAI tools, the session in the task's description, in a handler without async.

`OfflineModel` stands for a real one, such as `LLM(model="anthropic/claude-sonnet-4-5")`: it needs no key.
"""

import os

for name in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED"):
    os.environ.setdefault(name, "true")  # before the import: it would call home

from crewai import Agent as Member  # noqa: E402
from crewai import BaseLLM, Crew  # noqa: E402
from crewai import Task as Work  # noqa: E402
from crewai.tools import BaseTool  # noqa: E402
from pydantic import create_model  # noqa: E402

from corral.worker import Agent  # noqa: E402

agent = Agent("crewai")


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
        return f"Thought: done\nFinal Answer: stored, in turn {said.count('Earlier: ') + 1}"

    def supports_function_calling(self):
        return False


def native_tools(task):
    """Returns the tools that this agent may call, as CrewAI tools."""

    def tool(about):
        class Tool(BaseTool):
            def _run(self, **arguments):
                given = {key: value for key, value in arguments.items() if value is not None}
                return task.tool(about["name"], given).text

        schema = about["input_schema"]
        needed = schema.get("required", [])
        fields = {
            key: (str, ...) if key in needed else (object, None) for key in schema["properties"]
        }
        return Tool(
            name=about["name"],
            description=about["description"],
            args_schema=create_model(about["name"], **fields),
        )

    return [tool(each) for each in task.tools() if each["name"] == "cortex__cortex_store"]


@agent.task
def run(task):
    member = Member(
        role="Librarian",
        goal="Keep what people tell",
        backstory="Reliable.",
        llm=OfflineModel(model="offline"),
        tools=native_tools(task),
    )
    before = "\n".join(f"Earlier: {each['content']}" for each in task.memory.history)
    work = Work(
        description=f"{before}\nRemember: {task.objective}",
        expected_output="a confirmation",
        agent=member,
    )
    found = Crew(agents=[member], tasks=[work]).kickoff()
    task.memory.add("user", task.objective)
    task.usage(tokens=found.token_usage.total_tokens)
    return found.raw
