"""A re-rank request to its answer: wire formats, batching, caching, keys, the winner, and search; no web server.

Imports `online`, `rankers` and what they may import.
"""
