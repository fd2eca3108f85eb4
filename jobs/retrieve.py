"""ray job submit --working-dir . -- python jobs/retrieve.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("retrieve")
