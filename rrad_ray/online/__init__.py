"""The online test: assignment of variants, the log of exposures and clicks, and its analysis.

Imports `evaluation` and what it may import.
"""
