"""ray job submit --working-dir . -- python jobs/pipeline.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("run")
