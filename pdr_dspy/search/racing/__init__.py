"""How candidates are compared: the plan of a search, elimination, the surrogate over schedules, fresh runs of
finalists and the confirmation on questions that the search has not seen.
"""
