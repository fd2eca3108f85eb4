"""Losses, the training loop, and the tasks that it trains: rankers and causal LMs.

May import `labelling` and whatever `labelling` may import. It never imports Ray, so training also runs on a single
GPU machine without a cluster.
"""
