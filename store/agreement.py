"""Do two answers agree? One function for all three tasks, so that no two rooms can differ about it."""

from store.event import Task


def agree(task: Task, a: str, b: str) -> bool:
    """Whether two answers to `classify` are the same label.

    Raises:
        NotImplementedError: for `rank` (Kendall tau >= 0.9) and `chat`, which this release does not serve.
    """
    if task == "classify":
        return a == b
    message = f"agreement for {task} is not defined in this release"
    raise NotImplementedError(message)
