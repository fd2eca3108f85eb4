"""Touches of other projects' private parts, one file each, with the release that would make it unnecessary.

Imports nothing of this package but the vocabulary.
"""
