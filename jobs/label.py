"""ray job submit --working-dir . -- python jobs/label.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("label")
