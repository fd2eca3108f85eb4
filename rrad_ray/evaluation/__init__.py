"""Measures, fusion, significance tests, and the report that shows all rankers side by side.

Imports `data`, `rankers` and what they may import.
"""
