"""Gives each agent as many workers as it has use for: none while it is idle, more while tasks wait, the first when somebody connects.

Guarantees that a worker gets no task while its state is saved or replaced, that the checkpoint to begin with is kept
until a life with it is Ready, and that a later daemon knows of a hibernated worker. Must not know what a state holds,
or what a task is about.

Begin with `hibernation`, for which `checkpoint_saver` saves the state of workers that are up; `autoscaler` performs what `sizing`
decides; `activation` accepts the first connection of an agent without a worker.
"""
