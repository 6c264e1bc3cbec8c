from celora.tuning.files.suffixes import suffix_of


def test_a_name_says_what_a_file_holds():
    names = ["a.jsonl", "A.JSONL.GZ", "data/b.json.gz", "c.parquet", "d.csv", "g.tsv", "h.ndjson", "e.tar.gz", "f.txt"]
    found = [suffix_of(name) for name in names]
    assert found == [".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".csv", ".tsv", ".ndjson", "", ""]
    assert not suffix_of("jsonl")
