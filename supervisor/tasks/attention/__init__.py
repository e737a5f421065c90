"""Collects what waits for a person: questions, workers that gave up, budgets that are used up, tasks that failed or ended.

Guarantees that an item is listed until it is answered, seen, or needs nobody any more, also after a `kill -9`. Decides
nothing about tasks and workers, and knows no client.
"""
