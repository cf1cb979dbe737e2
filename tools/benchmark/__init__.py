"""A load as Zuul makes it, on launchers and on the bare API server, and the table of both.

Entry: ``tools/bench``. The load and the floor are processes of their own (``requestor``,
``floor``), so that their CPU time is never taken for a launcher's.
"""
