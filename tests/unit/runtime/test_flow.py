"""Who goes next: full batches first, idle processors take what there is, and nothing waits for ever."""

from __future__ import annotations

import threading
import time

import pytest

from kiloword.runtime.flow import Flow, FlowLimits
from kiloword.runtime.outputs import Outcome
from kiloword.runtime.progress import Rate
from kiloword.runtime.results import Done, InOrder


def make_flow(**limits: object) -> Flow[int, int, int]:
    defaults = {
        "batch_size": 4,
        "permits": 2,
        "lane_permits": 1,
        "to_read": 100,
        "ready": 100,
        "done": 100,
        "ahead": None,
        "max_wait_s": None,
    }
    return Flow(FlowLimits(**{**defaults, **limits}))  # type: ignore[arg-type]


def put_ready(flow: Flow[int, int, int], *numbers: int) -> None:
    for number in numbers:
        flow.put_photo(number, number)
        assert flow.take_photo() == number
        flow.photo_read(number)


def test_a_full_batch_goes_at_once_and_is_no_larger() -> None:
    flow = make_flow()
    put_ready(flow, 1, 2, 3, 4, 5)
    assert flow.take_batch() == [1, 2, 3, 4]


def test_an_idle_processor_takes_what_there_is() -> None:
    """One photo is being read from a slow disk; the others do not wait for it."""
    flow = make_flow()
    flow.put_photo(0, 0)
    flow.take_photo()
    put_ready(flow, 1, 2)
    assert flow.take_batch() == [1, 2]


def test_while_others_decode_a_batch_waits_to_be_full() -> None:
    """Both processors are decoding: a small batch would only make the next one small, too."""
    flow = make_flow()
    put_ready(flow, 1, 2)
    batches: list[list[int]] = []
    with flow.permit_to_decode(), flow.permit_to_decode():
        lane = threading.Thread(target=lambda: batches.append(flow.take_batch()))
        lane.start()
        time.sleep(0.1)
        assert batches == []
        put_ready(flow, 3, 4)
    lane.join(5)
    assert batches == [[1, 2, 3, 4]]


def test_the_last_photos_go_though_they_are_few() -> None:
    flow = make_flow()
    put_ready(flow, 1)
    flow.end_listing()
    assert flow.take_batch() == [1]
    flow.put_done([1])
    flow.batch_done()
    assert flow.take_done() == [1]
    assert flow.take_batch() == []
    assert flow.take_photo() is None
    assert flow.take_done() == []


def test_the_listing_waits_for_the_first_result_that_is_missing() -> None:
    """In-order output: the results that wait for one slow photo are bounded."""
    flow = make_flow(ahead=3)
    assert all(flow.put_photo(position, position) for position in range(3))
    put = threading.Thread(target=lambda: flow.put_photo(3, 3))
    put.start()
    put.join(0.1)
    assert put.is_alive()
    flow.all_before(1)
    put.join(5)
    assert not put.is_alive()


def test_an_error_comes_after_the_results_that_were_there() -> None:
    flow = make_flow()
    flow.put_done([1])
    flow.fail(OSError("the disk is gone"))
    assert flow.take_done() == [1]
    with pytest.raises(OSError, match="gone"):
        flow.take_done()


def test_stopping_waits_for_the_model_and_not_for_a_dead_disk() -> None:
    flow = make_flow()
    flow.put_photo(0, 0)
    flow.take_photo()  # never comes back
    put_ready(flow, 1, 2, 3, 4)
    flow.take_batch()
    flow.stop()
    threading.Timer(0.05, lambda: (flow.put_done([1, 2, 3, 4]), flow.batch_done())).start()
    assert flow.take_done() == [1, 2, 3, 4]
    assert flow.take_done() == []


def test_results_come_back_in_order() -> None:
    results = {position: Done(position, str(position), Outcome(error="x")) for position in range(5)}
    in_order = InOrder()
    assert in_order.take([results[1], results[3]]) == []
    assert in_order.take([results[0]]) == [results[0], results[1]]
    assert in_order.position == 2
    assert in_order.rest() == [results[3]]


def test_the_rate_falls_when_nothing_comes() -> None:
    """Ten photos in five seconds, then a stall: 2/s, then 1/s, then none."""
    rate = Rate()
    for number in range(11):
        rate.add(number / 2)
    assert rate.per_second(5.0) == pytest.approx(2)
    assert rate.per_second(10.0) == pytest.approx(1)
    assert rate.per_second(100.0) is None
