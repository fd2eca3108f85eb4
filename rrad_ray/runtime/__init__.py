"""Everything that runs on Ray: clusters, actors, engines, training workers, the endpoint. The only Ray folder.

Imports every folder but `stages`.
"""
