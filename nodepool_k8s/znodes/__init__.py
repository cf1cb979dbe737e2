"""How records look in ZooKeeper: paths of znodes, and JSON.

Nodepool's and Zuul's form, with every key that this launcher does not use kept as it was
read. Pure: reads and makes bytes, knows no client. Sources of the form: ``Node.toDict`` and
``NodeRequest.toDict`` of Nodepool 11, and what Zuul 14 reads.
"""
