"""Whether a task can ever come to run while the task that delegates it waits for its end.

Pure: it is told who waits for whom, and decides. A delegation that closes a circle without a free place on it
would wait for its own end; it is refused before it is queued.
"""

from collections.abc import Callable, Sequence

from ...worker.contract.records import Task

Groups = Sequence[Sequence[str]]
"""Tasks by their ids: of each group one at least has to end. A group of nobody is no obstacle."""


def can_ever_run(
    child: Task,
    *,
    asking: str,
    find: Callable[[str], Task | None],
    waits: Callable[[str], Sequence[str]],
    obstacles: Callable[[Task], Groups],
) -> bool:
    """Whether `child`, which the running task `asking` delegates, can come to run before `asking` ends.

    A running task can end when all that it waits for can end: `waits` says what that is. A task that is queued
    can end when it can come to run: when of each group of its `obstacles` one can end (the holders of the places that
    it could take, the task before it in its session, one that it comes after). What `find` does not find has ended.
    """
    known: dict[str, tuple[bool, Groups]] = {}
    left = [each for group in obstacles(child) for each in group]
    while left:
        task_id = left.pop()
        if task_id in known:
            continue
        task = find(task_id)
        if task is None or task.state not in ("queued", "running"):
            known[task_id] = True, ()
            continue
        needs = [[each] for each in waits(task_id)] if task.state == "running" else obstacles(task)
        known[task_id] = False, needs
        left.extend(each for group in needs for each in group)
    can_end = _closed(known, asking)
    return all(not group or not can_end.isdisjoint(group) for group in obstacles(child))


def _closed(known: dict[str, tuple[bool, Groups]], asking: str) -> set[str]:
    """The least set of tasks that can end: who waits in a circle never comes into it."""
    can_end = {task_id for task_id, (has_ended, _) in known.items() if has_ended}
    # The latest found first: a chain is settled in one round.
    doubted = [each for each in reversed(known) if each not in can_end and each != asking]
    while True:
        before = len(can_end)
        for each in doubted:
            if all(not group or not can_end.isdisjoint(group) for group in known[each][1]):
                can_end.add(each)
        if len(can_end) == before:
            return can_end
        doubted = [each for each in doubted if each not in can_end]
