"""ray job submit --working-dir . -- python jobs/select.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("select")
