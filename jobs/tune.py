"""ray job submit --working-dir . -- python jobs/tune.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("tune")
