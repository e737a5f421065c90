"""Saves the state of workers as checkpoints, ends workers that are idle, and brings them back with their state.

Guarantees that a worker gets no task while its state is saved or replaced, that the checkpoint to begin with is kept
until a life with it is Ready, and that a later daemon knows of a hibernated worker. Must not know what a state holds,
or what a task is about.

Begin with `hibernation`; `checkpoint_saver` is its part for workers that are up.
"""
