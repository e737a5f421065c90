"""The queues of an agent are taken from in the order of a local queue: by priority, and by a step more for each minute of waiting."""

from corral.supervisor.cluster.state.queues import QueueOrder

QUEUES = {"urgent": 10, "usual": 5, "idle": 1}
NOW = 1_000_000.0


def test_the_most_urgent_queue_is_the_first() -> None:
    assert QueueOrder().ordered(QUEUES, NOW) == ["urgent", "usual", "idle"]


def test_a_queue_that_was_not_taken_from_rises_by_a_step_a_minute() -> None:
    order = QueueOrder()
    order.ordered(QUEUES, NOW)
    order.note("urgent", NOW + 290)
    assert order.ordered(QUEUES, NOW + 290)[0] == "urgent"
    order.note("urgent", NOW + 310)
    assert order.ordered(QUEUES, NOW + 310)[0] == "usual"
    order.note("urgent", NOW + 550)
    order.note("usual", NOW + 550)
    assert order.ordered(QUEUES, NOW + 550)[0] == "idle"


def test_an_old_queue_stays_the_first_until_its_tasks_are_young_again() -> None:
    order = QueueOrder()
    order.ordered(QUEUES, NOW)
    order.note("urgent", NOW + 900)
    order.note("usual", NOW + 900)
    order.note("idle", NOW + 100)  # one was taken, and the next one is hardly younger
    assert order.ordered(QUEUES, NOW + 900)[0] == "idle"
    order.note("idle", NOW + 900)  # it is empty
    assert order.ordered(QUEUES, NOW + 900)[0] == "urgent"
