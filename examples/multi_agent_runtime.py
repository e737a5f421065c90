"""Several agents under one daemon: twenty tasks at once on a pool of workers, and one runtime for many threads.

python examples/multi_agent_runtime.py
"""

from concurrent.futures import ThreadPoolExecutor

from corral import CorralError, Runtime
from corral.worker import Agent, SyncTask

poet = Agent("poet")


@poet.task
def write(task: SyncTask) -> str:
    """Writes a line on the input, or on the objective."""
    return f"{task.input or task.objective}: grey wings over the pond"


counter = Agent("counter")


@counter.task
def count(task: SyncTask) -> int:
    """Counts the words of the input."""
    return len(str(task.input).split())


def main() -> None:
    with Runtime.start() as runtime:
        runtime.spawn_agent(poet, instances=2)
        runtime.spawn_agent(counter)

        tasks = [{"agent": "poet", "objective": f"verse {n}"} for n in range(20)]
        results = runtime.execute_tasks_parallel(tasks, max_parallel=10)
        verses = [str(each.output) for each in results if not isinstance(each, CorralError)]
        print(len(verses), "verses; the first:", verses[0])

        def words(verse: str) -> object:
            return runtime.run_agent("counter", input=verse)

        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(words, verses))
        print("words:", sum(each for each in counts if isinstance(each, int)))

        for name, figures in runtime.get_statistics().agents.items():
            print(f"{name}: {figures.executor.ok} of {figures.executor.total} tasks succeeded")


if __name__ == "__main__":
    main()
