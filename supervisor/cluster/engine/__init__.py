"""Connects a node to the engine of its cluster: NATS with JetStream, or Redis, behind one interface of ten operations.

Guarantees that every wait is bounded, that a revision grows over all keys and nodes, that an appended task is stored before
its append returns, and that a task whose taker goes silent is delivered again. It cannot guarantee more than its engine:
`weaknesses` lists the rest.

Must not know agents, tasks, placement or configuration: keys, queues and payloads have no meaning here. The client library
of an engine is imported by `connection.open_engine` alone. Begin with `interface`, then `jetstream` or `redis_engine`.
"""
