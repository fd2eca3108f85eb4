"""ray job submit --working-dir . -- python jobs/train.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("train")
