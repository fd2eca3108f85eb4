"""ray job submit --working-dir . -- python jobs/qrels.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("qrels")
