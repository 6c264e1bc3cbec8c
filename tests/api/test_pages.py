"""Pages: the ids at their edges are cursors."""

from celora.api.pages import Listed, Page


def test_a_page_names_its_edges():
    page = Page[Listed].of([Listed(id="a"), Listed(id="b")], has_more=True)
    assert page.model_dump() == {
        "object": "list", "data": [{"id": "a"}, {"id": "b"}], "has_more": True, "first_id": "a", "last_id": "b",
    }  # fmt: skip


def test_an_empty_page_has_none():
    assert Page[Listed].of([], has_more=False).last_id is None
