"""Submissions of the client: what is refused before it is sent."""

import pytest

from fairlog_client import InvalidArguments, Submission


def test_one_name_is_no_list_of_resources() -> None:
    with pytest.raises(InvalidArguments, match=r"a list of names: \['shopify:acme'\]"):
        Submission(user_id="alice", kind="echo", resources="shopify:acme").content()
