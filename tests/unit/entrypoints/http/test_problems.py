"""Problem details have one order of members."""

import msgspec

from domain.language.errors import UnknownJob
from domain.language.identifiers import JobId
from entrypoints.http.problems import problem_of


def test_the_members_of_problem_details_are_sent_in_a_fixed_order() -> None:
    assert msgspec.json.encode(problem_of(UnknownJob(JobId(7)))) == (
        b'{"type":"about:blank","title":"Not Found","status":404,'
        b'"detail":"There is no job 7.","job_id":7}'
    )
