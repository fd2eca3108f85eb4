"""The online test: who sees which variant, what was shown and clicked, and what that says.

Imports `evaluation` and what it may import.
"""
