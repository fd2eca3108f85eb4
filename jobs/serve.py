"""ray job submit --working-dir . -- python jobs/serve.py CONFIG.yaml [key=value ...]"""

from rrad_ray.cli import main

main("serve")
