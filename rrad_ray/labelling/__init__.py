"""The LLM's labels: planned prompts, parsed answers, aggregated orders, the gate, and the fused teacher.

Imports `evaluation` and what it may import.
"""
