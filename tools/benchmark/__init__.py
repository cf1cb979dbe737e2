"""A load like Zuul's on launchers and on the bare API server, and a table of both.

Entry: ``tools/bench``. The load and the floor are processes of their own (``requestor``,
``floor``), so that their CPU time is never counted as a launcher's.
"""
