"""An observer of tasks for tests in which none may crash."""

from __future__ import annotations


class NoCrash:
    """Fails the test where a task crashes."""

    def task_crashed(self, task: str, error: BaseException) -> None:
        raise AssertionError(f"{task} failed") from error
