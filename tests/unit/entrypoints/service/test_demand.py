from domain.language.identifiers import Kind
from entrypoints.service.claiming import KINDS_KEPT_MAX, LATELY_SECONDS, Demand

A, B = Kind("a"), Kind("b")


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_kind_is_asked_for_while_a_claim_waits_and_for_a_while_after() -> None:
    seconds = Seconds()
    demand = Demand(seconds)
    assert demand.seconds_since(A) is None
    with demand.requesting((A,)):
        seconds.now += 1000
        assert demand.seconds_since(A) == 0
        assert demand.seconds_since(B) is None
    seconds.now += 5
    assert demand.seconds_since(A) == 5
    seconds.now += LATELY_SECONDS
    assert demand.seconds_since(A) is None


def test_a_claim_of_any_kind_asks_for_every_kind() -> None:
    demand = Demand(Seconds())
    with demand.requesting(None), demand.requesting((B,)):
        assert demand.seconds_since(A) == 0
    assert demand.seconds_since(A) == 0
    assert demand._under_way == {}


def test_a_stream_of_new_kinds_is_forgotten_the_oldest_first() -> None:
    seconds = Seconds()
    demand = Demand(seconds)
    kinds = [Kind(f"kind-{number}") for number in range(KINDS_KEPT_MAX + 1)]
    for kind in kinds:
        seconds.now += 0.001
        with demand.requesting((kind,)):
            pass
    assert len(demand._requested) <= KINDS_KEPT_MAX
    assert demand.seconds_since(kinds[0]) is None
    assert demand.seconds_since(kinds[-1]) is not None
