"""Measures, fusion, statistics, and the evaluation of all rankers on the same queries, with its report and winner.

Imports `data`, `rankers` and what they may import.
"""
