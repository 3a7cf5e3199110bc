"""What a failed cycle is said to have failed of."""

from typing import Any

import pytest

from trainer.daemon.journal import summary_of
from trainer.worker import WorkFailedError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("odd"), "ValueError: odd"),
        (WorkFailedError("OSError: [Errno 28] full", "Traceback\n..."), "OSError: [Errno 28] full"),
    ],
)
def test_an_error_is_its_type_and_its_message(error: Any, said: str) -> None:
    assert summary_of(error) == said
