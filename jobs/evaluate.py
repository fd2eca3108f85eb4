"""ray job submit --working-dir . -- python jobs/evaluate.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("evaluate")
