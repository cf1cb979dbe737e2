"""Paths of znodes, and the JSON of records in ZooKeeper.

The format is Nodepool's and Zuul's; keys that this launcher does not use are kept as read.
Pure: decodes and encodes bytes, knows no client. Sources of the format: ``Node.toDict`` and
``NodeRequest.toDict`` of Nodepool 11, and what Zuul 14 reads.
"""
