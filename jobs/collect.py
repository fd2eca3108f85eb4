"""ray job submit --working-dir . -- python jobs/collect.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("collect")
