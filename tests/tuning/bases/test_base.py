import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celora.errors import BaseModelError
from celora.tuning.bases import base
from celora.tuning.protocol import HubAccess


def resolve(source, cache, emit, *, revision=None, **hub):
    return base.resolve(str(source), revision, cache, HubAccess(offline=True, **hub), emit)


def test_a_local_folder_is_pinned_by_its_content(tiny_base, tmp_path, recorder):
    found = resolve(tiny_base.source, tmp_path, recorder())
    assert found == tiny_base
    assert (found.kind, found.model_type, found.context_tokens) == ("folder", "llama", 128)
    assert found.revision.startswith("sha256:")
    assert found.name == found.source == str(Path(found.source).absolute())
    assert base.folder(found, tmp_path, HubAccess(offline=True), recorder()) == Path(tiny_base.source)


def test_a_relative_folder_is_recorded_as_a_whole_path(tiny_base, tmp_path, recorder, monkeypatch):
    monkeypatch.chdir(Path(tiny_base.source).parent)
    assert resolve(Path(tiny_base.source).name, tmp_path, recorder()).source == tiny_base.source


def test_a_folder_that_changed_since_it_was_resolved_is_refused(make_base, tmp_path, recorder):
    from transformers import LlamaConfig

    small = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=96)
    found = make_base(small, "changing")
    path = Path(found.source) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.1}))
    with pytest.raises(BaseModelError, match=r"has the revision sha256:\w+ here, not sha256:\w+: its files differ"):
        base.folder(found, tmp_path, HubAccess(), recorder())
    with pytest.raises(BaseModelError, match="its files differ"):
        resolve(found.source, tmp_path, recorder(), revision=found.revision)


def test_a_local_base_has_no_branches(tiny_base, tmp_path, recorder):
    with pytest.raises(BaseModelError, match="is a local base, which has no revision 'main'"):
        resolve(tiny_base.source, tmp_path, recorder(), revision="main")


def test_a_folder_does_not_pass_for_an_allowed_hub_id(tiny_base, tmp_path, recorder, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(tiny_base.source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match="org/tiny is not among those"):
        resolve("org/tiny", tmp_path / "cache", recorder(), allowed_bases=["org/*"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/folder", "is no folder here and can't be a hub id"),
        ("owner/name/more", "can't be a hub id"),
        ("", "can't be a hub id"),
        ("a" * 400, "File name too long"),
        ("/no/such/model.gguf", r"file /no/such/model\.gguf doesn't exist"),
    ],
)
def test_what_is_nowhere_is_refused_in_a_sentence(tmp_path, recorder, source, message):
    with pytest.raises(BaseModelError, match=message):
        resolve(source, tmp_path, recorder())


def test_an_empty_folder_and_a_file_that_is_no_gguf_are_refused(tmp_path, recorder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BaseModelError, match="has no model weights"):
        resolve(empty, tmp_path / "cache", recorder())
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model at all")
    with pytest.raises(BaseModelError, match=r"wrong\.gguf can't be read as a GGUF language model"):
        resolve(wrong, tmp_path / "cache", recorder())
    left = [path.suffix for path in (tmp_path / "cache" / "converted").iterdir()]
    assert left == [".lock"], "nothing half-made stays"


def test_the_allow_list_speaks_of_catalogue_names_paths_and_patterns(tiny_base, tmp_path, recorder):
    with pytest.raises(BaseModelError, match="is not among those that this installation allows"):
        resolve(tiny_base.source, tmp_path, recorder(), allowed_bases=["smollm2-*"])
    with pytest.raises(BaseModelError, match="is not among those"):
        base.folder(tiny_base, tmp_path, HubAccess(allowed_bases=["smollm2-*"]), recorder())
    allowed = [f"{Path(tiny_base.source).parent}/*"]
    assert resolve(tiny_base.source, tmp_path, recorder(), allowed_bases=allowed) == tiny_base


def test_code_beside_a_local_base_is_refused(make_base, tmp_path, recorder):
    from transformers import LlamaConfig

    found = make_base(LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=96), "code")
    (Path(found.source) / "modeling_own.py").write_text("raise SystemExit")
    with pytest.raises(BaseModelError, match="brings code of its own"):
        base.folder(found, tmp_path, HubAccess(), recorder())
    listed = HubAccess(remote_code_bases=[found.name])
    assert base.folder(found, tmp_path, listed, recorder()) == Path(found.source)


def test_importing_and_resolving_a_folder_loads_no_torch(tiny_base, tmp_path):
    script = (
        "import sys; from pathlib import Path; from celora.tuning.bases import base, hub, cache\n"
        "from celora.tuning.estimate import resolve\n"
        "from celora.tuning.protocol import HubAccess\n"
        "base.resolve(sys.argv[1], None, Path(sys.argv[2]), HubAccess(), lambda *a, **k: None)\n"
        "cache.copies(Path(sys.argv[2]))\n"
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, tiny_base.source, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
