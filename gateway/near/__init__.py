"""Near hits: answers to similar requests of the same tenant, as drafts and never as answers."""
