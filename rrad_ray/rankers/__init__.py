"""Models that score documents for a query, their checkpoints, and how fast they score on each kind of hardware.

Imports the vocabulary, `tables` and `config`; torch and transformers, no Ray.
"""
