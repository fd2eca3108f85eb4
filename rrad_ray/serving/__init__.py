"""The way of a re-rank request to its answer: wire formats, batching, caching, keys, the winner and the search.

Imports `online`, `rankers` and what these may import; no web server and no Ray.
"""
