"""ray job submit --working-dir . -- python jobs/publish.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("publish")
