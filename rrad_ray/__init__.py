"""rrad-ray: distil an LLM's ranking ability into a re-ranker that a search team can afford to serve, on Ray."""

__version__ = "0.1.0"
