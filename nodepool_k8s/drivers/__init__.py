"""The seam between the launcher and what nodes are made of.

A driver turns a node into objects somewhere and removes them again. The launcher decides
when, counts attempts and quota, and keeps the records; it never looks inside an external id
or at what a driver keeps in a node's ``driver_data``. ``outcomes`` names all that a driver
can answer, ``driver`` what the launcher asks it.
"""
