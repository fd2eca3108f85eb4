"""The first stage over a collection of any size: exact search of its parts, their union, and the join with texts.

Imports `evaluation` (fusion) and what it may import.
"""
