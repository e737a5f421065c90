"""A program without asyncio that has a daemon of its own: it starts an agent, gives it work, and watches it.

python examples/runtime_example.py
"""

from corral import DaemonEvent, Runtime
from corral.worker import Agent, SyncTask

poet = Agent("poet")


@poet.task
def write(task: SyncTask) -> str:
    """Writes a line on the input, or on the objective."""
    return f"{task.input or task.objective}: grey wings over the pond"


def note(event: DaemonEvent) -> None:
    """Prints the state that a worker has come to."""
    print("event:", event.worker, event.fields["to"])


def main() -> None:
    with Runtime.start() as runtime, runtime.subscribe("worker.state", note):
        status = runtime.spawn_agent(poet, resources={"max_memory_bytes": "256MiB"})
        print(status.name, "is", status.state)
        print(runtime.run_agent("poet", input="herons"))
        for event in runtime.follow_task(runtime.submit_task("poet", "a line on cranes").id):
            print("task:", event.type)
        print("the process is killed;", end=" ")
        with runtime.events(["worker.state"]) as events:
            runtime.signal_agent("poet", "KILL")
            next(event for event in events if event.fields["to"] == "Ready")
        print("restarts:", runtime.agent_status("poet").workers[0].restarts)


if __name__ == "__main__":
    main()
