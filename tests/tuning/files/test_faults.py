from celora.tuning.files.faults import BadLine, BadLines, Fault, json_path


def test_the_way_to_a_value_is_written_as_a_json_path():
    assert json_path(("messages", 2, "content")) == "messages[2].content"
    assert json_path((0, "a")) == "[0].a"
    assert json_path(()) == ""


def test_a_bad_line_says_line_place_and_reason():
    fault = Fault("empty", "it is empty", "write it", at=("messages", 2, "content"))
    assert str(fault.bad_line(17)) == "line 17, messages[2].content: it is empty"
    assert str(Fault("bad_json", "a comma is missing", "add it", offset=4).bad_line(3)) == (
        "line 3: a comma is missing (column 5)"
    )
    assert str(Fault("not_utf8", "no UTF-8", "convert it", byte=9).bad_line(3)) == "line 3, byte 9: no UTF-8"


def test_all_bad_lines_are_counted_and_a_hundred_of_each_kind_are_kept():
    first, second = BadLines(), BadLines()
    for number in range(90):
        first.add(BadLine(number + 1, None, None, "empty", "", ""))
        second.add(BadLine(number + 91, None, None, "empty", "", ""))
    first.extend(second)
    assert (first.total, len(first.shown)) == (180, 100)
