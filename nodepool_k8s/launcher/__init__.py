"""The core's doing: queues, launches, hand-over, deletion and upkeep, wired to events.

What to do is decided in ``policy``, by pure functions of frozen records; here it is done. A
backend is reached through ``drivers`` only.

Observers. A part that others want to hear of defines a small protocol with the suffix
``Observer``, with one method for each event, named as what happened (``driver_started``,
``claimed``). The listener has those methods itself. It is passed to the constructor, or to
``observe()`` where it is created later than what it observes. The methods are called at once,
on the event loop; they do not block, and they do not raise. A part that only needs something
done takes what does it, not an observer.

    events             observer                who observes
    slots              ``SlotsObserver``       ``PoolQueue``
    claims             ``PoolQueueObserver``   ``Fulfilments``
    launches           ``LaunchObserver``      ``SessionScope``, for the progress records
    failed attempts    ``FailureObserver``     ``View``, through ``SessionScope``
    fulfilments        ``FulfilmentsObserver`` ``EventRouter``
    drivers            ``ProvidersObserver``   ``EventRouter``
    crashed tasks      ``TasksObserver``       ``Launcher``
    the configuration  ``ReloaderObserver``    ``Launcher``
"""
