"""ray job submit --working-dir . -- python jobs/select_winner.py CONFIG.yaml [key=value ...]"""

# Not `select.py`: the folder of a script is searched first, and that name would hide the standard library's module.
from rrad_ray.cli import main

main("select")
