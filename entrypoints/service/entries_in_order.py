"""Submissions of one call that come after others of it: in steps, each after the ones it needs.

The id of a job is known when it is on disk. So the entries that need no other are sent first, then
those that come after them, and so on: as many steps as the longest chain has entries.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from domain.decisions.answers import Submitted
from domain.decisions.batch import Outcome
from domain.language.commands import SubmitJob
from domain.language.errors import EntryRefused

Submission = SubmitJob | Exception
SubmitEach = Callable[[Sequence[Submission]], Awaitable[Sequence[Outcome]]]


async def submit_in_order(
    commands: Sequence[Submission], after: Mapping[int, Sequence[int]], submit_each: SubmitEach
) -> tuple[list[Submission], list[Outcome]]:
    """Return the submissions as they were sent, and one outcome for each, in order.

    `after` has the numbers of the entries that an entry comes after, which are lower than its own.
    """
    if not after:
        return list(commands), list(await submit_each(commands))
    sent = list(commands)
    outcomes: dict[int, Outcome] = {}
    for numbers in _steps(len(commands), after):
        for number in numbers:
            needed = {entry: outcomes[entry] for entry in after.get(number, ())}
            sent[number] = _with_parents(commands[number], needed)
        found = await submit_each([sent[number] for number in numbers])
        outcomes.update(zip(numbers, found, strict=True))
    return sent, [outcomes[number] for number in range(len(commands))]


def _steps(entries: int, after: Mapping[int, Sequence[int]]) -> list[list[int]]:
    steps: list[list[int]] = []
    step_of: list[int] = []
    for number in range(entries):
        step = 1 + max((step_of[entry] for entry in after.get(number, ())), default=-1)
        step_of.append(step)
        if step == len(steps):
            steps.append([])
        steps[step].append(number)
    return steps


def _with_parents(command: Submission, needed: Mapping[int, Outcome]) -> Submission:
    if isinstance(command, Exception) or not needed:
        return command
    parents = set(command.after)
    for entry, outcome in needed.items():
        if not isinstance(outcome, Submitted):
            return EntryRefused(entry)
        parents.add(outcome.job.id)
    return replace(command, after=tuple(sorted(parents)))
