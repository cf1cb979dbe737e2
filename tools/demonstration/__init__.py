"""`tools/demo`: a cluster, the launcher, two node requests from submission to removal.

Whatever it shows it also checks: it ends with an error if a step did not happen.
"""
