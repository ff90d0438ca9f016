"""What runs inside a zygote process and inside the sandboxes that are forked from it.

Everything here is synchronous and single-threaded, uses the standard library alone and imports nothing
of the agent, so that a sandbox inherits as little as possible. The agent's side is `qonduit_worker.sandbox`.
"""
