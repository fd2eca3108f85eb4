"""ray job submit --working-dir . -- python jobs/judge.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("judge")
