"""Settings of the interpreter and of its process."""

import os

from entrypoints.runtime.interpreter import in_background


def test_work_in_the_background_leaves_the_processor_to_others() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with in_background():
        assert os.getpriority(os.PRIO_PROCESS, 0) == max(before, 10)
    after = os.getpriority(os.PRIO_PROCESS, 0)
    assert after == before or os.geteuid() != 0
