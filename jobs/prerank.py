"""ray job submit --working-dir . -- python jobs/prerank.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("prerank")
