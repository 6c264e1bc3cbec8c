from celora.tuning.rows.row import Row


def test_running_text_is_cut_at_a_word_near_its_middle():
    def halves(text):
        return Row([{"role": "assistant", "content": text}], [1], 1, plain=True).halves

    assert halves("once upon a time") == ("once", " upon a time")
    assert halves("word") == ("", "word")
    assert "".join(halves("a b c d e f")) == "a b c d e f"
