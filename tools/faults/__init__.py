"""Launchers under a load as Zuul makes it, faults all around them, and a judge who looks on.

Entry: ``tools/chaos``. Load, faults and judge are this process; the launchers are processes of
their own, so that they can be killed and frozen. What is random comes from one seed.
"""
