"""ray job submit --working-dir . -- python jobs/experiment.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("experiment")
