"""The stages: `run(cfg) -> uri`. The only files that import ray."""
