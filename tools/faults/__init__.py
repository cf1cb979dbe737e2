"""Launchers under a load like Zuul's, faults in everything around them, and a judge.

Entry: ``tools/chaos``. Load, faults and judge are this process; the launchers are processes of
their own, so that they can be killed and frozen. What is random comes from one seed.
"""
