"""The routing rules of other systems, each from its published source, under the name of where it comes from.

Constants are the defaults of the version that a docstring names. Where a rule reads an engine's metrics, these profiles use
what the gateways have in flight; where it keeps its own tree of prompts, they use the prefix index. A rule that looks at
every endpoint does so here too, whatever the size of the pool.
"""
