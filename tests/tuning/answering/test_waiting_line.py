import threading

from celora.tuning.answering.waiting_line import WaitingLine


def line_of(*items, gone=(), **bounds):
    line = WaitingLine(is_wanted=lambda item: item not in gone, **bounds)
    return line, [line.put(tenant, item) for tenant, item in items]


def test_items_leave_in_the_order_in_which_they_came():
    line, put = line_of(("a", 1), ("b", 2), ("a", 3))
    assert put == [True] * 3
    assert [line.take(0) for _ in range(3)] == [1, 2, 3]


def test_no_tenant_takes_every_place():
    _, put = line_of(("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5), most=3, most_of_tenant=2)
    assert put == [True, True, False, True, False]


def test_an_item_that_nobody_wants_any_more_has_no_place():
    gone = set()
    line, _ = line_of(("a", 1), ("a", 2), gone=gone, most=2)
    gone.add(1)
    assert line.put("b", 3)
    assert [line.take(0), line.take(0)] == [2, 3]


def test_whoever_waits_for_an_item_of_a_closed_line_gets_none():
    line, _ = line_of()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(line.take(200)))
    thread.start()
    line.close()
    thread.join(200)
    assert taken == [None]


def test_a_line_in_which_nothing_came_is_closed_for_good():
    line, _ = line_of()
    assert line.take(0) is None
    assert line.closed
    assert not line.put("a", 1)
