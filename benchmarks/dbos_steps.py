"""The same as `step_agent.py` by DBOS with SQLite: `dbos_steps.py FILE STEPS WORKFLOWS` prints the times as JSON."""

import json
import sys
import time
from typing import Any

from dbos import DBOS  # type: ignore[import-not-found,unused-ignore]  # in an environment of its own

config: Any = {
    "name": "steps",
    "system_database_url": f"sqlite:///{sys.argv[1]}",
    "run_admin_server": False,
    "log_level": "ERROR",
}
DBOS(config=config)


@DBOS.step()
async def nothing() -> int:
    return 1


@DBOS.workflow()
async def run(steps: int) -> list[float]:
    took: list[float] = []
    for _ in range(steps):
        began = time.perf_counter()
        await nothing()
        took.append((time.perf_counter() - began) * 1000)
    return took


async def main(steps: int, workflows: int) -> None:
    DBOS.launch()
    await run(1)
    began = time.perf_counter()
    handles = [await DBOS.start_workflow_async(run, steps) for _ in range(workflows)]
    took = [await each.get_result() for each in handles]
    print(json.dumps({"took": took[0], "rate": steps * workflows / (time.perf_counter() - began)}))
    DBOS.destroy()


if __name__ == "__main__":
    import asyncio

    asyncio.run(main(int(sys.argv[2]), int(sys.argv[3])))
