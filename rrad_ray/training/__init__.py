"""Losses, the one training loop, and the tasks that it trains: rankers and causal LMs.

Imports `labelling` and what it may import; no Ray, so that it runs on a bare GPU box.
"""
