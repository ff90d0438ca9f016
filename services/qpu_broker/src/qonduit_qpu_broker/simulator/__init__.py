"""The local simulator: a process of its own, the only place that decodes what programs submit.

It holds no credentials, talks to its parent over two pipes, and may be killed at any moment.
"""
