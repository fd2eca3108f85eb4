"""ray job submit --working-dir . -- python jobs/finetune.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("finetune")
